//! Aging: a bounded sweep, and when it is due.
//!
//! Expired entries are unknown to everyone already; the sweep gives their places back. Per owner
//! the oldest entry is at hand, so a turn costs the owners it visits and the entries it removes.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use crate::learn::BATCH;
use crate::ledger::Ledger;
use crate::segment::Segment;
use crate::word::{Stamp, tick_after};
use crate::{Expired, Fdb, SegmentId, Tick};

/// Where the sweep stopped; one sweeps at a time.
#[derive(Debug, Default)]
pub(crate) struct Cursor(Mutex<Option<Position>>);

#[derive(Clone, Copy, Debug, Default)]
struct Position {
    segment: u32,
    owner: u32,
}

impl Fdb {
    /// Removes what has expired, in at most `budget` steps: an entry removed or an owner looked
    /// at is one. Goes on where the turn before stopped.
    pub fn expire(&self, now: Tick, budget: usize) -> Expired {
        let mut cursor = self.cursor.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cursor.is_none() {
            // Who learns meanwhile brings the deadline down again, and so does the sweep itself.
            self.deadline.store(u64::MAX, Ordering::Relaxed);
        }
        let mut position = cursor.take().unwrap_or_default();
        let (mut left, mut removed) = (budget.max(1), 0);
        for (SegmentId(id), segment) in self.segments.iter_from(position.segment) {
            if u32::from(id) != position.segment {
                position = Position { segment: id.into(), owner: 0 };
            }
            loop {
                let steps = left.min(BATCH);
                let (turn, finished) = self.sweep(segment, &mut position.owner, steps, now);
                left -= turn.steps;
                removed += turn.removed;
                if finished {
                    break;
                }
                if left == 0 {
                    *cursor = Some(position);
                    self.tally.expired.add(removed as u64);
                    return Expired { removed, done: false };
                }
            }
        }
        self.tally.expired.add(removed as u64);
        Expired { removed, done: true }
    }

    /// When [`Self::expire`] may have something to do next, never before `now`; `None` when
    /// nothing ages.
    #[must_use]
    pub fn next_deadline(&self, now: Tick) -> Option<Tick> {
        if self.cursor.0.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Some(now);
        }
        match self.deadline.load(Ordering::Relaxed) {
            u64::MAX => None,
            deadline => Some(Tick(deadline).max(now)),
        }
    }

    /// At most `steps` steps in one segment, under its lock. Returns whether it is through.
    fn sweep(&self, segment: &Segment, owner: &mut u32, steps: usize, now: Tick) -> (Turn, bool) {
        let mut turn = Turn::default();
        let mut ledger = segment.lock();
        if segment.hot.aging().is_none() {
            return (turn, true);
        }
        while *owner < ledger.owner_slots() {
            if turn.steps == steps {
                return (turn, false);
            }
            turn.steps += 1;
            if self.sweep_oldest(segment, &mut ledger, *owner, now) {
                turn.removed += 1;
            } else {
                *owner += 1;
            }
        }
        (turn, true)
    }

    /// Removes the owner's oldest entry if it has expired.
    fn sweep_oldest(&self, segment: &Segment, ledger: &mut Ledger, owner: u32, now: Tick) -> bool {
        let Some((key, _)) = ledger.oldest(owner) else { return false };
        let Some(found) = self.shards.find(key) else { return false };
        let stamp = Stamp::of(now);
        if segment.hot.expired(found.word, stamp) {
            self.drop_found(ledger, key, found);
            return true;
        }
        if let Some(aging) = segment.hot.aging() {
            self.ends_at(tick_after(now, aging.saturating_sub(found.word.seen().age(stamp))));
        }
        false
    }
}

#[derive(Debug, Default)]
struct Turn {
    steps: usize,
    removed: usize,
}
