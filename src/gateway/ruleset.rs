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
use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::mapping::Mapping;
use super::port::gateway_addresses;
use super::ways::Ways;
use crate::cluster::model::{Node, View};
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
    body: String,
    ignored: Vec<Mapping>,
}

impl Ruleset {
    /// Writes the rules for a node: from the configuration, the cluster as it is seen, how the
    /// other nodes are reached, and the port mappings of the pods that are here. Of two mappings
    /// that claim one port the first one counts.
    ///
    /// # Errors
    ///
    /// If the own node is not known yet, or the gateway's name cannot be written.
    pub fn new(
        cluster: &Cluster,
        view: &View,
        ways: &Ways,
        mappings: &[Mapping],
    ) -> Result<Self, RulesetError> {
        let own = view.own.as_ref().ok_or(RulesetError::NoOwnNode)?;
        let device = cluster.gateway.as_str();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if !device.chars().all(plain) {
            return Err(RulesetError::Device(device.to_owned()));
        }
        let (mapped, ignored) = distinct(mappings);
        let mut body = String::new();
        // Writing to a string does not fail.
        let _ = sets(&mut body, cluster, view, own, ways);
        let _ = maps(&mut body, &mapped);
        body.push_str(&chains(device, own.vtep, cluster.masquerade));
        Ok(Self { body, ignored })
    }

    /// What stands between the braces.
    #[must_use]
    pub fn body(&self) -> &str {
        &self.body
    }

    /// The mappings that another one stood in the way of.
    #[must_use]
    pub fn ignored(&self) -> &[Mapping] {
        &self.ignored
    }
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
fn sets(
    out: &mut String,
    cluster: &Cluster,
    view: &View,
    own: &Node,
    ways: &Ways,
) -> Result<(), fmt::Error> {
    let exceptions = |node: &Node| node.exceptions.iter().map(|e| e.net).collect::<Vec<_>>();
    let mine = [own.pod_cidrs.clone(), exceptions(own)].concat();
    let mut pods: Vec<IpNet> = cluster.networks.iter().map(|network| network.net).collect();
    pods.extend(view.others.values().flat_map(exceptions).chain(exceptions(own)));
    networks(out, "pods", "all pods of the cluster", &pods)?;
    networks(out, "mine", "pods of this node", &mine)?;
    networks(out, "plain", "what other nodes have and no tunnel leads to", &ways.plain)?;
    networks(out, "services", "where Services have their addresses", &cluster.service_networks)?;
    networks(out, "outside", "where pods keep their addresses", &cluster.non_masquerade)?;

    let nodes: BTreeSet<IpAddr> = view.others.values().flat_map(addresses).collect();
    members(out, "nodes", "address", "addresses of the other nodes", &nodes)?;
    let known: BTreeSet<IpAddr> =
        addresses(own).into_iter().chain(gateway_addresses(own)).collect();
    members(out, "known", "address", "by which other nodes know this one", &known)?;
    let vteps: BTreeSet<SocketAddr> =
        view.others.values().chain([own]).map(|node| node.vtep).collect();
    members(out, "vteps", "address . inet_service", "VTEPs, this one among them", &vteps)
}

fn addresses(node: &Node) -> Vec<IpAddr> {
    std::iter::once(node.vtep.ip()).chain(node.addresses.iter().copied()).collect()
}

/// One set of networks per family. They are merged first: the kernel refuses what overlaps.
fn networks(out: &mut String, name: &str, comment: &str, nets: &[IpNet]) -> fmt::Result {
    let nets = IpNet::aggregate(&nets.iter().map(IpNet::trunc).collect());
    for (digit, kind, v4) in FAMILIES {
        let mine = nets.iter().filter(|net| net.addr().is_ipv4() == v4).map(ToString::to_string);
        let head = format!("set {name}{digit}");
        set(out, &head, &format!("{kind}\n\t\tflags interval"), comment, mine)?;
    }
    Ok(())
}

/// One set of addresses per family, or of addresses and ports.
fn members<M: Member>(
    out: &mut String,
    name: &str,
    kind: &str,
    comment: &str,
    all: &BTreeSet<M>,
) -> fmt::Result {
    for (digit, address, v4) in FAMILIES {
        let mine = all.iter().filter(|one| one.is_v4() == v4).map(Member::text);
        let head = format!("set {name}{digit}");
        set(out, &head, &kind.replace("address", address), comment, mine)?;
    }
    Ok(())
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

fn set(
    out: &mut String,
    head: &str,
    kind: &str,
    comment: &str,
    elements: impl Iterator<Item = String>,
) -> fmt::Result {
    write!(out, "\t{head} {{\n\t\ttype {kind}\n\t\tcomment \"{comment}\"\n")?;
    let elements: Vec<String> = elements.collect();
    if !elements.is_empty() {
        writeln!(out, "\t\telements = {{ {} }}", elements.join(", "))?;
    }
    writeln!(out, "\t}}")
}

/// The port mappings: of one address of the node, and of all.
fn maps(out: &mut String, mappings: &[Mapping]) -> fmt::Result {
    for (digit, address, v4) in FAMILIES {
        let family = |one: &&Mapping| one.to.is_ipv4() == v4;
        let to = |one: &Mapping| format!("{} . {}", one.to.ip(), one.to.port());
        let one_address = mappings.iter().filter(family).filter_map(|one| {
            let (protocol, port) = (one.protocol.name(), one.port);
            Some(format!("{} . {protocol} . {port} : {}", one.host?, to(one)))
        });
        let kind = format!("{address} . inet_proto . inet_service : {address} . inet_service");
        set(out, &format!("map host_ports_at{digit}"), &kind, "port mappings", one_address)?;
        let all = mappings.iter().filter(family).filter(|one| one.host.is_none());
        let all = all.map(|one| format!("{} . {} : {}", one.protocol.name(), one.port, to(one)));
        let kind = format!("inet_proto . inet_service : {address} . inet_service");
        set(out, &format!("map host_ports{digit}"), &kind, "port mappings", all)?;
    }
    Ok(())
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
    use super::*;
    use crate::cluster::model::Exception;

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
        let mut routes = Vec::new();
        for node in &others {
            let hosts = node.addresses.iter().map(|address| IpNet::from(*address));
            let nets = node.pod_cidrs.iter().copied().chain(hosts);
            let nets = nets.chain(node.exceptions.iter().map(|exception| exception.net));
            routes.extend(nets.map(|net| (net, node.vtep)));
        }
        View {
            own: Some(node("a", 0, "192.0.2.1:4789")),
            others: others.into_iter().map(|node| (node.name.clone(), node)).collect(),
            routes,
            ..View::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fixture::{cluster, view};
    use super::*;
    use crate::config::IfName;
    use crate::gateway::ways::ways;

    fn body(cluster: &Cluster, view: &View, mappings: &[Mapping]) -> String {
        let ways = ways(cluster, view, &[]);
        Ruleset::new(cluster, view, &ways, mappings).unwrap().body().to_owned()
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
        assert_eq!(elements(&body, "services4"), "10.96.0.0/11, 10.200.0.1/32");
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
        let ruleset = Ruleset::new(&cluster, &view, &Ways::default(), &all).unwrap();
        assert_eq!(ruleset.ignored(), &all[3..4]);
        for (name, want) in [
            ("host_ports4", "tcp . 8080 : 10.42.0.2 . 80"),
            ("host_ports_at4", "127.0.0.1 . tcp . 8080 : 10.42.0.3 . 80"),
            ("host_ports6", "tcp . 8080 : fd42::2 . 80"),
            ("host_ports_at6", ""),
        ] {
            assert_eq!(elements(ruleset.body(), name), want, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_written_is_an_error() {
        let view = view();
        let error = |cluster: &Cluster, view: &View| {
            Ruleset::new(cluster, view, &Ways::default(), &[]).unwrap_err()
        };
        let odd = Cluster { gateway: IfName::new("a\"b*").unwrap(), ..cluster() };
        assert_eq!(error(&odd, &view), RulesetError::Device("a\"b*".to_owned()));
        assert_eq!(error(&cluster(), &View { own: None, ..view }), RulesetError::NoOwnNode);
    }
}
