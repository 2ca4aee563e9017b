//! Membership under anything that a store may report, against what must always be so.

use std::collections::{BTreeMap, HashMap, HashSet};

use ipnet::IpNet;
use proptest::prelude::*;
use tapestry::cluster::membership::Membership;
use tapestry::cluster::model::{Exception, Node, View};
use tapestry::cluster::rules;
use tapestry::cluster::store::{Object, Own, Update};
use tapestry::config::{Store, overlap};

use crate::{at, config, key, node, own, vtep};

/// Objects of few nodes whose claims collide often.
fn object() -> impl Strategy<Value = (String, Object)> {
    let claims = (0..6_u32, 0..6_u32, 0..6_u32, 0..6_u32, 0..8_u32);
    let exceptions = prop::collection::vec((0..4_u8, 1..5_u64), 0..3);
    (0..6_u32, claims, exceptions, prop::bool::weighted(0.1)).prop_map(
        |(at, (name, identity, vtep, share, cut), exceptions, bad)| {
            if bad {
                return (key(at), Err("nonsense".to_owned()));
            }
            let mut made = node(at);
            made.name = node(name).name;
            // A store has one key for this node.
            let is_own = (at, name) != (0, 0) && (name, identity) == (0, 0);
            made.identity = node(if is_own { 1 } else { identity }).identity;
            made.vtep = self::vtep(vtep);
            made.pod_cidrs = match cut {
                0 => vec!["10.244.0.0/22".parse().unwrap()],
                1 => vec!["10.9.0.0/24".parse().unwrap()],
                _ => node(share).pod_cidrs,
            };
            let nets: BTreeMap<u8, u64> = exceptions.into_iter().collect();
            made.exceptions = nets
                .into_iter()
                .map(|(last, generation)| Exception {
                    net: format!("10.77.0.{last}/32").parse().unwrap(),
                    generation,
                })
                .collect();
            (key(at), Ok(made))
        },
    )
}

fn update() -> impl Strategy<Value = Update> {
    prop_oneof![
        5 => object().prop_map(|(key, object)| Update::Put(key, object)),
        2 => (0..6_u32).prop_map(|number| Update::Deleted(key(number))),
        1 => prop::collection::hash_map(0..6_u32, object(), 0..6)
            .prop_map(|objects| objects.into_values().collect::<HashMap<_, _>>())
            .prop_map(|objects| Update::Listed(objects.into_iter().collect())),
    ]
}

/// What the store holds, each object as it was last understood.
#[derive(Default)]
struct Said {
    objects: HashMap<String, Node>,
    /// The highest generation that a member has been seen to claim.
    claimed: HashMap<IpNet, u64>,
    /// And the highest that anybody has: between two views others may have been members.
    highest: HashMap<IpNet, u64>,
}

impl Said {
    fn take_in(&mut self, update: &Update, own_key: Option<&str>) {
        let objects = match update {
            Update::Put(_, object) => std::slice::from_ref(object).iter().collect(),
            Update::Listed(objects) => objects.iter().map(|(_, object)| object).collect(),
            _ => Vec::new(),
        };
        for exception in objects.into_iter().flatten().flat_map(|node| &node.exceptions) {
            let highest = self.highest.entry(exception.net).or_default();
            *highest = exception.generation.max(*highest);
        }
        match update {
            Update::Put(key, Ok(node)) => drop(self.objects.insert(key.clone(), node.clone())),
            Update::Deleted(key) if own_key != Some(key) => drop(self.objects.remove(key)),
            Update::Listed(objects) => {
                let present: HashSet<&String> = objects.iter().map(|(key, _)| key).collect();
                self.objects.retain(|key, _| present.contains(key) || own_key == Some(key));
                for (key, object) in objects {
                    if let Ok(node) = object {
                        self.objects.insert(key.clone(), node.clone());
                    }
                }
            }
            _ => {}
        }
    }
}

fn collide(one: &Node, other: &Node) -> bool {
    let overlap = |a: &IpNet| other.pod_cidrs.iter().any(|b| overlap(a, b));
    one.name == other.name
        || one.identity == other.identity
        || one.vtep.ip() == other.vtep.ip()
        || one.pod_cidrs.iter().any(overlap)
}

fn is_own(node: &Node) -> bool {
    node.name == own(0).name && node.identity == own(0).identity
}

fn members(view: &View) -> impl Iterator<Item = &Node> {
    view.others.values().map(|node| &**node).chain(&view.own)
}

fn check(
    view: &View,
    said: &mut Said,
    before: &HashMap<String, Node>,
    networks: &[tapestry::config::Network],
) {
    let members: Vec<&Node> = members(view).collect();
    for (at, one) in members.iter().enumerate() {
        assert!(said.objects.values().any(|node| node == *one), "{one:?} was never said");
        assert_eq!(rules::check(one, networks), Ok(()));
        for other in &members[at + 1..] {
            assert!(!collide(one, other), "{one:?} and {other:?}");
        }
    }
    for (key, node) in &said.objects {
        let is_member = members.contains(&node);
        let sound = rules::check(node, networks).is_ok();
        let blocked = members.iter().any(|member| collide(member, node));
        assert!(is_member || !sound || blocked, "{node:?} is refused for nothing");
        let subject = if is_own(node) { &own(0).name } else { key };
        let told = view.alarms.iter().any(|alarm| alarm.subject == *subject);
        assert!(is_member || told, "{node:?} is refused without a word");
        // Who was a member and says the same still is one.
        if before.get(key) == Some(node) {
            assert!(is_member, "{node:?} has lost its place");
        }
    }
    for node in &members {
        for exception in &node.exceptions {
            let highest = said.claimed.entry(exception.net).or_default();
            *highest = exception.generation.max(*highest);
        }
    }
    for (net, vtep) in view.routes.iter() {
        let owner = view.others.values().find(|node| node.vtep == *vtep).expect("a member's VTEP");
        let is_exception =
            owner.exceptions.iter().any(|e| e.net == *net && e.generation >= said.claimed[net]);
        let is_claimed = owner.pod_cidrs.contains(net)
            || owner.addresses.iter().any(|address| IpNet::from(*address) == *net)
            || IpNet::from(owner.vtep.ip()) == *net;
        assert!(is_claimed || is_exception, "{net} is not {owner:?}'s, or no longer");
    }
    for (net, highest) in &said.highest {
        let holds = |node: &&Node| {
            node.exceptions.iter().any(|e| e.net == *net && e.generation == *highest)
        };
        let held_elsewhere = view.others.values().any(|node| holds(&&**node));
        let held_here = view.own.as_ref().is_some_and(|node| holds(&node));
        if held_elsewhere && !held_here {
            assert!(view.routes.contains_key(net), "{net} is routed nowhere");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_reported_the_view_is_sound(updates in prop::collection::vec(update(), 1..40)) {
        // Without the guard: what it holds back is tested by itself.
        let config = config(Store::Static(Vec::new()));
        let mut membership = Membership::new(&config, own(0));
        let mut said = Said::default();
        let mut before = HashMap::new();
        let mut own_key: Option<String> = None;
        for (step, update) in (0..).zip(updates) {
            said.take_in(&update, own_key.as_deref());
            membership.apply(update, at(step));
            let view = membership.view();
            check(&view, &mut said, &before, &config.networks);
            before = said
                .objects
                .iter()
                .filter(|(_, node)| members(&view).any(|member| member == *node))
                .map(|(key, node)| (key.clone(), node.clone()))
                .collect();
            own_key = said.objects.iter().find(|(_, node)| is_own(node)).map(|(key, _)| key.clone());
        }
        // What views have made of one another is what looking at everything makes.
        let view = membership.view();
        membership.set_own(Own { vtep: vtep(99), ..own(0) });
        membership.set_own(own(0));
        assert_eq!(membership.view(), view);
    }
}
