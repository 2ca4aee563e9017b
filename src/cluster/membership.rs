//! What follows from what a store reports: who is a member, who is refused and why, and which
//! deletions are believed. Pure: time is an argument, nothing is asked.
//!
//! - An object that makes no sense loses nothing but itself; what it said before stays.
//! - Of two nodes that claim one name, identity, VTEP or podCIDR the first stays, the other is
//!   refused until the first has gone. That goes for this node too.
//! - This node's own record is not given up because it is missing.
//! - Deletions in a mass are [held back](super::guard), each until another list confirms it or the
//!   store has somebody else in that place.
//!
//! An update costs the logarithm of the number of nodes, and so does what is different of it in the
//! next view.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::config::{Cluster, Network, Store};

use super::claims::{Exceptions, Hosts, Shares};
use super::guard::Guard;
use super::model::{Exception, Node, StoreState};
use super::rules;
use super::store::Own;
use super::view::Shown;

/// When something happens, by both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Since some start, never going back.
    pub elapsed: Duration,
    /// Milliseconds since the Unix epoch.
    pub unix_ms: u64,
}

/// The members of a cluster as they follow from a store's updates.
#[derive(Debug)]
pub struct Membership {
    pub(super) own: Own,
    networks: Vec<Network>,
    /// Whether deletions in a mass are doubted: not if an operator has written the list by hand.
    pub(super) guarded: bool,
    pub(super) entries: HashMap<String, Entry>,
    pub(super) own_key: Option<String>,
    pub(super) own_deleted: bool,
    names: HashMap<String, String>,
    identities: HashMap<String, String>,
    pub(super) vteps: HashMap<IpAddr, String>,
    pub(super) shares: Shares,
    pub(super) hosts: Hosts,
    pub(super) exceptions: Exceptions,
    /// Who is refused because of whom, by the order in which they came.
    pub(super) waiting: HashMap<String, BTreeMap<u64, String>>,
    pub(super) malformed: BTreeMap<String, String>,
    pub(super) guard: Guard,
    pub(super) store: StoreState,
    pub(super) refused: Option<String>,
    /// What is wrong on this side, by what it is about.
    pub(super) notes: BTreeMap<&'static str, String>,
    pub(super) cluster: Option<String>,
    sequence: u64,
    pub(super) listed: bool,
    pub(super) changed: bool,
    pub(super) shown: Shown,
}

/// An object that could be read.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) node: Arc<Node>,
    /// Its place in the order in which they came.
    pub(super) sequence: u64,
    pub(super) standing: Standing,
    /// What of the node is left out, and why.
    pub(super) remarks: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Member,
    Refused(Refusal),
}

/// Why a node is no member.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The key of the member that is in the way.
    pub(super) blocker: Option<String>,
    pub(super) why: String,
}

/// Everything a membership has to remember over a restart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// The cluster's identity in the store.
    pub cluster: Option<String>,
    /// The members by key, in the order in which they came.
    pub nodes: Vec<(String, Arc<Node>)>,
    /// The highest generation seen of each exception, claimed or not.
    pub generations: Vec<(IpNet, u64)>,
    /// When the store last answered.
    pub answered_ms: Option<u64>,
}

impl Membership {
    /// A cluster of which nothing is known yet.
    #[must_use]
    pub fn new(config: &Cluster, own: Own) -> Self {
        Self {
            own,
            networks: config.networks.clone(),
            guarded: !matches!(config.store, Store::Static(_)),
            entries: HashMap::new(),
            own_key: None,
            own_deleted: false,
            names: HashMap::new(),
            identities: HashMap::new(),
            vteps: HashMap::new(),
            shares: Shares::default(),
            hosts: Hosts::default(),
            exceptions: Exceptions::default(),
            waiting: HashMap::new(),
            malformed: BTreeMap::new(),
            guard: Guard::default(),
            store: StoreState::default(),
            refused: None,
            notes: BTreeMap::new(),
            cluster: None,
            sequence: 0,
            listed: false,
            changed: true,
            shown: Shown::default(),
        }
    }

    /// Takes up what was known before a restart. What the store says later is compared with it as
    /// if it had been said by the store.
    pub fn restore(&mut self, memory: Memory, now: Moment) {
        for (net, generation) in memory.generations {
            self.exceptions.remember(net, generation, now.elapsed);
        }
        for (key, node) in memory.nodes {
            self.put(&key, Arc::unwrap_or_clone(node), now.elapsed);
        }
        self.cluster = memory.cluster;
        self.store.answered_ms = memory.answered_ms;
        self.changed = true;
    }

    /// What is to be remembered; `None` while the store has not said who there is.
    #[must_use]
    pub fn memory(&self) -> Option<Memory> {
        if !self.listed {
            return None;
        }
        let mut members: Vec<_> = self.members().collect();
        members.sort_by_key(|(_, entry)| entry.sequence);
        let nodes =
            members.into_iter().map(|(key, entry)| (key.to_owned(), Arc::clone(&entry.node)));
        Some(Memory {
            cluster: self.cluster.clone(),
            nodes: nodes.collect(),
            generations: self.exceptions.generations().collect(),
            answered_ms: self.store.answered_ms,
        })
    }

    /// Whether the next view differs from the one before it.
    #[must_use]
    pub const fn has_changed(&self) -> bool {
        self.changed
    }

    /// How the store is doing.
    #[must_use]
    pub const fn store(&self) -> &StoreState {
        &self.store
    }

    /// The cluster's identity in the store, as far as known.
    #[must_use]
    pub fn cluster(&self) -> Option<&str> {
        self.cluster.as_deref()
    }

    /// What this node says of itself.
    #[must_use]
    pub const fn own(&self) -> &Own {
        &self.own
    }

    /// The podCIDRs that this node has, as far as known.
    #[must_use]
    pub fn own_shares(&self) -> Vec<IpNet> {
        self.own_entry().map(|(_, entry)| entry.node.pod_cidrs.clone()).unwrap_or_default()
    }

    /// The exceptions that this node has published, as far as known.
    #[must_use]
    pub fn own_exceptions(&self) -> Vec<Exception> {
        self.own_entry().map(|(_, entry)| entry.node.exceptions.clone()).unwrap_or_default()
    }

    /// This node says something else of itself from now on. Its name and identity stay.
    pub fn set_own(&mut self, own: Own) {
        self.changed |= own != self.own;
        if (own.vtep, &own.addresses) != (self.own.vtep, &self.own.addresses) {
            self.shown.touch_all();
        }
        self.own = own;
    }

    /// The exceptions that this node publishes if its pods have these addresses outside its shares:
    /// what it publishes already keeps its generation, what is new overrides everybody else's.
    #[must_use]
    pub fn exceptions_for(&self, nets: &[IpNet]) -> Vec<Exception> {
        let recorded = self.own_entry().map(|(_, entry)| entry.node.exceptions.as_slice());
        let mut known: HashMap<IpNet, u64> = HashMap::new();
        for exception in recorded.unwrap_or_default().iter().chain(&self.own.exceptions) {
            known.insert(exception.net, exception.generation);
        }
        let generation = |net: &IpNet| {
            known.get(net).copied().unwrap_or_else(|| self.exceptions.next_generation(net))
        };
        nets.iter().map(|net| Exception { net: *net, generation: generation(net) }).collect()
    }

    /// Something is wrong on this side, or no longer: an alarm of the next view.
    pub fn note(&mut self, about: &'static str, what: Option<String>) {
        let before = match what.clone() {
            Some(what) => self.notes.insert(about, what),
            None => self.notes.remove(about),
        };
        self.changed |= before != what;
    }

    /// When a further list could confirm deletions that were held back.
    #[must_use]
    pub fn confirmable_at(&self) -> Option<Duration> {
        self.guard.confirmable_at()
    }

    /// Carries out the deletions that were held back, because an operator has said that they are
    /// right. Returns how many.
    pub fn apply_held(&mut self, now: Moment) -> usize {
        let held: Vec<String> = self.guard.held().map(ToOwned::to_owned).collect();
        for key in &held {
            self.remove(key, now.elapsed);
        }
        held.len()
    }

    /// Makes an object what the store says, and a member if nothing is in the way.
    pub(super) fn put(&mut self, key: &str, node: Node, now: Duration) {
        if let Some(entry) = self.entries.get(key)
            && *entry.node == node
        {
            return;
        }
        self.changed = true;
        let old = self.entries.remove(key);
        let sequence = old.as_ref().map_or(self.sequence, |entry| entry.sequence);
        self.sequence += 1;
        let refusal = self.refusal(key, &node);
        let freed = self.replace_claims(key, old.as_ref(), refusal.is_none().then_some(&node), now);
        let own_before = self.own_key.clone();
        if self.own_key.as_deref() == Some(key) && !self.is_own(&node) {
            // Somebody else has overwritten this node's record.
            self.own_key = None;
            self.own_deleted = false;
        } else if self.own_key.is_none() && self.is_own(&node) {
            self.own_key = Some(key.to_owned());
        }
        let was_member = old.is_some_and(|old| old.standing == Standing::Member);
        let is_own = self.own_key.as_deref() == Some(key);
        if own_before != self.own_key || (is_own && was_member == refusal.is_some()) {
            self.shown.touch_all();
        }
        self.enter(key, Arc::new(node), sequence, refusal);
        if freed {
            self.retry(key, now);
        }
    }

    fn enter(&mut self, key: &str, node: Arc<Node>, sequence: u64, refusal: Option<Refusal>) {
        self.shown.touch_object(key);
        let remarks = self.remarks(&node);
        let standing = match refusal {
            None => Standing::Member,
            Some(refusal) => {
                if let Some(blocker) = &refusal.blocker {
                    let waiting = self.waiting.entry(blocker.clone()).or_default();
                    waiting.insert(sequence, key.to_owned());
                }
                Standing::Refused(refusal)
            }
        };
        self.entries.insert(key.to_owned(), Entry { node, sequence, standing, remarks });
    }

    pub(super) fn remove(&mut self, key: &str, now: Duration) {
        self.guard.let_go(key);
        let Some(old) = self.entries.remove(key) else { return };
        self.changed = true;
        self.shown.touch_object(key);
        if self.own_key.as_deref() == Some(key) {
            self.own_key = None;
            self.shown.touch_all();
        }
        if self.replace_claims(key, Some(&old), None, now) {
            self.retry(key, now);
        }
    }

    /// Tries those again that were refused because of a member that has given something up.
    fn retry(&mut self, blocker: &str, now: Duration) {
        for (sequence, key) in self.waiting.remove(blocker).unwrap_or_default() {
            let Some(entry) = self.entries.remove(&key) else { continue };
            let refusal = self.refusal(&key, &entry.node);
            if refusal.is_none() {
                self.replace_claims(&key, None, Some(&entry.node), now);
                if self.own_key.as_ref() == Some(&key) {
                    self.shown.touch_all();
                }
            }
            self.enter(&key, entry.node, sequence, refusal);
        }
    }

    /// Why a node cannot be a member now.
    fn refusal(&self, key: &str, node: &Node) -> Option<Refusal> {
        let plain = |why| Refusal { blocker: None, why };
        if let Err(why) = rules::check(node, &self.networks) {
            return Some(plain(why));
        }
        if node.vtep.is_ipv4() != self.own.vtep.is_ipv4() {
            let why = format!(
                "its VTEP {} and this node's {} are of different families",
                node.vtep.ip(),
                self.own.vtep.ip()
            );
            return Some(plain(why));
        }
        let blocked = |holder: &str, what: String| {
            let holder_name = self.entries.get(holder).map_or(holder, |e| e.node.name.as_str());
            let why = format!("{what} is held by node \"{holder_name}\" ({holder})");
            Refusal { blocker: Some(holder.to_owned()), why }
        };
        let other = |holder: Option<&String>| holder.filter(|holder| *holder != key).cloned();
        if let Some(holder) = other(self.names.get(&node.name)) {
            return Some(blocked(&holder, format!("the name \"{}\"", node.name)));
        }
        if let Some(holder) = other(self.identities.get(&node.identity)) {
            return Some(blocked(&holder, format!("the identity {}", node.identity)));
        }
        if let Some(holder) = other(self.vteps.get(&node.vtep.ip())) {
            return Some(blocked(&holder, format!("the VTEP address {}", node.vtep.ip())));
        }
        node.pod_cidrs.iter().find_map(|cidr| {
            let (held, holder) = self.shares.holder_other_than(cidr, key)?;
            let what = if held == cidr {
                format!("the podCIDR {cidr}")
            } else {
                format!("{held}, which overlaps with the podCIDR {cidr},")
            };
            Some(blocked(holder, what))
        })
    }

    /// Replaces what a node claimed by what it claims as a member, `None`: nothing. Returns whether
    /// somebody may have waited for what it gave up.
    fn replace_claims(
        &mut self,
        key: &str,
        old: Option<&Entry>,
        new: Option<&Node>,
        now: Duration,
    ) -> bool {
        if let Some(Entry { standing: Standing::Refused(refusal), sequence, .. }) = old
            && let Some(blocker) = &refusal.blocker
            && let Some(waiting) = self.waiting.get_mut(blocker)
        {
            waiting.remove(sequence);
            if waiting.is_empty() {
                self.waiting.remove(blocker);
            }
        }
        let old = old.filter(|entry| entry.standing == Standing::Member).map(|entry| &*entry.node);
        if let Some(old) = old {
            self.names.remove(&old.name);
            self.identities.remove(&old.identity);
            self.vteps.remove(&old.vtep.ip());
            old.pod_cidrs.iter().for_each(|cidr| self.shares.remove(cidr));
        }
        if let Some(new) = new {
            self.names.insert(new.name.clone(), key.to_owned());
            self.identities.insert(new.identity.clone(), key.to_owned());
            self.vteps.insert(new.vtep.ip(), key.to_owned());
            new.pod_cidrs.iter().for_each(|cidr| self.shares.insert(*cidr, key));
        }
        self.replace_routes(key, old, new, now);
        self.shown.touch_routes(old, new);
        old.is_some_and(|old| {
            new.is_none_or(|new| {
                old.name != new.name
                    || old.identity != new.identity
                    || old.vtep.ip() != new.vtep.ip()
                    || old.pod_cidrs != new.pod_cidrs
            })
        })
    }

    /// As above for what is contested piece by piece. What stays keeps its place among the claims.
    fn replace_routes(&mut self, key: &str, old: Option<&Node>, new: Option<&Node>, now: Duration) {
        let networks = &self.networks;
        let addresses = |node: Option<&Node>| -> Vec<IpAddr> {
            let addresses = node.map_or(&[][..], |node| &node.addresses).iter().copied();
            let all = addresses.chain(node.map(|node| node.vtep.ip()));
            all.filter(|address| rules::check_address(*address, networks).is_ok()).collect()
        };
        let (before, after) = (addresses(old), addresses(new));
        for address in before.iter().filter(|address| !after.contains(address)) {
            self.hosts.withdraw(*address, key);
        }
        after.iter().for_each(|address| self.hosts.claim(*address, key));
        let exceptions = |node: Option<&Node>| -> BTreeMap<IpNet, u64> {
            let exceptions = node.map_or(&[][..], |node| &node.exceptions).iter();
            let sane = exceptions.filter(|exception| rules::check_exception(exception).is_ok());
            sane.map(|exception| (exception.net, exception.generation)).collect()
        };
        let (before, after) = (exceptions(old), exceptions(new));
        for net in before.keys().filter(|net| !after.contains_key(net)) {
            self.exceptions.withdraw(net, key, now);
        }
        for (net, generation) in after {
            self.exceptions.claim(net, generation, key);
        }
    }

    /// What of a node is left out.
    fn remarks(&self, node: &Node) -> Vec<String> {
        let addresses = node.addresses.iter().filter(|address| **address != node.vtep.ip());
        let addresses = addresses.filter_map(|a| rules::check_address(*a, &self.networks).err());
        let exceptions = node.exceptions.iter().filter_map(|e| rules::check_exception(e).err());
        addresses.chain(exceptions).take(8).collect()
    }

    pub(super) fn members(&self) -> impl Iterator<Item = (&str, &Entry)> {
        let entries = self.entries.iter().map(|(key, entry)| (key.as_str(), entry));
        entries.filter(|(_, entry)| entry.standing == Standing::Member)
    }

    /// Whether a record is this node's: a copy of the machine has its identity, but not its name.
    fn is_own(&self, node: &Node) -> bool {
        node.identity == self.own.identity && node.name == self.own.name
    }

    pub(super) fn own_entry(&self) -> Option<(&str, &Entry)> {
        let key = self.own_key.as_deref()?;
        Some((key, self.entries.get(key)?))
    }

    pub(super) fn is_member(&self, key: &str) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.standing == Standing::Member)
    }

    /// How many members there are besides this node.
    pub(super) fn known_others(&self) -> usize {
        let own = self.own_key.as_deref().is_some_and(|key| self.is_member(key));
        self.names.len() - usize::from(own)
    }
}
