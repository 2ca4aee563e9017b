//! `[cluster]`: what is accepted, and what every mistake is told.

use std::net::IpAddr;
use std::time::Duration;

use tapestry::config::{Config, Mode, Store};

/// Everything in it is right. Rows replace one piece of it.
const GOOD: &str = r#"
[node]
name = "node-a"

[underlay]
address = "192.0.2.1"

[[segment]]
name = "blue"
vni = 100

[cluster]
network = ["fd00:10:244::/48", "10.244.0.0/16"]
node_prefix = 25
service_networks = ["10.96.0.0/12"]
non_masquerade = ["172.16.0.0/12"]
addresses = ["198.51.100.1"]
multicast = "flood"
rest = "5s"

[[cluster.node]]
name = "node-a"
address = "192.0.2.1"
pod_cidrs = ["10.244.1.0/25", "fd00:10:244:1::/64"]

[[cluster.node]]
name = "node-b"
address = "192.0.2.2:4790"
pod_cidrs = ["10.244.2.0/25"]
addresses = ["198.51.100.2"]
"#;

const ETCD: &str = r#"
[node]
name = "node-a"

[underlay]
address = "192.0.2.1"

[cluster]
network = ["10.244.0.0/16"]
store = "etcd"

[cluster.etcd]
endpoints = ["https://192.0.2.10:2379", "https://192.0.2.11:2379"]
prefix = "/pods/"
cert = "/etc/tapestry/etcd.crt"
key = "/etc/tapestry/etcd.key"
user = "tapestry"
password_file = "/etc/tapestry/etcd.password"
"#;

#[test]
fn a_static_cluster_is_what_was_written() {
    let cluster = Config::parse(GOOD).unwrap().cluster.unwrap();
    assert_eq!((cluster.name.as_str(), cluster.vni.get()), ("pods", 4096));
    let networks: Vec<_> =
        cluster.networks.iter().map(|one| (one.net.to_string(), one.node_prefix)).collect();
    assert_eq!(networks, [("10.244.0.0/16".into(), 25), ("fd00:10:244::/48".into(), 64)]);
    assert_eq!((cluster.mode, cluster.flood_multicast), (Mode::Tunnel, true));
    assert_eq!(cluster.rest, Duration::from_secs(5));
    assert!(cluster.contains("10.244.9.9".parse::<IpAddr>().unwrap()));
    assert!(!cluster.contains("10.245.0.1".parse::<IpAddr>().unwrap()));
    let Store::Static(nodes) = cluster.store else { panic!("another store") };
    let addresses: Vec<_> = nodes.iter().map(|node| node.address.to_string()).collect();
    assert_eq!(addresses, ["192.0.2.1:4789", "192.0.2.2:4790"]);
    assert_eq!(Config::parse("[underlay]\naddress = \"192.0.2.1\"").unwrap().cluster, None);
}

#[test]
fn an_etcd_store_is_what_was_written() {
    let cluster = Config::parse(ETCD).unwrap().cluster.unwrap();
    let Store::Etcd(etcd) = cluster.store else { panic!("another store") };
    assert_eq!((etcd.endpoints.len(), etcd.prefix.as_str()), (2, "/pods"));
    assert_eq!(etcd.lease, Duration::from_secs(30));
    assert!(etcd.identity.is_some() && etcd.user.is_some() && etcd.ca.is_none());
}

#[test]
fn in_the_cluster_a_node_has_the_name_of_its_node_object() {
    let text = |node: &str| {
        format!(
            "[node]\nname = \"host\"\n[underlay]\naddress = \"192.0.2.1\"\n[cluster]\n\
             network = [\"10.244.0.0/16\"]\nstore = \"kubernetes\"\n[cluster.kubernetes]\n{node}"
        )
    };
    for (node, name) in [("node = \"host.example.org\"", "host.example.org"), ("", "host")] {
        let config = Config::parse(&text(node)).unwrap();
        assert_eq!(config.cluster.unwrap().own_name(&config.node.name).as_str(), name);
    }
    let config = Config::parse(ETCD).unwrap();
    assert_eq!(config.cluster.unwrap().own_name(&config.node.name), &config.node.name);
}

/// (text, what is replaced, by what, path, fragment of the message)
type Row = (&'static str, &'static str, &'static str, &'static str, &'static str);

#[rustfmt::skip]
const WRONG: &[Row] = &[
    (GOOD, "network = [\"fd00:10:244::/48\", \"10.244.0.0/16\"]", "", "cluster.network", "missing"),
    (GOOD, "\"fd00:10:244::/48\", ", "\"10.1.0.0/16\", ", "cluster.network[1]", "a second network of one family"),
    (GOOD, "\"10.244.0.0/16\"", "\"10.244.1.0/16\"", "cluster.network[1]", "the network is 10.244.0.0/16"),
    (GOOD, "\"10.244.0.0/16\"", "\"10.244/16\"", "cluster.network[1]", "is no network"),
    (GOOD, "node_prefix = 25", "node_prefix = 15", "cluster.node_prefix", "15 cuts no share of 10.244.0.0/16 (16 to 30)"),
    (GOOD, "node_prefix = 25", "node_prefix = 31", "cluster.node_prefix", "16 to 30"),
    (GOOD, "node_prefix = 25", "node_prefix_ipv6 = 127", "cluster.node_prefix_ipv6", "48 to 126"),
    (GOOD, "rest = \"5s\"", "vni = 100", "cluster.vni", "segment \"blue\"'s"),
    (GOOD, "rest = \"5s\"", "name = \"blue\"", "cluster.name", "already"),
    (GOOD, "rest = \"5s\"", "rest = \"2d\"", "cluster.rest", "out of range"),
    (GOOD, "\"flood\"", "\"some\"", "cluster.multicast", "not \"local\" or \"flood\""),
    (GOOD, "rest = \"5s\"", "mode = \"bridge\"", "cluster.mode", "not \"tunnel\" or \"route\""),
    (GOOD, "rest = \"5s\"", "gateway = \"a/b\"", "cluster.gateway", "interface name"),
    (GOOD, "rest = \"5s\"", "attach = \"run/attach.sock\"", "cluster.attach", "not an absolute path"),
    (GOOD, "rest = \"5s\"", "store = \"consul\"", "cluster.store", "not \"static\""),
    (GOOD, "\"10.96.0.0/12\"", "\"10.240.0.0/12\"", "cluster.service_networks[0]", "overlaps with the pods' 10.244.0.0/16"),
    (GOOD, "[\"198.51.100.1\"]", "[\"10.244.1.1\"]", "cluster.addresses[0]", "within the pods'"),
    (GOOD, "[\"198.51.100.1\"]", "[\"224.0.0.1\"]", "cluster.addresses[0]", "unicast"),
    (GOOD, "address = \"192.0.2.1\"\n\n[[segment]]", "address = \"10.244.0.1\"\n\n[[segment]]", "cluster.network", "holds this node's VTEP"),
    (GOOD, "name = \"node-a\"\naddress", "name = \"node-c\"\naddress", "cluster.node", "none of them is this node, \"node-a\""),
    (GOOD, "name = \"node-b\"", "name = \"node-a\"", "cluster.node[1].name", "cluster.node[0]'s too"),
    (GOOD, "192.0.2.2:4790", "192.0.2.1:4790", "cluster.node[1].address", "cluster.node[0]'s too"),
    (GOOD, "\"10.244.2.0/25\"", "\"10.244.1.64/26\"", "cluster.node[1].pod_cidrs[0]", "overlaps with a podCIDR of \"node-a\""),
    (GOOD, "\"10.244.2.0/25\"", "\"10.244.0.0/22\"", "cluster.node[1].pod_cidrs[0]", "overlaps with a podCIDR of \"node-a\""),
    (GOOD, "\"10.244.2.0/25\"", "\"10.245.2.0/25\"", "cluster.node[1].pod_cidrs[0]", "not within"),
    (GOOD, "\"10.244.2.0/25\"", "\"10.244.2.0/25\", \"10.244.3.0/25\"", "cluster.node[1].pod_cidrs[1]", "one podCIDR of each family"),
    (GOOD, "\"10.244.2.0/25\"", "\"10.244.2.0/25\", \"10.244.2.64/26\"", "cluster.node[1].pod_cidrs[1]", "one podCIDR of each family"),
    (GOOD, "\"10.244.2.0/25\"", "\"10.244.2.0/31\"", "cluster.node[1].pod_cidrs[0]", "no room for a pod (/30 at most)"),
    (GOOD, "\"fd00:10:244:1::/64\"", "\"fd00:10:244:1::/127\"", "cluster.node[0].pod_cidrs[1]", "no room for a pod (/126 at most)"),
    (GOOD, "pod_cidrs = [\"10.244.2.0/25\"]", "", "cluster.node[1].pod_cidrs", "missing"),
    (ETCD, "store = \"etcd\"", "store = \"kubernetes\"", "cluster.etcd", "given beside store = \"kubernetes\""),
    (ETCD, "store = \"etcd\"", "store = \"etcd\"\nnode = [{ name = \"b\", address = \"192.0.2.2\", pod_cidrs = [\"10.244.2.0/24\"] }]", "cluster.node", "given beside"),
    (ETCD, "\"https://192.0.2.10:2379\"", "\"192.0.2.10:2379\"", "cluster.etcd.endpoints[0]", "no http:// or https:// URL"),
    (ETCD, "endpoints = [\"https://192.0.2.10:2379\", \"https://192.0.2.11:2379\"]", "", "cluster.etcd.endpoints", "missing"),
    (ETCD, "\"/pods/\"", "\"pods\"", "cluster.etcd.prefix", "slash"),
    (ETCD, "\"/etc/tapestry/etcd.key\"", "\"etcd.key\"", "cluster.etcd.key", "not an absolute path"),
    (ETCD, "key = \"/etc/tapestry/etcd.key\"", "", "cluster.etcd.cert", "go together"),
    (ETCD, "user = \"tapestry\"", "", "cluster.etcd.user", "go together"),
    (ETCD, "user = \"tapestry\"", "user = \"tapestry\"\nlease = \"1s\"", "cluster.etcd.lease", "out of range"),
    (ETCD, "user = \"tapestry\"", "user = \"tapestry\"\nuzer = 1", "cluster.etcd.uzer", "did you mean \"user\"?"),
];

#[test]
fn every_mistake_is_told_at_its_place() {
    for (text, from, to, path, fragment) in WRONG {
        assert!(text.contains(from), "{from:?} is not in the file");
        let error = Config::parse(&text.replacen(from, to, 1)).unwrap_err();
        let found = error.problems().iter().find(|problem| problem.path == *path);
        let found = found.unwrap_or_else(|| panic!("{from:?} -> {to:?}: {error}"));
        assert!(found.message.contains(fragment), "{path}: {}", found.message);
    }
}
