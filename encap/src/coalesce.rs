//! Joining the frames of a train into superframes: the inverse of [`segment`](mod@crate::segment),
//! by the rules of the kernel's GRO.

use std::io::IoSlice;

use arrayvec::ArrayVec;

use crate::checksum::{self, Sum};
use crate::inet::{Inet, IpVersion, proto};
use crate::pattern::Pattern;
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
    /// The slot of the latest frame that was held.
    latest: usize,
    /// The slot of the latest run that got two frames in a row, and what its next one looks like.
    next: Option<(usize, Pattern)>,
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
        let (runs, bodies) = ([None; RUNS], Default::default());
        Self { merge, runs, bodies, oldest: 0, latest: 0, next: None }
    }

    /// Takes one frame, and hands out what is finished by it.
    pub fn push(&mut self, frame: &'a [u8], trust: Trust, emit: &mut impl FnMut(Frame<'_>)) {
        // Nearly every frame of a train is the next one of the run before it.
        if let Some((slot, pattern)) = &self.next
            && pattern.matches(frame)
            && let slot = *slot
            && let Some(piece) = self.next_of(slot, frame, trust)
            && self.add(slot, &piece)
        {
            self.latest = slot;
            if piece.ends_run(None) {
                self.close(slot, emit);
            }
            return;
        }
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
                } else {
                    self.expect_more_of(slot);
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
        self.latest = slot;
    }

    /// Appends a piece of the same flow to a run, if it continues it.
    fn append(&mut self, slot: usize, piece: &Piece<'a>) -> bool {
        let Some(Some(run)) = self.runs.get_mut(slot) else { return false };
        if !run.is_continued_by(piece) {
            return false;
        }
        run.sound = run.sound || run.first.is_valid();
        run.sound && self.add(slot, piece)
    }

    /// Adds a piece that continues a run, if there is room and its checksum is right.
    #[inline]
    fn add(&mut self, slot: usize, piece: &Piece<'a>) -> bool {
        let (Some(Some(run)), Some(body)) = (self.runs.get_mut(slot), self.bodies.get_mut(slot))
        else {
            return false;
        };
        let fits = run.packet_len() + piece.payload <= PACKET_MAX && !body.is_full();
        if !fits || (piece.trust == Trust::Verify && !piece.is_valid()) {
            return false;
        }
        body.push(IoSlice::new(piece.payload()));
        run.count += 1;
        run.payload += piece.payload;
        run.last_flags = piece.flags & (PSH | FIN);
        true
    }

    /// Notes what the next piece of a run looks like that has just been continued. Not where the
    /// frames of flows alternate: noting takes longer than recognising one frame saves.
    fn expect_more_of(&mut self, slot: usize) {
        let in_a_row = std::mem::replace(&mut self.latest, slot) == slot;
        if in_a_row && self.next.as_ref().is_none_or(|(known, _)| *known != slot) {
            let run = self.runs.get(slot).and_then(Option::as_ref);
            self.next = run.and_then(|run| Some((slot, run.first.pattern()?)));
        }
    }

    /// A frame that matches the pattern of a run, as its piece, if it has the place in the stream
    /// that is next.
    #[inline]
    fn next_of(&self, slot: usize, bytes: &'a [u8], trust: Trust) -> Option<Piece<'a>> {
        let run = self.runs.get(slot)?.as_ref()?;
        let first = &run.first;
        let flags = match first.kind {
            GsoKind::Tcp => *bytes.get(first.inet.l4 + 13)?,
            GsoKind::Udp => 0,
        };
        let piece = Piece { bytes, flags, trust, ..*first };
        let whole = first.header_len + first.payload <= bytes.len();
        (whole && trust == first.trust && run.is_next(&piece)).then_some(piece)
    }

    fn close(&mut self, slot: usize, emit: &mut impl FnMut(Frame<'_>)) {
        let Some(run) = self.runs.get_mut(slot).and_then(Option::take) else { return };
        if self.next.as_ref().is_some_and(|(known, _)| *known == slot) {
            self.next = None;
        }
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

    /// What all pieces of its run have in common with it whose payload is as long. Free is what
    /// [`Run::is_next`] looks at, and the transport checksum.
    fn pattern(&self) -> Option<Pattern> {
        let (l3, l4) = (self.inet.l3, self.inet.l4);
        let (id, ip_checksum) = match self.inet.version {
            IpVersion::V4 => (l3 + 4..l3 + 6, l3 + 10..l3 + 12),
            IpVersion::V6 => (l3..l3, l3..l3),
        };
        let (sequence, checksum, flags) = match self.kind {
            GsoKind::Tcp => (l4 + 4..l4 + 8, TCP_CHECKSUM, Some((l4 + 13, !(PSH | FIN)))),
            GsoKind::Udp => (l4..l4, UDP_CHECKSUM, None),
        };
        let checksum = l4 + usize::from(checksum)..l4 + usize::from(checksum) + 2;
        Pattern::new(self.slice(0, self.header_len), &[id, ip_checksum, sequence, checksum], flags)
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
    /// Bytes of the superframe's packet, IP header included.
    fn packet_len(&self) -> usize {
        self.first.header_len - self.first.inet.l3 + self.payload
    }

    /// Whether a piece that differs from the first one only in what is free in the
    /// [pattern](Piece::pattern) is the next one, by the same rules as [`Self::is_continued_by`] and
    /// [`Piece::is_mergeable`].
    #[inline]
    fn is_next(&self, piece: &Piece<'_>) -> bool {
        let first = &self.first;
        let (l3, l4) = (first.inet.l3, first.inet.l4);
        let same_l3 = match first.inet.version {
            IpVersion::V4 => {
                // The header's sum stays what it is when one word grows as the other shrinks.
                let free = |piece: &Piece<'_>| {
                    let word = |at| u32::from(get_u16(piece.bytes, l3 + at));
                    let sum = word(4) + word(10);
                    ((sum & 0xffff) + (sum >> 16)) as u16
                };
                self.has_next_id(piece) && checksum::same(free(piece), free(first))
            }
            IpVersion::V6 => true,
        };
        same_l3
            && match first.kind {
                GsoKind::Udp => get_u16(piece.bytes, l4 + usize::from(UDP_CHECKSUM)) != 0,
                GsoKind::Tcp => self.has_next_sequence(piece),
            }
    }

    /// IPv4: identifications count up, or may be anything (RFC 6864 section 4.1).
    #[inline]
    fn has_next_id(&self, piece: &Piece<'_>) -> bool {
        let l3 = self.first.inet.l3;
        let df = self.first.bytes.get(l3 + 6).is_some_and(|flags| flags & 0x40 != 0);
        let id = |piece: &Piece<'_>| get_u16(piece.bytes, l3 + 4);
        df || id(piece) == id(&self.first).wrapping_add(self.count as u16)
    }

    #[inline]
    fn has_next_sequence(&self, piece: &Piece<'_>) -> bool {
        let sequence = |piece: &Piece<'_>| get_u32(piece.bytes, self.first.inet.l4 + 4);
        sequence(piece) == sequence(&self.first).wrapping_add(self.payload as u32)
    }

    /// Whether a piece of the same flow follows on the last one without a seam: cutting the
    /// superframe would give it back.
    fn is_continued_by(&self, piece: &Piece<'_>) -> bool {
        let first = &self.first;
        let (l3, l4) = (first.inet.l3, first.inet.l4);
        let same = |from, to| first.slice(from, to) == piece.slice(from, to);
        if piece.payload > first.payload || first.header_len != piece.header_len {
            return false;
        }
        let same_l3 = match first.inet.version {
            // Version and length, TOS; flags, TTL and protocol.
            IpVersion::V4 => same(l3, l3 + 2) && same(l3 + 6, l3 + 10) && self.has_next_id(piece),
            // Version, traffic class and flow label; next header and hop limit.
            IpVersion::V6 => same(l3, l3 + 4) && same(l3 + 6, l3 + 8),
        };
        same_l3
            && match first.kind {
                GsoKind::Udp => true,
                // Acknowledgement and data offset; flags; window; urgent pointer and options.
                GsoKind::Tcp => {
                    self.has_next_sequence(piece)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{tagged, tcp4, tcp6, udp4, udp6};
    use proptest::prelude::*;

    const ALL: Merge = Merge { tcp: true, udp: true, adopt: None };

    /// A frame as it was handed out, and what of it is its head.
    type Out = (Vec<u8>, usize, Offload);

    /// What becomes of frames. `at_length`: without the short cut.
    fn joined(frames: &[Vec<u8>], trust: Trust, at_length: bool) -> Vec<Out> {
        let mut out = Vec::new();
        let mut emit = |frame: Frame<'_>| {
            let body = frame.body.iter().flat_map(|slice| slice.iter().copied());
            let bytes = frame.head.iter().copied().chain(body).collect();
            out.push((bytes, frame.head.len(), frame.offload));
        };
        let mut coalescer = Coalescer::new(ALL);
        for frame in frames {
            coalescer.push(frame, trust, &mut emit);
            if at_length {
                coalescer.next = None;
            }
        }
        coalescer.finish(&mut emit);
        out
    }

    /// Frames of one flow that follow each other, with `df` or without.
    fn stream(first: &[u8], count: u16, df: bool) -> Vec<Vec<u8>> {
        let piece = Piece::of(first, Trust::Verify).unwrap();
        let (l3, l4, payload) = (piece.inet.l3, piece.inet.l4, piece.payload as u32);
        let frame = |n: u16| {
            let mut frame = first.to_vec();
            if piece.inet.version == IpVersion::V4 {
                frame[l3 + 6] = if df { 0x40 } else { 0 };
                put(&mut frame, l3 + 4, 0xfffe_u16.wrapping_add(n));
                put(&mut frame, l3 + 10, 0);
                let sum = checksum::of(&frame[l3..l4]);
                put(&mut frame, l3 + 10, sum);
            }
            if piece.kind == GsoKind::Tcp {
                let sequence = get_u32(first, l4 + 4).wrapping_add(u32::from(n) * payload);
                frame[l4 + 4..l4 + 8].copy_from_slice(&sequence.to_be_bytes());
                put(&mut frame, l4 + 16, 0);
                let l4_len = piece.inet.l4_len();
                let mut sum = Sum::pseudo(&frame, &piece.inet, l4_len);
                sum.add(&frame[l4..]);
                put(&mut frame, l4 + 16, sum.checksum());
            }
            frame
        };
        (0..count).map(frame).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        /// Whatever is changed of whichever frame, the short cut comes to the same as the long way.
        #[test]
        fn the_short_cut_leads_where_the_long_way_does(
            kind in 0..6usize,
            payload in 1..40usize,
            count in 2..9u16,
            df: bool,
            trusted: bool,
            changes in prop::collection::vec((any::<prop::sample::Index>(), 0..80usize, any::<u8>()), 0..3),
            cut in prop::option::of((any::<prop::sample::Index>(), 0..20usize)),
            unsummed in prop::option::of(any::<prop::sample::Index>()),
            between in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
            swap in prop::option::of((any::<prop::sample::Index>(), any::<prop::sample::Index>())),
        ) {
            let first = match kind {
                0 => tcp4(payload),
                1 => tcp6(payload),
                2 => udp4(payload),
                3 => udp6(payload),
                4 => tagged(&tcp4(payload), [0x81, 0, 0, 9]),
                _ => [tcp4(payload), vec![0; 6]].concat(),
            };
            let mut frames = stream(&first, count, df);
            for (frame, at, bits) in changes {
                let frame = &mut frames[frame.index(usize::from(count))];
                let at = at % frame.len();
                frame[at] ^= bits;
            }
            let piece = Piece::of(&first, Trust::Verify).unwrap();
            if let (Some(frame), GsoKind::Udp) = (unsummed, piece.kind) {
                put(&mut frames[frame.index(usize::from(count))], piece.inet.l4 + 6, 0);
            }
            if let Some((frame, bytes)) = cut {
                let frame = &mut frames[frame.index(usize::from(count))];
                frame.truncate(frame.len().saturating_sub(bytes));
            }
            if let Some((a, b)) = swap {
                frames.swap(a.index(usize::from(count)), b.index(usize::from(count)));
            }
            // Another flow, to another port, whose frames come in between.
            let mut other = first.clone();
            other[piece.inet.l4 + 3] ^= 1;
            for (at, frame) in between.iter().zip(stream(&other, 5, df)) {
                frames.insert(at.index(frames.len() + 1), frame);
            }
            let trust = if trusted { Trust::Vouched } else { Trust::Verify };
            prop_assert_eq!(joined(&frames, trust, false), joined(&frames, trust, true));
        }
    }

    #[test]
    fn the_short_cut_is_taken() {
        for first in [tcp4(9), tcp6(9), udp4(9), udp6(9)] {
            let frames = stream(&first, 3, true);
            let mut coalescer = Coalescer::new(ALL);
            for frame in &frames[..2] {
                coalescer.push(frame, Trust::Vouched, &mut |_| ());
            }
            let (slot, pattern) = coalescer.next.as_ref().unwrap();
            assert!(pattern.matches(&frames[2]));
            assert!(coalescer.next_of(*slot, &frames[2], Trust::Vouched).is_some());
            assert!(coalescer.next_of(*slot, &frames[2], Trust::Verify).is_none());
        }
    }
}
