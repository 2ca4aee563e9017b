//! The daemon's end of the socket.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::stat::Mode;
use socket2::Type;
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, warn};

use super::book::Ticket;
use super::protocol::{Answer, Refused, RefusedKind, Request, decode, encode};
use super::wire::{self, Message};
use crate::control::{Command, Handle};
use crate::io::listening::Listening;

/// How many are served at once.
const CONNECTIONS: usize = 256;

/// How long a client may take between two requests: long enough to make a device on a busy machine.
/// What it reserved is free again after that.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long it may take to read an answer.
const READ_PATIENCE: Duration = Duration::from_secs(10);

/// What comes from the socket for the control loop.
#[derive(Debug)]
pub enum Ask {
    /// A request on a connection, with what came beside it.
    Request {
        /// The connection.
        ticket: Ticket,
        /// What is asked for.
        request: Request,
        /// The descriptors.
        descriptors: Vec<OwnedFd>,
    },
    /// A connection has ended.
    End(Ticket),
}

/// A bound socket. Its file is removed with it.
#[derive(Debug)]
pub struct Server(Listening);

impl Server {
    /// Binds the socket at `path` with mode 0600; see [`Listening::bind`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn bind(path: &Path) -> io::Result<Self> {
        Listening::bind(path, Type::SEQPACKET, Mode::S_IRUSR | Mode::S_IWUSR).map(Self)
    }

    /// Serves connections until `stop` is ready.
    ///
    /// # Errors
    ///
    /// When the socket cannot be handed to the runtime. What goes wrong with one client ends only
    /// that client's connection.
    pub async fn serve(self, handle: Handle, stop: impl Future<Output = ()>) -> io::Result<()> {
        // Readiness is the same for every kind of socket; tokio has no type for this one.
        let listener = UnixListener::from_std(self.0.descriptor()?.into())?;
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut next = 0;
        tokio::pin!(stop);
        loop {
            // Those who find no place wait in the backlog.
            let (socket, place) = tokio::select! {
                () = &mut stop => return Ok(()),
                accepted = accept(&listener, &places) => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        warn!("attachment socket: {error}");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            next += 1;
            if is_trusted(&socket) {
                tokio::spawn(one(socket, Ticket(next), handle.clone(), place));
            }
        }
    }
}

async fn accept(
    listener: &UnixListener,
    places: &Arc<Semaphore>,
) -> io::Result<(UnixStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (socket, _) = listener.accept().await?;
    Ok((socket, place))
}

/// Whether a client is root or the daemon's own user. The socket's mode says the same; but a mode
/// can be changed.
fn is_trusted(socket: &UnixStream) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    match getsockopt(socket, PeerCredentials) {
        Ok(peer) if peer.uid() == 0 || peer.uid() == own => true,
        Ok(peer) => {
            warn!(uid = peer.uid(), pid = peer.pid(), "attachment socket: not for this user");
            false
        }
        Err(error) => {
            warn!("attachment socket: who connects cannot be told: {error}");
            false
        }
    }
}

async fn one(socket: UnixStream, ticket: Ticket, handle: Handle, place: OwnedSemaphorePermit) {
    if let Err(error) = converse(&socket, ticket, &handle).await {
        debug!(?ticket, %error, "an attachment connection ended early");
    }
    // What was begun is taken back before the client can see that the connection has ended.
    let _ = handle.ask(|reply| Command::Attach(Ask::End(ticket), reply)).await;
    drop((socket, place));
}

/// Answers one request after the other until the client goes away.
async fn converse(socket: &UnixStream, ticket: Ticket, handle: &Handle) -> io::Result<()> {
    loop {
        let message = tokio::time::timeout(PATIENCE, receive(socket)).await??;
        let Some(Message { bytes, descriptors }) = message else { return Ok(()) };
        let (answer, last) = match decode(&bytes) {
            Ok(request) => {
                let ask = Ask::Request { ticket, request, descriptors };
                let answered = handle.ask(|reply| Command::Attach(ask, reply)).await;
                let away = |refusal| Refused::new(RefusedKind::NotReady, refusal);
                (answered.unwrap_or_else(|refusal| Answer::Refused(away(refusal))), false)
            }
            // Who sends nonsense is not listened to any longer.
            Err(refused) => (Answer::Refused(refused), true),
        };
        let bytes = encode(&answer).map_err(io::Error::other)?;
        tokio::time::timeout(READ_PATIENCE, send(socket, &bytes)).await??;
        if last {
            return Ok(());
        }
    }
}

async fn receive(socket: &UnixStream) -> io::Result<Option<Message>> {
    loop {
        socket.readable().await?;
        match socket.try_io(Interest::READABLE, || wire::receive(socket.as_fd())) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            received => return received,
        }
    }
}

async fn send(socket: &UnixStream, bytes: &[u8]) -> io::Result<()> {
    loop {
        socket.writable().await?;
        match socket.try_io(Interest::WRITABLE, || wire::send(socket.as_fd(), bytes, &[])) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            sent => return sent,
        }
    }
}
