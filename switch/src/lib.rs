//! A sans-IO virtual switch: bytes, addresses and time go in, bytes for outputs come out.
//!
//! The walk of a frame, both ways:
//!
//! ```text
//! from a port      classify   admissible? which segment?              else drop with a reason
//!                  forward    FDB look-up, then learn -> Decision     else drop with a reason
//!                  egress     tags per output, replication            -> Sink
//! from a VTEP      classify   source known? which segment? untagged?  else drop with a reason
//!                  forward    the same, but outputs are ports only: split horizon is in the type
//!                  egress     the same                                -> Sink
//! ```
//!
//! What nearly every frame of a bridged segment is takes a fast path past these, to the same end.
//!
//! [`Engine`] strings these together for one worker. [`Topology`] is what it decides by, an
//! immutable snapshot; the [`fdb`] is the one thing workers share and change. [`Counters`] obey one
//! law per ingress: received = forwarded + answered + dropped.
#![forbid(unsafe_code)]

mod answer;
mod check;
mod classify;
mod cluster;
mod counters;
mod diff;
mod egress;
mod engine;
mod fast_path;
mod forward;
mod gateway;
mod index;
mod pace;
mod reason;
mod route;
mod router;
mod shared_map;
mod sink;
mod spec;
mod topology;

pub use counters::{
    Counter, Counters, Egress, Ingress, Link, Reading, Weight, read_port, read_stranger, read_vtep,
};
pub use diff::Change;
pub use engine::{Engine, Event, Outer};
pub use forward::{Answer, Decision, Forward, Unreachable};
pub use reason::DropReason;
pub use shared_map::{Difference, SharedMap};
pub use sink::{Remote, Sink};
pub use spec::{
    ClusterSpec, GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6, PortModeSpec, PortRole, PortSpec,
    SegmentSpec, TopologyError, TopologySpec,
};
pub use topology::{Member, Port, PortMode, Segment, Topology, Vtep};
