//! Against the kernel's VXLAN device and bridge.

use anyhow::{Context as _, Result};
use lab::overlay::{Overlay, Plan, Pod, pod};
use lab::peer::kernel::{KernelOptions, KernelPeer};
use lab::traffic::frames::{BROADCAST, Frames, assert_heard};

use crate::common::{exchange, start};

fn with_kernel(over_ipv6: bool, options: KernelOptions) -> Result<()> {
    let plan = Plan { nodes: 1, strangers: 1, over_ipv6, ..Plan::default() };
    let mut overlay = start(&plan)?;
    let kernel = peer(&overlay, over_ipv6, options)?;
    let ours = &overlay.pods[0][0];
    both_ways(&overlay, ours, &kernel.pod)?;
    overlay.assert_sound()
}

fn both_ways(overlay: &Overlay, ours: &Pod, theirs: &Pod) -> Result<()> {
    let drops = || format!("drops:\n{}", overlay.daemons[0].cli("drops").unwrap_or_default());
    exchange(ours, theirs, 5).with_context(drops).context("to the kernel")?;
    exchange(theirs, ours, 5).with_context(drops).context("from the kernel")?;
    Ok(())
}

fn peer(overlay: &Overlay, over_ipv6: bool, options: KernelOptions) -> Result<KernelPeer> {
    let (ours, theirs) = (&overlay.nodes[0], &overlay.nodes[overlay.daemons.len()]);
    let pod = pod(&overlay.world, 9, 1)?;
    let vteps = (theirs.vtep(over_ipv6), [ours.vtep(over_ipv6)]);
    KernelPeer::start(&overlay.world, theirs, pod, (vteps.0, &vteps.1), options)
}

pub(crate) fn talks_with_udp_checksums() -> Result<()> {
    with_kernel(false, KernelOptions { checksum: true, offloads: true })
}

pub(crate) fn talks_without_udp_checksums() -> Result<()> {
    with_kernel(false, KernelOptions { checksum: false, offloads: true })
}

pub(crate) fn talks_with_udp_checksums_and_no_offloads() -> Result<()> {
    with_kernel(false, KernelOptions { checksum: true, offloads: false })
}

pub(crate) fn talks_without_udp_checksums_and_no_offloads() -> Result<()> {
    with_kernel(false, KernelOptions { checksum: false, offloads: false })
}

pub(crate) fn talks_over_ipv6() -> Result<()> {
    with_kernel(true, KernelOptions { checksum: true, offloads: true })
}

pub(crate) fn talks_over_ipv6_and_no_offloads() -> Result<()> {
    with_kernel(true, KernelOptions { checksum: true, offloads: false })
}

pub(crate) fn talks_across_cards_that_segment_and_checksum() -> Result<()> {
    let plan = Plan { nodes: 1, strangers: 1, ..Plan::default() };
    let mut overlay = start(&plan)?;
    for node in &overlay.nodes {
        node.space.honest(lab::overlay::UNDERLAY)?;
    }
    let kernel = peer(&overlay, false, KernelOptions { checksum: true, offloads: true })?;
    let ours = &overlay.pods[0][0];
    both_ways(&overlay, ours, &kernel.pod)?;
    overlay.assert_sound()
}

pub(crate) fn floods_reach_it_once_and_come_back_never() -> Result<()> {
    let plan = Plan { nodes: 2, strangers: 1, ..Plan::default() };
    let mut overlay = start(&plan)?;
    let theirs = &overlay.nodes[2];
    let remotes = [overlay.nodes[0].vtep(false), overlay.nodes[1].vtep(false)];
    let kernel = KernelPeer::start(
        &overlay.world,
        theirs,
        pod(&overlay.world, 9, 1)?,
        (theirs.vtep(false), &remotes),
        KernelOptions { checksum: true, offloads: true },
    )?;
    let a = Frames::open(&overlay.pods[0][0].space, "eth0")?;
    let b = Frames::open(&overlay.pods[1][0].space, "eth0")?;
    let k = Frames::open(&kernel.pod.space, "eth0")?;
    assert_heard(&a, BROADCAST, "from a", &[("b", &b, 1), ("kernel", &k, 1)])?;
    assert_heard(&k, BROADCAST, "from the kernel", &[("a", &a, 1), ("b", &b, 1)])?;
    overlay.assert_sound()
}
