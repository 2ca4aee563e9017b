//! What a pod's device has beyond others: host addresses, an on-link gateway that no subnet covers,
//! preferred sources, permanent neighbours.

use std::net::IpAddr;

use encap::MacAddr;
use serde_json::Value;
use tapestry::device::adopt;
use tapestry::device::make::{self, Made};
use tapestry::device::netlink::Route;
use tapestry::device::spec::{Standing, TapSpec};

use crate::support::{Named, expectation, permitted, route, spec};

const GATEWAY: MacAddr = MacAddr([0x0e, 0x7a, 0x70, 0, 0, 1]);
const OTHER: MacAddr = MacAddr([0x0e, 0x7a, 0x70, 0, 0, 2]);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A pod as the CNI plugin makes it.
fn pod(named: &Named) -> TapSpec {
    TapSpec {
        addresses: vec!["10.244.1.2/32".parse().unwrap(), "fd00:244::2/128".parse().unwrap()],
        routes: vec![
            route("0.0.0.0/0", Some("169.254.1.1")),
            route("::/0", Some("fe80::1")),
            route("169.254.1.1/32", None),
        ],
        neighbours: vec![(ip("169.254.1.1"), GATEWAY), (ip("fe80::1"), GATEWAY)],
        ..spec(named)
    }
}

/// The node's own way into the cluster.
fn gateway(named: &Named) -> TapSpec {
    let by = |to: &str, via: &str, src: &str| {
        let onlink = to.contains('.');
        Route { src: Some(ip(src)), onlink, ..route(to, Some(via)) }
    };
    TapSpec {
        addresses: vec!["10.244.1.1/32".parse().unwrap(), "fd00:244::1/128".parse().unwrap()],
        routes: vec![
            by("10.244.0.0/16", "169.254.1.1", "10.244.1.1"),
            by("fd00:244::/48", "fe80::1", "fd00:244::1"),
        ],
        ..pod(named)
    }
}

/// The neighbours `ip` sees, as "address mac state", sorted.
fn neighbours(named: &Named) -> Vec<String> {
    let seen = named.ip(&["neigh", "show", "dev", "eth0", "nud", "permanent"]);
    let text = |one: &Value| {
        format!("{} {}", one["dst"].as_str().unwrap(), one["lladdr"].as_str().unwrap())
    };
    let mut texts: Vec<String> = seen.as_array().unwrap().iter().map(text).collect();
    texts.sort();
    texts
}

/// The one route to a destination, as `ip` tells it.
fn the_route(named: &Named, to: &str) -> Value {
    let family = if to.contains(':') { "-6" } else { "-4" };
    let mut found = named.ip(&[family, "route", "show", to]);
    assert_eq!(found.as_array().unwrap().len(), 1, "{found}");
    found[0].take()
}

/// Goes over to a specification; a second time must find nothing to do.
fn go(made: &Made, from: &TapSpec, to: &TapSpec) -> Vec<String> {
    let (index, previous) = (made.facts.ifindex, Standing::from(from));
    let changes = make::configure(to, index, &previous).unwrap();
    for previous in [previous, Standing::from(to)] {
        let again = make::configure(to, index, &previous).unwrap();
        assert_eq!(again, Vec::<String>::new());
    }
    changes
}

const BOTH: [&str; 2] = ["169.254.1.1 0e:7a:70:00:00:01", "fe80::1 0e:7a:70:00:00:01"];

#[test]
fn a_pod_has_its_gateway_as_a_permanent_neighbour_and_no_address_waits() {
    if !permitted() {
        return;
    }
    let named = Named::new();
    let spec = pod(&named);
    let made = make::make(&spec).unwrap();
    assert_eq!(neighbours(&named), BOTH);
    assert_eq!(the_route(&named, "default")["gateway"], "169.254.1.1");
    assert_eq!(the_route(&named, "169.254.1.1")["scope"], "link");
    assert_eq!(named.ip(&["-6", "route", "show", "default"])[0]["gateway"], "fe80::1");
    let addresses = named.ip(&["addr", "show", "dev", "eth0"]);
    for one in addresses[0]["addr_info"].as_array().unwrap() {
        assert!(one.get("tentative").is_none() && one.get("dadfailed").is_none(), "{one}");
    }
    assert_eq!(go(&made, &spec, &spec), [""; 0]);
    // And its next hop is taken from it, for both families.
    for to in ["198.51.100.7", "2001:db8::7"] {
        let way = &named.ip(&["route", "get", to])[0];
        assert_eq!(way["dev"], "eth0", "{way}");
    }
}

#[test]
fn a_gateway_route_has_its_source_and_needs_no_subnet() {
    if !permitted() {
        return;
    }
    let named = Named::new();
    let spec = gateway(&named);
    let made = make::make(&spec).unwrap();
    let four = the_route(&named, "10.244.0.0/16");
    assert_eq!((&four["gateway"], &four["prefsrc"]), (&"169.254.1.1".into(), &"10.244.1.1".into()));
    assert!(four["flags"].as_array().unwrap().contains(&"onlink".into()), "{four}");
    let six = the_route(&named, "fd00:244::/48");
    assert_eq!((&six["gateway"], &six["prefsrc"]), (&"fe80::1".into(), &"fd00:244::1".into()));
    assert_eq!(named.ip(&["route", "get", "10.244.7.9"])[0]["prefsrc"], "10.244.1.1");
    assert_eq!(named.ip(&["route", "get", "fd00:244:0:7::9"])[0]["prefsrc"], "fd00:244::1");
    assert_eq!(go(&made, &spec, &spec), [""; 0]);

    // Another address of its own: the kernel takes routes away with the source they name.
    let next = TapSpec {
        addresses: vec!["10.244.1.99/32".parse().unwrap(), "fd00:244::1/128".parse().unwrap()],
        routes: spec
            .routes
            .iter()
            .map(|route| match route.to.addr() {
                IpAddr::V4(_) => Route { src: Some(ip("10.244.1.99")), ..*route },
                IpAddr::V6(_) => *route,
            })
            .collect(),
        ..spec.clone()
    };
    let changes = go(&made, &spec, &next);
    let added = "+route 10.244.0.0/16 via 169.254.1.1 src 10.244.1.99 onlink".to_owned();
    assert!(changes.contains(&added), "{changes:?}");
    assert_eq!(the_route(&named, "10.244.0.0/16")["prefsrc"], "10.244.1.99");

    // A route that says more than it did, to the same place, replaces the one before.
    let plain = TapSpec { routes: vec![route("fd00:244::/48", Some("fe80::1"))], ..next.clone() };
    go(&made, &next, &plain);
    assert!(the_route(&named, "fd00:244::/48").get("prefsrc").is_none());
    let none = named.ip(&["route", "show", "10.244.0.0/16"]);
    assert_eq!(none.as_array().unwrap().len(), 0, "{none}");
    go(&made, &plain, &next);
    assert_eq!(the_route(&named, "fd00:244::/48")["prefsrc"], "fd00:244::1");
}

#[test]
fn neighbours_are_brought_to_the_specification_and_foreign_ones_stay() {
    if !permitted() {
        return;
    }
    let named = Named::new();
    let spec = pod(&named);
    let made = make::make(&spec).unwrap();
    named.ip_do(&[
        "neigh",
        "add",
        "10.244.1.77",
        "lladdr",
        "02:00:00:00:00:77",
        "nud",
        "permanent",
        "dev",
        "eth0",
    ]);
    let foreign = "10.244.1.77 02:00:00:00:00:77";

    let next = TapSpec { neighbours: vec![(ip("169.254.1.1"), OTHER)], ..spec.clone() };
    let changes = go(&made, &spec, &next);
    let expected =
        ["-neighbour fe80::1 0e:7a:70:00:00:01", "+neighbour 169.254.1.1 0e:7a:70:00:00:02"];
    assert_eq!(changes, expected);
    assert_eq!(neighbours(&named), [foreign, "169.254.1.1 0e:7a:70:00:00:02"]);

    // What somebody made of ours is not ours to remove.
    named.ip_do(&[
        "neigh",
        "replace",
        "169.254.1.1",
        "lladdr",
        "02:00:00:00:00:99",
        "nud",
        "permanent",
        "dev",
        "eth0",
    ]);
    let none = TapSpec { neighbours: Vec::new(), ..spec.clone() };
    assert_eq!(go(&made, &next, &none), [""; 0]);
    assert_eq!(neighbours(&named), [foreign, "169.254.1.1 02:00:00:00:00:99"]);

    // With the device down the kernel forgets them, and its routes.
    named.ip_do(&["link", "set", "eth0", "down"]);
    assert_eq!(neighbours(&named), [""; 0]);
    let changes = go(&made, &spec, &spec);
    assert!(changes.contains(&"up".to_owned()), "{changes:?}");
    assert_eq!(neighbours(&named), BOTH);
}

#[test]
fn adopting_again_finds_all_of_it_and_puts_back_what_is_missing() {
    if !permitted() {
        return;
    }
    let named = Named::new();
    let spec = pod(&named);
    let made = make::make(&spec).unwrap();
    let expect = expectation(&spec, &made);
    drop(made);
    named.ip_do(&["neigh", "del", "fe80::1", "dev", "eth0"]);
    let again = adopt::adopt(&spec, &expect).unwrap();
    let changes = go(&again, &spec, &spec);
    assert_eq!(changes, ["+neighbour fe80::1 0e:7a:70:00:00:01"]);
    assert_eq!(neighbours(&named), BOTH);
}
