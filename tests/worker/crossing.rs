//! What crosses from guest to guest over two nodes and more, and what is counted on the way.

use std::collections::BTreeMap;

use encap::VnetHeader;
use switch::DropReason;

use crate::kit::{
    Guest, HEADERS, Net, Node, Stream, broadcast, encapsulated, number_of, udp, until,
};

/// Two nodes that are each other's peers, one guest each.
fn two(superframes: bool) -> (Net, [Node; 2], [Guest; 2]) {
    let net = Net::new();
    let nodes = [Node::new(net, 1, &[2], &["a"], 1), Node::new(net, 2, &[1], &["b"], 1)];
    let guests = [nodes[0].attach("a", superframes), nodes[1].attach("b", superframes)];
    nodes.iter().for_each(Node::settle);
    (net, nodes, guests)
}

#[test]
fn a_frame_crosses_both_ways_and_counts_the_same_everywhere() {
    let (net, nodes, [mut one, mut other]) = two(true);
    let mut bytes = [0; 2];
    for number in 0..50 {
        let (there, back) = (udp(1, 2, 0, number, 200), udp(2, 1, 0, number, 900));
        one.send(&there);
        assert_eq!(other.frame(), there);
        other.send(&back);
        assert_eq!(one.frame(), back);
        bytes[0] += there.len() as u64;
        bytes[1] += back.len() as u64;
    }
    nodes.iter().for_each(Node::law);
    for (here, there, port, peer) in [(0, 1, "a", 2), (1, 0, "b", 1)] {
        let (local, remote) = (nodes[here].read(port), nodes[here].read_peer(net.address(peer)));
        assert_eq!((local.rx.frames, local.rx.bytes, local.forwarded), (50, bytes[here], 50));
        assert_eq!((local.tx.frames, local.tx.bytes), (50, bytes[there]));
        assert_eq!((remote.tx.frames, remote.tx.bytes), (50, bytes[here]));
        assert_eq!((remote.rx.frames, remote.rx.bytes), (50, bytes[there]));
        assert_eq!((local.tx_dropped_total(), remote.tx_dropped_total()), (0, 0));
    }
    nodes.into_iter().for_each(Node::stop);
}

#[test]
fn a_tcp_superframe_arrives_in_superframes_with_the_same_bytes() {
    let (_, nodes, [one, mut other]) = two(true);
    let stream = Stream::new(1, 2, 50_000, 1398);
    one.send_on(0, stream.vnet, &stream.bytes);
    let (mut got, mut units) = (Vec::new(), 0);
    while got.len() < stream.payload.len() {
        let (_, vnet, frame) = other.receive();
        assert_eq!(Stream::place(&frame), got.len());
        let header = VnetHeader::decode(&vnet);
        if frame.len() > HEADERS + 1398 {
            assert_eq!((header.gso_type & 0x7f, header.gso_size), (1, 1398));
        }
        got.extend_from_slice(&frame[HEADERS..]);
        units += 1;
    }
    assert!(got == stream.payload);
    // A train holds at most 65,527 bytes and may be received in several messages.
    assert!(units * 4 <= stream.segments.len(), "{units} units");
    nodes.iter().for_each(Node::law);
    let reading = nodes[0].read("a");
    assert_eq!((reading.rx.frames, reading.rx.superframes), (stream.segments.len() as u64, 1));
    assert_eq!(nodes[1].read("b").tx.frames, stream.segments.len() as u64);
    nodes.into_iter().for_each(Node::stop);
}

#[test]
fn a_port_without_offloads_gets_the_segments_as_their_sender_would_have_made_them() {
    let (_, nodes, [one, mut other]) = two(false);
    let stream = Stream::new(1, 2, 20_000, 1000);
    one.send_on(0, stream.vnet, &stream.bytes);
    for segment in &stream.segments {
        assert_eq!(other.frame(), *segment);
    }
    nodes.into_iter().for_each(Node::stop);
}

#[test]
fn a_flood_reaches_everybody_else_once() {
    let net = Net::new();
    let nodes = [
        Node::new(net, 1, &[2, 3], &["a", "b", "c"], 1),
        Node::new(net, 2, &[1, 3], &["d"], 1),
        Node::new(net, 3, &[1, 2], &["e", "f"], 1),
    ];
    let mut guests: Vec<Guest> = [(0, "a"), (0, "b"), (0, "c"), (1, "d"), (2, "e"), (2, "f")]
        .map(|(node, port): (usize, &str)| nodes[node].attach(port, true))
        .into();
    nodes.iter().for_each(Node::settle);
    for sender in 0..guests.len() {
        let frame = broadcast(sender as u8 + 1, 7);
        guests[sender].send(&frame);
        let others = guests.iter_mut().enumerate().filter(|(i, _)| *i != sender);
        others.for_each(|(_, guest)| assert_eq!(guest.frame(), frame));
    }
    nodes.iter().for_each(Node::law);
    for (i, guest) in guests.iter_mut().enumerate() {
        assert_eq!(guest.waiting(), None, "guest {i} got a second copy, or its own");
    }
    // What came from a tunnel went into none.
    for node in [1, 2] {
        let sent: u64 = [1, 2, 3]
            .iter()
            .filter(|peer| **peer != node + 1)
            .map(|peer| nodes[usize::from(node)].read_peer(net.address(*peer)).tx.frames)
            .sum();
        let own = if node == 1 { 1 } else { 2 };
        assert_eq!(sent, 2 * own, "node {node}");
    }
    nodes.into_iter().for_each(Node::stop);
}

#[test]
fn a_vnet_header_that_lies_is_counted_and_the_next_frame_passes() {
    let (_, nodes, [one, mut other]) = two(true);
    let stream = Stream::new(1, 2, 20_000, 1000);
    let truth = VnetHeader::decode(&stream.vnet);
    let lies = [
        (VnetHeader { gso_size: 0, ..truth }, DropReason::VnetGsoSize),
        (VnetHeader { gso_size: 1, ..truth }, DropReason::VnetGsoSize),
        (VnetHeader { gso_type: 4, ..truth }, DropReason::VnetProtocol),
        (VnetHeader { gso_type: 3, ..truth }, DropReason::VnetGsoType),
        (VnetHeader { gso_type: 0x70, ..truth }, DropReason::VnetGsoType),
        (VnetHeader { csum_start: 65_000, ..truth }, DropReason::VnetChecksum),
    ];
    let mut expected: BTreeMap<DropReason, u64> = BTreeMap::new();
    for (lie, reason) in lies {
        one.send_on(0, lie.encode(), &stream.bytes);
        *expected.entry(reason).or_default() += 1;
    }
    one.queues[0].send(&[0; 5]).unwrap();
    *expected.entry(DropReason::VnetTruncated).or_default() += 1;
    one.send_on(0, [0; 12], &vec![0x55; 70_000]);
    *expected.entry(DropReason::FrameTooLong).or_default() += 1;
    one.send(&[2; 9]);
    *expected.entry(DropReason::FrameTruncated).or_default() += 1;
    let good = udp(1, 2, 0, 1, 100);
    one.send(&good);
    assert_eq!(other.frame(), good);
    nodes.iter().for_each(Node::law);
    let reading = nodes[0].read("a");
    for reason in DropReason::ALL {
        let want = expected.get(&reason).copied().unwrap_or(0);
        assert_eq!(reading.rx_dropped[reason as usize], want, "{reason:?}");
    }
    assert_eq!(reading.forwarded, 1);
    nodes.into_iter().for_each(Node::stop);
}

#[test]
fn datagrams_of_strangers_and_rubbish_are_counted_and_stop_nobody() {
    let (net, nodes, [one, mut other]) = two(true);
    let stranger = std::net::UdpSocket::bind((net.address(6), 0)).unwrap();
    let to = nodes[1].sockets.local();
    let valid = encapsulated(&udp(9, 2, 0, 1, 60));
    for datagram in [&valid[..], &valid[..5], &[0; 40], &valid[..8], &[]] {
        stranger.send_to(datagram, to).unwrap();
    }
    let counters = || nodes[1].workers.iter().map(|worker| &*worker.counters);
    until("all five", || switch::read_stranger(counters()).rx.frames == 5);
    let reading = switch::read_stranger(counters());
    for (reason, count) in [
        (DropReason::PeerUnknown, 1),
        (DropReason::HeaderTruncated, 2),
        (DropReason::HeaderInvalid, 1),
        (DropReason::FrameTruncated, 1),
    ] {
        assert_eq!(reading.rx_dropped[reason as usize], count, "{reason:?}");
    }
    let good = udp(1, 2, 0, 2, 100);
    one.send(&good);
    assert_eq!(other.frame(), good);
    assert_eq!(number_of(&good), (0, 2));
    nodes.iter().for_each(Node::law);
    nodes.into_iter().for_each(Node::stop);
}

#[test]
fn datagrams_that_wait_together_arrive_as_one_superframe_here_and_as_one_train_there() {
    let net = Net::new();
    let nodes = [Node::new(net, 1, &[2], &["a", "b"], 1), Node::new(net, 2, &[1], &["c"], 1)];
    let mut near = nodes[0].attach("b", true);
    let mut far = nodes[1].attach("c", true);
    let (sender, queues) = Guest::new(1, true);
    // Everybody is there and known before the flow begins.
    nodes.iter().for_each(Node::settle);
    for (guest, station) in [(&near, 2), (&far, 3)] {
        guest.send(&broadcast(station, 0));
    }
    assert_eq!((near.frame(), far.frame()), (broadcast(3, 0), broadcast(2, 0)));
    let sent: Vec<Vec<u8>> = (0..40)
        .map(|number| {
            let to = if number % 2 == 0 { 2 } else { 3 };
            udp(1, to, to.into(), number, 18)
        })
        .collect();
    sent.iter().for_each(|frame| sender.send(frame));
    nodes[0].hand_over("a", queues);
    for (guest, first) in [(&mut near, 0), (&mut far, 1)] {
        let (_, vnet, frame) = guest.receive();
        let header = VnetHeader::decode(&vnet);
        assert_eq!((header.gso_type, header.gso_size), (5, 18));
        let payload: Vec<u8> =
            sent.iter().skip(first).step_by(2).flat_map(|frame| frame[42..].to_vec()).collect();
        assert!(frame[42..] == payload, "{} bytes", frame.len());
    }
    nodes.iter().for_each(Node::law);
    let reading = nodes[0].read("a");
    assert_eq!((reading.rx.frames, reading.forwarded), (40, 40));
    assert_eq!(nodes[0].read_peer(net.address(2)).tx.frames, 21);
    nodes.into_iter().for_each(Node::stop);
}
