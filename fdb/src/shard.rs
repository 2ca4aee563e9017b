//! The table in shards: each grows on its own, so that no rebuild is long.
//!
//! Locks: whoever changes an entry holds its segment's lock first, then this shard's, and no
//! other shard's. Nothing is locked under a shard's lock.

use std::hash::BuildHasher;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;

use crate::epoch::Epoch;
use crate::table::{Cell, Probe, Table};
use crate::word::{Key, Word};

/// Shards: with a million entries a rebuild copies some 16 thousand of them.
pub(crate) const SHARDS: usize = 64;
/// Slots of a shard that never held much.
const MIN_SLOTS: usize = 24;

/// What the lock guards: the table that is published.
#[derive(Debug)]
struct Core<C = AtomicU64> {
    table: Table<C>,
    /// Entries.
    live: usize,
}

impl<C: Cell> Core<C> {
    fn empty(slots: usize) -> Self {
        Self { table: Table::with_slots(slots), live: 0 }
    }

    /// Writes an entry, unless the table is too full.
    fn put(&mut self, hash: u64, key: Key, word: Word, node: u32) -> bool {
        match self.table.probe(hash, key) {
            Probe::Found(place) => {
                self.table.set(place, word, node);
                true
            }
            Probe::Free(place) if self.live < self.table.slots() / 5 * 3 => {
                self.live += 1;
                self.table.fill(hash, place, key, word, node);
                true
            }
            Probe::Free(_) | Probe::Full => false,
        }
    }

    /// Removes an entry.
    fn kill(&mut self, hash: u64, key: Key) {
        if let Probe::Found(place) = self.table.probe(hash, key) {
            self.table.clear(hash, place);
            self.live -= 1;
        }
    }
}

#[derive(Debug)]
#[repr(align(64))]
struct Shard {
    published: ArcSwap<Table>,
    core: Mutex<Core>,
}

impl Shard {
    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An entry as its shard knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// Its key's hash.
    pub(crate) hash: u64,
    pub(crate) word: Word,
    pub(crate) node: u32,
}

/// All shards.
#[derive(Debug)]
pub(crate) struct Shards {
    shards: Box<[Shard]>,
    epoch: Epoch,
    hasher: SeedableRandomState,
}

impl Shards {
    pub(crate) fn new(seed: Option<u64>) -> Self {
        let hasher = match seed {
            Some(seed) => SeedableRandomState::with_seed(seed, SharedSeed::global_fixed()),
            None => {
                // The standard library's state is seeded by the operating system.
                let seed = std::hash::RandomState::new().hash_one(SHARDS);
                SeedableRandomState::with_seed(seed, SharedSeed::global_random())
            }
        };
        let shard = || {
            let core = Core::empty(MIN_SLOTS);
            Shard { published: ArcSwap::from_pointee(core.table.clone()), core: Mutex::new(core) }
        };
        Self { shards: (0..SHARDS).map(|_| shard()).collect(), epoch: Epoch::default(), hasher }
    }

    /// The hash of a key: its top bits choose the shard, its low bits the bucket.
    #[inline]
    pub(crate) fn hash(&self, key: Key) -> u64 {
        self.hasher.hash_one(key.raw())
    }

    /// The shard of a hash.
    #[inline]
    pub(crate) const fn shard_of(hash: u64) -> usize {
        (hash >> (64 - SHARDS.trailing_zeros())) as usize
    }

    /// Counts the tables that any shard has published.
    #[inline]
    pub(crate) const fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// The published tables, in the order of [`Self::shard_of`].
    pub(crate) fn tables(&self) -> impl Iterator<Item = Table> {
        self.shards.iter().map(|shard| Table::clone(&shard.published.load()))
    }

    /// The published table of one shard.
    pub(crate) fn table(&self, shard: usize) -> Table {
        Table::clone(&self.shards[shard].published.load())
    }

    /// The entry of a key; [`Word::DEAD`] where there is none.
    pub(crate) fn read(&self, hash: u64, key: Key) -> Word {
        self.shards[Self::shard_of(hash)].published.load().read(hash, key)
    }

    /// Makes an entry look younger, without a lock. May be lost to a rebuild.
    pub(crate) fn replace(&self, hash: u64, key: Key, old: Word, new: Word) {
        self.shards[Self::shard_of(hash)].published.load().replace(hash, key, old, new);
    }

    /// The entry of a key. Stable while the segment's lock is held, but for its stamp.
    pub(crate) fn find(&self, key: Key) -> Option<Found> {
        self.find_and(self.hash(key), key, |_| None)
    }

    /// The entry of a key as it stood, and the word that it gets if `change` has another one for
    /// it. Under the segment's lock.
    pub(crate) fn find_and(
        &self,
        hash: u64,
        key: Key,
        change: impl FnOnce(Word) -> Option<Word>,
    ) -> Option<Found> {
        let core = self.shards[Self::shard_of(hash)].lock();
        let Probe::Found(place) = core.table.probe(hash, key) else { return None };
        let word = core.table.word(place);
        if let Some(new) = change(word) {
            core.table.set_word(place, new);
        }
        Some(Found { hash, word, node: core.table.node(place) })
    }

    /// Writes an entry, old or new. Under the segment's lock.
    pub(crate) fn put(&self, hash: u64, key: Key, word: Word, node: u32) {
        let shard = &self.shards[Self::shard_of(hash)];
        let mut core = shard.lock();
        while !core.put(hash, key, word, node) {
            self.rebuild(shard, &mut core);
        }
    }

    /// Removes an entry. Under the segment's lock.
    pub(crate) fn kill(&self, hash: u64, key: Key) {
        let shard = &self.shards[Self::shard_of(hash)];
        let mut core = shard.lock();
        core.kill(hash, key);
        if core.table.slots() > MIN_SLOTS && core.live < core.table.slots() / 16 {
            self.rebuild(shard, &mut core);
        }
    }

    /// Publishes a table of another size, about a third full.
    #[cold]
    fn rebuild(&self, shard: &Shard, core: &mut Core) {
        let mut next = Core::empty(((core.live + 1) * 2).max(MIN_SLOTS));
        for (place, key, word) in core.table.iter() {
            next.put(self.hash(key), key, word, core.table.node(place));
        }
        *core = next;
        self.epoch.publish(|| shard.published.store(Arc::new(core.table.clone())));
    }

    /// Bytes allocated.
    pub(crate) fn bytes(&self) -> usize {
        let shard = |shard: &Shard| {
            let core = shard.lock();
            core.table.bytes() + size_of::<Table>() + 16
        };
        size_of_val(&*self.shards) + self.shards.iter().map(shard).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checked::{Checked, explore};
    use crate::word::Stamp;
    use crate::{Dest, Origin, PortId, SegmentId, Tick};
    use encap::MacAddr;

    fn key(n: u64) -> Key {
        Key::of_destination(SegmentId(9), MacAddr::from_bits(0x0200_0000_0000 | n)).unwrap()
    }

    fn word(n: u64) -> Word {
        let dest = Dest::Port(PortId { slot: n as u16, generation: (n >> 16) as u16 });
        Word::new(dest, Origin::Learned, Stamp::of(Tick(0)))
    }

    #[test]
    fn a_seed_makes_a_run_repeatable_and_none_does_not() {
        // Nothing of what differs from process to process is in it.
        let same = SeedableRandomState::with_seed(7, SharedSeed::global_fixed());
        let seeded = |seed| Shards::new(seed).hash(key(1));
        assert_eq!(seeded(Some(7)), same.hash_one(key(1).raw()));
        assert_ne!(seeded(Some(8)), seeded(Some(7)));
        assert_ne!(seeded(None), seeded(None));
    }

    #[test]
    fn grows_shrinks_and_loses_nothing() {
        let shards = Shards::new(Some(7));
        let small = shards.bytes();
        let many = if cfg!(miri) { 2_000 } else { 40_000 };
        for n in 0..many {
            shards.put(shards.hash(key(n)), key(n), word(n), n as u32);
        }
        for n in 0..many {
            let found = shards.find(key(n)).unwrap();
            assert_eq!((found.word, found.node), (word(n), n as u32));
            assert_eq!(shards.read(shards.hash(key(n)), key(n)), word(n));
        }
        assert!(shards.find(key(many)).is_none());
        let (full, epoch) = (shards.bytes(), shards.epoch().count());
        assert!(full < small + many as usize * 64, "{full} bytes");
        for n in 0..many - 10 {
            shards.kill(shards.hash(key(n)), key(n));
            shards.kill(shards.hash(key(n)), key(n));
        }
        assert!(shards.epoch().count() > epoch);
        assert!(shards.bytes() < full / 4);
        assert_eq!(shards.tables().map(|table| table.iter().count()).sum::<usize>(), 10);
        for n in many - 10..many {
            assert_eq!(shards.find(key(n)).unwrap().node, n as u32);
        }
    }

    #[test]
    fn a_stream_of_strangers_does_not_fill_it_up() {
        let shards = Shards::new(None);
        for n in 0..if cfg!(miri) { 3_000 } else { 100_000 } {
            shards.put(shards.hash(key(n)), key(n), word(n), 0);
            if n >= 100 {
                shards.kill(shards.hash(key(n - 100)), key(n - 100));
            }
        }
        assert!(shards.bytes() < 64 * 1024, "{} bytes", shards.bytes());
    }

    fn slot(table: &Table<Checked>, key: Key) -> crate::table::Place {
        match table.probe(0, key) {
            Probe::Found(place) | Probe::Free(place) => place,
            Probe::Full => panic!("no room"),
        }
    }

    /// One slot goes from hand to hand and back: a reader finds a station where it was at some
    /// moment, or not at all.
    #[test]
    #[cfg_attr(miri, ignore = "the model checker switches stacks")]
    fn no_interleaving_shows_another_stations_place() {
        explore(|| {
            let table: Table<Checked> = Table::with_slots(1);
            let place = slot(&table, key(1));
            table.fill(0, place, key(1), word(1), 0);
            let shared = table.clone();
            let reader = loom::thread::spawn(move || {
                // What `read` does, in the two steps of a view.
                let glance = shared.glance(0).unwrap();
                let one = glance.read(key(1)).unwrap();
                assert!([Word::DEAD, word(1), word(101)].contains(&one), "{one:?}");
            });
            table.clear(0, place);
            table.fill(0, place, key(2), word(2), 0);
            table.clear(0, place);
            table.fill(0, place, key(1), word(101), 0);
            reader.join().unwrap();
            assert_eq!(table.read(0, key(1)), word(101));
        });
    }

    /// The bucket is full and others come and go: who was turned away, and stays, is found.
    #[test]
    #[cfg_attr(miri, ignore = "the model checker switches stacks")]
    fn no_interleaving_hides_who_was_turned_away() {
        explore(|| {
            let table: Table<Checked> = Table::with_slots(6);
            for n in 1..=5 {
                table.fill(0, slot(&table, key(n)), key(n), word(n), 0);
            }
            let shared = table.clone();
            let reader = loom::thread::spawn(move || {
                assert_eq!(shared.read(0, key(4)), word(4));
            });
            table.clear(0, slot(&table, key(5)));
            table.clear(0, slot(&table, key(1)));
            reader.join().unwrap();
        });
    }

    /// A refresh without the lock races with a move and a removal: it changes nothing but the
    /// stamp of the entry that it read.
    #[test]
    #[cfg_attr(miri, ignore = "the model checker switches stacks")]
    fn no_interleaving_lets_a_refresh_bring_an_entry_back() {
        explore(|| {
            let table: Table<Checked> = Table::with_slots(1);
            let place = slot(&table, key(1));
            table.fill(0, place, key(1), word(1), 0);
            let shared = table.clone();
            let fresh = |n| word(n).with_seen(Stamp::of(Tick(5000)));
            let refresher = loom::thread::spawn(move || {
                let seen = shared.read(0, key(1));
                if !seen.is_dead() {
                    shared.replace(0, key(1), seen, seen.with_seen(Stamp::of(Tick(5000))));
                }
            });
            table.set_word(place, word(2));
            let moved = table.read(0, key(1));
            assert!([word(2), fresh(2)].contains(&moved), "{moved:?}");
            table.clear(0, place);
            table.fill(0, place, key(2), word(3), 0);
            refresher.join().unwrap();
            assert!(table.read(0, key(1)).is_dead());
            assert_eq!(table.read(0, key(2)), word(3));
        });
    }
}
