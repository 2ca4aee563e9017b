//! What the engine's tests share: frames by their parts, a sink that records, and the counters read
//! back.
#![allow(dead_code, reason = "each test binary uses its own part of the kit")]

use encap::{FlowHash, Frame, MacAddr, Offload, StationMac, Vni};
use fdb::{PortId, VtepId};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use switch::{
    Counters, DropReason, PortModeSpec, PortRole, PortSpec, Reading, Remote, SegmentSpec, Sink,
    Topology, read_port, read_stranger, read_vtep,
};

/// 802.1Q.
pub(crate) const C_TAG: u16 = 0x8100;
/// 802.1ad.
pub(crate) const S_TAG: u16 = 0x88a8;
/// An EtherType that nobody interprets (IEEE 802, local experiments).
pub(crate) const OPAQUE: u16 = 0x88b5;

/// Reasons that only a cluster segment gives.
pub(crate) const ROUTED: [DropReason; 9] = [
    DropReason::SpoofedMac,
    DropReason::SpoofedAddress,
    DropReason::NotGateway,
    DropReason::NotIp,
    DropReason::IpMalformed,
    DropReason::LinkControl,
    DropReason::PodToVtep,
    DropReason::TtlExceeded,
    DropReason::NoRoute,
];

/// A tag as TPID and TCI.
pub(crate) type RawTag = (u16, u16);

/// The station's address `02:00:00:00:00:n`.
pub(crate) fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

/// The same as the address of a station.
pub(crate) fn station(n: u8) -> StationMac {
    mac(n).station().unwrap()
}

/// The VTEP `192.0.2.n`.
pub(crate) fn vtep_ip(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, n))
}

/// The frame with these parts, tags outermost first.
pub(crate) fn ethernet(
    dst: MacAddr,
    src: MacAddr,
    tags: &[RawTag],
    ethertype: u16,
    l3: &[u8],
) -> Vec<u8> {
    let mut bytes = [dst.0, src.0].concat();
    for (tpid, tci) in tags {
        bytes.extend(tpid.to_be_bytes());
        bytes.extend(tci.to_be_bytes());
    }
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(l3);
    bytes
}

/// `untagged` with a tag behind its addresses.
pub(crate) fn with_tag(untagged: &[u8], tag: Option<RawTag>) -> Vec<u8> {
    let (macs, rest) = untagged.split_at(12);
    let tag = tag.map(|(tpid, tci)| [tpid.to_be_bytes(), tci.to_be_bytes()].concat());
    [macs, &tag.unwrap_or_default(), rest].concat()
}

/// All bytes of a frame as one unit.
pub(crate) fn bytes_of(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = frame.head.to_vec();
    frame.body.iter().for_each(|slice| bytes.extend_from_slice(slice));
    bytes
}

/// A segment with the defaults of the configuration.
pub(crate) fn segment(name: &str, vni: u32, peers: &[u8]) -> SegmentSpec {
    SegmentSpec {
        name: name.to_owned(),
        vni: Vni::new(vni).unwrap(),
        peers: peers.iter().map(|n| SocketAddr::new(vtep_ip(*n), 4789)).collect(),
        multicast: None,
        learning: true,
        flood_unknown: true,
        strict_peers: true,
        strict_header: false,
        cluster: None,
    }
}

/// A port that is up, with an MTU of 1450.
pub(crate) fn port(name: &str, mode: PortModeSpec) -> PortSpec {
    PortSpec {
        name: name.to_owned(),
        mode,
        mtu: 1450,
        mac: None,
        up: true,
        role: PortRole::Station,
    }
}

/// Untagged, in this segment.
pub(crate) fn access(segment: &str) -> PortModeSpec {
    PortModeSpec::Access(segment.to_owned())
}

/// Tagged, VLAN by VLAN.
pub(crate) fn trunk(vlans: &[(u16, &str)], native: Option<&str>) -> PortModeSpec {
    let vlan = |id| encap::VlanId::new(id).unwrap();
    PortModeSpec::Trunk {
        vlans: vlans.iter().map(|(id, name)| (vlan(*id), (*name).to_owned())).collect(),
        native: native.map(str::to_owned),
    }
}

/// Something the engine handed to its sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    ToPort {
        port: PortId,
        mtu: u16,
        bytes: Vec<u8>,
        offload: Offload,
    },
    ToVteps {
        vteps: Vec<VtepId>,
        vni: Vni,
        flow: FlowHash,
        tos: u8,
        bytes: Vec<u8>,
        offload: Offload,
    },
}

/// Keeps what the engine sends.
#[derive(Debug, Default)]
pub(crate) struct Recorder(pub(crate) Vec<Sent>);

impl Sink for Recorder {
    fn to_port(&mut self, port: PortId, mtu: u16, frame: &Frame<'_>) {
        let (bytes, offload) = (bytes_of(frame), frame.offload);
        self.0.push(Sent::ToPort { port, mtu, bytes, offload });
    }

    fn to_vteps(&mut self, remote: Remote<'_>, frame: &Frame<'_>) {
        let Remote { vteps, vni, flow, tos } = remote;
        let (vteps, bytes, offload) = (vteps.to_vec(), bytes_of(frame), frame.offload);
        self.0.push(Sent::ToVteps { vteps, vni, flow, tos, bytes, offload });
    }
}

/// Runs the rows of a table, each in a world of its own, and names all that fail.
pub(crate) fn check_rows<R>(rows: &[R], name: impl Fn(&R) -> &'static str, run: impl Fn(&R)) {
    let mut seen = BTreeSet::new();
    let failed: Vec<&str> = rows
        .iter()
        .filter(|row| {
            assert!(seen.insert(name(row)), "two rows are called \"{}\"", name(row));
            let outcome = catch_unwind(AssertUnwindSafe(|| run(row)));
            if outcome.is_err() {
                eprintln!("^ row: {}\n", name(row));
            }
            outcome.is_err()
        })
        .map(&name)
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Every ingress of a topology, and the strangers, each with its name.
pub(crate) fn readings(topology: &Topology, counters: &Counters) -> Vec<(String, Reading)> {
    let counters = [counters];
    let ports = topology.ports().map(|p| (p.spec.name.clone(), read_port(counters, p.id)));
    let vteps = topology.vteps().map(|v| (v.address.ip().to_string(), read_vtep(counters, v.id)));
    let stranger = ("stranger".to_owned(), read_stranger(counters));
    ports.chain(vteps).chain([stranger]).collect()
}
