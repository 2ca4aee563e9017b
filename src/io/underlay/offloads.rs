//! What the kernel does for the underlay: found out when the sockets are opened, taken back when
//! a peer turns out not to be reachable that way.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// What is wanted of an offload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// On where the kernel has it.
    #[default]
    Auto,
    /// On, and an error where the kernel does not have it.
    On,
    /// Off.
    Off,
}

/// What is in use on the underlay sockets. Shared by all workers.
#[derive(Debug)]
pub struct Offloads {
    /// Trains of datagrams are sent with one call (`UDP_SEGMENT`), save to revoked peers.
    pub udp_segment: bool,
    /// Trains of datagrams are received with one call (`UDP_GRO`).
    pub udp_gro: bool,
    /// Receive buffer of each receive socket in bytes, as granted.
    pub receive_buffer: usize,
    /// Send buffer of each send socket in bytes, as granted.
    pub send_buffer: usize,
    revoked: Mutex<BTreeSet<IpAddr>>,
    version: AtomicU32,
}

/// The most peers for which a revocation is remembered. Beyond it the same peer is found out
/// again with each train, which costs a call and loses nothing.
const REVOKED_MAX: usize = 4096;

impl Offloads {
    pub(crate) const fn new(
        udp_segment: bool,
        udp_gro: bool,
        receive_buffer: usize,
        send_buffer: usize,
    ) -> Self {
        let revoked = Mutex::new(BTreeSet::new());
        let version = AtomicU32::new(0);
        Self { udp_segment, udp_gro, receive_buffer, send_buffer, revoked, version }
    }

    /// Sends no more trains to `peer`. Returns whether that is news.
    pub fn revoke_segment(&self, peer: IpAddr) -> bool {
        let mut revoked = self.revoked.lock().unwrap_or_else(PoisonError::into_inner);
        let news = revoked.len() < REVOKED_MAX && revoked.insert(peer);
        if news {
            self.version.fetch_add(1, Ordering::Release);
        }
        news
    }

    /// Tries trains again with every peer: the underlay's routes have changed.
    pub fn restore_segment(&self) {
        self.revoked.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The peers that get no trains, in order.
    #[must_use]
    pub fn revoked(&self) -> Vec<IpAddr> {
        let revoked = self.revoked.lock().unwrap_or_else(PoisonError::into_inner);
        revoked.iter().copied().collect()
    }

    /// Changes whenever [`Self::revoked`] does, so that a copy need not be compared.
    pub(crate) fn version(&self) -> u32 {
        self.version.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revocations_are_per_peer_and_seen_by_version() {
        let offloads = Offloads::new(true, true, 1, 1);
        let (one, two) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let before = offloads.version();
        assert!(offloads.revoke_segment(two));
        assert!(!offloads.revoke_segment(two));
        assert_eq!(offloads.version(), before + 1);
        assert!(offloads.revoke_segment(one));
        assert_eq!(offloads.revoked(), [one, two]);
        offloads.restore_segment();
        assert!(offloads.revoked().is_empty());
        assert_ne!(offloads.version(), before + 2);
    }
}
