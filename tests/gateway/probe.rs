//! Servers that say who they are and whom they see, and clients that ask them.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lab::world::Space;
use socket2::{Domain, Protocol, Socket, Type};

use super::land::{ALL, Lab, Who};

/// The port of every server.
pub(crate) const PORT: u16 = 8080;

/// How long nobody answers before nobody will.
const PATIENCE: Duration = Duration::from_secs(2);

/// What follows the answer: more than one window, so that it is not only the handshake that works.
const BULK: usize = 200_000;

/// Servers of TCP and UDP at everybody's.
pub(crate) struct Servers {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Servers {
    pub(crate) fn start(lab: &Lab) -> Result<Self> {
        let mut servers = Self { over: Arc::default(), threads: Vec::new() };
        for who in ALL {
            for any in ["0.0.0.0", "::"] {
                let at = SocketAddr::new(any.parse()?, PORT);
                let socket = lab.space(who).run(|| listener(at, Type::STREAM))??;
                socket.listen(16)?;
                servers.serve(who, TcpListener::from(socket), answer_stream)?;
            }
            // A datagram's answer comes from the address it was sent to only if the server has
            // bound it: several addresses are several servers.
            for address in lab.ip(who, "-o addr show scope global")?.lines().filter_map(own) {
                let at = SocketAddr::new(address, PORT);
                let socket = lab.space(who).run(|| listener(at, Type::DGRAM))??;
                servers.serve(who, UdpSocket::from(socket), answer_datagram)?;
            }
        }
        Ok(servers)
    }

    fn serve<S: Send + 'static>(
        &mut self,
        who: Who,
        socket: S,
        answer: fn(&S, Who) -> Result<()>,
    ) -> Result<()> {
        let over = Arc::clone(&self.over);
        let body = move || {
            while !over.load(Ordering::Relaxed) {
                // Nobody there, or gone in the middle: the client says so itself.
                let _ = answer(&socket, who);
            }
            Ok(())
        };
        self.threads.push(thread::Builder::new().spawn(body)?);
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The address in a line of `ip -o addr`.
fn own(line: &str) -> Option<IpAddr> {
    let mut words = line.split_whitespace().skip_while(|word| !word.starts_with("inet"));
    words.nth(1)?.split('/').next()?.parse().ok()
}

fn listener(at: SocketAddr, kind: Type) -> Result<Socket> {
    let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
    let socket = Socket::new(Domain::for_address(at), kind, Some(protocol))?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    // So that the threads see when it is over; for a listener it is accept that ends.
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    socket.bind(&at.into()).with_context(|| format!("bind {at}"))?;
    Ok(socket)
}

fn answer_stream(listener: &TcpListener, who: Who) -> Result<()> {
    let (mut stream, peer) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.read_exact(&mut [0; 4])?;
    let said = format!("{} {}\n", who.name(), peer.ip());
    stream.write_all(said.as_bytes())?;
    Ok(stream.write_all(&vec![b'.'; BULK])?)
}

fn answer_datagram(socket: &UdpSocket, who: Who) -> Result<()> {
    let (_, peer) = socket.recv_from(&mut [0; 64])?;
    socket.send_to(format!("{} {}\n", who.name(), peer.ip()).as_bytes(), peer)?;
    Ok(())
}

/// Who answered, and whom it saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) server: String,
    pub(crate) client: IpAddr,
}

/// Asks by TCP or UDP, from an address of the client's choice or the kernel's.
pub(crate) fn ask(space: &Space, from: Option<IpAddr>, to: SocketAddr, kind: Type) -> Result<Seen> {
    let said = space.run(|| -> Result<String> {
        let socket = Socket::new(Domain::for_address(to), kind, None)?;
        if let Some(from) = from {
            socket.bind(&SocketAddr::new(from, 0).into())?;
        }
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.connect_timeout(&to.into(), PATIENCE).context("connect")?;
        if kind == Type::STREAM { ask_stream(socket.into()) } else { ask_datagram(&socket.into()) }
    })??;
    let (server, client) = said.trim().split_once(' ').with_context(|| format!("{said:?}"))?;
    Ok(Seen { server: server.to_owned(), client: client.parse()? })
}

fn ask_stream(mut stream: TcpStream) -> Result<String> {
    stream.write_all(b"who?").context("ask")?;
    let mut all = Vec::new();
    stream.read_to_end(&mut all).context("listen")?;
    let end = all.iter().position(|byte| *byte == b'\n').context("no answer")?;
    ensure!(all.len() == end + 1 + BULK, "{} bytes after the answer", all.len() - end - 1);
    Ok(String::from_utf8_lossy(&all[..end]).into_owned())
}

fn ask_datagram(socket: &UdpSocket) -> Result<String> {
    let mut buffer = [0; 256];
    // One may be lost while the neighbours are asked for.
    for _ in 0..2 {
        socket.send(b"who?").context("ask")?;
        if let Ok(length) = socket.recv(&mut buffer) {
            return Ok(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
    }
    anyhow::bail!("no answer")
}
