//! What the user asks for, in names and addresses, and what of it cannot be.

use crate::shared_map::SharedMap;
use encap::{MacAddr, StationMac, VlanId, Vni};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The MAC address of the gateway that every pod of a cluster segment has for its only neighbour:
/// locally administered, the same on every node, and of another kind than a pod's.
pub const GATEWAY_MAC: StationMac = match MacAddr([0x0e, 0x7a, 0x70, 0, 0, 1]).station() {
    Some(mac) => mac,
    None => unreachable!(),
};
/// The gateway's IPv4 address, as pods have it in their routes.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The gateway's IPv6 address, as pods have it in their routes.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// What a topology is to be, in the user's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopologySpec {
    /// This node's own VTEP address; datagrams that claim to come from it are reflections.
    pub local: IpAddr,
    /// The layer 3 MTU of the overlay as the underlay's interface allows it.
    pub overlay_mtu: u16,
    /// The segments.
    pub segments: Vec<SegmentSpec>,
    /// The ports.
    pub ports: Vec<PortSpec>,
    /// VTEPs that were heard in segments without `strict_peers`: address and segment's name.
    pub heard: Vec<(IpAddr, String)>,
}

/// One broadcast domain, or one cluster's pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentSpec {
    /// Its name.
    pub name: String,
    /// Its number on the wire.
    pub vni: Vni,
    /// The VTEPs that flooded frames are replicated to, and that may send into the segment.
    pub peers: Vec<SocketAddr>,
    /// The group that takes flooded frames in place of the peers.
    pub multicast: Option<SocketAddr>,
    /// Whether source addresses are learned.
    pub learning: bool,
    /// Whether frames to unknown unicast addresses are flooded.
    pub flood_unknown: bool,
    /// Whether only `peers` may send into the segment.
    pub strict_peers: bool,
    /// Whether a reserved bit in the VXLAN header is a reason to drop.
    pub strict_header: bool,
    /// Set in a cluster segment: its frames are routed by IP address instead of bridged. The FDB is
    /// then neither asked nor taught, and of the fields above `learning`, `flood_unknown` and
    /// `strict_peers` mean nothing: nothing unknown is flooded, and no stranger is listened to.
    pub cluster: Option<ClusterSpec>,
}

/// What a cluster segment routes by: who has which addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterSpec {
    /// The cluster's networks, in which all pods are. What lies in them and is nobody's is
    /// unreachable; what lies outside goes to the gateway port.
    pub networks: Vec<IpNet>,
    /// This node's podCIDRs.
    pub own: Vec<IpNet>,
    /// The addresses that other nodes know this node by, which no pod has. What they send there goes
    /// to the gateway port, whose own addresses need not be named.
    pub own_addresses: Vec<IpAddr>,
    /// What other nodes have, and their VTEPs: podCIDRs, exceptions, and the nodes' own addresses as
    /// host routes; no prefix has host bits. The longest prefix counts, also against `own`. Every VTEP
    /// named here gets flooded frames as a peer does, and may send into the segment, with sources
    /// within its own prefixes.
    pub routes: SharedMap<IpNet, SocketAddr>,
    /// The UDP port of this node's VTEP. Pods may send to it at no node, nor to that of another VTEP
    /// at the node which has it.
    pub vtep_port: u16,
    /// Whether multicast and broadcast go to the pods of other nodes as well.
    pub flood_multicast: bool,
}

/// One attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// Its name.
    pub name: String,
    /// How it relates to segments, which are given by name.
    pub mode: PortModeSpec,
    /// The largest layer 3 size that may be written to it.
    pub mtu: u16,
    /// The MAC address of the device itself, known before it sends.
    pub mac: Option<StationMac>,
    /// Whether it is attached. A port that is down keeps its slot and gets no frames.
    pub up: bool,
    /// Who is behind it.
    pub role: PortRole,
}

/// Who is behind a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PortRole {
    /// Whoever has a MAC address, in a bridged segment.
    #[default]
    Station,
    /// One pod of a cluster segment. The port's `mac` is the pod's.
    Pod {
        /// The addresses that are routed to it.
        addresses: Vec<IpAddr>,
        /// Whether it may send from other MAC and IP addresses than its own.
        spoof: bool,
    },
    /// The kernel of the node itself: the way in and out of a cluster segment, at most one in each.
    /// The port's `mac` is that of the device.
    Gateway {
        /// The addresses of the device.
        addresses: Vec<IpAddr>,
    },
}

impl PortRole {
    /// The addresses behind the port, as far as they are known beforehand.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        match self {
            Self::Station => &[],
            Self::Pod { addresses, .. } | Self::Gateway { addresses } => addresses,
        }
    }
}

/// How a port relates to segments, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortModeSpec {
    /// Untagged, one segment.
    Access(String),
    /// Tagged, a segment per VLAN; `native` takes what is untagged.
    Trunk {
        /// VLAN and segment.
        vlans: Vec<(VlanId, String)>,
        /// The segment of untagged frames.
        native: Option<String>,
    },
}

/// What a specification cannot mean.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// Two segments, or two ports, of one name.
    #[error("the name \"{0}\" is used twice")]
    DuplicateName(String),
    /// Two segments with one number.
    #[error("VNI {0} is used by two segments")]
    DuplicateVni(Vni),
    /// A port names a segment that is not there.
    #[error("port \"{port}\": no segment \"{segment}\"")]
    NoSegment {
        /// The port.
        port: String,
        /// The segment it names.
        segment: String,
    },
    /// A trunk carries one VLAN twice, or one segment twice.
    #[error("port \"{port}\": VLAN or segment appears twice ({what})")]
    DuplicateOnTrunk {
        /// The port.
        port: String,
        /// The VLAN or the segment's name.
        what: String,
    },
    /// One address is given with two UDP ports, by one segment or by two.
    #[error("VTEP {0} is given with two UDP ports")]
    PeerPorts(IpAddr),
    /// A peer is this node.
    #[error("segment \"{0}\": this node's own address is among the peers")]
    PeerIsSelf(String),
    /// More than 65,535 of something.
    #[error("too many {0}")]
    TooMany(&'static str),
    /// A pod or a gateway is in a segment that is not a cluster's, or on a trunk.
    #[error("port \"{port}\" routes, and is not an access port of a cluster segment")]
    NotInCluster {
        /// The port.
        port: String,
    },
    /// A port in a cluster segment is neither a pod's nor the gateway.
    #[error(
        "port \"{port}\" is neither a pod's nor a gateway, and segment \"{segment}\" has no others"
    )]
    StationInCluster {
        /// The port.
        port: String,
        /// The cluster segment.
        segment: String,
    },
    /// A cluster segment has two gateway ports.
    #[error("port \"{port}\": segment \"{segment}\" has a gateway port already")]
    SecondGateway {
        /// The second one.
        port: String,
        /// The segment.
        segment: String,
    },
    /// A pod or a gateway has no MAC address, or the switch's own.
    #[error("port \"{port}\" routes and needs a MAC address of its own")]
    NoMac {
        /// The port.
        port: String,
    },
    /// Two ports of a segment have one address.
    #[error("port \"{port}\": {address} belongs to port \"{owner}\"")]
    DuplicateAddress {
        /// The second one.
        port: String,
        /// The address.
        address: IpAddr,
        /// The first one.
        owner: String,
    },
    /// No station can have this address, or it is not routed, or a pod has one of its node's.
    #[error("port \"{port}\" cannot have the address {address}")]
    BadAddress {
        /// The port.
        port: String,
        /// The address.
        address: IpAddr,
    },
    /// One prefix leads to a VTEP and to this node itself.
    #[error("segment \"{segment}\": {prefix} belongs to two nodes")]
    RouteConflict {
        /// The segment.
        segment: String,
        /// The prefix.
        prefix: IpNet,
    },
    /// The prefix of a route has bits behind its length.
    #[error("segment \"{segment}\": the route to {prefix} has host bits")]
    HostBits {
        /// The segment.
        segment: String,
        /// The prefix.
        prefix: IpNet,
    },
}

impl SegmentSpec {
    /// The VTEPs it names one by one: the peers, and those that its routes lead to.
    pub(crate) fn vteps(&self) -> impl Iterator<Item = SocketAddr> {
        let routes = self.cluster.iter().map(|cluster| &cluster.routes);
        self.peers.iter().copied().chain(routes.flat_map(SharedMap::values).copied())
    }
}

impl PortModeSpec {
    /// The segments' names, with the tag that each has on the port.
    pub(crate) fn segments(&self) -> Vec<(&str, Option<VlanId>)> {
        match self {
            Self::Access(segment) => vec![(segment, None)],
            Self::Trunk { vlans, native } => native
                .iter()
                .map(|segment| (segment.as_str(), None))
                .chain(vlans.iter().map(|(vlan, segment)| (segment.as_str(), Some(*vlan))))
                .collect(),
        }
    }
}
