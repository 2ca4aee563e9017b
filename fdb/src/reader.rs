//! A worker's own view of the table.

use std::sync::Arc;

use encap::{MacAddr, StationMac};

use crate::shard::{SHARDS, Shards};
use crate::table::Table;
use crate::word::{Key, Stamp, Word};
use crate::{Dest, Fdb, Learn, Lookup, Refusal, SegmentId, Tick};

/// A worker's own view of the table: one per thread.
///
/// It holds the parts of the shared table, so that nothing is counted or locked: a look-up is a
/// hash and one cache line. (A cache of answers in front of it was tried and costs more than it
/// saves, at any size.) It holds on to tables that have been replaced until its next call; a worker
/// that is about to sleep for long calls [`Reader::release`].
#[derive(Debug)]
pub struct Reader {
    fdb: Arc<Fdb>,
    view: View,
}

/// The published tables of a moment.
#[derive(Debug)]
struct View {
    tables: Box<[Table; SHARDS]>,
    epoch: u64,
}

impl View {
    fn of(shards: &Shards) -> Self {
        // Before the tables: if one is published meanwhile, the next call looks again.
        let epoch = shards.epoch();
        Self { tables: Box::new(std::array::from_fn(|shard| shards.table(shard))), epoch }
    }

    #[inline]
    fn read(&mut self, shards: &Shards, hash: u64, key: Key) -> Word {
        if shards.epoch() != self.epoch {
            self.renew(shards);
        }
        self.tables[Shards::shard_of(hash)].read(hash, key)
    }

    #[cold]
    fn renew(&mut self, shards: &Shards) {
        *self = Self::of(shards);
    }
}

impl Reader {
    pub(crate) fn new(fdb: Arc<Fdb>) -> Self {
        let view = View::of(&fdb.shards);
        Self { fdb, view }
    }

    /// The shared table.
    #[must_use]
    pub const fn fdb(&self) -> &Arc<Fdb> {
        &self.fdb
    }

    /// Where a station lives, as [`Fdb::lookup`].
    #[inline]
    pub fn lookup(&mut self, segment: SegmentId, mac: MacAddr, now: Tick) -> Lookup {
        let Some(key) = Key::of_destination(segment, mac) else { return Lookup::Unknown };
        let fdb = &*self.fdb;
        let Some(segment) = fdb.segments.get(segment) else { return Lookup::Unknown };
        let word = self.view.read(&fdb.shards, fdb.shards.hash(key), key);
        if word.is_dead() || segment.hot.expired(word, Stamp::of(now)) {
            return Lookup::Unknown;
        }
        word.dest().into()
    }

    /// Takes in that a frame came from this station at this place, as [`Fdb::learn`].
    #[inline]
    pub fn learn(&mut self, id: SegmentId, mac: StationMac, dest: Dest, now: Tick) -> Learn {
        let fdb = &*self.fdb;
        let segment = fdb.segments.get(id).filter(|segment| segment.hot.learning());
        let Some(segment) = segment else {
            return fdb.tally.tell(Learn::Refused(Refusal::Disabled));
        };
        let key = Key::new(id, mac);
        let hash = fdb.shards.hash(key);
        let word = self.view.read(&fdb.shards, hash, key);
        if let Some(learn) = segment.hot.learn_unwritten(word, dest, Stamp::of(now)) {
            return fdb.tally.tell(learn);
        }
        let view = &mut self.view;
        fdb.learn_written(segment, key, word, dest, now, || view.read(&fdb.shards, hash, key))
    }

    /// Lets go of tables that have been replaced.
    pub fn release(&mut self) {
        if self.fdb.shards.epoch() != self.view.epoch {
            self.view.renew(&self.fdb.shards);
        }
    }
}
