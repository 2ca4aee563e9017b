//! Daemons that die while a runtime attaches.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::cell;
use lab::tool::eventually;
use serde_json::json;

use super::podman::Podman;
use super::stage::{PATIENCE, with};
use super::web::{PORT, seen_from};

/// How long after a container's namespace is there the daemon is killed, in milliseconds: from before
/// its ADD to long after it.
const MOMENTS: [u64; 8] = [0, 4, 8, 13, 19, 27, 40, 800];

/// The namespaces that podman has made.
fn namespaces() -> Result<BTreeSet<OsString>> {
    let names = fs::read_dir("/run/netns")?.map(|entry| Ok(entry?.file_name()));
    let all = names.collect::<Result<BTreeSet<OsString>>>()?;
    Ok(all.into_iter().filter(|name| name.to_string_lossy().starts_with("netns-")).collect())
}

/// The container runs, or its start is an error; and in either case the next one runs, no address is
/// there twice, and removing them leaves nothing.
pub(crate) fn a_daemon_that_dies_while_containers_start() -> Result<()> {
    with(|stage| {
        let net = stage.conflist(0, &json!({}), &[])?;
        let podman = Podman::new(stage, 0, net)?;
        // A start that is refused takes its namespace along, from under what the daemon had kept.
        stage.cluster.overlay.daemons[0].allow(&["its namespace is gone"]);
        let (mut started, mut refused) = (0, 0);
        for moment in MOMENTS {
            let (name, before) = (format!("at-{moment}"), namespaces()?);
            let mut child = cell::spawn_unblocked(&mut podman.starting(&name, &[]))?;
            eventually(PATIENCE, "podman makes a namespace", || {
                Ok(namespaces()?.difference(&before).next().is_some())
            })?;
            std::thread::sleep(Duration::from_millis(moment));
            stage.cluster.overlay.daemons[0].kill()?;
            let ended = || Ok(child.try_wait()?.is_some());
            if let Err(error) = eventually(PATIENCE, "podman comes to an end", ended) {
                child.kill()?;
                child.wait()?;
                return Err(error);
            }
            let there = child.wait()?.success();
            stage.cluster.overlay.daemons[0].launch()?;
            *(if there { &mut started } else { &mut refused }) += 1;
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
        ensure!(
            started > 0 && refused > 0,
            "{started} started, {refused} refused: no daemon died in between"
        );
        eprintln!("{started} containers started over a daemon's death, {refused} were refused");
        Ok(())
    })
}
