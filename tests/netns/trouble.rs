//! What goes wrong under running pods: a share that changes, a disk that is full or read-only. The
//! pods that are there do not notice, and nothing is lost.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::cluster::{Cluster, ClusterPlan};
use lab::tool::eventually;
use nix::mount::{MsFlags, mount};
use serde_json::json;

use super::cluster::{plugin, start};
use super::common::{row, rows, still_forwarding, tapestry};

const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn a_share_that_changes_leaves_the_pods_their_addresses() -> Result<()> {
    let mut cluster = start(&ClusterPlan::default())?;
    let [a, c] = [cluster.add_pod(0, "a")?, cluster.add_pod(1, "c")?];
    still_forwarding(&a, &c)?;
    let shares = [("10.244.1.0/24", "10.244.9.0/24"), ("fd00:10:244:1::/64", "fd00:10:244:9::/64")];
    for index in 0..2 {
        let config = &mut cluster.overlay.configs[index];
        for (old, new) in shares {
            ensure!(config.extra.contains(old), "{}", config.extra);
            config.extra = config.extra.replace(old, new);
        }
        let daemon = &mut cluster.overlay.daemons[index];
        daemon.allow(&["podCIDR changed"]);
        daemon.configure(config)?;
        daemon.cli("reload")?;
    }
    eventually(PATIENCE, "the other node knows the new share", || {
        let row = row(&cluster.overlay.daemons[1], "node list", "name", "node1")?;
        Ok(row["pod_cidrs"][0] == "10.244.9.0/24")
    })?;
    let b = eventually_added(&cluster, "b", "10.244.9.")?;
    // The one from before is at its old address, and its node knows where.
    for (from, to) in [(&a, &b), (&b, &c), (&c, &b)] {
        still_forwarding(from, to)?;
    }
    let log = cluster.overlay.daemons[0].log();
    ensure!(log.contains("keep addresses outside of it: 10.244.1.2"), "{log}");
    // Not lost, not given twice, and gone with DEL.
    cluster.overlay.daemons[0].kill()?;
    cluster.overlay.daemons[0].launch()?;
    still_forwarding(&a, &b)?;
    ensure!(rows(&cluster.overlay.daemons[0], "pod list")?.len() == 2, "a pod is lost");
    cluster.delete_pod(0, "a", &a)?;
    let left = rows(&cluster.overlay.daemons[0], "ip list")?;
    ensure!(!left.iter().any(|row| row["container"] == "a"), "{left:?}");
    cluster.assert_sound()
}

/// A pod that gets an address of the share that the daemon has been told of a moment ago.
fn eventually_added(cluster: &Cluster, name: &str, front: &str) -> Result<lab::overlay::Pod> {
    eventually(PATIENCE, "the new share is known", || {
        let gateways = rows(&cluster.overlay.daemons[0], "ip list")?;
        Ok(gateways
            .iter()
            .any(|row| row["address"].as_str().is_some_and(|it| it.starts_with(front))))
    })?;
    let pod = cluster.add_pod(0, name)?;
    ensure!(pod.hosts()[0].to_string().starts_with(front), "{}", pod.v4);
    Ok(pod)
}

/// An address that another plugin gives, and that is the node's own: before, it is refused; if it comes
/// to be so under a running pod, the pod keeps it, and everything else goes on.
pub(crate) fn an_address_of_the_node_is_no_pods() -> Result<()> {
    let mut cluster = start(&ClusterPlan::default())?;
    let data = tempfile::tempdir()?;
    let keys = |first: &str| {
        json!({ "cniVersion": "1.0.0", "ipam": {
            "type": "host-local",
            "dataDir": data.path(),
            "ranges": [
                [{ "subnet": "198.51.100.0/24", "rangeStart": first }],
                [{ "subnet": "2001:db8:51::/64" }],
            ],
        } })
    };
    let own = |cluster: &mut Cluster, address: &str| -> Result<()> {
        let config = &mut cluster.overlay.configs[0];
        let list = "addresses = [\"2001:db8::1\"";
        ensure!(config.extra.contains(list), "{}", config.extra);
        config.extra = config.extra.replacen(list, &format!("{list}, \"{address}\""), 1);
        cluster.overlay.daemons[0].configure(config)?;
        cluster.overlay.daemons[0].cli("reload")?;
        eventually(PATIENCE, "the address is the node's", || {
            let row = row(&cluster.overlay.daemons[0], "node list", "name", "node1")?;
            Ok(row["addresses"].to_string().contains(address))
        })
    };
    own(&mut cluster, "198.51.100.7")?;
    let refused = cluster.add_pod_with(0, "no", &keys("198.51.100.7"));
    let words = refused.err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(words.contains("198.51.100.7 is this node's own"), "{words:?}");
    let a = cluster.add_pod_with(0, "a", &keys("198.51.100.20"))?;
    ensure!(a.hosts()[0].to_string() == "198.51.100.20", "{}", a.v4);
    own(&mut cluster, "198.51.100.20")?;
    let [b, c] = [cluster.add_pod(0, "b")?, cluster.add_pod(1, "c")?];
    for (from, to) in [(&b, &a), (&b, &c)] {
        still_forwarding(from, to)?;
    }
    let log = cluster.overlay.daemons[0].log();
    ensure!(!log.contains("topology:"), "{log}");
    cluster.assert_sound()
}

pub(crate) fn a_disk_that_takes_nothing_costs_new_pods_only() -> Result<()> {
    let plan = ClusterPlan::default();
    let mut cluster = Cluster::build(&tapestry(), plugin(), &plan)?;
    let state = cluster.overlay.daemons[0].beside("state");
    fs::create_dir_all(&state)?;
    let none = None::<&str>;
    let mode = MsFlags::empty();
    mount(Some("tmpfs"), state.as_str(), Some("tmpfs"), mode, Some("size=256k,mode=755"))?;
    for daemon in &mut cluster.overlay.daemons {
        daemon.allow(&["journal", "addresses.json", "cluster.json", "last good", "not written"]);
        daemon.launch()?;
    }
    let [a, c] = [cluster.add_pod(0, "a")?, cluster.add_pod(1, "c")?];
    let fill = Path::new(&state).join("filler");
    for way in ["full", "read-only"] {
        match way {
            "full" => drop(fs::write(&fill, vec![0; 1 << 20])),
            _ => mount(none, state.as_str(), none, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none)?,
        }
        let refused = cluster.add_pod(0, &format!("no-{}", way.len()));
        let words = refused.err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(words.contains("ports.json"), "{way}: {words:?}");
        ensure!(rows(&cluster.overlay.daemons[0], "pod list")?.len() == 1, "{way}: half a pod");
        for (from, to) in [(&a, &c), (&c, &a)] {
            still_forwarding(from, to)?;
        }
        match way {
            "full" => fs::remove_file(&fill)?,
            _ => mount(none, state.as_str(), none, MsFlags::MS_REMOUNT, none)?,
        }
    }
    let b = cluster.add_pod(0, "b")?;
    still_forwarding(&b, &c)?;
    cluster.overlay.daemons[0].kill()?;
    cluster.overlay.daemons[0].launch()?;
    for (from, to) in [(&a, &b), (&a, &c)] {
        still_forwarding(from, to)?;
    }
    cluster.assert_sound()
}
