//! The pod network on this node: its segment and its gateway port follow from the configuration and
//! from what the store says of the cluster.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use switch::{ClusterSpec, GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6, SegmentSpec};
use tracing::{info, warn};

use super::state::Daemon;
use crate::cluster::model::View;
use crate::config::{Cluster, Config, Mode, Name, Port, PortMode, Role, Route, derived_mac};
use crate::control::model::ObjectOrigin;

/// What the daemon knows of the cluster it is part of.
#[derive(Debug)]
pub(super) struct Pods {
    /// What is configured.
    pub(super) config: Cluster,
    /// What the store says.
    pub(super) view: Arc<View>,
}

impl Pods {
    /// The pod network of this node, if it has one; nobody is known yet but those of `view`.
    pub(super) fn new(config: &Config, view: View) -> Option<Self> {
        Some(Self { config: config.cluster.clone()?, view: Arc::new(view) })
    }

    /// The segment of the pods, in the engine's terms.
    pub(super) fn segment(&self, vtep_port: u16) -> SegmentSpec {
        let Self { config, view } = self;
        let mut peers: Vec<SocketAddr> = view.others.values().map(|node| node.vtep).collect();
        peers.sort_unstable();
        let cluster = match config.mode {
            Mode::Tunnel => ClusterSpec {
                networks: config.networks.iter().map(|network| network.net).collect(),
                routes: view.routes.clone(),
                ..ClusterSpec::default()
            },
            // Whatever is not on this node is the kernel's, which has the routes.
            Mode::Route => ClusterSpec::default(),
        };
        SegmentSpec {
            name: config.name.to_string(),
            vni: config.vni,
            peers: if config.mode == Mode::Tunnel { peers } else { Vec::new() },
            multicast: None,
            learning: false,
            flood_unknown: false,
            strict_peers: true,
            strict_header: false,
            cluster: Some(ClusterSpec {
                own: self.own(|own| own.pod_cidrs.clone()),
                own_addresses: self.own(|own| own.addresses.clone()),
                vtep_port,
                flood_multicast: config.flood_multicast,
                ..cluster
            }),
        }
    }

    fn own<T: Default>(&self, of: impl FnOnce(&crate::cluster::model::Node) -> T) -> T {
        self.view.own.as_ref().map(of).unwrap_or_default()
    }

    /// The gateway port, once this node has a share of the pods' networks.
    pub(super) fn gateway(&self, node: &Name) -> Option<Port> {
        let Self { config, view } = self;
        let own = view.own.as_ref().filter(|own| !own.pod_cidrs.is_empty())?;
        let name = Name::new(config.gateway.as_str()).ok()?;
        let firsts: Vec<IpAddr> = own.pod_cidrs.iter().map(first).collect();
        let route = |network: &IpNet| {
            let same = |address: &&IpAddr| address.is_ipv4() == network.addr().is_ipv4();
            let src = *firsts.iter().find(same)?;
            Some(Route { to: *network, via: Some(gateway_of(src)), src: Some(src), onlink: true })
        };
        Some(Port {
            mode: PortMode::Access(config.name.clone()),
            netns: None,
            ifname: config.gateway.clone(),
            mac: derived_mac(node, name.as_str()),
            name,
            addresses: firsts.iter().copied().map(IpNet::from).collect(),
            routes: self.gateway_networks(&own.pod_cidrs).iter().filter_map(route).collect(),
            neighbours: firsts.iter().map(|one| (gateway_of(*one), GATEWAY_MAC)).collect(),
            mtu: None,
            role: Role::Gateway,
        })
    }

    /// What the node's kernel sends to the gateway port: the whole address space, or this node's
    /// share of it where the rest is reached by other routes.
    fn gateway_networks(&self, pod_cidrs: &[IpNet]) -> Vec<IpNet> {
        match self.config.mode {
            Mode::Tunnel => self.config.networks.iter().map(|network| network.net).collect(),
            Mode::Route => pod_cidrs.to_vec(),
        }
    }
}

/// The first address of a podCIDR after the network's own.
fn first(net: &IpNet) -> IpAddr {
    match net.network() {
        IpAddr::V4(network) => Ipv4Addr::from_bits(network.to_bits() | 1).into(),
        IpAddr::V6(network) => Ipv6Addr::from_bits(network.to_bits() | 1).into(),
    }
}

/// The gateway of an address's family.
const fn gateway_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(GATEWAY_V4),
        IpAddr::V6(_) => IpAddr::V6(GATEWAY_V6),
    }
}

impl Daemon {
    /// Takes another view of the cluster: the gateway port and the segment follow it.
    pub(super) fn take_view(&mut self, view: Arc<View>) {
        let Some(pods) = &mut self.pods else { return };
        for alarm in view.alarms.iter().filter(|alarm| !pods.view.alarms.contains(alarm)) {
            warn!(subject = alarm.subject, "cluster: {}", alarm.message);
        }
        let nodes = view.others.len() + usize::from(view.own.is_some());
        if nodes != pods.view.others.len() + usize::from(pods.view.own.is_some()) {
            info!(nodes, "cluster");
        }
        pods.view = view;
        self.settle_gateway();
        self.apply();
    }

    /// Makes the gateway port what the view says. One that is there stays when the share is lost:
    /// the pods behind it are still here.
    fn settle_gateway(&mut self) {
        let Some(port) = self.pods.as_ref().and_then(|pods| pods.gateway(&self.config.node.name))
        else {
            return;
        };
        let name = port.name.as_str();
        match self.ports.get(name) {
            Some(held) if held.port == port => {}
            Some(_) => {
                let mut changes = Vec::new();
                let kept = self.change_port(port, &mut changes);
                self.devices.keep(kept.into_iter().collect());
                for change in changes {
                    info!("cluster: {change}");
                }
            }
            None => {
                self.finish_bringing();
                self.add_ports(vec![(port, ObjectOrigin::Config)]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cluster::model::Node;

    const CONFIG: &str = r#"
        [node]
        name = "a"
        [underlay]
        address = "192.0.2.1"
        [cluster]
        network = ["10.244.0.0/16", "fd00:10::/48"]
        [[cluster.node]]
        name = "a"
        address = "192.0.2.1"
        pod_cidrs = ["10.244.1.0/24", "fd00:10:0:1::/64"]
        "#;

    fn node(name: &str, last: u8) -> Node {
        Node {
            name: name.to_owned(),
            identity: name.to_owned(),
            vtep: SocketAddr::from(([192, 0, 2, last], 4789)),
            addresses: vec![IpAddr::from([192, 0, 2, last])],
            pod_cidrs: vec![
                format!("10.244.{last}.0/24").parse().unwrap(),
                format!("fd00:10:0:{last}::/64").parse().unwrap(),
            ],
            exceptions: Vec::new(),
            capabilities: Vec::new(),
        }
    }

    fn pods(mode: Mode) -> Pods {
        let config = Config::parse(CONFIG).unwrap();
        let (own, other) = (node("a", 1), node("b", 2));
        let routes = other.pod_cidrs.iter().map(|net| (*net, other.vtep)).collect();
        let others = BTreeMap::from([("b".to_owned(), other)]);
        let view = View { own: Some(own), others, routes, ..View::default() };
        let mut pods = Pods::new(&config, view).unwrap();
        pods.config.mode = mode;
        pods
    }

    #[test]
    fn the_gateway_port_leads_to_the_whole_cluster_by_one_neighbour_of_each_family() {
        let port = pods(Mode::Tunnel).gateway(&Name::new("a").unwrap()).unwrap();
        let addresses: Vec<String> = port.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.244.1.1/32", "fd00:10:0:1::1/128"]);
        let route = |to: &str, via: &str, src: &str| Route {
            to: to.parse().unwrap(),
            via: Some(via.parse().unwrap()),
            src: Some(src.parse().unwrap()),
            onlink: true,
        };
        let wanted = [
            route("10.244.0.0/16", "169.254.1.1", "10.244.1.1"),
            route("fd00:10::/48", "fe80::1", "fd00:10:0:1::1"),
        ];
        assert_eq!(port.routes, wanted);
        assert_eq!(port.neighbours.len(), 2);
        assert!(port.neighbours.iter().all(|(_, mac)| *mac == GATEWAY_MAC));
        assert_eq!(port.role, Role::Gateway);
    }

    #[test]
    fn without_a_tunnel_all_but_the_own_share_is_the_kernels() {
        let pods = pods(Mode::Route);
        let port = pods.gateway(&Name::new("a").unwrap()).unwrap();
        let to: Vec<String> = port.routes.iter().map(|route| route.to.to_string()).collect();
        assert_eq!(to, ["10.244.1.0/24", "fd00:10:0:1::/64"]);
        let spec = pods.segment(4789);
        let cluster = spec.cluster.unwrap();
        assert!(cluster.networks.is_empty() && cluster.routes.is_empty() && spec.peers.is_empty());
        assert_eq!(cluster.own.len(), 2);
    }

    #[test]
    fn without_a_share_there_is_no_gateway_port() {
        let mut pods = pods(Mode::Tunnel);
        pods.view = Arc::default();
        assert_eq!(pods.gateway(&Name::new("a").unwrap()), None);
        assert!(pods.segment(4789).cluster.is_some_and(|cluster| cluster.own.is_empty()));
    }
}
