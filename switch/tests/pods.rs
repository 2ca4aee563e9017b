//! Whole clusters in memory: smoltcp stacks as pods on three nodes, and as the nodes' kernels.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "fabric/mod.rs"]
mod fabric;

use fabric::{Fabric, HostId, Link, pod_ips};
use fdb::Tick;
use std::net::IpAddr;
use switch::DropReason;

/// Milliseconds for a ping: smoltcp asks for a neighbour at most once a second.
const PATIENCE: u64 = 3000;

/// Three nodes with their gateways, and pods at index 2 and 3 of each, pod by pod.
fn three_nodes(seed: u64) -> (Fabric, Vec<HostId>, Vec<HostId>) {
    let (mut fabric, gateways) = Fabric::cluster(3, seed);
    let places = (0..3).flat_map(|node| [2, 3].map(|index| (node, index)));
    let pods = places.map(|(node, index)| fabric.pod(node, pod_ips(node, index))).collect();
    (fabric, gateways, pods)
}

fn lossy() -> Link {
    Link { delay: 2000, jitter: 3000, loss: 50, duplication: 20, mtu: 1500 }
}

/// Nothing was learned, and everything was counted.
fn assert_sound(fabric: &Fabric) {
    fabric.assert_law();
    for node in &fabric.nodes {
        assert!(node.fdb.entries(Tick(fabric.now_ms())).is_empty());
        let unexpected =
            [DropReason::SpoofedAddress, DropReason::SpoofedMac, DropReason::NotGateway];
        for reason in unexpected {
            assert_eq!(node.dropped(reason), 0, "{}", reason.label());
        }
    }
}

#[test]
fn everybody_reaches_everybody() {
    let (mut fabric, gateways, pods) = three_nodes(1);
    let addresses = |index: u8| (0..3).flat_map(move |node| pod_ips(node, index));
    let all: Vec<IpAddr> = (1..=3).flat_map(addresses).collect();
    for from in pods.iter().chain(&gateways) {
        for to in &all {
            let own = fabric.hosts[from.0].interface.ip_addrs().to_vec();
            if own.iter().all(|own| IpAddr::from(own.address()) != *to) {
                assert!(fabric.ping(*from, *to, PATIENCE), "{from:?} to {to}");
            }
        }
    }
    assert_sound(&fabric);
}

#[test]
fn tcp_survives_loss_over_both_families() {
    for (seed, superframes) in [(2, false), (3, true)] {
        let (mut fabric, gateways, pods) = three_nodes(seed);
        fabric.superframes = superframes;
        fabric.set_links(lossy());
        for family in [0, 1] {
            let to = |node, index| pod_ips(node, index)[family];
            fabric.transfer(pods[0], pods[2], to(1, 2), 150_000, 600_000);
            fabric.transfer(pods[5], pods[0], to(0, 2), 150_000, 600_000);
            fabric.transfer(pods[0], pods[1], to(0, 3), 100_000, 60_000);
            fabric.transfer(pods[0], gateways[0], to(0, 1), 100_000, 60_000);
            fabric.transfer(gateways[1], pods[2], to(1, 2), 100_000, 60_000);
            fabric.transfer(gateways[2], pods[0], to(0, 2), 100_000, 600_000);
            fabric.transfer(pods[3], gateways[2], to(2, 1), 100_000, 600_000);
        }
        assert_sound(&fabric);
    }
}

#[test]
fn superframes_stay_whole() {
    let (mut fabric, _, pods) = three_nodes(4);
    fabric.superframes = true;
    for family in [0, 1] {
        fabric.transfer(pods[0], pods[4], pod_ips(2, 2)[family], 300_000, 600_000);
        fabric.transfer(pods[1], pods[0], pod_ips(0, 2)[family], 300_000, 600_000);
    }
    // The gateway's port is the first one of each node.
    let readings = fabric.nodes[0].readings();
    let (sender, tunnel) = (&readings[1].1, &fabric.nodes[2].readings()[3].1);
    for reading in [sender, tunnel] {
        assert!(reading.rx.superframes > 4, "joined where they came in: {reading:?}");
        assert!(reading.rx.frames > 4 * reading.rx.superframes, "many at a time: {reading:?}");
    }
    assert!(sender.tx.superframes > 4, "and delivered whole: {sender:?}");
    assert_sound(&fabric);
}

#[test]
fn a_pod_has_its_address_on_another_node() {
    let (mut fabric, _, pods) = three_nodes(5);
    // It has moved from node 1 to node 2, or a static address is from elsewhere.
    let moved = pod_ips(1, 9);
    let pod = fabric.pod(2, moved);
    assert!(!fabric.ping(pods[0], moved[0], PATIENCE), "nobody knows");
    assert!(fabric.nodes[1].dropped(DropReason::NoRoute) > 0);
    fabric.publish(2, moved);
    for (from, to) in [(pods[0], moved), (pods[2], moved), (pods[4], moved), (pod, pod_ips(1, 2))] {
        for to in to {
            assert!(fabric.ping(from, to, PATIENCE), "{from:?} to {to}");
        }
    }
    fabric.assert_law();
}

#[test]
fn who_asks_for_nobody_is_told() {
    let (mut fabric, _, pods) = three_nodes(6);
    for (to, at, error) in [("10.244.1.77", 34, [3, 1]), ("fd44:0:0:9::1", 54, [1, 3])] {
        assert!(!fabric.ping(pods[0], to.parse().unwrap(), PATIENCE));
        let got = fabric.captured(pods[0]);
        assert!(got.iter().any(|frame| frame.get(at..at + 2) == Some(&error)), "{to}: {got:?}");
    }
    assert_eq!(fabric.datagrams(), 0, "and nobody else is bothered");
    assert_sound(&fabric);
}

#[test]
fn what_is_outside_leaves_by_the_nodes_own_gateway() {
    let (mut fabric, gateways, pods) = three_nodes(7);
    for to in ["198.51.100.1", "2001:db8::1"] {
        for host in gateways.iter().chain(&pods) {
            fabric.captured(*host);
        }
        // Whether anybody answers out there is no matter of the switch.
        fabric.ping(pods[2], to.parse().unwrap(), 100);
        for (node, gateway) in gateways.iter().enumerate() {
            let got = fabric.captured(*gateway);
            let echo = got.iter().any(|frame| {
                matches!((frame.get(34), frame.get(54)), (Some(8), _) | (_, Some(128)))
            });
            assert_eq!(echo, node == 1, "{to} at {node}: {got:?}");
        }
    }
    assert_eq!(fabric.datagrams(), 0);
    assert_sound(&fabric);
}
