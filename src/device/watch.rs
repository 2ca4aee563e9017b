//! Whether a port's namespace vanished or came back.
//!
//! No descriptor tells: one that was opened inside a namespace keeps it alive after `ip netns del`
//! and reports no error, while nobody can reach it any more. So the caller looks at the namespace's
//! path ([`identity_of`](super::netns::identity_of)) and asks here. When to look, [`Mounts`] says:
//! a name of a namespace is a mount.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::netns::NetnsIdentity;

/// Tells when a mount came or went in this process's mount namespace (proc(5), mountinfo).
#[derive(Debug)]
pub struct Mounts(File);

impl Mounts {
    /// Tells of what changes from now on.
    ///
    /// # Errors
    ///
    /// If `/proc` is not mounted or not readable.
    pub fn open() -> io::Result<Self> {
        File::open("/proc/self/mountinfo").map(Self)
    }

    /// Whether any has changed since this was asked last; asking is the taking note.
    #[must_use]
    pub fn changed(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLPRI)];
        // What cannot be asked may have changed.
        poll(&mut fds, PollTimeout::ZERO).is_err()
            || fds.iter().any(|fd| fd.revents().is_none_or(|events| !events.is_empty()))
    }
}

/// Whether a change of what is at this path changes the mounts: not where the path is below `/proc`
/// (`/proc/PID/ns/net`), nor a link to such a place.
#[must_use]
pub fn announces_itself(path: &Path) -> bool {
    let link = path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
    !link && !path.starts_with("/proc")
}

/// What became of a port's namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The port's device is where the path leads, or the port is down and still has no namespace.
    Unchanged,
    /// The path leads nowhere: the port is down, its queues are to be closed.
    Vanished,
    /// The path leads to another namespace: the queues of the old one are to be closed, and the
    /// device is to be made in the new one.
    Replaced(NetnsIdentity),
    /// There is a namespace again for a port that was down: its device is to be made in it.
    Returned(NetnsIdentity),
}

/// Compares the namespace a port's device was made in with what its path leads to now.
///
/// `held` is `None` once the port is down and its queues are closed. As long as they are open, the
/// namespace lives and its inode cannot be given to another, so equal means the same.
#[must_use]
pub fn fate(held: Option<NetnsIdentity>, seen: Option<NetnsIdentity>) -> Fate {
    match (held, seen) {
        (Some(held), Some(seen)) if held == seen => Fate::Unchanged,
        (Some(_), Some(seen)) => Fate::Replaced(seen),
        (Some(_), None) => Fate::Vanished,
        (None, Some(seen)) => Fate::Returned(seen),
        (None, None) => Fate::Unchanged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_below_proc_and_links_come_and_go_without_a_word() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        File::create(&file).unwrap();
        std::os::unix::fs::symlink("/proc/self/ns/net", &link).unwrap();
        assert!(announces_itself(&file));
        assert!(announces_itself(&dir.path().join("nothing")));
        assert!(!announces_itself(&link));
        assert!(!announces_itself(Path::new("/proc/self/ns/net")));
        assert!(!announces_itself(Path::new("/proc/1/root/run/netns/a")));
    }

    #[test]
    fn every_pair_has_its_fate() {
        let a = NetnsIdentity { dev: 4, ino: 1 };
        let b = NetnsIdentity { dev: 4, ino: 2 };
        // The same inode on another device is another namespace.
        let c = NetnsIdentity { dev: 5, ino: 1 };
        for (held, seen, expected) in [
            (Some(a), Some(a), Fate::Unchanged),
            (Some(a), Some(b), Fate::Replaced(b)),
            (Some(a), Some(c), Fate::Replaced(c)),
            (Some(a), None, Fate::Vanished),
            (None, Some(a), Fate::Returned(a)),
            (None, None, Fate::Unchanged),
        ] {
            assert_eq!(fate(held, seen), expected, "{held:?} {seen:?}");
        }
    }
}
