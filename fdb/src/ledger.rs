//! What one segment's lock guards: who owns how many entries, and which of them is the oldest.
//!
//! Every entry has a node; an owner's learned entries form a list from the least to the most
//! recently refreshed one, its static and control-plane entries another. All links are indices,
//! so a step is a few writes and needs no allocation.

use std::collections::BTreeMap;

use crate::damping::Moves;
use crate::limits::{SegmentLimits, heaviest};
use crate::word::Key;
use crate::{Counts, Dest, Origin};

const NIL: u32 = u32::MAX;

/// An entry's links, and the history of its moves.
#[derive(Clone, Copy, Debug)]
struct Node {
    key: Key,
    prev: u32,
    next: u32,
    owner: u32,
    moves: Moves,
}

const _: () = assert!(size_of::<Node>() == 24, "the bound of 128 bytes an entry rests on it");

#[derive(Clone, Copy, Debug)]
struct List {
    head: u32,
    tail: u32,
    len: u32,
}

impl List {
    const EMPTY: Self = Self { head: NIL, tail: NIL, len: 0 };
}

/// A port or VTEP with its entries in this segment.
#[derive(Clone, Copy, Debug)]
struct Owner {
    dest: Dest,
    learned: List,
    pinned: List,
}

impl Owner {
    const fn list(&mut self, origin: Origin) -> &mut List {
        match origin {
            Origin::Learned => &mut self.learned,
            Origin::Static | Origin::Control => &mut self.pinned,
        }
    }
}

/// Who appeared in or vanished from a segment's owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nobody.
    None,
    /// This owner.
    Owner(Dest),
}

/// One segment's books.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// `None` until the segment is configured.
    pub(crate) limits: Option<SegmentLimits>,
    counts: Counts,
    nodes: Vec<Node>,
    free_node: u32,
    owners: Vec<Owner>,
    free_owners: Vec<u32>,
    by_dest: BTreeMap<Dest, u32>,
    /// The owner that was asked for last: frames come in runs.
    last: u32,
    /// No owner has more learned entries than this.
    bound: u32,
    /// An owner that had as many when it was last looked at.
    top: u32,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            limits: None,
            counts: Counts::default(),
            nodes: Vec::new(),
            free_node: NIL,
            owners: Vec::new(),
            free_owners: Vec::new(),
            by_dest: BTreeMap::new(),
            last: NIL,
            bound: 0,
            top: NIL,
        }
    }
}

impl Ledger {
    pub(crate) const fn counts(&self) -> Counts {
        self.counts
    }

    /// Learned entries of an owner.
    pub(crate) fn learned_of(&mut self, dest: Dest) -> u32 {
        self.len_of(dest, Origin::Learned)
    }

    /// An owner's entries: learned ones, or those that are not.
    pub(crate) fn len_of(&mut self, dest: Dest, origin: Origin) -> u32 {
        self.owner(dest).map_or(0, |owner| self.owners[owner as usize].list(origin).len)
    }

    /// All owners that have entries, with their learned ones, ordered.
    pub(crate) fn owners(&self) -> impl Iterator<Item = (Dest, u32)> {
        self.by_dest.iter().map(|(dest, &owner)| (*dest, self.owners[owner as usize].learned.len))
    }

    /// The owner's least recently refreshed entry.
    pub(crate) fn oldest(&mut self, dest: Dest) -> Option<Key> {
        self.first(dest, Origin::Learned)
    }

    /// The first of an owner's entries: learned ones, or those that are not.
    pub(crate) fn first(&mut self, dest: Dest, origin: Origin) -> Option<Key> {
        let owner = self.owner(dest)?;
        let head = self.owners[owner as usize].list(origin).head;
        (head != NIL).then(|| self.nodes[head as usize].key)
    }

    /// The owner slots there are, for a walk that spans several locks.
    pub(crate) fn owner_slots(&self) -> u32 {
        self.owners.len() as u32
    }

    /// The oldest learned entry of the owner in this slot.
    pub(crate) fn oldest_in(&self, slot: u32) -> Option<Key> {
        let head = self.owners.get(slot as usize)?.learned.head;
        (head != NIL).then(|| self.nodes[head as usize].key)
    }

    /// The owner with the most learned entries; of equals rather the one that learns.
    pub(crate) fn heaviest(&mut self, learner: Dest) -> Option<Dest> {
        let learner = self.owner(learner);
        let len = |slot: u32| self.owners.get(slot as usize).map_or(0, |o| o.learned.len);
        let at_bound = |slot: &u32| self.bound > 0 && len(*slot) == self.bound;
        let slot = learner.filter(at_bound).or(Some(self.top).filter(at_bound));
        let slot = match slot {
            Some(slot) => slot,
            None => {
                let counts = (0..).zip(&self.owners).map(|(slot, o)| (slot, o.learned.len));
                let (slot, count) = heaviest(counts, learner)?;
                (self.bound, self.top) = (count, slot);
                slot
            }
        };
        Some(self.owners[slot as usize].dest)
    }

    /// Adds an entry as its owner's most recent one. Returns its node, and the owner if it is new.
    pub(crate) fn add(&mut self, key: Key, dest: Dest, origin: Origin) -> (u32, Change) {
        let node = Node { key, prev: NIL, next: NIL, owner: NIL, moves: Moves::default() };
        let id = if self.free_node == NIL {
            self.nodes.push(node);
            self.nodes.len() as u32 - 1
        } else {
            let id = self.free_node;
            self.free_node = self.nodes[id as usize].next;
            self.nodes[id as usize] = node;
            id
        };
        *self.count(origin) += 1;
        (id, self.append(id, dest, origin))
    }

    /// Forgets an entry. Returns its owner if this was its last one.
    pub(crate) fn drop_entry(&mut self, id: u32, origin: Origin) -> Change {
        let gone = self.unlink(id, origin);
        *self.count(origin) -= 1;
        self.nodes[id as usize].next = self.free_node;
        self.free_node = id;
        if self.by_dest.is_empty() {
            // Nothing points to a node: give the memory back.
            self.nodes = Vec::new();
            self.free_node = NIL;
        }
        gone
    }

    /// Marks an entry as its owner's most recent one.
    pub(crate) fn touch(&mut self, id: u32) {
        let owner = self.nodes[id as usize].owner;
        if self.owners[owner as usize].learned.tail != id {
            self.take(id, Origin::Learned);
            self.append_to(id, owner, Origin::Learned);
        }
    }

    /// Hands a learned entry to another owner: who is new and who has nothing left.
    pub(crate) fn hand_over(&mut self, id: u32, to: Dest) -> (Change, Change) {
        let gone = self.unlink(id, Origin::Learned);
        (self.append(id, to, Origin::Learned), gone)
    }

    pub(crate) fn moves(&self, id: u32) -> Moves {
        self.nodes[id as usize].moves
    }

    pub(crate) fn set_moves(&mut self, id: u32, moves: Moves) {
        self.nodes[id as usize].moves = moves;
    }

    /// Bytes allocated.
    pub(crate) fn bytes(&self) -> usize {
        // A node of the map holds eleven entries at most and five at least.
        let map = self.by_dest.len() * (size_of::<(Dest, u32)>() * 2 + 16);
        self.nodes.capacity() * size_of::<Node>()
            + self.owners.capacity() * size_of::<Owner>()
            + self.free_owners.capacity() * size_of::<u32>()
            + map
    }

    fn count(&mut self, origin: Origin) -> &mut u32 {
        match origin {
            Origin::Learned => &mut self.counts.learned,
            Origin::Static => &mut self.counts.fixed,
            Origin::Control => &mut self.counts.control,
        }
    }

    /// The slot of an owner that has entries.
    fn owner(&mut self, dest: Dest) -> Option<u32> {
        let last = self.owners.get(self.last as usize);
        if last.is_some_and(|o| o.dest == dest && o.learned.len + o.pinned.len > 0) {
            return Some(self.last);
        }
        let owner = *self.by_dest.get(&dest)?;
        self.last = owner;
        Some(owner)
    }

    fn append(&mut self, id: u32, dest: Dest, origin: Origin) -> Change {
        let (slot, change) = match self.owner(dest) {
            Some(slot) => (slot, Change::None),
            None => {
                let owner = Owner { dest, learned: List::EMPTY, pinned: List::EMPTY };
                let slot = if let Some(slot) = self.free_owners.pop() {
                    self.owners[slot as usize] = owner;
                    slot
                } else {
                    self.owners.push(owner);
                    self.owners.len() as u32 - 1
                };
                self.by_dest.insert(dest, slot);
                (slot, Change::Owner(dest))
            }
        };
        self.append_to(id, slot, origin);
        change
    }

    fn append_to(&mut self, id: u32, slot: u32, origin: Origin) {
        let list = self.owners[slot as usize].list(origin);
        let tail = list.tail;
        list.tail = id;
        list.len += 1;
        let len = list.len;
        if tail == NIL {
            list.head = id;
        } else {
            self.nodes[tail as usize].next = id;
        }
        let node = &mut self.nodes[id as usize];
        (node.prev, node.next, node.owner) = (tail, NIL, slot);
        if origin == Origin::Learned && len > self.bound {
            (self.bound, self.top) = (len, slot);
        }
    }

    /// Takes a node out of its list. Returns its owner's slot.
    fn take(&mut self, id: u32, origin: Origin) -> u32 {
        let Node { prev, next, owner, .. } = self.nodes[id as usize];
        if prev != NIL {
            self.nodes[prev as usize].next = next;
        }
        if next != NIL {
            self.nodes[next as usize].prev = prev;
        }
        let list = self.owners[owner as usize].list(origin);
        if prev == NIL {
            list.head = next;
        }
        if next == NIL {
            list.tail = prev;
        }
        list.len -= 1;
        owner
    }

    fn unlink(&mut self, id: u32, origin: Origin) -> Change {
        let slot = self.take(id, origin);
        let Owner { dest, learned, pinned } = self.owners[slot as usize];
        if learned.len + pinned.len > 0 {
            return Change::None;
        }
        self.by_dest.remove(&dest);
        self.free_owners.push(slot);
        Change::Owner(dest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PortId, SegmentId, VtepId};
    use encap::MacAddr;

    fn key(n: u64) -> Key {
        Key::of_destination(SegmentId(3), MacAddr::from_bits(0x0200_0000_0000 | n)).unwrap()
    }

    fn port(slot: u16) -> Dest {
        Dest::Port(PortId { slot, generation: 0 })
    }

    fn vtep(slot: u16) -> Dest {
        Dest::Vtep(VtepId { slot, generation: 0 })
    }

    #[test]
    fn the_oldest_is_the_least_recently_touched() {
        let mut ledger = Ledger::default();
        let ids: Vec<u32> =
            (1..=4).map(|n| ledger.add(key(n), port(1), Origin::Learned).0).collect();
        assert_eq!(ledger.oldest(port(1)), Some(key(1)));
        ledger.touch(ids[0]);
        ledger.touch(ids[2]);
        assert_eq!(ledger.oldest(port(1)), Some(key(2)));
        ledger.drop_entry(ids[1], Origin::Learned);
        assert_eq!(ledger.oldest(port(1)), Some(key(4)));
        ledger.touch(ids[3]);
        assert_eq!(ledger.oldest(port(1)), Some(key(1)));
        assert_eq!(ledger.learned_of(port(1)), 3);
        assert_eq!(ledger.oldest(port(2)), None);
    }

    #[test]
    fn owners_come_and_go_with_their_entries() {
        let mut ledger = Ledger::default();
        let (a, change) = ledger.add(key(1), port(1), Origin::Learned);
        assert_eq!(change, Change::Owner(port(1)));
        let (b, change) = ledger.add(key(2), port(1), Origin::Static);
        assert_eq!(change, Change::None);
        assert_eq!(ledger.hand_over(a, vtep(1)), (Change::Owner(vtep(1)), Change::None));
        assert_eq!(ledger.drop_entry(b, Origin::Static), Change::Owner(port(1)));
        assert_eq!(ledger.owners().collect::<Vec<_>>(), [(vtep(1), 1)]);
        assert_eq!(ledger.drop_entry(a, Origin::Learned), Change::Owner(vtep(1)));
        assert_eq!(ledger.counts(), Counts::default());
        assert_eq!((ledger.owners().count(), ledger.nodes.capacity()), (0, 0));
    }

    #[test]
    fn the_heaviest_is_right_after_any_history() {
        let mut ledger = Ledger::default();
        let mut ids: Vec<(u32, Dest)> = Vec::new();
        let mut random = 1_u64;
        for step in 0..2000_u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(step | 1);
            let dest = if random >> 63 == 0 { port((random >> 40) as u16 % 4) } else { vtep(1) };
            if (random >> 50) % 5 < 3 || ids.is_empty() {
                ids.push((ledger.add(key(step + 1), dest, Origin::Learned).0, dest));
            } else {
                let at = (random >> 33) as usize % ids.len();
                ledger.drop_entry(ids.swap_remove(at).0, Origin::Learned);
            }
            let count = |dest| ids.iter().filter(|(_, d)| *d == dest).count();
            let most = ids.iter().map(|(_, d)| count(*d)).max();
            let found = ledger.heaviest(dest);
            assert_eq!(found.map(count), most, "step {step}");
            if Some(count(dest)) == most {
                assert_eq!(found, Some(dest), "the learner of equals, step {step}");
            }
        }
    }
}
