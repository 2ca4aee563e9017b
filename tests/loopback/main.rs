//! The underlay drivers on loopback: no root, no other host. Each test has a 127/8 address of its
//! own, or IPv6 ports of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod sockets;
mod trains;

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use encap::vxlan::{self, DecapError};
use encap::{Checksum, Frame, Gso, GsoKind, Merge, Offload, Trust, Vni};
use etherparse::{PacketBuilder, TcpHeader};
use tapestry::io::sys;
use tapestry::io::underlay::errqueue;
use tapestry::io::underlay::{
    BUCKETS, Decap, Destination, Inner, LANES, OpenError, Origin, Outcome, PeerErrorKind,
    ReceiveSocket, Receiver, SendDrop, Transmit, TxBatch, UnderlayConfig, UnderlaySockets, Wish,
};

const PORT: u16 = 4789;
const HEADER: [u8; 8] = [0x08, 0, 0, 0, 0, 0, 100, 0];

fn local(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 83, 0, last))
}

fn open(config: UnderlayConfig) -> Arc<UnderlaySockets> {
    Arc::new(UnderlaySockets::open(&config).unwrap())
}

/// A frame that no layer above Ethernet understands, filled so that it is told from others.
fn frame(len: usize, fill: u8) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
    bytes.resize(len, fill);
    bytes
}

fn to(address: SocketAddr) -> Destination {
    Destination { address, path_mtu: u16::MAX, tag: u32::from(address.port()) }
}

struct Sender {
    batch: TxBatch,
    outcomes: Vec<Outcome>,
}

impl Sender {
    fn new(sockets: &Arc<UnderlaySockets>) -> Self {
        Self { batch: TxBatch::new(Arc::clone(sockets)), outcomes: Vec::new() }
    }

    fn push(&mut self, to: &[Destination], bucket: usize, tos: u8, frame: Frame<'_>) {
        let transmit = Transmit { to, bucket, tos, header: HEADER, frame };
        self.batch.push(&transmit, &mut |outcome| self.outcomes.push(outcome));
    }

    fn push_plain(&mut self, to: &[Destination], bucket: usize, bytes: &[u8]) {
        self.push(to, bucket, 0, encap::Contiguous::new(bytes, Offload::default()).frame());
    }

    fn flush(&mut self) -> Vec<Outcome> {
        self.batch.flush(&mut |outcome| self.outcomes.push(outcome));
        std::mem::take(&mut self.outcomes)
    }
}

/// A received message: bytes, segment size, tos.
type Message = (Vec<u8>, Option<u16>, u8);

/// Everything that can be received.
fn receive_all(sockets: &UnderlaySockets, worker: usize) -> Vec<Message> {
    sockets.receive(worker).iter().flat_map(receive_from).collect()
}

/// Everything that can be received from one socket.
fn receive_from(socket: &ReceiveSocket) -> Vec<Message> {
    let mut receiver = Receiver::new();
    let mut messages = Vec::new();
    loop {
        let batch = receiver.receive(socket, sys::RECEIVE_BATCH).unwrap();
        if batch.is_empty() {
            return messages;
        }
        for message in batch.iter() {
            assert!(!message.truncated);
            messages.push((message.bytes.to_vec(), message.segment_size, message.tos));
        }
    }
}

/// A socket that knows nothing of trains.
fn plain_receiver(address: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

fn receive_one(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (len, from) = socket.recv_from(&mut buffer).unwrap();
    buffer.truncate(len);
    (buffer, from)
}

fn nothing_left(socket: &UdpSocket) {
    socket.set_nonblocking(true).unwrap();
    assert_eq!(socket.recv(&mut [0; 16]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    socket.set_nonblocking(false).unwrap();
}

fn encapsulated(frame: &[u8]) -> Vec<u8> {
    [&HEADER[..], frame].concat()
}

#[derive(Default)]
struct Collected {
    frames: Vec<(Origin, Vec<u8>)>,
    malformed: Vec<(SocketAddr, DecapError)>,
}

impl Inner for Collected {
    fn frame(&mut self, origin: &Origin, frame: Frame<'_>) {
        let mut bytes = frame.head.to_vec();
        frame.body.iter().for_each(|slice| bytes.extend_from_slice(slice));
        self.frames.push((*origin, bytes));
    }

    fn malformed(&mut self, peer: SocketAddr, error: DecapError) {
        self.malformed.push((peer, error));
    }
}

fn decap_all(sockets: &UnderlaySockets) -> Collected {
    let mut collected = Collected::default();
    let mut receiver = Receiver::new();
    for socket in sockets.receive(0) {
        loop {
            let batch = receiver.receive(socket, sys::RECEIVE_BATCH).unwrap();
            if batch.is_empty() {
                break;
            }
            let mut decap = Decap::new(Merge { tcp: true, udp: true, adopt: Some(1450) });
            for message in batch.iter() {
                decap.take(&message, Trust::Verify, &mut collected);
            }
            decap.finish(&mut collected);
        }
    }
    collected
}

/// What a TCP superframe is and what it must become: each segment built from scratch.
struct Stream {
    bytes: Vec<u8>,
    header_len: usize,
    size: usize,
    segments: Vec<Vec<u8>>,
}

fn tcp_packet(payload: &[u8], sequence: u32, id: u16, last: bool) -> Vec<u8> {
    let mut tcp = TcpHeader::new(40_000, 5201, sequence, 65_000);
    (tcp.ack, tcp.acknowledgment_number, tcp.psh) = (true, 77, last);
    let mut ip =
        etherparse::Ipv4Header::new(0, 64, 6.into(), [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
    ip.identification = id;
    ip.dont_fragment = true;
    let mut packet = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ip(etherparse::IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default()))
        .tcp_header(tcp)
        .write(&mut packet, payload)
        .unwrap();
    packet
}

impl Stream {
    fn new(len: usize, size: usize) -> Self {
        let payload: Vec<u8> = (0..len).map(|i| (i * 7 + i / 251) as u8).collect();
        let last = len.div_ceil(size) - 1;
        let segments = payload.chunks(size).enumerate();
        let segments = segments
            .map(|(i, part)| tcp_packet(part, 1000 + (i * size) as u32, 9 + i as u16, i == last))
            .collect();
        let mut bytes = tcp_packet(&payload, 1000, 9, true);
        // As a guest leaves it: the folded pseudo-header sum in the checksum's place.
        let tcp_len = (len + 20) as u32;
        let mut sum = (u32::from_be_bytes([0, 0, 10, 0]) + 1) * 2 + 1 + 6;
        sum += (tcp_len >> 16) + (tcp_len & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        bytes[50..52].copy_from_slice(&((sum >> 16) + (sum & 0xffff)).to_be_bytes()[2..]);
        Self { bytes, header_len: 54, size, segments }
    }

    fn offload(&self) -> Offload {
        Offload {
            checksum: Checksum::Partial { start: 34, offset: 16 },
            gso: Some(Gso {
                kind: GsoKind::Tcp,
                size: self.size as u16,
                segments: self.segments.len() as u16,
                header_len: self.header_len as u16,
            }),
        }
    }

    fn push(&self, sender: &mut Sender, to: &[Destination], bucket: usize) {
        let (head, payload) = self.bytes.split_at(self.header_len);
        // In two pieces, so that segments cross their border.
        let (first, second) = payload.split_at(payload.len() / 3);
        let body = [IoSlice::new(first), IoSlice::new(second)];
        sender.push(to, bucket, 0, Frame { head, body: &body, offload: self.offload() });
    }
}
