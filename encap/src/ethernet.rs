//! The Ethernet header with its tags.

use crate::vlan::{TAG_LEN, Tag};
use crate::{EtherType, MacAddr, StationBits};

/// Bytes of an untagged Ethernet header, also the shortest frame that can be forwarded.
pub const HEADER_LEN: usize = 14;

/// Bytes of the two addresses.
const MACS_LEN: usize = 12;

/// Tags that are looked behind for layer 3; a third one makes the frame's payload opaque.
const TAGS_MAX: usize = 2;

/// What the first bytes of a frame say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    /// Destination.
    pub dst: MacAddr,
    /// Source.
    pub src: MacAddr,
    /// The outermost tag, if there is one.
    pub tag: Option<Tag>,
    /// EtherType behind the outermost tag; another tag's TPID when there are two.
    pub ethertype: EtherType,
    /// EtherType of what begins at `l3`: behind at most two tags.
    pub l3_type: EtherType,
    /// Offset of the first byte behind the tags.
    pub l3: usize,
}

/// The bytes are no Ethernet frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EthernetError {
    /// Shorter than an Ethernet header.
    #[error("frame of {len} bytes is shorter than an Ethernet header (14)")]
    Runt {
        /// Bytes there are.
        len: usize,
    },
    /// The EtherType announces a tag that the frame is too short for.
    #[error("frame of {len} bytes ends within a VLAN tag")]
    TruncatedTag {
        /// Bytes there are.
        len: usize,
    },
}

impl Ethernet {
    /// Reads the header of a frame. `head` is the frame or its first bytes.
    ///
    /// # Errors
    /// When the bytes end within the header or within one of the first two tags.
    #[inline]
    pub fn parse(head: &[u8]) -> Result<Self, EthernetError> {
        // Address by address: byte by byte, the source is put together in memory from writes of other
        // widths than it is read in, which stalls for a fifth of what a frame costs.
        let runt = EthernetError::Runt { len: head.len() };
        let (&dst, rest) = head.split_first_chunk().ok_or(runt)?;
        let (&src, rest) = rest.split_first_chunk().ok_or(runt)?;
        let ethertype = EtherType(u16::from_be_bytes(*rest.first_chunk().ok_or(runt)?));
        let header = Self {
            dst: MacAddr(dst),
            src: MacAddr(src),
            tag: None,
            ethertype,
            l3_type: ethertype,
            l3: HEADER_LEN,
        };
        // Apart, so that the rest is small enough to be inlined where frames come by.
        if ethertype.is_tag() { header.behind_tags(head) } else { Ok(header) }
    }

    fn behind_tags(mut self, head: &[u8]) -> Result<Self, EthernetError> {
        let truncated = EthernetError::TruncatedTag { len: head.len() };
        let mut rest = head.get(MACS_LEN..).ok_or(truncated)?;
        for depth in 0..TAGS_MAX {
            if !self.l3_type.is_tag() {
                break;
            }
            let (&tag, behind) = rest.split_first_chunk::<TAG_LEN>().ok_or(truncated)?;
            let &[hi, lo] = behind.first_chunk::<2>().ok_or(truncated)?;
            rest = behind;
            self.l3_type = EtherType(u16::from_be_bytes([hi, lo]));
            self.l3 += TAG_LEN;
            if depth == 0 {
                self.tag = Tag::from_wire(tag);
                self.ethertype = self.l3_type;
            }
        }
        Ok(self)
    }
}

/// What nearly every frame begins with: no tag, and the addresses of two stations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain {
    /// Destination.
    pub dst: StationBits,
    /// Source.
    pub src: StationBits,
    /// What follows the header.
    pub ethertype: EtherType,
}

impl Plain {
    /// Reads the header of a frame that begins so; `None` for all others, among them what is no frame.
    #[inline(always)]
    #[must_use]
    pub fn parse(head: &[u8]) -> Option<Self> {
        let head = head.first_chunk::<HEADER_LEN>()?;
        // Two loads of eight bytes, which overlap.
        let first = u64::from_le_bytes(*head.first_chunk()?);
        let second = u64::from_le_bytes(*head.last_chunk()?);
        let ethertype = EtherType(((second >> 48) as u16).swap_bytes());
        let (dst, src) = (StationBits::new(first)?, StationBits::new(second)?);
        (!ethertype.is_tag()).then_some(Self { dst, src, ethertype })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACS: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

    fn frame(rest: &[u8]) -> Vec<u8> {
        [&MACS[..], rest].concat()
    }

    #[test]
    fn untagged() {
        let eth = Ethernet::parse(&frame(&[0x08, 0x00, 0x45])).unwrap();
        assert_eq!(eth.dst, MacAddr([2, 0, 0, 0, 0, 1]));
        assert_eq!(eth.src, MacAddr([2, 0, 0, 0, 0, 2]));
        assert_eq!((eth.tag, eth.ethertype, eth.l3), (None, EtherType::IPV4, 14));
    }

    #[test]
    fn one_tag_two_tags_three_tags() {
        let one = Ethernet::parse(&frame(&[0x81, 0, 0x60, 10, 0x08, 0x06])).unwrap();
        assert_eq!(one.tag.map(|tag| (tag.vid, tag.pcp)), Some((10, 3)));
        assert_eq!((one.ethertype, one.l3_type, one.l3), (EtherType::ARP, EtherType::ARP, 18));

        let two = Ethernet::parse(&frame(&[0x88, 0xa8, 0, 1, 0x81, 0, 0, 2, 0x86, 0xdd])).unwrap();
        assert_eq!(two.tag.map(|tag| (tag.vid, tag.tpid)), Some((1, EtherType::SERVICE_VLAN)));
        assert_eq!((two.ethertype, two.l3_type, two.l3), (EtherType::VLAN, EtherType::IPV6, 22));

        let three =
            Ethernet::parse(&frame(&[0x81, 0, 0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3, 8, 0])).unwrap();
        assert_eq!((three.l3_type, three.l3), (EtherType::VLAN, 22));
    }

    #[test]
    fn too_short() {
        for len in 0..HEADER_LEN {
            let bytes = frame(&[0x08, 0x00]);
            assert_eq!(Ethernet::parse(&bytes[..len]), Err(EthernetError::Runt { len }));
        }
        let tagged = frame(&[0x81, 0, 0, 1, 0x81, 0, 0, 2, 0x08, 0]);
        for len in [14, 15, 16, 17, 18, 19, 20, 21] {
            let error = EthernetError::TruncatedTag { len };
            assert_eq!(Ethernet::parse(&tagged[..len]), Err(error));
        }
        assert!(Ethernet::parse(&tagged).is_ok());
    }
}
