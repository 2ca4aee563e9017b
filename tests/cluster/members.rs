//! Who is a member, and what is believed: the rules of membership one by one.

use std::sync::Arc;

use tapestry::cluster::guard::CONFIRM_AFTER;
use tapestry::cluster::membership::Membership;
use tapestry::cluster::model::{Node, View};
use tapestry::cluster::store::{Object, Own, Update};
use tapestry::config::Store;

use crate::{
    Change, at, config, exception, is_alarmed, key, membership, names, net, node, own, vtep,
};

fn listed(nodes: &[Node]) -> Update {
    let object = |node: &Node| (format!("nodes/{}", node.name), Ok(node.clone()) as Object);
    Update::Listed(nodes.iter().map(object).collect())
}

fn put(membership: &mut Membership, node: Node) {
    let key = format!("nodes/{}", node.name);
    membership.apply(Update::Put(key, Ok(node)), at(1));
}

fn delete(membership: &mut Membership, number: u32, seconds: u64) {
    membership.apply(Update::Deleted(key(number)), at(seconds));
}

fn route_of(view: &View, net: &str) -> Option<std::net::SocketAddr> {
    view.routes.get(&super::net(net)).copied()
}

#[test]
fn members_routes_and_this_node() {
    let mut membership = membership();
    assert!(membership.memory().is_none());
    membership.apply(listed(&[node(0), node(1), node(2)]), at(5));
    let view = membership.view();
    assert_eq!(view.own, Some(node(0)));
    assert_eq!(names(&view), ["node-1", "node-2"]);
    assert_eq!(route_of(&view, "10.244.1.0/24"), Some(vtep(1)));
    assert_eq!(route_of(&view, "198.18.0.2/32"), Some(vtep(2)));
    assert_eq!(route_of(&view, "10.244.0.0/24"), None);
    assert_eq!(view.routes.len(), 4);
    assert!(view.store.connected && view.alarms.is_empty());
    assert_eq!(view.store.answered_ms, Some(at(5).unix_ms));
    assert!(!membership.has_changed());
    membership.apply(Update::Trouble("down".to_owned()), at(6));
    let view = membership.view();
    assert!(!view.store.connected && view.store.trouble.as_deref() == Some("down"));
    assert_eq!((view.others.len(), view.store.answered_ms), (2, Some(at(5).unix_ms)));
}

#[test]
fn a_malformed_object_loses_only_itself() {
    let mut membership = membership();
    let objects = vec![
        (key(0), Ok(node(0))),
        (key(1), Err("not JSON\u{7}".repeat(500))),
        (key(2), Ok(node(2))),
    ];
    membership.apply(Update::Listed(objects), at(0));
    let view = membership.view();
    assert_eq!(names(&view), ["node-2"]);
    assert!(view.own.is_some() && is_alarmed(&view, &key(1), "makes no sense"));
    assert!(view.alarms[0].message.len() < 600 && !view.alarms[0].message.contains('\u{7}'));
    membership.apply(Update::Put(key(2), Err("cut".to_owned())), at(1));
    let view = membership.view();
    assert_eq!(names(&view), ["node-2"]);
    assert!(is_alarmed(&view, &key(2), "what it said before stays"));
    membership.apply(Update::Put(key(1), Ok(node(1))), at(2));
    membership.apply(Update::Put(key(2), Ok(node(2))), at(2));
    assert!(membership.view().alarms.is_empty());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let bad: [(&str, Change<Node>); 14] = [
        ("outside the cluster's networks", &|n| n.pod_cidrs = vec![net("10.245.0.0/24")]),
        ("outside the cluster's networks", &|n| n.pod_cidrs = vec![net("10.0.0.0/8")]),
        ("host bits", &|n| n.pod_cidrs = vec![net("10.244.1.1/24")]),
        ("overlap", &|n| n.pod_cidrs = vec![net("10.244.1.0/24"), net("10.244.1.128/25")]),
        ("within the pods'", &|n| n.vtep = "10.244.9.1:4789".parse().unwrap()),
        ("multicast", &|n| n.vtep = "239.1.1.1:4789".parse().unwrap()),
        ("port 0", &|n| n.vtep = "198.18.0.1:0".parse().unwrap()),
        ("different families", &|n| n.vtep = "[2001:db8::1]:4789".parse().unwrap()),
        ("identity", &|n| n.identity.clear()),
        ("identity", &|n| n.identity = "x".repeat(257)),
        ("addresses", &|n| n.addresses = vec![vtep(9).ip(); 65]),
        ("capabilities", &|n| n.capabilities = vec![String::new(); 65]),
        ("exceptions", &|n| n.exceptions = vec![exception("10.9.9.9/32", 1); 20_000]),
        ("name", &|n| n.name = "a/b".to_owned()),
    ];
    for (why, change) in bad {
        let mut wrong = node(1);
        change(&mut wrong);
        let mut membership = membership();
        let objects = vec![(key(0), Ok(node(0))), (key(1), Ok(wrong)), (key(2), Ok(node(2)))];
        membership.apply(Update::Listed(objects), at(0));
        let view = membership.view();
        assert_eq!(names(&view), ["node-2"], "{why}");
        assert_eq!(view.alarms.len(), 1, "{why}");
        assert!(is_alarmed(&view, &key(1), "is refused"), "{:?}", view.alarms);
    }
}

#[test]
fn what_cannot_be_a_nodes_address_is_left_out_with_a_word() {
    let mut odd = node(1);
    odd.addresses = ["198.18.0.1", "127.0.0.1", "10.244.7.7", "192.0.2.7"]
        .map(|text| text.parse().unwrap())
        .to_vec();
    odd.exceptions = vec![exception("0.0.0.0/0", 1), exception("10.244.1.9/31", 1)];
    let mut membership = membership();
    membership.apply(listed(&[node(0), odd]), at(0));
    let view = membership.view();
    assert_eq!(view.alarms.len(), 4, "{:?}", view.alarms);
    assert_eq!(route_of(&view, "192.0.2.7/32"), Some(vtep(1)));
    assert_eq!(view.routes.len(), 3);
}

#[test]
fn of_two_that_claim_the_same_the_first_stays_until_it_goes() {
    let conflicts: [(&str, Change<Node>); 5] = [
        ("VTEP address", &|n| n.vtep.set_ip(vtep(1).ip())),
        ("identity", &|n| n.identity = node(1).identity),
        ("podCIDR", &|n| n.pod_cidrs = node(1).pod_cidrs),
        ("overlaps", &|n| n.pod_cidrs = vec![net("10.244.0.0/20")]),
        ("name", &|n| n.name = node(1).name),
    ];
    for (why, change) in conflicts {
        let mut second = node(9);
        change(&mut second);
        let mut membership = membership();
        let (first, second) = ((key(1), Ok(node(1))), (key(9), Ok(second)));
        // Whatever the order of names: the order of the list counts, and then that of events.
        membership.apply(Update::Listed(vec![first.clone(), second.clone()]), at(0));
        let view = membership.view();
        assert_eq!(names(&view), ["node-1"], "{why}");
        assert!(is_alarmed(&view, &key(9), why), "{why}: {:?}", view.alarms);
        membership.apply(Update::Listed(vec![second, first]), at(1));
        assert_eq!(**membership.view().others.get("node-1").unwrap(), node(1), "{why}");
        delete(&mut membership, 1, 2);
        let view = membership.view();
        assert_eq!((view.others.len(), view.alarms.len()), (1, 0), "{why}");
        assert_ne!(view.others.values().next().map(|one| &**one), Some(&node(1)), "{why}");
    }
}

#[test]
fn of_an_exception_that_is_named_twice_the_last_counts() {
    let mut membership = membership();
    let with = |generations: [u64; 2]| Node {
        exceptions: generations.map(|one| exception("10.77.0.1/32", one)).to_vec(),
        ..node(1)
    };
    put(&mut membership, with([1, 2]));
    assert_eq!(route_of(&membership.view(), "10.77.0.1/32"), Some(vtep(1)));
    put(&mut membership, with([2, 1]));
    assert_eq!(route_of(&membership.view(), "10.77.0.1/32"), None, "there was a higher one");
}

#[test]
fn this_nodes_address_is_its_own_again_when_it_becomes_a_member() {
    let mut membership = membership();
    // Its record is of before it moved to where it is, and another one has its share meanwhile.
    let own = vtep(0).ip();
    put(&mut membership, Node { pod_cidrs: node(0).pod_cidrs, ..node(1) });
    put(&mut membership, Node { addresses: vec![own], ..node(2) });
    put(&mut membership, Node { vtep: vtep(5), addresses: Vec::new(), ..node(0) });
    let net = format!("{own}/32");
    assert_eq!(route_of(&membership.view(), &net), Some(vtep(2)));
    delete(&mut membership, 1, 1);
    let view = membership.view();
    assert!(view.own.is_some());
    assert_eq!(route_of(&view, &net), None);
    assert!(is_alarmed(&view, &key(2), &own.to_string()), "{:?}", view.alarms);
}

#[test]
fn two_that_swap_their_addresses_end_up_swapped() {
    let mut membership = membership();
    membership.apply(listed(&[node(1), node(2)]), at(0));
    put(&mut membership, Node { vtep: vtep(2), ..node(1) });
    assert_eq!(names(&membership.view()), ["node-2"]);
    put(&mut membership, Node { vtep: vtep(1), ..node(2) });
    let view = membership.view();
    assert_eq!(
        (view.others.get("node-1").unwrap().vtep, view.others.get("node-2").unwrap().vtep),
        (vtep(2), vtep(1))
    );
    assert!(view.alarms.iter().all(|alarm| !alarm.message.contains("refused")));
}

#[test]
fn this_node_refuses_as_the_second_and_stays_as_the_first() {
    for change in [
        (|n: &mut Node| n.vtep = vtep(0)) as fn(&mut Node),
        |n| n.pod_cidrs = node(0).pod_cidrs,
        |n| n.identity = node(0).identity,
    ] {
        let mut other = node(1);
        change(&mut other);
        let mut first = membership();
        first.apply(listed(&[node(0)]), at(0));
        put(&mut first, other.clone());
        let view = first.view();
        assert_eq!((view.own, view.others.len()), (Some(node(0)), 0));
        assert!(view.alarms.iter().any(|alarm| alarm.subject == key(1)));
        let mut second = membership();
        second.apply(listed(&[other, node(0)]), at(0));
        let view = second.view();
        assert_eq!((view.own.clone(), names(&view)), (None, vec!["node-1"]));
        assert!(is_alarmed(&view, "node-0", "this node (nodes/node-0) is refused"));
    }
    let mut early = membership();
    early.apply(listed(&[Node { vtep: vtep(0), ..node(1) }]), at(0));
    assert!(is_alarmed(&early.view(), "node-0", "VTEP address 198.18.0.0 is held by"));
    early.apply(Update::Refused(Some("its name is taken".to_owned())), at(1));
    assert!(is_alarmed(&early.view(), "node-0", "its name is taken"));
    early.apply(Update::Refused(None), at(1));
    assert!(!is_alarmed(&early.view(), "node-0", "its name is taken"));
}

#[test]
fn this_nodes_own_record_is_not_given_up_because_it_is_missing() {
    let mut membership = membership();
    membership.apply(listed(&[node(0), node(1)]), at(0));
    delete(&mut membership, 0, 1);
    let view = membership.view();
    assert_eq!(view.own, Some(node(0)));
    assert!(is_alarmed(&view, "node-0", "is missing in the store"));
    membership.apply(listed(&[node(1)]), at(2));
    assert_eq!(membership.view().own, Some(node(0)));
    put(&mut membership, node(0));
    assert!(membership.view().alarms.is_empty());
}

#[test]
fn an_address_is_the_first_claimants_but_a_vtep_comes_before_all() {
    let shared = "192.0.2.99".parse().unwrap();
    let with = |number: u32, address| {
        let mut node = node(number);
        node.addresses.push(address);
        node
    };
    let mut membership = membership();
    membership.apply(listed(&[with(2, shared), with(1, shared)]), at(0));
    let view = membership.view();
    assert_eq!(route_of(&view, "192.0.2.99/32"), Some(vtep(2)));
    assert!(is_alarmed(&view, &key(1), "the address 192.0.2.99 is node \"node-2\"'s"));
    put(&mut membership, node(2));
    assert_eq!(route_of(&membership.view(), "192.0.2.99/32"), Some(vtep(1)));
    // Somebody else's VTEP, and this node's.
    put(&mut membership, with(1, vtep(2).ip()));
    assert_eq!(route_of(&membership.view(), "198.18.0.2/32"), Some(vtep(2)));
    put(&mut membership, node(0));
    put(&mut membership, with(1, vtep(0).ip()));
    assert_eq!(route_of(&membership.view(), "198.18.0.0/32"), None);
    assert!(is_alarmed(&membership.view(), &key(1), "the address 198.18.0.0 is"));
}

#[test]
fn exceptions_follow_their_generation_and_nothing_late_undoes_them() {
    let with = |number, exceptions: &[(&str, u64)]| Node {
        exceptions: exceptions.iter().map(|(net, g)| exception(net, *g)).collect(),
        ..node(number)
    };
    let pod = "10.244.1.7/32";
    let mut membership = membership();
    membership.apply(listed(&[node(0), with(1, &[(pod, 3)]), node(2)]), at(0));
    assert_eq!(route_of(&membership.view(), pod), Some(vtep(1)));
    // It moves to node 2, and node 1 is slow to notice.
    put(&mut membership, with(2, &[(pod, 4)]));
    assert_eq!(route_of(&membership.view(), pod), Some(vtep(2)));
    put(&mut membership, with(1, &[]));
    assert_eq!(route_of(&membership.view(), pod), Some(vtep(2)));
    // It ends there; what node 1 says late is of before.
    put(&mut membership, with(2, &[]));
    put(&mut membership, with(1, &[(pod, 3)]));
    assert_eq!(route_of(&membership.view(), pod), None);
    // The next one anywhere is newer than all of them, by this node's reckoning too.
    let next = membership.exceptions_for(&[net(pod)]);
    assert_eq!(next, [exception(pod, 5)]);
    put(&mut membership, with(0, &[(pod, 5)]));
    let mine = own(0);
    membership.set_own(Own { exceptions: next.clone(), ..mine });
    put(&mut membership, with(2, &[(pod, 6)]));
    assert_eq!(route_of(&membership.view(), pod), Some(vtep(2)));
    // What this node has published already is not published anew: that would take it back.
    assert_eq!(membership.exceptions_for(&[net(pod)]), next);
    // A restart does not forget.
    let memory = membership.memory().unwrap();
    let mut again = crate::membership();
    again.restore(memory, at(9));
    assert_eq!(route_of(&again.view(), pod), Some(vtep(2)));
    assert_eq!(again.exceptions_for(&[net("10.244.1.8/32")]), [exception("10.244.1.8/32", 1)]);
    // Two by one generation: the first.
    put(&mut membership, with(1, &[(pod, 6)]));
    let view = membership.view();
    assert_eq!(route_of(&view, pod), Some(vtep(2)));
    assert!(is_alarmed(&view, &key(1), "by the same generation"));
}

#[test]
fn an_exception_takes_nobodys_share_or_address() {
    let mut greedy = node(1);
    greedy.exceptions = ["10.244.2.0/24", "198.18.0.2/32", "198.18.0.0/24", "10.99.0.0/16"]
        .map(|net| exception(net, 9))
        .to_vec();
    let mut membership = membership();
    membership.apply(listed(&[node(0), greedy, node(2)]), at(0));
    let view = membership.view();
    assert_eq!(route_of(&view, "10.244.2.0/24"), Some(vtep(2)));
    assert_eq!(route_of(&view, "198.18.0.2/32"), Some(vtep(2)));
    assert_eq!(route_of(&view, "198.18.0.0/24"), None);
    assert_eq!(route_of(&view, "10.99.0.0/16"), Some(vtep(1)));
    assert_eq!(view.alarms.len(), 3, "{:?}", view.alarms);
}

#[test]
fn a_list_that_deletes_too_many_is_held_back_until_confirmed() {
    let all: Vec<Node> = (0..=10).map(node).collect();
    let confirm = CONFIRM_AFTER.as_secs();
    for (name, rest) in [("an empty one", 0), ("one without most", 5)] {
        let mut membership = membership();
        membership.apply(listed(&all), at(0));
        membership.apply(listed(&all[..rest]), at(10));
        let view = membership.view();
        assert_eq!((view.others.len(), view.own.is_some()), (10, true), "{name}");
        assert!(is_alarmed(&view, "deletions", "nodes are missing"), "{name}");
        assert_eq!(membership.confirmable_at(), Some(at(10 + confirm).elapsed));
        membership.apply(listed(&all[..rest]), at(9 + confirm));
        assert_eq!(membership.view().others.len(), 10, "{name}: too early");
        // One comes back and is another case from then on.
        membership.apply(Update::Put(key(9), Ok(node(9))), at(10 + confirm));
        membership.apply(listed(&all[..rest]), at(10 + confirm));
        let view = membership.view();
        assert!(
            !view.others.contains_key("node-8") && view.others.contains_key("node-9"),
            "{name}"
        );
    }
    let mut membership = membership();
    membership.apply(listed(&all), at(0));
    // Few, or not most of them, go at once.
    membership.apply(listed(&all[..7]), at(1));
    assert_eq!(membership.view().others.len(), 6);
    membership.apply(listed(&all[..1]), at(100));
    assert_eq!(membership.view().others.len(), 6);
    assert_eq!(membership.apply_held(at(101)), 6);
    let view = membership.view();
    assert!(view.others.is_empty() && view.alarms.is_empty());
}

#[test]
fn what_is_held_back_gives_way_to_whom_the_store_has_in_its_place() {
    let all: Vec<Node> = (0..=10).map(node).collect();
    let with_share_of =
        |number: u32, old: u32| Node { pod_cidrs: node(old).pod_cidrs, ..node(number) };
    let mut membership = membership();
    membership.apply(listed(&all), at(0));
    membership.apply(listed(&[node(0), with_share_of(20, 3)]), at(10));
    let view = membership.view();
    assert_eq!(route_of(&view, "10.244.3.0/24"), Some(vtep(20)));
    assert!(!view.others.contains_key("node-3") && view.others.len() == 10);
    assert!(is_alarmed(&view, "deletions", "9 nodes"), "{:?}", view.alarms);
    // One that has the places of two.
    put(&mut membership, Node { vtep: vtep(4), ..with_share_of(21, 5) });
    let view = membership.view();
    assert_eq!(route_of(&view, "10.244.5.0/24"), Some(vtep(4)));
    assert!(is_alarmed(&view, "deletions", "7 nodes"), "{:?}", view.alarms);
    // Who is still there, or is this node, gives way to nobody.
    put(&mut membership, with_share_of(22, 0));
    put(&mut membership, with_share_of(23, 3));
    let view = membership.view();
    assert_eq!(route_of(&view, "10.244.3.0/24"), Some(vtep(20)));
    assert!(view.own.is_some() && view.others.len() == 9);
    // One that came, and was refused, before the deletion was heard of.
    let mut membership = crate::membership();
    membership.apply(listed(&all), at(0));
    put(&mut membership, with_share_of(20, 10));
    assert!(!membership.view().others.contains_key("node-20"));
    (1..=10).for_each(|number| delete(&mut membership, number, 1));
    let view = membership.view();
    assert_eq!(route_of(&view, "10.244.10.0/24"), Some(vtep(20)));
    assert!(!view.others.contains_key("node-10"));
}

#[test]
fn a_node_that_gave_back_what_it_held_has_nothing() {
    let mut membership = membership();
    membership.apply(listed(&[node(0), node(1)]), at(0));
    delete(&mut membership, 0, 1);
    membership.apply(Update::GivenBack, at(1));
    let view = membership.view();
    assert_eq!((&view.own, names(&view).len(), view.alarms.len()), (&None, 1, 0));
    assert_eq!(membership.memory().unwrap().nodes, [(key(1), Arc::new(node(1)))]);
}

#[test]
fn single_deletions_that_come_too_fast_are_held_back_too() {
    let mut membership = membership();
    membership.apply(listed(&(0..=10).map(node).collect::<Vec<_>>()), at(0));
    (1..=10).for_each(|number| delete(&mut membership, number, 1));
    let view = membership.view();
    assert_eq!(view.others.len(), 5);
    assert!(is_alarmed(&view, "deletions", "5 nodes"));
    put(&mut membership, node(10));
    assert!(is_alarmed(&membership.view(), "deletions", "4 nodes"));
    // Slowly they may all go.
    let mut membership = crate::membership();
    membership.apply(listed(&(0..=10).map(node).collect::<Vec<_>>()), at(0));
    (1..=10).for_each(|number| delete(&mut membership, number, u64::from(number) * 60));
    assert!(membership.view().others.is_empty());
}

#[test]
fn what_an_operator_writes_into_the_file_is_not_doubted() {
    let mut membership = Membership::new(&config(Store::Static(Vec::new())), own(0));
    membership.apply(listed(&(0..=10).map(node).collect::<Vec<_>>()), at(0));
    membership.apply(listed(&[node(0)]), at(1));
    let view = membership.view();
    assert!(view.others.is_empty() && view.alarms.is_empty());
}

#[test]
fn what_is_restored_is_compared_with_what_the_store_says() {
    let mut before = membership();
    before.apply(Update::Cluster("c".to_owned()), at(0));
    before.apply(listed(&(0..=10).map(node).collect::<Vec<_>>()), at(0));
    let memory = before.memory().unwrap();
    let mut after = membership();
    after.restore(memory.clone(), at(0));
    assert!(after.memory().is_none(), "what the store has not said is not written again");
    let view = after.view();
    assert_eq!((view.others.len(), &view.own), (10, &Some(node(0))));
    assert!(!view.store.connected && after.cluster() == Some("c"));
    assert_eq!(after.own_shares(), node(0).pod_cidrs);
    after.apply(Update::Listed(Vec::new()), at(1));
    assert_eq!(after.view().others.len(), 10);
    after.apply(listed(&(0..=9).map(node).collect::<Vec<_>>()), at(2));
    assert_eq!(after.view().others.len(), 10, "held back, and now confirmed to be missing");
    assert!(is_alarmed(&after.view(), "deletions", "1 nodes"));
}
