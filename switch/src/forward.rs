//! The decision: pure, reads the topology and the answer of the FDB, writes no byte.

use crate::answer;
use crate::classify::{Admitted, Cast};
use crate::reason::DropReason;
use crate::topology::{Member, Port, Segment, Topology, Vtep};
use core::convert::Infallible;
use encap::{Frame, GsoKind, VlanId};
use fdb::{Lookup, PortId, VtepId};

/// What becomes of a frame. `R` is how it may leave for the underlay: a list of VTEPs for what
/// came from a port, nothing at all for what came from a VTEP, which makes split horizon a matter
/// of types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Decision<'t, R> {
    /// It goes on.
    Forward(Forward<'t, R>),
    /// The switch tells the sender something, and the frame goes nowhere.
    Answer(Answer),
    /// It goes nowhere.
    Drop(DropReason),
}

/// Where a frame goes. Tags are edited per output: each port gets the tag it wants, the underlay
/// none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward<'t, R> {
    /// To one port.
    Port {
        /// The port, and the tag that it wants.
        member: Member,
        /// Its MTU, within which the frame is.
        mtu: u16,
    },
    /// To the underlay only.
    Remote(R),
    /// To every member but the one it came from, and to the underlay.
    Flood {
        /// The segment's members.
        members: &'t [Member],
        /// Where it came from.
        except: Option<PortId>,
        /// The segment's VTEPs.
        remote: Option<R>,
    },
}

/// What the switch says to a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// ICMP "fragmentation needed" or ICMPv6 "packet too big", with the MTU that would do.
    TooBig {
        /// Layer 3 bytes.
        mtu: u16,
    },
    /// ICMP or ICMPv6 "time exceeded": the packet has no hop left.
    TimeExceeded,
    /// ICMP or ICMPv6 "unreachable".
    Unreachable(Unreachable),
    /// The gateway of a cluster segment is the neighbour that was asked for, by ARP or neighbour
    /// discovery.
    Neighbour,
    /// The gateway of a cluster segment replies to a ping.
    Echo,
}

/// What cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// An address of the cluster that nobody has.
    Host,
    /// What is outside the cluster, and there is no way out.
    Network,
}

impl Answer {
    /// Whether no more than so many of them are sent: errors about a route. RFC 4443 section 2.4 (f)
    /// has "too big" limited as well, but its sender would go on losing frames without a word; an
    /// answer goes back to the port that asked and takes no more than its question did.
    pub(crate) const fn is_paced(self) -> bool {
        matches!(self, Self::TimeExceeded | Self::Unreachable(_))
    }

    /// Why the frame is dropped when its sender must not be told.
    pub(crate) const fn untold(self) -> DropReason {
        match self {
            Self::TooBig { .. } => DropReason::TooBig,
            Self::TimeExceeded => DropReason::TtlExceeded,
            Self::Unreachable(_) => DropReason::NoRoute,
            Self::Neighbour | Self::Echo => DropReason::LinkControl,
        }
    }
}

/// The decision about a frame that came from `port`.
#[inline(always)]
pub(crate) fn from_port<'t>(
    topology: &'t Topology,
    segment: &'t Segment,
    port: &Port,
    admitted: &Admitted,
    lookup: Lookup,
    frame: &Frame<'_>,
) -> Decision<'t, &'t [VtepId]> {
    let flood = |remote: &'t [VtepId]| {
        let others = segment.members.iter().any(|member| member.port != port.id);
        if !others && remote.is_empty() {
            return Decision::Drop(DropReason::NoDestination);
        }
        let remote = (!remote.is_empty()).then_some(remote);
        Decision::Forward(Forward::Flood {
            members: &segment.members,
            except: Some(port.id),
            remote,
        })
    };
    match (admitted.cast, Place::of(topology, segment, lookup)) {
        (Cast::Group, _) => flood(&segment.flood),
        (Cast::Unicast, Place::Port(to, _)) if to.id == port.id => {
            Decision::Drop(DropReason::SamePort)
        }
        (Cast::Unicast, Place::Port(to, vlan)) => to_port(to, vlan, admitted, frame),
        (Cast::Unicast, Place::Vtep(to)) if fits(frame, admitted.ethernet.l3, to.mtu()) => {
            Decision::Forward(Forward::Remote(core::slice::from_ref(&to.id)))
        }
        (Cast::Unicast, Place::Vtep(to)) => too_big(frame, &admitted.clone(), to.mtu()),
        (Cast::Unicast, Place::Unknown) if segment.spec.flood_unknown => flood(&segment.flood),
        (Cast::Unicast, Place::Unknown) => Decision::Drop(DropReason::UnknownUnicast),
    }
}

/// The decision about a frame that came from a VTEP: ports only.
#[inline(always)]
pub(crate) fn from_vtep<'t>(
    topology: &'t Topology,
    segment: &'t Segment,
    admitted: &Admitted,
    lookup: Lookup,
    frame: &Frame<'_>,
) -> Decision<'t, Infallible> {
    let flood = || {
        if segment.members.is_empty() {
            return Decision::Drop(DropReason::NoDestination);
        }
        Decision::Forward(Forward::Flood { members: &segment.members, except: None, remote: None })
    };
    match (admitted.cast, Place::of(topology, segment, lookup)) {
        (Cast::Group, _) => flood(),
        (Cast::Unicast, Place::Port(to, vlan)) => to_port(to, vlan, admitted, frame),
        (Cast::Unicast, Place::Vtep(_)) => Decision::Drop(DropReason::SplitHorizon),
        (Cast::Unicast, Place::Unknown) if segment.spec.flood_unknown => flood(),
        (Cast::Unicast, Place::Unknown) => Decision::Drop(DropReason::UnknownUnicast),
    }
}

/// What the FDB says, as far as it is still true. An entry may outlive its port, its VTEP or the
/// port's membership by a moment: that is the same as not knowing the station.
enum Place<'t> {
    Port(&'t Port, Option<VlanId>),
    Vtep(&'t Vtep),
    Unknown,
}

impl<'t> Place<'t> {
    #[inline]
    fn of(topology: &'t Topology, segment: &Segment, lookup: Lookup) -> Self {
        let place = match lookup {
            Lookup::Port(id) => topology.port(id).and_then(|port| {
                let vlan = port.mode.tag_of(segment.id)?;
                Some(Self::Port(port, vlan))
            }),
            Lookup::Vtep(id) => topology.vtep(id).map(Self::Vtep),
            Lookup::Unknown => None,
        };
        place.unwrap_or(Self::Unknown)
    }
}

// Always, as who calls it: lent to a call, the header would lie in memory on every path.
#[inline(always)]
fn to_port<'t, R>(
    port: &Port,
    vlan: Option<VlanId>,
    admitted: &Admitted,
    frame: &Frame<'_>,
) -> Decision<'t, R> {
    if !port.spec.up {
        return Decision::Drop(DropReason::PortDown);
    }
    if fits(frame, admitted.ethernet.l3, port.spec.mtu) {
        let member = Member { port: port.id, vlan };
        Decision::Forward(Forward::Port { member, mtu: port.spec.mtu })
    } else {
        too_big(frame, &admitted.clone(), port.spec.mtu)
    }
}

/// Whether every frame that this is on a wire has at most `mtu` bytes of layer 3, which begins at `l3`. A TCP superframe
/// always does: it is cut to what fits (RFC 9293 leaves the segment boundaries to the sender).
#[inline]
pub(crate) fn fits(frame: &Frame<'_>, l3: usize, mtu: u16) -> bool {
    let longest = match frame.offload.gso {
        None => frame.len(),
        Some(gso) if gso.kind == GsoKind::Tcp => return true,
        Some(_) => frame.wire_len_max(),
    };
    longest <= l3 + usize::from(mtu)
}

#[cold]
fn too_big<'t, R>(frame: &Frame<'_>, admitted: &Admitted, mtu: u16) -> Decision<'t, R> {
    let answer = Answer::TooBig { mtu };
    if answer::may_be_told(frame, &admitted.ethernet, answer) {
        Decision::Answer(answer)
    } else {
        Decision::Drop(answer.untold())
    }
}
