//! Nodes of one cluster with daemons, and pods that are attached by the CNI plugin as a runtime would
//! attach them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::IpNet;
use serde_json::{Value, json};
use tapestry::device::netns;

use crate::config::Config;
use crate::daemon::{Daemon, Program};
use crate::overlay::{Node, Overlay, Plan, Pod};
use crate::world::{Space, net};

/// The CNI network that pods are attached by.
pub const NETWORK: &str = "pods";

/// The pods' networks. Node *n* of a static cluster has 10.244.*n*.0/24 and fd00:10:244:*n*::/64.
pub const NETWORKS: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/48"];

/// The gateway port's device.
pub const GATEWAY: &str = "tapestry0";

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct ClusterPlan {
    /// Nodes with a daemon.
    pub nodes: usize,
    /// Further hosts on the underlay that are no members: the outside.
    pub strangers: usize,
    /// Lines for each `[cluster]`, in front of its tables.
    pub extra: String,
    /// `store = …` and its tables; the static store without.
    pub store: Option<String>,
    /// Whether the tunnel runs over IPv6.
    pub over_ipv6: bool,
}

impl Default for ClusterPlan {
    fn default() -> Self {
        Self { nodes: 2, strangers: 0, extra: String::new(), store: None, over_ipv6: false }
    }
}

/// A running cluster. Daemons are dropped first.
#[derive(Debug)]
pub struct Cluster {
    /// Daemons, nodes and their underlay; it has no pods of its own.
    pub overlay: Overlay,
    /// The plugin.
    pub plugin: PathBuf,
}

impl Cluster {
    /// Builds nodes and starts a daemon on each.
    ///
    /// # Errors
    ///
    /// If the kernel refuses anything, or a daemon does not get ready.
    pub fn start(program: &Program, plugin: PathBuf, plan: &ClusterPlan) -> Result<Self> {
        let mut cluster = Self::build(program, plugin, plan)?;
        for daemon in &mut cluster.overlay.daemons {
            daemon.launch()?;
        }
        Ok(cluster)
    }

    /// Nodes, and daemons that are not started yet.
    ///
    /// # Errors
    ///
    /// If the kernel refuses anything.
    pub fn build(program: &Program, plugin: PathBuf, plan: &ClusterPlan) -> Result<Self> {
        let bare = Plan {
            nodes: plan.nodes,
            strangers: plan.strangers,
            pods: 0,
            over_ipv6: plan.over_ipv6,
            ..Plan::default()
        };
        let mut overlay = Overlay::build(&bare)?;
        let listed = static_nodes(&overlay.nodes, plan);
        for index in 0..plan.nodes {
            let (Some(node), Some(config)) =
                (overlay.nodes.get(index), overlay.configs.get_mut(index))
            else {
                bail!("no node {index}");
            };
            forward(&node.space)?;
            let daemon = Daemon::prepare(program, &node.space)?;
            config.segments.clear();
            // What the list of nodes has of each, a node tells other stores itself.
            let own = format!("addresses = [\"{}\"]\n{}", node.vtep(!plan.over_ipv6), plan.extra);
            let (extra, store) = match &plan.store {
                Some(store) => (&own, store),
                None => (&plan.extra, &listed),
            };
            config.extra = section(&daemon.beside("attach.sock"), extra, store);
            daemon.configure(config)?;
            overlay.daemons.push(daemon);
        }
        Ok(Self { overlay, plugin })
    }

    /// The node of this index, and its daemon.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn node(&self, index: usize) -> Result<(&Node, &Daemon)> {
        let node = self.overlay.nodes.get(index).zip(self.overlay.daemons.get(index));
        node.with_context(|| format!("no node {index}"))
    }

    /// The config of a node, to be changed and given to its daemon again.
    #[must_use]
    pub fn config(&self, index: usize) -> Option<&Config> {
        self.overlay.configs.get(index)
    }

    /// Adds a pod to a node: a namespace, and what ADD makes in it.
    ///
    /// # Errors
    ///
    /// If the plugin refuses.
    pub fn add_pod(&self, index: usize, name: &str) -> Result<Pod> {
        self.add_pod_with(index, name, &json!({}))
    }

    /// The same with further keys in the plugin's configuration.
    ///
    /// # Errors
    ///
    /// If the plugin refuses.
    pub fn add_pod_with(&self, index: usize, name: &str, keys: &Value) -> Result<Pod> {
        let space = self.overlay.world.space(&format!("{name}.{}", index + 1))?;
        let result = self.call(index, "ADD", name, &space, keys)?;
        let addresses: Vec<IpNet> = result["ips"]
            .as_array()
            .with_context(|| format!("no addresses in {result}"))?
            .iter()
            .filter_map(|ip| ip["address"].as_str()?.parse().ok())
            .collect();
        let of = |v4: bool| addresses.iter().find(|one| one.addr().is_ipv4() == v4).copied();
        let missing = || format!("an address of each family in {result}");
        Ok(Pod { space, v4: of(true).with_context(missing)?, v6: of(false).with_context(missing)? })
    }

    /// Detaches a pod.
    ///
    /// # Errors
    ///
    /// If the plugin refuses.
    pub fn delete_pod(&self, index: usize, name: &str, pod: &Pod) -> Result<()> {
        self.call(index, "DEL", name, &pod.space, &json!({})).map(|_| ())
    }

    /// Calls the plugin as libcni does. Returns its result, or null when it prints nothing.
    ///
    /// # Errors
    ///
    /// If it fails: with the error it prints.
    pub fn call(
        &self,
        index: usize,
        command: &str,
        container: &str,
        space: &Space,
        keys: &Value,
    ) -> Result<Value> {
        let (node, daemon) = self.node(index)?;
        let config = conf(daemon, keys);
        call_plugin(&self.plugin, &node.space, &config, command, container, space)
    }

    /// Holds every daemon to its rules.
    ///
    /// # Errors
    ///
    /// With what one of them did.
    pub fn assert_sound(&mut self) -> Result<()> {
        self.overlay.assert_sound()
    }
}

/// The plugin's configuration for a daemon, with further keys.
#[must_use]
pub fn conf(daemon: &Daemon, keys: &Value) -> Value {
    let mut config = json!({
        "cniVersion": "1.1.0",
        "name": NETWORK,
        "type": "tapestry-cni",
        "socket": daemon.beside("attach.sock"),
    });
    if let (Some(config), Some(keys)) = (config.as_object_mut(), keys.as_object()) {
        config.extend(keys.clone());
    }
    config
}

/// Calls a plugin on a node as libcni does, for the container in `pod`. Returns its result, or null
/// when it prints nothing.
///
/// # Errors
///
/// If it fails: with the error it prints.
pub fn call_plugin(
    plugin: &Path,
    node: &Space,
    config: &Value,
    command: &str,
    container: &str,
    pod: &Space,
) -> Result<Value> {
    let mut process = Command::new(plugin);
    process
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", container)
        .env("CNI_NETNS", format!("{}/{}", netns::RUN_DIR, pod.name()))
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/usr/lib/cni:/opt/cni/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = node.spawn_process(&mut process)?;
    child.stdin.take().context("stdin")?.write_all(config.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{command} {container}: {}: {text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&text).with_context(|| format!("{command} printed {text}"))
}

/// What a node's kernel needs to be a router, as packaging's sysctl file sets it.
fn forward(space: &Space) -> Result<()> {
    let set = |path: &str, value: &str| std::fs::write(format!("/proc/sys/net/{path}"), value);
    space.run(|| {
        set("ipv4/ip_forward", "1")?;
        set("ipv6/conf/all/forwarding", "1")
    })??;
    Ok(())
}

fn section(attach: &str, extra: &str, store: &str) -> String {
    let networks: Vec<String> = NETWORKS.iter().map(|net| format!("\"{net}\"")).collect();
    let networks = networks.join(", ");
    format!("\n[cluster]\nnetwork = [{networks}]\nattach = \"{attach}\"\n{extra}\n{store}\n")
}

fn static_nodes(nodes: &[Node], plan: &ClusterPlan) -> String {
    let mut text = String::new();
    for (index, node) in nodes.iter().take(plan.nodes).enumerate() {
        let number = index + 1;
        let vtep = node.vtep(plan.over_ipv6);
        let other = node.vtep(!plan.over_ipv6);
        let _ = write!(
            text,
            "\n[[cluster.node]]\nname = \"node{number}\"\naddress = \"{vtep}\"\n\
             addresses = [\"{other}\"]\n\
             pod_cidrs = [\"10.244.{number}.0/24\", \"fd00:10:244:{number}::/64\"]\n"
        );
    }
    text
}

/// The address of a node's gateway port, IPv4 and IPv6.
///
/// # Errors
///
/// Never for a number below 256.
pub fn gateway_addresses(number: usize) -> Result<[IpAddr; 2]> {
    Ok([
        net(&format!("10.244.{number}.1/32"))?.addr(),
        net(&format!("fd00:10:244:{number}::1/128"))?.addr(),
    ])
}
