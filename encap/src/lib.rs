//! Bytes to types and back: what an overlay switch must know of Ethernet, 802.1Q, VXLAN, ARP and
//! neighbour discovery, checksums, and how superframes are cut and joined.
//!
//! Nothing here reads a clock, a socket or a file, and no input can make it panic. Views
//! ([`Ethernet`], [`Inet`], [`Arp`]) read a frame's first bytes; [`Frame`] is the unit that moves
//! through the engine; [`Head`] is the part of it that an output may edit.
//!
//! ```text
//! outer Ethernet | outer IP | outer UDP | VXLAN | inner Ethernet | tag? | IP | TCP | payload
//!                                       '--8---''------ head of a Frame -----------''- body -
//! ```
#![forbid(unsafe_code)]

mod addr;
mod adopt;
pub mod arp;
pub mod checksum;
mod coalesce;
pub mod ecn;
pub mod ethernet;
mod flow;
mod frame;
mod head;
pub mod hop;
pub mod inet;
pub mod mtu;
mod pattern;
pub mod segment;
#[cfg(test)]
mod testing;
pub mod vlan;
pub mod vnet;
pub mod vxlan;

pub use addr::{
    EtherType, MacAddr, MacParseError, NoStation, StationBits, StationMac, VlanId, VlanOutOfRange,
    Vni, VniOutOfRange,
};
pub use adopt::{Train, adopt_partial};
pub use arp::{Arp, ArpOp, Neighbour, NeighbourKind};
pub use coalesce::{Coalescer, Merge, SLICES, Trust};
pub use ecn::Ecn;
pub use ethernet::{Ethernet, EthernetError, Plain};
pub use flow::FlowHash;
pub use frame::{Checksum, Contiguous, Frame, Gso, GsoKind, HEAD_MAX, Offload};
pub use head::{HEADROOM, Head, NoRoom};
pub use inet::{Fragment, Inet, IpVersion};
pub use segment::{SegmentError, Segments};
pub use vlan::Tag;
pub use vnet::{VNET_LEN, VnetError, VnetHeader};
