//! The listening end of the control socket, and what every HTTP listener here has in common.

use core::time::Duration;
use std::io;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::stat::Mode;
use socket2::Type;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Handle;
use super::routes::router;
use crate::io::listening::Listening;

/// How many connections are served at once; who comes on top is hung up on.
const CONNECTIONS: usize = 128;
/// How long a client may take to send the head of its (next) request.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may last: a client that does not read its answer goes away some day.
const LIFETIME: Duration = Duration::from_secs(300);

/// A bound control socket. Its file is removed with it.
#[derive(Debug)]
pub struct ControlSocket(Listening);

impl ControlSocket {
    /// Binds the socket at `path` with mode 0660; see [`Listening::bind`].
    ///
    /// # Errors
    /// As there.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let owner = Mode::S_IRUSR | Mode::S_IWUSR;
        // Members of the group are operators.
        Listening::bind(path, Type::STREAM, owner | Mode::S_IRGRP | Mode::S_IWGRP).map(Self)
    }

    /// Serves requests until `stop` is ready.
    ///
    /// # Errors
    /// When the socket cannot be handed to the runtime. What goes wrong with one client ends
    /// only that client's connection.
    pub async fn serve(self, handle: Handle, stop: impl Future<Output = ()>) -> io::Result<()> {
        let listener = UnixListener::from_std(self.0.descriptor()?.into())?;
        serve_until(listener, router(handle), stop).await;
        Ok(())
    }
}

/// Serves each connection to `listener` on a task of its own. The listener itself sits out what
/// accepting can fail with.
pub(super) async fn serve_until<L: Listener>(
    mut listener: L,
    routes: Router,
    stop: impl Future<Output = ()>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    tokio::pin!(stop);
    loop {
        let (stream, _) = tokio::select! {
            () = &mut stop => return,
            accepted = listener.accept() => accepted,
        };
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            tokio::spawn(one(stream, routes.clone(), place));
        }
    }
}

async fn one<S>(stream: S, routes: Router, place: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(routes);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(LIFETIME, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection ended early"),
        Err(_) => tracing::debug!("a connection lasted too long"),
    }
    drop(place);
}
