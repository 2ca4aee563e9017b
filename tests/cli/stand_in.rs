//! A loop with fixed answers that stands in for the daemon, behind the real server.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Output, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;

use serde_json::Value;
use tapestry::config::{PortSpec, UnknownUnicast};
use tapestry::control::cluster::{
    ClusterStatus, ExceptionRow, GcReport, GcScope, IpRow, IpState, NodeRow, PodRow, Reached,
};
use tapestry::control::metrics::Attachments;
use tapestry::control::model::{
    BufferStatus, Done, DropRow, FdbCounts, FdbOrigin, FdbRow, FdbScope, FdbStatic, Flushed,
    ObjectOrigin, OffloadRow, OffloadState, PeerRow, PortRow, PortState, Readiness, ReloadReport,
    SegmentRow, Status, Steering, Totals, Traffic, TrunkRow, UnderlayStatus, WorkerRow,
};
use tapestry::control::{Command, ControlSocket, MetricsListener, Refusal, Snapshot, commands};

/// What arrived at the stand-in, in the order of arrival.
#[derive(Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "there are a few of them")]
pub(crate) enum Seen {
    PortAdd(PortSpec, ObjectOrigin),
    PortDel(String),
    FdbList(FdbScope),
    FdbAdd(FdbStatic),
    FdbDel(String, String),
    FdbFlush(FdbScope),
    Drops(bool),
    Reload,
}

/// A server on a socket of its own; it ends when it is dropped.
pub(crate) struct StandIn {
    dir: tempfile::TempDir,
    pub(crate) seen: mpsc::Receiver<Seen>,
    metrics: std::net::SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl StandIn {
    pub(crate) fn start() -> Self {
        Self::with(Vec::new())
    }

    /// One whose FDB has these entries besides its own.
    pub(crate) fn with(more: Vec<FdbRow>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = ControlSocket::bind(&dir.path().join("run/t.sock")).unwrap();
        let listener = MetricsListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let metrics = listener.address().unwrap();
        let (note, seen) = mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let (handle, mut inbox) = commands();
                tokio::spawn(async move {
                    while let Some(command) = inbox.recv().await {
                        answer(command, &note, &more);
                    }
                });
                tokio::spawn(listener.serve(handle.clone(), std::future::pending()));
                let stop = async { drop(stopped.await) };
                socket.serve(handle, stop).await.unwrap();
            });
        });
        Self { dir, seen, metrics, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("run/t.sock")
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        tapestry(&self.socket(), arguments)
    }

    /// stdout of a command that has to succeed.
    pub(crate) fn text(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
        assert_eq!(stderr(&output), "", "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let text = self.text(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap()
    }

    /// Status and body of a request by hand.
    pub(crate) fn http(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        exchange(UnixStream::connect(self.socket()).unwrap(), method, path, "", body)
    }

    pub(crate) fn get_metrics(&self, path: &str, headers: &str) -> (u16, String) {
        exchange(std::net::TcpStream::connect(self.metrics).unwrap(), "GET", path, headers, "")
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(crate) fn exchange(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> (u16, String) {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A server that has seen enough may hang up before the end of the body.
    let _ = stream.write_all(body.as_bytes());
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

pub(crate) fn answer(command: Command, note: &mpsc::Sender<Seen>, more: &[FdbRow]) {
    let seen = |what| drop(note.send(what));
    match command {
        Command::Status(reply) => drop(reply.send(Ok(status()))),
        Command::Ready(reply) => drop(reply.send(Ok(readiness()))),
        Command::Metrics(reply) => drop(reply.send(Ok(Box::new(snapshot())))),
        Command::PortList(reply) => drop(reply.send(Ok(ports()))),
        Command::PortAdd(spec, origin, reply) => {
            let taken = ports().iter().any(|port| port.name == spec.name);
            let unknown = spec.segment.as_deref() == Some("bleu");
            let row = PortRow { name: spec.name.clone(), origin, ..ports().remove(0) };
            let answer = match (taken, unknown) {
                (true, _) => Err(Refusal::refused(format!("port \"{}\" is there", spec.name))),
                (_, true) => Err(Refusal::invalid("no segment \"bleu\"").at("segment")),
                _ => Ok(row),
            };
            seen(Seen::PortAdd(*spec, origin));
            let _ = reply.send(answer);
        }
        Command::PortDel(name, reply) => {
            let known = ports().iter().any(|port| port.name == name);
            let answer =
                if known { Ok(()) } else { Err(Refusal::not_found(format!("no port \"{name}\""))) };
            seen(Seen::PortDel(name));
            let _ = reply.send(answer);
        }
        Command::SegmentList(reply) => drop(reply.send(Ok(segments()))),
        Command::PeerList(reply) => drop(reply.send(Ok(peers()))),
        Command::FdbList(scope, reply) => {
            seen(Seen::FdbList(scope));
            let _ = reply.send(Ok([fdb(), more.to_vec()].concat()));
        }
        Command::FdbAdd(entry, reply) => {
            let row = FdbRow { mac: entry.mac.clone(), ..fdb().remove(1) };
            seen(Seen::FdbAdd(entry));
            let _ = reply.send(Ok(row));
        }
        Command::FdbDel { segment, mac, reply } => {
            seen(Seen::FdbDel(segment, mac));
            let _ = reply.send(Ok(()));
        }
        Command::FdbFlush(scope, reply) => {
            seen(Seen::FdbFlush(scope));
            let _ = reply.send(Ok(Flushed { removed: 17 }));
        }
        Command::Drops { all, reply } => {
            seen(Seen::Drops(all));
            let keep = |row: &DropRow| all || row.count > 0;
            let _ = reply.send(Ok(drops().into_iter().filter(keep).collect()));
        }
        Command::NodeList(reply) => drop(reply.send(Ok(nodes()))),
        Command::NodeRelease(name, reply) => {
            let name = name.unwrap_or_else(|| "node-a".to_owned());
            let known = nodes().iter().any(|node| node.name == name);
            let _ = reply.send(match known {
                true => Ok(Done { done: format!("the share of \"{name}\" is given back") }),
                false => Err(Refusal::not_found(format!("no node \"{name}\""))),
            });
        }
        Command::NodeConfirm(reply) => {
            drop(reply.send(Ok(Done { done: "nodes that are gone: 2".to_owned() })));
        }
        // It has no attachment socket.
        Command::Attach(..) => {}
        Command::PodList(reply) => drop(reply.send(Ok(vec![pod()]))),
        Command::IpList(reply) => drop(reply.send(Ok(ips()))),
        Command::IpRelease(address, reply) => {
            let _ = reply.send(Ok(Done { done: format!("{address} is free") }));
        }
        Command::Gc(GcScope { dry_run }, reply) => {
            let _ = reply.send(Ok(GcReport { dry_run, orphans: vec![pod()] }));
        }
        Command::Reload(reply) => {
            seen(Seen::Reload);
            let changes =
                vec!["port tap-a: mtu 1450 -> 1400".to_owned(), "segment red: added".to_owned()];
            let _ = reply.send(Ok(ReloadReport { changes }));
        }
    }
}

pub(crate) fn traffic(frames: u64, bytes: u64, superframes: u64) -> Traffic {
    Traffic { frames, bytes, superframes }
}

pub(crate) fn readiness() -> Readiness {
    Readiness { ready: false, pending: vec!["port trunk0: no namespace \"vm\"".to_owned()] }
}

pub(crate) fn ports() -> Vec<PortRow> {
    let access = PortRow {
        name: "tap-a".to_owned(),
        segment: Some("blue".to_owned()),
        trunk: Vec::new(),
        ifname: "eth0".to_owned(),
        netns: Some("pod-a".to_owned()),
        mac: "02:00:00:00:0a:01".to_owned(),
        mtu: 1450,
        state: PortState::Up,
        reason: None,
        queues: 2,
        steering: Some(Steering::FlowHash),
        addresses: vec!["10.9.0.1/24".to_owned()],
        rx: traffic(1_234_567, 9_876_543_210, 42),
        tx: traffic(7, 518, 0),
        drops: 3,
        origin: ObjectOrigin::Config,
    };
    let trunk = PortRow {
        name: "trunk0".to_owned(),
        segment: None,
        trunk: vec![
            TrunkRow { vlan: 10, segment: "blue".to_owned() },
            TrunkRow { vlan: 20, segment: "green".to_owned() },
        ],
        ifname: "trunk0".to_owned(),
        netns: None,
        mac: "02:00:00:00:0a:02".to_owned(),
        state: PortState::Down,
        reason: Some("no such device".to_owned()),
        queues: 1,
        steering: None,
        addresses: Vec::new(),
        rx: Traffic::default(),
        tx: Traffic::default(),
        drops: 0,
        origin: ObjectOrigin::Cni,
        ..access.clone()
    };
    vec![access, trunk]
}

pub(crate) fn segments() -> Vec<SegmentRow> {
    let blue = SegmentRow {
        name: "blue".to_owned(),
        vni: 100,
        ports: vec!["tap-a".to_owned(), "trunk0".to_owned()],
        peers: vec!["192.0.2.2".to_owned()],
        multicast: None,
        learning: true,
        aging_ms: 300_000,
        max_macs: 8192,
        unknown_unicast: UnknownUnicast::Flood,
        strict_peers: true,
        strict_header: false,
        fdb: FdbCounts { learned: 2, fixed: 1, control: 0, evictions: 5, moves: 6, damped: 7 },
        origin: ObjectOrigin::Config,
    };
    let green = SegmentRow {
        name: "green".to_owned(),
        vni: 16_777_215,
        ports: Vec::new(),
        peers: Vec::new(),
        multicast: Some("239.1.1.200".to_owned()),
        learning: false,
        fdb: FdbCounts::default(),
        ..blue.clone()
    };
    vec![blue, green]
}

pub(crate) fn peers() -> Vec<PeerRow> {
    let heard = PeerRow {
        address: "192.0.2.2".to_owned(),
        segments: vec!["blue".to_owned(), "green".to_owned()],
        rx: traffic(10, 1000, 1),
        tx: traffic(20, 2000, 2),
        last_heard_ms: Some(1500),
        mtu: Some(1500),
    };
    let silent = PeerRow {
        address: "[2001:db8::3]:4790".to_owned(),
        segments: vec!["blue".to_owned()],
        rx: Traffic::default(),
        last_heard_ms: None,
        mtu: None,
        ..heard.clone()
    };
    vec![heard, silent]
}

pub(crate) fn fdb() -> Vec<FdbRow> {
    let row = |mac: &str, port: Option<&str>, vtep: Option<&str>, origin, age_ms| FdbRow {
        segment: "blue".to_owned(),
        vni: 100,
        mac: mac.to_owned(),
        port: port.map(str::to_owned),
        vtep: vtep.map(str::to_owned),
        origin,
        age_ms,
    };
    vec![
        row("02:00:00:00:0a:01", Some("tap-a"), None, FdbOrigin::Learned, 12_340),
        row("02:00:00:00:0b:01", None, Some("192.0.2.2"), FdbOrigin::Static, 5_400_000),
    ]
}

pub(crate) fn nodes() -> Vec<NodeRow> {
    let text = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let own = NodeRow {
        name: "node-a".to_owned(),
        own: true,
        vtep: "192.0.2.1".to_owned(),
        addresses: text(&["192.0.2.1"]),
        pod_cidrs: text(&["10.244.1.0/24", "fd00:10:0:1::/64"]),
        exceptions: Vec::new(),
        reached: Reached::Local,
        last_heard_ms: None,
        identity: "1f0c".to_owned(),
    };
    let exception = ExceptionRow { net: "10.244.1.9/32".to_owned(), generation: 7 };
    let other = NodeRow {
        name: "node-b".to_owned(),
        own: false,
        vtep: "192.0.2.2:4790".to_owned(),
        addresses: text(&["192.0.2.2", "198.51.100.2"]),
        pod_cidrs: text(&["10.244.2.0/24"]),
        exceptions: vec![exception],
        reached: Reached::Tunnel,
        last_heard_ms: Some(1500),
        identity: "2e1d".to_owned(),
    };
    let silent = NodeRow {
        name: "node-c".to_owned(),
        exceptions: Vec::new(),
        reached: Reached::Route,
        last_heard_ms: None,
        ..other.clone()
    };
    vec![own, other, silent]
}

pub(crate) fn pod() -> PodRow {
    PodRow {
        network: "pods".to_owned(),
        container: "4f2a".to_owned(),
        ifname: "eth0".to_owned(),
        netns: "/run/netns/cni-1".to_owned(),
        addresses: vec!["10.244.1.2".to_owned(), "fd00:10:0:1::2".to_owned()],
        mac: "0a:7a:0a:f4:01:02".to_owned(),
        port: "pod-4f2a".to_owned(),
        since_ms: 61_000,
    }
}

pub(crate) fn ips() -> Vec<IpRow> {
    let row =
        |address: &str, state| IpRow { address: address.to_owned(), state, ..IpRow::default() };
    let pod = pod();
    vec![
        row("10.244.1.1", IpState::Gateway),
        IpRow {
            container: Some(pod.container),
            port: Some(pod.port),
            ..row("10.244.1.2", IpState::Used)
        },
        IpRow { rests_ms: Some(9_000), ..row("10.244.1.3", IpState::Resting) },
    ]
}

/// How the cluster stands in a status that has one.
pub(crate) fn cluster() -> ClusterStatus {
    ClusterStatus {
        networks: vec!["10.244.0.0/16".to_owned()],
        pod_cidrs: vec!["10.244.1.0/24".to_owned()],
        store: "etcd".to_owned(),
        connected: false,
        trouble: Some("connection refused".to_owned()),
        answered_ms_ago: Some(90_000),
        nodes: 3,
        addresses_used: 1,
        addresses_resting: 1,
        addresses_free: 251,
        alarms: vec!["node-d: claims the VTEP of node-b; refused".to_owned()],
    }
}

pub(crate) fn drops() -> Vec<DropRow> {
    let row = |reason: &str, count, port: Option<&str>, peer: Option<&str>| DropRow {
        reason: reason.to_owned(),
        count,
        port: port.map(str::to_owned),
        peer: peer.map(str::to_owned),
    };
    vec![
        row("bad_header", 0, None, None),
        row("unknown_vni", 12, None, Some("192.0.2.2")),
        row("unknown_vni", 30, None, Some("192.0.2.3")),
        row("runt", 3, Some("tap-a"), None),
    ]
}

pub(crate) fn status() -> Status {
    let offload =
        |name: &str, state, degradations| OffloadRow { name: name.to_owned(), state, degradations };
    Status {
        helper: None,
        version: "9.8.7".to_owned(),
        node: "node-a".to_owned(),
        pid: 4242,
        uptime_ms: 5_400_000,
        ready: false,
        pending: readiness().pending,
        underlay: UnderlayStatus {
            address: Some("192.0.2.1".to_owned()),
            interface: Some("eth0".to_owned()),
            port: 4789,
            mtu: Some(1500),
            udp_checksum: true,
            dscp: "inherit".to_owned(),
        },
        workers: vec![
            WorkerRow { id: 0, turns: 11, units: 22 },
            WorkerRow { id: 1, turns: 33, units: 44 },
        ],
        offloads: vec![
            offload("tap_tso", OffloadState::On, 0),
            offload("udp_gso", OffloadState::Degraded, 2),
        ],
        buffers: BufferStatus { receive: 4_194_304, send: 212_992 },
        totals: Totals {
            port_rx: traffic(1, 100, 0),
            port_tx: traffic(2, 200, 0),
            peer_rx: traffic(3, 300, 0),
            peer_tx: traffic(4, 400, 1),
            received: 10,
            forwarded: 7,
            answered: 1,
            dropped: 2,
            socket_drops: 5,
            fdb_entries: 3,
            ports: 2,
            segments: 2,
            peers: 2,
        },
        cluster: Some(cluster()),
    }
}

pub(crate) fn snapshot() -> Snapshot {
    Snapshot {
        status: status(),
        ports: ports(),
        segments: segments(),
        peers: peers(),
        drops: drops(),
        errors: BTreeMap::from([("underlay_send".to_owned(), 9)]),
        attachments: Attachments {
            verbs: vec![("ADD", 40, 2), ("DEL", 30, 0)],
            add_ms: 2500,
            orphans: 3,
        },
    }
}

pub(crate) fn program() -> Process {
    let mut process = Process::new(env!("CARGO_BIN_EXE_tapestry"));
    process.env_remove("TAPESTRY_SOCKET").stdin(Stdio::null());
    process
}

pub(crate) fn tapestry(socket: &Path, arguments: &[&str]) -> Output {
    program().args(arguments).arg("--socket").arg(socket).output().unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
