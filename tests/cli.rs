//! The command line and the control socket: the built program against the real server, behind
//! which a loop with fixed answers stands in for the daemon.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "cli/metrics.rs"]
mod metrics;
#[path = "cli/socket.rs"]
mod socket;
#[path = "cli/stand_in.rs"]
mod stand_in;

use std::io::{Read, Write};
use std::process::Stdio;

use serde_json::{Value, json};
use stand_in::{Seen, StandIn, fdb, program, stderr, tapestry};
use tapestry::config::PortSpec;
use tapestry::control::model::{FdbRow, FdbScope, FdbStatic, ObjectOrigin, SegmentRow, Status};

// ---- tables -----------------------------------------------------------------------------------

#[test]
fn tables_are_these() {
    let daemon = StandIn::start();
    let rows: &[(&[&str], &str)] = &[
        (&["port", "list"], "\
NAME    SEGMENT           IFNAME  NETNS  MAC                 MTU  STATE                  QUEUES  RX-FRAMES    RX-BYTES  TX-FRAMES  TX-BYTES  DROPS  ORIGIN
tap-a   blue              eth0    pod-a  02:00:00:00:0a:01  1450  up                          2    1234567  9876543210          7       518      3  config
trunk0  10=blue,20=green  trunk0  -      02:00:00:00:0a:02  1450  down (no such device)       1          0           0          0         0      0  cni
"),
        (&["segment", "list"], "\
NAME        VNI  PORTS         PEERS              LEARNING  AGING  LEARNED  STATIC  CONTROL  MAX-MACS  ORIGIN
blue        100  tap-a,trunk0  192.0.2.2          on        5m           2       1        0      8192  config
green  16777215  -             group=239.1.1.200  off       5m           0       0        0      8192  config
"),
        (&["peer", "list"], "\
ADDRESS             SEGMENTS    RX-FRAMES  RX-BYTES  TX-FRAMES  TX-BYTES  LAST-HEARD   MTU
192.0.2.2           blue,green         10      1000         20      2000  1.5s ago    1500
[2001:db8::3]:4790  blue                0         0         20      2000  never          -
"),
        (&["fdb", "list"], "\
SEGMENT  VNI  MAC                WHERE           ORIGIN   AGE
blue     100  02:00:00:00:0a:01  port tap-a      learned  12.3s
blue     100  02:00:00:00:0b:01  vtep 192.0.2.2  static   1h30m
"),
        (&["drops"], "\
REASON       COUNT  WHERE
unknown_vni     12  peer 192.0.2.2
unknown_vni     30  peer 192.0.2.3
runt             3  port tap-a
"),
        (&["drops", "--all"], "\
REASON       COUNT  WHERE
bad_header       0  -
unknown_vni     12  peer 192.0.2.2
unknown_vni     30  peer 192.0.2.3
runt             3  port tap-a
"),
        (&["node", "list"], "\
NAME    VTEP            POD-CIDRS                       REACHED  LAST-HEARD  ADDRESSES               MORE
node-a  192.0.2.1       10.244.1.0/24,fd00:10:0:1::/64  local    -           192.0.2.1               -
node-b  192.0.2.2:4790  10.244.2.0/24                   tunnel   1.5s ago    192.0.2.2,198.51.100.2  10.244.1.9/32@7
node-c  192.0.2.2:4790  10.244.2.0/24                   route    never       192.0.2.2,198.51.100.2  -
"),
        (&["node", "release", "node-b"], "the share of \"node-b\" is given back\n"),
        (&["node", "release"], "the share of \"node-a\" is given back\n"),
        (&["node", "confirm"], "nodes that are gone: 2\n"),
        (&["pod", "list"], "\
NETWORK  CONTAINER  IFNAME  ADDRESSES                  MAC                PORT      SINCE  NETNS
pods     4f2a       eth0    10.244.1.2,fd00:10:0:1::2  0a:7a:0a:f4:01:02  pod-4f2a  1m1s   /run/netns/cni-1
"),
        (&["ip", "list"], "\
ADDRESS     STATE             CONTAINER  PORT
10.244.1.1  gateway           -          -
10.244.1.2  used              4f2a       pod-4f2a
10.244.1.3  resting, 9s more  -          -
"),
        (&["ip", "release", "10.244.1.3"], "10.244.1.3 is free\n"),
        (&["gc"], "4f2a eth0 10.244.1.2,fd00:10:0:1::2: removed\n"),
        (&["gc", "--dry-run"], "4f2a eth0 10.244.1.2,fd00:10:0:1::2: would be removed\n"),
        (&["reload"], "port tap-a: mtu 1450 -> 1400\nsegment red: added\n"),
        (&["port", "del", "tap-a"], "port \"tap-a\" is removed\n"),
        (&["fdb", "del", "--segment", "blue", "--mac", "02:00:00:00:0a:01"], "02:00:00:00:0a:01 in segment \"blue\" is removed\n"),
        (&["fdb", "flush"], "17 entries removed\n"),
        (&["status"], "\
version       9.8.7
node          node-a
pid           4242
uptime        1h30m
ready         no
pending       port trunk0: no namespace \"vm\"
underlay      192.0.2.1 (eth0) port 4789 mtu 1500 udp-checksum on dscp inherit
buffers       receive 4194304 send 212992
worker        0 turns 11 units 22
worker        1 turns 33 units 44
offload       tap_tso on
offload       udp_gso degraded (given up 2 times)
pods          10.244.1.0/24 of 10.244.0.0/16 nodes 3
store         etcd does not answer, last answer 1m30s ago: connection refused
addresses     used 1 resting 1 free 251
alarm         node-d: claims the VTEP of node-b; refused
objects       ports 2 segments 2 peers 2 fdb-entries 3
ports rx      frames 1 bytes 100 superframes 0
ports tx      frames 2 bytes 200 superframes 0
peers rx      frames 3 bytes 300 superframes 0
peers tx      frames 4 bytes 400 superframes 1
frames        received 10 forwarded 7 answered 1 dropped 2
socket drops  5
"),
    ];
    for (arguments, wanted) in rows {
        assert_eq!(daemon.text(arguments), *wanted, "{arguments:?}");
    }
}

// ---- JSON -------------------------------------------------------------------------------------

#[test]
fn json_is_that_of_the_contract() {
    let daemon = StandIn::start();
    assert_eq!(
        daemon.json(&["fdb", "list"]),
        json!([
            {"segment": "blue", "vni": 100, "mac": "02:00:00:00:0a:01", "port": "tap-a", "origin": "learned", "age_ms": 12340},
            {"segment": "blue", "vni": 100, "mac": "02:00:00:00:0b:01", "vtep": "192.0.2.2", "origin": "static", "age_ms": 5_400_000},
        ])
    );
    assert_eq!(
        daemon.json(&["drops"]),
        json!([
            {"reason": "unknown_vni", "count": 12, "peer": "192.0.2.2"},
            {"reason": "unknown_vni", "count": 30, "peer": "192.0.2.3"},
            {"reason": "runt", "count": 3, "port": "tap-a"},
        ])
    );
    let ports = daemon.json(&["port", "list"]);
    let superset = |row: &Value, wanted: Value| {
        for (key, value) in wanted.as_object().unwrap() {
            assert_eq!(&row[key], value, "{key}");
        }
    };
    superset(
        &ports[0],
        json!({
            "name": "tap-a", "segment": "blue", "ifname": "eth0", "netns": "pod-a",
            "mac": "02:00:00:00:0a:01", "mtu": 1450, "state": "up", "queues": 2, "drops": 3,
            "origin": "config",
            "rx": {"frames": 1_234_567, "bytes": 9_876_543_210_u64, "superframes": 42},
            "tx": {"frames": 7, "bytes": 518, "superframes": 0},
        }),
    );
    superset(
        &ports[1],
        json!({
            "segment": null, "netns": null, "state": "down", "reason": "no such device",
            "trunk": [{"vlan": 10, "segment": "blue"}, {"vlan": 20, "segment": "green"}],
        }),
    );
    superset(
        &daemon.json(&["peer", "list"])[0],
        json!({
            "address": "192.0.2.2", "segments": ["blue", "green"], "last_heard_ms": 1500, "mtu": 1500,
        }),
    );
    let status: Status = serde_json::from_value(daemon.json(&["status"])).unwrap();
    assert_eq!(status, stand_in::status());
    let segments: Vec<SegmentRow> =
        serde_json::from_value(daemon.json(&["segment", "list"])).unwrap();
    assert_eq!(segments, stand_in::segments());
    assert_eq!(daemon.json(&["fdb", "flush"]), json!({"removed": 17}));
    assert_eq!(daemon.json(&["reload"])["changes"].as_array().unwrap().len(), 2);
    assert_eq!(daemon.json(&["port", "del", "tap-a"])["done"], "port \"tap-a\" is removed");
}

// ---- what the daemon is asked -----------------------------------------------------------------

#[test]
fn what_is_typed_is_what_is_asked() {
    let daemon = StandIn::start();
    let text = |text: &str| Some(text.to_owned());
    daemon.text(&[
        "port",
        "add",
        "web",
        "--segment",
        "blue",
        "--netns",
        "pod-w",
        "--ifname",
        "eth1",
        "--mac",
        "02:00:00:00:00:07",
        "--address",
        "10.9.0.7/24",
        "--address",
        "2001:db8::7/64",
        "--mtu",
        "1400",
    ]);
    let web = PortSpec {
        name: "web".to_owned(),
        segment: text("blue"),
        netns: text("pod-w"),
        ifname: text("eth1"),
        mac: text("02:00:00:00:00:07"),
        addresses: vec!["10.9.0.7/24".to_owned(), "2001:db8::7/64".to_owned()],
        mtu: Some(1400),
        ..PortSpec::default()
    };
    assert_eq!(daemon.seen.recv().unwrap(), Seen::PortAdd(web, ObjectOrigin::Api));

    daemon.text(&["port", "add", "vm", "--trunk", "10=blue,20=green", "--native", "white"]);
    let Seen::PortAdd(vm, _) = daemon.seen.recv().unwrap() else { panic!("a port") };
    let vlans: Vec<(u32, &str)> =
        vm.trunk.iter().map(|entry| (entry.vlan, entry.segment.as_str())).collect();
    assert_eq!(vlans, [(10, "blue"), (20, "green")]);
    assert_eq!((vm.segment, vm.native.as_deref()), (None, Some("white")));

    let scope = ["--segment", "blü e&x", "--port", "p", "--vtep", "2001:db8::2", "--mac", "m"];
    let whole = FdbScope {
        segment: text("blü e&x"),
        port: text("p"),
        vtep: text("2001:db8::2"),
        mac: text("m"),
    };
    daemon.text(&[&["fdb", "list"], scope.as_slice()].concat());
    assert_eq!(daemon.seen.recv().unwrap(), Seen::FdbList(whole.clone()));
    daemon.text(&[&["fdb", "flush"], scope.as_slice()].concat());
    assert_eq!(daemon.seen.recv().unwrap(), Seen::FdbFlush(whole));
    daemon.text(&["fdb", "flush"]);
    assert_eq!(daemon.seen.recv().unwrap(), Seen::FdbFlush(FdbScope::default()));

    daemon.text(&["fdb", "add", "--segment", "blue", "--mac", "m", "--vtep", "192.0.2.2"]);
    let entry = FdbStatic {
        segment: "blue".to_owned(),
        mac: "m".to_owned(),
        port: None,
        vtep: text("192.0.2.2"),
    };
    assert_eq!(daemon.seen.recv().unwrap(), Seen::FdbAdd(entry));
    daemon.text(&["fdb", "del", "--segment", "a/b?c", "--mac", "m"]);
    let gone = Seen::FdbDel("a/b?c".to_owned(), "m".to_owned());
    assert_eq!(daemon.seen.recv().unwrap(), gone);
    daemon.text(&["drops", "--all"]);
    assert_eq!(daemon.seen.recv().unwrap(), Seen::Drops(true));
    daemon.text(&["reload"]);
    assert_eq!(daemon.seen.recv().unwrap(), Seen::Reload);
    daemon.run(&["port", "del", "a/b c"]);
    assert_eq!(daemon.seen.recv().unwrap(), Seen::PortDel("a/b c".to_owned()));

    let (code, body) =
        daemon.http("POST", "/v1/ports?origin=cni", r#"{"name":"p","segment":"blue"}"#);
    assert_eq!(code, 201, "{body}");
    let Seen::PortAdd(_, origin) = daemon.seen.recv().unwrap() else { panic!("a port") };
    assert_eq!(origin, ObjectOrigin::Cni);
}

// ---- exit codes -------------------------------------------------------------------------------

#[test]
fn wrong_usage_is_two() {
    let rows: &[&[&str]] = &[
        &["fly"],
        &["port"],
        &["port", "add", "x"],
        &["port", "add", "x", "--segment", "a", "--trunk", "1=b"],
        &["port", "add", "x", "--trunk", "blue"],
        &["port", "add", "x", "--trunk", "ten=blue"],
        &["port", "add", "x", "--segment", "a", "--native", "b"],
        &["port", "add", "x", "--segment", "a", "--mtu", "big"],
        &["port", "del"],
        &["fdb", "add", "--segment", "a", "--mac", "m"],
        &["fdb", "add", "--segment", "a", "--mac", "m", "--port", "p", "--vtep", "v"],
        &["fdb", "del", "--segment", "a"],
        &["status", "--colour"],
        &["drops", "some"],
        &["check", "--config"],
    ];
    for arguments in rows {
        let output = program().args(*arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_refusal_is_one_with_its_reason() {
    let daemon = StandIn::start();
    let rows: &[(&[&str], &str)] = &[
        (&["port", "del", "nobody"], "no port \"nobody\""),
        (&["port", "add", "tap-a", "--segment", "blue"], "port \"tap-a\" is there"),
        (&["port", "add", "x", "--segment", "bleu"], "segment: no segment \"bleu\""),
    ];
    for (arguments, reason) in rows {
        for json in [false, true] {
            let mut arguments = arguments.to_vec();
            arguments.extend(json.then_some("--json"));
            let output = daemon.run(&arguments);
            assert_eq!(output.status.code(), Some(1), "{arguments:?}");
            assert_eq!(stderr(&output), format!("tapestry: {reason}\n"), "{arguments:?}");
            assert!(output.stdout.is_empty(), "{arguments:?}");
        }
    }
}

#[test]
fn a_daemon_that_is_not_there_is_three() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = dir.path().join("nowhere.sock");
    let stale = dir.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let verbs: &[&[&str]] = &[
        &["status"],
        &["port", "list"],
        &["port", "del", "x"],
        &["segment", "list"],
        &["peer", "list"],
        &["fdb", "list"],
        &["fdb", "flush"],
        &["drops"],
        &["reload"],
    ];
    for verb in verbs {
        for socket in [&nowhere, &stale, &file] {
            let output = tapestry(socket, verb);
            assert_eq!(output.status.code(), Some(3), "{verb:?} {socket:?}");
            assert!(stderr(&output).contains(socket.to_str().unwrap()), "{}", stderr(&output));
            assert!(stderr(&output).contains("TAPESTRY_SOCKET"), "{}", stderr(&output));
        }
    }
    let output = program().env("TAPESTRY_SOCKET", &nowhere).arg("status").output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("nowhere.sock"));
}

#[test]
fn what_is_no_daemon_is_three() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let thread = std::thread::spawn(move || {
        for answer in ["SSH-2.0-OpenSSH\r\n", "", "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhey"]
        {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 16];
            stream.read_exact(&mut asked).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    for _ in 0..3 {
        let output = tapestry(&socket, &["status"]);
        assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    }
    thread.join().unwrap();
}

#[test]
fn the_environment_names_the_socket_and_the_option_wins() {
    let daemon = StandIn::start();
    let output = program().env("TAPESTRY_SOCKET", daemon.socket()).arg("status").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let output = program()
        .env("TAPESTRY_SOCKET", "/nowhere/at/all")
        .args(["status", "--socket"])
        .arg(daemon.socket())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn check_says_everything_and_is_zero_or_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t.toml");
    let check = |json: bool| {
        let mut process = program();
        process.args(["check", "--config"]).arg(&file);
        if json {
            process.arg("--json");
        }
        process.output().unwrap()
    };
    std::fs::write(&file, "[underlay]\naddress = \"192.0.2.1\"\n").unwrap();
    let output = check(false);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let wanted = format!("{}: ok, 0 segments, 0 ports\n", file.display());
    assert_eq!(String::from_utf8_lossy(&output.stdout), wanted);
    let report: Value = serde_json::from_slice(&check(true).stdout).unwrap();
    assert_eq!((&report["ok"], &report["errors"]), (&json!(true), &json!([])));

    std::fs::write(&file, "[underlay]\nport = 0\n[[port]]\nname = \"a\"\nsegment = \"bleu\"\n")
        .unwrap();
    let output = check(false);
    assert_eq!(output.status.code(), Some(1));
    for wanted in [
        ":1:2: underlay.address: missing",
        ":2:1: underlay.port: 0 is",
        ":5:1: port[0].segment: no segment \"bleu\"",
    ] {
        assert!(stderr(&output).contains(wanted), "{}", stderr(&output));
    }
    let output = check(true);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["errors"].as_array().unwrap().len(), 3);
    assert_eq!(
        report["errors"][2],
        json!({
            "path": "port[0].segment", "message": "no segment \"bleu\"", "line": 5, "column": 1,
        })
    );

    std::fs::remove_file(&file).unwrap();
    let output = check(false);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(file.to_str().unwrap()));
}

#[test]
fn help_and_version_are_zero() {
    let rows: &[&[&str]] = &[
        &["--help"],
        &["run", "--help"],
        &["teardown", "--help"],
        &["check", "--help"],
        &["reload", "--help"],
        &["status", "--help"],
        &["port", "--help"],
        &["port", "list", "--help"],
        &["port", "add", "--help"],
        &["port", "del", "--help"],
        &["segment", "list", "--help"],
        &["peer", "list", "--help"],
        &["fdb", "list", "--help"],
        &["fdb", "add", "--help"],
        &["fdb", "del", "--help"],
        &["fdb", "flush", "--help"],
        &["drops", "--help"],
    ];
    for arguments in rows {
        let output = program().args(*arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("--json") && text.contains("/run/tapestry/tapestry.sock"), "{text}");
    }
    let output = program().args(["check", "--help"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("/etc/tapestry/tapestry.toml"));
    let output = program().arg("--version").output().unwrap();
    let wanted = format!("tapestry {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8_lossy(&output.stdout), wanted);
}

#[test]
fn a_closed_pipe_is_quiet() {
    let row = |n: u32| FdbRow { mac: format!("{n}"), ..fdb().remove(0) };
    let daemon = StandIn::with((0..20_000).map(row).collect());
    for arguments in [&["fdb", "list"][..], &["fdb", "list", "--json"], &["--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = program()
            .args(arguments)
            .arg("--socket")
            .arg(daemon.socket())
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert_eq!(stderr(&output), "", "{arguments:?}");
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output =
        program().args(["status", "--socket", "/nowhere"]).stderr(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "stderr closed");
}
