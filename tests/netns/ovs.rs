//! Against Open vSwitch's userspace datapath.

use std::time::Duration;

use anyhow::{Context as _, Result};
use lab::overlay::{Overlay, Plan, UNDERLAY, pod};
use lab::peer::ovs::OvsPeer;
use lab::traffic::{ping, tcp, udp};

use crate::common::start;

fn with_ovs() -> Result<(Overlay, OvsPeer)> {
    let overlay = start(&Plan { nodes: 1, strangers: 1, ..Plan::default() })?;
    // Open vSwitch reads the cable through a packet socket: what we leave to the device it sees undone.
    overlay.nodes[0].space.offloads(UNDERLAY, "tx off")?;
    let (ours, theirs) = (&overlay.nodes[0], &overlay.nodes[1]);
    let pod = pod(&overlay.world, 9, 1)?;
    let ovs =
        OvsPeer::start(&overlay.world, theirs, pod, (theirs.vtep(false), &[ours.vtep(false)]))?;
    Ok((overlay, ovs))
}

pub(crate) fn talks_both_ways() -> Result<()> {
    let (mut overlay, ovs) = with_ovs()?;
    let ours = &overlay.pods[0][0];
    for (from, to) in [(ours, &ovs.pod), (&ovs.pod, ours)] {
        for host in to.hosts() {
            let what = || format!("{} to {host}: {}", from.space.name(), counters(&ovs));
            ping::until_answered(&from.space, host, Duration::from_secs(5)).with_context(what)?;
            ping::ping(&from.space, host, 5, 1000).with_context(what)?;
            udp::echo(&from.space, &to.space, host, &[0, 1, 512, 1400, 3000]).with_context(what)?;
            let bytes = 3_000_000;
            tcp::transfer(&from.space, &to.space, host, (bytes, bytes)).with_context(what)?;
        }
    }
    overlay.assert_sound()
}

fn counters(ovs: &OvsPeer) -> String {
    ovs.appctl("coverage/show").unwrap_or_default().lines().filter(|l| l.contains("drop")).collect()
}
