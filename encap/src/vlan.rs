//! 802.1Q tags (IEEE 802.1Q-2018 section 9).

use crate::{EtherType, VlanId};

/// Bytes of one tag: TPID and TCI.
pub const TAG_LEN: usize = 4;

/// A tag as it stands in a frame. The identifier is raw: 0 is a priority tag, 4095 is reserved,
/// neither names a VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag {
    /// [`EtherType::VLAN`] or [`EtherType::SERVICE_VLAN`].
    pub tpid: EtherType,
    /// VLAN identifier, 12 bits, 0 to 4095.
    pub vid: u16,
    /// Priority code point, 3 bits.
    pub pcp: u8,
    /// Drop eligible indicator.
    pub dei: bool,
}

impl Tag {
    /// A customer tag (TPID 0x8100) of priority 0.
    #[must_use]
    pub const fn new(vlan: VlanId) -> Self {
        Self { tpid: EtherType::VLAN, vid: vlan.get(), pcp: 0, dei: false }
    }

    /// The VLAN the tag names; `None` for a priority tag and for 4095.
    #[must_use]
    pub const fn vlan(self) -> Option<VlanId> {
        match VlanId::new(self.vid) {
            Ok(vlan) => Some(vlan),
            Err(_) => None,
        }
    }

    /// Whether the tag carries a priority only (identifier 0).
    #[must_use]
    pub const fn is_priority(self) -> bool {
        self.vid == 0
    }

    /// Reads the four bytes of a tag; `None` when the TPID is no tag's.
    #[must_use]
    pub const fn from_wire([a, b, c, d]: [u8; TAG_LEN]) -> Option<Self> {
        let tpid = EtherType(u16::from_be_bytes([a, b]));
        if !tpid.is_tag() {
            return None;
        }
        let vid = u16::from_be_bytes([c & 0x0f, d]);
        Some(Self { tpid, vid, pcp: c >> 5, dei: c & 0x10 != 0 })
    }

    /// The four bytes of the tag. Bits beyond a field's width are cut off.
    #[must_use]
    pub const fn to_wire(self) -> [u8; TAG_LEN] {
        let [a, b] = self.tpid.0.to_be_bytes();
        let [c, d] = (self.vid & 0x0fff).to_be_bytes();
        [a, b, (self.pcp << 5) | ((self.dei as u8) << 4) | c, d]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tci_survives_the_round_trip() {
        for tci in 0..=u16::MAX {
            for tpid in [[0x81, 0x00], [0x88, 0xa8]] {
                let [c, d] = tci.to_be_bytes();
                let wire = [tpid[0], tpid[1], c, d];
                let tag = Tag::from_wire(wire).unwrap();
                assert_eq!(tag.to_wire(), wire);
                assert_eq!(u32::from(tag.vid), u32::from(tci) % 4096);
            }
        }
    }

    #[test]
    fn other_tpids_are_no_tags() {
        assert_eq!(Tag::from_wire([0x08, 0x00, 0, 1]), None);
        assert_eq!(Tag::from_wire([0x91, 0x00, 0, 1]), None);
    }

    #[test]
    fn priority_and_reserved_name_no_vlan() {
        let tag = |vid| Tag { vid, ..Tag::new(VlanId::new(1).unwrap()) };
        assert!(tag(0).is_priority() && tag(0).vlan().is_none());
        assert!(tag(4095).vlan().is_none());
        assert_eq!(tag(4094).vlan().unwrap().get(), 4094);
    }
}
