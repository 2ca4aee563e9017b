//! Cluster segments: the routing rules, one named row each, and against a naive router. After every
//! row the counters obey the law, exactly one ingress has counted, and nothing was learned.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "cluster/fragments.rs"]
mod fragments;
mod kit;
#[path = "cluster/model.rs"]
mod model;
#[path = "cluster/neighbours.rs"]
mod neighbours;
#[path = "cluster/rows.rs"]
mod rows;
#[path = "cluster/superframes.rs"]
mod superframes;
#[path = "cluster/told.rs"]
mod told;
#[path = "cluster/topology.rs"]
mod topology;
#[path = "cluster/underlay.rs"]
mod underlay;
#[path = "cluster/world.rs"]
mod world;

use std::collections::BTreeSet;
use world::{Row, Want};

fn all() -> Vec<Row> {
    let parts = [
        rows::from_pod(),
        rows::identity(),
        rows::errors(),
        rows::tunnels(),
        rows::from_gateway(),
        rows::from_underlay(),
        rows::link(),
        underlay::marked(),
        underlay::reserved(),
        underlay::over_ipv6(),
        fragments::rows(),
        neighbours::unanswered(),
        neighbours::pings(),
    ];
    parts.into_iter().flatten().collect()
}

#[test]
fn every_row() {
    kit::check_rows(&all(), |row| row.name, Row::run);
}

#[test]
fn every_reason_of_a_cluster_segment_has_a_row() {
    let rows = all();
    let reasons = rows.iter().filter_map(|row| match row.want {
        Want::Drop(reason) => Some(reason),
        _ => None,
    });
    let dropped: BTreeSet<_> = reasons.collect();
    for reason in kit::ROUTED {
        assert!(dropped.contains(&reason), "{}", reason.label());
    }
}
