//! The table that readers walk without a lock.
//!
//! Open addressing over buckets of four slots, one cache line each. A slot is two atomic words:
//!
//! - the **key** goes from zero to its value once, and never changes again in the life of a table;
//! - the **word** is the whole of an entry's value, zero while there is none.
//!
//! So whoever finds a key may read the word beside it at any time: one atomic load is one whole
//! value of that key, never half of one, nor that of another key that moved in (there is no ABA,
//! since nobody moves in). An entry is removed by zeroing its word; the key stays as a tombstone
//! that only the same key revives. Tombstones go when a shard is rebuilt: a new table is filled
//! under the shard's lock and published whole; who still reads the old one sees the state of the
//! moment before. What is written after the publication is visible to a reader that looks at the
//! epoch first (see [`crate::shard`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::word::{Key, Word};

/// Slots in a bucket.
const WAYS: usize = 4;

/// A 64-bit cell that threads share: the processor's, or a model checker's in the tests.
pub(crate) trait Cell: Default {
    /// Reads, and sees all that was written before the value.
    fn get(&self) -> u64;
    /// Writes, after all that was written before.
    fn set(&self, value: u64);
    /// Writes `new` where `old` stands; otherwise nothing happens.
    fn replace(&self, old: u64, new: u64);
}

impl Cell for AtomicU64 {
    #[inline]
    fn get(&self) -> u64 {
        self.load(Ordering::Acquire)
    }

    #[inline]
    fn set(&self, value: u64) {
        self.store(value, Ordering::Release);
    }

    fn replace(&self, old: u64, new: u64) {
        // Losing to another writer is fine: every caller's write is a hint.
        let _ = self.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Slot<C> {
    key: C,
    word: C,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket<C>([Slot<C>; WAYS]);

/// Neither the key nor a free slot is here: the next bucket may have it.
struct Overflowed;

impl<C: Cell> Bucket<C> {
    /// The slot of a key, or that it has none in the table.
    #[inline]
    fn find(&self, key: Key) -> Result<Option<&Slot<C>>, Overflowed> {
        // All four are compared before anything is decided: which of them it is could not be
        // predicted, and a wrong guess costs more than the comparisons.
        let keys =
            [self.0[0].key.get(), self.0[1].key.get(), self.0[2].key.get(), self.0[3].key.get()];
        let among = |wanted: u64| {
            usize::from(keys[0] == wanted)
                | usize::from(keys[1] == wanted) << 1
                | usize::from(keys[2] == wanted) << 2
                | usize::from(keys[3] == wanted) << 3
        };
        match among(key.raw()) {
            0 if among(0) == 0 => Err(Overflowed),
            0 => Ok(None),
            found => Ok(Some(&self.0[found.trailing_zeros() as usize % WAYS])),
        }
    }
}

/// Where a key is, or could go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// The key has this slot.
    Found(usize),
    /// It has none; this one is free.
    Free(usize),
    /// It has none, and none is free.
    Full,
}

/// A table of fixed size, shared by reference count.
#[derive(Debug)]
pub(crate) struct Table<C = AtomicU64> {
    buckets: Arc<[Bucket<C>]>,
}

impl<C> Clone for Table<C> {
    fn clone(&self) -> Self {
        Self { buckets: Arc::clone(&self.buckets) }
    }
}

impl<C: Cell> Table<C> {
    /// An empty table with at least this many slots: a power of two.
    pub(crate) fn with_slots(slots: usize) -> Self {
        let buckets = slots.div_ceil(WAYS).next_power_of_two();
        Self { buckets: (0..buckets).map(|_| Bucket::default()).collect() }
    }

    pub(crate) fn slots(&self) -> usize {
        self.buckets.len() * WAYS
    }

    /// Bytes allocated, the reference counts' cache line with them.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.buckets) + 64
    }

    /// The entry of this key; [`Word::DEAD`] where there is none.
    #[inline]
    pub(crate) fn read(&self, hash: u64, key: Key) -> Word {
        self.slot(hash, key).map_or(Word::DEAD, |slot| Word::from_raw(slot.word.get()))
    }

    #[inline]
    fn slot(&self, hash: u64, key: Key) -> Option<&Slot<C>> {
        let mask = self.buckets.len() - 1;
        match self.buckets.get(hash as usize & mask)?.find(key) {
            Ok(slot) => slot,
            Err(Overflowed) => self.slot_further_on(hash, key),
        }
    }

    /// One key in twenty or so is not in its own bucket.
    #[cold]
    fn slot_further_on(&self, hash: u64, key: Key) -> Option<&Slot<C>> {
        let mask = self.buckets.len() - 1;
        for step in 1..=mask {
            if let Ok(slot) = self.buckets[(hash as usize).wrapping_add(step) & mask].find(key) {
                return slot;
            }
        }
        None
    }

    /// Writes `new` where the entry of this key is `old`. Needs no lock: it writes nothing if the
    /// entry has changed, and what it writes into a table that was just replaced is forgotten.
    pub(crate) fn replace(&self, hash: u64, key: Key, old: Word, new: Word) {
        if let Some(slot) = self.slot(hash, key) {
            slot.word.replace(old.raw(), new.raw());
        }
    }

    /// Where this key is or could go. Free slots stay free only under the shard's lock.
    pub(crate) fn probe(&self, hash: u64, key: Key) -> Probe {
        let mask = self.buckets.len() - 1;
        let first = hash as usize & mask;
        for step in 0..=mask {
            let bucket = first.wrapping_add(step) & mask;
            for (way, slot) in self.buckets[bucket].0.iter().enumerate() {
                let found = slot.key.get();
                if found == key.raw() {
                    return Probe::Found(bucket * WAYS + way);
                }
                if found == 0 {
                    return Probe::Free(bucket * WAYS + way);
                }
            }
        }
        Probe::Full
    }

    fn at(&self, index: usize) -> &Slot<C> {
        &self.buckets[index / WAYS].0[index % WAYS]
    }

    /// The word in a slot.
    pub(crate) fn word(&self, index: usize) -> Word {
        Word::from_raw(self.at(index).word.get())
    }

    /// Writes the word of a slot whose key stands. Under the shard's lock.
    pub(crate) fn set_word(&self, index: usize, word: Word) {
        self.at(index).word.set(word.raw());
    }

    /// Fills a free slot: the word first, so that whoever sees the key sees it too. Under the
    /// shard's lock.
    pub(crate) fn fill(&self, index: usize, key: Key, word: Word) {
        let slot = self.at(index);
        slot.word.set(word.raw());
        slot.key.set(key.raw());
    }

    /// All entries with their slots, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, Key, Word)> {
        self.buckets.iter().flat_map(|bucket| &bucket.0).enumerate().filter_map(|(index, slot)| {
            let key = slot.key.get();
            let word = Word::from_raw(slot.word.get());
            (key != 0 && !word.is_dead()).then_some((index, Key::from_raw(key), word))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::word::Stamp;
    use crate::{Dest, Origin, PortId, SegmentId, Tick};
    use encap::MacAddr;

    fn key(n: u8) -> Key {
        Key::of_destination(SegmentId(1), MacAddr([2, 0, 0, 0, 0, n])).unwrap()
    }

    fn word(n: u16, ms: u64) -> Word {
        let dest = Dest::Port(PortId { slot: n, generation: n });
        Word::new(dest, Origin::Learned, Stamp::of(Tick(ms)))
    }

    #[test]
    fn a_slot_is_found_by_its_key_only_and_revived_by_it() {
        let table: Table = Table::with_slots(8);
        assert_eq!(table.slots(), 8);
        assert_eq!(table.read(0, key(1)), Word::DEAD);
        // Everything collides: the probe runs through both buckets.
        for n in 1..=8 {
            let Probe::Free(index) = table.probe(7, key(n)) else { panic!("no room for {n}") };
            table.fill(index, key(n), word(n.into(), 0));
        }
        assert_eq!(table.probe(7, key(9)), Probe::Full);
        assert_eq!(table.read(7, key(9)), Word::DEAD);
        for n in 1..=8 {
            assert_eq!(table.read(7, key(n)), word(n.into(), 0));
        }
        let Probe::Found(index) = table.probe(7, key(6)) else { panic!("lost") };
        table.set_word(index, Word::DEAD);
        assert_eq!(table.read(7, key(6)), Word::DEAD);
        assert_eq!(table.probe(7, key(6)), Probe::Found(index));
        assert_eq!(table.iter().count(), 7);
        table.replace(7, key(5), word(4, 0), word(5, 900));
        assert_eq!(table.read(7, key(5)), word(5, 0), "replaced what was not there");
        table.replace(7, key(5), word(5, 0), word(5, 900));
        assert_eq!(table.read(7, key(5)), word(5, 900));
    }
}
