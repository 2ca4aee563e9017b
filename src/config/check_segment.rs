//! The checks of a segment, and of segments among themselves.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::{HashMap, HashSet};

use encap::Vni;

use super::address::{duration, family, parse_peer};
use super::reader::shorten;
use super::{DEFAULT_PORT, Local, Name, Problem, Segment, SegmentSpec, Underlay, UnknownUnicast};

/// How long an address may be remembered.
const AGING: core::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(7 * 86_400);
/// As many addresses as a segment may learn.
pub(super) const MAX_MACS: u32 = 1 << 24;

/// Checks a segment against the underlay and the segments there are already.
///
/// # Errors
/// Every problem, with paths relative to the specification (`peers[1]`).
pub fn check_segment(
    spec: &SegmentSpec,
    underlay: &Underlay,
    others: &[Segment],
) -> Result<Segment, Vec<Problem>> {
    let mut rules = SegmentRules::new(Some(underlay));
    for other in others {
        rules.take(other);
    }
    let mut problems = Vec::new();
    match rules.check(spec, "", &mut problems) {
        Some(segment) if problems.is_empty() => Ok(segment),
        _ => Err(problems),
    }
}

/// What a segment may be, given the underlay and the segments before it.
pub(super) struct SegmentRules<'u> {
    underlay: Option<&'u Underlay>,
    names: HashSet<String>,
    vnis: HashMap<Vni, String>,
    peer_ports: HashMap<IpAddr, u16>,
    /// The address whose family the others have to share, while the VTEP's own is not known.
    first_peer: Option<IpAddr>,
}

impl<'u> SegmentRules<'u> {
    /// `None` for an underlay that is itself wrong: what depends on it is not checked.
    pub(super) fn new(underlay: Option<&'u Underlay>) -> Self {
        Self {
            underlay,
            names: HashSet::new(),
            vnis: HashMap::new(),
            peer_ports: HashMap::new(),
            first_peer: None,
        }
    }

    fn take(&mut self, other: &Segment) {
        self.names.insert(other.name.to_string());
        self.vnis.insert(other.vni, other.name.to_string());
        for peer in &other.peers {
            self.peer_ports.insert(peer.ip(), peer.port());
            self.first_peer.get_or_insert(peer.ip());
        }
    }

    /// The segment, if nothing about it is wrong; paths begin with `prefix`.
    pub(super) fn check(
        &mut self,
        spec: &SegmentSpec,
        prefix: &str,
        problems: &mut Vec<Problem>,
    ) -> Option<Segment> {
        let before = problems.len();
        let mut say = |key: &str, message: String| {
            problems.push(Problem::new(format!("{prefix}{key}"), message));
        };
        let name = self.name(&spec.name).map_err(|message| say("name", message));
        let vni = self.vni(spec).map_err(|message| say("vni", message));
        let mut peers = Vec::new();
        let mut seen = HashSet::new();
        for (index, text) in spec.peers.iter().enumerate() {
            match self.peer(text, &mut seen) {
                Ok(peer) => peers.push(peer),
                Err(message) => say(&format!("peers[{index}]"), message),
            }
        }
        let multicast = spec.multicast.as_deref().map(|text| self.group(text)).transpose();
        let multicast = multicast.map_err(|message| say("multicast", message)).ok().flatten();
        let aging = spec.aging.as_deref().map_or(Ok(Segment::AGING), aging);
        let aging = aging.map_err(|message| say("aging", message));
        let max_macs = spec.max_macs.unwrap_or(Segment::MAX_MACS);
        if !(1..=MAX_MACS).contains(&max_macs) {
            say("max_macs", format!("{max_macs} is out of range (1 to {MAX_MACS})"));
        }
        let unknown_unicast = unknown_unicast(spec.unknown_unicast.as_deref())
            .map_err(|message| say("unknown_unicast", message));
        let strict_peers = spec.strict_peers.unwrap_or(spec.multicast.is_none());
        if spec.strict_peers == Some(true) && spec.multicast.is_some() && spec.peers.is_empty() {
            let message = "true beside \"multicast\" and without \"peers\" drops every datagram";
            say("strict_peers", message.to_owned());
        }
        if problems.len() > before {
            return None;
        }
        Some(Segment {
            name: name.ok()?,
            vni: vni.ok()?,
            peers,
            multicast,
            learning: spec.learning.unwrap_or(true),
            aging: aging.ok()?,
            max_macs,
            unknown_unicast: unknown_unicast.ok()?,
            strict_peers,
            strict_header: spec.strict_header.unwrap_or(false),
        })
    }

    fn name(&mut self, text: &str) -> Result<Name, String> {
        let name = Name::new(text).map_err(|error| error.to_string())?;
        if self.names.insert(text.to_owned()) {
            Ok(name)
        } else {
            Err(format!("\"{text}\" is already the name of another segment"))
        }
    }

    fn vni(&mut self, spec: &SegmentSpec) -> Result<Vni, String> {
        let vni = Vni::new(spec.vni).map_err(|error| error.to_string())?;
        match self.vnis.insert(vni, spec.name.clone()) {
            None => Ok(vni),
            Some(other) => {
                Err(format!("VNI {vni} is already that of segment \"{}\"", shorten(&other)))
            }
        }
    }

    fn peer(&mut self, text: &str, seen: &mut HashSet<SocketAddr>) -> Result<SocketAddr, String> {
        let own_port = self.underlay.map_or(DEFAULT_PORT, |underlay| underlay.port);
        let peer = parse_peer(text, own_port)?;
        let address = peer.ip();
        if self.own() == Some(address) && peer.port() == own_port {
            return Err(format!("{address} is this node's own address"));
        }
        self.same_family(address)?;
        let port = *self.peer_ports.entry(address).or_insert_with(|| peer.port());
        if port != peer.port() {
            return Err(format!(
                "{address} is already a peer with port {port}; received datagrams do not tell the two apart"
            ));
        }
        if !seen.insert(peer) {
            return Err(format!("{text} is already in the list"));
        }
        Ok(peer)
    }

    fn group(&mut self, text: &str) -> Result<IpAddr, String> {
        let fail = || format!("\"{}\" is no IP address", shorten(text));
        let group: IpAddr = text.parse().map_err(|_| fail())?;
        if !group.is_multicast() {
            return Err(format!("{group} is no multicast group"));
        }
        self.same_family(group).map(|()| group)
    }

    fn own(&self) -> Option<IpAddr> {
        self.underlay.and_then(Underlay::address)
    }

    /// A VTEP has one address, and so one family.
    fn same_family(&mut self, address: IpAddr) -> Result<(), String> {
        let Some(underlay) = self.underlay else { return Ok(()) };
        let (reference, whose) = match &underlay.local {
            Local::Address(own) => (*own, "this node's address"),
            Local::Interface(_) => (*self.first_peer.get_or_insert(address), "another peer"),
        };
        if reference.is_ipv4() == address.is_ipv4() {
            return Ok(());
        }
        let (this, that) = (family(address), family(reference));
        Err(format!("{address} is {this}, {whose} ({reference}) is {that}"))
    }
}

fn aging(text: &str) -> Result<Duration, String> {
    let aging = duration(text)?;
    if AGING.contains(&aging) {
        Ok(aging)
    } else {
        Err(format!("\"{text}\" is out of range (1s to 7d)"))
    }
}

fn unknown_unicast(text: Option<&str>) -> Result<UnknownUnicast, String> {
    match text {
        None | Some("flood") => Ok(UnknownUnicast::Flood),
        Some("drop") => Ok(UnknownUnicast::Drop),
        Some(other) => Err(format!("\"{}\" is neither \"flood\" nor \"drop\"", shorten(other))),
    }
}
