//! Hostile input, from the underlay and from a pod: each row a drop with its name, nothing learned,
//! and a daemon that goes on forwarding.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lab::config::Segment;
use lab::daemon::Daemon;
use lab::overlay::{Overlay, Plan, UNDERLAY};
use lab::tool::eventually;
use lab::traffic::frames::{EXPERIMENTAL, Frames, frame};
use lab::traffic::ping;
use lab::world::net;
use socket2::SockRef;

use crate::common::{known, rows, still_forwarding, tapestry};

/// The source of frames that must not be learned.
const EVIL: [u8; 6] = [0x02, 0xbd, 0, 0, 0, 0x66];

/// Somebody unknown to everybody.
const NOBODY: [u8; 6] = [0x02, 0xde, 0xad, 0, 0, 1];

const PATIENCE: Duration = Duration::from_secs(3);

/// Where a datagram comes from.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// A listed peer of segment blue.
    Peer,
    /// An address of no peer.
    Unknown,
    /// The daemon's own VTEP.
    Itself,
    /// The listed peer, with congestion experienced in the outer header.
    Congested,
}

struct Row {
    name: String,
    from: Source,
    datagram: Vec<u8>,
    reason: &'static str,
}

fn row(name: impl Into<String>, from: Source, datagram: Vec<u8>, reason: &'static str) -> Row {
    Row { name: name.into(), from, datagram, reason }
}

/// The VXLAN header of RFC 7348 section 5, and a frame behind it.
fn vxlan(header: [u8; 8], inner: &[u8]) -> Vec<u8> {
    [header.as_slice(), inner].concat()
}

fn blue(inner: &[u8]) -> Vec<u8> {
    vxlan([8, 0, 0, 0, 0, 0, 100, 0], inner)
}

fn evil(to: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    frame(to, EVIL, kind, payload)
}

/// IPv4 without options and with a valid sum, Not-ECT, protocol 253 (RFC 3692).
fn ipv4(payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len()) as u16;
    let [high, low] = length.to_be_bytes();
    let mut header = [0x45, 0, high, low, 0, 0, 0, 0, 64, 253, 0, 0, 10, 9, 9, 9, 10, 9, 1, 1];
    let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [header.as_slice(), payload].concat()
}

fn outer_rows() -> Vec<Row> {
    use Source::{Congested, Itself, Peer, Unknown};
    let hello = evil(NOBODY, EXPERIMENTAL, b"hello");
    let mut rows = Vec::new();
    for length in 0..8 {
        let header = [8, 0, 0, 0, 0, 0, 100, 0];
        rows.push(row(
            format!("{length} bytes"),
            Peer,
            header[..length].to_vec(),
            "header_truncated",
        ));
    }
    for length in 0..14 {
        rows.push(row(
            format!("a frame of {length} bytes"),
            Peer,
            blue(&hello[..length]),
            "frame_truncated",
        ));
    }
    rows.extend([
        row("no I flag", Peer, vxlan([0, 0, 0, 0, 0, 0, 100, 0], &hello), "header_invalid"),
        row(
            "all flags but I",
            Peer,
            vxlan([0xf7, 0, 0, 0, 0, 0, 100, 0], &hello),
            "header_invalid",
        ),
        row("VNI 0", Peer, vxlan([8, 0, 0, 0, 0, 0, 0, 0], &hello), "vni_unknown"),
        row("VNI 101", Peer, vxlan([8, 0, 0, 0, 0, 0, 101, 0], &hello), "vni_unknown"),
        row("VNI ffffff", Peer, vxlan([8, 0, 0, 0, 255, 255, 255, 0], &hello), "vni_unknown"),
        row(
            "a segment of others",
            Peer,
            vxlan([8, 0, 0, 0, 0, 0, 200, 0], &hello),
            "peer_not_in_segment",
        ),
        row("an unknown VTEP", Unknown, blue(&hello), "peer_unknown"),
        row("its own address", Itself, blue(&hello), "reflected"),
        row(
            "congestion that the inside cannot carry",
            Congested,
            blue(&evil(NOBODY, 0x0800, &ipv4(b"x"))),
            "ecn_illegal",
        ),
        row("a tagged frame", Peer, blue(&evil(NOBODY, 0x8100, &[0, 10, 8, 0])), "inner_vlan"),
        row(
            "a frame tagged twice",
            Peer,
            blue(&evil(NOBODY, 0x88a8, &[0, 10, 0x81, 0, 0, 11, 8, 0])),
            "inner_vlan",
        ),
    ]);
    rows.extend(
        inner_rows().into_iter().map(|(name, frame, reason)| row(name, Peer, blue(&frame), reason)),
    );
    rows
}

/// Frames that neither a pod nor a peer may send.
fn inner_rows() -> Vec<(String, Vec<u8>, &'static str)> {
    let from = |source| frame(NOBODY, source, EXPERIMENTAL, b"hello");
    let mut rows = vec![
        ("from a multicast address".to_owned(), from([0x03, 0, 0, 0, 0, 1]), "source_mac_invalid"),
        ("from the broadcast address".to_owned(), from([0xff; 6]), "source_mac_invalid"),
        ("from no address".to_owned(), from([0; 6]), "source_mac_invalid"),
        ("to no address".to_owned(), evil([0; 6], EXPERIMENTAL, b"hello"), "dest_mac_invalid"),
        (
            "PAUSE".to_owned(),
            evil([0x01, 0x80, 0xc2, 0, 0, 1], 0x8808, &[0, 1, 255, 255]),
            "mac_control",
        ),
        (
            "MAC control to a station".to_owned(),
            evil(NOBODY, 0x8808, &[0, 1, 255, 255]),
            "mac_control",
        ),
    ];
    for last in [0, 2, 3, 0x0e, 0x0f] {
        let to = [0x01, 0x80, 0xc2, 0, 0, last];
        rows.push((
            format!("to 01:80:c2:00:00:{last:02x}"),
            evil(to, 0x88cc, b"hello"),
            "link_local",
        ));
    }
    rows
}

/// Two nodes, and a stranger whom both list as a peer of segment blue.
fn scene(segment_extra: &str) -> Result<Overlay> {
    let plan = Plan { strangers: 1, segment_extra: segment_extra.to_owned(), ..Plan::default() };
    let mut overlay = Overlay::build(&plan)?;
    let other = overlay.nodes[1].vtep(false);
    // Segment green has a peer, but not the stranger.
    overlay.configs[0].segments.push(Segment::new("green", 200, &[other]));
    overlay.nodes[2].space.address(UNDERLAY, net("192.0.2.77/24")?)?;
    for (node, config) in overlay.nodes.iter().zip(&overlay.configs) {
        let mut daemon = Daemon::start(&tapestry(), &node.space, config)?;
        // A warning about the first of its kind is what an operator wants.
        daemon.allow(&["drop", "reflected", "peer"]);
        overlay.daemons.push(daemon);
    }
    Ok(overlay)
}

fn send(overlay: &Overlay, from: Source, datagram: &[u8]) -> Result<()> {
    let (node, address): (_, IpAddr) = match from {
        Source::Peer | Source::Congested => (&overlay.nodes[2], overlay.nodes[2].v4.into()),
        Source::Unknown => (&overlay.nodes[2], [192, 0, 2, 77].into()),
        Source::Itself => (&overlay.nodes[0], overlay.nodes[0].v4.into()),
    };
    let socket = node.space.run(|| UdpSocket::bind(SocketAddr::new(address, 0)))??;
    if matches!(from, Source::Congested) {
        SockRef::from(&socket).set_tos_v4(3)?;
    }
    socket.send_to(datagram, (overlay.nodes[0].v4, 4789))?;
    Ok(())
}

fn ensure_not_learned(daemon: &Daemon) -> Result<()> {
    let known = known(daemon)?;
    ensure!(!known.contains("02:bd:00:00:00:66"), "it learned from a dropped frame: {known:?}");
    Ok(())
}

/// Waits until the reason's count is `by` higher, and makes sure it is no more than that.
fn ensure_counted(daemon: &Daemon, reason: &str, before: u64, by: u64) -> Result<()> {
    let mut count = 0;
    let rose = eventually(PATIENCE, reason, || {
        count = daemon.drops(reason)?;
        Ok(count >= before + by)
    });
    rose.with_context(|| {
        format!(
            "`{reason}` rose by {}, drops: {}",
            count - before,
            daemon.cli("drops").unwrap_or_default()
        )
    })?;
    ensure!(count == before + by, "`{reason}` rose by {}, not by {by}", count - before);
    Ok(())
}

pub(crate) fn each_bad_datagram_is_a_named_drop() -> Result<()> {
    let mut overlay = scene("")?;
    let (a, b) = (overlay.pods[0][0].clone(), overlay.pods[1][0].clone());
    still_forwarding(&a, &b)?;
    for Row { name, from, datagram, reason } in outer_rows() {
        let daemon = &overlay.daemons[0];
        let before = daemon.drops(reason)?;
        send(&overlay, from, &datagram)?;
        ensure_counted(daemon, reason, before, 1).with_context(|| name.clone())?;
        ensure_not_learned(daemon).with_context(|| name.clone())?;
        still_forwarding(&a, &b).with_context(|| format!("after: {name}"))?;
    }
    overlay.assert_sound()
}

pub(crate) fn each_bad_frame_of_a_pod_is_a_named_drop() -> Result<()> {
    let mut overlay = scene("")?;
    let (a, b) = (overlay.pods[0][0].clone(), overlay.pods[1][0].clone());
    let (mouth, ear) = (Frames::open(&a.space, "eth0")?, Frames::open(&b.space, "eth0")?);
    let tagged = [
        ("a tag", evil(NOBODY, 0x8100, &[0, 10, 8, 0]), "vlan_tagged"),
        ("a service tag", evil(NOBODY, 0x88a8, &[0, 10, 8, 0]), "vlan_tagged"),
        ("VLAN 4095", evil(NOBODY, 0x8100, &[0x0f, 0xff, 8, 0]), "vlan_tagged"),
    ];
    let tagged = tagged.map(|(name, frame, reason)| (name.to_owned(), frame, reason));
    for (name, frame, reason) in inner_rows().into_iter().chain(tagged) {
        let daemon = &overlay.daemons[0];
        let before = daemon.drops(reason)?;
        mouth.send(&frame)?;
        ensure_counted(daemon, reason, before, 1).with_context(|| name.clone())?;
        ensure_not_learned(daemon).with_context(|| name.clone())?;
        still_forwarding(&a, &b).with_context(|| format!("after: {name}"))?;
    }
    // None of them came out on the other side.
    mouth.say(ear.mac(), "last")?;
    ear.heard_until("last")?;
    overlay.assert_sound()
}

pub(crate) fn odd_but_legal_datagrams_are_delivered() -> Result<()> {
    let mut overlay = scene("")?;
    let pod = overlay.pods[0][0].clone();
    let ear = Frames::open(&pod.space, "eth0")?;
    let say = |text: &str| evil(ear.mac(), EXPERIMENTAL, text.as_bytes());
    let stranger = &overlay.nodes[2];
    let socket = |port: u16| stranger.space.run(|| UdpSocket::bind((stranger.v4, port)));
    let target = (overlay.nodes[0].v4, 4789);

    // Reserved bits are ignored on receipt (RFC 7348 section 5), each of the 39 of them.
    let any = socket(0)??;
    for bit in (0..64).filter(|bit| *bit != 4 && !(32..56).contains(bit)) {
        let header = (0x0800_0000_0000_6400_u64 | 1 << (63 - bit)).to_be_bytes();
        let text = format!("bit {bit}");
        any.send_to(&vxlan(header, &say(&text)), target)?;
        ear.wait_for(&text, |frame| {
            lab::traffic::frames::text_of(frame).as_deref() == Some(&text)
        })?;
    }
    // Ports that a hash would not choose.
    for port in [4789, 1, 1023] {
        let text = format!("port {port}");
        socket(port)??.send_to(&blue(&say(&text)), target)?;
        ear.wait_for(&text, |frame| {
            lab::traffic::frames::text_of(frame).as_deref() == Some(&text)
        })?;
    }
    // A priority tag names no VLAN (IEEE 802.1Q section 6.9).
    let tag = [&[0xe0, 0][..], &EXPERIMENTAL.to_be_bytes(), b"priority"].concat();
    any.send_to(&blue(&evil(ear.mac(), 0x8100, &tag)), target)?;
    ear.wait_for("priority", |got| got.windows(8).any(|bytes| bytes == b"priority"))?;
    // Padding behind the IP packet, a length field in place of a type, no payload at all, and VXLAN
    // for somebody else inside: all of them just frames.
    let mut padded = ipv4(b"padded");
    padded.resize(900, 0);
    let nested = ipv4(&blue(&say("nested")));
    let frames = [
        ("padded", evil(ear.mac(), 0x0800, &padded)),
        ("802.3", evil(ear.mac(), 46, &[0xaa, 0xaa, 3, 0, 0, 0, 1, 2])),
        ("bare", evil(ear.mac(), EXPERIMENTAL, b"")[..14].to_vec()),
        ("nested", evil(ear.mac(), 0x0800, &nested)),
    ];
    for (name, frame) in frames {
        any.send_to(&blue(&frame), target)?;
        ear.wait_for(name, |got| got == frame)?;
    }
    still_forwarding(&pod, &overlay.pods[1][0])?;
    overlay.assert_sound()
}

pub(crate) fn a_strict_segment_drops_each_reserved_bit() -> Result<()> {
    let mut overlay = scene("strict_header = true")?;
    let hello = evil(NOBODY, EXPERIMENTAL, b"hello");
    for bit in (0..64).filter(|bit| *bit != 4 && !(32..56).contains(bit)) {
        let header = (0x0800_0000_0000_6400_u64 | 1 << (63 - bit)).to_be_bytes();
        let before = overlay.daemons[0].drops("reserved_bits")?;
        send(&overlay, Source::Peer, &vxlan(header, &hello))?;
        ensure_counted(&overlay.daemons[0], "reserved_bits", before, 1)
            .with_context(|| format!("bit {bit}"))?;
    }
    ensure_not_learned(&overlay.daemons[0])?;
    still_forwarding(&overlay.pods[0][0], &overlay.pods[1][0])?;
    overlay.assert_sound()
}

pub(crate) fn giants_are_dropped_and_noise_does_no_harm() -> Result<()> {
    let mut overlay = scene("")?;
    let (a, b) = (overlay.pods[0][0].clone(), overlay.pods[1][0].clone());
    let stranger = &overlay.nodes[2];
    let socket = stranger.space.run(|| UdpSocket::bind((stranger.v4, 0)))??;
    let target = (overlay.nodes[0].v4, 4789);
    let daemon = &overlay.daemons[0];
    // Larger than any port takes: outer fragments that the kernel put together again.
    let received = || -> Result<(u64, u64)> {
        let totals = &daemon.json("status")?["totals"];
        Ok((
            totals["received"].as_u64().context("received")?,
            totals["dropped"].as_u64().context("dropped")?,
        ))
    };
    let mac = a.space.link("eth0")?.mac.context("no MAC")?.0;
    for size in [1600, 3000, 9000, 40_000, 65_400] {
        let before = received()?;
        socket.send_to(&blue(&evil(mac, EXPERIMENTAL, &vec![0x5a; size])), target)?;
        eventually(PATIENCE, &format!("a frame of {size} bytes is dropped"), || {
            Ok(received()?.1 > before.1)
        })?;
    }
    // Noise: every byte value, every length, from a listed peer.
    let noise = lab::traffic::pattern(99);
    for length in 0..1400 {
        let start = length * 7;
        socket.send_to(&noise[start..start + length], target)?;
        socket.send_to(&blue(&noise[start..start + length]), target)?;
    }
    still_forwarding(&a, &b)?;
    overlay.assert_sound()
}

pub(crate) fn a_flood_of_addresses_leaves_the_neighbours_their_entries() -> Result<()> {
    let mut overlay = scene("max_macs = 256")?;
    let (a, b) = (overlay.pods[0][0].clone(), overlay.pods[1][0].clone());
    still_forwarding(&a, &b)?;
    let flooder = Frames::open(&a.space, "eth0")?;
    for number in 0..5_000_u32 {
        let [_, x, y, z] = number.to_be_bytes();
        flooder.send(&frame(NOBODY, [0x02, 0xf1, 0, x, y, z], EXPERIMENTAL, b"flood"))?;
    }
    // The flood fills the pod's own ring; what is sent before it has drained may be lost there.
    ping::until_answered(&a.space, b.hosts()[0], PATIENCE)?;
    still_forwarding(&a, &b)?;
    let known = known(&overlay.daemons[0])?;
    // What is static, or the port's own, does not count against the limit.
    let entries = rows(&overlay.daemons[0], "fdb list")?;
    let learned = entries.iter().filter(|entry| entry["origin"] == "learned").count();
    ensure!(learned > 200, "only {learned} of 5000 addresses learned: the flood did not arrive");
    ensure!(learned <= 256, "{learned} entries for a limit of 256");
    ensure!(
        known.contains(&crate::common::mac_of(&b)?),
        "the remote pod lost its entry to the flood"
    );
    overlay.assert_sound()
}
