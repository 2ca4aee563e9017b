//! Five thousand nodes.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tapestry::cluster::membership::Membership;
use tapestry::cluster::model::Node;
use tapestry::cluster::store::{Object, Update};

use crate::{at, config, etcd_store, key, net, node, own};

/// Nodes with shares of 10.0.0.0/8, from number 1 on.
pub(crate) fn nodes(count: u32) -> Vec<Node> {
    let share = |number: u32| {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + (number << 8));
        IpNet::new(address.into(), 24).unwrap()
    };
    (1..=count).map(|number| Node { pod_cidrs: vec![share(number)], ..node(number) }).collect()
}

fn listed(nodes: &[Node]) -> Vec<(String, Object)> {
    nodes.iter().zip(1..).map(|(node, number)| (key(number), Ok(node.clone()))).collect()
}

fn wide() -> Membership {
    let mut config = config(etcd_store(Vec::new()));
    config.networks[0].net = net("10.0.0.0/8");
    Membership::new(&config, own(0))
}

#[test]
fn a_cold_list_and_single_events_cost_what_they_should() {
    let nodes = nodes(5000);
    let mut membership = wide();
    let began = Instant::now();
    membership.apply(Update::Listed(listed(&nodes)), at(0));
    let view = membership.view();
    let took = began.elapsed();
    assert_eq!((view.others.len(), view.routes.len()), (5000, 10_000));
    assert!(view.alarms.is_empty());
    // A debug build on a busy machine: what is quadratic takes minutes.
    assert!(took < Duration::from_secs(5), "{took:?}");
    // The same again is no news.
    membership.apply(Update::Listed(listed(&nodes)), at(1));
    assert!(!membership.has_changed());

    // Each event by itself: as many as there are nodes take no longer than some lists.
    let began = Instant::now();
    for (node, number) in nodes.iter().zip(1..) {
        let mut node = node.clone();
        node.capabilities.push("new".to_owned());
        membership.apply(Update::Put(key(number), Ok(node)), at(2));
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    let before = membership.view();
    assert!(before.others.values().all(|node| node.capabilities.len() == 1));
    // And the next view is the one before it, but for what has changed.
    membership.apply(Update::Deleted(key(7)), at(3));
    let after = membership.view();
    let shared =
        |name: &String, node| after.others.get(name).is_some_and(|it| Arc::ptr_eq(it, node));
    let others: Vec<_> = before.others.iter().filter(|(name, node)| !shared(name, node)).collect();
    assert_eq!(others.len(), 1);
    assert_eq!(before.routes.differences(&after.routes).count(), 2);
}

#[test]
fn many_that_wait_for_one_are_served_when_it_goes() {
    let mut nodes = nodes(5000);
    for node in &mut nodes[1..] {
        node.vtep = crate::vtep(1);
    }
    let mut membership = wide();
    let began = Instant::now();
    membership.apply(Update::Listed(listed(&nodes)), at(0));
    assert_eq!(membership.view().others.len(), 1);
    assert_eq!(membership.view().alarms.len(), 257);
    for number in 1..100 {
        membership.apply(Update::Deleted(key(number)), at(1));
        // One of one is not a mass, but a hundred in a minute are: they are confirmed.
        membership.apply_held(at(1));
        let view = membership.view();
        assert_eq!(crate::names(&view), [format!("node-{}", number + 1)], "the next in line");
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}");
}
