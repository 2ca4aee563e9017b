//! The daemon's one clock: milliseconds since it started, never backwards, never set.

use std::time::Instant;

use fdb::Tick;

/// Reads the monotonic clock. Copies share their origin.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that begins at zero.
    #[must_use]
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// Milliseconds since the start.
    #[must_use]
    pub fn tick(&self) -> Tick {
        Self::tick_of(self.nanos())
    }

    /// Nanoseconds since the start.
    #[must_use]
    pub fn nanos(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The millisecond that a nanosecond since the start is in.
    #[must_use]
    pub const fn tick_of(nanos: u64) -> Tick {
        Tick(nanos / 1_000_000)
    }
}
