//! Open vSwitch's userspace datapath as a VTEP: no kernel module, daemons of its own.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use tempfile::TempDir;

use crate::overlay::{Node, Pod, UNDERLAY, VNI};
use crate::tool::{self, Background, eventually};
use crate::world::{Space, World};

/// Programs it needs.
pub const PROGRAMS: &[&str] =
    &["ip", "ethtool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl", "ovsdb-tool"];

/// Where Debian keeps the schema.
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// Two bridges: one holds the underlay's device and its address, one the tunnels and the pod.
#[derive(Debug)]
pub struct OvsPeer {
    /// The pod behind it.
    pub pod: Pod,
    /// The node's namespace.
    pub space: Space,
    vswitchd: Background,
    _ovsdb: Background,
    dir: TempDir,
}

impl OvsPeer {
    /// Sets it up on a node of its own, with one tunnel port per remote.
    ///
    /// # Errors
    ///
    /// If a program is missing or a daemon does not come up: with its log.
    pub fn start(
        world: &World,
        node: &Node,
        pod: Pod,
        (local, remotes): (IpAddr, &[IpAddr]),
    ) -> Result<Self> {
        let space = node.space.clone();
        let dir = TempDir::with_prefix("ovs-")?;
        let (ovsdb, vswitchd) = daemons(&space, dir.path())?;
        let peer = Self { pod, space, vswitchd, _ovsdb: ovsdb, dir };
        peer.underlay(local)?;
        peer.bridge(world, (local, remotes))?;
        Ok(peer)
    }

    /// The process that forwards.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.vswitchd.pid()
    }

    /// Runs `ovs-vsctl` on this switch's database.
    ///
    /// # Errors
    ///
    /// If it refuses.
    pub fn vsctl(&self, line: &str) -> Result<String> {
        let db = self.dir.path().join("db.sock");
        self.space.output(&format!("ovs-vsctl --timeout=10 --db=unix:{} {line}", db.display()))
    }

    /// Runs `ovs-appctl` on its `ovs-vswitchd`.
    ///
    /// # Errors
    ///
    /// If it refuses.
    pub fn appctl(&self, line: &str) -> Result<String> {
        let socket = self.dir.path().join("vswitchd.ctl");
        self.space.output(&format!("ovs-appctl --timeout=10 -t {} {line}", socket.display()))
    }

    /// The underlay's device becomes a port, and its address the bridge's.
    fn underlay(&self, local: IpAddr) -> Result<()> {
        let mac = self.space.link(UNDERLAY)?.mac.context("no MAC")?;
        // What a sender leaves to the device would reach Open vSwitch unfinished.
        self.space.offloads(UNDERLAY, "tx off gro off")?;
        self.vsctl(&format!(
            "add-br brp -- set bridge brp datapath_type=netdev other-config:hwaddr={mac}"
        ))?;
        self.vsctl(&format!("add-port brp {UNDERLAY}"))?;
        self.space.output(&format!("ip address flush dev {UNDERLAY}"))?;
        self.space.address("brp", IpNet::new(local, if local.is_ipv4() { 24 } else { 64 })?)?;
        self.space.up("brp")
    }

    fn bridge(&self, world: &World, (local, remotes): (IpAddr, &[IpAddr])) -> Result<()> {
        world.veth((&self.space, "pod0"), (&self.pod.space, "eth0"), 1500)?;
        self.space.offloads("pod0", "tx off gro off")?;
        self.pod.space.offloads("eth0", "tx off gro off")?;
        self.vsctl("add-br bri -- set bridge bri datapath_type=netdev")?;
        self.vsctl("add-port bri pod0")?;
        for (number, remote) in remotes.iter().enumerate() {
            self.vsctl(&format!(
                "add-port bri vx{number} -- set interface vx{number} type=vxlan \
                 options:remote_ip={remote} options:local_ip={local} options:key={VNI}"
            ))?;
        }
        self.space.up("bri")?;
        self.pod.space.output(&format!(
            "ip link set eth0 mtu {}",
            if local.is_ipv4() { 1450 } else { 1430 }
        ))?;
        self.pod.space.address("eth0", self.pod.v4)?;
        self.pod.space.address("eth0", self.pod.v6)
    }
}

fn daemons(space: &Space, dir: &Path) -> Result<(Background, Background)> {
    let at = |name: &str| dir.join(name).display().to_string();
    tool::run(tool::command("ovsdb-tool").args(["create", &at("conf.db"), SCHEMA]))?;
    let start = |program: &str, arguments: &[String]| {
        let mut command = tool::command(program);
        command.args(arguments).env("OVS_RUNDIR", dir).env("OVS_LOGDIR", dir).env("OVS_DBDIR", dir);
        space.run(|| Background::start(&mut command, dir, program))?
    };
    let ovsdb = start(
        "ovsdb-server",
        &[
            at("conf.db"),
            format!("--remote=punix:{}", at("db.sock")),
            format!("--unixctl={}", at("ovsdb.ctl")),
        ],
    )?;
    let patience = Duration::from_secs(10);
    eventually(patience, "ovsdb-server listens", || Ok(dir.join("db.sock").exists()))
        .with_context(|| ovsdb.said())?;
    let db = format!("unix:{}", at("db.sock"));
    tool::run(tool::command("ovs-vsctl").args([&format!("--db={db}"), "--no-wait", "init"]))?;
    let vswitchd = start(
        "ovs-vswitchd",
        &[db, "--disable-system".to_owned(), format!("--unixctl={}", at("vswitchd.ctl"))],
    )?;
    eventually(patience, "ovs-vswitchd listens", || Ok(dir.join("vswitchd.ctl").exists()))
        .with_context(|| vswitchd.said())?;
    Ok((ovsdb, vswitchd))
}
