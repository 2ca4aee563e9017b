//! What the daemon says of the cluster: the rows of the control socket.

use std::collections::HashSet;
use std::net::SocketAddr;

use super::pods::Pods;
use super::state::Daemon;
use crate::cluster::model::Node;
use crate::config::Store;
use crate::control::cluster::{ClusterStatus, ExceptionRow, NodeRow, Reached};
use crate::control::{Answer, Refusal};
use crate::durable::unix_ms;

impl Daemon {
    /// The pod network, or why there is none.
    pub(super) fn cluster(&self) -> Answer<&Pods> {
        let none = || Refusal::refused("this node is part of no cluster: there is no [cluster]");
        self.pods.as_ref().ok_or_else(none)
    }

    pub(super) fn node_rows(&self) -> Answer<Vec<NodeRow>> {
        let pods = self.cluster()?;
        let own = pods.view.own.iter().map(|node| self.node_row(node, Reached::Local));
        let tunnelled: HashSet<SocketAddr> = pods.ways.tunnel.values().copied().collect();
        let reached = |node: &Node| match tunnelled.contains(&node.vtep) {
            true => Reached::Tunnel,
            false => Reached::Route,
        };
        let others = pods.view.others.values();
        let others = others.map(|node| self.node_row(node, reached(node)));
        let mut rows: Vec<NodeRow> = own.chain(others).collect();
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(rows)
    }

    fn node_row(&self, node: &Node, reached: Reached) -> NodeRow {
        let own = reached == Reached::Local;
        let vtep = self.topology.vtep_at(node.vtep.ip()).filter(|_| !own);
        let heard = vtep.and_then(|vtep| self.read_vtep(vtep.id).1);
        let now = self.clock.tick();
        NodeRow {
            name: node.name.clone(),
            own,
            vtep: self.vtep_name(node.vtep),
            addresses: node.addresses.iter().map(ToString::to_string).collect(),
            pod_cidrs: node.pod_cidrs.iter().map(ToString::to_string).collect(),
            exceptions: node
                .exceptions
                .iter()
                .map(|one| ExceptionRow { net: one.net.to_string(), generation: one.generation })
                .collect(),
            reached,
            last_heard_ms: heard.map(|heard| now.since(heard)),
            identity: node.identity.clone(),
        }
    }

    pub(super) fn cluster_status(&self) -> Option<ClusterStatus> {
        let pods = self.pods.as_ref()?;
        let view = &pods.view;
        let answered = view.store.answered_ms.map(|answered| unix_ms().saturating_sub(answered));
        let own = view.own.iter().flat_map(|own| &own.pod_cidrs);
        let now = self.clock.tick();
        let counts = self.attachments.book.as_ref().map(|book| book.pool.counts(now));
        let counts = counts.unwrap_or_default();
        let unlisted = pods.unlisted().map(|why| format!("CNI configuration: {why}"));
        Some(ClusterStatus {
            networks: pods.config.networks.iter().map(|one| one.net.to_string()).collect(),
            pod_cidrs: own.map(ToString::to_string).collect(),
            store: match pods.config.store {
                Store::Static(_) => "static",
                Store::Etcd(_) => "etcd",
                Store::Kubernetes(_) => "kubernetes",
            }
            .to_owned(),
            connected: view.store.connected,
            trouble: view.store.trouble.clone(),
            answered_ms_ago: answered,
            nodes: u64::try_from(view.others.len()).unwrap_or(u64::MAX)
                + u64::from(view.own.is_some()),
            addresses_used: counts.used,
            addresses_resting: counts.resting,
            addresses_free: counts.free(),
            alarms: view
                .alarms
                .iter()
                .map(|alarm| format!("{}: {}", alarm.subject, alarm.message))
                .chain(unlisted)
                .chain(pods.way_out.alarms())
                .collect(),
        })
    }
}
