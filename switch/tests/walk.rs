//! The forwarding rules, one named row each. After every row the counters obey the law, exactly one
//! ingress has counted, what was dropped went nowhere, and only what was admitted taught anything.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "walk/inet.rs"]
mod inet;
mod kit;
#[path = "walk/rows.rs"]
mod rows;
#[path = "walk/sizes.rs"]
mod sizes;
#[path = "walk/told.rs"]
mod told;
#[path = "walk/world.rs"]
mod world;

use std::collections::BTreeSet;
use switch::DropReason;
use world::{Row, Want};

/// Reasons that only drivers give: they concern what never became a frame, or what became of it
/// behind the sink.
const DRIVERS: [DropReason; 16] = [
    DropReason::VnetTruncated,
    DropReason::VnetGsoType,
    DropReason::VnetGsoSize,
    DropReason::VnetLength,
    DropReason::VnetProtocol,
    DropReason::VnetChecksum,
    DropReason::FrameTooLong,
    DropReason::DatagramTruncated,
    DropReason::HeaderTruncated,
    DropReason::HeaderInvalid,
    DropReason::PortWrite,
    DropReason::UnderlayFull,
    DropReason::UnderlayUnreachable,
    DropReason::UnderlaySend,
    DropReason::Uncuttable,
    DropReason::ReceiveBuffer,
];

fn all() -> Vec<Row> {
    let parts = [rows::admission(), rows::tags(), rows::tunnel(), rows::places(), sizes::sizes()];
    parts.into_iter().flatten().collect()
}

#[test]
fn every_row() {
    kit::check_rows(&all(), |row| row.name, Row::run);
}

#[test]
fn every_reason_has_a_row_or_is_a_drivers() {
    let rows = all();
    let covered: BTreeSet<DropReason> = rows
        .iter()
        .filter_map(|row| match row.want {
            Want::Drop(reason) => Some(reason),
            _ => None,
        })
        .collect();
    // Those have rows of their own, in cluster.rs.
    for reason in DropReason::ALL.into_iter().filter(|reason| !kit::ROUTED.contains(reason)) {
        let drivers = DRIVERS.contains(&reason);
        assert_ne!(covered.contains(&reason), drivers, "{}", reason.label());
    }
}
