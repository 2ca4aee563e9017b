//! What this node writes into its own Node object: its annotations, and that the network works.
//! Pure: a Node and what is wanted in, a patch out, and none where nothing differs.

use serde_json::{Map, Value, json};

use super::object::{
    ADDRESSES, ANNOTATIONS, CAPABILITIES, EXCEPTIONS, IDENTITY, Object, UID, VTEP,
};
use crate::cluster::store::Own;

/// The condition that keeps pods off a node whose network does not work. Cloud providers set it to
/// True on new Nodes; whoever makes the network work sets it to False.
pub(super) const NETWORK_UNAVAILABLE: &str = "NetworkUnavailable";

/// All annotations of an object together may have so many bytes; others' need room as well.
const MAX_VALUE: usize = 192 << 10;

/// An announcement that does not fit into annotations.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} would have {have} bytes, {MAX_VALUE} at most")]
pub(super) struct TooMuch {
    /// Which annotation.
    pub key: &'static str,
    /// Its length.
    pub have: usize,
}

/// The patch that makes a Node's annotations what is announced; `None`: they are.
///
/// # Errors
///
/// If they would be too long.
pub(super) fn annotations(object: &Object, own: &Own) -> Result<Option<Value>, TooMuch> {
    let mut changes = Map::new();
    for key in ANNOTATIONS {
        let wanted = value(key, object, own);
        if wanted.len() > MAX_VALUE {
            return Err(TooMuch { key, have: wanted.len() });
        }
        let wanted = Some(wanted).filter(|text| !text.is_empty());
        if object.annotation(key) != wanted.as_deref() {
            changes.insert(key.to_owned(), wanted.into());
        }
    }
    Ok(patch(object, changes))
}

/// The patch that takes our annotations off a Node; `None`: it has none.
#[must_use]
pub(super) fn withdrawal(object: &Object) -> Option<Value> {
    let standing = ANNOTATIONS.iter().filter(|key| object.annotation(key).is_some());
    patch(object, standing.map(|key| ((*key).to_owned(), Value::Null)).collect())
}

/// The patch of a Node's status that says that its network works; `None`: it says so. `now` is a
/// time as RFC 3339.
#[must_use]
pub(super) fn network_works(object: &Object, now: &str) -> Option<Value> {
    if object.condition(NETWORK_UNAVAILABLE) == Some("False") {
        return None;
    }
    Some(json!({
        "metadata": {"uid": object.metadata.uid},
        "status": {"conditions": [{
            "type": NETWORK_UNAVAILABLE,
            "status": "False",
            "reason": "TapestryIsUp",
            "message": "this node's pods reach the others through Tapestry",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }]},
    }))
}

/// Without the right uid the server answers 409: the Node was made anew meanwhile, and has not
/// this node's annotations to change.
fn patch(object: &Object, changes: Map<String, Value>) -> Option<Value> {
    if changes.is_empty() {
        return None;
    }
    Some(json!({"metadata": {"uid": object.metadata.uid, "annotations": changes}}))
}

fn value(key: &str, object: &Object, own: &Own) -> String {
    match key {
        VTEP => own.vtep.to_string(),
        IDENTITY => own.identity.clone(),
        UID => object.metadata.uid.clone(),
        ADDRESSES => joined(own.addresses.iter().filter(|address| **address != own.vtep.ip())),
        EXCEPTIONS => {
            let exceptions = own.exceptions.iter();
            joined(
                exceptions.map(|exception| format!("{}={}", exception.net, exception.generation)),
            )
        }
        CAPABILITIES => joined(own.capabilities.iter()),
        _ => String::new(),
    }
}

/// Sorted, so that another order is no difference.
fn joined(items: impl Iterator<Item = impl ToString>) -> String {
    let mut items: Vec<String> = items.map(|item| item.to_string()).collect();
    items.sort_unstable();
    items.dedup();
    items.join(",")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::net::IpAddr;

    use super::super::object::Meaning;
    use super::*;
    use crate::cluster::model::Exception;

    fn object() -> Object {
        Object::parse(
            r#"{"metadata": {"name": "node-1", "uid": "u", "annotations": {"a": "b"}},
                "spec": {"podCIDRs": ["10.244.1.0/24"]}}"#,
        )
        .unwrap()
    }

    fn announcement() -> Own {
        Own {
            name: "node-1".into(),
            identity: "machine-1".into(),
            vtep: "192.0.2.1:4789".parse().unwrap(),
            addresses: vec!["198.51.100.9".parse().unwrap(), "192.0.2.1".parse().unwrap()],
            exceptions: vec![Exception { net: "10.9.0.7/32".parse().unwrap(), generation: 3 }],
            capabilities: Vec::new(),
        }
    }

    /// What a server does with a strategic merge patch of annotations.
    fn apply(object: &mut Object, patch: &Value) {
        let annotations = object.metadata.annotations.get_or_insert_default();
        for (key, value) in patch["metadata"]["annotations"].as_object().unwrap() {
            match value.as_str() {
                Some(text) => annotations.insert(key.clone(), text.to_owned()),
                None => annotations.remove(key),
            };
        }
    }

    #[test]
    fn what_is_announced_is_what_others_read() {
        let (mut object, own) = (object(), announcement());
        let patch = annotations(&object, &own).unwrap().unwrap();
        assert_eq!(patch["metadata"]["uid"], "u");
        apply(&mut object, &patch);
        let Meaning::Member(node) = object.meaning() else { unreachable!("{object:?}") };
        assert_eq!(node.vtep, own.vtep);
        assert_eq!(
            node.addresses,
            ["192.0.2.1", "198.51.100.9"].map(|a| a.parse::<IpAddr>().unwrap())
        );
        assert_eq!(node.exceptions, own.exceptions);
        assert_eq!(annotations(&object, &own), Ok(None), "the same again");
    }

    #[test]
    fn only_what_differs_is_patched() {
        let (mut object, mut own) = (object(), announcement());
        let patch = annotations(&object, &own).unwrap().unwrap();
        apply(&mut object, &patch);
        own.exceptions.clear();
        own.capabilities = vec!["b".into(), "a".into()];
        let patch = annotations(&object, &own).unwrap().unwrap();
        assert_eq!(
            patch["metadata"]["annotations"],
            json!({EXCEPTIONS: null, CAPABILITIES: "a,b"})
        );
    }

    #[test]
    fn a_withdrawal_takes_ours_and_leaves_others() {
        let mut object = object();
        assert_eq!(withdrawal(&object), None);
        let patch = annotations(&object, &announcement()).unwrap().unwrap();
        apply(&mut object, &patch);
        let patch = withdrawal(&object).unwrap();
        apply(&mut object, &patch);
        let left: Vec<&String> = object.metadata.annotations.as_ref().unwrap().keys().collect();
        assert_eq!(left, ["a"]);
    }

    #[test]
    fn the_condition_is_written_unless_it_stands_so() {
        let with = |status: &str| {
            let mut object = object();
            object.status = serde_json::from_value(
                json!({"conditions": [{"type": NETWORK_UNAVAILABLE, "status": status}]}),
            )
            .unwrap();
            network_works(&object, "2026-01-01T00:00:00Z")
        };
        assert_eq!(with("False"), None);
        assert!(with("True").is_some() && with("Unknown").is_some());
        let patch = network_works(&object(), "2026-01-01T00:00:00Z").unwrap();
        assert_eq!(patch["status"]["conditions"][0]["status"], "False");
        assert_eq!(patch["status"]["conditions"][0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
    }

    #[test]
    fn what_would_not_fit_is_refused_here() {
        let mut own = announcement();
        let net = |n: u32| format!("2001:db8::{:x}:{:x}/128", n >> 16, n & 0xffff).parse().unwrap();
        own.exceptions = (0..9_000).map(|n| Exception { net: net(n), generation: 1 }).collect();
        assert!(annotations(&object(), &own).is_ok());
        own.exceptions = (0..20_000).map(|n| Exception { net: net(n), generation: 1 }).collect();
        assert_eq!(annotations(&object(), &own).unwrap_err().key, EXCEPTIONS);
    }
}
