//! The keys and values of the table. They are small integers, so that an entry fits in two
//! atomic words; the names and addresses behind them live in the switch's topology.

use core::fmt;

/// Milliseconds on the daemon's monotonic clock. The engine never reads a clock: every call that
/// depends on time takes a tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u64);

impl Tick {
    /// Milliseconds from `earlier` to `self`; zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A segment (one broadcast domain, one VNI) by its slot in the topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u16);

/// A port: its slot in the topology, and the generation of that slot, so that what was meant for
/// a port that is gone reaches nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId {
    /// Index into the topology's ports.
    pub slot: u16,
    /// How many ports have used the slot before.
    pub generation: u16,
}

/// A remote VTEP: slot and generation, as [`PortId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VtepId {
    /// Index into the topology's VTEPs.
    pub slot: u16,
    /// How many VTEPs have used the slot before.
    pub generation: u16,
}

/// Where a station lives, and so also who owns its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dest {
    /// Behind a port of this node.
    Port(PortId),
    /// Behind a remote VTEP.
    Vtep(VtepId),
}

/// How an entry came to be. Traffic moves and ages only what traffic taught.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// Seen as a frame's source address.
    Learned,
    /// Set by an operator; never moved, aged or evicted.
    Static,
    /// Set by a control plane; never moved, aged or evicted by traffic.
    Control,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Learned => "learned",
            Self::Static => "static",
            Self::Control => "control",
        })
    }
}
