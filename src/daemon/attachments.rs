//! The attachments of containers: what the socket asks for is done to ports here, and what becomes
//! of their namespaces is followed.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use anyhow::Context as _;
use tracing::{info, warn};

use super::plan::RING;
use super::ports::Device;
use super::state::Daemon;
use crate::attach::protocol::{Answer, Refused, RefusedKind};
use crate::attach::{
    Ask, Book, Found, Host, Key, Place, Pod, PodRow, Pool, RestsFile, Server, Tombstones,
};
use crate::config::{self, Config, PortSpec, Problem};
use crate::control::model::ObjectOrigin;
use crate::control::{self, Refusal};
use crate::device::handed::{self, Handed};
use crate::device::journal::{Entry, Origin};
use crate::device::spec::NetnsRef;
use crate::durable::unix_ms;

/// How long a namespace may be away before its attachment is taken for forgotten. A runtime that
/// removes the namespace first and the attachment then does so within less.
const GRACE_MS: u64 = 10_000;

/// For how long an address rests where nothing else is configured.
const REST: std::time::Duration = std::time::Duration::from_secs(60);

/// The attachments' book, and where tombstones are.
#[derive(Debug)]
pub(super) struct Attachments {
    /// Absent only while it is in use.
    pub(super) book: Option<Book>,
    tombstones: Tombstones,
    /// Tombstones that could not be read, and were told of.
    unread: BTreeSet<PathBuf>,
    /// Where it is kept which addresses rest; `None`: nowhere.
    rests: Option<RestsFile>,
    /// The pool's changes that are kept there.
    kept: u64,
    /// Why the last of them could not be.
    unkept: Option<String>,
}

impl Attachments {
    pub(super) fn new(config: &Config) -> Self {
        let rest = config.cluster.as_ref().map_or(REST, |cluster| cluster.rest);
        let tombstones = Tombstones::of(&config.state.dir);
        let book = Some(Book::new(Pool::new(rest)));
        Self { book, tombstones, unread: BTreeSet::new(), rests: None, kept: 0, unkept: None }
    }
}

/// Binds the attachment socket: where the cluster has it, else beside the control socket; there it
/// may be missing.
pub(super) fn bind(config: &Config) -> anyhow::Result<Option<Server>> {
    let bound = |path: &PathBuf| {
        Server::bind(path).with_context(|| format!("attachment socket {}", path.display()))
    };
    if let Some(cluster) = &config.cluster {
        return bound(&cluster.attach).map(Some);
    }
    let path = config.control.socket.with_file_name("attach.sock");
    match bound(&path) {
        Ok(server) => Ok(Some(server)),
        Err(error) => {
            warn!("no containers can be attached: {error:#}");
            Ok(None)
        }
    }
}

impl Daemon {
    /// Does what was asked for on the attachment socket.
    pub(super) fn attach_ask(&mut self, ask: Ask) -> Answer {
        let changes = match &ask {
            Ask::Request { request, .. } => request.changes_ports(),
            Ask::End(ticket) => {
                self.attachments.book.as_ref().is_some_and(|book| book.has_begun(*ticket))
            }
        };
        if changes {
            self.finish_bringing();
        }
        self.follow_pod_cidrs();
        let now = self.clock.tick();
        let answered = self.with_book(|book, daemon| match ask {
            Ask::Request { ticket, request, descriptors } => {
                book.answer(ticket, request, descriptors, daemon, now)
            }
            Ask::End(ticket) => {
                book.abandon(ticket, daemon, now);
                Answer::Done
            }
        });
        answered.unwrap_or_else(|| {
            Answer::Refused(Refused::new(RefusedKind::NotReady, "the attachments are in use"))
        })
    }

    /// Removes an attachment and frees its addresses.
    pub(super) fn release_pod(&mut self, key: &Key) -> control::Answer<()> {
        let now = self.clock.tick();
        let released = self.with_book(|book, daemon| book.release(key, daemon, now));
        match released {
            Some(Err(refused)) => Err(Refusal::failed(refused)),
            _ => Ok(()),
        }
    }

    /// Runs with the book, which needs the daemon as well.
    fn with_book<T>(&mut self, run: impl FnOnce(&mut Book, &mut Self) -> T) -> Option<T> {
        let mut book = self.attachments.book.take()?;
        let done = run(&mut book, self);
        self.attachments.book = Some(book);
        Some(done)
    }

    /// Gives out addresses of the podCIDRs that the node has now.
    pub(super) fn follow_pod_cidrs(&mut self) {
        let own = self.pods.as_ref().and_then(|pods| pods.view.own.as_ref());
        let cidrs = own.map(|own| own.pod_cidrs.clone()).unwrap_or_default();
        let Some(book) = self.attachments.book.as_mut() else { return };
        // A share that is lost is not given up while there are pods in it.
        if cidrs.is_empty() && !book.is_empty() {
            return;
        }
        match book.pool.set_ranges(&cidrs) {
            Ok(false) => {}
            Ok(true) => {
                let outside: Vec<String> = book
                    .pool
                    .outside()
                    .map(|(key, address)| format!("{address} ({key})"))
                    .collect();
                if !outside.is_empty() {
                    warn!(
                        "the podCIDR changed under running pods, which keep addresses outside of it: {}",
                        outside.join(", ")
                    );
                }
            }
            Err(error) => warn!("addresses are given as before: {error}"),
        }
    }

    /// Takes up the attachments of the journal, which addresses rest, and what was to be removed
    /// meanwhile.
    pub(super) fn restore_attachments(&mut self) {
        if self.devices.rules.persist {
            self.recall_rests();
        }
        for row in self.pods() {
            let held = self.attachments.book.as_mut().map(|book| book.restore(&row));
            if let Some(Err(error)) = held {
                warn!(port = row.port, "restored without its address: {error}");
            }
        }
        self.follow_pod_cidrs();
        self.bury();
    }

    fn recall_rests(&mut self) {
        let file = RestsFile::of(&self.config.state.dir);
        match file.load() {
            Ok((rests, aside)) => {
                if let Some(aside) = aside {
                    warn!(path = %aside.path.display(), "resting addresses: {}", aside.reason);
                }
                let now = self.clock.tick();
                if let Some(book) = self.attachments.book.as_mut() {
                    book.pool.recall(rests, now, unix_ms());
                }
                self.attachments.rests = Some(file);
            }
            // It is not written over either.
            Err(error) => warn!("no freed address rests over a restart: {error}"),
        }
    }

    /// Has what rests be on disk.
    pub(super) fn keep_rests(&mut self) {
        let now = self.clock.tick();
        let Attachments { book: Some(book), rests: Some(file), kept, unkept, .. } =
            &mut self.attachments
        else {
            return;
        };
        let changes = book.pool.changes();
        if *kept != changes {
            match file.save(book.pool.rests(now, unix_ms())) {
                Ok(()) => {
                    *kept = changes;
                    *unkept = None;
                }
                // It is tried again at the next tick, and told once.
                Err(error) => {
                    let words = error.to_string();
                    if unkept.as_ref() != Some(&words) {
                        warn!("resting addresses: {words}");
                    }
                    *unkept = Some(words);
                }
            }
        }
    }

    /// Looks after tombstones, and after attachments whose namespace has gone.
    pub(super) fn watch_attachments(&mut self) {
        self.bury();
        self.keep_rests();
        // What is up is where it was.
        let up = self.ports.values().filter(|held| held.port.pod.is_some());
        let up = up.filter(|held| held.facts().is_some()).count();
        let quiet = |book: &Book| book.len() == up && book.orphans().next().is_none();
        if self.attachments.book.as_ref().is_some_and(quiet) {
            return;
        }
        let now = self.clock.tick();
        let leaks = self.with_book(|book, daemon| book.find_leaks(daemon, now, GRACE_MS));
        for (key, released) in leaks.unwrap_or_default() {
            match released {
                Ok(_) => info!("{key}: removed, its namespace is gone or it was to be gone"),
                Err(refused) => warn!("{key}: to be removed, and {refused}"),
            }
        }
    }

    /// Removes what was to be gone when nobody was here.
    fn bury(&mut self) {
        let tombstones = self.attachments.tombstones.clone();
        let Found { good: found, bad, unread } = match tombstones.read() {
            Ok(read) => read,
            Err(error) => {
                warn!("tombstones: {error}");
                return;
            }
        };
        for (path, reason) in bad {
            warn!("{} is no tombstone and is removed: {reason}", path.display());
            tombstones.remove(&path);
        }
        for (path, error) in &unread {
            if !self.attachments.unread.contains(path) {
                warn!("tombstone {}: {error}", path.display());
            }
        }
        self.attachments.unread = unread.into_iter().map(|(path, _)| path).collect();
        if found.is_empty() {
            return;
        }
        self.finish_bringing();
        let now = self.clock.tick();
        for (path, tombstone) in found {
            let boot_id = self.devices.boot_id().to_owned();
            let buried =
                self.with_book(|book, daemon| book.bury(&tombstone, &boot_id, daemon, now));
            match buried {
                Some(Ok(true)) => info!("{}: removed, as was asked for before", tombstone.key),
                Some(Ok(false)) => {}
                // It stays, to be tried again.
                Some(Err(refused)) => {
                    warn!("{}: {refused}", tombstone.key);
                    continue;
                }
                None => continue,
            }
            tombstones.remove(&path);
        }
    }

    fn checked_pod(&self, spec: &PortSpec) -> Result<config::Port, Refused> {
        // What comes to be this node's later is the pod's that has it; what is already so is not given.
        let own = self.pods.as_ref().and_then(|pods| pods.view.own.as_ref());
        let mut wanted = spec.pod.iter().filter(|pod| pod.routed).flat_map(|pod| &pod.addresses);
        if let Some(taken) = wanted.find(|ip| own.is_some_and(|own| own.addresses.contains(ip))) {
            return Err(Refused::new(RefusedKind::Invalid, format!("{taken} is this node's own")));
        }
        let others: Vec<_> = self.ports.values().map(|other| other.port.clone()).collect();
        let node = &self.config.node.name;
        config::check_port(spec, node, &self.config.segments, &others).map_err(|problems| {
            let why: Vec<String> = problems.iter().map(Problem::to_string).collect();
            Refused::new(RefusedKind::Invalid, why.join("; "))
        })
    }

    fn pod_row(&self, port: &str) -> Option<PodRow> {
        let Some(attachment) = self.ports.get(port) else {
            let (name, entry) = self.devices.recorded().find(|(name, _)| *name == port)?;
            return self.recorded_row(name, entry);
        };
        let pod = attachment.port.pod.clone()?;
        let (trouble, gone) = match &attachment.device {
            Device::Up(_) => (None, false),
            Device::Down { reason, .. } => {
                let path = attachment.port.netns.as_ref().map(config::Netns::path);
                (Some(reason.clone()), path.is_none_or(|path| !pod.netns.is_at(&path)))
            }
        };
        Some(PodRow {
            port: port.to_owned(),
            pod,
            netns: attachment.port.netns.as_ref().map(ToString::to_string).unwrap_or_default(),
            mac: attachment.port.mac.get(),
            trouble,
            gone,
        })
    }
}

impl Daemon {
    /// An attachment that is on record and has no port: it could not be restored or removed. It has
    /// its addresses even so.
    fn recorded_row(&self, port: &str, entry: &Entry) -> Option<PodRow> {
        if entry.origin != Origin::Cni || !self.devices.is_of_this_boot(entry) {
            return None;
        }
        // Of the rest, something may be what a newer daemon wrote.
        let pod: Pod = serde_json::from_value(entry.spec.get("pod")?.clone()).ok()?;
        let path = entry.netns.as_ref().map(|netns| NetnsRef(netns.name.clone()).path());
        Some(PodRow {
            port: port.to_owned(),
            netns: entry.netns.as_ref().map(|netns| netns.name.clone()).unwrap_or_default(),
            mac: entry.mac,
            trouble: Some("it has no port: the log says why".to_owned()),
            gone: path.is_none_or(|path| !pod.netns.is_at(&path)),
            pod,
        })
    }
}

impl Host for Daemon {
    fn place(&self, segment: Option<&str>) -> Result<Place, Refused> {
        let cluster = self.pods.as_ref().map(|pods| pods.config.name.as_str());
        let (name, routed) = match (segment, cluster) {
            (None, None) => {
                let message = "this node has no [cluster]: the network configuration has to name a \
                               \"segment\"";
                return Err(Refused::new(RefusedKind::NotFound, message));
            }
            (None, Some(cluster)) => (cluster, true),
            (Some(name), cluster) => (name, cluster == Some(name)),
        };
        let known =
            routed || self.config.segments.iter().any(|segment| segment.name.as_str() == name);
        if !known {
            let message = format!("no segment \"{name}\" on this node");
            return Err(Refused::new(RefusedKind::NotFound, message));
        }
        let leaving = self.pods.as_ref().is_some_and(|pods| pods.leaving.load(Ordering::Relaxed));
        if routed && leaving {
            let message = "this node gives back its share of the pods' networks";
            return Err(Refused::new(RefusedKind::NotReady, message));
        }
        let rules = &self.devices.rules;
        Ok(Place {
            node: self.config.node.name.clone(),
            segment: name.to_owned(),
            routed,
            mtu: u32::from(rules.mtu),
            queues: rules.queues,
            owner: rules.owner,
            txqueuelen: Some(RING),
            offload: rules.wish(),
        })
    }

    fn check(&self, spec: &PortSpec) -> Result<(), Refused> {
        self.checked_pod(spec).map(drop)
    }

    fn add(&mut self, spec: &PortSpec, queues: Vec<OwnedFd>, ifindex: u32) -> Result<(), Refused> {
        let failed = |error: &dyn std::fmt::Display| Refused::new(RefusedKind::Failed, error);
        let port = self.checked_pod(spec)?;
        let name = port.name.as_str().to_owned();
        let Some(pod) = &port.pod else { return Err(failed(&"no attachment")) };
        let rules = self.devices.rules;
        let handed = Handed {
            ifname: port.ifname.as_str().to_owned(),
            ifindex,
            netns: pod.netns,
            mac: port.mac.get(),
            mtu: u32::from(rules.mtu(&port)),
        };
        let made = handed::take(queues, &handed, rules.wish())
            .map_err(|cause| Refused::new(RefusedKind::Invalid, cause))?;
        self.devices
            .record_first(&port, ObjectOrigin::Cni, &made.facts)
            .map_err(|error| failed(&error))?;
        if rules.persist
            && let Err(error) = handed::keep(&made)
        {
            self.devices.forget(&name);
            return Err(failed(&format!("make the device persistent: {error}")));
        }
        self.take_up(vec![(port, ObjectOrigin::Cni)], vec![Ok(made)]);
        if self.topology.port_named(&name).is_none() {
            self.remove_ports(std::slice::from_ref(&name));
            return Err(failed(&"the port does not fit the topology; the log says why"));
        }
        info!(port = name, "attached");
        Ok(())
    }

    fn remove(&mut self, port: &str) -> Result<(), Refused> {
        let failed = |error| Refused::new(RefusedKind::Failed, error);
        let name = [port.to_owned()];
        if self.ports.contains_key(port) {
            let removed = self.remove_ports(&name);
            removed.into_iter().collect::<Result<(), _>>().map_err(failed)?;
            info!(port, "detached");
        } else if self.devices.has_record(port) {
            // Its device could not be removed the last time.
            let removed = self.devices.remove_recorded(&name);
            removed.into_iter().collect::<Result<Vec<_>, _>>().map_err(failed)?;
        }
        Ok(())
    }

    fn pod(&self, port: &str) -> Option<PodRow> {
        self.pod_row(port)
    }

    fn pods(&self) -> Vec<PodRow> {
        let held = self.ports.keys().filter_map(|name| self.pod_row(name));
        let recorded = self.devices.recorded().filter(|(name, _)| !self.ports.contains_key(*name));
        held.chain(recorded.filter_map(|(name, entry)| self.recorded_row(name, entry))).collect()
    }
}
