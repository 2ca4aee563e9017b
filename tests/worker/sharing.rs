//! What workers and ports that share something owe each other: order, and a turn for everybody.

use std::collections::BTreeMap;
use std::net::UdpSocket;

use encap::VnetHeader;
use tapestry::io::underlay::{Receiver, UnderlaySockets};

use crate::kit::{Guest, Net, Node, encapsulated, number_of, open, udp};

#[test]
fn order_holds_within_every_flow_with_two_workers() {
    const FLOWS: u16 = 64;
    const ROUNDS: u32 = 40;
    let net = Net::new();
    let nodes = [Node::new(net, 1, &[2], &["a"], 2), Node::new(net, 2, &[1], &["b"], 2)];
    let (one, mut two) = (nodes[0].attach("a", false), nodes[1].attach("b", false));
    nodes.iter().for_each(Node::settle);
    let mut seen: BTreeMap<u16, (usize, u32)> = BTreeMap::new();
    for round in 0..ROUNDS {
        const BURST: u32 = 2;
        for number in round * BURST..(round + 1) * BURST {
            for flow in 0..FLOWS {
                one.send_on(usize::from(flow % 2), [0; 12], &udp(1, 2, flow, number, 60));
            }
        }
        for _ in 0..BURST * u32::from(FLOWS) {
            let (queue, _, frame) = two.receive();
            let (flow, number) = number_of(&frame);
            let (before, next) = seen.entry(flow).or_insert((queue, 0));
            assert_eq!((*before, *next), (queue, number), "flow {flow}");
            *next += 1;
        }
    }
    assert_eq!(seen.len(), usize::from(FLOWS));
    let ways: std::collections::BTreeSet<_> = seen.values().map(|(queue, _)| queue).collect();
    assert_eq!(ways.len(), 2, "one worker had all the flows: nothing was shown");
    nodes.iter().for_each(Node::law);
    assert_eq!(two.waiting(), None);
    nodes.into_iter().for_each(Node::stop);
}

/// The longest run of frames of one station while the other had some waiting; `None` when they were
/// not served at the same time.
fn longest_run(order: &[u8], loud: usize, quiet: usize) -> Option<usize> {
    let (mut left, mut run, mut longest) = ([loud, quiet], 0, 0);
    let mut last = None;
    let mut both = false;
    for &station in order {
        let index = usize::from(station - 1);
        both |= last.is_some() && last != Some(station);
        run = if last == Some(station) { run + 1 } else { 1 };
        last = Some(station);
        left[index] -= 1;
        if both && left[1 - index] > 0 {
            longest = longest.max(run);
        }
    }
    // Served one after the other, they have not shared anything.
    (longest > 0).then_some(longest)
}

/// Whose the next `count` frames are.
fn stations(sink: &mut Guest, count: usize) -> Vec<u8> {
    let mut order = Vec::new();
    while order.len() < count {
        let (_, vnet, frame) = sink.receive();
        // Equal datagrams in a row come as one superframe.
        let size = VnetHeader::decode(&vnet).gso_size;
        let count = if size == 0 { 1 } else { (frame.len() - 42) / usize::from(size) };
        order.extend(std::iter::repeat_n(frame[11], count));
    }
    order
}

#[test]
fn a_flooding_port_leaves_a_quiet_one_its_turns() {
    let mut runs = Vec::new();
    for _ in 0..20 {
        let net = Net::new();
        let node = Node::new(net, 1, &[], &["loud", "quiet", "sink"], 1);
        let mut sink = node.attach("sink", true);
        node.pin(3, "sink");
        node.settle();
        // Both have a backlog before the worker sees the first of it.
        let [(loud, loud_queue), (quiet, quiet_queue)] = [(); 2].map(|()| Guest::new(1, true));
        let backlog = loud.fill(&udp(1, 3, 0, 0, 60), 2000);
        let little = quiet.fill(&udp(2, 3, 0, 0, 60), backlog / 2);
        assert!(backlog > 300 && little > 150, "{backlog} and {little}");
        node.hand_over("loud", loud_queue);
        node.hand_over("quiet", quiet_queue);
        let order = stations(&mut sink, 2 * little);
        runs.extend(longest_run(&order, backlog, little));
        node.stop();
        if !runs.is_empty() {
            break;
        }
    }
    // 64 frames are a port's share of a turn, and two turns may follow each other in other order.
    let longest = runs.first().expect("never served at the same time");
    assert!(*longest <= 128, "{longest} frames in a row");
}

/// The lane on which a socket's datagrams arrive.
fn lane_of(socket: &UdpSocket, sockets: &UnderlaySockets) -> usize {
    socket.send_to(&[0; 8], sockets.local()).unwrap();
    let mut receiver = Receiver::new();
    let mut has = |lane| !receiver.receive(lane, 1).unwrap().is_empty();
    sockets.receive(0).iter().position(&mut has).expect("a datagram on loopback is lost")
}

#[test]
fn a_flooding_flow_of_a_peer_leaves_a_quiet_one_its_turns() {
    const LOUD: usize = 300;
    const QUIET: usize = 100;
    let net = Net::new();
    let node = Node::new(net, 1, &[2], &["sink"], 1);
    let mut sink = node.attach("sink", true);
    node.pin(3, "sink");
    node.settle();
    // Sockets that no worker has yet: all that comes is there before it sees the first of it.
    let sockets = open(net.address(3), 1);
    let peer = || UdpSocket::bind((net.address(2), 0)).unwrap();
    let loud = peer();
    let lane = lane_of(&loud, &sockets);
    // Each has another port; of a hundred the hash puts one elsewhere, or there is one lane only.
    let ports: Vec<UdpSocket> = (0..100).map(|_| peer()).collect();
    let elsewhere = |other: &&UdpSocket| lane_of(other, &sockets) != lane;
    let quiet = ports.iter().find(elsewhere).expect("all flows share one lane");
    for (socket, station, count) in [(&loud, 1, LOUD), (quiet, 2, QUIET)] {
        let datagram = encapsulated(&udp(station, 3, 0, 0, 60));
        for _ in 0..count {
            socket.send_to(&datagram, sockets.local()).unwrap();
        }
    }
    assert_eq!(sockets.drops(), 0);
    node.use_sockets(&sockets);
    let order = stations(&mut sink, LOUD + QUIET);
    // Sixteen messages are a turn's, eight for each of two lanes.
    let longest = longest_run(&order, LOUD, QUIET).expect("served one after the other");
    assert!(longest <= 8, "{longest} frames in a row");
    node.law();
    node.stop();
}
