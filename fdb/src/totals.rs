//! Counters of what happened to the table as a whole.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::Learn;

/// A counter that threads share.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is counted beside the ledgers, and the learned entries of all segments; away from the lines
/// that readers read.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Tally {
    pub(crate) refused: Counter,
    pub(crate) expired: Counter,
    pub(crate) flushed: Counter,
    entries: AtomicU32,
}

impl Tally {
    /// Counts it where learning was refused. Returns what it was told.
    #[inline]
    pub(crate) fn tell(&self, learn: Learn) -> Learn {
        if matches!(learn, Learn::Refused(_)) {
            self.refused.add(1);
        }
        learn
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
