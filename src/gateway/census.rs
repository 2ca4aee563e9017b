//! What of the other nodes counts for this node's kernel, kept up with the views at the cost of what
//! is different in them.

use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use switch::SharedMap;

use crate::cluster::model::Node;
use crate::config::Cluster;

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
    /// Of a cluster in which nobody is known yet.
    #[must_use]
    pub fn new(cluster: &Cluster) -> Self {
        let networks = cluster.networks.iter().map(|network| network.net).collect();
        Self { networks, ..Self::default() }
    }

    /// These are the nodes from now on.
    pub fn follow(&mut self, nodes: &SharedMap<String, Arc<Node>>) {
        let before = std::mem::replace(&mut self.nodes, nodes.clone());
        for difference in before.differences(nodes) {
            // What stays is counted before it is taken off, and so never leaves in between.
            for (node, by) in [(difference.after, 1), (difference.before, -1)] {
                if let Some(node) = node {
                    self.count(node, by);
                }
            }
        }
    }

    fn count(&mut self, node: &Node, by: i32) {
        addresses(node).for_each(|one| count(&mut self.addresses, one, by));
        count(&mut self.vteps, node.vtep, by);
        for one in exceptions(node) {
            count(&mut self.exceptions, one, by);
            if self.is_outside(&one) {
                count(&mut self.outside, one, by);
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

fn count<T: Ord + Hash + Clone>(tally: &mut Tally<T>, one: T, by: i32) {
    match tally.get(&one).copied().unwrap_or(0).saturating_add_signed(by) {
        0 => tally.remove(&one),
        count => tally.insert(one, count),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::model::Exception;
    use crate::gateway::ruleset::fixture::{cluster, node};

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
        let cluster = cluster();
        let mut census = Census::new(&cluster);
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
            let mut anew = Census::new(&cluster);
            anew.follow(&nodes);
            assert_eq!(census, anew, "{name}");
            assert_eq!(census.addresses.get(&shared).copied().unwrap_or(0), holders, "{name}");
            assert_eq!(census.exceptions.get(&net).copied().unwrap_or(0), holders, "{name}");
            let outside: Vec<_> =
                census.outside.iter().map(|(net, count)| (*net, *count)).collect();
            assert_eq!(outside, if holders == 0 { vec![] } else { vec![(far, holders)] }, "{name}");
        }
        assert_eq!(census, Census::new(&cluster));
    }
}
