//! A node: an engine, and the few lines that stand for its drivers.

use super::link::{Datagram, Train};
use super::vtep_ip;
use encap::{Coalescer, Contiguous, Frame, Merge, Offload, Segments, Trust, vxlan};
use fdb::{Dest, Fdb, PortId, Scope, SegmentLimits, Settings, Tick};
use std::net::IpAddr;
use std::sync::Arc;
use switch::{
    Change, Counters, DropReason, Engine, Outer, Reading, Remote, Sink, Topology, TopologySpec,
    Weight, read_port, read_stranger, read_vtep,
};

type Output = (Vec<(String, Vec<u8>)>, Vec<(IpAddr, Datagram)>);

pub(crate) struct Node {
    pub(crate) engine: Engine,
    pub(crate) fdb: Arc<Fdb>,
    pub(crate) spec: TopologySpec,
    out: Drivers,
}

impl Node {
    pub(crate) fn new(spec: TopologySpec) -> Self {
        let fdb = Arc::new(Fdb::new(Settings { seed: Some(5), ..Settings::default() }));
        let topology = Arc::new(Topology::empty(spec.local, spec.overlay_mtu));
        let counters = Arc::new(Counters::default());
        let engine = Engine::new(Arc::clone(&topology), fdb.reader(), Arc::clone(&counters));
        let out = Drivers { topology, counters, frames: Vec::new(), datagrams: Vec::new() };
        let mut node = Self { engine, fdb, spec, out };
        node.reload(|_| ());
        node
    }

    /// Changes the specification and does what control does about the difference.
    pub(crate) fn reload(&mut self, edit: impl FnOnce(&mut TopologySpec)) {
        edit(&mut self.spec);
        let next = Arc::new(self.engine.topology().succeed(&self.spec).unwrap());
        let changes = self.engine.topology().diff(&next);
        self.engine.adopt(Arc::clone(&next));
        self.out.topology = next;
        for change in changes {
            match change {
                Change::SegmentAdded(id) => {
                    self.fdb.configure_segment(id, SegmentLimits::default());
                }
                Change::PortRemoved(id) | Change::PortChanged { id, flush: true } => {
                    self.fdb.flush(Scope::dest(Dest::Port(id)));
                }
                Change::VtepRemoved(id) => {
                    self.fdb.flush(Scope::dest(Dest::Vtep(id)));
                }
                _ => {}
            }
        }
    }

    /// What a port's driver does with the frames that a host has sent.
    pub(crate) fn offer(&mut self, now: u64, port: &str, frames: &[Vec<u8>], superframes: bool) {
        let Some(id) = self.engine.topology().port_named(port).map(|port| port.id) else { return };
        let Self { engine, out, .. } = self;
        joined(frames.iter().map(Vec::as_slice), superframes, |frame| {
            engine.from_port(Tick(now / 1000), id, &frame, out);
        });
    }

    /// What the underlay's driver does with a train of datagrams: strips the headers and joins what
    /// belongs together.
    pub(crate) fn receive(&mut self, now: u64, train: &Train, superframes: bool) {
        let peer = vtep_ip(train.from);
        let Self { engine, out, .. } = self;
        let mut rest = &train.datagrams[..];
        while let Some(first) = rest.first() {
            let Ok((header, _)) = vxlan::split(&first.payload) else {
                let weight = Weight::single(first.payload.len());
                engine.refuse_from_underlay(peer, weight, DropReason::HeaderInvalid);
                rest = &rest[1..];
                continue;
            };
            let alike = |datagram: &&Datagram| {
                let same = vxlan::split(&datagram.payload).is_ok_and(|(h, _)| h == header);
                same && datagram.tos == first.tos
            };
            let (run, others) = rest.split_at(rest.iter().take_while(alike).count());
            let outer = Outer { peer, header, tos: first.tos };
            let frames = run.iter().map(|datagram| &datagram.payload[vxlan::HEADER_LEN..]);
            joined(frames, superframes, |frame| {
                engine.from_underlay(Tick(now / 1000), outer, &frame, out);
            });
            rest = others;
        }
    }

    /// What the engine has sent: frames for ports, and datagrams for VTEPs.
    pub(crate) fn take_output(&mut self) -> Output {
        (std::mem::take(&mut self.out.frames), std::mem::take(&mut self.out.datagrams))
    }

    /// A datagram to this VTEP was longer than the path takes.
    pub(crate) fn path_is_narrow(&mut self, vtep: IpAddr, underlay: u16) {
        let vtep = self.engine.topology().vtep_at(vtep).unwrap();
        let mtu = encap::mtu::overlay_mtu(underlay, encap::IpVersion::V4).unwrap();
        vtep.set_mtu(mtu.min(vtep.mtu()));
        self.engine.counters().vtep(vtep.id).tx.dropped(1, DropReason::UnderlaySend);
    }

    /// Every ingress with its name.
    pub(crate) fn readings(&self) -> Vec<(String, Reading)> {
        let counters = [&**self.engine.counters()];
        let topology = self.engine.topology();
        let ports = topology.ports().map(|p| (p.spec.name.clone(), read_port(counters, p.id)));
        let vteps =
            topology.vteps().map(|v| (v.address.ip().to_string(), read_vtep(counters, v.id)));
        ports.chain(vteps).chain([("stranger".to_owned(), read_stranger(counters))]).collect()
    }

    pub(crate) fn assert_law(&self) {
        for (name, reading) in self.readings() {
            assert!(reading.law_holds(), "{} at {}: {reading:?}", name, self.spec.local);
        }
    }

    /// Received frames that were dropped at any ingress of the node for this reason.
    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        self.readings().iter().map(|(_, reading)| reading.rx_dropped[reason as usize]).sum()
    }
}

/// Hands out frames one by one, or joined to superframes where they can be.
fn joined<'a>(
    frames: impl Iterator<Item = &'a [u8]>,
    superframes: bool,
    mut emit: impl FnMut(Frame<'_>),
) {
    if !superframes {
        return frames.for_each(|bytes| emit(Contiguous::new(bytes, Offload::default()).frame()));
    }
    let mut coalescer = Coalescer::new(Merge { tcp: true, udp: false, adopt: None });
    frames.for_each(|bytes| coalescer.push(bytes, Trust::Verify, &mut emit));
    coalescer.finish(&mut emit);
}

/// The outputs: superframes are cut here, checksums finished, headers put in front, copies counted.
struct Drivers {
    topology: Arc<Topology>,
    counters: Arc<Counters>,
    frames: Vec<(String, Vec<u8>)>,
    datagrams: Vec<(IpAddr, Datagram)>,
}

impl Sink for Drivers {
    fn to_port(&mut self, port: PortId, mtu: u16, frame: &Frame<'_>) {
        let name = &self.topology.port(port).unwrap().spec.name;
        let segments = Segments::plan(frame, Some(mtu)).unwrap();
        self.frames.extend(each(&segments).map(|bytes| (name.clone(), bytes)));
        self.counters.port(port).tx.sent(Weight::of(frame));
    }

    fn to_vteps(&mut self, remote: Remote<'_>, frame: &Frame<'_>) {
        for id in remote.vteps {
            let vtep = self.topology.vtep(*id).unwrap();
            let segments = Segments::plan(frame, Some(vtep.mtu())).unwrap();
            for bytes in each(&segments) {
                let payload = [&vxlan::emit(remote.vni)[..], &bytes].concat();
                self.datagrams.push((vtep.address.ip(), Datagram { tos: remote.tos, payload }));
            }
            self.counters.vtep(*id).tx.sent(Weight::of(frame));
        }
    }
}

/// The frames that stand on the wire.
fn each(segments: &Segments<'_>) -> impl Iterator<Item = Vec<u8>> {
    (0..segments.count()).map(|at| {
        let mut bytes = vec![0; segments.header_len()];
        segments.write_header(at, &mut bytes);
        segments.payload(at).for_each(|slice| bytes.extend_from_slice(slice));
        bytes
    })
}
