//! The kernel's VXLAN device and bridge as a VTEP.

use std::net::IpAddr;

use anyhow::Result;

use crate::overlay::{Node, Pod, UNDERLAY, VNI};
use crate::world::{Space, World};

/// How the kernel's side is set.
#[derive(Clone, Copy, Debug)]
pub struct KernelOptions {
    /// UDP checksums on what it sends.
    pub checksum: bool,
    /// Segmentation, checksum and receive offloads of its devices.
    pub offloads: bool,
}

/// A bridge with a VXLAN port and a veth to a pod.
#[derive(Debug)]
pub struct KernelPeer {
    /// The node's namespace.
    pub space: Space,
    /// The pod behind it.
    pub pod: Pod,
}

impl KernelPeer {
    /// Sets it up on a node of its own. `remotes` get what is for everybody; others are learned.
    ///
    /// # Errors
    ///
    /// If the kernel refuses, or `ip`, `bridge` or `ethtool` are missing.
    pub fn start(
        world: &World,
        node: &Node,
        pod: Pod,
        (local, remotes): (IpAddr, &[IpAddr]),
        options: KernelOptions,
    ) -> Result<Self> {
        let space = node.space.clone();
        world.veth((&space, "pod0"), (&pod.space, "eth0"), 1500)?;
        let checksum = match (local, options.checksum) {
            (IpAddr::V4(_), true) => "udpcsum",
            (IpAddr::V4(_), false) => "noudpcsum",
            (IpAddr::V6(_), true) => "noudp6zerocsumtx noudp6zerocsumrx",
            (IpAddr::V6(_), false) => "udp6zerocsumtx udp6zerocsumrx",
        };
        space.output("ip link add br0 type bridge mcast_snooping 0")?;
        space.output(&format!(
            "ip link add vx0 type vxlan id {VNI} local {local} dev {UNDERLAY} dstport 4789 {checksum}"
        ))?;
        for remote in remotes {
            space.output(&format!("bridge fdb append 00:00:00:00:00:00 dev vx0 dst {remote}"))?;
        }
        for device in ["vx0", "pod0"] {
            space.output(&format!("ip link set {device} master br0 up"))?;
        }
        space.output("ip link set br0 up")?;
        let mtu = if local.is_ipv4() { 1450 } else { 1430 };
        pod.space.output(&format!("ip link set eth0 mtu {mtu}"))?;
        pod.space.address("eth0", pod.v4)?;
        pod.space.address("eth0", pod.v6)?;
        if !options.offloads {
            let off = "tso off gso off gro off tx off rx off";
            for (space, device) in [(&pod.space, "eth0"), (&space, "pod0"), (&space, UNDERLAY)] {
                space.offloads(device, off)?;
            }
            space.offloads("vx0", "tso off gso off gro off tx off")?;
        }
        Ok(Self { space, pod })
    }
}
