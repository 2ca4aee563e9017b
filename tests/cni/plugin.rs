//! The plugin's commands as a runtime uses them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::kit::{Call, Node, Pod, eventually, permitted};

const DUAL: [&str; 2] = ["10.244.1.0/24", "fd00:10:244:1::/64"];

/// The configuration for a later call: with what ADD said.
fn after(conf: &Value, result: &Value) -> Value {
    let mut conf = conf.clone();
    conf["prevResult"] = result.clone();
    conf
}

fn address_of(result: &Value) -> String {
    result["ips"][0]["address"].as_str().unwrap().to_owned()
}

#[test]
fn a_container_comes_is_checked_and_goes() {
    if !permitted() {
        return;
    }
    let (node, pod) = (Node::new(&DUAL), Pod::new());
    let conf = node.conf(&json!({ "mtu": 1400 }));
    let result = Call::of("ADD", &conf, &pod).run().unwrap();
    let expected = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{
            "name": "eth0", "mac": "0a:7a:0a:f4:01:02", "mtu": 1400, "sandbox": pod.path(),
        }],
        "ips": [
            { "interface": 0, "address": "10.244.1.2/32", "gateway": "169.254.1.1" },
            { "interface": 0, "address": "fd00:10:244:1::2/128", "gateway": "fe80::1" },
        ],
        "routes": [
            { "dst": "0.0.0.0/0", "gw": "169.254.1.1" },
            { "dst": "::/0", "gw": "fe80::1" },
        ],
        "dns": {},
    });
    assert_eq!(result, expected);
    assert_eq!(pod.addresses("eth0"), ["10.244.1.2/32", "fd00:10:244:1::2/128"]);
    let link = &pod.ip(&["link", "show", "dev", "eth0"])[0];
    assert_eq!((&link["mtu"], &link["operstate"]), (&1400.into(), &"UNKNOWN".into()));
    let lo = &pod.ip(&["link", "show", "dev", "lo"])[0]["flags"];
    assert!(lo.as_array().unwrap().contains(&"UP".into()), "{lo}");
    let neighbours = pod.ip(&["neigh", "show", "nud", "permanent"]);
    assert_eq!(neighbours.as_array().unwrap().len(), 2, "{neighbours}");

    let said = after(&conf, &result);
    Call::of("CHECK", &said, &pod).run().unwrap();
    let tampered: [(&[&str], &[&str], &str); 3] = [
        (
            &["route", "del", "default"],
            &["route", "add", "default", "via", "169.254.1.1", "dev", "eth0"],
            "route 0.0.0.0/0",
        ),
        (
            &["neigh", "del", "fe80::1", "dev", "eth0"],
            &[
                "neigh",
                "replace",
                "fe80::1",
                "lladdr",
                "0e:7a:70:00:00:01",
                "dev",
                "eth0",
                "nud",
                "permanent",
            ],
            "neighbour",
        ),
        (
            &["link", "set", "eth0", "mtu", "1390"],
            &["link", "set", "eth0", "mtu", "1400"],
            "MTU is 1390",
        ),
    ];
    for (undo, redo, word) in tampered {
        pod.ip_do(undo);
        let error = Call::of("CHECK", &said, &pod).run().unwrap_err();
        let message = error["msg"].as_str().unwrap();
        assert!(message.contains(word) && error["code"] == 102, "{undo:?}: {error}");
        pod.ip_do(redo);
        Call::of("CHECK", &said, &pod).run().unwrap_or_else(|error| panic!("{redo:?}: {error}"));
    }

    // With its last address a family loses its routes as well.
    pod.ip_do(&["addr", "del", "10.244.1.2/32", "dev", "eth0"]);
    let error = Call::of("CHECK", &said, &pod).run().unwrap_err();
    assert!(error["msg"].as_str().unwrap().contains("10.244.1.2/32 is missing"), "{error}");

    // A second time is refused, and takes no second address.
    let free = node.free();
    let error = Call::of("ADD", &conf, &pod).run().unwrap_err();
    assert!(error["msg"].as_str().unwrap().contains("attached already"), "{error}");
    assert_eq!(node.free(), free);

    for _ in 0..2 {
        assert_eq!(Call::of("DEL", &said, &pod).run(), Ok(Value::Null));
        assert_eq!((pod.devices().len(), node.attached().len()), (0, 0));
    }
    let error = Call::of("CHECK", &said, &pod).run().unwrap_err();
    assert!(error["msg"].as_str().unwrap().contains("not attached"), "{error}");
    assert_eq!(error["code"], 3);
    // The address rests: the next one has another.
    let next = Call::of("ADD", &conf, &pod).run().unwrap();
    assert_eq!(address_of(&next), "10.244.1.3/32");
    // Without a namespace, and with one that is gone.
    let without = Call { netns: None, ..Call::of("DEL", &conf, &pod) };
    without.run().unwrap();
    assert_eq!(node.attached().len(), 0);
    let gone = Call { netns: Some("/run/netns/no-such".into()), ..without };
    gone.run().unwrap();
}

#[test]
fn each_version_has_its_result() {
    if !permitted() {
        return;
    }
    let node = Node::new(&DUAL);
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        let pod = Pod::new();
        let conf = node.conf(&json!({ "cniVersion": version }));
        let result = Call::of("ADD", &conf, &pod).run().unwrap();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["ips"][1].get("version").is_some(), version < "1.0.0", "{result}");
        if version > "0.3.1" {
            Call::of("CHECK", &after(&conf, &result), &pod).run().unwrap();
        }
        Call::of("DEL", &conf, &pod).run().unwrap();
    }
    let pod = Pod::new();
    let versions = Call::of("VERSION", &json!({ "cniVersion": "1.0.0" }), &pod).run().unwrap();
    let all = json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    assert_eq!((&versions["supportedVersions"], &versions["cniVersion"]), (&all, &"1.0.0".into()));
    let error = Call::of("ADD", &json!({ "cniVersion": "9.0.0" }), &pod).run().unwrap_err();
    assert_eq!((&error["code"], &error["cniVersion"]), (&1.into(), &"9.0.0".into()));
}

#[test]
fn wishes_of_the_runtime_are_met_or_refused_in_words() {
    if !permitted() {
        return;
    }
    let (node, pod, other) = (Node::new(&DUAL), Pod::new(), Pod::new());
    let runtime = json!({
        "ips": ["10.244.1.77"], "mac": "02:00:00:00:00:77",
        // As containerd writes it.
        "portMappings": [{ "HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": "" }],
    });
    let conf = node.conf(&json!({ "runtimeConfig": runtime, "ipMasq": true }));
    let result = Call::of("ADD", &conf, &pod).run().unwrap();
    assert_eq!(pod.addresses("eth0"), ["10.244.1.77/32", "fd00:10:244:1::4d/128"]);
    assert_eq!(result["interfaces"][0]["mac"], "02:00:00:00:00:77");
    let listed = node.client().list().unwrap();
    assert_eq!((listed[0].host_ports[0].host_port, listed.len()), (8080, 1));

    let again = Call::of("ADD", &conf, &other).run().unwrap_err();
    let message = again["msg"].as_str().unwrap();
    assert!(message.contains(&pod.id) && message.contains("10.244.1.77"), "{again}");
    let plain = node.conf(&json!({}));
    let outside = Call { args: "IgnoreUnknown=1;IP=192.0.2.9", ..Call::of("ADD", &plain, &other) };
    let error = outside.run().unwrap_err();
    assert!(error["msg"].as_str().unwrap().contains("not in this node's podCIDR"), "{error}");

    // A name that is taken is left alone, and the address is free again.
    let free = node.free();
    other.ip_do(&["link", "add", "eth0", "type", "bridge"]);
    let error = Call::of("ADD", &plain, &other).run().unwrap_err();
    assert_eq!(error["code"], 100, "{error}");
    assert!(error["msg"].as_str().unwrap().contains("taken by a device of kind bridge"), "{error}");
    assert_eq!((other.devices(), node.free()), (vec!["eth0".to_owned()], free));
    let error = Call::of("ADD", &node.conf(&json!({ "segment": "nowhere" })), &other).run();
    assert!(error.unwrap_err()["msg"].as_str().unwrap().contains("no segment \"nowhere\""));
}

#[test]
fn what_plugins_before_did_is_passed_on() {
    if !permitted() {
        return;
    }
    let (node, pod) = (Node::new(&DUAL), Pod::new());
    let before = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{ "name": "net1", "sandbox": pod.path() }],
        "ips": [{ "interface": 0, "address": "192.0.2.1/24" }],
        "dns": { "nameservers": ["10.96.0.10"] },
    });
    let conf = node.conf(&json!({ "prevResult": before }));
    let result = Call::of("ADD", &conf, &pod).run().unwrap();
    assert_eq!(result["interfaces"][1]["name"], "eth0");
    assert_eq!(
        (&result["ips"][0]["interface"], &result["ips"][1]["interface"]),
        (&0.into(), &1.into())
    );
    assert_eq!(result["dns"]["nameservers"][0], "10.96.0.10");
    Call::of("CHECK", &after(&conf, &result), &pod).run().unwrap();
}

#[test]
fn a_full_pod_cidr_is_told_and_rest_ends_early() {
    if !permitted() {
        return;
    }
    let node = Node::new(&["10.244.1.0/29"]);
    let conf = node.conf(&json!({}));
    let pods: Vec<Pod> = (0..6).map(|_| Pod::new()).collect();
    let status = Call::of("STATUS", &conf, &pods[0]);
    for pod in &pods[..5] {
        assert_eq!(status.run(), Ok(Value::Null));
        Call::of("ADD", &conf, pod).run().unwrap();
    }
    let error = Call::of("ADD", &conf, &pods[5]).run().unwrap_err();
    let words = "podCIDR 10.244.1.0/29 is full: all its 5 addresses are in use";
    assert_eq!((&error["code"], &error["msg"]), (&11.into(), &words.into()));
    let error = status.run().unwrap_err();
    assert_eq!((&error["code"], &error["msg"]), (&50.into(), &words.into()));
    assert_eq!(pods[5].devices().len(), 0);
    Call::of("DEL", &conf, &pods[3]).run().unwrap();
    assert_eq!(address_of(&Call::of("ADD", &conf, &pods[5]).run().unwrap()), "10.244.1.5/32");
}

#[test]
fn a_hundred_at_once_have_a_hundred_addresses() {
    if !permitted() {
        return;
    }
    let node = Node::new(&DUAL);
    let conf = node.conf(&json!({}));
    let pods: Vec<Pod> = (0..100).map(|_| Pod::new()).collect();
    let all = |command| -> Vec<Value> {
        let calls = pods.iter().map(|pod| Call::of(command, &conf, pod).spawn());
        let children: Vec<_> = calls.collect();
        let outputs = children.into_iter().map(|child| child.wait_with_output().unwrap());
        let printed = outputs.map(|output| {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            serde_json::from_slice(&output.stdout).unwrap_or_default()
        });
        printed.collect()
    };
    let given: BTreeSet<String> = all("ADD").iter().map(address_of).collect();
    assert_eq!((given.len(), node.attached().len()), (100, 100));
    all("DEL");
    assert_eq!((node.attached().len(), node.free()), (0, 253));
}

#[test]
fn garbage_is_collected_in_its_own_network_only() {
    if !permitted() {
        return;
    }
    let node = Node::new(&DUAL);
    let (conf, other) = (node.conf(&json!({})), node.conf(&json!({ "name": "other" })));
    let pods: Vec<Pod> = (0..3).map(|_| Pod::new()).collect();
    Call::of("ADD", &conf, &pods[0]).run().unwrap();
    Call::of("ADD", &conf, &pods[1]).run().unwrap();
    Call::of("ADD", &other, &pods[2]).run().unwrap();
    let valid = json!([{ "containerID": pods[1].id, "ifname": "eth0" }]);
    let gc = node.conf(&json!({ "cni.dev/valid-attachments": valid }));
    Call::of("GC", &gc, &pods[0]).run().unwrap();
    let mut left = vec![pods[1].id.clone(), pods[2].id.clone()];
    left.sort();
    assert_eq!((node.attached(), pods[0].devices().len()), (left, 0));
    let error = Call::of("GC", &conf, &pods[0]).run().unwrap_err();
    assert_eq!(error["code"], 7, "without a list nothing is garbage: {error}");
}

#[test]
fn pods_outlive_the_daemon_and_what_is_deleted_meanwhile_is_gone_after_it() {
    if !permitted() {
        return;
    }
    let mut node = Node::new(&DUAL);
    let conf = node.conf(&json!({}));
    let (kept, deleted) = (Pod::new(), Pod::new());
    let result = Call::of("ADD", &conf, &kept).run().unwrap();
    let index = kept.ip(&["link", "show", "dev", "eth0"])[0]["ifindex"].clone();
    Call::of("ADD", &conf, &deleted).run().unwrap();
    node.kill();
    let status = Call::of("STATUS", &conf, &kept).run().unwrap_err();
    assert_eq!(status["code"], 50, "{status}");
    let error = Call::of("ADD", &conf, &Pod::new()).run().unwrap_err();
    assert_eq!(error["code"], 11, "{error}");
    let without = Call { netns: None, ..Call::of("DEL", &conf, &deleted) };
    for _ in 0..2 {
        assert_eq!(without.run(), Ok(Value::Null));
    }
    node.start();
    assert_eq!((node.attached(), deleted.devices().len()), (vec![kept.id.clone()], 0));
    assert_eq!(kept.ip(&["link", "show", "dev", "eth0"])[0]["ifindex"], index);
    Call::of("CHECK", &after(&conf, &result), &kept).run().unwrap();
    // The same container comes again: what was left for the one before is not for this one.
    Call::of("ADD", &conf, &deleted).run().unwrap();
    node.kill();
    node.start();
    assert_eq!(node.attached().len(), 2);
}

#[test]
fn another_pod_cidr_under_running_pods_keeps_them() {
    if !permitted() {
        return;
    }
    let mut node = Node::new(&["10.244.1.0/24"]);
    let conf = node.conf(&json!({}));
    let (old, new) = (Pod::new(), Pod::new());
    let result = Call::of("ADD", &conf, &old).run().unwrap();
    node.kill();
    node.configure(&["10.244.9.0/24"]);
    node.start();
    assert!(node.log().contains("the podCIDR changed under running pods"), "{}", node.log());
    Call::of("CHECK", &after(&conf, &result), &old).run().unwrap();
    assert_eq!(address_of(&Call::of("ADD", &conf, &new).run().unwrap()), "10.244.9.2/32");
    Call::of("DEL", &conf, &old).run().unwrap();
    assert_eq!(node.attached(), std::slice::from_ref(&new.id));
}

#[test]
fn a_namespace_that_vanishes_without_a_word_is_found() {
    if !permitted() {
        return;
    }
    let node = Node::new(&DUAL);
    let conf = node.conf(&json!({}));
    let (pod, other) = (Pod::new(), Pod::new());
    Call::of("ADD", &conf, &pod).run().unwrap();
    Call::of("ADD", &conf, &other).run().unwrap();
    let id = pod.id.clone();
    drop(pod);
    assert!(eventually(Duration::from_secs(25), || node.attached() == [other.id.clone()]), "{id}");
    assert_eq!(node.free(), 252);
}

#[test]
fn the_command_line_shows_pods_and_addresses() {
    if !permitted() {
        return;
    }
    let node = Node::new(&["10.244.1.0/24"]);
    let conf = node.conf(&json!({}));
    let (pod, gone) = (Pod::new(), Pod::new());
    Call::of("ADD", &conf, &pod).run().unwrap();
    Call::of("ADD", &conf, &gone).run().unwrap();
    Call::of("DEL", &conf, &gone).run().unwrap();
    let pods = node.cli(&["pod", "list"]);
    assert_eq!(
        (pods.as_array().unwrap().len(), &pods[0]["container"]),
        (1, &pod.id.clone().into())
    );
    assert_eq!(pods[0]["addresses"], json!(["10.244.1.2"]));
    let states = |node: &Node| -> Vec<(String, String)> {
        let rows = node.cli(&["ip", "list"]);
        let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
        let rows = rows.as_array().unwrap().iter();
        rows.map(|row| (text(row, "address"), text(row, "state"))).collect()
    };
    let used = ("10.244.1.2".to_owned(), "used".to_owned());
    let resting = ("10.244.1.3".to_owned(), "resting".to_owned());
    let before = states(&node);
    assert!(before.contains(&used) && before.contains(&resting), "{before:?}");
    node.cli(&["ip", "release", "10.244.1.3"]);
    let after = states(&node);
    assert!(after.contains(&used) && !after.contains(&resting), "{after:?}");

    let id = pod.id.clone();
    drop(pod);
    let orphans = || node.cli(&["gc", "--dry-run"])["orphans"].clone();
    assert!(eventually(Duration::from_secs(5), || orphans()[0]["container"] == id.as_str()));
    node.cli(&["gc"]);
    assert_eq!((orphans(), node.attached().len()), (json!([]), 0));
}

#[test]
fn an_add_is_quick() {
    if !permitted() {
        return;
    }
    let node = Node::new(&DUAL);
    let conf = node.conf(&json!({}));
    let pods: Vec<Pod> = (0..15).map(|_| Pod::new()).collect();
    let mut took: Vec<Duration> = Vec::new();
    for pod in &pods {
        let begun = Instant::now();
        Call::of("ADD", &conf, pod).run().unwrap();
        took.push(begun.elapsed());
    }
    took.sort();
    eprintln!("ADD: median {:?}, slowest {:?}", took[7], took[14]);
    // Unoptimised, and beside all the other tests; alone it is a tenth of this.
    assert!(took[7] < Duration::from_millis(500), "{took:?}");
}

#[test]
fn what_is_no_longer_configured_keeps_its_address_and_can_be_removed() {
    if !permitted() {
        return;
    }
    let mut node = Node::new(&["10.244.1.0/24"]);
    let (conf, bridged) = (node.conf(&json!({})), node.conf(&json!({ "segment": "blue" })));
    let (pod, blue, next) = (Pod::new(), Pod::new(), Pod::new());
    let address = address_of(&Call::of("ADD", &conf, &pod).run().unwrap());
    Call::of("ADD", &bridged, &blue).run().unwrap();
    node.kill();
    // The pod network has another name: what was attached to the one before fits nowhere.
    let path = node.dir.path().join("tapestry.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let renamed = text.replace("[cluster]", "[cluster]\nname = \"other\"");
    std::fs::write(&path, renamed).unwrap();
    node.start();
    assert!(node.log().contains("not restored"), "{}", node.log());
    let mut both = vec![pod.id.clone(), blue.id.clone()];
    both.sort();
    assert_eq!((node.attached(), node.free()), (both, 252));
    assert_ne!(address_of(&Call::of("ADD", &conf, &next).run().unwrap()), address);
    // Its namespace is still there: it is no leak.
    assert_eq!(node.cli(&["gc", "--dry-run"])["orphans"], json!([]));
    assert_eq!((node.attached().len(), pod.devices().len()), (3, 1));
    Call::of("DEL", &conf, &pod).run().unwrap();
    assert_eq!((node.attached().len(), pod.devices().len(), node.free()), (2, 0, 252));
}

#[test]
fn what_rests_rests_over_a_restart() {
    if !permitted() {
        return;
    }
    let mut node = Node::new(&["10.244.1.0/24"]);
    let conf = node.conf(&json!({}));
    let (pod, next) = (Pod::new(), Pod::new());
    Call::of("ADD", &conf, &pod).run().unwrap();
    Call::of("DEL", &conf, &pod).run().unwrap();
    let kept = node.dir.path().join("state/addresses.json");
    let is_kept = || std::fs::read_to_string(&kept).is_ok_and(|text| text.contains("10.244.1.2"));
    assert!(eventually(Duration::from_secs(10), is_kept));
    node.kill();
    node.start();
    let rows = node.cli(&["ip", "list"]);
    let resting = |row: &Value| row["address"] == "10.244.1.2" && row["state"] == "resting";
    assert!(rows.as_array().unwrap().iter().any(resting), "{rows}");
    assert_eq!(address_of(&Call::of("ADD", &conf, &next).run().unwrap()), "10.244.1.3/32");
}
