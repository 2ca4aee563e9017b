//! Two nodes, their pods, and one who is outside.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use lab::world::{Space, World};
use tapestry::cluster::model::{Node, View};
use tapestry::config::{Cluster, Config};
use tapestry::gateway::mapping::Mapping;

/// Everybody who can speak or be spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// A pod on node a.
    P1,
    /// Another pod on node a.
    P2,
    /// A pod on node b.
    Q1,
    /// Node a: its own processes, host-network pods among them.
    A,
    /// Node b.
    B,
    /// Somebody in the nodes' network.
    Out,
}

pub(crate) const ALL: [Who; 6] = [Who::P1, Who::P2, Who::Q1, Who::A, Who::B, Who::Out];

impl Who {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::P1 => "p1",
            Self::P2 => "p2",
            Self::Q1 => "q1",
            Self::A => "a",
            Self::B => "b",
            Self::Out => "out",
        }
    }

    pub(crate) fn addresses(self) -> [IpAddr; 2] {
        let [v4, v6] = match self {
            Self::P1 => ["10.42.0.10", "fd42::a"],
            Self::P2 => ["10.42.0.11", "fd42::b"],
            Self::Q1 => ["10.42.1.10", "fd42:0:0:1::a"],
            Self::A => ["192.0.2.1", "2001:db8::1"],
            Self::B => ["192.0.2.2", "2001:db8::2"],
            Self::Out => ["192.0.2.100", "2001:db8::100"],
        };
        [v4, v6].map(|text| text.parse().unwrap())
    }

    /// The address of one family; IPv4 is the first.
    pub(crate) fn address(self, family: usize) -> IpAddr {
        self.addresses()[family]
    }
}

/// The addresses of a node's gateway port.
pub(crate) fn gateway(node: Who) -> [IpAddr; 2] {
    match node {
        Who::B => ["10.42.1.1", "fd42:0:0:1::1"],
        _ => ["10.42.0.1", "fd42::1"],
    }
    .map(|text| text.parse().unwrap())
}

/// How the nodes' pods reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Tunnel,
    Direct,
    Route,
}

/// A world of them. What it was laid with goes first.
pub(crate) struct Lab {
    pub(crate) way: Way,
    pub(crate) mappings: Vec<Mapping>,
    plumbing: Option<Box<dyn Laid>>,
    spaces: BTreeMap<&'static str, Space>,
    pub(crate) world: World,
}

/// Makes pods and gateway ports of the nodes: with addresses and routes, every forwarding setting
/// and all rules in place.
pub(crate) trait Plumbing {
    /// Lays everything that is between the spaces; it stays as long as what is returned.
    fn lay(&self, lab: &Lab) -> Result<Box<dyn Laid>>;
}

/// What lies there. It goes when it is dropped.
pub(crate) trait Laid {
    /// Fails if it did, while it was used, what it should not do.
    fn check(&mut self) -> Result<()> {
        Ok(())
    }
}

/// An address of node a that no other node knows.
pub(crate) const HIDDEN: [&str; 2] = ["172.30.0.1", "fd30::1"];

/// An address of the one outside towards which pods keep theirs.
pub(crate) const KEPT: [&str; 2] = ["198.18.0.1", "2001:db8:18::1"];

impl Lab {
    /// Brings everybody up.
    pub(crate) fn new(plumbing: &dyn Plumbing, way: Way, mappings: &[Mapping]) -> Result<Self> {
        let world = World::new();
        let mut spaces = BTreeMap::new();
        for who in ALL {
            let space = world.space(who.name())?;
            // While a link-local address is tentative, a node that forwards asks for no neighbour
            // at all: the first cells would measure that and nothing else.
            space.output("sysctl -qw net.ipv6.conf.default.accept_dad=0")?;
            spaces.insert(who.name(), space);
        }
        let mut lab = Self { way, mappings: mappings.to_vec(), plumbing: None, spaces, world };
        let on_lan = [Who::A, Who::B, Who::Out];
        let members: Vec<&Space> = on_lan.iter().map(|who| lab.space(*who)).collect();
        let lan = lab.world.lan(&members, "eth0", 1500)?;
        lab.spaces.insert("lan", lan);
        for who in on_lan {
            let [v4, v6] = who.addresses();
            lab.space(who).address("eth0", IpNet::new(v4, 24)?)?;
            lab.ip(who, &format!("addr add {v6}/64 dev eth0 nodad"))?;
        }
        for node in [Who::A, Who::B] {
            // The strictest that distributions ship.
            lab.sysctl(node, "net.ipv4.conf.eth0.rp_filter=1")?;
            lab.sysctl(node, "net.ipv4.ip_forward=1")?;
            lab.sysctl(node, "net.ipv6.conf.all.forwarding=1")?;
            // Services are somewhere outside, until they are translated.
            lab.ip(node, &format!("route add default via {}", Who::Out.address(0)))?;
            lab.ip(node, &format!("-6 route add default via {}", Who::Out.address(1)))?;
        }
        for address in HIDDEN {
            lab.ip(Who::A, &format!("addr add {address} dev lo"))?;
        }
        for address in KEPT {
            lab.ip(Who::Out, &format!("addr add {address} dev lo"))?;
        }
        // Whom pods show their own addresses knows the way to them.
        for (net, family) in [("10.42.0.0/24", 0), ("fd42::/64", 1)] {
            let [flag, via] = [["", "-6 "][family], &Who::A.address(family).to_string()];
            lab.ip(Who::Out, &format!("{flag}route add {net} via {via}"))?;
        }
        lab.plumbing = Some(plumbing.lay(&lab)?);
        for who in ALL {
            let tentative = lab.ip(who, "-6 -o addr show tentative")?;
            ensure!(tentative.is_empty(), "{}: still tentative: {tentative}", who.name());
        }
        Ok(lab)
    }

    pub(crate) fn space(&self, who: Who) -> &Space {
        &self.spaces[who.name()]
    }

    pub(crate) fn ip(&self, who: Who, line: &str) -> Result<String> {
        self.space(who).output(&format!("ip {line}"))
    }

    pub(crate) fn sysctl(&self, who: Who, line: &str) -> Result<String> {
        self.space(who).output(&format!("sysctl -qw {line}"))
    }

    /// Gives a text to `nft -f -` in somebody's namespace.
    pub(crate) fn nft(&self, who: Who, text: &str) -> Result<()> {
        nft(self.space(who), text)
    }

    /// Fails if what was laid did something that it should not do.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.plumbing.as_mut().map_or(Ok(()), |laid| laid.check())
    }

    /// The configuration file of a node, with a few lines of `[cluster]` in it.
    pub(crate) fn config(&self, node: Who, lines: &str) -> String {
        let (name, address) = (node.name(), node.address(0));
        let way = match self.way {
            Way::Tunnel => "",
            Way::Direct => "direct_routing = true",
            // The network around knows no way to pods, so that the nodes have to.
            Way::Route => "mode = \"route\"\ndirect_routing = true",
        };
        let mut text = format!(
            r#"
            [node]
            name = "{name}"
            [underlay]
            address = "{address}"
            [cluster]
            network = ["10.42.0.0/16", "fd42::/48"]
            {way}
            non_masquerade = ["198.18.0.0/15", "2001:db8:18::/48"]
            service_networks = ["10.96.0.0/12", "fd96::/112"]
            {lines}
            "#
        );
        for node in [Who::A, Who::B].map(member) {
            let list = |nets: &[String]| format!("[\"{}\"]", nets.join("\", \""));
            let nets: Vec<String> = node.pod_cidrs.iter().map(ToString::to_string).collect();
            let others: Vec<String> =
                node.addresses.iter().skip(1).map(ToString::to_string).collect();
            text.push_str(&format!(
                "[[cluster.node]]\nname = \"{}\"\naddress = \"{}\"\npod_cidrs = {}\naddresses = {}\n",
                node.name, node.vtep.ip(), list(&nets), list(&others)
            ));
        }
        text
    }

    /// The same, as a daemon reads it.
    pub(crate) fn cluster(&self, node: Who) -> Result<Cluster> {
        let text = self.config(node, "");
        let config = Config::parse(&text).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        config.cluster.context("no cluster")
    }

    /// The cluster as a node sees it.
    pub(crate) fn view(&self, node: Who) -> View {
        let (own, other) = if node == Who::A { (Who::A, Who::B) } else { (Who::B, Who::A) };
        let other = member(other);
        let hosts = other.addresses.iter().map(|address| IpNet::from(*address));
        let routes = other.pod_cidrs.iter().copied().chain(hosts);
        View {
            routes: routes.map(|net| (net, other.vtep)).collect(),
            own: Some(member(own)),
            others: [(other.name.clone(), Arc::new(other))].into_iter().collect(),
            ..View::default()
        }
    }
}

fn member(node: Who) -> Node {
    let nets = match node {
        Who::B => ["10.42.1.0/24", "fd42:0:0:1::/64"],
        _ => ["10.42.0.0/24", "fd42::/64"],
    };
    Node {
        name: node.name().to_owned(),
        identity: node.name().to_owned(),
        vtep: SocketAddr::new(node.address(0), 4789),
        addresses: node.addresses().to_vec(),
        pod_cidrs: nets.map(|net| net.parse().unwrap()).to_vec(),
        exceptions: Vec::new(),
        capabilities: Vec::new(),
    }
}

/// Gives a text to `nft -f -` in a namespace.
pub(crate) fn nft(space: &Space, text: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("rules");
    std::fs::write(&path, format!("{text}\n"))?;
    space.output(&format!("nft -f {}", path.display())).map(drop)
}
