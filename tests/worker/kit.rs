//! Nodes without root: real workers and real underlay sockets on loopback, and socket pairs whose
//! other ends play the guests.
#![allow(dead_code, reason = "not every user of the kit needs all of it")]

use std::io::{ErrorKind, IoSlice, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use encap::{Checksum, Gso, GsoKind, MacAddr, Offload, VNET_LEN, VnetHeader, Vni, mtu};
use etherparse::{PacketBuilder, TcpHeader};
use fdb::{Dest, Fdb, Origin, PortId, SegmentId, SegmentLimits, Settings};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};
use switch::{
    PortModeSpec, PortRole, PortSpec, Reading, SegmentSpec, Topology, TopologySpec, read_port,
    read_stranger, read_vtep,
};
use tapestry::daemon::clock::Clock;
use tapestry::daemon::worker::{Handle, News, Newsroom, Order, OuterRules, Shared, UnderlayEnd};
use tapestry::io::port::{PortOffloads, PortQueue, READ_SIZE};
use tapestry::io::underlay::{UnderlayConfig, UnderlaySockets};
use tokio::sync::Notify;

pub(crate) const PORT: u16 = 4789;
pub(crate) const MTU: u16 = 1450;
/// How long anything may take that does happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Loopback addresses that no other test and no other process has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Net(u16);

impl Net {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn address(self, node: u8) -> IpAddr {
        let [.., high, low] = std::process::id().to_be_bytes();
        let host = u8::try_from(self.0 % 30).unwrap() * 8 + node;
        IpAddr::V4(Ipv4Addr::new(127, 64 + high % 128, low, host))
    }
}

/// Waits for `what` to become true.
///
/// # Panics
/// When it does not.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}

/// One node: a segment, some ports, some workers.
pub(crate) struct Node {
    pub(crate) sockets: Arc<UnderlaySockets>,
    pub(crate) topology: Arc<Topology>,
    pub(crate) fdb: Arc<Fdb>,
    pub(crate) workers: Vec<Handle>,
    pub(crate) news: Receiver<News>,
    closing: Receiver<PortQueue>,
    clock: Clock,
    spec: TopologySpec,
}

/// The sockets of `address`, for so many workers.
pub(crate) fn open(address: IpAddr, workers: usize) -> Arc<UnderlaySockets> {
    let workers = NonZeroUsize::new(workers).unwrap();
    let config = UnderlayConfig { workers, ..UnderlayConfig::new(address, PORT) };
    Arc::new(UnderlaySockets::open(&config).unwrap())
}

fn port_spec(name: &str) -> PortSpec {
    let mode = PortModeSpec::Access("blue".to_owned());
    PortSpec { name: name.to_owned(), mode, mtu: MTU, mac: None, up: true, role: PortRole::Station }
}

impl Node {
    /// A node at `net.address(local)` with `peers`, running.
    pub(crate) fn new(net: Net, local: u8, peers: &[u8], ports: &[&str], workers: usize) -> Self {
        let address = net.address(local);
        let sockets = open(address, workers);
        let segment = SegmentSpec {
            name: "blue".to_owned(),
            vni: Vni::new(100).unwrap(),
            peers: peers.iter().map(|peer| SocketAddr::new(net.address(*peer), PORT)).collect(),
            multicast: None,
            learning: true,
            flood_unknown: true,
            strict_peers: true,
            strict_header: false,
            cluster: None,
        };
        let spec = TopologySpec {
            local: address,
            overlay_mtu: MTU,
            segments: vec![segment],
            ports: ports.iter().map(|name| port_spec(name)).collect(),
            heard: Vec::new(),
        };
        let topology = Arc::new(Topology::empty(address, MTU).succeed(&spec).unwrap());
        let fdb = Arc::new(Fdb::new(Settings::default()));
        fdb.configure_segment(SegmentId(0), SegmentLimits::default());
        let (news, closing) = (crossbeam_channel::unbounded(), crossbeam_channel::unbounded());
        let clock = Clock::start();
        let shared = Shared {
            topology: Arc::clone(&topology),
            fdb: Arc::clone(&fdb),
            clock,
            newsroom: Newsroom::new(news.0, Arc::new(Notify::new())),
            closing: closing.0,
            spin: Duration::from_micros(50),
        };
        let workers =
            (0..workers as u32).map(|id| Handle::start(id, shared.clone()).unwrap()).collect();
        let node =
            Self { sockets, topology, fdb, workers, news: news.1, closing: closing.1, clock, spec };
        node.use_sockets(&node.sockets);
        node
    }

    /// Hands `sockets` to the workers.
    pub(crate) fn use_sockets(&self, sockets: &Arc<UnderlaySockets>) {
        for worker in &self.workers {
            let outer = OuterRules { dscp: None, overhead: 50, mtu_floor: 526 };
            worker.order(Order::Underlay(Box::new(UnderlayEnd {
                sockets: Arc::clone(sockets),
                groups: Vec::new(),
                takes_errors: worker.id == 0,
                outer,
            })));
        }
    }

    /// Changes the topology's specification and has the workers forward by the result.
    pub(crate) fn respecify(&mut self, change: impl FnOnce(&mut TopologySpec)) {
        change(&mut self.spec);
        self.topology = Arc::new(self.topology.succeed(&self.spec).unwrap());
        for worker in &self.workers {
            worker.order(Order::Topology(Arc::clone(&self.topology)));
        }
    }

    pub(crate) fn port(&self, name: &str) -> PortId {
        self.topology.port_named(name).unwrap().id
    }

    /// Says where a station is.
    pub(crate) fn pin(&self, station: u8, port: &str) {
        let dest = Dest::Port(self.port(port));
        let mac = MacAddr(mac(station)).station().unwrap();
        self.fdb.insert(SegmentId(0), mac, dest, Origin::Static, self.clock.tick());
    }

    /// A guest on `port`: a pair for each worker.
    pub(crate) fn attach(&self, port: &str, superframes: bool) -> Guest {
        let (guest, queues) = Guest::new(self.workers.len(), superframes);
        self.hand_over(port, queues);
        guest
    }

    pub(crate) fn hand_over(&self, port: &str, queues: Vec<PortQueue>) {
        for (worker, queue) in self.workers.iter().zip(queues) {
            worker.order(Order::Attach(self.port(port), queue));
        }
    }

    pub(crate) fn detach(&self, port: &str) {
        self.workers.iter().for_each(|worker| worker.order(Order::Detach(self.port(port))));
    }

    /// Waits until every worker has obeyed what it was told so far.
    pub(crate) fn settle(&self) {
        // The first turn may have begun before; a second one begins after its orders are obeyed.
        for _ in 0..2 {
            for worker in &self.workers {
                let before = worker.stats.turns.get();
                worker.nudge();
                until("a turn", || worker.stats.turns.get() > before);
            }
        }
    }

    pub(crate) fn read(&self, port: &str) -> Reading {
        read_port(self.workers.iter().map(|worker| &*worker.counters), self.port(port))
    }

    pub(crate) fn read_peer(&self, address: IpAddr) -> Reading {
        let vtep = self.topology.vtep_at(address).unwrap().id;
        read_vtep(self.workers.iter().map(|worker| &*worker.counters), vtep)
    }

    /// The law at every port and peer, once the workers rest.
    pub(crate) fn law(&self) {
        self.settle();
        let counters = || self.workers.iter().map(|worker| &*worker.counters);
        let ports = self.topology.ports().map(|port| read_port(counters(), port.id));
        let vteps = self.topology.vteps().map(|vtep| read_vtep(counters(), vtep.id));
        for reading in ports.chain(vteps).chain([read_stranger(counters())]) {
            assert!(reading.law_holds(), "{reading:?}");
        }
    }

    /// Queues that a worker has given away to be closed.
    pub(crate) fn closed(&self) -> usize {
        self.closing.try_iter().count()
    }

    pub(crate) fn stop(self) {
        self.workers.into_iter().for_each(Handle::stop);
    }
}

/// The other ends of a port's queues.
pub(crate) struct Guest {
    pub(crate) queues: Vec<Socket>,
    buffer: Vec<u8>,
}

impl Guest {
    /// A guest, and the port's queues that belong to it.
    pub(crate) fn new(queues: usize, superframes: bool) -> (Self, Vec<PortQueue>) {
        let offloads = Arc::new(PortOffloads::new(superframes, superframes, superframes));
        let pairs = (0..queues).map(|_| {
            let (near, far) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).unwrap();
            for end in [&near, &far] {
                // As near as the host allows.
                let _ = end.set_send_buffer_size(4 << 20);
            }
            let queue = PortQueue::adopt(near.into(), Arc::clone(&offloads)).unwrap();
            (far, queue)
        });
        let (queues, near) = pairs.unzip();
        (Self { queues, buffer: vec![0; READ_SIZE] }, near)
    }

    /// Sends a plain frame from queue 0.
    pub(crate) fn send(&self, frame: &[u8]) {
        self.send_on(0, [0; VNET_LEN], frame);
    }

    pub(crate) fn send_on(&self, queue: usize, vnet: [u8; VNET_LEN], frame: &[u8]) {
        let parts = [IoSlice::new(&vnet), IoSlice::new(frame)];
        let sent = self.queues[queue].send_vectored(&parts).unwrap();
        assert_eq!(sent, VNET_LEN + frame.len());
    }

    /// What comes next, and on which queue.
    pub(crate) fn receive(&mut self) -> (usize, [u8; VNET_LEN], Vec<u8>) {
        self.receive_within(PATIENCE).expect("nothing came")
    }

    /// The next frame's bytes.
    pub(crate) fn frame(&mut self) -> Vec<u8> {
        self.receive().2
    }

    /// What is there already.
    pub(crate) fn waiting(&mut self) -> Option<Vec<u8>> {
        self.receive_within(Duration::ZERO).map(|(.., frame)| frame)
    }

    fn receive_within(&mut self, limit: Duration) -> Option<(usize, [u8; VNET_LEN], Vec<u8>)> {
        let mut fds: Vec<_> =
            self.queues.iter().map(|queue| PollFd::new(queue.as_fd(), PollFlags::POLLIN)).collect();
        let limit = PollTimeout::try_from(limit).unwrap();
        if poll(&mut fds, limit).unwrap() == 0 {
            return None;
        }
        let ready = fds.iter().position(|fd| fd.any() == Some(true)).unwrap();
        let len = (&self.queues[ready]).read(&mut self.buffer).unwrap();
        assert!(len >= VNET_LEN, "the port was closed");
        let (vnet, frame) = self.buffer[..len].split_first_chunk().unwrap();
        Some((ready, *vnet, frame.to_vec()))
    }

    /// Fills queue 0 with `frame` until no more fits, at most `most` times. Returns how often.
    pub(crate) fn fill(&self, frame: &[u8], most: usize) -> usize {
        self.queues[0].set_nonblocking(true).unwrap();
        let bytes = [&[0; VNET_LEN][..], frame].concat();
        let full = |sent: &std::io::Result<usize>| match sent {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                false
            }
            Ok(_) => true,
        };
        let tries = std::iter::repeat_with(|| self.queues[0].send(&bytes)).take(most);
        let sent = tries.take_while(full).count();
        self.queues[0].set_nonblocking(false).unwrap();
        sent
    }
}

pub(crate) const fn mac(station: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, station]
}

/// A UDP datagram of `flow` from one station to another; `number` is in its payload.
pub(crate) fn udp(from: u8, to: u8, flow: u16, number: u32, len: usize) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(len.max(4), flow as u8);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac(from), mac(to))
        .ipv4([10, 0, 0, from], [10, 0, 0, to], 64)
        .udp(10_000 + flow, 2000)
        .write(&mut frame, &payload)
        .unwrap();
    frame
}

/// A frame as a VXLAN datagram of the nodes' segment.
pub(crate) fn encapsulated(frame: &[u8]) -> Vec<u8> {
    [&[8, 0, 0, 0, 0, 0, 100, 0], frame].concat()
}

/// Flow and number of a frame that [`udp`] made.
pub(crate) fn number_of(frame: &[u8]) -> (u16, u32) {
    let flow = u16::from_be_bytes([frame[34], frame[35]]) - 10_000;
    (flow, u32::from_be_bytes(frame[42..46].try_into().unwrap()))
}

/// A frame for everybody that says who sent it.
pub(crate) fn broadcast(from: u8, number: u8) -> Vec<u8> {
    let mut frame = [[0xff; 6], mac(from)].concat();
    frame.extend([0x88, 0xb5]);
    frame.resize(60, number);
    frame
}

/// A TCP superframe as a guest hands it over, and what it stands for.
pub(crate) struct Stream {
    pub(crate) vnet: [u8; VNET_LEN],
    pub(crate) bytes: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) segments: Vec<Vec<u8>>,
}

/// Bytes in front of a stream's payload.
pub(crate) const HEADERS: usize = 14 + 20 + 20;
const SEQUENCE: u32 = 0xffff_f000;

fn tcp(from: u8, to: u8, at: usize, id: u16, last: bool, payload: &[u8]) -> Vec<u8> {
    let mut tcp = TcpHeader::new(40_000, 5201, SEQUENCE.wrapping_add(at as u32), 65_000);
    (tcp.ack, tcp.acknowledgment_number, tcp.psh) = (true, 77, last);
    let (from, to) = (from, to);
    let mut ip =
        etherparse::Ipv4Header::new(0, 64, 6.into(), [10, 0, 0, from], [10, 0, 0, to]).unwrap();
    ip.identification = id;
    ip.dont_fragment = true;
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac(from), mac(to))
        .ip(etherparse::IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default()))
        .tcp_header(tcp)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

impl Stream {
    pub(crate) fn new(from: u8, to: u8, len: usize, size: usize) -> Self {
        let payload: Vec<u8> = (0..len).map(|i| (i * 7 + i / 251) as u8).collect();
        let last = len.div_ceil(size) - 1;
        let segment =
            |(i, part): (usize, &[u8])| tcp(from, to, i * size, 9 + i as u16, i == last, part);
        let segments: Vec<_> = payload.chunks(size).enumerate().map(segment).collect();
        let mut bytes = tcp(from, to, 0, 9, true, &payload);
        // As a guest leaves it: the folded sum of addresses, protocol and length.
        let mut sum = 2 * 0x0a00 + u32::from(from) + u32::from(to) + 6 + (len + 20) as u32;
        sum = (sum >> 16) + (sum & 0xffff);
        bytes[50..52].copy_from_slice(&((sum >> 16) + (sum & 0xffff)).to_be_bytes()[2..]);
        let gso = Gso {
            kind: GsoKind::Tcp,
            size: size as u16,
            segments: segments.len() as u16,
            header_len: HEADERS as u16,
        };
        let checksum = Checksum::Partial { start: 34, offset: 16 };
        let offload = Offload { checksum, gso: Some(gso) };
        let vnet = VnetHeader::of(&encap::Contiguous::new(&bytes, offload).frame()).encode();
        Self { vnet, bytes, payload, segments }
    }

    /// Where in the stream the payload of `frame` lies.
    pub(crate) fn place(frame: &[u8]) -> usize {
        let sequence = u32::from_be_bytes(frame[38..42].try_into().unwrap());
        sequence.wrapping_sub(SEQUENCE) as usize
    }
}

const _: () = assert!(mtu::UDP_PAYLOAD_MAX > 60_000);
