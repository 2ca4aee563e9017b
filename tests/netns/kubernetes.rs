//! A cluster whose members are the Nodes of a real API server, where there is one.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lab::cluster::{Cluster, ClusterPlan};
use lab::kubernetes::{Kubernetes, PROGRAMS};
use lab::tool::eventually;
use nix::sys::signal::Signal;

use super::cluster::{are_connected, forward_to_each, know_each_other, plugin, talk_in_a_ring};
use super::common::{exchange_cleanly, still_forwarding, tapestry};

const NODES: usize = 3;

/// How long something may take that follows by itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// In the place of a store that is not there yet.
const LATER: &str = "# the store";

/// Nodes whose Nodes have a podCIDR, and a host with the control plane; `None` where there is none.
fn start() -> Result<Option<(Cluster, Kubernetes)>> {
    if std::env::var_os(PROGRAMS).is_none() {
        // Past the capture of the test's output: that it did not run is to be seen.
        writeln!(std::io::stderr(), "NOT RUN: {PROGRAMS} names no directory with an API server")?;
        return Ok(None);
    }
    let store = Some(LATER.to_owned());
    let plan = ClusterPlan { nodes: NODES, strangers: 1, store, ..ClusterPlan::default() };
    let mut cluster = Cluster::build(&tapestry(), plugin(), &plan)?;
    let host = cluster.overlay.nodes.last().context("no host")?;
    let plane = Kubernetes::start(&host.space, host.v4.into())?.context("no programs")?;
    for (index, daemon) in cluster.overlay.daemons.iter_mut().enumerate() {
        let config = &mut cluster.overlay.configs[index];
        plane.add_node(&name(index), cluster.overlay.nodes[index].v4.into())?;
        config.extra = config.extra.replace(LATER, &plane.store());
        daemon.configure(config)?;
        daemon.allow(&["kubernetes", "store", "cluster"]);
        daemon.launch()?;
    }
    know_each_other(&cluster, NODES)?;
    Ok(Some((cluster, plane)))
}

fn name(index: usize) -> String {
    format!("node{}", index + 1)
}

/// Each node takes the share that the controller manager has given its Node, says that its network
/// works, and pods talk, whatever becomes of the API server: it hangs, it is killed, and it comes back
/// with its history compacted. A Node that is deleted is nobody's neighbour any more.
pub(crate) fn traffic_flows_whatever_becomes_of_the_api_server() -> Result<()> {
    let Some((mut cluster, mut plane)) = start()? else { return Ok(()) };
    for (index, daemon) in cluster.overlay.daemons.iter().enumerate() {
        let node = plane.node(&name(index))?;
        let own = daemon.json("status")?["cluster"]["pod_cidrs"].clone();
        ensure!(own == node["spec"]["podCIDRs"], "{own}, not that of {node}");
        eventually(PATIENCE, "the Node says that its network works", || {
            let conditions = plane.node(&name(index))?["status"]["conditions"].take();
            let mut all = conditions.as_array().into_iter().flatten();
            Ok(all.any(|one| one["type"] == "NetworkUnavailable" && one["status"] == "False"))
        })?;
    }
    let mut pods =
        vec![cluster.add_pod(0, "a")?, cluster.add_pod(1, "b")?, cluster.add_pod(2, "c")?];
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        exchange_cleanly(&pods[from], &pods[to], 1)?;
    }
    let talks = talk_in_a_ring(&pods)?;

    plane.signal(Signal::SIGSTOP)?;
    let e = cluster.add_pod(1, "e")?;
    still_forwarding(&pods[0], &e)?;
    talks.go_on()?;
    plane.signal(Signal::SIGCONT)?;

    let kept = cluster.overlay.daemons[0].beside("state/cluster.json");
    eventually(PATIENCE, "what is on disk names all nodes", || {
        let text = std::fs::read_to_string(&kept)?;
        Ok((0..NODES).all(|index| text.contains(&name(index))))
    })?;
    plane.kill()?;
    are_connected(&cluster, false)?;
    cluster.overlay.daemons[0].kill()?;
    cluster.overlay.daemons[0].launch()?;
    pods.push(cluster.add_pod(0, "d")?);
    still_forwarding(&pods[1], &pods[3])?;
    talks.go_on()?;

    plane.etcd.compact()?;
    plane.launch()?;
    are_connected(&cluster, true)?;
    know_each_other(&cluster, NODES)?;
    forward_to_each(&pods)?;
    talks.go_on()?;
    talks.end()?;

    cluster.overlay.daemons[2].stop()?;
    plane.ctl(&format!("delete node {}", name(2)))?;
    know_each_other(&cluster, NODES - 1)?;
    still_forwarding(&pods[0], &pods[1])?;
    cluster.overlay.daemons.truncate(2);
    cluster.assert_sound()
}
