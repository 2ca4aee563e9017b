//! When what was published is too old to be read.

use std::sync::atomic::AtomicU64;

use crate::table::Cell;

/// Counts publications. The count goes up after something is published and before anything is
/// written to it alone, so that who sees the old count may read what was published before.
#[derive(Debug, Default)]
pub(crate) struct Epoch<C = AtomicU64>(C);

impl<C: Cell> Epoch<C> {
    #[inline]
    pub(crate) fn count(&self) -> u64 {
        self.0.get()
    }

    /// Publishes by `store`.
    pub(crate) fn publish(&self, store: impl FnOnce()) {
        store();
        self.0.add_one();
    }
}

/// What was published, held on to by a reader, so that nothing is counted or locked to read it.
#[derive(Debug)]
pub(crate) struct Held<T> {
    value: T,
    epoch: u64,
}

impl<T> Held<T> {
    /// Takes hold of what `load` says is published.
    pub(crate) fn new(epoch: &Epoch<impl Cell>, load: impl FnOnce() -> T) -> Self {
        // The count first: if something is published meanwhile, the next call takes it.
        let epoch = epoch.count();
        Self { value: load(), epoch }
    }

    /// What is published; loaded anew if something was published since.
    #[inline]
    pub(crate) fn current(&mut self, epoch: &Epoch<impl Cell>, load: impl FnOnce() -> T) -> &T {
        if epoch.count() != self.epoch {
            self.renew(epoch, load);
        }
        &self.value
    }

    #[cold]
    fn renew(&mut self, epoch: &Epoch<impl Cell>, load: impl FnOnce() -> T) {
        *self = Self::new(epoch, load);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checked::{Checked, explore};
    use loom::sync::{Arc, Mutex};

    /// What one table says after another took its place, and news of it.
    #[derive(Default)]
    struct Shared {
        epoch: Epoch<Checked>,
        published: Mutex<Arc<Checked>>,
        told: Checked,
    }

    impl Shared {
        fn load(&self) -> Arc<Checked> {
            Arc::clone(&self.published.lock().unwrap())
        }
    }

    /// A table is published, and something is written to it alone: whoever has heard of that finds
    /// it, though it held on to the table before and looked at any moment.
    #[test]
    #[cfg_attr(miri, ignore = "the model checker switches stacks")]
    fn no_interleaving_leaves_a_reader_with_a_table_that_is_no_longer_written() {
        explore(|| {
            let shared = Arc::new(Shared::default());
            let writer = Arc::clone(&shared);
            let thread = loom::thread::spawn(move || {
                let next = Arc::new(Checked::default());
                writer.epoch.publish(|| *writer.published.lock().unwrap() = Arc::clone(&next));
                next.set(7);
                writer.told.set(1);
            });
            let mut held = Held::new(&shared.epoch, || shared.load());
            for _ in 0..2 {
                let told = shared.told.get();
                let found = held.current(&shared.epoch, || shared.load()).get();
                assert!(found == 7 || told == 0, "an old table");
            }
            thread.join().unwrap();
            assert_eq!(held.current(&shared.epoch, || shared.load()).get(), 7);
        });
    }
}
