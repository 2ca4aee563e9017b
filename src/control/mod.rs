//! The control socket: what it carries ([`model`]), what it asks of the daemon ([`Command`]), both
//! ends of it, and the metrics listener. None of it runs on a worker's thread.

mod command;
pub mod metrics;
pub mod model;

pub use command::{Answer, Command, Handle, Refusal, RefusalKind, Reply, commands};
pub use metrics::Snapshot;
