//! The peers among themselves: if these fail, it is not Tapestry's fault.

use anyhow::Result;
use lab::overlay::{Overlay, Plan, pod};
use lab::peer::kernel::{KernelOptions, KernelPeer};
use lab::peer::ovs::OvsPeer;
use lab::traffic::{ping, tcp, udp};

const PLAIN: KernelOptions = KernelOptions { checksum: true, offloads: true };

pub(crate) fn kernels_agree_with_each_other() -> Result<()> {
    for over_ipv6 in [false, true] {
        let lan = Overlay::build(&Plan { nodes: 0, strangers: 2, over_ipv6, ..Plan::default() })?;
        let [a, b] = [&lan.nodes[0], &lan.nodes[1]];
        let (va, vb) = (a.vtep(over_ipv6), b.vtep(over_ipv6));
        let a = KernelPeer::start(&lan.world, a, pod(&lan.world, 1, 1)?, (va, &[vb]), PLAIN)?;
        let b = KernelPeer::start(&lan.world, b, pod(&lan.world, 2, 1)?, (vb, &[va]), PLAIN)?;
        for host in b.pod.hosts() {
            ping::ping(&a.pod.space, host, 3, 56)?;
            tcp::transfer(&a.pod.space, &b.pod.space, host, (5_000_000, 5_000_000))?;
            udp::echo(&a.pod.space, &b.pod.space, host, &[0, 1, 500, 1400])?;
            udp::segmented(&a.pod.space, &b.pod.space, host, 400, 40, 7)?;
        }
    }
    Ok(())
}

pub(crate) fn open_vswitch_agrees_with_the_kernel() -> Result<()> {
    let lan = Overlay::build(&Plan { nodes: 0, strangers: 2, ..Plan::default() })?;
    let [a, b] = [&lan.nodes[0], &lan.nodes[1]];
    let (va, vb) = (a.vtep(false), b.vtep(false));
    a.space.offloads(lab::overlay::UNDERLAY, "tx off")?;
    let a = KernelPeer::start(&lan.world, a, pod(&lan.world, 1, 1)?, (va, &[vb]), PLAIN)?;
    let b = OvsPeer::start(&lan.world, b, pod(&lan.world, 2, 1)?, (vb, &[va]))?;
    for host in b.pod.hosts() {
        ping::until_answered(&a.pod.space, host, std::time::Duration::from_secs(5))?;
        tcp::transfer(&a.pod.space, &b.pod.space, host, (1_000_000, 1_000_000))?;
        udp::echo(&a.pod.space, &b.pod.space, host, &[0, 1, 500, 1400])?;
    }
    Ok(())
}
