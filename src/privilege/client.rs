//! The daemon's end: connections to the helper, and what to do while it is away.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, SockAddr, Socket, Type};
use tracing::{info, warn};

use super::channel::{self, Message, NoMessage};
use super::wire::{LIMIT, Reply, Request, VERSION};
use crate::device::netns::{Netns, NetnsError};

/// How long an answer may take: less than the watchdog's patience with who waits for it.
const PATIENCE: Duration = Duration::from_secs(8);

/// How long a helper may be away before those who ask it are told so. One that was killed is back
/// within this time where somebody starts it again.
const ABSENCE: Duration = Duration::from_secs(1);

/// How often a helper that is away is looked for meanwhile.
const AGAIN: Duration = Duration::from_millis(10);

/// How long a look whether it is there may take.
const GLANCE: Duration = Duration::from_millis(200);

/// For how long nobody waits again for a helper that did not answer: a thousand questions in a row
/// are one silence.
const DEAF: Duration = Duration::from_secs(1);

/// Connections that are kept: as many as ask at the same time.
const KEPT: usize = 4;

/// Why the helper did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    /// There is nobody to ask, or whoever was asked died over it.
    #[error("it is away: {0}")]
    Away(io::Error),
    /// It is there, and says nothing.
    #[error("it does not answer")]
    Silent,
    /// It does not talk to this daemon.
    #[error("{0}")]
    Refused(String),
    /// The own part of it failed.
    #[error("{0}")]
    Own(io::Error),
}

impl Unanswered {
    /// The errno behind it, if there is one.
    pub(super) fn errno(&self) -> Option<i32> {
        match self {
            Self::Away(error) | Self::Own(error) => error.raw_os_error(),
            Self::Silent | Self::Refused(_) => None,
        }
    }

    fn of(error: NoMessage) -> Self {
        match error {
            error if error.is_silence() => Self::Silent,
            NoMessage::Closed => Self::Away(io::ErrorKind::ConnectionReset.into()),
            NoMessage::Io(error) => Self::Away(error),
            NoMessage::Malformed(why) => Self::Refused(format!("its answer is unreadable: {why}")),
        }
    }
}

/// A helper by its socket's path.
#[derive(Debug)]
pub(super) struct Client {
    path: PathBuf,
    idle: Mutex<Vec<Socket>>,
    absence: Mutex<Absence>,
}

/// What is known of the helper's absence.
#[derive(Debug, Default)]
struct Absence {
    /// Since when it is missed.
    since: Option<Instant>,
    /// Until then nobody waits for it.
    deaf_until: Option<Instant>,
    /// What those were told who asked it in vain.
    told: Option<String>,
    /// It is back, and nobody was told so yet.
    back: bool,
}

impl Client {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, idle: Mutex::default(), absence: Mutex::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Asks, over `held` if that is a connection, and leaves the one that was used there. A helper
    /// that is away is looked for, and asked again when it is back: what it had done by then is
    /// found done.
    pub(super) fn ask(
        &self,
        held: &mut Option<Socket>,
        request: &Request,
        rights: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), Unanswered> {
        let text = serde_json::to_vec(request).map_err(|error| Unanswered::Own(error.into()))?;
        if text.len() > LIMIT.bytes {
            return Err(Unanswered::Own(io::Error::from_raw_os_error(libc::EMSGSIZE)));
        }
        if self.absence().deaf_until.is_some_and(|until| Instant::now() < until) {
            return Err(Unanswered::Silent);
        }
        loop {
            let error = match self.try_once(held, &text, rights) {
                Ok(answer) => {
                    self.found();
                    return Ok(answer);
                }
                Err(error) => error,
            };
            *held = None;
            if !matches!(error, Unanswered::Away(_)) || self.missed() >= ABSENCE {
                self.give_up(&error);
                return Err(error);
            }
            thread::sleep(AGAIN);
        }
    }

    fn try_once(
        &self,
        held: &mut Option<Socket>,
        text: &[u8],
        rights: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), Unanswered> {
        let socket = match held.take().or_else(|| self.take_idle()) {
            Some(socket) => socket,
            None => self.connect(PATIENCE)?,
        };
        let answer = exchange(&socket, text, rights)?;
        *held = Some(socket);
        Ok(answer)
    }

    fn take_idle(&self) -> Option<Socket> {
        let mut idle = self.idle();
        idle.retain(|socket| !has_ended(socket));
        idle.pop()
    }

    /// Takes a connection back.
    pub(super) fn keep(&self, socket: Socket) {
        let mut idle = self.idle();
        if idle.len() < KEPT {
            idle.push(socket);
        }
    }

    fn connect(&self, patience: Duration) -> Result<Socket, Unanswered> {
        let own = |error: NetnsError| Unanswered::Own(error.source);
        let netns = Netns::current().map_err(own)?.identity();
        let address = SockAddr::unix(&self.path).map_err(Unanswered::Own)?;
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).map_err(Unanswered::Own)?;
        let wait = |patience| {
            socket.set_write_timeout(Some(patience))?;
            socket.set_read_timeout(Some(patience))
        };
        wait(patience).map_err(Unanswered::Own)?;
        socket.connect(&address).map_err(|error| match error.raw_os_error() {
            // Its queue of those who want to connect is full.
            Some(libc::EAGAIN) => Unanswered::Silent,
            Some(libc::EACCES | libc::EPERM) => Unanswered::Refused(error.to_string()),
            _ => Unanswered::Away(error),
        })?;
        let hello = serde_json::to_vec(&Request::Hello { version: VERSION, netns });
        let hello = hello.map_err(|error| Unanswered::Own(error.into()))?;
        match exchange(&socket, &hello, &[])?.0 {
            Reply::Welcome => {}
            Reply::Refused(why) => return Err(Unanswered::Refused(why)),
            _ => return Err(Unanswered::Refused("it answers something else".to_owned())),
        }
        wait(PATIENCE).map_err(Unanswered::Own)?;
        Ok(socket)
    }

    /// Looks whether the helper is there, briefly. Returns whether it is back after somebody asked
    /// it in vain, whoever found that out: once.
    pub(super) fn glance(&self) -> bool {
        let there = {
            let mut idle = self.idle();
            idle.retain(|socket| !has_ended(socket));
            !idle.is_empty()
        };
        if !there || self.trouble().is_some() {
            match self.connect(GLANCE) {
                Ok(socket) => {
                    self.keep(socket);
                    self.found();
                }
                Err(error) => {
                    self.missed();
                    self.give_up(&error);
                }
            }
        }
        std::mem::take(&mut self.absence().back)
    }

    /// What is wrong with the helper, while something is.
    pub(super) fn trouble(&self) -> Option<String> {
        self.absence().told.clone()
    }

    /// For how long it has been away; from now on, if it was not.
    fn missed(&self) -> Duration {
        self.absence().since.get_or_insert_with(Instant::now).elapsed()
    }

    /// It answered.
    fn found(&self) {
        let mut absence = self.absence();
        let told = absence.told.is_some();
        *absence = Absence { back: told || absence.back, ..Absence::default() };
        if told {
            info!(helper = %self.path.display(), "the helper is back");
        }
    }

    fn give_up(&self, error: &Unanswered) {
        let mut absence = self.absence();
        if matches!(error, Unanswered::Silent) {
            absence.deaf_until = Some(Instant::now() + DEAF);
        }
        let words = error.to_string();
        if absence.told.as_ref() != Some(&words) {
            warn!(
                helper = %self.path.display(),
                "the helper: {words}. Ports that are up go on; what is to be made or changed waits"
            );
            absence.told = Some(words);
        }
    }

    // A thread that panicked left nothing half done in either.
    fn idle(&self) -> MutexGuard<'_, Vec<Socket>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn absence(&self) -> MutexGuard<'_, Absence> {
        self.absence.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn exchange(
    socket: &Socket,
    text: &[u8],
    rights: &[BorrowedFd<'_>],
) -> Result<(Reply, Vec<OwnedFd>), Unanswered> {
    channel::send(socket, text, rights).map_err(|error| Unanswered::of(error.into()))?;
    let Message { bytes, rights } = channel::receive(socket, LIMIT).map_err(Unanswered::of)?;
    let reply = serde_json::from_slice(&bytes)
        .map_err(|error| Unanswered::Refused(format!("its answer is unreadable: {error}")))?;
    Ok((reply, rights))
}

/// Whether a connection on which nothing is expected has something to say: that can only be its end.
fn has_ended(socket: &Socket) -> bool {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO) != Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(path: &Path) -> Socket {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        socket.bind(&SockAddr::unix(path).unwrap()).unwrap();
        socket.listen(8).unwrap();
        socket
    }

    /// Takes one connection, welcomes it, and answers `answers` of its requests.
    fn serve(listener: &Socket, answers: usize) {
        let (socket, _) = listener.accept().unwrap();
        for reply in std::iter::once(Reply::Welcome)
            .chain(std::iter::repeat_n(Reply::Changes(Vec::new()), answers))
        {
            let Ok(_) = channel::receive(&socket, LIMIT) else { return };
            channel::send(&socket, &serde_json::to_vec(&reply).unwrap(), &[]).unwrap();
        }
        // The request that is not answered any more has arrived, too.
        let _ = channel::receive(&socket, LIMIT);
    }

    #[test]
    fn who_dies_over_a_question_is_asked_again_when_he_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("helper.sock");
        let client = Client::new(path.clone());
        let listener = listen(&path);
        let helper = thread::spawn(move || {
            serve(&listener, 1);
            std::fs::remove_file(&path).unwrap();
            drop(listener);
            thread::sleep(Duration::from_millis(50));
            serve(&listen(&path), 1);
        });
        let mut held = None;
        for _ in 0..2 {
            let (reply, _) = client.ask(&mut held, &Request::ReadRules, &[]).unwrap();
            assert_eq!(reply, Reply::Changes(Vec::new()));
        }
        assert_eq!(client.trouble(), None);
        drop(held);
        helper.join().unwrap();
    }

    #[test]
    fn one_that_stays_away_is_missed_once_and_then_found_by_a_glance() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("helper.sock");
        let client = Client::new(path.clone());
        let begun = Instant::now();
        let error = client.ask(&mut None, &Request::ReadRules, &[]).unwrap_err();
        assert!(matches!(error, Unanswered::Away(_)), "{error}");
        assert_eq!(error.errno(), Some(libc::ENOENT));
        assert!(begun.elapsed() >= ABSENCE);
        let again = Instant::now();
        assert!(client.ask(&mut None, &Request::ReadRules, &[]).is_err());
        assert!(again.elapsed() < ABSENCE, "the second one waited again");
        assert!(client.trouble().unwrap().contains("away"));
        assert!(!client.glance());
        let listener = listen(&path);
        let helper = thread::spawn(move || serve(&listener, 0));
        assert!(client.glance(), "it is back");
        assert_eq!(client.trouble(), None);
        assert!(!client.glance(), "it was there all the time");
        drop(client);
        helper.join().unwrap();
    }

    #[test]
    fn that_it_is_back_is_told_even_if_somebody_else_asks_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("helper.sock");
        let client = Client::new(path.clone());
        assert!(!client.glance());
        let listener = listen(&path);
        let helper = thread::spawn(move || serve(&listener, 1));
        let mut held = None;
        client.ask(&mut held, &Request::ReadRules, &[]).unwrap();
        client.keep(held.unwrap());
        assert_eq!(client.trouble(), None);
        assert!(client.glance(), "what failed meanwhile is to be tried again");
        assert!(!client.glance(), "once");
        drop(client);
        helper.join().unwrap();
    }

    #[test]
    fn one_that_says_nothing_keeps_nobody_waiting_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("helper.sock");
        let _listener = listen(&path);
        let client = Client::new(path);
        assert!(!client.glance());
        assert!(client.trouble().unwrap().contains("does not answer"));
        let begun = Instant::now();
        let error = client.ask(&mut None, &Request::ReadRules, &[]).unwrap_err();
        assert!(matches!(error, Unanswered::Silent), "{error}");
        assert!(begun.elapsed() < GLANCE);
    }
}
