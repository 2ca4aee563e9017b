//! Cutting superframes (TCP segmentation, UDP_SEGMENT) and finishing checksums. Headers are
//! written, payload is only pointed at.

use std::io::IoSlice;

use crate::checksum::{self, Sum};
use crate::inet::{Inet, IpVersion, proto};
use crate::{Checksum, Frame, GsoKind};

/// Offset of the checksum in a TCP header.
pub(crate) const TCP_CHECKSUM: u16 = 16;
/// Offset of the checksum in a UDP header.
pub(crate) const UDP_CHECKSUM: u16 = 6;

const TCP_SEQUENCE: usize = 4;
const TCP_FLAGS: usize = 13;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// A TCP stream is not cut into pieces smaller than this to fit an MTU (the kernel's
/// `TCP_MIN_GSO_SIZE`).
const TCP_PIECE_MIN: usize = 8;

/// Why a frame cannot leave here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// A packet of this many bytes exceeds the MTU and cannot be cut smaller.
    #[error("packet of {len} bytes exceeds the MTU of {mtu}")]
    TooBig {
        /// Bytes of the packet or of each segment, from the IP header on.
        len: usize,
        /// The limit.
        mtu: u16,
    },
    /// A superframe whose headers do not say what its offload does, or are not in its head.
    #[error("superframe without sound IP and transport headers")]
    Headers,
}

/// A frame laid out for a wire: one frame, or the segments of a superframe, each addressed by its
/// number. Nothing depends on the order in which they are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Segments<'a> {
    frame: Frame<'a>,
    cut: Cut,
}

#[derive(Clone, Copy, Debug)]
enum Cut {
    /// One frame, whose head gets this checksum at this place.
    Whole {
        patch: Option<(usize, u16)>,
    },
    Super(Super),
}

/// What all segments of a superframe share.
#[derive(Clone, Copy, Debug)]
struct Super {
    kind: GsoKind,
    inet: Inet,
    header_len: usize,
    /// Payload bytes of each segment but the last.
    size: usize,
    payload: usize,
    count: usize,
    /// Sum of the IPv4 header without length, identification and checksum.
    ip_sum: Sum,
    identification: u16,
    /// Sum of pseudo-header and transport header without lengths, sequence number, flags and
    /// checksum.
    l4_sum: Sum,
    sequence: u32,
    flags: [u8; 2],
}

impl<'a> Segments<'a> {
    /// Lays a frame out. `mtu` is the most bytes a packet may have from its IP header on: a TCP
    /// superframe is cut smaller for it. A frame that is no superframe is one segment, its
    /// checksum finished.
    ///
    /// # Errors
    /// When a packet does not fit the MTU, or a superframe's headers are unsound.
    pub fn plan(frame: &Frame<'a>, mtu: Option<u16>) -> Result<Self, SegmentError> {
        let cut = match frame.offload.gso {
            Some(gso) => Cut::Super(Super::plan(frame, gso.kind, usize::from(gso.size), mtu)?),
            None => {
                let l3 = crate::ethernet::Ethernet::parse(frame.head).map_or(0, |eth| eth.l3);
                let len = frame.len() - l3;
                match mtu {
                    Some(mtu) if len > usize::from(mtu) => {
                        return Err(SegmentError::TooBig { len, mtu });
                    }
                    _ => Cut::Whole { patch: complete(frame) },
                }
            }
        };
        Ok(Self { frame: *frame, cut })
    }

    /// How many frames come of it; one at least.
    #[must_use]
    pub const fn count(&self) -> usize {
        match &self.cut {
            Cut::Whole { .. } => 1,
            Cut::Super(cut) => cut.count,
        }
    }

    /// Bytes that [`Self::write_header`] writes, the same for each segment.
    #[must_use]
    pub const fn header_len(&self) -> usize {
        match &self.cut {
            Cut::Whole { .. } => self.frame.head.len(),
            Cut::Super(cut) => cut.header_len,
        }
    }

    /// Bytes behind the header of segment `i`; zero for a segment there is not.
    #[must_use]
    pub fn payload_len(&self, i: usize) -> usize {
        match &self.cut {
            Cut::Whole { .. } if i == 0 => self.frame.len() - self.frame.head.len(),
            Cut::Whole { .. } => 0,
            Cut::Super(cut) => cut.range(i).1,
        }
    }

    /// Bytes of segment `i` on the wire, from the destination MAC on.
    #[must_use]
    pub fn segment_len(&self, i: usize) -> usize {
        self.header_len() + self.payload_len(i)
    }

    /// Ranges of segments to send together, `most` at the most and as equal as can be (47 by 44
    /// at the most are 24 and 23, not 44 and 3). Only the very last segment can be shorter, so
    /// each range is one `UDP_SEGMENT` send.
    pub fn batches(&self, most: usize) -> impl Iterator<Item = core::ops::Range<usize>> + use<> {
        let count = self.count();
        let parts = count.div_ceil(most.max(1));
        let (each, longer) = (count / parts, count % parts);
        (0..parts).map(move |part| {
            let start = part * each + part.min(longer);
            start..start + each + usize::from(part < longer)
        })
    }

    /// The payload of segment `i`, in order, as slices of the frame.
    #[must_use]
    pub fn payload(&self, i: usize) -> Payload<'a> {
        let (first, skip, left) = match &self.cut {
            Cut::Whole { .. } => (&[][..], 0, self.payload_len(i)),
            Cut::Super(cut) => {
                let (start, len) = cut.range(i);
                (self.frame.head.get(cut.header_len..).unwrap_or_default(), start, len)
            }
        };
        Payload { first: Some(first), body: self.frame.body.iter(), skip, left }
    }

    /// Writes the header of segment `i`, Ethernet to layer 4, complete with lengths, sequence
    /// number and checksums, to the front of `out`, and returns its length:
    /// [`Self::header_len`]. Zero, and nothing is written, when `out` is shorter or there is no
    /// such segment.
    pub fn write_header(&self, i: usize, out: &mut [u8]) -> usize {
        let len = self.header_len();
        let (Some(out), Some(header)) = (out.get_mut(..len), self.frame.head.get(..len)) else {
            return 0;
        };
        if i >= self.count() {
            return 0;
        }
        out.copy_from_slice(header);
        match &self.cut {
            Cut::Whole { patch } => {
                if let Some((at, value)) = *patch {
                    put(out, at, value);
                }
            }
            Cut::Super(cut) => cut.finish(i, out, self.payload(i)),
        }
        len
    }
}

impl Super {
    fn plan(
        frame: &Frame<'_>,
        kind: GsoKind,
        size: usize,
        mtu: Option<u16>,
    ) -> Result<Self, SegmentError> {
        let head = frame.head;
        let inet = Inet::parse(head).ok_or(SegmentError::Headers)?;
        let header_len = header_len(head, &inet, kind).ok_or(SegmentError::Headers)?;
        let proto = match kind {
            GsoKind::Tcp => proto::TCP,
            GsoKind::Udp => proto::UDP,
        };
        let payload = frame.len().checked_sub(header_len).ok_or(SegmentError::Headers)?;
        if inet.proto != proto || inet.fragment.is_piece() || size == 0 || payload == 0 {
            return Err(SegmentError::Headers);
        }
        let size = fit(kind, size.min(payload), header_len - inet.l3, mtu)?;
        let (sequence, flags) = match kind {
            GsoKind::Tcp => (get_u32(head, inet.l4 + TCP_SEQUENCE), flags(head, &inet)),
            GsoKind::Udp => (0, [0; 2]),
        };
        let (ip_sum, identification) = match inet.version {
            IpVersion::V4 => ip_sum(head, &inet),
            IpVersion::V6 => (Sum::new(), 0),
        };
        let count = payload.div_ceil(size);
        let l4_sum = l4_sum(head, &inet, kind, header_len);
        Ok(Self {
            kind,
            inet,
            header_len,
            size,
            payload,
            count,
            ip_sum,
            identification,
            l4_sum,
            sequence,
            flags,
        })
    }

    /// Where the payload of segment `i` starts, and its length.
    fn range(&self, i: usize) -> (usize, usize) {
        let start = self.size.saturating_mul(i).min(self.payload);
        (start, self.size.min(self.payload - start))
    }

    /// Turns a copy of the superframe's header into that of segment `i`.
    fn finish(&self, i: usize, out: &mut [u8], payload: Payload<'_>) {
        let (start, len) = self.range(i);
        let (l3, l4) = (self.inet.l3, self.inet.l4);
        let l4_len = self.header_len - l4 + len;
        match self.inet.version {
            IpVersion::V4 => {
                let total = (l4 - l3 + l4_len) as u16;
                let identification = self.identification.wrapping_add(i as u16);
                let mut sum = self.ip_sum;
                sum.add_u16(total);
                sum.add_u16(identification);
                put(out, l3 + 2, total);
                put(out, l3 + 4, identification);
                put(out, l3 + 10, sum.checksum());
            }
            IpVersion::V6 => put(out, l3 + 4, (l4 - l3 - 40 + l4_len) as u16),
        }
        let mut sum = self.l4_sum;
        sum.add_u32(l4_len as u32);
        let place = match self.kind {
            GsoKind::Tcp => {
                let sequence = self.sequence.wrapping_add(start as u32);
                let flags = self.segment_flags(i);
                sum.add_u32(sequence);
                sum.add_u16(u16::from_be_bytes(flags));
                put(out, l4 + TCP_SEQUENCE, (sequence >> 16) as u16);
                put(out, l4 + TCP_SEQUENCE + 2, sequence as u16);
                put(out, l4 + TCP_FLAGS - 1, u16::from_be_bytes(flags));
                TCP_CHECKSUM
            }
            GsoKind::Udp => {
                sum.add_u16(l4_len as u16);
                put(out, l4 + 4, l4_len as u16);
                UDP_CHECKSUM
            }
        };
        for slice in payload {
            sum.add(slice);
        }
        let checksum = match self.kind {
            GsoKind::Tcp => sum.checksum(),
            GsoKind::Udp => checksum::nonzero(sum.checksum()),
        };
        put(out, l4 + usize::from(place), checksum);
    }

    /// Data offset and flags: CWR on the first segment only, FIN and PSH on the last only.
    fn segment_flags(&self, i: usize) -> [u8; 2] {
        let [offset, mut flags] = self.flags;
        if i != 0 {
            flags &= !CWR;
        }
        if i + 1 != self.count {
            flags &= !(FIN | PSH);
        }
        [offset, flags]
    }
}

/// The payload size for an MTU; `l3_header` is what each segment repeats from the IP header on.
fn fit(
    kind: GsoKind,
    size: usize,
    l3_header: usize,
    mtu: Option<u16>,
) -> Result<usize, SegmentError> {
    let Some(mtu) = mtu else { return Ok(size) };
    let room = usize::from(mtu).saturating_sub(l3_header);
    if size <= room {
        return Ok(size);
    }
    match kind {
        GsoKind::Tcp if room >= TCP_PIECE_MIN => Ok(room),
        _ => Err(SegmentError::TooBig { len: l3_header + size, mtu }),
    }
}

/// Sum of the IPv4 header without the fields that differ by segment, and the identification.
fn ip_sum(head: &[u8], inet: &Inet) -> (Sum, u16) {
    let mut sum = Sum::new();
    let part = |from, to| head.get(inet.l3 + from..to).unwrap_or_default();
    sum.add(part(0, inet.l3 + 2));
    sum.add(part(6, inet.l3 + 10));
    sum.add(part(12, inet.l4));
    (sum, get_u16(head, inet.l3 + 4))
}

/// Sum of pseudo-header and transport header without the fields that differ by segment.
fn l4_sum(head: &[u8], inet: &Inet, kind: GsoKind, header_len: usize) -> Sum {
    let mut sum = Sum::pseudo(head, inet, 0);
    let part = |from, to| head.get(inet.l4 + from..to).unwrap_or_default();
    sum.add(part(0, inet.l4 + 4));
    if kind == GsoKind::Tcp {
        sum.add(part(8, inet.l4 + 12));
        sum.add(part(14, inet.l4 + 16));
        sum.add(part(18, header_len));
    }
    sum
}

/// The slices of a segment's payload.
#[derive(Clone, Debug)]
pub struct Payload<'a> {
    first: Option<&'a [u8]>,
    body: core::slice::Iter<'a, IoSlice<'a>>,
    skip: usize,
    left: usize,
}

impl<'a> Iterator for Payload<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while self.left > 0 {
            let slice: &'a [u8] = match self.first.take() {
                Some(first) => first,
                None => self.body.next()?,
            };
            let Some(rest) = slice.get(self.skip..).filter(|rest| !rest.is_empty()) else {
                self.skip -= slice.len();
                continue;
            };
            self.skip = 0;
            let taken = rest.get(..self.left).unwrap_or(rest);
            self.left -= taken.len();
            return Some(taken);
        }
        None
    }
}

/// The checksum that a frame with a partial one still lacks: its place in the head and its value,
/// summed over the frame as it is, superframe or not. `None` when nothing is to be done, or when
/// the place is not in the head.
#[must_use]
pub fn complete(frame: &Frame<'_>) -> Option<(usize, u16)> {
    let Checksum::Partial { start, offset } = frame.offload.checksum else { return None };
    let start = usize::from(start);
    let at = start + usize::from(offset);
    frame.head.get(at..at + 2)?;
    let mut sum = Sum::new();
    sum.add(frame.head.get(start..)?);
    for slice in frame.body {
        sum.add(slice);
    }
    // Zero is never right for UDP and the same as 0xffff for all others.
    Some((at, checksum::nonzero(sum.checksum())))
}

/// Finishes a partial checksum in a copy of the frame's head, which must begin as the frame's
/// head does. Returns whether there was one.
pub fn complete_into(frame: &Frame<'_>, head: &mut [u8]) -> bool {
    complete(frame).is_some_and(|(at, value)| {
        put(head, at, value);
        true
    })
}

/// Bytes from the frame's start to the layer 4 payload; `None` when the transport header is
/// malformed or not in the head.
pub(crate) fn header_len(head: &[u8], inet: &Inet, kind: GsoKind) -> Option<usize> {
    let l4 = head.get(inet.l4..)?;
    let len = match kind {
        GsoKind::Tcp => usize::from(l4.first_chunk::<20>()?[12] >> 4) * 4,
        GsoKind::Udp => 8,
    };
    let sound = len >= 8 && (kind == GsoKind::Udp || len >= 20);
    (sound && l4.len() >= len && inet.l4_len() >= len).then_some(inet.l4 + len)
}

/// Whether the TCP header has CWR set.
pub(crate) fn carries_cwr(head: &[u8], inet: &Inet) -> bool {
    flags(head, inet)[1] & CWR != 0
}

/// Writes a value where a partial checksum belongs.
pub(crate) fn put_checksum(head: &mut [u8], checksum: Checksum, value: u16) {
    if let Checksum::Partial { start, offset } = checksum {
        put(head, usize::from(start) + usize::from(offset), value);
    }
}

/// Data offset and flags of a TCP header, as they stand.
pub(crate) fn flags(head: &[u8], inet: &Inet) -> [u8; 2] {
    get_u16(head, inet.l4 + TCP_FLAGS - 1).to_be_bytes()
}

/// Writes a field; one that is not in the bytes is left out.
pub(crate) fn put(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(field) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<2>()) {
        *field = value.to_be_bytes();
    }
}

/// Reads a field; zero when it is not in the bytes.
pub(crate) fn get_u16(bytes: &[u8], at: usize) -> u16 {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk::<2>());
    field.map_or(0, |&field| u16::from_be_bytes(field))
}

/// Reads a field; zero when it is not in the bytes.
pub(crate) fn get_u32(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    field.map_or(0, |&field| u32::from_be_bytes(field))
}
