//! Daemons that die while a runtime attaches.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::cell;
use serde_json::json;

use super::podman::Podman;
use super::stage::with;
use super::web::{PORT, seen_from};

/// How far into the start of a container the daemon is killed: from before its ADD to after it.
const MOMENTS: [u64; 8] = [60, 90, 110, 130, 150, 170, 200, 260];

/// The container runs, or its start is an error; and in either case the next one runs, no address is
/// there twice, and removing them leaves nothing.
pub(crate) fn a_daemon_that_dies_while_containers_start() -> Result<()> {
    with(|stage| {
        let net = stage.conflist(0, &json!({}), &[])?;
        let podman = Podman::new(stage, 0, net)?;
        let (mut started, mut refused) = (0, 0);
        for moment in MOMENTS {
            let name = format!("at-{moment}");
            let mut child = cell::spawn_unblocked(&mut podman.starting(&name, &[]))?;
            std::thread::sleep(Duration::from_millis(moment));
            stage.cluster.overlay.daemons[0].kill()?;
            let there = child.wait()?.success();
            stage.cluster.overlay.daemons[0].launch()?;
            if there {
                started += 1
            } else {
                refused += 1
            }
            let after = podman.run(&format!("after-{moment}"), &[])?;
            let rows = stage.daemon(0)?.json("pod list")?;
            let of = |row: &serde_json::Value| -> Vec<String> {
                let all = row["addresses"].as_array().into_iter().flatten();
                all.filter_map(|one| one.as_str().map(str::to_owned)).collect()
            };
            let given: Vec<String> = rows.as_array().into_iter().flatten().flat_map(of).collect();
            let distinct: BTreeSet<&String> = given.iter().collect();
            ensure!(distinct.len() == given.len(), "an address twice: {rows}");
            ensure!(given.len() == if there { 4 } else { 2 }, "{moment} ms, {there}: {rows}");
            for address in &given {
                seen_from(stage.space(1)?, SocketAddr::new(address.parse()?, PORT))?;
            }
            after.end()?;
            podman.remove(&name)?;
            ensure!(stage.attached(0)?.is_empty(), "{:?} is left", stage.attached(0)?);
        }
        eprintln!("{started} containers started over a daemon's death, {refused} were refused");
        Ok(())
    })
}
