//! The owned, editable copy of a frame's head.

use crate::vlan::{TAG_LEN, Tag};
use crate::{Checksum, Frame, Gso, HEAD_MAX, MacAddr, Offload};

/// Free bytes in front of a copied head: room for four tags.
pub const HEADROOM: usize = 16;

const CAPACITY: usize = HEADROOM + HEAD_MAX;
const MACS_LEN: usize = 12;
/// How far a tag moves what stands behind it.
const SHIFT: i16 = TAG_LEN as i16;

/// A mutable copy of a frame's head. An output edits its own copy; the body stays shared.
#[derive(Clone, Copy)]
pub struct Head {
    bytes: [u8; CAPACITY],
    start: usize,
    end: usize,
}

impl Default for Head {
    fn default() -> Self {
        Self::new()
    }
}

/// There is no room in front of the head for another tag, or the head is shorter than two MAC
/// addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room for a VLAN tag in a head of {len} bytes")]
pub struct NoRoom {
    /// Bytes of the head.
    pub len: usize,
}

impl Head {
    /// Copies a frame's head. What a [`Frame`] calls its head always fits: [`HEAD_MAX`] bytes,
    /// and [`HEADROOM`] more that earlier edits may have added. Of a longer slice only that many
    /// bytes are taken.
    #[must_use]
    pub fn copy_of(head: &[u8]) -> Self {
        let mut copy = Self::new();
        copy.copy_from(head);
        copy
    }

    /// A head without a byte.
    #[must_use]
    #[inline]
    pub const fn new() -> Self {
        Self { bytes: [0; CAPACITY], start: HEADROOM, end: HEADROOM }
    }

    /// Becomes a copy of a frame's head, as [`Self::copy_of`], where it lies: a copy that is put together
    /// elsewhere and moved is read before the writes to it are done with, and waits for them.
    #[inline]
    pub fn copy_from(&mut self, head: &[u8]) {
        debug_assert!(head.len() <= CAPACITY, "a head of {} bytes", head.len());
        let len = head.len().min(CAPACITY);
        self.start = HEADROOM.min(CAPACITY - len);
        self.end = self.start + len;
        if let (Some(to), Some(from)) = (self.bytes.get_mut(self.start..self.end), head.get(..len))
        {
            to.copy_from_slice(from);
        }
    }

    /// The head's bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// The head's bytes, to edit in place.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..self.end).unwrap_or_default()
    }

    /// Bytes of the head.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether the head has no byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Puts a tag behind the MAC addresses, in front of any tag that is there. The frame's
    /// offload must be [shifted](Offload::shifted) by +4.
    ///
    /// # Errors
    /// When the headroom is used up, or the head is shorter than two MAC addresses.
    pub fn push_tag(&mut self, tag: Tag) -> Result<(), NoRoom> {
        let len = self.len();
        let start = self.start.checked_sub(TAG_LEN).ok_or(NoRoom { len })?;
        if len < MACS_LEN {
            return Err(NoRoom { len });
        }
        self.bytes.copy_within(self.start..self.start + MACS_LEN, start);
        self.start = start;
        if let Some(field) = self.as_mut_slice().get_mut(MACS_LEN..MACS_LEN + TAG_LEN) {
            field.copy_from_slice(&tag.to_wire());
        }
        Ok(())
    }

    /// Takes the outermost tag away and returns it; `None`, and nothing changes, when the head
    /// carries none or ends within it. The frame's offload must be [shifted](Offload::shifted)
    /// by −4.
    pub fn pop_tag(&mut self) -> Option<Tag> {
        let tag = *self.as_slice().get(MACS_LEN..)?.first_chunk::<TAG_LEN>()?;
        let tag = Tag::from_wire(tag)?;
        self.bytes.copy_within(self.start..self.start + MACS_LEN, self.start + TAG_LEN);
        self.start += TAG_LEN;
        Some(tag)
    }

    /// As [`Self::push_tag`], and says what of `offload` is left to do with the tagged frame.
    ///
    /// # Errors
    /// As [`Self::push_tag`].
    pub fn tag(&mut self, tag: Tag, offload: Offload) -> Result<Offload, NoRoom> {
        self.push_tag(tag)?;
        Ok(offload.shifted(SHIFT))
    }

    /// As [`Self::pop_tag`], and says what of `offload` is left to do with the frame.
    #[must_use]
    pub fn untag(&mut self, offload: Offload) -> Offload {
        if self.pop_tag().is_some() { offload.shifted(-SHIFT) } else { offload }
    }

    /// Overwrites the destination MAC address; a head too short for one stays as it is.
    pub fn set_dst(&mut self, mac: MacAddr) {
        if let Some(field) = self.as_mut_slice().first_chunk_mut::<6>() {
            *field = mac.0;
        }
    }

    /// Overwrites the source MAC address; a head too short for one stays as it is.
    pub fn set_src(&mut self, mac: MacAddr) {
        if let Some((_, rest)) = self.as_mut_slice().split_first_chunk_mut::<6>()
            && let Some(field) = rest.first_chunk_mut::<6>()
        {
            *field = mac.0;
        }
    }

    /// The frame that this head makes of another frame's body.
    #[must_use]
    pub fn frame<'a>(&'a self, of: &Frame<'a>, offload: Offload) -> Frame<'a> {
        Frame { head: self.as_slice(), body: of.body, offload }
    }
}

impl core::fmt::Debug for Head {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Head").field(&self.as_slice()).finish()
    }
}

impl Offload {
    /// The same work after `delta` bytes were put in front of layer 3 (or taken away, when
    /// negative): every offset from the frame's start moves along.
    #[must_use]
    pub fn shifted(self, delta: i16) -> Self {
        let checksum = match self.checksum {
            Checksum::Partial { start, offset } => {
                Checksum::Partial { start: start.saturating_add_signed(delta), offset }
            }
            other => other,
        };
        let gso = self
            .gso
            .map(|gso| Gso { header_len: gso.header_len.saturating_add_signed(delta), ..gso });
        Self { checksum, gso }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ethernet::Ethernet;
    use crate::{GsoKind, VlanId};

    fn tag(vid: u16) -> Tag {
        Tag::new(VlanId::new(vid).unwrap())
    }

    #[test]
    fn tags_stack_and_come_off_in_reverse() {
        let original: Vec<u8> = (0..14).chain([0x45, 0, 9]).collect();
        let mut head = Head::copy_of(&original);
        for vid in 1..=4 {
            head.push_tag(tag(vid)).unwrap();
            assert_eq!(Ethernet::parse(head.as_slice()).unwrap().tag, Some(tag(vid)));
        }
        assert_eq!(head.push_tag(tag(5)), Err(NoRoom { len: original.len() + 16 }));
        for vid in (1..=4).rev() {
            assert_eq!(head.pop_tag(), Some(tag(vid)));
        }
        assert_eq!(head.pop_tag(), None);
        assert_eq!(head.as_slice(), original);
    }

    #[test]
    fn a_full_head_takes_a_tag_and_can_be_copied_again() {
        let original: Vec<u8> = (0..=255).collect();
        let mut head = Head::copy_of(&original);
        head.push_tag(tag(7)).unwrap();
        let mut again = Head::copy_of(head.as_slice());
        assert_eq!(again.as_slice(), head.as_slice());
        again.push_tag(tag(8)).unwrap();
        again.pop_tag().unwrap();
        again.pop_tag().unwrap();
        assert_eq!(again.as_slice(), original);
    }

    #[test]
    fn addresses_are_set_in_place() {
        let mut head = Head::copy_of(&[0; 20]);
        head.set_dst(MacAddr([1; 6]));
        head.set_src(MacAddr([2; 6]));
        assert_eq!(head.as_slice()[..13], [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0]);
        let mut short = Head::copy_of(&[9; 7]);
        short.set_src(MacAddr([2; 6]));
        assert_eq!(short.as_slice(), [9; 7]);
        assert!(short.push_tag(tag(1)).is_err());
    }

    #[test]
    fn offload_moves_with_the_tag() {
        let gso = Gso { kind: GsoKind::Tcp, size: 1398, segments: 3, header_len: 66 };
        let offload =
            Offload { checksum: Checksum::Partial { start: 34, offset: 16 }, gso: Some(gso) };
        let tagged = offload.shifted(4);
        assert_eq!(tagged.checksum, Checksum::Partial { start: 38, offset: 16 });
        assert_eq!(tagged.gso.unwrap().header_len, 70);
        assert_eq!(tagged.shifted(-4), offload);
        let mut head = Head::copy_of(&[0; 20]);
        assert_eq!(head.untag(offload), offload, "there is no tag");
        assert_eq!(head.tag(tag(7), offload), Ok(tagged));
        assert_eq!((head.len(), head.untag(tagged)), (24, offload));
        assert_eq!(head.as_slice(), [0; 20]);
        assert_eq!(Offload::default().shifted(4), Offload::default());
    }
}
