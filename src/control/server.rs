//! The listening end of the control socket, and what every HTTP listener here has in common.

use core::time::Duration;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Handle;
use super::routes::router;

/// Who may connect: the owner and the group.
const MODE: u32 = 0o660;
/// How many connections are served at once; who comes on top is hung up on.
const CONNECTIONS: usize = 128;
/// How long a client may take to send the head of its (next) request.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may last: a client that does not read its answer goes away some day.
const LIFETIME: Duration = Duration::from_secs(300);

/// A bound control socket. Its file is removed with it.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode, so that only our own file is removed.
    identity: (u64, u64),
}

impl ControlSocket {
    /// Binds the socket at `path`, making its directory (0755) where there is none, with mode
    /// 0660. A socket that nobody answers on is replaced.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`] when a daemon answers on it, [`io::ErrorKind::AlreadyExists`]
    /// when something other than a socket is there, and whatever the system says.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
        }
        clear(path)?;
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
        listener.set_nonblocking(true)?;
        let meta = std::fs::symlink_metadata(path)?;
        Ok(Self { listener, path: path.to_owned(), identity: (meta.dev(), meta.ino()) })
    }

    /// Serves requests until `stop` is ready.
    ///
    /// # Errors
    /// When the socket cannot be handed to the runtime. What goes wrong with one client ends
    /// only that client's connection.
    pub async fn serve(self, handle: Handle, stop: impl Future<Output = ()>) -> io::Result<()> {
        let listener = tokio::net::UnixListener::from_std(self.listener.try_clone()?)?;
        serve_until(listener, router(handle), stop).await;
        Ok(())
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let meta = std::fs::symlink_metadata(&self.path);
        if meta.is_ok_and(|meta| (meta.dev(), meta.ino()) == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Removes a socket that nobody answers on.
fn clear(path: &Path) -> io::Result<()> {
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let told = |kind, what: &str| Err(io::Error::new(kind, format!("{} {what}", path.display())));
    if !meta.file_type().is_socket() {
        return told(io::ErrorKind::AlreadyExists, "is there, and is no socket");
    }
    match UnixStream::connect(path) {
        Ok(_) => told(io::ErrorKind::AddrInUse, "is in use: a daemon answers on it"),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Err(error) => Err(error),
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
