//! A daemon without any capability, and the helper that has them in its place.

#![allow(clippy::unwrap_used, reason = "an error that is wanted and not there fails the test")]

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use lab::daemon::Daemon;
use lab::overlay::{Overlay, Plan, Pod, access_port, pod};
use lab::tool::eventually;
use lab::traffic::lasting::Talks;
use lab::traffic::ping;
use serde_json::json;

use crate::common::{exchange, row, still_forwarding, tapestry};
use crate::parted::{Helper, PATIENCE, Parted, capabilities, helper_section, permitted};

pub(crate) fn a_daemon_without_capabilities_has_ports_by_its_helper() -> Result<()> {
    if !permitted() {
        return Ok(());
    }
    let underlay_extra = "workers = 2".to_owned();
    let mut parted = Parted::start(&Plan { underlay_extra, ..Plan::default() })?;
    let Parted { helper, overlay } = &mut parted;
    let none = "0000000000000000";
    let caps = capabilities(overlay.daemons[0].pid()?)?;
    let expected = ["Inh", "Prm", "Eff", "Bnd", "Amb"].map(|set| format!("Cap{set}: {none}"));
    ensure!(caps == [expected.join(" ")], "{caps:?}");
    let caps = capabilities(helper.process.pid())?;
    // CHOWN, NET_ADMIN and SYS_ADMIN.
    ensure!(caps.iter().all(|set| set.contains("CapEff: 0000000000201001")), "{caps:?}");
    exchange(&overlay.pods[0][0], &overlay.pods[1][0], 5)?;

    let daemon = &overlay.daemons[0];
    let status = daemon.json("status")?["helper"].take();
    ensure!(status == json!({ "socket": helper.socket() }), "{status}");
    let port = row(daemon, "port list", "name", "pod1")?;
    ensure!(port["queues"] == 2 && port["steering"] == "flow_hash", "{port}");

    // By the command line.
    let extra = pod(&overlay.world, 1, 7)?;
    daemon.cli(&format!(
        "port add by-hand --segment blue --netns {} --ifname eth0 --address {} --address {}",
        extra.space.name(),
        extra.v4,
        extra.v6
    ))?;
    ping::until_answered(&extra.space, overlay.pods[1][0].hosts()[0], PATIENCE)?;
    daemon.cli("port del by-hand")?;
    ensure!(extra.space.link("eth0").is_err(), "port del left the device");

    // By the file: one port more, and another address and MTU for the first.
    let mut config = overlay.configs[0].clone();
    config.ports.push(access_port("pod7", &extra));
    config.ports[0].addresses.remove(1);
    config.ports[0].extra.push_str("mtu = 1400\n");
    daemon.configure(&config)?;
    let report = daemon.cli("reload")?;
    ensure!(report.contains("pod7") && report.contains("mtu"), "{report}");
    ping::until_answered(&extra.space, overlay.pods[1][0].hosts()[0], PATIENCE)?;
    let portrait = overlay.pods[0][0].space.portrait("eth0")?;
    ensure!(portrait.contains("mtu 1400") && !portrait.contains("fd09::"), "{portrait}");
    overlay.configs[0] = config;

    // The helper's place is not changed by a reload.
    let moved = overlay.configs[0].clone();
    let moved = lab::config::Config { extra: helper_section(Path::new("/run/other")), ..moved };
    overlay.daemons[0].configure(&moved)?;
    let (code, words) = overlay.daemons[0].refusal("reload")?;
    ensure!(code == 1 && words.contains("privilege.helper"), "exit {code}: {words}");
    overlay.daemons[0].allow(&["privilege.helper"]);
    overlay.daemons[0].configure(&overlay.configs[0])?;

    // Teardown, without rights of its own.
    let config = overlay.daemons[0].config_path().display().to_string();
    overlay.assert_sound()?;
    overlay.daemons[0].stop()?;
    overlay.daemons[0].cli(&format!("teardown --config {config}"))?;
    for space in [&extra.space, &overlay.pods[0][0].space] {
        ensure!(space.link("eth0").is_err(), "teardown left a port");
    }
    helper.assert_alive()
}

pub(crate) fn a_namespace_comes_and_goes_under_a_helper() -> Result<()> {
    if !permitted() {
        return Ok(());
    }
    let mut parted = Parted::start(&Plan::default())?;
    let overlay = &mut parted.overlay;
    overlay.daemons[0].allow(&["pod1"]);
    let name = overlay.pods[0].remove(0).space.name().to_owned();
    let state = |overlay: &Overlay, wanted: &str| {
        Ok(row(&overlay.daemons[0], "port list", "name", "pod1")?["state"] == wanted)
    };
    eventually(PATIENCE, "the port goes down", || state(overlay, "down"))?;
    let back = pod(&overlay.world, 1, 1)?;
    ensure!(back.space.name() == name);
    eventually(PATIENCE, "the port comes up", || state(overlay, "up"))?;
    ping::until_answered(&back.space, overlay.pods[1][0].hosts()[0], PATIENCE)?;
    parted.end()
}

pub(crate) fn ports_wait_for_a_helper_that_is_away() -> Result<()> {
    if !permitted() {
        return Ok(());
    }
    let mut parted = Parted::build(&Plan { pods: 2, ..Plan::default() })?;
    let Parted { helper, overlay } = &mut parted;
    overlay.daemons[0].allow(&["pod1", "pod2", "not ready", "late"]);
    helper.kill()?;
    let ready = overlay.daemons[0].launch_within(Duration::from_secs(3))?;
    ensure!(ready.is_none(), "ready without ports");
    let daemon = &overlay.daemons[0];
    let status = daemon.json("status")?;
    let trouble = status["helper"]["trouble"].as_str().unwrap_or_default();
    ensure!(trouble.contains("away"), "{status}");
    let port = row(daemon, "port list", "name", "pod1")?;
    let reason = port["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("helper.sock"), "{port}");
    helper.relaunch()?;
    let up =
        |daemon: &Daemon, name: &str| Ok(row(daemon, "port list", "name", name)?["state"] == "up");
    let patience = Duration::from_secs(3);
    eventually(patience, "a port comes up", || up(daemon, "pod1"))?;
    ensure!(daemon.json("status")?["helper"].get("trouble").is_none());

    // Those that are up go on without it; a new one waits.
    helper.kill()?;
    still_forwarding(&overlay.pods[0][0], &overlay.pods[0][1])?;
    let late = pod(&overlay.world, 1, 9)?;
    let begun = Instant::now();
    let line = format!(
        "port add late --segment blue --netns {} --ifname eth0 --address {} --address {}",
        late.space.name(),
        late.v4,
        late.v6
    );
    let (code, words) = overlay.daemons[0].refusal(&line)?;
    ensure!(code == 1 && words.contains("helper"), "exit {code}: {words}");
    ensure!(begun.elapsed() < Duration::from_secs(3), "refused after {:?}", begun.elapsed());
    still_forwarding(&overlay.pods[0][0], &overlay.pods[0][1])?;
    eventually(patience, "the trouble is told", || {
        Ok(overlay.daemons[0].cli("status")?.contains("helper.sock (it is away"))
    })?;
    helper.relaunch()?;
    eventually(patience, "the helper is found again", || {
        Ok(overlay.daemons[0].json("status")?["helper"].get("trouble").is_none())
    })?;
    overlay.daemons[0].cli(&line)?;
    still_forwarding(&late, &overlay.pods[0][1])?;
    parted.end()
}

fn portraits(overlay: &Overlay) -> Result<Vec<String>> {
    overlay.pods.iter().flatten().map(|pod| pod.space.portrait("eth0")).collect()
}

/// Gives a pod permanent entries for another: what a neighbour table forgets without carrier is asked
/// for again only after a second, whatever the daemon does.
fn acquaint(a: &Pod, b: &Pod) -> Result<()> {
    let (index, mac) = (a.space.link("eth0")?.index, b.space.link("eth0")?.mac.context("mac")?);
    for host in b.hosts() {
        a.space.netlink(|netlink| netlink.set_neighbour(index, host, mac))??;
    }
    Ok(())
}

/// How many pods of each node talk while daemons and helpers die.
const PODS: usize = 50;

pub(crate) fn pods_survive_the_death_of_either_and_of_both() -> Result<()> {
    if !permitted() {
        return Ok(());
    }
    let mut parted = Parted::start(&Plan { pods: PODS, ..Plan::default() })?;
    let Parted { helper, overlay } = &mut parted;
    for (a, b) in overlay.pods[0].iter().zip(&overlay.pods[1]) {
        acquaint(a, b)?;
        acquaint(b, a)?;
    }
    let before = portraits(overlay)?;
    ensure!(before.iter().all(|p| p.contains("address fd09::") && p.contains("address 10.9.")));
    let deaths: [(&str, bool, bool); 4] = [
        ("helper", true, false),
        ("daemon", false, true),
        ("both", true, true),
        ("both", true, true),
    ];
    for (round, (who, helpers, daemons)) in deaths.into_iter().enumerate() {
        let mut talks = Talks::default();
        for (a, b) in overlay.pods[0].iter().zip(&overlay.pods[1]) {
            for host in b.hosts() {
                talks.open(&a.space, &b.space, host)?;
            }
        }
        talks.go_on()?;
        let (begun, mut away) = (Instant::now(), Duration::ZERO);
        if helpers {
            helper.kill()?;
        }
        if daemons {
            overlay.daemons[0].kill()?;
        }
        // Painting takes as long as a daemon is away: in the other rounds its return is what counts.
        if !daemons || round == 3 {
            ensure!(portraits(overlay)? == before, "the death of {who} changed a pod");
        }
        // In the last round the daemon is back first, and has to wait for its helper.
        if helpers && round < 3 {
            helper.relaunch()?;
        }
        let late = (round == 3).then(|| {
            let (space, dir) = (helper.space.clone(), helper.dir.path().to_owned());
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(300));
                Helper::launch(&space, &dir)
            })
        });
        if daemons {
            overlay.daemons[0].launch()?;
            away = begun.elapsed();
        }
        if let Some(late) = late {
            let Ok(process) = late.join() else { bail!("the thread panicked") };
            helper.process = process?;
        }
        talks.go_on().with_context(|| format!("{who}\n{}", overlay.daemons[0].log()))?;
        let stall = talks.end()?;
        eprintln!(
            "kill -9 of {who}: no daemon for {away:?}, {} connections, longest wait for an answer {stall:?}",
            2 * PODS
        );
        ensure!(stall < Duration::from_secs(2), "{who}: a connection waited {stall:?}");
        ensure!(portraits(overlay)? == before, "the start after the death of {who} changed a pod");
    }
    // Adopted ports are the daemon's as before: they can be changed and removed.
    overlay.daemons[0].cli("port list")?;
    let mut config = overlay.configs[0].clone();
    let gone = config.ports.pop().context("a port")?;
    overlay.daemons[0].configure(&config)?;
    overlay.daemons[0].cli("reload")?;
    let left = overlay.pods[0].iter().filter(|pod| pod.space.link("eth0").is_ok()).count();
    ensure!(left == PODS - 1, "{}: {left} devices are left", gone.name);
    parted.end()
}

/// A daemon that dies over the making of its ports, again and again, has them all in the end, and
/// no other.
pub(crate) fn ports_are_made_whoever_dies_over_it() -> Result<()> {
    if !permitted() {
        return Ok(());
    }
    let mut parted = Parted::build(&Plan { pods: 12, ..Plan::default() })?;
    let Parted { helper, overlay } = &mut parted;
    overlay.daemons[0].allow(&["pod", "not ready", "port"]);
    for round in 0..6_u64 {
        let patience = Duration::from_millis(20 + 37 * round);
        let _ = overlay.daemons[0].launch_within(patience)?;
        if round % 3 != 0 {
            helper.kill()?;
        }
        if round % 3 != 1 {
            overlay.daemons[0].kill()?;
        }
        if round % 3 != 0 {
            helper.relaunch()?;
        }
        if round % 3 == 1 {
            overlay.daemons[0].kill()?;
        }
    }
    overlay.daemons[0].launch()?;
    let (first, rest) = overlay.pods[0].split_first().context("pods")?;
    rest.iter().try_for_each(|pod| still_forwarding(first, pod))?;
    for pod in &overlay.pods[0] {
        let links = pod.space.netlink(|netlink| netlink.links())??;
        let names: Vec<_> = links.iter().map(|link| link.name.as_str()).collect();
        ensure!(names == ["lo", "eth0"], "{names:?}");
    }
    parted.end()
}

/// That others do it costs little: each port is a message or two more.
pub(crate) fn many_ports_are_made_as_fast() -> Result<()> {
    if !permitted() {
        return Ok(());
    }
    const PORTS: usize = 60;
    let mut took = Vec::new();
    for parted in [false, true] {
        let plan = Plan { nodes: 1, pods: PORTS, ..Plan::default() };
        let mut both = Parted::build(&plan)?;
        if !parted {
            let node = both.overlay.nodes[0].space.clone();
            let mut config = both.overlay.configs[0].clone();
            config.extra.clear();
            let daemon = Daemon::prepare(&tapestry(), &node)?;
            daemon.configure(&config)?;
            both.overlay.daemons[0] = daemon;
        }
        let made = both.overlay.daemons[0].launch()?;
        both.overlay.daemons[0].kill()?;
        let adopted = both.overlay.daemons[0].launch()?;
        took.push((made, adopted));
        both.end()?;
    }
    let [own, helped] = took.try_into().ok().context("two")?;
    eprintln!("{PORTS} ports made and adopted: by the daemon {own:?}, by the helper {helped:?}");
    for (own, helped) in [(own.0, helped.0), (own.1, helped.1)] {
        ensure!(helped < own * 2 + Duration::from_secs(1), "{helped:?}, not {own:?}");
    }
    Ok(())
}
