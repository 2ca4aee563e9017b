//! Addresses from another plugin: Debian's host-local.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
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
    let Ok(entries) = fs::read_dir(dir.join("host-local").join(network)) else {
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
    assert_eq!(given(dir, "pods").len(), 2);
    // GC is of version 1.1.0, and Debian's host-local of one before it.
    let gc = node.conf(&json!({
        "cniVersion": "1.1.0", "ipam": ipam(dir), "cni.dev/valid-attachments": [],
    }));
    Call::of("GC", &gc, &pod).run().unwrap();
    assert_eq!((node.attached().len(), given(dir, "pods")), (0, Vec::new()));
}

/// A plugin that gives each container an address, keeps a file for it, and fails to take back that of
/// one.
fn stubborn(dir: &Path, container: &str) {
    let script = format!(
        r#"#!/bin/sh
file={dir}/$CNI_CONTAINERID
case $CNI_COMMAND in
ADD)
    echo > "$file"
    echo '{{"cniVersion":"1.0.0","ips":[{{"address":"192.0.2.'"${{CNI_CONTAINERID##*-}}"'/24"}}]}}' ;;
DEL)
    [ "$CNI_CONTAINERID" != {container} ] || {{ echo '{{"code":999,"msg":"stubborn"}}'; exit 1; }}
    : > "$file.gone" ;;
GC)
    echo '{{"code":4,"msg":"what is GC?"}}'; exit 1 ;;
esac
"#,
        dir = dir.display()
    );
    let path = dir.join("stubborn");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn an_address_that_is_not_taken_back_keeps_none_of_the_others() {
    if !permitted() {
        return;
    }
    let node = Node::new(&["10.244.1.0/24"]);
    let pods: Vec<Pod> = (0..3).map(|_| Pod::new()).collect();
    let dir = node.dir.path();
    let mut ids: Vec<&str> = pods.iter().map(|pod| pod.id.as_str()).collect();
    ids.sort_unstable();
    stubborn(dir, ids[0]);
    let conf = node.conf(&json!({ "cniVersion": "1.0.0", "ipam": { "type": "stubborn" } }));
    for pod in &pods {
        Call { path: dir.to_owned(), ..Call::of("ADD", &conf, pod) }.run().unwrap();
    }
    let gc = node.conf(&json!({
        "cniVersion": "1.1.0", "ipam": { "type": "stubborn" }, "cni.dev/valid-attachments": [],
    }));
    let gc = Call { path: dir.to_owned(), ..Call::of("GC", &gc, &pods[0]) };
    let error = gc.run().unwrap_err();
    let message = error["msg"].as_str().unwrap();
    assert!(message.contains(ids[0]) && message.contains("stubborn"), "{error}");
    assert!(!message.contains("what is GC"), "{error}");
    let is_gone = |id: &&str| dir.join(format!("{id}.gone")).exists();
    assert_eq!(ids.iter().map(is_gone).collect::<Vec<_>>(), [false, true, true]);
    assert_eq!(node.attached().len(), 0);
}
