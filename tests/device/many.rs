//! Many devices at once, what new ones are spared, and what tells of changes.

use std::path::PathBuf;

use tapestry::device::make;
use tapestry::device::many;
use tapestry::device::netlink::{Changes, LinkChange};
use tapestry::device::netns::{self, path_of};
use tapestry::device::spec::TapSpec;
use tapestry::device::steering::Steering;
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

/// Which of a device's two queues gives each of these flows next. Everything else is passed over.
fn queues_of(made: &make::Made, ports: &[u16]) -> std::collections::BTreeMap<u16, usize> {
    let mut found = std::collections::BTreeMap::new();
    let mut buffer = [0; 2048];
    for (number, queue) in made.queues.iter().enumerate() {
        while let Ok(length) = nix::unistd::read(queue, &mut buffer) {
            // vnet header, Ethernet, IPv4 with UDP: the source port.
            let unit = &buffer[..length];
            if unit[24..26] == [0x08, 0x00] && unit[35] == 17 {
                let port = u16::from_be_bytes([unit[46], unit[47]]);
                if ports.contains(&port) {
                    assert_eq!(found.insert(port, number), None, "port {port} twice");
                }
            }
        }
    }
    found
}

#[test]
fn a_flow_stays_on_its_queue_wherever_its_answers_are_written() {
    if !permitted() {
        return;
    }
    let named = Named::new();
    let spec =
        TapSpec { queues: 2, addresses: vec!["10.9.0.1/24".parse().unwrap()], ..spec(&named) };
    let made = make::make(&spec).unwrap();
    if made.facts.steering != Some(Steering::FlowHash) {
        println!("skipped: the kernel does not let this user load a program");
        return;
    }
    let far = [2, 0, 0, 0, 9, 9];
    named.ip_do(&["neigh", "replace", "10.9.0.77", "lladdr", "02:00:00:00:09:09", "dev", "eth0"]);
    let sockets: Vec<std::net::UdpSocket> = (0..32)
        .map(|_| named.netns.run(|| std::net::UdpSocket::bind("10.9.0.1:0")).unwrap().unwrap())
        .collect();
    let ports: Vec<u16> = sockets.iter().map(|s| s.local_addr().unwrap().port()).collect();
    let speak = || {
        for socket in &sockets {
            socket.send_to(b"question", "10.9.0.77:7").unwrap();
        }
        queues_of(&made, &ports)
    };
    let first = speak();
    assert_eq!(first.len(), 32);
    let on_one = first.values().filter(|queue| **queue == 1).count();
    assert!((4..=28).contains(&on_one), "{on_one} of 32 flows on queue 1");
    for (port, queue) in &first {
        let mut answer = Vec::new();
        let builder = etherparse::PacketBuilder::ethernet2(far, spec.mac.0)
            .ipv4([10, 9, 0, 77], [10, 9, 0, 1], 64)
            .udp(7, *port);
        builder.write(&mut answer, b"answer").unwrap();
        let unit = [&[0; 12][..], &answer].concat();
        nix::unistd::write(&made.queues[1 - queue], &unit).unwrap();
    }
    let mut buffer = [0; 16];
    sockets.iter().for_each(|socket| assert_eq!(socket.recv(&mut buffer).unwrap(), 6));
    assert_eq!(speak(), first);
}
