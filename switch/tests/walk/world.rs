//! The node that the rows are about, and what a row is.

use crate::kit::{
    OPAQUE, RawTag, Recorder, Sent, access, ethernet, mac, port, readings, segment, station, trunk,
    vtep_ip,
};
use encap::{Checksum, Contiguous, Gso, MacAddr, Offload, Vni, vxlan};
use fdb::{
    Dest, Fdb, Learn, Lookup, Origin, PortId, Reader, SegmentId, SegmentLimits, Settings, Tick,
    VtepId,
};
use std::sync::Arc;
use switch::{Counters, DropReason, Engine, Outer, Reading, Topology, TopologySpec};

/// The node `192.0.2.1`:
///
/// ```text
/// blue  VNI 100  peers .2 .3   blue1 blue2 down, trunk1 (VLAN 10), trunk2 (VLAN 11)
/// green VNI 200  peer  .2      trunk1 (VLAN 20), trunk2 (native)
/// quiet VNI 300  peer  .4      quiet1 quiet2     no unknown unicast, strict header
/// open  VNI 400  no peers      open1             any VTEP may send
/// alone VNI 500  no peers      alone1
/// empty VNI 600  peer  .2      no port
/// thin  VNI 700  peers .2 .3   thin1, narrow (MTU 1300)
/// ```
pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) fdb: Arc<Fdb>,
    pub(crate) now: Tick,
}

pub(crate) enum At {
    Port(&'static str),
    Vtep(u8),
}

impl World {
    pub(crate) fn new() -> Self {
        let topology = Topology::empty(vtep_ip(1), 1450).succeed(&spec()).unwrap();
        let fdb = Arc::new(Fdb::new(Settings { seed: Some(7), ..Settings::default() }));
        for segment in topology.segments() {
            fdb.configure_segment(segment.id, SegmentLimits::default());
        }
        let reader: Reader = fdb.reader();
        let engine = Engine::new(Arc::new(topology), reader, Arc::new(Counters::default()));
        Self { engine, fdb, now: Tick(1_000_000) }
    }

    pub(crate) fn port(&self, name: &str) -> PortId {
        self.engine.topology().port_named(name).unwrap().id
    }

    pub(crate) fn vtep(&self, n: u8) -> VtepId {
        self.engine.topology().vtep_at(vtep_ip(n)).unwrap().id
    }

    fn dest(&self, at: &At) -> Dest {
        match at {
            At::Port(name) => Dest::Port(self.port(name)),
            At::Vtep(n) => Dest::Vtep(self.vtep(*n)),
        }
    }

    /// Station `n` of a segment was seen here.
    pub(crate) fn knows(&self, name: &str, n: u8, at: At) {
        let segment = self.engine.topology().segment_named(name).unwrap().id;
        let learn = self.fdb.learn(segment, station(n), self.dest(&at), self.now);
        assert!(matches!(learn, Learn::New { .. }), "{learn:?}");
    }

    /// Station `n` of a segment lives here by order.
    pub(crate) fn pins(&self, name: &str, n: u8, at: At, origin: Origin) {
        let segment = self.engine.topology().segment_named(name).unwrap().id;
        self.fdb.insert(segment, station(n), self.dest(&at), origin, self.now);
    }

    /// Builds the next topology from an edited specification and adopts it.
    pub(crate) fn reload(&mut self, edit: impl FnOnce(&mut TopologySpec)) {
        let mut spec = spec();
        edit(&mut spec);
        let next = self.engine.topology().succeed(&spec).unwrap();
        self.engine.adopt(Arc::new(next));
    }
}

fn spec() -> TopologySpec {
    let mut quiet = segment("quiet", 300, &[4]);
    quiet.flood_unknown = false;
    quiet.strict_header = true;
    let mut open = segment("open", 400, &[]);
    open.strict_peers = false;
    let mut down = port("down", access("blue"));
    down.up = false;
    let mut narrow = port("narrow", access("thin"));
    narrow.mtu = 1300;
    TopologySpec {
        local: vtep_ip(1),
        overlay_mtu: 1450,
        segments: vec![
            segment("blue", 100, &[2, 3]),
            segment("green", 200, &[2]),
            quiet,
            open,
            segment("alone", 500, &[]),
            segment("empty", 600, &[2]),
            segment("thin", 700, &[2, 3]),
        ],
        ports: vec![
            port("blue1", access("blue")),
            port("blue2", access("blue")),
            down,
            port("trunk1", trunk(&[(10, "blue"), (20, "green")], None)),
            port("trunk2", trunk(&[(11, "blue")], Some("green"))),
            port("quiet1", access("quiet")),
            port("quiet2", access("quiet")),
            port("open1", access("open")),
            port("alone1", access("alone")),
            port("thin1", access("thin")),
            narrow,
        ],
        heard: Vec::new(),
    }
}

/// Reasons that are found after the sender was learned: it is where it is, wherever its frame goes.
const DROPPED_LATE: [DropReason; 6] = [
    DropReason::UnknownUnicast,
    DropReason::SamePort,
    DropReason::SplitHorizon,
    DropReason::NoDestination,
    DropReason::TooBig,
    DropReason::PortDown,
];

/// Where a row's frame comes in.
#[derive(Clone, Copy)]
pub(crate) enum Ingress {
    Port(&'static str),
    /// From VTEP `192.0.2.n` with this VNI, reserved bits and outer TOS.
    Vtep {
        n: u8,
        vni: u32,
        reserved: bool,
        tos: u8,
    },
}

/// From this port.
pub(crate) fn on(port: &'static str) -> Ingress {
    Ingress::Port(port)
}

/// From this VTEP, with a clean header.
pub(crate) fn via(n: u8, vni: u32) -> Ingress {
    Ingress::Vtep { n, vni, reserved: false, tos: 0 }
}

/// A frame by its parts; the offload is that of the untagged frame.
#[derive(Clone)]
pub(crate) struct Unit {
    pub(crate) dst: MacAddr,
    pub(crate) src: MacAddr,
    pub(crate) tags: Vec<RawTag>,
    pub(crate) ethertype: u16,
    pub(crate) l3: Vec<u8>,
    pub(crate) offload: Offload,
    /// The frame is cut to this length.
    pub(crate) cut: usize,
}

/// 60 bytes that nobody interprets, from station `src` to station `dst`.
pub(crate) fn plain(src: u8, dst: u8) -> Unit {
    from_to(mac(src), mac(dst))
}

/// The same with any addresses.
pub(crate) fn from_to(src: MacAddr, dst: MacAddr) -> Unit {
    let offload = Offload::default();
    Unit { dst, src, tags: vec![], ethertype: OPAQUE, l3: vec![0x5a; 46], offload, cut: usize::MAX }
}

impl Unit {
    pub(crate) fn tag(mut self, tpid: u16, tci: u16) -> Self {
        self.tags.push((tpid, tci));
        self
    }

    pub(crate) fn carrying(self, (ethertype, l3): (u16, Vec<u8>)) -> Self {
        Self { ethertype, l3, ..self }
    }

    pub(crate) fn cut(self, cut: usize) -> Self {
        Self { cut, ..self }
    }

    /// A superframe of `segments`, all headers being `header_len` long when untagged.
    pub(crate) fn gso(self, gso: Gso, checksum: Checksum) -> Self {
        Self { offload: Offload { checksum, gso: Some(gso) }, ..self }
    }

    fn bytes(&self, tags: &[RawTag]) -> Vec<u8> {
        let mut bytes = ethernet(self.dst, self.src, tags, self.ethertype, &self.l3);
        bytes.truncate(self.cut);
        bytes
    }

    /// What the offload says once this many tags stand in front of layer 3.
    fn offload(&self, tags: usize) -> Offload {
        let by = 4 * tags as u16;
        let checksum = match self.offload.checksum {
            Checksum::Partial { start, offset } => Checksum::Partial { start: start + by, offset },
            other => other,
        };
        let gso = self.offload.gso.map(|gso| Gso { header_len: gso.header_len + by, ..gso });
        Offload { checksum, gso }
    }
}

/// An output and the tag it wants.
#[derive(Clone, Debug)]
pub(crate) enum Out {
    Port(&'static str, Option<RawTag>),
    Vteps(&'static [u8]),
}

/// What a row expects.
#[derive(Clone)]
pub(crate) enum Want {
    Drop(DropReason),
    /// Exactly these outputs, each with the frame's own bytes but for its tag.
    To(Vec<Out>),
    /// An ICMP or ICMPv6 error to the ingress port, with this tag and MTU.
    Told {
        tag: Option<RawTag>,
        mtu: u16,
    },
}

pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) given: fn(&mut World),
    pub(crate) ingress: Ingress,
    pub(crate) unit: Unit,
    /// Layer 3 as it comes out, where it is edited.
    pub(crate) becomes: Option<Vec<u8>>,
    pub(crate) want: Want,
    /// Outputs that lose their copy as too big.
    pub(crate) lost_at: &'static [&'static str],
}

/// A row without expectation.
pub(crate) fn row(name: &'static str, ingress: Ingress, unit: Unit) -> Row {
    let want = Want::To(Vec::new());
    Row { name, given: |_| (), ingress, unit, becomes: None, want, lost_at: &[] }
}

impl Row {
    pub(crate) fn given(self, given: fn(&mut World)) -> Self {
        Self { given, ..self }
    }

    pub(crate) fn becomes(self, l3: Vec<u8>) -> Self {
        Self { becomes: Some(l3), ..self }
    }

    pub(crate) fn drops(self, reason: DropReason) -> Self {
        Self { want: Want::Drop(reason), ..self }
    }

    pub(crate) fn reaches(self, outs: impl IntoIterator<Item = Out>) -> Self {
        Self { want: Want::To(outs.into_iter().collect()), ..self }
    }

    pub(crate) fn told(self, mtu: u16, tag: Option<RawTag>) -> Self {
        Self { want: Want::Told { tag, mtu }, ..self }
    }

    pub(crate) fn lost_at(self, lost_at: &'static [&'static str]) -> Self {
        Self { lost_at, ..self }
    }

    /// Runs the row on a world of its own.
    pub(crate) fn run(&self) {
        let mut world = World::new();
        (self.given)(&mut world);
        let mut sink = Recorder::default();
        let bytes = self.unit.bytes(&self.unit.tags);
        let offload = self.unit.offload(self.unit.tags.len());
        let unit = Contiguous::new(&bytes, offload);
        let now = world.now;
        let before = world.fdb.entries(now);
        match self.ingress {
            Ingress::Port(name) => {
                let port = world.port(name);
                world.engine.from_port(now, port, &unit.frame(), &mut sink);
            }
            Ingress::Vtep { n, vni, reserved, tos } => {
                let vni = Vni::new(vni).unwrap();
                let header = vxlan::Header { vni, reserved_bits_set: reserved };
                let outer = Outer { peer: vtep_ip(n), header, tos };
                world.engine.from_underlay(now, outer, &unit.frame(), &mut sink);
            }
        }
        self.check_counters(&world, &bytes, offload);
        self.check_learned(&world, &before);
        self.check_output(&world, &sink.0);
    }

    /// The segment of a frame that is admitted.
    fn segment(&self, world: &World) -> SegmentId {
        let topology = world.engine.topology();
        match self.ingress {
            Ingress::Port(name) => {
                let tag = self.unit.tags.first().filter(|(_, tci)| tci & 0xfff != 0);
                let vlan = tag.map(|(_, tci)| encap::VlanId::new(tci & 0xfff).unwrap());
                topology.port_named(name).unwrap().mode.segment(vlan).unwrap()
            }
            Ingress::Vtep { vni, .. } => topology.segment_of(Vni::new(vni).unwrap()).unwrap().id,
        }
    }

    /// A frame that goes on has taught where its sender is; one that was refused has taught nothing.
    fn check_learned(&self, world: &World, before: &[fdb::Row]) {
        match (&self.want, self.ingress) {
            (Want::Drop(reason), _) if !DROPPED_LATE.contains(reason) => {
                assert_eq!(world.fdb.entries(world.now), before);
            }
            (Want::To(_), Ingress::Port(name)) => {
                let place = world.fdb.lookup(self.segment(world), self.unit.src, world.now);
                assert_eq!(place, Lookup::Port(world.port(name)));
            }
            _ => {}
        }
    }

    fn check_counters(&self, world: &World, bytes: &[u8], offload: Offload) {
        let ingress = match self.ingress {
            Ingress::Port(name) => name.to_owned(),
            Ingress::Vtep { n, .. } if world.engine.topology().vtep_at(vtep_ip(n)).is_some() => {
                vtep_ip(n).to_string()
            }
            Ingress::Vtep { .. } => "stranger".to_owned(),
        };
        let frames = offload.gso.map_or(1, |gso| u64::from(gso.segments));
        let headers = offload.gso.map_or(0, |gso| u64::from(gso.header_len));
        for (name, reading) in readings(world.engine.topology(), world.engine.counters()) {
            assert!(reading.law_holds(), "{name}: {reading:?}");
            let mut want = Reading::default();
            if name == ingress {
                want.rx.frames = frames;
                want.rx.bytes = bytes.len() as u64 + (frames - 1) * headers;
                want.rx.superframes = u64::from(frames > 1);
                match self.want {
                    Want::Drop(reason) => want.rx_dropped[reason as usize] = frames,
                    Want::To(_) => want.forwarded = frames,
                    Want::Told { .. } => want.answered = frames,
                }
            }
            if self.lost_at.contains(&name.as_str()) {
                want.tx_dropped[DropReason::TooBig as usize] = frames;
            }
            assert_eq!(reading, want, "counters of {name}");
        }
    }

    fn check_output(&self, world: &World, sent: &[Sent]) {
        match &self.want {
            Want::Drop(_) => assert_eq!(sent, [], "a frame that is dropped goes nowhere"),
            Want::To(outs) => {
                let want: Vec<Sent> = outs.iter().map(|out| self.expected(world, out)).collect();
                let Some(flow) = sent.iter().find_map(flow_of) else {
                    return assert_eq!(sent, want);
                };
                let want: Vec<Sent> = want.into_iter().map(|sent| with_flow(sent, flow)).collect();
                assert_eq!(sent, want);
            }
            Want::Told { tag, mtu } => {
                let [Sent::ToPort { port, bytes, offload, .. }] = sent else {
                    panic!("one answer is wanted: {sent:?}");
                };
                let Ingress::Port(name) = self.ingress else { panic!("tunnels are not answered") };
                assert_eq!((*port, *offload), (world.port(name), Offload::default()));
                let asked = self.unit.bytes(&[]);
                crate::told::check(bytes, *tag, &asked, *mtu);
            }
        }
    }

    fn expected(&self, world: &World, out: &Out) -> Sent {
        let l3 = self.becomes.clone().unwrap_or_else(|| self.unit.l3.clone());
        let unit = Unit { l3, ..self.unit.clone() };
        let topology = world.engine.topology();
        match out {
            Out::Port(name, tag) => {
                let port = topology.port_named(name).unwrap();
                let (bytes, offload) =
                    (unit.bytes(tag.as_slice()), unit.offload(tag.iter().count()));
                Sent::ToPort { port: port.id, mtu: port.spec.mtu, bytes, offload }
            }
            Out::Vteps(list) => {
                let Ingress::Port(_) = self.ingress else {
                    panic!("split horizon: no row may want this");
                };
                let segment = self.segment(world);
                Sent::ToVteps {
                    vteps: list.iter().map(|n| world.vtep(*n)).collect(),
                    vni: topology.segment(segment).unwrap().spec.vni,
                    flow: encap::FlowHash(0),
                    tos: tos_of(&unit),
                    bytes: unit.bytes(&[]),
                    offload: unit.offload(0),
                }
            }
        }
    }
}

fn tos_of(unit: &Unit) -> u8 {
    match (unit.ethertype, &unit.l3[..]) {
        (0x0800, [_, tos, ..]) => *tos,
        (0x86dd, [a, b, ..]) => a << 4 | b >> 4,
        _ => 0,
    }
}

/// The flow hash has tests of its own; here all copies of one frame must carry the same.
fn flow_of(sent: &Sent) -> Option<encap::FlowHash> {
    match sent {
        Sent::ToVteps { flow, .. } => Some(*flow),
        Sent::ToPort { .. } => None,
    }
}

fn with_flow(sent: Sent, flow: encap::FlowHash) -> Sent {
    match sent {
        Sent::ToVteps { vteps, vni, tos, bytes, offload, .. } => {
            Sent::ToVteps { vteps, vni, flow, tos, bytes, offload }
        }
        other => other,
    }
}
