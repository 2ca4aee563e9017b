//! Daemons among themselves, with each setting that changes a frame's path turned to its other side.

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::config::Segment;
use lab::daemon::Daemon;
use lab::overlay::{Overlay, Plan, UNDERLAY, VNI};
use lab::tool::eventually;
use lab::traffic::frames::{BROADCAST, EXPERIMENTAL, Frames, frame, text_of};
use lab::traffic::{ping, tcp};
use lab::world::net;
use tapestry::device::netlink::LinkChange;

use crate::common::{exchange, exchange_cleanly, row, start, still_forwarding, tapestry};

const PATIENCE: Duration = Duration::from_secs(10);

/// Everything goes both ways with these lines in each config.
fn exchanged_with(plan: &Plan) -> Result<Overlay> {
    let mut overlay = start(plan)?;
    let (a, b) = (&overlay.pods[0][0], &overlay.pods[1][0]);
    exchange_cleanly(a, b, 8)?;
    overlay.assert_sound()?;
    Ok(overlay)
}

pub(crate) fn two_workers_and_queues() -> Result<()> {
    let plan = Plan { underlay_extra: "workers = 2".to_owned(), ..Plan::default() };
    let mut overlay = start(&plan)?;
    let (a, b) = (&overlay.pods[0][0], &overlay.pods[1][0]);
    // A flow that moves between queues may be overtaken by itself, so segments may be sent again.
    exchange(a, b, 8)?;
    let port = row(&overlay.daemons[0], "port list", "name", "pod1")?;
    ensure!(port["queues"] == 2, "{port}");
    let status = overlay.daemons[0].json("status")?;
    ensure!(status["workers"].as_array().map(Vec::len) == Some(2), "{status}");
    overlay.assert_sound()
}

pub(crate) fn zero_outer_checksums() -> Result<()> {
    for over_ipv6 in [false, true] {
        let underlay_extra = "udp_checksum = false".to_owned();
        exchanged_with(&Plan { over_ipv6, underlay_extra, ..Plan::default() })?;
    }
    Ok(())
}

pub(crate) fn no_offload_at_all() -> Result<()> {
    let extra = "[offload]\ntap_gso = false\nudp_gso = false\nudp_gro = false\n".to_owned();
    let overlay = exchanged_with(&Plan { extra, ..Plan::default() })?;
    let status = overlay.daemons[0].json("status")?;
    let offloads = status["offloads"].as_array().cloned().unwrap_or_default();
    ensure!(offloads.len() == 5 && offloads.iter().all(|one| one["state"] == "off"), "{status}");
    Ok(())
}

/// One node cuts and joins itself, the other leaves it to the kernel.
pub(crate) fn offloads_on_one_side_only() -> Result<()> {
    let mut overlay = Overlay::build(&Plan::default())?;
    overlay.configs[0].extra = "[offload]\ntap_gso = false\nudp_gro = false\n".to_owned();
    for (node, config) in overlay.nodes.iter().zip(&overlay.configs) {
        overlay.daemons.push(Daemon::start(&tapestry(), &node.space, config)?);
    }
    exchange_cleanly(&overlay.pods[0][0], &overlay.pods[1][0], 8)?;
    overlay.assert_sound()
}

pub(crate) fn flooding_by_multicast() -> Result<()> {
    for (over_ipv6, group) in [(false, "239.1.1.100"), (true, "ff05::100")] {
        let plan = Plan { nodes: 3, over_ipv6, ..Plan::default() };
        let mut overlay = Overlay::build(&plan)?;
        for config in &mut overlay.configs {
            let mut segment = Segment::new("blue", VNI, &[]);
            segment.extra = format!("multicast = \"{group}\"");
            config.segments = vec![segment];
        }
        for (node, config) in overlay.nodes.iter().zip(&overlay.configs) {
            overlay.daemons.push(Daemon::start(&tapestry(), &node.space, config)?);
        }
        let (a, c) = (overlay.pods[0][0].clone(), overlay.pods[2][0].clone());
        // The first frames make the nodes known to one another.
        ping::until_answered(&a.space, c.hosts()[0], PATIENCE)?;
        eventually(PATIENCE, "both have learned where the other is", || {
            ping::ping(&a.space, c.hosts()[0], 1, 56)?;
            let mac = crate::common::mac_of(&c)?;
            Ok(row(&overlay.daemons[0], "fdb list", "mac", &mac).is_ok())
        })?;
        exchange(&a, &c, 2)?;
        overlay.assert_sound()?;
    }
    Ok(())
}

pub(crate) fn a_trunk_meets_an_access_port() -> Result<()> {
    let mut overlay = Overlay::build(&Plan::default())?;
    let trunk = &mut overlay.configs[0].ports[0];
    trunk.segment = None;
    trunk.extra = "trunk = [{ vlan = 10, segment = \"blue\" }]".to_owned();
    for (node, config) in overlay.nodes.iter().zip(&overlay.configs) {
        overlay.daemons.push(Daemon::start(&tapestry(), &node.space, config)?);
    }
    let (a, b) = (&overlay.pods[0][0], &overlay.pods[1][0]);
    let (speaker, ear) = (Frames::open(&a.space, "eth0")?, Frames::open(&b.space, "eth0")?);
    let tagged = |vlan: u16, text: &str| {
        let inner = [&EXPERIMENTAL.to_be_bytes()[..], text.as_bytes()].concat();
        let tag = [&vlan.to_be_bytes()[..], &inner].concat();
        frame(BROADCAST, speaker.mac(), 0x8100, &tag)
    };
    speaker.send(&tagged(20, "another VLAN"))?;
    speaker.say(BROADCAST, "no VLAN")?;
    speaker.send(&tagged(10, "the trunk's VLAN"))?;
    let heard = ear.wait_for("the frame of VLAN 10", |bytes| text_of(bytes).is_some())?;
    ensure!(text_of(&heard).as_deref() == Some("the trunk's VLAN"), "{heard:x?}");
    for reason in ["vlan_unknown", "vlan_untagged"] {
        eventually(PATIENCE, reason, || Ok(overlay.daemons[0].drops(reason)? >= 1))?;
    }
    overlay.assert_sound()
}

/// A port that may send more than the tunnel takes: its guest is told, and obeys.
pub(crate) fn a_guest_learns_that_the_tunnel_is_narrower() -> Result<()> {
    let mut overlay = Overlay::build(&Plan { mtu: 1400, ..Plan::default() })?;
    for config in &mut overlay.configs {
        config.ports[0].extra = "mtu = 1450".to_owned();
    }
    for (node, config) in overlay.nodes.iter().zip(&overlay.configs) {
        overlay.daemons.push(Daemon::start(&tapestry(), &node.space, config)?);
    }
    let (a, b) = (&overlay.pods[0][0], &overlay.pods[1][0]);
    for (host, told) in b.hosts().into_iter().zip(1..) {
        ping::until_answered(&a.space, host, PATIENCE)?;
        // What does not fit must not be fragmented on the way, so the first one is answered by the
        // switch; the next ones leave in pieces that fit.
        eventually(PATIENCE, "a large ping is answered", || {
            Ok(ping::ping(&a.space, host, 1, 1390).is_ok())
        })?;
        let answered = overlay.daemons[0].json("status")?["totals"]["answered"].as_u64();
        ensure!(answered >= Some(told), "{answered:?} frames answered");
        tcp::transfer(&a.space, &b.space, host, (4 << 20, 4 << 20))?;
    }
    overlay.assert_sound()
}

pub(crate) fn ports_follow_the_underlays_mtu() -> Result<()> {
    let mut overlay = start(&Plan::default())?;
    let (a, b) = (overlay.pods[0][0].clone(), overlay.pods[1][0].clone());
    for node in &overlay.nodes {
        node.space.change(UNDERLAY, &LinkChange { mtu: Some(1400), ..LinkChange::default() })?;
    }
    eventually(PATIENCE, "both ports have the smaller MTU", || {
        Ok([&a, &b].iter().all(|pod| pod.space.link("eth0").is_ok_and(|link| link.mtu == 1350)))
    })?;
    tcp::transfer(&a.space, &b.space, b.hosts()[0], (8 << 20, 8 << 20))?;
    overlay.assert_sound()
}

/// The VTEP is where its interface's address is, also after that has changed.
pub(crate) fn the_vtep_follows_its_interface() -> Result<()> {
    let mut overlay = Overlay::build(&Plan::default())?;
    let moved_to = net("192.0.2.77/24")?;
    overlay.configs[1].segments[0].peers.push(moved_to.addr());
    let mut first = Daemon::prepare(&tapestry(), &overlay.nodes[0].space)?;
    let address = format!("address = \"{}\"", overlay.nodes[0].v4);
    let text = first.text_of(&overlay.configs[0]);
    ensure!(text.contains(&address));
    first.write_config(&text.replace(&address, &format!("interface = \"{UNDERLAY}\"")))?;
    first.launch()?;
    overlay.daemons.push(first);
    let node = &overlay.nodes[1];
    overlay.daemons.push(Daemon::start(&tapestry(), &node.space, &overlay.configs[1])?);
    let (a, b) = (overlay.pods[0][0].clone(), overlay.pods[1][0].clone());
    ping::until_answered(&a.space, b.hosts()[0], PATIENCE)?;

    let space = overlay.nodes[0].space.clone();
    let index = space.link(UNDERLAY)?.index;
    let before = net(&format!("{}/24", overlay.nodes[0].v4))?;
    let ready = |daemon: &Daemon, want: bool| -> Result<bool> {
        Ok(daemon.json("status")?["ready"] == want)
    };
    // It goes and comes back as it was.
    space.netlink(|netlink| netlink.delete_address(index, before))??;
    eventually(PATIENCE, "no address is told", || ready(&overlay.daemons[0], false))?;
    space.address(UNDERLAY, before)?;
    eventually(PATIENCE, "all is well again", || ready(&overlay.daemons[0], true))?;
    ping::until_answered(&a.space, b.hosts()[0], PATIENCE)?;
    space.netlink(|netlink| netlink.delete_address(index, before))??;
    space.address(UNDERLAY, moved_to)?;
    eventually(PATIENCE, "the VTEP has the new address", || {
        let status = overlay.daemons[0].json("status")?;
        Ok(status["underlay"]["address"] == moved_to.addr().to_string().as_str())
    })?;
    ping::until_answered(&a.space, b.hosts()[0], PATIENCE)?;
    still_forwarding(&a, &b)?;
    overlay.daemons[0].allow(&["underlay"]);
    overlay.assert_sound()
}

/// What a reload can change of the underlay: the DSCP, the address, and groups.
pub(crate) fn a_reload_changes_the_underlay() -> Result<()> {
    let mut overlay = Overlay::build(&Plan::default())?;
    let second = net("192.0.2.88/24")?;
    overlay.nodes[0].space.address(UNDERLAY, second)?;
    overlay.configs[1].segments[0].peers.push(second.addr());
    for (node, config) in overlay.nodes.iter().zip(&overlay.configs) {
        overlay.daemons.push(Daemon::start(&tapestry(), &node.space, config)?);
    }
    let (a, b) = (overlay.pods[0][0].clone(), overlay.pods[1][0].clone());
    ping::until_answered(&a.space, b.hosts()[0], PATIENCE)?;
    let mut config = overlay.configs[0].clone();

    config.underlay_extra = "dscp = 46".to_owned();
    overlay.daemons[0].configure(&config)?;
    let report = overlay.daemons[0].cli("reload")?;
    ensure!(report.contains("dscp"), "{report}");
    still_forwarding(&a, &b)?;

    let mut group = Segment::new("grouped", 300, &[]);
    group.extra = "multicast = \"239.1.1.101\"".to_owned();
    config.segments.push(group);
    overlay.daemons[0].configure(&config)?;
    overlay.daemons[0].cli("reload")?;
    still_forwarding(&a, &b)?;

    config.underlay = second.addr();
    overlay.daemons[0].configure(&config)?;
    let report = overlay.daemons[0].cli("reload")?;
    ensure!(report.contains("192.0.2.88"), "{report}");
    ping::until_answered(&a.space, b.hosts()[0], PATIENCE)?;
    still_forwarding(&b, &a)?;

    // What cannot be changed while running is refused, and changes nothing.
    config.underlay_extra = "workers = 2".to_owned();
    overlay.daemons[0].configure(&config)?;
    let (code, why) = overlay.daemons[0].refusal("reload")?;
    ensure!(code == 1 && why.contains("underlay.workers"), "{code}: {why}");
    still_forwarding(&a, &b)?;
    overlay.assert_sound()
}

/// A daemon that does not get round to its socket loses what does not fit, says how much, and goes
/// on.
pub(crate) fn a_receive_buffer_overflows() -> Result<()> {
    let underlay_extra = "rcvbuf = 65536".to_owned();
    let mut overlay = start(&Plan { underlay_extra, ..Plan::default() })?;
    let (a, b) = (overlay.pods[0][0].clone(), overlay.pods[1][0].clone());
    ping::until_answered(&a.space, b.hosts()[0], PATIENCE)?;
    let lost = || overlay.nodes[1].space.snmp("Udp", "RcvbufErrors");
    ensure!(lost()? == 0);
    overlay.daemons[1].freeze()?;
    let flood = lab::traffic::udp::segmented(&a.space, &b.space, b.hosts()[0], 1000, 60, 0);
    ensure!(flood.is_err(), "a stopped daemon has delivered");
    let socket = a.space.run(|| UdpSocket::bind((a.v4.addr(), 0)))??;
    for _ in 0..500 {
        socket.send_to(&[0x5a; 1400], (b.v4.addr(), 9))?;
    }
    // The other node's daemon has yet to carry them: one that goes on too early takes them all.
    eventually(PATIENCE, "the kernel drops datagrams", || Ok(lost()? > 0))?;
    overlay.daemons[1].thaw()?;
    ping::until_answered(&a.space, b.hosts()[0], PATIENCE)?;
    still_forwarding(&a, &b)?;
    let drops = overlay.daemons[1].json("status")?["totals"]["socket_drops"].as_u64();
    ensure!(drops > Some(0) && drops == Some(lost()?), "{drops:?} and {} datagrams lost", lost()?);
    ensure!(overlay.daemons[1].drops("receive_buffer")? > 0);
    overlay.assert_sound()
}
