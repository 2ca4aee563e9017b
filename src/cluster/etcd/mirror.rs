//! What is in etcd below the prefix, as far as it has told.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::wire;
use crate::cluster::model::Node;
use crate::cluster::store::Object;

pub(super) const CLUSTER: &str = "cluster";
const NODES: &str = "nodes/";
const CIDRS: &str = "cidrs/";
const VTEPS: &str = "vteps/";
const ALIVE: &str = "alive/";
const SEEN: &str = "seen/";
const KINDS: [&str; 5] = [NODES, CIDRS, VTEPS, ALIVE, SEEN];

/// The record of a node.
pub(super) fn node_key(name: &str) -> String {
    format!("{NODES}{name}")
}

/// Whose share a network is: its value is the holder's identity.
pub(super) fn cidr_key(cidr: &IpNet) -> String {
    format!("{CIDRS}{cidr}")
}

/// Whose VTEP has an address: its value is the holder's identity.
pub(super) fn vtep_key(address: IpAddr) -> String {
    format!("{VTEPS}{address}")
}

/// There while the node is alive: it is bound to a lease.
pub(super) fn alive_key(name: &str) -> String {
    format!("{ALIVE}{name}")
}

/// When the node was last alive, [`Seen`].
pub(super) fn seen_key(name: &str) -> String {
    format!("{SEEN}{name}")
}

/// The cluster itself: made by its first node, the same for all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClusterRecord {
    pub(super) id: String,
    pub(super) networks: Vec<NetworkRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NetworkRecord {
    pub(super) net: IpNet,
    pub(super) node_prefix: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) identity: String,
    /// Milliseconds since the Unix epoch.
    pub(super) at_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) bytes: Vec<u8>,
    pub(super) created: i64,
    pub(super) modified: i64,
}

#[derive(Debug)]
pub(super) struct Mirror {
    prefix: String,
    /// By key without the prefix.
    values: BTreeMap<String, Value>,
    /// Everything up to this revision is in it; 0: nothing is known.
    pub(super) revision: i64,
    /// etcd's own identity.
    pub(super) server: u64,
}

impl Mirror {
    pub(super) fn new(prefix: &str) -> Self {
        let prefix = format!("{}/", prefix.trim_end_matches('/'));
        Self { prefix, values: BTreeMap::new(), revision: 0, server: 0 }
    }

    /// The keys below the prefix: from, and up to but without.
    pub(super) fn range(&self) -> (Vec<u8>, Vec<u8>) {
        let mut end = self.prefix.clone().into_bytes();
        // The prefix ends with a slash; the next character is what comes after all of it.
        end.pop();
        end.push(b'/' + 1);
        (self.prefix.clone().into_bytes(), end)
    }

    pub(super) fn absolute(&self, key: &str) -> Vec<u8> {
        format!("{}{key}", self.prefix).into_bytes()
    }

    /// The key without the prefix, if it is one of those that are known here.
    fn relative(&self, key: &[u8]) -> Option<String> {
        let key = str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?;
        let known = key == CLUSTER || KINDS.iter().any(|kind| key.starts_with(kind));
        known.then(|| key.to_owned())
    }

    /// Everything is this from now on.
    pub(super) fn replace(&mut self, kvs: Vec<wire::KeyValue>, revision: i64, server: u64) {
        self.values.clear();
        for kv in kvs {
            if let Some(key) = self.relative(&kv.key) {
                let (created, modified) = (kv.create_revision, kv.mod_revision);
                self.values.insert(key, Value { bytes: kv.value, created, modified });
            }
        }
        self.revision = revision;
        self.server = server;
    }

    /// Takes in an event. Returns the key, if something has changed by it.
    pub(super) fn apply(&mut self, event: wire::Event) -> Option<String> {
        let kv = event.kv?;
        let modified = kv.mod_revision;
        // Not the answer's own revision: while a watch catches up that one is ahead of its events.
        self.revision = self.revision.max(modified);
        let key = self.relative(&kv.key)?;
        if self.values.get(&key).is_some_and(|value| value.modified >= modified) {
            return None;
        }
        if event.kind == wire::EVENT_DELETE {
            return self.values.remove(&key).map(|_| key);
        }
        let created = kv.create_revision;
        self.values.insert(key.clone(), Value { bytes: kv.value, created, modified });
        Some(key)
    }

    /// A transaction of this node has written this, `None`: deleted, at this revision.
    pub(super) fn written(&mut self, key: &str, bytes: Option<Vec<u8>>, revision: i64) {
        let Some(bytes) = bytes else {
            self.values.remove(key);
            return;
        };
        let created = self.values.get(key).map_or(revision, |value| value.created);
        self.values.insert(key.to_owned(), Value { bytes, created, modified: revision });
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// The revision by which a key was written last; 0: it is not there.
    pub(super) fn modified(&self, key: &str) -> i64 {
        self.values.get(key).map_or(0, |value| value.modified)
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        str::from_utf8(&self.values.get(key)?.bytes).ok()
    }

    pub(super) fn cluster(&self) -> Option<Result<ClusterRecord, String>> {
        let value = self.values.get(CLUSTER)?;
        Some(serde_json::from_slice(&value.bytes).map_err(|error| error.to_string()))
    }

    pub(super) fn is_alive(&self, name: &str) -> bool {
        self.values.contains_key(&alive_key(name))
    }

    pub(super) fn seen(&self, name: &str) -> Option<Seen> {
        serde_json::from_slice(&self.values.get(&seen_key(name))?.bytes).ok()
    }

    /// The record of a node.
    pub(super) fn node(&self, name: &str) -> Option<Object> {
        let key = node_key(name);
        self.values.get(&key).map(|value| parse(name, value))
    }

    /// A key of a node, as the membership knows it; `None`: the key is no node's.
    pub(super) fn object(&self, key: &str) -> Option<(String, Option<Object>)> {
        let name = key.strip_prefix(NODES)?;
        Some((key.to_owned(), self.node(name)))
    }

    /// All records of nodes, the oldest first.
    pub(super) fn objects(&self) -> Vec<(String, Object)> {
        let mut nodes: Vec<_> = self.below(NODES).collect();
        nodes.sort_by_key(|(_, value)| value.created);
        let nodes = nodes.into_iter();
        nodes.map(|(name, value)| (node_key(name), parse(name, value))).collect()
    }

    /// All records of nodes that can be read.
    pub(super) fn nodes(&self) -> impl Iterator<Item = Node> {
        self.below(NODES).filter_map(|(name, value)| parse(name, value).ok())
    }

    /// All shares, and the identity of their holders.
    pub(super) fn cidrs(&self) -> impl Iterator<Item = (IpNet, &str)> {
        self.below(CIDRS).filter_map(|(cidr, value)| {
            Some((cidr.parse().ok()?, str::from_utf8(&value.bytes).ok()?))
        })
    }

    /// Everything that a node of this name and identity holds.
    pub(super) fn holdings(&self, name: &str, identity: &str) -> HashSet<String> {
        let named = [node_key(name), alive_key(name), seen_key(name)];
        let named = named.into_iter().filter(|key| self.values.contains_key(key));
        let held = [CIDRS, VTEPS].into_iter().flat_map(|kind| {
            let held = self.below(kind).filter(|(_, value)| value.bytes == identity.as_bytes());
            held.map(move |(key, _)| format!("{kind}{key}"))
        });
        named.chain(held).collect()
    }

    fn below(&self, kind: &'static str) -> impl Iterator<Item = (&str, &Value)> {
        let from = self.values.range(kind.to_owned()..);
        let within = from.take_while(move |(key, _)| key.starts_with(kind));
        within.filter_map(move |(key, value)| Some((key.strip_prefix(kind)?, value)))
    }
}

fn parse(name: &str, value: &Value) -> Object {
    let node: Node = serde_json::from_slice(&value.bytes).map_err(|error| error.to_string())?;
    if node.name != name {
        return Err(format!("it is of node \"{}\"", node.name));
    }
    Ok(node)
}
