//! What is where: segments, ports and VTEPs as one immutable snapshot.
//!
//! A snapshot is built from a [`TopologySpec`], which speaks in names and addresses, and from the
//! snapshot before it: whatever has kept its name keeps its slot and generation, so that learned
//! addresses, counters and descriptors that refer to it stay right. Workers hold the snapshot they
//! forward by and change to the next one between two batches.

use crate::check::check;
use crate::cluster::Cluster;
use crate::index::{Address, Index};
use crate::route::Routes;
use crate::spec::{ClusterSpec, PortModeSpec, PortSpec, SegmentSpec, TopologyError, TopologySpec};
use encap::{VlanId, Vni};
use fdb::{PortId, SegmentId, VtepId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

mod follow;

/// A member of a segment: a port, and the tag its frames carry there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The port.
    pub port: PortId,
    /// The VLAN tag towards it; `None` for untagged.
    pub vlan: Option<VlanId>,
}

/// One broadcast domain of a snapshot.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Its slot.
    pub id: SegmentId,
    /// What it was built from.
    pub spec: SegmentSpec,
    /// Ports that are up, ordered by slot.
    pub members: Vec<Member>,
    /// Where flooded frames go on the underlay: the peers, or the one group.
    pub flood: Vec<VtepId>,
    /// VTEPs that may send into it, ordered.
    pub sources: Vec<VtepId>,
    /// The same, one bit per slot: known at one look, however many there are.
    source_slots: Box<[u64]>,
    /// What a cluster segment routes by; `None` for one that is bridged.
    pub(crate) cluster: Option<Box<Cluster>>,
}

impl Segment {
    fn set_sources(&mut self, sources: Vec<VtepId>) {
        let words = sources.last().map_or(0, |last| usize::from(last.slot) / 64 + 1);
        let mut slots = vec![0; words].into_boxed_slice();
        for id in &sources {
            slots[usize::from(id.slot) / 64] |= 1 << (id.slot % 64);
        }
        (self.sources, self.source_slots) = (sources, slots);
    }

    /// Whether stations find each other by MAC address in it: what a cluster segment's pods do not.
    pub(crate) fn is_bridged(&self) -> bool {
        self.spec.cluster.is_none()
    }

    /// Whether a VTEP of the same snapshot may send into the segment.
    #[inline]
    pub(crate) fn is_source(&self, vtep: VtepId) -> bool {
        let word = self.source_slots.get(usize::from(vtep.slot) / 64);
        word.is_some_and(|word| word & (1 << (vtep.slot % 64)) != 0)
    }
}

/// A port of a snapshot.
#[derive(Clone, Debug)]
pub struct Port {
    /// Slot and generation.
    pub id: PortId,
    /// What it was built from.
    pub spec: PortSpec,
    /// How it relates to segments.
    pub mode: PortMode,
}

/// How a port relates to segments, by slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortMode {
    /// Untagged, one segment.
    Access(SegmentId),
    /// Tagged.
    Trunk {
        /// Sorted by VLAN.
        vlans: Vec<(VlanId, SegmentId)>,
        /// The segment of untagged frames.
        native: Option<SegmentId>,
    },
}

/// A remote tunnel endpoint, or a multicast group that stands for many.
#[derive(Clone, Debug)]
pub struct Vtep {
    /// Slot and generation.
    pub id: VtepId,
    /// Where its datagrams go.
    pub address: SocketAddr,
    /// Whether it was named by the configuration, not merely heard.
    pub configured: bool,
    /// The largest layer 3 size an overlay frame to it may have. Shared by all snapshots, lowered
    /// and raised as the path is learned.
    mtu: Arc<AtomicU16>,
}

impl Vtep {
    /// The largest layer 3 size an overlay frame to this VTEP may have.
    #[must_use]
    #[inline]
    pub fn mtu(&self) -> u16 {
        self.mtu.load(Relaxed)
    }

    /// Sets the overlay's MTU towards this VTEP, in every snapshot that knows it.
    pub fn set_mtu(&self, mtu: u16) {
        self.mtu.store(mtu, Relaxed);
    }
}

/// An immutable snapshot.
#[derive(Clone, Debug)]
pub struct Topology {
    local: IpAddr,
    overlay_mtu: u16,
    segments: Vec<Option<Segment>>,
    ports: Vec<Slot<Port>>,
    /// Of the ports, by slot, what the fast path needs to know.
    gates: Vec<Option<Gate>>,
    vteps: Vec<Slot<Vtep>>,
    by_vni: Index<Vni, SegmentId>,
    by_ip: Index<Address, VtepId>,
    segment_names: BTreeMap<String, SegmentId>,
    port_names: BTreeMap<String, PortId>,
    /// As in [`TopologySpec::heard`].
    heard: Vec<(IpAddr, String)>,
}

/// A port as the fast path sees it: up, and untagged in one segment that is bridged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gate {
    pub(crate) port: PortId,
    pub(crate) segment: SegmentId,
    /// As the port's; one that has none has no gate.
    pub(crate) mtu: NonZeroU16,
}

/// A slot and how often it was used before: an empty slot remembers.
#[derive(Clone, Debug)]
struct Slot<T> {
    generation: u16,
    value: Option<T>,
}

impl Topology {
    /// A topology with nothing in it.
    #[must_use]
    pub fn empty(local: IpAddr, overlay_mtu: u16) -> Self {
        Self {
            local,
            overlay_mtu,
            segments: Vec::new(),
            ports: Vec::new(),
            gates: Vec::new(),
            vteps: Vec::new(),
            by_vni: Index::default(),
            by_ip: Index::default(),
            segment_names: BTreeMap::new(),
            port_names: BTreeMap::new(),
            heard: Vec::new(),
        }
    }

    /// The snapshot that `spec` describes, as the successor of `self`. Where nothing differs but ports
    /// and some routes of cluster segments, the rest is copied as it is.
    ///
    /// # Errors
    /// Everything in `spec` that contradicts itself, at once.
    pub fn succeed(&self, spec: &TopologySpec) -> Result<Self, Vec<TopologyError>> {
        self.follow(spec).unwrap_or_else(|| self.build(spec))
    }

    fn build(&self, spec: &TopologySpec) -> Result<Self, Vec<TopologyError>> {
        let errors = check(spec);
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut next = Self::empty(spec.local, spec.overlay_mtu);
        next.heard.clone_from(&spec.heard);
        next.place_segments(self, spec).ok_or_else(|| too_many("segments"))?;
        next.place_vteps(self, spec).ok_or_else(|| too_many("VTEPs"))?;
        next.place_ports(self, spec).ok_or_else(|| too_many("ports"))?;
        next.join_vteps();
        next.join_ports();
        next.place_clusters(|next, spec| {
            Arc::new(Routes::new(spec, |address| next.by_ip.get(&Address(address))))
        });
        Ok(next)
    }

    fn place_segments(&mut self, before: &Self, spec: &TopologySpec) -> Option<()> {
        let held: BTreeMap<(&str, Vni), u16> = before
            .segments()
            .map(|segment| ((segment.spec.name.as_str(), segment.spec.vni), segment.id.0))
            .collect();
        let wanted: Vec<Option<u16>> = spec
            .segments
            .iter()
            .map(|segment| held.get(&(segment.name.as_str(), segment.vni)).copied())
            .collect();
        let slots = allocate(before.segments.len(), &wanted, |slot| {
            before.segments.get(slot).is_some_and(Option::is_some)
        })?;
        let len = slots.iter().map(|&slot| usize::from(slot) + 1).max().unwrap_or(0);
        self.segments = vec![None; len.max(before.segments.len())];
        for (segment, slot) in spec.segments.iter().zip(slots) {
            let id = SegmentId(slot);
            self.by_vni.insert(segment.vni, id);
            self.segment_names.insert(segment.name.clone(), id);
            self.segments[usize::from(slot)] = Some(Segment {
                id,
                spec: segment.clone(),
                members: Vec::new(),
                flood: Vec::new(),
                sources: Vec::new(),
                source_slots: Box::default(),
                cluster: None,
            });
        }
        Some(())
    }

    fn place_vteps(&mut self, before: &Self, spec: &TopologySpec) -> Option<()> {
        let mut wanted: BTreeMap<IpAddr, (SocketAddr, bool)> = BTreeMap::new();
        // Of strangers nobody says it: as the peers of the segment with the lowest number, or as here.
        let mut by_vni: Vec<&SegmentSpec> = spec.segments.iter().collect();
        by_vni.sort_unstable_by_key(|segment| segment.vni);
        let peers = by_vni.iter().find_map(|s| s.peers.first().copied().or(s.multicast));
        let own = || by_vni.iter().find_map(|s| Some(s.cluster.as_ref()?.vtep_port));
        let port = peers.map(|peer| peer.port()).or_else(own).unwrap_or(encap::vxlan::PORT);
        for (address, _) in &spec.heard {
            wanted.insert(*address, (SocketAddr::new(*address, port), false));
        }
        for segment in &spec.segments {
            for peer in segment.vteps().chain(segment.multicast) {
                wanted.insert(peer.ip(), (peer, true));
            }
        }
        let held: Vec<Option<u16>> =
            wanted.keys().map(|ip| before.by_ip.get(&Address(*ip)).map(|id| id.slot)).collect();
        let slots = allocate(before.vteps.len(), &held, |slot| {
            before.vteps.get(slot).is_some_and(|slot| slot.value.is_some())
        })?;
        self.vteps = before.vteps.iter().map(Slot::vacate).collect();
        for ((ip, (address, configured)), slot) in wanted.into_iter().zip(slots) {
            let (id, kept) =
                claim(&mut self.vteps, &before.vteps, slot, |vtep: &Vtep| vtep.address.ip() == ip);
            let id = VtepId { slot: id.0, generation: id.1 };
            let mtu = match kept {
                Some(vtep) if before.overlay_mtu == spec.overlay_mtu => Arc::clone(&vtep.mtu),
                _ => Arc::new(AtomicU16::new(spec.overlay_mtu)),
            };
            self.by_ip.insert(Address(ip), id);
            self.vteps[usize::from(slot)].value = Some(Vtep { id, address, configured, mtu });
        }
        Some(())
    }

    fn place_ports(&mut self, before: &Self, spec: &TopologySpec) -> Option<()> {
        let held: BTreeMap<&str, u16> =
            before.ports().map(|port| (port.spec.name.as_str(), port.id.slot)).collect();
        let wanted: Vec<Option<u16>> =
            spec.ports.iter().map(|port| held.get(port.name.as_str()).copied()).collect();
        let slots = allocate(before.ports.len(), &wanted, |slot| {
            before.ports.get(slot).is_some_and(|slot| slot.value.is_some())
        })?;
        self.ports = before.ports.iter().map(Slot::vacate).collect();
        self.port_names.clear();
        for (port, slot) in spec.ports.iter().zip(slots) {
            let (id, _) = claim(&mut self.ports, &before.ports, slot, |held: &Port| {
                held.spec.name == port.name
            });
            let id = PortId { slot: id.0, generation: id.1 };
            let mode = port.mode.resolve(&self.segment_names)?;
            self.port_names.insert(port.name.clone(), id);
            self.ports[usize::from(slot)].value = Some(Port { id, spec: port.clone(), mode });
        }
        Some(())
    }

    /// Fills in the members.
    fn join_ports(&mut self) {
        let mut members: BTreeMap<SegmentId, Vec<Member>> = BTreeMap::new();
        for port in self.ports().filter(|port| port.spec.up) {
            for (segment, vlan) in port.mode.memberships() {
                members.entry(segment).or_default().push(Member { port: port.id, vlan });
            }
        }
        for segment in self.segments.iter_mut().flatten() {
            segment.members = members.remove(&segment.id).unwrap_or_default();
        }
        self.gates = self.ports.iter().map(|slot| self.gate_of(slot.value.as_ref()?)).collect();
    }

    fn gate_of(&self, port: &Port) -> Option<Gate> {
        let PortMode::Access(segment) = port.mode else { return None };
        let open = port.spec.up && self.segment(segment).is_some_and(Segment::is_bridged);
        let mtu = NonZeroU16::new(port.spec.mtu).filter(|_| open)?;
        Some(Gate { port: port.id, segment, mtu })
    }

    /// Fills in the replication lists and the permitted sources.
    fn join_vteps(&mut self) {
        let mut segments = std::mem::take(&mut self.segments);
        for segment in segments.iter_mut().flatten() {
            let vtep = |address: SocketAddr| self.by_ip.get(&Address(address.ip()));
            let mut sources: Vec<VtepId> = segment.spec.vteps().filter_map(vtep).collect();
            if !segment.spec.strict_peers && segment.spec.cluster.is_none() {
                let heard = self.heard.iter().filter(|(_, name)| *name == segment.spec.name);
                sources.extend(heard.filter_map(|(ip, _)| self.by_ip.get(&Address(*ip))));
            }
            sources.sort_unstable();
            sources.dedup();
            segment.set_sources(sources);
            self.set_flood(segment);
        }
        self.segments = segments;
    }

    /// Fills in the replication list of a segment whose sources are known: its group, or its peers as
    /// they are listed, and behind them those that only routes lead to.
    fn set_flood(&self, segment: &mut Segment) {
        let vtep = |address: &SocketAddr| self.by_ip.get(&Address(address.ip()));
        if let Some(group) = &segment.spec.multicast {
            segment.flood = vtep(group).into_iter().collect();
            return;
        }
        // A peer that is listed twice gets one copy of a flooded frame.
        let mut named = BTreeSet::new();
        let peers = segment.spec.peers.iter().filter_map(vtep);
        segment.flood = peers.filter(|id| named.insert(*id)).collect();
        if segment.spec.cluster.is_some() {
            segment.flood.extend(segment.sources.iter().filter(|id| !named.contains(*id)));
        }
    }

    /// Builds what the cluster segments route by, with the `routes` of each.
    fn place_clusters(&mut self, routes: impl Fn(&Self, &ClusterSpec) -> Arc<Routes>) {
        let mut segments = std::mem::take(&mut self.segments);
        for segment in segments.iter_mut().flatten() {
            let Some(spec) = &segment.spec.cluster else { continue };
            let inside = PortMode::Access(segment.id);
            let ports = self.ports().filter(|port| port.mode == inside);
            let routes = match &segment.cluster {
                Some(cluster) => Arc::clone(cluster.routes()),
                None => routes(self, spec),
            };
            segment.cluster = Some(Box::new(Cluster::new(spec, routes, ports, self.vteps())));
        }
        self.segments = segments;
    }

    /// This node's own VTEP address.
    #[must_use]
    #[inline]
    pub fn local(&self) -> IpAddr {
        self.local
    }

    /// The layer 3 MTU of the overlay as the underlay's interface allows it.
    #[must_use]
    pub fn overlay_mtu(&self) -> u16 {
        self.overlay_mtu
    }

    /// The segments, by slot.
    pub fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().flatten()
    }

    /// The ports, by slot.
    pub fn ports(&self) -> impl Iterator<Item = &Port> {
        self.ports.iter().filter_map(|slot| slot.value.as_ref())
    }

    /// The VTEPs, by slot.
    pub fn vteps(&self) -> impl Iterator<Item = &Vtep> {
        self.vteps.iter().filter_map(|slot| slot.value.as_ref())
    }

    /// The segment in this slot.
    #[must_use]
    #[inline]
    pub fn segment(&self, id: SegmentId) -> Option<&Segment> {
        self.segments.get(usize::from(id.0))?.as_ref()
    }

    /// The port in this slot, if it is still the one that is meant.
    #[must_use]
    #[inline]
    pub fn port(&self, id: PortId) -> Option<&Port> {
        let slot = self.ports.get(usize::from(id.slot))?;
        slot.value.as_ref().filter(|_| slot.generation == id.generation)
    }

    /// The gate of a port, if it has one and is still the one that is meant.
    #[inline]
    pub(crate) fn gate(&self, id: PortId) -> Option<Gate> {
        let gate = *self.gates.get(usize::from(id.slot))?;
        gate.filter(|gate| gate.port == id)
    }

    /// The VTEP in this slot, if it is still the one that is meant.
    #[must_use]
    #[inline]
    pub fn vtep(&self, id: VtepId) -> Option<&Vtep> {
        let slot = self.vteps.get(usize::from(id.slot))?;
        slot.value.as_ref().filter(|_| slot.generation == id.generation)
    }

    /// The segment with this number.
    #[must_use]
    #[inline]
    pub fn segment_of(&self, vni: Vni) -> Option<&Segment> {
        self.segment(self.by_vni.get(&vni)?)
    }

    /// The segment with this name.
    #[must_use]
    pub fn segment_named(&self, name: &str) -> Option<&Segment> {
        self.segment(*self.segment_names.get(name)?)
    }

    /// The port with this name.
    #[must_use]
    pub fn port_named(&self, name: &str) -> Option<&Port> {
        self.port(*self.port_names.get(name)?)
    }

    /// The VTEP at this address.
    #[must_use]
    #[inline]
    pub fn vtep_at(&self, address: IpAddr) -> Option<&Vtep> {
        self.vtep(self.by_ip.get(&Address(address))?)
    }
}

fn too_many(what: &'static str) -> Vec<TopologyError> {
    vec![TopologyError::TooMany(what)]
}

impl<T> Slot<T> {
    fn vacate(&self) -> Self {
        Self { generation: self.generation, value: None }
    }
}

impl PortModeSpec {
    fn resolve(&self, names: &BTreeMap<String, SegmentId>) -> Option<PortMode> {
        let id = |name: &String| names.get(name).copied();
        Some(match self {
            Self::Access(segment) => PortMode::Access(id(segment)?),
            Self::Trunk { vlans, native } => {
                let mut vlans = vlans
                    .iter()
                    .map(|(vlan, segment)| Some((*vlan, id(segment)?)))
                    .collect::<Option<Vec<_>>>()?;
                vlans.sort_unstable();
                let native = match native {
                    Some(segment) => Some(id(segment)?),
                    None => None,
                };
                PortMode::Trunk { vlans, native }
            }
        })
    }
}

impl PortMode {
    /// The segments of the port, each with the tag it has there.
    pub fn memberships(&self) -> impl Iterator<Item = (SegmentId, Option<VlanId>)> + '_ {
        let (untagged, tagged): (Option<SegmentId>, &[(VlanId, SegmentId)]) = match self {
            Self::Access(segment) => (Some(*segment), &[]),
            Self::Trunk { vlans, native } => (*native, vlans),
        };
        untagged
            .map(|segment| (segment, None))
            .into_iter()
            .chain(tagged.iter().map(|(vlan, segment)| (*segment, Some(*vlan))))
    }

    /// The segment of a frame with this tag, or without one.
    #[must_use]
    #[inline]
    pub fn segment(&self, vlan: Option<VlanId>) -> Option<SegmentId> {
        match (self, vlan) {
            (Self::Access(segment), None) => Some(*segment),
            (Self::Access(_), Some(_)) => None,
            (Self::Trunk { native, .. }, None) => *native,
            (Self::Trunk { vlans, .. }, Some(vlan)) => {
                let at = vlans.binary_search_by_key(&vlan, |(vlan, _)| *vlan).ok()?;
                vlans.get(at).map(|(_, segment)| *segment)
            }
        }
    }

    /// The tag that frames of `segment` carry on this port; `None` when it is no member.
    #[must_use]
    #[inline]
    pub fn tag_of(&self, segment: SegmentId) -> Option<Option<VlanId>> {
        match self {
            Self::Access(own) => (*own == segment).then_some(None),
            Self::Trunk { vlans, native } => {
                if *native == Some(segment) {
                    return Some(None);
                }
                vlans.iter().find(|(_, id)| *id == segment).map(|(vlan, _)| Some(*vlan))
            }
        }
    }
}

/// Gives everyone without a slot a free one, lowest first. A slot that was in use just before is
/// taken last, so that a name that goes while another comes does not hand its slot on at once.
fn allocate(
    len: usize,
    wanted: &[Option<u16>],
    in_use_before: impl Fn(usize) -> bool,
) -> Option<Vec<u16>> {
    let kept: BTreeSet<u16> = wanted.iter().flatten().copied().collect();
    let mut free = (0..=u16::MAX)
        .filter(|slot| !kept.contains(slot))
        .filter(|slot| usize::from(*slot) >= len || !in_use_before(usize::from(*slot)));
    wanted.iter().map(|slot| slot.or_else(|| free.next())).collect()
}

/// Takes `slot`: with its generation when the same user had it, else with the next one.
fn claim<'a, T>(
    slots: &mut Vec<Slot<T>>,
    before: &'a [Slot<T>],
    slot: u16,
    same: impl Fn(&T) -> bool,
) -> ((u16, u16), Option<&'a T>) {
    let index = usize::from(slot);
    while slots.len() <= index {
        slots.push(Slot { generation: 0, value: None });
    }
    let held = before.get(index).and_then(|held| held.value.as_ref());
    let kept = held.filter(|held| same(held));
    if kept.is_none() && index < before.len() {
        slots[index].generation = before[index].generation.wrapping_add(1);
    }
    ((slot, slots[index].generation), kept)
}
