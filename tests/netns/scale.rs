//! Large tables: a thousand ports, two hundred segments, five thousand peers, a million addresses.
//!
//! What is promised of a release build on an idle machine with two cores is asserted at twice the
//! time on whatever runs the tests, and at four times for a debug build, where reading a config of
//! this size takes five times as long. Each case prints what it measured.

use std::fmt::Write as _;
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lab::cluster::{Cluster, ClusterPlan};
use lab::config::{Config, Port, Segment};
use lab::daemon::{Daemon, Program};
use lab::overlay::{Overlay, Plan};
use lab::tool::eventually;
use lab::traffic::frames::{self, EXPERIMENTAL, frame};
use lab::traffic::ping;
use lab::world::{Space, World, net};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};

use crate::cluster::plugin;
use crate::common::{rows, start, tapestry, ticks};

const PORTS: usize = 1000;
const SEGMENTS: usize = 200;
const PEERS: usize = 5000;

/// How much longer than promised anything may take.
const SLACK: u32 = if cfg!(debug_assertions) { 4 } else { 2 };
const READY_IN_ONE: Duration = Duration::from_secs(3);
const READY_IN_OWN: Duration = Duration::from_secs(3);
const CONVERGED: Duration = Duration::from_secs(2);
const RELOAD: Duration = Duration::from_millis(50);

/// Resident memory in KiB, with a thousand ports and with two. For these there is no slack.
const MEMORY: u64 = 96 * 1024;
const MEMORY_SMALL: u64 = 32 * 1024;

/// A node with an underlay and nobody on the other side of it; the second space holds the other end.
fn node(world: &World) -> Result<(Space, Space)> {
    let (node, wire) = (world.space("node")?, world.space("wire")?);
    world.veth((&node, "under0"), (&wire, "under0"), 1500)?;
    node.address("under0", net("192.0.2.1/24")?)?;
    Ok((node, wire))
}

/// A namespace whose new devices do not ask for routers: they would go on doing so for ever.
fn home(world: &World, role: &str) -> Result<Space> {
    let space = world.space(role)?;
    let path = "/proc/sys/net/ipv6/conf/default/router_solicitations";
    // Without IPv6 there is nobody to ask.
    space.run(|| if std::fs::exists(path)? { std::fs::write(path, "0") } else { Ok(()) })??;
    Ok(space)
}

/// Ports evenly spread over the segments, each in the namespace that `home` says, and all peers in
/// the first segment.
fn config(home: impl Fn(usize) -> String) -> Config {
    let mut config = Config::new("node1", Ipv4Addr::new(192, 0, 2, 1).into());
    for (number, vni) in (0..SEGMENTS).zip(100..) {
        let peers: Vec<IpAddr> =
            if number == 0 { (0..PEERS).map(peer).collect() } else { Vec::new() };
        config.segments.push(Segment::new(&segment(number), vni, &peers));
    }
    for number in 0..PORTS {
        config.ports.push(Port {
            name: format!("p{number}"),
            segment: Some(segment(number % SEGMENTS)),
            netns: Some(home(number)),
            ifname: Some(format!("tap{number}")),
            addresses: Vec::new(),
            extra: String::new(),
        });
    }
    config
}

fn segment(number: usize) -> String {
    format!("s{number}")
}

fn peer(number: usize) -> IpAddr {
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 1)) + number).into()
}

pub(crate) fn a_thousand_ports_in_one_namespace() -> Result<()> {
    let world = World::new();
    let ((node, _wire), pods) = (node(&world)?, home(&world, "pods")?);
    let config = config(|_| pods.name().to_owned());
    // With what a shell allows.
    let first = vec!["--nofile=1024:".to_owned(), tapestry().path.display().to_string()];
    let mut daemon = Daemon::prepare(&Program { first, ..Program::new("prlimit") }, &node)?;
    daemon.configure(&config)?;
    let ready = daemon.launch()?;
    ensure_up(&daemon)?;
    told("1,000 ports in one namespace, ready", ready, READY_IN_ONE)?;
    reloads_of_one_change(&daemon, &config)?;
    small_and_idle(&daemon, MEMORY)?;
    daemon.assert_sound()?;
    daemon.stop()?;
    let again = daemon.launch()?;
    ensure_up(&daemon)?;
    told("1,000 ports adopted, ready", again, READY_IN_ONE)?;
    daemon.assert_sound()
}

pub(crate) fn a_thousand_ports_in_namespaces_of_their_own() -> Result<()> {
    let world = World::new();
    let (node, _wire) = node(&world)?;
    let pods: Vec<Space> =
        (0..PORTS).map(|n| home(&world, &format!("pod{n}"))).collect::<Result<_>>()?;
    let config = config(|n| pods.get(n).map_or_else(String::new, |pod| pod.name().to_owned()));
    let mut daemon = Daemon::prepare(&tapestry(), &node)?;
    daemon.configure(&config)?;
    let ready = daemon.launch()?;
    ensure_up(&daemon)?;
    told("1,000 ports in namespaces of their own, ready", ready, READY_IN_OWN)?;
    small_and_idle(&daemon, MEMORY)?;
    // All of them at once go the way of one.
    daemon.allow(&["is gone"]);
    let begun = Instant::now();
    drop(pods);
    eventually(Duration::from_secs(20), "the ports go down", || {
        Ok(rows(&daemon, "port list")?.iter().all(|port| port["state"] == "down"))
    })?;
    eprintln!("1,000 namespaces are gone, all ports down: {:?}", begun.elapsed());
    daemon.assert_sound()
}

pub(crate) fn a_daemon_with_two_ports_is_small_and_idle() -> Result<()> {
    let mut overlay = start(&Plan { pods: 2, ..Plan::default() })?;
    let [a, b] = [&overlay.pods[0][0], &overlay.pods[1][0]];
    ping::ping(&a.space, b.hosts()[0], 3, 56)?;
    small_and_idle(&overlay.daemons[0], MEMORY_SMALL)?;
    overlay.assert_sound()
}

pub(crate) fn a_million_addresses_are_learned() -> Result<()> {
    const ADDRESSES: u32 = 1_000_000;
    // As many as the table has room for, so that none of those makes another go.
    let segment_extra = format!("max_macs = {}", 1 << 20);
    let mut overlay = start(&Plan { segment_extra, nodes: 2, pods: 2, ..Plan::default() })?;
    let pods = &overlay.pods[0];
    teach(&overlay, &pods[0].space, ADDRESSES)?;
    // Those whom it concerns do not notice, nor does a change.
    ping::ping(&pods[1].space, overlay.pods[1][0].hosts()[0], 10, 56)?;
    let mut config = overlay.configs[0].clone();
    config.segments[0].peers.push(peer(0));
    let daemon = &overlay.daemons[0];
    let took = reload(daemon, &config)?;
    told("reload of one change beside a million addresses", took, RELOAD)?;
    eprintln!("resident with a million addresses: {} KiB", resident(daemon.pid()?)?);
    overlay.assert_sound()
}

/// Everything that a node derives from a cluster of this size: routes, peers and rules.
pub(crate) fn five_thousand_nodes_of_a_cluster() -> Result<()> {
    let mut store = String::from(
        "[[cluster.node]]\nname = \"node1\"\naddress = \"192.0.2.1\"\n\
         pod_cidrs = [\"10.244.0.0/29\", \"fd00:10:244::/64\"]\n",
    );
    for number in 1..PEERS {
        let _ = write!(
            store,
            "[[cluster.node]]\nname = \"n{number}\"\naddress = \"{}\"\n\
             pod_cidrs = [\"10.244.{}.{}/29\", \"fd00:10:244:{number:x}::/64\"]\n",
            peer(number),
            number / 32,
            number % 32 * 8,
        );
    }
    let plan = ClusterPlan { nodes: 1, store: Some(store), ..ClusterPlan::default() };
    let mut cluster = Cluster::build(&tapestry(), plugin(), &plan)?;
    let node = cluster.overlay.nodes[0].space.clone();
    let daemon = &mut cluster.overlay.daemons[0];
    let ready = daemon.launch()?;
    ensure!(rows(daemon, "node list")?.len() == PEERS, "not all of them are known");
    told("a cluster of 5,000 nodes, ready", ready, CONVERGED)?;
    let stands = |text: &str| {
        let table = node.output("nft list table inet tapestry");
        Ok(table.is_ok_and(|table| table.contains(text)))
    };
    eventually(Duration::from_secs(20), "the rules stand", || {
        stands(&peer(PEERS - 1).to_string())
    })?;
    let mut config = cluster.overlay.configs[0].clone();
    config.extra = config.extra.replace(&format!("\"{}\"", peer(7)), "\"203.0.113.7\"");
    let begun = Instant::now();
    daemon.configure(&config)?;
    daemon.cli("reload")?;
    eprintln!("reload of one node of 5,000: {:.1?}", begun.elapsed());
    eventually(Duration::from_secs(20), "the rules follow", || stands("203.0.113.7"))?;
    told("until switch and rules follow", begun.elapsed(), CONVERGED)?;
    small_and_idle(daemon, MEMORY)?;
    cluster.assert_sound()
}

/// Speaks from so many addresses to the port's own device, which only teaches where they are: no
/// faster than the daemon listens, since the device's ring drops what has no room.
fn teach(overlay: &Overlay, space: &Space, addresses: u32) -> Result<()> {
    const WINDOW: u64 = 512;
    const BATCH: u32 = 64;
    let own = space.link("eth0")?.mac.context("no MAC")?.0;
    let socket = frames::sender(space, "eth0")?;
    let begun = Instant::now();
    space.run(|| -> Result<()> {
        let (first, mut sent) = (taken("eth0")?, 0);
        let mut headers = MultiHeaders::preallocate(BATCH as usize, None);
        for start in (0..addresses).step_by(BATCH as usize) {
            while first + sent > taken("eth0")? + WINDOW {
                ensure!(begun.elapsed() < Duration::from_secs(40), "only {sent} were taken");
                std::thread::yield_now();
            }
            let numbers = start..addresses.min(start + BATCH);
            let units: Vec<Vec<u8>> = numbers
                .map(|n| {
                    let [a, b, c, d] = n.to_be_bytes();
                    frame(own, [0x06, 0, a, b, c, d], EXPERIMENTAL, &[])
                })
                .collect();
            let slices: Vec<_> = units.iter().map(|unit| [IoSlice::new(unit)]).collect();
            let to = vec![None::<SockaddrStorage>; slices.len()];
            let flags = MsgFlags::empty();
            let done = sendmmsg(socket.as_raw_fd(), &mut headers, &slices, to, [], flags)?.count();
            ensure!(done == slices.len(), "{done} of {} frames were sent", slices.len());
            sent += done as u64;
        }
        Ok(())
    })??;
    eventually(Duration::from_secs(5), "all are learned", || {
        let status = overlay.daemons[0].json("status")?;
        let known = status["totals"]["fdb_entries"].as_u64().context("totals.fdb_entries")?;
        Ok(known >= u64::from(addresses))
    })?;
    eprintln!("{addresses} addresses learned in {:.1?}", begun.elapsed());
    Ok(())
}

/// How many frames have gone out through a device of the thread's namespace: of a TAP, those that
/// were read (/proc/net/dev, tenth column).
fn taken(device: &str) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev")?;
    let prefix = format!("{device}:");
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(&prefix));
    let count = line.with_context(|| format!("no {device}"))?.split_whitespace().nth(9);
    Ok(count.context("transmitted packets")?.parse()?)
}

fn told(what: &str, took: Duration, promised: Duration) -> Result<()> {
    eprintln!("{what}: {took:.1?}");
    ensure!(took <= promised * SLACK, "{what} after {took:?}, not {promised:?}");
    Ok(())
}

fn ensure_up(daemon: &Daemon) -> Result<()> {
    let ports = rows(daemon, "port list")?;
    let up = ports.iter().filter(|port| port["state"] == "up").count();
    ensure!(up == PORTS, "{up} ports of {} are up", ports.len());
    let status = daemon.json("status")?;
    ensure!(status["ready"] == true, "{status}");
    Ok(())
}

/// A peer, a port's segment, and a segment more: each by itself. The median of three counts, as a
/// machine may just be busy with something else.
fn reloads_of_one_change(daemon: &Daemon, config: &Config) -> Result<()> {
    let mut config = config.clone();
    for (what, kind) in [("peer", 0), ("port's segment", 1), ("segment", 2)] {
        let mut times = Vec::new();
        for round in 0..3 {
            match kind {
                0 => config.segments[0].peers[7] = peer(PEERS + round),
                1 => config.ports[7].segment = Some(segment(100 + round)),
                _ => config.segments.push(Segment::new(&format!("n{round}"), 9000, &[])),
            }
            if let (2, Some(last)) = (kind, config.segments.last_mut()) {
                last.vni += u32::try_from(round)?;
            }
            times.push(reload(daemon, &config)?);
        }
        times.sort_unstable();
        told(&format!("reload of one {what}"), times[1], RELOAD)?;
    }
    Ok(())
}

/// Reloads, and returns the time from asking to having the answer on the command line.
fn reload(daemon: &Daemon, config: &Config) -> Result<Duration> {
    daemon.configure(config)?;
    let begun = Instant::now();
    let report = daemon.cli("reload")?;
    let took = begun.elapsed();
    let changes = report.lines().count();
    ensure!((1..=2).contains(&changes), "not one change: {report}");
    Ok(took)
}

/// At most so much memory, and no processor time while nothing happens: at most one tick of a
/// hundredth of a second in five seconds. The pods' kernels still have this and that to say when their
/// devices are new, so one of three times has to be quiet.
fn small_and_idle(daemon: &Daemon, memory: u64) -> Result<()> {
    let pid = daemon.pid()?;
    let have = resident(pid)?;
    let mut used = Vec::new();
    for _ in 0..3 {
        std::thread::sleep(Duration::from_secs(1));
        let before = ticks(pid)?;
        std::thread::sleep(Duration::from_secs(5));
        used.push(ticks(pid)? - before);
        if used.last() <= Some(&1) {
            break;
        }
    }
    eprintln!("resident {have} KiB, ticks in five quiet seconds: {used:?}");
    ensure!(have <= memory, "{have} KiB are resident, not {memory}");
    ensure!(used.last() <= Some(&1), "an idle daemon used {used:?} ticks in 5 s");
    Ok(())
}

/// Resident memory of a process in KiB (proc(5), status).
fn resident(pid: i32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
