//! Frames whose checksum is not finished.
//!
//! A Linux VXLAN device leaves the inner checksum to the card. Across veth there is no card: such
//! a frame arrives with only the pseudo-header sum in its checksum field, and a TCP or UDP
//! superframe arrives as one datagram that is far longer than any MTU.

use crate::checksum::{Sum, same};
use crate::inet::{Inet, proto};
use crate::segment::{self, TCP_CHECKSUM, UDP_CHECKSUM, get_u16};
use crate::{Checksum, Gso, GsoKind, Offload, vnet, vxlan};

/// The offload of a frame whose TCP or UDP checksum is just the pseudo-header sum; `None` for
/// every other frame. A finished checksum looks like that once in 65536 frames, and is then
/// computed again from the same bytes.
///
/// A frame longer than `overlay_mtu` (bytes from the IP header on) is a superframe. TCP is a
/// stream: any segment size that fits will do. The size of UDP datagrams is their sender's
/// meaning: `udp_size` gives it when it is known (see [`Train`]), and then a frame with more
/// payload than that is a superframe however short it is. When it is not, the frame stays
/// one frame longer than the MTU, which no output takes: better lost and counted than delivered
/// as one datagram that nobody sent.
#[must_use]
pub fn adopt_partial(frame: &[u8], overlay_mtu: u16, udp_size: Option<u16>) -> Option<Offload> {
    let inet = Inet::parse(frame)?;
    let (kind, offset) = match inet.proto {
        proto::TCP => (GsoKind::Tcp, TCP_CHECKSUM),
        proto::UDP => (GsoKind::Udp, UDP_CHECKSUM),
        _ => return None,
    };
    if inet.fragment.is_piece() || !inet.fits(frame.len()) {
        return None;
    }
    let header_len = segment::header_len(frame, &inet, kind)?;
    let field = get_u16(frame, inet.l4 + usize::from(offset));
    let pseudo = Sum::pseudo(frame, &inet, inet.l4_len()).folded();
    if (kind == GsoKind::Udp && field == 0) || !same(field, pseudo) {
        return None;
    }
    let mut gso = None;
    let payload = frame.len().saturating_sub(header_len);
    // Small datagrams make a superframe that would fit the MTU as one: only their size tells.
    let several = kind == GsoKind::Udp && udp_size.is_some_and(|size| payload > usize::from(size));
    if (several || inet.l3_len > usize::from(overlay_mtu)) && inet.fits_exactly(frame.len()) {
        let room = usize::from(overlay_mtu).saturating_sub(header_len - inet.l3);
        let (size, segments_max) = match kind {
            GsoKind::Tcp => (room, usize::from(u16::MAX / vnet::TCP_SIZE_MIN)),
            GsoKind::Udp => (usize::from(udp_size.unwrap_or(0)), vnet::UDP_SEGMENTS_MAX),
        };
        let segments = payload.checked_div(size).map(|_| payload.div_ceil(size));
        gso =
            segments.filter(|&segments| size <= room && segments <= segments_max).map(|segments| {
                Gso {
                    kind,
                    size: size as u16,
                    segments: segments as u16,
                    header_len: header_len as u16,
                }
            });
    }
    Some(Offload { checksum: Checksum::Partial { start: inet.l4 as u16, offset }, gso })
}

/// What one receive from a socket with `UDP_GRO` returned: the datagrams of a train, or one
/// datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Train<'a> {
    rest: &'a [u8],
    size: usize,
    inner_udp_size: Option<u16>,
}

impl<'a> Train<'a> {
    /// `size` is the datagram size the kernel gave with the bytes, if it gave one.
    ///
    /// Across veth, a kernel VXLAN peer's UDP superframe arrives as one datagram, and the size
    /// given with it is that of its *inner* datagrams. The inner IP header tells the two apart: it
    /// claims all bytes, where the first frame of a train claims its own only.
    #[must_use]
    pub fn new(bytes: &'a [u8], size: Option<u16>) -> Self {
        let whole = Self { rest: bytes, size: bytes.len().max(1), inner_udp_size: None };
        let Some(size) = size.filter(|&size| size > 0 && usize::from(size) < bytes.len()) else {
            return whole;
        };
        let inner = bytes.get(vxlan::HEADER_LEN..).unwrap_or_default();
        match Inet::parse(inner) {
            Some(inet) if inet.proto == proto::UDP && inet.fits_exactly(inner.len()) => {
                Self { inner_udp_size: Some(size), ..whole }
            }
            _ => Self { size: usize::from(size), ..whole },
        }
    }

    /// The size of the inner datagrams when this is one UDP superframe: to be
    /// [adopted](adopt_partial) with it.
    #[must_use]
    pub const fn inner_udp_size(&self) -> Option<u16> {
        self.inner_udp_size
    }
}

impl<'a> Iterator for Train<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let (datagram, rest) = self.rest.split_at_checked(self.size).unwrap_or((self.rest, &[]));
        self.rest = rest;
        Some(datagram)
    }
}
