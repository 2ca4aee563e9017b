//! What a new topology changes.

use crate::topology::{Port, Segment, Topology};
use fdb::{PortId, SegmentId, VtepId};

/// One difference between two snapshots, as far as somebody has to act on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A segment is there that was not.
    SegmentAdded(SegmentId),
    /// A segment is gone: what was learned in it goes too.
    SegmentRemoved(SegmentId),
    /// A segment has other peers or rules.
    SegmentChanged(SegmentId),
    /// A VTEP may no longer send into a segment, though it stays in others: what was learned behind
    /// it in this segment goes.
    VtepLeft {
        /// The segment.
        segment: SegmentId,
        /// The VTEP.
        vtep: VtepId,
    },
    /// A port is there that was not.
    PortAdded(PortId),
    /// A port is gone: what was learned behind it goes too.
    PortRemoved(PortId),
    /// A port has another mode or other properties.
    PortChanged {
        /// The port.
        id: PortId,
        /// Whether what was learned behind it is void: its segments changed, or it went down.
        flush: bool,
    },
    /// A VTEP is there that was not.
    VtepAdded(VtepId),
    /// A VTEP is gone: what was learned behind it goes too.
    VtepRemoved(VtepId),
}

impl Topology {
    /// What is different in `next`. Removals come first.
    #[must_use]
    pub fn diff(&self, next: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        let gone = self.ports().filter(|port| next.port(port.id).is_none());
        changes.extend(gone.map(|port| Change::PortRemoved(port.id)));
        let gone = self.vteps().filter(|vtep| next.vtep(vtep.id).is_none());
        changes.extend(gone.map(|vtep| Change::VtepRemoved(vtep.id)));
        let gone = self.segments().filter(|segment| next.same_segment(segment).is_none());
        changes.extend(gone.map(|segment| Change::SegmentRemoved(segment.id)));
        changes.extend(self.departures(next));
        for segment in next.segments() {
            match self.same_segment(segment) {
                None => changes.push(Change::SegmentAdded(segment.id)),
                Some(before) if before.spec != segment.spec => {
                    changes.push(Change::SegmentChanged(segment.id));
                }
                Some(_) => {}
            }
        }
        let new = next.vteps().filter(|vtep| self.vtep(vtep.id).is_none());
        changes.extend(new.map(|vtep| Change::VtepAdded(vtep.id)));
        for port in next.ports() {
            match self.port(port.id) {
                None => changes.push(Change::PortAdded(port.id)),
                Some(before) if before.spec != port.spec || before.mode != port.mode => {
                    let flush = voids_learned(before, port);
                    changes.push(Change::PortChanged { id: port.id, flush });
                }
                Some(_) => {}
            }
        }
        changes
    }

    /// VTEPs that are in `next` but have left a segment that is there too.
    fn departures(&self, next: &Self) -> impl Iterator<Item = Change> {
        let pairs = self.segments().filter_map(|before| Some((before, next.same_segment(before)?)));
        pairs.flat_map(move |(before, after)| {
            // Both are ordered: one pass over the two.
            let mut stay = after.sources.iter().peekable();
            let left = before.sources.iter().filter(move |vtep| {
                while stay.next_if(|other| other < vtep).is_some() {}
                stay.peek() != Some(vtep) && next.vtep(**vtep).is_some()
            });
            left.map(|vtep| Change::VtepLeft { segment: after.id, vtep: *vtep })
        })
    }

    /// The segment that is the same one in this snapshot: same slot, name and number.
    fn same_segment(&self, of: &Segment) -> Option<&Segment> {
        self.segment(of.id)
            .filter(|segment| segment.spec.name == of.spec.name && segment.spec.vni == of.spec.vni)
    }
}

fn voids_learned(before: &Port, after: &Port) -> bool {
    before.mode != after.mode || (before.spec.up && !after.spec.up)
}
