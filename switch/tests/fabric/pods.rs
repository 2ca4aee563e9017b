//! A cluster: nodes with a podCIDR each, pods that know nobody but the gateway, and a host that
//! stands for each node's kernel.

use super::{Fabric, Host, HostId, Node, vtep_ip};
use crate::fabric::link::Wires;
use encap::{MacAddr, Vni};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use switch::{
    ClusterSpec, GATEWAY_V4, GATEWAY_V6, PortModeSpec, PortRole, PortSpec, SegmentSpec,
    TopologySpec,
};

/// The addresses with this index on a node: `10.244.k.i` and `fd44:0:0:k::i`, `k` being one more than
/// the node's place.
pub(crate) fn pod_ips(node: usize, index: u8) -> [IpAddr; 2] {
    let k = node as u8 + 1;
    let six = Ipv6Addr::new(0xfd44, 0, 0, k.into(), 0, 0, 0, index.into());
    [Ipv4Addr::new(10, 244, k, index).into(), six.into()]
}

/// What others know a node by.
fn node_ip(node: usize) -> IpAddr {
    Ipv4Addr::new(172, 16, 0, node as u8 + 1).into()
}

fn pod_cidrs(node: usize) -> [IpNet; 2] {
    let [four, six] = pod_ips(node, 0);
    [IpNet::new(four, 24).unwrap(), IpNet::new(six, 64).unwrap()]
}

impl Fabric {
    /// `nodes` nodes in one cluster, each with its gateway port's host at index 1.
    pub(crate) fn cluster(nodes: usize, seed: u64) -> (Self, Vec<HostId>) {
        let mut fabric = Self {
            now: 0,
            nodes: (0..nodes).map(|node| Node::new(spec(node, nodes))).collect(),
            hosts: Vec::new(),
            wires: Wires::new(seed),
            next_port: 0,
            superframes: false,
        };
        let addresses = |node| pod_ips(node, 1).to_vec();
        let gateway = |node| PortRole::Gateway { addresses: addresses(node) };
        let gateways =
            (0..nodes).map(|node| fabric.attach_routed(node, pod_ips(node, 1), gateway(node)));
        let gateways = gateways.collect();
        (fabric, gateways)
    }

    /// Attaches a pod with these addresses, wherever they are from.
    pub(crate) fn pod(&mut self, node: usize, addresses: [IpAddr; 2]) -> HostId {
        let role = PortRole::Pod { addresses: addresses.to_vec(), spoof: false };
        self.attach_routed(node, addresses, role)
    }

    fn attach_routed(&mut self, node: usize, ips: [IpAddr; 2], role: PortRole) -> HostId {
        let IpAddr::V4(v4) = ips[0] else { panic!("IPv4 comes first") };
        let [a, b, c, d] = v4.octets();
        let mac = MacAddr([0x0a, 0x7a, a, b, c, d]);
        let name = format!("pod{}", self.next_port);
        self.next_port += 1;
        let mode = PortModeSpec::Access("pods".to_owned());
        let (port, mac_of) = (name.clone(), mac.station());
        let port = PortSpec { name: port, mode, mtu: 1450, mac: mac_of, up: true, role };
        self.nodes[node].reload(|spec| spec.ports.push(port));
        self.hosts.push(Host::routed(mac, &ips, node, name));
        let host = HostId(self.hosts.len() - 1);
        // In life neighbour entries are permanent. Without one, smoltcp answers no ping.
        for gateway in [IpAddr::V4(GATEWAY_V4), IpAddr::V6(GATEWAY_V6)] {
            assert!(self.ping(host, gateway, 3000), "the gateway is silent");
        }
        host
    }

    /// Publishes to all other nodes that a node has these addresses, against the podCIDRs.
    pub(crate) fn publish(&mut self, node: usize, addresses: [IpAddr; 2]) {
        let vtep = SocketAddr::new(vtep_ip(node), encap::vxlan::PORT);
        for (n, other) in self.nodes.iter_mut().enumerate() {
            if n != node {
                let routes = addresses.map(|ip| (IpNet::from(ip), vtep));
                other.reload(|spec| {
                    spec.segments[0].cluster.as_mut().unwrap().routes.extend(routes);
                });
            }
        }
    }
}

fn spec(node: usize, nodes: usize) -> TopologySpec {
    let route = |other: usize| {
        let [four, six] = pod_cidrs(other);
        let vtep = SocketAddr::new(vtep_ip(other), encap::vxlan::PORT);
        [four, six, IpNet::from(node_ip(other))].map(|prefix| (prefix, vtep))
    };
    let cluster = ClusterSpec {
        networks: ["10.244.0.0/16", "fd44::/48"].map(|net| net.parse().unwrap()).to_vec(),
        own: pod_cidrs(node).to_vec(),
        own_addresses: vec![node_ip(node)],
        routes: (0..nodes).filter(|other| *other != node).flat_map(route).collect(),
        vtep_port: encap::vxlan::PORT,
        flood_multicast: false,
    };
    let segment = SegmentSpec {
        name: "pods".to_owned(),
        vni: Vni::new(900).unwrap(),
        peers: Vec::new(),
        multicast: None,
        learning: false,
        flood_unknown: false,
        strict_peers: true,
        strict_header: true,
        cluster: Some(cluster),
    };
    let (local, segments) = (vtep_ip(node), vec![segment]);
    TopologySpec { local, overlay_mtu: 1450, segments, ports: Vec::new(), heard: Vec::new() }
}
