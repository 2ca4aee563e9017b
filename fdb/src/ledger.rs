//! What one segment's lock guards: who owns how many entries, and which of them is the oldest.
//!
//! Every entry has a node; an owner's learned entries form a list from the least to the most
//! recently refreshed one, its static and control-plane entries another. All links are indices,
//! so a step is a few writes and needs no allocation.

use crate::damping::Moves;
use crate::limits::SegmentLimits;
use crate::weights::Weights;
use crate::word::Key;
use crate::{Counts, Dest, Origin, PortId, VtepId};

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
    const fn is_empty(&self) -> bool {
        self.learned.len + self.pinned.len == 0
    }

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

/// Owners to their slots. Never iterated: its order is random.
#[derive(Debug, Default)]
struct Index(foldhash::HashMap<Place, u32>);

/// An owner in one number, which is hashed in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place(u64);

impl From<Dest> for Place {
    fn from(dest: Dest) -> Self {
        Self(match dest {
            Dest::Port(PortId { slot, generation }) => {
                u64::from(slot) << 16 | u64::from(generation)
            }
            Dest::Vtep(VtepId { slot, generation }) => {
                1 << 32 | u64::from(slot) << 16 | u64::from(generation)
            }
        })
    }
}

/// One segment's books.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// `None` until the segment is configured.
    pub(crate) limits: Option<SegmentLimits>,
    counts: Counts,
    /// Strangers that came in, so far.
    admitted: u64,
    nodes: Vec<Node>,
    free_node: u32,
    owners: Vec<Owner>,
    free_owners: Vec<u32>,
    by_dest: Index,
    /// The owner that was asked for last: frames come in runs.
    last: u32,
    weights: Weights,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            limits: None,
            counts: Counts::default(),
            admitted: 0,
            nodes: Vec::new(),
            free_node: NIL,
            owners: Vec::new(),
            free_owners: Vec::new(),
            by_dest: Index::default(),
            last: NIL,
            weights: Weights::default(),
        }
    }
}

impl Ledger {
    pub(crate) const fn counts(&self) -> Counts {
        self.counts
    }

    /// Strangers that came in, so far.
    pub(crate) const fn admitted(&self) -> u64 {
        self.admitted
    }

    /// Writes down that a stranger came in.
    pub(crate) const fn note_learned(&mut self) {
        self.admitted += 1;
    }

    /// Writes down that an entry made room for another.
    pub(crate) const fn note_eviction(&mut self) {
        self.counts.evicted += 1;
    }

    /// Writes down that a station moved.
    pub(crate) const fn note_move(&mut self) {
        self.counts.moves += 1;
    }

    /// Writes down that a station moved too often.
    pub(crate) const fn note_damped(&mut self) {
        self.counts.damped += 1;
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
    pub(crate) fn owners(&self) -> Vec<(Dest, u32)> {
        let present = self.owners.iter().filter(|owner| !owner.is_empty());
        let mut owners: Vec<_> = present.map(|owner| (owner.dest, owner.learned.len)).collect();
        owners.sort_unstable();
        owners
    }

    /// The least recently refreshed entry of the owner in this slot, and its node.
    pub(crate) fn oldest(&mut self, slot: u32) -> Option<(Key, u32)> {
        self.head(slot, Origin::Learned)
    }

    /// The first of an owner's entries: learned ones, or those that are not.
    pub(crate) fn first(&mut self, dest: Dest, origin: Origin) -> Option<Key> {
        let owner = self.owner(dest)?;
        self.head(owner, origin).map(|(key, _)| key)
    }

    /// The owner slots there are, for a walk that spans several locks.
    pub(crate) fn owner_slots(&self) -> u32 {
        self.owners.len() as u32
    }

    /// The slot of the owner with the most learned entries; of equals rather the one that learns.
    pub(crate) fn heaviest(&mut self, learner: Dest) -> Option<u32> {
        let learner = self.owner(learner);
        self.weights.heaviest(learner)
    }

    /// The owner in a slot.
    pub(crate) fn owner_in(&self, slot: u32) -> Option<Dest> {
        self.owners.get(slot as usize).map(|owner| owner.dest)
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

    /// Puts an entry in the place of the oldest one of the owner in this slot: as if that one were
    /// forgotten and this one added, but nobody's number of entries changes. Returns who went, and
    /// the node.
    pub(crate) fn exchange(&mut self, key: Key, slot: u32) -> Option<(Key, u32)> {
        let (gone, id) = self.head(slot, Origin::Learned)?;
        self.take(id, Origin::Learned);
        self.append_to(id, slot, Origin::Learned);
        let node = &mut self.nodes[id as usize];
        (node.key, node.moves) = (key, Moves::default());
        Some((gone, id))
    }

    /// Forgets an entry. Returns its owner if this was its last one.
    pub(crate) fn drop_entry(&mut self, id: u32, origin: Origin) -> Change {
        let gone = self.unlink(id, origin);
        *self.count(origin) -= 1;
        self.nodes[id as usize].next = self.free_node;
        self.free_node = id;
        if self.by_dest.0.is_empty() {
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
        let map = self.by_dest.0.capacity() * 8 / 7 * (size_of::<(Place, u32)>() + 1);
        self.nodes.capacity() * size_of::<Node>()
            + self.owners.capacity() * size_of::<Owner>()
            + self.free_owners.capacity() * size_of::<u32>()
            + self.weights.bytes()
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
    #[inline]
    pub(crate) fn owner(&mut self, dest: Dest) -> Option<u32> {
        let last = self.owners.get(self.last as usize);
        if last.is_some_and(|o| o.dest == dest && !o.is_empty()) {
            return Some(self.last);
        }
        let owner = *self.by_dest.0.get(&dest.into())?;
        self.last = owner;
        Some(owner)
    }

    /// The first of a list.
    fn head(&mut self, slot: u32, origin: Origin) -> Option<(Key, u32)> {
        let head = self.owners.get_mut(slot as usize)?.list(origin).head;
        self.nodes.get(head as usize).map(|node| (node.key, head))
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
                self.by_dest.0.insert(dest.into(), slot);
                (slot, Change::Owner(dest))
            }
        };
        self.append_to(id, slot, origin);
        if origin == Origin::Learned {
            self.weights.more(slot);
        }
        change
    }

    fn append_to(&mut self, id: u32, slot: u32, origin: Origin) {
        let list = self.owners[slot as usize].list(origin);
        let tail = list.tail;
        list.tail = id;
        list.len += 1;
        if tail == NIL {
            list.head = id;
        } else {
            self.nodes[tail as usize].next = id;
        }
        let node = &mut self.nodes[id as usize];
        (node.prev, node.next, node.owner) = (tail, NIL, slot);
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
        if origin == Origin::Learned {
            self.weights.less(slot);
        }
        let owner = self.owners[slot as usize];
        if !owner.is_empty() {
            return Change::None;
        }
        let dest = owner.dest;
        self.by_dest.0.remove(&dest.into());
        self.free_owners.push(slot);
        Change::Owner(dest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::damping::Verdict;
    use crate::word::Stamp;
    use crate::{Damping, SegmentId, Tick};
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
        assert_eq!(ledger.first(port(1), Origin::Learned), Some(key(1)));
        ledger.touch(ids[0]);
        ledger.touch(ids[2]);
        assert_eq!(ledger.first(port(1), Origin::Learned), Some(key(2)));
        ledger.drop_entry(ids[1], Origin::Learned);
        assert_eq!(ledger.first(port(1), Origin::Learned), Some(key(4)));
        ledger.touch(ids[3]);
        assert_eq!(ledger.first(port(1), Origin::Learned), Some(key(1)));
        assert_eq!(ledger.learned_of(port(1)), 3);
        assert_eq!(ledger.owner(port(2)), None);
    }

    #[test]
    fn an_exchange_is_what_removing_and_adding_would_be() {
        for others in 0..3 {
            let mut ledger = Ledger::default();
            let (old, _) = ledger.add(key(1), port(1), Origin::Learned);
            let Verdict::Follow(moves) =
                Moves::default().attempt(Stamp::of(Tick(0)), Damping::default().into())
            else {
                panic!("the first move is followed")
            };
            ledger.set_moves(old, moves);
            for n in 0..others {
                ledger.add(key(2 + n), port(1), Origin::Learned);
            }
            let counts = ledger.counts();
            let slot = ledger.owner(port(1)).unwrap();
            assert_eq!(ledger.exchange(key(9), slot), Some((key(1), old)));
            assert_eq!((ledger.counts(), ledger.learned_of(port(1))), (counts, 1 + others as u32));
            assert_eq!(ledger.moves(old), Moves::default());
            let order: Vec<Key> = std::iter::from_fn(|| {
                let (key, id) = ledger.oldest(slot)?;
                ledger.drop_entry(id, Origin::Learned);
                Some(key)
            })
            .collect();
            assert_eq!(order, (2..2 + others).chain([9]).map(key).collect::<Vec<_>>());
            assert_eq!(ledger.exchange(key(9), slot), None);
        }
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
        assert_eq!(ledger.owners(), [(vtep(1), 1)]);
        assert_eq!(ledger.drop_entry(a, Origin::Learned), Change::Owner(vtep(1)));
        assert_eq!(ledger.counts(), Counts::default());
        assert_eq!((ledger.owners().len(), ledger.nodes.capacity()), (0, 0));
    }

    #[test]
    fn the_heaviest_has_most_learned_entries() {
        let mut ledger = Ledger::default();
        let heaviest = |ledger: &mut Ledger, learner| {
            let slot = ledger.heaviest(learner)?;
            ledger.owner_in(slot)
        };
        assert_eq!(heaviest(&mut ledger, port(1)), None);
        let (a, _) = ledger.add(key(1), port(1), Origin::Learned);
        for n in 2..9 {
            ledger.add(key(n), port(2), Origin::Static);
        }
        assert_eq!(heaviest(&mut ledger, port(2)), Some(port(1)), "what is set has no weight");
        ledger.add(key(9), vtep(1), Origin::Learned);
        for learner in [port(1), vtep(1)] {
            assert_eq!(heaviest(&mut ledger, learner), Some(learner), "of equals who learns");
        }
        ledger.hand_over(a, vtep(1));
        ledger.touch(a);
        assert_eq!(heaviest(&mut ledger, port(1)), Some(vtep(1)));
    }
}
