//! A daemon's life: reload, namespaces that come and go, rivals, teardown.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lab::config::Segment;
use lab::daemon::Daemon;
use lab::overlay::{Overlay, Plan, access_port, pod};
use lab::tool::eventually;
use lab::traffic::lasting::Talks;
use lab::traffic::ping;
use tapestry::device::netns;

use crate::common::{ensure_same, row, rows, start, still_forwarding, tapestry};
use crate::mesh::cpu_over;

const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn a_reload_touches_only_what_changed() -> Result<()> {
    let mut overlay = start(&Plan::default())?;
    let mut talks = Talks::default();
    let (a, b) = (overlay.pods[0][0].clone(), overlay.pods[1][0].clone());
    for host in b.hosts() {
        talks.open(&a.space, &b.space, host)?;
    }
    let before = a.space.portrait("eth0")?;
    let index = a.space.link("eth0")?.index;

    let report = overlay.daemons[0].cli("reload")?;
    ensure!(!report.contains("pod1"), "nothing changed, yet: {report}");

    let extra = pod(&overlay.world, 1, 2)?;
    let mut config = overlay.configs[0].clone();
    config.ports.push(access_port("pod2", &extra));
    config.segments.push(Segment::new("green", 200, &[]));
    overlay.daemons[0].configure(&config)?;
    let report = overlay.daemons[0].cli("reload")?;
    ensure!(report.contains("pod2") && report.contains("green"), "not told: {report}");
    ping::until_answered(&extra.space, b.hosts()[0], PATIENCE)?;
    still_forwarding(&extra, &a)?;
    ensure_same("ports", &rows(&overlay.daemons[0], "port list")?, "name", &["pod1", "pod2"])?;
    ensure_same(
        "segments",
        &rows(&overlay.daemons[0], "segment list")?,
        "name",
        &["blue", "green"],
    )?;

    overlay.daemons[0].configure(&overlay.configs[0])?;
    overlay.daemons[0].cli("reload")?;
    ensure!(extra.space.link("eth0").is_err(), "a port that left the config left its device");
    ensure_same("ports", &rows(&overlay.daemons[0], "port list")?, "name", &["pod1"])?;

    ensure!(a.space.portrait("eth0")? == before && a.space.link("eth0")?.index == index);
    talks.go_on()?;
    let stall = talks.end()?;
    ensure!(stall < Duration::from_secs(1), "a connection waited {stall:?} for a reload");
    overlay.assert_sound()
}

pub(crate) fn a_wrong_config_changes_nothing() -> Result<()> {
    let mut overlay = start(&Plan::default())?;
    overlay.daemons[0].allow(&["config", "reload"]);
    // Without what traffic changes meanwhile.
    let segments = |daemon: &Daemon| -> Result<Vec<serde_json::Value>> {
        let mut rows = rows(daemon, "segment list")?;
        for row in &mut rows {
            row["fdb"].take();
        }
        Ok(rows)
    };
    let before = segments(&overlay.daemons[0])?;
    let wrong = [
        ("segment = \"blue\"", "segment = \"bleu\"", "segment"),
        ("vni = 100", "vni = 16777216", "vni"),
        ("vni = 100", "vni = 100\nnonsense = 1", "nonsense"),
        ("netns = \"", "netns = [1]\nifname_too = \"", "netns"),
    ];
    let text = overlay.daemons[0].text_of(&overlay.configs[0]);
    for (old, new, key) in wrong {
        let changed = text.replace(old, new);
        ensure!(changed != text, "{old} is not in the config");
        overlay.daemons[0].write_config(&changed)?;
        let (code, words) = overlay.daemons[0].refusal("reload")?;
        ensure!(code == 1 && words.contains(key), "{key}: exit {code}: {words}");
        still_forwarding(&overlay.pods[0][0], &overlay.pods[1][0])?;
        ensure!(segments(&overlay.daemons[0])? == before, "{key}: it took effect");
    }
    overlay.assert_sound()
}

pub(crate) fn a_port_comes_and_goes_with_its_namespace() -> Result<()> {
    let mut overlay = start(&Plan { pods: 2, ..Plan::default() })?;
    overlay.daemons[0].allow(&["pod1"]);
    let far = overlay.pods[1][0].clone();
    let name = overlay.pods[0][0].space.name().to_owned();
    // Forget the handles, too: the namespace dies if the daemon lets go of it.
    overlay.pods[0].remove(0);
    ensure!(!netns::path_of(&name).exists());
    let state = |overlay: &Overlay, wanted: &str| {
        Ok(row(&overlay.daemons[0], "port list", "name", "pod1")?["state"] == wanted)
    };
    eventually(PATIENCE, "the port goes down", || state(&overlay, "down"))?;
    let used = cpu_over(overlay.daemons[0].pid()?, Duration::from_secs(1))?;
    ensure!(used < 0.2, "the daemon spins: {used:.2} of a core");
    still_forwarding(&overlay.pods[0][0], &far)?;

    let back = pod(&overlay.world, 1, 1)?;
    ensure!(back.space.name() == name);
    eventually(PATIENCE, "the port comes up", || state(&overlay, "up"))?;
    ping::until_answered(&back.space, far.hosts()[0], PATIENCE)?;
    still_forwarding(&far, &back)?;
    overlay.assert_sound()
}

pub(crate) fn a_namespace_may_come_after_the_daemon() -> Result<()> {
    let mut overlay = Overlay::build(&Plan::default())?;
    let late = overlay.pods[0][0].space.name().to_owned();
    overlay.pods[0].clear();
    for (node, config) in overlay.nodes.iter().zip(&overlay.configs) {
        overlay.daemons.push(Daemon::start(&tapestry(), &node.space, config)?);
    }
    overlay.daemons[0].allow(&["pod1"]);
    ensure!(row(&overlay.daemons[0], "port list", "name", "pod1")?["state"] == "down");
    let pod = pod(&overlay.world, 1, 1)?;
    ensure!(pod.space.name() == late);
    ping::until_answered(&overlay.pods[1][0].space, pod.hosts()[0], PATIENCE)?;
    overlay.assert_sound()
}

/// No mount changes when a link does: such places are looked at each second.
pub(crate) fn a_namespace_behind_a_link_comes_and_goes_with_the_link() -> Result<()> {
    let mut overlay = Overlay::build(&Plan::default())?;
    let scratch = tempfile::tempdir()?;
    let link = scratch.path().join("pod");
    let place = netns::path_of(overlay.pods[0][0].space.name());
    std::os::unix::fs::symlink(&place, &link)?;
    overlay.configs[0].ports[0].netns = Some(link.display().to_string());
    for (node, config) in overlay.nodes.iter().zip(&overlay.configs) {
        overlay.daemons.push(Daemon::start(&tapestry(), &node.space, config)?);
    }
    overlay.daemons[0].allow(&["pod1"]);
    let (near, far) = (overlay.pods[0][0].clone(), overlay.pods[1][0].clone());
    ping::until_answered(&near.space, far.hosts()[0], PATIENCE)?;
    let state = |overlay: &Overlay, wanted: &str| {
        Ok(row(&overlay.daemons[0], "port list", "name", "pod1")?["state"] == wanted)
    };
    std::fs::remove_file(&link)?;
    eventually(PATIENCE, "the port goes down", || state(&overlay, "down"))?;
    std::os::unix::fs::symlink(&place, &link)?;
    eventually(PATIENCE, "the port comes up", || state(&overlay, "up"))?;
    ping::until_answered(&near.space, far.hosts()[0], PATIENCE)?;
    overlay.assert_sound()
}

pub(crate) fn a_port_that_could_not_come_up_is_tried_again() -> Result<()> {
    let mut overlay = Overlay::build(&Plan::default())?;
    let pod = overlay.pods[0][0].clone();
    // Somebody else's device has the name.
    pod.space.netlink(|netlink| netlink.add_bridge("eth0"))??;
    let taken = pod.space.link("eth0")?.index;
    for (node, config) in overlay.nodes.iter().zip(&overlay.configs) {
        let mut daemon = Daemon::prepare(&tapestry(), &node.space)?;
        daemon.configure(config)?;
        // Not ready: a port is missing that could be there.
        let lacks = node.v4 == overlay.nodes[0].v4;
        let ready = daemon.launch_within(if lacks { Duration::from_secs(1) } else { PATIENCE })?;
        ensure!(ready.is_some() != lacks, "{}", daemon.log());
        overlay.daemons.push(daemon);
    }
    overlay.daemons[0].allow(&["pod1"]);
    let port = row(&overlay.daemons[0], "port list", "name", "pod1")?;
    let reason = port["reason"].as_str().unwrap_or_default();
    ensure!(port["state"] == "down" && reason.contains("bridge"), "{port}");
    ensure!(pod.space.link("eth0")?.index == taken, "it was taken over");
    pod.space.netlink(|netlink| netlink.delete_link(taken))??;
    ping::until_answered(&overlay.pods[1][0].space, pod.hosts()[0], PATIENCE)?;
    overlay.assert_sound()
}

pub(crate) fn teardown_leaves_nothing() -> Result<()> {
    let mut overlay = start(&Plan { pods: 3, ..Plan::default() })?;
    let config = overlay.daemons[0].config_path().display().to_string();
    let (code, words) = overlay.daemons[0].refusal(&format!("teardown --config {config}"))?;
    ensure!(code == 1, "teardown under a running daemon: exit {code}: {words}");
    still_forwarding(&overlay.pods[0][0], &overlay.pods[1][0])?;
    overlay.daemons[0].stop()?;
    for pod in &overlay.pods[0] {
        ensure!(pod.space.link("eth0").is_ok(), "stopping removed a port");
    }
    overlay.daemons[0].cli(&format!("teardown --config {config}"))?;
    for pod in &overlay.pods[0] {
        let left: Vec<String> = pod
            .space
            .netlink(|netlink| netlink.links())??
            .into_iter()
            .map(|link| link.name)
            .collect();
        ensure!(left == ["lo"], "teardown left {left:?}");
    }
    // Once more: there is nothing left to do, and that is no error.
    overlay.daemons[0].cli(&format!("teardown --config {config}"))?;
    overlay.daemons[1].assert_sound()
}

pub(crate) fn an_ephemeral_daemon_takes_its_ports_along() -> Result<()> {
    let mut overlay = Overlay::build(&Plan::default())?;
    for (node, config) in overlay.nodes.iter().zip(&overlay.configs) {
        let mut daemon = Daemon::prepare(&tapestry(), &node.space)?;
        daemon.flag("--ephemeral");
        daemon.configure(config)?;
        daemon.launch()?;
        overlay.daemons.push(daemon);
    }
    still_forwarding(&overlay.pods[0][0], &overlay.pods[1][0])?;
    overlay.assert_sound()?;
    for (daemon, pods) in overlay.daemons.iter_mut().zip(&overlay.pods) {
        daemon.stop()?;
        ensure!(pods[0].space.link("eth0").is_err(), "the port is still there");
    }
    Ok(())
}

pub(crate) fn a_second_daemon_is_refused() -> Result<()> {
    let mut overlay = start(&Plan::default())?;
    let daemon = &overlay.daemons[0];
    let (status, words) = daemon.rival(&daemon.config_path())?;
    ensure!(!status.success(), "a second daemon with the same config ran: {words}");
    // Its own socket and state, but the same address and port.
    let other = Daemon::prepare(&tapestry(), &overlay.nodes[0].space)?;
    let mut config = overlay.configs[0].clone();
    config.ports.clear();
    other.configure(&config)?;
    let (status, words) = other.rival(&other.config_path())?;
    ensure!(!status.success(), "a second daemon on the same VTEP ran: {words}");
    ensure!(words.contains("4789") || words.contains("192.0.2.1"), "it does not say why: {words}");
    still_forwarding(&overlay.pods[0][0], &overlay.pods[1][0])?;
    overlay.assert_sound()
}

pub(crate) fn ports_of_the_command_line_outlive_reload_and_restart() -> Result<()> {
    let mut overlay = start(&Plan::default())?;
    let extra = pod(&overlay.world, 1, 7)?;
    let daemon = &mut overlay.daemons[0];
    daemon.cli(&format!(
        "port add made-by-hand --segment blue --netns {} --ifname eth0 --address {} --address {}",
        extra.space.name(),
        extra.v4,
        extra.v6
    ))?;
    let far = overlay.pods[1][0].clone();
    ping::until_answered(&extra.space, far.hosts()[0], PATIENCE)?;
    let before = extra.space.portrait("eth0")?;
    daemon.cli("reload")?;
    daemon.kill()?;
    daemon.launch()?;
    ping::until_answered(&extra.space, far.hosts()[1], PATIENCE)?;
    ensure!(extra.space.portrait("eth0")? == before);
    let (code, words) = daemon.refusal("port del no-such-port")?;
    ensure!(code == 1 && words.contains("no-such-port"), "exit {code}: {words}");
    daemon.cli("port del made-by-hand")?;
    ensure!(extra.space.link("eth0").is_err(), "port del left the device");
    overlay.daemons[1].allow(&["peer", "underlay"]);
    overlay.assert_sound()
}

pub(crate) fn metrics_tell_what_the_command_line_tells() -> Result<()> {
    let extra = "[metrics]\nlisten = \"127.0.0.1:9190\"\n".to_owned();
    let mut overlay = start(&Plan { extra, ..Plan::default() })?;
    ping::ping(&overlay.pods[0][0].space, overlay.pods[1][0].hosts()[0], 5, 56)?;
    let get = |path: &str| -> Result<String> {
        let mut stream = overlay.nodes[0].space.run(|| TcpStream::connect("127.0.0.1:9190"))??;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    for path in ["/healthz", "/readyz"] {
        let text = get(path)?;
        ensure!(text.starts_with("HTTP/1.1 200"), "{path}: {text}");
    }
    let text = get("/metrics")?;
    let sample = |start: &str| {
        text.lines()
            .find(|line| line.starts_with(start))
            .with_context(|| format!("no {start} in {text}"))
    };
    sample("tapestry_build_info{")?;
    for name in ["port_rx_frames", "port_tx_frames", "port_rx_bytes", "port_tx_bytes"] {
        let line = sample(&format!("tapestry_{name}_total{{"))?;
        ensure!(line.contains("port=\"pod1\"") && line.contains("segment=\"blue\""), "{line}");
        ensure!(line.rsplit(' ').next().context("value")?.parse::<f64>()? >= 5.0, "{line}");
    }
    for name in ["peer_rx_frames", "peer_tx_frames", "peer_rx_bytes", "peer_tx_bytes"] {
        let line = sample(&format!("tapestry_{name}_total{{"))?;
        ensure!(line.contains("peer=\"192.0.2.2\""), "{line}");
    }
    sample("tapestry_fdb_entries{")?;
    overlay.assert_sound()
}
