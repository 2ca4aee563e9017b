//! How often the gateway tells senders of errors (RFC 4443 section 2.4, RFC 1812 section 4.3.2.8):
//! those for which [`crate::forward::Answer::is_paced`]. Each worker has a pace of its own, for all of
//! its ports together.

use fdb::Tick;

/// Errors that may come at once.
const BURST: u64 = 100;
/// Errors per second, from then on: one each millisecond.
const EACH_MS: u64 = 1;

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    tokens: u64,
    filled: Tick,
}

impl Default for Pace {
    fn default() -> Self {
        Self { tokens: BURST, filled: Tick(0) }
    }
}

impl Pace {
    /// Whether one more may be sent at `now`.
    pub(crate) fn take(&mut self, now: Tick) -> bool {
        let earned = now.since(self.filled).saturating_mul(EACH_MS);
        self.tokens = self.tokens.saturating_add(earned).min(BURST);
        self.filled = self.filled.max(now);
        let left = self.tokens.checked_sub(1);
        self.tokens = left.unwrap_or(0);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_one_each_millisecond() {
        let mut pace = Pace::default();
        let mut at = |now| (0..1000).filter(|_| pace.take(Tick(now))).count() as u64;
        assert_eq!(at(7), BURST);
        assert_eq!(at(7), 0);
        assert_eq!(at(8), 1);
        assert_eq!(at(6), 0, "time that goes back earns nothing");
        assert_eq!(at(8), 0);
        assert_eq!(at(18), 10);
        assert_eq!(at(u64::MAX), BURST);
    }
}
