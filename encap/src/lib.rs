//! Bytes to types and back.
#![forbid(unsafe_code)]

mod addr;
mod frame;

pub use addr::{
    EtherType, MacAddr, MacParseError, StationMac, VlanId, VlanOutOfRange, Vni, VniOutOfRange,
};
pub use frame::{Checksum, Frame, Gso, GsoKind, HEAD_MAX, Offload};
