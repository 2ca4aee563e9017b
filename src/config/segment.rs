//! A segment: as typed, and as checked.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use encap::Vni;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Name;

/// A segment as an operator types it; what is absent has its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SegmentSpec {
    /// Its name.
    pub name: String,
    /// Its VNI, 1 to 16777215.
    pub vni: u32,
    /// The ingress replication list; an entry is `address` or `address:port`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<String>,
    /// The multicast group that BUM frames go to, in place of the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multicast: Option<String>,
    /// Whether source addresses are learned. Default: yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning: Option<bool>,
    /// How long a learned address is remembered, as `5m`. Default: 5 minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aging: Option<String>,
    /// How many addresses are learned at most. Default: 8192.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_macs: Option<u32>,
    /// `flood` (the default) or `drop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown_unicast: Option<String>,
    /// Whether datagrams from others than the peers are dropped. Default: yes with a list, no
    /// with multicast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict_peers: Option<bool>,
    /// Whether datagrams with reserved header bits set are dropped. Default: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict_header: Option<bool>,
}

/// A segment that passed every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its name.
    pub name: Name,
    /// Its VNI.
    pub vni: Vni,
    /// The remote VTEPs, each with its UDP port; unique, unicast, none of them this node.
    pub peers: Vec<SocketAddr>,
    /// The multicast group that BUM frames go to in place of the list.
    pub multicast: Option<IpAddr>,
    /// Whether source addresses are learned.
    pub learning: bool,
    /// How long a learned address is remembered.
    pub aging: Duration,
    /// How many addresses are learned at most.
    pub max_macs: u32,
    /// What is done with a unicast frame whose owner is not known.
    pub unknown_unicast: UnknownUnicast,
    /// Whether datagrams from others than the peers are dropped.
    pub strict_peers: bool,
    /// Whether datagrams with reserved header bits set are dropped.
    pub strict_header: bool,
}

/// What is done with a unicast frame whose owner is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnknownUnicast {
    /// It goes everywhere.
    #[default]
    Flood,
    /// It is dropped and counted.
    Drop,
}

impl Segment {
    /// How long addresses are remembered unless told otherwise.
    pub const AGING: Duration = Duration::from_secs(300);
    /// How many addresses are learned unless told otherwise.
    pub const MAX_MACS: u32 = 8192;
}
