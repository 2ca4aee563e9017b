//! A Node object, and the member of the cluster that it stands for. Pure: text in, values out.
//!
//! Of a Node only what is named here is read; all else is skipped unread, so that 5,000 Nodes with
//! their lists of images cost no memory.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::Deserialize;

use crate::cluster::model::{Exception, Node};

/// The annotation with a node's VTEP, as `192.0.2.1:4789` or `[2001:db8::1]:4789`. A Node without
/// it is no member.
pub const VTEP: &str = "tapestry.dev/vtep";
/// The annotation with the identity of the machine that wrote the others, see [`Node::identity`].
pub const IDENTITY: &str = "tapestry.dev/identity";
/// The annotation with the uid of the Node that the others were written for. Annotations that were
/// copied to another Node (a restored backup, `kubectl apply` of an export) do not have its uid.
pub const UID: &str = "tapestry.dev/node-uid";
/// The annotation with a node's addresses that are neither its VTEP's nor in its status, separated
/// by commas.
pub const ADDRESSES: &str = "tapestry.dev/addresses";
/// The annotation with the addresses outside its shares that its pods have, as
/// `10.9.0.7/32=5,10.9.1.0/24=2`: a network and its generation each.
pub const EXCEPTIONS: &str = "tapestry.dev/exceptions";
/// The annotation with what a node understands, separated by commas.
pub const CAPABILITIES: &str = "tapestry.dev/capabilities";

/// All of them.
pub const ANNOTATIONS: [&str; 6] = [VTEP, IDENTITY, UID, ADDRESSES, EXCEPTIONS, CAPABILITIES];

/// More addresses than this in one list are not a node's.
const MAX_ADDRESSES: usize = 64;
const MAX_CAPABILITIES: usize = 64;
/// The API server bounds all annotations of an object together to 256 KiB.
const MAX_EXCEPTIONS: usize = 32_768;

/// What of a Node is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Object {
    /// Its metadata.
    pub metadata: Metadata,
    /// Its spec.
    #[serde(default)]
    pub spec: Option<Spec>,
    /// Its status.
    #[serde(default)]
    pub status: Option<Status>,
}

/// What of a Node's metadata is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Its name; a bookmark has none.
    #[serde(default)]
    pub name: String,
    /// Its uid: another one when a Node of this name is made anew.
    #[serde(default)]
    pub uid: String,
    /// The version that a watch can go on from.
    #[serde(default)]
    pub resource_version: String,
    /// When it was made, as RFC 3339: of two, the smaller text is the older one.
    #[serde(default)]
    pub creation_timestamp: Option<String>,
    /// Its annotations.
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// What of a Node's spec is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Spec {
    /// Its share, where there is one only.
    #[serde(default, rename = "podCIDR")]
    pub pod_cidr: Option<String>,
    /// Its shares, one of each family.
    #[serde(default, rename = "podCIDRs")]
    pub pod_cidrs: Option<Vec<String>>,
}

/// What of a Node's status is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// Its addresses.
    #[serde(default)]
    pub addresses: Option<Vec<Address>>,
    /// Its conditions.
    #[serde(default)]
    pub conditions: Option<Vec<Condition>>,
}

/// One of a Node's addresses.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Address {
    /// `InternalIP`, `ExternalIP`, `Hostname`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// The address or name.
    #[serde(default)]
    pub address: String,
}

/// One of a Node's conditions.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Condition {
    /// Which.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    #[serde(default)]
    pub status: String,
}

/// What a Node stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A member of the cluster.
    Member(Node),
    /// No member: no annotations of ours, or no share yet.
    Stranger,
    /// Annotations or a spec that make no sense, and what about them does not.
    Malformed(String),
}

/// A Node that is none: JSON of another shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", if name.is_empty() { "a Node without a name" } else { name })]
pub struct NotANode {
    /// Its name, as far as it has one.
    pub name: String,
    /// Its version, as far as it has one.
    pub version: String,
    /// What is wrong.
    pub reason: String,
}

impl Object {
    /// A Node from its JSON.
    ///
    /// # Errors
    ///
    /// If that is something else; the error has its name where that could be read.
    pub fn parse(text: &str) -> Result<Self, NotANode> {
        let reason = match serde_json::from_str::<Self>(text) {
            Ok(object) if object.metadata.name.is_empty() => "it has no name".to_owned(),
            Ok(object) if object.metadata.uid.is_empty() => "it has no uid".to_owned(),
            Ok(object) => return Ok(object),
            Err(error) => error.to_string(),
        };
        let loose: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
        let text_at = |place: &str| {
            let found = loose.pointer(place).and_then(serde_json::Value::as_str);
            found.unwrap_or_default().to_owned()
        };
        Err(NotANode {
            name: text_at("/metadata/name"),
            version: text_at("/metadata/resourceVersion"),
            reason,
        })
    }

    /// The value of an annotation.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// The shares in its spec, as they stand there.
    pub fn pod_cidrs(&self) -> impl Iterator<Item = &str> {
        let spec = self.spec.as_ref();
        let many = spec.and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default();
        let one = spec.and_then(|spec| spec.pod_cidr.as_deref()).filter(|_| many.is_empty());
        many.iter().map(String::as_str).chain(one).filter(|text| !text.is_empty())
    }

    /// The state of a condition; `None` where there is no such condition.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<&str> {
        let conditions = self.status.as_ref()?.conditions.as_deref()?;
        let found = conditions.iter().find(|condition| condition.kind == kind)?;
        Some(&found.status)
    }

    /// The addresses that the kubelet found. What is no address is left out: a cloud's controller
    /// may write names or zones there, and a node is reached without them too.
    #[must_use]
    pub fn internal_addresses(&self) -> Vec<IpAddr> {
        let addresses = self.status.as_ref().and_then(|status| status.addresses.as_deref());
        let internal = addresses.unwrap_or_default().iter().filter(|at| at.kind == "InternalIP");
        let parsed = internal.filter_map(|at| at.address.parse::<IpAddr>().ok());
        parsed.filter(|address| usable(*address)).take(MAX_ADDRESSES).collect()
    }

    /// What it stands for.
    #[must_use]
    pub fn meaning(&self) -> Meaning {
        let Some(vtep) = self.annotation(VTEP) else { return Meaning::Stranger };
        if self.pod_cidrs().next().is_none() {
            return Meaning::Stranger;
        }
        match self.member(vtep) {
            Ok(node) => Meaning::Member(node),
            Err(reason) => Meaning::Malformed(reason),
        }
    }

    fn member(&self, vtep: &str) -> Result<Node, String> {
        let uid = &self.metadata.uid;
        match self.annotation(UID) {
            Some(written_for) if written_for == uid => {}
            Some(written_for) => {
                return Err(format!(
                    "{UID} is {written_for:?}, but this Node's uid is {uid:?}: its annotations \
                     were copied from another Node, or are of a Node of this name that was deleted"
                ));
            }
            None => return Err(format!("it has {VTEP}, but no {UID}")),
        }
        let identity = self.annotation(IDENTITY).filter(|identity| plain(identity));
        let identity = identity.ok_or_else(|| format!("{IDENTITY} is no identity"))?;
        let vtep = vtep_of(vtep).map_err(|reason| format!("{VTEP}: {reason}"))?;
        let mut addresses = vec![vtep.ip()];
        let published = self.list(ADDRESSES, MAX_ADDRESSES, address_of)?;
        for address in self.internal_addresses().into_iter().chain(published) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok(Node {
            name: self.metadata.name.clone(),
            identity: identity.to_owned(),
            vtep,
            addresses,
            pod_cidrs: self.shares()?,
            exceptions: self.list(EXCEPTIONS, MAX_EXCEPTIONS, exception_of)?,
            capabilities: self.list(CAPABILITIES, MAX_CAPABILITIES, capability_of)?,
        })
    }

    /// Its shares: one, or one of each family.
    ///
    /// # Errors
    ///
    /// What about them makes no sense.
    pub fn shares(&self) -> Result<Vec<IpNet>, String> {
        let mut shares: Vec<IpNet> = Vec::new();
        for text in self.pod_cidrs() {
            let share = network_of(text).map_err(|reason| format!("spec.podCIDRs: {reason}"))?;
            let family = share.addr().is_ipv4();
            if shares.iter().any(|other| other.addr().is_ipv4() == family) {
                return Err(format!("spec.podCIDRs: {share} is a second one of its family"));
            }
            shares.push(share);
        }
        Ok(shares)
    }

    fn list<T>(
        &self,
        key: &str,
        max: usize,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        let text = self.annotation(key).unwrap_or_default();
        let mut list = Vec::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            if list.len() == max {
                return Err(format!("{key}: more than {max}"));
            }
            list.push(read(item).map_err(|reason| format!("{key}: {reason}"))?);
        }
        Ok(list)
    }
}

fn usable(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && !address.is_loopback()
}

fn address_of(text: &str) -> Result<IpAddr, String> {
    match text.parse::<IpAddr>() {
        Ok(address) if usable(address) => Ok(address),
        _ => Err(format!("{text:?} is no address of a node")),
    }
}

fn vtep_of(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<SocketAddr>() {
        Ok(vtep) if usable(vtep.ip()) && vtep.port() != 0 => Ok(vtep),
        _ => Err(format!("{text:?} is no ADDRESS:PORT of a VTEP")),
    }
}

fn network_of(text: &str) -> Result<IpNet, String> {
    match text.parse::<IpNet>() {
        Ok(net) if net.trunc() == net => Ok(net),
        Ok(net) => Err(format!("{net} has host bits, {} has none", net.trunc())),
        Err(_) => Err(format!("{text:?} is no network")),
    }
}

fn exception_of(text: &str) -> Result<Exception, String> {
    let wrong = || format!("{text:?} is no NETWORK=GENERATION");
    let (net, generation) = text.split_once('=').ok_or_else(wrong)?;
    let generation = generation.parse().map_err(|_| wrong())?;
    Ok(Exception { net: network_of(net)?, generation })
}

/// Whether it may be an identity or a capability's name.
fn plain(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    (1..=128).contains(&text.len()) && text.chars().all(allowed)
}

fn capability_of(text: &str) -> Result<String, String> {
    if plain(text) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is no name of a capability"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

    use serde_json::{Value, json};

    use super::*;

    const OWN_UID: &str = "d7852009-979b-44a3-8f00-1f5344d85c76";

    /// A Node as a server writes it, with the annotations of a member.
    fn text(change: impl FnOnce(&mut Value)) -> String {
        let mut node = json!({
            "kind": "Node", "apiVersion": "v1",
            "metadata": {
                "name": "node-1", "uid": OWN_UID, "resourceVersion": "234",
                "labels": {"kubernetes.io/os": "linux"},
                "annotations": {
                    "tapestry.dev/vtep": "192.0.2.1:4789",
                    "tapestry.dev/identity": "machine-1",
                    "tapestry.dev/node-uid": OWN_UID,
                    "example.org/other": "left alone",
                },
            },
            "spec": {
                "podCIDR": "10.244.1.0/24",
                "podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64"],
            },
            "status": {
                "addresses": [
                    {"type": "InternalIP", "address": "192.0.2.1"},
                    {"type": "InternalIP", "address": "2001:db8::1"},
                    {"type": "InternalIP", "address": "fe80::1%eth0"},
                    {"type": "ExternalIP", "address": "198.51.100.1"},
                    {"type": "Hostname", "address": ""},
                ],
                "conditions": [{"type": "Ready", "status": "False"}],
                "images": [{"names": ["a"], "sizeBytes": 1}],
            },
        });
        change(&mut node);
        node.to_string()
    }

    fn meaning(change: impl FnOnce(&mut Value)) -> Meaning {
        Object::parse(&text(change)).unwrap().meaning()
    }

    fn annotated(key: &str, value: &str) -> Meaning {
        meaning(|node| node["metadata"]["annotations"][key] = value.into())
    }

    #[test]
    fn a_member_is_read_whole() {
        let found = meaning(|node| {
            let annotations = &mut node["metadata"]["annotations"];
            annotations[ADDRESSES] = "198.51.100.7, 192.0.2.1".into();
            annotations[EXCEPTIONS] = "10.9.0.7/32=5,fd00:9::/64=18446744073709551615".into();
            annotations[CAPABILITIES] = "gpe,direct".into();
        });
        let exception = |net: &str, generation| Exception { net: net.parse().unwrap(), generation };
        let expected = Node {
            name: "node-1".into(),
            identity: "machine-1".into(),
            vtep: "192.0.2.1:4789".parse().unwrap(),
            addresses: ["192.0.2.1", "2001:db8::1", "198.51.100.7"]
                .map(|address| address.parse().unwrap())
                .to_vec(),
            pod_cidrs: vec![
                "10.244.1.0/24".parse().unwrap(),
                "fd00:10:244:1::/64".parse().unwrap(),
            ],
            exceptions: vec![exception("10.9.0.7/32", 5), exception("fd00:9::/64", u64::MAX)],
            capabilities: vec!["gpe".into(), "direct".into()],
        };
        assert_eq!(found, Meaning::Member(expected));
    }

    #[test]
    fn who_has_no_annotations_or_no_share_is_no_member() {
        assert_eq!(
            meaning(|node| node["metadata"]["annotations"] = json!({"example.org/vtep": "x"})),
            Meaning::Stranger
        );
        assert_eq!(
            meaning(|node| node["metadata"]["annotations"] = Value::Null),
            Meaning::Stranger
        );
        assert_eq!(meaning(|node| node["spec"] = json!({"taints": []})), Meaning::Stranger);
        assert_eq!(meaning(|node| node["spec"] = json!({"podCIDRs": []})), Meaning::Stranger);
    }

    #[test]
    fn a_single_pod_cidr_counts_where_there_is_no_list() {
        let Meaning::Member(node) =
            meaning(|node| node["spec"] = json!({"podCIDR": "10.1.2.0/24"}))
        else {
            panic!("no member");
        };
        assert_eq!(node.pod_cidrs, ["10.1.2.0/24".parse().unwrap()]);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let cases: [(Meaning, &str); 12] = [
            (annotated(VTEP, "192.0.2.1"), "tapestry.dev/vtep"),
            (annotated(VTEP, "0.0.0.0:4789"), "tapestry.dev/vtep"),
            (annotated(VTEP, "192.0.2.1:0"), "tapestry.dev/vtep"),
            (annotated(VTEP, "239.1.1.1:4789"), "tapestry.dev/vtep"),
            (annotated(IDENTITY, ""), "tapestry.dev/identity"),
            (annotated(UID, "another"), "were copied"),
            (annotated(ADDRESSES, "192.0.2.2,::1"), "\"::1\""),
            (annotated(EXCEPTIONS, "10.0.0.0/8"), "NETWORK=GENERATION"),
            (annotated(EXCEPTIONS, "10.0.0.1/8=1"), "host bits"),
            (annotated(CAPABILITIES, "a b"), "\"a b\""),
            (meaning(|node| node["spec"]["podCIDRs"] = json!(["10.244.1.7/24"])), "host bits"),
            (
                meaning(|node| node["spec"]["podCIDRs"] = json!(["10.0.0.0/24", "10.0.1.0/24"])),
                "second one",
            ),
        ];
        for (found, expected) in cases {
            let Meaning::Malformed(reason) = found else { panic!("{expected}: {found:?}") };
            assert!(reason.contains(expected), "{reason}");
        }
    }

    #[test]
    fn lists_are_bounded() {
        let list = |count| vec!["192.0.2.7"; count].join(",");
        let Meaning::Member(_) = annotated(ADDRESSES, &list(MAX_ADDRESSES)) else {
            panic!("too narrow");
        };
        let Meaning::Malformed(reason) = annotated(ADDRESSES, &list(MAX_ADDRESSES + 1)) else {
            panic!("not bounded");
        };
        assert!(reason.contains("more than 64"), "{reason}");
    }

    #[test]
    fn another_shape_is_an_error_with_its_name() {
        let error = Object::parse(&text(|node| node["spec"]["podCIDRs"] = json!({"a": 1})));
        let error = error.unwrap_err();
        assert_eq!((error.name.as_str(), error.version.as_str()), ("node-1", "234"));
        let error = Object::parse(&text(|node| node["metadata"]["uid"] = json!(""))).unwrap_err();
        assert_eq!(error.to_string(), "node-1: it has no uid");
        assert!(Object::parse("[]").is_err());
        assert!(Object::parse("{").unwrap_err().name.is_empty());
    }
}
