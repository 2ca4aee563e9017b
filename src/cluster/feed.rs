//! The task between a store and the daemon: it feeds what the store reports to the membership,
//! publishes views, keeps the last good one on disk, and passes orders on.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use crate::config::{Cluster, StaticNode, Store};

#[cfg(feature = "kubernetes")]
use super::kubernetes;
use super::last_good::LastGood;
use super::membership::{Membership, Memory, Moment};
use super::model::{StoreState, View};
use super::requests::{Request, Requests};
use super::store::{Link, Order, Own, Update};
use super::{etcd, fixed, identity};
use crate::durable::{self, FileError};

/// Views are at least this far apart, so that a thousand changes at once are a few views.
const VIEWS_APART: Duration = Duration::from_millis(100);
/// And writes to the disk this: what is new after a longer while is there at once.
const SAVES_APART: Duration = Duration::from_secs(2);
/// How many updates are taken in before views and orders have their turn.
const BATCH: usize = 256;
/// A store that was asked to list is asked again after this.
const RELISTS_APART: Duration = Duration::from_secs(30);
/// How long the store may take to end, and the last state to get to the disk.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// Who this node is, as its configuration and its devices say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name in the cluster, see [`Cluster::own_name`].
    pub name: String,
    /// Its VTEP.
    pub vtep: SocketAddr,
    /// What it understands beyond the minimum.
    pub capabilities: Vec<String>,
}

/// A running membership.
#[derive(Debug)]
pub struct Feed {
    /// The cluster as it is known: at first what is on disk, or nothing.
    pub view: watch::Receiver<Arc<View>>,
    /// How the store is doing, more often than views come.
    pub store: watch::Receiver<StoreState>,
    requests: Requests,
    nodes: watch::Sender<Arc<Vec<StaticNode>>>,
    works: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// A membership cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The identity of this node is unknown.
    #[error("the node's identity, {path}: {source}")]
    Identity {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: io::Error,
    },
    /// What is on disk is neither of use nor can it be put aside.
    #[error(transparent)]
    LastGood(#[from] FileError),
    /// This build lacks the store.
    #[error("this build of tapestry has no store \"{0}\"")]
    NoStore(&'static str),
}

/// Starts the membership of a node: a task for it and one for its store, on the current tokio
/// runtime. Returns at once, with what is on disk as the first view.
///
/// # Errors
///
/// If the node's identity or its last good state can neither be read nor be made.
pub fn start(config: &Cluster, who: Identity, state_dir: &Path) -> Result<Feed, StartError> {
    let identity = identity::load_or_create(state_dir).map_err(|source| {
        let path = state_dir.join(identity::FILE).display().to_string();
        StartError::Identity { path, source }
    })?;
    let Identity { name, vtep, capabilities } = who;
    let (addresses, exceptions) = (config.addresses.clone(), Vec::new());
    let own = Own { name, identity, vtep, addresses, exceptions, capabilities };
    let last_good = LastGood::new(state_dir, config, &own);
    let epoch = Instant::now();
    let mut membership = Membership::new(config, own);
    let (memory, put_aside) = last_good.load()?;
    if let Some(aside) = put_aside {
        let message = format!("not used, now {}: {}", aside.path.display(), aside.reason);
        membership.note("last good state", Some(message));
    }
    if let Some(memory) = memory {
        membership.restore(memory, moment(epoch));
        // They stand until it is known which there are now.
        let exceptions = membership.own_exceptions();
        membership.set_own(Own { exceptions, ..membership.own().clone() });
    }
    let kept_shares = membership.own_shares();
    let nodes = match &config.store {
        Store::Static(nodes) => nodes.clone(),
        Store::Etcd(_) | Store::Kubernetes(_) => Vec::new(),
    };
    let (node_sender, nodes) = watch::channel(Arc::new(nodes));
    let (requests, inbox) = mpsc::unbounded_channel();
    let (views, view) = watch::channel(Arc::new(membership.view()));
    let (states, store) = watch::channel(membership.store().clone());
    let (works, seen_to_work) = watch::channel(false);
    let origin = Origin { config: config.clone(), nodes, works: seen_to_work };
    let running = origin.start(&membership)?;
    let task = Task {
        membership,
        origin,
        running,
        views,
        states,
        last_good,
        epoch,
        view_due: None,
        unsaved: None,
        last_save: None,
        saving: None,
        kept_shares,
        relist_due: None,
        // Who this node is is news to a store that was just started.
        unpublished: true,
    };
    let task = tokio::spawn(task.run(inbox));
    Ok(Feed { view, store, requests: Requests::new(requests), nodes: node_sender, works, task })
}

fn moment(epoch: Instant) -> Moment {
    Moment { elapsed: epoch.elapsed(), unix_ms: durable::unix_ms() }
}

impl Feed {
    /// To ask something of it.
    #[must_use]
    pub fn requests(&self) -> Requests {
        self.requests.clone()
    }

    /// What can change in a running membership is as in this configuration from now on: the nodes
    /// of a static store, and this node's addresses. The rest needs another start.
    pub fn reconfigure(&self, config: &Cluster) {
        if let Store::Static(nodes) = &config.store {
            self.nodes.send_if_modified(|current| {
                let differs = **current != *nodes;
                if differs {
                    *current = Arc::new(nodes.clone());
                }
                differs
            });
        }
        self.requests.send(Request::Addresses(config.addresses.clone()));
    }

    /// Whether this node's network works: its podCIDR is known, its gateway port and underlay are up.
    /// Kubernetes is told so.
    pub fn set_works(&self, works: bool) {
        self.works.send_if_modified(|before| std::mem::replace(before, works) != works);
    }

    /// Ends it, within some seconds: the store is told, and the last state is kept on disk.
    pub async fn stop(self) {
        self.requests.send(Request::Stop);
        let abort = self.task.abort_handle();
        if timeout(2 * SHUTDOWN + Duration::from_secs(1), self.task).await.is_err() {
            abort.abort();
        }
    }
}

/// What a store is started from.
#[derive(Debug)]
struct Origin {
    config: Cluster,
    nodes: watch::Receiver<Arc<Vec<StaticNode>>>,
    #[cfg_attr(not(feature = "kubernetes"), expect(dead_code))]
    works: watch::Receiver<bool>,
}

/// A store's task, and the feed's ends of its channels.
#[derive(Debug)]
struct Running {
    updates: mpsc::Receiver<Update>,
    orders: mpsc::Sender<Order>,
    task: JoinHandle<()>,
}

impl Origin {
    fn start(&self, membership: &Membership) -> Result<Running, StartError> {
        let (sender, updates) = mpsc::channel(BATCH);
        let (orders, receiver) = mpsc::channel(64);
        let link = Link { updates: sender, orders: receiver };
        let own = membership.own().clone();
        let task = match &self.config.store {
            Store::Static(_) => {
                let store = fixed::run(self.nodes.clone(), own, link);
                tokio::spawn(async {
                    let _ = store.await;
                })
            }
            Store::Etcd(etcd) => {
                let cluster = membership.cluster().map(ToOwned::to_owned);
                let networks = &self.config.networks;
                let held = membership.own_shares();
                let store = etcd::Etcd::new(etcd, networks, own, cluster, held, link);
                tokio::spawn(store.run())
            }
            #[cfg(feature = "kubernetes")]
            Store::Kubernetes(kubernetes) => {
                let pace = kubernetes::Pace::default();
                let store = kubernetes::Store::new(kubernetes, pace, own, link, self.works.clone());
                tokio::spawn(store.run())
            }
            #[cfg(not(feature = "kubernetes"))]
            Store::Kubernetes(_) => return Err(StartError::NoStore("kubernetes")),
        };
        Ok(Running { updates, orders, task })
    }
}

struct Task {
    membership: Membership,
    origin: Origin,
    running: Running,
    views: watch::Sender<Arc<View>>,
    states: watch::Sender<StoreState>,
    last_good: LastGood,
    epoch: Instant,
    /// When the next view may come; it does if there is something new.
    view_due: Option<Instant>,
    /// Since when there is something that is not on disk.
    unsaved: Option<Instant>,
    /// When it was last begun to write.
    last_save: Option<Instant>,
    saving: Option<JoinHandle<Result<(), FileError>>>,
    /// This node's shares as they are on disk, or are about to be.
    kept_shares: Vec<IpNet>,
    relist_due: Option<Instant>,
    unpublished: bool,
}

impl Task {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Request>) {
        loop {
            let due = self.next_due();
            tokio::select! {
                biased;
                request = inbox.recv() => match request {
                    Some(Request::Stop) | None => break,
                    Some(request) => self.carry_out(request),
                },
                update = self.running.updates.recv() => match update {
                    Some(update) => self.take_in(update),
                    None => self.restart().await,
                },
                saved = finished(&mut self.saving) => self.saved(saved),
                () = sleep_until(due) => {}
            }
            self.tend();
        }
        self.end().await;
    }

    /// Takes in an update and what else has come meanwhile.
    fn take_in(&mut self, update: Update) {
        let now = moment(self.epoch);
        self.membership.apply(update, now);
        for _ in 1..BATCH {
            let Ok(update) = self.running.updates.try_recv() else { break };
            self.membership.apply(update, now);
        }
        let store = self.membership.store();
        self.states.send_if_modified(|state| {
            let differs = state != store;
            if differs {
                state.clone_from(store);
            }
            differs
        });
    }

    fn carry_out(&mut self, request: Request) {
        let mut own = self.membership.own().clone();
        match request {
            Request::Vtep(vtep) => own.vtep = vtep,
            Request::Addresses(addresses) => own.addresses = addresses,
            Request::Exceptions(nets) => own.exceptions = self.membership.exceptions_for(&nets),
            Request::Release(release) => {
                if let Err(error) = self.running.orders.try_send(Order::Release(release))
                    && let Order::Release(release) = error.into_inner()
                {
                    let _ = release.answer.send(Err("the store is busy; try again".to_owned()));
                }
            }
            Request::ApplyHeld(answer) => {
                let _ = answer.send(self.membership.apply_held(moment(self.epoch)));
                let _ = self.running.orders.try_send(Order::Accept);
            }
            Request::Stop => {}
        }
        if own != *self.membership.own() {
            self.membership.set_own(own);
            self.unpublished = true;
        }
    }

    /// Does what is due.
    fn tend(&mut self) {
        let now = Instant::now();
        if self.unpublished {
            let order = Order::Publish(self.membership.own().clone());
            self.unpublished = self.running.orders.try_send(order).is_err();
        }
        if self.membership.has_changed() {
            self.unsaved.get_or_insert(now);
            if self.view_due.is_none_or(|due| due <= now) {
                let view = self.membership.view();
                report(&self.views.borrow(), &view);
                self.views.send_replace(Arc::new(view));
                self.view_due = Some(now + VIEWS_APART);
            }
        }
        self.save(now);
        let confirmable = self.membership.confirmable_at().map(|at| self.epoch + at);
        let (relist, due) = next_relist(confirmable, self.relist_due, now);
        if relist {
            let _ = self.running.orders.try_send(Order::Relist);
        }
        self.relist_due = due;
    }

    fn save(&mut self, now: Instant) {
        if self.save_due().is_none_or(|due| due > now) {
            return;
        }
        self.unsaved = None;
        self.kept_shares = self.membership.own_shares();
        if let Some(memory) = self.membership.memory() {
            self.last_save = Some(now);
            self.saving = Some(self.save_beside(memory));
        }
    }

    /// When what is new is to be saved. Another share of this node's is at once: pods have addresses of
    /// it from now on.
    fn save_due(&self) -> Option<Instant> {
        let since = self.unsaved.filter(|_| self.saving.is_none())?;
        let soon = self.kept_shares != self.membership.own_shares();
        let last = self.last_save.filter(|_| !soon);
        Some(last.map_or(since, |last| since.max(last + SAVES_APART)))
    }

    /// The disk may be slow: it is written by another thread.
    fn save_beside(&self, memory: Memory) -> JoinHandle<Result<(), FileError>> {
        let last_good = self.last_good.clone();
        tokio::task::spawn_blocking(move || last_good.save(memory))
    }

    fn saved(&mut self, saved: Result<(), String>) {
        self.saving = None;
        if saved.is_err() {
            self.unsaved = Some(Instant::now() + RELISTS_APART);
        }
        self.membership.note("last good state", saved.err());
    }

    fn next_due(&self) -> Instant {
        let view = self.view_due.filter(|_| self.membership.has_changed());
        let save = self.save_due();
        let retry = self.unpublished.then(|| Instant::now() + VIEWS_APART);
        let far = Instant::now() + Duration::from_secs(3600);
        [view, save, retry, self.relist_due].into_iter().flatten().min().unwrap_or(far)
    }

    /// The store's task has ended, which it does only by a mistake of ours.
    async fn restart(&mut self) {
        tracing::error!("the cluster's store has ended; it is started again");
        let now = moment(self.epoch);
        self.membership.apply(Update::Trouble("the store's task has ended".to_owned()), now);
        tokio::time::sleep(Duration::from_secs(1)).await;
        if let Ok(running) = self.origin.start(&self.membership) {
            self.running = running;
            self.unpublished = true;
        }
    }

    async fn end(self) {
        let memory = self.membership.memory();
        let Running { orders, updates, task } = self.running;
        drop((orders, updates));
        let abort = task.abort_handle();
        if timeout(SHUTDOWN, task).await.is_err() {
            abort.abort();
        }
        let saving = async {
            if let Some(saving) = self.saving {
                let _ = saving.await;
            }
            let last_good = self.last_good;
            if let Some(memory) = memory {
                let saved = tokio::task::spawn_blocking(move || last_good.save(memory)).await;
                if let Ok(Err(error)) = saved {
                    tracing::warn!("{error}");
                }
            }
        };
        let _ = timeout(SHUTDOWN, saving).await;
    }
}

/// Whether the store is to list now, and when this is to be looked at again: not before a list could
/// confirm a deletion, and not again and again then.
fn next_relist(
    confirmable: Option<Instant>,
    due: Option<Instant>,
    now: Instant,
) -> (bool, Option<Instant>) {
    match (confirmable, due) {
        (Some(at), Some(due)) if at <= now && due <= now => (true, Some(now + RELISTS_APART)),
        // The deletion that was waited for may be another one's by now, to be confirmed later.
        (Some(at), due) => (false, Some(due.map_or(at, |due| due.max(at)))),
        (None, _) => (false, None),
    }
}

/// What came of a write, once it is over; never, if there is none.
async fn finished(saving: &mut Option<JoinHandle<Result<(), FileError>>>) -> Result<(), String> {
    match saving {
        Some(task) => match task.await {
            Ok(saved) => saved.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        },
        None => std::future::pending().await,
    }
}

/// Says what an operator should know and did not before, and what is over.
fn report(before: &View, after: &View) {
    const MAX_LINES: usize = 16;
    let new = after.alarms.iter().filter(|alarm| !before.alarms.contains(alarm));
    for alarm in new.take(MAX_LINES) {
        tracing::warn!(about = %alarm.subject, "cluster: {}", alarm.message);
    }
    let over = before.alarms.iter().filter(|alarm| !after.alarms.contains(alarm));
    for alarm in over.take(MAX_LINES) {
        tracing::info!(about = %alarm.subject, "cluster: no longer: {}", alarm.message);
    }
    match (&before.store.trouble, &after.store.trouble) {
        (None, Some(trouble)) => tracing::warn!("cluster: the store cannot be asked: {trouble}"),
        (Some(_), None) if after.store.connected => tracing::info!("cluster: the store answers"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_asked_for_when_they_can_confirm_and_never_without_a_pause() {
        let zero = Instant::now();
        let at = |seconds| zero + Duration::from_secs(seconds);
        let next = |confirmable: Option<u64>, due: Option<u64>, now| {
            let (relist, due) = next_relist(confirmable.map(at), due.map(at), at(now));
            (relist, due.map(|due| due.duration_since(zero).as_secs()))
        };
        let apart = RELISTS_APART.as_secs();
        assert_eq!(next(None, None, 0), (false, None));
        assert_eq!(next(Some(300), None, 0), (false, Some(300)));
        assert_eq!(next(Some(300), Some(300), 299), (false, Some(300)));
        assert_eq!(next(Some(300), Some(300), 300), (true, Some(300 + apart)));
        // Not confirmed by that list: another one, some time later.
        assert_eq!(next(Some(300), Some(300 + apart), 301), (false, Some(300 + apart)));
        // What was held back is there after all, and something else is held back since.
        assert_eq!(next(Some(600), Some(300), 310), (false, Some(600)));
        assert_eq!(next(None, Some(300), 310), (false, None));
    }
}
