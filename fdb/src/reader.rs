//! A worker's own view of the table.

use std::sync::Arc;

use encap::{MacAddr, StationMac};

use crate::epoch::Held;
use crate::learn::Arrival;
use crate::shard::{SHARDS, Shards};
use crate::table::Table;
use crate::view::View;
use crate::word::{Key, Stamp, Word};
use crate::{Dest, Fdb, Learn, Lookup, Refusal, SegmentId, Tick};

/// A worker's own view of the table: one per thread.
///
/// It holds the parts of the shared table, so that nothing is counted or locked: a look-up is a
/// hash and one cache line. (A cache of answers in front of it was tried and costs more than it
/// saves, at any size.) It holds on to tables that have been replaced until its next look-up; a
/// worker that has none calls [`Reader::release`] now and then.
#[derive(Debug)]
pub struct Reader {
    fdb: Arc<Fdb>,
    tables: Tables,
    /// The station that was known last: a port's frames mostly come from one.
    known: Known,
}

/// That a station is known at a place, by the contract of [`Fdb::generation`], for what is left of
/// a tenth of a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// Zero, which is no station's, for none.
    key: u64,
    /// As [`Word::place`].
    place: u64,
    generation: u32,
    stamp: Stamp,
}

impl Known {
    const NOBODY: Self = Self { key: 0, place: 0, generation: 0, stamp: Stamp::of(Tick(0)) };

    #[inline]
    pub(crate) const fn at(key: Key, dest: Dest, generation: u32, stamp: Stamp) -> Self {
        Self { key: key.raw(), place: Word::place(dest), generation, stamp }
    }
}

type Tables = Held<Box<[Table; SHARDS]>>;

/// The entry of a key in the published tables.
#[inline]
fn read(tables: &mut Tables, shards: &Shards, hash: u64, key: Key) -> Word {
    tables.current(shards.epoch(), || load(shards))[Shards::shard_of(hash)].read(hash, key)
}

fn load(shards: &Shards) -> Box<[Table; SHARDS]> {
    Box::new(std::array::from_fn(|shard| shards.table(shard)))
}

impl Reader {
    pub(crate) fn new(fdb: Arc<Fdb>) -> Self {
        let tables = Held::new(fdb.shards.epoch(), || load(&fdb.shards));
        Self { fdb, tables, known: Known::NOBODY }
    }

    /// The shared table.
    #[must_use]
    pub const fn fdb(&self) -> &Arc<Fdb> {
        &self.fdb
    }

    /// Where a station lives, as [`Fdb::lookup`].
    // Always: handed over a call, an address goes through memory in one width and comes back in
    // another, which stalls for as long as the whole look-up takes.
    #[inline(always)]
    pub fn lookup(&mut self, segment: SegmentId, mac: MacAddr, now: Tick) -> Lookup {
        let Some(key) = Key::of_destination(segment, mac) else { return Lookup::Unknown };
        let fdb = &*self.fdb;
        let Some(segment) = fdb.segments.get(segment) else { return Lookup::Unknown };
        let word = read(&mut self.tables, &fdb.shards, fdb.shards.hash(key), key);
        if word.is_dead() || segment.hot.expired(word, Stamp::of(now)) {
            return Lookup::Unknown;
        }
        word.dest().into()
    }

    /// Takes in that a frame came from this station at this place, as [`Fdb::learn`]. That the
    /// station was evicted meanwhile may show a tenth of a second late.
    #[inline(always)]
    pub fn learn(&mut self, id: SegmentId, mac: StationMac, dest: Dest, now: Tick) -> Learn {
        let fdb = &*self.fdb;
        let segment = fdb.segments.get(id).filter(|segment| segment.hot.learning());
        let Some(segment) = segment else {
            return fdb.tally.tell(Learn::Refused(Refusal::Disabled));
        };
        let key = Key::new(id, mac);
        // The generation before the table: what is read there is no older than it.
        let (generation, stamp) = (segment.hot.generation(), Stamp::of(now));
        let known = Known::at(key, dest, generation, stamp);
        if self.known == known {
            return Learn::Known;
        }
        let hash = fdb.shards.hash(key);
        let word = read(&mut self.tables, &fdb.shards, hash, key);
        if let Some(learn) = segment.hot.learn_unwritten(word, dest, stamp) {
            if learn == Learn::Known {
                self.known = known;
            }
            return fdb.tally.tell(learn);
        }
        let (tables, arrival) = (&mut self.tables, Arrival { key, hash, dest, now });
        fdb.learn_written(segment, arrival, word, || read(tables, &fdb.shards, hash, key))
    }

    /// The table as it is now, for some frames of one segment; `None` if it does not learn.
    #[inline(always)]
    pub fn view(&mut self, id: SegmentId, now: Tick) -> Option<View<'_>> {
        let Self { fdb, tables, known } = self;
        let hot = &fdb.segments.get(id).filter(|segment| segment.hot.learning())?.hot;
        // As in `learn`: the generation first.
        let generation = hot.generation();
        let tables = tables.current(fdb.shards.epoch(), || load(&fdb.shards));
        Some(View { fdb, hot, tables, known, id, generation, stamp: Stamp::of(now) })
    }

    /// Lets go of tables that have been replaced.
    pub fn release(&mut self) {
        let shards = &self.fdb.shards;
        self.tables.current(shards.epoch(), || load(shards));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SegmentLimits;

    #[test]
    fn a_reader_that_looks_nothing_up_can_let_go_of_old_tables() {
        let fdb = Arc::new(Fdb::default());
        fdb.configure_segment(SegmentId(1), SegmentLimits::default());
        let mut reader = fdb.reader();
        let before: Vec<Table> = fdb.shards.tables().collect();
        for n in 0..SegmentLimits::default().max_macs.into() {
            let mac = MacAddr::from_bits(0x0200_0000_0000 | n).station().unwrap();
            fdb.learn(
                SegmentId(1),
                mac,
                Dest::Port(crate::PortId { slot: 0, generation: 0 }),
                Tick(0),
            );
        }
        let holders = || before.iter().map(Table::holders).max();
        assert_eq!(holders(), Some(2), "this test, and the reader");
        reader.release();
        assert_eq!(holders(), Some(1));
    }
}
