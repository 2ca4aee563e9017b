//! The metrics, read by a parser that shares nothing with their writer.

use std::collections::{BTreeMap, BTreeSet};

use tapestry::control::Snapshot;
use tapestry::control::metrics::{Format, render};

use crate::stand_in::{StandIn, snapshot};

type Labels = Vec<(String, String)>;
type Samples = BTreeMap<(String, Labels), f64>;
type Types = BTreeMap<String, String>;

/// Samples by name and sorted labels, and the type of each family: a reader of the text format
/// that shares nothing with the writer.
fn parse_metrics(text: &str) -> (Samples, Types) {
    let mut samples = BTreeMap::new();
    let mut types = BTreeMap::new();
    let mut helped = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!help.is_empty() && helped.insert(name.to_owned()), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
        } else if line != "# EOF" {
            assert!(!line.starts_with('#'), "{line}");
            let end = line.find(['{', ' ']).unwrap();
            let (name, mut rest) = line.split_at(end);
            let mut labels = Vec::new();
            if let Some(inside) = rest.strip_prefix('{') {
                rest = inside;
                while !rest.starts_with('}') {
                    rest = rest.trim_start_matches(',');
                    let (key, tail) = rest.split_once("=\"").unwrap();
                    let mut value = String::new();
                    let mut chars = tail.char_indices();
                    let close = loop {
                        match chars.next().expect("a closing quote") {
                            (at, '"') => break at,
                            (_, '\\') => value.push(match chars.next().unwrap().1 {
                                'n' => '\n',
                                other => other,
                            }),
                            (_, other) => value.push(other),
                        }
                    };
                    labels.push((key.to_owned(), value));
                    rest = &tail[close + 1..];
                }
                rest = &rest[1..];
            }
            labels.sort();
            let value: f64 = rest.trim().parse().unwrap();
            assert!(samples.insert((name.to_owned(), labels), value).is_none(), "twice: {line}");
        }
    }
    (samples, types)
}

fn label(pairs: &[(&str, &str)]) -> Labels {
    let mut all: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    all.sort();
    all
}

#[test]
fn metrics_have_the_names_and_labels_of_the_contract() {
    let daemon = StandIn::start();
    let (code, text) = daemon.get_metrics("/metrics", "");
    assert_eq!(code, 200);
    let (samples, types) = parse_metrics(&text);
    let port = label(&[("port", "tap-a"), ("segment", "blue")]);
    let peer = label(&[("peer", "192.0.2.2")]);
    let entries = |origin| label(&[("segment", "blue"), ("origin", origin)]);
    let rows: Vec<(&str, Labels, f64, &str)> = vec![
        ("tapestry_port_rx_frames_total", port.clone(), 1_234_567.0, "counter"),
        ("tapestry_port_rx_bytes_total", port.clone(), 9_876_543_210.0, "counter"),
        ("tapestry_port_rx_superframes_total", port.clone(), 42.0, "counter"),
        ("tapestry_port_tx_frames_total", port.clone(), 7.0, "counter"),
        ("tapestry_port_tx_bytes_total", port.clone(), 518.0, "counter"),
        ("tapestry_port_tx_superframes_total", port.clone(), 0.0, "counter"),
        ("tapestry_port_drops_total", port.clone(), 3.0, "counter"),
        ("tapestry_port_up", port, 1.0, "gauge"),
        ("tapestry_port_up", label(&[("port", "trunk0"), ("segment", "")]), 0.0, "gauge"),
        ("tapestry_peer_rx_frames_total", peer.clone(), 10.0, "counter"),
        ("tapestry_peer_rx_bytes_total", peer.clone(), 1000.0, "counter"),
        ("tapestry_peer_tx_frames_total", peer.clone(), 20.0, "counter"),
        ("tapestry_peer_tx_bytes_total", peer.clone(), 2000.0, "counter"),
        ("tapestry_peer_tx_superframes_total", peer.clone(), 2.0, "counter"),
        ("tapestry_peer_last_heard_seconds", peer.clone(), 1.5, "gauge"),
        ("tapestry_peer_mtu_bytes", peer, 1500.0, "gauge"),
        ("tapestry_drops_total", label(&[("reason", "unknown_vni")]), 42.0, "counter"),
        ("tapestry_drops_total", label(&[("reason", "bad_header")]), 0.0, "counter"),
        ("tapestry_fdb_entries", entries("learned"), 2.0, "gauge"),
        ("tapestry_fdb_entries", entries("static"), 1.0, "gauge"),
        ("tapestry_fdb_entries", entries("control"), 0.0, "gauge"),
        ("tapestry_fdb_evictions_total", label(&[("segment", "blue")]), 5.0, "counter"),
        ("tapestry_fdb_moves_total", label(&[("segment", "blue")]), 6.0, "counter"),
        ("tapestry_fdb_moves_damped_total", label(&[("segment", "blue")]), 7.0, "counter"),
        ("tapestry_errors_total", label(&[("kind", "underlay_send")]), 9.0, "counter"),
        ("tapestry_worker_turns_total", label(&[("worker", "1")]), 33.0, "counter"),
        ("tapestry_worker_units_total", label(&[("worker", "1")]), 44.0, "counter"),
        ("tapestry_offload_degradations_total", label(&[("offload", "udp_gso")]), 2.0, "counter"),
        ("tapestry_offload_active", label(&[("offload", "tap_tso")]), 1.0, "gauge"),
        ("tapestry_offload_active", label(&[("offload", "udp_gso")]), 0.0, "gauge"),
        ("tapestry_socket_drops_total", vec![], 5.0, "counter"),
        ("tapestry_frames_received_total", vec![], 10.0, "counter"),
        ("tapestry_frames_forwarded_total", vec![], 7.0, "counter"),
        ("tapestry_frames_answered_total", vec![], 1.0, "counter"),
        ("tapestry_frames_dropped_total", vec![], 2.0, "counter"),
        ("tapestry_pod_addresses", label(&[("state", "free")]), 251.0, "gauge"),
        ("tapestry_pod_addresses", label(&[("state", "held")]), 1.0, "gauge"),
        ("tapestry_pod_addresses", label(&[("state", "resting")]), 1.0, "gauge"),
        ("tapestry_cluster_nodes", vec![], 3.0, "gauge"),
        ("tapestry_cluster_store_up", vec![], 0.0, "gauge"),
        ("tapestry_cluster_view_age_seconds", vec![], 90.0, "gauge"),
        ("tapestry_cluster_alarms", vec![], 1.0, "gauge"),
        (
            "tapestry_cni_operations_total",
            label(&[("verb", "ADD"), ("result", "refused")]),
            2.0,
            "counter",
        ),
        (
            "tapestry_cni_operations_total",
            label(&[("verb", "DEL"), ("result", "done")]),
            30.0,
            "counter",
        ),
        ("tapestry_cni_add_seconds_total", vec![], 2.5, "counter"),
        ("tapestry_cni_orphans_total", vec![], 3.0, "counter"),
        ("tapestry_ready", vec![], 0.0, "gauge"),
        ("tapestry_uptime_seconds", vec![], 5400.0, "gauge"),
        ("tapestry_build_info", label(&[("version", "9.8.7")]), 1.0, "gauge"),
    ];
    for (name, labels, value, kind) in &rows {
        let found = samples.get(&((*name).to_owned(), labels.clone()));
        assert_eq!(found, Some(value), "{name} {labels:?}");
        assert_eq!(types.get(*name).map(String::as_str), Some(*kind), "{name}");
    }
    let known: BTreeSet<&str> = rows.iter().map(|(name, ..)| *name).collect();
    for (name, _) in samples.keys() {
        assert!(types.contains_key(name), "{name} has no type");
        assert!(
            known.contains(name.as_str()) || name == "tapestry_peer_rx_superframes_total",
            "{name}"
        );
    }

    let (code, open) =
        daemon.get_metrics("/metrics", "accept: application/openmetrics-text; version=1.0.0\r\n");
    assert_eq!(code, 200);
    assert!(open.ends_with("# EOF\n") && !text.contains("# EOF"));
    let (same, families) = parse_metrics(&open);
    assert_eq!(same, samples);
    assert_eq!(families["tapestry_drops"], "counter");
}

#[test]
fn labels_are_escaped() {
    let odd = "a\"b\\c\nd";
    let mut shot = snapshot();
    shot.peers[0].address = odd.to_owned();
    for format in [Format::Prometheus, Format::OpenMetrics] {
        let (samples, _) = parse_metrics(&render(shot.clone(), format).unwrap());
        let key = ("tapestry_peer_rx_frames_total".to_owned(), label(&[("peer", odd)]));
        assert_eq!(samples.get(&key), Some(&10.0));
    }
    let empty = render(Snapshot::default(), Format::Prometheus).unwrap();
    let (samples, _) = parse_metrics(&empty);
    assert!(samples.contains_key(&("tapestry_ready".to_owned(), vec![])));
}

#[test]
fn health_and_readiness() {
    let daemon = StandIn::start();
    assert_eq!(daemon.get_metrics("/healthz", ""), (200, "ok\n".to_owned()));
    let wanted = "not ready\nport trunk0: no namespace \"vm\"\n".to_owned();
    assert_eq!(daemon.get_metrics("/readyz", ""), (503, wanted));
    assert_eq!(daemon.get_metrics("/v1/status", "").0, 404, "no control on TCP");
}
