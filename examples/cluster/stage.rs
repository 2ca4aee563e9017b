//! The nodes, the store, the daemons and the pods of the demo.

use std::env;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lab::cluster::{Cluster, ClusterPlan, GATEWAY};
use lab::daemon::{Daemon, Program};
use lab::etcd::Etcd;
use lab::overlay::{Node, Pod};
use lab::tool::eventually;
use lab::traffic::mirror::Mirror;
use serde_json::{Value, json};

use crate::show;

const NODES: usize = 3;

/// How long nodes may take to hear of each other.
const PATIENCE: Duration = Duration::from_secs(15);

/// A pod, and on which node it is.
pub(crate) struct Guest {
    pub(crate) name: String,
    pub(crate) node: usize,
    pub(crate) pod: Pod,
    _mirror: Mirror,
}

/// Fields are dropped in this order: daemons first.
pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    pub(crate) etcd: Etcd,
    pub(crate) guests: Vec<Guest>,
    _mirrors: Vec<Mirror>,
}

/// A program that was built beside this one.
fn built(name: &str) -> Result<PathBuf> {
    let own = env::current_exe()?;
    let path = own.parent().and_then(|dir| dir.parent()).context("no directory")?.join(name);
    let hint = || format!("{} is not built: make demo-cluster does", path.display());
    ensure!(path.is_file(), hint());
    Ok(path)
}

impl Stage {
    /// Nodes, a host for the store, one outside, and a store that runs; no daemon does yet.
    pub(crate) fn build() -> Result<Self> {
        let store = Etcd::store(&[IpAddr::from([192, 0, 2, 4])]);
        let plan = ClusterPlan {
            nodes: NODES,
            strangers: 2,
            store: Some(store),
            ..ClusterPlan::default()
        };
        let program = Program::new(built("tapestry")?);
        let cluster = Cluster::build(&program, built("tapestry-cni")?, &plan)?;
        let [.., host, outside] = &cluster.overlay.nodes[..] else { anyhow::bail!("no hosts") };
        let etcd = Etcd::start(&host.space, host.v4.into())?;
        let members = cluster.overlay.nodes.iter().take(NODES).chain([outside]);
        let mirrors = members.map(|node| Mirror::start(&node.space)).collect::<Result<_>>()?;
        Ok(Self { cluster, etcd, guests: Vec::new(), _mirrors: mirrors })
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = (String, &Node)> {
        let nodes = self.cluster.overlay.nodes.iter().take(NODES).enumerate();
        nodes.map(|(index, node)| (name_of(index), node))
    }

    /// Somebody in the nodes' network who is no member.
    pub(crate) fn outside(&self) -> Result<&Node> {
        self.cluster.overlay.nodes.last().context("nobody is outside")
    }

    pub(crate) fn daemons(&self) -> impl Iterator<Item = (String, &Daemon)> {
        let daemons = self.cluster.overlay.daemons.iter().enumerate();
        daemons.map(|(index, daemon)| (name_of(index), daemon))
    }

    pub(crate) fn start_daemons(&mut self) -> Result<()> {
        for (index, daemon) in self.cluster.overlay.daemons.iter_mut().enumerate() {
            let took = daemon.launch().context("start a daemon")?;
            let shares = shares(daemon)?.join(" and ");
            let took = show::milliseconds(&took);
            println!("  {}: ready after {took}, took the share {shares}", name_of(index));
        }
        let begun = Instant::now();
        eventually(PATIENCE, "all nodes know each other", || {
            self.daemons().try_fold(true, |all, (_, daemon)| {
                let nodes = daemon.json("node list")?;
                Ok(all && nodes.as_array().is_some_and(|nodes| nodes.len() == NODES))
            })
        })?;
        let took = show::milliseconds(&begun.elapsed());
        println!("  each node knew of all others {took} after the last was ready");
        Ok(())
    }

    /// Attaches a pod as a container runtime does. Returns how long the plugin took.
    pub(crate) fn add_pod(&mut self, node: usize, name: &str, keys: &Value) -> Result<Duration> {
        let mut all = json!({});
        if let (Some(all), Some(keys)) = (all.as_object_mut(), keys.as_object()) {
            all.extend(keys.clone());
        }
        let begun = Instant::now();
        let pod = self.cluster.add_pod_with(node, name, &all)?;
        let took = begun.elapsed();
        let mirror = Mirror::start(&pod.space)?;
        self.guests.push(Guest { name: name.to_owned(), node, pod, _mirror: mirror });
        Ok(took)
    }

    /// Waits until what each node knows of the others is on its disk, as it is within seconds.
    pub(crate) fn is_on_disk(&self) -> Result<()> {
        eventually(PATIENCE, "the cluster is on every node's disk", || {
            Ok(self.daemons().all(|(_, daemon)| {
                let text = fs::read_to_string(daemon.beside("state/cluster.json"));
                let text = text.unwrap_or_default();
                (0..NODES).all(|index| text.contains(&format!("\"{}\"", name_of(index))))
            }))
        })
    }

    /// The daemon of a node.
    pub(crate) fn daemon(&mut self, node: usize) -> Result<&mut Daemon> {
        self.cluster.overlay.daemons.get_mut(node).context("no such daemon")
    }

    /// Commands that reach into the cell from outside.
    pub(crate) fn print_keys(&self) {
        let enter = show::way_in();
        let program = built("tapestry").map(|path| path.display().to_string()).unwrap_or_default();
        for (name, daemon) in self.daemons() {
            println!("  {name}: {enter} {program} --socket {} pod list", daemon.socket());
        }
        for guest in &self.guests {
            let space = guest.pod.space.name();
            println!("  {}: {enter} ip netns exec {space} ip addr", guest.name);
        }
    }

    /// Detaches every pod, stops and removes everything, and looks that nothing is left.
    pub(crate) fn stop(mut self) -> Result<()> {
        for guest in &self.guests {
            self.cluster.delete_pod(guest.node, &guest.name, &guest.pod)?;
            let space = &guest.pod.space;
            ensure!(space.link("eth0").is_err(), "{} still has its device", guest.name);
        }
        for (_, daemon) in self.daemons() {
            let left = daemon.json("pod list")?;
            ensure!(left.as_array().is_some_and(Vec::is_empty), "there are pods left: {left}");
            daemon.assert_counting_law()?;
        }
        for daemon in &mut self.cluster.overlay.daemons {
            daemon.stop()?;
            daemon.cli(&format!("teardown --config {}", daemon.config_path().display()))?;
            let gone = daemon.space().link(GATEWAY).is_err();
            ensure!(gone, "teardown left {GATEWAY} behind");
        }
        self.etcd.kill()
    }
}

fn name_of(index: usize) -> String {
    format!("node{}", index + 1)
}

/// A node's share of the pods' networks.
fn shares(daemon: &Daemon) -> Result<Vec<String>> {
    let mut shares = Vec::new();
    eventually(PATIENCE, "the node has a share", || {
        let status = daemon.json("status")?;
        let cidrs = status["cluster"]["pod_cidrs"].as_array().cloned().unwrap_or_default();
        shares = cidrs.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect();
        Ok(!shares.is_empty())
    })?;
    Ok(shares)
}

/// The addresses of a node's gateway port, IPv4 first.
pub(crate) fn gateway(daemon: &Daemon) -> Result<[IpAddr; 2]> {
    let rows = daemon.json("ip list")?;
    let own = rows.as_array().into_iter().flatten().filter(|row| row["state"] == "gateway");
    let mut hosts =
        own.filter_map(|row| row["address"].as_str()?.parse().ok()).collect::<Vec<IpAddr>>();
    hosts.sort();
    hosts.try_into().map_err(|_| anyhow::anyhow!("no gateway of each family in {rows}"))
}
