//! Who reaches whom, and whose address the one who is reached sees. The rows say it all; what lies
//! between the nodes and their pods is a [`Plumbing`] of one's choice: here the stand-in, and in
//! [`super::product`] the daemons.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail};
use socket2::Type;
use tapestry::attach::Protocol;
use tapestry::gateway::mapping::Mapping;

use super::land::{HIDDEN, KEPT, Lab, Plumbing, Way, Who, gateway};
use super::probe::{PORT, Seen, Servers, ask};
use super::services::{
    CLUSTER_PORT, ITSELF, LOCAL, ON_A, ON_B, ON_HOST, Service, Style, ipvs_obstacle, provide,
};
use super::standin::StandIn;
use Sees::{Gateway, Itself, Node};
use To::{At, Cluster, Gate, Host, NodePort, Text};
use Who::{A, B, Out, P1, P2, Q1};

/// What lies between the nodes and their pods of this module's own tests.
const HERE: &dyn Plumbing = &StandIn;

/// Whom a client asks.
#[derive(Clone, Copy, Debug)]
enum To {
    /// One of them at its own address.
    At(Who),
    /// The gateway port's address of a node.
    Gate(Who),
    /// An address, IPv4 and IPv6.
    Text([&'static str; 2]),
    /// A Service at its cluster address.
    Cluster(Service),
    /// A Service at a node's port.
    NodePort(Who, Service),
    /// A mapped port of one of these addresses, IPv4 and IPv6.
    Host([&'static str; 2], u16),
}

/// Whose address the server sees.
#[derive(Clone, Copy, Debug)]
enum Sees {
    /// The client's own, or the one it chose.
    Itself,
    /// A node's, by which it is known in the network around.
    Node(Who),
    /// A node's gateway port's.
    Gateway(Who),
}

/// A path: who asks whom, who answers, and whom it sees where a tunnel leads to the other node's
/// pods and where plain routes do.
#[derive(Clone, Copy, Debug)]
struct Row {
    path: &'static str,
    from: Who,
    /// The address that the client chooses, IPv4 and IPv6.
    source: Option<[&'static str; 2]>,
    to: To,
    server: Who,
    tunnel: Sees,
    plain: Sees,
}

const fn row(path: &'static str, from: Who, to: To, server: Who, sees: (Sees, Sees)) -> Row {
    Row { path, from, source: None, to, server, tunnel: sees.0, plain: sees.1 }
}

const fn by(source: [&'static str; 2], row: Row) -> Row {
    Row { source: Some(source), ..row }
}

const fn both(sees: Sees) -> (Sees, Sees) {
    (sees, sees)
}

const NODE_A: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const LOOPBACK: [&str; 2] = ["127.0.0.1", "::1"];

/// Pods, nodes, and the outside, without any Service.
const PATHS: &[Row] = &[
    row("pod -> pod of its node", P1, At(P2), P2, both(Itself)),
    row("pod -> pod of another node", P1, At(Q1), Q1, both(Itself)),
    row("pod of another node -> pod", Q1, At(P1), P1, both(Itself)),
    row("pod -> its node", P1, At(A), A, both(Itself)),
    row("pod -> its node's gateway address", P1, Gate(A), A, both(Itself)),
    row("pod -> its node, an address nobody else knows", P1, Text(HIDDEN), A, both(Itself)),
    row("pod -> another node", P1, At(B), B, both(Itself)),
    row("pod -> another node's gateway address", P1, Gate(B), B, both(Itself)),
    row("node -> its pod", A, At(P2), P2, both(Gateway(A))),
    row("node -> pod of another node", A, At(Q1), Q1, (Gateway(A), Node(A))),
    by(NODE_A, row("node, bound to its address -> its pod", A, At(P2), P2, both(Itself))),
    by(NODE_A, row("node, bound to its address -> remote pod", A, At(Q1), Q1, both(Itself))),
    by(HIDDEN, row("node, bound to another one -> its pod", A, At(P2), P2, both(Gateway(A)))),
    by(
        HIDDEN,
        row("node, bound to another one -> remote pod", A, At(Q1), Q1, (Gateway(A), Node(A))),
    ),
    row("pod -> outside", P1, At(Out), Out, both(Node(A))),
    row("pod -> outside, not masqueraded", P1, Text(KEPT), Out, both(Itself)),
    by(KEPT, row("outside -> pod, routed", Out, At(P1), P1, both(Itself))),
];

/// Services: the same in every style.
const SERVICES: &[Row] = &[
    row("pod -> ClusterIP -> pod of its node", P1, Cluster(ON_A), P2, both(Gateway(A))),
    row("pod -> ClusterIP -> remote pod", P1, Cluster(ON_B), Q1, (Gateway(A), Itself)),
    row("remote pod -> ClusterIP -> pod", Q1, Cluster(ON_A), P2, (Gateway(B), Itself)),
    row("pod -> ClusterIP -> itself", P1, Cluster(ITSELF), P1, both(Gateway(A))),
    row("pod -> ClusterIP -> another node", P1, Cluster(ON_HOST), B, (Node(A), Itself)),
    row("node -> ClusterIP -> its pod", A, Cluster(ON_A), P2, both(Gateway(A))),
    row("node -> ClusterIP -> remote pod", A, Cluster(ON_B), Q1, (Gateway(A), Node(A))),
    row("node -> ClusterIP -> another node", A, Cluster(ON_HOST), B, both(Node(A))),
    row("outside -> NodePort -> pod of that node", Out, NodePort(A, ON_A), P2, both(Gateway(A))),
    row("outside -> NodePort -> remote pod", Out, NodePort(A, ON_B), Q1, (Gateway(A), Node(A))),
    row("outside -> NodePort -> another node", Out, NodePort(A, ON_HOST), B, both(Node(A))),
    row("outside -> NodePort, Local", Out, NodePort(A, LOCAL), P2, both(Itself)),
    row("pod -> its node's NodePort -> pod of it", P1, NodePort(A, ON_A), P2, both(Gateway(A))),
    row(
        "pod -> its node's NodePort -> remote pod",
        P1,
        NodePort(A, ON_B),
        Q1,
        (Gateway(A), Node(A)),
    ),
    row("pod -> its node's NodePort -> itself", P1, NodePort(A, ITSELF), P1, both(Gateway(A))),
    row("pod -> its node's NodePort, Local", P1, NodePort(A, LOCAL), P2, both(Gateway(A))),
    row(
        "pod -> remote NodePort -> pod of its own node",
        P1,
        NodePort(B, ON_A),
        P2,
        (Gateway(B), Node(B)),
    ),
    row("pod -> remote NodePort -> remote pod", P1, NodePort(B, ON_B), Q1, both(Gateway(B))),
    row(
        "pod -> remote NodePort, Local, no pod there",
        P1,
        NodePort(B, LOCAL),
        P2,
        (Gateway(B), Node(B)),
    ),
    row("node -> its NodePort -> its pod", A, NodePort(A, ON_A), P2, both(Gateway(A))),
    row("node -> its NodePort -> remote pod", A, NodePort(A, ON_B), Q1, (Gateway(A), Node(A))),
    row("node -> its NodePort, Local", A, NodePort(A, LOCAL), P2, both(Gateway(A))),
    row("node -> another's NodePort -> pod of it", B, NodePort(A, ON_A), P2, both(Gateway(A))),
    row("node -> another's NodePort, Local", B, NodePort(A, LOCAL), P2, (Gateway(A), Itself)),
];

/// Mapped ports: 7000 of every address and 7003 of one lead to p2, 7001 of the loopback as well, 7002
/// to p1.
const MAPPED: &[Row] = &[
    row("outside -> mapped port", Out, Host(NODE_A, 7000), P2, both(Itself)),
    row("another node -> mapped port", B, Host(NODE_A, 7000), P2, (Gateway(A), Itself)),
    row("the node -> mapped port", A, Host(NODE_A, 7000), P2, both(Itself)),
    row("the node -> mapped port of one address", A, Host(NODE_A, 7003), P2, both(Itself)),
    row("outside -> mapped port of one address", Out, Host(NODE_A, 7003), P2, both(Itself)),
    row("the node -> mapped port at its loopback", A, Host(LOOPBACK, 7000), P2, both(Gateway(A))),
    row(
        "the node -> port mapped at its loopback only",
        A,
        Host(LOOPBACK, 7001),
        P2,
        both(Gateway(A)),
    ),
    row("pod -> mapped port", P1, Host(NODE_A, 7000), P2, both(Gateway(A))),
    row("pod -> mapped port -> itself", P1, Host(NODE_A, 7002), P1, both(Gateway(A))),
    row("pod of another node -> mapped port", Q1, Host(NODE_A, 7000), P2, (Gateway(A), Itself)),
];

/// What row by row is asked, and was answered: the whole table is tried, then told.
fn walk(lab: &Lab, what: &str, rows: &[Row]) -> Result<()> {
    let _servers = Servers::start(lab)?;
    let mut wrong = Vec::new();
    let mut cells = 0;
    for row in rows {
        for (family, version) in [(0, "IPv4"), (1, "IPv6")] {
            for (kind, protocol) in [(Type::STREAM, "TCP"), (Type::DGRAM, "UDP")] {
                cells += 1;
                let want =
                    Seen { server: row.server.name().to_owned(), client: seen(lab, row, family) };
                let source = row.source.map(|source| source[family].parse()).transpose()?;
                let found = ask(lab.space(row.from), source, target(row, family), kind);
                match found {
                    Ok(found) if found == want => {}
                    Ok(found) => wrong.push(format!(
                        "{}, {protocol} over {version}: {} saw {}, not {} {}",
                        row.path, found.server, found.client, want.server, want.client
                    )),
                    Err(error) => {
                        wrong.push(format!("{}, {protocol} over {version}: {error:#}", row.path));
                    }
                }
            }
        }
    }
    eprintln!("{what}, {:?}: {} of {cells} cells", lab.way, cells - wrong.len());
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("{what}, {:?}: {} of {cells} cells fail:\n  {}", lab.way, wrong.len(), wrong.join("\n  "))
}

fn target(row: &Row, family: usize) -> SocketAddr {
    let (address, port): (IpAddr, u16) = match row.to {
        At(who) => (who.address(family), PORT),
        Gate(node) => (gateway(node)[family], PORT),
        Text(text) => (text[family].parse().unwrap(), PORT),
        Cluster(service) => (service.cluster_ip(family), CLUSTER_PORT),
        NodePort(node, service) => (node.address(family), service.node_port()),
        Host(text, port) => (text[family].parse().unwrap(), port),
    };
    SocketAddr::new(address, port)
}

fn seen(lab: &Lab, row: &Row, family: usize) -> IpAddr {
    match (if lab.way == Way::Tunnel { row.tunnel } else { row.plain }, row.source) {
        (Itself, Some(source)) => source[family].parse().unwrap(),
        (Itself, None) => row.from.address(family),
        (Node(node), _) => node.address(family),
        (Gateway(node), _) => gateway(node)[family],
    }
}

/// Pods, nodes and the outside.
pub(crate) fn paths(plumbing: &dyn Plumbing, way: Way) -> Result<()> {
    let mut lab = Lab::new(plumbing, way, &[])?;
    walk(&lab, "pods and nodes", PATHS)?;
    lab.check()
}

/// The same with Services beside them.
pub(crate) fn services(plumbing: &dyn Plumbing, way: Way, style: Style) -> Result<()> {
    let mut lab = Lab::new(plumbing, way, &[])?;
    provide(&lab, style)?;
    walk(&lab, &format!("services by {style:?}"), &[PATHS, SERVICES].concat())?;
    lab.check()
}

/// The same with mapped ports.
pub(crate) fn mapped(plumbing: &dyn Plumbing, way: Way) -> Result<()> {
    let mapping = |host: Option<&str>, port, who: Who| {
        let host = host.map(|host| host.parse().unwrap());
        [Protocol::Tcp, Protocol::Udp]
            .map(|protocol| Mapping::of_pod(protocol, host, port, &who.addresses(), PORT))
    };
    let mut all = vec![mapping(None, 7000, P2), mapping(None, 7002, P1)];
    all.extend(LOOPBACK.map(|host| mapping(Some(host), 7001, P2)));
    all.extend(NODE_A.map(|host| mapping(Some(host), 7003, P2)));
    let mut lab = Lab::new(plumbing, way, &all.concat().concat())?;
    walk(&lab, "mapped ports", &[PATHS, MAPPED].concat())?;
    lab.check()
}

pub(crate) fn pods_and_nodes_through_the_tunnel() -> Result<()> {
    paths(HERE, Way::Tunnel)
}

pub(crate) fn pods_and_nodes_by_direct_routing() -> Result<()> {
    paths(HERE, Way::Direct)
}

pub(crate) fn pods_and_nodes_without_a_tunnel() -> Result<()> {
    paths(HERE, Way::Route)
}

pub(crate) fn services_by_nft_through_the_tunnel() -> Result<()> {
    services(HERE, Way::Tunnel, Style::Nft)
}

pub(crate) fn services_by_nft_by_direct_routing() -> Result<()> {
    services(HERE, Way::Direct, Style::Nft)
}

pub(crate) fn services_by_nft_without_a_tunnel() -> Result<()> {
    services(HERE, Way::Route, Style::Nft)
}

pub(crate) fn services_by_iptables_through_the_tunnel() -> Result<()> {
    services(HERE, Way::Tunnel, Style::Iptables)
}

pub(crate) fn services_by_iptables_without_a_tunnel() -> Result<()> {
    services(HERE, Way::Route, Style::Iptables)
}

/// The one style that a kernel may be without.
pub(crate) fn services_by_ipvs() -> Result<()> {
    if let Some(obstacle) = ipvs_obstacle() {
        eprintln!("\n*** SKIPPED services by IPVS: this kernel has none: {obstacle} ***");
        return Ok(());
    }
    services(HERE, Way::Tunnel, Style::Ipvs)
}

pub(crate) fn mapped_ports() -> Result<()> {
    mapped(HERE, Way::Tunnel)
}

pub(crate) fn mapped_ports_by_direct_routing() -> Result<()> {
    mapped(HERE, Way::Direct)
}
