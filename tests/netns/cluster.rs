//! Pods of one cluster: each reaches each, its node and the other nodes, by its own address.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lab::cluster::{Cluster, ClusterPlan, GATEWAY, gateway_addresses};
use lab::overlay::Pod;
use lab::tool::eventually;
use lab::traffic::lasting::Talks;
use lab::traffic::{ping, tcp};
use lab::world::Space;
use socket2::{Domain, Socket, Type};

use super::common::{exchange_cleanly, row, rows, still_forwarding, tapestry};

pub(crate) fn plugin() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_tapestry-cni"))
}

pub(crate) fn start(plan: &ClusterPlan) -> Result<Cluster> {
    Cluster::start(&tapestry(), plugin(), plan)
}

/// How long something may take that follows from what a store says.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until the first `count` nodes know each other, and nobody else.
pub(crate) fn know_each_other(cluster: &Cluster, count: usize) -> Result<()> {
    eventually(PATIENCE, &format!("{count} nodes know each other"), || {
        let mut daemons = cluster.overlay.daemons.iter().take(count);
        daemons.try_fold(true, |all, daemon| Ok(all && rows(daemon, "node list")?.len() == count))
    })
}

/// Waits until each daemon says that its store answers, or that it does not.
pub(crate) fn are_connected(cluster: &Cluster, connected: bool) -> Result<()> {
    eventually(PATIENCE, &format!("connected: {connected}"), || {
        cluster.overlay.daemons.iter().try_fold(true, |all, daemon| {
            Ok(all && daemon.json("status")?["cluster"]["connected"] == connected)
        })
    })
}

/// Each pod talks to the next one, and the last one to the first.
pub(crate) fn talk_in_a_ring(pods: &[Pod]) -> Result<Talks> {
    let mut talks = Talks::default();
    for (from, to) in pods.iter().zip(pods.iter().cycle().skip(1)) {
        for host in to.hosts() {
            talks.open(&from.space, &to.space, host)?;
        }
    }
    Ok(talks)
}

/// The first pod reaches each of the others.
pub(crate) fn forward_to_each(pods: &[Pod]) -> Result<()> {
    let (first, others) = pods.split_first().context("no pods")?;
    others.iter().try_for_each(|pod| still_forwarding(first, pod))
}

/// A pod on each of two nodes, and a second one on the first.
fn three_pods(cluster: &Cluster) -> Result<[Pod; 3]> {
    Ok([cluster.add_pod(0, "a")?, cluster.add_pod(0, "b")?, cluster.add_pod(1, "c")?])
}

/// What comes of a connection to a port that nobody listens on.
fn error_from(space: &Space, to: IpAddr) -> Result<ErrorKind> {
    let to = SocketAddr::new(to, 9);
    // A call that waits, with a limit: an error that comes while a call that does not wait is on its way
    // out may be lost to whoever asks for it later.
    let connect = || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_write_timeout(Some(Duration::from_secs(5)))?;
        socket.connect(&to.into())
    };
    Ok(space.run(connect)?.err().context("a connection to nobody")?.kind())
}

/// Sends a datagram from an address that the device has.
fn say(space: &Space, from: IpAddr, to: IpAddr) -> Result<()> {
    space.run(|| {
        let socket = UdpSocket::bind(SocketAddr::new(from, 0))?;
        socket.send_to(b"it was not me", SocketAddr::new(to, 9)).map(|_| ())
    })??;
    Ok(())
}

/// Before there is any pod: the gateway ports are there, and the nodes reach each other by them.
pub(crate) fn nodes_reach_each_others_gateways() -> Result<()> {
    let mut cluster = start(&ClusterPlan { nodes: 3, ..ClusterPlan::default() })?;
    for node in &cluster.overlay.nodes {
        for number in 1..=3 {
            for host in gateway_addresses(number)? {
                ping::ping(&node.space, host, 2, 56)
                    .with_context(|| format!("{} to {host}", node.space.name()))?;
            }
        }
    }
    cluster.assert_sound()
}

pub(crate) fn each_pod_reaches_each_pod() -> Result<()> {
    let mut cluster = start(&ClusterPlan { nodes: 3, ..ClusterPlan::default() })?;
    let [a, b, c] = three_pods(&cluster)?;
    let d = cluster.add_pod(2, "d")?;
    for (from, to) in [(&a, &b), (&a, &c), (&c, &d), (&d, &a)] {
        exchange_cleanly(from, to, 4)?;
    }
    // A node's share, and one index for both families.
    for (pod, v4, v6) in
        [(&a, "10.244.1.2", "fd00:10:244:1::2"), (&c, "10.244.2.2", "fd00:10:244:2::2")]
    {
        ensure!(pod.hosts() == [v4.parse::<IpAddr>()?, v6.parse()?], "{:?}", pod.hosts());
    }
    // Superframes went through whole.
    let port = rows(&cluster.overlay.daemons[0], "port list")?;
    let whole = port.iter().any(|row| row["rx"]["superframes"].as_u64() > Some(0));
    ensure!(whole, "no superframe was ever one unit: {port:?}");
    cluster.assert_sound()
}

pub(crate) fn the_same_over_an_ipv6_underlay() -> Result<()> {
    let mut cluster = start(&ClusterPlan { over_ipv6: true, ..ClusterPlan::default() })?;
    let [a, b, c] = three_pods(&cluster)?;
    exchange_cleanly(&a, &b, 2)?;
    exchange_cleanly(&b, &c, 2)?;
    cluster.assert_sound()
}

pub(crate) fn nodes_reach_pods_and_pods_reach_nodes() -> Result<()> {
    let mut cluster = start(&ClusterPlan::default())?;
    let [a, b, c] = three_pods(&cluster)?;
    for node in &cluster.overlay.nodes {
        for pod in [&a, &b, &c] {
            for host in pod.hosts() {
                ping::ping(&node.space, host, 2, 56)
                    .with_context(|| format!("{} to {host}", node.space.name()))?;
                tcp::transfer(&node.space, &pod.space, host, (1_000_000, 1_000_000))
                    .with_context(|| format!("{} to {host}", node.space.name()))?;
            }
        }
    }
    for (index, node) in cluster.overlay.nodes.iter().enumerate() {
        let own = [IpAddr::from(node.v4), node.v6.into()];
        for host in gateway_addresses(index + 1)?.into_iter().chain(own) {
            for pod in [&a, &c] {
                ping::ping(&pod.space, host, 2, 56)
                    .with_context(|| format!("{} to {host}", pod.space.name()))?;
            }
        }
        // However many pods there are, the kernel has one neighbour of each family.
        let neighbours = node.space.output(&format!("ip neigh show dev {GATEWAY}"))?;
        let lines: Vec<&str> = neighbours.lines().collect();
        ensure!(lines.len() == 2, "{lines:?}");
        ensure!(lines.iter().all(|line| line.contains("PERMANENT")), "{lines:?}");
    }
    cluster.assert_sound()
}

pub(crate) fn who_is_not_there_is_unreachable_and_never_flooded_for() -> Result<()> {
    let mut cluster = start(&ClusterPlan::default())?;
    let [a, _b, c] = three_pods(&cluster)?;
    let before = cluster.overlay.nodes[1].space.snmp("Udp", "InDatagrams")?;
    for host in ["10.244.1.77", "10.244.99.1", "fd00:10:244:1::77", "fd00:10:244:99::1"] {
        let kind = error_from(&a.space, host.parse()?)?;
        ensure!(kind == ErrorKind::HostUnreachable, "{host}: {kind:?}");
    }
    ensure!(cluster.overlay.nodes[1].space.snmp("Udp", "InDatagrams")? == before, "flooded");
    still_forwarding(&a, &c)?;
    cluster.assert_sound()
}

pub(crate) fn a_pod_may_send_from_its_own_addresses_only() -> Result<()> {
    let mut cluster = start(&ClusterPlan::default())?;
    let [a, b, c] = three_pods(&cluster)?;
    let daemon = &cluster.overlay.daemons[0];
    let before = daemon.drops("spoofed_address")?;
    a.space.output("ip address add 10.244.1.99/32 dev eth0")?;
    a.space.output("ip address add 10.244.2.99/32 dev eth0")?;
    for source in ["10.244.1.99", "10.244.2.99"] {
        for to in [&b, &c] {
            say(&a.space, source.parse()?, to.hosts()[0])?;
        }
    }
    eventually(Duration::from_secs(5), "four forgeries are counted", || {
        Ok(daemon.drops("spoofed_address")? >= before + 4)
    })?;
    let before = daemon.drops("spoofed_mac")?;
    a.space.output("ip link set eth0 address 0a:7a:0a:f4:01:63")?;
    a.space
        .output("ip neigh replace 169.254.1.1 lladdr 0e:7a:70:00:00:01 dev eth0 nud permanent")?;
    a.space.output("ip route replace default via 169.254.1.1 dev eth0 onlink")?;
    ensure!(ping::ping(&a.space, b.hosts()[0], 1, 56).is_err(), "another MAC got through");
    ensure!(daemon.drops("spoofed_mac")? > before, "not counted");
    cluster.assert_sound()
}

pub(crate) fn pods_live_on_while_their_daemon_is_killed() -> Result<()> {
    let mut cluster = start(&ClusterPlan::default())?;
    let [a, b, c] = three_pods(&cluster)?;
    let portrait = a.space.portrait("eth0")?;
    let gateway = cluster.overlay.nodes[0].space.portrait(GATEWAY)?;
    cluster.overlay.daemons[0].kill()?;
    cluster.overlay.daemons[0].launch()?;
    for (from, to) in [(&a, &b), (&a, &c), (&c, &b)] {
        still_forwarding(from, to)?;
    }
    ensure!(a.space.portrait("eth0")? == portrait, "{}", a.space.portrait("eth0")?);
    let after = cluster.overlay.nodes[0].space.portrait(GATEWAY)?;
    ensure!(after == gateway, "{after}");
    // What was given out before is not given out again.
    let d = cluster.add_pod(0, "d")?;
    ensure!(![a.v4, b.v4].contains(&d.v4), "{} twice", d.v4);
    still_forwarding(&d, &c)?;
    cluster.assert_sound()
}

pub(crate) fn lists_say_who_is_where() -> Result<()> {
    let mut cluster = start(&ClusterPlan::default())?;
    let [a, b, c] = three_pods(&cluster)?;
    still_forwarding(&a, &c)?;
    let daemon = &cluster.overlay.daemons[0];
    let other = row(daemon, "node list", "name", "node2")?;
    ensure!(other["reached"] == "tunnel" && other["last_heard_ms"].is_u64(), "{other}");
    let own = row(daemon, "node list", "name", "node1")?;
    ensure!(own["own"] == true && own["reached"] == "local", "{own}");
    let pods = rows(daemon, "pod list")?;
    let containers: Vec<_> = pods.iter().filter_map(|pod| pod["container"].as_str()).collect();
    ensure!(containers == ["a", "b"], "{pods:?}");
    let used = row(daemon, "ip list", "address", &a.hosts()[0].to_string())?;
    ensure!(used["state"] == "used" && used["container"] == "a", "{used}");
    cluster.delete_pod(0, "b", &b)?;
    cluster.delete_pod(0, "b", &b)?;
    let daemon = &cluster.overlay.daemons[0];
    let resting = row(daemon, "ip list", "address", &b.hosts()[0].to_string())?;
    ensure!(resting["state"] == "resting", "{resting}");
    let status = daemon.json("status")?;
    let counts = &status["cluster"];
    ensure!(counts["addresses_used"] == 1 && counts["addresses_resting"] == 1, "{counts}");
    let free = row(daemon, "ip list", "address", &b.hosts()[0].to_string())?;
    ensure!(free["rests_ms"].as_u64() <= Some(60_000), "{free}");
    daemon.cli(&format!("ip release {}", b.hosts()[0]))?;
    let again = cluster.add_pod_with(
        0,
        "e",
        &serde_json::json!({ "runtimeConfig": { "ips": [b.v4.to_string()] } }),
    )?;
    ensure!(again.v4 == b.v4, "{}", again.v4);
    cluster.assert_sound()
}

/// A pod whose namespace went without DEL is found, and its address is free again.
pub(crate) fn a_namespace_that_goes_leaves_no_orphan() -> Result<()> {
    let mut cluster = start(&ClusterPlan::default())?;
    let [a, b, c] = three_pods(&cluster)?;
    drop(b);
    let daemon = &cluster.overlay.daemons[0];
    eventually(Duration::from_secs(20), "the orphan is found", || {
        Ok(rows(daemon, "pod list")?.len() == 1)
    })?;
    still_forwarding(&a, &c)?;
    cluster.overlay.daemons[0].allow(&["namespace"]);
    cluster.assert_sound()
}

/// What one pod says to everybody stays on its node.
pub(crate) fn broadcasts_stay_on_their_node() -> Result<()> {
    let mut cluster = start(&ClusterPlan::default())?;
    let [a, b, c] = three_pods(&cluster)?;
    still_forwarding(&a, &c)?;
    let datagrams = |cluster: &Cluster| {
        cluster.overlay.nodes[1]
            .space
            .snmp("Udp", "InDatagrams")
            .and_then(|sent| Ok(sent + c.space.snmp("Udp", "NoPorts")?))
    };
    let (before, heard) = (datagrams(&cluster)?, b.space.snmp("Udp", "InDatagrams")?);
    let listener = b.space.run(|| UdpSocket::bind("0.0.0.0:9"))??;
    listener.set_read_timeout(Some(Duration::from_secs(5)))?;
    a.space.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_broadcast(true)?;
        nix::sys::socket::setsockopt(
            &socket,
            nix::sys::socket::sockopt::BindToDevice,
            &"eth0".into(),
        )?;
        socket.send_to(b"hello, everybody", "255.255.255.255:9").map(|_| ())
    })??;
    listener.recv(&mut [0; 64]).context("the pod next door heard nothing")?;
    ensure!(b.space.snmp("Udp", "InDatagrams")? > heard, "nothing heard");
    ensure!(datagrams(&cluster)? == before, "it left its node");
    cluster.assert_sound()
}

pub(crate) fn teardown_leaves_neither_device_nor_rules() -> Result<()> {
    let mut cluster = start(&ClusterPlan::default())?;
    let node = cluster.overlay.nodes[0].space.clone();
    eventually(Duration::from_secs(10), "the rules stand", || {
        Ok(node.output("nft list table inet tapestry").is_ok())
    })?;
    let daemon = &mut cluster.overlay.daemons[0];
    daemon.stop()?;
    ensure!(node.link(GATEWAY).is_ok(), "a stop removed the gateway port");
    daemon.cli(&format!("teardown --config {}", daemon.config_path().display()))?;
    ensure!(node.link(GATEWAY).is_err(), "the gateway port is still there");
    ensure!(node.output("nft list table inet tapestry").is_err(), "the rules are still there");
    cluster.overlay.daemons[1].assert_sound()
}
