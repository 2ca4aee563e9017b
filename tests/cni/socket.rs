//! The attachment socket: who may speak, and what becomes of nonsense.

use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use socket2::{Domain, SockAddr, Socket, Type};
use tapestry::attach::Key;
use tapestry::attach::protocol::{MAX_MESSAGE, Reserve, Reserved};
use tapestry::device::make::{self, Made};
use tapestry::device::spec::{NetnsRef, TapSpec};

use crate::kit::{Call, Node, Pod, permitted};

pub(crate) fn reserve(pod: &Pod) -> Reserve {
    let [network, ifname] = ["pods", "eth0"].map(str::to_owned);
    Reserve {
        key: Key { network, container: pod.id.clone(), ifname },
        netns: pod.path(),
        identity: pod.netns.identity(),
        segment: None,
        wanted: Vec::new(),
        given: Vec::new(),
        routes: Vec::new(),
        mac: None,
        mtu: None,
        host_ports: Vec::new(),
        masquerade: false,
        spoof: false,
    }
}

/// The device as the plugin makes it.
pub(crate) fn device(pod: &Pod, reserved: &Reserved) -> Made {
    let spec = TapSpec {
        netns: Some(NetnsRef(pod.path().display().to_string())),
        ifname: "eth0".to_owned(),
        mac: reserved.mac.unwrap(),
        mtu: reserved.mtu,
        queues: reserved.queues,
        owner: reserved.owner,
        addresses: reserved.addresses.clone(),
        routes: reserved.routes.clone(),
        neighbours: Vec::new(),
        txqueuelen: None,
        persist: false,
        offload: reserved.offload,
    };
    make::make(&spec).unwrap()
}

fn connect(node: &Node) -> Socket {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.connect(&SockAddr::unix(node.socket()).unwrap()).unwrap();
    socket
}

#[test]
fn nonsense_is_answered_or_hung_up_on_and_the_next_one_is_served() {
    if !permitted() {
        return;
    }
    let (node, pod) = (Node::new(&["10.244.1.0/24"]), Pod::new());
    let mode = std::fs::metadata(node.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let deep = "[".repeat(100_000);
    let long = " ".repeat(MAX_MESSAGE + 1);
    for text in ["", "\0", "{}", "nonsense", r#"{"version":9,"verb":"commit"}"#, &deep, &long] {
        let mut socket = connect(&node);
        if socket.send(text.as_bytes()).is_err() {
            // Longer than the socket takes.
            continue;
        }
        let mut answer = vec![0; 4096];
        // Either a refusal, or nothing and the end.
        let len = socket.read(&mut answer).unwrap_or_default();
        let answer = String::from_utf8_lossy(&answer[..len]);
        assert!(len == 0 || answer.contains("refused"), "{answer}");
    }
    // Descriptors that nobody asked for are closed, and those that are no device's are refused.
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut client = node.client();
    assert!(client.attach(1, &[null.as_fd(); 200]).is_err());
    for wrong in [&[null.as_fd(), null.as_fd()][..], &[null.as_fd()], &[]] {
        let mut client = node.client();
        client.reserve(reserve(&pod)).unwrap();
        let error = client.attach(1, wrong).unwrap_err();
        eprintln!("{error}");
        assert_eq!(node.free(), 253, "what was reserved is free again");
    }
    // Another device's descriptors are not taken for this one's.
    let (mut client, other) = (node.client(), Pod::new());
    let reserved = client.reserve(reserve(&pod)).unwrap();
    let made = device(&other, &reserved);
    let queues: Vec<_> = made.queues.iter().map(|queue| queue.as_fd()).collect();
    let error = client.attach(made.facts.ifindex, &queues).unwrap_err().to_string();
    assert!(error.contains("namespace"), "{error}");
    // Whoever sits on a connection keeps nobody out.
    let idle: Vec<Socket> = (0..100).map(|_| connect(&node)).collect();
    Call::of("ADD", &node.conf(&json!({})), &pod).run().unwrap();
    drop(idle);
}

#[test]
fn others_may_not_connect() {
    if !permitted() {
        return;
    }
    let node = Node::new(&["10.244.1.0/24"]);
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(node.socket(), open.clone()).unwrap();
    std::fs::set_permissions(node.dir.path(), open).unwrap();
    // Even where somebody opened the mode: it is asked who it is.
    let script = format!(
        "import socket; s=socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.settimeout(5); \
         s.connect('{}'); s.send(b'{{\"version\":1,\"verb\":\"list\"}}'); print(len(s.recv(99)))",
        node.socket().display()
    );
    let as_nobody = ["-u", "65534", "--", "python3", "-c"];
    let output = Command::new("setpriv")
        .args(["--clear-groups", "--reuid", "65534", "python3", "-c"])
        .arg(&script)
        .output();
    let Ok(output) = output else {
        eprintln!("SKIPPED: no setpriv ({as_nobody:?})");
        return;
    };
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() || printed.trim() == "0", "{output:?}");
    assert!(node.log().contains("not for this user") || !output.status.success(), "{}", node.log());
}
