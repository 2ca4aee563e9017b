//! Reconfiguring a standing device: only what differs is touched.

use tapestry::device::make::{self, Made};
use tapestry::device::netns::{Netns, identity_of, path_of};
use tapestry::device::spec::{Standing, TapSpec};
use tapestry::device::watch::{Fate, fate};

use crate::support::{Named, permitted, route, spec};

fn nets(texts: &[&str]) -> Vec<ipnet::IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// The addresses `ip` sees, sorted.
fn seen(named: &Named) -> Vec<String> {
    let addresses = named.ip(&["addr", "show", "dev", "eth0"]);
    let infos = addresses[0]["addr_info"].as_array().unwrap();
    let mut texts: Vec<String> = infos
        .iter()
        .map(|one| {
            assert!(one.get("tentative").is_none() && one.get("dadfailed").is_none(), "{one}");
            format!("{}/{}", one["local"].as_str().unwrap(), one["prefixlen"])
        })
        .collect();
    texts.sort();
    texts
}

struct Case {
    named: Named,
    spec: TapSpec,
    made: Made,
}

impl Case {
    fn new(addresses: &[&str]) -> Self {
        let named = Named::new();
        let spec = TapSpec { addresses: nets(addresses), ..spec(&named) };
        let made = make::make(&spec).unwrap();
        Self { named, spec, made }
    }

    /// Goes over to a new specification; a second time must find nothing to do.
    fn to(&mut self, spec: TapSpec) -> Vec<String> {
        let index = self.made.facts.ifindex;
        let previous = Standing::from(&self.spec);
        let changes = make::configure(&spec, index, &previous).unwrap();
        let again = make::configure(&spec, index, &previous).unwrap();
        assert_eq!(again, Vec::<String>::new());
        self.spec = spec;
        changes
    }
}

#[test]
fn the_superframe_limit_follows_the_mtu_unless_somebody_wants_a_smaller_one() {
    if !permitted() {
        return;
    }
    let mut case = Case::new(&[]);
    let limit =
        |case: &Case| case.named.ip(&["link", "show", "dev", "eth0"])[0]["gso_max_size"].clone();
    let first = limit(&case);
    for mtu in [1280, 9000] {
        case.to(TapSpec { mtu, ..case.spec.clone() });
        assert_ne!(limit(&case), first, "MTU {mtu}");
    }
    case.to(TapSpec { mtu: 1450, ..case.spec.clone() });
    assert_eq!(limit(&case), first);
    case.named.ip_do(&["link", "set", "dev", "eth0", "gso_max_size", "30000"]);
    for mtu in [1400, 1450] {
        case.to(TapSpec { mtu, ..case.spec.clone() });
        assert_eq!(limit(&case), 30_000, "MTU {mtu}");
    }
}

const LINK_LOCAL: &str = "fe80::ff:fe00:a01/64";

#[test]
fn only_the_difference_is_applied_and_foreign_things_stay() {
    if !permitted() {
        return;
    }
    let mut case = Case::new(&["10.9.0.1/24", "fd00:9::1/64"]);
    case.named.ip_do(&["addr", "add", "172.16.0.1/16", "dev", "eth0"]);
    case.named.ip_do(&["addr", "add", "fd00:ffff::1/64", "dev", "eth0", "nodad"]);
    case.named.ip_do(&["route", "add", "10.200.0.0/16", "dev", "eth0"]);
    let changes = case.to(TapSpec {
        mtu: 1400,
        txqueuelen: Some(2000),
        addresses: nets(&["10.9.0.1/24", "10.8.0.1/24"]),
        routes: vec![route("0.0.0.0/0", Some("10.8.0.254"))],
        ..case.spec.clone()
    });
    let expected = [
        "mtu 1450 -> 1400",
        "gso_max_size 61833 -> 62329",
        "txqueuelen 1000 -> 2000",
        "+address 10.8.0.1/24",
        "-address fd00:9::1/64",
        "+route 0.0.0.0/0 via 10.8.0.254",
    ];
    assert_eq!(changes, expected);
    let there = ["10.8.0.1/24", "10.9.0.1/24", "172.16.0.1/16", "fd00:ffff::1/64", LINK_LOCAL];
    assert_eq!(seen(&case.named), there);

    let changes = case
        .to(TapSpec { routes: vec![route("0.0.0.0/0", Some("10.9.0.254"))], ..case.spec.clone() });
    let expected = ["-route 0.0.0.0/0 via 10.8.0.254", "+route 0.0.0.0/0 via 10.9.0.254"];
    assert_eq!(changes, expected);
    let routes = case.named.ip(&["route"]);
    let routes = routes.as_array().unwrap();
    assert!(routes.iter().any(|route| route["dst"] == "10.200.0.0/16"), "{routes:?}");
    assert_eq!(routes.iter().filter(|route| route["dst"] == "default").count(), 1);

    // What a stranger removed is put back, what a stranger set down is set up.
    case.named.ip_do(&["addr", "del", "10.8.0.1/24", "dev", "eth0"]);
    case.named.ip_do(&["link", "set", "eth0", "down"]);
    let changes = case.to(case.spec.clone());
    assert!(changes.contains(&"up".to_owned()), "{changes:?}");
    assert!(changes.contains(&"+route 0.0.0.0/0 via 10.9.0.254".to_owned()), "{changes:?}");
    assert!(seen(&case.named).contains(&"10.8.0.1/24".to_owned()));
    assert!(seen(&case.named).contains(&LINK_LOCAL.to_owned()));
}

/// Without promote_secondaries the kernel removes a subnet's other addresses with its first.
#[test]
fn a_new_address_in_the_same_subnet_survives_the_old_one() {
    if !permitted() {
        return;
    }
    let mut case = Case::new(&["10.9.0.1/24"]);
    case.named.ip_do(&["addr", "add", "10.9.0.77/24", "dev", "eth0"]);
    case.to(TapSpec { addresses: nets(&["10.9.0.2/24"]), ..case.spec.clone() });
    assert_eq!(seen(&case.named), ["10.9.0.2/24", "10.9.0.77/24", LINK_LOCAL]);
}

#[test]
fn a_new_prefix_length_for_the_same_address() {
    if !permitted() {
        return;
    }
    let mut case = Case::new(&["10.9.0.1/24", "fd00:9::1/64"]);
    case.to(TapSpec { addresses: nets(&["10.9.0.1/16", "fd00:9::1/48"]), ..case.spec.clone() });
    assert_eq!(seen(&case.named), ["10.9.0.1/16", "fd00:9::1/48", LINK_LOCAL]);
}

#[test]
fn a_new_mac_brings_its_own_link_local_address() {
    if !permitted() {
        return;
    }
    let mut case = Case::new(&[]);
    let changes =
        case.to(TapSpec { mac: "02:00:00:00:0b:02".parse().unwrap(), ..case.spec.clone() });
    let expected =
        ["mac 02:00:00:00:0b:02", "+address fe80::ff:fe00:b02/64", "-address fe80::ff:fe00:a01/64"];
    assert_eq!(changes, expected);
    assert_eq!(seen(&case.named), ["fe80::ff:fe00:b02/64"]);
}

#[test]
fn a_namespace_without_ipv6_does_without_a_link_local_address() {
    if !permitted() {
        return;
    }
    let named = Named::new();
    let sysctl = "/proc/sys/net/ipv6/conf/default/disable_ipv6";
    named.netns.run(|| std::fs::write(sysctl, "1")).unwrap().unwrap();
    let plain = TapSpec { addresses: nets(&["10.9.0.1/24"]), ..spec(&named) };
    let _made = make::make(&plain).unwrap();
    assert_eq!(seen(&named), ["10.9.0.1/24"]);
    // But what was asked for is not silently missing.
    let asked =
        TapSpec { ifname: "eth1".to_owned(), addresses: nets(&["fd00:9::1/64"]), ..spec(&named) };
    assert_eq!(make::make(&asked).unwrap_err().step, "add an address");
}

#[test]
fn the_fate_of_a_namespace_is_told_by_its_path() {
    if !permitted() {
        return;
    }
    let case = Case::new(&[]);
    let path = path_of(&case.named.name);
    let held = Some(case.made.facts.netns);
    assert_eq!(fate(held, identity_of(&path).unwrap()), Fate::Unchanged);
    tapestry::device::netns::remove_named(&case.named.name).unwrap();
    // The queues still pin the old namespace.
    assert_eq!(fate(held, identity_of(&path).unwrap()), Fate::Vanished);
    let second = Netns::create_named(&case.named.name).unwrap().identity();
    assert_eq!(fate(held, identity_of(&path).unwrap()), Fate::Replaced(second));
    assert_eq!(fate(None, identity_of(&path).unwrap()), Fate::Returned(second));
}
