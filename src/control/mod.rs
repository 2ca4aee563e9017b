//! The control socket: what it carries ([`model`]), what it asks of the daemon ([`Command`]), both
//! ends of it, and the metrics listener. None of it runs on a worker's thread.

pub mod client;
pub mod cluster;
mod command;
pub mod metrics;
mod metrics_server;
pub mod model;
#[allow(unused_qualifications, reason = "utoipa's macros write out whole paths")]
mod routes;
mod server;

pub use command::{Answer, Command, Handle, Refusal, RefusalKind, Reply, commands};
pub use metrics::Snapshot;
pub use metrics_server::MetricsListener;
pub use routes::openapi;
pub use server::ControlSocket;
