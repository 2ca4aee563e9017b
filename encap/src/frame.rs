//! The frame as the engine sees it: one unit, whether 60 bytes or a superframe of 64 KiB.

use std::io::IoSlice;

/// The most bytes a frame's head holds: Ethernet, two 802.1Q tags, IPv6 with extension headers
/// and a TCP header with options fit with room to spare.
pub const HEAD_MAX: usize = 256;

/// An overlay frame: the first bytes, in which every header lies, and the payload behind them.
///
/// Nothing here is written to. An output that must change a header copies the head
/// (`Head`) and shares the body with every other output.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// From the destination MAC on, tags in-band: at most [`HEAD_MAX`] bytes as an input hands it
    /// over, and up to [`HEADROOM`](crate::HEADROOM) more once tags were pushed. A plain frame
    /// that is no longer than [`HEAD_MAX`] lies in its head altogether; a longer one, and any
    /// superframe, has at least all headers up to and including layer 4 there.
    pub head: &'a [u8],
    /// What follows the head: payload only, in order, possibly in many slices.
    pub body: &'a [IoSlice<'a>],
    /// What is still to be done before the frame can stand on a wire.
    pub offload: Offload,
}

/// Work that was left to whoever puts the frame on a wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The state of the layer 4 checksum.
    pub checksum: Checksum,
    /// Set when the frame is a superframe, to be cut before it meets a wire.
    pub gso: Option<Gso>,
}

/// The state of the layer 4 checksum of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// The field holds what its sender put there. It is neither verified nor changed.
    #[default]
    Done,
    /// The field holds the folded pseudo-header sum only; so it does in every superframe. The Internet checksum over everything
    /// from `start` on goes to `start + offset` (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    Partial {
        /// First byte that is summed, from the frame's start.
        start: u16,
        /// Where the checksum field lies, from `start`.
        offset: u16,
    },
    /// The outer UDP checksum covered the bytes and was verified: the field is as the peer sent it.
    Vouched,
}

/// What a superframe is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// A TCP stream: sequence numbers advance, any segment size will do.
    Tcp,
    /// Equal UDP datagrams (`UDP_SEGMENT`): the sizes are the sender's meaning and must be kept.
    Udp,
}

/// How a superframe is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// TCP or UDP.
    pub kind: GsoKind,
    /// Layer 4 payload bytes of each segment but the last, which may be shorter. Never zero.
    pub size: u16,
    /// How many segments there are. At least one.
    pub segments: u16,
    /// Bytes from the frame's start to the layer 4 payload: what every segment repeats.
    pub header_len: u16,
}

impl Frame<'_> {
    /// Bytes of the frame as one unit.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.head.len() + self.body.iter().map(|slice| slice.len()).sum::<usize>()
    }

    /// Whether the frame has no byte at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many frames this is on a wire.
    #[must_use]
    #[inline]
    pub fn wire_frames(&self) -> u64 {
        self.offload.gso.map_or(1, |gso| u64::from(gso.segments))
    }

    /// How many bytes this is on a wire: every segment repeats the headers.
    #[must_use]
    #[inline]
    pub fn wire_bytes(&self) -> u64 {
        let repeated = self
            .offload
            .gso
            .map_or(0, |gso| u64::from(gso.segments.saturating_sub(1)) * u64::from(gso.header_len));
        self.len() as u64 + repeated
    }

    /// Bytes of the longest frame this is on a wire.
    #[must_use]
    #[inline]
    pub fn wire_len_max(&self) -> usize {
        match self.offload.gso {
            Some(gso) if gso.segments > 1 => usize::from(gso.header_len) + usize::from(gso.size),
            _ => self.len(),
        }
    }
}

/// A frame that lies in one piece of memory, split into head and body: behind the headers of a
/// superframe, behind [`HEAD_MAX`] bytes otherwise. It owns the one slice a body needs.
#[derive(Clone, Copy, Debug)]
pub struct Contiguous<'a> {
    head: &'a [u8],
    body: [IoSlice<'a>; 1],
    offload: Offload,
}

impl<'a> Contiguous<'a> {
    /// Splits `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8], offload: Offload) -> Self {
        let at = offload.gso.map_or(HEAD_MAX, |gso| usize::from(gso.header_len).min(HEAD_MAX));
        let (head, body) = bytes.split_at_checked(at).unwrap_or((bytes, &[]));
        Self { head, body: [IoSlice::new(body)], offload }
    }

    /// The frame; its body is empty when all bytes lie in the head.
    #[must_use]
    pub fn frame(&self) -> Frame<'_> {
        let empty = self.body.iter().all(|slice| slice.is_empty());
        let body = if empty { &[] } else { &self.body[..] };
        Frame { head: self.head, body, offload: self.offload }
    }
}
