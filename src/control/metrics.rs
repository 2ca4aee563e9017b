//! What the metrics show, and its rendering as Prometheus text.

use std::collections::BTreeMap;

use super::model::{DropRow, PeerRow, PortRow, SegmentRow, Status};

/// Everything that the metrics show, taken at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Version, workers, offloads, totals.
    pub status: Status,
    /// Every port.
    pub ports: Vec<PortRow>,
    /// Every segment, with its FDB in numbers.
    pub segments: Vec<SegmentRow>,
    /// Every remote VTEP.
    pub peers: Vec<PeerRow>,
    /// Every drop reason, those that are zero too; rows of one reason are added up.
    pub drops: Vec<DropRow>,
    /// IO errors by kind, as `underlay_send`.
    pub errors: BTreeMap<String, u64>,
}
