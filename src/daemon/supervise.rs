//! The control loop: one task that owns all state and takes commands, signals, news from the
//! workers and the ticks of the clock, one after the other.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use crossbeam_channel::Receiver;
use switch::Event;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, error, info, warn};

use super::notify::Notifier;
use super::plan;
use super::pods;
use super::ports::Device;
use super::state::Daemon;
use super::underlay::Moved;
use super::worker::News;
use crate::attach;
use crate::control::{ControlSocket, MetricsListener, commands};

/// How often the daemon looks after what has changed outside and what has expired.
const TICK: Duration = Duration::from_secs(1);
/// Entries that are looked at in one tick, so that a large table does not hold up the loop.
const EXPIRE_BUDGET: usize = 50_000;

/// Where the loop's work comes from.
#[derive(Debug)]
pub(super) struct Desk {
    /// The control socket.
    pub(super) socket: ControlSocket,
    /// The attachment socket.
    pub(super) attach: Option<attach::Server>,
    /// The metrics listener.
    pub(super) metrics: Option<MetricsListener>,
    /// What the workers have to say.
    pub(super) news: Receiver<News>,
    /// Rung after each of the news.
    pub(super) bell: Arc<Notify>,
}

/// Runs the loop until a signal ends it, then stops the workers.
///
/// # Errors
/// When a worker cannot go on, or the runtime cannot be had.
pub(super) fn run(daemon: Daemon, desk: Desk) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    let (mut daemon, outcome) = runtime.block_on(serve(daemon, desk));
    daemon.finish_bringing();
    for worker in daemon.workers {
        worker.stop();
    }
    outcome
}

async fn serve(mut daemon: Daemon, desk: Desk) -> (Daemon, anyhow::Result<()>) {
    let Desk { socket, attach, metrics, news, bell } = desk;
    let (handle, mut inbox) = commands();
    let stop = Arc::new(Notify::new());
    let stopped = |stop: &Arc<Notify>| {
        let stop = Arc::clone(stop);
        async move { stop.notified().await }
    };
    let server = tokio::spawn(socket.serve(handle.clone(), stopped(&stop)));
    let attach = attach.map(|server| tokio::spawn(server.serve(handle.clone(), stopped(&stop))));
    let listener = metrics.map(|metrics| tokio::spawn(metrics.serve(handle, stopped(&stop))));
    let outcome = attend(&mut daemon, &mut inbox, &news, &bell).await;
    daemon.keep_rests();
    daemon.leave_cluster().await;
    stop.notify_waiters();
    server.abort();
    if let Some(attach) = attach {
        attach.abort();
    }
    if let Some(listener) = listener {
        listener.abort();
    }
    (daemon, outcome)
}

async fn attend(
    daemon: &mut Daemon,
    inbox: &mut tokio::sync::mpsc::Receiver<crate::control::Command>,
    news: &Receiver<News>,
    bell: &Notify,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("SIGHUP")?;
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut notifier = Notifier::new();
    let brought = Arc::clone(&daemon.bringing.bell);
    let mut views = daemon.join_cluster().await?;
    let mut count = 0_u64;
    loop {
        notifier.tell_state(&daemon.readiness());
        tokio::select! {
            Some(command) = inbox.recv() => {
                daemon.take_all(news)?;
                daemon.obey(command);
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                daemon.take_all(news)?;
                match daemon.reload() {
                    Ok(report) => info!(changes = report.changes.len(), "reloaded"),
                    Err(refusal) => error!("reload refused: {refusal}"),
                }
            }
            () = bell.notified() => daemon.take_all(news)?,
            view = pods::next(views.as_mut()) => {
                daemon.take_all(news)?;
                daemon.take_view(view);
            }
            () = brought.notified() => {
                daemon.take_all(news)?;
                daemon.take_brought();
            }
            _ = ticks.tick() => {
                count += 1;
                daemon.take_all(news)?;
                daemon.tick(count);
                notifier.nudge(&daemon.workers);
            }
        }
    }
    notifier.stopping();
    info!("stopping");
    Ok(())
}

impl Daemon {
    /// Takes the workers' news. What it changes of the topology is one change. To be called before
    /// a port is brought up: what is said of its queues is about those before.
    fn take_all(&mut self, news: &Receiver<News>) -> anyhow::Result<()> {
        let mut gone = Vec::new();
        while let Ok(news) = news.try_recv() {
            self.take(news, &mut gone)?;
        }
        self.take_down(gone, false);
        self.apply_heard();
        Ok(())
    }

    /// Takes one of the workers' news; ports whose device is gone are added to `gone`, with words.
    fn take(&mut self, news: News, gone: &mut Vec<(String, String)>) -> anyhow::Result<()> {
        match news {
            News::PortGone(id, errno) => {
                if let Some(port) = self.topology.port(id) {
                    let why = std::io::Error::from_raw_os_error(errno);
                    gone.push((port.spec.name.clone(), format!("its device is gone: {why}")));
                }
            }
            News::Event(Event::VtepHeard { address, segment }) => self.hear(address, segment),
            News::Event(Event::Moved { segment, mac, from, to }) => {
                let (from, to) = (self.dest_name(from), self.dest_name(to));
                debug!(segment = self.segment_name(segment), %mac, from, to, "station moved");
            }
            News::Event(Event::Damped { segment, mac }) => {
                debug!(segment = self.segment_name(segment), %mac, "station moves too often");
            }
            News::PathMtu(id, mtu) => {
                if let Some(vtep) = self.topology.vtep(id) {
                    info!(peer = %vtep.address, overlay_mtu = mtu, "path MTU is lower");
                }
                self.lowered_path(id);
            }
            News::Failed(worker, error) => bail!("worker {worker} cannot go on: {error}"),
        }
        Ok(())
    }

    /// What has to be looked after from time to time. `count` counts the ticks.
    fn tick(&mut self, count: u64) {
        self.flush_again();
        self.fdb.expire(self.clock.tick(), EXPIRE_BUDGET);
        if self.devices.hands.is_back() {
            self.retry_at_once();
        }
        self.watch_namespaces(count);
        self.watch_attachments();
        if self.underlay_may_have_moved(count) {
            self.follow_underlay();
            self.follow_subnets();
        }
        self.take_brought();
        self.retry_ports();
        self.tick_cluster(count);
        if count.is_multiple_of(60) {
            self.forget_silent();
            self.raise_paths();
        }
    }

    fn follow_underlay(&mut self) {
        let workers = super::nonzero(self.workers.len());
        let moved = self.underlay.follow(&self.config, workers);
        if moved == Moved::Sockets {
            self.hand_out_underlay(&self.config.clone());
        }
        if moved != Moved::No {
            self.tell_cluster();
            self.follow_overlay_mtu();
            self.apply();
        }
    }

    /// Has the devices follow when the underlay allows another MTU than before.
    pub(super) fn follow_overlay_mtu(&mut self) {
        let mtu = self.underlay.overlay_mtu();
        if self.devices.rules.mtu != mtu {
            self.devices.rules.mtu = mtu;
            self.follow_mtu();
        }
    }

    /// Gives the devices of ports without an MTU of their own the overlay's new one.
    fn follow_mtu(&mut self) {
        self.finish_bringing();
        let mut records = Vec::new();
        for (name, attachment) in &mut self.ports {
            if attachment.port.mtu.is_some() {
                continue;
            }
            if let Device::Up(facts) = &mut attachment.device {
                let port = &attachment.port;
                match self.devices.update(port, attachment.origin, facts, port) {
                    Ok((_, record)) => records.push(record),
                    Err(error) => warn!(port = name, "MTU: {error}"),
                }
            }
        }
        self.devices.keep(records);
    }

    /// Remembers when a path was lowered, to try its old MTU again some day (RFC 1191 section 6.3).
    fn lowered_path(&mut self, vtep: fdb::VtepId) {
        let now = self.clock.tick();
        self.lowered.insert(vtep, now);
    }

    /// Raises paths that were lowered long ago; the path says so if they are still narrow.
    fn raise_paths(&mut self) {
        let (now, full) = (self.clock.tick(), self.underlay.overlay_mtu());
        let topology = Arc::clone(&self.topology);
        self.lowered.retain(|id, since| {
            let Some(vtep) = topology.vtep(*id) else { return false };
            let keep = now.since(*since) < plan::PATH_MTU_MS;
            if !keep {
                vtep.set_mtu(full);
            }
            keep
        });
    }
}
