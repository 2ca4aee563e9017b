//! The engine alone, in memory: three ports on one segment, and what becomes of two frames.
//!
//!     cargo run --example engine
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use encap::{Contiguous, Frame, Offload, Vni};
use fdb::{Fdb, PortId, SegmentLimits, Tick};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use switch::{
    Counters, Engine, PortModeSpec, PortRole, PortSpec, Remote, SegmentSpec, Sink, Topology,
    TopologySpec,
};

/// Prints where the engine sends a frame; a driver would send it.
struct Printer<'a>(&'a Topology);

impl Sink for Printer<'_> {
    fn to_port(&mut self, port: PortId, _mtu: u16, frame: &Frame<'_>) {
        let name = self.0.port(port).map_or("?", |port| port.spec.name.as_str());
        println!("  {} bytes to port {name}", frame.len());
    }

    fn to_vteps(&mut self, remote: Remote<'_>, frame: &Frame<'_>) {
        println!("  {} bytes to {} VTEPs as VNI {}", frame.len(), remote.vteps.len(), remote.vni);
    }
}

fn main() -> anyhow::Result<()> {
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let segment = SegmentSpec {
        name: "blue".to_owned(),
        vni: Vni::new(100)?,
        peers: vec!["192.0.2.2:4789".parse()?],
        multicast: None,
        learning: true,
        flood_unknown: true,
        strict_peers: true,
        strict_header: false,
        cluster: None,
    };
    let mode = PortModeSpec::Access("blue".to_owned());
    let ports = ["ann", "bob", "eve"].map(|name| PortSpec {
        name: name.to_owned(),
        mode: mode.clone(),
        mtu: 1450,
        mac: None,
        up: true,
        role: PortRole::Station,
    });
    let (segments, ports) = (vec![segment], ports.to_vec());
    let spec = TopologySpec { local, overlay_mtu: 1450, segments, ports, heard: Vec::new() };
    let topology = Topology::empty(local, 1450).succeed(&spec);
    let topology = Arc::new(topology.map_err(|errors| anyhow::anyhow!("{errors:?}"))?);

    let fdb = Arc::new(Fdb::default());
    topology.segments().for_each(|one| fdb.configure_segment(one.id, SegmentLimits::default()));
    let counters = Arc::new(Counters::default());
    let mut engine = Engine::new(Arc::clone(&topology), fdb.reader(), counters);

    let (ann, bob) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    for (from, to, name) in [(ann, bob, "ann"), (bob, ann, "bob")] {
        // Any payload will do: 0x88b5 is the EtherType for experiments (IEEE 802 section 9.2.4).
        let frame = [&to[..], &from, &[0x88, 0xb5], b"hello"].concat();
        println!("{name} sends {} bytes:", frame.len());
        let Some(port) = topology.port_named(name) else { continue };
        let unit = Contiguous::new(&frame, Offload::default());
        engine.from_port(Tick(0), port.id, &unit.frame(), &mut Printer(&topology));
    }
    Ok(())
}
