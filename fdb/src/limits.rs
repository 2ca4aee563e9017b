//! What a segment may hold, for how long, and how often a station may move.

use crate::types::Dest;

/// How one segment learns. Limits count learned entries only: what an operator or a control plane
/// set is theirs to bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentLimits {
    /// Milliseconds after which an entry that no frame refreshed is unknown; 0 keeps entries until
    /// they are evicted or flushed. At most [`SegmentLimits::MAX_AGING_MS`] counts.
    pub aging_ms: u64,
    /// Learned entries in the segment.
    pub max_macs: u32,
    /// Learned entries of one port within the segment.
    pub per_port: u32,
    /// Learned entries of one VTEP within the segment.
    pub per_vtep: u32,
    /// Whether traffic teaches at all.
    pub learning: bool,
}

impl SegmentLimits {
    /// The longest aging time: 60 days.
    pub const MAX_AGING_MS: u64 = 60 * 24 * 3600 * 1000;

    /// The cap that holds for entries of this owner.
    #[must_use]
    pub const fn cap(&self, owner: Dest) -> u32 {
        match owner {
            Dest::Port(_) => self.per_port,
            Dest::Vtep(_) => self.per_vtep,
        }
    }
}

impl Default for SegmentLimits {
    /// Five minutes (IEEE 802.1Q table 8-6), 8192 entries, which one owner may fill: fairness then
    /// comes from the segment's limit.
    fn default() -> Self {
        Self { aging_ms: 300_000, max_macs: 8192, per_port: 8192, per_vtep: 8192, learning: true }
    }
}

/// When a station that keeps moving is held where it is (the idea of RFC 7432 section 15.1).
///
/// Up to `moves` moves within `window_ms` are followed at once. The next one freezes the entry at
/// its place for `freeze_ms`; frames from elsewhere teach nothing meanwhile. Then it starts afresh.
/// The RFC waits for an operator; 30 s breaks a loop's storm of moves, and lets a station that was
/// carried about in earnest talk again before its user looks for a telephone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damping {
    /// Moves within the window that are followed. At most 254 count.
    pub moves: u8,
    /// Length of the window in milliseconds, counted from its first move.
    pub window_ms: u64,
    /// How long a frozen entry stays where it is, in milliseconds.
    pub freeze_ms: u64,
}

impl Default for Damping {
    fn default() -> Self {
        Self { moves: 5, window_ms: 180_000, freeze_ms: 30_000 }
    }
}

/// What holds for the whole table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Damping of moves.
    pub damping: Damping,
    /// Learned entries of all segments together.
    pub max_entries: u32,
    /// Seed of the hash; `None` takes a random one, so that nobody can aim at a bucket.
    pub seed: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { damping: Damping::default(), max_entries: 1 << 20, seed: None }
    }
}
