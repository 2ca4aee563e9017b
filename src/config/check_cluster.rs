//! The checks of `[cluster]`: networks that do not overlap, shares that lie within them, and a store
//! that can be asked.

use core::net::{IpAddr, SocketAddr};
use core::ops::RangeInclusive;
use core::time::Duration;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use encap::Vni;
use ipnet::IpNet;

use super::address::{duration, parse_peer, vtep};
use super::check::absolute;
use super::cluster::{RawCluster, RawEtcd, RawKubernetes, RawNode};
use super::reader::shorten;
use super::{
    Cluster, DEFAULT_ATTACH, Etcd, IfName, Kubernetes, Local, Mode, Name, Network, Node, Problem,
    Segment, StaticNode, Store, Underlay,
};

const NAME: &str = "pods";
const GATEWAY: &str = "tapestry0";
const PREFIX: &str = "/tapestry";
/// A node's share of an IPv4 network has 254 addresses unless told otherwise, of an IPv6 network one
/// subnet.
const NODE_PREFIX_V4: u8 = 24;
const NODE_PREFIX_V6: u8 = 64;
/// The smallest share has the gateway port's address and one for a pod.
const LONGEST_V4: u8 = 30;
const LONGEST_V6: u8 = 126;
/// As in OpenShift and RKE: nothing else in a cluster has a VNI of its own by default.
const VNI: u32 = 4096;
const REST: Duration = Duration::from_secs(60);
const REST_RANGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(86_400);
const LEASE: Duration = Duration::from_secs(30);
/// etcd renews a lease thrice in its time; below some seconds a mere pause ends it.
const LEASE_RANGE: RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(3600);
const GRACE: Duration = Duration::from_secs(7 * 86_400);
const GRACE_RANGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(365 * 86_400);

/// What `[cluster]` is checked against.
pub(super) struct Surroundings<'a> {
    pub(super) node: Option<&'a Node>,
    pub(super) underlay: Option<&'a Underlay>,
    pub(super) segments: &'a [Segment],
}

/// What the section means, or `None` with at least one problem added.
pub(super) fn check(
    raw: &RawCluster,
    around: &Surroundings<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Cluster> {
    let before = problems.len();
    let mut check = Check { problems, around };
    let name = check.name(raw.name.as_deref().unwrap_or(NAME));
    let networks = check.networks(raw);
    let vni = check.vni(raw.vni.unwrap_or(VNI));
    let mode = check.word(
        "mode",
        raw.mode.as_deref(),
        &[("tunnel", Mode::Tunnel), ("route", Mode::Route)],
    );
    let flood =
        check.word("multicast", raw.multicast.as_deref(), &[("local", false), ("flood", true)]);
    let gateway = IfName::new(raw.gateway.as_deref().unwrap_or(GATEWAY));
    let gateway = gateway.map_err(|error| check.say("gateway", error)).ok();
    let non_masquerade = check.nets("non_masquerade", &raw.non_masquerade);
    let service_networks = check.nets("service_networks", &raw.service_networks);
    for (index, service) in service_networks.iter().enumerate() {
        if let Some(other) = networks.iter().find(|network| overlap(&network.net, service)) {
            let message = format!("{service} overlaps with the pods' {}", other.net);
            check.say(format!("service_networks[{index}]"), message);
        }
    }
    let addresses = check.addresses("addresses", &raw.addresses, &networks);
    check.underlay(&networks);
    let rest = check.duration("rest", raw.rest.as_deref(), REST, &REST_RANGE);
    let attach = raw.attach.as_deref().unwrap_or(DEFAULT_ATTACH);
    let attach = absolute("cluster.attach", attach, super::check::SOCKET_PATH, check.problems);
    let conflist = raw.conflist.as_deref().map(|path| check.path("conflist", path));
    let store = check.store(raw, &networks);
    if problems.len() > before {
        return None;
    }
    Some(Cluster {
        name: name?,
        networks,
        vni: vni?,
        mode: mode.unwrap_or_default(),
        direct_routing: raw.direct_routing.unwrap_or(false),
        flood_multicast: flood.unwrap_or(false),
        gateway: gateway?,
        masquerade: raw.masquerade.unwrap_or(true),
        non_masquerade,
        service_networks,
        addresses,
        rest,
        attach: attach?,
        conflist: conflist.flatten(),
        store: store?,
    })
}

/// Networks that do not overlap, by their first addresses, and whose they are.
#[derive(Default)]
struct Shares(BTreeMap<IpAddr, (IpNet, Name)>);

impl Shares {
    /// Who holds a part of a network, or more.
    fn holder(&self, net: &IpNet) -> Option<&Name> {
        // Since they do not overlap, the last one that begins before the network's end is the only
        // one that could be in it or around it.
        let (_, (held, name)) = self.0.range(..=net.broadcast()).next_back()?;
        overlap(held, net).then_some(name)
    }
}

/// Whether two networks have an address in common.
#[must_use]
pub fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

struct Check<'a, 'p> {
    problems: &'p mut Vec<Problem>,
    around: &'a Surroundings<'a>,
}

impl Check<'_, '_> {
    fn say(&mut self, key: impl AsRef<str>, message: impl ToString) {
        let path = format!("cluster.{}", key.as_ref());
        self.problems.push(Problem::new(path, message.to_string()));
    }

    fn name(&mut self, text: &str) -> Option<Name> {
        if self.around.segments.iter().any(|segment| segment.name.as_str() == text) {
            self.say("name", format!("there is a segment \"{text}\" already"));
            return None;
        }
        Name::new(text).map_err(|error| self.say("name", error)).ok()
    }

    fn vni(&mut self, number: u32) -> Option<Vni> {
        let vni = Vni::new(number).map_err(|error| self.say("vni", error)).ok()?;
        if let Some(other) = self.around.segments.iter().find(|segment| segment.vni == vni) {
            self.say("vni", format!("{number} is segment \"{}\"'s", other.name));
        }
        Some(vni)
    }

    fn word<T: Copy>(&mut self, key: &str, typed: Option<&str>, words: &[(&str, T)]) -> Option<T> {
        let typed = typed?;
        let found = words.iter().find(|(word, _)| *word == typed).map(|(_, meant)| *meant);
        if found.is_none() {
            let words: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            self.say(key, format!("\"{}\" is not {}", shorten(typed), words.join(" or ")));
        }
        found
    }

    fn net(&mut self, key: &str, text: &str) -> Option<IpNet> {
        let Ok(net) = text.parse::<IpNet>() else {
            let text = shorten(text);
            self.say(key, format!("\"{text}\" is no network (as \"10.244.0.0/16\")"));
            return None;
        };
        if net.trunc() != net {
            self.say(key, format!("{net} has host bits; the network is {}", net.trunc()));
            return None;
        }
        Some(net)
    }

    fn nets(&mut self, key: &str, typed: &[String]) -> Vec<IpNet> {
        let indexed = typed.iter().enumerate();
        indexed.filter_map(|(at, text)| self.net(&format!("{key}[{at}]"), text)).collect()
    }

    fn networks(&mut self, raw: &RawCluster) -> Vec<Network> {
        if raw.network.is_empty() {
            self.say("network", "missing: the pods' address space, as [\"10.244.0.0/16\"]");
        }
        let mut networks: Vec<Network> = Vec::new();
        for (index, text) in raw.network.iter().enumerate() {
            let key = format!("network[{index}]");
            let Some(net) = self.net(&key, text) else { continue };
            let same = |other: &Network| other.net.addr().is_ipv4() == net.addr().is_ipv4();
            if networks.iter().any(same) {
                self.say(key, "a second network of one family; one of each at most");
                continue;
            }
            let (name, typed, default, longest) = match net {
                IpNet::V4(_) => ("node_prefix", raw.node_prefix, NODE_PREFIX_V4, LONGEST_V4),
                IpNet::V6(_) => {
                    ("node_prefix_ipv6", raw.node_prefix_ipv6, NODE_PREFIX_V6, LONGEST_V6)
                }
            };
            let node_prefix = typed.and_then(|typed| u8::try_from(typed).ok()).unwrap_or(default);
            if node_prefix < net.prefix_len() || node_prefix > longest {
                let low = net.prefix_len();
                let message = format!("{node_prefix} cuts no share of {net} ({low} to {longest})");
                self.say(name, message);
            }
            networks.push(Network { net, node_prefix });
        }
        networks.sort_by_key(|network| network.net.addr().is_ipv6());
        networks
    }

    fn addresses(&mut self, key: &str, typed: &[String], networks: &[Network]) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        for (index, text) in typed.iter().enumerate() {
            let address = text
                .parse::<IpAddr>()
                .map_err(|_| format!("\"{}\" is no IP address", shorten(text)))
                .and_then(|address| vtep(address).map(|()| address));
            let outside = |address: IpAddr| match networks
                .iter()
                .find(|network| network.net.contains(&address))
            {
                Some(network) => Err(format!("{address} is within the pods' {}", network.net)),
                None => Ok(address),
            };
            match address.and_then(outside) {
                Ok(address) => addresses.push(address),
                Err(message) => self.say(format!("{key}[{index}]"), message),
            }
        }
        addresses
    }

    fn underlay(&mut self, networks: &[Network]) {
        let Some(Local::Address(address)) = self.around.underlay.map(|underlay| &underlay.local)
        else {
            return;
        };
        if let Some(network) = networks.iter().find(|network| network.net.contains(address)) {
            let message = format!("{} holds this node's VTEP, {address}", network.net);
            self.say("network", message);
        }
    }

    fn duration(
        &mut self,
        key: &str,
        typed: Option<&str>,
        default: Duration,
        range: &RangeInclusive<Duration>,
    ) -> Duration {
        match typed.map_or(Ok(default), duration) {
            Ok(duration) if range.contains(&duration) => duration,
            Ok(duration) => {
                let (low, high) = (range.start().as_secs(), range.end().as_secs());
                let message =
                    format!("{}s is out of range ({low}s to {high}s)", duration.as_secs());
                self.say(key, message);
                default
            }
            Err(message) => {
                self.say(key, message);
                default
            }
        }
    }

    fn path(&mut self, key: &str, text: &str) -> Option<PathBuf> {
        absolute(&format!("cluster.{key}"), text, 4000, self.problems)
    }

    fn store(&mut self, raw: &RawCluster, networks: &[Network]) -> Option<Store> {
        let kind = raw.store.as_deref().unwrap_or("static");
        for (key, there, needs) in [
            ("node", !raw.nodes.is_empty(), "static"),
            ("etcd", raw.etcd.is_some(), "etcd"),
            ("kubernetes", raw.kubernetes.is_some(), "kubernetes"),
        ] {
            if there && needs != kind && ["static", "etcd", "kubernetes"].contains(&kind) {
                self.say(key, format!("given beside store = \"{kind}\""));
            }
        }
        match kind {
            "static" => self.nodes(&raw.nodes, networks).map(Store::Static),
            "etcd" => self.etcd(raw.etcd.as_ref()).map(Store::Etcd),
            "kubernetes" => self.kubernetes(raw.kubernetes.as_ref()).map(Store::Kubernetes),
            other => {
                let other = shorten(other);
                let message = format!("\"{other}\" is not \"static\", \"etcd\" or \"kubernetes\"");
                self.say("store", message);
                None
            }
        }
    }

    fn nodes(&mut self, raw: &[RawNode], networks: &[Network]) -> Option<Vec<StaticNode>> {
        let mut nodes: Vec<StaticNode> = Vec::with_capacity(raw.len());
        let (mut names, mut vteps) = (HashMap::new(), HashMap::new());
        let mut shares = Shares::default();
        for (index, raw) in raw.iter().enumerate() {
            let Some(node) = self.static_node(index, raw, networks) else { continue };
            if let Some(other) = names.insert(node.name.clone(), index) {
                self.say(format!("node[{index}].name"), format!("cluster.node[{other}]'s too"));
            }
            if let Some(other) = vteps.insert(node.address.ip(), index) {
                self.say(format!("node[{index}].address"), format!("cluster.node[{other}]'s too"));
            }
            for (at, cidr) in node.pod_cidrs.iter().enumerate() {
                if let Some(other) = shares.holder(cidr) {
                    let message = format!("{cidr} overlaps with a podCIDR of \"{other}\"");
                    self.say(format!("node[{index}].pod_cidrs[{at}]"), message);
                } else {
                    shares.0.insert(cidr.network(), (*cidr, node.name.clone()));
                }
            }
            nodes.push(node);
        }
        if let Some(own) = self.around.node
            && !nodes.iter().any(|node| node.name == own.name)
        {
            self.say("node", format!("none of them is this node, \"{}\"", own.name));
        }
        Some(nodes)
    }

    fn static_node(
        &mut self,
        index: usize,
        raw: &RawNode,
        networks: &[Network],
    ) -> Option<StaticNode> {
        let at = |key: &str| format!("node[{index}].{key}");
        let port = self.around.underlay.map_or(super::DEFAULT_PORT, |underlay| underlay.port);
        let name = Name::new(&raw.name).map_err(|error| self.say(at("name"), error)).ok();
        let address: Option<SocketAddr> =
            parse_peer(&raw.address, port).map_err(|error| self.say(at("address"), error)).ok();
        let pod_cidrs = self.nets(&at("pod_cidrs"), &raw.pod_cidrs);
        for (place, cidr) in pod_cidrs.iter().enumerate() {
            if !networks.iter().any(|network| network.net.contains(cidr)) {
                let key = at(&format!("pod_cidrs[{place}]"));
                self.say(key, format!("{cidr} is not within \"network\""));
            }
        }
        for (place, cidr) in pod_cidrs.iter().enumerate() {
            let key = at(&format!("pod_cidrs[{place}]"));
            let longest = if cidr.addr().is_ipv4() { LONGEST_V4 } else { LONGEST_V6 };
            if cidr.prefix_len() > longest {
                self.say(&key, format!("{cidr} has no room for a pod (/{longest} at most)"));
            }
            let before = pod_cidrs.iter().take(place);
            let is_same = |other: &&IpNet| other.addr().is_ipv4() == cidr.addr().is_ipv4();
            if let Some(other) = before.into_iter().find(is_same) {
                let message =
                    format!("{cidr} beside {other}: a node has one podCIDR of each family");
                self.say(&key, message);
            }
        }
        if raw.pod_cidrs.is_empty() {
            self.say(at("pod_cidrs"), "missing: the node's share of \"network\"");
        }
        let addresses = self.addresses(&at("addresses"), &raw.addresses, networks);
        Some(StaticNode { name: name?, address: address?, pod_cidrs, addresses })
    }

    fn etcd(&mut self, raw: Option<&RawEtcd>) -> Option<Etcd> {
        let Some(raw) = raw else {
            self.say("etcd", "missing: store = \"etcd\" needs its endpoints");
            return None;
        };
        if raw.endpoints.is_empty() {
            self.say("etcd.endpoints", "missing: at least one, as \"https://192.0.2.10:2379\"");
        }
        for (index, endpoint) in raw.endpoints.iter().enumerate() {
            let rest =
                endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
            if rest.is_none_or(|host| host.is_empty() || host.contains(char::is_whitespace)) {
                let message = format!("\"{}\" is no http:// or https:// URL", shorten(endpoint));
                self.say(format!("etcd.endpoints[{index}]"), message);
            }
        }
        let prefix = raw.prefix.as_deref().unwrap_or(PREFIX).trim_end_matches('/');
        if !prefix.starts_with('/') {
            self.say("etcd.prefix", "does not begin with a slash, or is nothing else");
        }
        let file = |check: &mut Self, key: &str, typed: &Option<String>| {
            typed.as_deref().and_then(|path| check.path(&format!("etcd.{key}"), path))
        };
        let ca = file(self, "ca", &raw.ca);
        let pair = (file(self, "cert", &raw.cert), file(self, "key", &raw.key));
        if raw.cert.is_some() != raw.key.is_some() {
            self.say("etcd.cert", "\"cert\" and \"key\" go together");
        }
        if raw.user.is_some() != raw.password_file.is_some() {
            self.say("etcd.user", "\"user\" and \"password_file\" go together");
        }
        let password = file(self, "password_file", &raw.password_file);
        Some(Etcd {
            endpoints: raw.endpoints.clone(),
            prefix: prefix.to_owned(),
            ca,
            identity: pair.0.zip(pair.1),
            user: raw.user.clone().zip(password),
            lease: self.duration("etcd.lease", raw.lease.as_deref(), LEASE, &LEASE_RANGE),
            grace: self.duration("etcd.grace", raw.grace.as_deref(), GRACE, &GRACE_RANGE),
        })
    }

    fn kubernetes(&mut self, raw: Option<&RawKubernetes>) -> Option<Kubernetes> {
        let empty = RawKubernetes::default();
        let raw = raw.unwrap_or(&empty);
        let kubeconfig =
            raw.kubeconfig.as_deref().and_then(|path| self.path("kubernetes.kubeconfig", path));
        let node = match &raw.node {
            Some(text) => {
                Name::new(text).map_err(|error| self.say("kubernetes.node", error)).ok()?
            }
            None => self.around.node?.name.clone(),
        };
        Some(Kubernetes { kubeconfig, node })
    }
}
