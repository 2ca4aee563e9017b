//! Removing what a stopped daemon left: devices, and with them their addresses and routes, and
//! state.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use tracing::{error, info};

use super::open_journal;
use super::plan::{self, DeviceRules};
use super::ports::Devices;
use crate::attach::{RestsFile, Tombstones};
use crate::cluster::conflist;
use crate::cluster::last_good::LastGood;
use crate::config::{Cluster, Config};
use crate::control::ControlSocket;
use crate::device::journal;
use crate::device::make::Removal;
use crate::device::netlink::Netlink;
use crate::gateway::ways::reconcile;
use crate::privilege::{self, Hands};

/// Removes everything that a stopped daemon left.
///
/// # Errors
/// When a daemon is still running, or something could not be removed: all the rest is removed even
/// so.
pub fn teardown(config_path: &Path) -> anyhow::Result<()> {
    let config = Config::load(config_path)?;
    let socket = &config.control.socket;
    // Binding it says whether a daemon runs, and keeps one from starting meanwhile.
    let _socket = ControlSocket::bind(socket)
        .with_context(|| format!("control socket {}: stop the daemon first", socket.display()))?;
    let dir = &config.state.dir;
    let mut left = 0_usize;
    if dir.exists() {
        let journal = open_journal(dir)?;
        let rules = DeviceRules {
            queues: plan::workers(config.underlay.workers),
            // The daemon's own user owns both the directory and the devices.
            owner: std::fs::metadata(dir).with_context(|| dir.display().to_string())?.uid(),
            persist: true,
            mtu: 0,
            offload: config.offload.tap_gso,
        };
        // Who has the rights needs nobody: the helper may be stopped as well.
        let helper = config.privilege.helper.as_deref();
        let hands = Hands::new(helper.filter(|_| !privilege::may_make_devices()));
        let mut devices = Devices::new(rules, hands, Some(journal), journal::boot_id()?);
        let names: Vec<String> = devices.recorded().map(|(name, _)| name.to_owned()).collect();
        for (name, removed) in names.iter().zip(devices.remove_recorded(&names)) {
            match removed {
                Ok(Removal::Removed) => info!(port = name, "removed"),
                Ok(Removal::Absent) => info!(port = name, "forgotten: its device was not there"),
                Err(why) => {
                    error!(port = name, "not removed: {why}");
                    left += 1;
                }
            }
        }
        // A device that its daemon could not record any more is known by its address.
        for port in &config.ports {
            if let Err(why) = devices.remove_unrecorded(port) {
                error!(port = %port.name, "not removed: {why}");
                left += 1;
            }
        }
        if left == 0 {
            remove_state(dir)?;
        }
    }
    if let Some(cluster) = &config.cluster {
        left += remove_gateway(&config, cluster);
    }
    if left != 0 {
        bail!("{left} things could not be removed");
    }
    Ok(())
}

/// Removes what a cluster leaves besides its ports: the rules of address translation, the routes to
/// other nodes and the CNI configuration. Returns how much of it is still there.
fn remove_gateway(config: &Config, cluster: &Cluster) -> usize {
    let helper = config.privilege.helper.as_deref();
    let hands = Hands::new(helper.filter(|_| !privilege::may_make_devices()));
    let rules = hands.remove_rules().map_err(|error| error.to_string());
    let routes = Netlink::open().and_then(|mut netlink| reconcile(&mut netlink, &[]));
    let list = cluster.conflist.as_deref().map_or(Ok(false), conflist::remove);
    let outcomes = [
        ("rules", rules),
        ("routes", routes.map(drop).map_err(|error| error.to_string())),
        ("CNI configuration", list.map(drop).map_err(|error| error.to_string())),
    ];
    let failed = outcomes.into_iter().filter_map(|(what, outcome)| Some((what, outcome.err()?)));
    failed.inspect(|(what, why)| error!("{what}: not removed: {why}")).count()
}

/// Removes the journal, and the directory if nothing else is in it.
fn remove_state(dir: &Path) -> anyhow::Result<()> {
    // The identity stays: this machine's claim to a share is kept under it, wherever that is.
    LastGood::remove(dir)?;
    RestsFile::of(dir).remove()?;
    Tombstones::of(dir).remove_all().with_context(|| format!("tombstones in {}", dir.display()))?;
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        let ours = path.file_name().and_then(|name| name.to_str());
        if ours.is_some_and(|name| name.starts_with("ports.json")) {
            std::fs::remove_file(&path).with_context(|| path.display().to_string())?;
        }
    }
    match std::fs::remove_dir(dir) {
        // A service manager may own the directory, or somebody keeps something in it.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENOTEMPTY | libc::EBUSY | libc::EPERM | libc::EACCES | libc::EROFS)
            ) =>
        {
            Ok(())
        }
        removed => removed.with_context(|| dir.display().to_string()),
    }
}
