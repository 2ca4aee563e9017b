//! The daemon: it puts everything together, and then sits between the control socket, the workers
//! and the clock.
//!
//! [`run`] starts things in the order in which they may fail cheaply: configuration, control
//! socket, underlay, workers, ports. From then on one loop (`supervise`) owns all state.

mod attachment_rows;
mod attachments;
pub mod clock;
mod cluster_rows;
mod commands;
mod lifecycle;
mod notify;
mod obstacles;
mod plan;
mod pods;
mod ports;
mod reload;
mod rows;
mod state;
mod supervise;
mod teardown;
mod underlay;
mod watch;
mod way_out;
pub mod worker;

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use anyhow::Context as _;
use crossbeam_channel::Sender;
use fdb::{Fdb, Settings};
use switch::Topology;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::cluster::last_good::LastGood;
use crate::config::{self, Config, Port};
use crate::control::model::ObjectOrigin;
use crate::control::{ControlSocket, MetricsListener};
use crate::device::journal::{self, Journal, Origin};
use crate::io::limit;
use crate::io::port::PortQueue;
use crate::privilege::{self, Hands};
use clock::Clock;
use plan::DeviceRules;
use pods::Pods;
use ports::Devices;
use state::{Daemon, Parts};
use supervise::Desk;
use underlay::Underlay;
use worker::{Newsroom, Shared};

pub use teardown::teardown;

/// Runs the daemon in the foreground until it is told to stop. Its ports stay for the next start,
/// unless it is `ephemeral`.
///
/// # Errors
/// When the configuration is wrong, another daemon runs, or the system refuses what the daemon
/// cannot do without.
pub fn run(config_path: &Path, ephemeral: bool) -> anyhow::Result<()> {
    let config = Config::load(config_path)?;
    // Who runs into the hard limit is told by the port that could not be made.
    if let Err(error) = limit::raise_descriptor_limit() {
        warn!("the limit of open descriptors stays as it is: {error}");
    }
    let hands = hands(&config);
    let clock = Clock::start();
    let socket = ControlSocket::bind(&config.control.socket)
        .with_context(|| format!("control socket {}", config.control.socket.display()))?;
    let attach = attachments::bind(&config)?;
    let metrics = config.metrics.listen.map(|address| {
        MetricsListener::bind(address).with_context(|| format!("metrics listener on {address}"))
    });
    let metrics = metrics.transpose()?;
    let count = plan::workers(config.underlay.workers);
    let underlay = Underlay::open(&config, nonzero(usize::from(count))).context("underlay")?;
    let journal = if ephemeral { None } else { Some(open_journal(&config.state.dir)?) };
    if !ephemeral && config.cluster.is_none() {
        leave_behind(&config.state.dir, &hands);
    }

    let (bell, news) = (Arc::new(Notify::new()), crossbeam_channel::unbounded());
    let fdb = Arc::new(Fdb::new(Settings::default()));
    let shared = Shared {
        topology: Arc::new(Topology::empty(underlay.local(), underlay.overlay_mtu())),
        fdb: Arc::clone(&fdb),
        clock,
        newsroom: Newsroom::new(news.0, Arc::clone(&bell)),
        closing: closing_thread()?,
        spin: config.underlay.spin,
    };
    let workers = (0..u32::from(count))
        .map(|id| worker::Handle::start(id, shared.clone()))
        .collect::<std::io::Result<Vec<_>>>()
        .context("workers")?;
    let rules = DeviceRules {
        queues: count,
        owner: nix::unistd::geteuid().as_raw(),
        persist: !ephemeral,
        mtu: underlay.overlay_mtu(),
        offload: config.offload.tap_gso,
    };
    let boot_id = journal::boot_id().context("boot id")?;
    let devices = Devices::new(rules, hands, journal, boot_id);
    let config_path = config_path.to_owned();
    let parts = Parts { config_path, config, clock, fdb, workers, devices, underlay };
    let mut daemon = Daemon::new(parts);
    daemon.pods = Pods::new(&daemon.config);
    daemon.start_ports();
    // Last: what came meanwhile waits in the sockets, and by now there is somebody to have it.
    daemon.hand_out_underlay(&daemon.config.clone());
    supervise::run(daemon, Desk { socket, attach, metrics, news: news.1, bell })
}

impl Daemon {
    /// Makes or adopts the ports of the configuration and those that were made through the control
    /// socket before the last stop, and removes what neither knows any more.
    fn start_ports(&mut self) {
        let mut ports: Vec<_> =
            self.config.ports.iter().map(|port| (port.clone(), ObjectOrigin::Config)).collect();
        let mut stale = Vec::new();
        let mut configured: HashSet<&str> =
            self.config.ports.iter().map(|port| port.name.as_str()).collect();
        // It waits for what the store says of it.
        configured.extend(self.config.cluster.iter().map(|cluster| cluster.gateway.as_str()));
        let mut specs = Vec::new();
        for (name, entry) in self.devices.recorded() {
            if configured.contains(name) {
                continue;
            }
            let origin = match entry.origin {
                Origin::Config => {
                    stale.push(name.to_owned());
                    continue;
                }
                Origin::Api => ObjectOrigin::Api,
                // No container outlives a boot.
                Origin::Cni if !self.devices.is_of_this_boot(entry) => {
                    stale.push(name.to_owned());
                    continue;
                }
                Origin::Cni => ObjectOrigin::Cni,
            };
            match serde_json::from_value(entry.spec.clone()) {
                Ok(spec) => specs.push((name, origin, spec)),
                Err(error) => warn!(port = name, "not restored: {error}"),
            }
        }
        let Config { node, segments, ports: others, .. } = &self.config;
        let wanted = specs.iter().map(|(_, _, spec)| spec);
        let checked = config::check_ports(wanted, &node.name, segments, others);
        let cluster = self.config.cluster.as_ref().map(|cluster| &cluster.name);
        let is_lost = |port: &Port| {
            let routed = port.pod.as_ref().is_some_and(|pod| pod.routed);
            routed && cluster != port.mode.untagged()
        };
        for ((name, origin, _), checked) in specs.iter().zip(checked) {
            match checked {
                Ok(port) if is_lost(&port) => {
                    warn!(port = name, "not restored: its segment is not the pod network's");
                }
                Ok(port) => ports.push((port, *origin)),
                // It stays on record: a configuration that fits it may come back.
                Err(problems) => {
                    let why: Vec<String> = problems.iter().map(ToString::to_string).collect();
                    warn!(port = name, "not restored: {}", why.join("; "));
                }
            }
        }
        for (name, removed) in stale.iter().zip(self.devices.remove_recorded(&stale)) {
            match removed {
                Ok(_) => info!(port = name, "removed: it is of another configuration or boot"),
                Err(error) => warn!(port = name, "not removed: {error}"),
            }
        }
        // A port that moved to another device leaves its old one behind.
        self.devices.remove_moved(ports.iter().map(|(port, _)| port));
        self.add_ports(ports);
        self.restore_attachments();
    }

    /// Gives the workers their shares of the underlay's sockets.
    pub(in crate::daemon) fn hand_out_underlay(&mut self, config: &Config) {
        let orders = self.underlay.orders(config, self.workers.len());
        for (worker, order) in self.workers.iter().zip(orders) {
            worker.order(order);
        }
    }
}

/// Who makes the devices, and a word on it where nobody can.
fn hands(config: &Config) -> Hands {
    let hands = Hands::new(config.privilege.helper.as_deref());
    match hands.helper() {
        Some(path) => info!(helper = %path.display(), "ports are made by the helper"),
        None if privilege::may_make_devices() => {}
        None => warn!(
            "no ports can be made: this process lacks CAP_NET_ADMIN, and neither privilege.helper \
             nor {} names a helper",
            config::HELPER_VARIABLE
        ),
    }
    hands
}

/// Removes what a cluster left that this node was part of before and is not any more. What cannot be
/// removed is tried again at the next start.
fn leave_behind(dir: &Path, hands: &Hands) {
    let conflist = LastGood::conflist_of(dir);
    if LastGood::is_in(dir) && teardown::remove_cluster(hands, conflist.as_deref()) == 0 {
        match LastGood::remove(dir) {
            Ok(()) => info!("what the cluster left is gone: there is no [cluster]"),
            Err(error) => warn!("{error}"),
        }
    }
}

fn open_journal(dir: &Path) -> anyhow::Result<Journal> {
    std::fs::create_dir_all(dir).with_context(|| format!("state directory {}", dir.display()))?;
    let (journal, put_aside) = Journal::open(dir)?;
    if let Some(aside) = put_aside {
        warn!(path = %aside.path.display(), "journal put aside: {}", aside.reason);
    }
    Ok(journal)
}

/// A thread that closes queues: the kernel takes milliseconds for each, which no worker has.
fn closing_thread() -> std::io::Result<Sender<PortQueue>> {
    let (closing, queues) = crossbeam_channel::unbounded::<PortQueue>();
    let close = move || queues.iter().for_each(drop);
    thread::Builder::new().name("closing".to_owned()).spawn(close)?;
    Ok(closing)
}

fn nonzero(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN)
}
