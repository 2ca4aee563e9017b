//! Plugin and daemon die at each step, and anywhere: no address is used twice, and none is lost.

use std::collections::BTreeSet;
use std::os::fd::AsFd as _;
use std::time::Duration;

use serde_json::json;

use crate::kit::{Call, Node, Pod, eventually, permitted};
use crate::socket::{device, reserve};

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn a_plugin_that_dies_at_any_step_leaves_nothing() {
    if !permitted() {
        return;
    }
    let (node, pod) = (Node::new(&["10.244.1.0/24"]), Pod::new());
    let clean = || node.free() == 253 && node.attached().is_empty() && pod.devices().is_empty();
    for steps in 1..=3 {
        let mut client = node.client();
        let reserved = client.reserve(reserve(&pod)).unwrap();
        assert_eq!(node.free(), 252);
        let made = (steps > 1).then(|| device(&pod, &reserved));
        if let (3, Some(made)) = (steps, &made) {
            let queues: Vec<_> = made.queues.iter().map(|queue| queue.as_fd()).collect();
            client.attach(made.facts.ifindex, &queues).unwrap();
            assert_eq!(node.attached(), std::slice::from_ref(&pod.id));
        }
        // As when the process dies: its descriptors are closed, in any order.
        drop((made, client));
        assert!(eventually(PATIENCE, clean), "after {steps} steps");
    }
}

#[test]
fn a_daemon_that_dies_at_any_step_finds_what_there_is() {
    if !permitted() {
        return;
    }
    let (mut node, pod) = (Node::new(&["10.244.1.0/24"]), Pod::new());
    let conf = node.conf(&json!({}));
    for steps in 1..=4 {
        let mut client = node.client();
        let reserved = client.reserve(reserve(&pod)).unwrap();
        let made = (steps > 1).then(|| device(&pod, &reserved));
        if let (3.., Some(made)) = (steps, &made) {
            let queues: Vec<_> = made.queues.iter().map(|queue| queue.as_fd()).collect();
            client.attach(made.facts.ifindex, &queues).unwrap();
        }
        if steps == 4 {
            client.commit().unwrap();
        }
        node.kill();
        drop((made, client));
        node.start();
        // From the hand-over on it is on record, and its device stands.
        let there = if steps > 2 { vec![pod.id.clone()] } else { Vec::new() };
        assert_eq!(node.attached(), there, "after {steps} steps");
        assert_eq!(pod.devices().len(), there.len(), "after {steps} steps");
        assert_eq!(node.free(), 253 - u64::try_from(there.len()).unwrap());
        Call::of("DEL", &conf, &pod).run().unwrap();
        assert_eq!((node.attached().len(), pod.devices().len(), node.free()), (0, 0, 253));
    }
}

/// A cheap sequence of numbers that is the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[test]
fn killed_anywhere_no_address_is_used_twice_and_none_is_lost() {
    if !permitted() {
        return;
    }
    let mut node = Node::new(&["10.244.1.0/27"]);
    let conf = node.conf(&json!({}));
    let pods: Vec<Pod> = (0..8).map(|_| Pod::new()).collect();
    let mut dice = Dice(4711);
    for round in 0..60 {
        let pod = &pods[usize::try_from(dice.roll(8)).unwrap()];
        let command = if dice.roll(5) < 3 { "ADD" } else { "DEL" };
        let mut child = Call::of(command, &conf, pod).spawn();
        std::thread::sleep(Duration::from_micros(dice.roll(40_000)));
        match dice.roll(6) {
            0..=2 => child.kill().unwrap(),
            3 => node.kill(),
            _ => {}
        }
        child.wait().unwrap();
        node.ensure_running();
        assert_unique(&pods, round);
    }
    // The runtime knows of nobody: all of it is garbage.
    let gc = node.conf(&json!({ "cni.dev/valid-attachments": [] }));
    Call::of("GC", &gc, &pods[0]).run().unwrap();
    assert_eq!(node.attached(), [""; 0]);
    assert_eq!(node.free(), 29);
    for pod in &pods {
        assert_eq!(pod.devices(), [""; 0], "{}", pod.id);
    }
    let others: Vec<Pod> = (0..29).map(|_| Pod::new()).collect();
    let given = others.iter().map(|pod| Call::of("ADD", &conf, pod).run().unwrap());
    let given: BTreeSet<String> = given.map(|result| result["ips"][0].to_string()).collect();
    assert_eq!(given.len(), 29);
}

/// No two containers have one address, as `ip` sees it.
fn assert_unique(pods: &[Pod], round: u32) {
    let mut seen = BTreeSet::new();
    for pod in pods.iter().filter(|pod| !pod.devices().is_empty()) {
        for address in pod.addresses("eth0") {
            assert!(seen.insert(address.clone()), "round {round}: {address} twice");
        }
    }
}
