//! From a command to the request it makes and the view it gets.

use std::path::Path;

use super::args::{
    FdbVerb, IpVerb, NodeVerb, PeerVerb, PodVerb, PortAdd, PortVerb, Scope, SegmentVerb, Verb,
};
use super::cluster_views;
use super::output::Output;
use super::views;
use crate::config::PortSpec;
use crate::control::client::{Client, ClientError, escape, with_query};
use crate::control::cluster::{GcReport, IpRow, NodeRow, PodRow};
use crate::control::model::{
    Done, DropRow, FdbRow, FdbScope, FdbStatic, Flushed, PeerRow, PortRow, ReloadReport,
    SegmentRow, Status,
};

/// Asks the daemon on `socket`, and shows what it says.
pub(super) fn ask(verb: &Verb, socket: &Path, output: &mut Output) -> Result<(), ClientError> {
    let client = Client::new(socket);
    match verb {
        // These have no daemon to ask.
        Verb::Run { .. } | Verb::Teardown { .. } | Verb::Helper { .. } | Verb::Check { .. } => {}
        Verb::Reload => {
            let report: ReloadReport = client.post("/v1/reload", &())?;
            output.show(&report, || views::reload(&report));
        }
        Verb::Status => {
            let status: Status = client.get("/v1/status")?;
            output.show(&status, || views::status(&status));
        }
        Verb::Port(verb) => port(verb, &client, output)?,
        Verb::Segment(SegmentVerb::List) => {
            let rows: Vec<SegmentRow> = client.get("/v1/segments")?;
            output.show(&rows, || views::segments(&rows));
        }
        Verb::Peer(PeerVerb::List) => {
            let rows: Vec<PeerRow> = client.get("/v1/peers")?;
            output.show(&rows, || views::peers(&rows));
        }
        Verb::Fdb(verb) => fdb(verb, &client, output)?,
        Verb::Node(verb) => node(verb, &client, output)?,
        Verb::Pod(PodVerb::List) => {
            let rows: Vec<PodRow> = client.get("/v1/pods")?;
            output.show(&rows, || cluster_views::pods(&rows));
        }
        Verb::Ip(IpVerb::List) => {
            let rows: Vec<IpRow> = client.get("/v1/ips")?;
            output.show(&rows, || cluster_views::ips(&rows));
        }
        Verb::Ip(IpVerb::Release { address }) => {
            let done: Done = client.delete(&format!("/v1/ips/{}", escape(address)))?;
            output.show(&done, || format!("{}\n", done.done));
        }
        Verb::Gc { dry_run } => {
            let path = if *dry_run { "/v1/gc?dry_run=true" } else { "/v1/gc" };
            let report: GcReport = client.post(path, &())?;
            output.show(&report, || cluster_views::gc(&report));
        }
        Verb::Drops { all } => {
            let path = if *all { "/v1/drops?all=true" } else { "/v1/drops" };
            let rows: Vec<DropRow> = client.get(path)?;
            output.show(&rows, || views::drops(&rows));
        }
    }
    Ok(())
}

fn node(verb: &NodeVerb, client: &Client, output: &mut Output) -> Result<(), ClientError> {
    match verb {
        NodeVerb::List => {
            let rows: Vec<NodeRow> = client.get("/v1/nodes")?;
            output.show(&rows, || cluster_views::nodes(&rows));
        }
        NodeVerb::Release { name } => {
            let path = with_query("/v1/nodes/release", &[("name", name.as_deref())]);
            let done: Done = client.post(&path, &())?;
            output.show(&done, || format!("{}\n", done.done));
        }
        NodeVerb::Confirm => {
            let done: Done = client.post("/v1/nodes/confirm", &())?;
            output.show(&done, || format!("{}\n", done.done));
        }
    }
    Ok(())
}

fn port(verb: &PortVerb, client: &Client, output: &mut Output) -> Result<(), ClientError> {
    match verb {
        PortVerb::List => {
            let rows: Vec<PortRow> = client.get("/v1/ports")?;
            output.show(&rows, || views::ports(&rows));
        }
        PortVerb::Add(add) => {
            let row: PortRow = client.post("/v1/ports", &spec(add))?;
            output.show(&row, || views::ports(core::slice::from_ref(&row)));
        }
        PortVerb::Del { name } => {
            let done: Done = client.delete(&format!("/v1/ports/{}", escape(name)))?;
            output.show(&done, || format!("{}\n", done.done));
        }
    }
    Ok(())
}

fn fdb(verb: &FdbVerb, client: &Client, output: &mut Output) -> Result<(), ClientError> {
    match verb {
        FdbVerb::List(scope) => {
            let pairs = [
                ("segment", scope.segment.as_deref()),
                ("port", scope.port.as_deref()),
                ("vtep", scope.vtep.as_deref()),
                ("mac", scope.mac.as_deref()),
            ];
            let rows: Vec<FdbRow> = client.get(&with_query("/v1/fdb", &pairs))?;
            output.show(&rows, || views::fdb(&rows));
        }
        FdbVerb::Add { segment, mac, port, vtep } => {
            let entry = FdbStatic {
                segment: segment.clone(),
                mac: mac.clone(),
                port: port.clone(),
                vtep: vtep.clone(),
            };
            let row: FdbRow = client.post("/v1/fdb", &entry)?;
            output.show(&row, || views::fdb(core::slice::from_ref(&row)));
        }
        FdbVerb::Del { segment, mac } => {
            let pairs = [("segment", Some(segment.as_str())), ("mac", Some(mac.as_str()))];
            let done: Done = client.delete(&with_query("/v1/fdb", &pairs))?;
            output.show(&done, || format!("{}\n", done.done));
        }
        FdbVerb::Flush(scope) => {
            let flushed: Flushed = client.post("/v1/fdb/flush", &self::scope(scope))?;
            output.show(&flushed, || views::flushed(flushed));
        }
    }
    Ok(())
}

fn scope(scope: &Scope) -> FdbScope {
    FdbScope {
        segment: scope.segment.clone(),
        port: scope.port.clone(),
        vtep: scope.vtep.clone(),
        mac: scope.mac.clone(),
    }
}

fn spec(add: &PortAdd) -> PortSpec {
    PortSpec {
        name: add.name.clone(),
        kind: None,
        segment: add.segment.clone(),
        trunk: add.trunk.clone(),
        native: add.native.clone(),
        netns: add.netns.clone(),
        ifname: add.ifname.clone(),
        mac: add.mac.clone(),
        addresses: add.addresses.clone(),
        routes: Vec::new(),
        mtu: add.mtu,
        pod: None,
    }
}
