//! What the control socket asks of the daemon: one enum, each arm with the place for its answer.

use core::fmt;

use tokio::sync::{mpsc, oneshot};

use super::cluster::{GcReport, GcScope, IpRow, NodeRow, PodRow};
use super::metrics::Snapshot;
use super::model::{
    Done, DropRow, FdbRow, FdbScope, FdbStatic, Flushed, ObjectOrigin, PeerRow, PortRow, Readiness,
    ReloadReport, SegmentRow, Status,
};
use crate::attach::{Ask, protocol};
use crate::config::PortSpec;

/// What a command comes back with.
pub type Answer<T> = Result<T, Refusal>;

/// Where the answer goes. Whoever asked may have gone away; then sending fails, which is no error.
pub type Reply<T> = oneshot::Sender<Answer<T>>;

/// How many commands may wait for the daemon before those who ask have to.
const QUEUE: usize = 64;

/// A request to the daemon's control loop. Dropping a command without an answer tells whoever
/// asked that the daemon is going away.
#[derive(Debug)]
pub enum Command {
    /// What the daemon is and does.
    Status(Reply<Status>),
    /// Whether ports and underlay are up.
    Ready(Reply<Readiness>),
    /// Everything that the metrics show.
    Metrics(Reply<Box<Snapshot>>),
    /// Every port, by name.
    PortList(Reply<Vec<PortRow>>),
    /// Make a port; refused when the name or the device is taken, invalid when the
    /// specification is wrong ([`crate::config::check_port`]).
    PortAdd(Box<PortSpec>, ObjectOrigin, Reply<PortRow>),
    /// Remove the port of this name, its device included.
    PortDel(String, Reply<()>),
    /// Every segment, in the order of the configuration.
    SegmentList(Reply<Vec<SegmentRow>>),
    /// Every remote VTEP, by address.
    PeerList(Reply<Vec<PeerRow>>),
    /// The entries of the FDB within the scope, by segment and address.
    FdbList(FdbScope, Reply<Vec<FdbRow>>),
    /// Set a static entry, in place of any other.
    FdbAdd(FdbStatic, Reply<FdbRow>),
    /// Remove the entry of this MAC in this segment, however it came to be.
    FdbDel {
        /// The segment's name.
        segment: String,
        /// The MAC as typed.
        mac: String,
        /// The answer.
        reply: Reply<()>,
    },
    /// Forget the learned entries within the scope.
    FdbFlush(FdbScope, Reply<Flushed>),
    /// Every drop reason, or only those that are not zero.
    Drops {
        /// Zeros too.
        all: bool,
        /// The answer.
        reply: Reply<Vec<DropRow>>,
    },
    /// Every node of the cluster, by name.
    NodeList(Reply<Vec<NodeRow>>),
    /// Give back the share of the node of this name, this one's without: refused while it has pods.
    NodeRelease(Option<String>, Reply<Done>),
    /// Believe the store about the nodes it has lost, though they are many.
    NodeConfirm(Reply<Done>),
    /// Every pod on this node, by network and container.
    PodList(Reply<Vec<PodRow>>),
    /// Every address of this node's share that is not free.
    IpList(Reply<Vec<IpRow>>),
    /// Have an address rest no longer.
    IpRelease(String, Reply<Done>),
    /// Remove what nobody uses any more.
    Gc(GcScope, Reply<GcReport>),
    /// Do what was asked for on the attachment socket.
    Attach(Ask, Reply<protocol::Answer>),
    /// Read the configuration again and apply what changed.
    Reload(Reply<ReloadReport>),
}

/// Why the daemon did not do as told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What kind of reason it is.
    pub kind: RefusalKind,
    /// The reason, in words that stand alone.
    pub message: String,
    /// The key of the request that is wrong, as `trunk[1].vlan`.
    pub path: Option<String>,
}

/// The kinds of reasons, each with its HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// 404: what the request names is not there.
    NotFound,
    /// 409: the request makes sense, and the state of things forbids it.
    Refused,
    /// 422: the request itself is wrong.
    Invalid,
    /// 503: the daemon is starting or stopping.
    Unavailable,
    /// 500: the daemon tried and the system failed it.
    Failed,
}

impl Refusal {
    /// What the request names is not there.
    pub fn not_found(message: impl fmt::Display) -> Self {
        Self::of(RefusalKind::NotFound, message)
    }

    /// The state of things forbids it.
    pub fn refused(message: impl fmt::Display) -> Self {
        Self::of(RefusalKind::Refused, message)
    }

    /// The request itself is wrong.
    pub fn invalid(message: impl fmt::Display) -> Self {
        Self::of(RefusalKind::Invalid, message)
    }

    /// The daemon is starting or stopping.
    pub fn unavailable(message: impl fmt::Display) -> Self {
        Self::of(RefusalKind::Unavailable, message)
    }

    /// The daemon tried and the system failed it.
    pub fn failed(message: impl fmt::Display) -> Self {
        Self::of(RefusalKind::Failed, message)
    }

    /// The same, about this key of the request.
    #[must_use]
    pub fn at(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// What the checks of the configuration found in a request: every problem on its own line,
    /// the path of the first.
    #[must_use]
    pub fn problems(problems: &[crate::config::Problem]) -> Self {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let path = problems.first().map(|problem| problem.path.clone());
        Self { kind: RefusalKind::Invalid, message: lines.join("\n"), path }
    }

    fn of(kind: RefusalKind, message: impl fmt::Display) -> Self {
        Self { kind, message: message.to_string(), path: None }
    }
}

/// The sending end: what the socket, the metrics listener and the signals hold.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
}

/// A [`Handle`], and where its commands arrive.
#[must_use]
pub fn commands() -> (Handle, mpsc::Receiver<Command>) {
    let (commands, inbox) = mpsc::channel(QUEUE);
    (Handle { commands }, inbox)
}

impl Handle {
    /// Sends the command that `make` builds around a reply, and waits for its answer.
    ///
    /// # Errors
    /// The daemon's refusal; [`RefusalKind::Unavailable`] when the loop that answers is gone.
    pub async fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Command) -> Answer<T> {
        let gone = || Refusal::unavailable("the daemon is stopping");
        let (reply, answer) = oneshot::channel();
        self.commands.send(make(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}
