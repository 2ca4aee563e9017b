//! How long to wait before the next try. Pure: nothing here waits.

use std::time::Duration;

/// Delays that double from one failure to the next, each shortened by chance to between half and
/// all of it: thousands of nodes whose server comes back must not all come at once.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
    chance: u64,
}

impl Backoff {
    /// From `first` to `most`; `seed` is different on each node.
    #[must_use]
    pub fn new(first: Duration, most: Duration, seed: u64) -> Self {
        // Xorshift stays at zero for ever.
        Self { first, most, next: first, chance: seed | 1 }
    }

    /// The delay before the next try.
    pub fn delay(&mut self) -> Duration {
        let whole = self.next;
        self.next = (self.next * 2).min(self.most);
        self.part_of(whole)
    }

    /// Half to all of a duration, by chance.
    pub fn part_of(&mut self, whole: Duration) -> Duration {
        // Marsaglia's xorshift64.
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        let half = whole / 2;
        let thousandth = u32::try_from(self.chance % 1001).unwrap_or_default();
        half + half * thousandth / 1000
    }

    /// It worked: the next failure is a first one.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn delays_double_up_to_the_most_and_begin_again() {
        let mut backoff = Backoff::new(SECOND, 10 * SECOND, 7);
        for whole in [1, 2, 4, 8, 10, 10, 10] {
            let delay = backoff.delay();
            assert!(delay >= whole * SECOND / 2 && delay <= whole * SECOND, "{whole}: {delay:?}");
        }
        backoff.reset();
        assert!(backoff.delay() <= SECOND);
    }

    #[test]
    fn nodes_spread_over_the_half() {
        let mut delays: Vec<Duration> = (0..1000)
            .map(|node| Backoff::new(SECOND, SECOND, node * 0x9e37_79b9).delay())
            .collect();
        delays.sort_unstable();
        delays.dedup();
        assert!(delays.len() > 200, "{}", delays.len());
    }
}
