//! What a frame is and which segment it belongs to, before anybody asks where it goes.

use crate::reason::DropReason;
use crate::topology::{Port, Segment, Topology, Vtep};
use encap::{EtherType, Ethernet, EthernetError, StationMac, VlanId, vxlan};
use std::net::IpAddr;

/// Who a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cast {
    /// One station.
    Unicast(StationMac),
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

/// What every frame must be, wherever it comes from.
#[inline]
pub(crate) fn admit(head: &[u8]) -> Result<Admitted, DropReason> {
    let ethernet = Ethernet::parse(head).map_err(|error| match error {
        EthernetError::Truncated { .. } => DropReason::FrameTruncated,
        EthernetError::TagTruncated { .. } => DropReason::TagTruncated,
    })?;
    let source = ethernet.src.station().ok_or(DropReason::SourceMacInvalid)?;
    if ethernet.ethertype == EtherType::MAC_CONTROL {
        return Err(DropReason::MacControl);
    }
    let cast = match ethernet.dst.station() {
        Some(station) => Cast::Unicast(station),
        None if ethernet.dst.is_link_local() => return Err(DropReason::LinkLocal),
        None if ethernet.dst.is_group() => Cast::Group,
        None => return Err(DropReason::DestMacInvalid),
    };
    Ok(Admitted { ethernet, source, cast })
}

/// The VLAN that a frame's tag names; a priority tag names none (IEEE 802.1Q section 9.6).
#[inline]
fn vlan(ethernet: &Ethernet) -> Result<Option<VlanId>, DropReason> {
    match ethernet.tag {
        None => Ok(None),
        Some(tag) if tag.vid == 0 => Ok(None),
        Some(tag) => VlanId::new(tag.vid).map(Some).map_err(|_| DropReason::VlanUnknown),
    }
}

/// The segment of a frame from `port`.
#[inline]
pub(crate) fn from_port<'t>(
    topology: &'t Topology,
    port: &Port,
    ethernet: &Ethernet,
) -> Result<&'t Segment, DropReason> {
    let vlan = vlan(ethernet)?;
    let id = port.mode.segment(vlan).ok_or(match (&port.mode, vlan) {
        (crate::PortMode::Access(_), _) => DropReason::VlanTagged,
        (crate::PortMode::Trunk { .. }, None) => DropReason::VlanUntagged,
        (crate::PortMode::Trunk { .. }, Some(_)) => DropReason::VlanUnknown,
    })?;
    topology.segment(id).ok_or(DropReason::PortDown)
}

/// The segment of a datagram, and the VTEP it came from. A segment without `strict_peers` also
/// takes frames from VTEPs that nobody has named; those are `None` until they are.
#[inline]
pub(crate) fn from_underlay(
    topology: &Topology,
    peer: IpAddr,
    header: vxlan::Header,
) -> Result<(&Segment, Option<&Vtep>), DropReason> {
    if peer == topology.local() {
        return Err(DropReason::Reflected);
    }
    let segment = topology.segment_of(header.vni).ok_or(DropReason::VniUnknown)?;
    let vtep = topology.vtep_at(peer);
    let member = vtep.filter(|vtep| segment.sources.binary_search(&vtep.id).is_ok());
    if segment.spec.strict_peers && member.is_none() {
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
    match vlan(ethernet) {
        Ok(None) => Ok(()),
        _ => Err(DropReason::InnerVlan),
    }
}
