//! 5,000 Nodes, listed cold.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;
use tapestry::cluster::kubernetes::Pace;

use super::seen::{Running, brisk};
use super::stand_in::{Kind, StandIn, member, recorded_nodes};

const NODES: usize = 5_000;

fn node(number: usize) -> Value {
    let mut node = recorded_nodes()[0].clone();
    let (high, low) = (number / 256, number % 256);
    node["metadata"]["name"] = format!("node-{number}").into();
    node["metadata"]["uid"] = format!("uid-{number}").into();
    node["spec"]["podCIDR"] = format!("10.{high}.{low}.0/24").into();
    node["spec"]["podCIDRs"] =
        vec![format!("10.{high}.{low}.0/24"), format!("fd00:10:{number:x}::/64")].into();
    node["status"]["addresses"][0]["address"] = format!("172.16.{high}.{low}").into();
    member(node, &format!("172.16.{high}.{low}:4789"))
}

/// The most memory that this process ever had, in KiB.
fn peak() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test]
async fn five_thousand_nodes_are_listed_quickly_and_in_bounded_memory() {
    let server = StandIn::start((1..=NODES).map(node)).await;
    let before = peak();
    let pace = Pace { page: Pace::default().page, ..brisk() };
    let mut store = Running::start(server.kubeconfig(), "node-1", pace);
    let began = Instant::now();
    let seen = store.until("all of them", |seen| seen.members.len() == NODES).await;
    let took = began.elapsed();
    assert!(seen.members.values().all(Result::is_ok));
    let grown = peak() - before;
    println!("{NODES} Nodes: {took:?}, {grown} KiB more, server and store in one process");
    // The stand-in is a debug build on the same thread, and sends some 1.5 KiB each.
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert!(grown < 100 * 1024, "{grown} KiB");
    assert_eq!(server.count(Kind::List), NODES / 500);
    // One event is one event, however many there are.
    server.until("a watch", |server| server.count(Kind::Watch) == 1).await;
    let began = Instant::now();
    server.change("node-2500", |node| {
        node["metadata"]["annotations"]["tapestry.dev/vtep"] = "172.31.0.1:4789".into();
    });
    store.until("a change", |seen| seen.vtep("node-2500").unwrap() == "172.31.0.1:4789").await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}
