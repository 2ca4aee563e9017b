//! A worker's own view of the table.

use std::sync::Arc;

use encap::{MacAddr, StationMac};

use crate::{Dest, Fdb, Learn, Lookup, SegmentId, Tick};

/// A worker's own view of the table: one per thread.
#[derive(Debug)]
pub struct Reader {
    fdb: Arc<Fdb>,
}

impl Reader {
    pub(crate) const fn new(fdb: Arc<Fdb>) -> Self {
        Self { fdb }
    }

    /// The shared table.
    #[must_use]
    pub const fn fdb(&self) -> &Arc<Fdb> {
        &self.fdb
    }

    /// As [`Fdb::lookup`].
    pub fn lookup(&mut self, segment: SegmentId, mac: MacAddr, now: Tick) -> Lookup {
        self.fdb.lookup(segment, mac, now)
    }

    /// As [`Fdb::learn`].
    pub fn learn(&mut self, segment: SegmentId, mac: StationMac, dest: Dest, now: Tick) -> Learn {
        self.fdb.learn(segment, mac, dest, now)
    }

    /// Lets go of what the table has replaced; for a worker that is about to sleep.
    pub fn release(&mut self) {}
}
