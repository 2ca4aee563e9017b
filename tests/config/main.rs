//! The configuration: what is accepted, and what every mistake is told.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod any_text;
mod cluster;

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use tapestry::config::{
    Config, ConfigError, Dscp, Local, Name, PortMode, PortSpec, SegmentSpec, Toggle,
    UnknownUnicast, check_port, check_ports, check_segment, derived_mac, render_error,
};

/// Everything in it is right. Rows replace one piece of it.
const GOOD: &str = r#"
[node]
name = "node-a"

[control]
socket = "/run/tapestry/tapestry.sock"

[metrics]
listen = "127.0.0.1:9190"

[state]
dir = "/var/lib/tapestry"

[underlay]
address = "192.0.2.1"
port = 4789
udp_checksum = true
workers = 2
dscp = "inherit"
rcvbuf = 4194304
sndbuf = 4194304

[offload]
tap_gso = "auto"
udp_gso = true
udp_gro = false

[[segment]]
name = "blue"
vni = 100
peers = ["192.0.2.2", "192.0.2.3:4790"]
learning = true
aging = "5m"
max_macs = 8192
unknown_unicast = "drop"
strict_peers = true
strict_header = true

[[segment]]
name = "green"
vni = 200
multicast = "239.1.1.200"

[[port]]
name = "tap-a"
segment = "blue"
netns = "pod-a"
ifname = "eth0"
mac = "02:00:00:00:0a:01"
addresses = ["10.9.0.1/24", "2001:db8::1/64"]
routes = [{ to = "default", via = "10.9.0.254" }]
mtu = 1450

[[port]]
name = "trunk0"
trunk = [{ vlan = 10, segment = "blue" }]
native = "green"
"#;

/// (what is wrong, what is replaced, by what, [(path, fragment of the message)])
type Row = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)]);

#[rustfmt::skip]
const WRONG: &[Row] = &[
    ("an unknown key at the top", "[node]", "nodes = 1\n[node]", &[("nodes", "unknown key (did you mean \"node\"?)")]),
    ("a section that is not there", "[node]", "[galaxy]\nname = \"c\"\n[node]", &[("galaxy", "unknown key")]),
    ("an unknown key in a section", "workers = 2", "wokers = 2", &[("underlay.wokers", "did you mean \"workers\"")]),
    ("an unknown key in a segment", "vni = 200", "vni = 200\ncolour = \"red\"", &[("segment[1].colour", "unknown key")]),
    ("an unknown key in a port", "mtu = 1450", "mut = 1450", &[("port[0].mut", "unknown key")]),
    ("an unknown key in a route", "via = \"10.9.0.254\"", "via = \"10.9.0.254\", metric = 1", &[("port[0].routes[0].metric", "unknown key")]),
    ("an unknown key in a trunk", "vlan = 10,", "vlan = 10, tag = 1,", &[("port[1].trunk[0].tag", "unknown key")]),
    ("an unknown key with odd characters", "mtu = 1450", "\"m t\\n\" = 1", &[("port[0].\"m t\\n\"", "unknown key")]),
    ("a section that is no table", "[node]\nname = \"node-a\"", "node = \"node-a\"", &[("node", "expected a table, found \"node-a\"")]),
    ("a trunk that is no array", "[{ vlan = 10, segment = \"blue\" }]\nnative", "{ vlan = 10, segment = \"blue\" }\nnative", &[("port[1].trunk", "expected an array of tables, found a table"), ("port[1].native", "needs \"trunk\"")]),
    ("a node name of the wrong type", "name = \"node-a\"", "name = 7", &[("node.name", "expected a string, found 7")]),
    ("a node name with a slash", "name = \"node-a\"", "name = \"node/a\"", &[("node.name", "'/'")]),
    ("an empty node name", "name = \"node-a\"", "name = \"\"", &[("node.name", "empty")]),
    ("a relative socket", "\"/run/tapestry/tapestry.sock\"", "\"tapestry.sock\"", &[("control.socket", "\"tapestry.sock\" is not an absolute path")]),
    ("a socket path that is too long", "/run/tapestry/tapestry.sock", "/run/tapestry/a-path-that-goes-on-and-on-and-on-and-on-and-on-and-on-and-on-and-on-and-on-and-on-and-on-until-108b", &[("control.socket", "107 at most")]),
    ("a socket that is a directory", "tapestry.sock", "", &[("control.socket", "is a directory")]),
    ("metrics without a port", "127.0.0.1:9190", "127.0.0.1", &[("metrics.listen", "\"127.0.0.1\" is no address:port")]),
    ("metrics on a name", "127.0.0.1:9190", "localhost:9190", &[("metrics.listen", "\"localhost:9190\"")]),
    ("metrics on port 0", "127.0.0.1:9190", "127.0.0.1:0", &[("metrics.listen", "port 0")]),
    ("a relative state directory", "\"/var/lib/tapestry\"", "\"lib\"", &[("state.dir", "\"lib\" is not an absolute path")]),
    ("no VTEP address", "address = \"192.0.2.1\"\n", "", &[("underlay.address", "missing (or \"interface\")")]),
    ("an address and an interface", "address = \"192.0.2.1\"", "address = \"192.0.2.1\"\ninterface = \"eth0\"", &[("underlay.interface", "given beside \"address\"")]),
    ("a VTEP that is a name", "address = \"192.0.2.1\"", "address = \"vtep.example\"", &[("underlay.address", "\"vtep.example\" is no IP address")]),
    ("an unspecified VTEP", "address = \"192.0.2.1\"", "address = \"0.0.0.0\"", &[("underlay.address", "unspecified")]),
    ("a multicast VTEP", "address = \"192.0.2.1\"", "address = \"239.1.1.1\"", &[("underlay.address", "239.1.1.1 is a multicast group")]),
    ("a broadcast VTEP", "address = \"192.0.2.1\"", "address = \"255.255.255.255\"", &[("underlay.address", "broadcast")]),
    ("an underlay interface name that is too long", "address = \"192.0.2.1\"", "interface = \"sixteen-letters-\"", &[("underlay.interface", "16 bytes long, 15 at most")]),
    ("UDP port 0", "port = 4789", "port = 0", &[("underlay.port", "0 is out of range (1 to 65535)")]),
    ("UDP port 65536", "port = 4789", "port = 65536", &[("underlay.port", "65536 is out of range")]),
    ("a negative UDP port", "port = 4789", "port = -4789", &[("underlay.port", "-4789 is out of range")]),
    ("a UDP port as text", "port = 4789", "port = \"4789\"", &[("underlay.port", "expected an integer, found \"4789\"")]),
    ("too many workers", "workers = 2", "workers = 1000", &[("underlay.workers", "1000 is out of range (0 to 256)")]),
    ("a checksum that is no boolean", "udp_checksum = true", "udp_checksum = 1", &[("underlay.udp_checksum", "expected true or false, found 1")]),
    ("a DSCP out of range", "dscp = \"inherit\"", "dscp = 64", &[("underlay.dscp", "64 is out of range (0 to 63)")]),
    ("a DSCP by name", "dscp = \"inherit\"", "dscp = \"ef\"", &[("underlay.dscp", "found \"ef\"")]),
    ("a receive buffer that holds nothing", "rcvbuf = 4194304", "rcvbuf = 1024", &[("underlay.rcvbuf", "1024 is out of range")]),
    ("a send buffer beyond reason", "sndbuf = 4194304", "sndbuf = 99999999999999999999", &[("underlay.sndbuf", "99999999999999999999 is out of range")]),
    ("an offload that is neither", "tap_gso = \"auto\"", "tap_gso = \"on\"", &[("offload.tap_gso", "expected \"auto\", true or false, found \"on\"")]),
    ("GSO without checksums", "udp_checksum = true", "udp_checksum = false", &[("offload.udp_gso", "underlay.udp_checksum")]),
    ("a segment without a name", "name = \"green\"\n", "", &[("segment[1].name", "missing"), ("port[1].native", "no segment \"green\"")]),
    ("a segment without a VNI", "vni = 200\n", "", &[("segment[1].vni", "missing")]),
    ("a segment name twice", "name = \"green\"", "name = \"blue\"", &[("segment[1].name", "\"blue\" is already the name"), ("port[1].native", "no segment \"green\"")]),
    ("VNI 0", "vni = 200", "vni = 0", &[("segment[1].vni", "0 is out of range (1 to 16777215)")]),
    ("a VNI of 25 bits", "vni = 200", "vni = 16777216", &[("segment[1].vni", "16777216 is out of range (1 to 16777215)")]),
    ("a VNI twice", "vni = 200", "vni = 100", &[("segment[1].vni", "VNI 100 is already that of segment \"blue\"")]),
    ("a peer that is a name", "\"192.0.2.2\"", "\"node-b\"", &[("segment[0].peers[0]", "\"node-b\" is neither")]),
    ("a peer that is no text", "\"192.0.2.2\"", "1922", &[("segment[0].peers[0]", "expected a string, found 1922")]),
    ("a peer with port 0", "192.0.2.3:4790", "192.0.2.3:0", &[("segment[0].peers[1]", "port 0")]),
    ("this node as a peer", "\"192.0.2.2\"", "\"192.0.2.1\"", &[("segment[0].peers[0]", "192.0.2.1 is this node's own address")]),
    ("a peer of the other family", "\"192.0.2.2\"", "\"2001:db8::2\"", &[("segment[0].peers[0]", "2001:db8::2 is IPv6")]),
    ("a group among the peers", "\"192.0.2.2\"", "\"239.1.1.1\"", &[("segment[0].peers[0]", "239.1.1.1 is a multicast group")]),
    ("an unspecified peer", "\"192.0.2.2\"", "\"0.0.0.0\"", &[("segment[0].peers[0]", "0.0.0.0 is the unspecified")]),
    ("a peer twice", "\"192.0.2.2\"", "\"192.0.2.3:4790\"", &[("segment[0].peers[1]", "already in the list")]),
    ("a peer with two ports", "\"192.0.2.2\"", "\"192.0.2.3\"", &[("segment[0].peers[1]", "already a peer with port 4789")]),
    ("peers that are no array", "[\"192.0.2.2\", \"192.0.2.3:4790\"]", "\"192.0.2.2\"", &[("segment[0].peers", "expected an array of strings, found \"192.0.2.2\"")]),
    ("a group that is none", "239.1.1.200", "192.0.2.200", &[("segment[1].multicast", "192.0.2.200 is no multicast group")]),
    ("a group of the other family", "239.1.1.200", "ff05::200", &[("segment[1].multicast", "ff05::200 is IPv6")]),
    ("strict peers without any", "multicast = \"239.1.1.200\"", "multicast = \"239.1.1.200\"\nstrict_peers = true", &[("segment[1].strict_peers", "drops every datagram")]),
    ("an aging without unit", "aging = \"5m\"", "aging = \"300\"", &[("segment[0].aging", "\"300\" is no duration")]),
    ("an aging as number", "aging = \"5m\"", "aging = 300", &[("segment[0].aging", "expected a string, found 300")]),
    ("an aging of nothing", "aging = \"5m\"", "aging = \"0s\"", &[("segment[0].aging", "\"0s\" is out of range (1s to 7d)")]),
    ("no MACs at all", "max_macs = 8192", "max_macs = 0", &[("segment[0].max_macs", "0 is out of range (1 to")]),
    ("unknown unicast to nowhere", "unknown_unicast = \"drop\"", "unknown_unicast = \"queue\"", &[("segment[0].unknown_unicast", "\"queue\" is neither")]),
    ("learning by text", "learning = true", "learning = \"yes\"", &[("segment[0].learning", "found \"yes\"")]),
    ("an unknown segment", "segment = \"blue\"\nnetns", "segment = \"bleu\"\nnetns", &[("port[0].segment", "no segment \"bleu\"")]),
    ("an unknown segment on a trunk", "vlan = 10, segment = \"blue\"", "vlan = 10, segment = \"red\"", &[("port[1].trunk[0].segment", "no segment \"red\"")]),
    ("an unknown native segment", "native = \"green\"", "native = \"gray\"", &[("port[1].native", "no segment \"gray\"")]),
    ("no segment and no trunk", "segment = \"blue\"\nnetns", "netns", &[("port[0].segment", "missing (or \"trunk\")")]),
    ("a segment beside a trunk", "native = \"green\"", "segment = \"green\"", &[("port[1].segment", "given beside \"trunk\"")]),
    ("native without a trunk", "segment = \"blue\"\nnetns", "native = \"blue\"\nnetns", &[("port[0].native", "needs \"trunk\"")]),
    ("VLAN 0", "vlan = 10", "vlan = 0", &[("port[1].trunk[0].vlan", "0 is out of range (1 to 4094)")]),
    ("VLAN 4095", "vlan = 10", "vlan = 4095", &[("port[1].trunk[0].vlan", "4095 is out of range")]),
    ("a VLAN twice", "[{ vlan = 10, segment = \"blue\" }]\nnative = \"green\"", "[{ vlan = 10, segment = \"blue\" }, { vlan = 10, segment = \"green\" }]", &[("port[1].trunk[1].vlan", "VLAN 10 is already on this trunk")]),
    ("a segment under two VLANs", "[{ vlan = 10, segment = \"blue\" }]", "[{ vlan = 10, segment = \"blue\" }, { vlan = 11, segment = \"blue\" }]", &[("port[1].trunk[1].segment", "already on this trunk as VLAN 10")]),
    ("a segment natively and tagged", "native = \"green\"", "native = \"blue\"", &[("port[1].trunk[0].segment", "already on this trunk natively")]),
    ("a trunk entry without a segment", "vlan = 10, segment = \"blue\"", "vlan = 10", &[("port[1].trunk[0].segment", "missing")]),
    ("a port without a name", "name = \"trunk0\"\n", "", &[("port[1].name", "missing")]),
    ("a port name twice", "name = \"trunk0\"", "name = \"tap-a\"", &[("port[1].name", "\"tap-a\" is already the name of another port")]),
    ("a port name no device can have", "name = \"trunk0\"", "name = \"a-rather-long-name\"", &[("port[1].name", "give \"ifname\"")]),
    ("a port of an unknown kind", "name = \"trunk0\"", "name = \"trunk0\"\nkind = \"netdev\"", &[("port[1].kind", "\"netdev\" is no kind of port")]),
    ("an interface name that is too long", "ifname = \"eth0\"", "ifname = \"a-name-of-16-chr\"", &[("port[0].ifname", "16 bytes long")]),
    ("an interface name with a slash", "ifname = \"eth0\"", "ifname = \"eth/0\"", &[("port[0].ifname", "'/'")]),
    ("an interface name with a space", "ifname = \"eth0\"", "ifname = \"eth 0\"", &[("port[0].ifname", "' '")]),
    ("an interface named ..", "ifname = \"eth0\"", "ifname = \"..\"", &[("port[0].ifname", "\"..\" is reserved")]),
    ("an empty interface name", "ifname = \"eth0\"", "ifname = \"\"", &[("port[0].ifname", "empty")]),
    ("a namespace by relative path", "netns = \"pod-a\"", "netns = \"run/netns/pod-a\"", &[("port[0].netns", "absolute")]),
    ("a namespace named ..", "netns = \"pod-a\"", "netns = \"..\"", &[("port[0].netns", "reserved")]),
    ("a device twice", "name = \"trunk0\"", "name = \"trunk0\"\nifname = \"eth0\"\nnetns = \"/var/run/netns/pod-a\"", &[("port[1].ifname", "device \"eth0\" in namespace \"pod-a\" is already that of port \"tap-a\"")]),
    ("a group MAC", "02:00:00:00:0a:01", "03:00:00:00:0a:01", &[("port[0].mac", "03:00:00:00:0a:01 is a group address")]),
    ("a zero MAC", "02:00:00:00:0a:01", "00:00:00:00:00:00", &[("port[0].mac", "all zeros")]),
    ("a MAC of five octets", "02:00:00:00:0a:01", "02:00:00:00:0a", &[("port[0].mac", "\"02:00:00:00:0a\" is no MAC address")]),
    ("a MAC twice in a segment", "name = \"trunk0\"", "name = \"trunk0\"\nmac = \"02:00:00:00:0a:01\"", &[("port[1].mac", "already that of port \"tap-a\" in segment \"blue\"")]),
    ("an address without a prefix length", "\"10.9.0.1/24\"", "\"10.9.0.1\"", &[("port[0].addresses[0]", "no prefix length")]),
    ("an address with a prefix too long", "\"10.9.0.1/24\"", "\"10.9.0.1/33\"", &[("port[0].addresses[0]", "\"10.9.0.1/33\" is no address")]),
    ("a network as address", "\"10.9.0.1/24\"", "\"10.9.0.0/24\"", &[("port[0].addresses[0]", "address of the network")]),
    ("a broadcast address", "\"10.9.0.1/24\"", "\"10.9.0.255/24\"", &[("port[0].addresses[0]", "broadcast address")]),
    ("an address twice on a port", "\"2001:db8::1/64\"", "\"10.9.0.1/16\"", &[("port[0].addresses[1]", "10.9.0.1 is already in the list")]),
    ("an address twice in a segment", "trunk = [{ vlan = 10, segment = \"blue\" }]\nnative = \"green\"", "segment = \"blue\"\naddresses = [\"10.9.0.1/24\"]", &[("port[1].addresses[0]", "10.9.0.1 is already that of port \"tap-a\"")]),
    ("a route without a destination", "to = \"default\", ", "", &[("port[0].routes[0].to", "missing")]),
    ("a route to a host name", "to = \"default\"", "to = \"gateway\"", &[("port[0].routes[0].to", "\"gateway\" is neither")]),
    ("a route with host bits", "to = \"default\"", "to = \"10.1.2.3/8\"", &[("port[0].routes[0].to", "the prefix is 10.0.0.0/8")]),
    ("a default route without a next hop", "to = \"default\", via = \"10.9.0.254\"", "to = \"default\"", &[("port[0].routes[0].to", "needs \"via\"")]),
    ("a route over the other family", "to = \"default\"", "to = \"2001:db8:1::/48\"", &[("port[0].routes[0].via", "10.9.0.254 is IPv4")]),
    ("a next hop out of reach", "10.9.0.254", "10.8.0.254", &[("port[0].routes[0].via", "in none of the port's networks")]),
    ("a next hop that is the port", "via = \"10.9.0.254\"", "via = \"10.9.0.1\"", &[("port[0].routes[0].via", "the port's own address")]),
    ("a route twice", "[{ to = \"default\", via = \"10.9.0.254\" }]", "[{ to = \"default\", via = \"10.9.0.254\" }, { to = \"0.0.0.0/0\", via = \"10.9.0.253\" }]", &[("port[0].routes[1].to", "0.0.0.0/0 is already in the list")]),
    ("an MTU below IPv4's", "mtu = 1450", "mtu = 67", &[("port[0].mtu", "67 is out of range")]),
    ("an MTU below IPv6's", "mtu = 1450", "mtu = 1279", &[("port[0].mtu", "1279 is too small for IPv6")]),
    ("an MTU above a TAP's", "mtu = 1450", "mtu = 65536", &[("port[0].mtu", "65536 is out of range")]),
];

fn replaced(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from:?} is not in the good configuration");
    GOOD.replacen(from, to, 1)
}

fn problems(text: &str) -> Vec<(String, String)> {
    match Config::parse(text) {
        Ok(_) => Vec::new(),
        Err(error) => {
            error.problems().iter().map(|one| (one.path.clone(), one.message.clone())).collect()
        }
    }
}

#[test]
fn every_mistake_is_named_with_its_path() {
    let mut names = HashSet::new();
    let mut texts = HashSet::new();
    for (name, from, to, expected) in WRONG {
        let text = replaced(from, to);
        assert!(names.insert(*name), "two rows named {name:?}");
        assert!(texts.insert(text.clone()), "{name}: another row has the same text");
        let found = problems(&text);
        let paths: Vec<&str> = found.iter().map(|(path, _)| path.as_str()).collect();
        let mut wanted: Vec<&str> = expected.iter().map(|(path, _)| *path).collect();
        wanted.sort_unstable();
        let mut sorted = paths.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, wanted, "{name}: {found:#?}");
        for (path, fragment) in *expected {
            let message = found.iter().find(|(p, _)| p == path).map(|(_, message)| message);
            let message = message.expect("the paths agree");
            assert!(message.contains(fragment), "{name}: {path}: {message:?} lacks {fragment:?}");
        }
    }
    assert!(WRONG.len() >= 40);
}

#[test]
fn the_good_one_means_what_it_says() {
    let config = Config::parse(GOOD).expect("good");
    assert_eq!(config.node.name.as_str(), "node-a");
    assert_eq!(config.metrics.listen, Some("127.0.0.1:9190".parse().unwrap()));
    assert_eq!(config.underlay.address(), Some("192.0.2.1".parse().unwrap()));
    assert_eq!(config.underlay.dscp, Dscp::Inherit);
    assert_eq!((config.underlay.port, config.underlay.workers), (4789, 2));
    assert_eq!(config.offload.tap_gso, Toggle::Auto);
    assert_eq!((config.offload.udp_gso, config.offload.udp_gro), (Toggle::On, Toggle::Off));

    let blue = config.segment("blue").expect("blue");
    assert_eq!(blue.vni.get(), 100);
    let peers: Vec<String> = blue.peers.iter().map(ToString::to_string).collect();
    assert_eq!(peers, ["192.0.2.2:4789", "192.0.2.3:4790"]);
    assert_eq!(blue.aging, Duration::from_secs(300));
    assert_eq!(blue.unknown_unicast, UnknownUnicast::Drop);
    assert!(blue.strict_peers && blue.strict_header);
    let green = config.segment("green").expect("green");
    assert!(!green.strict_peers, "off by default with multicast");
    assert!(!green.strict_header && green.learning);
    assert_eq!(green.max_macs, 8192);

    let [tap, trunk] = config.ports.as_slice() else { panic!("two ports") };
    assert_eq!(tap.netns.as_ref().unwrap().path(), Path::new("/run/netns/pod-a"));
    assert_eq!((tap.ifname.as_str(), tap.mtu), ("eth0", Some(1450)));
    assert_eq!(tap.mac.to_string(), "02:00:00:00:0a:01");
    let [route] = tap.routes.as_slice() else { panic!("one route") };
    assert_eq!(route.to.to_string(), "0.0.0.0/0");
    assert_eq!(trunk.ifname.as_str(), "trunk0");
    assert_eq!(trunk.mac, derived_mac(&config.node.name, "trunk0"));
    let PortMode::Trunk { vlans, native } = &trunk.mode else { panic!("a trunk") };
    assert_eq!(
        vlans.iter().map(|(vlan, name)| (vlan.get(), name.as_str())).next(),
        Some((10, "blue"))
    );
    assert_eq!(native.as_ref().map(Name::as_str), Some("green"));
}

#[test]
fn the_least_has_the_defaults_of_the_contract() {
    let config = Config::parse("[underlay]\naddress = \"2001:db8::1\"\n").expect("enough");
    assert_eq!(config.control.socket, Path::new("/run/tapestry/tapestry.sock"));
    assert_eq!(config.state.dir, Path::new("/var/lib/tapestry"));
    assert_eq!(config.metrics.listen, None);
    assert_eq!((config.underlay.port, config.underlay.workers), (4789, 0));
    assert!(config.underlay.udp_checksum);
    assert_eq!(config.underlay.dscp, Dscp::Fixed(0));
    assert_eq!(config.offload.udp_gso, Toggle::Auto);
    assert!(config.segments.is_empty() && config.ports.is_empty());
    let host = nix::unistd::gethostname().unwrap();
    assert_eq!(config.node.name.as_str(), host.to_str().unwrap());
}

#[rustfmt::skip]
const RIGHT: &[(&str, &str, &str)] = &[
    ("an interface in place of the address", "address = \"192.0.2.1\"", "interface = \"eth0\""),
    ("a loopback VTEP", "address = \"192.0.2.1\"", "address = \"127.0.0.1\""),
    ("the own address with another port", "\"192.0.2.2\"", "\"192.0.2.1:4790\""),
    ("no peers", "peers = [\"192.0.2.2\", \"192.0.2.3:4790\"]", "peers = []"),
    ("strict peers beside multicast", "multicast = \"239.1.1.200\"", "multicast = \"239.1.1.200\"\npeers = [\"192.0.2.2\"]\nstrict_peers = true"),
    ("the largest VNI", "vni = 200", "vni = 0xffffff"),
    ("an aging in parts", "\"5m\"", "\"1h30m\""),
    ("zero checksums and GSO left to the probe", "udp_checksum = true\nworkers = 2\ndscp = \"inherit\"", "udp_checksum = true\nworkers = 0\ndscp = 46"),
    ("the namespace as a path", "netns = \"pod-a\"", "netns = \"/proc/1/ns/net\""),
    ("the same device name in another namespace", "name = \"trunk0\"", "name = \"trunk0\"\nifname = \"eth0\""),
    ("the kind that there is", "name = \"trunk0\"", "name = \"trunk0\"\nkind = \"tap\""),
    ("a route on the link", "{ to = \"default\", via = \"10.9.0.254\" }", "{ to = \"10.10.0.0/16\" }"),
    ("a link-local next hop", "via = \"10.9.0.254\"", "via = \"fe80::1\""),
    ("a port name that is only a port name", "name = \"trunk0\"", "name = \"default.pod-0123456789abcdef.eth0\"\nifname = \"veth7\""),
    ("a host address of 31 bits", "\"10.9.0.1/24\"", "\"10.9.0.254/31\""),
];

#[test]
fn what_is_right_is_accepted() {
    for (name, from, to) in RIGHT {
        let text = replaced(from, to);
        // A next hop has to stay within reach of the address under test.
        let text = match *name {
            "a host address of 31 bits" => {
                text.replace("via = \"10.9.0.254\"", "via = \"10.9.0.255\"")
            }
            _ => text,
        };
        assert_eq!(problems(&text), [], "{name}");
    }
}

#[test]
fn all_at_once_in_the_order_of_the_file() {
    let mut text = GOOD.to_owned();
    for (from, to) in [
        ("port = 4789", "port = 99999"),
        ("vni = 100", "vni = 0"),
        ("mtu = 1450", "mtu = 12"),
        ("vlan = 10", "vlan = 5000"),
        ("02:00:00:00:0a:01", "no mac"),
        ("[offload]", "[offlaod]"),
    ] {
        text = text.replacen(from, to, 1);
    }
    let found: Vec<String> = problems(&text).into_iter().map(|(path, _)| path).collect();
    let wanted = [
        "underlay.port",
        "offlaod",
        "segment[0].vni",
        "port[0].mac",
        "port[0].mtu",
        "port[1].trunk[0].vlan",
    ];
    assert_eq!(found, wanted);
}

#[test]
fn syntax_errors_have_line_and_column() {
    let error = Config::parse("[underlay]\naddress = \"192.0.2.1\nport = 4789\n").unwrap_err();
    let line = render_error(&error).lines().next().unwrap().to_owned();
    assert!(line.starts_with("line 2, column "), "{line}");

    let twice = GOOD.replace("port = 4789", "port = 4789\nport = 4790");
    let shown = render_error(&Config::parse(&twice).unwrap_err());
    let at = twice.lines().position(|line| line == "port = 4790").unwrap() + 1;
    assert!(
        shown.contains(&format!("line {at}, column 1: ")) && shown.contains("duplicate"),
        "{shown}"
    );
}

#[test]
fn a_file_is_named_with_line_and_column() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t.toml");
    std::fs::write(&file, GOOD.replace("segment = \"blue\"\nnetns", "segment = \"bleu\"\nnetns"))
        .unwrap();
    let shown = render_error(&Config::load(&file).unwrap_err());
    let line = GOOD.lines().position(|line| line == "segment = \"blue\"").unwrap() + 1;
    assert_eq!(shown, format!("{}:{line}:1: port[0].segment: no segment \"bleu\"", file.display()));

    let missing = dir.path().join("missing.toml");
    let error = Config::load(&missing).unwrap_err();
    assert!(matches!(error, ConfigError::Read { .. }));
    assert!(render_error(&error).starts_with(&missing.display().to_string()));
    std::fs::write(&file, [0xff, 0xfe]).unwrap();
    assert!(matches!(Config::load(&file), Err(ConfigError::Read { .. })));
}

#[test]
fn port_zero_based_third_is_two() {
    let text = format!("{GOOD}\n[[port]]\nname = \"c\"\nsegment = \"bleu\"\n");
    let shown = render_error(&Config::parse(&text).unwrap_err());
    assert_eq!(shown, "port[2].segment: no segment \"bleu\"");
}

#[test]
fn a_port_comes_back_from_its_specification() {
    let config = Config::parse(GOOD).unwrap();
    for port in &config.ports {
        let spec = port.spec();
        let json = serde_json::to_string(&spec).unwrap();
        let back: PortSpec = serde_json::from_str(&json).unwrap();
        assert_eq!(back, spec);
        let again = check_port(&back, &config.node.name, &config.segments, &[]);
        assert_eq!(again.as_ref(), Ok(port));
    }
}

#[test]
fn ports_that_are_checked_together_are_checked_against_each_other() {
    let config = Config::parse(GOOD).unwrap();
    let spec = |json: &str| serde_json::from_str::<PortSpec>(json).unwrap();
    let specs = [
        spec(r#"{"name": "c", "segment": "blue"}"#),
        // Its name and its device are not taken by it, since it is wrong.
        spec(r#"{"name": "d", "segment": "bleu"}"#),
        spec(r#"{"name": "d", "segment": "blue"}"#),
        spec(r#"{"name": "e", "segment": "blue", "ifname": "c"}"#),
        spec(r#"{"name": "tap-a", "segment": "blue"}"#),
        spec(r#"{"name": "e", "segment": "green"}"#),
    ];
    let results = check_ports(&specs, &config.node.name, &config.segments, &config.ports);
    let kept: Vec<_> = results.iter().map(|result| result.is_ok()).collect();
    assert_eq!(kept, [true, false, true, false, false, true]);
    let mut others = config.ports.clone();
    for (spec, result) in specs.iter().zip(results) {
        let alone = check_port(spec, &config.node.name, &config.segments, &others);
        assert_eq!(alone, result);
        others.extend(alone);
    }
}

#[test]
fn a_requested_port_is_checked_like_a_configured_one() {
    let config = Config::parse(GOOD).unwrap();
    let check = |json: &str| {
        let spec: PortSpec = serde_json::from_str(json).unwrap();
        check_port(&spec, &config.node.name, &config.segments, &config.ports)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert!(check(r#"{"name": "c", "segment": "blue"}"#).is_ok());
    let errors =
        check(r#"{"name": "tap-a", "segment": "red", "mtu": 5, "mac": "02:00:00:00:0a:01"}"#);
    let errors = errors.unwrap_err();
    assert_eq!(errors.len(), 3, "{errors:?}");
    assert!(errors.iter().any(|error| error.starts_with("segment: no segment \"red\"")));
    let taken = check(
        r#"{"name": "c", "segment": "blue", "ifname": "eth0", "netns": "pod-a", "mac": "02:00:00:00:0a:01", "addresses": ["10.9.0.1/24"]}"#,
    );
    let keys: Vec<String> = taken
        .unwrap_err()
        .iter()
        .map(|error| error.split(':').next().unwrap().to_owned())
        .collect();
    assert_eq!(keys, ["ifname", "mac", "addresses[0]"]);
    assert!(serde_json::from_str::<PortSpec>(r#"{"name": "c", "colour": "red"}"#).is_err());
}

#[test]
fn a_requested_segment_is_checked_like_a_configured_one() {
    let config = Config::parse(GOOD).unwrap();
    let check = |json: &str| {
        let spec: SegmentSpec = serde_json::from_str(json).unwrap();
        check_segment(&spec, &config.underlay, &config.segments)
    };
    let red = check(r#"{"name": "red", "vni": 300, "peers": ["192.0.2.9"]}"#).unwrap();
    assert_eq!(red.peers, ["192.0.2.9:4789".parse().unwrap()]);
    let errors = check(r#"{"name": "blue", "vni": 100, "max_macs": 0, "peers": ["192.0.2.3:9"]}"#)
        .unwrap_err();
    let paths: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(paths, ["name", "vni", "peers[0]", "max_macs"]);
}

#[test]
fn an_interface_takes_the_family_of_the_first_peer() {
    let text = |peers: &str| {
        format!(
            "[underlay]\ninterface = \"eth0\"\n[[segment]]\nname = \"a\"\nvni = 1\npeers = [{peers}]\n"
        )
    };
    let config = Config::parse(&text("\"2001:db8::2\", \"[2001:db8::3]:4790\"")).unwrap();
    assert!(matches!(&config.underlay.local, Local::Interface(name) if name.as_str() == "eth0"));
    let mixed = problems(&text("\"2001:db8::2\", \"192.0.2.3\""));
    assert_eq!(mixed.len(), 1);
    assert_eq!(mixed[0].0, "segment[0].peers[1]");
}

#[test]
fn derived_macs_are_stable_and_apart() {
    let node = |name: &str| Name::new(name).unwrap();
    // Pods keep their address across releases: this value may never change.
    assert_eq!(derived_mac(&node("node-a"), "tap-a").to_string(), "36:7c:4f:be:c7:de");
    let mut seen = HashSet::new();
    for n in 0..20 {
        for p in 0..500 {
            let mac = derived_mac(&node(&format!("node-{n}")), &format!("port{p}"));
            assert_eq!(mac.get().0[0] & 3, 2, "locally administered, one station");
            assert!(seen.insert(mac), "node-{n} port{p}");
        }
    }
    assert_ne!(derived_mac(&node("ab"), "c"), derived_mac(&node("a"), "bc"));
}
