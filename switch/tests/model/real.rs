//! The engine, driven by steps.

use super::step::{AGING, MODES, MTU, SEGMENTS, Step, address};
use super::{Copy, Tally};
use crate::kit::{Recorder, Sent, access, port, segment, trunk, vtep_ip};
use encap::{Contiguous, Frame, Offload, StationMac, Vni, vxlan};
use fdb::{
    Damping, Dest, Fdb, Origin, PortId, Scope, SegmentId, SegmentLimits, Settings, Tick, VtepId,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use switch::{
    Counters, DropReason, Engine, Outer, Topology, TopologySpec, read_port, read_stranger,
    read_vtep,
};

pub(crate) struct Real {
    engine: Engine,
    fdb: Arc<Fdb>,
    now: u64,
    spec: TopologySpec,
}

fn name(port: u8) -> String {
    format!("p{port}")
}

fn station(n: u8) -> StationMac {
    address(n).station().unwrap()
}

impl Real {
    pub(crate) fn new() -> Self {
        let segments = SEGMENTS.map(|(name, vni, flood_unknown, open)| {
            let mut spec = segment(name, vni, &[]);
            (spec.flood_unknown, spec.strict_peers) = (flood_unknown, !open);
            spec
        });
        let spec = TopologySpec {
            local: vtep_ip(1),
            overlay_mtu: MTU as u16,
            segments: segments.to_vec(),
            ports: Vec::new(),
            heard: Vec::new(),
        };
        // Stations may move as often as the steps like: damping has a model of its own.
        let damping = Damping { moves: 254, window_ms: 100, freeze_ms: 100 };
        let fdb = Arc::new(Fdb::new(Settings { damping, seed: Some(3), ..Settings::default() }));
        let topology = Topology::empty(spec.local, spec.overlay_mtu).succeed(&spec).unwrap();
        for segment in topology.segments() {
            let limits = SegmentLimits { aging_ms: AGING, ..SegmentLimits::default() };
            fdb.configure_segment(segment.id, limits);
        }
        let counters = Arc::new(Counters::default());
        let engine = Engine::new(Arc::new(topology), fdb.reader(), counters);
        Self { engine, fdb, now: 0, spec }
    }

    pub(crate) fn step(&mut self, step: &Step) -> Vec<Copy> {
        let mut sink = Recorder::default();
        match step {
            Step::SetPort { port: n, mode, up } => {
                let mut port = spec_of(*n, *mode);
                port.up = *up;
                match self.spec.ports.iter_mut().find(|port| port.name == name(*n)) {
                    Some(held) => *held = port,
                    None => self.spec.ports.push(port),
                }
                self.reload();
            }
            Step::RemovePort(n) => {
                self.spec.ports.retain(|port| port.name != name(*n));
                self.reload();
            }
            Step::SetPeers { segment, peers } => {
                self.spec.segments[*segment].peers =
                    peers.iter().map(|n| SocketAddr::new(vtep_ip(*n), 4789)).collect();
                self.reload();
            }
            Step::FromPort { port, parts } => {
                // A port that is not there: what a driver still had in hand.
                let gone = PortId { slot: 15, generation: 0 };
                let id = self.port(*port).unwrap_or(gone);
                let bytes = parts.with_tags(&parts.tags());
                let unit = Contiguous::new(&bytes, Offload::default());
                self.engine.from_port(Tick(self.now), id, &unit.frame(), &mut sink);
            }
            Step::Burst { port, frames } => {
                let gone = PortId { slot: 15, generation: 0 };
                let id = self.port(*port).unwrap_or(gone);
                let bytes: Vec<Vec<u8>> =
                    frames.iter().map(|parts| parts.with_tags(&parts.tags())).collect();
                let units: Vec<Contiguous<'_>> =
                    bytes.iter().map(|bytes| Contiguous::new(bytes, Offload::default())).collect();
                let frames: Vec<Frame<'_>> = units.iter().map(Contiguous::frame).collect();
                self.engine.burst_from_port(Tick(self.now), id, &frames, &mut sink);
            }
            Step::FromPeer { peer, segment, parts } => {
                let vni = SEGMENTS.get(*segment).map_or(999, |(_, vni, ..)| *vni);
                let header =
                    vxlan::Header { vni: Vni::new(vni).unwrap(), reserved_bits_set: false };
                let outer = Outer { peer: vtep_ip(*peer), header, tos: 0 };
                let bytes = parts.with_tags(&parts.tags());
                let unit = Contiguous::new(&bytes, Offload::default());
                self.engine.from_underlay(Tick(self.now), outer, &unit.frame(), &mut sink);
            }
            Step::Advance { ms } => {
                self.now += ms;
                self.fdb.expire(Tick(self.now), 16);
            }
            Step::PinToPort { segment, mac, port } => {
                self.pin(*segment, *mac, self.port(*port).map(Dest::Port));
            }
            Step::PinToVtep { segment, mac, vtep } => {
                let vtep = self.engine.topology().vtep_at(vtep_ip(*vtep));
                self.pin(*segment, *mac, vtep.map(|vtep| Dest::Vtep(vtep.id)));
            }
            Step::Unpin { segment, mac } => {
                self.fdb.remove(self.segment(*segment), station(*mac));
            }
            Step::Flush { segment, mac } => {
                let segment = segment.map(|segment| self.segment(segment));
                let mac = mac.map(station);
                self.fdb.flush(Scope { segment, mac, ..Scope::all() });
            }
        }
        let mut copies: Vec<Copy> = sink.0.into_iter().flat_map(|sent| self.copies(sent)).collect();
        copies.sort();
        copies
    }

    fn reload(&mut self) {
        let next = self.engine.topology().succeed(&self.spec).unwrap();
        self.engine.adopt(Arc::new(next));
    }

    fn port(&self, n: u8) -> Option<PortId> {
        self.engine.topology().port_named(&name(n)).map(|port| port.id)
    }

    fn segment(&self, at: usize) -> SegmentId {
        self.engine.topology().segment_named(SEGMENTS[at].0).unwrap().id
    }

    fn pin(&self, segment: usize, mac: u8, dest: Option<Dest>) {
        if let Some(dest) = dest {
            let now = Tick(self.now);
            self.fdb.insert(self.segment(segment), station(mac), dest, Origin::Static, now);
        }
    }

    fn copies(&self, sent: Sent) -> Vec<Copy> {
        let topology = self.engine.topology();
        match sent {
            Sent::ToPort { port, bytes, .. } => {
                let name = &topology.port(port).unwrap().spec.name;
                vec![Copy::Port(name[1..].parse().unwrap(), bytes)]
            }
            Sent::ToVteps { vteps, vni, bytes, .. } => {
                let copy = |id: &VtepId| match topology.vtep(*id).unwrap().address.ip() {
                    IpAddr::V4(ip) => Copy::Vtep(ip.octets()[3], vni.get(), bytes.clone()),
                    IpAddr::V6(_) => unreachable!("the underlay of the model is IPv4"),
                };
                vteps.iter().map(copy).collect()
            }
        }
    }

    /// All ingresses together, each of which obeys the law.
    pub(crate) fn tally(&self) -> Tally {
        let counters = [&**self.engine.counters()];
        let ports = (0..16).map(|slot| read_port(counters, PortId { slot, generation: 0 }));
        let vteps = (0..16).map(|slot| read_vtep(counters, VtepId { slot, generation: 0 }));
        let mut tally = Tally::default();
        for reading in ports.chain(vteps).chain([read_stranger(counters)]) {
            assert!(reading.law_holds(), "{reading:?}");
            tally.forwarded += reading.forwarded;
            for (reason, count) in DropReason::ALL.into_iter().zip(reading.rx_dropped) {
                *tally.dropped.entry(reason).or_default() += count;
            }
        }
        tally.dropped.retain(|_, count| *count > 0);
        tally
    }
}

fn spec_of(n: u8, mode: usize) -> switch::PortSpec {
    let (untagged, tagged, is_access) = MODES[mode];
    let of = |segment: usize| SEGMENTS[segment].0;
    let mode = match untagged {
        Some(segment) if is_access => access(of(segment)),
        native => {
            let vlans: BTreeMap<u16, &str> =
                tagged.iter().map(|(vlan, segment)| (*vlan, of(*segment))).collect();
            trunk(&vlans.into_iter().collect::<Vec<_>>(), native.map(of))
        }
    };
    port(&name(n), mode)
}
