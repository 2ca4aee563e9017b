//! The static store: the nodes are in the configuration.

use std::sync::Arc;

use tokio::sync::watch;

use crate::config::StaticNode;

use super::model::Node;
use super::store::{Gone, Link, Order, Own, Update};

/// Reports the nodes of the configuration, and again whenever there is another list of them.
pub(super) async fn run(
    mut nodes: watch::Receiver<Arc<Vec<StaticNode>>>,
    mut own: Own,
    mut link: Link,
) -> Result<(), Gone> {
    loop {
        let list = nodes.borrow_and_update().clone();
        link.report(Update::Listed(list.iter().map(|node| object(node, &own)).collect())).await?;
        tokio::select! {
            changed = nodes.changed() => changed.map_err(|_| Gone)?,
            order = link.orders.recv() => match order.ok_or(Gone)? {
                Order::Publish(new) => own = new,
                Order::Release(release) => {
                    let why = "the nodes are in the configuration: remove it there";
                    let _ = release.answer.send(Err(why.to_owned()));
                }
                Order::Relist | Order::Accept => {}
            },
        }
    }
}

fn object(node: &StaticNode, own: &Own) -> (String, Result<Node, String>) {
    let name = node.name.to_string();
    let mut addresses = vec![node.address.ip()];
    addresses.extend(node.addresses.iter().filter(|address| **address != node.address.ip()));
    let is_own = name == own.name;
    let described = Node {
        name: name.clone(),
        identity: if is_own { own.identity.clone() } else { identity(&name) },
        // Where this node's VTEP is, it knows better than the file.
        vtep: if is_own { own.vtep } else { node.address },
        addresses,
        pod_cidrs: node.pod_cidrs.clone(),
        exceptions: if is_own { own.exceptions.clone() } else { Vec::new() },
        capabilities: if is_own { own.capabilities.clone() } else { Vec::new() },
    };
    (name, Ok(described))
}

/// In a file a name is all that tells a node.
fn identity(name: &str) -> String {
    format!("static:{name}")
}
