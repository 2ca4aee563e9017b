//! What of a specification cannot be, all of it at once.

use crate::spec::{
    ClusterSpec, GATEWAY_MAC, GATEWAY_V4, PortModeSpec, PortRole, PortSpec, TopologyError,
    TopologySpec,
};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

/// Everything in `spec` that contradicts itself.
pub(crate) fn check(spec: &TopologySpec) -> Vec<TopologyError> {
    let mut errors = Vec::new();
    check_udp_ports(spec, &mut errors);
    check_segments(spec, &mut errors);
    errors.extend(check_attachments(spec));
    errors
}

/// As [`check`], of the ports alone.
pub(crate) fn check_attachments(spec: &TopologySpec) -> Vec<TopologyError> {
    let mut errors = Vec::new();
    check_ports(spec, &mut errors);
    check_roles(spec, &mut errors);
    errors
}

fn check_udp_ports(spec: &TopologySpec, errors: &mut Vec<TopologyError>) {
    let mut udp: BTreeMap<IpAddr, u16> = BTreeMap::new();
    for peer in spec.segments.iter().flat_map(|s| s.vteps().chain(s.multicast)) {
        if *udp.entry(peer.ip()).or_insert(peer.port()) != peer.port() {
            errors.push(TopologyError::PeerPorts(peer.ip()));
        }
    }
}

fn check_segments(spec: &TopologySpec, errors: &mut Vec<TopologyError>) {
    let mut names = BTreeSet::new();
    let mut vnis = BTreeSet::new();
    for segment in &spec.segments {
        if !names.insert(segment.name.as_str()) {
            errors.push(TopologyError::DuplicateName(segment.name.clone()));
        }
        if !vnis.insert(segment.vni) {
            errors.push(TopologyError::DuplicateVni(segment.vni));
        }
        if segment.vteps().any(|peer| peer.ip() == spec.local) {
            errors.push(TopologyError::PeerIsSelf(segment.name.clone()));
        }
        if let Some(cluster) = &segment.cluster {
            check_routes(&segment.name, cluster, errors);
        }
    }
}

/// One prefix has one owner: this node, or one VTEP.
fn check_routes(segment: &str, cluster: &ClusterSpec, errors: &mut Vec<TopologyError>) {
    let segment = || segment.to_owned();
    for prefix in cluster.own.iter().map(IpNet::trunc) {
        if cluster.routes.contains_key(&prefix) {
            errors.push(TopologyError::RouteConflict { segment: segment(), prefix });
        }
    }
    for &prefix in cluster.routes.keys().filter(|prefix| prefix.trunc() != **prefix) {
        errors.push(TopologyError::HostBits { segment: segment(), prefix });
    }
}

fn check_ports(spec: &TopologySpec, errors: &mut Vec<TopologyError>) {
    let names: BTreeSet<&str> = spec.segments.iter().map(|one| one.name.as_str()).collect();
    let mut ports = BTreeSet::new();
    for port in &spec.ports {
        if !ports.insert(port.name.as_str()) {
            errors.push(TopologyError::DuplicateName(port.name.clone()));
        }
        let (mut seen, mut tags) = (BTreeSet::new(), BTreeSet::new());
        for (segment, vlan) in port.mode.segments() {
            let port = port.name.clone();
            if !names.contains(segment) {
                errors.push(TopologyError::NoSegment { port, segment: segment.to_owned() });
            } else if !seen.insert(segment) {
                errors.push(TopologyError::DuplicateOnTrunk { port, what: segment.to_owned() });
            } else if vlan.is_some_and(|vlan| !tags.insert(vlan)) {
                let what = vlan.map(|vlan| format!("VLAN {vlan}")).unwrap_or_default();
                errors.push(TopologyError::DuplicateOnTrunk { port, what });
            }
        }
    }
}

/// What was seen of the cluster segments' ports so far.
#[derive(Default)]
struct Seen<'s> {
    gateways: BTreeSet<&'s str>,
    owners: BTreeMap<(&'s str, IpAddr), &'s str>,
}

fn check_roles(spec: &TopologySpec, errors: &mut Vec<TopologyError>) {
    let clusters = spec.segments.iter().filter_map(|one| Some((&*one.name, one.cluster.as_ref()?)));
    let clusters: BTreeMap<&str, &ClusterSpec> = clusters.collect();
    let mut seen = Seen::default();
    for port in &spec.ports {
        let mut names = port.mode.segments().into_iter().map(|(name, _)| name);
        let inside = names.find_map(|name| Some((name, *clusters.get(name)?)));
        match (&port.role, &port.mode, inside) {
            (PortRole::Station, _, Some((segment, _))) => {
                let (port, segment) = (port.name.clone(), segment.to_owned());
                errors.push(TopologyError::StationInCluster { port, segment });
            }
            (PortRole::Station, _, None) => {}
            (_, PortModeSpec::Access(_), Some(cluster)) => {
                check_routed(port, cluster, &mut seen, errors);
            }
            _ => errors.push(TopologyError::NotInCluster { port: port.name.clone() }),
        }
    }
}

/// A pod's port or the gateway in the cluster segment of this name.
fn check_routed<'s>(
    port: &'s PortSpec,
    (segment, cluster): (&'s str, &ClusterSpec),
    seen: &mut Seen<'s>,
    errors: &mut Vec<TopologyError>,
) {
    let name = || port.name.clone();
    if port.mac.is_none_or(|mac| mac == GATEWAY_MAC) {
        errors.push(TopologyError::NoMac { port: name() });
    }
    let gateway = matches!(port.role, PortRole::Gateway { .. });
    if gateway && !seen.gateways.insert(segment) {
        errors.push(TopologyError::SecondGateway { port: name(), segment: segment.to_owned() });
    }
    for &address in port.role.addresses() {
        // What is the node's own is behind the gateway port alone.
        let taken = !gateway && cluster.own_addresses.contains(&address);
        if taken || !is_routable(address) {
            errors.push(TopologyError::BadAddress { port: name(), address });
        }
        let owner = *seen.owners.entry((segment, address)).or_insert(&port.name);
        if owner != port.name {
            let owner = owner.to_owned();
            errors.push(TopologyError::DuplicateAddress { port: name(), address, owner });
        }
    }
}

/// Whether an address can be that of one station which is reached through a router.
pub(crate) fn is_routable(address: IpAddr) -> bool {
    let special = match address {
        IpAddr::V4(address) => address == GATEWAY_V4,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !special && is_station(address)
}

/// Whether an address can be that of one station which others reach.
pub(crate) fn is_station(address: IpAddr) -> bool {
    let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    !address.is_multicast() && !address.is_unspecified() && !address.is_loopback() && !broadcast
}
