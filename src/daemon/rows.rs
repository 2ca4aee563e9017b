//! What the daemon says of itself: the rows of the control socket and of the metrics.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use fdb::{Dest, SegmentId};
use switch::{DropReason, Reading, Segment, Vtep, Weight};

use super::plan;
use super::ports::{Attachment, Device};
use super::state::Daemon;
use crate::config::{Dscp, Local, PortMode, Toggle};
use crate::control::metrics::Snapshot;
use crate::control::model::{
    BufferStatus, DropRow, FdbCounts, FdbRow, HelperStatus, ObjectOrigin, OffloadRow, OffloadState,
    PeerRow, PortRow, PortState, Readiness, SegmentRow, Status, Steering, Totals, Traffic,
    TrunkRow, UnderlayStatus, WorkerRow,
};
use crate::device::steering;

const fn traffic(weight: Weight) -> Traffic {
    Traffic { frames: weight.frames, bytes: weight.bytes, superframes: weight.superframes }
}

fn add(sum: &mut Traffic, weight: Weight) {
    sum.frames += weight.frames;
    sum.bytes += weight.bytes;
    sum.superframes += weight.superframes;
}

impl From<steering::Steering> for Steering {
    fn from(steering: steering::Steering) -> Self {
        match steering {
            steering::Steering::FlowHash => Self::FlowHash,
            steering::Steering::Automatic => Self::Automatic,
        }
    }
}

impl Daemon {
    /// A VTEP's address as the contract writes it: with its port only where that is not ours.
    pub(super) fn vtep_name(&self, address: SocketAddr) -> String {
        if address.port() == self.config.underlay.port {
            address.ip().to_string()
        } else {
            address.to_string()
        }
    }

    pub(super) fn segment_name(&self, id: SegmentId) -> String {
        self.topology.segment(id).map_or_else(String::new, |segment| segment.spec.name.clone())
    }

    /// Where a destination is, in words.
    pub(super) fn dest_name(&self, dest: Dest) -> String {
        let name = match dest {
            Dest::Port(id) => self.topology.port(id).map(|port| port.spec.name.clone()),
            Dest::Vtep(id) => self.topology.vtep(id).map(|vtep| self.vtep_name(vtep.address)),
        };
        name.unwrap_or_else(|| "(gone)".to_owned())
    }

    fn port_reading(&self, name: &str) -> Reading {
        self.topology.port_named(name).map_or_else(Reading::default, |port| self.read_port(port.id))
    }

    pub(super) fn port_row(&self, attachment: &Attachment) -> PortRow {
        let port = &attachment.port;
        let reading = self.port_reading(port.name.as_str());
        let (trunk, segment) = match &port.mode {
            PortMode::Access(segment) => (Vec::new(), Some(segment)),
            PortMode::Trunk { vlans, native } => {
                let row = |(vlan, segment): (&encap::VlanId, &crate::config::Name)| TrunkRow {
                    vlan: vlan.get(),
                    segment: segment.to_string(),
                };
                (vlans.iter().map(row).collect(), native.as_ref())
            }
        };
        let (state, reason) = match &attachment.device {
            Device::Up(_) => (PortState::Up, None),
            Device::Down { reason, .. } => (PortState::Down, Some(reason.clone())),
        };
        let ifname = attachment.facts().map_or(port.ifname.as_str(), |facts| &facts.ifname);
        PortRow {
            name: port.name.to_string(),
            segment: segment.map(ToString::to_string),
            trunk,
            ifname: ifname.to_owned(),
            netns: port.netns.as_ref().map(ToString::to_string),
            mac: port.mac.to_string(),
            mtu: u32::from(self.devices.rules.mtu(port)),
            state,
            reason,
            queues: if state == PortState::Up { u32::from(self.devices.rules.queues) } else { 0 },
            steering: attachment.facts().and_then(|facts| facts.steering).map(Into::into),
            addresses: port.addresses.iter().map(ToString::to_string).collect(),
            rx: traffic(reading.rx),
            tx: traffic(reading.tx),
            drops: reading.rx_dropped_total() + reading.tx_dropped_total(),
            origin: attachment.origin,
        }
    }

    pub(super) fn port_rows(&self) -> Vec<PortRow> {
        self.ports.values().map(|attachment| self.port_row(attachment)).collect()
    }

    fn segment_row(&self, segment: &Segment) -> SegmentRow {
        let spec = &segment.spec;
        let named = |vtep: &fdb::VtepId| {
            let vtep = self.topology.vtep(*vtep).filter(|vtep| !vtep.address.ip().is_multicast());
            vtep.map(|vtep| self.vtep_name(vtep.address))
        };
        let counts = self.fdb.counts(segment.id);
        let config = self.config.segment(&spec.name);
        let member = |attachment: &&Attachment| {
            attachment.port.mode.segments().any(|(_, name)| name.as_str() == spec.name)
        };
        let ports = self.ports.values().filter(member);
        SegmentRow {
            name: spec.name.clone(),
            vni: spec.vni.get(),
            ports: ports.map(|attachment| attachment.port.name.to_string()).collect(),
            peers: segment.sources.iter().filter_map(named).collect(),
            multicast: spec.multicast.map(|group| group.ip().to_string()),
            learning: spec.learning,
            aging_ms: config.map_or(0, |config| plan::limits(config).aging_ms),
            max_macs: config.map_or(0, |config| config.max_macs),
            unknown_unicast: config.map(|config| config.unknown_unicast).unwrap_or_default(),
            strict_peers: spec.strict_peers,
            strict_header: spec.strict_header,
            fdb: FdbCounts {
                learned: u64::from(counts.learned),
                fixed: u64::from(counts.fixed),
                control: u64::from(counts.control),
                evictions: counts.evicted,
                moves: counts.moves,
                damped: counts.damped,
            },
            origin: ObjectOrigin::Config,
        }
    }

    pub(super) fn segment_rows(&self) -> Vec<SegmentRow> {
        let named = |name: &str| self.topology.segment_named(name);
        let segments = self.config.segments.iter();
        segments
            .filter_map(|segment| named(segment.name.as_str()))
            .map(|segment| self.segment_row(segment))
            .collect()
    }

    fn peer_row(&self, vtep: &Vtep) -> PeerRow {
        let (reading, heard) = self.read_vtep(vtep.id);
        let now = self.clock.tick();
        let member = |segment: &&Segment| {
            segment.sources.binary_search(&vtep.id).is_ok() || segment.flood.contains(&vtep.id)
        };
        let segments = self.topology.segments().filter(member);
        let overhead = encap::mtu::overhead(plan::version(vtep.address.ip()));
        PeerRow {
            address: self.vtep_name(vtep.address),
            segments: segments.map(|segment| segment.spec.name.clone()).collect(),
            rx: traffic(reading.rx),
            tx: traffic(reading.tx),
            last_heard_ms: heard.map(|heard| now.since(heard)),
            mtu: Some(u32::from(vtep.mtu()) + u32::from(overhead)),
        }
    }

    pub(super) fn peer_rows(&self) -> Vec<PeerRow> {
        let mut vteps: Vec<&Vtep> = self.topology.vteps().collect();
        vteps.sort_unstable_by_key(|vtep| vtep.address);
        vteps.into_iter().map(|vtep| self.peer_row(vtep)).collect()
    }

    pub(super) fn fdb_row(&self, row: &fdb::Row) -> Option<FdbRow> {
        let segment = self.topology.segment(row.segment)?;
        let (port, vtep) = match row.dest {
            Dest::Port(id) => (Some(self.topology.port(id)?.spec.name.clone()), None),
            Dest::Vtep(id) => (None, Some(self.vtep_name(self.topology.vtep(id)?.address))),
        };
        Some(FdbRow {
            segment: segment.spec.name.clone(),
            vni: segment.spec.vni.get(),
            mac: row.mac.to_string(),
            port,
            vtep,
            origin: row.origin.into(),
            age_ms: row.age_ms,
        })
    }

    /// A row for each reason and place: at a port, from or to a VTEP, or neither for datagrams of
    /// strangers.
    pub(super) fn drop_rows(&self, all: bool) -> Vec<DropRow> {
        let mut rows = Vec::new();
        let mut zero: Vec<DropReason> = DropReason::ALL.to_vec();
        let mut take = |reading: &Reading, port: Option<&str>, peer: Option<String>| {
            for reason in DropReason::ALL {
                let count =
                    reading.rx_dropped[reason as usize] + reading.tx_dropped[reason as usize];
                if count != 0 {
                    zero.retain(|other| *other != reason);
                    let port = port.map(ToOwned::to_owned);
                    let reason = reason.label().to_owned();
                    rows.push(DropRow { reason, count, port, peer: peer.clone() });
                }
            }
        };
        for port in self.topology.ports() {
            take(&self.read_port(port.id), Some(&port.spec.name), None);
        }
        for vtep in self.topology.vteps() {
            take(&self.read_vtep(vtep.id).0, None, Some(self.vtep_name(vtep.address)));
        }
        take(&switch::read_stranger(self.counters()), None, None);
        let lost = self.socket_drops();
        if lost != 0 {
            zero.retain(|reason| *reason != DropReason::ReceiveBuffer);
            let reason = DropReason::ReceiveBuffer.label().to_owned();
            rows.push(DropRow { reason, count: lost, port: None, peer: None });
        }
        if all {
            let row = |reason: DropReason| DropRow {
                reason: reason.label().to_owned(),
                count: 0,
                port: None,
                peer: None,
            };
            rows.extend(zero.into_iter().map(row));
        }
        rows.sort_by(|a, b| (&a.reason, &a.port, &a.peer).cmp(&(&b.reason, &b.port, &b.peer)));
        rows
    }

    fn socket_drops(&self) -> u64 {
        self.underlay.drops()
    }

    fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        let mut take = |reading: &Reading| {
            totals.received += reading.rx.frames;
            totals.forwarded += reading.forwarded;
            totals.answered += reading.answered;
            totals.dropped += reading.rx_dropped_total();
        };
        let (mut port_rx, mut port_tx) = (Traffic::default(), Traffic::default());
        let (mut peer_rx, mut peer_tx) = (Traffic::default(), Traffic::default());
        for port in self.topology.ports() {
            let reading = self.read_port(port.id);
            take(&reading);
            add(&mut port_rx, reading.rx);
            add(&mut port_tx, reading.tx);
        }
        for vtep in self.topology.vteps() {
            let (reading, _) = self.read_vtep(vtep.id);
            take(&reading);
            add(&mut peer_rx, reading.rx);
            add(&mut peer_tx, reading.tx);
        }
        let stranger = switch::read_stranger(self.counters());
        take(&stranger);
        add(&mut peer_rx, stranger.rx);
        let entries = |segment: &Segment| {
            let counts = self.fdb.counts(segment.id);
            u64::from(counts.learned) + u64::from(counts.fixed) + u64::from(counts.control)
        };
        Totals {
            port_rx,
            port_tx,
            peer_rx,
            peer_tx,
            socket_drops: self.socket_drops(),
            fdb_entries: self.topology.segments().map(entries).sum(),
            ports: count(self.ports.len()),
            segments: count(self.topology.segments().count()),
            peers: count(self.topology.vteps().count()),
            ..totals
        }
    }

    pub(super) fn status(&self) -> Status {
        let Readiness { ready, pending } = self.readiness();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.config.node.name.to_string(),
            pid: std::process::id(),
            uptime_ms: self.clock.tick().0,
            ready,
            pending,
            underlay: self.underlay_status(),
            workers: self.worker_rows(),
            offloads: self.offload_rows(),
            buffers: self.underlay.sockets().map_or_else(BufferStatus::default, |sockets| {
                let offloads = sockets.offloads();
                BufferStatus {
                    receive: count(offloads.receive_buffer),
                    send: count(offloads.send_buffer),
                }
            }),
            helper: self.devices.hands.helper().map(|socket| HelperStatus {
                socket: socket.display().to_string(),
                trouble: self.devices.hands.trouble(),
            }),
            totals: self.totals(),
            cluster: self.cluster_status(),
        }
    }

    fn underlay_status(&self) -> UnderlayStatus {
        let config = &self.config.underlay;
        let address = self.underlay.sockets().map(|sockets| sockets.local().ip().to_string());
        UnderlayStatus {
            address,
            interface: match &config.local {
                Local::Interface(name) => Some(name.to_string()),
                Local::Address(_) => None,
            },
            port: config.port,
            mtu: self.underlay.mtu(),
            udp_checksum: config.udp_checksum,
            dscp: match config.dscp {
                Dscp::Inherit => "inherit".to_owned(),
                Dscp::Fixed(dscp) => dscp.to_string(),
            },
        }
    }

    fn worker_rows(&self) -> Vec<WorkerRow> {
        let row = |worker: &super::worker::Handle| WorkerRow {
            id: worker.id,
            turns: worker.stats.turns.get(),
            units: worker.stats.units.get(),
        };
        self.workers.iter().map(row).collect()
    }

    fn offload_rows(&self) -> Vec<OffloadRow> {
        let wish = self.config.offload;
        let taps: Vec<_> = self.offloads.values().collect();
        let row = |name: &str, wish: Toggle, on: usize, of: usize, given_up: u64| OffloadRow {
            name: name.to_owned(),
            state: match (wish, given_up, on) {
                (Toggle::Off, ..) => OffloadState::Off,
                (_, 1.., 0) => OffloadState::Degraded,
                (_, 0, 0) => OffloadState::Unsupported,
                (_, _, on) if on < of => OffloadState::Partial,
                (_, 1.., _) => OffloadState::Partial,
                _ => OffloadState::On,
            },
            degradations: given_up,
        };
        let tap = |name: &str, has: fn(&crate::io::port::PortOffloads) -> bool| {
            let revoked = taps.iter().filter(|tap| tap.revoked()).count();
            let on = taps.iter().filter(|tap| has(tap)).count();
            // Without a port there is nothing to say but what was wished.
            let on = if taps.is_empty() { 1 } else { on };
            row(name, wish.tap_gso, on, taps.len(), count(revoked))
        };
        let mut rows = vec![
            tap("tap_checksum", crate::io::port::PortOffloads::checksum),
            tap("tap_tso", crate::io::port::PortOffloads::tso),
            tap("tap_uso", crate::io::port::PortOffloads::uso),
        ];
        if let Some(sockets) = self.underlay.sockets() {
            let offloads = sockets.offloads();
            let revoked = count(offloads.revoked().len());
            let on = usize::from(offloads.udp_segment);
            rows.push(row("udp_gso", wish.udp_gso, on, 1, revoked));
            rows.push(row("udp_gro", wish.udp_gro, usize::from(offloads.udp_gro), 1, 0));
        }
        rows
    }

    pub(super) fn readiness(&self) -> Readiness {
        let mut pending: Vec<String> =
            self.underlay.trouble.iter().map(|trouble| format!("underlay: {trouble}")).collect();
        if self.pods.as_ref().is_some_and(|pods| pods.view.own.is_none()) {
            pending.push("cluster: no share of the pods' networks yet".to_owned());
        }
        for (name, attachment) in &self.ports {
            if let Device::Down { reason, absent: false } = &attachment.device {
                pending.push(format!("port {name}: {reason}"));
            }
        }
        Readiness { ready: pending.is_empty(), pending }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let sum = |figure: fn(&super::worker::Stats) -> u64| {
            self.workers.iter().map(|worker| figure(&worker.stats)).sum::<u64>()
        };
        let errors = BTreeMap::from([
            ("peer".to_owned(), sum(|stats| stats.peer_errors.get())),
            ("port_read".to_owned(), sum(|stats| stats.port_read_errors.get())),
            ("news_lost".to_owned(), sum(|stats| stats.news_lost.get())),
        ]);
        Snapshot {
            status: self.status(),
            ports: self.port_rows(),
            segments: self.segment_rows(),
            peers: self.peer_rows(),
            drops: self.drop_rows(true),
            errors,
            attachments: self.attachment_numbers(),
        }
    }

    /// The address of a VTEP as typed: `address` or `address:port`.
    pub(super) fn parse_vtep(text: &str) -> Option<IpAddr> {
        text.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
    }
}

fn count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
