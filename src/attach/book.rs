//! What is attached and what is about to be: the rules of the attachment socket, without the socket
//! and without devices.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use fdb::Tick;

use super::Key;
use super::host::{Host, PodRow};
use super::pool::{Pool, PoolError};
use super::protocol::{Answer, Expected, LIST_PAGE, Listed, Refused, RefusedKind, Request};
use super::tombstone::Tombstone;
use crate::config::PortSpec;
use crate::device::netns::NetnsIdentity;

/// A connection to the socket, for as long as it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// How often something was asked for, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// It was done.
    pub done: u64,
    /// It was refused.
    pub refused: u64,
}

/// What was asked for since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    /// Attachments, from the reservation to the commit.
    pub add: Tally,
    /// How long those that were done took, all together, in milliseconds.
    pub add_ms: u64,
    /// Releases.
    pub del: Tally,
    /// Comparisons.
    pub check: Tally,
    /// Collections.
    pub gc: Tally,
    /// Questions whether an attachment could be made.
    pub status: Tally,
    /// Attachments that were removed because their namespace was gone, or because it had failed before.
    pub orphans: u64,
}

/// How far an attachment is.
#[derive(Debug)]
pub(super) enum Stage {
    Reserved { ticket: Ticket, spec: Box<PortSpec>, queues: u16, begun: Tick },
    Attached { ticket: Ticket, begun: Tick },
    Standing,
}

impl Stage {
    pub(super) const fn ticket(&self) -> Option<Ticket> {
        match self {
            Self::Reserved { ticket, .. } | Self::Attached { ticket, .. } => Some(*ticket),
            Self::Standing => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) port: String,
    pub(super) identity: NetnsIdentity,
    since_ms: u64,
    pub(super) stage: Stage,
    /// Since when its namespace is not where it was, or when its removal failed last.
    gone: Option<Tick>,
    /// It was to be removed, and could not be.
    pub(super) leaving: bool,
}

impl Entry {
    pub(super) const fn new(
        port: String,
        identity: NetnsIdentity,
        since_ms: u64,
        stage: Stage,
    ) -> Self {
        Self { port, identity, since_ms, stage, gone: None, leaving: false }
    }
}

/// The attachments of a node, and the addresses they have.
#[derive(Debug)]
pub struct Book {
    /// The addresses.
    pub pool: Pool,
    /// What was asked for.
    pub operations: Operations,
    pub(super) entries: BTreeMap<Key, Entry>,
}

impl Book {
    /// A book without attachments.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self { pool, operations: Operations::default(), entries: BTreeMap::new() }
    }

    /// Notes an attachment that the journal has from before.
    ///
    /// # Errors
    ///
    /// When another one has one of its addresses. It is noted without addresses then.
    pub fn restore(&mut self, row: &PodRow) -> Result<(), PoolError> {
        let (identity, since_ms) = (row.pod.netns, row.pod.since_ms);
        let entry = Entry::new(row.port.clone(), identity, since_ms, Stage::Standing);
        self.entries.insert(row.pod.key.clone(), entry);
        // Where a segment bridges, addresses are none of ours: they may be the same in two segments.
        let held = if row.pod.routed { row.pod.addresses.as_slice() } else { &[] };
        self.pool.hold(&row.pod.key, held)
    }

    /// How many attachments there are, those that are about to be included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The port of an attachment.
    #[must_use]
    pub fn port_of(&self, key: &Key) -> Option<&str> {
        self.entries.get(key).map(|entry| entry.port.as_str())
    }

    /// Whether something was begun on a connection and not committed.
    #[must_use]
    pub fn has_begun(&self, ticket: Ticket) -> bool {
        self.entries.values().any(|entry| entry.stage.ticket() == Some(ticket))
    }

    /// The attachments whose namespace is gone, or whose removal failed.
    pub fn orphans(&self) -> impl Iterator<Item = &Key> {
        self.entries.iter().filter(|(_, entry)| entry.gone.is_some()).map(|(key, _)| key)
    }

    /// Does what was asked for on a connection, and answers.
    pub fn answer(
        &mut self,
        ticket: Ticket,
        request: Request,
        descriptors: Vec<OwnedFd>,
        host: &mut impl Host,
        now: Tick,
    ) -> Answer {
        let tally: Option<fn(&mut Operations) -> &mut Tally> = match request {
            Request::Reserve(_) | Request::Attach { .. } | Request::Commit => None,
            Request::Release { .. } => Some(|operations| &mut operations.del),
            Request::Check { .. } => Some(|operations| &mut operations.check),
            Request::Gc { .. } => Some(|operations| &mut operations.gc),
            Request::Status { .. } => Some(|operations| &mut operations.status),
            Request::List { .. } => None,
        };
        let adds =
            matches!(request, Request::Reserve(_) | Request::Attach { .. } | Request::Commit);
        let done = self.obey(ticket, request, descriptors, host, now);
        if let Some(tally) = tally {
            let tally = tally(&mut self.operations);
            let whole = match &done {
                Ok(Answer::Released { failed, .. }) => failed.is_empty(),
                done => done.is_ok(),
            };
            let count = if whole { &mut tally.done } else { &mut tally.refused };
            *count += 1;
        }
        if adds && done.is_err() {
            self.operations.add.refused += 1;
            self.abandon(ticket, host, now);
        }
        done.unwrap_or_else(Answer::Refused)
    }

    /// Takes back what was begun on a connection and not committed: it has ended.
    pub fn abandon(&mut self, ticket: Ticket, host: &mut impl Host, now: Tick) {
        let begun = |entry: &Entry| entry.stage.ticket() == Some(ticket);
        let keys = self.entries.iter().filter(|(_, entry)| begun(entry));
        for key in keys.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            if let Err(refused) = self.release(&key, host, now) {
                tracing::warn!("{key}, which was not committed: {refused}");
            }
        }
    }

    /// Removes an attachment, as far as there is one: the port, its device, and then the addresses
    /// begin to rest. Returns whether there was one.
    ///
    /// # Errors
    ///
    /// When the device cannot be removed. All of it stays then, and [`Self::find_leaks`] tries again.
    pub fn release(&mut self, key: &Key, host: &mut impl Host, now: Tick) -> Result<bool, Refused> {
        let Some(entry) = self.entries.get_mut(key) else { return Ok(false) };
        if let Stage::Reserved { .. } = entry.stage {
            self.pool.discard(key);
        } else {
            if let Err(refused) = host.remove(&entry.port) {
                // Who asked may never ask again.
                (entry.stage, entry.leaving, entry.gone) = (Stage::Standing, true, Some(now));
                return Err(refused);
            }
            self.pool.free(key, now);
        }
        self.entries.remove(key);
        Ok(true)
    }

    /// Removes what a tombstone names, unless it was attached after that or in another boot; returns
    /// whether there was something.
    ///
    /// # Errors
    ///
    /// As [`Self::release`].
    pub fn bury(
        &mut self,
        tombstone: &Tombstone,
        boot_id: &str,
        host: &mut impl Host,
        now: Tick,
    ) -> Result<bool, Refused> {
        let entry = self.entries.get(&tombstone.key);
        let meant = entry.is_some_and(|entry| {
            matches!(entry.stage, Stage::Standing)
                && entry.since_ms <= tombstone.at_ms
                && tombstone.boot_id == boot_id
        });
        if meant { self.release(&tombstone.key, host, now) } else { Ok(false) }
    }

    /// Removes attachments whose namespaces have not been where they were for longer than `grace_ms`,
    /// that the host does not know, or whose removal failed so long ago, and returns them with what
    /// came of it.
    pub fn find_leaks(
        &mut self,
        host: &mut impl Host,
        now: Tick,
        grace_ms: u64,
    ) -> Vec<(Key, Result<bool, Refused>)> {
        let rows = host.pods().into_iter().map(|row| (row.pod.key, row.gone));
        let rows: BTreeMap<Key, bool> = rows.collect();
        let mut leaks = Vec::new();
        for (key, entry) in &mut self.entries {
            let gone = entry.leaving || rows.get(key).copied().unwrap_or(true);
            if !(gone && matches!(entry.stage, Stage::Standing)) {
                entry.gone = None;
            } else if now.since(*entry.gone.get_or_insert(now)) >= grace_ms {
                leaks.push(key.clone());
            }
        }
        let released = leaks.into_iter().map(|key| {
            let released = self.release(&key, host, now);
            self.operations.orphans += u64::from(released.is_ok());
            (key, released)
        });
        released.collect()
    }

    fn obey(
        &mut self,
        ticket: Ticket,
        request: Request,
        descriptors: Vec<OwnedFd>,
        host: &mut impl Host,
        now: Tick,
    ) -> Result<Answer, Refused> {
        match request {
            Request::Reserve(reserve) => {
                let reserved = self.reserve(ticket, *reserve, host, now)?;
                Ok(Answer::Reserved(Box::new(reserved)))
            }
            Request::Attach { ifindex } => self.attach(ticket, ifindex, descriptors, host),
            Request::Commit => self.commit(ticket, now),
            Request::Release { key } => {
                checked(&key)?;
                let was = self.release(&key, host, now)?;
                let keys = if was { vec![key] } else { Vec::new() };
                Ok(Answer::Released { keys, failed: Vec::new() })
            }
            Request::Check { key, expected } => self.check(&key, &expected, host),
            Request::Gc { network, valid } => Ok(self.gc(&network, valid, host, now)),
            Request::Status { segment, delegated } => {
                self.status(segment.as_deref(), delegated, host, now)
            }
            Request::List { after } => Ok(list(host, after.as_deref())),
        }
    }

    fn check(&self, key: &Key, expected: &Expected, host: &impl Host) -> Result<Answer, Refused> {
        checked(key)?;
        let entry = self.entries.get(key);
        let row = entry.and_then(|entry| host.pod(&entry.port));
        let Some(row) = row else {
            let message = format!("{key} is not attached");
            return Err(Refused::new(RefusedKind::NotFound, message));
        };
        let differs =
            |what: String| Err(Refused::new(RefusedKind::Differs, format!("{key}: {what}")));
        if let Some(trouble) = row.trouble {
            return differs(format!("its port is down: {trouble}"));
        }
        if let Some(identity) = expected.identity.filter(|identity| *identity != row.pod.netns) {
            return differs(format!("it is in {}, not in {identity}", row.pod.netns));
        }
        if let Some(mac) = expected.mac.filter(|mac| *mac != row.mac) {
            return differs(format!("its MAC address is {}, not {mac}", row.mac));
        }
        let missing = expected.addresses.iter().find(|ip| !row.pod.addresses.contains(ip));
        if let Some(address) = missing {
            return differs(format!("it does not have {address}"));
        }
        Ok(Answer::Done)
    }

    fn gc(
        &mut self,
        network: &str,
        valid: Vec<(String, String)>,
        host: &mut impl Host,
        now: Tick,
    ) -> Answer {
        let valid: BTreeSet<(String, String)> = valid.into_iter().collect();
        let stale = self.entries.iter().filter(|(key, entry)| {
            key.network == network
                && matches!(entry.stage, Stage::Standing)
                && !valid.contains(&(key.container.clone(), key.ifname.clone()))
        });
        let stale: Vec<Key> = stale.map(|(key, _)| key.clone()).collect();
        let (mut keys, mut failed) = (Vec::new(), Vec::new());
        for key in stale {
            match self.release(&key, host, now) {
                Ok(_) => keys.push(key),
                Err(refused) => failed.push(format!("{key}: {refused}")),
            }
        }
        Answer::Released { keys, failed }
    }

    fn status(
        &self,
        segment: Option<&str>,
        delegated: bool,
        host: &impl Host,
        now: Tick,
    ) -> Result<Answer, Refused> {
        let place = host.place(segment)?;
        if delegated || !place.routed {
            return Ok(Answer::Ready { free: None });
        }
        let counts = self.pool.counts(now);
        if counts.capacity == 0 {
            return Err(refused(PoolError::NoRange));
        }
        let free = counts.capacity.saturating_sub(counts.used);
        if free == 0 {
            let ranges: Vec<String> = self.pool.ranges().iter().map(ToString::to_string).collect();
            let (ranges, capacity) = (ranges.join(" and "), counts.capacity);
            return Err(refused(PoolError::Full { ranges, capacity }));
        }
        Ok(Answer::Ready { free: Some(free) })
    }
}

fn list(host: &impl Host, after: Option<&str>) -> Answer {
    let behind = |row: &PodRow| after.is_none_or(|after| row.port.as_str() > after);
    let mut rows: Vec<PodRow> = host.pods().into_iter().filter(behind).collect();
    rows.sort_by(|a, b| a.port.cmp(&b.port));
    let more = rows.len() > LIST_PAGE;
    rows.truncate(LIST_PAGE);
    let listed = |row: PodRow| Listed {
        key: row.pod.key,
        port: row.port,
        netns: row.netns,
        addresses: row.pod.addresses,
        mac: Some(row.mac),
        since_ms: row.pod.since_ms,
        host_ports: row.pod.host_ports,
    };
    Answer::List { pods: rows.into_iter().map(listed).collect(), more }
}

pub(super) fn checked(key: &Key) -> Result<(), Refused> {
    key.check().map_err(|error| Refused::new(RefusedKind::Invalid, error))
}

pub(super) fn refused(error: PoolError) -> Refused {
    let kind = match error {
        PoolError::NoRange => RefusedKind::NotReady,
        PoolError::Full { .. } => RefusedKind::Full,
        PoolError::Taken { .. }
        | PoolError::Outside { .. }
        | PoolError::NotForPods { .. }
        | PoolError::TwoOfOneFamily(..) => RefusedKind::Invalid,
    };
    Refused::new(kind, error)
}
