//! Whether a station that appears elsewhere is followed.

use crate::limits::Damping;
use crate::word::{Stamp, tenths};

/// [`Damping`] in tenths of a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    moves: u32,
    window: u32,
    freeze: u32,
}

impl From<Damping> for Rule {
    fn from(damping: Damping) -> Self {
        Self {
            moves: u32::from(damping.moves).min(Moves::FROZEN - 1),
            window: tenths(damping.window_ms, Moves::MAX_SPAN),
            freeze: tenths(damping.freeze_ms, Moves::MAX_SPAN),
        }
    }
}

/// A station's recent moves: 24 bits of a stamp (when the window or the freeze began) and how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moves(u32);

/// What to do with a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Follow it.
    Follow(Moves),
    /// Refuse it, and hold the entry where it is from now on.
    Freeze(Moves),
    /// Refuse it: the entry is held.
    Held,
}

impl Moves {
    const FROZEN: u32 = 255;
    /// Nine days: half of what 24 bits count.
    const MAX_SPAN: u32 = (1 << 23) - 1;

    const fn new(count: u32, since: Stamp) -> Self {
        Self((since.low24() << 8) | count)
    }

    const fn count(self) -> u32 {
        self.0 & 0xff
    }

    /// Tenths of a second since the window or the freeze began; zero for a future beginning.
    const fn age(self, now: Stamp) -> u32 {
        let age = now.low24().wrapping_sub(self.0 >> 8) & 0x00ff_ffff;
        if age > Self::MAX_SPAN { 0 } else { age }
    }

    /// What to do with one more move at `now`.
    pub(crate) const fn attempt(self, now: Stamp, rule: Rule) -> Verdict {
        let (count, fresh) = match self.count() {
            0 => (0, true),
            Self::FROZEN if self.age(now) < rule.freeze => return Verdict::Held,
            Self::FROZEN => (0, true),
            count if self.age(now) < rule.window => (count, false),
            _ => (0, true),
        };
        if count >= rule.moves {
            Verdict::Freeze(Self::new(Self::FROZEN, now))
        } else if fresh {
            Verdict::Follow(Self::new(1, now))
        } else {
            Verdict::Follow(Self(self.0 + 1))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tick;

    /// The moves at these milliseconds: `f`ollowed, `F`rozen, `h`eld.
    fn run(damping: Damping, at: &[u64]) -> String {
        let mut moves = Moves::default();
        let step = |&ms: &u64| match moves.attempt(Stamp::of(Tick(ms)), damping.into()) {
            Verdict::Follow(next) => {
                moves = next;
                'f'
            }
            Verdict::Freeze(next) => {
                moves = next;
                'F'
            }
            Verdict::Held => 'h',
        };
        at.iter().map(step).collect()
    }

    #[test]
    fn moves_are_followed_until_they_are_too_many() {
        let default = Damping::default();
        let three = Damping { moves: 3, window_ms: 1000, freeze_ms: 500 };
        let never = Damping { moves: 0, window_ms: 1000, freeze_ms: 1000 };
        for (name, damping, at, expect) in [
            ("one move", default, &[5][..], "f"),
            ("five at once, then frozen", default, &[0, 0, 0, 0, 0, 0, 0][..], "fffffFh"),
            ("held for 30 s", default, &[0, 1, 2, 3, 4, 1000, 30_900, 31_000][..], "fffffFhf"),
            ("a window ends", three, &[0, 100, 200, 1000, 1100, 1200, 1300][..], "ffffffF"),
            ("just within the window", three, &[0, 100, 900, 999][..], "fffF"),
            ("afresh after the freeze", three, &[0, 0, 0, 0, 500, 500, 500, 500][..], "fffFfffF"),
            ("a fixed place", never, &[0, 999, 1000][..], "FhF"),
        ] {
            assert_eq!(run(damping, at), expect, "{name}");
        }
    }

    #[test]
    fn spans_and_counts_beyond_the_representation_are_clamped() {
        let endless = Damping { moves: 255, window_ms: u64::MAX, freeze_ms: u64::MAX };
        let at = [0; 256];
        let seen = run(endless, &at);
        assert_eq!(seen.matches('f').count(), 254);
        assert!(seen.ends_with("Fh"));
    }
}
