//! The engine inside another program: a switch with three ports, no daemon and no tunnel.
//!
//!     cargo run --example embed              three seconds, or as many as the argument says
//!
//! `script` plays two frames, `guest` is a smoltcp stack that answers them, and `tap` is a TAP device
//! opened with the tun-tap crate, where that is permitted. To talk to the guest through it:
//!
//!     ip address add 10.77.0.1/24 dev tap-embed && ip link set tap-embed up && ping 10.77.0.2
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

mod frames;
mod guest;

use anyhow::{Context as _, Result, anyhow};
use encap::{Contiguous, Frame, Offload, Vni};
use fdb::{Dest, Fdb, PortId, SegmentLimits, Settings, Tick};
use guest::Guest;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use switch::{
    Counters, Engine, PortModeSpec, PortRole, PortSpec, Remote, SegmentSpec, Sink, Topology,
    TopologySpec, read_port,
};

/// Frames that the engine wants sent.
#[derive(Default)]
struct Outbox(Vec<(PortId, Vec<u8>)>);

impl Sink for Outbox {
    fn to_port(&mut self, port: PortId, _mtu: u16, frame: &Frame<'_>) {
        let body = frame.body.iter().flat_map(|slice| slice.iter());
        self.0.push((port, frame.head.iter().chain(body).copied().collect()));
    }

    /// A segment without peers sends nothing to the underlay.
    fn to_vteps(&mut self, _: Remote<'_>, _: &Frame<'_>) {}
}

fn main() -> Result<()> {
    let seconds = std::env::args().nth(1).map_or(Ok(3), |text| text.parse())?;
    let topology = Topology::empty(IpAddr::V4(Ipv4Addr::LOCALHOST), 1450).succeed(&three_ports()?);
    let topology = Arc::new(topology.map_err(|errors| anyhow!("{errors:?}"))?);
    let fdb = Arc::new(Fdb::new(Settings::default()));
    for segment in topology.segments() {
        fdb.configure_segment(segment.id, SegmentLimits::default());
    }
    let counters = Arc::new(Counters::default());
    let mut engine = Engine::new(Arc::clone(&topology), fdb.reader(), Arc::clone(&counters));
    let port = |name| topology.port_named(name).map(|port| port.id).context("no such port");
    let name = |id| topology.port(id).map_or("?", |port| port.spec.name.as_str());
    let (script_port, guest_port, tap_port) = (port("script")?, port("guest")?, port("tap")?);

    let tap = open_tap();
    let mut guest = Guest::new();
    let mut arrived: VecDeque<(PortId, Vec<u8>)> =
        frames::script()?.map(|frame| (script_port, frame)).into();
    let (started, mut buffer) = (Instant::now(), vec![0; 2048]);
    while started.elapsed() < Duration::from_secs(seconds) {
        arrived.extend(guest.speak().map(|frame| (guest_port, frame)));
        if let Some(len) = tap.as_ref().and_then(|tap| tap.recv(&mut buffer).ok()) {
            arrived.push_back((tap_port, buffer[..len].to_vec()));
        }
        let Some((from, bytes)) = arrived.pop_front() else {
            if tap.is_none() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        println!("{:>6}  {}", name(from), frames::dissect(&bytes));
        let (now, mut outbox) = (Tick(started.elapsed().as_millis() as u64), Outbox::default());
        let unit = Contiguous::new(&bytes, Offload::default());
        engine.from_port(now, from, &unit.frame(), &mut outbox);
        for (to, bytes) in outbox.0 {
            println!("        -> {}", name(to));
            match &tap {
                _ if to == guest_port => guest.hear(bytes),
                // A TAP that nobody has brought up refuses, as a cable that is not plugged in.
                Some(tap) if to == tap_port => drop(tap.send(&bytes)),
                _ => {}
            }
        }
    }
    for row in fdb.entries(Tick(started.elapsed().as_millis() as u64)) {
        let Dest::Port(at) = row.dest else { continue };
        println!("{} lives at {}", row.mac, name(at));
    }
    for port in topology.ports() {
        let reading = read_port([&*counters], port.id);
        println!(
            "{}: {} frames in, {} dropped",
            port.spec.name,
            reading.rx.frames,
            reading.rx_dropped_total()
        );
    }
    Ok(())
}

fn three_ports() -> Result<TopologySpec> {
    let segment = SegmentSpec {
        name: "home".to_owned(),
        vni: Vni::new(1)?,
        peers: Vec::new(),
        multicast: None,
        learning: true,
        flood_unknown: true,
        strict_peers: true,
        strict_header: false,
        cluster: None,
    };
    let port = |name: &str| PortSpec {
        name: name.to_owned(),
        mode: PortModeSpec::Access("home".to_owned()),
        mtu: 1450,
        mac: None,
        up: true,
        role: PortRole::Station,
    };
    Ok(TopologySpec {
        local: IpAddr::V4(Ipv4Addr::LOCALHOST),
        overlay_mtu: 1450,
        segments: vec![segment],
        ports: ["script", "guest", "tap"].map(port).to_vec(),
        heard: Vec::new(),
    })
}

/// A TAP of this program's own, gone when it ends; `None`, with the reason, where that may not be.
fn open_tap() -> Option<tun_tap::Iface> {
    let opened = tun_tap::Iface::without_packet_info("tap-embed", tun_tap::Mode::Tap)
        .and_then(|tap| tap.set_non_blocking().map(|()| tap));
    match opened {
        Ok(tap) => {
            println!("tap: {} is open", tap.name());
            Some(tap)
        }
        Err(error) => {
            println!("tap: not available ({error}); the other two ports are in memory");
            None
        }
    }
}
