//! Pods of one cluster: each reaches each, its node and the other nodes, by its own address.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lab::cluster::{Cluster, ClusterPlan, GATEWAY, gateway_addresses};
use lab::overlay::{Pod, UNDERLAY};
use lab::tool::eventually;
use lab::traffic::{ping, tcp};
use lab::world::Space;

use super::common::{exchange_cleanly, row, rows, still_forwarding, tapestry};

pub(crate) fn plugin() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_tapestry-cni"))
}

pub(crate) fn start(plan: &ClusterPlan) -> Result<Cluster> {
    Cluster::start(&tapestry(), plugin(), plan)
}

/// A pod on each of two nodes, and a second one on the first.
fn three_pods(cluster: &Cluster) -> Result<[Pod; 3]> {
    Ok([cluster.add_pod(0, "a")?, cluster.add_pod(0, "b")?, cluster.add_pod(1, "c")?])
}

/// What a host says to a datagram to a port that nobody listens on: the first error that comes back.
fn error_from(space: &Space, to: IpAddr) -> Result<ErrorKind> {
    space.run(|| {
        let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.connect(SocketAddr::new(to, 9))?;
        socket.send(b"anybody there?")?;
        let error = socket.recv(&mut [0; 64]).err().context("an answer, where there is nobody")?;
        Ok(error.kind())
    })?
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
    let [a, _, c] = three_pods(&cluster)?;
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
            let [host, _] = to.hosts();
            let line = format!("ping -c 1 -W 1 -I {source} {host}");
            ensure!(a.space.output(&line).is_err(), "{source} reached {host}");
        }
    }
    ensure!(daemon.drops("spoofed_address")? >= before + 4, "not counted");
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
    let [a, _, c] = three_pods(&cluster)?;
    still_forwarding(&a, &c)?;
    let before = cluster.overlay.nodes[1].space.snmp("Udp", "InDatagrams")?;
    let line = "ping -c 2 -i 0.2 -W 1 -I eth0 ff02::1";
    let _ = a.space.output(line);
    ensure!(cluster.overlay.nodes[1].space.snmp("Udp", "InDatagrams")? == before, "it left");
    let _ = UNDERLAY;
    cluster.assert_sound()
}
