//! Whether a port's namespace vanished or came back.
//!
//! Nothing else tells: a descriptor that was opened inside a namespace keeps it alive after `ip
//! netns del` and reports no error, while nobody can reach it any more. So the caller looks at the
//! namespace's path from time to time ([`identity_of`](super::netns::identity_of)) and asks here.

use super::netns::NetnsIdentity;

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
