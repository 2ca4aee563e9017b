//! Counters of what happened to the table as a whole.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::Totals;

/// A counter that threads share.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// [`Totals`] as they are counted, and the learned entries of all segments; away from the lines
/// that readers read.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Tally {
    pub(crate) learned: Counter,
    pub(crate) moves: Counter,
    pub(crate) damped: Counter,
    pub(crate) refused: Counter,
    pub(crate) evicted: Counter,
    pub(crate) expired: Counter,
    pub(crate) flushed: Counter,
    entries: AtomicU32,
}

impl Tally {
    pub(crate) fn totals(&self) -> Totals {
        Totals {
            learned: self.learned.get(),
            moves: self.moves.get(),
            damped: self.damped.get(),
            refused: self.refused.get(),
            evicted: self.evicted.get(),
            expired: self.expired.get(),
            flushed: self.flushed.get(),
        }
    }

    /// Takes a place among the learned entries of all segments, if there is one.
    pub(crate) fn reserve(&self, max: u32) -> bool {
        let room = self.entries.fetch_add(1, Ordering::Relaxed) < max;
        if !room {
            self.release();
        }
        room
    }

    /// Gives a place back.
    pub(crate) fn release(&self) {
        self.entries.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether all places are taken.
    pub(crate) fn is_full(&self, max: u32) -> bool {
        self.entries.load(Ordering::Relaxed) >= max
    }
}
