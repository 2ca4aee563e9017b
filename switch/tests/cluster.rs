//! Cluster segments: the routing rules, one named row each, and against a naive router. After every
//! row the counters obey the law, exactly one ingress has counted, and nothing was learned.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

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
#[path = "cluster/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
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
        neighbours::unanswered(),
        neighbours::pings(),
    ];
    parts.into_iter().flatten().collect()
}

#[test]
fn every_row() {
    let failed: Vec<&str> = all()
        .iter()
        .filter(|row| {
            let outcome = catch_unwind(AssertUnwindSafe(|| row.run()));
            if outcome.is_err() {
                eprintln!("^ row: {}\n", row.name);
            }
            outcome.is_err()
        })
        .map(|row| row.name)
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn every_reason_of_a_cluster_segment_has_a_named_row() {
    let (mut names, mut dropped) = (BTreeSet::new(), BTreeSet::new());
    for row in all() {
        assert!(names.insert(row.name), "two rows are called \"{}\"", row.name);
        if let Want::Drop(reason) = row.want {
            dropped.insert(reason);
        }
    }
    for reason in kit::ROUTED {
        assert!(dropped.contains(&reason), "{}", reason.label());
    }
}
