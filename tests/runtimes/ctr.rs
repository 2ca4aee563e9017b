//! containerd by its own client, which calls the plugins itself.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use lab::tool::eventually;
use serde_json::json;

use super::containerd::Containerd;
use super::stage::{BOTH, PATIENCE, Stage, with};
use super::web::{Inside as _, PORT, fetch_from_each_other, seen_from};

fn start(stage: &Stage, node: usize) -> Result<Containerd> {
    Containerd::start(stage, node, stage.conflist(node, &json!({}), &[])?)
}

pub(crate) fn containers_of_two_nodes_fetch_from_each_other() -> Result<()> {
    with(|stage| {
        let runtimes = [start(stage, 0)?, start(stage, 1)?];
        let here = [runtimes[0].run(stage, "one")?, runtimes[0].run(stage, "two")?];
        let there = runtimes[1].run(stage, "three")?;
        fetch_from_each_other(&here[0], &there)?;
        fetch_from_each_other(&here[0], &here[1])?;
        for node in BOTH {
            let own = lab::cluster::gateway_addresses(node + 1)?;
            for container in [&here[0], &there] {
                for (to, own) in container.addresses()?.into_iter().zip(own) {
                    let seen = seen_from(stage.space(node)?, SocketAddr::new(to, PORT))?;
                    ensure!(seen == own, "node {node} is seen as {seen}, not {own}");
                }
            }
        }
        ensure!(stage.attached(0)?.len() == 2 && stage.attached(1)? == ["default-three"]);
        // Each is detached by `ctr`, which tells no namespace: it is gone by then, and the daemon may
        // have seen that first.
        for node in BOTH {
            stage.cluster.overlay.daemons[node].allow(&["its namespace /proc/"]);
        }
        for container in here.into_iter().chain([there]) {
            container.end()?;
        }
        for node in BOTH {
            let left = stage.attached(node)?;
            ensure!(left.is_empty(), "DEL left {left:?} on node {node}");
        }
        runtimes.into_iter().try_for_each(Containerd::stop)
    })
}

/// The namespace is a path below /proc, which goes with the process and without a word.
pub(crate) fn a_container_that_goes_without_del_is_found() -> Result<()> {
    with(|stage| {
        let runtime = start(stage, 0)?;
        let stays = runtime.run(stage, "stays")?;
        let goes = runtime.run(stage, "goes")?;
        goes.abandon()?;
        eventually(PATIENCE, "it is found", || Ok(stage.attached(0)? == ["default-stays"]))?;
        stage.cluster.overlay.daemons[0].allow(&["namespace"]);
        // A killed daemon has the one again that is there.
        stage.cluster.overlay.daemons[0].kill()?;
        stage.cluster.overlay.daemons[0].launch()?;
        ensure!(stage.attached(0)? == ["default-stays"]);
        for to in stays.addresses()? {
            seen_from(stage.space(1)?, SocketAddr::new(to, PORT))?;
        }
        stays.end()?;
        runtime.stop()
    })
}
