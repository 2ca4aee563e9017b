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
use crate::config::Config;
use crate::control::ControlSocket;
use crate::device::journal;
use crate::device::make::Removal;
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
    // Who has the rights needs nobody: the helper may be stopped as well.
    let helper = config.privilege.helper.as_deref();
    let hands = Hands::new(helper.filter(|_| !privilege::may_make_devices()));
    let mut left = 0;
    if dir.exists() {
        left += remove_ports(&config, &hands).unwrap_or_else(|error| {
            error!("ports: not removed: {error:#}");
            1
        });
    }
    if let Some(cluster) = &config.cluster {
        left += remove_cluster(&hands, cluster.conflist.as_deref());
    } else if LastGood::is_in(dir) {
        left += remove_cluster(&hands, LastGood::conflist_of(dir).as_deref());
    }
    if left != 0 {
        bail!("{left} things could not be removed");
    }
    if dir.exists() { remove_state(dir) } else { Ok(()) }
}

/// Removes the devices of the ports. Returns how many are still there.
fn remove_ports(config: &Config, hands: &Hands) -> anyhow::Result<usize> {
    let dir = &config.state.dir;
    let journal = open_journal(dir)?;
    let rules = DeviceRules {
        queues: plan::workers(config.underlay.workers),
        // The daemon's own user owns both the directory and the devices.
        owner: std::fs::metadata(dir).with_context(|| dir.display().to_string())?.uid(),
        persist: true,
        mtu: 0,
        offload: config.offload.tap_gso,
    };
    let mut devices = Devices::new(rules, hands.clone(), Some(journal), journal::boot_id()?);
    let names: Vec<String> = devices.recorded().map(|(name, _)| name.to_owned()).collect();
    let mut left = 0;
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
    Ok(left)
}

/// Removes what a cluster leaves besides its ports: the rules of address translation, the routes to
/// other nodes and the CNI configuration. Returns how much of it is still there.
pub(super) fn remove_cluster(hands: &Hands, conflist: Option<&Path>) -> usize {
    let rules = match hands.remove_rules() {
        // Who cannot put rules there has put none there.
        Err(error) if error.is_without_nft() => Ok(()),
        removed => removed.map_err(|error| error.to_string()),
    };
    let routes = hands.reconcile(&[]).map(drop).map_err(|error| error.to_string());
    let list = conflist.map_or(Ok(false), conflist::remove);
    let outcomes = [
        ("rules", rules),
        ("routes", routes),
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
