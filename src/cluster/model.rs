//! A cluster as a node sees it: its members, and what each of them holds.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use switch::SharedMap;

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name, unique in the cluster.
    pub name: String,
    /// What stays the same when the name is given to another machine and when the machine changes
    /// its addresses: the machine's own identity. Two members never have the same one.
    pub identity: String,
    /// Its VTEP.
    pub vtep: SocketAddr,
    /// All addresses under which pods reach the node itself, the VTEP's among them.
    pub addresses: Vec<IpAddr>,
    /// Its shares of the pods' networks: one, or one of each family.
    pub pod_cidrs: Vec<IpNet>,
    /// Addresses and networks outside its shares that its pods have.
    #[serde(default)]
    pub exceptions: Vec<Exception>,
    /// What it understands beyond the minimum, by name.
    #[serde(default)]
    pub capabilities: Vec<String>,
}

/// An address or network that is on a node whose podCIDRs do not hold it: of a delegated IPAM, a
/// static address, or a pod that moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exception {
    /// The address (a prefix of full length) or network.
    pub net: IpNet,
    /// Who has published it last is right: a claim of a lower generation neither overrides nor
    /// erases one of a higher.
    pub generation: u64,
}

/// Everything that is known of the cluster at one time. Immutable: a change is another view, which
/// shares with this one what is the same in both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// This node, once its share is known.
    pub own: Option<Node>,
    /// The other members by name, each of them admissible: no two hold the same VTEP, identity or
    /// share, and none holds this node's.
    pub others: SharedMap<String, Arc<Node>>,
    /// Every network that is not on this node, with the VTEP of the node that has it: the others'
    /// podCIDRs, exceptions and own addresses.
    pub routes: SharedMap<IpNet, SocketAddr>,
    /// What an operator should know: conflicts, objects that make no sense, deletions that were
    /// held back.
    pub alarms: Vec<Alarm>,
    /// How the store is doing.
    pub store: StoreState,
}

/// Something that needs an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// What it is about: a node's name or an object's key.
    pub subject: String,
    /// What is wrong, and what is done about it.
    pub message: String,
}

/// How the store is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreState {
    /// Whether the last attempt to speak with it worked.
    pub connected: bool,
    /// Why not.
    pub trouble: Option<String>,
    /// When it last answered, in milliseconds since the Unix epoch; `None`: never.
    pub answered_ms: Option<u64>,
}
