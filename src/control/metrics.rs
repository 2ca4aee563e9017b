//! What the metrics show, and its rendering as text for Prometheus.
//!
//! Names and labels are a contract with dashboards: they are added to, never changed.

use core::fmt::{Debug, Error};
use std::collections::BTreeMap;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::model::{
    DropRow, OffloadState, PeerRow, PortRow, PortState, SegmentRow, Status, Traffic,
};

/// Everything that the metrics show, taken at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Version, workers, offloads, totals.
    pub status: Status,
    /// Every port.
    pub ports: Vec<PortRow>,
    /// Every segment, with its FDB in numbers.
    pub segments: Vec<SegmentRow>,
    /// Every remote VTEP.
    pub peers: Vec<PeerRow>,
    /// Every drop reason, those that are zero too; rows of one reason are added up.
    pub drops: Vec<DropRow>,
    /// IO errors by kind, as `underlay_send`.
    pub errors: BTreeMap<String, u64>,
    /// What was asked for on the attachment socket.
    pub attachments: Attachments,
}

/// What was asked for on the attachment socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachments {
    /// Each verb of the CNI specification, how often it was done and how often refused.
    pub verbs: Vec<(&'static str, u64, u64)>,
    /// How long those that attached something took, all together, in milliseconds.
    pub add_ms: u64,
    /// Attachments that the daemon found to be forgotten, and removed.
    pub orphans: u64,
}

/// The two text formats that Prometheus reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text 0.0.4, which everything reads.
    #[default]
    Prometheus,
    /// OpenMetrics 1.0.0, for those who ask for it.
    OpenMetrics,
}

impl Format {
    /// The format that a request's `Accept` header asks for.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// The `Content-Type` of an answer.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The snapshot as text.
///
/// # Errors
/// When the text cannot be put together, which only a lack of memory could cause.
pub fn render(snapshot: Snapshot, format: Format) -> Result<String, Error> {
    let mut registry = Registry::with_prefix("tapestry");
    registry.register_collector(Box::new(snapshot));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(match format {
        Format::OpenMetrics => text,
        Format::Prometheus => to_prometheus(&text),
    })
}

/// OpenMetrics names a family without the suffix of its samples, Prometheus with it, and knows no
/// type `info` and no end mark.
fn to_prometheus(text: &str) -> String {
    let types: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .filter(|(_, kind)| matches!(*kind, "counter" | "info"))
        .collect();
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for line in text.lines().filter(|line| *line != "# EOF") {
        let comment = line.strip_prefix("# ").and_then(|rest| {
            let (keyword, rest) = rest.split_once(' ')?;
            let (name, rest) = rest.split_once(' ')?;
            Some((keyword, name, rest))
        });
        match comment.map(|(keyword, name, rest)| (keyword, name, rest, types.get(name))) {
            Some((keyword, name, rest, Some(&"counter"))) => {
                out.push_str(&format!("# {keyword} {name}_total {rest}"));
            }
            Some((keyword, name, rest, Some(_))) => {
                let rest = if keyword == "TYPE" { "gauge" } else { rest };
                out.push_str(&format!("# {keyword} {name}_info {rest}"));
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

type Labels<const N: usize> = [(&'static str, String); N];

/// Writes families, one after the other.
struct Families<'e>(DescriptorEncoder<'e>);

impl Families<'_> {
    fn counter<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl Iterator<Item = (Labels<N>, u64)>,
    ) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in rows {
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn gauge<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl Iterator<Item = (Labels<N>, f64)>,
    ) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in rows {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn total(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        let counter: ConstCounter<u64> = ConstCounter::new(value);
        counter.encode(family.encode_family::<[(&str, &str); 0]>(&[])?)
    }

    fn float_total(&mut self, name: &str, help: &str, value: f64) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(family.encode_family::<[(&str, &str); 0]>(&[])?)
    }

    fn level(&mut self, name: &str, help: &str, value: f64) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(family.encode_family::<[(&str, &str); 0]>(&[])?)
    }
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut families = Families(encoder);
        self.ports(&mut families)?;
        self.peers(&mut families)?;
        self.segments(&mut families)?;
        self.drops_and_errors(&mut families)?;
        self.machinery(&mut families)?;
        self.pods(&mut families)?;
        let version = [("version", self.status.version.clone())];
        let mut encoder = families.0;
        let mut info =
            encoder.encode_descriptor("build", "The running daemon.", None, MetricType::Info)?;
        info.encode_info(&version)
    }
}

type Unit = (&'static str, &'static str, fn(&Traffic) -> u64);

/// The three counters of one direction: name, what is counted, how to read it.
const UNITS: [Unit; 3] = [
    ("frames", "Frames", |traffic| traffic.frames),
    ("bytes", "Bytes of frames", |traffic| traffic.bytes),
    ("superframes", "Units of several frames handled as one,", |traffic| traffic.superframes),
];

impl Snapshot {
    fn ports(&self, families: &mut Families<'_>) -> Result<(), Error> {
        let labels = |port: &PortRow| {
            let segment = port.segment.clone().unwrap_or_default();
            [("port", port.name.clone()), ("segment", segment)]
        };
        for (unit, what, count) in UNITS {
            let rows = self.ports.iter().map(|port| (labels(port), count(&port.rx)));
            let help = format!("{what} received from the port.");
            families.counter(&format!("port_rx_{unit}"), &help, rows)?;
            let rows = self.ports.iter().map(|port| (labels(port), count(&port.tx)));
            let help = format!("{what} sent to the port.");
            families.counter(&format!("port_tx_{unit}"), &help, rows)?;
        }
        let rows = self.ports.iter().map(|port| (labels(port), port.drops));
        families.counter("port_drops", "Frames dropped at the port.", rows)?;
        let up = |port: &PortRow| if port.state == PortState::Up { 1.0 } else { 0.0 };
        let rows = self.ports.iter().map(|port| (labels(port), up(port)));
        families.gauge("port_up", "Whether the port carries traffic.", rows)
    }

    fn peers(&self, families: &mut Families<'_>) -> Result<(), Error> {
        let labels = |peer: &PeerRow| [("peer", peer.address.clone())];
        for (unit, what, count) in UNITS {
            let rows = self.peers.iter().map(|peer| (labels(peer), count(&peer.rx)));
            let help = format!("{what} received from the remote VTEP.");
            families.counter(&format!("peer_rx_{unit}"), &help, rows)?;
            let rows = self.peers.iter().map(|peer| (labels(peer), count(&peer.tx)));
            let help = format!("{what} sent to the remote VTEP.");
            families.counter(&format!("peer_tx_{unit}"), &help, rows)?;
        }
        let heard = |peer: &PeerRow| Some((labels(peer), seconds(peer.last_heard_ms?)));
        let help = "Seconds since something valid came from the remote VTEP; absent: never.";
        families.gauge("peer_last_heard_seconds", help, self.peers.iter().filter_map(heard))?;
        let mtu = |peer: &PeerRow| Some((labels(peer), f64::from(peer.mtu?)));
        let help = "Path MTU towards the remote VTEP, outer headers included.";
        families.gauge("peer_mtu_bytes", help, self.peers.iter().filter_map(mtu))
    }

    fn segments(&self, families: &mut Families<'_>) -> Result<(), Error> {
        let label = |row: &SegmentRow| ("segment", row.name.clone());
        let entries = self.segments.iter().flat_map(|row| {
            let counts = [
                ("learned", row.fdb.learned),
                ("static", row.fdb.fixed),
                ("control", row.fdb.control),
            ];
            counts
                .map(|(origin, count)| ([label(row), ("origin", origin.to_owned())], float(count)))
        });
        families.gauge("fdb_entries", "Entries in the forwarding database.", entries)?;
        let rows = self.segments.iter().map(|row| ([label(row)], row.fdb.evictions));
        families.counter("fdb_evictions", "Entries that made room for others.", rows)?;
        let rows = self.segments.iter().map(|row| ([label(row)], row.fdb.moves));
        families.counter("fdb_moves", "Times that a station changed its place.", rows)?;
        let rows = self.segments.iter().map(|row| ([label(row)], row.fdb.damped));
        families.counter("fdb_moves_damped", "Moves not followed: they came too fast.", rows)
    }

    fn drops_and_errors(&self, families: &mut Families<'_>) -> Result<(), Error> {
        let mut drops: BTreeMap<&str, u64> = BTreeMap::new();
        for row in &self.drops {
            let sum = drops.entry(&row.reason).or_default();
            *sum = sum.saturating_add(row.count);
        }
        let rows = drops.iter().map(|(reason, count)| ([("reason", (*reason).to_owned())], *count));
        families.counter("drops", "Frames and datagrams dropped.", rows)?;
        let rows = self.errors.iter().map(|(kind, count)| ([("kind", kind.clone())], *count));
        families.counter("errors", "Failed system calls that were survived.", rows)?;
        let totals = &self.status.totals;
        families.total("frames_received", "Frames taken in, from either side.", totals.received)?;
        families.total("frames_forwarded", "Frames taken in and sent on.", totals.forwarded)?;
        families.total("frames_answered", "Frames taken in and answered here.", totals.answered)?;
        families.total("frames_dropped", "Frames taken in and dropped.", totals.dropped)?;
        let help = "Datagrams that the kernel dropped at a full receive buffer.";
        families.total("socket_drops", help, totals.socket_drops)
    }

    fn machinery(&self, families: &mut Families<'_>) -> Result<(), Error> {
        let status = &self.status;
        let workers = || status.workers.iter();
        let rows = workers().map(|row| ([("worker", row.id.to_string())], row.turns));
        families.counter("worker_turns", "Times that the worker looked for work.", rows)?;
        let rows = workers().map(|row| ([("worker", row.id.to_string())], row.units));
        families.counter("worker_units", "Units that the worker took in.", rows)?;
        let offloads = || status.offloads.iter();
        let rows = offloads().map(|row| ([("offload", row.name.clone())], row.degradations));
        families.counter("offload_degradations", "Times that the offload was given up.", rows)?;
        let used = |state| matches!(state, OffloadState::On | OffloadState::Partial);
        let rows = offloads()
            .map(|row| ([("offload", row.name.clone())], if used(row.state) { 1.0 } else { 0.0 }));
        families.gauge("offload_active", "Whether the offload is in use.", rows)?;
        let ready = if status.ready { 1.0 } else { 0.0 };
        families.level("ready", "Whether ports and underlay are up.", ready)?;
        families.level("uptime_seconds", "Seconds since the start.", seconds(status.uptime_ms))
    }
}

impl Snapshot {
    /// Empty families on a node that is part of no pod network.
    fn pods(&self, families: &mut Families<'_>) -> Result<(), Error> {
        let cluster = || self.status.cluster.iter();
        let addresses = cluster().flat_map(|cluster| {
            let counts = [
                ("free", cluster.addresses_free),
                ("held", cluster.addresses_used),
                ("resting", cluster.addresses_resting),
            ];
            counts.map(|(state, count)| ([("state", state.to_owned())], float(count)))
        });
        let help = "Addresses of this node's podCIDR, one for both families.";
        families.gauge("pod_addresses", help, addresses)?;
        let nodes = cluster().map(|cluster| ([], float(cluster.nodes)));
        families.gauge("cluster_nodes", "Nodes that are known, this one included.", nodes)?;
        let connected = |yes| if yes { 1.0 } else { 0.0 };
        let rows = cluster().map(|cluster| ([], connected(cluster.connected)));
        families.gauge("cluster_store_up", "Whether the store of the cluster answers.", rows)?;
        let rows = cluster().filter_map(|cluster| Some(([], seconds(cluster.answered_ms_ago?))));
        let help = "Seconds since the store of the cluster answered; absent: never.";
        families.gauge("cluster_view_age_seconds", help, rows)?;
        let rows = cluster().map(|cluster| ([], float(count(&cluster.alarms))));
        families.gauge("cluster_alarms", "What needs an operator.", rows)?;
        let verbs = self.attachments.verbs.iter().flat_map(|(verb, done, refused)| {
            let results = [("done", *done), ("refused", *refused)];
            results.map(|(result, count)| {
                ([("verb", (*verb).to_owned()), ("result", result.to_owned())], count)
            })
        });
        families.counter("cni_operations", "Requests of the CNI plugin.", verbs)?;
        let help = "Seconds that attaching took, from the reservation to the commit, all together.";
        families.float_total("cni_add_seconds", help, seconds(self.attachments.add_ms))?;
        let help = "Attachments that nobody removed and the daemon found and removed.";
        families.total("cni_orphans", help, self.attachments.orphans)
    }
}

fn count(alarms: &[String]) -> u64 {
    u64::try_from(alarms.len()).unwrap_or(u64::MAX)
}

fn seconds(millis: u64) -> f64 {
    core::time::Duration::from_millis(millis).as_secs_f64()
}

/// Exact up to 2^53, which no table reaches.
#[allow(clippy::cast_precision_loss)]
const fn float(count: u64) -> f64 {
    count as f64
}
