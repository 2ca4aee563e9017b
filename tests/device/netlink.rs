//! The netlink verbs, each checked by what `ip` sees.

use std::net::IpAddr;
use std::os::fd::AsFd as _;

use encap::MacAddr;
use tapestry::device::netlink::{LinkChange, VxlanSpec};
use tapestry::device::netns::{Netns, identity_of, path_of};

use crate::support::{Named, permitted, route};

fn net(text: &str) -> ipnet::IpNet {
    text.parse().unwrap()
}

#[test]
fn a_closure_runs_inside_and_the_caller_stays_outside() {
    if !permitted() {
        return;
    }
    let here = Netns::current().unwrap().identity();
    let named = Named::new();
    let inside = named.netns.run(|| Netns::current().unwrap().identity()).unwrap();
    assert_eq!(inside, named.netns.identity());
    assert_ne!(inside, here);
    assert_eq!(Netns::current().unwrap().identity(), here);
    assert_eq!(Netns::open(&named.name).unwrap().identity(), inside);
    assert!(Netns::create_named(&named.name).is_err());
    let path = path_of(&named.name);
    assert_eq!(identity_of(&path).unwrap(), Some(inside));
    drop(named);
    assert_eq!(identity_of(&path).unwrap(), None);
}

#[test]
fn veth_across_namespaces_with_addresses_and_routes() {
    if !permitted() {
        return;
    }
    let (near, far) = (Named::new(), Named::new());
    let mac: MacAddr = "02:00:00:00:0a:01".parse().unwrap();
    let routes = [
        route("0.0.0.0/0", Some("10.1.0.9")),
        route("10.77.0.0/16", None),
        route("::/0", Some("fd00:1::9")),
        route("fd00:77::/32", None),
    ];
    near.netlink(|netlink| {
        netlink.add_veth("near", "far", Some(far.netns.as_fd())).unwrap();
        let index = netlink.link_by_name("near").unwrap().index;
        let change = LinkChange {
            name: Some("near0"),
            mac: Some(mac),
            mtu: Some(1450),
            txqueuelen: Some(777),
            gso_max_segs: Some(44),
            gso_max_size: Some(40_000),
            addr_gen_none: Some(true),
            ..LinkChange::default()
        };
        netlink.set_link(index, &change).unwrap();
        netlink.set_link(index, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
        for address in ["10.1.0.1/24", "fd00:1::1/64"] {
            netlink.add_address(index, net(address)).unwrap();
            let again = netlink.add_address(index, net(address)).unwrap_err();
            assert!(again.is_present(), "{again}");
        }
        for route in routes {
            netlink.add_route(index, route).unwrap();
            assert!(netlink.add_route(index, route).unwrap_err().is_present());
        }
        let link = netlink.link_by_index(index).unwrap();
        assert_eq!(link.name, "near0");
        assert_eq!((link.mac, link.mtu, link.up), (Some(mac), 1450, true));
        assert_eq!((link.txqueuelen, link.gso_max_segs, link.gso_max_size), (777, 44, 40_000));
        assert!(link.addr_gen_none);
        assert_eq!(link.kind.as_deref(), Some("veth"));
        assert!(netlink.links().unwrap().contains(&link));
        let found = netlink.addresses(Some(index)).unwrap();
        let nets: Vec<_> = found.iter().map(|address| address.net).collect();
        assert_eq!(nets, [net("10.1.0.1/24"), net("fd00:1::1/64")]);
        assert!(found.iter().all(|address| !address.is_unusable()));
        let found = netlink.routes(Some(index)).unwrap();
        for route in routes {
            assert!(found.iter().any(|entry| entry.route == route), "{route} in {found:?}");
        }
    });

    let seen = &near.ip(&["addr", "show", "dev", "near0"])[0];
    assert_eq!(seen["address"], "02:00:00:00:0a:01");
    assert_eq!(seen["mtu"], 1450);
    assert_eq!(seen["txqlen"], 777);
    let link = &near.ip(&["link", "show", "dev", "near0"])[0];
    assert_eq!(link["inet6_addr_gen_mode"], "none");
    assert_eq!(seen["addr_info"][0]["broadcast"], "10.1.0.255");
    assert_eq!(seen["addr_info"][1]["local"], "fd00:1::1");
    assert_eq!(seen["addr_info"][1]["nodad"], true);
    assert_eq!(far.ip(&["link", "show", "dev", "far"])[0]["ifname"], "far");
    let seen = near.ip(&["route"]);
    let default = seen.as_array().unwrap().iter().find(|route| route["dst"] == "default");
    assert_eq!(default.unwrap()["gateway"], "10.1.0.9");

    near.netlink(|netlink| {
        let index = netlink.link_by_name("near0").unwrap().index;
        for route in routes {
            netlink.delete_route(index, route).unwrap();
            assert!(netlink.delete_route(index, route).unwrap_err().is_absent());
        }
        netlink.delete_address(index, net("10.1.0.1/24")).unwrap();
        assert!(netlink.delete_address(index, net("10.1.0.1/24")).unwrap_err().is_absent());
        netlink.delete_link(index).unwrap();
        assert_eq!(netlink.find_link("near0").unwrap(), None);
        assert!(netlink.link_by_index(index).unwrap_err().is_absent());
    });
}

#[test]
fn bridge_vxlan_and_their_fdb() {
    if !permitted() {
        return;
    }
    let named = Named::new();
    let peer: IpAddr = "192.0.2.2".parse().unwrap();
    let mac: MacAddr = "02:00:00:00:00:07".parse().unwrap();
    named.netlink(|netlink| {
        netlink.add_bridge("br0").unwrap();
        netlink.add_veth("under", "over", None).unwrap();
        let under = netlink.link_by_name("under").unwrap().index;
        netlink.add_address(under, net("192.0.2.1/24")).unwrap();
        netlink.set_link(under, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
        let spec = VxlanSpec {
            id: 100,
            local: "192.0.2.1".parse().unwrap(),
            remote: None,
            link: None,
            port: 4789,
            learning: false,
            udp_csum: false,
            udp6_zero_csum_tx: false,
            udp6_zero_csum_rx: true,
        };
        netlink.add_vxlan("vx0", &spec).unwrap();
        let refused = netlink.add_vxlan("vx0", &spec).unwrap_err();
        assert!(refused.is_present() && refused.to_string().contains("vx0"), "{refused}");
        let bridge = netlink.link_by_name("br0").unwrap().index;
        let vxlan = netlink.link_by_name("vx0").unwrap().index;
        let join = LinkChange { master: Some(bridge), up: Some(true), ..LinkChange::default() };
        netlink.set_link(vxlan, &join).unwrap();
        assert_eq!(netlink.link_by_index(vxlan).unwrap().master, Some(bridge));
        netlink.append_fdb(vxlan, MacAddr([0; 6]), peer).unwrap();
        netlink.append_fdb(vxlan, MacAddr([0; 6]), "192.0.2.3".parse().unwrap()).unwrap();
        netlink.append_fdb(vxlan, mac, peer).unwrap();
        let fdb = netlink.fdb(Some(vxlan)).unwrap();
        let zeros: Vec<_> = fdb
            .iter()
            .filter(|entry| entry.mac == Some(MacAddr([0; 6])))
            .filter_map(|entry| entry.address)
            .collect();
        assert_eq!(zeros.len(), 2, "{fdb:?}");
        assert!(fdb.iter().any(|entry| entry.mac == Some(mac) && entry.address == Some(peer)));
        netlink.set_neighbour(under, peer, mac).unwrap();
        let neighbours = netlink.neighbours(Some(under)).unwrap();
        assert!(neighbours.iter().any(|n| n.address == Some(peer) && n.mac == Some(mac)));
    });
    let seen = &named.ip(&["link", "show", "dev", "vx0"])[0];
    let data = &seen["linkinfo"]["info_data"];
    assert_eq!((&data["id"], &data["port"]), (&100.into(), &4789.into()));
    assert_eq!(data["local"], "192.0.2.1");
    assert_eq!((&data["learning"], &data["udp_csum"]), (&false.into(), &false.into()));
    assert_eq!(data["udp_zero_csum6_rx"], true);
    assert_eq!(seen["master"], "br0");
}
