//! The underlay drivers on loopback: no root, no other host. Each test has a 127/8 address of its
//! own, or IPv6 ports of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

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
    BUCKETS, Decap, Destination, Inner, OpenError, Origin, Outcome, PeerErrorKind, Receiver,
    SendDrop, Transmit, TxBatch, UnderlayConfig, UnderlaySockets, Wish,
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
    let mut receiver = Receiver::new();
    let mut messages = Vec::new();
    loop {
        let batch = receiver.receive(sockets.receive(worker).unwrap()).unwrap();
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
    loop {
        let batch = receiver.receive(sockets.receive(0).unwrap()).unwrap();
        if batch.is_empty() {
            return collected;
        }
        let mut decap = Decap::new(Merge { tcp: true, udp: true, adopt: Some(1450) });
        for message in batch.iter() {
            decap.take(&message, Trust::Verify, &mut collected);
        }
        decap.finish(&mut collected);
    }
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

#[test]
fn equal_frames_leave_and_arrive_as_one_train() {
    for address in [local(1), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let sockets = open(UnderlayConfig::new(address, 14_001));
        assert!(sockets.offloads().udp_segment && sockets.offloads().udp_gro);
        let mut sender = Sender::new(&sockets);
        let frames: Vec<_> = (0..20).map(|i| frame(600, i)).collect();
        for bytes in &frames {
            sender.push_plain(&[to(sockets.local())], 3, bytes);
        }
        let outcomes = sender.flush();
        assert_eq!(outcomes.len(), 1, "{outcomes:?}");
        let sent = outcomes[0];
        assert_eq!((sent.units, sent.frames, sent.bytes), (20, 20, 12_000));
        assert_eq!((sent.to, sent.tag, sent.result), (sockets.local(), 14_001, Ok(())));
        let messages = receive_all(&sockets, 0);
        assert_eq!(sockets.drops(), 0);
        assert_eq!(messages.len(), 1);
        assert_eq!(messages[0].1, Some(608));
        let expected: Vec<u8> = frames.iter().flat_map(|bytes| encapsulated(bytes)).collect();
        assert_eq!(messages[0].0, expected);
    }
}

#[test]
fn a_train_is_taken_apart_into_its_frames() {
    let sockets = open(UnderlayConfig::new(local(2), PORT));
    let mut sender = Sender::new(&sockets);
    let frames: Vec<_> =
        [300, 300, 300, 60].iter().zip(1..).map(|(len, i)| frame(*len, i)).collect();
    for bytes in &frames {
        sender.push_plain(&[to(sockets.local())], 5, bytes);
    }
    sender.flush();
    let raw = UdpSocket::bind((local(2), 0)).unwrap();
    raw.send_to(&[8, 0, 0], sockets.local()).unwrap();
    raw.send_to(&[], sockets.local()).unwrap();
    let collected = decap_all(&sockets);
    let bytes: Vec<_> = collected.frames.iter().map(|(_, bytes)| bytes.clone()).collect();
    assert_eq!(bytes, frames);
    let peer = SocketAddr::new(local(2), sockets.source_ports()[5]);
    for (origin, _) in &collected.frames {
        assert_eq!(origin.peer, peer);
        assert_eq!(
            origin.header,
            vxlan::Header { vni: Vni::new(100).unwrap(), reserved_bits_set: false }
        );
    }
    let from = raw.local_addr().unwrap();
    let errors = [3, 0].map(|len| (from, DecapError::Truncated { len }));
    assert_eq!(collected.malformed, errors);
}

#[test]
fn a_run_ends_with_a_shorter_or_longer_frame_and_at_its_limits() {
    let sockets = open(UnderlayConfig::new(local(3), PORT));
    let shapes = |lens: &[usize]| {
        let mut sender = Sender::new(&sockets);
        for (len, fill) in lens.iter().zip(0..) {
            sender.push_plain(&[to(sockets.local())], 0, &frame(*len, fill));
        }
        sender.flush();
        let messages = receive_all(&sockets, 0);
        let expected: Vec<u8> =
            lens.iter().zip(0..).flat_map(|(len, fill)| encapsulated(&frame(*len, fill))).collect();
        let bytes: Vec<u8> = messages.iter().flat_map(|message| message.0.clone()).collect();
        assert!(bytes == expected, "bytes or order of {lens:?}");
        let shape = |(bytes, size, _): &Message| {
            (size.map_or(0, |size| usize::from(size) - 8), bytes.len())
        };
        messages.iter().map(shape).collect::<Vec<_>>()
    };
    assert_eq!(shapes(&[100]), [(0, 108)]);
    assert_eq!(shapes(&[100, 100, 100, 60, 100]), [(100, 3 * 108 + 68), (0, 108)]);
    assert_eq!(shapes(&[100, 200, 200]), [(0, 108), (200, 2 * 208)]);
    assert_eq!(shapes(&[60; 66]), [(60, 64 * 68), (60, 2 * 68)]);
    assert_eq!(shapes(&[9000; 8]), [(9000, 7 * 9008), (0, 9008)]);
}

#[test]
fn flows_of_one_bucket_keep_their_order_and_trains_only_hold_one_tos() {
    let sockets = open(UnderlayConfig::new(local(4), PORT));
    let mut sender = Sender::new(&sockets);
    let stream = Stream::new(3000, 1000);
    let here = [to(sockets.local())];
    sender.push_plain(&here, 7, &frame(100, 1));
    sender.push(&here, 7, 3, encap::Contiguous::new(&frame(100, 2), Offload::default()).frame());
    sender.push_plain(&here, 7, &frame(100, 3));
    stream.push(&mut sender, &here, 7);
    sender.push_plain(&here, 7, &frame(100, 4));
    sender.flush();
    let messages = receive_all(&sockets, 0);
    let first: Vec<_> = messages.iter().map(|(bytes, ..)| bytes[8 + 14]).collect();
    assert_eq!(first, [1, 2, 3, 0x45, 4]);
    let tos: Vec<_> = messages.iter().map(|message| message.2).collect();
    assert_eq!(tos, [0, 3, 0, 0, 0]);
}

#[test]
fn a_superframe_arrives_as_the_segments_of_a_naive_cut() {
    let sockets = open(UnderlayConfig::new(local(5), PORT));
    let peer = plain_receiver(SocketAddr::new(local(105), PORT));
    let mut sender = Sender::new(&sockets);
    let stream = Stream::new(65_000, 1398);
    assert_eq!(stream.segments.len(), 47);
    stream.push(&mut sender, &[to(peer.local_addr().unwrap())], 9);
    let outcomes = sender.flush();
    let totals: Vec<_> =
        outcomes.iter().map(|sent| (sent.units, sent.frames, sent.result)).collect();
    assert_eq!(totals, [(1, 24, Ok(())), (0, 23, Ok(()))]);
    let on_the_wire: usize = stream.segments.iter().map(Vec::len).sum();
    assert_eq!(outcomes.iter().map(|sent| sent.bytes).sum::<u64>(), on_the_wire as u64);
    for segment in &stream.segments {
        let (bytes, from) = receive_one(&peer);
        assert!(bytes == encapsulated(segment));
        assert_eq!(from.port(), sockets.source_ports()[9]);
    }
    nothing_left(&peer);
}

#[test]
fn a_superframe_is_cut_smaller_for_a_smaller_path_and_a_frame_is_refused() {
    let sockets = open(UnderlayConfig::new(local(6), PORT));
    let peer = plain_receiver(SocketAddr::new(local(106), PORT));
    let mut sender = Sender::new(&sockets);
    let narrow = Destination { path_mtu: 1280, ..to(peer.local_addr().unwrap()) };
    Stream::new(5000, 1398).push(&mut sender, &[narrow], 0);
    sender.push_plain(&[narrow], 0, &frame(1280 - 36 + 1, 1));
    sender.push_plain(&[narrow], 0, &frame(1280 - 36, 2));
    let outcomes = sender.flush();
    let refused: Vec<_> = outcomes.iter().filter(|outcome| outcome.result.is_err()).collect();
    assert_eq!(refused.len(), 1);
    assert_eq!((refused[0].result, refused[0].frames), (Err(SendDrop::TooBig), 1));
    // 1280 less 20 + 8 + 8 + 14 outside and 40 inside.
    for segment in &Stream::new(5000, 1190).segments {
        assert!(receive_one(&peer).0 == encapsulated(segment));
    }
    assert!(receive_one(&peer).0 == encapsulated(&frame(1244, 2)));
    nothing_left(&peer);
}

#[test]
fn an_unfinished_checksum_is_finished_before_a_frame_leaves() {
    let sockets = open(UnderlayConfig::new(local(7), PORT));
    let peer = plain_receiver(SocketAddr::new(local(107), PORT));
    let mut sender = Sender::new(&sockets);
    let stream = Stream::new(400, 1000);
    let offload = Offload { gso: None, ..stream.offload() };
    let whole = encap::Contiguous::new(&stream.bytes, offload);
    sender.push(&[to(peer.local_addr().unwrap())], 0, 0, whole.frame());
    sender.flush();
    assert_eq!(receive_one(&peer).0, encapsulated(&stream.segments[0]));
}

#[test]
fn without_checksums_everything_goes_one_by_one() {
    for address in [local(8), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let config = UnderlayConfig { udp_checksum: false, ..UnderlayConfig::new(address, 14_008) };
        let demanded = UnderlayConfig { udp_gso: Wish::On, ..config };
        let error = UnderlaySockets::open(&demanded).unwrap_err();
        assert!(matches!(error, OpenError::OffloadMissing("udp_gso", _)), "{error}");
        let sockets = open(config);
        assert!(!sockets.offloads().udp_segment);
        let mut sender = Sender::new(&sockets);
        let stream = Stream::new(60_000, 1000);
        let here = [to(sockets.local())];
        (0..40).for_each(|i| sender.push_plain(&here, 1, &frame(90, i)));
        stream.push(&mut sender, &here, 1);
        let outcomes = sender.flush();
        let units: u32 = outcomes.iter().map(|outcome| outcome.units).sum();
        let frames: u32 = outcomes.iter().map(|outcome| outcome.frames).sum();
        assert_eq!((units, frames), (41, 100));
        assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()));
        let messages = receive_all(&sockets, 0);
        assert!(messages.iter().all(|message| message.1.is_none()));
        let expected = (0..40).map(|i| frame(90, i)).chain(stream.segments);
        let expected: Vec<_> = expected.map(|bytes| encapsulated(&bytes)).collect();
        assert!(messages.into_iter().map(|message| message.0).collect::<Vec<_>>() == expected);
    }
}

#[test]
fn a_revoked_peer_gets_single_datagrams_and_the_others_trains() {
    let sockets = open(UnderlayConfig::new(local(9), PORT));
    let other = open(UnderlayConfig::new(local(109), PORT));
    assert!(sockets.offloads().revoke_segment(other.local().ip()));
    let mut sender = Sender::new(&sockets);
    let both = [to(sockets.local()), to(other.local())];
    (0..10).for_each(|i| sender.push_plain(&both, 1, &frame(90, i)));
    assert!(sender.flush().iter().all(|outcome| outcome.result.is_ok() && outcome.frames == 10));
    assert_eq!(receive_all(&sockets, 0).len(), 1);
    assert_eq!(receive_all(&other, 0).len(), 10);
    sockets.offloads().restore_segment();
    (0..10).for_each(|i| sender.push_plain(&both, 1, &frame(90, i)));
    sender.flush();
    assert_eq!(receive_all(&other, 0).len(), 1);
}

#[test]
fn a_train_that_the_kernel_refuses_goes_one_by_one_and_is_not_tried_again() {
    let sockets = open(UnderlayConfig::new(local(19), PORT));
    // What a device or a transformation on the route may do: here, a socket without checksums.
    for fd in sockets.senders() {
        sys::set_option(fd, sys::SocketOption::NoCheck, 1).unwrap();
    }
    let mut sender = Sender::new(&sockets);
    let here = [to(sockets.local())];
    let stream = Stream::new(4500, 1000);
    (0..3).for_each(|i| sender.push_plain(&here, 1, &frame(90, i)));
    stream.push(&mut sender, &here, 1);
    let outcomes = sender.flush();
    let counts: Vec<_> =
        outcomes.iter().map(|sent| (sent.units, sent.frames, sent.result)).collect();
    assert_eq!(counts, [(3, 3, Ok(())), (1, 5, Ok(()))]);
    assert_eq!(sockets.offloads().revoked(), [local(19)]);
    let messages = receive_all(&sockets, 0);
    let expected = (0..3).map(|i| frame(90, i)).chain(stream.segments);
    let expected: Vec<_> = expected.map(|bytes| encapsulated(&bytes)).collect();
    assert!(messages.into_iter().map(|message| message.0).collect::<Vec<_>>() == expected);
    // Where nothing goes at all it is not the offload's fault.
    let denied = to("255.255.255.255:4789".parse().unwrap());
    Stream::new(4500, 1000).push(&mut sender, &[denied], 1);
    assert!(sender.flush().iter().all(|outcome| outcome.result.is_err()));
    assert_eq!(sockets.offloads().revoked(), [local(19)]);
}

#[test]
fn a_second_daemon_and_another_program_are_refused_by_name() {
    let config = UnderlayConfig::new(local(10), PORT);
    let first = open(config);
    let error = UnderlaySockets::open(&config).unwrap_err();
    assert!(matches!(error, OpenError::Lock(_)), "{error}");
    assert!(error.to_string().contains("127.83.0.10:4789"), "{error}");
    drop(first);
    let squatter = UdpSocket::bind((local(10), PORT)).unwrap();
    let error = UnderlaySockets::open(&config).unwrap_err();
    assert!(matches!(error, OpenError::PortTaken(_)), "{error}");
    assert!(error.to_string().contains("UDP port 4789 of 127.83.0.10"), "{error}");
    drop(squatter);
    let squatter = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    squatter.set_reuse_port(true).unwrap();
    squatter.bind(&SocketAddr::new(local(10), PORT).into()).unwrap();
    let two = UnderlayConfig { workers: NonZeroUsize::new(2).unwrap(), ..config };
    let error = UnderlaySockets::open(&two).unwrap_err();
    assert!(matches!(error, OpenError::PortTaken(_)), "a group is not joined: {error}");
    drop(squatter);
    open(two);
    let foreign = UnderlayConfig::new("192.0.2.200".parse().unwrap(), PORT);
    assert!(matches!(UnderlaySockets::open(&foreign), Err(OpenError::AddressNotHere(_))));
    let any = UnderlayConfig::new(Ipv4Addr::UNSPECIFIED.into(), PORT);
    assert!(matches!(UnderlaySockets::open(&any), Err(OpenError::AddressUnfit(_))));
}

#[test]
fn each_bucket_has_a_source_port_in_its_own_part_of_the_range() {
    let taken = UdpSocket::bind((local(11), 49_152)).unwrap();
    let sockets = open(UnderlayConfig::new(local(11), PORT));
    for (bucket, port) in sockets.source_ports().iter().enumerate() {
        let first = 49_152 + bucket as u32 * 1024;
        assert!((first..first + 1024).contains(&u32::from(*port)), "{bucket}: {port}");
    }
    assert_eq!(sockets.source_ports()[0], 49_153);
    drop(taken);
    let mut sender = Sender::new(&sockets);
    let peer = plain_receiver(SocketAddr::new(local(111), PORT));
    for bucket in 0..BUCKETS {
        sender.push_plain(&[to(peer.local_addr().unwrap())], bucket, &frame(60, bucket as u8));
    }
    sender.flush();
    for _ in 0..BUCKETS {
        let (bytes, from) = receive_one(&peer);
        assert_eq!(from.port(), sockets.source_ports()[usize::from(bytes[8 + 14])]);
    }
    // What is sent to a source port is not taken in.
    peer.send_to(&[1; 100], (local(11), sockets.source_ports()[4])).unwrap();
    let fd = sockets.senders().nth(4).unwrap();
    let mut byte = [std::mem::MaybeUninit::uninit(); 1];
    assert!(socket2::SockRef::from(&fd).recv(&mut byte).is_err());
}

#[test]
fn workers_share_what_arrives_by_source_port() {
    let workers = NonZeroUsize::new(2).unwrap();
    let sockets = open(UnderlayConfig { workers, ..UnderlayConfig::new(local(12), PORT) });
    let mut sender = Sender::new(&sockets);
    for round in 0..4 {
        for bucket in 0..BUCKETS {
            sender.push_plain(&[to(sockets.local())], bucket, &frame(60 + round, bucket as u8));
        }
        sender.flush();
    }
    let [one, two] = [0, 1].map(|worker| receive_all(&sockets, worker));
    assert_eq!(one.len() + two.len(), 4 * BUCKETS);
    let buckets = |messages: &[Message]| {
        messages.iter().map(|message| message.0[8 + 14]).collect::<std::collections::BTreeSet<_>>()
    };
    assert!(buckets(&one).is_disjoint(&buckets(&two)), "a source port stays with its worker");
    assert!(sockets.receive(2).is_none());
}

#[test]
fn an_error_belongs_to_the_peer_it_quotes_and_costs_the_others_nothing() {
    for address in [local(13), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let sockets = open(UnderlayConfig::new(address, 14_013));
        let healthy = plain_receiver(SocketAddr::new(address, 14_113));
        let dead = SocketAddr::new(address, 14_213);
        let mut sender = Sender::new(&sockets);
        for i in 0..50 {
            sender.push_plain(&[to(dead), to(healthy.local_addr().unwrap())], 2, &frame(60, i));
            let outcomes = sender.flush();
            let good = outcomes.iter().find(|outcome| outcome.to != dead).unwrap();
            assert_eq!(good.result, Ok(()));
        }
        for i in 0..50 {
            assert!(receive_one(&healthy).0 == encapsulated(&frame(60, i)));
        }
        assert!(sender.batch.retries() > 0, "the dead peer's errors met the healthy one's sends");
        let mut errors = Vec::new();
        let fd = sockets.senders().nth(2).unwrap();
        while errqueue::drain(fd, |error| errors.push(error)) > 0 {}
        assert!(!errors.is_empty());
        for error in errors {
            assert_eq!(
                (error.peer, error.kind, error.local),
                (dead, PeerErrorKind::Refused, false)
            );
        }
    }
}

#[test]
fn a_peer_that_cannot_be_sent_to_does_not_stop_the_rest_of_a_flood() {
    let sockets = open(UnderlayConfig::new(local(14), PORT));
    let good: Vec<_> =
        (0..3).map(|i| plain_receiver(SocketAddr::new(local(114), 5000 + i))).collect();
    let mut all: Vec<_> = good.iter().map(|socket| to(socket.local_addr().unwrap())).collect();
    // Another family; a broadcast address, for which no right was asked.
    let bad = ["[2001:db8::1]:4789", "255.255.255.255:4789"].map(|text| text.parse().unwrap());
    all.insert(0, to(bad[0]));
    all.insert(2, to(bad[1]));
    let mut sender = Sender::new(&sockets);
    let stream = Stream::new(4000, 1000);
    (0..5).for_each(|i| sender.push_plain(&all, 0, &frame(80, i)));
    stream.push(&mut sender, &all, 0);
    let outcomes = sender.flush();
    for to in &all {
        let of_peer: Vec<_> = outcomes.iter().filter(|outcome| outcome.to == to.address).collect();
        let units: u32 = of_peer.iter().map(|outcome| outcome.units).sum();
        let frames: u32 = of_peer.iter().map(|outcome| outcome.frames).sum();
        assert_eq!((units, frames), (6, 9), "{of_peer:?}");
        let failed = bad.contains(&to.address);
        assert!(of_peer.iter().all(|outcome| outcome.result.is_err() == failed), "{of_peer:?}");
    }
    let denied = outcomes.iter().find(|outcome| outcome.to == bad[1]).unwrap();
    assert_eq!(denied.result, Err(SendDrop::Denied));
    assert!(sockets.offloads().revoked().is_empty());
    for socket in &good {
        for i in 0..5 {
            assert!(receive_one(socket).0 == encapsulated(&frame(80, i)));
        }
        for segment in &stream.segments {
            assert!(receive_one(socket).0 == encapsulated(segment));
        }
        nothing_left(socket);
    }
}

#[test]
fn a_frame_reaches_more_peers_than_can_wait_at_once() {
    let sockets = open(UnderlayConfig::new(local(15), PORT));
    let peers: Vec<_> =
        (0..300).map(|i| plain_receiver(SocketAddr::new(local(115), 6000 + i))).collect();
    let all: Vec<_> = peers.iter().map(|socket| to(socket.local_addr().unwrap())).collect();
    let mut sender = Sender::new(&sockets);
    (0..3).for_each(|i| sender.push_plain(&all, 4, &frame(700, i)));
    let outcomes = sender.flush();
    assert_eq!(outcomes.iter().map(|outcome| outcome.frames).sum::<u32>(), 900);
    for socket in &peers {
        (0..3).for_each(|i| assert!(receive_one(socket).0 == encapsulated(&frame(700, i))));
        nothing_left(socket);
    }
}

#[test]
fn more_than_the_arena_holds_is_sent_on_the_way() {
    let sockets = open(UnderlayConfig::new(local(16), PORT));
    let here = [to(sockets.local())];
    let mut sender = Sender::new(&sockets);
    for round in 0..20 {
        sender.push_plain(&here, round, &frame(9000, round as u8));
    }
    let on_the_way = sender.outcomes.len();
    assert!(on_the_way > 0, "20 frames of 9000 bytes cannot all wait");
    assert_eq!(sender.flush().len(), 20);
    let mut seen: Vec<_> = receive_all(&sockets, 0).into_iter().map(|part| part.0).collect();
    seen.sort();
    let expected: Vec<_> = (0..20).map(|i| encapsulated(&frame(9000, i))).collect();
    assert!(seen == expected);
    sender.push_plain(&here, 0, &frame(65_500, 1));
    assert_eq!(sender.flush()[0].result, Err(SendDrop::TooBig));
}

#[test]
fn dscp_and_ecn_arrive_as_they_were_sent() {
    for address in [local(17), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let sockets = open(UnderlayConfig::new(address, 14_017));
        let mut sender = Sender::new(&sockets);
        for tos in [0, 1, 2, 3, 0xb8, 0xbb] {
            let bytes = frame(100, tos);
            let plain = encap::Contiguous::new(&bytes, Offload::default());
            sender.push(&[to(sockets.local())], 1, tos, plain.frame());
            sender.push(&[to(sockets.local())], 1, tos, plain.frame());
        }
        sender.flush();
        let messages = receive_all(&sockets, 0);
        let tos: Vec<_> = messages.iter().map(|message| message.2).collect();
        assert_eq!(tos, [0, 1, 2, 3, 0xb8, 0xbb]);
        assert!(messages.iter().all(|(bytes, _, tos)| bytes[8 + 14] == *tos));
        assert!(messages.iter().all(|message| message.1 == Some(108)));
    }
}

#[test]
fn what_a_full_receive_buffer_costs_is_told() {
    let sockets = open(UnderlayConfig::new(local(18), PORT));
    let mut sender = Sender::new(&sockets);
    let here = [to(sockets.local())];
    let buffer = sockets.offloads().receive_buffer;
    assert!(buffer > 0 && sockets.offloads().send_buffer > 0);
    let count = (2 * buffer / 60_000 + 50) as u32;
    let mut sent = 0;
    for _ in 0..count {
        sender.push_plain(&here, 0, &frame(60_000, 1));
        sent += sender.flush().iter().filter(|outcome| outcome.result.is_ok()).count();
    }
    let messages = receive_all(&sockets, 0);
    assert!(messages.len() < sent, "the buffer of {buffer} bytes did not fill");
    let lost = u64::try_from(sent - messages.len()).unwrap();
    assert_eq!(sockets.drops(), lost);
    // What comes afterwards is received as ever, and costs nothing more.
    sender.push_plain(&here, 0, &frame(100, 1));
    sender.flush();
    assert_eq!(receive_all(&sockets, 0).len(), 1);
    assert_eq!(sockets.drops(), lost);
}

/// Runs `test` on a thread in a network namespace of its own, where loopback has an MTU of 1500
/// and multicast. Without the right to make one the test says so and is skipped.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        if let Err(error) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET) {
            eprintln!("SKIPPED: no network namespace: {error}");
            return;
        }
        let up = ["link", "set", "lo", "up", "multicast", "on", "mtu", "1500"];
        let status = std::process::Command::new("ip").args(up).status();
        if !status.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: `ip` cannot set loopback up");
            return;
        }
        test();
    });
    thread.join().unwrap();
}

#[test]
fn a_path_shorter_than_believed_is_no_lost_offload() {
    in_namespace(|| {
        let sockets = open(UnderlayConfig::new(Ipv4Addr::LOCALHOST.into(), PORT));
        assert_eq!(sockets.interface().mtu, 1500);
        let mut sender = Sender::new(&sockets);
        let here = [to(sockets.local())];
        (0..3).for_each(|i| sender.push_plain(&here, 0, &frame(2000, i)));
        sender.push_plain(&here, 0, &frame(4000, 3));
        let stream = Stream::new(10_000, 1460);
        stream.push(&mut sender, &here, 0);
        (0..3).for_each(|i| sender.push_plain(&here, 0, &frame(1000, i)));
        let outcomes = sender.flush();
        let results: Vec<_> =
            outcomes.iter().map(|outcome| (outcome.frames, outcome.result)).collect();
        let too_big = Err(SendDrop::TooBig);
        assert_eq!(results, [(3, too_big), (1, too_big), (7, too_big), (3, Ok(()))]);
        assert!(sockets.offloads().revoked().is_empty());
        let mut told = Vec::new();
        errqueue::drain(sockets.senders().next().unwrap(), |error| told.push(error));
        assert!(!told.is_empty());
        for error in told {
            assert_eq!((error.peer.ip(), error.local), (sockets.local().ip(), true));
            assert_eq!(error.kind, PeerErrorKind::MessageTooBig { mtu: 1500 });
        }
        let messages = receive_all(&sockets, 0);
        assert_eq!(messages.len(), 1);
        assert_eq!(messages[0].1, Some(1008));
        // With the path's true MTU the superframe is cut to fit.
        stream.push(&mut sender, &[Destination { path_mtu: 1500, ..here[0] }], 0);
        assert!(sender.flush().iter().all(|outcome| outcome.result.is_ok()));
        let bytes: Vec<u8> = receive_all(&sockets, 0).into_iter().flat_map(|part| part.0).collect();
        let expected = Stream::new(10_000, 1410).segments;
        assert!(bytes == expected.iter().flat_map(|part| encapsulated(part)).collect::<Vec<_>>());
    });
}

#[test]
fn a_multicast_group_is_received_by_the_one_socket_that_joined() {
    in_namespace(|| {
        let workers = NonZeroUsize::new(2).unwrap();
        let config = UnderlayConfig::new(Ipv4Addr::LOCALHOST.into(), PORT);
        let sockets = open(UnderlayConfig { workers, ..config });
        let group: IpAddr = "239.1.1.100".parse().unwrap();
        assert!(matches!(sockets.join(local(1)), Err(OpenError::NoGroup(_))));
        assert!(matches!(sockets.join("ff02::1".parse().unwrap()), Err(OpenError::NoGroup(_))));
        let joined = sockets.join(group).unwrap();
        assert_eq!(joined.local(), SocketAddr::new(group, PORT));
        let mut sender = Sender::new(&sockets);
        (0..5).for_each(|i| sender.push_plain(&[to(joined.local())], i, &frame(100, i as u8)));
        assert!(sender.flush().iter().all(|outcome| outcome.result.is_ok()));
        let mut receiver = Receiver::new();
        let batch = receiver.receive(&joined).unwrap();
        assert_eq!(batch.len(), 5);
        assert_eq!(receive_all(&sockets, 0).len() + receive_all(&sockets, 1).len(), 0);
    });
}
