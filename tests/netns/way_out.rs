//! What a node's own kernel does for its pods: plain routes, rules and the gateway port, which come
//! with a cluster, stay through every restart, and go with it.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::cluster::{Cluster, ClusterPlan, GATEWAY};
use lab::daemon::Daemon;
use lab::tool::eventually;
use lab::traffic::{ping, tcp};
use lab::world::Space;
use serde_json::json;

use super::cluster::{plugin, start};
use super::common::{row, rows, still_forwarding, tapestry};
use super::parted::{Helper, OWNER, daemon_as, helper_section, permitted};

const PATIENCE: Duration = Duration::from_secs(10);

fn index(space: &Space) -> Result<u32> {
    Ok(space.link(GATEWAY)?.index)
}

/// The routes to other nodes, as the kernel has them.
fn plain_routes(space: &Space) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for family in ["-4", "-6"] {
        let text = space.output(&format!("ip {family} route show proto 122"))?;
        let front = |line: &str| line.split(" dev ").next().unwrap_or_default().to_owned();
        lines.extend(text.lines().map(front));
    }
    Ok(lines)
}

fn has_rules(space: &Space) -> bool {
    space.output("nft list table inet tapestry").is_ok()
}

fn alarms(daemon: &Daemon) -> Result<Vec<String>> {
    let status = daemon.json("status")?;
    let alarms = status["cluster"]["alarms"].as_array().cloned().unwrap_or_default();
    Ok(alarms.iter().filter_map(|alarm| alarm.as_str().map(str::to_owned)).collect())
}

/// Gives a node's daemon another configuration, for when it starts or reloads.
fn rewrite(
    cluster: &mut Cluster,
    node: usize,
    change: impl FnOnce(String) -> String,
) -> Result<()> {
    let config = &mut cluster.overlay.configs[node];
    config.extra = change(std::mem::take(&mut config.extra));
    cluster.overlay.daemons[node].configure(config)
}

/// A port of the node leads to its pod when ADD is over, and to nobody when DEL is.
pub(crate) fn a_mapped_port_is_there_when_add_is_over() -> Result<()> {
    let mut cluster = start(&ClusterPlan::default())?;
    let node = cluster.overlay.nodes[0].space.clone();
    for port in 8080..8085 {
        let (name, rules) = (format!("web{port}"), || node.output("nft list table inet tapestry"));
        let mapping = json!({ "hostPort": port, "containerPort": 80, "protocol": "tcp" });
        let keys = json!({ "runtimeConfig": { "portMappings": [mapping] } });
        let pod = cluster.add_pod_with(0, &name, &keys)?;
        ensure!(rules()?.contains(&port.to_string()), "not yet: {port}");
        cluster.delete_pod(0, &name, &pod)?;
        ensure!(!rules()?.contains(&port.to_string()), "still: {port}");
    }
    cluster.assert_sound()
}

/// A kernel that makes a device anew forgets what was on it: routes of others, and connections of
/// the node's own.
pub(crate) fn the_gateway_port_is_the_same_after_a_restart() -> Result<()> {
    let mut cluster = start(&ClusterPlan::default())?;
    let node = cluster.overlay.nodes[0].space.clone();
    let before = index(&node)?;
    cluster.overlay.daemons[0].kill()?;
    ensure!(index(&node)? == before, "it went with its daemon");
    cluster.overlay.daemons[0].launch()?;
    ensure!(index(&node)? == before, "made anew after a crash");
    cluster.overlay.daemons[0].stop()?;
    cluster.overlay.daemons[0].launch()?;
    ensure!(index(&node)? == before, "made anew after a stop");
    cluster.assert_sound()
}

/// Nodes in one subnet: no tunnel, routes of the kernel instead, and what takes them away is noticed.
pub(crate) fn direct_routes_are_there_and_come_back() -> Result<()> {
    let extra = "direct_routing = true".to_owned();
    let mut cluster = start(&ClusterPlan { extra, ..ClusterPlan::default() })?;
    let [a, c] = [cluster.add_pod(0, "a")?, cluster.add_pod(1, "c")?];
    let node = cluster.overlay.nodes[0].space.clone();
    let wanted = ["10.244.2.0/24 via 192.0.2.2", "fd00:10:244:2::/64 via 2001:db8::2"];
    eventually(PATIENCE, "the routes are there", || Ok(plain_routes(&node)? == wanted))?;
    let direct = row(&cluster.overlay.daemons[0], "node list", "name", "node2")?;
    ensure!(direct["reached"] == "route", "{direct}");
    let talk = |cluster: &Cluster| -> Result<()> {
        let tunnelled = cluster.overlay.nodes[1].space.snmp("Udp", "InDatagrams")?;
        for host in c.hosts() {
            // A kernel asks for no neighbour while its link-local address is tentative.
            ping::until_answered(&a.space, host, PATIENCE)?;
            tcp::transfer(&a.space, &c.space, host, (1_000_000, 1_000_000))?;
        }
        let after = cluster.overlay.nodes[1].space.snmp("Udp", "InDatagrams")?;
        ensure!(after == tunnelled, "{} datagrams of the tunnel", after - tunnelled);
        Ok(())
    };
    talk(&cluster)?;
    // The kernel takes all routes through it along, and IPv6 addresses as well.
    node.output("ip link set under0 down")?;
    ensure!(plain_routes(&node)?.is_empty(), "{:?}", plain_routes(&node)?);
    node.output("ip link set under0 up")?;
    node.output("ip address replace 2001:db8::1/64 dev under0 nodad")?;
    eventually(PATIENCE, "the routes are back", || Ok(plain_routes(&node)? == wanted))?;
    talk(&cluster)?;
    // Somebody else's route is left alone, and said to be in the way.
    node.output("ip route replace 10.244.2.0/24 via 192.0.2.77 proto static")?;
    node.output("ip link set lo down")?;
    node.output("ip link set lo up")?;
    eventually(PATIENCE, "the route in the way is named", || {
        let alarms = alarms(&cluster.overlay.daemons[0])?;
        Ok(alarms.iter().any(|one| one.contains("stands in the way to 10.244.2.0/24")))
    })?;
    let standing = node.output("ip route show 10.244.2.0/24")?;
    ensure!(standing.contains("192.0.2.77"), "{standing}");
    for daemon in &mut cluster.overlay.daemons {
        daemon.allow(&["underlay", "peer", "routes", "route"]);
    }
    cluster.assert_sound()
}

/// A node that is in no cluster any more has none of its rules and routes.
pub(crate) fn who_leaves_the_cluster_takes_rules_and_routes_along() -> Result<()> {
    let extra = "direct_routing = true".to_owned();
    let mut cluster = start(&ClusterPlan { extra, ..ClusterPlan::default() })?;
    let node = cluster.overlay.nodes[0].space.clone();
    eventually(PATIENCE, "rules and routes stand", || {
        Ok(has_rules(&node) && !plain_routes(&node)?.is_empty())
    })?;
    cluster.overlay.daemons[0].stop()?;
    ensure!(has_rules(&node) && !plain_routes(&node)?.is_empty(), "a stop took them away");
    rewrite(&mut cluster, 0, |_| String::new())?;
    cluster.overlay.daemons[0].launch()?;
    ensure!(!has_rules(&node), "the rules are still there");
    ensure!(plain_routes(&node)?.is_empty(), "{:?}", plain_routes(&node)?);
    ensure!(node.link(GATEWAY).is_err(), "the gateway port is still there");
    cluster.assert_sound()
}

/// What keeps pods from the outside is in the status, with what to do about it, and gone from it
/// once that is done.
pub(crate) fn a_firewall_in_the_way_is_in_the_status() -> Result<()> {
    let extra = "conflist = \"/proc/no/such/place.conflist\"".to_owned();
    let plan = ClusterPlan { extra, ..ClusterPlan::default() };
    let mut cluster = Cluster::build(&tapestry(), plugin(), &plan)?;
    let node = cluster.overlay.nodes[0].space.clone();
    node.output("nft add table inet guard")?;
    node.output(
        "nft add chain inet guard forward { type filter hook forward priority 0; policy drop; }",
    )?;
    for daemon in &mut cluster.overlay.daemons {
        daemon.allow(&["CNI configuration"]);
        daemon.launch()?;
    }
    let daemon = &cluster.overlay.daemons[0];
    let has = |words: &str| Ok(alarms(daemon)?.iter().any(|alarm| alarm.contains(words)));
    eventually(PATIENCE, "the chain is named", || has("chain inet guard forward"))?;
    eventually(PATIENCE, "the file that cannot be written is named", || has("no/such/place"))?;
    let told = daemon.log().matches("no/such/place").count();
    ensure!(told == 1, "said {told} times:\n{}", daemon.log());
    cluster.assert_sound()
}

/// All of it by the helper, and what the plugin leaves while the daemon is away is the daemon's to
/// take.
pub(crate) fn a_daemon_without_capabilities_has_a_way_out_too() -> Result<()> {
    if !permitted() {
        return Ok(());
    }
    let extra = "direct_routing = true".to_owned();
    let plan = ClusterPlan { extra, ..ClusterPlan::default() };
    let mut cluster = Cluster::build(&tapestry(), plugin(), &plan)?;
    let node = cluster.overlay.nodes[0].clone();
    node.space.output("nft add table inet guard")?;
    node.space.output(
        "nft add chain inet guard forward { type filter hook forward priority 0; policy drop; }",
    )?;
    let mut helper = Helper::start(&node)?;
    let mut daemon = daemon_as(OWNER, &node.space)?;
    let before = cluster.overlay.daemons[0].beside("attach.sock");
    let attach = daemon.beside("attach.sock");
    daemon.allow(&["helper", "peer", "underlay"]);
    cluster.overlay.daemons[0] = daemon;
    rewrite(&mut cluster, 0, |all| {
        format!("{}\n{}", all.replace(&before, &attach), helper_section(&helper.socket()))
    })?;
    for daemon in &mut cluster.overlay.daemons {
        daemon.launch()?;
    }
    let wanted = ["10.244.2.0/24 via 192.0.2.2", "fd00:10:244:2::/64 via 2001:db8::2"];
    eventually(PATIENCE, "rules and routes stand", || {
        Ok(has_rules(&node.space) && plain_routes(&node.space)? == wanted)
    })?;
    let has = |cluster: &Cluster, words: &str| {
        let alarms = alarms(&cluster.overlay.daemons[0])?;
        Ok(alarms.iter().any(|alarm| alarm.contains(words)))
    };
    eventually(PATIENCE, "the firewall is named", || has(&cluster, "chain inet guard forward"))?;
    let local = std::fs::read_to_string;
    let setting = format!("/proc/sys/net/ipv4/conf/{GATEWAY}/route_localnet");
    ensure!(node.space.run(|| local(&setting))??.trim() == "1", "the device is not tuned");
    node.space.output("nft delete table inet guard")?;
    let [a, c] = [cluster.add_pod(0, "a")?, cluster.add_pod(1, "c")?];
    for host in c.hosts() {
        ping::until_answered(&a.space, host, PATIENCE)?;
    }
    still_forwarding(&a, &c)?;
    // The rules are put back by it, too.
    node.space.output("nft delete table inet tapestry")?;
    eventually(PATIENCE, "the rules are back", || Ok(has_rules(&node.space)))?;
    cluster.overlay.daemons[0].stop()?;
    let state = cluster.overlay.daemons[0].beside("state");
    cluster.call(0, "DEL", "a", &a.space, &json!({ "stateDir": state }))?;
    cluster.overlay.daemons[0].launch()?;
    eventually(PATIENCE, "the pod is gone", || {
        Ok(rows(&cluster.overlay.daemons[0], "pod list")?.is_empty())
    })?;
    cluster.overlay.daemons[0].stop()?;
    let config = cluster.overlay.daemons[0].config_path();
    cluster.overlay.daemons[0].cli(&format!("teardown --config {}", config.display()))?;
    ensure!(!has_rules(&node.space) && plain_routes(&node.space)?.is_empty(), "something is left");
    helper.assert_alive()?;
    cluster.overlay.daemons[1].allow(&["peer", "underlay"]);
    cluster.overlay.daemons[1].assert_sound()
}
