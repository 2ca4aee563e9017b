//! What the control socket says of the cluster: its nodes, this node's pods and their addresses. As
//! with [`super::model`], fields are added, never renamed or removed.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A node of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// Whether it is this one.
    pub own: bool,
    /// Its VTEP: an address, with its port where that is not this node's.
    pub vtep: String,
    /// All addresses under which pods reach it.
    pub addresses: Vec<String>,
    /// Its shares of the pods' networks.
    pub pod_cidrs: Vec<String>,
    /// What else it has of them, with the generation of each claim.
    #[serde(default)]
    pub exceptions: Vec<ExceptionRow>,
    /// How its pods are reached from here.
    pub reached: Reached,
    /// Milliseconds since something valid came from it; `null`: never, or it is this one.
    pub last_heard_ms: Option<u64>,
    /// The machine's own identity.
    pub identity: String,
}

/// How the pods of a node are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Reached {
    /// Through VXLAN.
    #[default]
    Tunnel,
    /// By a route of this node's kernel, or of the network around it: `pod_cidrs` via `vtep`.
    Route,
    /// They are here.
    Local,
}

/// An address or network that a node has outside its podCIDRs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExceptionRow {
    /// The network; an address has its full length.
    pub net: String,
    /// Of two claims the one with the higher generation is right.
    pub generation: u64,
}

/// A pod on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PodRow {
    /// The CNI network that it was attached by.
    pub network: String,
    /// The container, as its runtime calls it.
    pub container: String,
    /// The name of its device in its namespace.
    pub ifname: String,
    /// Its namespace.
    pub netns: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Its MAC address.
    pub mac: String,
    /// Its port.
    pub port: String,
    /// Milliseconds since it was attached.
    pub since_ms: u64,
}

/// What an address of this node's share is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum IpState {
    /// By a pod.
    #[default]
    Used,
    /// It was a pod's, and waits before it is another's.
    Resting,
    /// By the gateway port.
    Gateway,
}

/// An address of this node's share that is not free.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IpRow {
    /// The address.
    pub address: String,
    /// What it is used for.
    pub state: IpState,
    /// The container that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// For how much longer it rests, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rests_ms: Option<u64>,
}

/// How a search for what nobody uses any more is done.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams,
)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct GcScope {
    /// Only say what would be removed.
    #[serde(default)]
    pub dry_run: bool,
}

/// What nobody uses any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GcReport {
    /// Whether it is still there, because only a report was asked for.
    pub dry_run: bool,
    /// Attachments whose namespace is gone.
    pub orphans: Vec<PodRow>,
}

/// How the cluster stands, as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterStatus {
    /// The pods' networks.
    pub networks: Vec<String>,
    /// This node's shares; empty while it has none.
    pub pod_cidrs: Vec<String>,
    /// Where the members are kept: `static`, `etcd` or `kubernetes`.
    pub store: String,
    /// Whether the store answers.
    pub connected: bool,
    /// Why it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Milliseconds since it last answered; `null`: never.
    pub answered_ms_ago: Option<u64>,
    /// The nodes that are known, this one included.
    pub nodes: u64,
    /// Addresses of pods.
    pub addresses_used: u64,
    /// Addresses that rest.
    pub addresses_resting: u64,
    /// Addresses that can be given out, one for both families; those that rest are not among them.
    pub addresses_free: u64,
    /// What needs an operator.
    #[serde(default)]
    pub alarms: Vec<String>,
}
