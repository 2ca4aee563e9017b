//! The model checker's cell, in the place of the processor's.

use std::sync::atomic::Ordering;

use crate::table::Cell;

/// A cell whose every interleaving is tried.
#[derive(Debug)]
pub(crate) struct Checked(loom::sync::atomic::AtomicU64);

impl Default for Checked {
    fn default() -> Self {
        Self(loom::sync::atomic::AtomicU64::new(0))
    }
}

impl Cell for Checked {
    fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn set(&self, value: u64) {
        // A swap, since loom lets a plain store fall between the two halves of a concurrent
        // compare-exchange, which C++ [atomics.order] rules out.
        self.0.swap(value, Ordering::Release);
    }

    fn replace(&self, old: u64, new: u64) {
        let _ = self.0.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed);
    }

    fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// In every order that the memory model allows, with at most three threads' switches that were
/// not waited for.
pub(crate) fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}
