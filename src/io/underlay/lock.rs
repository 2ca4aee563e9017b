//! One daemon per underlay address and port.
//!
//! A second socket with `SO_REUSEPORT` joins the first daemon's receive group without a word and
//! takes a share of its datagrams. An abstract Unix socket belongs to the network namespace, as
//! the UDP port does, and vanishes with its process: the lock that fits.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};

/// Holds an underlay address and port against other daemons until it is dropped.
#[derive(Debug)]
pub struct UnderlayLock {
    _socket: UnixDatagram,
}

/// Why the lock was not to be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody holds it.
    #[error("another tapestry daemon is running on {0} in this network namespace")]
    Held(SocketAddr),
    /// The kernel would not make the socket.
    #[error("cannot take the lock for {address}: {source}")]
    Failed {
        /// What was to be locked.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

impl UnderlayLock {
    /// Takes the lock for `address` and `port` in the calling thread's network namespace.
    ///
    /// # Errors
    /// When another daemon has it.
    pub fn take(address: IpAddr, port: u16) -> Result<Self, LockError> {
        let address = SocketAddr::new(address, port);
        let bind = || {
            let name = UnixAddr::from_abstract_name(format!("tapestry/underlay/{address}"))?;
            UnixDatagram::bind_addr(&name)
        };
        match bind() {
            Ok(socket) => Ok(Self { _socket: socket }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(LockError::Held(address)),
            Err(source) => Err(LockError::Failed { address, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_by_one_until_it_is_dropped() {
        let address = "127.83.1.1".parse().unwrap();
        let held = UnderlayLock::take(address, 4789).unwrap();
        let error = UnderlayLock::take(address, 4789).unwrap_err();
        assert!(matches!(error, LockError::Held(_)));
        assert!(error.to_string().contains("127.83.1.1:4789"), "{error}");
        let other_port = UnderlayLock::take(address, 4790).unwrap();
        let other_address = UnderlayLock::take("::1".parse().unwrap(), 4789).unwrap();
        drop((other_port, other_address, held));
        UnderlayLock::take(address, 4789).unwrap();
    }
}
