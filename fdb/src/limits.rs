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

/// Where the room for one more learned entry comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// There is room.
    Free,
    /// The owner's oldest entry makes room.
    Own,
    /// The oldest entry of the segment's heaviest owner makes room.
    Heaviest,
    /// There is none.
    Nowhere,
}

/// How full the places are in which a new entry would count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fill {
    /// Learned entries of the owner in the segment, and their cap.
    pub(crate) owner: (u32, u32),
    /// Learned entries of the segment, and their cap.
    pub(crate) segment: (u32, u32),
    /// Whether all segments together have reached theirs.
    pub(crate) all_full: bool,
}

impl Fill {
    /// Who makes room: whoever is above its own cap first, then the heaviest of the segment, so
    /// that a flood from one place costs nobody else an entry.
    pub(crate) const fn room(&self) -> Room {
        let (owned, cap) = self.owner;
        let (total, max) = self.segment;
        if cap == 0 || max == 0 {
            Room::Nowhere
        } else if owned >= cap {
            Room::Own
        } else if total >= max {
            Room::Heaviest
        } else if !self.all_full {
            Room::Free
        } else if total > 0 {
            Room::Heaviest
        } else {
            Room::Nowhere
        }
    }

    /// Whether one entry less would make room: nothing is above its cap.
    pub(crate) const fn lacks_one(&self) -> bool {
        self.owner.0 <= self.owner.1 && self.segment.0 <= self.segment.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_makes_room() {
        use Room::{Free, Heaviest, Nowhere, Own};
        for (name, owner, segment, all_full, room) in [
            ("empty", (0, 4), (0, 8), false, Free),
            ("one place left to the owner", (3, 4), (3, 8), false, Free),
            ("owner at its cap", (4, 4), (4, 8), false, Own),
            ("owner above a lowered cap", (9, 4), (9, 16), false, Own),
            ("owner and segment full", (4, 4), (8, 8), false, Own),
            ("segment full", (1, 4), (8, 8), false, Heaviest),
            ("segment full of others", (0, 4), (8, 8), false, Heaviest),
            ("all full", (1, 4), (3, 8), true, Heaviest),
            ("all full of other segments", (0, 4), (0, 8), true, Nowhere),
            ("no cap for the owner", (0, 0), (0, 8), false, Nowhere),
            ("no cap for the segment", (0, 4), (0, 0), false, Nowhere),
        ] {
            let fill = Fill { owner, segment, all_full };
            assert_eq!(fill.room(), room, "{name}");
            assert_eq!(fill.lacks_one(), !name.contains("above"), "{name}");
        }
    }
}
