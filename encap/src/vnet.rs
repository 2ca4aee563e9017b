//! The header in front of each frame of a TAP: `struct virtio_net_hdr_mrg_rxbuf`, 12 bytes, little
//! endian (`TUNSETVNETHDRSZ`, `TUNSETVNETLE`). Who sits behind the TAP wrote it: nothing in it is
//! believed.

use crate::checksum::Sum;
use crate::ethernet::Ethernet;
use crate::inet::{Inet, IpVersion, proto};
use crate::segment::{self, TCP_CHECKSUM, UDP_CHECKSUM};
use crate::{Checksum, Frame, Gso, GsoKind, Offload};

/// Bytes of the header.
pub const VNET_LEN: usize = 12;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_ECN`: a bit beside the type, the first segment carries CWR.
const GSO_ECN: u8 = 0x80;
const GSO_NONE: u8 = 0;
const GSO_TCP4: u8 = 1;
const GSO_UFO: u8 = 3;
const GSO_TCP6: u8 = 4;
const GSO_UDP: u8 = 5;

/// The smallest segment a TCP superframe may ask for. Linux itself cuts to 36 bytes at the least
/// (`tcp_bound_to_half_wnd`: 68 less the headers with timestamps; `tcp_min_snd_mss` 48 less 12);
/// 32 lets that pass and bounds a superframe of 64 KiB to 2048 segments.
pub const TCP_SIZE_MIN: u16 = 32;
/// The most datagrams of a UDP superframe: what the kernel takes, and what a guest's
/// `UDP_SEGMENT` can hold. It bounds the amplification, so that any size is legitimate.
pub const UDP_SEGMENTS_MAX: usize = 128;

/// The header's fields, in host order. The buffer count of the wire format is not kept: a TAP
/// neither sets nor reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// Flags: 1 needs checksum, 2 data valid.
    pub flags: u8,
    /// How the frame is to be cut: 0 not at all, 1 TCP over IPv4, 4 over IPv6, 5 UDP; 0x80 beside
    /// it: ECN.
    pub gso_type: u8,
    /// Bytes of all headers; a hint, never read.
    pub hdr_len: u16,
    /// Layer 4 payload bytes of a segment.
    pub gso_size: u16,
    /// First byte that is summed.
    pub csum_start: u16,
    /// Where the checksum goes, from `csum_start`.
    pub csum_offset: u16,
}

/// What is wrong with a header and its frame. Each is a reason to drop the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VnetError {
    /// Shorter than the header.
    #[error("{len} bytes are shorter than a vnet header (12)")]
    Truncated {
        /// Bytes there are.
        len: usize,
    },
    /// The checksum's place is outside the frame, in front of layer 4, odd, or behind the head.
    #[error("checksum over bytes from {start} at +{offset} has no place in {len} bytes")]
    ChecksumPlace {
        /// First summed byte.
        start: u16,
        /// Where the field is said to be.
        offset: u16,
        /// Bytes of the frame.
        len: usize,
    },
    /// A superframe whose segments have no byte, or 65535, which the kernel keeps for itself.
    #[error("segment size {size} is no size")]
    GsoSize {
        /// The size asked for.
        size: u16,
    },
    /// More segments than the limits allow: [`TCP_SIZE_MIN`], [`UDP_SEGMENTS_MAX`].
    #[error("segment size {size} cuts {payload} bytes into too many segments")]
    TooManySegments {
        /// The size asked for.
        size: u16,
        /// Bytes to cut.
        payload: usize,
    },
    /// UDP fragmentation offload, which no kernel in use sends.
    #[error("UDP fragmentation offload is not supported")]
    Ufo,
    /// A type that is not known, or only the ECN bit, or a tunnelled superframe.
    #[error("unknown GSO type {gso_type:#04x}")]
    GsoType {
        /// The type, ECN bit included.
        gso_type: u8,
    },
    /// The superframe is no IP packet, or its headers are malformed or not within the head.
    #[error("superframe without sound IP and transport headers")]
    Headers,
    /// The type says another protocol than the headers do.
    #[error("GSO type {gso_type} on a frame of protocol {proto}")]
    Protocol {
        /// The type, without ECN bit.
        gso_type: u8,
        /// The IP protocol.
        proto: u8,
    },
    /// The superframe is an IP fragment.
    #[error("superframe is an IP fragment")]
    Fragment,
    /// The superframe claims another length than it has.
    #[error("superframe claims {claimed} bytes and has {actual}")]
    Length {
        /// Bytes by the IP header, the Ethernet header included.
        claimed: usize,
        /// Bytes there are.
        actual: usize,
    },
}

impl VnetHeader {
    /// Takes the header off what was read from a TAP; the frame is what follows.
    ///
    /// # Errors
    /// When the bytes are too few.
    pub fn split(bytes: &[u8]) -> Result<(Self, &[u8]), VnetError> {
        let Some((header, frame)) = bytes.split_first_chunk::<VNET_LEN>() else {
            return Err(VnetError::Truncated { len: bytes.len() });
        };
        Ok((Self::decode(header), frame))
    }

    /// Reads the fields.
    #[must_use]
    pub const fn decode(bytes: &[u8; VNET_LEN]) -> Self {
        let &[flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1, _, _] = bytes;
        Self {
            flags,
            gso_type,
            hdr_len: u16::from_le_bytes([h0, h1]),
            gso_size: u16::from_le_bytes([g0, g1]),
            csum_start: u16::from_le_bytes([s0, s1]),
            csum_offset: u16::from_le_bytes([o0, o1]),
        }
    }

    /// Writes the fields; the buffer count is zero.
    #[must_use]
    pub const fn encode(&self) -> [u8; VNET_LEN] {
        let [h0, h1] = self.hdr_len.to_le_bytes();
        let [g0, g1] = self.gso_size.to_le_bytes();
        let [s0, s1] = self.csum_start.to_le_bytes();
        let [o0, o1] = self.csum_offset.to_le_bytes();
        [self.flags, self.gso_type, h0, h1, g0, g1, s0, s1, o0, o1, 0, 0]
    }

    /// What the header means for its frame of `frame_len` bytes, of which `head` are the first
    /// (all headers at least; all bytes of a frame up to [`HEAD_MAX`](crate::HEAD_MAX)).
    ///
    /// `hdr_len` is ignored. A superframe that is no longer than one segment is a plain frame.
    /// One that does not ask for a checksum gets one: its field in `head` is overwritten with the
    /// pseudo-header sum, so that every superframe is alike; nothing else is ever written.
    ///
    /// # Errors
    /// When header and frame contradict each other, or ask for more than the limits.
    pub fn resolve(&self, head: &mut [u8], frame_len: usize) -> Result<Offload, VnetError> {
        let checksum = self.partial(head, frame_len)?;
        let gso = match self.gso_type {
            GSO_NONE => None,
            _ => self.gso(head, frame_len)?,
        };
        let Some((gso, inet)) = gso else { return Ok(Offload { checksum, gso: None }) };
        let derived = Checksum::Partial {
            start: inet.l4 as u16,
            offset: match gso.kind {
                GsoKind::Tcp => TCP_CHECKSUM,
                GsoKind::Udp => UDP_CHECKSUM,
            },
        };
        if checksum == Checksum::Done {
            let sum = Sum::pseudo(head, &inet, inet.l4_len());
            segment::put_checksum(head, derived, sum.folded());
        } else if checksum != derived {
            return Err(self.checksum_place(frame_len));
        }
        Ok(Offload { checksum: derived, gso: Some(gso) })
    }

    const fn checksum_place(&self, len: usize) -> VnetError {
        VnetError::ChecksumPlace { start: self.csum_start, offset: self.csum_offset, len }
    }

    /// The checksum's state by the flags alone. The place must lie within head and frame, at even
    /// offsets, and not in front of layer 4 (of layer 3, when that is not IP): protocols other
    /// than TCP and UDP, and tunnels inside the guest, are summed like them.
    fn partial(&self, head: &[u8], frame_len: usize) -> Result<Checksum, VnetError> {
        if self.flags & NEEDS_CSUM == 0 {
            return Ok(Checksum::Done);
        }
        let error = self.checksum_place(frame_len);
        let (start, offset) = (usize::from(self.csum_start), usize::from(self.csum_offset));
        let ethernet = Ethernet::parse(head).map_err(|_| error)?;
        let first = Inet::at(head, &ethernet).map_or(ethernet.l3, |inet| inet.l4);
        let end = start + offset + 2;
        if start < first || end > frame_len || end > head.len() || start % 2 + offset % 2 != 0 {
            return Err(error);
        }
        Ok(Checksum::Partial { start: self.csum_start, offset: self.csum_offset })
    }

    fn gso(&self, head: &[u8], frame_len: usize) -> Result<Option<(Gso, Inet)>, VnetError> {
        let gso_type = self.gso_type & !GSO_ECN;
        let unknown = VnetError::GsoType { gso_type: self.gso_type };
        let (kind, version) = match gso_type {
            GSO_TCP4 => (GsoKind::Tcp, Some(IpVersion::V4)),
            GSO_TCP6 => (GsoKind::Tcp, Some(IpVersion::V6)),
            GSO_UDP if self.gso_type == GSO_UDP => (GsoKind::Udp, None),
            GSO_UFO => return Err(VnetError::Ufo),
            _ => return Err(unknown),
        };
        let size = self.gso_size;
        if matches!(size, 0 | u16::MAX) {
            return Err(VnetError::GsoSize { size });
        }
        let inet = Inet::parse(head).ok_or(VnetError::Headers)?;
        let wanted = match kind {
            GsoKind::Tcp => proto::TCP,
            GsoKind::Udp => proto::UDP,
        };
        if inet.fragment.is_piece() {
            return Err(VnetError::Fragment);
        }
        if inet.proto != wanted || version.is_some_and(|version| version != inet.version) {
            return Err(VnetError::Protocol { gso_type, proto: inet.proto });
        }
        let claimed = inet.l3 + inet.l3_len;
        if claimed != frame_len {
            return Err(VnetError::Length { claimed, actual: frame_len });
        }
        let header_len = segment::header_len(head, &inet, kind).ok_or(VnetError::Headers)?;
        let payload = frame_len.checked_sub(header_len).ok_or(VnetError::Headers)?;
        if payload <= usize::from(size) {
            return Ok(None);
        }
        let segments = payload.div_ceil(usize::from(size));
        let too_many = match kind {
            GsoKind::Tcp => size < TCP_SIZE_MIN,
            GsoKind::Udp => segments > UDP_SEGMENTS_MAX,
        };
        if too_many {
            return Err(VnetError::TooManySegments { size, payload });
        }
        let (segments, header_len) = (segments as u16, header_len as u16);
        Ok(Some((Gso { kind, size, segments, header_len }, inet)))
    }

    /// The header to write a frame to a TAP with: all zeros for a plain frame.
    #[must_use]
    pub fn of(frame: &Frame<'_>) -> Self {
        let mut header = Self::default();
        if let Checksum::Partial { start, offset } = frame.offload.checksum {
            header.flags = NEEDS_CSUM;
            header.csum_start = start;
            header.csum_offset = offset;
            header.hdr_len = start.saturating_add(offset).saturating_add(2);
        }
        let Some(gso) = frame.offload.gso.filter(|gso| gso.segments > 1) else { return header };
        let Some(inet) = Inet::parse(frame.head) else { return header };
        header.gso_type = match (gso.kind, inet.version) {
            (GsoKind::Tcp, IpVersion::V4) => GSO_TCP4,
            (GsoKind::Tcp, IpVersion::V6) => GSO_TCP6,
            (GsoKind::Udp, _) => GSO_UDP,
        };
        if gso.kind == GsoKind::Tcp && segment::carries_cwr(frame.head, &inet) {
            header.gso_type |= GSO_ECN;
        }
        header.gso_size = gso.size;
        header.hdr_len = gso.header_len;
        header
    }
}
