//! In which segments a port or VTEP has entries, so that flushing one costs what it owns.
//!
//! A control-side index: it changes when an owner's first entry in a segment comes or its last one
//! goes, under that segment's lock. Nothing else is locked while a reference into it is held.

use std::collections::BTreeSet;

use dashmap::DashMap;

use crate::ledger::Change;
use crate::{Dest, PortId, SegmentId, VtepId};

/// A port's or VTEP's slot, whatever its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Slot {
    Port(u16),
    Vtep(u16),
}

const fn split(dest: Dest) -> (Slot, u16) {
    match dest {
        Dest::Port(PortId { slot, generation }) => (Slot::Port(slot), generation),
        Dest::Vtep(VtepId { slot, generation }) => (Slot::Vtep(slot), generation),
    }
}

const fn join(slot: Slot, generation: u16) -> Dest {
    match slot {
        Slot::Port(slot) => Dest::Port(PortId { slot, generation }),
        Slot::Vtep(slot) => Dest::Vtep(VtepId { slot, generation }),
    }
}

/// Whether two generations of one slot are the same, or `other` is the earlier one (modulo 2^16).
const fn same_or_earlier(other: u16, generation: u16) -> bool {
    generation.wrapping_sub(other) < 0x8000
}

/// Whether an entry of `owner` falls to a flush of `dest`: the same, or an earlier generation of
/// the same slot, which nobody else will ever flush.
pub(crate) fn covers(dest: Dest, owner: Dest) -> bool {
    let ((slot, generation), (other, earlier)) = (split(dest), split(owner));
    slot == other && same_or_earlier(earlier, generation)
}

/// Owner to segments.
#[derive(Debug)]
pub(crate) struct Owners {
    map: DashMap<Slot, BTreeSet<(u16, SegmentId)>, foldhash::fast::RandomState>,
}

impl Default for Owners {
    fn default() -> Self {
        Self {
            map: DashMap::with_hasher_and_shard_amount(foldhash::fast::RandomState::default(), 8),
        }
    }
}

impl Owners {
    /// Under the segment's lock.
    pub(crate) fn appeared(&self, segment: SegmentId, change: Change) {
        if let Change::Owner(dest) = change {
            let (slot, generation) = split(dest);
            self.map.entry(slot).or_default().insert((generation, segment));
        }
    }

    /// Under the segment's lock.
    pub(crate) fn vanished(&self, segment: SegmentId, change: Change) {
        let Change::Owner(dest) = change else { return };
        let (slot, generation) = split(dest);
        if let Some(mut places) = self.map.get_mut(&slot) {
            places.remove(&(generation, segment));
        }
        self.map.remove_if(&slot, |_, places| places.is_empty());
    }

    /// Where a flush of `dest` finds entries.
    pub(crate) fn places(&self, dest: Dest) -> Vec<(Dest, SegmentId)> {
        let (slot, generation) = split(dest);
        let Some(places) = self.map.get(&slot) else { return Vec::new() };
        let covered = places.iter().filter(|(other, _)| same_or_earlier(*other, generation));
        covered.map(|&(other, segment)| (join(slot, other), segment)).collect()
    }

    /// Bytes allocated, about.
    pub(crate) fn bytes(&self) -> usize {
        let slot = size_of::<(Slot, BTreeSet<(u16, SegmentId)>)>() + 1;
        let places: usize = self.map.iter().map(|places| places.len()).sum();
        self.map.capacity() * slot + places * 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_covers_earlier_generations_of_its_slot() {
        let port = |slot, generation| Dest::Port(PortId { slot, generation });
        let vtep = |slot, generation| Dest::Vtep(VtepId { slot, generation });
        for (name, dest, owner, expect) in [
            ("itself", port(1, 5), port(1, 5), true),
            ("an earlier one", port(1, 5), port(1, 4), true),
            ("before the wrap", port(1, 1), port(1, 0xffff), true),
            ("a later one", port(1, 5), port(1, 6), false),
            ("another slot", port(1, 5), port(2, 5), false),
            ("another kind", port(1, 5), vtep(1, 5), false),
        ] {
            assert_eq!(covers(dest, owner), expect, "{name}");
            let owners = Owners::default();
            owners.appeared(SegmentId(7), Change::Owner(owner));
            let expect = if expect { vec![(owner, SegmentId(7))] } else { vec![] };
            assert_eq!(owners.places(dest), expect, "{name}");
            owners.vanished(SegmentId(7), Change::Owner(owner));
            assert!(owners.places(owner).is_empty());
            assert!(owners.map.is_empty());
        }
    }
}
