//! Which networks of other nodes are reached through the tunnel, and which by plain routes of the
//! node's kernel.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use netlink_packet_route::route::RouteProtocol;
use serde::{Deserialize, Serialize};
use switch::SharedMap;

use crate::cluster::model::{Node, View};
use crate::config::{Cluster, Mode};
use crate::device::netlink::{Netlink, NetlinkError, Route};

/// By this number the kernel's routes that are ours are known from all others
/// (rtm_protocol, linux/rtnetlink.h); nobody else has registered it.
pub const PROTOCOL: RouteProtocol = RouteProtocol::Other(122);

/// A network that a device of this node is directly in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// The network; host bits are ignored.
    pub net: IpNet,
    /// The device's index.
    pub link: u32,
}

/// A route of the node's kernel to a share of another node, by that node's own address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Direct {
    /// The device's index.
    pub link: u32,
    /// Destination and next hop.
    pub route: Route,
}

/// How the networks of the other nodes are reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// Through the tunnel: what the switch is to have as routes, each with its VTEP.
    pub tunnel: SharedMap<IpNet, SocketAddr>,
    /// Without it: what the switch is to hand to the gateway port.
    pub plain: Vec<IpNet>,
    /// The routes that the kernel needs for that. What it has no route for here goes where its
    /// default route leads: to the network around the nodes, which has to know the way.
    pub routes: Vec<Direct>,
}

impl Ways {
    /// What of the pods' networks is the switch's own affair: without what plain routes lead to,
    /// which it has to take for the outside. The longest prefix counts, so that what it has in its
    /// own routes or ports stays its own nevertheless.
    #[must_use]
    pub fn inside(&self, networks: &[IpNet]) -> Vec<IpNet> {
        let plain = IpNet::aggregate(&self.plain.iter().map(IpNet::trunc).collect());
        let mut left = Vec::new();
        for network in networks {
            without(network.trunc(), &plain, &mut left);
        }
        left
    }
}

/// Adds to `left` what is in `net` and in none of `holes`, which do not overlap.
fn without(net: IpNet, holes: &[IpNet], left: &mut Vec<IpNet>) {
    if holes.iter().any(|hole| hole.contains(&net)) {
        return;
    }
    let inner: Vec<IpNet> = holes.iter().copied().filter(|hole| net.contains(hole)).collect();
    match net.subnets(net.prefix_len().saturating_add(1)) {
        Ok(halves) if !inner.is_empty() => halves.for_each(|half| without(half, &inner, left)),
        _ => left.push(net),
    }
}

/// Divides the view's routes between switch and kernel.
///
/// With `mode = "route"` everything is plain. With `direct_routing`, a node's networks of a family
/// are plain if the node has an address of that family in one of `subnets`; the rest of it stays in
/// the tunnel. The node's own addresses take the same way as its pods, so that both directions of
/// a connection pass the same kernels.
#[must_use]
pub fn ways(cluster: &Cluster, view: &View, subnets: &[Subnet]) -> Ways {
    let mut ways = Ways::default();
    if cluster.mode == Mode::Tunnel && !cluster.direct_routing {
        // All of them, as they are: shared with the view, however many.
        ways.tunnel = view.routes.clone();
        return ways;
    }
    let by_vtep: BTreeMap<SocketAddr, &Node> =
        view.others.values().map(|node| (node.vtep, &**node)).collect();
    for (&net, &vtep) in view.routes.iter() {
        let node = by_vtep.get(&vtep).copied();
        let hop = node.and_then(|node| hop(node, net, subnets));
        let plain = match cluster.mode {
            Mode::Route => true,
            Mode::Tunnel => cluster.direct_routing && hop.is_some(),
        };
        if !plain {
            ways.tunnel.insert(net, vtep);
            continue;
        }
        ways.plain.push(net);
        // A node's own addresses are where the node's own routing finds them.
        let own = node.is_some_and(|node| is_own_address(node, net));
        if let Some((link, via)) = hop.filter(|_| !own) {
            ways.routes.push(Direct { link, route: Route::new(net.trunc(), Some(via)) });
        }
    }
    ways.plain.sort_unstable();
    ways.routes.sort_unstable();
    ways
}

fn is_own_address(node: &Node, net: IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
        && (node.vtep.ip() == net.addr() || node.addresses.contains(&net.addr()))
}

/// The address by which a node is a next hop for networks of this family, and the device.
fn hop(node: &Node, net: IpNet, subnets: &[Subnet]) -> Option<(u32, IpAddr)> {
    let family = |address: &IpAddr| address.is_ipv4() == net.addr().is_ipv4();
    let mut addresses = std::iter::once(node.vtep.ip()).chain(node.addresses.iter().copied());
    addresses.find_map(|address| {
        let subnet = subnets.iter().find(|subnet| subnet.net.contains(&address))?;
        (family(&address)).then_some((subnet.link, address))
    })
}

/// What was done to the kernel's routes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconciled {
    /// Added.
    pub added: Vec<Direct>,
    /// Taken away: ours once, wanted no more.
    pub removed: Vec<Direct>,
    /// What somebody else's route stands in the way of, which is left alone.
    pub blocked: Vec<Direct>,
}

/// Makes the routes of [`PROTOCOL`] in the main table be exactly these; none removes all. Routes of
/// others are never touched.
///
/// # Errors
///
/// The first refusal of the kernel; what could be done besides is done.
pub fn reconcile(netlink: &mut Netlink, wanted: &[Direct]) -> Result<Reconciled, NetlinkError> {
    let standing: Vec<Direct> = netlink
        .routes(None)?
        .into_iter()
        .filter(|entry| entry.protocol == PROTOCOL)
        .map(|entry| Direct { link: entry.link, route: entry.route })
        .collect();
    let key = |way: &Direct| (way.link, way.route.to, way.route.via);
    let stand: HashSet<_> = standing.iter().map(key).collect();
    let stay: HashSet<_> = wanted.iter().map(key).collect();
    let (mut done, mut trouble) = (Reconciled::default(), None);
    for old in standing.iter().filter(|old| !stay.contains(&key(old))) {
        match netlink.delete_route_of(old.link, old.route, PROTOCOL) {
            Ok(()) => done.removed.push(*old),
            Err(error) if error.is_absent() => {}
            Err(error) => trouble = trouble.or(Some(error)),
        }
    }
    for new in wanted.iter().filter(|new| !stand.contains(&key(new))) {
        match netlink.add_route_of(new.link, new.route, PROTOCOL) {
            Ok(()) => done.added.push(*new),
            Err(error) if error.is_present() => done.blocked.push(*new),
            Err(error) => trouble = trouble.or(Some(error)),
        }
    }
    trouble.map_or(Ok(done), Err)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::gateway::ruleset::fixture::{cluster, view};

    fn subnets() -> Vec<Subnet> {
        vec![Subnet { net: "192.0.2.1/24".parse().unwrap(), link: 2 }]
    }

    fn shown(nets: &[IpNet]) -> Vec<String> {
        nets.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn without_direct_routing_everything_is_in_the_tunnel() {
        let (cluster, view) = (cluster(), view());
        let ways = ways(&cluster, &view, &subnets());
        assert_eq!(ways.tunnel, view.routes);
        assert!(ways.plain.is_empty() && ways.routes.is_empty());
    }

    #[test]
    fn direct_routing_takes_what_is_in_the_subnet_family_by_family() {
        let cluster = Cluster { direct_routing: true, ..cluster() };
        let ways = ways(&cluster, &view(), &subnets());
        // Node b is in the subnet with its IPv4 address only; c is in another one.
        assert_eq!(shown(&ways.plain), ["10.42.1.0/24", "192.0.2.2/32"]);
        let mut tunnelled: Vec<_> = ways.tunnel.keys().copied().collect();
        tunnelled.sort_unstable();
        assert_eq!(
            shown(&tunnelled),
            [
                "10.42.1.77/32",
                "10.42.2.0/24",
                "198.51.100.3/32",
                "fd42:0:0:1::/64",
                "fd42:0:0:2::/64"
            ]
        );
        let routes: Vec<_> = ways.routes.iter().map(|way| way.route.to_string()).collect();
        assert_eq!(routes, ["10.42.1.0/24 via 192.0.2.2"]);
        assert_eq!(ways.routes[0].link, 2);
    }

    #[test]
    fn a_second_address_makes_the_other_family_direct_too() {
        let cluster = Cluster { direct_routing: true, ..cluster() };
        let mut view = view();
        let mut b = Node::clone(view.others.get("b").unwrap());
        b.addresses.push("2001:db8::2".parse().unwrap());
        view.others.insert(b.name.clone(), Arc::new(b));
        let mut subnets = subnets();
        subnets.push(Subnet { net: "2001:db8::1/64".parse().unwrap(), link: 3 });
        let ways = ways(&cluster, &view, &subnets);
        let routes: Vec<_> = ways.routes.iter().map(|way| way.route.to_string()).collect();
        assert_eq!(routes, ["10.42.1.0/24 via 192.0.2.2", "fd42:0:0:1::/64 via 2001:db8::2"]);
        assert_eq!(ways.routes[1].link, 3);
    }

    #[test]
    fn in_mode_route_nothing_is_in_the_tunnel_and_the_far_ones_have_no_route_of_ours() {
        let cluster = Cluster { mode: Mode::Route, ..cluster() };
        let view = view();
        let ways = ways(&cluster, &view, &subnets());
        assert!(ways.tunnel.is_empty());
        assert_eq!(ways.plain.len(), view.routes.len());
        let routes: Vec<_> = ways.routes.iter().map(|way| way.route.to_string()).collect();
        assert_eq!(routes, ["10.42.1.0/24 via 192.0.2.2"]);
    }

    #[test]
    fn the_switch_keeps_what_no_plain_route_leads_to() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let inside = |plain: &[&str]| {
            let plain = plain.iter().copied().map(net).collect();
            let ways = Ways { plain, ..Ways::default() };
            shown(&ways.inside(&[net("10.42.0.0/22"), net("fd42::/48")]))
        };
        assert_eq!(inside(&[]), ["10.42.0.0/22", "fd42::/48"]);
        assert_eq!(inside(&["192.0.2.2/32"]), ["10.42.0.0/22", "fd42::/48"]);
        assert_eq!(inside(&["10.42.1.0/24"]), ["10.42.0.0/24", "10.42.2.0/23", "fd42::/48"]);
        assert_eq!(inside(&["10.42.1.0/24", "10.42.0.0/24"]), ["10.42.2.0/23", "fd42::/48"]);
        assert_eq!(inside(&["10.0.0.0/8"]), ["fd42::/48"]);
        let fragments = inside(&["10.42.0.7/32"]);
        assert_eq!(fragments.len(), 11);
        assert!(!fragments.contains(&"10.42.0.7/32".to_owned()));
    }

    #[test]
    fn a_route_to_nobody_known_stays_in_the_tunnel() {
        let cluster = Cluster { direct_routing: true, ..cluster() };
        let mut view = view();
        view.others = SharedMap::default();
        assert_eq!(ways(&cluster, &view, &subnets()).tunnel, view.routes);
    }
}
