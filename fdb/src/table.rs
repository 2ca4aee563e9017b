//! The table that readers walk without a lock.
//!
//! Open addressing over buckets of three slots, one cache line each. A slot is two atomic words,
//! the key (who) and the word (the whole of an entry's value, zero while there is none); beside
//! them a bucket has its entries' nodes and its *state*: how many keys were turned away to later
//! buckets, and how many slots were cleared so far (its *changes*).
//!
//! One writer at a time, under the shard's lock, goes by this order:
//!
//! - to fill a slot: the turned away are counted along the way, then word, then key;
//! - to clear one: word to zero, key to zero, then the bucket's changes go up by one.
//!
//! A reader takes the changes, the key, the word, and the changes again, and starts anew if they
//! differ. Why the word is then the key's own, of one moment, although slots are used again: say
//! that it was written for another key. If that key came later, the slot was cleared between, and
//! whoever reads the word sees those changes: the second reading has them. So the first one had
//! them too, and who sees the changes sees the cleared key as well, not the key from before. If
//! that key was there earlier, who sees the key sees the word that was written before it. A reader
//! never waits: it starts anew only when something was removed. The changes are counted modulo
//! 2^24, so a look-up may not take as long as 16 million removals from one bucket. The first reading
//! of them may be long ago ([`Glance`]): more has to be the same then, not less.
//!
//! An entry stays in its slot as long as it lives, so a reader finds it whoever else comes and
//! goes. A larger table is filled under the shard's lock and published whole; who still reads the
//! old one sees the state of the moment before. What is written after the publication is visible
//! to a reader that looks at the epoch first (see [`crate::epoch`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::word::{Key, Word};

/// Slots in a bucket.
const WAYS: usize = 3;

/// A 64-bit cell that threads share: the processor's, or a model checker's in the tests.
pub(crate) trait Cell: Default {
    /// Reads, and sees all that was written before the value.
    fn get(&self) -> u64;
    /// Writes, after all that was written before.
    fn set(&self, value: u64);
    /// Writes `new` where `old` stands; otherwise nothing happens.
    fn replace(&self, old: u64, new: u64);
    /// Adds one, after all that was written before.
    fn add_one(&self);
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

    fn add_one(&self) {
        self.fetch_add(1, Ordering::Release);
    }
}

/// A bucket's state: bits 0–31 the node of the last slot, 32–39 how many keys were turned away (at
/// 255 it stays), 40–63 the changes.
#[derive(Clone, Copy, Debug)]
struct State(u64);

impl State {
    const CHANGES: u32 = 40;
    const TURNED_AWAY: u64 = 0xff << 32;

    const fn changes(self) -> u64 {
        self.0 >> Self::CHANGES
    }

    const fn turned_away(self) -> bool {
        self.0 & Self::TURNED_AWAY != 0
    }

    const fn changed(self) -> Self {
        Self(self.0.wrapping_add(1 << Self::CHANGES))
    }

    /// One more, or one less, that was turned away. Who lost count never counts down again.
    const fn turn_away(self, more: bool) -> Self {
        match self.0 & Self::TURNED_AWAY {
            Self::TURNED_AWAY => self,
            _ if more => Self(self.0 + (1 << 32)),
            _ => Self(self.0 - (1 << 32)),
        }
    }

    const fn node(self) -> u32 {
        self.0 as u32
    }

    const fn with_node(self, node: u32) -> Self {
        Self((self.0 & !0xffff_ffff) | node as u64)
    }
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket<C> {
    keys: [C; WAYS],
    /// The words; behind them the nodes of the first two slots, the first one's in the low half,
    /// under the shard's lock. They are one array so that three bits index it without a check.
    words: [C; WAYS + 1],
    state: C,
}

const _: () = assert!(size_of::<Bucket<AtomicU64>>() == 64, "a look-up costs one cache line");

/// The key is not here, but was perhaps turned away: the next bucket may have it.
struct TurnedAway;

impl<C: Cell> Bucket<C> {
    #[inline]
    fn state(&self) -> State {
        State(self.state.get())
    }

    /// The way of a key among the three, in one bit each.
    #[inline]
    fn among(&self, wanted: u64) -> usize {
        // All are compared before anything is decided: which of them it is could not be
        // predicted, and a wrong guess costs more than the comparisons.
        let [a, b, c] = &self.keys;
        usize::from(a.get() == wanted)
            | usize::from(b.get() == wanted) << 1
            | usize::from(c.get() == wanted) << 2
    }

    #[inline]
    fn way(&self, wanted: u64) -> Option<usize> {
        match self.among(wanted) {
            0 => None,
            found => Some(found.trailing_zeros() as usize % WAYS),
        }
    }

    fn nodes(&self) -> &C {
        &self.words[WAYS]
    }

    /// The word of a key, or that it has none in the table.
    #[inline]
    fn read(&self, key: Key) -> Result<Word, TurnedAway> {
        self.read_since(self.state(), key)
    }

    /// The same by someone who took the state some time ago.
    #[inline(always)]
    fn read_since(&self, mut before: State, key: Key) -> Result<Word, TurnedAway> {
        loop {
            let found = self.among(key.raw());
            if found == 0 {
                return if before.turned_away() { Err(TurnedAway) } else { Ok(Word::DEAD) };
            }
            // One, two or four; more than one bit if the key changed slots between two of the
            // comparisons. Whatever is taken for the word then, the changes say so.
            let word = Word::from_raw(self.words[found >> 1].get());
            let after = self.state();
            if after.changes() == before.changes() {
                return Ok(word);
            }
            before = after;
        }
    }

    /// All entries with their ways, as they stood at one moment each.
    fn entries(&self) -> impl Iterator<Item = (usize, Key, Word)> {
        (0..WAYS).filter_map(|way| {
            loop {
                let before = self.state();
                let (key, word) = (self.keys[way].get(), self.words[way].get());
                if self.state().changes() == before.changes() {
                    let word = Word::from_raw(word);
                    return (key != 0 && !word.is_dead()).then(|| (way, Key::from_raw(key), word));
                }
            }
        })
    }

    fn node(&self, way: usize) -> u32 {
        match way {
            0 => self.nodes().get() as u32,
            1 => (self.nodes().get() >> 32) as u32,
            _ => self.state().node(),
        }
    }

    fn set_node(&self, way: usize, node: u32) {
        let (nodes, node64) = (self.nodes().get(), u64::from(node));
        match way {
            0 => self.nodes().set((nodes & !0xffff_ffff) | node64),
            1 => self.nodes().set((nodes & 0xffff_ffff) | (node64 << 32)),
            _ => self.state.set(self.state().with_node(node).0),
        }
    }
}

/// A bucket and its state some time ago.
#[derive(Debug)]
pub(crate) struct Glance<'t, C = AtomicU64> {
    bucket: &'t Bucket<C>,
    before: State,
}

impl<C> Clone for Glance<'_, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for Glance<'_, C> {}

impl<C: Cell> Glance<'_, C> {
    /// The entry of a key, as [`Table::read`]; `None` if it may be further on.
    #[inline(always)]
    pub(crate) fn read(self, key: Key) -> Option<Word> {
        self.bucket.read_since(self.before, key).ok()
    }
}

/// A slot: its bucket, and which of the three it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    bucket: usize,
    way: usize,
}

/// Where a key is, or could go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// The key has this slot.
    Found(Place),
    /// It has none; this one is free.
    Free(Place),
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
    /// An empty table with at least this many slots: a power of two of buckets.
    pub(crate) fn with_slots(slots: usize) -> Self {
        let buckets = slots.div_ceil(WAYS).next_power_of_two();
        Self { buckets: (0..buckets).map(|_| Bucket::default()).collect() }
    }

    pub(crate) fn slots(&self) -> usize {
        self.buckets.len() * WAYS
    }

    /// How many hold on to it.
    #[cfg(test)]
    pub(crate) fn holders(&self) -> usize {
        Arc::strong_count(&self.buckets)
    }

    /// Bytes allocated, the reference counts' cache line with them.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.buckets) + 64
    }

    /// The entry of this key; [`Word::DEAD`] where there is none.
    #[inline]
    pub(crate) fn read(&self, hash: u64, key: Key) -> Word {
        let mask = self.buckets.len() - 1;
        match self.buckets.get(hash as usize & mask).map(|bucket| bucket.read(key)) {
            Some(Ok(word)) => word,
            Some(Err(TurnedAway)) => self.read_further_on(hash, key),
            None => Word::DEAD,
        }
    }

    /// A first look at the bucket of a hash.
    #[inline(always)]
    pub(crate) fn glance(&self, hash: u64) -> Option<Glance<'_, C>> {
        let bucket = self.buckets.get(hash as usize & (self.buckets.len() - 1))?;
        Some(Glance { bucket, before: bucket.state() })
    }

    /// One key in some dozens is not in its own bucket.
    #[cold]
    fn read_further_on(&self, hash: u64, key: Key) -> Word {
        self.path(hash).skip(1).find_map(|at| self.buckets[at].read(key).ok()).unwrap_or(Word::DEAD)
    }

    /// The buckets in which a key is looked for, its own first.
    fn path(&self, hash: u64) -> impl Iterator<Item = usize> + use<C> {
        let mask = self.buckets.len() - 1;
        (0..=mask).map(move |step| (hash as usize).wrapping_add(step) & mask)
    }

    /// Writes `new` where the entry of this key is `old`. Needs no lock: it writes nothing if the
    /// entry has changed, and what it writes into a table that was just replaced is forgotten.
    /// Where the slot has got another entry since, that one's stamp is younger than `old`'s.
    pub(crate) fn replace(&self, hash: u64, key: Key, old: Word, new: Word) {
        for bucket in self.path(hash).map(|at| &self.buckets[at]) {
            if let Some(way) = bucket.way(key.raw()) {
                return bucket.words[way].replace(old.raw(), new.raw());
            }
            if !bucket.state().turned_away() {
                return;
            }
        }
    }

    /// Where this key is or could go. Under the shard's lock.
    #[inline]
    pub(crate) fn probe(&self, hash: u64, key: Key) -> Probe {
        let at = hash as usize & (self.buckets.len() - 1);
        let bucket = &self.buckets[at];
        // Mostly the first bucket knows.
        if let Some(way) = bucket.way(key.raw()) {
            return Probe::Found(Place { bucket: at, way });
        }
        match bucket.way(0) {
            Some(way) if !bucket.state().turned_away() => Probe::Free(Place { bucket: at, way }),
            _ => self.probe_further_on(hash, key),
        }
    }

    #[cold]
    fn probe_further_on(&self, hash: u64, key: Key) -> Probe {
        let mut free = None;
        let mut beyond = true;
        for at in self.path(hash) {
            let bucket = &self.buckets[at];
            if beyond && let Some(way) = bucket.way(key.raw()) {
                return Probe::Found(Place { bucket: at, way });
            }
            if free.is_none() {
                free = bucket.way(0).map(|way| Place { bucket: at, way });
            }
            beyond &= bucket.state().turned_away();
            if let Some(free) = free
                && !beyond
            {
                return Probe::Free(free);
            }
        }
        free.map_or(Probe::Full, Probe::Free)
    }

    /// The word in a slot.
    pub(crate) fn word(&self, place: Place) -> Word {
        Word::from_raw(self.buckets[place.bucket].words[place.way].get())
    }

    /// The node of the entry in a slot. Under the shard's lock.
    pub(crate) fn node(&self, place: Place) -> u32 {
        self.buckets[place.bucket].node(place.way)
    }

    /// Writes word and node of a slot whose key stands. Under the shard's lock.
    pub(crate) fn set(&self, place: Place, word: Word, node: u32) {
        let bucket = &self.buckets[place.bucket];
        bucket.set_node(place.way, node);
        bucket.words[place.way].set(word.raw());
    }

    /// Writes the word of a slot whose key stands. Under the shard's lock.
    pub(crate) fn set_word(&self, place: Place, word: Word) {
        self.buckets[place.bucket].words[place.way].set(word.raw());
    }

    /// Fills a free slot. Under the shard's lock.
    pub(crate) fn fill(&self, hash: u64, place: Place, key: Key, word: Word, node: u32) {
        self.count_turned_away(hash, place, true);
        self.set(place, word, node);
        self.buckets[place.bucket].keys[place.way].set(key.raw());
    }

    /// Clears a slot. Under the shard's lock.
    pub(crate) fn clear(&self, hash: u64, place: Place) {
        let bucket = &self.buckets[place.bucket];
        bucket.words[place.way].set(0);
        bucket.keys[place.way].set(0);
        bucket.state.set(bucket.state().changed().0);
        self.count_turned_away(hash, place, false);
    }

    /// In all buckets before the one of a slot.
    #[inline]
    fn count_turned_away(&self, hash: u64, place: Place, more: bool) {
        if hash as usize & (self.buckets.len() - 1) == place.bucket {
            return;
        }
        for at in self.path(hash).take_while(|at| *at != place.bucket) {
            let bucket = &self.buckets[at];
            bucket.state.set(bucket.state().turn_away(more).0);
        }
    }

    /// All entries with their slots, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Place, Key, Word)> {
        self.buckets.iter().enumerate().flat_map(|(at, bucket)| {
            let place = move |way| Place { bucket: at, way };
            bucket.entries().map(move |(way, key, word)| (place(way), key, word))
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

    fn put(table: &Table, hash: u64, n: u8) {
        let Probe::Free(place) = table.probe(hash, key(n)) else { panic!("no room for {n}") };
        table.fill(hash, place, key(n), word(n.into(), 0), u32::from(n) << 24 | 7);
    }

    fn remove(table: &Table, hash: u64, n: u8) {
        let Probe::Found(place) = table.probe(hash, key(n)) else { panic!("{n} is lost") };
        table.clear(hash, place);
    }

    #[test]
    fn a_slot_is_found_by_its_key_only_and_used_again() {
        let table: Table = Table::with_slots(6);
        assert_eq!(table.slots(), 6);
        assert_eq!(table.read(0, key(1)), Word::DEAD);
        // Everything collides: the probe runs through both buckets.
        (1..=6).for_each(|n| put(&table, 7, n));
        assert_eq!(table.probe(7, key(9)), Probe::Full);
        assert_eq!(table.read(7, key(9)), Word::DEAD);
        for n in 1..=6 {
            assert_eq!(table.read(7, key(n)), word(n.into(), 0));
            let Probe::Found(place) = table.probe(7, key(n)) else { panic!("lost") };
            assert_eq!(table.node(place), u32::from(n) << 24 | 7);
        }
        remove(&table, 7, 2);
        assert_eq!(table.read(7, key(2)), Word::DEAD);
        assert_eq!(table.iter().count(), 5);
        // Those behind the gap are still found, and a stranger gets it.
        assert_eq!(table.read(7, key(6)), word(6, 0));
        put(&table, 7, 9);
        assert_eq!(table.read(7, key(9)), word(9, 0));
        assert_eq!(table.iter().count(), 6);
        table.replace(7, key(5), word(4, 0), word(5, 900));
        assert_eq!(table.read(7, key(5)), word(5, 0), "replaced what was not there");
        table.replace(7, key(5), word(5, 0), word(5, 900));
        assert_eq!(table.read(7, key(5)), word(5, 900));
    }

    /// What was turned away is counted out again, or a full table would stay slow for ever.
    #[test]
    fn a_bucket_forgets_whom_it_turned_away() {
        let table: Table = Table::with_slots(12);
        for _ in 0..300 {
            (1..=6).for_each(|n| put(&table, 1, n));
            assert!(table.buckets[1].state().turned_away());
            assert!(!table.buckets[2].state().turned_away());
            (1..=6).rev().for_each(|n| remove(&table, 1, n));
            assert!(!table.buckets[1].state().turned_away());
        }
        assert_eq!(table.buckets[1].state().changes(), 900);
        let lost = (0..300).fold(State(0), |state, _| state.turn_away(true));
        let lost = (0..300).fold(lost, |state, _| state.turn_away(false));
        assert!(lost.turned_away(), "nobody knows how many are left");
        assert_eq!((lost.changes(), lost.node()), (0, 0));
    }
}
