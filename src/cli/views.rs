//! How the daemon's answers look to a human. Figures are exact: what is rounded cannot be
//! subtracted.

use super::table::Table;
use crate::control::model::{
    DropRow, FdbOrigin, FdbRow, Flushed, ObjectOrigin, OffloadState, PeerRow, PortRow, PortState,
    ReloadReport, SegmentRow, Status, Traffic,
};

pub(super) fn ports(rows: &[PortRow]) -> String {
    let mut table = Table::new(&[
        "NAME",
        "SEGMENT",
        "IFNAME",
        "NETNS",
        "MAC",
        ">MTU",
        "STATE",
        ">QUEUES",
        ">RX-FRAMES",
        ">RX-BYTES",
        ">TX-FRAMES",
        ">TX-BYTES",
        ">DROPS",
        "ORIGIN",
    ]);
    for row in rows {
        let state = match (row.state, &row.reason) {
            (PortState::Up, _) => "up".to_owned(),
            (PortState::Down, None) => "down".to_owned(),
            (PortState::Down, Some(reason)) => format!("down ({reason})"),
        };
        table.row([
            row.name.clone(),
            segment_of(row),
            row.ifname.clone(),
            row.netns.clone().unwrap_or_default(),
            row.mac.clone(),
            row.mtu.to_string(),
            state,
            row.queues.to_string(),
            row.rx.frames.to_string(),
            row.rx.bytes.to_string(),
            row.tx.frames.to_string(),
            row.tx.bytes.to_string(),
            row.drops.to_string(),
            origin(row.origin).to_owned(),
        ]);
    }
    table.render()
}

/// `blue`, or `10=blue,20=green,native=white`.
fn segment_of(row: &PortRow) -> String {
    if row.trunk.is_empty() {
        return row.segment.clone().unwrap_or_default();
    }
    let tagged = row.trunk.iter().map(|entry| format!("{}={}", entry.vlan, entry.segment));
    let native = row.segment.iter().map(|segment| format!("native={segment}"));
    tagged.chain(native).collect::<Vec<_>>().join(",")
}

pub(super) fn segments(rows: &[SegmentRow]) -> String {
    let mut table = Table::new(&[
        "NAME",
        ">VNI",
        "PORTS",
        "PEERS",
        "LEARNING",
        "AGING",
        ">LEARNED",
        ">STATIC",
        ">CONTROL",
        ">MAX-MACS",
        "ORIGIN",
    ]);
    for row in rows {
        let group = row.multicast.iter().map(|group| format!("group={group}"));
        let peers: Vec<String> = group.chain(row.peers.iter().cloned()).collect();
        table.row([
            row.name.clone(),
            row.vni.to_string(),
            row.ports.join(","),
            peers.join(","),
            if row.learning { "on" } else { "off" }.to_owned(),
            span(row.aging_ms),
            row.fdb.learned.to_string(),
            row.fdb.fixed.to_string(),
            row.fdb.control.to_string(),
            row.max_macs.to_string(),
            origin(row.origin).to_owned(),
        ]);
    }
    table.render()
}

pub(super) fn peers(rows: &[PeerRow]) -> String {
    let mut table = Table::new(&[
        "ADDRESS",
        "SEGMENTS",
        ">RX-FRAMES",
        ">RX-BYTES",
        ">TX-FRAMES",
        ">TX-BYTES",
        "LAST-HEARD",
        ">MTU",
    ]);
    for row in rows {
        table.row([
            row.address.clone(),
            row.segments.join(","),
            row.rx.frames.to_string(),
            row.rx.bytes.to_string(),
            row.tx.frames.to_string(),
            row.tx.bytes.to_string(),
            row.last_heard_ms.map_or("never".to_owned(), |ago| format!("{} ago", span(ago))),
            row.mtu.map(|mtu| mtu.to_string()).unwrap_or_default(),
        ]);
    }
    table.render()
}

pub(super) fn fdb(rows: &[FdbRow]) -> String {
    let mut table = Table::new(&["SEGMENT", ">VNI", "MAC", "WHERE", "ORIGIN", "AGE"]);
    for row in rows {
        let port = row.port.as_ref().map(|port| format!("port {port}"));
        let vtep = row.vtep.as_ref().map(|vtep| format!("vtep {vtep}"));
        table.row([
            row.segment.clone(),
            row.vni.to_string(),
            row.mac.clone(),
            port.or(vtep).unwrap_or_default(),
            match row.origin {
                FdbOrigin::Learned => "learned",
                FdbOrigin::Static => "static",
                FdbOrigin::Control => "control",
            }
            .to_owned(),
            span(row.age_ms),
        ]);
    }
    table.render()
}

pub(super) fn drops(rows: &[DropRow]) -> String {
    let mut table = Table::new(&["REASON", ">COUNT", "WHERE"]);
    for row in rows {
        let port = row.port.as_ref().map(|port| format!("port {port}"));
        let peer = row.peer.as_ref().map(|peer| format!("peer {peer}"));
        let place = port.into_iter().chain(peer).collect::<Vec<_>>().join(", ");
        table.row([row.reason.clone(), row.count.to_string(), place]);
    }
    table.render()
}

pub(super) fn flushed(flushed: Flushed) -> String {
    let noun = if flushed.removed == 1 { "entry" } else { "entries" };
    format!("{} {noun} removed\n", flushed.removed)
}

pub(super) fn reload(report: &ReloadReport) -> String {
    if report.changes.is_empty() {
        return "nothing changed\n".to_owned();
    }
    report.changes.iter().map(|change| format!("{change}\n")).collect()
}

pub(super) fn status(status: &Status) -> String {
    let mut lines: Vec<(&str, String)> = Vec::new();
    lines.push(("version", status.version.clone()));
    lines.push(("node", status.node.clone()));
    lines.push(("pid", status.pid.to_string()));
    lines.push(("uptime", span(status.uptime_ms)));
    lines.push(("ready", if status.ready { "yes".to_owned() } else { "no".to_owned() }));
    lines.extend(status.pending.iter().map(|pending| ("pending", pending.clone())));
    if let Some(helper) = &status.helper {
        let trouble = helper.trouble.as_ref().map(|trouble| format!(" ({trouble})"));
        lines.push(("helper", format!("{}{}", helper.socket, trouble.unwrap_or_default())));
    }
    let under = &status.underlay;
    let address = under.address.as_deref().unwrap_or("none");
    let interface = under.interface.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
    let mtu = under.mtu.map_or("unknown".to_owned(), |mtu| mtu.to_string());
    let checksum = if under.udp_checksum { "on" } else { "off" };
    lines.push((
        "underlay",
        format!(
            "{address}{interface} port {} mtu {mtu} udp-checksum {checksum} dscp {}",
            under.port, under.dscp
        ),
    ));
    lines.push((
        "buffers",
        format!("receive {} send {}", status.buffers.receive, status.buffers.send),
    ));
    for row in &status.workers {
        lines.push(("worker", format!("{} turns {} units {}", row.id, row.turns, row.units)));
    }
    for row in &status.offloads {
        let again = match row.degradations {
            0 => String::new(),
            times => format!(" (given up {times} times)"),
        };
        lines.push(("offload", format!("{} {}{again}", row.name, offload(row.state))));
    }
    if let Some(cluster) = &status.cluster {
        lines.extend(super::cluster_views::status(cluster));
    }
    let totals = &status.totals;
    lines.push((
        "objects",
        format!(
            "ports {} segments {} peers {} fdb-entries {}",
            totals.ports, totals.segments, totals.peers, totals.fdb_entries
        ),
    ));
    lines.push(("ports rx", traffic(&totals.port_rx)));
    lines.push(("ports tx", traffic(&totals.port_tx)));
    lines.push(("peers rx", traffic(&totals.peer_rx)));
    lines.push(("peers tx", traffic(&totals.peer_tx)));
    lines.push((
        "frames",
        format!(
            "received {} forwarded {} answered {} dropped {}",
            totals.received, totals.forwarded, totals.answered, totals.dropped
        ),
    ));
    lines.push(("socket drops", totals.socket_drops.to_string()));
    lines.iter().map(|(key, value)| format!("{key:<13} {value}\n")).collect()
}

fn traffic(traffic: &Traffic) -> String {
    let Traffic { frames, bytes, superframes } = traffic;
    format!("frames {frames} bytes {bytes} superframes {superframes}")
}

const fn origin(origin: ObjectOrigin) -> &'static str {
    match origin {
        ObjectOrigin::Config => "config",
        ObjectOrigin::Api => "api",
        ObjectOrigin::Cni => "cni",
    }
}

const fn offload(state: OffloadState) -> &'static str {
    match state {
        OffloadState::On => "on",
        OffloadState::Off => "off",
        OffloadState::Unsupported => "unsupported",
        OffloadState::Partial => "partial",
        OffloadState::Degraded => "degraded",
    }
}

/// A length of time with two units at most: `250ms`, `12.3s`, `5m`, `1h30m`, `3d4h`.
pub(super) fn span(millis: u64) -> String {
    let pair = |big: u64, unit: &str, small: u64, unit_below: &str| match small {
        0 => format!("{big}{unit}"),
        _ => format!("{big}{unit}{small}{unit_below}"),
    };
    let seconds = millis / 1000;
    match seconds {
        0 => format!("{millis}ms"),
        1..60 if millis % 1000 < 100 => format!("{seconds}s"),
        1..60 => format!("{seconds}.{}s", millis % 1000 / 100),
        60..3600 => pair(seconds / 60, "m", seconds % 60, "s"),
        3600..86_400 => pair(seconds / 3600, "h", seconds % 3600 / 60, "m"),
        _ => pair(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::span;

    #[test]
    fn spans() {
        let rows = [
            (0, "0ms"),
            (999, "999ms"),
            (1000, "1s"),
            (12_340, "12.3s"),
            (59_999, "59.9s"),
            (60_000, "1m"),
            (300_000, "5m"),
            (5_400_000, "1h30m"),
            (86_400_000, "1d"),
            (273_600_000, "3d4h"),
            (u64::MAX, "213503982334d14h"),
        ];
        for (millis, text) in rows {
            assert_eq!(span(millis), text);
        }
    }
}
