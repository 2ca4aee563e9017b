//! What peers and routers answer to what was sent: the error queues of the send sockets.
//!
//! The sockets are shared by all peers, so an error is worth something only with the address that
//! it quotes.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use socket2::SockRef;

use crate::io::sys::{self, QueuedError};

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerErrorKind {
    /// It was too long for the path, which takes IP packets of `mtu` bytes. An ICMP message can be
    /// forged: the caller bounds what it believes.
    MessageTooBig {
        /// Bytes.
        mtu: u32,
    },
    /// Nobody listens on the peer's port.
    Refused,
    /// There is no way to the host or network, or a filter forbids it.
    Unreachable,
    /// Any other error, by its number.
    Other(i32),
}

/// An error, and the peer to which it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerError {
    /// Where the datagram was going. The port is zero when this host itself found it too long.
    pub peer: SocketAddr,
    /// What became of it.
    pub kind: PeerErrorKind,
    /// Whether this host found out by itself, without an ICMP message.
    pub local: bool,
}

impl PeerError {
    fn from_queued(error: QueuedError) -> Option<Self> {
        let kind = match error.errno {
            libc::EMSGSIZE => PeerErrorKind::MessageTooBig { mtu: error.info },
            libc::ECONNREFUSED => PeerErrorKind::Refused,
            libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN | libc::EACCES => {
                PeerErrorKind::Unreachable
            }
            other => PeerErrorKind::Other(other),
        };
        Some(Self { peer: error.to?, kind, local: error.local })
    }
}

/// The most entries that one [`drain`] takes. The others keep the socket ready.
pub const ERRORS_PER_DRAIN: usize = 64;

/// Takes up to [`ERRORS_PER_DRAIN`] entries off the error queue of the send socket `fd` and hands
/// each one that names a peer to `report`. Returns how many there were.
pub fn drain(fd: BorrowedFd<'_>, mut report: impl FnMut(PeerError)) -> usize {
    for taken in 0..ERRORS_PER_DRAIN {
        match sys::receive_error(fd) {
            Ok(entry) => {
                if let Some(error) = entry.and_then(PeerError::from_queued) {
                    report(error);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => {
                // The queue is empty. An error that is pending all the same would fail the next
                // send to anybody: it is taken back too, and has nobody's name on it.
                let _ = SockRef::from(&fd).take_error();
                return taken;
            }
        }
    }
    ERRORS_PER_DRAIN
}

/// Whether a send may have failed with what an earlier datagram to somebody else met: such an
/// error is delivered once, to whoever comes next, so the send deserves a second try.
pub(crate) fn may_be_anothers(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ECONNREFUSED
            | Errno::EHOSTUNREACH
            | Errno::ENETUNREACH
            | Errno::EHOSTDOWN
            | Errno::EACCES
            | Errno::EMSGSIZE
            | Errno::EPROTO
            | Errno::ENOPROTOOPT
            | Errno::EOPNOTSUPP
            | Errno::ENONET
    )
}
