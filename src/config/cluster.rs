//! `[cluster]`: the pod network that this node takes part in, as typed and as checked.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::path::PathBuf;

use encap::Vni;
use ipnet::IpNet;

use super::{IfName, Name};

/// `[cluster]` that passed every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The name of its segment.
    pub name: Name,
    /// The address space of the pods: one network, or one of each family, IPv4 first.
    pub networks: Vec<Network>,
    /// Its number on the wire, no other segment's.
    pub vni: Vni,
    /// How pods of different nodes reach each other.
    pub mode: Mode,
    /// Whether nodes that share a subnet with this one are reached by plain routes.
    pub direct_routing: bool,
    /// Whether multicast and broadcast go to the other nodes too.
    pub flood_multicast: bool,
    /// The gateway port's device in the node's own namespace.
    pub gateway: IfName,
    /// Whether what leaves the cluster is masqueraded.
    pub masquerade: bool,
    /// Destinations outside the cluster towards which pods keep their addresses.
    pub non_masquerade: Vec<IpNet>,
    /// Where Services have their virtual addresses, which the node translates.
    pub service_networks: Vec<IpNet>,
    /// Addresses of this node, besides its VTEP, under which the other nodes' pods reach it.
    pub addresses: Vec<IpAddr>,
    /// How long a pod's address rests before another pod gets it.
    pub rest: Duration,
    /// The socket on which attachments are handed over.
    pub attach: PathBuf,
    /// Where the CNI configuration is put once the node works; `None`: nowhere.
    pub conflist: Option<PathBuf>,
    /// Where the members of the cluster are kept.
    pub store: Store,
}

/// A network of the pods, and how it is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// The address space.
    pub net: IpNet,
    /// The prefix length of a node's share.
    pub node_prefix: u8,
}

/// How pods of different nodes reach each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Through VXLAN.
    #[default]
    Tunnel,
    /// By routes of the network around the nodes: the switch hands everything to the node's kernel.
    Route,
}

/// Where the members of the cluster are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// In the file: every node, this one included.
    Static(Vec<StaticNode>),
    /// In etcd.
    Etcd(Etcd),
    /// In the Kubernetes API.
    Kubernetes(Kubernetes),
}

/// `[[cluster.node]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticNode {
    /// Its name.
    pub name: Name,
    /// Its VTEP.
    pub address: SocketAddr,
    /// Its share of the networks, each within one of them.
    pub pod_cidrs: Vec<IpNet>,
    /// Its other addresses.
    pub addresses: Vec<IpAddr>,
}

/// `[cluster.etcd]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etcd {
    /// `http://` or `https://` URLs, at least one.
    pub endpoints: Vec<String>,
    /// Under which key everything is, without a slash at its end.
    pub prefix: String,
    /// The certificate authority of the servers, a PEM file.
    pub ca: Option<PathBuf>,
    /// The own certificate and its key, PEM files.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// User, and the file that holds the password.
    pub user: Option<(String, PathBuf)>,
    /// After how much silence this node counts as not alive.
    pub lease: Duration,
    /// After how much silence its podCIDR may be taken by another; zero: never.
    pub grace: Duration,
}

/// `[cluster.kubernetes]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// The kubeconfig; `None`: the service account of the pod that the daemon runs in.
    pub kubeconfig: Option<PathBuf>,
    /// The name of this node's Node object.
    pub node: Name,
}

impl Cluster {
    /// The name that a node called `node` by its configuration has in the cluster: that of its Node
    /// object, where Kubernetes has the members.
    #[must_use]
    pub const fn own_name<'a>(&'a self, node: &'a Name) -> &'a Name {
        match &self.store {
            Store::Kubernetes(kubernetes) => &kubernetes.node,
            Store::Static(_) | Store::Etcd(_) => node,
        }
    }

    /// The network of the pods that holds `net`.
    #[must_use]
    pub fn network_of(&self, net: &IpNet) -> Option<&Network> {
        self.networks.iter().find(|network| network.net.contains(net))
    }

    /// Whether an address is in the pods' address space.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.net.contains(&address))
    }
}

/// `[cluster]` as typed; what is absent has its default.
#[derive(Clone, Debug, Default)]
pub(super) struct RawCluster {
    pub(super) name: Option<String>,
    pub(super) network: Vec<String>,
    pub(super) node_prefix: Option<u32>,
    pub(super) node_prefix_ipv6: Option<u32>,
    pub(super) vni: Option<u32>,
    pub(super) mode: Option<String>,
    pub(super) direct_routing: Option<bool>,
    pub(super) multicast: Option<String>,
    pub(super) gateway: Option<String>,
    pub(super) masquerade: Option<bool>,
    pub(super) non_masquerade: Vec<String>,
    pub(super) service_networks: Vec<String>,
    pub(super) addresses: Vec<String>,
    pub(super) rest: Option<String>,
    pub(super) attach: Option<String>,
    pub(super) conflist: Option<String>,
    pub(super) store: Option<String>,
    pub(super) nodes: Vec<RawNode>,
    pub(super) etcd: Option<RawEtcd>,
    pub(super) kubernetes: Option<RawKubernetes>,
}

/// `[[cluster.node]]` as typed.
#[derive(Clone, Debug, Default)]
pub(super) struct RawNode {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) pod_cidrs: Vec<String>,
    pub(super) addresses: Vec<String>,
}

/// `[cluster.etcd]` as typed.
#[derive(Clone, Debug, Default)]
pub(super) struct RawEtcd {
    pub(super) endpoints: Vec<String>,
    pub(super) prefix: Option<String>,
    pub(super) ca: Option<String>,
    pub(super) cert: Option<String>,
    pub(super) key: Option<String>,
    pub(super) user: Option<String>,
    pub(super) password_file: Option<String>,
    pub(super) lease: Option<String>,
    pub(super) grace: Option<String>,
}

/// `[cluster.kubernetes]` as typed.
#[derive(Clone, Debug, Default)]
pub(super) struct RawKubernetes {
    pub(super) kubeconfig: Option<String>,
    pub(super) node: Option<String>,
}
