//! The process with the capabilities: it listens, looks who asks, and does verbs.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Uid, User, chown, geteuid};
use socket2::{Domain, SockAddr, Socket, Type};
use tracing::{error, info, warn};

use super::may_make_devices;
use super::serve::Connection;
use crate::device::netns::{Netns, NetnsIdentity};
use crate::io::{limit, sys};

/// Where the helper listens, unless it is told otherwise or was passed a socket.
pub const DEFAULT_SOCKET: &str = "/run/tapestry/helper.sock";

/// Who may connect: the one user.
const MODE: u32 = 0o600;

/// Connections at one time: a daemon's four, those of the daemon that takes its place, a teardown's.
const CONNECTIONS: usize = 16;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 32;

/// The pause after a connection could not be accepted, for want of descriptors for instance.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often strangers are worth a line in the log.
const STRANGER_PAUSE: Duration = Duration::from_secs(1);

/// The uid that the kernel shows for all those that a user namespace does not know
/// (`kernel.overflowuid`, user_namespaces(7)).
const NOBODY: u32 = 65_534;

/// Serves the daemon of `user`, by name or number, until it is told to stop: on the socket that a
/// service manager passed, or else on one of its own at `path`.
///
/// # Errors
///
/// When there is no such user, another helper listens there, or the system refuses the socket.
pub fn run(path: &Path, user: &str) -> anyhow::Result<()> {
    let owner = uid_of(user)?;
    if let Err(error) = limit::raise_descriptor_limit() {
        warn!("the limit of open descriptors stays as it is: {error}");
    }
    if !may_make_devices() {
        warn!("without CAP_NET_ADMIN no device can be made");
    }
    let home = Netns::current()?.identity();
    let (socket, own) = match sys::passed_descriptor().context("the passed socket")? {
        Some(fd) => (Socket::from(fd), None),
        None => {
            let at = || format!("socket {}", path.display());
            let (socket, lock) = bind(path, owner).with_context(at)?;
            (socket, Some((path, lock)))
        }
    };
    // Before any thread starts: all of them inherit what is blocked.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    let helper = Helper { owner, home, places: Arc::default() };
    thread::Builder::new().name("accept".to_owned()).spawn(move || helper.accept(&socket))?;
    info!(uid = owner, "ready");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let _ = signals.wait();
    // Nothing is kept that would have to be put down: who waits for an answer asks the next one.
    if let Some((path, _lock)) = own {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

fn uid_of(user: &str) -> anyhow::Result<u32> {
    let uid = match user.parse() {
        Ok(uid) => uid,
        Err(_) => match User::from_name(user).with_context(|| format!("user {user}"))? {
            Some(user) => user.uid.as_raw(),
            None => bail!("there is no user {user}"),
        },
    };
    if uid == NOBODY {
        bail!(
            "uid {NOBODY} stands for everybody who is not known: the daemon needs one of its own"
        );
    }
    Ok(uid)
}

/// Binds the socket for its one user to connect to. One that nobody listens on is replaced.
fn bind(path: &Path, owner: u32) -> io::Result<(Socket, Flock<File>)> {
    let give = |path: &Path| match geteuid().as_raw() == owner {
        true => Ok(()),
        false => chown(path, Some(Uid::from_raw(owner)), None),
    };
    if let Some(dir) = path.parent().filter(|dir| !dir.exists()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
        // The daemon's own socket is to have its place there, too.
        give(dir)?;
    }
    let address = SockAddr::unix(path)?;
    let lock = clear(path)?;
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    socket.bind(&address)?;
    std::fs::set_permissions(path, Permissions::from_mode(MODE))?;
    give(path)?;
    socket.listen(BACKLOG)?;
    Ok((socket, lock))
}

/// Removes a socket that nobody listens on. That is told by the lock beside it, which its listener
/// holds for life: without CAP_DAC_OVERRIDE not even root may connect to another user's socket.
fn clear(path: &Path) -> io::Result<Flock<File>> {
    match std::fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is no socket"));
        }
        _ => {}
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    let mut options = File::options();
    let file = options.write(true).create(true).truncate(false).mode(MODE).open(&beside)?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        let taken = io::Error::new(io::ErrorKind::AddrInUse, "another helper listens on it");
        if errno == Errno::EWOULDBLOCK { taken } else { errno.into() }
    })?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(lock),
    }
}

/// What all connections have in common.
#[derive(Clone, Debug)]
struct Helper {
    owner: u32,
    home: NetnsIdentity,
    /// How many connections there are.
    places: Arc<AtomicUsize>,
}

impl Helper {
    fn accept(&self, listener: &Socket) {
        let mut quiet_until = Instant::now();
        loop {
            let socket = match listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    error!("accept: {error}");
                    thread::sleep(ACCEPT_PAUSE);
                    continue;
                }
            };
            if let Err(why) = self.take(socket)
                && Instant::now() >= quiet_until
            {
                warn!("a connection is refused: {why}");
                quiet_until = Instant::now() + STRANGER_PAUSE;
            }
        }
    }

    /// Serves a connection on a thread of its own, if its peer is served and there is room.
    fn take(&self, socket: Socket) -> anyhow::Result<()> {
        let peer = getsockopt(&socket.as_fd(), sockopt::PeerCredentials).context("peer")?;
        if peer.uid() != self.owner && peer.uid() != 0 {
            bail!("uid {} is not served (pid {})", peer.uid(), peer.pid());
        }
        let place = Place::take(&self.places).context("there are too many")?;
        let connection = Connection::new(socket, self.owner, self.home)?;
        thread::Builder::new().name("hand".to_owned()).spawn(move || {
            let _place = place;
            connection.serve();
        })?;
        Ok(())
    }
}

/// One of the connections that there may be.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(places: &Arc<AtomicUsize>) -> Option<Self> {
        let room = |taken: usize| (taken < CONNECTIONS).then_some(taken + 1);
        places.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).ok()?;
        Some(Self(Arc::clone(places)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_socket_that_nobody_listens_on_is_replaced_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("of its own").join("helper.sock");
        let own = geteuid().as_raw();
        let first = bind(&path, own).unwrap();
        let mode = std::fs::metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o777, MODE);
        assert_eq!(bind(&path, own).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        drop(bind(&path, own).unwrap());
        std::fs::remove_file(&path).unwrap();
        File::create(&path).unwrap();
        assert_eq!(bind(&path, own).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(path.exists());
    }

    #[test]
    fn a_user_is_a_name_or_a_number_but_not_everybody() {
        assert_eq!(uid_of("root").unwrap(), 0);
        assert_eq!(uid_of("4711").unwrap(), 4711);
        assert!(uid_of("65534").is_err());
        assert!(uid_of("no such user").is_err());
    }

    #[test]
    fn places_are_bounded_and_given_back() {
        let places = Arc::default();
        let mut taken: Vec<_> = (0..CONNECTIONS).filter_map(|_| Place::take(&places)).collect();
        assert_eq!(taken.len(), CONNECTIONS);
        assert!(Place::take(&places).is_none());
        taken.pop();
        assert!(Place::take(&places).is_some());
    }
}
