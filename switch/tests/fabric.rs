//! Whole overlays in memory.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "fabric/mod.rs"]
mod fabric;

use fabric::{Fabric, HostId, Link, Transfer, ipv4, ipv6};
use fdb::Lookup;
use switch::{DropReason, PortModeSpec};

const BLUE: &[(&str, u32)] = &[("blue", 100)];
/// Milliseconds for a ping: smoltcp asks for a neighbour at most once a second.
const PATIENCE: u64 = 3000;
/// An EtherType that no stack answers.
const OPAQUE: [u8; 2] = [0x88, 0xb5];

/// One host per node, host `n` on node `n - 1`.
fn one_host_each(nodes: u8, seed: u64) -> (Fabric, Vec<HostId>) {
    let mut fabric = Fabric::mesh(usize::from(nodes), BLUE, seed);
    let hosts = (1..=nodes).map(|n| fabric.attach(n, usize::from(n) - 1, "blue")).collect();
    (fabric, hosts)
}

fn opaque(dst: [u8; 6], src: u8, payload: u8) -> Vec<u8> {
    [&dst[..], &[2, 0, 0, 0, 0, src], &OPAQUE, &[payload; 46]].concat()
}

fn station(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, n]
}

/// How many opaque frames with this payload a host got.
fn copies(fabric: &mut Fabric, host: HostId, payload: u8) -> usize {
    let frames = fabric.captured(host);
    frames.iter().filter(|frame| frame[12..14] == OPAQUE && frame[14] == payload).count()
}

#[test]
fn ping_over_ipv4_and_ipv6() {
    for nodes in [2, 3, 5] {
        let (mut fabric, hosts) = one_host_each(nodes, 1);
        for (at, from) in hosts.iter().enumerate() {
            for n in (1..=nodes).filter(|n| usize::from(*n) != at + 1) {
                assert!(fabric.ping(*from, ipv4(n), PATIENCE), "{at} to {n}");
                assert!(fabric.ping(*from, ipv6(n), PATIENCE), "{at} to {n}, IPv6");
            }
        }
        assert!(!fabric.ping(hosts[0], ipv4(200), PATIENCE), "nobody is there");
        fabric.assert_law();
    }
}

#[test]
fn tcp_arrives_whole() {
    for nodes in [2, 3, 5] {
        let (mut fabric, hosts) = one_host_each(nodes, 2);
        let last = hosts.len() - 1;
        fabric.transfer(hosts[0], hosts[last], ipv4(nodes), 300_000, 60_000);
        fabric.transfer(hosts[last], hosts[0], ipv6(1), 300_000, 60_000);
        fabric.assert_law();
    }
}

#[test]
fn superframes_arrive_whole() {
    for (seed, link) in [(3, Link::default()), (4, lossy())] {
        let (mut fabric, hosts) = one_host_each(3, seed);
        fabric.superframes = true;
        fabric.set_links(link);
        fabric.transfer(hosts[0], hosts[2], ipv4(3), 200_000, 600_000);
        fabric.transfer(hosts[2], hosts[1], ipv6(2), 200_000, 600_000);
        let port = &fabric.nodes[0].readings()[0].1;
        assert!(port.rx.superframes > 2, "the host's frames were joined: {port:?}");
        assert!(port.rx.frames > 4 * port.rx.superframes, "many at a time: {port:?}");
        let tunnel = &fabric.nodes[2].readings()[1].1;
        assert!(tunnel.rx.superframes > 2 || seed == 4, "and the tunnel's: {tunnel:?}");
        fabric.assert_law();
    }
}

fn lossy() -> Link {
    Link { delay: 2000, jitter: 3000, loss: 50, duplication: 20, mtu: 1500 }
}

#[test]
fn tcp_survives_loss_reordering_and_duplication() {
    let (mut fabric, hosts) = one_host_each(3, 5);
    fabric.set_links(lossy());
    fabric.transfer(hosts[0], hosts[1], ipv4(2), 200_000, 600_000);
    fabric.transfer(hosts[1], hosts[2], ipv6(3), 200_000, 600_000);
    fabric.assert_law();
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let (mut fabric, hosts) = one_host_each(2, seed);
        fabric.set_links(lossy());
        fabric.transfer(hosts[0], hosts[1], ipv4(2), 50_000, 600_000);
        (fabric.now_ms(), fabric.datagrams(), fabric.nodes[1].readings())
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn broadcast_reaches_every_host_exactly_once() {
    let mut fabric = Fabric::mesh(5, BLUE, 9);
    let hosts: Vec<HostId> =
        (1..=15).map(|n| fabric.attach(n, usize::from(n) % 5, "blue")).collect();
    fabric.inject(hosts[0], &opaque([0xff; 6], 1, 0x77));
    fabric.run(100);
    for (at, host) in hosts.iter().enumerate() {
        assert_eq!(copies(&mut fabric, *host, 0x77), usize::from(at != 0), "host {}", at + 1);
    }
    assert_eq!(fabric.datagrams(), 4, "one for each other node");
    fabric.assert_law();
}

#[test]
fn unknown_unicast_floods_until_its_owner_speaks() {
    let (mut fabric, hosts) = one_host_each(3, 10);
    fabric.inject(hosts[0], &opaque(station(2), 1, 1));
    fabric.run(10);
    assert_eq!(copies(&mut fabric, hosts[1], 1), 1);
    assert_eq!(copies(&mut fabric, hosts[2], 1), 1, "nobody knows where host 2 is");
    fabric.inject(hosts[1], &opaque(station(1), 2, 2));
    fabric.run(10);
    assert_eq!(copies(&mut fabric, hosts[0], 2), 1);
    assert_eq!(copies(&mut fabric, hosts[2], 2), 0, "host 1 was learned from what was flooded");
    let before = fabric.datagrams();
    fabric.inject(hosts[0], &opaque(station(2), 1, 3));
    fabric.run(10);
    assert_eq!(copies(&mut fabric, hosts[1], 3), 1);
    assert_eq!(copies(&mut fabric, hosts[2], 3), 0);
    assert_eq!(fabric.datagrams() - before, 1);
    fabric.assert_law();
}

#[test]
fn a_silent_station_is_unknown_again_after_the_aging_time() {
    let (mut fabric, hosts) = one_host_each(3, 11);
    fabric.inject(hosts[1], &opaque(station(1), 2, 1));
    fabric.run(299_000);
    fabric.inject(hosts[0], &opaque(station(2), 1, 2));
    fabric.run(10);
    assert_eq!(copies(&mut fabric, hosts[2], 2), 0);
    fabric.run(2_000);
    fabric.inject(hosts[0], &opaque(station(2), 1, 3));
    fabric.run(10);
    assert_eq!(copies(&mut fabric, hosts[2], 3), 1, "flooded");
}

#[test]
fn a_host_that_moves_keeps_its_connection() {
    let (mut fabric, hosts) = one_host_each(3, 12);
    fabric.set_links(Link { delay: 5000, ..Link::default() });
    let mut transfer = Transfer::open(&mut fabric, hosts[0], hosts[1], ipv4(2), 80, 400_000);
    assert!(fabric.run_until(60_000, |fabric| {
        transfer.drive(fabric);
        transfer.received() > 100_000
    }));
    fabric.relocate(hosts[1], 2);
    // It announces itself, as a machine that was moved does.
    fabric.inject(hosts[1], &opaque([0xff; 6], 2, 0x55));
    let done = fabric.run_until(60_000, |fabric| transfer.drive(fabric));
    assert!(done, "{transfer:?}");
    fabric.relocate(hosts[1], 0);
    assert!(fabric.ping(hosts[1], ipv4(3), PATIENCE), "its own frames announce it as well");
    assert!(fabric.ping(hosts[2], ipv4(2), PATIENCE));
    fabric.assert_law();
}

#[test]
fn what_is_too_big_for_the_path_is_told() {
    let (mut fabric, hosts) = one_host_each(2, 13);
    fabric.set_links(Link { mtu: 1400, ..Link::default() });
    let (from, to) = (fabric.bind(hosts[0], 5000), fabric.bind(hosts[1], 7));
    for (ip, header) in [(ipv4(2), 20), (ipv6(2), 40)] {
        assert!(fabric.ping(hosts[0], ip, PATIENCE));
        // The first one meets the narrow place, and is lost; the path is known from then on.
        for _ in 0..2 {
            fabric.send_udp(hosts[0], from, (ip, 7), &vec![7; 1450 - header - 8]);
            fabric.run(20);
        }
        assert_eq!(fabric.receive_udp(hosts[1], to), None);
        assert_eq!(told(&mut fabric, hosts[0]), Some(1350), "{ip}");
        let fitting = vec![9; 1350 - header - 8];
        fabric.send_udp(hosts[0], from, (ip, 7), &fitting);
        fabric.run(20);
        assert_eq!(fabric.receive_udp(hosts[1], to), Some(fitting));
    }
    fabric.assert_law();
}

/// The MTU of the last "too big" message a host got, as etherparse reads it.
fn told(fabric: &mut Fabric, host: HostId) -> Option<u32> {
    use etherparse::{Icmpv4Type, Icmpv6Type, SlicedPacket, TransportSlice, icmpv4};
    let frames = fabric.captured(host);
    frames.iter().rev().find_map(|frame| {
        match SlicedPacket::from_ethernet(frame).ok()?.transport? {
            TransportSlice::Icmpv4(icmp) => match icmp.icmp_type() {
                Icmpv4Type::DestinationUnreachable(
                    icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu },
                ) => Some(u32::from(next_hop_mtu)),
                _ => None,
            },
            TransportSlice::Icmpv6(icmp) => match icmp.icmp_type() {
                Icmpv6Type::PacketTooBig { mtu } => Some(mtu),
                _ => None,
            },
            _ => None,
        }
    })
}

#[test]
fn trunks_carry_vlans_between_nodes() {
    let mut fabric = Fabric::mesh(2, &[("blue", 100), ("green", 200)], 14);
    let vlan = |id| encap::VlanId::new(id).unwrap();
    let trunk = |blue, green| PortModeSpec::Trunk {
        vlans: vec![(vlan(blue), "blue".to_owned()), (vlan(green), "green".to_owned())],
        native: None,
    };
    // The VLANs' numbers differ from trunk to trunk; the segment is the same.
    let tagged = fabric.attach_as(1, 0, trunk(10, 20), Some(10));
    let other = fabric.attach_as(2, 1, trunk(110, 120), Some(110));
    let plain = fabric.attach(3, 1, "blue");
    let green = fabric.attach_as(4, 1, trunk(110, 120), Some(120));
    assert!(fabric.ping(tagged, ipv4(2), PATIENCE));
    assert!(fabric.ping(tagged, ipv6(3), PATIENCE));
    assert!(fabric.ping(plain, ipv4(2), PATIENCE));
    assert!(!fabric.ping(tagged, ipv4(4), PATIENCE), "another segment");
    assert!(!fabric.ping(green, ipv4(3), PATIENCE));
    for superframes in [false, true] {
        fabric.superframes = superframes;
        fabric.transfer(tagged, other, ipv4(2), 100_000, 60_000);
        fabric.transfer(plain, tagged, ipv6(1), 100_000, 60_000);
    }
    let dropped = |node: usize| fabric.nodes[node].dropped(DropReason::InnerVlan);
    assert_eq!((dropped(0), dropped(1)), (0, 0), "nothing crosses the tunnel with a tag");
    fabric.assert_law();
}

#[test]
fn segments_with_equal_addresses_do_not_meet() {
    let mut fabric = Fabric::mesh(2, &[("blue", 100), ("green", 200)], 15);
    let blue = [fabric.attach(1, 0, "blue"), fabric.attach(2, 1, "blue")];
    let green = [fabric.attach(1, 1, "green"), fabric.attach(2, 0, "green")];
    for (payload, dst) in [(0xb1, [0xff; 6]), (0xb2, station(2)), (0xb3, station(99))] {
        fabric.inject(blue[0], &opaque(dst, 1, payload));
        fabric.run(10);
        assert_eq!(copies(&mut fabric, blue[1], payload), 1);
        assert_eq!(copies(&mut fabric, green[0], payload), 0);
        assert_eq!(copies(&mut fabric, green[1], payload), 0);
    }
    let mut one = Transfer::open(&mut fabric, blue[0], blue[1], ipv4(2), 80, 100_000);
    let mut two = Transfer::open(&mut fabric, green[0], green[1], ipv4(2), 80, 100_000);
    let both = fabric.run_until(60_000, |fabric| one.drive(fabric) & two.drive(fabric));
    assert!(both, "{one:?} {two:?}");
    fabric.assert_law();
}

#[test]
fn thirty_two_hosts() {
    let mut fabric = Fabric::mesh(4, BLUE, 16);
    let hosts: Vec<HostId> =
        (1..=32).map(|n| fabric.attach(n, usize::from(n) % 4, "blue")).collect();
    for (at, host) in hosts.iter().enumerate() {
        let (next, far) = ((at + 1) % 32 + 1, (at + 16) % 32 + 1);
        assert!(fabric.ping(*host, ipv4(next as u8), PATIENCE));
        assert!(fabric.ping(*host, ipv6(far as u8), PATIENCE));
    }
    // All of them at once, each to the one half a circle away.
    let mut transfers: Vec<Transfer> = (0..32)
        .map(|at| {
            let far = (at + 16) % 32;
            let ip = ipv4(far as u8 + 1);
            Transfer::open(&mut fabric, hosts[at], hosts[far], ip, 1000 + at as u16, 20_000)
        })
        .collect();
    let done = fabric.run_until(60_000, |fabric| {
        transfers.iter_mut().fold(true, |all, transfer| transfer.drive(fabric) & all)
    });
    assert!(done);
    let now = fdb::Tick(fabric.now_ms());
    for node in &fabric.nodes {
        let segment = node.engine.topology().segment_named("blue").unwrap().id;
        let known = (1..=32).filter(|n| {
            node.fdb.lookup(segment, encap::MacAddr(station(*n)), now) != Lookup::Unknown
        });
        assert_eq!(known.count(), 32, "every node knows every host");
        let dropped: u64 = node.readings().iter().map(|(_, r)| r.rx_dropped_total()).sum();
        let horizon = node.dropped(DropReason::SplitHorizon);
        assert_eq!(dropped, horizon, "{:?}", node.readings());
    }
    fabric.assert_law();
}
