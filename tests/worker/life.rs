//! What happens to a worker while frames flow: ports come and go, topologies and sockets change.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use switch::DropReason;
use tapestry::daemon::worker::News;

use crate::kit::{Guest, Net, Node, PORT, broadcast, number_of, open, udp, until};

/// Sends numbered frames, one after the other has arrived or `lost` says that it cannot, while
/// `meanwhile` runs. Returns how many were sent.
fn pump(one: &Guest, pace: &AtomicU32, meanwhile: impl FnOnce(&AtomicU32)) -> u32 {
    let (sent, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Acquire) {
                // A window: so that no buffer overflows, whoever sleeps.
                if sent.load(Ordering::Relaxed) < pace.load(Ordering::Acquire) + 64 {
                    one.send(&udp(1, 2, 0, sent.load(Ordering::Relaxed), 60));
                    sent.fetch_add(1, Ordering::Release);
                } else {
                    std::thread::yield_now();
                }
            }
        });
        // The sender ends even if this panics.
        let _stopping = Stopping(&stop);
        meanwhile(&sent);
    });
    sent.into_inner()
}

struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn a_port_whose_other_end_has_closed_is_told_once_and_costs_no_turns() {
    let net = Net::new();
    let nodes = [Node::new(net, 1, &[2], &["a", "gone"], 1), Node::new(net, 2, &[1], &["b"], 1)];
    let (one, gone, mut other) =
        (nodes[0].attach("a", false), nodes[0].attach("gone", true), nodes[1].attach("b", false));
    nodes.iter().for_each(Node::settle);
    gone.send(&broadcast(3, 1));
    assert_eq!(other.frame(), broadcast(3, 1));
    drop(gone);
    let mut told = Vec::new();
    until("the news", || {
        told.extend(nodes[0].news.try_iter());
        !told.is_empty()
    });
    let id = nodes[0].port("gone");
    assert!(matches!(told[..], [News::PortGone(port, _)] if port == id), "{told:?}");
    let turns = || nodes[0].workers[0].stats.turns.get();
    let before = turns();
    const ROUNDS: u32 = 100;
    for number in 0..ROUNDS {
        one.send(&udp(1, 2, 0, number, 60));
        other.frame();
    }
    let turned = turns() - before;
    assert!(turned <= u64::from(ROUNDS) + 5, "{turned} turns for {ROUNDS} frames");
    assert_eq!(nodes[0].news.try_iter().count(), 0);
    assert_eq!(nodes[0].closed(), 1);
    // Whatever is flooded is lost to it and counted, and reaches the others.
    one.send(&broadcast(1, 2));
    assert_eq!(other.frame(), broadcast(1, 2));
    nodes.iter().for_each(Node::law);
    let lost = nodes[0].read("gone").tx_dropped[DropReason::PortDown as usize];
    assert_eq!(lost, u64::from(ROUNDS) + 1);
    nodes.into_iter().for_each(Node::stop);
}

#[test]
fn a_port_that_is_attached_anew_loses_only_what_came_in_between() {
    let net = Net::new();
    let nodes = [Node::new(net, 1, &[2], &["a"], 1), Node::new(net, 2, &[1], &["b"], 1)];
    let one = nodes[0].attach("a", false);
    let mut guests = vec![nodes[1].attach("b", false)];
    nodes[1].pin(2, "b");
    nodes.iter().for_each(Node::settle);
    let seen = AtomicU32::new(0);
    let count = |guests: &mut Vec<Guest>, got: &mut Vec<u32>| {
        for guest in guests.iter_mut() {
            got.extend(std::iter::from_fn(|| guest.waiting()).map(|frame| number_of(&frame).1));
        }
        let lost = nodes[1].read("b").tx_dropped_total();
        seen.store(got.len() as u32 + lost as u32, Ordering::Release);
        lost
    };
    let mut got = Vec::new();
    let sent = pump(&one, &seen, |sent| {
        for round in 1..=5_u32 {
            until("more frames", || {
                count(&mut guests, &mut got);
                got.len() as u32 >= 200 * round
            });
            nodes[1].detach("b");
            let lost = nodes[1].read("b").tx_dropped_total();
            let before = sent.load(Ordering::Acquire);
            until("frames while nobody is there", || {
                let now = count(&mut guests, &mut got);
                now > lost && sent.load(Ordering::Acquire) > before
            });
            guests.push(nodes[1].attach("b", false));
        }
    });
    until("the rest", || {
        count(&mut guests, &mut got);
        seen.load(Ordering::Acquire) >= sent
    });
    nodes.iter().for_each(Node::law);
    let reading = nodes[1].read("b");
    let down = reading.tx_dropped[DropReason::PortDown as usize];
    assert_eq!(down, reading.tx_dropped_total(), "{reading:?}");
    assert_eq!(got.len() as u64 + down, u64::from(sent));
    assert!(down >= 5);
    assert_eq!(nodes[1].read_peer(net.address(1)).forwarded, u64::from(sent));
    got.sort_unstable();
    got.dedup();
    assert_eq!(got.len() as u64 + down, u64::from(sent), "a frame came twice");
    assert_eq!(nodes[1].closed(), 5);
    nodes.into_iter().for_each(Node::stop);
}

#[test]
fn a_change_of_topology_costs_no_frame_of_what_stays() {
    let net = Net::new();
    let mut a = Node::new(net, 1, &[2], &["a"], 1);
    let b = Node::new(net, 2, &[1], &["b"], 1);
    let c = Node::new(net, 3, &[1], &["c"], 1);
    let (one, mut two, mut three) =
        (a.attach("a", false), b.attach("b", false), c.attach("c", false));
    [&a, &b, &c].into_iter().for_each(Node::settle);
    let third = SocketAddr::new(net.address(3), PORT);
    let seen = AtomicU32::new(0);
    let mut to_three = 0;
    let mut next = 0;
    let mut take = |least: u32| {
        until("frames in order", || {
            while let Some(frame) = two.waiting() {
                assert_eq!(number_of(&frame), (0, next));
                next += 1;
                seen.store(next, Ordering::Release);
            }
            next >= least
        });
        next
    };
    let sent = pump(&one, &seen, |_| {
        for round in 1..=5 {
            let so_far = take(round * 200);
            a.respecify(|spec| spec.segments[0].peers.push(third));
            // Nobody answers, so everything is flooded, and the third one hears it too.
            let mut heard = 0;
            until("frames at the third node", || {
                take(0);
                heard += std::iter::from_fn(|| three.waiting()).count();
                heard > 0
            });
            to_three += heard;
            assert!(take(so_far + 1) > so_far);
            a.respecify(|spec| spec.segments[0].peers.truncate(1));
            a.settle();
        }
    });
    assert_eq!(take(sent), sent);
    assert!(to_three >= 5);
    [&a, &b, &c].into_iter().for_each(Node::law);
    let reading = a.read("a");
    assert_eq!((reading.forwarded, reading.rx.frames), (u64::from(sent), u64::from(sent)));
    [a, b, c].into_iter().for_each(Node::stop);
}

#[test]
fn other_sockets_and_the_same_sockets_again_cost_no_frame() {
    let net = Net::new();
    let nodes = [Node::new(net, 1, &[2], &["a"], 2), Node::new(net, 2, &[1, 3], &["b"], 2)];
    let (one, mut two) = (nodes[0].attach("a", false), nodes[1].attach("b", false));
    nodes.iter().for_each(Node::settle);
    let moved = open(net.address(3), 2);
    let seen = AtomicU32::new(0);
    let mut next = 0;
    let mut take = |least: u32| {
        until("frames", || {
            while two.waiting().is_some() {
                next += 1;
                seen.store(next, Ordering::Release);
            }
            next >= least
        });
        next
    };
    let sent = pump(&one, &seen, |_| {
        for round in 0..4 {
            // The sending side: here and there. The receiving side: the same ones each time.
            nodes[0].use_sockets(if round % 2 == 0 { &moved } else { &nodes[0].sockets });
            nodes[1].use_sockets(&nodes[1].sockets);
            let so_far = take(0);
            take(so_far + 200);
        }
    });
    assert_eq!(take(sent), sent);
    nodes.iter().for_each(Node::law);
    for node in &nodes {
        let bad = |news: &News| !matches!(news, News::Event(_));
        let failed: Vec<_> = node.news.try_iter().filter(bad).collect();
        assert!(failed.is_empty(), "{failed:?}");
    }
    let [one, three] = [1, 3].map(|peer| nodes[1].read_peer(net.address(peer)).rx.frames);
    assert!(one >= 100 && three >= 100 && one + three == u64::from(sent), "{one} {three}");
    // Nobody holds the sockets any more that were handed out last but one.
    drop(moved);
    nodes.iter().for_each(Node::settle);
    let mut again = None;
    until("the address to be free", || {
        let config = tapestry::io::underlay::UnderlayConfig::new(net.address(3), PORT);
        again = tapestry::io::underlay::UnderlaySockets::open(&config).ok();
        again.is_some()
    });
    nodes.into_iter().for_each(Node::stop);
}

#[test]
fn a_move_is_told_though_nothing_follows_it() {
    let net = Net::new();
    let node = Node::new(net, 1, &[], &["a", "b"], 1);
    let (one, two) = (node.attach("a", false), node.attach("b", false));
    node.settle();
    // The first of two moves in a row is told at once, the second when its time has come.
    let mut moves = 0;
    for (number, guest) in [&one, &two, &one].into_iter().enumerate() {
        let port = if std::ptr::eq(guest, &two) { "b" } else { "a" };
        let before = node.read(port).forwarded;
        guest.send(&broadcast(1, number as u8));
        until("the frame to be taken", || node.read(port).forwarded > before);
    }
    until("both moves", || {
        moves += node.news.try_iter().filter(|news| matches!(news, News::Event(_))).count();
        moves == 2
    });
    node.stop();
}
