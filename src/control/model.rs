//! What the control socket carries and the command line prints. Names and shapes are a contract:
//! fields are added, never renamed or removed.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::cluster::ClusterStatus;
use crate::config::UnknownUnicast;

/// Traffic in one direction, counted as it would be on the wire: a superframe adds its segments to
/// `frames` and one to `superframes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Traffic {
    /// Frames.
    pub frames: u64,
    /// Bytes of overlay Ethernet frames, without FCS.
    pub bytes: u64,
    /// Units of more than one frame that were handled as one.
    #[serde(default)]
    pub superframes: u64,
}

/// Who made an object. A reload touches only what came from the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ObjectOrigin {
    /// The configuration file.
    Config,
    /// A request on the control socket.
    #[default]
    Api,
    /// The CNI plugin.
    Cni,
}

/// Whether a port carries traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PortState {
    /// Its device is there and up.
    Up,
    /// It is not; `reason` says why.
    Down,
}

/// One VLAN of a trunk port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrunkRow {
    /// The VLAN.
    pub vlan: u16,
    /// Its segment.
    pub segment: String,
}

/// How flows are spread over a port's queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Steering {
    /// By the flow alone: it stays on its queue, and in order.
    FlowHash,
    /// As the kernel likes, since it does not let the daemon load a program that decides: a flow may
    /// change its queue, and overtake itself.
    Automatic,
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortRow {
    /// Its name.
    pub name: String,
    /// The segment of its untagged frames; absent on a trunk without a native one (`null`).
    pub segment: Option<String>,
    /// The VLANs of a trunk; absent on an access port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trunk: Vec<TrunkRow>,
    /// The name of its device.
    pub ifname: String,
    /// The namespace of its device; `null`: the daemon's own.
    pub netns: Option<String>,
    /// The MAC address of its device.
    pub mac: String,
    /// The MTU of its device.
    pub mtu: u32,
    /// Whether it carries traffic.
    pub state: PortState,
    /// Why it is down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many queues its device has.
    pub queues: u32,
    /// How flows are spread over them, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steering: Option<Steering>,
    /// The addresses of its device.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Received from the port: what its guest sent.
    pub rx: Traffic,
    /// Sent to the port.
    pub tx: Traffic,
    /// Frames received from the port or meant for it, and dropped.
    pub drops: u64,
    /// Who made it.
    pub origin: ObjectOrigin,
}

/// How an entry of the FDB came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FdbOrigin {
    /// Seen as a frame's source address.
    Learned,
    /// Set by an operator.
    Static,
    /// Set by a control plane.
    Control,
}

impl From<fdb::Origin> for FdbOrigin {
    fn from(origin: fdb::Origin) -> Self {
        match origin {
            fdb::Origin::Learned => Self::Learned,
            fdb::Origin::Static => Self::Static,
            fdb::Origin::Control => Self::Control,
        }
    }
}

/// An entry of the FDB. It has either `port` or `vtep`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FdbRow {
    /// The segment's name.
    pub segment: String,
    /// The segment's VNI.
    pub vni: u32,
    /// The station.
    pub mac: String,
    /// The port it is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// The remote VTEP it is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vtep: Option<String>,
    /// How it came to be.
    pub origin: FdbOrigin,
    /// Milliseconds since a frame last confirmed it, or since it was set.
    pub age_ms: u64,
}

/// A static entry to set. It needs either `port` or `vtep`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FdbStatic {
    /// The segment's name.
    pub segment: String,
    /// The station.
    pub mac: String,
    /// The port it is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// The remote VTEP it is behind: an address, or `address:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vtep: Option<String>,
}

/// Part of the FDB: what meets every condition that is given; the whole FDB when none is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FdbScope {
    /// In this segment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<String>,
    /// Behind this port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Behind this remote VTEP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vtep: Option<String>,
    /// This station.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// What a flush did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flushed {
    /// How many entries are gone.
    pub removed: u64,
}

/// A remote VTEP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PeerRow {
    /// Its address; with its port, as `192.0.2.2:4790`, where that is not this node's.
    pub address: String,
    /// The segments that have it as a peer.
    pub segments: Vec<String>,
    /// Received from it.
    pub rx: Traffic,
    /// Sent to it.
    pub tx: Traffic,
    /// Milliseconds since something valid came from it; `null`: never.
    pub last_heard_ms: Option<u64>,
    /// The path MTU towards it, outer headers included; `null`: not known yet.
    pub mtu: Option<u32>,
}

/// How often something was dropped for a reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DropRow {
    /// The reason: a lower-case word with underscores.
    pub reason: String,
    /// How often.
    pub count: u64,
    /// At which port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// From or to which remote VTEP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
}

/// The FDB of one segment in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FdbCounts {
    /// Entries that traffic taught.
    pub learned: u64,
    /// Entries that an operator set.
    #[serde(rename = "static")]
    pub fixed: u64,
    /// Entries that a control plane set.
    pub control: u64,
    /// Entries that made room for others.
    pub evictions: u64,
    /// Times that a station changed its place.
    pub moves: u64,
    /// Moves that were not followed because they came too fast.
    pub damped: u64,
}

/// A segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SegmentRow {
    /// Its name.
    pub name: String,
    /// Its VNI.
    pub vni: u32,
    /// Its ports.
    pub ports: Vec<String>,
    /// Its ingress replication list.
    pub peers: Vec<String>,
    /// The group that BUM frames go to in place of the list; `null`: none.
    pub multicast: Option<String>,
    /// Whether addresses are learned.
    pub learning: bool,
    /// How long a learned address is remembered, in milliseconds.
    pub aging_ms: u64,
    /// How many addresses are learned at most.
    pub max_macs: u32,
    /// What is done with a unicast frame whose owner is not known.
    pub unknown_unicast: UnknownUnicast,
    /// Whether datagrams from others than the peers are dropped.
    pub strict_peers: bool,
    /// Whether datagrams with reserved header bits set are dropped.
    pub strict_header: bool,
    /// Its FDB in numbers.
    pub fdb: FdbCounts,
    /// Who made it.
    pub origin: ObjectOrigin,
}

/// The local VTEP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnderlayStatus {
    /// Its address; `null` while its interface has none.
    pub address: Option<String>,
    /// The interface whose address is followed; `null` when the address is configured.
    pub interface: Option<String>,
    /// Its UDP port.
    pub port: u16,
    /// The MTU towards the underlay, outer headers included; `null`: not known yet.
    pub mtu: Option<u32>,
    /// Whether outer UDP checksums are filled in.
    pub udp_checksum: bool,
    /// The outer DSCP: `inherit`, or a number.
    pub dscp: String,
}

/// One worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerRow {
    /// Its number, from 0.
    pub id: u32,
    /// Times that it woke and looked for work.
    pub turns: u64,
    /// Units that it took from ports and from the underlay.
    pub units: u64,
}

/// How an offload stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OffloadState {
    /// In use.
    On,
    /// Not in use: the configuration says so.
    Off,
    /// Not in use: the kernel does not have it.
    Unsupported,
    /// In use for some devices, sockets or peers, and given up for others.
    Partial,
    /// Given up after it failed.
    Degraded,
}

/// One offload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OffloadRow {
    /// `tap_checksum`, `tap_tso`, `tap_uso`, `udp_gso`, `udp_gro`.
    pub name: String,
    /// How it stands.
    pub state: OffloadState,
    /// How often it was given up since the start.
    pub degradations: u64,
}

/// What the kernel granted for socket buffers, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BufferStatus {
    /// Of each receive socket.
    pub receive: u64,
    /// Of each send socket.
    pub send: u64,
}

/// Sums over the whole node. The law of counting: received = forwarded + answered + dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Totals {
    /// Received from ports.
    pub port_rx: Traffic,
    /// Sent to ports.
    pub port_tx: Traffic,
    /// Received from remote VTEPs.
    pub peer_rx: Traffic,
    /// Sent to remote VTEPs.
    pub peer_tx: Traffic,
    /// Frames taken in, from either side.
    pub received: u64,
    /// Of those, sent on.
    pub forwarded: u64,
    /// Of those, answered here.
    pub answered: u64,
    /// Of those, dropped.
    pub dropped: u64,
    /// Datagrams that the kernel dropped because a receive buffer was full.
    pub socket_drops: u64,
    /// Entries in the FDB.
    pub fdb_entries: u64,
    /// Ports.
    pub ports: u64,
    /// Segments.
    pub segments: u64,
    /// Remote VTEPs.
    pub peers: u64,
}

/// What the daemon is and does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// The version of the daemon.
    pub version: String,
    /// The name of the node.
    pub node: String,
    /// The process.
    pub pid: u32,
    /// Milliseconds since the daemon started.
    pub uptime_ms: u64,
    /// Whether ports and underlay are up.
    pub ready: bool,
    /// What is not, in words.
    #[serde(default)]
    pub pending: Vec<String>,
    /// The local VTEP.
    pub underlay: UnderlayStatus,
    /// The workers.
    pub workers: Vec<WorkerRow>,
    /// The offloads.
    pub offloads: Vec<OffloadRow>,
    /// What the kernel granted for socket buffers.
    pub buffers: BufferStatus,
    /// The helper that makes the ports; absent where the daemon does so itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helper: Option<HelperStatus>,
    /// Sums over the whole node.
    pub totals: Totals,
    /// The pod network; absent on a node that is part of none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterStatus>,
}

/// The helper that makes the ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HelperStatus {
    /// Where it listens.
    pub socket: String,
    /// What is wrong with it. Ports that are up go on; what is to be made or changed waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// Whether the daemon does its job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// Whether ports and underlay are up.
    pub ready: bool,
    /// What is not, in words.
    pub pending: Vec<String>,
}

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReloadReport {
    /// What changed, a line each; empty when nothing did.
    pub changes: Vec<String>,
}

/// What was done, where there is nothing else to say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// In words.
    pub done: String,
}

/// Why a request failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// The reason, in words that stand alone.
    pub error: String,
    /// The key of the request that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}
