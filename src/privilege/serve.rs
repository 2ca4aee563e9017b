//! One connection of the helper: requests are answered one after the other.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::Socket;
use tracing::{debug, warn};

use super::channel::{self, Message, NoMessage};
use super::wire::{LIMIT, Reply, Request, VERSION};
use super::{check, rules};
use crate::device::adopt;
use crate::device::error::{Cause, DeviceError};
use crate::device::make::{self, Made};
use crate::device::netlink::Netlink;
use crate::device::netns::{self, Netns, NetnsIdentity};
use crate::gateway::firewall;
use crate::gateway::port::tune;
use crate::gateway::rules::TABLE;
use crate::gateway::stir::Stirs;
use crate::gateway::ways::{Direct, Reconciled, reconcile};

/// How long the rest of a message may stay out, and an answer be left unread.
const PATIENCE: Duration = Duration::from_secs(5);
const GREETING_PATIENCE_MS: u16 = 5000;

/// How long a connection stays in a namespace for another request, in milliseconds: whoever has many asks at once.
/// A namespace that is removed meanwhile lives that much longer.
const LINGER_MS: u16 = 2;

/// A connection, and for whom it is.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Socket,
    /// The uid whose devices may be touched.
    owner: u32,
    /// The helper's own network namespace.
    home: NetnsIdentity,
}

/// A request with what came along.
struct Asked {
    request: Request,
    /// How many bytes it took.
    size: usize,
    rights: Vec<OwnedFd>,
}

/// What came next.
enum Next {
    Asked(Box<Asked>),
    /// Nothing, in the time that was given.
    Quiet,
    /// The end, or what is as good.
    End,
}

impl Connection {
    pub(super) fn new(socket: Socket, owner: u32, home: NetnsIdentity) -> std::io::Result<Self> {
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket, owner, home })
    }

    /// Answers until the other end has closed, or says what no daemon says.
    pub(super) fn serve(&self) {
        if !self.greet() {
            return;
        }
        let mut next = self.next(PollTimeout::NONE);
        loop {
            next = match next {
                Next::End => return,
                Next::Quiet => self.next(PollTimeout::NONE),
                Next::Asked(asked) => self.go_and_answer(asked),
            };
        }
    }

    fn greet(&self) -> bool {
        let wait = PollTimeout::from(GREETING_PATIENCE_MS);
        let Next::Asked(asked) = self.next(wait) else { return false };
        let reply = match asked.request {
            Request::Hello { version: VERSION, netns } if netns == self.home => Reply::Welcome,
            Request::Hello { version: VERSION, netns } => Reply::Refused(format!(
                "it is in the network namespace {}, and who asks in {netns}: start both in one",
                self.home
            )),
            Request::Hello { version, .. } => Reply::Refused(format!(
                "it speaks version {VERSION}, and who asks {version}: restart it"
            )),
            _ => Reply::Refused("the first request was no greeting".to_owned()),
        };
        self.send(&reply, &[]) && reply == Reply::Welcome
    }

    /// Answers a request, and those behind it that are for the same namespace, inside of that.
    fn go_and_answer(&self, asked: Box<Asked>) -> Next {
        let mut asked = Some(asked);
        let place = asked.as_ref().and_then(|asked| self.place(asked));
        let inside = place.as_deref().and_then(|path| Netns::open_path(path).ok());
        let stayed = inside.map(|netns| {
            netns.run(|| {
                asked.take().map_or(Next::Quiet, |asked| self.stay(asked, place.as_deref()))
            })
        });
        match (stayed, asked) {
            (Some(Ok(next)), _) => next,
            // Nowhere to go, or the verb finds out why it cannot be gone to.
            (_, Some(asked)) => self.answer(asked, PollTimeout::NONE),
            (_, None) => Next::End,
        }
    }

    fn stay(&self, asked: Box<Asked>, here: Option<&Path>) -> Next {
        let linger = PollTimeout::from(LINGER_MS);
        let mut next = self.answer(asked, linger);
        loop {
            next = match next {
                Next::Asked(asked) if self.place(&asked).as_deref() == here => {
                    self.answer(asked, linger)
                }
                other => return other,
            };
        }
    }

    /// Answers a request and waits for the next.
    fn answer(&self, asked: Box<Asked>, wait: PollTimeout) -> Next {
        let (reply, queues) = self.fulfil(asked);
        let rights: Vec<BorrowedFd<'_>> = queues.iter().map(|queue| queue.as_fd()).collect();
        let sent = self.send(&reply, &rights);
        drop(queues);
        if sent { self.next(wait) } else { Next::End }
    }

    fn fulfil(&self, asked: Box<Asked>) -> (Reply, Vec<OwnedFd>) {
        let Asked { request, size, rights } = *asked;
        if let Err(why) = check::admit(&request, size, &rights, self.owner) {
            warn!("refused: {why}");
            return (Reply::Refused(why), Vec::new());
        }
        let mut queues = Vec::new();
        let mut device = |made: Result<Made, DeviceError>| {
            made.map(|made| {
                queues = made.queues;
                Reply::Device(made.facts)
            })
        };
        let done = match request {
            Request::Hello { .. } => Ok(Reply::Refused("a greeting in the middle".to_owned())),
            Request::Make { spec } => device(make::make(&spec)),
            Request::Reopen { spec, expect } => device(adopt::adopt(&spec, &expect)),
            Request::Configure { spec, ifindex, previous } => {
                make::configure(&spec, ifindex, &previous).map(Reply::Changes)
            }
            Request::Remove { netns, ifname, expect } => {
                make::remove(netns.as_ref(), &ifname, &expect).map(Reply::Removal)
            }
            Request::Adopt { expect, wish } => {
                // Who asked has the queues.
                adopt::adopt_descriptors(rights, &expect, wish)
                    .map(|made| Reply::Device(made.facts))
            }
            Request::Look { paths } => {
                let look = |path: &PathBuf| netns::identity_of(path).map_err(|e| e.to_string());
                Ok(Reply::Seen(paths.iter().map(look).collect()))
            }
            Request::Tune { ifindex } => {
                Ok(kernel(tune_own(ifindex, self.owner), |()| Reply::Tuned))
            }
            Request::Routes { routes } => Ok(kernel(reconcile_all(&routes), Reply::Routes)),
            Request::ReplaceRules { body } => Ok(told(rules::replace(&body).map(Some))),
            Request::AmendRules { changes } => Ok(told(rules::amend(&changes).map(|()| None))),
            Request::ReadRules => Ok(told(rules::read())),
            Request::RemoveRules => Ok(told(rules::remove().map(|()| None))),
            Request::Listen => Ok(match Stirs::open(TABLE) {
                Ok(stirs) => {
                    queues = vec![stirs.into_fd()];
                    Reply::Listening
                }
                Err(error) => Reply::Refused(error.to_string()),
            }),
            Request::Firewalls { pods } => {
                Ok(firewall::look(&pods).map_or_else(Reply::Refused, Reply::Found))
            }
        };
        let reply = done.unwrap_or_else(|error| {
            debug!("{error}");
            Reply::Failed(error.into())
        });
        (reply, queues)
    }

    /// The namespace that a verb is done in, if it is done at all and in another than the helper's.
    fn place(&self, asked: &Asked) -> Option<PathBuf> {
        check::admit(&asked.request, asked.size, &asked.rights, self.owner).ok()?;
        place(&asked.request)
    }

    fn next(&self, wait: PollTimeout) -> Next {
        match self.wait(wait) {
            Ok(false) => return Next::Quiet,
            Ok(true) => {}
            Err(_) => return Next::End,
        }
        let refuse = |why: String| {
            warn!("a connection is closed: {why}");
            self.send(&Reply::Refused(why), &[]);
            Next::End
        };
        match channel::receive(&self.socket, LIMIT) {
            Ok(Message { bytes, rights }) => match serde_json::from_slice(&bytes) {
                Ok(request) => Next::Asked(Box::new(Asked { request, size: bytes.len(), rights })),
                Err(error) => refuse(format!("the request is unreadable: {error}")),
            },
            Err(NoMessage::Malformed(why)) => refuse(why.to_owned()),
            Err(NoMessage::Closed | NoMessage::Io(_)) => Next::End,
        }
    }

    /// Whether there is something to be read.
    fn wait(&self, wait: PollTimeout) -> nix::Result<bool> {
        loop {
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, wait) {
                Err(nix::errno::Errno::EINTR) => {}
                ready => return ready.map(|ready| ready > 0),
            }
        }
    }

    fn send(&self, reply: &Reply, rights: &[BorrowedFd<'_>]) -> bool {
        let Ok(text) = serde_json::to_vec(reply) else { return false };
        // Who has died over his question finds the device, and asks again.
        channel::send(&self.socket, &text, rights).is_ok()
    }
}

fn kernel<T>(done: Result<T, Cause>, reply: impl FnOnce(T) -> Reply) -> Reply {
    done.map_or_else(|error| Reply::Refused(error.to_string()), reply)
}

fn tune_own(ifindex: u32, owner: u32) -> Result<(), Cause> {
    let mut netlink = Netlink::open()?;
    adopt::check_index(&mut netlink, ifindex, owner)?;
    Ok(tune(&mut netlink, ifindex)?)
}

fn reconcile_all(routes: &[Direct]) -> Result<Reconciled, Cause> {
    Ok(reconcile(&mut Netlink::open()?, routes)?)
}

fn told(table: Result<Option<String>, rules::RulesError>) -> Reply {
    match table {
        Ok(table) => Reply::Rules(table),
        Err(rules::RulesError(why)) => Reply::Refused(why),
    }
}

/// The namespace that a verb is done in, if it is another than the helper's own.
fn place(request: &Request) -> Option<PathBuf> {
    match request {
        Request::Make { spec } | Request::Reopen { spec, .. } | Request::Configure { spec, .. } => {
            spec.netns.as_ref()
        }
        Request::Remove { netns, .. } => netns.as_ref(),
        Request::Hello { .. }
        | Request::Adopt { .. }
        | Request::Look { .. }
        | Request::Tune { .. }
        | Request::Routes { .. }
        | Request::ReplaceRules { .. }
        | Request::AmendRules { .. }
        | Request::ReadRules
        | Request::RemoveRules
        | Request::Listen
        | Request::Firewalls { .. } => None,
    }
    .map(crate::device::spec::NetnsRef::path)
}
