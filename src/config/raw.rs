//! The file as typed: every key of the contract with the type it has in TOML, and nothing else.

use toml::de::{DeTable, DeValue};

use super::check_port::MTU;
use super::check_segment::MAX_MACS;
use super::cluster::{RawCluster, RawEtcd, RawKubernetes, RawNode};
use super::reader::{Lines, Section, first_of_each_path, wrong_type};
use super::{Config, ConfigError, PortSpec, Problem, RouteSpec, SegmentSpec, Toggle, TrunkSpec};
use super::{Dscp, check};

/// The file as typed.
#[derive(Debug, Default)]
pub(super) struct Raw {
    pub(super) node: Option<String>,
    pub(super) socket: Option<String>,
    pub(super) listen: Option<String>,
    pub(super) state_dir: Option<String>,
    pub(super) helper: Option<String>,
    pub(super) underlay: RawUnderlay,
    pub(super) offload: super::Offload,
    pub(super) segments: Vec<SegmentSpec>,
    pub(super) ports: Vec<PortSpec>,
    pub(super) cluster: Option<RawCluster>,
}

/// `[underlay]` as typed.
#[derive(Debug, Default)]
pub(super) struct RawUnderlay {
    pub(super) address: Option<String>,
    pub(super) interface: Option<String>,
    pub(super) port: Option<u32>,
    pub(super) udp_checksum: Option<bool>,
    pub(super) workers: Option<u32>,
    pub(super) dscp: Dscp,
    pub(super) rcvbuf: Option<u32>,
    pub(super) sndbuf: Option<u32>,
    pub(super) spin_us: Option<u32>,
}

/// What a VNI and a VLAN can be; their types check it again for those that are not read here.
const VNI: core::ops::RangeInclusive<u32> = 1..=encap::Vni::MAX;
const VLAN: core::ops::RangeInclusive<u32> = 1..=4094;
/// `SO_RCVBUF` and `SO_SNDBUF`: what is less than a datagram is useless, what is more than this
/// is a slip of the keyboard.
const BUFFER: core::ops::RangeInclusive<u32> = 65_536..=1 << 30;

/// Reads and checks a text.
pub(super) fn parse(text: &str) -> Result<Config, ConfigError> {
    let (tree, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let lines = Lines::of(text);
        let problem = |error: &toml::de::Error| Problem {
            path: String::new(),
            message: error.message().to_owned(),
            place: error.span().map(|span| lines.place(span.start)),
        };
        return Err(ConfigError::invalid(errors.iter().map(problem).collect()));
    }
    let mut problems = Vec::new();
    let raw = read(tree.get_ref(), &mut problems);
    let config = check::check(&raw, &mut problems);
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(ConfigError::invalid(first_of_each_path(problems, text, &tree))),
    }
}

fn read(tree: &DeTable<'_>, problems: &mut Vec<Problem>) -> Raw {
    let mut root = Section::root(tree, problems);
    let raw = Raw {
        node: one(&mut root, "node", |node| node.string("name")),
        socket: one(&mut root, "control", |control| control.string("socket")),
        listen: one(&mut root, "metrics", |metrics| metrics.string("listen")),
        state_dir: one(&mut root, "state", |state| state.string("dir")),
        helper: one(&mut root, "privilege", |privilege| privilege.string("helper")),
        underlay: one(&mut root, "underlay", underlay),
        offload: one(&mut root, "offload", |offload| super::Offload {
            tap_gso: toggle(offload, "tap_gso"),
            udp_gso: toggle(offload, "udp_gso"),
            udp_gro: toggle(offload, "udp_gro"),
        }),
        segments: root.tables("segment", segment),
        ports: root.tables("port", port),
        cluster: optional(&mut root, "cluster", cluster),
    };
    root.finish();
    raw
}

fn one<T>(
    root: &mut Section<'_, '_>,
    key: &'static str,
    read: impl FnOnce(&mut Section<'_, '_>) -> T,
) -> T {
    let mut section = root.table(key);
    let value = read(&mut section);
    section.finish();
    value
}

/// The table under `key`, if it is there.
fn optional<T>(
    section: &mut Section<'_, '_>,
    key: &'static str,
    read: impl FnOnce(&mut Section<'_, '_>) -> T,
) -> Option<T> {
    let there = section.has(key);
    let value = one(section, key, read);
    there.then_some(value)
}

fn cluster(section: &mut Section<'_, '_>) -> RawCluster {
    section.must_be_there("network");
    RawCluster {
        name: section.string("name"),
        network: section.strings("network"),
        node_prefix: section.integer("node_prefix", 1..=32),
        node_prefix_ipv6: section.integer("node_prefix_ipv6", 1..=128),
        vni: section.integer("vni", VNI),
        mode: section.string("mode"),
        direct_routing: section.boolean("direct_routing"),
        multicast: section.string("multicast"),
        gateway: section.string("gateway"),
        masquerade: section.boolean("masquerade"),
        non_masquerade: section.strings("non_masquerade"),
        service_networks: section.strings("service_networks"),
        addresses: section.strings("addresses"),
        rest: section.string("rest"),
        attach: section.string("attach"),
        conflist: section.string("conflist"),
        store: section.string("store"),
        nodes: section.tables("node", |node| RawNode {
            name: node.required("name"),
            address: node.required("address"),
            pod_cidrs: node.strings("pod_cidrs"),
            addresses: node.strings("addresses"),
        }),
        etcd: optional(section, "etcd", |etcd| RawEtcd {
            endpoints: etcd.strings("endpoints"),
            prefix: etcd.string("prefix"),
            ca: etcd.string("ca"),
            cert: etcd.string("cert"),
            key: etcd.string("key"),
            user: etcd.string("user"),
            password_file: etcd.string("password_file"),
            lease: etcd.string("lease"),
            grace: etcd.string("grace"),
        }),
        kubernetes: optional(section, "kubernetes", |kubernetes| RawKubernetes {
            kubeconfig: kubernetes.string("kubeconfig"),
            node: kubernetes.string("node"),
        }),
    }
}

fn underlay(section: &mut Section<'_, '_>) -> RawUnderlay {
    RawUnderlay {
        address: section.string("address"),
        interface: section.string("interface"),
        port: section.integer("port", 1..=65_535),
        udp_checksum: section.boolean("udp_checksum"),
        workers: section.integer("workers", 0..=256),
        dscp: dscp(section),
        rcvbuf: section.integer("rcvbuf", BUFFER),
        sndbuf: section.integer("sndbuf", BUFFER),
        spin_us: section.integer("spin_us", 0..=1000),
    }
}

fn segment(section: &mut Section<'_, '_>) -> SegmentSpec {
    section.must_be_there("vni");
    SegmentSpec {
        name: section.required("name"),
        vni: section.integer("vni", VNI).unwrap_or_default(),
        peers: section.strings("peers"),
        multicast: section.string("multicast"),
        learning: section.boolean("learning"),
        aging: section.string("aging"),
        max_macs: section.integer("max_macs", 1..=MAX_MACS),
        unknown_unicast: section.string("unknown_unicast"),
        strict_peers: section.boolean("strict_peers"),
        strict_header: section.boolean("strict_header"),
    }
}

fn port(section: &mut Section<'_, '_>) -> PortSpec {
    PortSpec {
        name: section.required("name"),
        kind: section.string("kind"),
        segment: section.string("segment"),
        trunk: section.tables("trunk", |entry| {
            entry.must_be_there("vlan");
            TrunkSpec {
                vlan: entry.integer("vlan", VLAN).unwrap_or_default(),
                segment: entry.required("segment"),
            }
        }),
        native: section.string("native"),
        netns: section.string("netns"),
        ifname: section.string("ifname"),
        mac: section.string("mac"),
        addresses: section.strings("addresses"),
        routes: section.tables("routes", |entry| RouteSpec {
            to: entry.required("to"),
            via: entry.string("via"),
        }),
        mtu: section.integer("mtu", MTU),
        pod: None,
    }
}

fn toggle(section: &mut Section<'_, '_>, key: &'static str) -> Toggle {
    match section.value(key) {
        None => Toggle::Auto,
        Some(DeValue::Boolean(true)) => Toggle::On,
        Some(DeValue::Boolean(false)) => Toggle::Off,
        Some(DeValue::String(text)) if text == "auto" => Toggle::Auto,
        Some(other) => {
            section.say(key, wrong_type("", "\"auto\", true or false", other).message);
            Toggle::Auto
        }
    }
}

fn dscp(section: &mut Section<'_, '_>) -> Dscp {
    const KEY: &str = "dscp";
    match section.value(KEY) {
        None => Dscp::default(),
        Some(DeValue::Integer(_)) => {
            let value = section.integer(KEY, 0..=63).and_then(|value| u8::try_from(value).ok());
            value.map_or_else(Dscp::default, Dscp::Fixed)
        }
        Some(DeValue::String(text)) if text == "inherit" => Dscp::Inherit,
        Some(other) => {
            section.say(KEY, wrong_type("", "\"inherit\" or 0 to 63", other).message);
            Dscp::default()
        }
    }
}
