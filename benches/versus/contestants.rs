//! Those who are compared, each set up on nodes, pods and a cable of its own.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use lab::config::{Config, Segment};
use lab::daemon::{Daemon, Program};
use lab::overlay::{Node, Pod, SEGMENT, VNI, access_port, pod};
use lab::peer::kernel::{KernelOptions, KernelPeer};
use lab::peer::ovs::{self, OvsPeer};
use lab::tool;
use lab::traffic::ping;
use lab::world::World;
use serde_json::{Value, json};

use crate::machine;
use crate::measure::Ends;
use crate::underlay::{CableEnd, DEVICE, Place};

/// How long the first answer may take, with a neighbour to resolve and addresses to learn.
const PATIENCE: Duration = Duration::from_secs(10);

/// A data path between two pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contestant {
    /// Tapestry on both nodes.
    Tapestry,
    /// Another build of Tapestry on both nodes.
    Other,
    /// The kernel's bridge and VXLAN device on both nodes.
    Kernel,
    /// Open vSwitch's userspace datapath on both nodes.
    Ovs,
    /// A veth pair from pod to pod.
    Veth,
    /// The client's node runs Tapestry, the server's the kernel.
    ToKernel,
    /// The client's node runs the kernel, the server's Tapestry.
    FromKernel,
}

/// What a node runs.
#[derive(Clone, Copy, Debug)]
enum Switch<'a> {
    Tapestry(&'a Path),
    Kernel,
    Ovs,
}

impl Contestant {
    pub(crate) const ALL: [Self; 7] = [
        Self::Tapestry,
        Self::Other,
        Self::Kernel,
        Self::Ovs,
        Self::Veth,
        Self::ToKernel,
        Self::FromKernel,
    ];

    /// As `--only` and the results call it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tapestry => "tapestry",
            Self::Other => "other",
            Self::Kernel => "kernel",
            Self::Ovs => "ovs",
            Self::Veth => "veth",
            Self::ToKernel => "tapestry-kernel",
            Self::FromKernel => "kernel-tapestry",
        }
    }

    /// Whether there is such a thing in this place.
    pub(crate) fn fits(self, place: Place) -> bool {
        place != Place::OneNode || !matches!(self, Self::ToKernel | Self::FromKernel)
    }

    /// Whether a run goes on without it.
    pub(crate) fn is_optional(self) -> bool {
        self == Self::Ovs
    }

    fn switches(self, other: Option<&Path>) -> Option<[Switch<'_>; 2]> {
        let ours = Switch::Tapestry(Path::new(env!("CARGO_BIN_EXE_tapestry")));
        match self {
            Self::Tapestry => Some([ours; 2]),
            Self::Other => other.map(|path| [Switch::Tapestry(path); 2]),
            Self::Kernel => Some([Switch::Kernel; 2]),
            Self::Ovs => Some([Switch::Ovs; 2]),
            Self::Veth => None,
            Self::ToKernel => Some([ours, Switch::Kernel]),
            Self::FromKernel => Some([Switch::Kernel, ours]),
        }
    }
}

/// A contestant that is up. Fields are dropped in this order: daemons first.
#[derive(Debug)]
pub(crate) struct Stage {
    daemons: Vec<Daemon>,
    ovs: Vec<OvsPeer>,
    kernels: Vec<KernelPeer>,
    pods: [Pod; 2],
    /// The cable's ends, between nodes or else between pods.
    cable: Vec<CableEnd>,
    world: World,
}

impl Stage {
    /// Sets a contestant up and waits until its pods reach each other.
    ///
    /// # Errors
    ///
    /// If a program is missing, the kernel refuses anything, or no answer comes.
    pub(crate) fn build(one: Contestant, place: Place, other: Option<&PathBuf>) -> Result<Self> {
        let world = World::new();
        let second = if place == Place::OneNode { (1, 2) } else { (2, 1) };
        let pods = [pod(&world, 1, 1)?, pod(&world, second.0, second.1)?];
        let (daemons, ovs, kernels) = (Vec::new(), Vec::new(), Vec::new());
        let mut stage = Self { daemons, ovs, kernels, pods, cable: Vec::new(), world };
        match one.switches(other.map(PathBuf::as_path)) {
            None => stage.cable(place)?,
            Some(switches) => stage.nodes(place, switches)?,
        }
        let ends = stage.ends();
        ping::until_answered(ends.client, ends.address, PATIENCE).context("the first ping")?;
        Ok(stage)
    }

    /// The pods between which traffic goes.
    pub(crate) fn ends(&self) -> Ends<'_> {
        let [client, server] = &self.pods;
        Ends {
            client: &client.space,
            server: &server.space,
            address: server.v4.addr(),
            cable: &self.cable,
        }
    }

    /// Has the pods' TCP use this congestion control from the next connection on.
    ///
    /// # Errors
    ///
    /// If the kernel has none of that name, or does not let us choose.
    pub(crate) fn congestion(&self, name: &str) -> Result<()> {
        self.pods.iter().try_for_each(|pod| {
            let set = pod.space.run(|| fs::write(machine::CONGESTION, name))?;
            set.with_context(|| format!("{name} to {}", machine::CONGESTION))
        })
    }

    /// Nothing but a veth pair.
    fn cable(&mut self, place: Place) -> Result<()> {
        let [a, b] = &self.pods;
        self.cable = place.join(&self.world, [&a.space, &b.space], "eth0")?;
        self.pods.iter().try_for_each(|pod| pod.space.address("eth0", pod.v4))
    }

    fn nodes(&mut self, place: Place, switches: [Switch<'_>; 2]) -> Result<()> {
        let node = |number: u8| -> Result<Node> {
            let v6 = [0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()].into();
            let space = self.world.space(&format!("node{number}"))?;
            Ok(Node { space, v4: [192, 0, 2, number].into(), v6 })
        };
        let (a, b) = (node(1)?, node(2)?);
        self.cable = place.join(&self.world, [&a.space, &b.space], DEVICE)?;
        for node in [&a, &b] {
            node.space.address(DEVICE, IpNet::new(node.v4.into(), 24)?)?;
        }
        let [first, second] = switches;
        let [client, server] = self.pods.clone();
        if place == Place::OneNode {
            return self.attach(first, &a, None, &[client, server]);
        }
        self.attach(first, &a, Some(b.v4.into()), &[client])?;
        self.attach(second, &b, Some(a.v4.into()), &[server])
    }

    /// Puts a switch on a node, with these pods behind it.
    fn attach(
        &mut self,
        switch: Switch<'_>,
        node: &Node,
        remote: Option<IpAddr>,
        pods: &[Pod],
    ) -> Result<()> {
        let vteps = (node.v4.into(), remote.as_slice());
        let (first, more) = pods.split_first().context("no pod")?;
        match switch {
            Switch::Tapestry(path) => self.daemons.push(daemon(path, node, vteps, pods)?),
            Switch::Kernel => {
                let options = KernelOptions { checksum: true, offloads: true };
                let peer = KernelPeer::start(&self.world, node, first.clone(), vteps, options)?;
                for pod in more {
                    self.plug(node, pod)?;
                    node.space.output("ip link set pod1 master br0 up")?;
                }
                self.kernels.push(peer);
            }
            Switch::Ovs => {
                let missing: Vec<_> =
                    ovs::PROGRAMS.iter().copied().filter(|name| !tool::exists(name)).collect();
                anyhow::ensure!(missing.is_empty(), "missing: {}", missing.join(", "));
                let peer = OvsPeer::start(&self.world, node, first.clone(), vteps)?;
                for pod in more {
                    self.plug(node, pod)?;
                    node.space.offloads("pod1", "tx off gro off")?;
                    pod.space.offloads("eth0", "tx off gro off")?;
                    peer.vsctl("add-port bri pod1")?;
                }
                self.ovs.push(peer);
            }
        }
        Ok(())
    }

    /// A node's second pod, with the MTU of the first.
    fn plug(&self, node: &Node, pod: &Pod) -> Result<()> {
        self.world.veth((&node.space, "pod1"), (&pod.space, "eth0"), 1500)?;
        pod.space.output("ip link set eth0 mtu 1450")?;
        pod.space.address("eth0", pod.v4)
    }

    /// What its daemons have taken of memory, and the socket buffers they were given.
    ///
    /// # Errors
    ///
    /// If a daemon is gone or does not answer.
    pub(crate) fn footprints(&self) -> Result<Vec<Value>> {
        let mut rows = Vec::new();
        for daemon in &self.daemons {
            let status = daemon.json("status")?;
            rows.push(json!({
                "node": daemon.space().name(),
                "peak_rss_kib": peak_memory(daemon.pid()?)?,
                "socket_buffers": status.get("buffers"),
            }));
        }
        for peer in &self.ovs {
            rows.push(json!({
                "node": peer.space.name(),
                "peak_rss_kib": peak_memory(peer.pid())?,
            }));
        }
        Ok(rows)
    }

    /// Holds daemons to their counting law and ends them as systemd would.
    ///
    /// # Errors
    ///
    /// With what one of them did.
    pub(crate) fn end(mut self) -> Result<()> {
        self.daemons.iter().try_for_each(Daemon::assert_counting_law)?;
        self.daemons.iter_mut().try_for_each(Daemon::stop)
    }
}

fn daemon(path: &Path, node: &Node, vteps: (IpAddr, &[IpAddr]), pods: &[Pod]) -> Result<Daemon> {
    let mut config = Config::new(node.space.name(), vteps.0);
    config.segments.push(Segment::new(SEGMENT, VNI, vteps.1));
    let ports = pods.iter().zip(1..);
    config.ports.extend(ports.map(|(pod, number)| access_port(&format!("pod{number}"), pod)));
    let mut daemon = Daemon::prepare(&Program::new(path), &node.space)?;
    daemon.flag("--ephemeral");
    daemon.configure(&config)?;
    daemon.launch()?;
    Ok(daemon)
}

/// The most resident memory that a process ever had, in KiB.
fn peak_memory(pid: i32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.split_whitespace().next().context("no VmHWM")?.parse()?)
}
