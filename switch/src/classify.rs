//! What a frame is and which segment it belongs to, before anybody asks where it goes.

use crate::reason::DropReason;
use crate::topology::{Port, PortMode, Segment, Topology, Vtep};
use encap::{EtherType, Ethernet, EthernetError, StationMac, VlanId, vxlan};
use std::net::IpAddr;

/// Who a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cast {
    /// One station.
    Unicast,
    /// Broadcast or multicast.
    Group,
}

/// A frame's Ethernet header, found to be admissible.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admitted {
    pub(crate) ethernet: Ethernet,
    pub(crate) source: StationMac,
    pub(crate) cast: Cast,
}

/// What every frame must be, wherever it comes from. Inlined even where that looks dear: handed over
/// in memory, the addresses are written in one width and read in another, which stalls.
#[inline(always)]
pub(crate) fn admit(head: &[u8]) -> Result<Admitted, DropReason> {
    let ethernet = Ethernet::parse(head).map_err(|error| match error {
        EthernetError::Runt { .. } => DropReason::FrameTruncated,
        EthernetError::TruncatedTag { .. } => DropReason::TagTruncated,
    })?;
    let source = ethernet.src.station().ok_or(DropReason::SourceMacInvalid)?;
    if ethernet.ethertype == EtherType::MAC_CONTROL {
        return Err(DropReason::MacControl);
    }
    let cast = match ethernet.dst.station() {
        Some(_) => Cast::Unicast,
        None if ethernet.dst.is_link_local() => return Err(DropReason::LinkLocal),
        None if ethernet.dst.is_group() => Cast::Group,
        None => return Err(DropReason::DestMacInvalid),
    };
    Ok(Admitted { ethernet, source, cast })
}

/// The tag of a frame, as far as it names anything: a priority tag is as good as none (IEEE 802.1Q
/// section 9.6), and a service tag is none of a customer bridge's business. Nor is a tag behind the
/// tag: where the outer one comes off, the inner one would choose a VLAN that its sender has no
/// part in.
enum Named {
    Untagged,
    Vlan(VlanId),
    Foreign,
}

#[inline]
fn named(ethernet: &Ethernet) -> Named {
    match ethernet.tag {
        None => Named::Untagged,
        Some(tag) if tag.tpid != EtherType::VLAN => Named::Foreign,
        Some(_) if ethernet.ethertype.is_tag() => Named::Foreign,
        Some(tag) if tag.is_priority() => Named::Untagged,
        Some(tag) => tag.vlan().map_or(Named::Foreign, Named::Vlan),
    }
}

/// The segment of a frame from `port`.
#[inline]
pub(crate) fn from_port<'t>(
    topology: &'t Topology,
    port: &Port,
    ethernet: &Ethernet,
) -> Result<&'t Segment, DropReason> {
    let id = match (named(ethernet), &port.mode) {
        (Named::Untagged, mode) => mode.segment(None).ok_or(DropReason::VlanUntagged)?,
        (_, PortMode::Access(_)) => return Err(DropReason::VlanTagged),
        (Named::Vlan(vlan), mode) => mode.segment(Some(vlan)).ok_or(DropReason::VlanUnknown)?,
        (Named::Foreign, PortMode::Trunk { .. }) => return Err(DropReason::VlanUnknown),
    };
    topology.segment(id).ok_or(DropReason::PortDown)
}

/// The segment of a datagram from `peer`, and the VTEP it came from if that is one of the segment's
/// sources; `vtep` is the VTEP at that address, if there is one. A bridged segment without `strict_peers`
/// also takes frames from VTEPs that nobody has named; those are `None` until they are.
#[inline]
pub(crate) fn from_underlay<'t, 'v>(
    topology: &'t Topology,
    peer: IpAddr,
    vtep: Option<&'v Vtep>,
    header: vxlan::Header,
) -> Result<(&'t Segment, Option<&'v Vtep>), DropReason> {
    if peer == topology.local() {
        return Err(DropReason::Reflected);
    }
    let segment = topology.segment_of(header.vni).ok_or(DropReason::VniUnknown)?;
    let member = vtep.filter(|vtep| segment.is_source(vtep.id));
    if member.is_none() && (segment.spec.strict_peers || segment.cluster.is_some()) {
        return Err(match vtep {
            Some(_) => DropReason::PeerNotInSegment,
            None => DropReason::PeerUnknown,
        });
    }
    if header.reserved_bits_set && segment.spec.strict_header {
        return Err(DropReason::ReservedBits);
    }
    Ok((segment, member))
}

/// A frame from a tunnel is untagged, but for a mere priority (RFC 7348 section 6.1).
#[inline]
pub(crate) fn untagged(ethernet: &Ethernet) -> Result<(), DropReason> {
    match named(ethernet) {
        Named::Untagged => Ok(()),
        Named::Vlan(_) | Named::Foreign => Err(DropReason::InnerVlan),
    }
}
