//! The gateway port's device: what it holds, where it leads, and how the kernel is to take what comes
//! out of it.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use encap::MacAddr;
use ipnet::IpNet;
use netlink_packet_route::link::InetDevConf;
use switch::{GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6};

use super::census::{self, Census};
use super::ways::Ways;
use crate::cluster::model::Node;
use crate::config::{Cluster, Mode};
use crate::device::netlink::{Netlink, NetlinkError, Route};

/// What the device of the gateway port has, besides its name, MAC address and MTU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayPort {
    /// The first address of each of the node's podCIDRs, as host addresses.
    pub addresses: Vec<IpNet>,
    /// Where it leads: always by the one next hop of each family.
    pub routes: Vec<Route>,
    /// Those next hops, so that the neighbour table has one entry for a whole cluster.
    pub neighbours: Vec<(IpAddr, MacAddr)>,
}

/// The addresses of a node's gateway port: the first one of each podCIDR after the network's own. A
/// podCIDR of a single address has none.
pub fn gateway_addresses(own: &Node) -> impl Iterator<Item = IpAddr> {
    own.pod_cidrs.iter().filter(|net| net.prefix_len() < net.max_prefix_len()).map(|net| match net
        .network()
    {
        IpAddr::V4(network) => Ipv4Addr::from_bits(network.to_bits() | 1).into(),
        IpAddr::V6(network) => Ipv6Addr::from_bits(network.to_bits() | 1).into(),
    })
}

/// What the gateway port's device has; `None` until the node's share is known. A family in which the
/// node has no share is not routed.
///
/// In the tunnel's mode the whole cluster is behind it. Where plain routes lead into that (they are
/// longer, and would win), what is not on their way gets host routes of its own here: a pod that
/// moved to this node, or to one that is behind the tunnel. Without a tunnel only this node's pods
/// are behind it.
#[must_use]
pub fn gateway_port(
    cluster: &Cluster,
    own: Option<&Node>,
    others: &Census,
    ways: &Ways,
) -> Option<GatewayPort> {
    let own = own.filter(|own| !own.pod_cidrs.is_empty())?;
    let firsts: Vec<IpAddr> = gateway_addresses(own).collect();
    let mut nets: Vec<IpNet> = match cluster.mode {
        Mode::Tunnel => cluster.networks.iter().map(|network| network.net).collect(),
        Mode::Route => own.pod_cidrs.clone(),
    };
    let plain: HashSet<IpNet> = ways.plain.iter().map(IpNet::trunc).collect();
    // Within what leads here anyway nothing needs a route of its own, unless plain routes lead there.
    let led_here = plain.is_empty() && cluster.mode == Mode::Tunnel;
    let others = if led_here { &others.outside } else { &others.exceptions };
    let exceptions = others.keys().copied().chain(census::exceptions(own));
    let apart: Vec<IpNet> = exceptions
        .filter(|net| !plain.contains(net))
        .filter(|net| {
            let led_here = nets.iter().any(|wide| wide.contains(net));
            !led_here || plain.iter().any(|wide| wide.contains(net))
        })
        .collect();
    nets.extend(apart);
    let route = |net: &IpNet| {
        let src = *firsts.iter().find(|one| one.is_ipv4() == net.addr().is_ipv4())?;
        Some(Route { to: net.trunc(), via: Some(next_hop(src)), src: Some(src), onlink: true })
    };
    let mut routes: Vec<Route> = nets.iter().filter_map(route).collect();
    routes.sort_unstable();
    routes.dedup();
    Some(GatewayPort {
        addresses: firsts.iter().copied().map(IpNet::from).collect(),
        routes,
        neighbours: firsts.iter().map(|one| (next_hop(*one), GATEWAY_MAC.get())).collect(),
    })
}

/// The gateway of an address's family.
const fn next_hop(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(GATEWAY_V4),
        IpAddr::V6(_) => IpAddr::V6(GATEWAY_V6),
    }
}

/// Sets how the kernel takes what comes out of the device: it is forwarded; a source is accepted
/// though the route to it leads elsewhere (as to a node's own address, or to one that is reached by
/// a plain route); and a connection to the node's own loopback may be turned to a pod. For that,
/// IPv4 has a setting and IPv6 wants a route by which an answer is for `::1`; what a pod itself sends
/// there is dropped by the rules and by the kernel.
///
/// # Errors
///
/// The kernel's refusal; a kernel or a device without IPv6 is none.
pub fn tune(netlink: &mut Netlink, device: u32) -> Result<(), NetlinkError> {
    let mut conf = InetDevConf::default();
    (conf.forwarding, conf.rp_filter, conf.route_localnet) = (1, 2, 1);
    netlink.set_ipv4_conf(device, conf)?;
    match netlink.add_local_route(device, Ipv6Addr::LOCALHOST.into()) {
        // No IPv6 in this kernel, or none on this device.
        Err(error)
            if matches!(
                error.errno(),
                Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EACCES)
            ) =>
        {
            Ok(())
        }
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::model::{Exception, View};
    use crate::gateway::ruleset::fixture::{census, cluster, view};
    use crate::gateway::ways::{Subnet, ways};

    fn of(cluster: &Cluster, view: &View, ways: &Ways) -> Option<GatewayPort> {
        gateway_port(cluster, view.own.as_ref(), &census(cluster, view), ways)
    }

    fn shown(cluster: &Cluster, view: &View) -> Vec<String> {
        let subnets = [Subnet { net: "192.0.2.1/24".parse().unwrap(), link: 2 }];
        let ways = ways(cluster, view, &subnets);
        let port = of(cluster, view, &ways).unwrap();
        port.routes.iter().map(ToString::to_string).collect()
    }

    const V4: &str = "10.42.0.0/16 via 169.254.1.1 src 10.42.0.1 onlink";
    const V6: &str = "fd42::/48 via fe80::1 src fd42::1 onlink";

    #[test]
    fn one_next_hop_of_each_family_leads_to_the_whole_cluster() {
        assert_eq!(shown(&cluster(), &view()), [V4, V6]);
        let port = of(&cluster(), &view(), &Ways::default()).unwrap();
        let addresses: Vec<_> = port.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.42.0.1/32", "fd42::1/128"]);
        let mac = GATEWAY_MAC.get();
        assert_eq!(port.neighbours, [(GATEWAY_V4.into(), mac), (GATEWAY_V6.into(), mac)]);
    }

    #[test]
    fn what_is_not_on_a_plain_route_gets_one_of_its_own() {
        let cluster = Cluster { direct_routing: true, ..cluster() };
        // A pod of b's share is on c, which is behind the tunnel, while b is not.
        let moved = "10.42.1.77/32 via 169.254.1.1 src 10.42.0.1 onlink";
        assert_eq!(shown(&cluster, &view()), [V4, moved, V6]);
    }

    #[test]
    fn exceptions_outside_of_the_networks_are_routed_too() {
        let mut view = view();
        let exception = |net: &str| Exception { net: net.parse().unwrap(), generation: 1 };
        let own = view.own.as_mut().unwrap();
        own.exceptions = vec![exception("10.9.0.7/32"), exception("10.42.0.9/32")];
        let outside = "10.9.0.7/32 via 169.254.1.1 src 10.42.0.1 onlink";
        assert_eq!(shown(&cluster(), &view), [outside, V4, V6]);
    }

    #[test]
    fn without_a_tunnel_only_the_own_pods_are_behind_it() {
        let mut view = view();
        let net = "10.42.1.5/32".parse().unwrap();
        view.own.as_mut().unwrap().exceptions.push(Exception { net, generation: 1 });
        let cluster = Cluster { mode: Mode::Route, ..cluster() };
        let src = "src 10.42.0.1 onlink";
        assert_eq!(
            shown(&cluster, &view),
            [
                format!("10.42.0.0/24 via 169.254.1.1 {src}"),
                format!("10.42.1.5/32 via 169.254.1.1 {src}"),
                "fd42::/64 via fe80::1 src fd42::1 onlink".to_owned(),
            ]
        );
    }

    #[test]
    fn without_a_share_there_is_none_and_a_family_without_one_is_not_routed() {
        let none = View { own: None, ..view() };
        assert_eq!(of(&cluster(), &none, &Ways::default()), None);
        let mut view = view();
        view.own.as_mut().unwrap().pod_cidrs.truncate(1);
        assert_eq!(shown(&cluster(), &view), [V4]);
    }
}
