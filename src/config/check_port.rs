//! The checks of a port, and of ports among themselves.

use core::net::IpAddr;
use std::collections::{BTreeMap, HashMap, HashSet};

use encap::{MacAddr, StationMac, VlanId};
use ipnet::IpNet;

use super::address::family;
use super::reader::shorten;
use super::{
    IfName, Name, Netns, Port, PortMode, PortSpec, Problem, Role, Route, RouteSpec, Segment,
    TrunkSpec, derived_mac,
};
use crate::attach::{self, Pod};

/// The least MTU of IPv4 (RFC 791 section 3.2), and the most of a TAP device: `TUN_MAX` in
/// drivers/net/tun.c is 65535 less the Ethernet header.
pub(super) const MTU: core::ops::RangeInclusive<u32> = 68..=65_521;
/// The least MTU of IPv6 (RFC 8200 section 5).
const MTU_V6: u32 = 1280;

/// More addresses and routes than any device needs; the checks compare each with each.
const MAX_ADDRESSES: usize = 256;
const MAX_ROUTES: usize = 1024;

/// Checks a port against the segments there are and the ports there are already.
///
/// # Errors
/// Every problem, with paths relative to the specification (`trunk[1].vlan`).
pub fn check_port(
    spec: &PortSpec,
    node: &Name,
    segments: &[Segment],
    others: &[Port],
) -> Result<Port, Vec<Problem>> {
    let mut rules = PortRules::among(node, segments, others);
    let mut problems = Vec::new();
    match rules.check(spec, "", &mut problems) {
        Some(port) if problems.is_empty() => Ok(port),
        _ => Err(problems),
    }
}

/// As [`check_port`] for one port after the other, each of which counts among the others for those
/// behind it if nothing is wrong with it.
pub fn check_ports<'s>(
    specs: impl IntoIterator<Item = &'s PortSpec>,
    node: &Name,
    segments: &[Segment],
    others: &[Port],
) -> Vec<Result<Port, Vec<Problem>>> {
    let mut rules = PortRules::among(node, segments, others);
    let mut results: Vec<Result<Port, Vec<Problem>>> = Vec::new();
    for spec in specs {
        let mut problems = Vec::new();
        match rules.check(spec, "", &mut problems) {
            Some(port) if problems.is_empty() => results.push(Ok(port)),
            _ => {
                // It has left its name in the rules, and perhaps more.
                rules = PortRules::among(node, segments, others);
                results.iter().flatten().for_each(|port| rules.take(port));
                results.push(Err(problems));
            }
        }
    }
    results
}

/// What a port may be, given the segments and the ports before it.
pub(super) struct PortRules<'a> {
    node: Option<&'a Name>,
    segments: HashSet<&'a str>,
    names: HashSet<String>,
    devices: HashMap<(Option<Netns>, IfName), Name>,
    macs: HashMap<(Name, StationMac), Name>,
    addresses: HashMap<(Name, IpAddr), Name>,
}

/// Where the problems of one port go.
struct Say<'a> {
    prefix: &'a str,
    problems: &'a mut Vec<Problem>,
}

impl Say<'_> {
    fn say(&mut self, key: impl core::fmt::Display, message: impl Into<String>) {
        self.problems.push(Problem::new(format!("{}{key}", self.prefix), message));
    }

    fn at_most(&mut self, key: &str, have: usize, max: usize) {
        if have > max {
            self.say(key, format!("{have} of them, {max} at most"));
        }
    }

    /// The value, or `None` after saying what is wrong.
    fn keep<T, E: ToString>(&mut self, key: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.say(key, error.to_string())).ok()
    }
}

impl<'a> PortRules<'a> {
    /// `None` for a node whose name is wrong.
    pub(super) fn new(node: Option<&'a Name>, segments: impl Iterator<Item = &'a str>) -> Self {
        Self {
            node,
            segments: segments.collect(),
            names: HashSet::new(),
            devices: HashMap::new(),
            macs: HashMap::new(),
            addresses: HashMap::new(),
        }
    }

    /// Rules for a port beside others.
    fn among(node: &'a Name, segments: &'a [Segment], others: &[Port]) -> Self {
        let mut rules = Self::new(Some(node), segments.iter().map(|segment| segment.name.as_str()));
        others.iter().for_each(|other| rules.take(other));
        rules
    }

    fn take(&mut self, other: &Port) {
        self.names.insert(other.name.to_string());
        self.devices.insert((other.netns.clone(), other.ifname.clone()), other.name.clone());
        for (_, segment) in other.mode.segments() {
            self.macs.insert((segment.clone(), other.mac), other.name.clone());
        }
        if let Some(segment) = other.mode.untagged() {
            for net in &other.addresses {
                self.addresses.insert((segment.clone(), net.addr()), other.name.clone());
            }
        }
    }

    /// The port, if nothing about it is wrong; paths begin with `prefix`.
    pub(super) fn check(
        &mut self,
        spec: &PortSpec,
        prefix: &str,
        problems: &mut Vec<Problem>,
    ) -> Option<Port> {
        let before = problems.len();
        let mut say = Say { prefix, problems };
        if let Some(kind) = spec.kind.as_deref().filter(|kind| *kind != "tap") {
            say.say("kind", format!("\"{}\" is no kind of port; there is \"tap\"", shorten(kind)));
        }
        let name = say.keep("name", self.name(&spec.name));
        let mode = self.mode(spec, &mut say);
        let netns = spec.netns.as_deref().map(Netns::new).transpose();
        let netns = say.keep("netns", netns);
        let ifname = ifname(spec, &mut say);
        let mac = self.mac(spec, &mut say);
        let addresses = addresses(&spec.addresses, &mut say);
        // A next hop may be within the very network that was mistyped.
        let nets = (addresses.len() == spec.addresses.len()).then_some(addresses.as_slice());
        let routes = routes(&spec.routes, nets, &mut say);
        let mtu = mtu(spec.mtu, &addresses, &mut say);
        let routed = spec.pod.as_ref().filter(|pod| pod.routed);
        let port = Port {
            name: name?,
            mode: mode?,
            netns: netns?,
            ifname: ifname?,
            mac: mac?,
            addresses,
            routes: routed.map_or(routes, pod_routes),
            neighbours: routed.map(pod_neighbours).unwrap_or_default(),
            mtu,
            role: routed.map_or(Role::Station, |pod| Role::Pod { spoof: pod.spoof }),
            pod: spec.pod.clone(),
        };
        self.among_others(&port, spec, &mut say);
        (say.problems.len() == before).then_some(port)
    }

    fn name(&mut self, text: &str) -> Result<Name, String> {
        let name = Name::new(text).map_err(|error| error.to_string())?;
        if self.names.insert(text.to_owned()) {
            Ok(name)
        } else {
            Err(format!("\"{text}\" is already the name of another port"))
        }
    }

    fn segment(&self, text: &str) -> Result<Name, String> {
        if !self.segments.contains(text) {
            return Err(format!("no segment \"{}\"", shorten(text)));
        }
        Name::new(text).map_err(|error| error.to_string())
    }

    fn mode(&self, spec: &PortSpec, say: &mut Say<'_>) -> Option<PortMode> {
        // The cluster's segment is not among those of the file.
        let routed = spec.pod.as_ref().is_some_and(|pod| pod.routed);
        match (&spec.segment, spec.trunk.is_empty(), &spec.native) {
            (Some(segment), true, None) if routed => {
                say.keep("segment", Name::new(segment)).map(PortMode::Access)
            }
            (Some(segment), true, None) => {
                say.keep("segment", self.segment(segment)).map(PortMode::Access)
            }
            (Some(_), false, _) => {
                say.say("segment", "given beside \"trunk\"; the untagged one is \"native\"");
                None
            }
            (_, true, Some(_)) => {
                say.say("native", "needs \"trunk\"; an access port has \"segment\"");
                None
            }
            (None, true, None) => {
                say.say("segment", "missing (or \"trunk\")");
                None
            }
            (None, false, native) => self.trunk(&spec.trunk, native.as_deref(), say),
        }
    }

    fn trunk(
        &self,
        entries: &[TrunkSpec],
        native: Option<&str>,
        say: &mut Say<'_>,
    ) -> Option<PortMode> {
        let before = say.problems.len();
        let mut vlans = BTreeMap::new();
        // A frame that leaves through a trunk has one tag: its segment's.
        let mut tags: HashMap<Name, String> = HashMap::new();
        let native = native.and_then(|text| say.keep("native", self.segment(text)));
        if let Some(native) = &native {
            tags.insert(native.clone(), "natively".to_owned());
        }
        for (index, entry) in entries.iter().enumerate() {
            let key = format!("trunk[{index}].");
            let raw = u16::try_from(entry.vlan).unwrap_or(u16::MAX);
            let vlan = say.keep(&format!("{key}vlan"), VlanId::new(raw));
            let segment = say.keep(&format!("{key}segment"), self.segment(&entry.segment));
            let (Some(vlan), Some(segment)) = (vlan, segment) else { continue };
            if let Some(tag) = tags.insert(segment.clone(), format!("as VLAN {vlan}")) {
                say.say(
                    format!("{key}segment"),
                    format!("\"{segment}\" is already on this trunk {tag}"),
                );
            }
            if vlans.insert(vlan, segment).is_some() {
                say.say(format!("{key}vlan"), format!("VLAN {vlan} is already on this trunk"));
            }
        }
        (say.problems.len() == before).then_some(PortMode::Trunk { vlans, native })
    }

    fn mac(&self, spec: &PortSpec, say: &mut Say<'_>) -> Option<StationMac> {
        let Some(text) = &spec.mac else {
            return self.node.map(|node| derived_mac(node, &spec.name));
        };
        let station = text.parse::<MacAddr>().map_err(|_| {
            format!("\"{}\" is no MAC address (as \"02:00:00:00:0a:01\")", shorten(text))
        });
        let station = station.and_then(|mac| {
            mac.station().ok_or_else(|| {
                let what = if mac.is_group() { "a group address" } else { "all zeros" };
                format!("{mac} is {what}; a port needs the address of a station")
            })
        });
        say.keep("mac", station)
    }

    /// What no two ports can have both: a device, a MAC or an address in one segment.
    fn among_others(&mut self, port: &Port, spec: &PortSpec, say: &mut Say<'_>) {
        let device = (port.netns.clone(), port.ifname.clone());
        if let Some(other) = self.devices.insert(device, port.name.clone()) {
            let key = if spec.ifname.is_some() { "ifname" } else { "name" };
            let place = port.netns.as_ref().map(|netns| format!(" in namespace \"{netns}\""));
            let place = place.unwrap_or_default();
            let message =
                format!("device \"{}\"{place} is already that of port \"{other}\"", port.ifname);
            say.say(key, message);
        }
        for (_, segment) in port.mode.segments() {
            let key = (segment.clone(), port.mac);
            if let Some(other) = self.macs.insert(key, port.name.clone()) {
                let mac = port.mac;
                let message =
                    format!("{mac} is already that of port \"{other}\" in segment \"{segment}\"");
                say.say("mac", message);
                break;
            }
        }
        let Some(segment) = port.mode.untagged() else { return };
        for (index, net) in port.addresses.iter().enumerate() {
            let key = (segment.clone(), net.addr());
            let other = self.addresses.insert(key, port.name.clone());
            if let Some(other) = other.filter(|other| *other != port.name) {
                let address = net.addr();
                let message = format!(
                    "{address} is already that of port \"{other}\" in segment \"{segment}\""
                );
                say.say(format!("addresses[{index}]"), message);
            }
        }
    }
}

fn ifname(spec: &PortSpec, say: &mut Say<'_>) -> Option<IfName> {
    match &spec.ifname {
        Some(ifname) => say.keep("ifname", IfName::new(ifname)),
        None => {
            let named = IfName::new(&spec.name);
            let hint = |error| format!("{error} for its device; give \"ifname\"");
            say.keep("name", named.map_err(hint))
        }
    }
}

fn addresses(texts: &[String], say: &mut Say<'_>) -> Vec<IpNet> {
    let mut nets: Vec<IpNet> = Vec::new();
    say.at_most("addresses", texts.len(), MAX_ADDRESSES);
    for (index, text) in texts.iter().enumerate().take(MAX_ADDRESSES) {
        let twice = |net: &IpNet| nets.iter().any(|other| other.addr() == net.addr());
        match address(text) {
            Ok(net) if twice(&net) => {
                let message = format!("{} is already in the list", net.addr());
                say.say(format!("addresses[{index}]"), message);
            }
            Ok(net) => nets.push(net),
            Err(message) => say.say(format!("addresses[{index}]"), message),
        }
    }
    nets
}

fn address(text: &str) -> Result<IpNet, String> {
    let Ok(net) = text.parse::<IpNet>() else {
        let what = match text.parse::<IpAddr>() {
            Ok(_) => "has no prefix length (as in \"10.9.0.1/24\")",
            Err(_) => "is no address with a prefix length (as \"10.9.0.1/24\")",
        };
        return Err(format!("\"{}\" {what}", shorten(text)));
    };
    let address = net.addr();
    let because = if address.is_unspecified() {
        "is the unspecified address"
    } else if address.is_multicast() {
        "is a multicast group"
    } else if address.is_loopback() {
        "is a loopback address"
    } else if matches!(net, IpNet::V4(v4) if v4.prefix_len() < 31 && v4.addr() == v4.network()) {
        "is the address of the network, not of a host"
    } else if matches!(net, IpNet::V4(v4) if v4.prefix_len() < 31 && v4.addr() == v4.broadcast()) {
        "is the broadcast address of the network"
    } else {
        return Ok(net);
    };
    Err(format!("{net} {because}"))
}

fn routes(specs: &[RouteSpec], nets: Option<&[IpNet]>, say: &mut Say<'_>) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    say.at_most("routes", specs.len(), MAX_ROUTES);
    for (index, spec) in specs.iter().enumerate().take(MAX_ROUTES) {
        let key = format!("routes[{index}].");
        let via = spec.via.as_deref().map(|text| via(text, nets)).transpose();
        let Some(via) = say.keep(&format!("{key}via"), via) else {
            // The other half is checked all the same; `default` then has no family to be wrong in.
            if spec.to != "default" {
                say.keep(&format!("{key}to"), prefix(&spec.to, None));
            }
            continue;
        };
        let Some(to) = say.keep(&format!("{key}to"), prefix(&spec.to, via)) else { continue };
        if let Some(via) = via.filter(|via| via.is_ipv4() != to.addr().is_ipv4()) {
            let (this, that) = (family(via), family(to.addr()));
            say.say(format!("{key}via"), format!("{via} is {this}, {to} is {that}"));
        } else if routes.iter().any(|route| route.to == to) {
            say.say(format!("{key}to"), format!("{to} is already in the list"));
        } else {
            routes.push(Route { to, via, src: None, onlink: false });
        }
    }
    routes
}

/// The routes of a pod whose segment routes.
fn pod_routes(pod: &Pod) -> Vec<Route> {
    let routes = attach::routes(&attach::gateways(&pod.addresses));
    let route = |route: &crate::device::netlink::Route| Route {
        to: route.to,
        via: route.via,
        src: route.src,
        onlink: route.onlink,
    };
    routes.iter().map(route).collect()
}

/// Its neighbours: the gateway, by each of its addresses.
fn pod_neighbours(pod: &Pod) -> Vec<(IpAddr, StationMac)> {
    let gateways = attach::gateways(&pod.addresses);
    gateways.into_iter().map(|gateway| (gateway, switch::GATEWAY_MAC)).collect()
}

fn prefix(text: &str, via: Option<IpAddr>) -> Result<IpNet, String> {
    if text == "default" {
        let any = via.map(|via| if via.is_ipv4() { "0.0.0.0/0" } else { "::/0" });
        let any = any.ok_or("\"default\" needs \"via\"; 0.0.0.0/0 and ::/0 do not")?;
        return any.parse().map_err(|_| format!("\"{any}\" is no prefix"));
    }
    let fail = || format!("\"{}\" is neither \"default\" nor a prefix", shorten(text));
    let net: IpNet = text.parse().map_err(|_| fail())?;
    if net.trunc() == net {
        Ok(net)
    } else {
        Err(format!("{net} has host bits set; the prefix is {}", net.trunc()))
    }
}

fn via(text: &str, nets: Option<&[IpNet]>) -> Result<IpAddr, String> {
    let fail = || format!("\"{}\" is no IP address", shorten(text));
    let via: IpAddr = text.parse().map_err(|_| fail())?;
    if via.is_unspecified() || via.is_multicast() || via.is_loopback() {
        return Err(format!("{via} is no address of a neighbour"));
    }
    let Some(nets) = nets else { return Ok(via) };
    if nets.iter().any(|net| net.addr() == via) {
        return Err(format!("{via} is the port's own address"));
    }
    let link_local = matches!(via, IpAddr::V6(v6) if v6.is_unicast_link_local());
    if link_local || nets.iter().any(|net| net.contains(&via)) {
        Ok(via)
    } else {
        Err(format!("{via} is in none of the port's networks"))
    }
}

fn mtu(typed: Option<u32>, addresses: &[IpNet], say: &mut Say<'_>) -> Option<u16> {
    let mtu = typed?;
    let v6 = addresses.iter().any(|net| net.addr().is_ipv6());
    if !MTU.contains(&mtu) {
        let (low, high) = MTU.into_inner();
        say.say("mtu", format!("{mtu} is out of range ({low} to {high})"));
    } else if v6 && mtu < MTU_V6 {
        say.say("mtu", format!("{mtu} is too small for IPv6 addresses ({MTU_V6} at least)"));
    }
    u16::try_from(mtu).ok()
}
