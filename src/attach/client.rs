//! The plugin's end of the socket: blocking, one request and its answer after the other.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::protocol::{
    Answer, Expected, Listed, Refused, RefusedKind, Request, Reserve, Reserved, decode, encode,
};
use super::{Key, wire};

/// How long the daemon may take for an answer. It makes many ports at a time where many are asked
/// for, but not for this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a daemon that is just starting, or has more clients than it serves, is waited for.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
const CONNECT_PAUSE: Duration = Duration::from_millis(10);

/// Why a request has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is nobody to ask.
    #[error("the tapestry daemon cannot be reached at {}: {source}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The daemon went away, or stays silent.
    #[error("the tapestry daemon does not answer: {0}")]
    Lost(io::Error),
    /// The daemon will not.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// A connection to the daemon. Closing it takes back what was reserved on it and not committed.
#[derive(Debug)]
pub struct Client {
    socket: Socket,
}

impl Client {
    /// Connects to the daemon's socket. While it has no room for another client, this waits.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unreachable`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let fail = |source| ClientError::Unreachable { path: path.to_owned(), source };
        let address = SockAddr::unix(path).map_err(fail)?;
        let deadline = Instant::now() + CONNECT_PATIENCE;
        loop {
            let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).map_err(fail)?;
            socket.set_write_timeout(Some(PATIENCE)).map_err(fail)?;
            socket.set_read_timeout(Some(PATIENCE)).map_err(fail)?;
            match socket.connect(&address) {
                Ok(()) => return Ok(Self { socket }),
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline =>
                {
                    std::thread::sleep(CONNECT_PAUSE);
                }
                Err(error) => return Err(fail(error)),
            }
        }
    }

    /// Asks for addresses; see [`Request::Reserve`].
    ///
    /// # Errors
    ///
    /// What the daemon says.
    pub fn reserve(&mut self, reserve: Reserve) -> Result<Reserved, ClientError> {
        match self.ask(&Request::Reserve(Box::new(reserve)), &[])? {
            Answer::Reserved(reserved) => Ok(*reserved),
            other => Err(unexpected(&other)),
        }
    }

    /// Hands the device over; see [`Request::Attach`].
    ///
    /// # Errors
    ///
    /// What the daemon says.
    pub fn attach(&mut self, ifindex: u32, queues: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        self.done(&Request::Attach { ifindex }, queues)
    }

    /// Makes it last; see [`Request::Commit`].
    ///
    /// # Errors
    ///
    /// What the daemon says.
    pub fn commit(&mut self) -> Result<(), ClientError> {
        self.done(&Request::Commit, &[])
    }

    /// Removes an attachment, and says whether there was one.
    ///
    /// # Errors
    ///
    /// What the daemon says.
    pub fn release(&mut self, key: &Key) -> Result<bool, ClientError> {
        let (keys, _) = self.released(&Request::Release { key: key.clone() })?;
        Ok(!keys.is_empty())
    }

    /// Compares an attachment with what is expected of it.
    ///
    /// # Errors
    ///
    /// What the daemon says: [`RefusedKind::NotFound`] or [`RefusedKind::Differs`].
    pub fn check(&mut self, key: &Key, expected: Expected) -> Result<(), ClientError> {
        self.done(&Request::Check { key: key.clone(), expected }, &[])
    }

    /// Removes the attachments of a network that are not among these. Returns which, and of those
    /// that could not be removed why not.
    ///
    /// # Errors
    ///
    /// What the daemon says.
    pub fn gc(
        &mut self,
        network: &str,
        valid: Vec<(String, String)>,
    ) -> Result<(Vec<Key>, Vec<String>), ClientError> {
        self.released(&Request::Gc { network: network.to_owned(), valid })
    }

    /// Whether an attachment could be made, and how many as far as addresses limit that.
    ///
    /// # Errors
    ///
    /// What the daemon says.
    pub fn status(
        &mut self,
        segment: Option<&str>,
        delegated: bool,
    ) -> Result<Option<u64>, ClientError> {
        let segment = segment.map(str::to_owned);
        match self.ask(&Request::Status { segment, delegated }, &[])? {
            Answer::Ready { free } => Ok(free),
            other => Err(unexpected(&other)),
        }
    }

    /// All attachments, by the name of their port.
    ///
    /// # Errors
    ///
    /// What the daemon says.
    pub fn list(&mut self) -> Result<Vec<Listed>, ClientError> {
        let mut all: Vec<Listed> = Vec::new();
        loop {
            let after = all.last().map(|last| last.port.clone());
            let page = match self.ask(&Request::List { after }, &[])? {
                Answer::List { pods, more } => (pods, more),
                other => return Err(unexpected(&other)),
            };
            let empty = page.0.is_empty();
            all.extend(page.0);
            if !page.1 || empty {
                return Ok(all);
            }
        }
    }

    fn done(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        match self.ask(request, fds)? {
            Answer::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn released(&mut self, request: &Request) -> Result<(Vec<Key>, Vec<String>), ClientError> {
        match self.ask(request, &[])? {
            Answer::Released { keys, failed } => Ok((keys, failed)),
            other => Err(unexpected(&other)),
        }
    }

    fn ask(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Answer, ClientError> {
        let bytes = encode(request)?;
        wire::send(self.socket.as_fd(), &bytes, fds).map_err(ClientError::Lost)?;
        let message = wire::receive(self.socket.as_fd()).map_err(ClientError::Lost)?;
        let closed = || ClientError::Lost(io::ErrorKind::UnexpectedEof.into());
        match decode(&message.ok_or_else(closed)?.bytes)? {
            Answer::Refused(refused) => Err(refused.into()),
            answer => Ok(answer),
        }
    }
}

fn unexpected(answer: &Answer) -> ClientError {
    let message = format!("an answer to something else: {answer:?}");
    Refused::new(RefusedKind::Malformed, message).into()
}
