//! Whether an idle worker looks again before it sleeps.
//!
//! To sleep and to be woken costs more than to forward a frame, on virtual machines several times
//! more. So while frames come at short intervals a worker goes on looking for a little longer than
//! such an interval. It lets others run between two looks, it gives up when they need the processor,
//! and it never does so when it is quiet: one frame after a pause always finds it asleep.
//!
//! What is short goes by what comes, too: a superframe is as much work as dozens of small frames, and
//! comes at intervals as much longer. Who has worked for a while would not save much by sleeping for
//! a few times as long, and a stream would wait for it to wake up.
//!
//! Where waking is dear enough, a conversation in which everybody sleeps between two frames is so slow by
//! that alone that nobody would ever begin to look. So when intervals are long, but not that long, a worker
//! tries: it looks for longer for some frames, and goes on if they come sooner by it. What comes at
//! a pace of its own is not tried again soon.

use std::time::Duration;

/// Nanoseconds after which a look comes late: somebody else had the processor meanwhile, for longer
/// than a pod needs to answer a frame.
const LATE: u64 = 20_000;

/// For how many times as long as its work takes a worker looks on: a ninth of its time or more is
/// work then.
const WORTH: u64 = 8;

/// What an interval counts for at most where it is asked whether frames come quickly: so many times
/// the patience.
const LONG: u64 = 4;
/// And where it is asked whether a try is worth it, in windows, but no more than [`REACH`]; also for how
/// long a try looks after a frame, and the most that the patience comes to. A processor that was
/// halted may have been given to another machine meanwhile: some hundred microseconds, four times in a
/// round trip.
const LONGEST: u64 = 16;
/// Nanoseconds that a worker looks after a frame at most, unless the window itself is longer.
const REACH: u64 = 1_000_000;

/// Frames of a part of a try: enough for the mean interval to be that of these, whatever was before.
const PART: u32 = 32;
/// Parts after which a try has helped for certain: by chance not so many come quickly in a row.
const HELPED: u32 = 4;
/// And after which it is seen how it is without.
const PARTS: u32 = 32;
/// Frames of sleep in which that is seen; as enough.
const WITHOUT: u32 = 40;
/// Frames until the next try after the first one that did not help, and after many.
const PAUSES: [u32; 2] = [64, 1 << 13];

/// When turns had something to do (frames, mostly), as far as it matters for the next pause. All times are
/// nanoseconds of one monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spin {
    /// The least [`Self::patience`]. Zero: never look.
    window: u64,
    /// The most, and for how long a try looks.
    reach: u64,
    /// Mean time that a turn's work takes, of the latest eight or so. None counts for more than brings
    /// the patience to its most: somebody else may have had the processor meanwhile.
    work: u64,
    /// When the latest turn that had frames began.
    began: u64,
    /// Mean time from the end of a turn's work to the next frame, of the latest eight or so. None
    /// counts for more than four times the patience, so that a pause is forgotten after a dozen quick
    /// frames.
    interval: u64,
    /// The same, none counting for more than the reach: what tries go by.
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
    /// For so many frames, after so many parts in which they came at less than three quarters of
    /// `before`.
    Look { left: u32, parts: u32, before: u64, pause: u32 },
}

impl Trial {
    const FIRST: Self = Self::Rest { left: WITHOUT, pause: PAUSES[0] };

    /// What to do after a frame, with frames at this pace; `tryable` if it is worth a try.
    const fn next(self, pace: u64, tryable: bool) -> Self {
        match self {
            Self::Rest { left: 0, pause } if tryable => {
                Self::Look { left: PART, parts: 0, before: pace, pause }
            }
            Self::Rest { left, pause } => Self::Rest { left: left.saturating_sub(1), pause },
            Self::Look { left, parts, before, pause } if left > 0 && tryable => {
                Self::Look { left: left - 1, parts, before, pause }
            }
            Self::Look { parts, before, pause, .. } => {
                if pace < before / 4 * 3 && parts < PARTS {
                    Self::Look { left: PART, parts: parts + 1, before, pause }
                } else if parts >= HELPED {
                    Self::FIRST
                } else {
                    let [_, most] = PAUSES;
                    Self::Rest { left: pause, pause: if pause < most { pause * 2 } else { most } }
                }
            }
        }
    }

    /// What to do after a frame when frames come quickly anyhow.
    const fn quick(self) -> Self {
        match self {
            Self::Rest { left, pause } if left > WITHOUT => Self::Rest { left: left - 1, pause },
            Self::Rest { pause, .. } | Self::Look { pause, .. } => {
                Self::Rest { left: WITHOUT, pause }
            }
        }
    }
}

impl Spin {
    /// One that looks for `window` at most. Nothing has come yet.
    pub(super) fn new(window: Duration) -> Self {
        let most = u64::MAX / LONGEST;
        let window = u64::try_from(window.as_nanos()).unwrap_or(most).min(most);
        let reach = (LONGEST * window).min(REACH).max(window);
        let (interval, pace, trial) = (LONG * window, reach, Trial::FIRST);
        Self {
            window,
            reach,
            work: 0,
            began: 0,
            interval,
            pace,
            quiet_since: 0,
            looked: 0,
            looking: false,
            trial,
        }
    }

    /// For how long to look after the last frame, but for tries; also the longest mean interval between
    /// frames at which it looks without one.
    const fn patience(&self) -> u64 {
        let worth = WORTH * self.work;
        if worth > self.window { worth } else { self.window }
    }

    /// Whether to look without waiting, rather than to sleep.
    pub(super) const fn looking(&self) -> bool {
        self.looking
    }

    /// Frames have come at `now`.
    pub(super) fn came(&mut self, now: u64) {
        let passed = now.saturating_sub(self.quiet_since);
        self.interval = mean(self.interval, passed, LONG * self.patience());
        self.pace = mean(self.pace, passed, self.reach);
        self.began = now;
    }

    /// They have been taken, at `now`.
    pub(super) const fn done(&mut self, now: u64) {
        self.quiet_since = now;
        self.looked = now;
        self.work = mean(self.work, now.saturating_sub(self.began), self.reach / WORTH);
        let quick = self.interval < self.patience();
        self.trial = if quick {
            self.trial.quick()
        } else {
            // Not when nearly all of them are as long as counts.
            self.trial.next(self.pace, self.pace < self.reach / 16 * 15)
        };
        self.looking = quick || matches!(self.trial, Trial::Look { .. });
    }

    /// A look at `now` found nothing.
    pub(super) const fn missed(&mut self, now: u64) {
        let late = now.saturating_sub(self.looked) > LATE;
        let patience = match self.trial {
            Trial::Rest { .. } => self.patience(),
            Trial::Look { .. } => self.reach,
        };
        self.looked = now;
        self.looking = !late && now.saturating_sub(self.quiet_since) < patience;
    }
}

/// A mean of the latest eight or so, and one more that counts for `most` at most.
const fn mean(of: u64, value: u64, most: u64) -> u64 {
    let value = if value < most { value } else { most };
    of - of / 8 + value / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICRO: u64 = 1000;

    /// Frames every `interval`, each taken in a microsecond; returns the time after the last.
    fn frames(spin: &mut Spin, start: u64, interval: u64, count: u64) -> u64 {
        frames_that_take(MICRO, spin, start, interval, count)
    }

    fn frames_that_take(work: u64, spin: &mut Spin, start: u64, interval: u64, count: u64) -> u64 {
        let mut now = start;
        for _ in 0..count {
            now += interval;
            spin.came(now);
            now += work;
            spin.done(now);
        }
        now
    }

    /// For how long it looks when nothing comes after `now`, in microseconds.
    fn looks_for(spin: &mut Spin, now: u64) -> u64 {
        (1..)
            .find(|passed| {
                spin.missed(now + passed * MICRO);
                !spin.looking()
            })
            .unwrap_or(u64::MAX)
    }

    #[test]
    fn who_has_much_to_do_looks_for_longer() {
        // The work, the interval and for how long it looks after the last frame, in microseconds.
        for (work, interval, looks) in [
            (1, 40, 50..=50),
            (1, 60, 0..=0),
            (40, 60, 300..=320),
            (40, 250, 300..=320),
            (40, 330, 0..=0),
            (10_000, 700, 760..=800),
            (10_000, 900, 0..=0),
        ] {
            let mut spin = spin();
            let now = frames_that_take(work * MICRO, &mut spin, 0, interval * MICRO, 35);
            let looked = if spin.looking() { looks_for(&mut spin, now) } else { 0 };
            assert!(
                looks.contains(&looked),
                "{looked} µs after {work} µs of work every {interval}"
            );
        }
    }

    #[test]
    fn who_had_much_to_do_soon_sleeps_again() {
        let mut spin = spin();
        let now = frames_that_take(100 * MICRO, &mut spin, 0, 20 * MICRO, 1000);
        frames(&mut spin, now, 2000 * MICRO, 8);
        assert!(!spin.looking());
    }

    #[test]
    fn a_turn_that_was_interrupted_is_not_one_that_had_much_to_do() {
        let mut spin = spin();
        let mut now = 0;
        for _ in 0..4 {
            now = frames(&mut spin, now, 250 * MICRO, 8);
            now = frames_that_take(10_000 * MICRO, &mut spin, now, 250 * MICRO, 1);
            assert!(!spin.looking());
        }
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
    fn a_try_ends_when_the_conversation_does() {
        // Wherever in a part of the try that is.
        for count in 1000..1032 {
            let mut spin = spin();
            talk(&mut spin, 180 * MICRO, 110 * MICRO, count);
            assert!(spin.looking());
            let looked = looked(&mut spin, 1000, || 900 * MICRO);
            assert!(looked < 25, "{looked} times, for a thousand seldom frames");
        }
    }

    #[test]
    fn a_long_window_makes_no_longer_tries() {
        let mut spin = Spin::new(Duration::from_millis(1));
        assert_eq!(looked(&mut spin, 10_000, || 5000 * MICRO), 0);
    }

    #[test]
    fn bursts_between_frames_do_not_make_it_try_again_and_again() {
        let (mut spin, mut count) = (spin(), 0);
        let looked = looked(&mut spin, 200_000, || {
            count += 1;
            if count % 112 < 100 { 150 * MICRO } else { 20 * MICRO }
        });
        // Most of them are the quick ones, after each of which it looks.
        assert!(looked < 30_000, "{looked} of 200,000");
    }

    /// How many of so many frames, which come at intervals that `next` tells, are followed by looking.
    fn looked(spin: &mut Spin, count: u32, mut next: impl FnMut() -> u64) -> u32 {
        let mut now = 0;
        let mut step = || {
            now = frames(spin, now, next(), 1);
            u32::from(spin.looking())
        };
        (0..count).map(|_| step()).sum()
    }

    #[test]
    fn what_has_a_pace_of_its_own_is_hardly_ever_tried() {
        for interval in [60, 150, 700] {
            let mut spin = spin();
            let first = looked(&mut spin, 100_000, || interval * MICRO);
            let then = looked(&mut spin, 100_000, || interval * MICRO);
            assert!(first > 0, "tried, {interval} µs apart");
            assert!(first < 1000 && then < 1000, "{first}, {then}, {interval} µs apart");
        }
    }

    #[test]
    fn what_comes_by_chance_is_hardly_ever_tried() {
        for mean in [200.0, 300.0, 500.0] {
            let mut random = 1_u64;
            let looked = looked(&mut spin(), 400_000, || {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let uniform = ((random >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
                (-uniform.ln() * mean) as u64 * MICRO
            });
            assert!(looked < 12_000, "{looked} of 400,000, {mean} µs apart");
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
