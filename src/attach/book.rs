//! What is attached and what is about to be: the rules of the attachment socket, without the socket
//! and without devices.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use encap::MacAddr;
use fdb::Tick;
use ipnet::IpNet;

use super::pod::{gateways, mac_of, routes};
use super::pool::{Pool, PoolError};
use super::protocol::{
    Answer, Expected, LIST_PAGE, Listed, Refused, RefusedKind, Request, Reserve, Reserved,
};
use super::tombstone::Tombstone;
use super::{Ipam, Key, Pod};
use crate::config::{Name, PortSpec, RouteSpec, derived_mac};
use crate::device::netns::NetnsIdentity;
use crate::device::offload::OffloadWish;
use crate::durable::unix_ms;

/// A connection to the socket, for as long as it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What the book needs of the daemon.
pub trait Host {
    /// What a new port of this segment is to be like; without a name, of the cluster's.
    ///
    /// # Errors
    ///
    /// [`RefusedKind::NotFound`] or [`RefusedKind::NotReady`].
    fn place(&self, segment: Option<&str>) -> Result<Place, Refused>;

    /// Whether there could be such a port.
    ///
    /// # Errors
    ///
    /// [`RefusedKind::Invalid`] with everything that is wrong.
    fn check(&self, spec: &PortSpec) -> Result<(), Refused>;

    /// Adds a port whose device was made by somebody else: records it, makes the device persistent,
    /// and begins to forward, in this order.
    ///
    /// # Errors
    ///
    /// When that cannot be; nothing is left of it then, but the device if it is still held open.
    fn add(&mut self, spec: &PortSpec, queues: Vec<OwnedFd>, ifindex: u32) -> Result<(), Refused>;

    /// Stops forwarding for a port, removes its device, and forgets it. It may be gone.
    ///
    /// # Errors
    ///
    /// When the device is there and cannot be removed.
    fn remove(&mut self, port: &str) -> Result<(), Refused>;

    /// The attachment of this port.
    fn pod(&self, port: &str) -> Option<PodRow>;

    /// All attachments by the names of their ports.
    fn pods(&self) -> Vec<PodRow>;
}

/// What ports of a segment are like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// This node's name.
    pub node: Name,
    /// The segment's name.
    pub segment: String,
    /// Whether it routes.
    pub routed: bool,
    /// The MTU of a port that is given none, in bytes.
    pub mtu: u32,
    /// How many queues a device has.
    pub queues: u16,
    /// The uid that devices belong to.
    pub owner: u32,
    /// The length of their rings.
    pub txqueuelen: Option<u32>,
    /// Their offloads.
    pub offload: OffloadWish,
}

/// An attachment that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRow {
    /// The name of its port.
    pub port: String,
    /// What the journal says of it.
    pub pod: Pod,
    /// The path of its namespace.
    pub netns: String,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Why it is down; `None`: it is up.
    pub trouble: Option<String>,
    /// Its namespace is not where it was.
    pub gone: bool,
}

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
    /// Attachments that were removed because their namespace was gone.
    pub orphans: u64,
}

/// How far an attachment is.
#[derive(Debug)]
enum Stage {
    Reserved { ticket: Ticket, spec: Box<PortSpec>, queues: u16, begun: Tick },
    Attached { ticket: Ticket, begun: Tick },
    Standing,
}

impl Stage {
    fn ticket(&self) -> Option<Ticket> {
        match self {
            Self::Reserved { ticket, .. } | Self::Attached { ticket, .. } => Some(*ticket),
            Self::Standing => None,
        }
    }
}

#[derive(Debug)]
struct Entry {
    port: String,
    identity: NetnsIdentity,
    since_ms: u64,
    stage: Stage,
    /// Since when its namespace is not where it was.
    gone: Option<Tick>,
}

/// The attachments of a node, and the addresses they have.
#[derive(Debug)]
pub struct Book {
    /// The addresses.
    pub pool: Pool,
    /// What was asked for.
    pub operations: Operations,
    entries: BTreeMap<Key, Entry>,
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
        let port = row.port.clone();
        let entry = Entry { port, identity, since_ms, stage: Stage::Standing, gone: None };
        self.entries.insert(row.pod.key.clone(), entry);
        self.pool.hold(&row.pod.key, &row.pod.addresses)
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

    /// The attachments whose namespace is gone.
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
            let count = if done.is_ok() { &mut tally.done } else { &mut tally.refused };
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
                // It is still to be seen, and found when its namespace is gone.
                if let Some(entry) = self.entries.get_mut(&key) {
                    entry.stage = Stage::Standing;
                }
            }
        }
    }

    /// Removes an attachment, as far as there is one: the port, its device, and then the addresses
    /// begin to rest. Returns whether there was one.
    ///
    /// # Errors
    ///
    /// When the device cannot be removed. All of it stays then.
    pub fn release(&mut self, key: &Key, host: &mut impl Host, now: Tick) -> Result<bool, Refused> {
        let Some(entry) = self.entries.get(key) else { return Ok(false) };
        if let Stage::Reserved { .. } = entry.stage {
            self.pool.discard(key);
        } else {
            host.remove(&entry.port)?;
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
    /// and returns them with what came of it.
    pub fn find_leaks(
        &mut self,
        host: &mut impl Host,
        now: Tick,
        grace_ms: u64,
    ) -> Vec<(Key, Result<bool, Refused>)> {
        let gone: BTreeSet<Key> =
            host.pods().into_iter().filter(|row| row.gone).map(|row| row.pod.key).collect();
        let mut leaks = Vec::new();
        for (key, entry) in &mut self.entries {
            let standing = matches!(entry.stage, Stage::Standing);
            if !(standing && gone.contains(key)) {
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
                Ok(Answer::Released { keys: if was { vec![key] } else { Vec::new() } })
            }
            Request::Check { key, expected } => self.check(&key, &expected, host),
            Request::Gc { network, valid } => self.gc(&network, valid, host, now),
            Request::Status { segment, delegated } => {
                self.status(segment.as_deref(), delegated, host, now)
            }
            Request::List { after } => Ok(list(host, after.as_deref())),
        }
    }

    fn reserve(
        &mut self,
        ticket: Ticket,
        reserve: Reserve,
        host: &mut impl Host,
        now: Tick,
    ) -> Result<Reserved, Refused> {
        let key = reserve.key.clone();
        checked(&key)?;
        if self.entries.values().any(|entry| entry.stage.ticket() == Some(ticket)) {
            let message = "this connection has a reservation already";
            return Err(Refused::new(RefusedKind::Malformed, message));
        }
        let place = host.place(reserve.segment.as_deref())?;
        self.make_room(&key, reserve.identity, host, now)?;
        let port = self.free_port_name(&key);
        let addresses = self.addresses(&reserve, &place, now)?;
        let hosts: Vec<IpAddr> = addresses.iter().map(IpNet::addr).collect();
        let spec = spec_of(&reserve, &place, &port, &addresses);
        if let Err(refused) = host.check(&spec) {
            self.pool.discard(&key);
            return Err(refused);
        }
        let (identity, since_ms) = (reserve.identity, unix_ms());
        let gateways = if place.routed { gateways(&hosts) } else { Vec::new() };
        let reserved = Reserved {
            port: port.clone(),
            routes: if place.routed { routes(&gateways) } else { reserve.routes },
            gateway_mac: place.routed.then_some(switch::GATEWAY_MAC.get()),
            gateways,
            mac: spec.mac.as_deref().and_then(|mac| mac.parse().ok()),
            addresses,
            mtu: spec.mtu.unwrap_or(place.mtu),
            queues: place.queues,
            owner: place.owner,
            txqueuelen: place.txqueuelen,
            offload: place.offload,
        };
        let (spec, queues) = (Box::new(spec), place.queues);
        let stage = Stage::Reserved { ticket, spec, queues, begun: now };
        self.entries.insert(key, Entry { port, identity, since_ms, stage, gone: None });
        Ok(reserved)
    }

    /// An attachment of the same key in another namespace is what somebody forgot to remove.
    fn make_room(
        &mut self,
        key: &Key,
        identity: NetnsIdentity,
        host: &mut impl Host,
        now: Tick,
    ) -> Result<(), Refused> {
        let Some(entry) = self.entries.get(key) else { return Ok(()) };
        let exists = |what| Err(Refused::new(RefusedKind::Exists, format!("{key} {what}")));
        match entry.stage {
            Stage::Standing if entry.identity != identity => {
                self.release(key, host, now)?;
                Ok(())
            }
            Stage::Standing => exists("is attached already"),
            Stage::Reserved { .. } | Stage::Attached { .. } => exists("is just being attached"),
        }
    }

    fn free_port_name(&self, key: &Key) -> String {
        let wanted = key.port_name();
        if self.entries.values().any(|entry| entry.port == wanted) {
            key.file_stem()
        } else {
            wanted
        }
    }

    fn addresses(
        &mut self,
        reserve: &Reserve,
        place: &Place,
        now: Tick,
    ) -> Result<Vec<IpNet>, Refused> {
        let given: Vec<IpAddr> = reserve.given.iter().map(IpNet::addr).collect();
        if !given.is_empty() {
            self.pool.hold(&reserve.key, &given).map_err(refused)?;
        }
        match (given.is_empty(), place.routed) {
            (false, true) => Ok(given.into_iter().map(IpNet::from).collect()),
            (false, false) => Ok(reserve.given.clone()),
            (true, true) => {
                let own = self.pool.allocate(&reserve.key, &reserve.wanted, now);
                Ok(own.map_err(refused)?.into_iter().map(IpNet::from).collect())
            }
            (true, false) if reserve.wanted.is_empty() => {
                self.pool.hold(&reserve.key, &[]).map_err(refused)?;
                Ok(Vec::new())
            }
            (true, false) => {
                let segment = &place.segment;
                let message = format!(
                    "segment \"{segment}\" has no addresses to give: the network configuration \
                     needs an \"ipam\" section"
                );
                Err(Refused::new(RefusedKind::Invalid, message))
            }
        }
    }

    fn attach(
        &mut self,
        ticket: Ticket,
        ifindex: u32,
        queues: Vec<OwnedFd>,
        host: &mut impl Host,
    ) -> Result<Answer, Refused> {
        let reserved = self.entries.values_mut().find_map(|entry| match &entry.stage {
            Stage::Reserved { ticket: of, .. } if *of == ticket => Some(&mut entry.stage),
            _ => None,
        });
        let Some(stage) = reserved else { return Err(out_of_turn("nothing is reserved")) };
        let Stage::Reserved { spec, queues: wanted, begun, .. } = stage else {
            return Err(out_of_turn("nothing is reserved"));
        };
        if queues.len() != usize::from(*wanted) {
            let message = format!("{} descriptors for {wanted} queues", queues.len());
            return Err(Refused::new(RefusedKind::Malformed, message));
        }
        host.add(spec, queues, ifindex)?;
        *stage = Stage::Attached { ticket, begun: *begun };
        Ok(Answer::Done)
    }

    fn commit(&mut self, ticket: Ticket, now: Tick) -> Result<Answer, Refused> {
        for entry in self.entries.values_mut() {
            if let Stage::Attached { ticket: of, begun } = entry.stage
                && of == ticket
            {
                entry.stage = Stage::Standing;
                self.operations.add.done += 1;
                self.operations.add_ms += now.since(begun);
                return Ok(Answer::Done);
            }
        }
        Err(out_of_turn("nothing is attached"))
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
    ) -> Result<Answer, Refused> {
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
        if failed.is_empty() {
            return Ok(Answer::Released { keys });
        }
        Err(Refused::new(RefusedKind::Failed, failed.join("; ")))
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

/// The port of an attachment, as the journal has it.
fn spec_of(reserve: &Reserve, place: &Place, port: &str, addresses: &[IpNet]) -> PortSpec {
    let hosts: Vec<IpAddr> = addresses.iter().map(IpNet::addr).collect();
    let own = || derived_mac(&place.node, port).get();
    let mac = reserve.mac.or_else(|| mac_of(&hosts)).unwrap_or_else(own);
    let route = |route: &crate::device::netlink::Route| RouteSpec {
        to: route.to.to_string(),
        via: route.via.map(|via| via.to_string()),
    };
    // In a segment that routes they follow from the addresses.
    let routes = if place.routed { &[][..] } else { &reserve.routes };
    PortSpec {
        name: port.to_owned(),
        segment: Some(place.segment.clone()),
        netns: Some(reserve.netns.display().to_string()),
        ifname: Some(reserve.key.ifname.clone()),
        mac: Some(mac.to_string()),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        routes: routes.iter().map(route).collect(),
        mtu: reserve.mtu,
        pod: Some(Pod {
            key: reserve.key.clone(),
            netns: reserve.identity,
            addresses: hosts,
            ipam: if reserve.given.is_empty() { Ipam::Own } else { Ipam::Delegated },
            routed: place.routed,
            queues: place.queues,
            since_ms: unix_ms(),
            host_ports: reserve.host_ports.clone(),
            masquerade: reserve.masquerade,
            spoof: reserve.spoof,
        }),
        ..PortSpec::default()
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

fn checked(key: &Key) -> Result<(), Refused> {
    key.check().map_err(|error| Refused::new(RefusedKind::Invalid, error))
}

fn out_of_turn(message: &str) -> Refused {
    Refused::new(RefusedKind::Malformed, format!("{message} on this connection"))
}

fn refused(error: PoolError) -> Refused {
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
