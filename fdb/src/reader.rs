//! A worker's own view of the table.

use std::sync::Arc;

use encap::{MacAddr, StationMac};

use crate::segment::Hot;
use crate::shard::Shards;
use crate::table::Table;
use crate::word::{Key, Stamp, Word};
use crate::{Dest, Fdb, Learn, Lookup, Refusal, SegmentId, Tick};

/// Lines of the cache: 64 KiB, which stay in a processor's second-level cache.
const LINES: usize = 2048;
/// Milliseconds for which an answer is kept at most.
const KEEP_MS: u32 = 1000;

/// An answer that was kept. It holds by the contract of [`Fdb::generation`].
#[derive(Clone, Copy, Debug)]
struct Line {
    key: u64,
    word: Word,
    generation: u32,
    /// Milliseconds modulo 2^32.
    at: u32,
}

impl Line {
    /// Zero is no station's key.
    const EMPTY: Self = Self { key: 0, word: Word::DEAD, generation: 0, at: 0 };

    #[inline]
    fn holds(&self, key: Key, generation: u32, now: Tick) -> bool {
        self.key == key.raw()
            && self.generation == generation
            && (now.0 as u32).wrapping_sub(self.at) < KEEP_MS
    }
}

/// A worker's own view of the table: one per thread.
///
/// It asks, in this order: the same station as the last frame's; a small cache of its own; the
/// shared table, whose parts it holds, so that nothing is counted or locked. Misses are not kept.
/// It holds on to tables that have been replaced until its next call; a worker that is about to
/// sleep for long calls [`Reader::release`].
#[derive(Debug)]
pub struct Reader {
    fdb: Arc<Fdb>,
    tables: Vec<Table>,
    epoch: u64,
    last_lookup: Line,
    last_learn: Line,
    lines: Box<[Line]>,
}

impl Reader {
    pub(crate) fn new(fdb: Arc<Fdb>) -> Self {
        let epoch = fdb.shards.epoch();
        let tables = fdb.shards.tables().collect();
        let lines = vec![Line::EMPTY; LINES].into_boxed_slice();
        Self { fdb, tables, epoch, last_lookup: Line::EMPTY, last_learn: Line::EMPTY, lines }
    }

    /// The shared table.
    #[must_use]
    pub const fn fdb(&self) -> &Arc<Fdb> {
        &self.fdb
    }

    /// Where a station lives. An eviction may show a second late, all else at once.
    #[inline]
    pub fn lookup(&mut self, segment: SegmentId, mac: MacAddr, now: Tick) -> Lookup {
        let Some(key) = Key::of_destination(segment, mac) else { return Lookup::Unknown };
        let Some(hot) = self.fdb.segments.get(segment).map(|segment| &segment.hot) else {
            return Lookup::Unknown;
        };
        let (generation, stamp) = (hot.generation(), Stamp::of(now));
        let last = &self.last_lookup;
        if last.holds(key, generation, now) && !hot.expired(last.word, stamp) {
            return last.word.dest().into();
        }
        let hash = self.fdb.shards.hash(key);
        let line = &mut self.lines[Self::line_of(hash)];
        if line.holds(key, generation, now) && !hot.expired(line.word, stamp) {
            self.last_lookup = *line;
            return line.word.dest().into();
        }
        // The generation was read before: what is read here is no older than it.
        let word = Self::read(&self.fdb.shards, &mut self.tables, &mut self.epoch, hash, key);
        if word.is_dead() || hot.expired(word, stamp) {
            return Lookup::Unknown;
        }
        *line = Line { key: key.raw(), word, generation, at: now.0 as u32 };
        self.last_lookup = *line;
        word.dest().into()
    }

    /// Takes in that a frame came from this station at this place, as [`Fdb::learn`]. That a
    /// frozen entry may move again shows a second late.
    #[inline]
    pub fn learn(&mut self, segment: SegmentId, mac: StationMac, dest: Dest, now: Tick) -> Learn {
        let learn = self.learn_through(segment, mac, dest, now);
        if matches!(learn, Learn::Refused(_)) {
            self.fdb.tally.refused.add(1);
        }
        learn
    }

    #[inline]
    fn learn_through(&mut self, id: SegmentId, mac: StationMac, dest: Dest, now: Tick) -> Learn {
        let Some(segment) = self.fdb.segments.get(id).filter(|segment| segment.hot.learning())
        else {
            return Learn::Refused(Refusal::Disabled);
        };
        let key = Key::new(id, mac);
        let (generation, stamp) = (segment.hot.generation(), Stamp::of(now));
        if self.last_learn.holds(key, generation, now)
            && let Some(learn) = Self::learn_kept(&segment.hot, self.last_learn.word, dest, stamp)
        {
            return learn;
        }
        let hash = self.fdb.shards.hash(key);
        let line = &mut self.lines[Self::line_of(hash)];
        if line.holds(key, generation, now)
            && let Some(learn) = Self::learn_kept(&segment.hot, line.word, dest, stamp)
        {
            self.last_learn = *line;
            return learn;
        }
        let word = Self::read(&self.fdb.shards, &mut self.tables, &mut self.epoch, hash, key);
        let (learn, word) = match segment.hot.learn_unwritten(word, dest, stamp) {
            Some(learn) => (learn, word),
            None => self.fdb.learn_written(segment, key, word, dest, now),
        };
        if !word.is_dead() {
            *line = Line { key: key.raw(), word, generation, at: now.0 as u32 };
            self.last_learn = *line;
        }
        learn
    }

    /// Lets go of tables that have been replaced.
    pub fn release(&mut self) {
        Self::renew(&self.fdb.shards, &mut self.tables, &mut self.epoch);
    }

    /// As [`Hot::learn_unwritten`]; what is frozen refuses without asking again.
    #[inline]
    fn learn_kept(hot: &Hot, word: Word, dest: Dest, now: Stamp) -> Option<Learn> {
        if word.is_frozen() && word.dest() != dest && !hot.expired(word, now) {
            return Some(Learn::Refused(Refusal::Damped));
        }
        hot.learn_unwritten(word, dest, now)
    }

    #[inline]
    fn line_of(hash: u64) -> usize {
        // Neither the bits of the shard nor those of the bucket.
        (hash >> 32) as usize % LINES
    }

    #[inline]
    fn read(
        shards: &Shards,
        tables: &mut Vec<Table>,
        epoch: &mut u64,
        hash: u64,
        key: Key,
    ) -> Word {
        if shards.epoch() != *epoch {
            Self::renew(shards, tables, epoch);
        }
        tables.get(Shards::shard_of(hash)).map_or(Word::DEAD, |table| table.read(hash, key))
    }

    #[cold]
    fn renew(shards: &Shards, tables: &mut Vec<Table>, epoch: &mut u64) {
        // Before the tables: if one is published meanwhile, the next call looks again.
        let current = shards.epoch();
        if current != *epoch {
            tables.clear();
            tables.extend(shards.tables());
            *epoch = current;
        }
    }
}
