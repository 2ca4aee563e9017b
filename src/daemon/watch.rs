//! Looking after what changes outside: the ports' namespaces, and the interface under the VTEP.
//!
//! A thousand ports cost nothing while nothing happens: the kernel says when a mount came or went
//! (a named namespace is one) and when a link or an address changed, and only then is looked.

use std::path::PathBuf;

use tracing::warn;

use super::ports::Device;
use super::state::Daemon;
use crate::device::netlink::Changes;
use crate::device::watch::{Fate, Mounts, announces_itself, fate};

/// Ticks after which is looked whether or not anything was said.
const ANYWAY: u64 = 60;

/// What tells of changes.
#[derive(Debug)]
pub(super) struct Watch {
    mounts: Option<Mounts>,
    links: Option<Changes>,
    /// Ports or namespaces have changed since all of them were looked at.
    again: bool,
    /// Ports whose namespaces come and go without a word.
    silent: Vec<String>,
}

impl Watch {
    /// Begins to listen. What the system does not tell is looked at each time.
    pub(super) fn new() -> Self {
        let mounts = Mounts::open().inspect_err(|error| warn!("watching mounts: {error}")).ok();
        let links = Changes::open().inspect_err(|error| warn!("watching links: {error}")).ok();
        Self { mounts, links, again: true, silent: Vec::new() }
    }

    /// Other ports are there than before.
    pub(super) const fn look_again(&mut self) {
        self.again = true;
    }
}

impl Daemon {
    /// Takes ports down whose namespace has vanished, and brings them up where it has come back.
    pub(super) fn watch_namespaces(&mut self, count: u64) {
        let moved = self.watch.mounts.as_ref().is_none_or(Mounts::changed);
        let all = moved || std::mem::take(&mut self.watch.again) || count.is_multiple_of(ANYWAY);
        let (mut unsure, mut silent) = (Vec::new(), Vec::new());
        let mut look = |name: &String, sort: bool| {
            let Some(attachment) = self.ports.get(name) else { return };
            let Some(path) = attachment.port.netns.as_ref().map(crate::config::Netns::path) else {
                return;
            };
            let held = attachment.facts().map(|facts| facts.netns);
            let absent = matches!(attachment.device, Device::Down { absent: true, .. });
            if sort && (absent || (held.is_some() && !announces_itself(&path))) {
                silent.push(name.clone());
            }
            if held.is_some_and(|held| held.is_at(&path)) || (held.is_none() && !absent) {
                return;
            }
            unsure.push((name.clone(), held, path));
        };
        if all {
            self.ports.keys().for_each(|name| look(name, true));
            self.watch.silent = silent;
        } else {
            self.watch.silent.iter().for_each(|name| look(name, false));
        }
        let (mut gone, mut back) = (Vec::new(), Vec::new());
        let paths: Vec<PathBuf> = unsure.iter().map(|(_, _, path)| path.clone()).collect();
        for ((name, held, path), seen) in unsure.into_iter().zip(self.devices.hands.look(&paths)) {
            let Ok(seen) = seen else { continue };
            let fate = fate(held, seen);
            if matches!(fate, Fate::Vanished | Fate::Replaced(_)) {
                gone.push((name.clone(), format!("its namespace {} is gone", path.display())));
            }
            // What is of a container is only ever in the one namespace.
            let pod = self.ports.get(&name).and_then(|held| held.port.pod.as_ref());
            let own = |found| pod.is_none_or(|pod| pod.netns == found);
            if matches!(fate, Fate::Returned(found) | Fate::Replaced(found) if own(found)) {
                back.push(name);
            }
        }
        if !gone.is_empty() {
            self.watch.look_again();
            self.take_down(gone, true);
        }
        if !back.is_empty() {
            self.bring_back(back);
        }
    }

    /// Whether the underlay is to be looked at: a link or an address changed, or there is trouble
    /// with it, which may end in other ways.
    pub(super) fn underlay_may_have_moved(&self, count: u64) -> bool {
        let told = self.watch.links.as_ref().is_none_or(Changes::any);
        // The first time, too: it was opened before anybody listened.
        told || count == 1 || self.underlay.trouble.is_some() || count.is_multiple_of(ANYWAY)
    }
}
