//! What the user asks for, in names and addresses, and what of it cannot be.

use encap::{StationMac, VlanId, Vni};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

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

/// One broadcast domain.
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
}

impl PortModeSpec {
    /// The segments' names, with the tag that each has on the port.
    fn segments(&self) -> Vec<(&str, Option<VlanId>)> {
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

/// Everything in `spec` that contradicts itself.
pub(crate) fn check(spec: &TopologySpec) -> Vec<TopologyError> {
    let mut errors = Vec::new();
    let mut udp: BTreeMap<IpAddr, u16> = BTreeMap::new();
    for peer in spec.segments.iter().flat_map(|s| s.peers.iter().chain(&s.multicast)) {
        if *udp.entry(peer.ip()).or_insert(peer.port()) != peer.port() {
            errors.push(TopologyError::PeerPorts(peer.ip()));
        }
    }
    let mut names = BTreeSet::new();
    let mut vnis = BTreeSet::new();
    for segment in &spec.segments {
        if !names.insert(segment.name.as_str()) {
            errors.push(TopologyError::DuplicateName(segment.name.clone()));
        }
        if !vnis.insert(segment.vni) {
            errors.push(TopologyError::DuplicateVni(segment.vni));
        }
        if segment.peers.iter().any(|peer| peer.ip() == spec.local) {
            errors.push(TopologyError::PeerIsSelf(segment.name.clone()));
        }
    }
    let mut ports = BTreeSet::new();
    for port in &spec.ports {
        if !ports.insert(port.name.as_str()) {
            errors.push(TopologyError::DuplicateName(port.name.clone()));
        }
        let (mut seen, mut tags) = (BTreeSet::new(), BTreeSet::new());
        for (segment, vlan) in port.mode.segments() {
            let port = port.name.clone();
            if !names.contains(segment) {
                errors.push(TopologyError::NoSegment { port, segment: segment.to_owned() });
            } else if !seen.insert(segment) {
                errors.push(TopologyError::DuplicateOnTrunk { port, what: segment.to_owned() });
            } else if vlan.is_some_and(|vlan| !tags.insert(vlan)) {
                let what = vlan.map(|vlan| format!("VLAN {vlan}")).unwrap_or_default();
                errors.push(TopologyError::DuplicateOnTrunk { port, what });
            }
        }
    }
    errors
}
