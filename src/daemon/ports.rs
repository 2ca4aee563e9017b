//! The devices behind the ports: made, adopted, brought up to date and removed here, and what was
//! done is journaled.

use std::panic::resume_unwind;
use std::thread;

use tracing::{info, warn};

use crate::config::Port;
use crate::control::model::ObjectOrigin;
use crate::device::adopt::{self, Expectation};
use crate::device::error::{Cause, DeviceError};
use crate::device::journal::{Entry, Journal, Origin};
use crate::device::make::{self, Made, Removal};
use crate::device::spec::{Facts, NetnsRef, Standing};

use super::plan::DeviceRules;

/// Devices that are made at the same time: entering a namespace and closing queues wait in the
/// kernel, not on a processor.
const AT_ONCE: usize = 8;

/// Whether a port has its device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Device {
    /// It has, and its queues are with the workers.
    Up(Facts),
    /// It has not.
    Down {
        /// Why, for an operator.
        reason: String,
        /// Its namespace is not there: that is not the daemon's failure, and it comes back with
        /// the namespace.
        absent: bool,
    },
}

/// A port and its device.
#[derive(Clone, Debug)]
pub(super) struct Attachment {
    /// What it is to be.
    pub(super) port: Port,
    /// Who asked for it.
    pub(super) origin: ObjectOrigin,
    /// What it is.
    pub(super) device: Device,
}

impl Attachment {
    /// What the kernel said the device is, while it is up.
    pub(super) const fn facts(&self) -> Option<&Facts> {
        match &self.device {
            Device::Up(facts) => Some(facts),
            Device::Down { .. } => None,
        }
    }
}

/// Makes and removes devices by one set of rules, and keeps the journal of them.
#[derive(Debug)]
pub(super) struct Devices {
    /// What all devices have in common.
    pub(super) rules: DeviceRules,
    /// What was made; absent when nothing outlives the daemon.
    journal: Option<Journal>,
    boot_id: String,
}

impl Devices {
    /// Devices by `rules`, recorded in `journal` if there is one.
    pub(super) const fn new(rules: DeviceRules, journal: Option<Journal>, boot_id: String) -> Self {
        Self { rules, journal, boot_id }
    }

    /// The recorded ports.
    pub(super) fn recorded(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.journal.iter().flat_map(Journal::iter)
    }

    /// Adopts or makes the devices of `ports`, several at a time, in the order given.
    pub(super) fn bring_up(
        &mut self,
        ports: &[(Port, ObjectOrigin)],
    ) -> Vec<Result<Made, DeviceError>> {
        let mut results = Vec::with_capacity(ports.len());
        let this = &*self;
        for chunk in ports.chunks(AT_ONCE) {
            let made: Vec<_> = thread::scope(|scope| {
                let started: Vec<_> = chunk
                    .iter()
                    .map(|(port, _)| scope.spawn(move || this.adopt_or_make(port)))
                    .collect();
                started.into_iter().map(thread::ScopedJoinHandle::join).collect()
            });
            // A result that were left out would make the others those of other ports.
            let made = made.into_iter();
            results.extend(made.map(|made| made.unwrap_or_else(|why| resume_unwind(why))));
        }
        let made = ports.iter().zip(&results);
        let made: Vec<_> = made
            .filter_map(|((port, origin), result)| {
                let facts = &result.as_ref().ok()?.facts;
                Some((port.name.as_str().to_owned(), self.record(port, *origin, facts)))
            })
            .collect();
        self.write(|journal| journal.insert_all(made));
        results
    }

    fn adopt_or_make(&self, port: &Port) -> Result<Made, DeviceError> {
        let spec = self.rules.tap(port);
        let recorded = self.journal.as_ref().and_then(|journal| journal.get(port.name.as_str()));
        if let Some(entry) = recorded.filter(|entry| entry.boot_id == self.boot_id) {
            let netns = entry.netns.as_ref().map(|netns| netns.name.as_str());
            if netns == port.netns.as_ref().map(crate::config::Netns::as_str)
                && entry.ifname == port.ifname.as_str()
            {
                match self.adopt(port, &entry.expectation(), &entry.standing()) {
                    Err(error) if error.mismatch().is_some() => {
                        info!(port = %port.name, "not adopted, made anew: {error}");
                    }
                    done => return done,
                }
            }
        }
        match make::make(&spec) {
            // It may be what a daemon left that died before it could write its journal.
            Err(error) if matches!(error.cause, Cause::Taken { .. }) => {
                let expect =
                    Expectation { mac: spec.mac, owner: spec.owner, netns: None, ifindex: None };
                let adopted = self.adopt(port, &expect, &Standing::default());
                adopted.map_err(|again| if again.mismatch().is_some() { error } else { again })
            }
            made => made,
        }
    }

    fn adopt(
        &self,
        port: &Port,
        expect: &Expectation,
        standing: &Standing,
    ) -> Result<Made, DeviceError> {
        let spec = self.rules.tap(port);
        let mut made = adopt::adopt(&spec, expect)?;
        let changes = make::configure(&spec, made.facts.ifindex, standing)?;
        for change in &changes {
            info!(port = %port.name, "{change}");
        }
        made.facts.mac = spec.mac;
        made.facts.mtu = spec.mtu;
        info!(port = %port.name, device = %made.facts.ifname, "adopted");
        Ok(made)
    }

    /// Brings a device that is up to what `port` now says.
    pub(super) fn update(
        &mut self,
        port: &Port,
        origin: ObjectOrigin,
        facts: &mut Facts,
        before: &Port,
    ) -> Result<Vec<String>, DeviceError> {
        let spec = self.rules.tap(port);
        let recorded = self.journal.as_ref().and_then(|journal| journal.get(port.name.as_str()));
        let standing =
            recorded.map_or_else(|| Standing::from(&self.rules.tap(before)), Entry::standing);
        let changes = make::configure(&spec, facts.ifindex, &standing)?;
        facts.mac = spec.mac;
        facts.mtu = spec.mtu;
        let entry = (port.name.as_str().to_owned(), self.record(port, origin, facts));
        self.write(|journal| journal.insert_all([entry]));
        Ok(changes)
    }

    /// Removes the device of `port`, if it is still the one that was made, and forgets it.
    pub(super) fn remove(&mut self, port: &Port, facts: Option<&Facts>) -> Result<(), DeviceError> {
        let spec = self.rules.tap(port);
        let recorded = self.journal.as_ref().and_then(|journal| journal.get(port.name.as_str()));
        let expect = match (facts, recorded) {
            (_, Some(entry)) => Some(entry.expectation()),
            (Some(facts), None) => Some(Expectation {
                mac: facts.mac,
                owner: spec.owner,
                netns: Some(facts.netns),
                ifindex: Some(facts.ifindex),
            }),
            (None, None) => None,
        };
        if let Some(expect) = expect {
            make::remove(spec.netns.as_ref(), &spec.ifname, &expect)?;
        }
        self.forget(port.name.as_str());
        Ok(())
    }

    /// Removes what was recorded under `name`, and says whether it was there. What was made in
    /// another boot cannot be; it is looked for even so, since a sandbox may hide which boot this is.
    pub(super) fn remove_recorded(&mut self, name: &str) -> Result<Removal, DeviceError> {
        let recorded = self.journal.as_ref().and_then(|journal| journal.get(name));
        let Some(entry) = recorded else { return Ok(Removal::Absent) };
        let netns = entry.netns.as_ref().map(|netns| NetnsRef(netns.name.clone()));
        let removal = match make::remove(netns.as_ref(), &entry.ifname, &entry.expectation()) {
            // After a boot, the name may be somebody else's.
            Err(error) if entry.boot_id != self.boot_id && error.mismatch().is_some() => {
                Removal::Absent
            }
            removed => removed?,
        };
        self.forget(name);
        Ok(removal)
    }

    /// Removes recorded devices that are not where their port now is to be.
    pub(super) fn remove_moved<'p>(&mut self, ports: impl Iterator<Item = &'p Port>) {
        for port in ports {
            let recorded =
                self.journal.as_ref().and_then(|journal| journal.get(port.name.as_str()));
            let Some(entry) = recorded else { continue };
            let netns = entry.netns.as_ref().map(|netns| netns.name.as_str());
            let stays = netns == port.netns.as_ref().map(crate::config::Netns::as_str)
                && entry.ifname == port.ifname.as_str();
            if stays {
                continue;
            }
            if let Err(error) = self.remove_recorded(port.name.as_str()) {
                warn!(port = %port.name, "its device before was not removed: {error}");
            }
        }
    }

    /// Removes the device of `port` if it stands without a record: known by name, owner and
    /// address.
    pub(super) fn remove_unrecorded(&self, port: &Port) -> Result<(), DeviceError> {
        let spec = self.rules.tap(port);
        let expect = Expectation { mac: spec.mac, owner: spec.owner, netns: None, ifindex: None };
        match make::remove(spec.netns.as_ref(), &spec.ifname, &expect) {
            // Somebody else's device of that name is none of our business.
            Err(error) if error.mismatch().is_some() => Ok(()),
            removed => removed.map(drop),
        }
    }

    fn forget(&mut self, name: &str) {
        self.write(|journal| journal.remove(name).map(drop));
    }

    fn record(&self, port: &Port, origin: ObjectOrigin, facts: &Facts) -> Entry {
        let origin = match origin {
            ObjectOrigin::Config => Origin::Config,
            ObjectOrigin::Api => Origin::Api,
            ObjectOrigin::Cni => Origin::Cni,
        };
        let asked = serde_json::to_value(port.spec()).unwrap_or_default();
        Entry::new(origin, &self.rules.tap(port), facts, &self.boot_id, asked)
    }

    /// A journal that cannot be written costs the next start its memory, not this one its ports.
    fn write(
        &mut self,
        change: impl FnOnce(&mut Journal) -> Result<(), crate::device::journal::JournalError>,
    ) {
        if let Some(Err(error)) = self.journal.as_mut().map(change) {
            warn!("journal: {error}");
        }
    }
}
