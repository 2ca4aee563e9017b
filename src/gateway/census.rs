//! What of the other nodes counts for this node's kernel, kept up with the views at the cost of what
//! is different in them.

use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use switch::SharedMap;

use crate::cluster::model::Node;

/// How many nodes have each.
pub(super) type Tally<T> = SharedMap<T, u32>;

/// The other nodes, and what they have together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    nodes: SharedMap<String, Arc<Node>>,
    /// The nodes' own addresses, their VTEPs' among them.
    pub(super) addresses: Tally<IpAddr>,
    /// Their VTEPs.
    pub(super) vteps: Tally<SocketAddr>,
    /// The networks of their exceptions, without host bits.
    pub(super) exceptions: Tally<IpNet>,
    /// Those of them that are not within the cluster's: mostly none, however many pods have moved.
    pub(super) outside: Tally<IpNet>,
    networks: Vec<IpNet>,
}

impl Census {
    /// Of a cluster with these networks, in which nobody is known yet.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self { networks, ..Self::default() }
    }

    /// These are the nodes from now on.
    pub fn follow(&mut self, nodes: &SharedMap<String, Arc<Node>>) {
        let before = std::mem::replace(&mut self.nodes, nodes.clone());
        for difference in before.differences(nodes) {
            if let Some(node) = difference.after {
                addresses(node).for_each(|one| enter(&mut self.addresses, one));
                enter(&mut self.vteps, node.vtep);
                for one in exceptions(node) {
                    enter(&mut self.exceptions, one);
                    if self.is_outside(&one) {
                        enter(&mut self.outside, one);
                    }
                }
            }
            if let Some(node) = difference.before {
                addresses(node).for_each(|one| leave(&mut self.addresses, &one));
                leave(&mut self.vteps, &node.vtep);
                for one in exceptions(node) {
                    leave(&mut self.exceptions, &one);
                    if self.is_outside(&one) {
                        leave(&mut self.outside, &one);
                    }
                }
            }
        }
    }

    fn is_outside(&self, net: &IpNet) -> bool {
        !self.networks.iter().any(|network| network.contains(net))
    }
}

/// By which addresses a node is known.
pub(super) fn addresses(node: &Node) -> impl Iterator<Item = IpAddr> {
    let more = node.addresses.iter().copied().filter(|address| *address != node.vtep.ip());
    std::iter::once(node.vtep.ip()).chain(more)
}

/// What its pods have outside of its shares.
pub(super) fn exceptions(node: &Node) -> impl Iterator<Item = IpNet> {
    node.exceptions.iter().map(|exception| exception.net.trunc())
}

fn enter<T: Ord + Hash + Clone>(tally: &mut Tally<T>, one: T) {
    let count = tally.get(&one).copied().unwrap_or(0);
    tally.insert(one, count.saturating_add(1));
}

fn leave<T: Ord + Hash + Clone>(tally: &mut Tally<T>, one: &T) {
    match tally.get(one) {
        None | Some(0 | 1) => tally.remove(one),
        Some(&count) => tally.insert(one.clone(), count - 1),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::model::Exception;
    use crate::gateway::ruleset::fixture::node;

    #[test]
    fn following_counts_what_counting_anew_does() {
        let mut b = node("b", 1, "192.0.2.2:4789");
        b.addresses.push("198.51.100.9".parse().unwrap());
        let net = "10.42.9.0/24".parse().unwrap();
        b.exceptions.push(Exception { net, generation: 1 });
        let far = "172.31.0.7/32".parse().unwrap();
        b.exceptions.push(Exception { net: far, generation: 1 });
        // Both claim an address and an exception.
        let c = Node { vtep: "192.0.2.3:4789".parse().unwrap(), name: "c".to_owned(), ..b.clone() };
        let mut nodes = SharedMap::default();
        let networks: Vec<IpNet> = vec!["10.42.0.0/16".parse().unwrap()];
        let mut census = Census::new(networks.clone());
        let shared: IpAddr = "198.51.100.9".parse().unwrap();
        for (name, node, holders) in [
            ("b", Some(&b), 1),
            ("c", Some(&c), 2),
            ("b", None, 1),
            ("c", Some(&b), 1),
            ("c", None, 0),
        ] {
            match node {
                Some(node) => drop(nodes.insert(name.to_owned(), Arc::new(node.clone()))),
                None => drop(nodes.remove(name)),
            }
            census.follow(&nodes);
            let mut anew = Census::new(networks.clone());
            anew.follow(&nodes);
            assert_eq!(census, anew, "{name}");
            assert_eq!(census.addresses.get(&shared).copied().unwrap_or(0), holders, "{name}");
            assert_eq!(census.exceptions.get(&net).copied().unwrap_or(0), holders, "{name}");
            let outside: Vec<_> =
                census.outside.iter().map(|(net, count)| (*net, *count)).collect();
            assert_eq!(outside, if holders == 0 { vec![] } else { vec![(far, holders)] }, "{name}");
        }
        assert_eq!(census, Census::new(networks));
    }
}
