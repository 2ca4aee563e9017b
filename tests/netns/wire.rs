//! What is on the wire, read by tshark: RFC 7348 field by field.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use lab::capture::{Capture, Captured};
use lab::overlay::{Overlay, Plan, UNDERLAY};
use lab::traffic::{ping, tcp, udp};

use crate::common::start;

/// Traffic of all kinds between two nodes, seen by the second node's card.
fn captured(over_ipv6: bool) -> Result<(Overlay, Captured)> {
    let mut overlay = start(&Plan { over_ipv6, ..Plan::default() })?;
    for node in &overlay.nodes {
        node.space.honest(UNDERLAY)?;
        // Before the card merges anything: the capture then has what a cable would have.
        node.space.offloads(UNDERLAY, "gro off")?;
    }
    let capture = Capture::start(&overlay.nodes[1].space, UNDERLAY)?;
    let (a, b) = (&overlay.pods[0][0], &overlay.pods[1][0]);
    for host in b.hosts() {
        ping::ping(&a.space, host, 3, 56)?;
        udp::echo(&a.space, &b.space, host, &[1, 700, 1400, 3000])?;
        udp::segmented(&a.space, &b.space, host, 500, 20, 3)?;
        for _ in 0..8 {
            tcp::transfer(&a.space, &b.space, host, (100_000, 100_000))?;
        }
    }
    overlay.assert_sound()?;
    Ok((overlay, capture.stop()?))
}

pub(crate) fn every_field_is_as_rfc_7348_wants_it_over_ipv4() -> Result<()> {
    let (overlay, wire) = captured(false)?;
    let fields = [
        "ip.ttl",
        "ip.flags.df",
        "ip.flags.mf",
        "ip.frag_offset",
        "ip.checksum.status",
        "udp.dstport",
        "udp.checksum.status",
        "vxlan.flags",
        "vxlan.vni",
        "vxlan.reserved8",
        "vxlan.gbp",
        "frame.len",
        "ip.src",
        "udp.srcport",
    ];
    let rows = wire.fields("vxlan", &fields)?;
    ensure!(rows.len() > 1000, "only {} datagrams captured", rows.len());
    let nodes: BTreeSet<String> = overlay.nodes.iter().map(|node| node.v4.to_string()).collect();
    let mut senders = BTreeSet::new();
    for row in &rows {
        // The first value of a field that occurs twice is the outer header's.
        let outer: Vec<&str> =
            row.iter().map(|value| value.split(',').next().unwrap_or("")).collect();
        let [
            ttl,
            df,
            mf,
            offset,
            ip_sum,
            to,
            udp_sum,
            flags,
            vni,
            reserved,
            policy,
            length,
            from,
            port,
        ] = outer.as_slice()
        else {
            anyhow::bail!("{} fields in {row:?}", row.len());
        };
        ensure!((*ttl, *df, *mf, *offset) == ("64", "1", "0", "0"), "IPv4 header: {row:?}");
        ensure!(*ip_sum == "1" || *ip_sum == "Good", "IPv4 checksum: {row:?}");
        ensure!((*to, *flags, *vni) == ("4789", "0x0800", "100"), "VXLAN header: {row:?}");
        ensure!((*reserved, *policy) == ("0", "0"), "reserved bits: {row:?}");
        ensure!(*udp_sum == "1", "UDP checksum: {row:?}");
        ensure!(length.parse::<u32>()? <= 1514, "longer than the cable takes: {row:?}");
        ensure!(port.parse::<u16>()? >= 49152, "source port: {row:?}");
        senders.insert((*from).to_owned());
    }
    ensure!(senders == nodes, "{senders:?}");
    sums_inside(&wire)?;
    ports_follow_flows(&wire)
}

pub(crate) fn every_field_is_as_rfc_7348_wants_it_over_ipv6() -> Result<()> {
    let (_overlay, wire) = captured(true)?;
    let fields = [
        "ipv6.hlim",
        "udp.dstport",
        "udp.checksum.status",
        "vxlan.flags",
        "vxlan.vni",
        "vxlan.reserved8",
        "vxlan.gbp",
        "frame.len",
        "udp.srcport",
        "ipv6.fraghdr.offset",
    ];
    let rows = wire.fields("vxlan", &fields)?;
    ensure!(rows.len() > 1000, "only {} datagrams captured", rows.len());
    for row in &rows {
        let outer: Vec<&str> =
            row.iter().map(|value| value.split(',').next().unwrap_or("")).collect();
        let [hops, to, sum, flags, vni, reserved, policy, length, port, _inner_fragments] =
            outer.as_slice()
        else {
            anyhow::bail!("{} fields in {row:?}", row.len());
        };
        ensure!((*hops, *to, *sum) == ("64", "4789", "1"), "outer headers: {row:?}");
        ensure!(
            (*flags, *vni, *reserved, *policy) == ("0x0800", "100", "0", "0"),
            "VXLAN: {row:?}"
        );
        ensure!(length.parse::<u32>()? <= 1514, "longer than the cable takes: {row:?}");
        ensure!(port.parse::<u16>()? >= 49152, "source port: {row:?}");
    }
    // A fragment header in front of the outer UDP header would put the protocol number 44 there.
    let fragmented = wire.fields("ipv6.nxt == 44 and not vxlan", &["frame.number"])?;
    ensure!(fragmented.is_empty(), "outer fragments: {fragmented:?}");
    sums_inside(&wire)?;
    ports_follow_flows(&wire)
}

/// Inner TCP and UDP checksums are finished on the wire.
fn sums_inside(wire: &Captured) -> Result<()> {
    let bad = wire.fields(
        "tcp.checksum.status == 0 or (udp.checksum.status == 0) or ip.checksum.status == 0",
        &["frame.number", "tcp.checksum.status", "udp.checksum.status"],
    )?;
    ensure!(bad.is_empty(), "{} frames with a bad checksum, first {:?}", bad.len(), bad.first());
    Ok(())
}

/// One inner TCP connection, one outer source port per direction; many connections, many ports.
fn ports_follow_flows(wire: &Captured) -> Result<()> {
    let rows = wire.fields("vxlan and tcp", &["tcp.srcport", "tcp.dstport", "udp.srcport"])?;
    let mut ports: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for row in rows {
        let [from, to, outer] = row.as_slice() else { anyhow::bail!("{row:?}") };
        ports.entry((from.clone(), to.clone())).or_default().insert(outer.clone());
    }
    ensure!(ports.len() >= 32, "only {} flows", ports.len());
    for (flow, outer) in &ports {
        ensure!(outer.len() == 1, "flow {flow:?} has outer ports {outer:?}");
    }
    let used: BTreeSet<&String> = ports.values().flatten().collect();
    ensure!(used.len() >= 8, "{} flows share {} outer ports", ports.len(), used.len());
    Ok(())
}

pub(crate) fn congestion_marks_are_copied_out_and_in() -> Result<()> {
    let mut overlay = start(&Plan::default())?;
    let capture = Capture::start(&overlay.nodes[1].space, UNDERLAY)?;
    let (a, b) = (&overlay.pods[0][0], &overlay.pods[1][0]);
    let far = b.space.run(|| std::net::UdpSocket::bind((b.v4.addr(), 0)))??;
    let target = far.local_addr()?;
    far.set_read_timeout(Some(std::time::Duration::from_secs(3)))?;
    for ecn in 0..4_u32 {
        let near = a.space.run(|| std::net::UdpSocket::bind("0.0.0.0:0"))??;
        socket2::SockRef::from(&near).set_tos_v4(ecn).context("TOS")?;
        near.send_to(&[0xa0 | ecn as u8; 33], target)?;
        far.recv(&mut [0; 64])?;
    }
    let wire = capture.stop()?;
    let rows = wire.fields("vxlan and udp.length == 41", &["ip.dsfield.ecn"])?;
    let seen: BTreeSet<&str> =
        rows.iter().filter_map(|row| row.first()).map(String::as_str).collect();
    // RFC 6040 section 4.1, normal mode: the outer field is the inner one.
    ensure!(seen == BTreeSet::from(["0,0", "1,1", "2,2", "3,3"]), "outer,inner: {seen:?}");
    overlay.assert_sound()
}
