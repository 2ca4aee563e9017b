//! Many devices at once, what new ones are spared, and what tells of changes.

use std::path::PathBuf;

use tapestry::device::make;
use tapestry::device::many;
use tapestry::device::netlink::{Changes, LinkChange};
use tapestry::device::netns::{self, path_of};
use tapestry::device::spec::TapSpec;
use tapestry::device::watch::Mounts;

use crate::support::{Named, permitted, spec};

#[test]
fn many_are_made_in_their_namespaces_and_in_order() {
    if !permitted() {
        return;
    }
    let homes = [Named::new(), Named::new()];
    let specs: Vec<TapSpec> = (0..40)
        .map(|number| TapSpec {
            ifname: format!("tap{number}"),
            mac: encap::MacAddr([2, 0, 0, 0, 2, number]),
            ..spec(&homes[usize::from(number % 2)])
        })
        .collect();
    let place = |spec: &TapSpec| -> Option<PathBuf> { spec.netns.as_ref().map(|n| n.path()) };
    let made = many::for_each(&specs, place, make::make);
    for ((spec, made), number) in specs.iter().zip(made).zip(0..) {
        let facts = made.unwrap().facts;
        assert_eq!((facts.ifname.as_str(), facts.mac), (spec.ifname.as_str(), spec.mac));
        assert_eq!(facts.netns, homes[number % 2].netns.identity());
    }
    for home in &homes {
        assert_eq!(home.ip(&["link", "show", "type", "tun"]).as_array().unwrap().len(), 20);
    }
}

#[test]
fn what_is_nested_in_a_namespace_stays_on_its_thread() {
    if !permitted() {
        return;
    }
    let [one, other] = [Named::new(), Named::new()];
    let thread = || std::thread::current().id();
    let here = || netns::Netns::current().unwrap().identity();
    let outer = one.netns.run(|| {
        let same = one.netns.run(|| (thread(), here())).unwrap();
        assert_eq!(same, (thread(), one.netns.identity()));
        let elsewhere = other.netns.run(|| (thread(), here())).unwrap();
        assert!(elsewhere.0 != thread() && elsewhere.1 == other.netns.identity());
        assert_eq!(here(), one.netns.identity());
    });
    outer.unwrap();
    assert_ne!(here(), one.netns.identity());
}

#[test]
fn a_new_device_has_no_queueing_discipline_and_one_that_is_given_stays() {
    if !permitted() {
        return;
    }
    let named = Named::new();
    let spec = spec(&named);
    let made = make::make(&spec).unwrap();
    let link = || named.ip(&["link", "show", "eth0"])[0]["qdisc"].clone();
    assert_eq!(link(), "noqueue");
    let shape = "qdisc replace dev eth0 root tbf rate 1mbit burst 10k latency 50ms";
    let tc = std::process::Command::new("tc")
        .args(["-netns", &named.name])
        .args(shape.split(' '))
        .status();
    // Without tc, or a kernel without that discipline, there is nothing to keep.
    if tc.is_ok_and(|status| status.success()) {
        let index = made.facts.ifindex;
        make::configure(&TapSpec { mtu: 1400, ..spec.clone() }, index, &(&spec).into()).unwrap();
        assert_eq!(link(), "tbf");
    }
}

#[test]
fn mounts_and_links_tell_when_they_change() {
    if !permitted() {
        return;
    }
    let named = Named::new();
    let mounts = Mounts::open().unwrap();
    let links = named.netns.run(|| Changes::open().unwrap()).unwrap();
    assert!(!links.any());
    let other = Named::new();
    assert!(mounts.changed());
    assert!(path_of(&other.name).exists());
    drop(other);
    assert!(mounts.changed());

    named.netlink(|netlink| netlink.add_bridge("br0")).unwrap();
    assert!(links.any() && !links.any());
    let index = named.netlink(|netlink| netlink.link_by_name("br0")).unwrap().index;
    let mtu = LinkChange { mtu: Some(1400), ..LinkChange::default() };
    named.netlink(|netlink| netlink.set_link(index, &mtu)).unwrap();
    assert!(links.any() && !links.any());
    let address = "192.0.2.7/24".parse().unwrap();
    named.netlink(|netlink| netlink.add_address(index, address)).unwrap();
    assert!(links.any() && !links.any());
}
