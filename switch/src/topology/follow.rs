//! The successor of a snapshot in which ports are others, and some routes of cluster segments. In a
//! cluster of thousands of nodes that is what happens: a pod comes, a node goes. The rest is copied
//! as it lies in memory, and changed where the routes are others.

use super::{Topology, Vtep, allocate, claim, too_many};
use crate::check::check_attachments;
use crate::index::Address;
use crate::shared_map::Difference;
use crate::spec::{ClusterSpec, PortSpec, SegmentSpec, TopologyError, TopologySpec};
use fdb::{SegmentId, VtepId};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU16;

/// With more than so many routes that are others, all is built anew.
const MOST: usize = 1024;

/// A segment, what it is to be, and what of its routes is different in that.
type Move<'s> = (SegmentId, &'s SegmentSpec, Vec<Difference<'s, IpNet, SocketAddr>>);

impl Topology {
    /// The snapshot that `spec` describes, as [`succeed`](Self::succeed) returns it; `None` where more
    /// is different, or where that has to be seen as a whole to know whether it may be.
    pub(super) fn follow(&self, spec: &TopologySpec) -> Option<Result<Self, Vec<TopologyError>>> {
        let moves = self.moves(spec)?;
        let mut next = self.clone();
        next.move_vteps(self, &moves)?;
        next.move_routes(&moves);
        Some(next.follow_ports(self, spec))
    }

    fn follow_ports(
        mut self,
        before: &Self,
        spec: &TopologySpec,
    ) -> Result<Self, Vec<TopologyError>> {
        if !before.has_ports(&spec.ports) {
            let errors = check_attachments(spec);
            if !errors.is_empty() {
                return Err(errors);
            }
            self.place_ports(before, spec).ok_or_else(|| too_many("ports"))?;
            self.join_ports();
        }
        // All of them have their routes by now, and none is given others.
        self.place_clusters(|_, _| Arc::default());
        Ok(self)
    }

    /// Whether the ports are these, as they are.
    fn has_ports(&self, ports: &[PortSpec]) -> bool {
        let held = |port: &PortSpec| self.port_named(&port.name).is_some_and(|it| it.spec == *port);
        let names: BTreeSet<&str> = ports.iter().map(|port| port.name.as_str()).collect();
        let as_many = self.port_names.len() == ports.len() && names.len() == ports.len();
        as_many && ports.iter().all(held)
    }

    /// The segments whose routes differ in `spec`; `None` if anything else of a segment does.
    fn moves<'s>(&'s self, spec: &'s TopologySpec) -> Option<Vec<Move<'s>>> {
        let same = self.local == spec.local
            && self.overlay_mtu == spec.overlay_mtu
            && self.heard == spec.heard
            && self.segments().count() == spec.segments.len();
        let mut names = BTreeSet::new();
        if !same || !spec.segments.iter().all(|segment| names.insert(segment.name.as_str())) {
            return None;
        }
        let mut moves: Vec<Move<'_>> = Vec::new();
        for next in &spec.segments {
            let held = self.segment_named(&next.name)?;
            let differences = route_differences(&held.spec, next)?;
            if !differences.is_empty() {
                moves.push((held.id, next, differences));
            }
        }
        let count: usize = moves.iter().map(|(_, _, differences)| differences.len()).sum();
        (count <= MOST).then_some(moves)
    }

    /// Gives slots to VTEPs that routes lead to now and nothing did before. `None` if a route is none
    /// that can be judged by itself.
    fn move_vteps(&mut self, before: &Self, moves: &[Move<'_>]) -> Option<()> {
        let mut new: BTreeMap<IpAddr, SocketAddr> = BTreeMap::new();
        for (_, segment, differences) in moves {
            let cluster = segment.cluster.as_ref()?;
            for Difference { key: prefix, before, after } in differences {
                // One that was heard as well is configured or not by what else names it.
                let heard = |vtep: &&SocketAddr| self.heard.iter().any(|(ip, _)| *ip == vtep.ip());
                if before.iter().chain(after).any(heard) {
                    return None;
                }
                let Some(&vtep) = *after else { continue };
                let odd = vtep.ip() == self.local
                    || prefix.trunc() != **prefix
                    || cluster.own.iter().any(|own| own.trunc() == **prefix);
                let known = match self.vtep_at(vtep.ip()) {
                    Some(held) => held.configured && held.address == vtep,
                    None => *new.entry(vtep.ip()).or_insert(vtep) == vtep,
                };
                if odd || !known {
                    return None;
                }
            }
        }
        let in_use = |slot: usize| before.vteps.get(slot).is_some_and(|slot| slot.value.is_some());
        let slots = allocate(before.vteps.len(), &vec![None; new.len()], in_use)?;
        for ((ip, address), slot) in new.into_iter().zip(slots) {
            let (id, _) = claim(&mut self.vteps, &before.vteps, slot, |_: &Vtep| false);
            let id = VtepId { slot: id.0, generation: id.1 };
            let mtu = Arc::new(AtomicU16::new(self.overlay_mtu));
            self.by_ip.insert(Address(ip), id);
            self.vteps[usize::from(slot)].value = Some(Vtep { id, address, configured: true, mtu });
        }
        Some(())
    }

    /// Has the routes lead where they are to, and lets go of the VTEPs that nothing leads to then.
    fn move_routes(&mut self, moves: &[Move<'_>]) {
        let mut touched: BTreeSet<IpAddr> = BTreeSet::new();
        for (id, spec, differences) in moves {
            let of = differences.iter().flat_map(|one| [one.before, one.after]);
            let addresses: BTreeSet<IpAddr> = of.flatten().map(SocketAddr::ip).collect();
            self.move_segment(*id, spec, differences, &addresses);
            touched.extend(addresses);
        }
        for ip in touched {
            let Some(id) = self.by_ip.get(&Address(ip)) else { continue };
            let group = |spec: &SegmentSpec| spec.multicast.is_some_and(|group| group.ip() == ip);
            if !self.segments().any(|one| one.is_source(id) || group(&one.spec)) {
                self.vteps[usize::from(id.slot)].value = None;
                self.by_ip.remove(&Address(ip));
            }
        }
    }

    fn move_segment(
        &mut self,
        id: SegmentId,
        spec: &SegmentSpec,
        differences: &[Difference<'_, IpNet, SocketAddr>],
        touched: &BTreeSet<IpAddr>,
    ) {
        let slot = usize::from(id.0);
        let Some(mut segment) = self.segments.get_mut(slot).and_then(Option::take) else { return };
        if let (Some(cluster), Some(spec)) = (&mut segment.cluster, &spec.cluster) {
            let routes = cluster.routes_mut();
            for Difference { key, before, after } in differences {
                let after = after
                    .and_then(|vtep| self.by_ip.get(&Address(vtep.ip())).map(|id| (vtep.ip(), id)));
                routes.lead(spec, **key, before.map(SocketAddr::ip), after);
            }
            let mut sources = std::mem::take(&mut segment.sources);
            for ip in touched {
                let Some(id) = self.by_ip.get(&Address(*ip)) else { continue };
                let wanted =
                    routes.users(*ip) > 0 || segment.spec.peers.iter().any(|peer| peer.ip() == *ip);
                match (sources.binary_search(&id), wanted) {
                    (Err(at), true) => sources.insert(at, id),
                    (Ok(at), false) => drop(sources.remove(at)),
                    _ => {}
                }
            }
            segment.set_sources(sources);
        }
        segment.spec.clone_from(spec);
        self.set_flood(&mut segment);
        self.segments[slot] = Some(segment);
    }
}

/// What is different in the routes of a segment; `None` if anything else of it is.
fn route_differences<'s>(
    before: &'s SegmentSpec,
    after: &'s SegmentSpec,
) -> Option<Vec<Difference<'s, IpNet, SocketAddr>>> {
    // Spelled out, so that a further field is not forgotten.
    let SegmentSpec {
        name,
        vni,
        peers,
        multicast,
        learning,
        flood_unknown,
        strict_peers,
        strict_header,
        cluster,
    } = after;
    let same = before.name == *name
        && before.vni == *vni
        && before.peers == *peers
        && before.multicast == *multicast
        && before.learning == *learning
        && before.flood_unknown == *flood_unknown
        && before.strict_peers == *strict_peers
        && before.strict_header == *strict_header;
    match (&before.cluster, cluster) {
        (None, None) if same => Some(Vec::new()),
        (Some(before), Some(after)) if same => {
            let ClusterSpec { networks, own, own_addresses, routes, vtep_port, flood_multicast } =
                after;
            let same = before.networks == *networks
                && before.own == *own
                && before.own_addresses == *own_addresses
                && before.vtep_port == *vtep_port
                && before.flood_multicast == *flood_multicast;
            same.then(|| before.routes.differences(routes).take(MOST + 1).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{PortModeSpec, PortRole};
    use encap::{MacAddr, Vni};
    use proptest::collection::vec;
    use std::net::Ipv4Addr;

    fn ip(n: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, n).into()
    }

    fn prefix(n: u8) -> IpNet {
        // Two of each are within one another, and the last is one of the networks.
        match n % 8 {
            7 => "10.0.0.0/8".parse().unwrap(),
            n if n % 2 == 0 => format!("10.0.{n}.0/24").parse().unwrap(),
            n => format!("10.0.{}.9/32", n - 1).parse().unwrap(),
        }
    }

    fn segment(name: &str, vni: u32, cluster: Option<ClusterSpec>) -> SegmentSpec {
        SegmentSpec {
            name: name.to_owned(),
            vni: Vni::new(vni).unwrap(),
            peers: Vec::new(),
            multicast: None,
            learning: cluster.is_none(),
            flood_unknown: cluster.is_none(),
            strict_peers: cluster.is_some(),
            strict_header: false,
            cluster,
        }
    }

    fn spec() -> TopologySpec {
        let cluster = ClusterSpec {
            networks: vec!["10.0.0.0/8".parse().unwrap()],
            own: vec!["10.1.0.0/24".parse().unwrap()],
            vtep_port: 4789,
            ..ClusterSpec::default()
        };
        let segments = vec![segment("pods", 1, Some(cluster)), segment("plain", 2, None)];
        TopologySpec {
            local: ip(1),
            overlay_mtu: 1450,
            segments,
            ports: Vec::new(),
            heard: vec![(ip(9), "plain".to_owned())],
        }
    }

    fn pod(n: u8, up: bool) -> PortSpec {
        PortSpec {
            name: format!("pod{n}"),
            mode: PortModeSpec::Access("pods".to_owned()),
            mtu: 1450,
            mac: MacAddr([2, 0, 0, 0, 0, n]).station(),
            up,
            role: PortRole::Pod {
                addresses: vec![Ipv4Addr::new(10, 1, 0, n).into()],
                spoof: false,
            },
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Route {
            prefix: u8,
            to: Option<u8>,
            port: u16,
        },
        Peer {
            cluster: bool,
            vtep: u8,
        },
        Port {
            n: u8,
            up: Option<bool>,
        },
        /// The first port is the same as the last.
        Twins,
        Heard(u8),
        Own(u8),
    }

    fn take(spec: &mut TopologySpec, step: &Step) {
        let cluster = spec.segments[0].cluster.as_mut().unwrap();
        match *step {
            Step::Route { prefix: n, to: Some(to), port } => {
                cluster.routes.insert(prefix(n), SocketAddr::new(ip(to), port));
            }
            Step::Route { prefix: n, to: None, .. } => drop(cluster.routes.remove(&prefix(n))),
            Step::Peer { cluster, vtep } => {
                let peers = &mut spec.segments[usize::from(!cluster)].peers;
                match peers.iter().position(|peer| peer.ip() == ip(vtep)) {
                    Some(at) => drop(peers.remove(at)),
                    None => peers.push(SocketAddr::new(ip(vtep), 4789)),
                }
            }
            Step::Port { n, up } => {
                spec.ports.retain(|port| port.name != format!("pod{n}"));
                spec.ports.extend(up.map(|up| pod(n, up)));
            }
            Step::Twins => {
                if let Some((last, others)) = spec.ports.split_last_mut() {
                    others.iter_mut().take(1).for_each(|port| port.clone_from(last));
                }
            }
            Step::Heard(n) => spec.heard = vec![(ip(n), "plain".to_owned())],
            Step::Own(n) => cluster.own = vec![format!("10.{n}.0.0/24").parse().unwrap()],
        }
    }

    fn step() -> impl proptest::strategy::Strategy<Value = Step> {
        use proptest::prelude::*;
        // A wrong port, this node's own address, and its own prefix seldom, but now and then.
        let port = prop_oneof![20 => Just(4789), 1 => Just(1)];
        let to = proptest::option::of(prop_oneof![20 => 2_u8..9, 1 => Just(1_u8)]);
        prop_oneof![
            8 => (0_u8..8, to, port).prop_map(|(prefix, to, port)| Step::Route { prefix, to, port }),
            1 => (any::<bool>(), 2_u8..9).prop_map(|(cluster, vtep)| Step::Peer { cluster, vtep }),
            2 => (1_u8..4, proptest::option::of(any::<bool>()))
                .prop_map(|(n, up)| Step::Port { n, up }),
            1 => Just(Step::Twins),
            1 => (5_u8..10).prop_map(Step::Heard),
            1 => (0_u8..2).prop_map(Step::Own),
        ]
    }

    /// All that can be seen of a snapshot.
    fn seen(topology: &Topology) -> String {
        let vteps: Vec<_> =
            topology.vteps().map(|vtep| (vtep.id, vtep.address, vtep.configured)).collect();
        let found: Vec<_> = (0..12).map(|n| topology.by_ip.get(&Address(ip(n)))).collect();
        let ports: Vec<_> =
            topology.ports().map(|port| (port.id, &port.spec, &port.mode)).collect();
        let gates: Vec<_> = topology.ports().map(|port| topology.gate(port.id)).collect();
        let segments = topology.segments().map(|segment| {
            let owners: Vec<_> = (0..8_u8)
                .flat_map(|third| [7_u8, 9].map(|last| Ipv4Addr::new(10, 0, third, last).into()))
                .chain([Ipv4Addr::new(10, 1, 0, 1).into(), Ipv4Addr::new(9, 9, 9, 9).into()])
                .map(|address: IpAddr| segment.cluster.as_ref().map(|c| c.routes().owner(address)))
                .collect();
            let is_source: Vec<_> =
                topology.vteps().map(|vtep| segment.is_source(vtep.id)).collect();
            let lists = (&segment.members, &segment.flood, &segment.sources, is_source);
            format!("{:?} {:?} {owners:?} {lists:?}", segment.id, segment.spec.vni)
        });
        let segments: Vec<_> = segments.collect();
        let names = (&topology.segment_names, &topology.port_names);
        format!("{vteps:?} {found:?} {ports:?} {gates:?} {segments:?} {names:?}")
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config {
            failure_persistence: None,
            ..Default::default()
        })]

        /// Whatever happens, in whichever order: a successor that is a copy with changes is the one
        /// that would have been built anew, and it is wrong by the same errors.
        #[test]
        fn a_copy_with_changes_is_what_would_have_been_built(
            batches in vec(vec(step(), 1..5), 1..25),
        ) {
            let mut spec = spec();
            let mut topology = Topology::empty(spec.local, 1450).succeed(&spec).unwrap();
            for batch in batches {
                let mut next = spec.clone();
                batch.iter().for_each(|step| take(&mut next, step));
                let built = topology.build(&next);
                match topology.follow(&next) {
                    Some(followed) => assert_eq!(
                        followed.as_ref().map(seen).map_err(Clone::clone),
                        built.as_ref().map(seen).map_err(Clone::clone),
                    ),
                    None => {
                        let ports = |step: &Step| matches!(step, Step::Port { .. });
                        assert!(!batch.iter().all(ports), "ports alone are no reason to build");
                    }
                }
                if let Ok(built) = built {
                    topology = topology.succeed(&next).unwrap();
                    assert_eq!(seen(&topology), seen(&built));
                    spec = next;
                }
            }
        }
    }

    #[test]
    fn a_few_routes_of_many_are_a_copy_with_changes() {
        let mut spec = spec();
        let cluster = spec.segments[0].cluster.as_mut().unwrap();
        for n in 0..5_000_u32 {
            let net = IpNet::new(Ipv4Addr::from_bits(0x0a40_0000 + (n << 8)).into(), 24).unwrap();
            let vtep = SocketAddr::new(Ipv4Addr::from_bits(0xc612_0000 + n).into(), 4789);
            cluster.routes.insert(net, vtep);
        }
        let before = Topology::empty(spec.local, 1450).succeed(&spec).unwrap();
        assert_eq!(before.segments[0].as_ref().unwrap().flood.len(), 5_000);
        let cluster = spec.segments[0].cluster.as_mut().unwrap();
        let far = SocketAddr::new(ip(7), 4789);
        let gone = cluster.routes.insert("10.64.7.0/24".parse().unwrap(), far).unwrap();
        let next = before.follow(&spec).expect("one route").unwrap();
        assert!(next.vtep_at(gone.ip()).is_none());
        let held = before.vtep_at(gone.ip()).unwrap();
        let new = next.vtep_at(ip(7)).unwrap();
        assert_ne!(new.id.slot, held.id.slot, "who held it may be meant for a moment still");
        let segment = next.segment_named("pods").unwrap();
        assert!(segment.is_source(new.id) && !segment.is_source(held.id));
        assert_eq!((segment.flood.len(), segment.sources.len()), (5_000, 5_000));
    }
}
