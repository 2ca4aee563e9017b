//! A cluster of three nodes with etcd, and pods on each, on this machine and without touching its
//! network.
//!
//!     make demo-cluster
//!     make demo-cluster DEMO_ARGS=--keep     leave it up to look around, until Ctrl-C
//!
//! Everything happens in namespaces of this process's own, as root or through a user namespace; the
//! kernel removes them with the process. The daemons and the CNI plugin are the programs that were
//! built beside this one.

// An example talks to its user.
#![allow(clippy::print_stdout)]

mod matrix;
#[path = "../common/show.rs"]
mod show;
mod stage;

use std::env;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use lab::cell::{self, Side};
use lab::etcd;
use lab::tool::{self, eventually};
use lab::traffic::lasting::Talks;
use lab::traffic::mirror::look;
use serde_json::json;

use matrix::{Party, walk};
use stage::{Guest, Stage};

/// How long something may take that follows by itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// The port of every node that leads to the first pod.
const MAPPED: u16 = 8000;

fn main() -> ExitCode {
    let outcome = wishes().and_then(|keep| match cell::enter()? {
        Side::Done(code) => Ok(code),
        Side::Inside => demo(keep).map(|()| ExitCode::SUCCESS),
    });
    outcome.unwrap_or_else(|error| {
        eprintln!("cluster: {error:#}");
        ExitCode::FAILURE
    })
}

/// Whether it is to be left up.
fn wishes() -> Result<bool> {
    let words: Vec<String> = env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Ok(false),
        ["--keep"] => Ok(true),
        _ => bail!("unknown arguments {words:?}; there is --keep"),
    }
}

fn demo(keep: bool) -> Result<()> {
    cell::on_interrupt(|| {
        println!("\ninterrupted: daemons, etcd, pods and nodes are gone");
        std::process::exit(130);
    })?;
    cell::require_tun()?;
    let programs = ["ip", "nsenter", "nft"].iter().chain(etcd::PROGRAMS);
    let missing: Vec<_> = programs.copied().filter(|name| !tool::exists(name)).collect();
    ensure!(missing.is_empty(), "missing: {}", missing.join(", "));

    show::step("three nodes on one network, and an etcd server");
    let mut stage = Stage::build()?;
    for (name, node) in stage.nodes() {
        println!("  {name}: {} and {}", node.v4, node.v6);
    }
    println!("  etcd: http://192.0.2.4:2379, and somebody outside: {}", stage.outside()?.v4);

    show::step("a daemon on each node: it takes a share of 10.244.0.0/16 and fd00:10:244::/48");
    stage.start_daemons()?;

    show::step("two pods on each node, attached by the CNI plugin");
    for (node, name) in [(0, "a1"), (0, "a2"), (1, "b1"), (1, "b2"), (2, "c1"), (2, "c2")] {
        let mapped = json!({ "runtimeConfig": { "portMappings": [
            { "hostPort": MAPPED, "containerPort": 8080, "protocol": "tcp" },
        ] } });
        let keys = if name == "a1" { mapped } else { json!({}) };
        add_pod(&mut stage, node, name, &keys)?;
    }

    show::step("each pod asks each pod by which address it is seen");
    let pods = pods(&stage);
    walk(&pods, &pods, |client, family| client.hosts[family])?;
    nodes_and_the_outside(&stage, &pods)?;
    what_the_command_line_says(&stage)?;
    trouble(&mut stage)?;

    if keep {
        show::leave_up(|| stage.print_keys());
    }
    show::step("clean up");
    stage.stop()?;
    println!(
        "  pods detached, daemons stopped, devices and rules removed, received = forwarded + answered + dropped"
    );
    println!("  namespaces, etcd and its data are gone with this process");
    Ok(())
}

fn add_pod(stage: &mut Stage, node: usize, name: &str, keys: &serde_json::Value) -> Result<()> {
    let took = stage.add_pod(node, name, keys)?;
    let guest = stage.guests.last().context("no pod")?;
    let [v4, v6] = guest.pod.hosts();
    println!("  {name} on node{}: {v4} and {v6}, in {}", node + 1, show::milliseconds(&took));
    Ok(())
}

fn party(guest: &Guest) -> Party {
    Party { name: guest.name.clone(), space: guest.pod.space.clone(), hosts: guest.pod.hosts() }
}

fn pods(stage: &Stage) -> Vec<Party> {
    stage.guests.iter().map(party).collect()
}

/// The paths that do not stay among pods.
fn nodes_and_the_outside(stage: &Stage, pods: &[Party]) -> Result<()> {
    let mut by_gateway = Vec::new();
    let mut by_address = Vec::new();
    for ((name, node), (_, daemon)) in stage.nodes().zip(stage.daemons()) {
        let party = |hosts| Party { name: name.clone(), space: node.space.clone(), hosts };
        by_gateway.push(party(stage::gateway(daemon)?));
        by_address.push(party([node.v4.into(), node.v6.into()]));
    }
    show::step("each node asks each pod: it is seen by its gateway port's address");
    walk(&by_gateway, pods, |client, family| client.hosts[family])?;

    show::step("each pod asks each node: it is seen by its own");
    walk(pods, &by_address, |client, family| client.hosts[family])?;

    show::step("each pod asks somebody outside: it is seen by its node's");
    let outside = stage.outside()?;
    let outside = Party {
        name: "outside".to_owned(),
        space: outside.space.clone(),
        hosts: [outside.v4.into(), outside.v6.into()],
    };
    let node_of = |client: &Party, family: usize| -> IpAddr {
        let guest = stage.guests.iter().find(|guest| guest.name == client.name);
        let node = guest.and_then(|guest| by_address.get(guest.node));
        node.unwrap_or(client).hosts[family]
    };
    walk(pods, std::slice::from_ref(&outside), node_of)?;

    show::step("somebody outside asks port 8000 of node1, which leads to a1");
    for host in by_address[0].hosts {
        let seen = look(&outside.space, (host, MAPPED).into())?;
        ensure!(outside.hosts.contains(&seen), "a1 saw {seen}");
        println!("  {host} port {MAPPED}: a1 saw {seen}");
    }
    Ok(())
}

fn what_the_command_line_says(stage: &Stage) -> Result<()> {
    show::step("what the command line says");
    for (at, (name, daemon)) in stage.daemons().enumerate() {
        let commands: &[&str] =
            if at == 0 { &["node list", "pod list", "ip list"] } else { &["pod list"] };
        for command in commands {
            println!("  {name}$ tapestry {command}");
            show::indented(&daemon.cli(command)?);
        }
    }
    Ok(())
}

/// etcd and a daemon are killed while pods talk.
fn trouble(stage: &mut Stage) -> Result<()> {
    show::step("kill etcd, and the daemon of node2, while pods talk over TCP");
    let mut talks = Talks::default();
    for (from, to) in [("a1", "b1"), ("b2", "c1"), ("c2", "a2"), ("b1", "b2")] {
        let find = |name| stage.guests.iter().find(|guest| guest.name == name).context("no pod");
        let (from, to) = (find(from)?, find(to)?);
        for host in to.pod.hosts() {
            talks.open(&from.pod.space, &to.pod.space, host)?;
        }
    }
    stage.is_on_disk()?;
    stage.etcd.kill()?;
    talks.go_on()?;
    println!("  etcd killed: {} connections go on", talks.count());
    eventually(PATIENCE, "the daemon misses its store", || {
        Ok(stage.daemon(0)?.json("status")?["cluster"]["connected"] == false)
    })?;
    for line in stage.daemon(0)?.cli("status")?.lines().filter(|line| line.starts_with("store")) {
        println!("  node1$ tapestry status | grep store\n    {line}");
    }
    add_pod(stage, 0, "a3", &json!({}))?;

    stage.daemon(1)?.kill()?;
    let took = stage.daemon(1)?.launch()?;
    talks.go_on()?;
    let took = show::milliseconds(&took);
    println!("  daemon of node2 killed, started again without etcd: ready after {took}");
    add_pod(stage, 1, "b3", &json!({}))?;

    stage.etcd.launch()?;
    eventually(PATIENCE, "all daemons have their store again", || {
        stage.daemons().try_fold(true, |all, (_, daemon)| {
            Ok(all && daemon.json("status")?["cluster"]["connected"] == true)
        })
    })?;
    println!("  etcd is back, and every daemon has found it");
    talks.go_on()?;
    let longest = talks.end()?;
    println!(
        "  no connection broke; the longest wait for an answer was {}",
        show::milliseconds(&longest)
    );

    show::step("each pod asks each pod again, the new ones among them");
    let pods = pods(stage);
    walk(&pods, &pods, |client, family| client.hosts[family])
}
