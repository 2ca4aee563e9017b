//! TAP devices: made, adopted, removed; what `ip` and `ethtool` see of them.

use std::os::fd::AsFd as _;
use std::process::Command;

use serde_json::Value;
use tapestry::device::adopt::{self, Expectation, Mismatch};
use tapestry::device::error::Cause;
use tapestry::device::make::{self, Made, Removal};
use tapestry::device::netlink::LinkChange;
use tapestry::device::offload::{OffloadWish, TapOffloads};
use tapestry::device::spec::TapSpec;

use crate::support::{Named, expectation, installed, knows_other_uids, permitted, route, spec};

/// The names of all devices in a namespace but `lo`.
fn devices(named: &Named) -> Vec<String> {
    let links = named.ip(&["link", "show"]);
    let names = links.as_array().unwrap().iter().map(|link| link["ifname"].as_str().unwrap());
    names.filter(|name| *name != "lo").map(str::to_owned).collect()
}

/// All that a restart must not change, as `ip` tells it.
fn standing(named: &Named) -> Value {
    let mut addr = named.ip(&["addr", "show", "dev", "eth0"])[0].take();
    for volatile in ["flags", "operstate", "linkinfo", "num_tx_queues", "num_rx_queues"] {
        addr.as_object_mut().unwrap().remove(volatile);
    }
    let mut routes = [named.ip(&["route"]), named.ip(&["-6", "route"])];
    for route in routes.iter_mut().filter_map(Value::as_array_mut).flatten() {
        route.as_object_mut().unwrap().remove("flags");
    }
    serde_json::json!([addr, routes])
}

fn full(named: &Named) -> TapSpec {
    TapSpec {
        mtu: 1430,
        queues: 3,
        txqueuelen: Some(1234),
        addresses: vec!["10.9.0.1/24".parse().unwrap(), "fd00:9::1/64".parse().unwrap()],
        routes: vec![
            route("0.0.0.0/0", Some("10.9.0.254")),
            route("::/0", Some("fd00:9::fe")),
            route("10.10.0.0/16", None),
            // The next hop is reached by the route after it.
            route("10.11.0.0/16", Some("169.254.1.1")),
            route("169.254.1.1/32", None),
        ],
        ..spec(named)
    }
}

#[test]
fn a_device_is_made_as_specified() {
    if !permitted() {
        return;
    }
    let named = Named::new();
    let spec = full(&named);
    let made = make::make(&spec).unwrap();
    assert_eq!(made.queues.len(), 3);
    assert_eq!((made.facts.mac, made.facts.mtu), (spec.mac, 1430));
    assert_eq!(made.facts.netns, named.netns.identity());

    let seen = &named.ip(&["addr", "show", "dev", "eth0"])[0];
    assert_eq!(seen["ifindex"], made.facts.ifindex);
    assert_eq!(seen["address"], "02:00:00:00:0a:01");
    assert_eq!((&seen["mtu"], &seen["txqlen"]), (&1430.into(), &1234.into()));
    let flags = seen["flags"].as_array().unwrap();
    assert!(flags.contains(&"UP".into()) && flags.contains(&"LOWER_UP".into()), "{flags:?}");
    let addresses = seen["addr_info"].as_array().unwrap();
    let mut locals: Vec<_> =
        addresses.iter().map(|one| format!("{}/{}", one["local"], one["prefixlen"])).collect();
    locals.sort();
    assert_eq!(locals, ["\"10.9.0.1\"/24", "\"fd00:9::1\"/64", "\"fe80::ff:fe00:a01\"/64"]);
    for address in addresses.iter().filter(|one| one["family"] == "inet6") {
        assert_eq!(address["nodad"], true, "{address}");
        assert!(address.get("tentative").is_none(), "{address}");
        assert!(address.get("dadfailed").is_none(), "{address}");
    }

    let link = &named.ip(&["link", "show", "dev", "eth0"])[0];
    assert_eq!(link["inet6_addr_gen_mode"], "none");
    // 45 segments of 1,378 bytes fit one send; the rest is what TCP keeps free.
    assert_eq!(link["gso_max_size"], 45 * 1378 + 321);
    let tun = &link["linkinfo"]["info_data"];
    assert_eq!(tun["type"], "tap");
    for (key, value) in
        [("pi", false), ("vnet_hdr", true), ("multi_queue", true), ("persist", true)]
    {
        assert_eq!(tun[key], value, "{key} of {tun}");
    }
    assert_eq!(tun["numqueues"], 3);
    assert_eq!(tun["user"], if spec.owner == 0 { "root".into() } else { tun["user"].clone() });

    let routes = named.ip(&["route"]);
    let has = |dst: &str, via: Option<&str>| {
        routes.as_array().unwrap().iter().any(|route| {
            route["dst"] == dst && route["dev"] == "eth0" && route["gateway"].as_str() == via
        })
    };
    assert!(has("default", Some("10.9.0.254")), "{routes}");
    assert!(has("10.10.0.0/16", None) && has("169.254.1.1", None), "{routes}");
    assert!(has("10.11.0.0/16", Some("169.254.1.1")), "{routes}");
    let default6 = named.ip(&["-6", "route", "show", "default"]);
    assert_eq!(default6[0]["gateway"], "fd00:9::fe");
}

#[test]
fn frames_come_with_a_vnet_header_of_twelve_bytes() {
    if !permitted() {
        return;
    }
    let named = Named::new();
    let made = make::make(&TapSpec { queues: 1, ..full(&named) }).unwrap();
    named
        .netns
        .run(|| {
            let socket = std::net::UdpSocket::bind("10.9.0.1:0").unwrap();
            socket.send_to(b"x", "10.9.0.77:9").unwrap();
        })
        .unwrap();
    // The kernel asks for the neighbour, and may have multicast to send besides.
    let mut buffer = [0; 2048];
    loop {
        let length = nix::unistd::read(&made.queues[0], &mut buffer).unwrap();
        let unit = &buffer[..length];
        if unit[24..26] == [0x08, 0x06] {
            assert_eq!(unit[..12], [0; 12]);
            assert_eq!(unit[12..18], [0xff; 6]);
            assert_eq!(unit[18..24], full(&named).mac.0);
            assert_eq!(unit[50..54], [10, 9, 0, 77]);
            break;
        }
    }
}

#[test]
fn a_persistent_device_outlives_its_queues_and_is_adopted_unchanged() {
    if !permitted() {
        return;
    }
    let named = Named::new();
    let spec = full(&named);
    let made = make::make(&spec).unwrap();
    let before = standing(&named);
    let expect = expectation(&spec, &made);

    let busy = adopt::adopt(&spec, &expect).unwrap_err();
    assert_eq!(busy.mismatch(), Some(&Mismatch::Busy { queues: 3 }));

    let facts = made.facts.clone();
    drop(made.queues);
    assert_eq!(standing(&named), before);
    let again = adopt::adopt(&spec, &expect).unwrap();
    assert_eq!(again.facts, facts);
    assert_eq!(again.queues.len(), 3);
    assert_eq!(standing(&named), before);
    // Nothing is left to be done, and the queues work.
    let spec_standing = (&spec).into();
    let changes = make::configure(&spec, facts.ifindex, &spec_standing).unwrap();
    assert_eq!(changes, Vec::<String>::new());
    let found = adopt::identify(again.queues[2].as_fd()).unwrap();
    assert_eq!((found.ifname.as_str(), found.mac), ("eth0", spec.mac));
    assert_eq!(found.netns, Some(named.netns.identity()));
}

#[test]
fn a_device_that_is_not_persistent_goes_with_its_queues() {
    if !permitted() {
        return;
    }
    let named = Named::new();
    let made = make::make(&TapSpec { persist: false, ..spec(&named) }).unwrap();
    assert_eq!(devices(&named), ["eth0"]);
    drop(made);
    assert_eq!(devices(&named), [""; 0]);
}

#[test]
fn adopting_never_makes_a_device() {
    if !permitted() {
        return;
    }
    let (named, elsewhere) = (Named::new(), Named::new());
    let spec = spec(&named);
    let made = make::make(&spec).unwrap();
    let expect = expectation(&spec, &made);
    drop(made);
    named.ip_do(&["link", "set", "eth0", "netns", &elsewhere.name]);
    let error = adopt::adopt(&spec, &expect).unwrap_err();
    assert_eq!(error.mismatch(), Some(&Mismatch::NoDevice));
    assert_eq!(devices(&named), [""; 0]);
    assert_eq!(devices(&elsewhere), ["eth0"]);
}

#[test]
fn a_device_renamed_in_between_is_found_by_its_index() {
    if !permitted() {
        return;
    }
    let named = Named::new();
    let spec = spec(&named);
    let made = make::make(&spec).unwrap();
    let expect = expectation(&spec, &made);
    drop(made);
    named.ip_do(&["link", "set", "eth0", "name", "other0"]);
    named.ip_do(&["link", "set", "other0", "address", "02:00:00:00:0a:99"]);
    let again = adopt::adopt(&spec, &expect).unwrap();
    assert_eq!(again.facts.ifname, "other0");
    assert_eq!(devices(&named), ["other0"]);
    let changes = make::configure(&spec, again.facts.ifindex, &(&spec).into()).unwrap();
    assert_eq!(changes, ["mac 02:00:00:00:0a:01"]);
    drop(again);
    assert_eq!(make::remove(spec.netns.as_ref(), "eth0", &expect).unwrap(), Removal::Removed);
    assert_eq!(devices(&named), [""; 0]);
}

#[test]
fn a_name_that_is_taken_is_left_alone() {
    if !permitted() {
        return;
    }
    let named = Named::new();
    let spec = spec(&named);
    named.netlink(|netlink| netlink.add_veth("eth0", "peer", None).unwrap());
    let error = make::make(&spec).unwrap_err();
    assert!(matches!(&error.cause, Cause::Taken { kind } if kind == "veth"), "{error}");
    assert!(error.to_string().contains("eth0") && error.to_string().contains(&named.name));
    let expect = Expectation { mac: spec.mac, owner: spec.owner, netns: None, ifindex: None };
    for error in [
        adopt::adopt(&spec, &expect).unwrap_err(),
        make::remove(spec.netns.as_ref(), "eth0", &expect).unwrap_err(),
    ] {
        assert_eq!(error.mismatch(), Some(&Mismatch::NotTap { kind: "veth".to_owned() }));
    }
    assert_eq!(devices(&named).len(), 2);
}

#[test]
fn taps_that_are_not_ours_are_refused_with_the_reason() {
    if !permitted() {
        return;
    }
    let named = Named::new();
    let spec = spec(&named);
    let owner = spec.owner.to_string();
    let expect = Expectation { mac: spec.mac, owner: spec.owner, netns: None, ifindex: None };
    let mac = spec.mac.to_string();
    let stranger = "02:00:00:00:00:66";
    let cases: [(&[&str], &str, Mismatch); 4] = [
        (&["user", &owner], &mac, Mismatch::SingleQueue),
        (&["multi_queue"], &mac, Mismatch::OtherOwner { expected: spec.owner, found: None }),
        (
            &["multi_queue", "user", "54321"],
            &mac,
            Mismatch::OtherOwner { expected: spec.owner, found: Some(54321) },
        ),
        (
            &["multi_queue", "user", &owner],
            stranger,
            Mismatch::OtherMac { expected: spec.mac, found: Some(stranger.parse().unwrap()) },
        ),
    ];
    for (options, mac, reason) in cases {
        if options.contains(&"54321") && !knows_other_uids() {
            continue;
        }
        let add = [&["tuntap", "add", "dev", "eth0", "mode", "tap"], options].concat();
        named.ip_do(&add);
        named.ip_do(&["link", "set", "eth0", "address", mac]);
        let before = named.ip(&["addr"]);
        let error = adopt::adopt(&spec, &expect).unwrap_err();
        assert_eq!(error.mismatch(), Some(&reason), "{options:?}: {error}");
        assert!(matches!(make::make(&spec).unwrap_err().cause, Cause::Taken { .. }));
        assert_eq!(named.ip(&["addr"]), before);
        named.ip_do(&["link", "del", "eth0"]);
    }
}

#[test]
fn a_namespace_that_is_gone_or_replaced_is_told() {
    if !permitted() {
        return;
    }
    let named = Named::new();
    let spec = spec(&named);
    let made = make::make(&spec).unwrap();
    let expect = expectation(&spec, &made);
    let first = named.netns.identity();
    let Named { name, .. } = &named;
    tapestry::device::netns::remove_named(name).unwrap();
    let error = adopt::adopt(&spec, &expect).unwrap_err();
    assert_eq!(error.mismatch(), Some(&Mismatch::NoNamespace));
    assert!(make::make(&spec).unwrap_err().is_netns_absent());
    assert_eq!(make::remove(spec.netns.as_ref(), "eth0", &expect).unwrap(), Removal::Absent);

    // The queues of the first device still pin its namespace, so the new one is another.
    let second = tapestry::device::netns::Netns::create_named(name).unwrap();
    let error = adopt::adopt(&spec, &expect).unwrap_err();
    let reason = Mismatch::OtherNamespace { expected: first, found: second.identity() };
    assert_eq!(error.mismatch(), Some(&reason));
    let made_again = make::make(&spec).unwrap();
    assert_eq!(make::remove(spec.netns.as_ref(), "eth0", &expect).unwrap(), Removal::Absent);
    assert_eq!(devices(&named), ["eth0"]);
    assert_eq!(made_again.facts.netns, second.identity());
}

#[test]
fn what_fails_leaves_nothing_behind() {
    if !permitted() {
        return;
    }
    let named = Named::new();
    let good = full(&named);
    let cases = [
        (
            "add a route",
            TapSpec { routes: vec![route("10.1.0.0/16", Some("192.0.2.99"))], ..good.clone() },
        ),
        ("add an address", TapSpec { mtu: 1000, routes: Vec::new(), ..good.clone() }),
        (
            "add an address",
            TapSpec {
                addresses: vec!["224.0.0.1/4".parse().unwrap(), "::/0".parse().unwrap()],
                ..good.clone()
            },
        ),
        ("set the MTU", TapSpec { mtu: 10_000_000, ..good.clone() }),
    ];
    for (step, bad) in cases {
        let error = make::make(&bad).unwrap_err();
        assert_eq!(error.step, step, "{error}");
        assert!(error.errno().is_some(), "{error}");
        let text = error.to_string();
        assert!(text.contains("eth0") && text.contains(&named.name), "{text}");
        assert_eq!(devices(&named), [""; 0], "after {text}");
    }
    make::make(&good).unwrap();
}

#[test]
fn twenty_ports_are_made_and_adopted() {
    if !permitted() {
        return;
    }
    let pods: Vec<Named> = (0..20).map(|_| Named::new()).collect();
    let made: Vec<(TapSpec, Expectation)> = (0..)
        .zip(&pods)
        .map(|(number, named)| {
            let mac = encap::MacAddr([2, 0, 0, 0, 1, number]);
            let spec = TapSpec { mac, queues: 2, ..full(named) };
            let made = make::make(&spec).unwrap();
            let expect = expectation(&spec, &made);
            (spec, expect)
        })
        .collect();
    let before: Vec<Value> = pods.iter().map(standing).collect();
    let held: Vec<Made> =
        made.iter().map(|(spec, expect)| adopt::adopt(spec, expect).unwrap()).collect();
    let after: Vec<Value> = pods.iter().map(standing).collect();
    assert_eq!(before, after);
    let macs: std::collections::HashSet<_> = held.iter().map(|made| made.facts.mac).collect();
    assert_eq!(macs.len(), 20);
    drop(held);
    for (named, (spec, expect)) in pods.iter().zip(&made) {
        let removed = make::remove(spec.netns.as_ref(), "eth0", expect).unwrap();
        assert_eq!(removed, Removal::Removed);
        let removed = make::remove(spec.netns.as_ref(), "eth0", expect).unwrap();
        assert_eq!(removed, Removal::Absent);
        assert_eq!(devices(named), [""; 0]);
    }
}

#[test]
fn a_device_in_the_own_namespace_needs_no_entering() {
    if !permitted() {
        return;
    }
    let named = Named::new();
    let spec = TapSpec { netns: None, ..spec(&named) };
    let made = named.netns.run(|| make::make(&spec)).unwrap().unwrap();
    assert_eq!(made.facts.netns, named.netns.identity());
    assert_eq!(devices(&named), ["eth0"]);
}

#[test]
fn offloads_follow_the_wish() {
    if !permitted() || !installed("ethtool") {
        return;
    }
    let named = Named::new();
    let all = TapOffloads { csum: true, tso: true, uso: true };
    for (wish, offloads, seen) in [
        (OffloadWish::Auto, all, "on"),
        (OffloadWish::Always, all, "on"),
        (OffloadWish::Never, TapOffloads::default(), "off"),
    ] {
        let spec = TapSpec { offload: wish, ..spec(&named) };
        let made = make::make(&spec).unwrap();
        assert_eq!(made.facts.offloads, offloads, "{wish:?}");
        let output = Command::new("ip")
            .args(["netns", "exec", &named.name, "ethtool", "-k", "eth0"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        for feature in ["tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-udp-segmentation"] {
            let line = format!("{feature}: {seen}");
            assert!(text.contains(&line), "{line} not in {text}");
        }
        let expect = expectation(&spec, &made);
        drop(made);
        // The wish may have changed while the device stood.
        let adopted =
            adopt::adopt(&TapSpec { offload: OffloadWish::Never, ..spec.clone() }, &expect);
        assert_eq!(adopted.unwrap().facts.offloads, TapOffloads::default());
        make::remove(spec.netns.as_ref(), "eth0", &expect).unwrap();
    }
}

/// What probing rests on: a device that is down judges a vnet header before it refuses the frame.
#[test]
fn a_device_that_is_down_tells_good_headers_from_bad() {
    if !permitted() {
        return;
    }
    let named = Named::new();
    let made = make::make(&spec(&named)).unwrap();
    named.ip_do(&["link", "set", "eth0", "down"]);
    let mut unit = vec![0; 12];
    unit.extend_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0]);
    unit.resize(12 + 114, 0);
    let write = |unit: &[u8]| nix::unistd::write(&made.queues[0], unit).unwrap_err();
    assert_eq!(write(&unit), nix::errno::Errno::EIO);
    unit[1] = 9;
    unit[4] = 10;
    assert_eq!(write(&unit), nix::errno::Errno::EINVAL);
}

#[test]
fn descriptors_that_were_passed_in_are_adopted() {
    if !permitted() {
        return;
    }
    let (named, elsewhere) = (Named::new(), Named::new());
    let spec = full(&named);
    let made = make::make(&spec).unwrap();
    let expect = expectation(&spec, &made);
    named.ip_do(&["link", "set", "eth0", "name", "moved0", "netns", &elsewhere.name]);
    let other = make::make(&spec).unwrap();
    let adopted = adopt::adopt_descriptors(made.queues, &expect, OffloadWish::Auto).unwrap();
    assert_eq!(adopted.facts.ifname, "moved0");
    assert_eq!(adopted.facts.netns, elsewhere.netns.identity());
    assert_eq!((adopted.facts.mac, adopted.facts.mtu), (spec.mac, 1430));

    let mut mixed = adopted.queues;
    mixed.extend(other.queues);
    let error = adopt::adopt_descriptors(mixed, &expect, OffloadWish::Auto).unwrap_err();
    assert_eq!(error.mismatch(), Some(&Mismatch::Changed));
}

#[test]
fn a_device_deleted_under_its_queues_is_no_longer_identified() {
    if !permitted() {
        return;
    }
    let named = Named::new();
    let made = make::make(&spec(&named)).unwrap();
    named.netlink(|netlink| {
        let change = LinkChange { up: Some(false), ..LinkChange::default() };
        netlink.set_link(made.facts.ifindex, &change).unwrap();
        netlink.delete_link(made.facts.ifindex).unwrap();
    });
    let error = adopt::identify(made.queues[0].as_fd()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EBADFD));
}
