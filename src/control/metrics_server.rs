//! The metrics listener: `/metrics`, `/healthz` and `/readyz`, on TCP.

use core::time::Duration;
use std::io;
use std::net::{SocketAddr, TcpListener};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::metrics::{Format, render};
use super::server::serve_until;
use super::{Answer, Command, Handle, Refusal, Reply};

/// How long the control loop may take before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(2);

/// A bound metrics listener.
#[derive(Debug)]
pub struct MetricsListener {
    listener: TcpListener,
}

impl MetricsListener {
    /// Binds the listener.
    ///
    /// # Errors
    /// Whatever the system says, as that the address is in use.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves requests until `stop` is ready.
    ///
    /// # Errors
    /// When the socket cannot be handed to the runtime.
    pub async fn serve(self, handle: Handle, stop: impl Future<Output = ()>) -> io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let routes = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .with_state(handle);
        serve_until(listener, routes, stop).await;
        Ok(())
    }
}

/// The metrics, in the format that the scraper asks for.
async fn metrics(State(handle): State<Handle>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let format = Format::accepted(accept.unwrap_or_default());
    let text = match ask(&handle, Command::Metrics).await {
        Ok(snapshot) => render(*snapshot, format).map_err(Refusal::failed),
        Err(refusal) => Err(refusal),
    };
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(refusal) => unavailable(&refusal.message),
    }
}

/// Whether the control loop answers.
async fn healthz(State(handle): State<Handle>) -> Response {
    match ask(&handle, Command::Ready).await {
        Ok(_) => "ok\n".into_response(),
        Err(refusal) => unavailable(&refusal.message),
    }
}

/// Whether ports and underlay are up; if not, what is missing, a line each.
async fn readyz(State(handle): State<Handle>) -> Response {
    match ask(&handle, Command::Ready).await {
        Ok(readiness) if readiness.ready => "ready\n".into_response(),
        Ok(readiness) => unavailable(&format!("not ready\n{}", readiness.pending.join("\n"))),
        Err(refusal) => unavailable(&refusal.message),
    }
}

fn unavailable(why: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", why.trim_end())).into_response()
}

async fn ask<T>(handle: &Handle, make: impl FnOnce(Reply<T>) -> Command) -> Answer<T> {
    let asked = tokio::time::timeout(PATIENCE, handle.ask(make)).await;
    asked.unwrap_or_else(|_| Err(Refusal::unavailable("the control loop does not answer")))
}
