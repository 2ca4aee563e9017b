//! The underlay's sockets: a group that receives, and a pool that sends.
//!
//! With UDP sockets the source port belongs to the socket, so the entropy that RFC 7348 section 5
//! asks for comes from a pool of send sockets: bucket `b` of the inner flow hash has a port of its
//! own, whichever worker sends. They take nothing in (a filter sees to that) except the errors
//! that peers and routers return.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{
    Ipv4RecvErr, Ipv6RecvErr, RcvBufForce, SndBufForce, UdpGroSegment, UdpGsoSegment,
};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockFilter, Socket, Type};

use super::lanes;
use super::lock::{LockError, UnderlayLock};
use super::offloads::{Offloads, Wish};
use crate::io::addr::{Interface, interface_of};
use crate::io::sys::{self, SocketOption};

/// How many send sockets, and so source ports, there are.
pub const BUCKETS: usize = 16;

/// How many receive sockets a worker has. Senders' ports, and so flows, are shared out among them
/// (`SO_REUSEPORT`; `lanes.rs`), and each has a buffer of its own, which are served in turn: a flow
/// that comes faster than the worker forwards fills its own, and others' frames neither wait behind it
/// nor are lost with it, unless they share its lane.
pub const LANES: usize = 8;

/// Where the source ports begin: the dynamic ports, as RFC 7348 section 5 recommends.
pub const SOURCE_PORT_FIRST: u16 = 49_152;

/// How many ports each bucket has to choose from.
pub(super) const PORTS_PER_BUCKET: u16 = 1024;

const _: () = assert!(((SOURCE_PORT_FIRST / PORTS_PER_BUCKET) as usize).is_multiple_of(BUCKETS));
const _: () = assert!(SOURCE_PORT_FIRST as usize + BUCKETS * PORTS_PER_BUCKET as usize == 1 << 16);

/// At 212,992 bytes a single TCP stream loses segments by the thousand; here none was seen.
const RECEIVE_BUFFER: usize = 8 << 20;
const SEND_BUFFER: usize = 4 << 20;

/// TTL and hop limit of what is sent.
const HOPS: u32 = 64;

/// What the underlay is to be.
#[derive(Clone, Copy, Debug)]
pub struct UnderlayConfig {
    /// This VTEP: an address that an interface holds.
    pub address: IpAddr,
    /// The VXLAN port, 4789 by default.
    pub port: u16,
    /// Whether outer UDP checksums are sent. Without them there are no trains: the kernel has
    /// no `UDP_SEGMENT` with zero checksums.
    pub udp_checksum: bool,
    /// How many workers there are, each with [`LANES`] receive sockets.
    pub workers: NonZeroUsize,
    /// `UDP_SEGMENT`.
    pub udp_gso: Wish,
    /// `UDP_GRO`.
    pub udp_gro: Wish,
    /// Bytes of each receive socket's buffer, as far as the host allows.
    pub receive_buffer: usize,
    /// Bytes of each send socket's buffer, as far as the host allows.
    pub send_buffer: usize,
}

impl UnderlayConfig {
    /// One worker, everything that the kernel has.
    #[must_use]
    pub const fn new(address: IpAddr, port: u16) -> Self {
        Self {
            address,
            port,
            udp_checksum: true,
            workers: NonZeroUsize::MIN,
            udp_gso: Wish::Auto,
            udp_gro: Wish::Auto,
            receive_buffer: RECEIVE_BUFFER,
            send_buffer: SEND_BUFFER,
        }
    }
}

/// Why the underlay could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another daemon is there.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Something that is no Tapestry daemon holds the UDP port.
    #[error(
        "UDP port {} of {} is taken by another program or by a kernel VXLAN device \
         (see `ss -lunp` and `ip -d link show type vxlan`)", .0.port(), .0.ip()
    )]
    PortTaken(SocketAddr),
    /// The address is on none of this host's interfaces.
    #[error("no interface of this host has the underlay address {0}")]
    AddressNotHere(IpAddr),
    /// The address cannot be a VTEP's.
    #[error("{0} cannot be an underlay address: one unicast address of this host is needed")]
    AddressUnfit(IpAddr),
    /// Every port that a send socket could have is taken.
    #[error("no free UDP port in {first}..={last} on {address} to send from")]
    NoSourcePort {
        /// This VTEP.
        address: IpAddr,
        /// First port tried.
        first: u16,
        /// Last port tried.
        last: u16,
    },
    /// The group is no multicast address of the underlay's family.
    #[error("{0} is no multicast group of the underlay's address family")]
    NoGroup(IpAddr),
    /// An offload was demanded that this kernel or this configuration does not have.
    #[error("{0} was demanded, but {1}")]
    OffloadMissing(&'static str, &'static str),
    /// A call failed.
    #[error("underlay socket, {step}: {source}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

fn errno_at(step: &'static str) -> impl FnOnce(Errno) -> OpenError {
    move |errno| OpenError::Io { step, source: errno.into() }
}

fn at(step: &'static str) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io { step, source }
}

/// A socket on the VXLAN port.
#[derive(Debug)]
pub struct ReceiveSocket {
    socket: Socket,
    local: SocketAddr,
}

impl ReceiveSocket {
    /// The address that it is bound to: this VTEP's, or that of a multicast group.
    #[must_use]
    pub const fn local(&self) -> SocketAddr {
        self.local
    }

    /// How many datagrams its full buffer has cost so far, wrapping. Asked for when somebody wants
    /// to know, and not told with the datagrams (`SO_RXQ_OVFL`): that copies from the kernel's
    /// packet, which a kernel with hardened user copies takes for an attack when the packet comes
    /// from a sender on the same host, and kills the thread in the midst of the call.
    #[must_use]
    pub fn drops(&self) -> u32 {
        sys::socket_drops(self.as_fd()).unwrap_or(0)
    }
}

impl AsFd for ReceiveSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// All sockets of one VTEP address. Shared by all workers.
#[derive(Debug)]
pub struct UnderlaySockets {
    local: SocketAddr,
    interface: Interface,
    receive: Vec<ReceiveSocket>,
    send: Vec<Socket>,
    source_ports: [u16; BUCKETS],
    receive_buffer: usize,
    offloads: Offloads,
    _lock: UnderlayLock,
}

impl UnderlaySockets {
    /// Takes the lock and opens the sockets, in the calling thread's network namespace.
    ///
    /// # Errors
    /// When another daemon or program is on the port, the address is not this host's, or a
    /// call fails.
    pub fn open(config: &UnderlayConfig) -> Result<Self, OpenError> {
        let address = config.address;
        if address.is_unspecified() || address.is_multicast() {
            return Err(OpenError::AddressUnfit(address));
        }
        let lock = UnderlayLock::take(address, config.port)?;
        let interface = match interface_of(address) {
            // The whole of 127/8 is this host's, without being on the list.
            Err(_) if address.is_loopback() => interface_of(Ipv4Addr::LOCALHOST.into()),
            found => found,
        }
        .map_err(|error| match error.kind() {
            io::ErrorKind::AddrNotAvailable => OpenError::AddressNotHere(address),
            _ => at("looking for the interface")(error),
        })?;
        let (receive, udp_gro) = open_receive_group(config)?;
        let udp_segment = segment_wished(config)?;
        let mut send = Vec::with_capacity(BUCKETS);
        let mut source_ports = [0; BUCKETS];
        for (bucket, port) in (0..).zip(&mut source_ports) {
            let (socket, bound) = open_sender(config, &interface, bucket)?;
            *port = bound;
            send.push(socket);
        }
        let udp_segment = udp_segment && probe_segment(config, &send)?;
        let granted =
            |sizes: Option<io::Result<usize>>| sizes.and_then(Result::ok).unwrap_or(0) / 2;
        let offloads = Offloads::new(
            udp_segment,
            udp_gro,
            granted(receive.first().map(|socket| socket.socket.recv_buffer_size())),
            granted(send.first().map(Socket::send_buffer_size)),
        );
        let local =
            receive.first().map_or(SocketAddr::new(address, config.port), |first| first.local);
        Ok(Self {
            local,
            interface,
            receive,
            send,
            source_ports,
            receive_buffer: config.receive_buffer,
            offloads,
            _lock: lock,
        })
    }

    /// This VTEP's address and VXLAN port.
    #[must_use]
    pub const fn local(&self) -> SocketAddr {
        self.local
    }

    /// The interface that held the address when the sockets were opened.
    #[must_use]
    pub const fn interface(&self) -> &Interface {
        &self.interface
    }

    /// The receive sockets of `worker`, counted from zero.
    #[must_use]
    pub fn receive(&self, worker: usize) -> &[ReceiveSocket] {
        self.receive.chunks_exact(LANES).nth(worker).unwrap_or_default()
    }

    /// How many datagrams the workers' full receive buffers have cost so far.
    #[must_use]
    pub fn drops(&self) -> u64 {
        self.receive.iter().map(|socket| u64::from(socket.drops())).sum()
    }

    /// The send sockets in the order of their buckets, to watch their errors.
    pub fn senders(&self) -> impl ExactSizeIterator<Item = BorrowedFd<'_>> {
        self.send.iter().map(AsFd::as_fd)
    }

    /// The socket that sends for `bucket`; buckets beyond the last begin anew.
    pub(crate) fn sender(&self, bucket: usize) -> Option<BorrowedFd<'_>> {
        self.send.get(bucket % BUCKETS).map(AsFd::as_fd)
    }

    /// The source port of each bucket.
    #[must_use]
    pub const fn source_ports(&self) -> &[u16; BUCKETS] {
        &self.source_ports
    }

    /// What is in use.
    #[must_use]
    pub const fn offloads(&self) -> &Offloads {
        &self.offloads
    }

    /// A receive socket for a multicast group, joined on the underlay's interface. One socket for
    /// all workers: in a group of several each would get a copy of every datagram.
    ///
    /// # Errors
    /// When `group` is no multicast address of this family, or a call fails.
    pub fn join(&self, group: IpAddr) -> Result<ReceiveSocket, OpenError> {
        if !group.is_multicast() || group.is_ipv4() != self.local.is_ipv4() {
            return Err(OpenError::NoGroup(group));
        }
        let local = SocketAddr::new(group, self.local.port());
        let gro = if self.offloads.udp_gro { Wish::On } else { Wish::Off };
        let (socket, _) = open_receiver(local, gro, self.receive_buffer)?;
        // Others may be members too, as this daemon's own socket is while one takes over from it.
        socket.set_reuse_address(true).map_err(at("SO_REUSEADDR"))?;
        bind(&socket, local)?;
        match group {
            IpAddr::V4(v4) => {
                socket.set_multicast_all_v4(false).map_err(at("IP_MULTICAST_ALL"))?;
                let on = InterfaceIndexOrAddress::Index(self.interface.index);
                socket.join_multicast_v4_n(&v4, &on)
            }
            IpAddr::V6(v6) => {
                socket.set_multicast_all_v6(false).map_err(at("IPV6_MULTICAST_ALL"))?;
                socket.join_multicast_v6(&v6, self.interface.index)
            }
        }
        .map_err(at("joining the multicast group"))?;
        Ok(ReceiveSocket { socket, local })
    }
}

fn new_socket(address: IpAddr) -> Result<Socket, OpenError> {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).map_err(at("socket"))?;
    socket.set_nonblocking(true).map_err(at("O_NONBLOCK"))?;
    if address.is_ipv6() {
        socket.set_only_v6(true).map_err(at("IPV6_V6ONLY"))?;
    }
    Ok(socket)
}

/// An unbound receive socket, and whether it has `UDP_GRO`.
fn open_receiver(local: SocketAddr, gro: Wish, buffer: usize) -> Result<(Socket, bool), OpenError> {
    let socket = new_socket(local.ip())?;
    if local.is_ipv4() {
        socket.set_recv_tos_v4(true).map_err(at("IP_RECVTOS"))?;
    } else {
        socket.set_recv_tclass_v6(true).map_err(at("IPV6_RECVTCLASS"))?;
        set(&socket, SocketOption::NoCheck6Rx, 1).map_err(at("UDP_NO_CHECK6_RX"))?;
    }
    if setsockopt(&socket, RcvBufForce, &buffer).is_err() {
        // Without the right to that, as near as the host allows; the kernel cuts it to its limit.
        let _ = socket.set_recv_buffer_size(buffer);
    }
    let gro = match gro {
        Wish::Off => false,
        Wish::Auto => setsockopt(&socket, UdpGroSegment, &true).is_ok(),
        Wish::On => {
            let missing = |_| OpenError::OffloadMissing("udp_gro", "this kernel has no UDP_GRO");
            setsockopt(&socket, UdpGroSegment, &true).map_err(missing)?;
            true
        }
    };
    Ok((socket, gro))
}

/// The receive sockets, and whether they have `UDP_GRO`.
///
/// The first is bound alone, so that whatever else is on the port shows as an error, and opens the
/// group to the others only then.
fn open_receive_group(config: &UnderlayConfig) -> Result<(Vec<ReceiveSocket>, bool), OpenError> {
    let mut local = SocketAddr::new(config.address, config.port);
    let count = config.workers.get() * LANES;
    let mut group: Vec<ReceiveSocket> = Vec::with_capacity(count);
    let mut all_gro = true;
    for index in 0..count {
        let (socket, gro) = open_receiver(local, config.udp_gro, config.receive_buffer)?;
        all_gro &= gro;
        if let (1, Some(first)) = (index, group.first()) {
            first.socket.set_reuse_port(true).map_err(at("SO_REUSEPORT"))?;
        }
        if index > 0 {
            socket.set_reuse_port(true).map_err(at("SO_REUSEPORT"))?;
        }
        bind(&socket, local)?;
        if config.port == 0 && index == 0 {
            let bound = socket.local_addr().map_err(at("getsockname"))?;
            local = bound.as_socket().unwrap_or(local);
        }
        group.push(ReceiveSocket { socket, local });
    }
    if let Some(first) = group.first() {
        lanes::share_out(first.as_fd(), config.address, config.workers.get())
            .map_err(at("SO_ATTACH_REUSEPORT_CBPF"))?;
    }
    Ok((group, all_gro))
}

fn bind(socket: &Socket, local: SocketAddr) -> Result<(), OpenError> {
    socket.bind(&local.into()).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => OpenError::PortTaken(local),
        io::ErrorKind::AddrNotAvailable => OpenError::AddressNotHere(local.ip()),
        _ => at("bind")(error),
    })
}

/// The send socket of `bucket` and its port.
fn open_sender(
    config: &UnderlayConfig,
    interface: &Interface,
    bucket: u16,
) -> Result<(Socket, u16), OpenError> {
    let socket = new_socket(config.address)?;
    // BPF_RET | BPF_K with zero bytes to keep: whatever comes to a source port is dropped.
    socket.attach_filter(&[SockFilter::new(0x06, 0, 0, 0)]).map_err(at("SO_ATTACH_FILTER"))?;
    match config.address {
        IpAddr::V4(address) => {
            socket.set_ttl_v4(HOPS).map_err(at("IP_TTL"))?;
            set(&socket, SocketOption::MtuDiscover4, sys::MTU_DISCOVER_PROBE)
                .map_err(at("IP_MTU_DISCOVER"))?;
            setsockopt(&socket, Ipv4RecvErr, &true).map_err(errno_at("IP_RECVERR"))?;
            socket.set_multicast_if_v4(&address).map_err(at("IP_MULTICAST_IF"))?;
            socket.set_multicast_ttl_v4(HOPS).map_err(at("IP_MULTICAST_TTL"))?;
            socket.set_multicast_loop_v4(false).map_err(at("IP_MULTICAST_LOOP"))?;
            if !config.udp_checksum {
                set(&socket, SocketOption::NoCheck, 1).map_err(at("SO_NO_CHECK"))?;
            }
        }
        IpAddr::V6(_) => {
            socket.set_unicast_hops_v6(HOPS).map_err(at("IPV6_UNICAST_HOPS"))?;
            set(&socket, SocketOption::MtuDiscover6, sys::MTU_DISCOVER_PROBE)
                .map_err(at("IPV6_MTU_DISCOVER"))?;
            setsockopt(&socket, Ipv6RecvErr, &true).map_err(errno_at("IPV6_RECVERR"))?;
            socket.set_multicast_if_v6(interface.index).map_err(at("IPV6_MULTICAST_IF"))?;
            socket.set_multicast_hops_v6(HOPS).map_err(at("IPV6_MULTICAST_HOPS"))?;
            socket.set_multicast_loop_v6(false).map_err(at("IPV6_MULTICAST_LOOP"))?;
            if !config.udp_checksum {
                set(&socket, SocketOption::NoCheck6Tx, 1).map_err(at("UDP_NO_CHECK6_TX"))?;
            }
        }
    }
    if setsockopt(&socket, SndBufForce, &config.send_buffer).is_err() {
        let _ = socket.set_send_buffer_size(config.send_buffer);
    }
    let first = SOURCE_PORT_FIRST + bucket * PORTS_PER_BUCKET;
    let last = first + (PORTS_PER_BUCKET - 1);
    for port in first..=last {
        match socket.bind(&SocketAddr::new(config.address, port).into()) {
            Ok(()) => return Ok((socket, port)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(at("bind")(error)),
        }
    }
    Err(OpenError::NoSourcePort { address: config.address, first, last })
}

/// Whether trains are wanted at all.
fn segment_wished(config: &UnderlayConfig) -> Result<bool, OpenError> {
    match (config.udp_gso, config.udp_checksum) {
        (Wish::On, false) => Err(OpenError::OffloadMissing(
            "udp_gso",
            "udp_checksum is off, and the kernel cuts no trains without checksums",
        )),
        (wish, checksum) => Ok(wish != Wish::Off && checksum),
    }
}

/// Whether the kernel knows `UDP_SEGMENT`: size zero turns nothing on.
fn probe_segment(config: &UnderlayConfig, send: &[Socket]) -> Result<bool, OpenError> {
    let known = send.iter().all(|socket| setsockopt(socket, UdpGsoSegment, &0).is_ok());
    if config.udp_gso == Wish::On && !known {
        return Err(OpenError::OffloadMissing("udp_gso", "this kernel has no UDP_SEGMENT"));
    }
    Ok(known)
}

fn set(socket: &Socket, option: SocketOption, value: i32) -> io::Result<()> {
    sys::set_option(socket.as_fd(), option, value)
}
