//! Attachments of containers to the switch: who has which address, and the socket over which a CNI
//! plugin asks for one and hands its device's descriptors over.
//!
//! An attachment is a port of origin `cni` whose specification has a [`Pod`] section. The journal of
//! ports is the only record of attachments: [`Pool`] and [`Book`] are derived from it at each start.
//!
//! An ADD is a walk along these steps, on one connection: *reserve* (in memory), the device is made
//! by the plugin and not persistent, *attach* with its descriptors (journaled, then persistent),
//! *commit*. A connection that ends before the last step takes everything back that it did.

mod book;
pub mod client;
mod host;
mod key;
mod pod;
mod pool;
pub mod protocol;
mod rests;
mod server;
mod tombstone;
mod walk;
mod wire;

pub use book::{Book, Operations, Tally, Ticket};
pub use host::{Host, Place, PodRow};
pub use key::{Key, KeyError};
pub use pod::{HostPort, Ipam, NoProtocol, Pod, Protocol, gateways, mac_of, neighbours, routes};
pub use pool::{AddressRow, AddressState, Counts, Pool, PoolError, RangeError};
pub use rests::{Rests, RestsFile};
pub use server::{Ask, Server};
pub use tombstone::{Found, Tombstone, Tombstones};

/// Where the socket is unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/tapestry/attach.sock";
