//! What the daemon says of its pods and their addresses: the rows of the control socket.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tracing::info;

use super::state::Daemon;
use crate::attach::{AddressRow, AddressState, Book, Host, Key, Operations, PodRow};
use crate::config::Role;
use crate::control::cluster::{self, GcReport, GcScope, IpRow, IpState};
use crate::control::metrics::Attachments;
use crate::control::model::Done;
use crate::control::{Answer, Refusal};
use crate::durable::unix_ms;

impl Daemon {
    /// Every attachment, by network and container.
    pub(super) fn pod_rows(&self) -> Vec<cluster::PodRow> {
        let mut rows = Host::pods(self);
        rows.sort_by(|a, b| a.pod.key.cmp(&b.pod.key));
        rows.iter().map(shown).collect()
    }

    /// Every address that is not free, the gateway port's included.
    pub(super) fn ip_rows(&self) -> Answer<Vec<IpRow>> {
        self.cluster()?;
        let book = self.book()?;
        let used = book.pool.rows(self.clock.tick());
        let gateway = self.ports.values().filter(|held| held.port.role == Role::Gateway);
        let gateway = gateway.flat_map(|held| {
            held.port.addresses.iter().map(|net| (net.addr(), held.port.name.to_string()))
        });
        let mut rows: Vec<(IpAddr, IpRow)> =
            used.into_iter().map(|row| (row.address, ip_row(book, row))).collect();
        rows.extend(gateway.map(|(address, port)| {
            let state = IpState::Gateway;
            let port = Some(port);
            (address, IpRow { address: address.to_string(), state, port, ..IpRow::default() })
        }));
        rows.sort_by_key(|(address, _)| *address);
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }

    /// Has an address rest no longer. One that is a pod's stays its own.
    pub(super) fn ip_release(&mut self, text: &str) -> Answer<Done> {
        self.cluster()?;
        let wrong = |_| Refusal::invalid(format!("\"{text}\" is no IP address")).at("address");
        let address: IpAddr = text.parse().map_err(wrong)?;
        let now = self.clock.tick();
        let Some(book) = self.attachments.book.as_mut() else { return Err(in_use()) };
        let row = book.pool.rows(now).into_iter().find(|row| row.address == address);
        match row.map(|row| row.state) {
            Some(AddressState::Used(key)) => {
                Err(Refusal::refused(format!("{address} is that of {key}: remove the pod")))
            }
            Some(AddressState::Resting(_)) => {
                book.pool.wake_up(address);
                Ok(Done { done: format!("{address} is free") })
            }
            None => Err(Refusal::not_found(format!("{address} is nobody's and does not rest"))),
        }
    }

    /// Removes the attachments whose namespaces are gone, or whose removal failed, without waiting any
    /// longer for who might still remove them; or only says which.
    pub(super) fn collect(&mut self, scope: GcScope) -> Answer<GcReport> {
        self.finish_bringing();
        let book = self.attachments.book.as_ref();
        let left: BTreeSet<Key> = book.iter().flat_map(|book| book.orphans()).cloned().collect();
        let is_gone = |row: &PodRow| row.gone || left.contains(&row.pod.key);
        let gone: Vec<PodRow> = Host::pods(self).into_iter().filter(is_gone).collect();
        let orphans = gone.iter().map(shown).collect();
        let mut failed = Vec::new();
        for row in gone.iter().filter(|_| !scope.dry_run) {
            match self.release_pod(&row.pod.key) {
                Ok(()) => {
                    info!("{}: removed, its namespace is gone or it was to be gone", row.pod.key);
                }
                // The others are removed all the same.
                Err(refusal) => failed.push(format!("{}: {refusal}", row.pod.key)),
            }
        }
        if !failed.is_empty() {
            return Err(Refusal::failed(failed.join("; ")));
        }
        Ok(GcReport { dry_run: scope.dry_run, orphans })
    }

    /// What was asked for on the attachment socket.
    pub(super) fn attachment_numbers(&self) -> Attachments {
        let operations = self.attachments.book.as_ref().map(|book| book.operations);
        let Operations { add, del, check, gc, status, add_ms, orphans } =
            operations.unwrap_or_default();
        let verbs = [("ADD", add), ("DEL", del), ("CHECK", check), ("GC", gc), ("STATUS", status)];
        let verbs = verbs.map(|(verb, tally)| (verb, tally.done, tally.refused)).to_vec();
        Attachments { verbs, add_ms, orphans }
    }

    fn book(&self) -> Answer<&Book> {
        self.attachments.book.as_ref().ok_or_else(in_use)
    }
}

fn ip_row(book: &Book, row: AddressRow) -> IpRow {
    let address = row.address.to_string();
    match row.state {
        AddressState::Used(key) => IpRow {
            address,
            state: IpState::Used,
            port: book.port_of(&key).map(str::to_owned),
            container: Some(key.container),
            rests_ms: None,
        },
        AddressState::Resting(ms) => {
            IpRow { address, state: IpState::Resting, rests_ms: Some(ms), ..IpRow::default() }
        }
    }
}

fn in_use() -> Refusal {
    Refusal::unavailable("the attachments are in use")
}

fn shown(row: &PodRow) -> cluster::PodRow {
    cluster::PodRow {
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
