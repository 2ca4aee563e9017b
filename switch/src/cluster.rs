//! The decision about a frame of a cluster segment: routed by IP address, nothing learned, nothing
//! unknown flooded. Pure, as [`crate::forward`] is for the bridged ones.
//!
//! A pod has the gateway for its only neighbour, and the switch is that gateway. It passes on what
//! is sent to its MAC address, from where it may come, to where the longest prefix leads.

use crate::answer;
use crate::check::is_routable;
use crate::classify::Admitted;
use crate::forward::{Answer, Forward, Unreachable, fits};
use crate::gateway;
use crate::index::{Address, Index};
use crate::reason::DropReason;
use crate::route::{Owner, Routes};
use crate::spec::{ClusterSpec, GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6, PortRole};
use crate::topology::{Member, Port, Segment, Topology, Vtep};
use core::convert::Infallible;
use encap::inet::proto;
use encap::{EtherType, Fragment, Frame, Inet, IpVersion, StationMac, checksum, hop};
use fdb::{PortId, VtepId};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// UDP ports on which VTEPs listen by custom: IANA's, and the Linux kernel's.
const VXLAN_PORTS: [u16; 2] = [4789, 8472];

/// What a cluster segment of a snapshot routes by.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    routes: Arc<Routes>,
    locals: Index<Address, Local>,
    /// The pods' ports that are up, ordered by slot.
    pods: Vec<Member>,
    gateway: Option<PortId>,
    voices: [IpAddr; 2],
    networks: Vec<IpNet>,
    vtep_port: u16,
    /// All UDP ports on which a VTEP may listen.
    vxlan_ports: BTreeSet<u16>,
    flood_multicast: bool,
}

/// Who has an address on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Local {
    Pod(PortId),
    /// The node itself, behind the gateway port.
    Node,
}

impl Cluster {
    /// What the cluster segment `spec` routes by, its `routes` aside, with these of its ports, and
    /// the VTEPs of all segments.
    pub(crate) fn new<'p>(
        spec: &ClusterSpec,
        routes: Arc<Routes>,
        ports: impl Iterator<Item = &'p Port>,
        vteps: impl Iterator<Item = &'p Vtep>,
    ) -> Self {
        let known = VXLAN_PORTS.into_iter().chain([spec.vtep_port]);
        let mut cluster = Self {
            routes,
            locals: Index::default(),
            pods: Vec::new(),
            gateway: None,
            voices: [GATEWAY_V4.into(), GATEWAY_V6.into()],
            networks: spec.networks.clone(),
            vtep_port: spec.vtep_port,
            vxlan_ports: vteps.map(|vtep| vtep.address.port()).chain(known).collect(),
            flood_multicast: spec.flood_multicast,
        };
        spec.own_addresses.iter().for_each(|own| cluster.locals.insert(Address(*own), Local::Node));
        for port in ports {
            let local = match port.spec.role {
                PortRole::Pod { .. } => Local::Pod(port.id),
                PortRole::Gateway { .. } => Local::Node,
                PortRole::Station => continue,
            };
            for address in port.spec.role.addresses() {
                cluster.locals.insert(Address(*address), local);
            }
            match local {
                Local::Pod(id) if port.spec.up => {
                    cluster.pods.push(Member { port: id, vlan: None });
                }
                Local::Pod(_) => {}
                Local::Node => cluster.adopt_gateway(port),
            }
        }
        cluster
    }

    fn adopt_gateway(&mut self, port: &Port) {
        self.gateway = Some(port.id);
        for voice in &mut self.voices {
            let mut own = port.spec.role.addresses().iter();
            *voice = *own.find(|own| own.is_ipv4() == voice.is_ipv4()).unwrap_or(voice);
        }
    }

    /// The table of prefixes, for the snapshot after this one.
    pub(crate) fn routes(&self) -> &Arc<Routes> {
        &self.routes
    }

    /// The same, to be changed; other snapshots keep theirs.
    pub(crate) fn routes_mut(&mut self) -> &mut Routes {
        Arc::make_mut(&mut self.routes)
    }

    /// In whose name the gateway speaks to a pod: the address that the node has in the cluster,
    /// where it has one.
    pub(crate) fn voice(&self, version: IpVersion) -> IpAddr {
        let [v4, v6] = self.voices;
        match version {
            IpVersion::V4 => v4,
            IpVersion::V6 => v6,
        }
    }
}

/// Why a frame goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Drop(DropReason),
    Answer(Answer),
}

impl From<DropReason> for Stop {
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

/// How a frame goes on. `R` is as in [`Forward`].
pub(crate) enum Passage<'t, R> {
    /// As it is, to others on the same link: multicast and broadcast.
    Link(Forward<'t, R>),
    /// Through the router.
    Routed(Hop<R>),
}

/// The next hop of a frame that is routed, within whose MTU it is.
pub(crate) struct Hop<R> {
    pub(crate) to: Next<R>,
    /// The MAC address of the next hop.
    pub(crate) mac: StationMac,
    /// Whether this is where the packet gets older: once on its way through the cluster.
    pub(crate) ages: bool,
}

/// Where a frame that is routed leaves.
#[derive(Clone, Copy)]
pub(crate) enum Next<R> {
    Port { port: PortId, mtu: u16 },
    Remote(R),
}

/// A frame in a cluster segment.
pub(crate) struct Routing<'t, 'f> {
    pub(crate) topology: &'t Topology,
    pub(crate) segment: &'t Segment,
    pub(crate) cluster: &'t Cluster,
    pub(crate) admitted: &'f Admitted,
    pub(crate) frame: &'f Frame<'f>,
}

/// Its IP header.
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    pub(crate) inet: Inet,
    source: IpAddr,
    destination: IpAddr,
}

impl<'t> Routing<'t, '_> {
    /// The frame's packet. A superframe's length was checked by whoever made it one.
    #[inline(always)]
    pub(crate) fn packet(&self) -> Result<Packet, DropReason> {
        let ethernet = &self.admitted.ethernet;
        let Some(inet) = Inet::at(self.frame.head, ethernet) else {
            let ip = matches!(ethernet.l3_type, EtherType::IPV4 | EtherType::IPV6);
            return Err(if ip { DropReason::IpMalformed } else { DropReason::NotIp });
        };
        if self.frame.offload.gso.is_none() && !inet.fits(self.frame.len()) {
            return Err(DropReason::IpMalformed);
        }
        let (source, destination) =
            inet.addresses(self.frame.head).ok_or(DropReason::IpMalformed)?;
        Ok(Packet { inet, source, destination })
    }

    /// The decision about a frame that came from `port`.
    #[inline(always)]
    pub(crate) fn of_port(
        &self,
        port: &'t Port,
        packet: &Packet,
    ) -> Result<Passage<'t, &'t [VtepId]>, Stop> {
        if gateway::is_link_control(self.frame.head, &packet.inet) {
            return Err(gateway::solicited(self.frame.head, &packet.inet, port));
        }
        if self.is_group() {
            return self.link(port, packet).map(Passage::Link);
        }
        self.is_for_gateway()?;
        if matches!(packet.destination, IpAddr::V4(GATEWAY_V4) | IpAddr::V6(GATEWAY_V6)) {
            return Err(gateway::called(self.frame.head, &packet.inet));
        }
        if let PortRole::Pod { addresses, spoof } = &port.spec.role {
            if !spoof && !addresses.contains(&packet.source) {
                return Err(DropReason::SpoofedAddress.into());
            }
            if self.is_for_vtep(packet) {
                return Err(DropReason::PodToVtep.into());
            }
        }
        let hop = self.next(port, packet)?;
        if hop::left(self.frame.head, &packet.inet).is_none_or(|left| left <= 1) {
            return Err(self.tell(packet, Answer::TimeExceeded));
        }
        let mtu = match hop.to {
            Next::Port { mtu, .. } => mtu,
            Next::Remote(vtep) => vtep.mtu(),
        };
        if !fits(self.frame, self.admitted.ethernet.l3, mtu) {
            return Err(self.tell(packet, Answer::TooBig { mtu }));
        }
        let to = match hop.to {
            Next::Port { port, mtu } => Next::Port { port, mtu },
            Next::Remote(vtep) => Next::Remote(core::slice::from_ref(&vtep.id)),
        };
        Ok(Passage::Routed(Hop { to, mac: hop.mac, ages: true }))
    }

    /// The decision about a frame that came from `vtep`, one of the segment's: ports only.
    #[inline(always)]
    pub(crate) fn of_vtep(
        &self,
        vtep: &Vtep,
        packet: &Packet,
    ) -> Result<Passage<'t, Infallible>, DropReason> {
        let group = self.is_group();
        let link = gateway::is_link_control(self.frame.head, &packet.inet);
        if link || (group && !self.cluster.flood_multicast) {
            return Err(DropReason::LinkControl);
        }
        let theirs = self.cluster.routes.owner(packet.source) == Some(Owner::Vtep(vtep.id));
        let of_link = group && is_of_link(packet.source);
        if !theirs && !of_link {
            return Err(DropReason::SpoofedAddress);
        }
        if group {
            return self.flood(packet, None, None).map(Passage::Link);
        }
        self.is_for_gateway()?;
        let port = match self.cluster.locals.get(&Address(packet.destination)) {
            Some(Local::Pod(id)) => self.topology.port(id),
            Some(Local::Node) => self.gateway(),
            None => {
                return Err(match self.cluster.routes.owner(packet.destination) {
                    Some(Owner::Vtep(_)) => DropReason::SplitHorizon,
                    _ => DropReason::NoRoute,
                });
            }
        };
        let port = port.ok_or(DropReason::NoRoute)?;
        if !port.spec.up {
            return Err(DropReason::PortDown);
        }
        let mac = port.spec.mac.ok_or(DropReason::NoRoute)?;
        let mtu = port.spec.mtu;
        if !fits(self.frame, self.admitted.ethernet.l3, mtu) {
            // What comes from a tunnel is not answered: the way back is another node's.
            return Err(DropReason::TooBig);
        }
        Ok(Passage::Routed(Hop { to: Next::Port { port: port.id, mtu }, mac, ages: false }))
    }

    fn is_group(&self) -> bool {
        self.admitted.ethernet.dst.is_group()
    }

    /// A router takes only what is sent to it.
    fn is_for_gateway(&self) -> Result<(), DropReason> {
        let ours = self.admitted.ethernet.dst == GATEWAY_MAC.get();
        if ours { Ok(()) } else { Err(DropReason::NotGateway) }
    }

    /// The gateway port, up or not.
    fn gateway(&self) -> Option<&'t Port> {
        self.topology.port(self.cluster.gateway?)
    }

    /// Where a packet from `port` goes next.
    #[inline(always)]
    fn next(&self, port: &Port, packet: &Packet) -> Result<Hop<&'t Vtep>, Stop> {
        let nobody = || self.tell(packet, Answer::Unreachable(Unreachable::Host));
        let local = self.cluster.locals.get(&Address(packet.destination));
        let to = match local {
            Some(Local::Pod(id)) => self.topology.port(id).ok_or_else(nobody)?,
            Some(Local::Node) => self.gateway().ok_or_else(nobody)?,
            None => match self.cluster.routes.owner(packet.destination) {
                Some(Owner::Vtep(id)) => {
                    let vtep = self.topology.vtep(id).ok_or_else(nobody)?;
                    return Ok(Hop { to: Next::Remote(vtep), mac: GATEWAY_MAC, ages: true });
                }
                Some(Owner::Here | Owner::Nobody) => return Err(nobody()),
                None => self.way_out(port, packet)?,
            },
        };
        if to.id == port.id {
            return Err(DropReason::SamePort.into());
        }
        let mac = to.spec.mac.filter(|_| to.spec.up).ok_or_else(nobody)?;
        Ok(Hop { to: Next::Port { port: to.id, mtu: to.spec.mtu }, mac, ages: true })
    }

    /// The gateway port, for what is outside the cluster; never for what it sent itself, which would
    /// come back for ever.
    fn way_out(&self, port: &Port, packet: &Packet) -> Result<&'t Port, Stop> {
        if matches!(port.spec.role, PortRole::Gateway { .. }) || !is_routable(packet.destination) {
            return Err(DropReason::NoRoute.into());
        }
        let way = self.gateway().filter(|gateway| gateway.spec.up);
        way.ok_or_else(|| self.tell(packet, Answer::Unreachable(Unreachable::Network)))
    }

    /// Multicast and broadcast from a port.
    fn link(&self, port: &'t Port, packet: &Packet) -> Result<Forward<'t, &'t [VtepId]>, Stop> {
        let PortRole::Pod { addresses, spoof } = &port.spec.role else {
            return Err(DropReason::LinkControl.into());
        };
        if !spoof && !addresses.contains(&packet.source) && !is_of_link(packet.source) {
            return Err(DropReason::SpoofedAddress.into());
        }
        let flood = self.cluster.flood_multicast && !self.segment.flood.is_empty();
        let remote = flood.then_some(&self.segment.flood[..]);
        Ok(self.flood(packet, Some(port.id), remote)?)
    }

    fn flood<R>(
        &self,
        packet: &Packet,
        except: Option<PortId>,
        remote: Option<R>,
    ) -> Result<Forward<'t, R>, DropReason> {
        let broadcast = packet.destination == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
        if !packet.destination.is_multicast() && !broadcast {
            // RFC 1812 section 5.3.4: what is for one station does not travel in a broadcast.
            return Err(DropReason::NotGateway);
        }
        let members = &self.cluster.pods;
        if remote.is_none() && !members.iter().any(|member| Some(member.port) != except) {
            return Err(DropReason::NoDestination);
        }
        Ok(Forward::Flood { members, except, remote })
    }

    /// Whether a packet is for the VXLAN port of a node: what came out of a VTEP there would be taken
    /// for what another node has sent.
    #[inline]
    fn is_for_vtep(&self, packet: &Packet) -> bool {
        let Packet { inet, destination, .. } = packet;
        if inet.proto != proto::UDP || inet.fragment == Fragment::Later {
            return false;
        }
        let ports = self.frame.head.get(inet.l4..).and_then(|udp| udp.first_chunk::<4>());
        match ports.filter(|_| inet.l4_len() >= 4) {
            Some(&[_, _, hi, lo]) => {
                let port = u16::from_be_bytes([hi, lo]);
                self.cluster.vxlan_ports.contains(&port)
                    && self.node_port(*destination).is_some_and(|its| {
                        port == its || port == self.cluster.vtep_port || VXLAN_PORTS.contains(&port)
                    })
            }
            // A first fragment that ends before the port leaves it to the next one.
            None => self.node_port(*destination).is_some(),
        }
    }

    /// The UDP port of the VTEP of the node which has this address: this one, a VTEP's own, or that of
    /// a host route which leads out of the pods' networks. `None` for what is no node's.
    #[cold]
    fn node_port(&self, address: IpAddr) -> Option<u16> {
        let Self { cluster, topology, .. } = *self;
        let local = cluster.locals.get(&Address(address)) == Some(Local::Node);
        if local || address == topology.local() {
            return Some(cluster.vtep_port);
        }
        if let Some(vtep) = topology.vtep_at(address) {
            return Some(vtep.address.port());
        }
        let inside = cluster.networks.iter().any(|network| network.contains(&address));
        if inside || !cluster.routes.is_host(address) {
            return None;
        }
        match cluster.routes.owner(address) {
            Some(Owner::Vtep(id)) => topology.vtep(id).map(|vtep| vtep.address.port()),
            _ => Some(cluster.vtep_port),
        }
    }

    /// The answer, if its sender may have one. A packet whose header does not sum up may be from
    /// anybody (RFC 1812 section 5.2.2).
    #[cold]
    fn tell(&self, packet: &Packet, answer: Answer) -> Stop {
        let Inet { version, l3, l4, .. } = packet.inet;
        let header = self.frame.head.get(l3..l4).unwrap_or_default();
        if version == IpVersion::V4 && checksum::of(header) != 0 {
            return Stop::Drop(DropReason::IpMalformed);
        }
        if answer::may_be_told(self.frame, &self.admitted.ethernet, answer) {
            Stop::Answer(answer)
        } else {
            Stop::Drop(answer.untold())
        }
    }
}

/// Whether a station on the link may have the address there: link-local, and not the gateway's.
fn is_of_link(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local() && address != GATEWAY_V6)
}
