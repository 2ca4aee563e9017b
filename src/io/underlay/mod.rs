//! The underlay: VXLAN's UDP sockets, what goes into them and what comes out.

pub mod errqueue;
mod lanes;
pub mod lock;
pub mod offloads;
mod runs;
pub mod rx;
mod send;
pub mod sockets;
pub mod train;
pub mod tx;

pub use errqueue::{PeerError, PeerErrorKind};
pub use offloads::{Offloads, Wish};
pub use rx::{Batch, Received, Receiver};
pub use sockets::{BUCKETS, LANES, OpenError, ReceiveSocket, UnderlayConfig, UnderlaySockets};
pub use train::{Decap, Inner, Origin};
pub use tx::{Destination, Outcome, SendDrop, Transmit, TxBatch};
