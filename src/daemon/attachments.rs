//! The attachments of containers: what the socket asks for is done to ports here, and what becomes
//! of their namespaces is followed.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use anyhow::Context as _;
use tracing::{info, warn};

use super::plan::RING;
use super::ports::Device;
use super::state::Daemon;
use crate::attach::protocol::{Answer, Refused, RefusedKind};
use crate::attach::{Ask, Book, Found, Host, Key, Place, PodRow, Pool, Server, Tombstones};
use crate::config::{self, Config, PortSpec, Problem};
use crate::control::model::ObjectOrigin;
use crate::control::{self, Refusal};
use crate::device::handed::{self, Handed};

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
}

impl Attachments {
    pub(super) fn new(config: &Config) -> Self {
        let rest = config.cluster.as_ref().map_or(REST, |cluster| cluster.rest);
        let tombstones = Tombstones::of(&config.state.dir);
        Self { book: Some(Book::new(Pool::new(rest))), tombstones }
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
        self.finish_bringing();
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
        // A share that is lost is not given up: the pods in it are still here.
        let Some(cidrs) = own.map(|own| own.pod_cidrs.clone()).filter(|cidrs| !cidrs.is_empty())
        else {
            return;
        };
        let Some(book) = self.attachments.book.as_mut() else { return };
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

    /// Takes up the attachments of the journal, and what was to be removed meanwhile.
    pub(super) fn restore_attachments(&mut self) {
        for row in self.pods() {
            let held = self.attachments.book.as_mut().map(|book| book.restore(&row));
            if let Some(Err(error)) = held {
                warn!(port = row.port, "restored without its address: {error}");
            }
        }
        self.follow_pod_cidrs();
        self.bury();
    }

    /// Looks after tombstones, and after attachments whose namespace has gone.
    pub(super) fn watch_attachments(&mut self) {
        self.bury();
        let now = self.clock.tick();
        let leaks = self.with_book(|book, daemon| book.find_leaks(daemon, now, GRACE_MS));
        for (key, released) in leaks.unwrap_or_default() {
            match released {
                Ok(_) => info!("{key}: removed, its namespace is gone"),
                Err(refused) => warn!("{key}: its namespace is gone, and {refused}"),
            }
        }
    }

    /// Removes what was to be gone when nobody was here.
    fn bury(&mut self) {
        let tombstones = self.attachments.tombstones.clone();
        let Found { good: found, bad } = match tombstones.read() {
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
        let others: Vec<_> = self.ports.values().map(|other| other.port.clone()).collect();
        let node = &self.config.node.name;
        config::check_port(spec, node, &self.config.segments, &others).map_err(|problems| {
            let why: Vec<String> = problems.iter().map(Problem::to_string).collect();
            Refused::new(RefusedKind::Invalid, why.join("; "))
        })
    }

    fn pod_row(&self, port: &str) -> Option<PodRow> {
        let attachment = self.ports.get(port)?;
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
        self.ports.keys().filter_map(|name| self.pod_row(name)).collect()
    }
}
