//! How the cluster looks to a human.

use super::table::Table;
use super::views::span;
use crate::control::cluster::{ClusterStatus, GcReport, IpRow, IpState, NodeRow, PodRow, Reached};

pub(super) fn nodes(rows: &[NodeRow]) -> String {
    let mut table =
        Table::new(&["NAME", "VTEP", "POD-CIDRS", "REACHED", "LAST-HEARD", "ADDRESSES", "MORE"]);
    for row in rows {
        let heard = row.last_heard_ms.map(|ago| format!("{} ago", span(ago)));
        let more: Vec<String> =
            row.exceptions.iter().map(|one| format!("{}@{}", one.net, one.generation)).collect();
        table.row([
            row.name.clone(),
            row.vtep.clone(),
            row.pod_cidrs.join(","),
            match row.reached {
                Reached::Tunnel => "tunnel",
                Reached::Route => "route",
                Reached::Local => "local",
            }
            .to_owned(),
            heard.unwrap_or_else(|| if row.own { String::new() } else { "never".to_owned() }),
            row.addresses.join(","),
            more.join(","),
        ]);
    }
    table.render()
}

pub(super) fn pods(rows: &[PodRow]) -> String {
    let mut table = Table::new(&[
        "NETWORK",
        "CONTAINER",
        "IFNAME",
        "ADDRESSES",
        "MAC",
        "PORT",
        "SINCE",
        "NETNS",
    ]);
    for row in rows {
        table.row([
            row.network.clone(),
            row.container.clone(),
            row.ifname.clone(),
            row.addresses.join(","),
            row.mac.clone(),
            row.port.clone(),
            span(row.since_ms),
            row.netns.clone(),
        ]);
    }
    table.render()
}

pub(super) fn ips(rows: &[IpRow]) -> String {
    let mut table = Table::new(&["ADDRESS", "STATE", "CONTAINER", "PORT"]);
    for row in rows {
        let state = match (row.state, row.rests_ms) {
            (IpState::Used, _) => "used".to_owned(),
            (IpState::Gateway, _) => "gateway".to_owned(),
            (IpState::Resting, None) => "resting".to_owned(),
            (IpState::Resting, Some(left)) => format!("resting, {} more", span(left)),
        };
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        table.row([row.address.clone(), state, text(&row.container), text(&row.port)]);
    }
    table.render()
}

pub(super) fn gc(report: &GcReport) -> String {
    let what = if report.dry_run { "would be removed" } else { "removed" };
    if report.orphans.is_empty() {
        return "nothing to remove\n".to_owned();
    }
    let line = |row: &PodRow| {
        let addresses = row.addresses.join(",");
        format!("{} {} {addresses}: {what}\n", row.container, row.ifname)
    };
    report.orphans.iter().map(line).collect()
}

/// The lines about the cluster in `status`.
pub(super) fn status(cluster: &ClusterStatus) -> Vec<(&'static str, String)> {
    let share = if cluster.pod_cidrs.is_empty() {
        "no share yet".to_owned()
    } else {
        cluster.pod_cidrs.join(",")
    };
    let store = match (cluster.connected, &cluster.trouble, cluster.answered_ms_ago) {
        (true, ..) => "answers".to_owned(),
        (false, trouble, answered) => {
            let ago = answered.map(|ago| format!(", last answer {} ago", span(ago)));
            let why = trouble.as_ref().map(|why| format!(": {why}"));
            format!("does not answer{}{}", ago.unwrap_or_default(), why.unwrap_or_default())
        }
    };
    let mut lines = vec![
        ("pods", format!("{} of {} nodes {}", share, cluster.networks.join(","), cluster.nodes)),
        ("store", format!("{} {store}", cluster.store)),
        (
            "addresses",
            format!(
                "used {} resting {} free {}",
                cluster.addresses_used, cluster.addresses_resting, cluster.addresses_free
            ),
        ),
    ];
    lines.extend(cluster.alarms.iter().map(|alarm| ("alarm", alarm.clone())));
    lines
}
