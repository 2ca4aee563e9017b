//! Membership: its rules by themselves, and its stores with the real servers behind them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod etcd;
mod feed;
mod last_good;
mod members;
mod model;
mod outages;
mod scale;
mod server;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tapestry::cluster::membership::{Membership, Moment};
use tapestry::cluster::model::{Exception, Node, View};
use tapestry::cluster::store::Own;
use tapestry::cluster::{Feed, Identity};
use tapestry::config::{Cluster, Config, Store};

/// A cluster of two networks, with the store that a test gives it.
fn config(store: Store) -> Cluster {
    let text = r#"
[node]
name = "node-a"
[underlay]
address = "192.0.2.1"
[cluster]
network = ["10.244.0.0/16"]
[[cluster.node]]
name = "node-a"
address = "192.0.2.1"
pod_cidrs = ["10.244.0.0/24"]
"#;
    let mut cluster = Config::parse(text).unwrap().cluster.unwrap();
    cluster.store = store;
    cluster
}

/// What makes something wrong.
type Change<'a, T> = &'a dyn Fn(&mut T);

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// The VTEP of the node with this number.
fn vtep(number: u32) -> SocketAddr {
    let base = u32::from(Ipv4Addr::new(198, 18, 0, 0));
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from(base + number)), 4789)
}

/// A node of that number, with the share of that number.
fn node(number: u32) -> Node {
    let share = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 244, 0, 0)) + (number << 8));
    Node {
        name: format!("node-{number}"),
        identity: format!("identity-{number}"),
        vtep: vtep(number),
        addresses: vec![vtep(number).ip()],
        pod_cidrs: vec![IpNet::new(share.into(), 24).unwrap()],
        exceptions: Vec::new(),
        capabilities: Vec::new(),
    }
}

fn key(number: u32) -> String {
    format!("nodes/node-{number}")
}

/// What the node with this number says of itself.
fn own(number: u32) -> Own {
    let Node { name, identity, vtep, .. } = node(number);
    let (addresses, exceptions, capabilities) = (Vec::new(), Vec::new(), Vec::new());
    Own { name, identity, vtep, addresses, exceptions, capabilities }
}

fn exception(text: &str, generation: u64) -> Exception {
    Exception { net: net(text), generation }
}

fn at(seconds: u64) -> Moment {
    Moment { elapsed: Duration::from_secs(seconds), unix_ms: 1_000_000 + seconds * 1000 }
}

/// Whether an alarm about this says that.
fn is_alarmed(view: &View, about: &str, what: &str) -> bool {
    view.alarms.iter().any(|alarm| alarm.subject == about && alarm.message.contains(what))
}

fn names(view: &View) -> Vec<&str> {
    let mut names: Vec<&str> = view.others.keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

/// A membership of node 0 in a cluster that is kept in etcd.
fn membership() -> Membership {
    Membership::new(&config(etcd_store(Vec::new())), own(0))
}

fn etcd_store(endpoints: Vec<String>) -> Store {
    Store::Etcd(tapestry::config::Etcd {
        endpoints,
        prefix: "/tapestry".to_owned(),
        ca: None,
        identity: None,
        user: None,
        lease: Duration::from_secs(5),
        grace: Duration::from_secs(3600),
    })
}

/// Starts the node with this number.
fn start(config: &Cluster, number: u32, dir: &Path) -> Feed {
    let who =
        Identity { name: format!("node-{number}"), vtep: vtep(number), capabilities: Vec::new() };
    tapestry::cluster::start(config, who, dir).unwrap()
}

/// Waits for a view that is so.
async fn view(feed: &Feed, what: &str, is_so: impl Fn(&View) -> bool) -> Arc<View> {
    let mut views = feed.view.clone();
    let waited = tokio::time::timeout(Duration::from_secs(30), views.wait_for(|v| is_so(v))).await;
    match waited {
        Ok(found) => found.unwrap().clone(),
        Err(_) => {
            let view = feed.view.borrow();
            let alarms = &view.alarms[..view.alarms.len().min(10)];
            let (own, store, count) = (&view.own, &view.store, view.others.len());
            panic!("not within 30 s: {what}; {own:?}, {count} others, {alarms:?}, {store:?}")
        }
    }
}
