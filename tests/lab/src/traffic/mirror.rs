//! Servers that tell their clients by which address they are seen.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use socket2::{Domain, Socket, Type};

use crate::world::Space;

/// The port of every mirror.
pub const PORT: u16 = 8080;

/// How long nobody answers before nobody will.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long it may take until a server sees that it is over.
const GLANCE: Duration = Duration::from_millis(50);

/// A server of one namespace, by TCP over IPv4 and IPv6. It ends with the value.
#[derive(Debug)]
pub struct Mirror {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Mirror {
    /// Starts one at [`PORT`] of all addresses.
    ///
    /// # Errors
    ///
    /// If the port is taken.
    pub fn start(space: &Space) -> Result<Self> {
        let listener = space.run(|| -> std::io::Result<TcpListener> {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
            socket.set_only_v6(false)?;
            socket.set_reuse_address(true)?;
            // For a listener it is accept that ends by it.
            socket.set_read_timeout(Some(GLANCE))?;
            socket.bind(&SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), PORT).into())?;
            socket.listen(64)?;
            Ok(socket.into())
        })?;
        let listener = listener.with_context(|| format!("{}: port {PORT}", space.name()))?;
        let over = Arc::new(AtomicBool::new(false));
        let body = {
            let over = Arc::clone(&over);
            move || {
                while !over.load(Ordering::Relaxed) {
                    // Nobody there, or gone in the middle: the client says so itself.
                    let _ = answer(&listener);
                }
            }
        };
        Ok(Self { over, thread: Some(thread::Builder::new().spawn(body)?) })
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(listener: &TcpListener) -> std::io::Result<()> {
    let (mut stream, peer) = listener.accept()?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(peer.ip().to_canonical().to_string().as_bytes())
}

/// By which address the mirror at `to` sees a client in `space`.
///
/// # Errors
///
/// If nobody answers within five seconds.
pub fn look(space: &Space, to: SocketAddr) -> Result<IpAddr> {
    let mut text = String::new();
    let said = space.run(|| {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.read_to_string(&mut text)
    })?;
    said.map_err(|error| match error.kind() {
        ErrorKind::WouldBlock => anyhow::anyhow!("no answer within {PATIENCE:?}"),
        _ => error.into(),
    })
    .with_context(|| format!("{} to {to}", space.name()))?;
    text.parse().with_context(|| format!("{to} said {text:?}"))
}
