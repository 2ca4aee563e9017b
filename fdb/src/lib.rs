//! Who lives where: the forwarding database.
#![forbid(unsafe_code)]

mod types;

pub use types::{Dest, Origin, PortId, SegmentId, Tick, VtepId};
