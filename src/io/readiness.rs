//! Which descriptors have something to do: epoll, and an eventfd to wake a thread from outside.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// The number under which a descriptor was added; its meaning is the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// What a descriptor is watched for. Errors and hang-ups are reported always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// There is something to read.
    Read,
    /// Only errors: the error queue of a send socket.
    Errors,
}

impl Interest {
    const fn flags(self) -> EpollFlags {
        match self {
            Self::Read => EpollFlags::EPOLLIN,
            Self::Errors => EpollFlags::empty(),
        }
    }
}

/// One descriptor that has something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which one.
    pub token: Token,
    /// There is something to read.
    pub readable: bool,
    /// An error is pending, or the device is gone. When reading does not make it go away the
    /// descriptor must be removed, else every wait returns at once.
    pub error: bool,
    /// The other end has closed.
    pub hangup: bool,
}

/// The most events that one wait returns; the others come with the next one.
pub const EVENTS: usize = 64;

/// The events of one wait. Reused, so that waiting allocates nothing.
#[derive(Debug)]
pub struct Events {
    raw: [EpollEvent; EVENTS],
    len: usize,
}

impl Events {
    /// Room for [`EVENTS`] events.
    #[must_use]
    pub fn new() -> Self {
        Self { raw: [EpollEvent::empty(); EVENTS], len: 0 }
    }

    /// Whether the last wait found nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets what the last wait found.
    pub const fn clear(&mut self) {
        self.len = 0;
    }

    /// What the last wait found.
    pub fn iter(&self) -> impl Iterator<Item = Event> + '_ {
        self.raw.iter().take(self.len).map(|raw| Event {
            token: Token(raw.data()),
            readable: raw.events().contains(EpollFlags::EPOLLIN),
            error: raw.events().contains(EpollFlags::EPOLLERR),
            hangup: raw.events().intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLRDHUP),
        })
    }
}

impl Default for Events {
    fn default() -> Self {
        Self::new()
    }
}

/// A set of watched descriptors, level-triggered.
#[derive(Debug)]
pub struct Readiness {
    epoll: Epoll,
}

impl Readiness {
    /// An empty set.
    ///
    /// # Errors
    /// What `epoll_create1(2)` says: out of descriptors or memory.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)? })
    }

    /// Watches `fd` from now on.
    ///
    /// # Errors
    /// `EEXIST` when it is watched already, `EPERM` when it cannot be watched, `ENOSPC`, `ENOMEM`.
    pub fn add(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        Ok(self.epoll.add(fd, EpollEvent::new(interest.flags(), token.0))?)
    }

    /// Changes what a watched `fd` is watched for.
    ///
    /// # Errors
    /// `ENOENT` when it is not watched.
    pub fn modify(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        Ok(self.epoll.modify(fd, &mut EpollEvent::new(interest.flags(), token.0))?)
    }

    /// Watches `fd` no more.
    ///
    /// # Errors
    /// `ENOENT` when it is not watched.
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(self.epoll.delete(fd)?)
    }

    /// Waits until a descriptor has something to do or `timeout` has passed, rounded up to a
    /// millisecond; `None` waits for ever. A signal ends the wait with no event.
    ///
    /// # Errors
    /// What `epoll_wait(2)` says.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.map_or(EpollTimeout::NONE, |limit| {
            let millis = limit.as_nanos().div_ceil(1_000_000);
            EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::MAX)
        });
        events.len = match self.epoll.wait(&mut events.raw, timeout) {
            Ok(len) => len,
            Err(Errno::EINTR) => 0,
            Err(errno) => {
                events.len = 0;
                return Err(errno.into());
            }
        };
        Ok(())
    }
}

/// Wakes a thread that waits on a [`Readiness`] to which it was added. Clones wake the same one.
#[derive(Clone, Debug)]
pub struct Waker {
    event: Arc<EventFd>,
}

impl Waker {
    /// A waker that nobody has called yet.
    ///
    /// # Errors
    /// What `eventfd(2)` says: out of descriptors or memory.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Self { event: Arc::new(EventFd::from_value_and_flags(0, flags)?) })
    }

    /// Makes the waiting thread return. Calls add up to one.
    pub fn wake(&self) {
        // The only possible failure is a counter at its limit: then it is readable anyway.
        let _ = self.event.write(1);
    }

    /// Takes back all calls so far; returns whether there was one.
    pub fn drain(&self) -> bool {
        self.event.read().is_ok()
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn a_readable_descriptor_is_reported_until_it_is_read_or_removed() {
        let (near, far) = UnixDatagram::pair().unwrap();
        let readiness = Readiness::new().unwrap();
        let mut events = Events::new();
        readiness.add(&near, Token(7), Interest::Read).unwrap();
        readiness.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!(events.iter().count(), 0);
        far.send(b"x").unwrap();
        for _ in 0..2 {
            readiness.wait(&mut events, None).unwrap();
            let found: Vec<_> = events.iter().collect();
            assert_eq!(found.len(), 1);
            assert!(found[0].token == Token(7) && found[0].readable && !found[0].error);
        }
        readiness.modify(&near, Token(8), Interest::Errors).unwrap();
        readiness.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!(events.iter().count(), 0);
        readiness.remove(&near).unwrap();
        assert!(readiness.remove(&near).is_err());
    }

    #[test]
    fn a_waker_wakes_once_for_many_calls_from_another_thread() {
        let waker = Waker::new().unwrap();
        let readiness = Readiness::new().unwrap();
        readiness.add(&waker, Token(1), Interest::Read).unwrap();
        let other = waker.clone();
        let thread = std::thread::spawn(move || (0..3).for_each(|_| other.wake()));
        let mut events = Events::new();
        readiness.wait(&mut events, None).unwrap();
        thread.join().unwrap();
        assert!(events.iter().any(|event| event.token == Token(1)));
        assert!(waker.drain());
        assert!(!waker.drain());
    }
}
