//! Nodes with daemons and pods behind them: what most tests start from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use ipnet::IpNet;

use crate::config::{Config, Port, Segment};
use crate::daemon::{Daemon, Program};
use crate::world::{Space, World, net};

/// The segment that every overlay starts with.
pub const SEGMENT: &str = "blue";

/// Its VNI.
pub const VNI: u32 = 100;

/// The device by which a node reaches the others.
pub const UNDERLAY: &str = "under0";

/// What an overlay is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Nodes with a daemon.
    pub nodes: usize,
    /// Further nodes on the underlay, for peers of another kind or an attacker.
    pub strangers: usize,
    /// Pods on each node with a daemon.
    pub pods: usize,
    /// Whether the tunnel runs over IPv6.
    pub over_ipv6: bool,
    /// The underlay's MTU.
    pub mtu: u32,
    /// Lines for each `[underlay]`.
    pub underlay_extra: String,
    /// Lines for each `[[segment]]`.
    pub segment_extra: String,
    /// Whole sections for each config.
    pub extra: String,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            nodes: 2,
            strangers: 0,
            pods: 1,
            over_ipv6: false,
            mtu: 1500,
            underlay_extra: String::new(),
            segment_extra: String::new(),
            extra: String::new(),
        }
    }
}

/// A namespace with an address on the underlay.
#[derive(Clone, Debug)]
pub struct Node {
    /// The namespace.
    pub space: Space,
    /// Its IPv4 address there.
    pub v4: Ipv4Addr,
    /// Its IPv6 address there.
    pub v6: Ipv6Addr,
}

impl Node {
    /// The address that the tunnel uses.
    #[must_use]
    pub fn vtep(&self, over_ipv6: bool) -> IpAddr {
        if over_ipv6 { self.v6.into() } else { self.v4.into() }
    }
}

/// A pod: a namespace whose `eth0` is a port of a daemon, or of somebody else's switch.
#[derive(Clone, Debug)]
pub struct Pod {
    /// The namespace.
    pub space: Space,
    /// Its address and prefix.
    pub v4: IpNet,
    /// Its IPv6 address and prefix.
    pub v6: IpNet,
}

impl Pod {
    /// Its addresses without prefix, IPv4 first.
    #[must_use]
    pub fn hosts(&self) -> [IpAddr; 2] {
        [self.v4.addr(), self.v6.addr()]
    }
}

/// Nodes, pods and running daemons. Fields are dropped in this order: daemons first.
#[derive(Debug)]
pub struct Overlay {
    /// One per planned node.
    pub daemons: Vec<Daemon>,
    /// The configs they were started with.
    pub configs: Vec<Config>,
    /// Pods, node by node.
    pub pods: Vec<Vec<Pod>>,
    /// Nodes with daemons, then the strangers.
    pub nodes: Vec<Node>,
    /// The namespace with the bridge that joins them.
    pub lan: Space,
    /// All of it.
    pub world: World,
}

impl Overlay {
    /// Builds namespaces and links and starts the daemons. Strangers are in every replication list.
    ///
    /// # Errors
    ///
    /// If the kernel refuses anything, or a daemon does not get ready.
    pub fn start(program: &Program, plan: &Plan) -> Result<Self> {
        let mut overlay = Self::build(plan)?;
        for (node, config) in overlay.nodes.iter().zip(&overlay.configs) {
            overlay.daemons.push(Daemon::start(program, &node.space, config)?);
        }
        Ok(overlay)
    }

    /// Namespaces, links and configs, but no daemons.
    ///
    /// # Errors
    ///
    /// If the kernel refuses anything.
    pub fn build(plan: &Plan) -> Result<Self> {
        let world = World::new();
        let mut nodes = Vec::new();
        for number in 1..=plan.nodes + plan.strangers {
            let space = world.space(&format!("node{number}"))?;
            let number = u8::try_from(number).context("too many nodes")?;
            let v4 = Ipv4Addr::new(192, 0, 2, number);
            let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into());
            nodes.push(Node { space, v4, v6 });
        }
        let spaces: Vec<&Space> = nodes.iter().map(|node| &node.space).collect();
        let lan = world.lan(&spaces, UNDERLAY, plan.mtu)?;
        for node in &nodes {
            node.space.address(UNDERLAY, IpNet::new(node.v4.into(), 24)?)?;
            node.space.address(UNDERLAY, IpNet::new(node.v6.into(), 64)?)?;
        }
        let mut pods = Vec::new();
        let mut configs = Vec::new();
        for (index, node) in nodes.iter().take(plan.nodes).enumerate() {
            let vteps: Vec<IpAddr> = nodes.iter().map(|node| node.vtep(plan.over_ipv6)).collect();
            let own = node.vtep(plan.over_ipv6);
            let peers: Vec<IpAddr> = vteps.into_iter().filter(|vtep| *vtep != own).collect();
            let mut config = Config::new(&format!("node{}", index + 1), own);
            config.underlay_extra.clone_from(&plan.underlay_extra);
            config.extra.clone_from(&plan.extra);
            let mut segment = Segment::new(SEGMENT, VNI, &peers);
            segment.extra.clone_from(&plan.segment_extra);
            config.segments.push(segment);
            let mut here = Vec::new();
            for number in 0..plan.pods {
                let pod = pod(&world, index + 1, number + 1)?;
                config.ports.push(access_port(&format!("pod{}", number + 1), &pod));
                here.push(pod);
            }
            pods.push(here);
            configs.push(config);
        }
        Ok(Self { daemons: Vec::new(), configs, pods, nodes, lan, world })
    }

    /// Holds every daemon to its rules.
    ///
    /// # Errors
    ///
    /// With what one of them did.
    pub fn assert_sound(&mut self) -> Result<()> {
        self.daemons.iter_mut().try_for_each(Daemon::assert_sound)
    }
}

/// A namespace for a pod, with addresses that follow from node and number, but no device yet.
///
/// # Errors
///
/// If the namespace cannot be made.
pub fn pod(world: &World, node: usize, number: usize) -> Result<Pod> {
    Ok(Pod {
        space: world.space(&format!("pod{node}.{number}"))?,
        v4: net(&format!("10.9.{node}.{number}/16"))?,
        v6: net(&format!("fd09::{node}:{number}/64"))?,
    })
}

/// The port of a pod: `eth0` in its namespace.
#[must_use]
pub fn access_port(name: &str, pod: &Pod) -> Port {
    Port {
        name: name.to_owned(),
        segment: Some(SEGMENT.to_owned()),
        netns: Some(pod.space.name().to_owned()),
        ifname: Some("eth0".to_owned()),
        addresses: vec![pod.v4, pod.v6],
        extra: String::new(),
    }
}
