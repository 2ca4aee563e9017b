//! From the configuration, and what stands of it, to what the engine and the kernel are to be told.

use std::net::{IpAddr, SocketAddr};

use encap::IpVersion;
use fdb::SegmentLimits;
use ipnet::IpNet;
use switch::{PortModeSpec, PortRole, SegmentSpec};

use crate::config::{self, Config, Dscp, Port, PortMode, Role, Segment, Toggle, UnknownUnicast};
use crate::device::netlink::Route;
use crate::device::offload::OffloadWish;
use crate::device::spec::{NetnsRef, TapSpec};
use crate::io::underlay::{UnderlayConfig, Wish};

use super::worker::OuterRules;

/// Units that a TAP's ring holds: enough for what a guest sends while a worker serves the others.
pub(super) const RING: u32 = 1000;
/// A path MTU below this is a forgery (RFC 1191 section 3 puts the floor of real links at 68, RFC
/// 791 has every host take 576; RFC 8200 section 5 has every link carry 1280).
const PATH_FLOOR_V4: u16 = 576;
const PATH_FLOOR_V6: u16 = 1280;

/// How long a lowered path MTU is believed before the full one is tried again (RFC 1191 section
/// 6.3 recommends ten minutes).
pub(super) const PATH_MTU_MS: u64 = 10 * 60 * 1000;

/// The IP version of an address.
pub(super) const fn version(address: IpAddr) -> IpVersion {
    match address {
        IpAddr::V4(_) => IpVersion::V4,
        IpAddr::V6(_) => IpVersion::V6,
    }
}

/// How outer headers are made over the underlay of `local`.
pub(super) const fn outer_rules(dscp: Dscp, local: IpAddr) -> OuterRules {
    let overhead = encap::mtu::overhead(version(local));
    let floor = if local.is_ipv4() { PATH_FLOOR_V4 } else { PATH_FLOOR_V6 };
    let dscp = match dscp {
        Dscp::Inherit => None,
        Dscp::Fixed(dscp) => Some(dscp),
    };
    OuterRules { dscp, overhead, mtu_floor: floor.saturating_sub(overhead) }
}

/// The overlay's MTU over an interface with this MTU.
pub(super) fn overlay_mtu(interface_mtu: u32, local: IpAddr) -> u16 {
    let mtu = u16::try_from(interface_mtu).unwrap_or(u16::MAX);
    let version = version(local);
    let floor = outer_rules(Dscp::Fixed(0), local).mtu_floor;
    encap::mtu::overlay_mtu(mtu, version).unwrap_or(floor).max(floor)
}

/// The segment in the engine's terms.
pub(super) fn segment(segment: &Segment, port: u16) -> SegmentSpec {
    SegmentSpec {
        name: segment.name.as_str().to_owned(),
        vni: segment.vni,
        peers: segment.peers.clone(),
        multicast: segment.multicast.map(|group| SocketAddr::new(group, port)),
        learning: segment.learning,
        flood_unknown: segment.unknown_unicast == UnknownUnicast::Flood,
        strict_peers: segment.strict_peers,
        strict_header: segment.strict_header,
        cluster: None,
    }
}

/// The segment's limits in the FDB's terms.
pub(super) fn limits(segment: &Segment) -> SegmentLimits {
    SegmentLimits {
        aging_ms: u64::try_from(segment.aging.as_millis()).unwrap_or(u64::MAX),
        max_macs: segment.max_macs,
        per_port: segment.max_macs,
        per_vtep: segment.max_macs,
        learning: segment.learning,
    }
}

fn device_route(route: &config::Route) -> Route {
    Route { to: route.to, via: route.via, src: route.src, onlink: route.onlink }
}

/// Who is behind the port, in the engine's terms.
pub(super) fn role(port: &Port) -> PortRole {
    let addresses = || port.addresses.iter().map(IpNet::addr).collect();
    match port.role {
        Role::Station => PortRole::Station,
        Role::Pod { spoof } => PortRole::Pod { addresses: addresses(), spoof },
        Role::Gateway => PortRole::Gateway { addresses: addresses() },
    }
}

/// The port's mode in the engine's terms.
pub(super) fn mode(mode: &PortMode) -> PortModeSpec {
    match mode {
        PortMode::Access(segment) => PortModeSpec::Access(segment.as_str().to_owned()),
        PortMode::Trunk { vlans, native } => PortModeSpec::Trunk {
            vlans: vlans.iter().map(|(vlan, name)| (*vlan, name.as_str().to_owned())).collect(),
            native: native.as_ref().map(|name| name.as_str().to_owned()),
        },
    }
}

/// The device of a port: what is the same for all ports of a daemon.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeviceRules {
    /// One queue per worker.
    pub(super) queues: u16,
    /// The uid that may attach.
    pub(super) owner: u32,
    /// Whether devices outlive the daemon.
    pub(super) persist: bool,
    /// The MTU of ports that are given none.
    pub(super) mtu: u16,
    /// Which offloads are wanted.
    pub(super) offload: Toggle,
}

impl DeviceRules {
    /// The MTU of `port`.
    pub(super) fn mtu(&self, port: &Port) -> u16 {
        port.mtu.unwrap_or(self.mtu)
    }

    /// Which offloads are wanted, in the devices' terms.
    pub(super) const fn wish(&self) -> OffloadWish {
        match self.offload {
            Toggle::Auto => OffloadWish::Auto,
            Toggle::On => OffloadWish::Always,
            Toggle::Off => OffloadWish::Never,
        }
    }

    /// The device of `port`.
    pub(super) fn tap(&self, port: &Port) -> TapSpec {
        TapSpec {
            netns: port.netns.as_ref().map(|netns| NetnsRef(netns.as_str().to_owned())),
            ifname: port.ifname.as_str().to_owned(),
            mac: port.mac.get(),
            mtu: u32::from(self.mtu(port)),
            queues: self.queues,
            owner: self.owner,
            addresses: port.addresses.clone(),
            routes: port.routes.iter().map(device_route).collect(),
            neighbours: port
                .neighbours
                .iter()
                .map(|(address, mac)| (*address, mac.get()))
                .collect(),
            txqueuelen: Some(RING),
            persist: self.persist,
            offload: self.wish(),
        }
    }
}

/// The underlay's sockets for a VTEP at `address`.
pub(super) fn underlay(
    config: &Config,
    address: IpAddr,
    workers: std::num::NonZeroUsize,
) -> UnderlayConfig {
    let wish = |toggle| match toggle {
        Toggle::Auto => Wish::Auto,
        Toggle::On => Wish::On,
        Toggle::Off => Wish::Off,
    };
    let defaults = UnderlayConfig::new(address, config.underlay.port);
    let bytes = |set: Option<u32>, default| {
        set.and_then(|set| usize::try_from(set).ok()).unwrap_or(default)
    };
    UnderlayConfig {
        receive_buffer: bytes(config.underlay.rcvbuf, defaults.receive_buffer),
        send_buffer: bytes(config.underlay.sndbuf, defaults.send_buffer),
        udp_checksum: config.underlay.udp_checksum,
        workers,
        udp_gso: wish(config.offload.udp_gso),
        udp_gro: wish(config.offload.udp_gro),
        ..defaults
    }
}

/// How many workers and queues there are: the number that is configured, or one for each processor, up
/// to eight. The guests' own work runs on the same processors; a worker without work leaves them alone.
pub(super) fn workers(configured: u16) -> u16 {
    if configured != 0 {
        return configured;
    }
    workers_on(std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get))
}

/// How many workers so many processors have.
fn workers_on(processors: usize) -> u16 {
    u16::try_from(processors).unwrap_or(u16::MAX).clamp(1, 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_processor_has_a_worker_up_to_eight_unless_a_number_is_given() {
        for (processors, count) in [(1, 1), (2, 2), (3, 3), (8, 8), (9, 8), (1 << 20, 8)] {
            assert_eq!(workers_on(processors), count, "{processors} processors");
        }
        assert_eq!([workers(1), workers(256)], [1, 256]);
        assert!((1..=8).contains(&workers(0)));
    }
}
