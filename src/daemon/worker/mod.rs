//! A worker: a thread that takes frames from its queues and from the underlay, has the engine
//! decide, and sends, until nothing is left; then it sleeps in epoll.
//!
//! Queue q of every port belongs to worker q. Work per descriptor and turn is bounded, and epoll
//! hands the descriptors out in turn, so that a busy one cannot starve the others. On the path
//! of a frame whose sender is known nothing allocates, locks or logs; news for the control side goes
//! through a channel that never blocks and is bounded by what there is to tell.

mod arrivals;
mod outputs;
mod ports;
mod recent;
mod spin;
mod stats;
mod turn;
mod underlay;

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use encap::ecn;
use fdb::{Fdb, PortId, Tick, VtepId};
use switch::{Counters, Engine, Event, Topology};
use tokio::sync::Notify;

use super::clock::Clock;
use crate::io::port::PortQueue;
use crate::io::readiness::{Interest, Readiness, Waker};
use crate::io::underlay::{ReceiveSocket, UnderlaySockets};

pub use stats::Stats;

/// What the control side tells a worker. Taken between two turns.
#[derive(Debug)]
pub enum Order {
    /// Forward by this snapshot.
    Topology(Arc<Topology>),
    /// Serve this queue.
    Attach(PortId, PortQueue),
    /// Close the queue of this port.
    Detach(PortId),
    /// Use these sockets in place of those before.
    Underlay(Box<UnderlayEnd>),
    /// End.
    Stop,
}

/// A worker's share of the underlay.
#[derive(Debug)]
pub struct UnderlayEnd {
    /// The sockets of the VTEP address.
    pub sockets: Arc<UnderlaySockets>,
    /// Sockets of multicast groups: one worker has them all.
    pub groups: Vec<Arc<ReceiveSocket>>,
    /// Whether this worker takes the send sockets' errors.
    pub takes_errors: bool,
    /// How headers are made.
    pub outer: OuterRules,
}

/// How outer headers follow from inner ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterRules {
    /// The DSCP of outer headers; `None`: that of the inner header.
    pub dscp: Option<u8>,
    /// Bytes between an overlay MTU and the path MTU that it needs.
    pub overhead: u16,
    /// The smallest overlay MTU that an error message from the path can bring about.
    pub mtu_floor: u16,
}

impl OuterRules {
    /// TOS or traffic class of the outer header around an inner one of this: its congestion field
    /// (RFC 6040 section 4.1), and the DSCP that is configured.
    #[must_use]
    pub const fn tos(&self, inner: u8) -> u8 {
        let dscp = match self.dscp {
            Some(dscp) => dscp << 2,
            None => inner & !3,
        };
        dscp | ecn::encapsulate(inner).bits()
    }
}

/// What a worker tells the control side.
#[derive(Debug)]
pub enum News {
    /// The port's device is gone, with the error number that said so.
    PortGone(PortId, i32),
    /// Something that the engine noticed.
    Event(Event),
    /// The path to a VTEP takes overlay frames of at most this many layer 3 bytes.
    PathMtu(VtepId, u16),
    /// The worker cannot go on.
    Failed(u32, io::Error),
}

/// The control side's end of a worker.
#[derive(Debug)]
pub struct Handle {
    /// The worker's number.
    pub id: u32,
    /// What it counts.
    pub counters: Arc<Counters>,
    /// How it fares.
    pub stats: Arc<Stats>,
    orders: Sender<Order>,
    waker: Waker,
    thread: Option<thread::JoinHandle<()>>,
}

/// Events that wait for the control side; beyond it they are lost, and happen again.
const EVENTS_WAITING: usize = 1024;

/// Where news goes: a channel, and the bell that says that something is in it.
///
/// The channel has no bound of its own. Events are not sent while many wait; what is said only once
/// always is: there is at most one of it per queue, per step of a path's MTU, and per worker.
#[derive(Clone, Debug)]
pub struct Newsroom {
    news: Sender<News>,
    bell: Arc<Notify>,
}

impl Newsroom {
    /// The sending end of `news`; `bell` is rung after each.
    pub const fn new(news: Sender<News>, bell: Arc<Notify>) -> Self {
        Self { news, bell }
    }

    /// Passes `news` on. An event is lost when nobody has listened for long.
    fn tell(&self, news: News) -> bool {
        let lost = matches!(news, News::Event(_)) && self.news.len() >= EVENTS_WAITING;
        let told = !lost && self.news.try_send(news).is_ok();
        self.bell.notify_one();
        told
    }
}

/// What all workers of a daemon share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The topology to begin with.
    pub topology: Arc<Topology>,
    /// The table.
    pub fdb: Arc<Fdb>,
    /// The clock.
    pub clock: Clock,
    /// Where news goes.
    pub newsroom: Newsroom,
    /// Where queues go to be closed, which takes the kernel milliseconds.
    pub closing: Sender<PortQueue>,
    /// For how long a worker looks for more before it sleeps, while traffic is lively.
    pub spin: Duration,
}

impl Handle {
    /// Starts worker number `id`.
    ///
    /// # Errors
    /// When there is no epoll instance, eventfd or thread to be had.
    pub fn start(id: u32, shared: Shared) -> io::Result<Self> {
        let (orders, inbox) = crossbeam_channel::unbounded();
        let counters = Arc::new(Counters::default());
        let stats = Arc::new(Stats::default());
        let waker = Waker::new()?;
        let readiness = Readiness::new()?;
        readiness.add(&waker, turn::WAKER, Interest::Read)?;
        let engine =
            Engine::new(Arc::clone(&shared.topology), shared.fdb.reader(), Arc::clone(&counters));
        let worker = Worker {
            id,
            engine,
            readiness,
            waker: waker.clone(),
            inbox,
            newsroom: shared.newsroom,
            closing: shared.closing,
            clock: shared.clock,
            stats: Arc::clone(&stats),
            ports: ports::Ports::default(),
            underlay: None,
            destinations: Vec::new(),
            reported: Tick(0),
            spin: spin::Spin::new(shared.spin),
            recent: recent::Recent::default(),
        };
        let run = move || {
            let _whole = WholeOrNothing;
            worker.run();
        };
        let thread = thread::Builder::new().name(format!("worker-{id}")).spawn(run)?;
        Ok(Self { id, counters, stats, orders, waker, thread: Some(thread) })
    }

    /// Tells the worker something.
    pub fn order(&self, order: Order) {
        // A worker that is gone has said so; whoever reads that ends the daemon.
        if self.orders.send(order).is_ok() {
            self.waker.wake();
        }
    }

    /// Makes the worker turn once, so that its progress shows.
    pub fn nudge(&self) {
        self.waker.wake();
    }

    /// Ends the worker and waits for it.
    pub fn stop(mut self) {
        self.order(Order::Stop);
        if let Some(thread) = self.thread.take() {
            // A worker that panicked has taken the process down already.
            drop(thread.join());
        }
    }
}

/// Ends the process when its thread panics. Without one of its workers a daemon would go on and
/// lose a share of all flows without a word; the service manager starts it anew.
struct WholeOrNothing;

impl Drop for WholeOrNothing {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

/// The thread's own state.
struct Worker {
    id: u32,
    engine: Engine,
    readiness: Readiness,
    waker: Waker,
    inbox: Receiver<Order>,
    newsroom: Newsroom,
    closing: Sender<PortQueue>,
    clock: Clock,
    stats: Arc<Stats>,
    ports: ports::Ports,
    underlay: Option<underlay::Underlay>,
    destinations: Vec<crate::io::underlay::Destination>,
    /// When the engine's events were last passed on.
    reported: Tick,
    spin: spin::Spin,
    recent: recent::Recent,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outer_tos_is_the_configured_dscp_and_the_inner_congestion() {
        let rules = |dscp| OuterRules { dscp, overhead: 50, mtu_floor: 526 };
        // EF and ECT(1); AF21 and CE; nothing.
        for (inner, inherited, zero, fixed) in
            [(0xb9, 0xb9, 0x01, 0x29), (0x4b, 0x4b, 0x03, 0x2b), (0, 0, 0, 0x28)]
        {
            assert_eq!(rules(None).tos(inner), inherited);
            assert_eq!(rules(Some(0)).tos(inner), zero);
            assert_eq!(rules(Some(10)).tos(inner), fixed);
        }
    }
}
