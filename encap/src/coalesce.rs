//! Joining the frames of a train into superframes: the inverse of [`segment`](mod@crate::segment),
//! by the rules of the kernel's GRO.

use std::io::IoSlice;

use arrayvec::ArrayVec;

use crate::checksum::{self, Sum};
use crate::inet::{Inet, IpVersion, proto};
use crate::segment::{self, TCP_CHECKSUM, UDP_CHECKSUM, get_u16, get_u32, put};
use crate::{Checksum, Contiguous, Frame, Gso, GsoKind, Head, Offload, adopt_partial};

/// What is known about the bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Nothing: a frame is merged only after its own checksum was verified.
    Verify,
    /// The outer UDP checksum covered it and was verified, and the peer is trusted to have sent
    /// it whole.
    Vouched,
    /// Its checksum is still to be finished, as [`Checksum::Partial`] has it: there is nothing to
    /// verify yet.
    Unfinished {
        /// Where the checksum begins.
        start: u16,
        /// Where it goes, from there.
        offset: u16,
    },
}

/// What may be merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    /// TCP runs.
    pub tcp: bool,
    /// UDP runs: only when the output takes UDP superframes.
    pub udp: bool,
    /// With the overlay's MTU: frames that stay single are [adopted](adopt_partial) when their
    /// checksum is only the pseudo-header sum. (A UDP superframe that [`Train`](crate::Train)
    /// found needs its size, and is not for a coalescer.)
    pub adopt: Option<u16>,
}

/// Payload slices of one superframe, and so the most segments it is made of.
pub const SLICES: usize = 64;
/// Flows that may be interleaved before the run of one of them is closed.
const RUNS: usize = 4;
/// What fits the IPv4 total length; for IPv6 as well.
const PACKET_MAX: usize = 65_535;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const URG: u8 = 0x20;
const CWR: u8 = 0x80;

/// Takes inner frames in the order they came and hands out superframes and frames, in order
/// within each flow. Frames of different segments, peers or outer ECN marks must not meet in one:
/// call [`Self::finish`] in between. It borrows the frames and allocates nothing. It is some 4 KiB:
/// cheap to make, but not to move.
#[derive(Debug)]
pub struct Coalescer<'a> {
    merge: Merge,
    runs: [Option<Run<'a>>; RUNS],
    bodies: [ArrayVec<IoSlice<'a>, SLICES>; RUNS],
    /// The slot whose run is closed next when a new flow needs one.
    oldest: usize,
}

/// Consecutive pieces of one flow; their payload lies in the body of the same slot.
#[derive(Clone, Copy, Debug)]
struct Run<'a> {
    first: Piece<'a>,
    count: usize,
    payload: usize,
    /// PSH and FIN of the last piece.
    last_flags: u8,
    /// Whether the first piece's checksum is known to be right.
    sound: bool,
}

/// One frame of a TCP or UDP flow.
#[derive(Clone, Copy, Debug)]
struct Piece<'a> {
    /// The frame as it came, trailing padding included.
    bytes: &'a [u8],
    inet: Inet,
    kind: GsoKind,
    /// Offset of the payload.
    header_len: usize,
    /// Payload bytes, by the IP header's claim.
    payload: usize,
    /// TCP flags.
    flags: u8,
    trust: Trust,
}

impl<'a> Coalescer<'a> {
    /// An empty one.
    #[must_use]
    #[inline]
    pub fn new(merge: Merge) -> Self {
        Self { merge, runs: [None; RUNS], bodies: Default::default(), oldest: 0 }
    }

    /// Takes one frame, and hands out what is finished by it.
    pub fn push(&mut self, frame: &'a [u8], trust: Trust, emit: &mut impl FnMut(Frame<'_>)) {
        let Some(piece) = Piece::of(frame, trust) else {
            // Perhaps a fragment of a flow that is held: it must not overtake.
            self.finish(emit);
            return self.single(frame, trust, emit);
        };
        let held = self
            .runs
            .iter()
            .position(|run| run.as_ref().is_some_and(|run| run.first.is_same_flow(&piece)));
        let mergeable = piece.is_mergeable(self.merge);
        if let Some(slot) = held {
            if mergeable && self.append(slot, &piece) {
                if piece.ends_run(self.runs.get(slot).and_then(Option::as_ref)) {
                    self.close(slot, emit);
                }
                return;
            }
            self.close(slot, emit);
        }
        if mergeable && !piece.ends_run(None) {
            let slot = self.free_slot(emit);
            self.start(slot, piece);
        } else {
            self.single(frame, trust, emit);
        }
    }

    /// Hands out everything that is held.
    pub fn finish(&mut self, emit: &mut impl FnMut(Frame<'_>)) {
        for slot in 0..RUNS {
            self.close((self.oldest + slot) % RUNS, emit);
        }
    }

    fn free_slot(&mut self, emit: &mut impl FnMut(Frame<'_>)) -> usize {
        if let Some(free) = self.runs.iter().position(Option::is_none) {
            return free;
        }
        let slot = self.oldest;
        self.oldest = (slot + 1) % RUNS;
        self.close(slot, emit);
        slot
    }

    fn start(&mut self, slot: usize, first: Piece<'a>) {
        let (Some(run), Some(body)) = (self.runs.get_mut(slot), self.bodies.get_mut(slot)) else {
            return;
        };
        body.clear();
        body.push(IoSlice::new(first.payload()));
        let sound = first.trust != Trust::Verify;
        *run = Some(Run { first, count: 1, payload: first.payload, last_flags: 0, sound });
    }

    /// Appends a piece of the same flow to a run, if it continues it.
    fn append(&mut self, slot: usize, piece: &Piece<'a>) -> bool {
        let Some(Some(run)) = self.runs.get_mut(slot) else { return false };
        let Some(body) = self.bodies.get_mut(slot) else { return false };
        if body.is_full() || !run.is_continued_by(piece) {
            return false;
        }
        run.sound = run.sound || run.first.is_valid();
        if !run.sound || (piece.trust == Trust::Verify && !piece.is_valid()) {
            return false;
        }
        body.push(IoSlice::new(piece.payload()));
        run.count += 1;
        run.payload += piece.payload;
        run.last_flags = piece.flags & (PSH | FIN);
        true
    }

    fn close(&mut self, slot: usize, emit: &mut impl FnMut(Frame<'_>)) {
        let Some(run) = self.runs.get_mut(slot).and_then(Option::take) else { return };
        if run.count == 1 {
            return self.single(run.first.bytes, run.first.trust, emit);
        }
        let body = self.bodies.get(slot).map_or(&[][..], ArrayVec::as_slice);
        let head = run.superframe_head();
        emit(Frame { head: head.as_slice(), body, offload: run.offload() });
    }

    /// Hands out a frame as it came.
    fn single(&self, bytes: &[u8], trust: Trust, emit: &mut impl FnMut(Frame<'_>)) {
        let adopted = self.merge.adopt.and_then(|mtu| adopt_partial(bytes, mtu, None));
        let offload = adopted.unwrap_or(Offload {
            checksum: match trust {
                Trust::Verify => Checksum::Done,
                Trust::Vouched => Checksum::Vouched,
                Trust::Unfinished { start, offset } => Checksum::Partial { start, offset },
            },
            gso: None,
        });
        emit(Contiguous::new(bytes, offload).frame());
    }
}

impl<'a> Piece<'a> {
    /// `None` when the frame is not of a TCP or UDP flow, a fragment, or not as long as it claims.
    fn of(bytes: &'a [u8], trust: Trust) -> Option<Self> {
        let inet = Inet::parse(bytes)?;
        let kind = match inet.proto {
            proto::TCP => GsoKind::Tcp,
            proto::UDP => GsoKind::Udp,
            _ => return None,
        };
        if inet.fragment.is_piece() || !inet.fits(bytes.len()) {
            return None;
        }
        let header_len = segment::header_len(bytes, &inet, kind)?;
        let payload = inet.l3 + inet.l3_len - header_len;
        let flags = match kind {
            GsoKind::Tcp => segment::flags(bytes, &inet)[1],
            GsoKind::Udp => 0,
        };
        Some(Self { bytes, inet, kind, header_len, payload, flags, trust })
    }

    fn slice(&self, from: usize, to: usize) -> &'a [u8] {
        self.bytes.get(from..to).unwrap_or_default()
    }

    fn payload(&self) -> &'a [u8] {
        self.slice(self.header_len, self.header_len + self.payload)
    }

    /// Same MAC addresses and tags, IP addresses, protocol and ports.
    fn is_same_flow(&self, other: &Self) -> bool {
        let ports = |piece: &Self| get_u32(piece.bytes, piece.inet.l4);
        self.kind == other.kind
            && ports(self) == ports(other)
            && self.inet.l3 == other.inet.l3
            && self.inet.address_bytes(self.bytes) == other.inet.address_bytes(other.bytes)
            && self.slice(0, self.inet.l3) == other.slice(0, self.inet.l3)
    }

    /// Whether this frame may be in a superframe at all, its checksum aside.
    fn is_mergeable(&self, merge: Merge) -> bool {
        let (l3, l4) = (self.inet.l3, self.inet.l4);
        if self.payload == 0 || self.inet.extended || !self.is_summed_as_usual() {
            return false;
        }
        if self.inet.version == IpVersion::V4 && checksum::of(self.slice(l3, l4)) != 0 {
            return false;
        }
        match self.kind {
            GsoKind::Tcp => merge.tcp && self.flags & (ACK | SYN | RST | URG | CWR) == ACK,
            GsoKind::Udp => {
                let claimed = usize::from(get_u16(self.bytes, l4 + 4));
                let checksum = get_u16(self.bytes, l4 + usize::from(UDP_CHECKSUM));
                merge.udp && claimed == self.inet.l4_len() && checksum != 0
            }
        }
    }

    /// Whether a checksum that is still to be finished is that of the transport header.
    fn is_summed_as_usual(&self) -> bool {
        let Trust::Unfinished { start, offset } = self.trust else { return true };
        let usual = match self.kind {
            GsoKind::Tcp => TCP_CHECKSUM,
            GsoKind::Udp => UDP_CHECKSUM,
        };
        usize::from(start) == self.inet.l4 && offset == usual
    }

    /// Whether nothing may follow this piece: it is shorter than the run's first, or pushed.
    fn ends_run(&self, run: Option<&Run<'_>>) -> bool {
        self.flags & (PSH | FIN) != 0 || run.is_some_and(|run| self.payload < run.first.payload)
    }

    /// Whether the transport checksum is right.
    fn is_valid(&self) -> bool {
        let l4_len = self.inet.l4_len();
        let mut sum = Sum::pseudo(self.bytes, &self.inet, l4_len);
        sum.add(self.slice(self.inet.l4, self.inet.l4 + l4_len));
        sum.checksum() == 0
    }
}

impl Run<'_> {
    /// Whether a piece of the same flow follows on the last one without a seam: cutting the
    /// superframe would give it back.
    fn is_continued_by(&self, piece: &Piece<'_>) -> bool {
        let first = &self.first;
        let (l3, l4) = (first.inet.l3, first.inet.l4);
        let same = |from, to| first.slice(from, to) == piece.slice(from, to);
        let total = first.header_len - l3 + self.payload + piece.payload;
        if piece.payload > first.payload
            || first.header_len != piece.header_len
            || total > PACKET_MAX
        {
            return false;
        }
        let same_l3 = match first.inet.version {
            // Version and length, TOS; flags, TTL and protocol.
            IpVersion::V4 => {
                let df = first.slice(l3 + 6, l3 + 7).iter().all(|flags| flags & 0x40 != 0);
                let id = |piece: &Piece<'_>| get_u16(piece.bytes, l3 + 4);
                same(l3, l3 + 2)
                    && same(l3 + 6, l3 + 10)
                    && (df || id(piece) == id(first).wrapping_add(self.count as u16))
            }
            // Version, traffic class and flow label; next header and hop limit.
            IpVersion::V6 => same(l3, l3 + 4) && same(l3 + 6, l3 + 8),
        };
        same_l3
            && match first.kind {
                GsoKind::Udp => true,
                // Acknowledgement and data offset; flags; window; urgent pointer and options.
                GsoKind::Tcp => {
                    let next = get_u32(first.bytes, l4 + 4).wrapping_add(self.payload as u32);
                    get_u32(piece.bytes, l4 + 4) == next
                        && same(l4 + 8, l4 + 13)
                        && (first.flags ^ piece.flags) & !(PSH | FIN) == 0
                        && same(l4 + 14, l4 + 16)
                        && same(l4 + 18, first.header_len)
                }
            }
    }

    /// The first piece's headers, with the lengths, checksums and flags of the superframe.
    fn superframe_head(&self) -> Head {
        let first = &self.first;
        let (l3, l4) = (first.inet.l3, first.inet.l4);
        let mut head = Head::copy_of(first.slice(0, first.header_len));
        let bytes = head.as_mut_slice();
        let l4_len = first.header_len - l4 + self.payload;
        match first.inet.version {
            IpVersion::V4 => {
                put(bytes, l3 + 2, (l4 - l3 + l4_len) as u16);
                put(bytes, l3 + 10, 0);
                let checksum = checksum::of(bytes.get(l3..l4).unwrap_or_default());
                put(bytes, l3 + 10, checksum);
            }
            IpVersion::V6 => put(bytes, l3 + 4, l4_len as u16),
        }
        if let Some(flags) = bytes.get_mut(l4 + 13).filter(|_| first.kind == GsoKind::Tcp) {
            *flags |= self.last_flags;
        }
        if first.kind == GsoKind::Udp {
            put(bytes, l4 + 4, l4_len as u16);
        }
        let sum = Sum::pseudo(bytes, &first.inet, l4_len);
        segment::put_checksum(bytes, self.offload().checksum, sum.folded());
        head
    }

    fn offload(&self) -> Offload {
        let kind = self.first.kind;
        let offset = match kind {
            GsoKind::Tcp => TCP_CHECKSUM,
            GsoKind::Udp => UDP_CHECKSUM,
        };
        Offload {
            checksum: Checksum::Partial { start: self.first.inet.l4 as u16, offset },
            gso: Some(Gso {
                kind,
                size: self.first.payload as u16,
                segments: self.count as u16,
                header_len: self.first.header_len as u16,
            }),
        }
    }
}
