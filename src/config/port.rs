//! A port: as typed (in the file, or in a request on the control socket), and as checked.

use core::net::IpAddr;
use std::collections::BTreeMap;

use encap::{MacAddr, StationMac, VlanId};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{IfName, Name, Netns};
use crate::attach::Pod;

/// A port as an operator types it; what is absent has its default. An access port has `segment`,
/// a trunk has `trunk` and perhaps `native`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortSpec {
    /// Its name, and its device's unless `ifname` is given.
    pub name: String,
    /// What kind of port it is: `tap`, the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The segment of an access port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<String>,
    /// The VLANs of a trunk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trunk: Vec<TrunkSpec>,
    /// The segment of a trunk's untagged frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub native: Option<String>,
    /// The namespace of the device: a name known to `ip netns`, or an absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// The name of the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifname: Option<String>,
    /// The address of the device. Default: derived from the names of node and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The addresses of the device, each with its prefix length.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// The routes through the device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteSpec>,
    /// The MTU of the device. Default: what fits through the tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The attachment that it is of; only the attachment socket makes such ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(ignore)]
    pub pod: Option<Pod>,
}

/// One VLAN of a trunk, as typed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrunkSpec {
    /// The VLAN, 1 to 4094.
    pub vlan: u32,
    /// Its segment.
    pub segment: String,
}

/// One route, as typed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteSpec {
    /// `default`, or a prefix.
    pub to: String,
    /// The next hop; absent: on the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
}

/// A port that passed every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: Name,
    /// Which segments it is in.
    pub mode: PortMode,
    /// The namespace of its device; `None`: the daemon's own.
    pub netns: Option<Netns>,
    /// The name of its device there.
    pub ifname: IfName,
    /// The address of its device, configured or derived.
    pub mac: StationMac,
    /// The addresses of its device, host bits included.
    pub addresses: Vec<IpNet>,
    /// The routes through its device.
    pub routes: Vec<Route>,
    /// Addresses that its device never asks for, and whose they are.
    pub neighbours: Vec<(IpAddr, StationMac)>,
    /// The MTU of its device; `None`: underlay path MTU minus the overhead.
    pub mtu: Option<u16>,
    /// Who is behind it.
    pub role: Role,
    /// The attachment that it is of.
    pub pod: Option<Pod>,
}

/// Who is behind a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Whoever has a MAC address, in a segment of the configuration.
    #[default]
    Station,
    /// One pod, whose addresses are the port's.
    Pod {
        /// Whether it may send from others' addresses.
        spoof: bool,
    },
    /// The node's own kernel.
    Gateway,
}

/// Which segments a port is in. A segment is at most once on a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortMode {
    /// One segment, untagged.
    Access(Name),
    /// A segment for each VLAN.
    Trunk {
        /// The segment of each VLAN; at least one.
        vlans: BTreeMap<VlanId, Name>,
        /// The segment of untagged frames; `None`: they are dropped.
        native: Option<Name>,
    },
}

/// A route through a port's device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Where to, without host bits; `0.0.0.0/0` or `::/0` for `default`.
    pub to: IpNet,
    /// The next hop, which one of the port's addresses reaches; `None`: on the link.
    pub via: Option<IpAddr>,
    /// The source address of what the device's own host sends there; `None`: the kernel's choice.
    pub src: Option<IpAddr>,
    /// Whether the next hop counts as reachable though no address says so.
    pub onlink: bool,
}

impl PortMode {
    /// The segment of untagged frames.
    #[must_use]
    pub const fn untagged(&self) -> Option<&Name> {
        match self {
            Self::Access(segment) => Some(segment),
            Self::Trunk { native, .. } => native.as_ref(),
        }
    }

    /// Every segment of the port, each once, with its VLAN where it is tagged.
    pub fn segments(&self) -> impl Iterator<Item = (Option<VlanId>, &Name)> {
        let vlans = match self {
            Self::Access(_) => None,
            Self::Trunk { vlans, .. } => Some(vlans),
        };
        let tagged = vlans.into_iter().flatten().map(|(vlan, name)| (Some(*vlan), name));
        self.untagged().map(|name| (None, name)).into_iter().chain(tagged)
    }
}

impl Port {
    /// The port as one would type it, every default that is decided here filled in. Checking it
    /// again on the same node gives the same port.
    #[must_use]
    pub fn spec(&self) -> PortSpec {
        let name = |name: &Name| name.as_str().to_owned();
        let (segment, trunk, native) = match &self.mode {
            PortMode::Access(segment) => (Some(name(segment)), Vec::new(), None),
            PortMode::Trunk { vlans, native } => {
                let entry = |(vlan, segment): (&VlanId, &Name)| TrunkSpec {
                    vlan: u32::from(vlan.get()),
                    segment: name(segment),
                };
                (None, vlans.iter().map(entry).collect(), native.as_ref().map(name))
            }
        };
        let route = |route: &Route| RouteSpec {
            to: route.to.to_string(),
            via: route.via.map(|via| via.to_string()),
        };
        // Where the segment routes, they follow from the addresses.
        let given = self.pod.as_ref().is_none_or(|pod| !pod.routed);
        let routes = if given { self.routes.as_slice() } else { &[] };
        PortSpec {
            name: name(&self.name),
            kind: None,
            segment,
            trunk,
            native,
            netns: self.netns.as_ref().map(ToString::to_string),
            ifname: Some(self.ifname.to_string()),
            mac: Some(self.mac.to_string()),
            addresses: self.addresses.iter().map(ToString::to_string).collect(),
            routes: routes.iter().map(route).collect(),
            mtu: self.mtu.map(u32::from),
            pod: self.pod.clone(),
        }
    }
}

/// The address of a port that was given none: locally administered, unicast, and the same each
/// time for the same node and port. FNV-1a over both names, so that it is stable across releases.
#[must_use]
pub fn derived_mac(node: &Name, port: &str) -> StationMac {
    // The zero byte keeps ("ab", "c") and ("a", "bc") apart; no name holds one.
    let bytes = node.as_str().bytes().chain([0]).chain(port.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // Names that differ in their last letter only differ in the low half of the hash.
    let mixed = (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let [_, _, a, b, c, d, e, f] = (mixed ^ (mixed >> 32)).to_be_bytes();
    MacAddr([(a & 0xfc) | 0x02, b, c, d, e, f]).station().unwrap_or(FALLBACK)
}

/// What [`derived_mac`] would give if a locally administered address could fail to be a station's.
const FALLBACK: StationMac = match MacAddr([2, 0, 0, 0, 0, 1]).station() {
    Some(mac) => mac,
    None => unreachable!(),
};
