//! Whether an idle worker looks again before it sleeps.
//!
//! To sleep and to be woken costs more than to forward a frame, on virtual machines several times
//! more. So while frames come at short intervals a worker goes on looking for a little longer than
//! such an interval. It lets others run between two looks, it gives up when they need the processor,
//! and it never does so when it is quiet: one frame after a pause always finds it asleep.
//!
//! Where waking is dear enough, a conversation in which everybody sleeps between two frames is so slow by
//! that alone that nobody would ever begin to look. So when intervals are long, but not that long, a worker
//! tries: it looks for longer for some frames, and goes on if they come sooner by it. What comes at
//! a pace of its own is not tried again soon.

use std::time::Duration;

/// Nanoseconds after which a look comes late: somebody else had the processor meanwhile, for longer
/// than a pod needs to answer a frame.
const LATE: u64 = 20_000;

/// In windows: what an interval counts for at most where it is asked whether frames come quickly.
const LONG: u64 = 4;
/// And where it is asked whether a try is worth it; also for how long a try looks after a frame. A processor
/// that was halted may have been given to another machine meanwhile: some hundred microseconds, four times
/// in a round trip.
const LONGEST: u64 = 16;

/// Frames of a try: enough for the mean interval to be that of these, whatever was before.
const TRY: u32 = 32;
/// Frames for which a try that helped is gone on with before it is seen how it is without.
const HELPED: u32 = 1024;
/// Frames of sleep in which that is seen; as enough.
const WITHOUT: u32 = 40;
/// Frames until the next try after the first one that did not help, and after many.
const PAUSES: [u32; 2] = [64, 1 << 15];

/// When frames came, as far as it matters for the next pause. All times are nanoseconds of one
/// monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spin {
    /// For how long to look at most after the last frame; also the longest mean interval between
    /// frames at which it looks without a try. Zero: never.
    window: u64,
    /// Mean time from the end of a turn's work to the next frame, of the latest eight or so. None
    /// counts for more than four windows, so that a pause is forgotten after a dozen quick frames.
    interval: u64,
    /// The same, none counting for more than sixteen: what tries go by.
    pace: u64,
    /// When the last turn that had frames ended.
    quiet_since: u64,
    /// When it was last looked.
    looked: u64,
    looking: bool,
    trial: Trial,
}

/// Whether looking is tried where intervals are long.
#[derive(Clone, Copy, Debug)]
enum Trial {
    /// Not for so many frames; and for `pause` if the next try does not help.
    Rest { left: u32, pause: u32 },
    /// For so many frames. Their pace was `before`; that it has become much quicker is known once
    /// `helped`.
    Look { left: u32, before: u64, helped: bool, pause: u32 },
}

impl Trial {
    const FIRST: Self = Self::Rest { left: WITHOUT, pause: PAUSES[0] };

    /// What to do after a frame, with frames at this pace; `tryable` if it is worth a try.
    const fn next(self, pace: u64, tryable: bool) -> Self {
        match self {
            Self::Rest { left: 0, pause } if tryable => {
                Self::Look { left: TRY, before: pace, helped: false, pause }
            }
            Self::Rest { left, pause } => Self::Rest { left: left.saturating_sub(1), pause },
            Self::Look { left: 0, helped: true, .. } => Self::FIRST,
            Self::Look { left: 0, before, pause, .. } if pace < before / 4 * 3 => {
                Self::Look { left: HELPED, before, helped: true, pause }
            }
            Self::Look { left: 0, pause, .. } => {
                let [_, most] = PAUSES;
                Self::Rest { left: pause, pause: if pause < most { pause * 2 } else { most } }
            }
            Self::Look { left, before, helped, pause } => {
                Self::Look { left: left - 1, before, helped, pause }
            }
        }
    }
}

impl Spin {
    /// One that looks for `window` at most. Nothing has come yet.
    pub(super) fn new(window: Duration) -> Self {
        let most = u64::MAX / LONGEST;
        let window = u64::try_from(window.as_nanos()).unwrap_or(most).min(most);
        let (interval, pace) = (LONG * window, LONGEST * window);
        let (looking, trial) = (false, Trial::FIRST);
        Self { window, interval, pace, quiet_since: 0, looked: 0, looking, trial }
    }

    /// Whether to look without waiting, rather than to sleep.
    pub(super) const fn looking(&self) -> bool {
        self.looking
    }

    /// Frames have come at `now`.
    pub(super) fn came(&mut self, now: u64) {
        let passed = now.saturating_sub(self.quiet_since);
        let mean = |of: u64, windows| of - of / 8 + passed.min(windows * self.window) / 8;
        self.interval = mean(self.interval, LONG);
        self.pace = mean(self.pace, LONGEST);
    }

    /// They have been taken, at `now`.
    pub(super) const fn done(&mut self, now: u64) {
        self.quiet_since = now;
        self.looked = now;
        let quick = self.interval < self.window;
        self.trial = if quick {
            Trial::FIRST
        } else {
            // Not when nearly all of them are as long as counts.
            self.trial.next(self.pace, self.pace < (LONGEST - 1) * self.window)
        };
        self.looking = quick || matches!(self.trial, Trial::Look { .. });
    }

    /// A look at `now` found nothing.
    pub(super) const fn missed(&mut self, now: u64) {
        let late = now.saturating_sub(self.looked) > LATE;
        let patience = match self.trial {
            Trial::Rest { .. } => self.window,
            Trial::Look { .. } => LONGEST * self.window,
        };
        self.looked = now;
        self.looking = !late && now.saturating_sub(self.quiet_since) < patience;
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
        for interval in [760 * MICRO, 1000 * MICRO, 1_000_000 * MICRO] {
            let mut spin = spin();
            let mut now = 0;
            for _ in 0..1000 {
                now = frames(&mut spin, now, interval, 1);
                assert!(!spin.looking(), "{interval} ns apart");
            }
        }
    }

    #[test]
    fn what_has_a_pace_of_its_own_is_hardly_ever_tried() {
        for interval in [60 * MICRO, 150 * MICRO, 700 * MICRO] {
            let mut spin = spin();
            let (mut now, mut looked) = (0, [0; 2]);
            for count in 0..200_000 {
                now = frames(&mut spin, now, interval, 1);
                looked[count / 100_000] += u32::from(spin.looking());
            }
            let [first, then] = looked;
            assert!(first > 0, "tried, {interval} ns apart");
            assert!(first < 1000 && then < 200, "{first}, {then}, {interval} ns apart");
        }
    }

    /// A conversation that takes `asleep` from frame to frame when the worker sleeps between them, and
    /// `awake` when it looks. Returns the mean time of the last of so many frames.
    fn talk(spin: &mut Spin, asleep: u64, awake: u64, count: u64) -> u64 {
        let (mut now, mut last) = (0, 0);
        for n in 0..count {
            // It looks every two microseconds until the frame is there, or it has fallen asleep.
            let came = now + awake;
            let mut look = now;
            while spin.looking() && look < came {
                look += 2 * MICRO;
                spin.missed(look);
            }
            let next = if spin.looking() { came } else { now + asleep };
            last += if n >= count / 2 { next - now } else { 0 };
            now = frames(spin, next - MICRO, MICRO, 1);
        }
        last / (count - count / 2)
    }

    #[test]
    fn a_conversation_that_only_sleep_makes_slow_is_woken_up() {
        // Everybody else is as quick as can be, or takes longer than the window.
        for (asleep, awake) in [(140, 20), (180, 45), (140, 70), (180, 110), (600, 400), (700, 25)]
        {
            let mean = talk(&mut spin(), asleep * MICRO, awake * MICRO, 10_000);
            let slack = (asleep - awake) * MICRO / 10;
            assert!(mean < awake * MICRO + slack, "{mean} ns with {awake} awake");
        }
        // It gains too little to be worth a processor.
        let mean = talk(&mut spin(), 140 * MICRO, 120 * MICRO, 100_000);
        assert!(mean > 139 * MICRO, "{mean} ns");
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
