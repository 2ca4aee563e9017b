//! Pods outlive the daemon: crashes and stops, each followed by a start, under open connections.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lab::daemon::Daemon;
use lab::overlay::{Overlay, Plan};
use lab::traffic::lasting::Talks;

use crate::common::start;

/// Ten pods on each of two nodes, each pair with a connection over IPv4 and one over IPv6.
fn twenty_pods() -> Result<(Overlay, Talks)> {
    let overlay = start(&Plan { pods: 10, ..Plan::default() })?;
    let mut talks = Talks::default();
    for (a, b) in overlay.pods[0].iter().zip(&overlay.pods[1]) {
        for host in b.hosts() {
            talks.open(&a.space, &b.space, host)?;
        }
    }
    ensure!(talks.count() == 20);
    talks.go_on()?;
    Ok((overlay, talks))
}

fn portraits(overlay: &Overlay) -> Result<Vec<String>> {
    overlay.pods.iter().flatten().map(|pod| pod.space.portrait("eth0")).collect()
}

fn survive(what: &str, end: fn(&mut Daemon) -> Result<()>) -> Result<()> {
    let (mut overlay, talks) = twenty_pods()?;
    // The other node hears ICMP errors while this one is away; that may be said.
    for daemon in &mut overlay.daemons {
        daemon.allow(&["peer", "underlay"]);
    }
    let before = portraits(&overlay)?;
    ensure!(
        before.iter().all(|p| p.contains("address fd09::") && p.contains("address 10.9.")),
        "{before:?}"
    );
    for (index, round) in [(0, 1), (1, 1), (0, 2)] {
        end(&mut overlay.daemons[index])?;
        ensure!(portraits(&overlay)? == before, "{what} changed a pod while the daemon was away");
        let took = overlay.daemons[index].launch()?;
        let went_on = talks.go_on();
        went_on
            .with_context(|| format!("{what}, round {round}\n{}", overlay.daemons[index].log()))?;
        ensure!(portraits(&overlay)? == before, "the start after {what} changed a pod");
        ensure!(took < Duration::from_secs(5), "the start took {took:?}");
    }
    let stall = talks.end()?;
    eprintln!("{what}: 20 connections, longest wait for an answer {stall:?}");
    overlay.assert_sound()
}

pub(crate) fn a_crash_breaks_no_connection() -> Result<()> {
    survive("kill -9", Daemon::kill)
}

pub(crate) fn a_stop_breaks_no_connection() -> Result<()> {
    survive("SIGTERM", Daemon::stop)
}

pub(crate) fn both_nodes_crash_at_once() -> Result<()> {
    let (mut overlay, talks) = twenty_pods()?;
    for daemon in &mut overlay.daemons {
        daemon.allow(&["peer", "underlay"]);
    }
    let before = portraits(&overlay)?;
    for daemon in &mut overlay.daemons {
        daemon.kill()?;
    }
    for daemon in &mut overlay.daemons {
        daemon.launch()?;
    }
    talks.go_on()?;
    talks.end()?;
    ensure!(portraits(&overlay)? == before, "a pod changed");
    overlay.assert_sound()
}
