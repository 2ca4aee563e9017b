//! What hosts do: pings, transfers, datagrams.

use super::{Fabric, HostId};
use smoltcp::iface::SocketHandle;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr};
use std::net::IpAddr;

/// A TCP connection that carries a pattern one way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    client: (HostId, SocketHandle),
    server: (HostId, SocketHandle),
    total: usize,
    sent: usize,
    received: usize,
}

/// The byte at a place of the stream; no short period that a lost segment could hide in.
fn pattern(at: usize) -> u8 {
    (at.wrapping_mul(2_654_435_761) >> 13) as u8
}

impl Transfer {
    /// Opens a connection from `client` to `server`, to carry `total` bytes.
    pub(crate) fn open(
        fabric: &mut Fabric,
        client: HostId,
        server: HostId,
        to: IpAddr,
        port: u16,
        total: usize,
    ) -> Self {
        let socket = || {
            let buffer = || tcp::SocketBuffer::new(vec![0; 65_535]);
            tcp::Socket::new(buffer(), buffer())
        };
        let mut listening = socket();
        listening.listen(port).unwrap();
        let listening = fabric.hosts[server.0].sockets.add(listening);
        let host = &mut fabric.hosts[client.0];
        let connecting = host.sockets.add(socket());
        let local = 40_000 + port;
        let connection = host.sockets.get_mut::<tcp::Socket<'_>>(connecting);
        connection.connect(host.interface.context(), (to, port), local).unwrap();
        Self {
            client: (client, connecting),
            server: (server, listening),
            total,
            sent: 0,
            received: 0,
        }
    }

    /// Writes and reads what the sockets take. Returns whether all has arrived. The connection stays
    /// open: a FIN that is lost is not always sent again by smoltcp.
    ///
    /// # Panics
    /// When a byte is not the one that was sent.
    pub(crate) fn drive(&mut self, fabric: &mut Fabric) -> bool {
        let (host, handle) = self.client;
        let socket = fabric.hosts[host.0].sockets.get_mut::<tcp::Socket<'_>>(handle);
        while socket.can_send() && self.sent < self.total {
            let most = (self.total - self.sent).min(4096);
            let chunk: Vec<u8> = (self.sent..self.sent + most).map(pattern).collect();
            let taken = socket.send_slice(&chunk).unwrap();
            self.sent += taken;
            if taken == 0 {
                break;
            }
        }
        let (host, handle) = self.server;
        let socket = fabric.hosts[host.0].sockets.get_mut::<tcp::Socket<'_>>(handle);
        while socket.can_recv() {
            let at = self.received;
            let count = socket.recv(|bytes| {
                for (offset, byte) in bytes.iter().enumerate() {
                    assert_eq!(*byte, pattern(at + offset), "byte {}", at + offset);
                }
                (bytes.len(), bytes.len())
            });
            self.received += count.unwrap();
        }
        self.received == self.total
    }

    /// Bytes that have arrived.
    pub(crate) fn received(&self) -> usize {
        self.received
    }
}

impl Fabric {
    /// Runs a transfer to its end.
    ///
    /// # Panics
    /// When it has not ended after `ms`.
    pub(crate) fn transfer(&mut self, from: HostId, to: HostId, ip: IpAddr, total: usize, ms: u64) {
        let mut transfer = Transfer::open(self, from, to, ip, 80, total);
        let done = self.run_until(ms, |fabric| transfer.drive(fabric));
        assert!(done, "{transfer:?} after {ms} ms");
        for (host, handle) in [transfer.client, transfer.server] {
            self.hosts[host.0].sockets.remove(handle);
        }
    }

    /// Sends an echo request and waits for its reply. Returns whether it came within `ms`.
    pub(crate) fn ping(&mut self, from: HostId, to: IpAddr, ms: u64) -> bool {
        let ident = 0x1234;
        let handle = self.hosts[from.0].send_ping(to, ident);
        let done = self.run_until(ms, |fabric| {
            let socket = fabric.hosts[from.0].sockets.get_mut::<icmp::Socket<'_>>(handle);
            socket.recv().is_ok_and(|(_, source)| source == to.into())
        });
        self.hosts[from.0].sockets.remove(handle);
        done
    }

    /// Binds a UDP socket.
    pub(crate) fn bind(&mut self, host: HostId, port: u16) -> SocketHandle {
        let buffer =
            || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 64], vec![0; 65_535]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).unwrap();
        self.hosts[host.0].sockets.add(socket)
    }

    /// Sends a datagram of the overlay.
    pub(crate) fn send_udp(
        &mut self,
        host: HostId,
        socket: SocketHandle,
        to: (IpAddr, u16),
        payload: &[u8],
    ) {
        let socket = self.hosts[host.0].sockets.get_mut::<udp::Socket<'_>>(socket);
        socket.send_slice(payload, to).unwrap();
    }

    /// Takes a datagram that has come.
    pub(crate) fn receive_udp(&mut self, host: HostId, socket: SocketHandle) -> Option<Vec<u8>> {
        let socket = self.hosts[host.0].sockets.get_mut::<udp::Socket<'_>>(socket);
        socket.recv().ok().map(|(bytes, _)| bytes.to_vec())
    }
}

impl super::Host {
    fn send_ping(&mut self, to: IpAddr, ident: u16) -> SocketHandle {
        let buffer =
            || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 2048]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        socket.bind(icmp::Endpoint::Ident(ident)).unwrap();
        let (data, checksums) = (&b"are you there?"[..], ChecksumCapabilities::default());
        match to {
            IpAddr::V4(_) => {
                let echo = Icmpv4Repr::EchoRequest { ident, seq_no: 1, data };
                let out = socket.send(echo.buffer_len(), to.into()).unwrap();
                echo.emit(&mut Icmpv4Packet::new_unchecked(out), &checksums);
            }
            IpAddr::V6(to6) => {
                let echo = Icmpv6Repr::EchoRequest { ident, seq_no: 1, data };
                let source = self.interface.get_source_address_ipv6(&to6);
                let out = socket.send(echo.buffer_len(), to.into()).unwrap();
                echo.emit(&source, &to6, &mut Icmpv6Packet::new_unchecked(out), &checksums);
            }
        }
        self.sockets.add(socket)
    }
}
