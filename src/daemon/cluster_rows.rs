//! What the daemon says of the cluster: the rows of the control socket.

use std::net::IpAddr;

use super::clock::unix_ms;
use super::pods::Pods;
use super::state::Daemon;
use crate::attach::{self, AddressState, Host as _};
use crate::cluster::model::Node;
use crate::config::{Role, Store};
use crate::control::cluster::{
    ClusterStatus, ExceptionRow, GcReport, GcScope, IpRow, IpState, NodeRow, PodRow, Reached,
};
use crate::control::model::Done;
use crate::control::{Answer, Refusal};

impl Daemon {
    /// The pod network, or why there is none.
    pub(super) fn cluster(&self) -> Answer<&Pods> {
        let none = || Refusal::refused("this node is part of no cluster: there is no [cluster]");
        self.pods.as_ref().ok_or_else(none)
    }

    pub(super) fn node_rows(&self) -> Answer<Vec<NodeRow>> {
        let pods = self.cluster()?;
        let own = pods.view.own.iter().map(|node| self.node_row(pods, node, true));
        let others = pods.view.others.values().map(|node| self.node_row(pods, node, false));
        let mut rows: Vec<NodeRow> = own.chain(others).collect();
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(rows)
    }

    fn node_row(&self, pods: &Pods, node: &Node, own: bool) -> NodeRow {
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
            reached: if own {
                Reached::Local
            } else if pods.ways.tunnel.iter().any(|(_, vtep)| *vtep == node.vtep) {
                Reached::Tunnel
            } else {
                Reached::Route
            },
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
        let rules = pods.keeper.as_ref().and_then(|keeper| keeper.state().trouble);
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
                .chain(rules.map(|trouble| format!("rules: {trouble}")))
                .collect(),
        })
    }

    fn pod_row_of(&self, row: &attach::PodRow) -> PodRow {
        PodRow {
            network: row.pod.key.network.clone(),
            container: row.pod.key.container.clone(),
            ifname: row.pod.key.ifname.clone(),
            netns: row.netns.clone(),
            addresses: row.pod.addresses.iter().map(ToString::to_string).collect(),
            mac: row.mac.to_string(),
            port: row.port.clone(),
            since_ms: unix_ms().saturating_sub(row.pod.since_ms),
        }
    }

    /// The containers that are attached, in whichever segment.
    pub(super) fn pod_rows(&self) -> Vec<PodRow> {
        let mut rows: Vec<PodRow> = self.pods().iter().map(|row| self.pod_row_of(row)).collect();
        let key = |row: &PodRow| (row.network.clone(), row.container.clone(), row.ifname.clone());
        rows.sort_by_key(key);
        rows
    }

    pub(super) fn ip_rows(&self) -> Answer<Vec<IpRow>> {
        self.cluster()?;
        let Some(book) = &self.attachments.book else { return Ok(Vec::new()) };
        let row = |row: attach::AddressRow| {
            let (state, key, rests_ms) = match row.state {
                AddressState::Used(key) => (IpState::Used, Some(key), None),
                AddressState::Resting(left) => (IpState::Resting, None, Some(left)),
            };
            IpRow {
                address: row.address.to_string(),
                state,
                port: key.as_ref().map(attach::Key::port_name),
                container: key.map(|key| key.container),
                rests_ms,
            }
        };
        let gateways = self.ports.values().filter(|held| held.port.role == Role::Gateway);
        let gateways = gateways.flat_map(|held| &held.port.addresses).map(|net| IpRow {
            address: net.addr().to_string(),
            state: IpState::Gateway,
            ..IpRow::default()
        });
        let pods = book.pool.rows(self.clock.tick()).into_iter().map(row);
        Ok(gateways.chain(pods).collect())
    }

    pub(super) fn ip_release(&mut self, text: &str) -> Answer<Done> {
        self.cluster()?;
        let address: IpAddr = text
            .parse()
            .map_err(|_| Refusal::invalid(format!("\"{text}\" is no address")).at("address"))?;
        let now = self.clock.tick();
        let Some(book) = &mut self.attachments.book else {
            return Err(Refusal::unavailable("the attachments are in use"));
        };
        let rows = book.pool.rows(now);
        match rows.into_iter().find(|row| row.address == address).map(|row| row.state) {
            Some(AddressState::Used(key)) => {
                Err(Refusal::refused(format!("{address} is {key}'s: that has to be removed first")))
            }
            Some(AddressState::Resting(_)) => {
                book.pool.wake_up(address);
                Ok(Done { done: format!("{address} is free") })
            }
            None => Err(Refusal::not_found(format!("{address} neither is used nor rests"))),
        }
    }

    pub(super) fn gc(&mut self, scope: GcScope) -> Answer<GcReport> {
        let rows: Vec<attach::PodRow> = self.pods().into_iter().filter(|row| row.gone).collect();
        let orphans = rows.iter().map(|row| self.pod_row_of(row)).collect();
        if !scope.dry_run {
            self.finish_bringing();
            for row in &rows {
                self.release_pod(&row.pod.key)?;
            }
        }
        Ok(GcReport { dry_run: scope.dry_run, orphans })
    }
}
