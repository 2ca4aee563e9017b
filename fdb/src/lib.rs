//! Who lives where: the forwarding database.
#![forbid(unsafe_code)]

mod fdb;
mod limits;
mod outcome;
mod reader;
mod types;

pub use fdb::Fdb;
pub use limits::{Damping, SegmentLimits, Settings};
pub use outcome::{Counts, Expired, Insert, Learn, Lookup, Refusal, Row, Scope, Totals};
pub use reader::Reader;
pub use types::{Dest, Origin, PortId, SegmentId, Tick, VtepId};
