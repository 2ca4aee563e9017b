//! Deletions that come in a mass are rather a store that lost its data, or somebody's mistake, than
//! the truth: they are held back until they are confirmed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// How many nodes may always go.
const FEW: usize = 2;
/// Deletions within this time of each other count together.
const WINDOW: Duration = Duration::from_secs(60);
/// A list at least this much later that says the same confirms a deletion.
pub const CONFIRM_AFTER: Duration = Duration::from_secs(5 * 60);

/// Which deletions were held back, and what was deleted lately.
#[derive(Debug, Default)]
pub(super) struct Guard {
    recent: VecDeque<Duration>,
    held: BTreeMap<String, Duration>,
}

impl Guard {
    /// Whether `more` deletions at once, of the `known` nodes that there are, are too many.
    pub(super) fn is_mass(&mut self, more: usize, known: usize, now: Duration) -> bool {
        while self.recent.front().is_some_and(|at| now.saturating_sub(*at) >= WINDOW) {
            self.recent.pop_front();
        }
        let gone = self.recent.len() + self.held.len() + more;
        gone > FEW && gone * 2 > known + self.recent.len()
    }

    /// Counts a deletion that is carried out.
    pub(super) fn count(&mut self, now: Duration) {
        self.recent.push_back(now);
    }

    pub(super) fn hold(&mut self, key: &str, now: Duration) {
        self.held.entry(key.to_owned()).or_insert(now);
    }

    /// The node is there after all, or gone for good.
    pub(super) fn let_go(&mut self, key: &str) {
        self.held.remove(key);
    }

    pub(super) fn is_held(&self, key: &str) -> bool {
        self.held.contains_key(key)
    }

    /// Whether a list that lacks the node confirms that it was deleted.
    pub(super) fn is_confirmed(&self, key: &str, now: Duration) -> bool {
        self.held.get(key).is_some_and(|since| now.saturating_sub(*since) >= CONFIRM_AFTER)
    }

    pub(super) fn held(&self) -> impl ExactSizeIterator<Item = &str> {
        self.held.keys().map(String::as_str)
    }

    /// When the next deletion can be confirmed.
    pub(super) fn confirmable_at(&self) -> Option<Duration> {
        self.held.values().min().map(|since| *since + CONFIRM_AFTER)
    }
}
