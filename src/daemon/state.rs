//! The daemon's state, all of it owned by the control loop, and the one way it changes: a new
//! topology is built from what is to be, compared with what is, and the differences are applied.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use encap::StationMac;
use fdb::{Dest, Fdb, Origin, PortId, Scope, SegmentId, Tick, VtepId};
use switch::{Change, Counters, PortRole, PortSpec, Reading, Topology, TopologySpec};
use tracing::warn;

use super::attachments::Attachments;
use super::clock::Clock;
use super::lifecycle::Bringing;
use super::plan;
use super::pods::Pods;
use super::ports::{Attachment, Devices};
use super::underlay::Underlay;
use super::watch::Watch;
use super::worker::{self, Order};
use crate::config::{Config, Segment};
use crate::io::port::PortOffloads;

/// VTEPs beside the configured ones that are remembered: segments without `strict_peers` hear
/// whoever sends.
const HEARD_MAX: usize = 1024;
/// How long a VTEP that was only heard is remembered after it fell silent.
const HEARD_MS: u64 = 10 * 60 * 1000;

/// Everything the control loop knows.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) config_path: PathBuf,
    pub(super) config: Config,
    pub(super) clock: Clock,
    pub(super) fdb: Arc<Fdb>,
    pub(super) topology: Arc<Topology>,
    pub(super) workers: Vec<worker::Handle>,
    pub(super) devices: Devices,
    pub(super) ports: BTreeMap<String, Attachment>,
    pub(super) offloads: HashMap<PortId, Arc<PortOffloads>>,
    pub(super) underlay: Underlay,
    /// VTEPs that nobody has named, by segment, and when they last appeared.
    pub(super) heard: BTreeMap<(IpAddr, String), Tick>,
    /// VTEPs whose path turned out narrower than the interface, and since when.
    pub(super) lowered: HashMap<VtepId, Tick>,
    /// The pod network, if this node is part of one.
    pub(super) pods: Option<Pods>,
    /// The attachments and their addresses.
    pub(super) attachments: Attachments,
    /// Ports that are on their way up.
    pub(super) bringing: Bringing,
    /// What is heard of changes outside.
    pub(super) watch: Watch,
    /// The topologies before, as long as a worker may hold them: to drop a large one takes time
    /// that no worker has.
    retired: Vec<Arc<Topology>>,
    /// VTEPs were heard that the topology does not have yet.
    unheard: bool,
    /// What a slot had counted when its present user came.
    baselines: Baselines,
    /// Flushes to be repeated: a worker may have learned by the topology before.
    flush_again: Vec<Scope>,
}

#[derive(Debug, Default)]
struct Baselines {
    ports: HashMap<PortId, Reading>,
    vteps: HashMap<VtepId, (Reading, Tick)>,
}

/// What a [`Daemon`] begins with.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) config_path: PathBuf,
    pub(super) config: Config,
    pub(super) clock: Clock,
    pub(super) fdb: Arc<Fdb>,
    pub(super) workers: Vec<worker::Handle>,
    pub(super) devices: Devices,
    pub(super) underlay: Underlay,
}

impl Daemon {
    /// A daemon without ports.
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { config_path, config, clock, fdb, workers, devices, underlay } = parts;
        let attachments = Attachments::new(&config);
        let topology = Arc::new(Topology::empty(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0));
        Self {
            config_path,
            config,
            clock,
            fdb,
            topology,
            workers,
            devices,
            ports: BTreeMap::new(),
            offloads: HashMap::new(),
            underlay,
            heard: BTreeMap::new(),
            lowered: HashMap::new(),
            pods: None,
            attachments,
            bringing: Bringing::default(),
            watch: Watch::new(),
            retired: Vec::new(),
            unheard: false,
            baselines: Baselines::default(),
            flush_again: Vec::new(),
        }
    }

    /// The workers' counters.
    pub(super) fn counters(&self) -> impl Iterator<Item = &Counters> {
        self.workers.iter().map(|worker| &*worker.counters)
    }

    /// What a port has counted in its life.
    pub(super) fn read_port(&self, port: PortId) -> Reading {
        let reading = switch::read_port(self.counters(), port);
        self.baselines.ports.get(&port).map_or_else(|| reading.clone(), |base| reading.since(base))
    }

    /// What a VTEP has counted in its life, and when it was last heard.
    pub(super) fn read_vtep(&self, vtep: VtepId) -> (Reading, Option<Tick>) {
        let reading = switch::read_vtep(self.counters(), vtep);
        let heard = self.counters().filter_map(|counters| counters.vtep(vtep).rx.last_heard());
        let heard = heard.max();
        match self.baselines.vteps.get(&vtep) {
            Some((base, since)) => (reading.since(base), heard.filter(|heard| heard >= since)),
            None => (reading, heard),
        }
    }

    fn spec(&self) -> TopologySpec {
        let (segments, port) = (&self.config.segments, self.config.underlay.port);
        let spec = |attachment: &Attachment| PortSpec {
            name: attachment.port.name.as_str().to_owned(),
            mode: plan::mode(&attachment.port.mode),
            mtu: self.devices.rules.mtu(&attachment.port),
            mac: Some(attachment.port.mac),
            up: attachment.facts().is_some(),
            role: plan::role(&attachment.port),
        };
        let ports: Vec<PortSpec> = self.ports.values().map(spec).collect();
        let mut cluster = self.pods.as_ref().map(|pods| pods.segment(port));
        if let Some(cluster) = cluster.as_mut().and_then(|segment| segment.cluster.as_mut()) {
            // Whatever the store says this node has: what a pod here has is the pod's.
            let pods: HashSet<IpAddr> = ports
                .iter()
                .filter(|port| matches!(port.role, PortRole::Pod { .. }))
                .flat_map(|port| port.role.addresses())
                .copied()
                .collect();
            cluster.own_addresses.retain(|own| !pods.contains(own));
        }
        TopologySpec {
            local: self.underlay.local(),
            overlay_mtu: self.underlay.overlay_mtu(),
            segments: segments
                .iter()
                .map(|segment| plan::segment(segment, port))
                .chain(cluster)
                .collect(),
            ports,
            heard: self.heard.keys().cloned().collect(),
        }
    }

    /// Makes the topology what configuration and ports say, and acts on what that changes.
    pub(super) fn apply(&mut self) {
        let next = match self.topology.succeed(&self.spec()) {
            Ok(next) => Arc::new(next),
            Err(errors) => {
                // The configuration was checked for all of this; the last good topology stays.
                for error in errors {
                    warn!("topology: {error}");
                }
                return;
            }
        };
        let changes = self.topology.diff(&next);
        let segments = self.segments_by_name();
        let configure = |id| {
            let config = next.segment(id).and_then(|one| segments.get(one.spec.name.as_str()));
            if let Some(segment) = config {
                self.fdb.configure_segment(id, plan::limits(segment));
            }
        };
        for change in &changes {
            if let Change::SegmentAdded(id) | Change::SegmentChanged(id) = *change {
                configure(id);
            }
        }
        for change in &changes {
            self.prepare(&next, change);
        }
        let before = std::mem::replace(&mut self.topology, Arc::clone(&next));
        self.retired.push(before);
        self.drop_retired();
        for worker in &self.workers {
            worker.order(Order::Topology(Arc::clone(&next)));
        }
        for change in &changes {
            self.conclude(change);
        }
    }

    /// Gives the table the segments' limits, which are none of the topology's business: a change of
    /// them alone makes no other topology.
    pub(super) fn configure_segments(&self) {
        let segments = self.segments_by_name();
        for segment in self.topology.segments() {
            let Some(config) = segments.get(segment.spec.name.as_str()) else { continue };
            let limits = plan::limits(config);
            if self.fdb.limits(segment.id) != Some(limits) {
                self.fdb.configure_segment(segment.id, limits);
            }
        }
    }

    fn segments_by_name(&self) -> HashMap<&str, &Segment> {
        self.config.segments.iter().map(|segment| (segment.name.as_str(), segment)).collect()
    }

    /// What has to be there before a worker forwards by the next topology. Segments are configured
    /// by then.
    fn prepare(&mut self, next: &Topology, change: &Change) {
        let now = self.clock.tick();
        match *change {
            Change::PortAdded(id) => {
                let reading = switch::read_port(self.counters(), id);
                self.baselines.ports.insert(id, reading);
                self.pin(next, id, now);
            }
            Change::PortChanged { id, .. } => self.pin(next, id, now),
            Change::VtepAdded(id) => {
                let reading = switch::read_vtep(self.counters(), id);
                self.baselines.vteps.insert(id, (reading, now));
            }
            Change::SegmentAdded(_)
            | Change::SegmentChanged(_)
            | Change::SegmentRemoved(_)
            | Change::PortRemoved(_)
            | Change::VtepRemoved(_)
            | Change::VtepLeft { .. } => {}
        }
    }

    /// Tells the table where a port's own device is: known before it speaks, and not to be taken
    /// over from elsewhere. What was told by the topology before, and is so no longer, is taken
    /// back; an operator's own entries are left alone.
    fn pin(&self, next: &Topology, id: PortId, now: Tick) {
        repin(&self.fdb, id, &pins(&self.topology, id), &pins(next, id), now);
    }

    /// What follows once the workers have been told.
    fn conclude(&mut self, change: &Change) {
        let scope = match *change {
            Change::SegmentRemoved(id) => {
                self.fdb.remove_segment(id);
                Scope::segment(id).with_pinned()
            }
            Change::PortRemoved(id) => {
                self.baselines.ports.remove(&id);
                self.offloads.remove(&id);
                Scope::dest(Dest::Port(id)).with_pinned()
            }
            Change::VtepRemoved(id) => {
                self.baselines.vteps.remove(&id);
                Scope::dest(Dest::Vtep(id)).with_pinned()
            }
            Change::VtepLeft { segment, vtep } => {
                Scope { segment: Some(segment), ..Scope::dest(Dest::Vtep(vtep)) }
            }
            Change::PortChanged { id, flush: true } => Scope::dest(Dest::Port(id)),
            Change::PortChanged { flush: false, .. }
            | Change::SegmentAdded(_)
            | Change::SegmentChanged(_)
            | Change::PortAdded(_)
            | Change::VtepAdded(_) => return,
        };
        self.fdb.flush(scope);
        self.flush_again.push(scope);
    }

    /// Drops the topologies that no worker holds any more.
    fn drop_retired(&mut self) {
        self.retired.retain(|topology| Arc::strong_count(topology) > 1);
    }

    /// Repeats the flushes of the last second, and drops what was replaced: by now every worker has
    /// the topology.
    pub(super) fn flush_again(&mut self) {
        self.drop_retired();
        for scope in std::mem::take(&mut self.flush_again) {
            // Ports and VTEPs are named with their generation; only a segment's slot may have a
            // new user by now, whose static entries are none of ours.
            let reused =
                scope.pinned && scope.segment.is_some_and(|id| self.topology.segment(id).is_some());
            if !reused {
                self.fdb.flush(scope);
            }
        }
    }

    /// Remembers a VTEP that nobody has named, as far as there is room.
    pub(super) fn hear(&mut self, address: IpAddr, segment: SegmentId) {
        let Some(segment) = self.topology.segment(segment) else { return };
        if segment.spec.strict_peers {
            return;
        }
        let key = (address, segment.spec.name.clone());
        let known = self.heard.contains_key(&key);
        if known || self.heard.len() >= HEARD_MAX {
            return;
        }
        self.heard.insert(key, self.clock.tick());
        self.unheard = true;
    }

    /// Takes those that were heard into the topology.
    pub(super) fn apply_heard(&mut self) {
        if std::mem::take(&mut self.unheard) {
            self.apply();
        }
    }

    /// Forgets VTEPs that were only heard and have been silent for long.
    pub(super) fn forget_silent(&mut self) {
        let now = self.clock.tick();
        let before = self.heard.len();
        let silent = |daemon: &Self, address: IpAddr, since: Tick| {
            let vtep = daemon.topology.vtep_at(address);
            let heard = vtep.and_then(|vtep| daemon.read_vtep(vtep.id).1).unwrap_or(since);
            now.since(heard.max(since)) > HEARD_MS
        };
        let keys: Vec<_> = self
            .heard
            .iter()
            .filter(|((address, _), since)| silent(self, *address, **since))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &keys {
            self.heard.remove(key);
        }
        if self.heard.len() != before {
            self.apply();
        }
    }
}

/// A segment, and the address that a port's own device has in it.
type Pin = (SegmentId, StationMac);

/// Where a topology has a port's own device.
fn pins(topology: &Topology, id: PortId) -> Vec<Pin> {
    let Some(port) = topology.port(id).filter(|port| port.spec.up) else { return Vec::new() };
    let Some(mac) = port.spec.mac else { return Vec::new() };
    // Where frames are routed, nobody is looked up by MAC.
    let bridged = |id: &SegmentId| {
        topology.segment(*id).is_some_and(|segment| segment.spec.cluster.is_none())
    };
    let segments = port.mode.memberships().map(|(segment, _)| segment).filter(bridged);
    segments.map(|segment| (segment, mac)).collect()
}

/// Makes `new` of a port's `old` pins. An address that another port has by now stays there.
fn repin(fdb: &Fdb, id: PortId, old: &[Pin], new: &[Pin], now: Tick) {
    for (segment, mac) in old.iter().filter(|pin| !new.contains(pin)) {
        let own = Scope::dest(Dest::Port(id)).with_pinned();
        fdb.flush(Scope { segment: Some(*segment), mac: Some(*mac), ..own });
    }
    for (segment, mac) in new.iter().filter(|pin| !old.contains(pin)) {
        fdb.insert(*segment, *mac, Dest::Port(id), Origin::Control, now);
    }
}

#[cfg(test)]
mod tests {
    use encap::MacAddr;
    use fdb::{SegmentLimits, Settings};

    use super::*;

    #[test]
    fn ports_that_swap_their_addresses_are_found_where_they_are() {
        let (fdb, segment, now) = (Fdb::new(Settings::default()), SegmentId(0), Tick(1));
        fdb.configure_segment(segment, SegmentLimits::default());
        let mac = |last| MacAddr([2, 0, 0, 0, 0, last]).station().unwrap();
        let [one, two] = [0, 1].map(|slot| PortId { slot, generation: 0 });
        let [first, second] = [1, 2].map(|last| vec![(segment, mac(last))]);
        repin(&fdb, one, &[], &first, now);
        repin(&fdb, two, &[], &second, now);
        repin(&fdb, one, &first, &second, now);
        repin(&fdb, two, &second, &first, now);
        let mut rows: Vec<_> =
            fdb.entries(now).iter().map(|row| (row.mac, row.dest, row.origin)).collect();
        rows.sort_unstable();
        let control = Origin::Control;
        let swapped = [(mac(1), Dest::Port(two), control), (mac(2), Dest::Port(one), control)];
        assert_eq!(rows, swapped);
        repin(&fdb, one, &second, &[], now);
        assert_eq!(fdb.entries(now).len(), 1);
    }
}
