//! Addresses from another plugin: Debian's host-local.

use std::path::Path;

use serde_json::{Value, json};

use crate::kit::{Call, Node, Pod, installed, permitted};

fn ipam(dir: &Path) -> Value {
    json!({
        "type": "host-local",
        "dataDir": dir.join("host-local"),
        "ranges": [[{ "subnet": "10.9.0.0/24", "gateway": "10.9.0.254" }], [{ "subnet": "fd00:9::/64" }]],
        "routes": [{ "dst": "0.0.0.0/0" }],
    })
}

/// The addresses that host-local has given out for a network.
fn given(dir: &Path, network: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir.join("host-local").join(network)) else {
        return Vec::new();
    };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> =
        names.filter(|name| name.starts_with(|c: char| c.is_ascii_hexdigit())).collect();
    names.sort();
    names
}

fn after(conf: &Value, result: &Value) -> Value {
    let mut conf = conf.clone();
    conf["prevResult"] = result.clone();
    conf
}

#[test]
fn on_a_segment_that_bridges_all_of_it_is_the_plugins() {
    if !permitted() || !installed("host-local") {
        return;
    }
    let (node, pod) = (Node::new(&["10.244.1.0/24"]), Pod::new());
    let dir = node.dir.path();
    let conf = node.conf(&json!({ "cniVersion": "1.0.0", "segment": "blue", "ipam": ipam(dir) }));
    let result = Call::of("ADD", &conf, &pod).run().unwrap();
    assert_eq!(pod.addresses("eth0"), ["10.9.0.1/24", "fd00:9::2/64"]);
    assert_eq!(pod.ip(&["route", "show", "default"])[0]["gateway"], "10.9.0.254");
    assert_eq!(result["ips"][0]["gateway"], "10.9.0.254");
    assert_eq!(given(dir, "pods"), ["10.9.0.1", "fd00:9::2"]);
    Call::of("CHECK", &after(&conf, &result), &pod).run().unwrap();
    for _ in 0..2 {
        Call::of("DEL", &after(&conf, &result), &pod).run().unwrap();
        assert_eq!((given(dir, "pods").len(), pod.devices().len()), (0, 0));
    }
}

#[test]
fn in_the_cluster_its_addresses_are_host_addresses_behind_the_gateway() {
    if !permitted() || !installed("host-local") {
        return;
    }
    let (node, pod) = (Node::new(&["10.244.1.0/24"]), Pod::new());
    let dir = node.dir.path();
    let conf = node.conf(&json!({ "cniVersion": "1.0.0", "ipam": ipam(dir) }));
    let result = Call::of("ADD", &conf, &pod).run().unwrap();
    assert_eq!(pod.addresses("eth0"), ["10.9.0.1/32", "fd00:9::2/128"]);
    assert_eq!(result["interfaces"][0]["mac"], "0a:7a:0a:09:00:01");
    assert_eq!(result["ips"][0]["gateway"], "169.254.1.1");
    assert_eq!(node.free(), 253, "none of our own is used");
}

#[test]
fn what_was_given_is_given_back_when_a_later_step_fails() {
    if !permitted() || !installed("host-local") {
        return;
    }
    let (mut node, pod) = (Node::new(&["10.244.1.0/24"]), Pod::new());
    let dir = node.dir.path().to_owned();
    let conf = node.conf(&json!({ "cniVersion": "1.0.0", "ipam": ipam(&dir) }));
    pod.ip_do(&["link", "add", "eth0", "type", "bridge"]);
    let error = Call::of("ADD", &conf, &pod).run().unwrap_err();
    assert_eq!((&error["code"], given(&dir, "pods").len()), (&100.into(), 0));
    // What it says itself is passed on.
    let mut small = conf.clone();
    small["ipam"]["ranges"] = json!([[{ "subnet": "10.9.0.0/33" }]]);
    let error = Call::of("ADD", &small, &pod).run().unwrap_err();
    assert!(error["msg"].as_str().unwrap().starts_with("IPAM plugin host-local: "), "{error}");
    let mut missing = conf.clone();
    missing["ipam"]["type"] = "no-such-plugin".into();
    let error = Call::of("ADD", &missing, &pod).run().unwrap_err();
    assert!(error["msg"].as_str().unwrap().contains("no-such-plugin"), "{error}");
    // And without a daemon it is not even asked.
    node.kill();
    Call::of("ADD", &conf, &pod).run().unwrap_err();
    assert_eq!(given(&dir, "pods").len(), 0);
}

#[test]
fn garbage_goes_there_too() {
    if !permitted() || !installed("host-local") {
        return;
    }
    let (node, pod) = (Node::new(&["10.244.1.0/24"]), Pod::new());
    let dir = node.dir.path();
    let conf = json!({ "cniVersion": "1.0.0", "ipam": ipam(dir) });
    Call::of("ADD", &node.conf(&conf), &pod).run().unwrap();
    let mut gc = node.conf(&json!({ "ipam": ipam(dir), "cni.dev/valid-attachments": [] }));
    // Which version host-local knows is its own affair: its answer to GC is not asked for.
    gc["cniVersion"] = "1.1.0".into();
    let done = Call::of("GC", &gc, &pod).run();
    assert_eq!(node.attached().len(), 0, "{done:?}");
}
