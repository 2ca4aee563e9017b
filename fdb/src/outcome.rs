//! The words in which the table answers.

use core::fmt;

use encap::StationMac;

use crate::types::{Dest, Origin, PortId, SegmentId, VtepId};

/// Where a frame's destination lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Behind a port of this node.
    Port(PortId),
    /// Behind a remote VTEP.
    Vtep(VtepId),
    /// Nobody knows: never seen, expired, removed, or no station's address.
    Unknown,
}

impl From<Dest> for Lookup {
    fn from(dest: Dest) -> Self {
        match dest {
            Dest::Port(port) => Self::Port(port),
            Dest::Vtep(vtep) => Self::Vtep(vtep),
        }
    }
}

/// What a frame's source address taught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learn {
    /// The station was unknown. Where a limit was reached, the owner that lost its oldest entry.
    New {
        /// Who paid for the place.
        evicted: Option<Dest>,
    },
    /// The station is known at this place.
    Known,
    /// The station was known elsewhere and is here from now on.
    Moved {
        /// Where it was.
        from: Dest,
    },
    /// Nothing was learned.
    Refused(Refusal),
}

/// Why nothing was learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// A static or control-plane entry says that the station lives elsewhere.
    Static,
    /// The station moved too often and is held where it is.
    Damped,
    /// A limit leaves no room: it is zero, or all room belongs to other segments.
    Limit,
    /// The segment does not learn, or is not configured.
    Disabled,
}

impl Refusal {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Static, Self::Damped, Self::Limit, Self::Disabled];

    /// The reason in one lower-case word, for logs and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Damped => "damped",
            Self::Limit => "limit",
            Self::Disabled => "disabled",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// What became of a static or control-plane entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insert {
    /// The station was unknown.
    New,
    /// The same entry stood already.
    Unchanged,
    /// It took the place of another entry.
    Replaced {
        /// Where that entry said the station lives.
        dest: Dest,
        /// How that entry had come to be.
        origin: Origin,
    },
    /// An operator's entry stands, which a control plane does not replace; or the origin was
    /// [`Origin::Learned`], which only frames can be.
    Refused,
}

/// What to flush: entries that match everything that is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Only in this segment.
    pub segment: Option<SegmentId>,
    /// Only of this owner. Entries of earlier generations of the same slot go too.
    pub dest: Option<Dest>,
    /// Only of this station.
    pub mac: Option<StationMac>,
    /// Static and control-plane entries too.
    pub pinned: bool,
}

impl Scope {
    /// Everything learned.
    #[must_use]
    pub const fn all() -> Self {
        Self { segment: None, dest: None, mac: None, pinned: false }
    }

    /// Everything learned in a segment.
    #[must_use]
    pub const fn segment(segment: SegmentId) -> Self {
        Self { segment: Some(segment), ..Self::all() }
    }

    /// Everything learned from a port or VTEP.
    #[must_use]
    pub const fn dest(dest: Dest) -> Self {
        Self { dest: Some(dest), ..Self::all() }
    }

    /// The same, with static and control-plane entries.
    #[must_use]
    pub const fn with_pinned(self) -> Self {
        Self { pinned: true, ..self }
    }
}

/// What one turn of the sweep did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Entries removed.
    pub removed: usize,
    /// Whether the sweep went round; if not, call again.
    pub done: bool,
}

/// One entry, for an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// The segment.
    pub segment: SegmentId,
    /// The station.
    pub mac: StationMac,
    /// Where it lives.
    pub dest: Dest,
    /// How the entry came to be.
    pub origin: Origin,
    /// Milliseconds since the last refresh (learned) or since it was set.
    pub age_ms: u64,
}

/// Entries of one segment by origin. Expired entries count until they are swept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Learned from frames.
    pub learned: u32,
    /// Set by an operator.
    pub fixed: u32,
    /// Set by a control plane.
    pub control: u32,
    /// Learned entries that made room for others, so far.
    pub evicted: u64,
    /// Times that a station moved, so far.
    pub moves: u64,
    /// Times that a station moved too often and was held, so far.
    pub damped: u64,
}

/// Events since the table was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Stations learned.
    pub learned: u64,
    /// Moves followed.
    pub moves: u64,
    /// Entries frozen for moving too often.
    pub damped: u64,
    /// Frames that taught nothing, for any [`Refusal`].
    pub refused: u64,
    /// Entries evicted by a limit.
    pub evicted: u64,
    /// Entries that aged out.
    pub expired: u64,
    /// Entries flushed or removed.
    pub flushed: u64,
}
