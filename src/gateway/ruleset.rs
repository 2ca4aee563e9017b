//! The rules of address translation: one nftables table, written from what is known.
//!
//! They follow from one question: does the answer to a connection that this node translates come by
//! this node's kernel? What a pod here sends comes by it if the switch hands it to the gateway port;
//! what a pod elsewhere sends, only if it is addressed to this node. Where the answer would take
//! another way, the source becomes the gateway's address, and everywhere else it stays.
//!
//! Sets hold networks and nodes, never pods, so that the table does not grow with them; only port
//! mappings are per pod. The chains are the same text whatever the sets hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::census::{self, Census, Tally};
use super::mapping::Mapping;
use super::port::gateway_addresses;
use super::rules::SetChange;
use super::ways::Ways;
use crate::cluster::model::Node;
use crate::config::Cluster;

/// The family and name of the table.
pub const TABLE: &str = "inet tapestry";

/// The table cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RulesetError {
    /// The view has no own node yet.
    #[error("this node's share of the cluster is not known yet")]
    NoOwnNode,
    /// nft has no way to write such a name.
    #[error(
        "cluster.gateway: \"{0}\" cannot stand in a rule: letters, digits, '.', '-' and '_' can"
    )]
    Device(String),
}

/// What stands between the braces of [`TABLE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    sets: Vec<Set>,
    chains: String,
    ignored: Vec<Mapping>,
}

/// A set or a map.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Set {
    name: String,
    /// What it is besides its elements, as it is written around them.
    head: String,
    elements: Elements,
}

/// What is in a set. What there is of every node is shared with the rules before.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Elements {
    Few(BTreeSet<String>),
    Addresses { all: Tally<IpAddr>, v4: bool },
    Sockets { all: Tally<SocketAddr>, v4: bool },
}

impl Ruleset {
    /// Writes the rules for a node: from the configuration, what it is itself, what the others have,
    /// how those are reached, and the port mappings of the pods that are here. Of two mappings that
    /// claim one port the first one counts.
    ///
    /// # Errors
    ///
    /// If the own node is not known yet, or the gateway's name cannot be written.
    pub fn new(
        cluster: &Cluster,
        own: Option<&Node>,
        others: &Census,
        ways: &Ways,
        mappings: &[Mapping],
    ) -> Result<Self, RulesetError> {
        let own = own.ok_or(RulesetError::NoOwnNode)?;
        let device = cluster.gateway.as_str();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if !device.chars().all(plain) {
            return Err(RulesetError::Device(device.to_owned()));
        }
        let (mapped, ignored) = distinct(mappings);
        let mut sets = sets(cluster, own, others, ways);
        sets.extend(maps(&mapped));
        Ok(Self { sets, chains: chains(device, own.vtep, cluster.masquerade), ignored })
    }

    /// What stands between the braces.
    #[must_use]
    pub fn body(&self) -> String {
        let mut text = String::new();
        for set in &self.sets {
            text.push_str(&set.head);
            let elements = set.elements.texts();
            if !elements.is_empty() {
                let all = elements.into_iter().collect::<Vec<_>>().join(", ");
                // Writing to a string does not fail.
                let _ = writeln!(text, "\t\telements = {{ {all} }}");
            }
            text.push_str("\t}\n");
        }
        text.push_str(&self.chains);
        text
    }

    /// What of the sets has to change for `next` to stand in place of this; `None` if it takes more
    /// than that.
    #[must_use]
    pub fn changes(&self, next: &Self) -> Option<Vec<SetChange>> {
        if self.chains != next.chains || self.sets.len() != next.sets.len() {
            return None;
        }
        let mut changes = Vec::new();
        for (before, after) in self.sets.iter().zip(&next.sets) {
            if before.head != after.head {
                return None;
            }
            let (gone, new) = before.elements.differences(&after.elements)?;
            if !gone.is_empty() || !new.is_empty() {
                changes.push(SetChange { set: before.name.clone(), gone, new });
            }
        }
        Some(changes)
    }

    /// The mappings that another one stood in the way of.
    #[must_use]
    pub fn ignored(&self) -> &[Mapping] {
        &self.ignored
    }
}

impl Elements {
    /// All of them, as nft lists each.
    fn texts(&self) -> Vec<String> {
        match self {
            Self::Few(all) => all.iter().cloned().collect(),
            Self::Addresses { all, v4 } => texts(all.keys(), *v4),
            Self::Sockets { all, v4 } => texts(all.keys(), *v4),
        }
    }

    /// What of these is not in `next`, and what of it is new; `None` if they are of another kind.
    fn differences(&self, next: &Self) -> Option<(Vec<String>, Vec<String>)> {
        match (self, next) {
            (Self::Few(before), Self::Few(after)) => {
                let gone = before.difference(after).cloned().collect();
                Some((gone, after.difference(before).cloned().collect()))
            }
            (Self::Addresses { all: before, v4 }, Self::Addresses { all: after, .. }) => {
                Some(moved(before, after, *v4))
            }
            (Self::Sockets { all: before, v4 }, Self::Sockets { all: after, .. }) => {
                Some(moved(before, after, *v4))
            }
            _ => None,
        }
    }
}

fn texts<'m, M: Member + Ord + 'm>(all: impl Iterator<Item = &'m M>, v4: bool) -> Vec<String> {
    let mine: BTreeSet<&M> = all.filter(|one| one.is_v4() == v4).collect();
    mine.into_iter().map(Member::text).collect()
}

/// What left, and what came.
fn moved<M>(before: &Tally<M>, after: &Tally<M>, v4: bool) -> (Vec<String>, Vec<String>)
where
    M: Member + Ord + Hash,
{
    let (mut gone, mut new) = (Vec::new(), Vec::new());
    for one in before.differences(after).filter(|one| one.key.is_v4() == v4) {
        match (one.before, one.after) {
            (Some(_), None) => gone.push(one.key.text()),
            (None, Some(_)) => new.push(one.key.text()),
            // Others have it too.
            _ => {}
        }
    }
    (gone, new)
}

fn distinct(mappings: &[Mapping]) -> (Vec<Mapping>, Vec<Mapping>) {
    let mut taken = BTreeMap::new();
    let (mut kept, mut ignored) = (Vec::new(), Vec::new());
    for mapping in mappings {
        let key = (mapping.protocol, mapping.host, mapping.port, mapping.to.is_ipv4());
        match taken.insert(key, mapping.to) {
            None => kept.push(*mapping),
            Some(first) => {
                if first != mapping.to {
                    ignored.push(*mapping);
                }
                taken.insert(key, first);
            }
        }
    }
    (kept, ignored)
}

/// The sets, each once per family with its number at the end of its name.
fn sets(cluster: &Cluster, own: &Node, others: &Census, ways: &Ways) -> Vec<Set> {
    let mine: Vec<IpNet> = own.pod_cidrs.iter().copied().chain(census::exceptions(own)).collect();
    let mut pods: Vec<IpNet> = cluster.networks.iter().map(|network| network.net).collect();
    pods.extend(others.outside.keys().copied().chain(census::exceptions(own)));
    let known: Tally<IpAddr> =
        census::addresses(own).chain(gateway_addresses(own)).map(|one| (one, 1)).collect();
    let mut vteps = others.vteps.clone();
    vteps.insert(own.vtep, 1);
    [
        networks("pods", "all pods of the cluster", &pods),
        networks("mine", "pods of this node", &mine),
        networks("plain", "what other nodes have and no tunnel leads to", &ways.plain),
        networks("services", "where Services have their addresses", &cluster.service_networks),
        networks("outside", "where pods keep their addresses", &cluster.non_masquerade),
        members("nodes", "address", "addresses of the other nodes", |v4| {
            let all = others.addresses.clone();
            Elements::Addresses { all, v4 }
        }),
        members("known", "address", "by which other nodes know this one", |v4| {
            Elements::Addresses { all: known.clone(), v4 }
        }),
        members("vteps", "address . inet_service", "VTEPs, this one among them", |v4| {
            Elements::Sockets { all: vteps.clone(), v4 }
        }),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// One set of networks per family. They are merged first: the kernel refuses what overlaps.
fn networks(name: &str, comment: &str, nets: &[IpNet]) -> [Set; 2] {
    let nets = IpNet::aggregate(&nets.iter().map(IpNet::trunc).collect());
    FAMILIES.map(|(digit, kind, v4)| {
        let mine = nets.iter().filter(|net| net.addr().is_ipv4() == v4).map(network);
        let kind = format!("{kind}\n\t\tflags interval");
        Set::new("set", format!("{name}{digit}"), &kind, comment, Elements::Few(mine.collect()))
    })
}

/// A network as nft lists it.
fn network(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

/// One set of addresses per family, or of addresses and ports.
fn members(name: &str, kind: &str, comment: &str, elements: impl Fn(bool) -> Elements) -> [Set; 2] {
    FAMILIES.map(|(digit, address, v4)| {
        let kind = kind.replace("address", address);
        Set::new("set", format!("{name}{digit}"), &kind, comment, elements(v4))
    })
}

const FAMILIES: [(u8, &str, bool); 2] = [(4, "ipv4_addr", true), (6, "ipv6_addr", false)];

/// What can be in a set.
trait Member {
    fn is_v4(&self) -> bool;
    fn text(&self) -> String;
}

impl Member for IpAddr {
    fn is_v4(&self) -> bool {
        self.is_ipv4()
    }
    fn text(&self) -> String {
        self.to_string()
    }
}

impl Member for SocketAddr {
    fn is_v4(&self) -> bool {
        self.is_ipv4()
    }
    fn text(&self) -> String {
        format!("{} . {}", self.ip(), self.port())
    }
}

impl Set {
    fn new(word: &str, name: String, kind: &str, comment: &str, elements: Elements) -> Self {
        let head = format!("\t{word} {name} {{\n\t\ttype {kind}\n\t\tcomment \"{comment}\"\n");
        Self { name, head, elements }
    }
}

/// The port mappings: of one address of the node, and of all.
fn maps(mappings: &[Mapping]) -> Vec<Set> {
    let map = |name, kind: &str, elements| {
        Set::new("map", name, kind, "port mappings", Elements::Few(elements))
    };
    let of_family = |(digit, address, v4)| {
        let family = |one: &&Mapping| one.to.is_ipv4() == v4;
        let to = |one: &Mapping| format!("{} . {}", one.to.ip(), one.to.port());
        let one_address = mappings.iter().filter(family).filter_map(|one| {
            let (protocol, port) = (one.protocol.name(), one.port);
            Some(format!("{} . {protocol} . {port} : {}", one.host?, to(one)))
        });
        let all = mappings.iter().filter(family).filter(|one| one.host.is_none());
        let all = all.map(|one| format!("{} . {} : {}", one.protocol.name(), one.port, to(one)));
        let at = format!("{address} . inet_proto . inet_service : {address} . inet_service");
        let any = format!("inet_proto . inet_service : {address} . inet_service");
        [
            map(format!("host_ports_at{digit}"), &at, one_address.collect()),
            map(format!("host_ports{digit}"), &any, all.collect()),
        ]
    };
    FAMILIES.into_iter().flat_map(of_family).collect()
}

/// The chains: the same for every node, but for the device's name, the own VTEP, and whether what
/// leaves the cluster is masqueraded.
fn chains(device: &str, vtep: SocketAddr, masquerade: bool) -> String {
    let leaving = if masquerade { "masquerade fully-random" } else { "accept" };
    let family = if vtep.is_ipv4() { "ip" } else { "ip6" };
    let (address, port) = (vtep.ip(), vtep.port());
    include_str!("chains.nft")
        .lines()
        // What concerns no one but the reader of the source does not go to the kernel.
        .filter(|line| !line.trim_start().starts_with('#') && !line.is_empty())
        .fold(String::new(), |mut text, line| {
            let line = line
                .replace("$DEVICE", &format!("\"{device}\""))
                .replace("$VTEP", &format!("{family} daddr {address} udp dport {port}"))
                .replace("$LEAVING", leaving);
            text.push_str(&line);
            text.push('\n');
            text
        })
}

#[cfg(test)]
pub(crate) mod fixture {
    use std::sync::Arc;

    use super::*;
    use crate::cluster::model::{Exception, View};

    /// A cluster of both families.
    pub(crate) fn cluster() -> Cluster {
        let text = r#"
            [node]
            name = "a"
            [underlay]
            address = "192.0.2.1"
            [cluster]
            network = ["10.42.0.0/16", "fd42::/48"]
            non_masquerade = ["172.16.0.0/12"]
            service_networks = ["10.96.0.0/12"]
            [[cluster.node]]
            name = "a"
            address = "192.0.2.1"
            pod_cidrs = ["10.42.0.0/24", "fd42::/64"]
            "#;
        crate::config::Config::parse(text).unwrap().cluster.unwrap()
    }

    /// Of the other nodes in a view.
    pub(crate) fn census(cluster: &Cluster, view: &View) -> Census {
        let mut census = Census::new(cluster);
        census.follow(&view.others);
        census
    }

    pub(crate) fn node(name: &str, number: u8, vtep: &str) -> Node {
        let vtep: SocketAddr = vtep.parse().unwrap();
        Node {
            name: name.to_owned(),
            identity: name.to_owned(),
            vtep,
            addresses: vec![vtep.ip()],
            pod_cidrs: vec![
                format!("10.42.{number}.0/24").parse().unwrap(),
                format!("fd42:0:0:{number}::/64").parse().unwrap(),
            ],
            exceptions: Vec::new(),
            capabilities: Vec::new(),
        }
    }

    /// Three nodes: this one, `b` in its subnet, and `c` in another, which has a pod of `b`'s share.
    pub(crate) fn view() -> View {
        let mut c = node("c", 2, "198.51.100.3:4789");
        let net = "10.42.1.77/32".parse().unwrap();
        c.exceptions.push(Exception { net, generation: 1 });
        let others = [node("b", 1, "192.0.2.2:4789"), c];
        let mut routes = switch::SharedMap::default();
        for node in &others {
            let hosts = node.addresses.iter().map(|address| IpNet::from(*address));
            let nets = node.pod_cidrs.iter().copied().chain(hosts);
            let nets = nets.chain(node.exceptions.iter().map(|exception| exception.net));
            routes.extend(nets.map(|net| (net, node.vtep)));
        }
        View {
            own: Some(node("a", 0, "192.0.2.1:4789")),
            others: others.into_iter().map(|one| (one.name.clone(), Arc::new(one))).collect(),
            routes,
            ..View::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::fixture::{census, cluster, node, view};
    use super::*;
    use crate::cluster::model::{Exception, View};
    use crate::config::IfName;
    use crate::gateway::ways::ways;

    fn ruleset(
        cluster: &Cluster,
        view: &View,
        mappings: &[Mapping],
    ) -> Result<Ruleset, RulesetError> {
        let (ways, others) = (ways(cluster, view, &[]), census(cluster, view));
        Ruleset::new(cluster, view.own.as_ref(), &others, &ways, mappings)
    }

    fn body(cluster: &Cluster, view: &View, mappings: &[Mapping]) -> String {
        ruleset(cluster, view, mappings).unwrap().body()
    }

    /// The elements of a set, as they are written.
    fn elements(body: &str, name: &str) -> String {
        let (_, rest) = body.split_once(&format!(" {name} {{\n")).unwrap();
        let (inside, _) = rest.split_once("\n\t}\n").unwrap();
        let found = inside.split_once("elements = { ").map(|(_, rest)| rest.trim_end_matches(" }"));
        found.unwrap_or_default().to_owned()
    }

    #[test]
    fn the_sets_say_who_is_who() {
        let body = body(&cluster(), &view(), &[]);
        for (name, want) in [
            ("pods4", "10.42.0.0/16"),
            ("pods6", "fd42::/48"),
            ("mine4", "10.42.0.0/24"),
            ("mine6", "fd42::/64"),
            ("plain4", ""),
            ("services4", "10.96.0.0/12"),
            ("outside4", "172.16.0.0/12"),
            ("outside6", ""),
            ("nodes4", "192.0.2.2, 198.51.100.3"),
            ("known4", "10.42.0.1, 192.0.2.1"),
            ("known6", "fd42::1"),
            ("vteps4", "192.0.2.1 . 4789, 192.0.2.2 . 4789, 198.51.100.3 . 4789"),
            ("vteps6", ""),
        ] {
            assert_eq!(elements(&body, name), want, "{name}");
        }
    }

    #[test]
    fn networks_that_overlap_or_touch_are_one_element() {
        let cluster = Cluster {
            service_networks: ["10.96.0.0/12", "10.97.0.0/16", "10.112.0.0/12", "10.200.0.1/32"]
                .map(|net| net.parse().unwrap())
                .to_vec(),
            ..cluster()
        };
        let body = body(&cluster, &view(), &[]);
        assert_eq!(elements(&body, "services4"), "10.200.0.1, 10.96.0.0/11");
    }

    #[test]
    fn what_an_operator_chose_is_in_the_rules() {
        let text = body(&cluster(), &view(), &[]);
        assert!(text.contains("oifname \"tapestry0\" goto to_pods"), "{text}");
        assert!(text.contains("ip daddr 192.0.2.1 udp dport 4789 notrack"), "{text}");
        assert!(!text.contains('$') && !text.contains('#'), "{text}");
        let quiet = body(&Cluster { masquerade: false, ..cluster() }, &view(), &[]);
        let count = |text: &str| text.matches("masquerade fully-random").count();
        assert_eq!(count(&quiet) + 1, count(&text), "one rule is for what leaves the cluster");
        let mut view = view();
        view.own.as_mut().unwrap().vtep = "[2001:db8::1]:8472".parse().unwrap();
        let text = body(&cluster(), &view, &[]);
        assert!(text.contains("ip6 daddr 2001:db8::1 udp dport 8472 notrack"), "{text}");
    }

    #[test]
    fn mappings_are_elements_and_the_first_of_two_counts() {
        let mapping = |host: Option<&str>, to: &str| Mapping {
            protocol: crate::attach::Protocol::Tcp,
            host: host.map(|host| host.parse().unwrap()),
            port: 8080,
            to: to.parse().unwrap(),
        };
        let all = [
            mapping(None, "10.42.0.2:80"),
            mapping(Some("127.0.0.1"), "10.42.0.3:80"),
            mapping(None, "[fd42::2]:80"),
            mapping(None, "10.42.0.4:80"),
            mapping(None, "10.42.0.2:80"),
        ];
        let (cluster, view) = (cluster(), view());
        let ruleset = ruleset(&cluster, &view, &all).unwrap();
        assert_eq!(ruleset.ignored(), &all[3..4]);
        for (name, want) in [
            ("host_ports4", "tcp . 8080 : 10.42.0.2 . 80"),
            ("host_ports_at4", "127.0.0.1 . tcp . 8080 : 10.42.0.3 . 80"),
            ("host_ports6", "tcp . 8080 : fd42::2 . 80"),
            ("host_ports_at6", ""),
        ] {
            assert_eq!(elements(&ruleset.body(), name), want, "{name}");
        }
    }

    #[test]
    fn changes_lead_from_one_to_the_next() {
        let mapping = |port, to: &str| Mapping {
            protocol: crate::attach::Protocol::Tcp,
            host: None,
            port,
            to: to.parse().unwrap(),
        };
        let before = view();
        let mut after = view();
        after.others.remove("b");
        let mut d = node("d", 3, "192.0.2.4:4789");
        d.addresses = vec!["2001:db8::4".parse().unwrap(), "198.51.100.3".parse().unwrap()];
        let net = "172.31.0.7/32".parse().unwrap();
        d.exceptions.push(Exception { net, generation: 1 });
        after.others.insert("d".to_owned(), Arc::new(d));
        let old = ruleset(&cluster(), &before, &[mapping(80, "10.42.0.2:80")]).unwrap();
        let mappings = [mapping(80, "10.42.0.3:80"), mapping(81, "10.42.0.2:80")];
        let new = ruleset(&cluster(), &after, &mappings).unwrap();
        let change = |set: &str, gone: &[&str], new: &[&str]| {
            let owned = |all: &[&str]| all.iter().map(|&one| one.to_owned()).collect();
            SetChange { set: set.to_owned(), gone: owned(gone), new: owned(new) }
        };
        let want = [
            change("pods4", &[], &["172.31.0.7"]),
            change("nodes4", &["192.0.2.2"], &["192.0.2.4"]),
            change("nodes6", &[], &["2001:db8::4"]),
            change("vteps4", &["192.0.2.2 . 4789"], &["192.0.2.4 . 4789"]),
            change(
                "host_ports4",
                &["tcp . 80 : 10.42.0.2 . 80"],
                &["tcp . 80 : 10.42.0.3 . 80", "tcp . 81 : 10.42.0.2 . 80"],
            ),
        ];
        assert_eq!(old.changes(&new).unwrap(), want);
        assert_eq!(old.changes(&old), Some(Vec::new()));
        let quiet = ruleset(&Cluster { masquerade: false, ..cluster() }, &before, &[]).unwrap();
        assert_eq!(old.changes(&quiet), None, "the chains are others");
    }

    #[test]
    fn what_cannot_be_written_is_an_error() {
        let view = view();
        let error = |cluster: &Cluster, view: &View| ruleset(cluster, view, &[]).unwrap_err();
        let odd = Cluster { gateway: IfName::new("a\"b*").unwrap(), ..cluster() };
        assert_eq!(error(&odd, &view), RulesetError::Device("a\"b*".to_owned()));
        assert_eq!(error(&cluster(), &View { own: None, ..view }), RulesetError::NoOwnNode);
    }
}
