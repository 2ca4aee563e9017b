//! What this node has to write to be a member: pure, from what etcd holds and what the node is.
//!
//! A node's claim is its record, its podCIDRs and its VTEP's address, each a key of its own, written
//! by one transaction that fails if any of them is not as it was read. It is held under the node's
//! identity, and does not end with the node's life: what ends is only `alive/`, which is leased.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;

use super::gaps::Gaps;
use super::mirror::{
    CLUSTER, ClusterRecord, Mirror, NetworkRecord, Seen, alive_key, cidr_key, node_key, seen_key,
    vtep_key,
};
use super::wire;
use crate::cluster::model::Node;
use crate::cluster::store::Own;
use crate::config::Network;

/// What a plan is made from.
#[derive(Debug)]
pub(super) struct Situation<'a> {
    pub(super) mirror: &'a Mirror,
    pub(super) own: &'a Own,
    pub(super) networks: &'a [Network],
    /// After how much silence a share may be taken over; zero: never.
    pub(super) grace: Duration,
    /// The shares that this node has had: its pods have addresses of them.
    pub(super) held: &'a [IpNet],
    /// The identity of the cluster, if it is not in etcd.
    pub(super) cluster: &'a str,
    /// Milliseconds since the Unix epoch.
    pub(super) now_ms: u64,
    /// How many times another node was faster.
    pub(super) conflicts: u32,
    /// Any number.
    pub(super) chance: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// It is a member.
    Settled(Node),
    /// It has to write this, and is a member then.
    Write(Node, Writes),
    /// It cannot be a member, and why.
    Refused(String),
}

/// A transaction: what is written, `None`: deleted, and which keys must be as they were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Writes {
    pub(super) keys: BTreeMap<String, Option<Vec<u8>>>,
    pub(super) unchanged: BTreeMap<String, i64>,
}

impl Writes {
    fn write(&mut self, mirror: &Mirror, key: String, value: Option<Vec<u8>>) {
        self.expect(mirror, key.clone());
        self.keys.insert(key, value);
    }

    fn expect(&mut self, mirror: &Mirror, key: String) {
        let modified = mirror.modified(&key);
        self.unchanged.insert(key, modified);
    }

    pub(super) fn request(&self, mirror: &Mirror) -> wire::TxnRequest {
        let compare = |(key, modified): (&String, &i64)| wire::Compare {
            result: 0,
            target: wire::COMPARE_MOD,
            key: mirror.absolute(key),
            mod_revision: Some(*modified),
        };
        let operation = |(key, value): (&String, &Option<Vec<u8>>)| {
            let key = mirror.absolute(key);
            let operation = match value {
                Some(value) => {
                    wire::Operation::Put(wire::PutRequest { key, value: value.clone(), lease: 0 })
                }
                None => wire::Operation::Delete(wire::DeleteRangeRequest { key }),
            };
            wire::RequestOp { request: Some(operation) }
        };
        wire::TxnRequest {
            compare: self.unchanged.iter().map(compare).collect(),
            success: self.keys.iter().map(operation).collect(),
        }
    }
}

/// What has to be done to be a member.
pub(super) fn plan(situation: &Situation<'_>) -> Plan {
    let mut making = Making { s: situation, writes: Writes::default() };
    match making.make() {
        Ok(node) if making.writes.keys.is_empty() => Plan::Settled(node),
        Ok(node) => Plan::Write(node, making.writes),
        Err(why) => Plan::Refused(why),
    }
}

/// What has to be written to give back what a node holds, and its shares.
///
/// # Errors
///
/// Why that is not done.
pub(super) fn release(
    mirror: &Mirror,
    name: &str,
    own: &Own,
    force: bool,
) -> Result<(Vec<IpNet>, Writes), String> {
    let is_own = name == own.name;
    let identity = match mirror.node(name) {
        Some(Ok(node)) => Some(node.identity),
        Some(Err(_)) | None => mirror.seen(name).map(|seen| seen.identity),
    };
    if identity.is_none() && mirror.get(&node_key(name)).is_none() {
        return Err(format!("there is no node \"{name}\""));
    }
    if is_own && identity.as_ref() != Some(&own.identity) {
        return Err("this node holds nothing: what has its name is another one's".to_owned());
    }
    // That this node is alive is no news to whoever asks it.
    let force = force || is_own;
    if mirror.is_alive(name) && !force {
        return Err(format!("node \"{name}\" is alive: stop it first"));
    }
    let identity = identity.unwrap_or_default();
    let mut writes = Writes::default();
    for key in mirror.holdings(name, &identity) {
        writes.write(mirror, key, None);
    }
    if !force {
        writes.expect(mirror, alive_key(name));
    }
    let mut shares: Vec<IpNet> =
        mirror.cidrs().filter(|(_, holder)| *holder == identity).map(|(cidr, _)| cidr).collect();
    shares.sort_unstable();
    Ok((shares, writes))
}

struct Making<'a> {
    s: &'a Situation<'a>,
    writes: Writes,
}

impl Making<'_> {
    fn make(&mut self) -> Result<Node, String> {
        self.cluster()?;
        let mut shares = self.present_shares()?;
        self.vtep()?;
        for cidr in &shares {
            self.keep(cidr)?;
        }
        self.add_missing(&mut shares)?;
        let node = self.s.own.node(shares);
        let text = serde_json::to_vec(&node).map_err(|error| error.to_string())?;
        let key = node_key(&node.name);
        if self.s.mirror.get(&key).map(|value| value.bytes.as_slice()) != Some(text.as_slice()) {
            self.write(key, Some(text));
        }
        if !self.writes.keys.is_empty() {
            let seen = Seen { identity: node.identity.clone(), at_ms: self.s.now_ms };
            let text = serde_json::to_vec(&seen).map_err(|error| error.to_string())?;
            self.writes.keys.insert(seen_key(&node.name), Some(text));
        }
        Ok(node)
    }

    fn write(&mut self, key: String, value: Option<Vec<u8>>) {
        self.writes.write(self.s.mirror, key, value);
    }

    /// All nodes must cut the same networks the same way.
    fn cluster(&mut self) -> Result<(), String> {
        let record = |network: &Network| NetworkRecord {
            net: network.net,
            node_prefix: network.node_prefix,
        };
        let networks: Vec<_> = self.s.networks.iter().map(record).collect();
        match self.s.mirror.cluster() {
            Some(Ok(cluster)) if cluster.networks == networks => Ok(()),
            Some(Ok(cluster)) => {
                let text = |networks: &[NetworkRecord]| {
                    let each = networks.iter().map(|n| format!("{} by /{}", n.net, n.node_prefix));
                    each.collect::<Vec<_>>().join(", ")
                };
                let (theirs, ours) = (text(&cluster.networks), text(&networks));
                Err(format!("the cluster in etcd has {theirs}, this node's configuration {ours}"))
            }
            Some(Err(error)) => Err(format!("the key {CLUSTER} in etcd makes no sense: {error}")),
            None => {
                let cluster = ClusterRecord { id: self.s.cluster.to_owned(), networks };
                let text = serde_json::to_vec(&cluster).map_err(|error| error.to_string())?;
                self.write(CLUSTER.to_owned(), Some(text));
                Ok(())
            }
        }
    }

    /// The shares that this node has already, by its record or by what it remembers.
    fn present_shares(&mut self) -> Result<Vec<IpNet>, String> {
        let (s, own) = (self.s, self.s.own);
        match s.mirror.node(&own.name) {
            Some(Ok(node)) if node.identity == own.identity => {
                if node.vtep.ip() != own.vtep.ip() {
                    let key = vtep_key(node.vtep.ip());
                    if s.mirror.text(&key) == Some(&own.identity) {
                        self.write(key, None);
                    }
                }
                Ok(node.pod_cidrs)
            }
            Some(Ok(node)) => self.inherit(&node),
            None => match s.mirror.nodes().find(|node| node.identity == own.identity) {
                // This machine had another name before, or is a copy of one that still has it.
                Some(node) => self.inherit(&node),
                None => Ok(self.remembered()),
            },
            Some(Err(error)) => {
                let remembered = self.remembered();
                if remembered.is_empty() {
                    let key = node_key(&own.name);
                    return Err(format!("the key {key} in etcd makes no sense: {error}"));
                }
                Ok(remembered)
            }
        }
    }

    fn remembered(&self) -> Vec<IpNet> {
        if !self.s.held.is_empty() {
            return self.s.held.to_vec();
        }
        let claims = self.s.mirror.cidrs();
        let mut own: Vec<IpNet> = claims
            .filter(|(_, holder)| *holder == self.s.own.identity)
            .map(|(cidr, _)| cidr)
            .collect();
        own.sort_unstable();
        own
    }

    /// Takes over the place of a record that has this node's name or this node's identity, if nobody
    /// is behind it any more.
    fn inherit(&mut self, node: &Node) -> Result<Vec<IpNet>, String> {
        let (mirror, own) = (self.s.mirror, self.s.own);
        let same_name = node.name == own.name;
        if mirror.is_alive(&node.name) {
            let of = if same_name { "name" } else { "identity" };
            let other = format!("a live node \"{}\" at {}", node.name, node.vtep.ip());
            return Err(format!("its {of} is that of {other} (identity {})", node.identity));
        }
        // The same name at the same address is this machine, installed anew.
        let reinstalled = same_name && node.vtep.ip() == own.vtep.ip();
        if same_name && !reinstalled && !self.is_over(node) {
            return Err(format!(
                "its name is that of a node that was at {} (identity {}) and is not alive: release \
                 it, or wait",
                node.vtep.ip(),
                node.identity
            ));
        }
        self.clear(node);
        Ok(node.pod_cidrs.clone())
    }

    /// Gives back what a node that is not alive holds, so that it is free in this transaction.
    fn clear(&mut self, node: &Node) {
        let mirror = self.s.mirror;
        for key in mirror.holdings(&node.name, &node.identity) {
            self.write(key, None);
        }
        self.writes.expect(mirror, alive_key(&node.name));
        self.writes.expect(mirror, seen_key(&node.name));
    }

    /// Whether a node has been silent for so long that others may have what it holds.
    fn is_over(&self, node: &Node) -> bool {
        let grace = u64::try_from(self.s.grace.as_millis()).unwrap_or(u64::MAX);
        let seen = self.s.mirror.seen(&node.name).filter(|seen| seen.identity == node.identity);
        let silent = seen.map(|seen| self.s.now_ms.saturating_sub(seen.at_ms));
        grace > 0
            && !self.s.mirror.is_alive(&node.name)
            && silent.is_some_and(|silent| silent > grace)
    }

    fn node_of(&self, identity: &str) -> Option<Node> {
        self.s.mirror.nodes().find(|node| node.identity == identity)
    }

    /// Makes sure that a key says that this node holds it. What belongs to another is that one's.
    fn take(&mut self, key: String, what: &str) -> Result<(), String> {
        let (mirror, own) = (self.s.mirror, self.s.own);
        let freed = self.writes.keys.get(&key) == Some(&None);
        let holder = mirror.text(&key);
        if holder == Some(&own.identity) && !freed {
            return Ok(());
        }
        if let Some(holder) = holder.filter(|_| !freed) {
            match self.node_of(holder) {
                Some(node) if self.is_over(&node) => self.clear(&node),
                Some(node) => {
                    return Err(format!(
                        "{what} is held by node \"{}\" (identity {holder})",
                        node.name
                    ));
                }
                // A claim without a node is what somebody left who removed the record by hand.
                None => {}
            }
        }
        self.write(key, Some(own.identity.clone().into_bytes()));
        Ok(())
    }

    fn vtep(&mut self) -> Result<(), String> {
        let address = self.s.own.vtep.ip();
        self.take(vtep_key(address), &format!("its VTEP address {address}"))
    }

    fn keep(&mut self, cidr: &IpNet) -> Result<(), String> {
        self.take(cidr_key(cidr), &format!("its podCIDR {cidr}"))
    }

    /// Takes a share of each network of which this node has none.
    fn add_missing(&mut self, shares: &mut Vec<IpNet>) -> Result<(), String> {
        for network in self.s.networks {
            if shares.iter().any(|share| network.net.contains(share)) {
                continue;
            }
            let free = self.free(network).or_else(|| self.expired(network));
            let Some(share) = free else {
                return Err(format!(
                    "no podCIDR is free: every /{} of {} is some node's",
                    network.node_prefix, network.net
                ));
            };
            self.keep(&share)?;
            shares.push(share);
        }
        shares.sort_by_key(|share| (share.addr().is_ipv6(), *share));
        Ok(())
    }

    /// The lowest share of a network that nobody holds; after some conflicts one of the lowest, so
    /// that not all who look for one meet at the next one again.
    fn free(&self, network: &Network) -> Option<IpNet> {
        const SAME: u32 = 2;
        const WIDEST: u32 = 8;
        let claims = self.s.mirror.cidrs().map(|(cidr, _)| cidr);
        let recorded = self.s.mirror.nodes().flat_map(|node| node.pod_cidrs);
        let width = 1_u64 << self.s.conflicts.saturating_sub(SAME).min(WIDEST);
        let skip = usize::try_from(self.s.chance % width).unwrap_or_default();
        let mut gaps = Gaps::new(network, claims.chain(recorded));
        let lowest = gaps.next()?;
        Some(skip.checked_sub(1).and_then(|more| gaps.nth(more)).unwrap_or(lowest))
    }

    /// The share of the node that has been silent longest, if that is long enough.
    fn expired(&mut self, network: &Network) -> Option<IpNet> {
        let fits =
            |cidr: &&IpNet| cidr.prefix_len() == network.node_prefix && network.net.contains(*cidr);
        let nodes = self.s.mirror.nodes().filter(|node| self.is_over(node));
        let candidates = nodes.filter_map(|node| {
            let share = node.pod_cidrs.iter().find(fits).copied()?;
            Some((self.s.mirror.seen(&node.name)?.at_ms, share, node))
        });
        let (_, share, node) = candidates.min_by_key(|(at, share, _)| (*at, *share))?;
        self.clear(&node);
        Some(share)
    }
}
