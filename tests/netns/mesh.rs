//! Daemons among themselves.

use anyhow::{Context as _, Result, ensure};
use lab::overlay::{Plan, VNI};
use lab::traffic::frames::{BROADCAST, Frames, assert_heard};
use lab::traffic::ping;

use crate::common::{exchange_cleanly, known, mac_of, row, rows, start, ticks};

pub(crate) fn three_nodes_talk_over_an_ipv4_underlay() -> Result<()> {
    three_nodes_talk(false)
}

pub(crate) fn three_nodes_talk_over_an_ipv6_underlay() -> Result<()> {
    three_nodes_talk(true)
}

fn three_nodes_talk(over_ipv6: bool) -> Result<()> {
    let mut overlay = start(&Plan { nodes: 3, over_ipv6, ..Plan::default() })?;
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        let (a, b) = (&overlay.pods[from][0], &overlay.pods[to][0]);
        exchange_cleanly(a, b, 8)?;
    }
    // Each FDB says where each pod lives.
    for (index, daemon) in overlay.daemons.iter().enumerate() {
        for (home, pods) in overlay.pods.iter().enumerate() {
            let entry = row(daemon, "fdb list", "mac", &mac_of(&pods[0])?)?;
            ensure!(entry["vni"] == VNI, "{entry}");
            if home == index {
                ensure!(entry["port"] == "pod1" && entry["vtep"].is_null(), "{entry}");
            } else {
                let vtep = overlay.nodes[home].vtep(over_ipv6).to_string();
                ensure!(entry["vtep"] == vtep.as_str() && entry["port"].is_null(), "{entry}");
            }
        }
        let port = row(daemon, "port list", "name", "pod1")?;
        let mtu = if over_ipv6 { 1430 } else { 1450 };
        ensure!(port["state"] == "up" && port["mtu"] == mtu, "{port}");
        for peer in rows(daemon, "peer list")? {
            let (rx, tx) = (peer["rx"]["frames"].as_u64(), peer["tx"]["frames"].as_u64());
            ensure!(rx > Some(1000) && tx > Some(1000), "{peer}");
        }
    }
    overlay.assert_sound()
}

pub(crate) fn two_pods_of_one_node_talk_without_the_underlay() -> Result<()> {
    let mut overlay = start(&Plan { nodes: 2, pods: 2, ..Plan::default() })?;
    let [a, b] = [&overlay.pods[0][0], &overlay.pods[0][1]];
    exchange_cleanly(a, b, 8)?;
    let peer = &rows(&overlay.daemons[0], "peer list")?[0];
    let sent = peer["tx"]["frames"].as_u64().context("frames")?;
    ensure!(sent < 200, "{sent} frames of a local conversation went to the peer");
    overlay.assert_sound()
}

pub(crate) fn broadcast_multicast_and_unknown_unicast_reach_each_pod_once() -> Result<()> {
    for over_ipv6 in [false, true] {
        let mut overlay = start(&Plan { nodes: 3, pods: 2, over_ipv6, ..Plan::default() })?;
        let all: Vec<_> = overlay.pods.iter().flatten().collect();
        let ears: Vec<Frames> =
            all.iter().map(|pod| Frames::open(&pod.space, "eth0")).collect::<Result<_>>()?;
        let names: Vec<&str> = all.iter().map(|pod| pod.space.name()).collect();
        let everybody_but = |speaker: usize, times: usize| -> Vec<(&str, &Frames, usize)> {
            let all = names.iter().zip(&ears).enumerate();
            all.filter(|(at, _)| *at != speaker)
                .map(|(_, (name, ear))| (*name, ear, times))
                .collect()
        };
        let stranger = [0x02, 0xde, 0xad, 0, 0, 1];
        let multicast = [0x01, 0x00, 0x5e, 0x7f, 0, 1];
        for speaker in [0, 3, 4] {
            for (kind, to) in
                [("broadcast", BROADCAST), ("multicast", multicast), ("unknown", stranger)]
            {
                let text = format!("{kind} of {speaker}");
                assert_heard(&ears[speaker], to, &text, &everybody_but(speaker, 1))?;
            }
        }
        // What is known goes to its owner and to nobody else.
        let target = ears[2].mac();
        let times = |at| usize::from(at == 2);
        let all = names.iter().zip(&ears).enumerate().skip(1);
        let listeners: Vec<_> = all.map(|(at, (name, ear))| (*name, ear, times(at))).collect();
        assert_heard(&ears[0], target, "for the third pod only", &listeners)?;
        overlay.assert_sound()?;
    }
    Ok(())
}

pub(crate) fn idle_pods_cost_no_cpu() -> Result<()> {
    let mut overlay = start(&Plan::default())?;
    ping::ping(&overlay.pods[0][0].space, overlay.pods[1][0].hosts()[0], 3, 56)?;
    for daemon in &overlay.daemons {
        let used = cpu_over(daemon.pid()?, std::time::Duration::from_secs(1))?;
        ensure!(used < 0.1, "an idle daemon used {used:.2} of a core");
    }
    overlay.assert_sound()
}

/// The share of a core that a process uses during a time.
pub(crate) fn cpu_over(pid: i32, time: std::time::Duration) -> Result<f64> {
    let before = ticks(pid)?;
    std::thread::sleep(time);
    Ok((ticks(pid)? - before) as f64 / 100.0 / time.as_secs_f64())
}

pub(crate) fn a_flush_forgets_and_traffic_teaches_again() -> Result<()> {
    let mut overlay = start(&Plan::default())?;
    let (a, b) = (&overlay.pods[0][0], &overlay.pods[1][0]);
    ping::ping(&a.space, b.hosts()[0], 1, 56)?;
    let (near, far) = (mac_of(a)?, mac_of(b)?);
    let daemon = &overlay.daemons[0];
    ensure!(known(daemon)?.contains(&near) && known(daemon)?.contains(&far));
    daemon.cli(&format!("fdb flush --vtep {}", overlay.nodes[1].v4))?;
    ensure!(known(daemon)?.contains(&near) && !known(daemon)?.contains(&far));
    daemon.cli("fdb flush")?;
    ping::ping(&a.space, b.hosts()[0], 1, 56)?;
    ensure!(known(daemon)?.contains(&near) && known(daemon)?.contains(&far));
    overlay.assert_sound()
}
