//! A whole overlay in memory: nodes with real engines, an underlay that loses, delays, reorders,
//! duplicates and has an MTU, smoltcp stacks as hosts, and one clock that moves only as far as the
//! next thing that happens. The same seed gives the same run.
//!
//! What is real here: engines, FDBs, counters, VXLAN bytes, segmentation and coalescing, and the
//! hosts' stacks. What stands in: the drivers, by some lines in `node.rs`.
#![allow(dead_code, unused_imports, reason = "each user takes its own part")]

mod host;
mod link;
mod node;
mod pods;
mod traffic;

pub(crate) use host::{Host, HostId, ipv4, ipv6};
pub(crate) use link::Link;
pub(crate) use node::Node;
pub(crate) use pods::pod_ips;
pub(crate) use traffic::Transfer;

use link::Wires;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use switch::{PortModeSpec, PortRole, PortSpec, SegmentSpec, TopologySpec};

/// Frames that may be handed over within one instant: more is a loop.
const INSTANT_MAX: usize = 1_000_000;

pub(crate) struct Fabric {
    /// Microseconds since the beginning.
    now: u64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) hosts: Vec<Host>,
    wires: Wires,
    next_port: u16,
    /// Hosts send superframes, and tunnels are coalesced.
    pub(crate) superframes: bool,
}

/// The VTEP address of a node.
fn vtep_ip(node: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, node as u8 + 1))
}

impl Fabric {
    /// `nodes` nodes, each of which has all `segments` (name and VNI) and all others as peers.
    pub(crate) fn mesh(nodes: usize, segments: &[(&str, u32)], seed: u64) -> Self {
        let spec = |node: usize| TopologySpec {
            local: vtep_ip(node),
            overlay_mtu: 1450,
            segments: segments.iter().map(|(name, vni)| segment(name, *vni, node, nodes)).collect(),
            ports: Vec::new(),
            heard: Vec::new(),
        };
        Self {
            now: 0,
            nodes: (0..nodes).map(|node| Node::new(spec(node))).collect(),
            hosts: Vec::new(),
            wires: Wires::new(seed),
            next_port: 0,
            superframes: false,
        }
    }

    /// Makes every link of the underlay like this one, from now on.
    pub(crate) fn set_links(&mut self, link: Link) {
        self.wires.link = link;
    }

    /// Attaches host `n` untagged: `02:00:00:00:00:n`, `10.9.0.n/24`, `fd09::n/64`.
    pub(crate) fn attach(&mut self, n: u8, node: usize, segment: &str) -> HostId {
        self.attach_as(n, node, PortModeSpec::Access(segment.to_owned()), None)
    }

    /// The same on a port of any mode; the host tags what it sends, and takes only what has its tag.
    pub(crate) fn attach_as(
        &mut self,
        n: u8,
        node: usize,
        mode: PortModeSpec,
        vlan: Option<u16>,
    ) -> HostId {
        let port = self.plug(node, mode);
        self.hosts.push(Host::new(n, node, port, vlan));
        HostId(self.hosts.len() - 1)
    }

    fn plug(&mut self, node: usize, mode: PortModeSpec) -> String {
        let name = format!("port{}", self.next_port);
        self.next_port += 1;
        let port = PortSpec {
            name: name.clone(),
            mode,
            mtu: 1450,
            mac: None,
            up: true,
            role: PortRole::Station,
        };
        self.nodes[node].reload(|spec| spec.ports.push(port));
        name
    }

    /// Unplugs a host and plugs it in elsewhere.
    pub(crate) fn relocate(&mut self, host: HostId, node: usize) {
        let (old, port) = (self.hosts[host.0].node, self.hosts[host.0].port.clone());
        let at = self.nodes[old].spec.ports.iter().position(|spec| spec.name == port);
        let mode = self.nodes[old].spec.ports[at.unwrap()].mode.clone();
        self.nodes[old].reload(|spec| spec.ports.retain(|spec| spec.name != port));
        let port = self.plug(node, mode);
        (self.hosts[host.0].node, self.hosts[host.0].port) = (node, port);
    }

    /// Milliseconds since the beginning.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now / 1000
    }

    /// Lets everything happen that happens within `ms`.
    pub(crate) fn run(&mut self, ms: u64) {
        self.run_until(ms, |_| false);
    }

    /// Lets things happen until `done`, or for `ms` at the most. Returns whether it was done.
    pub(crate) fn run_until(&mut self, ms: u64, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let deadline = self.now + ms * 1000;
        loop {
            self.settle();
            if done(self) {
                return true;
            }
            // The user of a socket may have given it something to send.
            self.settle();
            let hosts = self.hosts.iter_mut().filter_map(|host| host.next_at(self.now));
            let next = hosts.chain(self.wires.next_at()).min().unwrap_or(u64::MAX);
            if next > deadline {
                self.now = deadline;
                return false;
            }
            self.now = next.max(self.now + 1);
        }
    }

    /// Everything that happens at this instant.
    fn settle(&mut self) {
        for _ in 0..INSTANT_MAX {
            let arrived = self.wires.take_due(self.now);
            let mut quiet = arrived.is_empty();
            for train in arrived {
                let (to, now) = (train.to, self.now);
                self.nodes[to].receive(now, &train, self.superframes);
                self.carry(to);
            }
            for at in 0..self.hosts.len() {
                let frames = self.hosts[at].poll(self.now);
                quiet &= frames.is_empty();
                self.offer(at, &frames);
            }
            if quiet && self.hosts.iter().all(Host::is_idle) {
                return;
            }
        }
        panic!("frames go round without end");
    }

    /// Puts frames on the port of a host, as if it had sent them.
    pub(crate) fn inject(&mut self, host: HostId, frame: &[u8]) {
        self.offer(host.0, &[frame.to_vec()]);
    }

    fn offer(&mut self, host: usize, frames: &[Vec<u8>]) {
        let (node, port) = (self.hosts[host].node, self.hosts[host].port.clone());
        self.nodes[node].offer(self.now, &port, frames, self.superframes);
        self.carry(node);
    }

    /// Takes what a node's engine sent to where it goes.
    fn carry(&mut self, node: usize) {
        let (frames, datagrams) = self.nodes[node].take_output();
        for (port, frame) in frames {
            for host in &mut self.hosts {
                if host.node == node && host.port == port {
                    host.deliver(frame.clone());
                }
            }
        }
        for (to, datagram) in datagrams {
            let IpAddr::V4(ip) = to else { continue };
            let peer = usize::from(ip.octets()[3]) - 1;
            if let Some(mtu) = self.wires.send(self.now, node, peer, datagram) {
                self.nodes[node].path_is_narrow(to, mtu);
            }
        }
    }

    /// Every ingress of every node obeys the counting law.
    pub(crate) fn assert_law(&self) {
        for node in &self.nodes {
            node.assert_law();
        }
    }

    /// Datagrams that were put on the underlay so far.
    pub(crate) fn datagrams(&self) -> u64 {
        self.wires.sent
    }

    /// What a host has received since the last call, as it came.
    pub(crate) fn captured(&mut self, host: HostId) -> VecDeque<Vec<u8>> {
        std::mem::take(&mut self.hosts[host.0].capture)
    }
}

fn segment(name: &str, vni: u32, node: usize, nodes: usize) -> SegmentSpec {
    let others = (0..nodes).filter(|other| *other != node);
    SegmentSpec {
        name: name.to_owned(),
        vni: encap::Vni::new(vni).unwrap(),
        peers: others.map(|other| (vtep_ip(other), encap::vxlan::PORT).into()).collect(),
        multicast: None,
        learning: true,
        flood_unknown: true,
        strict_peers: true,
        strict_header: true,
        cluster: None,
    }
}
