//! A cluster whose members are kept in a real etcd, and what becomes of its traffic when that goes.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lab::cluster::{Cluster, ClusterPlan, GATEWAY};
use lab::etcd::Etcd;
use lab::overlay::Pod;
use lab::tool::eventually;
use lab::traffic::lasting::Talks;
use nix::sys::signal::Signal;
use serde_json::json;
use tapestry::device::netlink::LinkChange;

use super::cluster::{are_connected, forward_to_each, know_each_other, plugin, talk_in_a_ring};
use super::common::{exchange_cleanly, row, rows, still_forwarding, tapestry};

const NODES: usize = 3;

/// How long something may take that follows by itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// What daemons say while their store is away, or does not say what it said before.
const SAID: &[&str] = &["etcd", "store", "cluster"];

/// Nodes, and a host with the server.
fn start() -> Result<(Cluster, Etcd)> {
    let (cluster, mut servers) = start_with(1, "")?;
    Ok((cluster, servers.pop().context("no server")?))
}

/// Nodes with these lines in `[cluster]`, and as many hosts with a server each.
fn start_with(servers: usize, extra: &str) -> Result<(Cluster, Vec<Etcd>)> {
    let addresses: Vec<IpAddr> =
        (4..).map(|number| [192, 0, 2, number].into()).take(servers).collect();
    let plan = ClusterPlan {
        nodes: NODES,
        strangers: servers,
        store: Some(Etcd::store(&addresses)),
        extra: extra.to_owned(),
        ..ClusterPlan::default()
    };
    let mut cluster = Cluster::build(&tapestry(), plugin(), &plan)?;
    let hosts = cluster.overlay.nodes.iter().skip(NODES);
    let hosts: Vec<_> = hosts.map(|host| (&host.space, host.v4.into())).collect();
    let servers = Etcd::start_all(&hosts)?;
    for daemon in &mut cluster.overlay.daemons {
        daemon.allow(SAID);
        daemon.launch()?;
    }
    know_each_other(&cluster, NODES)?;
    Ok((cluster, servers))
}

/// The shares of all nodes, in their order.
fn shares(cluster: &Cluster) -> Result<Vec<String>> {
    let daemons = cluster.overlay.daemons.iter();
    daemons.map(|daemon| Ok(daemon.json("status")?["cluster"]["pod_cidrs"].to_string())).collect()
}

/// All know each other again, have the shares that they had, and forward; who talks has talked on.
fn all_is_as_before(
    mut cluster: Cluster,
    shares_before: &[String],
    talks: Talks,
    pods: &[Pod],
) -> Result<()> {
    talks.go_on()?;
    know_each_other(&cluster, NODES)?;
    let now = shares(&cluster)?;
    ensure!(now == shares_before, "{now:?}, not {shares_before:?}");
    forward_to_each(pods)?;
    talks.end()?;
    cluster.assert_sound()
}

pub(crate) fn each_node_takes_a_share_and_each_pod_reaches_each_pod() -> Result<()> {
    let (mut cluster, _etcd) = start()?;
    let mut distinct = shares(&cluster)?;
    distinct.sort();
    distinct.dedup();
    ensure!(distinct.len() == NODES, "{distinct:?}");
    let pods = [cluster.add_pod(0, "a")?, cluster.add_pod(1, "b")?, cluster.add_pod(2, "c")?];
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        exchange_cleanly(&pods[from], &pods[to], 1)?;
    }
    cluster.assert_sound()
}

/// etcd is killed, stopped without closing a connection, and comes back with nothing: pods talk on,
/// new ones come, a daemon that starts meanwhile forwards as before, and each node has its share
/// again.
pub(crate) fn traffic_flows_whatever_becomes_of_etcd() -> Result<()> {
    let (mut cluster, mut etcd) = start()?;
    let mut pods =
        vec![cluster.add_pod(0, "a")?, cluster.add_pod(1, "b")?, cluster.add_pod(2, "c")?];
    let before = shares(&cluster)?;
    let talks = talk_in_a_ring(&pods)?;

    etcd.signal(Signal::SIGSTOP)?;
    talks.go_on()?;
    are_connected(&cluster, false)?;
    etcd.signal(Signal::SIGCONT)?;
    are_connected(&cluster, true)?;

    etcd.kill()?;
    are_connected(&cluster, false)?;
    pods.push(cluster.add_pod(1, "d")?);
    cluster.overlay.daemons[0].kill()?;
    cluster.overlay.daemons[0].launch()?;
    pods.push(cluster.add_pod(0, "e")?);
    for pod in &pods[3..] {
        still_forwarding(&pods[2], pod)?;
    }
    talks.go_on()?;

    etcd.forget()?;
    etcd.launch()?;
    are_connected(&cluster, true)?;
    all_is_as_before(cluster, &before, talks, &pods)
}

/// One of three members is killed, the next one is cut off, the third hangs; then two are away at
/// once. Pods talk on, and news comes as long as two are left.
pub(crate) fn traffic_flows_whatever_becomes_of_members() -> Result<()> {
    let (cluster, mut members) = start_with(3, "")?;
    let [a, b, c] = [cluster.add_pod(0, "a")?, cluster.add_pod(1, "b")?, cluster.add_pod(2, "c")?];
    let mut pods = vec![a, b, c];
    let (talks, before, data) = (talk_in_a_ring(&pods)?, shares(&cluster)?, tempfile::tempdir()?);
    for (lost, member) in members.iter_mut().enumerate() {
        let host = cluster.overlay.nodes[NODES + lost].space.clone();
        let cable =
            |up| host.change("under0", &LinkChange { up: Some(up), ..LinkChange::default() });
        match lost {
            0 => member.kill()?,
            1 => cable(false)?,
            _ => member.signal(Signal::SIGSTOP)?,
        }
        let outside = json!({ "cniVersion": "1.0.0", "ipam": {
            "type": "host-local",
            "dataDir": data.path(),
            "ranges": [[{ "subnet": "10.244.200.0/24" }], [{ "subnet": "fd00:10:244:200::/64" }]],
        } });
        let new = cluster.add_pod_with(1, &format!("new{lost}"), &outside)?;
        eventually(PATIENCE, "others hear of an address outside its node's share", || {
            let row = row(&cluster.overlay.daemons[2], "node list", "name", "node2")?;
            Ok(row["exceptions"].to_string().contains(&format!("{}/", new.v4.addr())))
        })?;
        still_forwarding(&pods[2], &new)?;
        pods.push(new);
        talks.go_on()?;
        match lost {
            0 => member.launch()?,
            1 => cable(true)?,
            _ => member.signal(Signal::SIGCONT)?,
        }
        are_connected(&cluster, true)?;
    }

    members[0].kill()?;
    members[1].signal(Signal::SIGSTOP)?;
    are_connected(&cluster, false)?;
    talks.go_on()?;
    let d = cluster.add_pod(0, "d")?;
    still_forwarding(&d, &pods[2])?;
    members[1].signal(Signal::SIGCONT)?;
    are_connected(&cluster, true)?;
    members[0].launch()?;

    all_is_as_before(cluster, &before, talks, &pods)
}

/// A start that knows nobody, since neither the store nor the disk says anything, leaves the kernel the
/// routes that it has: traffic is on them.
pub(crate) fn routes_outlive_a_start_that_knows_nobody() -> Result<()> {
    let (mut cluster, mut servers) = start_with(1, "direct_routing = true")?;
    let (node, etcd) = (cluster.overlay.nodes[0].space.clone(), &mut servers[0]);
    let routes = || Ok::<_, anyhow::Error>(node.output("ip route show proto 122")?.lines().count());
    eventually(PATIENCE, "the routes are there", || Ok(routes()? == NODES - 1))?;
    etcd.kill()?;
    cluster.overlay.daemons[0].stop()?;
    std::fs::remove_file(cluster.overlay.daemons[0].beside("state/cluster.json"))?;
    let ready = cluster.overlay.daemons[0].launch_within(Duration::from_secs(3))?;
    ensure!(ready.is_none(), "ready, without a share");
    ensure!(routes()? == NODES - 1, "they went at the start");
    etcd.launch()?;
    know_each_other(&cluster, NODES)?;
    ensure!(routes()? == NODES - 1, "they went when the store came back");
    cluster.assert_sound()
}

/// A node that has given its share back attaches nobody, keeps what it has until it ends, and takes a
/// share again when it is started again.
pub(crate) fn a_share_that_is_given_back_is_nobodys() -> Result<()> {
    let (mut cluster, _etcd) = start()?;
    let node = cluster.overlay.nodes[0].space.clone();
    let (a, before) = (cluster.add_pod(0, "a")?, node.link(GATEWAY)?.index);
    let (_, words) = cluster.overlay.daemons[0].refusal("node release")?;
    ensure!(words.contains("1 pods"), "{words}");
    cluster.delete_pod(0, "a", &a)?;
    cluster.overlay.daemons[0].cli("node release")?;
    let refused = cluster.add_pod(0, "b").err().map(|error| format!("{error:#}"));
    ensure!(refused.as_ref().is_some_and(|words| words.contains("gives back")), "{refused:?}");
    eventually(PATIENCE, "the others have forgotten it", || {
        Ok(rows(&cluster.overlay.daemons[1], "node list")?.len() == NODES - 1)
    })?;
    cluster.overlay.daemons[0].cli("reload")?;
    ensure!(node.link(GATEWAY)?.index == before, "the gateway port went with the share");
    cluster.overlay.daemons[0].stop()?;
    cluster.overlay.daemons[0].launch()?;
    know_each_other(&cluster, NODES)?;
    let (b, c) = (cluster.add_pod(0, "b")?, cluster.add_pod(1, "c")?);
    still_forwarding(&b, &c)?;
    cluster.assert_sound()
}
