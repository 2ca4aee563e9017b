//! The local VTEP: its sockets, the interface under them, and what follows when either changes.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroUsize;
use std::sync::Arc;

use tracing::{info, warn};

use super::plan;
use super::worker::{Order, OuterRules, UnderlayEnd};
use crate::config::{Config, Local};
use crate::io::addr;
use crate::io::underlay::{OpenError, ReceiveSocket, UnderlaySockets};

/// The overlay's MTU as long as no underlay says another: over IPv4 and Ethernet.
const OVERLAY_MTU: u16 = 1450;

/// The sockets of the local VTEP, while it has an address.
#[derive(Debug, Default)]
pub(super) struct Underlay {
    sockets: Option<Arc<UnderlaySockets>>,
    interface_mtu: u32,
    /// Why there are none.
    pub(super) trouble: Option<String>,
    /// Sockets of multicast groups, as they were handed out last.
    groups: Vec<Arc<ReceiveSocket>>,
    /// What the full buffers of sockets before these have cost.
    drops_before: u64,
}

/// What is to be told to the workers and the topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// Nothing changed.
    No,
    /// Other sockets.
    Sockets,
    /// Another MTU.
    Mtu,
}

impl Underlay {
    /// Opens the sockets for what `config` says. An interface without an address yet is no error:
    /// it is followed.
    ///
    /// # Errors
    /// When the address is not this host's, something else holds the port, or a call fails.
    pub(super) fn open(config: &Config, workers: NonZeroUsize) -> Result<Self, OpenError> {
        let mut underlay = Self::default();
        match address_of(config) {
            Ok(address) => underlay.take(config, address, workers)?,
            Err(trouble) => underlay.trouble = Some(trouble),
        }
        Ok(underlay)
    }

    fn take(
        &mut self,
        config: &Config,
        address: IpAddr,
        workers: NonZeroUsize,
    ) -> Result<(), OpenError> {
        let wanted = plan::underlay(config, address, workers);
        let sockets = UnderlaySockets::open(&wanted)?;
        let granted = sockets.offloads();
        for (what, limit, granted, wanted) in [
            ("receive", "rmem_max", granted.receive_buffer, wanted.receive_buffer),
            ("send", "wmem_max", granted.send_buffer, wanted.send_buffer),
        ] {
            if granted < wanted {
                info!(
                    "{what} buffers hold {granted} bytes, not {wanted}: net.core.{limit} limits them"
                );
            }
        }
        self.interface_mtu = sockets.interface().mtu;
        info!(
            vtep = %sockets.local(),
            interface = %sockets.interface().name,
            mtu = self.interface_mtu,
            "underlay is up"
        );
        self.drops_before = self.drops();
        self.groups.clear();
        self.sockets = Some(Arc::new(sockets));
        self.trouble = None;
        Ok(())
    }

    /// Looks whether the VTEP's address or its interface's MTU is another one now.
    pub(super) fn follow(&mut self, config: &Config, workers: NonZeroUsize) -> Moved {
        let wanted = match (&config.underlay.local, &self.sockets) {
            (Local::Address(_), Some(_)) => return self.follow_mtu(),
            (Local::Address(address), None) => Ok(*address),
            (Local::Interface(_), _) => address_of(config),
        };
        let address = match wanted {
            Ok(address) if Some(address) == self.address() => {
                self.well();
                return self.follow_mtu();
            }
            Ok(address) => address,
            // The address is gone for the moment: the sockets stay, they lose nothing by it.
            Err(trouble) => {
                self.say(trouble);
                return Moved::No;
            }
        };
        match self.take(config, address, workers) {
            Ok(()) => Moved::Sockets,
            Err(error) => {
                self.say(error.to_string());
                Moved::No
            }
        }
    }

    /// Opens other sockets in place of these, which stay when that fails.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(super) fn replace(
        &mut self,
        config: &Config,
        workers: NonZeroUsize,
    ) -> Result<(), OpenError> {
        match address_of(config) {
            // The same place by another name: its sockets, and their lock, are held already.
            Ok(address) if self.is_at(address, config.underlay.port) => {
                self.well();
                Ok(())
            }
            Ok(address) => self.take(config, address, workers),
            Err(trouble) => {
                self.say(trouble);
                Ok(())
            }
        }
    }

    /// How many datagrams full receive buffers have cost so far.
    pub(super) fn drops(&self) -> u64 {
        let own = self.sockets.as_ref().map_or(0, |sockets| sockets.drops());
        let groups: u64 = self.groups.iter().map(|socket| u64::from(socket.drops())).sum();
        self.drops_before + own + groups
    }

    /// Whatever was wrong is over.
    fn well(&mut self) {
        if self.trouble.take().is_some() {
            info!(vtep = %self.local(), "underlay is as it was");
        }
    }

    fn say(&mut self, trouble: String) {
        if self.trouble.as_ref() != Some(&trouble) {
            warn!("underlay: {trouble}");
            self.trouble = Some(trouble);
        }
    }

    fn follow_mtu(&mut self) -> Moved {
        let Some(sockets) = &self.sockets else { return Moved::No };
        match addr::interface(&sockets.interface().name) {
            Ok(interface) if interface.mtu != self.interface_mtu => {
                info!(interface = %interface.name, mtu = interface.mtu, "underlay MTU changed");
                self.interface_mtu = interface.mtu;
                Moved::Mtu
            }
            _ => Moved::No,
        }
    }

    fn is_at(&self, address: IpAddr, port: u16) -> bool {
        let here = std::net::SocketAddr::new(address, port);
        self.sockets.as_ref().is_some_and(|sockets| sockets.local() == here)
    }

    fn address(&self) -> Option<IpAddr> {
        self.sockets.as_ref().map(|sockets| sockets.local().ip())
    }

    /// The sockets, while there are any.
    pub(super) const fn sockets(&self) -> Option<&Arc<UnderlaySockets>> {
        self.sockets.as_ref()
    }

    /// The VTEP's address; unspecified while it has none.
    pub(super) fn local(&self) -> IpAddr {
        self.address().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// The MTU of the interface under the VTEP.
    pub(super) fn mtu(&self) -> Option<u32> {
        self.sockets.as_ref().map(|_| self.interface_mtu)
    }

    /// The overlay's MTU over that interface.
    pub(super) fn overlay_mtu(&self) -> u16 {
        self.address().map_or(OVERLAY_MTU, |local| plan::overlay_mtu(self.interface_mtu, local))
    }

    /// How outer headers are made.
    pub(super) fn outer(&self, config: &Config) -> OuterRules {
        plan::outer_rules(config.underlay.dscp, self.local())
    }

    /// Each worker's share of the sockets; the first one takes groups and errors.
    pub(super) fn orders(&mut self, config: &Config, workers: usize) -> Vec<Order> {
        let Some(sockets) = self.sockets.clone() else { return Vec::new() };
        let joined = join_groups(config, &sockets);
        let left = std::mem::replace(&mut self.groups, joined);
        self.drops_before += left.iter().map(|socket| u64::from(socket.drops())).sum::<u64>();
        let mut groups = self.groups.clone();
        (0..workers)
            .map(|worker| {
                Order::Underlay(Box::new(UnderlayEnd {
                    sockets: Arc::clone(&sockets),
                    groups: std::mem::take(&mut groups),
                    takes_errors: worker == 0,
                    outer: self.outer(config),
                }))
            })
            .collect()
    }
}

/// A socket for each group that floods go to.
fn join_groups(config: &Config, sockets: &UnderlaySockets) -> Vec<Arc<ReceiveSocket>> {
    let mut wanted: Vec<IpAddr> =
        config.segments.iter().filter_map(|segment| segment.multicast).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let join = |group: IpAddr| match sockets.join(group) {
        Ok(socket) => Some(Arc::new(socket)),
        Err(error) => {
            warn!("underlay: {error}");
            None
        }
    };
    wanted.into_iter().filter_map(join).collect()
}

/// The address that the VTEP is to have, or why there is none.
fn address_of(config: &Config) -> Result<IpAddr, String> {
    match &config.underlay.local {
        Local::Address(address) => Ok(*address),
        Local::Interface(name) => {
            // Peers say which family is meant; without any it is IPv4's.
            let peers = config.segments.iter().flat_map(|segment| &segment.peers);
            let groups = config.segments.iter().filter_map(|segment| segment.multicast);
            let first = peers.map(std::net::SocketAddr::ip).chain(groups).next();
            let wants_v6 = first.is_some_and(|address| address.is_ipv6());
            addr::address_on(name.as_str(), wants_v6)
                .map_err(|error| format!("interface {name} has no address for the VTEP: {error}"))
        }
    }
}
