//! Whether an idle worker looks again before it sleeps.
//!
//! To sleep and to be woken costs more than to forward a frame, on virtual machines several times
//! more. So while frames come at short intervals a worker goes on looking for a little longer than
//! such an interval. It lets others run between two looks, it gives up when they need the processor,
//! and it never does so when it is quiet: one frame after a pause always finds it asleep.

use std::time::Duration;

/// Nanoseconds after which a look comes late: somebody else had the processor meanwhile, for longer
/// than a pod needs to answer a frame.
const LATE: u64 = 20_000;

/// When frames came, as far as it matters for the next pause. All times are nanoseconds of one
/// monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spin {
    /// For how long to look at most after the last frame; also the longest mean interval between
    /// frames at which it looks at all. Zero: never.
    window: u64,
    /// Mean time from the end of a turn's work to the next frame, of the latest eight or so. None
    /// counts for more than four windows, so that a pause is forgotten after a dozen quick frames.
    interval: u64,
    /// When the last turn that had frames ended.
    quiet_since: u64,
    /// When it was last looked.
    looked: u64,
    looking: bool,
}

impl Spin {
    /// One that looks for `window` at most. Nothing has come yet.
    pub(super) fn new(window: Duration) -> Self {
        let window = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4);
        Self { window, interval: 4 * window, quiet_since: 0, looked: 0, looking: false }
    }

    /// Whether to look without waiting, rather than to sleep.
    pub(super) const fn looking(&self) -> bool {
        self.looking
    }

    /// Frames have come at `now`.
    pub(super) fn came(&mut self, now: u64) {
        let interval = now.saturating_sub(self.quiet_since).min(4 * self.window);
        self.interval = self.interval - self.interval / 8 + interval / 8;
    }

    /// They have been taken, at `now`.
    pub(super) const fn done(&mut self, now: u64) {
        self.quiet_since = now;
        self.looked = now;
        self.looking = self.interval < self.window;
    }

    /// A look at `now` found nothing.
    pub(super) const fn missed(&mut self, now: u64) {
        let late = now.saturating_sub(self.looked) > LATE;
        self.looked = now;
        self.looking = !late && now.saturating_sub(self.quiet_since) < self.window;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICRO: u64 = 1000;

    /// Frames every `interval`, each taken in a microsecond; returns the time after the last.
    fn frames(spin: &mut Spin, start: u64, interval: u64, count: u64) -> u64 {
        let mut now = start;
        for _ in 0..count {
            now += interval;
            spin.came(now);
            now += MICRO;
            spin.done(now);
        }
        now
    }

    fn spin() -> Spin {
        Spin::new(Duration::from_micros(50))
    }

    #[test]
    fn it_looks_only_once_frames_come_quickly() {
        let mut spin = spin();
        assert!(!spin.looking());
        let now = frames(&mut spin, 0, 10 * MICRO, 5);
        assert!(!spin.looking(), "five frames make no rhythm");
        frames(&mut spin, now, 10 * MICRO, 20);
        assert!(spin.looking());
    }

    #[test]
    fn slow_traffic_never_makes_it_look() {
        for interval in [60 * MICRO, 1000 * MICRO, 1_000_000 * MICRO] {
            let mut spin = spin();
            let mut now = 0;
            for _ in 0..1000 {
                now = frames(&mut spin, now, interval, 1);
                assert!(!spin.looking(), "{interval} ns apart");
            }
        }
    }

    #[test]
    fn it_stops_after_the_window_and_a_pause_keeps_it_asleep() {
        let mut spin = spin();
        let now = frames(&mut spin, 0, 10 * MICRO, 100);
        spin.missed(now + 15 * MICRO);
        spin.missed(now + 30 * MICRO);
        spin.missed(now + 45 * MICRO);
        assert!(spin.looking());
        spin.missed(now + 51 * MICRO);
        assert!(!spin.looking());
        // Two pauses among quick frames are enough to stop it, and a dozen frames to start again.
        let now = frames(&mut spin, now, 1_000_000 * MICRO, 2);
        assert!(!spin.looking());
        frames(&mut spin, now, 5 * MICRO, 12);
        assert!(spin.looking());
    }

    #[test]
    fn it_gives_up_when_somebody_else_had_the_processor() {
        let mut spin = spin();
        let now = frames(&mut spin, 0, 5 * MICRO, 100);
        spin.missed(now + MICRO);
        assert!(spin.looking());
        spin.missed(now + 22 * MICRO);
        assert!(!spin.looking());
    }

    #[test]
    fn no_window_means_never() {
        let mut spin = Spin::new(Duration::ZERO);
        frames(&mut spin, 0, 0, 1000);
        assert!(!spin.looking());
    }
}
