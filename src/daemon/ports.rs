//! The devices behind the ports: made, adopted, brought up to date and removed here, and what was
//! done is journaled.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tracing::{info, warn};

use crate::config::Port;
use crate::control::model::ObjectOrigin;
use crate::device::adopt::{Expectation, Mismatch};
use crate::device::error::{Cause, DeviceError};
use crate::device::journal::{Entry, Journal, Origin};
use crate::device::make::{Made, Removal};
use crate::device::spec::{Facts, NetnsRef, Standing};
use crate::durable::FileError;
use crate::privilege::{Hand, Hands};

use super::plan::DeviceRules;

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
    /// Who makes them.
    pub(super) hands: Hands,
    /// What was made; absent when nothing outlives the daemon.
    journal: Option<Journal>,
    boot_id: String,
}

impl Devices {
    /// Devices by `rules`, recorded in `journal` if there is one.
    pub(super) const fn new(
        rules: DeviceRules,
        hands: Hands,
        journal: Option<Journal>,
        boot_id: String,
    ) -> Self {
        Self { rules, hands, journal, boot_id }
    }

    /// The recorded ports.
    pub(super) fn recorded(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.journal.iter().flat_map(Journal::iter)
    }

    /// Which boot this is.
    pub(super) fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Whether what is recorded was made since the last boot.
    pub(super) fn is_of_this_boot(&self, entry: &Entry) -> bool {
        entry.boot_id == self.boot_id
    }

    /// Records a port and what its device is, in any case before anything rests on it.
    pub(super) fn record_first(
        &mut self,
        port: &Port,
        origin: ObjectOrigin,
        facts: &Facts,
    ) -> Result<(), FileError> {
        let record = self.record(port, origin, facts);
        self.journal.as_mut().map_or(Ok(()), |journal| journal.insert_all([record]))
    }

    /// Whether there is a record of this name.
    pub(super) fn has_record(&self, name: &str) -> bool {
        self.journal.as_ref().is_some_and(|journal| journal.get(name).is_some())
    }

    /// Forgets a port whose device never was.
    pub(super) fn forget(&mut self, name: &str) {
        self.write(|journal| journal.remove_all([name]));
    }

    /// Adopts or makes the devices of `ports` and records them; results are in the order given.
    pub(super) fn bring_up(
        &mut self,
        ports: &[(Port, ObjectOrigin)],
    ) -> Vec<Result<Made, DeviceError>> {
        let results = self.maker(ports).make(ports);
        self.keep_made(ports, &results);
        results
    }

    /// What it takes to make the devices of `ports`, so that it can be done elsewhere.
    pub(super) fn maker(&self, ports: &[(Port, ObjectOrigin)]) -> Maker {
        let recorded = |(port, _): &(Port, ObjectOrigin)| {
            let entry = self.recorded_as(port)?;
            (entry.boot_id == self.boot_id).then(|| (port.name.as_str().to_owned(), entry.clone()))
        };
        let recorded = ports.iter().filter_map(recorded).collect();
        Maker { rules: self.rules, hands: self.hands.clone(), recorded }
    }

    /// Records the devices of `ports` that were made.
    pub(super) fn keep_made(
        &mut self,
        ports: &[(Port, ObjectOrigin)],
        results: &[Result<Made, DeviceError>],
    ) {
        let made = ports.iter().zip(results).filter_map(|((port, origin), result)| {
            Some(self.record(port, *origin, &result.as_ref().ok()?.facts))
        });
        self.keep(made.collect());
    }

    /// Brings a device that is up to what `port` now says. Returns what was changed, in words, and
    /// what is to be kept of it.
    pub(super) fn update(
        &self,
        port: &Port,
        origin: ObjectOrigin,
        facts: &mut Facts,
        before: &Port,
    ) -> Result<(Vec<String>, Record), DeviceError> {
        let spec = self.rules.tap(port);
        let recorded = self.recorded_as(port);
        let standing =
            recorded.map_or_else(|| Standing::from(&self.rules.tap(before)), Entry::standing);
        let changes = self.hands.hand().configure(&spec, facts.ifindex, &standing)?;
        facts.mac = spec.mac;
        facts.mtu = spec.mtu;
        Ok((changes, self.record(port, origin, facts)))
    }

    /// Keeps records, with one write for all of them.
    pub(super) fn keep(&mut self, records: Vec<Record>) {
        self.write(|journal| journal.insert_all(records));
    }

    /// Removes the devices of ports, as far as they are still those that were made, and forgets
    /// them; results are in the order given. What could not be removed stays on record.
    pub(super) fn remove(
        &mut self,
        ports: &[(Port, Option<Facts>)],
    ) -> Vec<Result<(), DeviceError>> {
        let this = &*self;
        let removed = this.hands.for_each(
            ports,
            |(port, _)| place(port),
            |hand, (port, facts)| {
                let spec = this.rules.tap(port);
                let expect = match (facts, this.recorded_as(port)) {
                    (_, Some(entry)) => entry.expectation(),
                    (Some(facts), None) => Expectation {
                        mac: facts.mac,
                        owner: spec.owner,
                        netns: Some(facts.netns),
                        ifindex: Some(facts.ifindex),
                    },
                    (None, None) => return Ok(()),
                };
                hand.remove(spec.netns.as_ref(), &spec.ifname, &expect).map(drop)
            },
        );
        let gone = ports.iter().zip(&removed).filter(|(_, removed)| removed.is_ok());
        let gone: Vec<&str> = gone.map(|((port, _), _)| port.name.as_str()).collect();
        self.write(|journal| journal.remove_all(gone));
        removed
    }

    /// Removes what was recorded under these names, and says of each whether it was there. What
    /// was made in another boot cannot be; it is looked for even so, since a sandbox may hide which
    /// boot this is.
    pub(super) fn remove_recorded(
        &mut self,
        names: &[String],
    ) -> Vec<Result<Removal, DeviceError>> {
        let this = &*self;
        let netns = |entry: &Entry| entry.netns.as_ref().map(|netns| NetnsRef(netns.name.clone()));
        let removed = this.hands.for_each(
            names,
            |name| netns(this.journal.as_ref()?.get(name)?).map(|netns| netns.path()),
            |hand, name| {
                let recorded = this.journal.as_ref().and_then(|journal| journal.get(name));
                let Some(entry) = recorded else { return Ok(Removal::Absent) };
                let netns = netns(entry);
                match hand.remove(netns.as_ref(), &entry.ifname, &entry.expectation()) {
                    // After a boot, the name may be somebody else's.
                    Err(error) if entry.boot_id != this.boot_id && error.mismatch().is_some() => {
                        Ok(Removal::Absent)
                    }
                    removed => removed,
                }
            },
        );
        let gone = names.iter().zip(&removed).filter(|(_, removed)| removed.is_ok());
        let gone: Vec<&str> = gone.map(|(name, _)| name.as_str()).collect();
        self.write(|journal| journal.remove_all(gone));
        removed
    }

    /// Removes recorded devices that are not where their port now is to be.
    pub(super) fn remove_moved<'p>(&mut self, ports: impl Iterator<Item = &'p Port>) {
        let moved = ports.filter(|port| {
            let entry = self.recorded_as(port);
            entry.is_some_and(|entry| !is_where(entry, port))
        });
        let moved: Vec<String> = moved.map(|port| port.name.as_str().to_owned()).collect();
        for (name, removed) in moved.iter().zip(self.remove_recorded(&moved)) {
            if let Err(error) = removed {
                warn!(port = name, "its device before was not removed: {error}");
            }
        }
    }

    /// Removes the device of `port` if it stands without a record: known by name, owner and
    /// address.
    pub(super) fn remove_unrecorded(&self, port: &Port) -> Result<(), DeviceError> {
        let spec = self.rules.tap(port);
        let expect = Expectation { mac: spec.mac, owner: spec.owner, netns: None, ifindex: None };
        match self.hands.hand().remove(spec.netns.as_ref(), &spec.ifname, &expect) {
            // Somebody else's device of that name is none of our business.
            Err(error) if error.mismatch().is_some() => Ok(()),
            removed => removed.map(drop),
        }
    }

    fn recorded_as(&self, port: &Port) -> Option<&Entry> {
        self.journal.as_ref()?.get(port.name.as_str())
    }

    fn record(&self, port: &Port, origin: ObjectOrigin, facts: &Facts) -> Record {
        let origin = match origin {
            ObjectOrigin::Config => Origin::Config,
            ObjectOrigin::Api => Origin::Api,
            ObjectOrigin::Cni => Origin::Cni,
        };
        let asked = serde_json::to_value(port.spec()).unwrap_or_default();
        let entry = Entry::new(origin, &self.rules.tap(port), facts, &self.boot_id, asked);
        (port.name.as_str().to_owned(), entry)
    }

    /// A journal that cannot be written costs the next start its memory, not this one its ports.
    fn write(&mut self, change: impl FnOnce(&mut Journal) -> Result<(), FileError>) {
        if let Some(Err(error)) = self.journal.as_mut().map(change) {
            warn!("journal: {error}");
        }
    }
}

/// A port's name, and what the journal is to say of it.
pub(super) type Record = (String, Entry);

/// Makes devices. It has all that it needs, and so may be sent to another thread.
#[derive(Debug)]
pub(super) struct Maker {
    rules: DeviceRules,
    hands: Hands,
    /// What was made before in this boot, by the port's name.
    recorded: BTreeMap<String, Entry>,
}

impl Maker {
    /// Adopts or makes the devices of `ports`; results are in the order given.
    pub(super) fn make(&self, ports: &[(Port, ObjectOrigin)]) -> Vec<Result<Made, DeviceError>> {
        let place = |(port, _): &(Port, ObjectOrigin)| place(port);
        self.hands.for_each(ports, place, |hand, (port, _)| self.adopt_or_make(hand, port))
    }

    fn adopt_or_make(&self, hand: &mut Hand<'_>, port: &Port) -> Result<Made, DeviceError> {
        let spec = self.rules.tap(port);
        let recorded = self.recorded.get(port.name.as_str());
        if port.pod.is_some() {
            // Its container made it, in a namespace that is not there a second time: what is not
            // found again is not made again.
            let entry = recorded.ok_or_else(|| DeviceError {
                ifname: spec.ifname.clone(),
                netns: spec.netns.clone(),
                step: "look for the device".into(),
                cause: Mismatch::NoDevice.into(),
            })?;
            return self.adopt(hand, port, &entry.expectation(), &entry.standing());
        }
        if let Some(entry) = recorded.filter(|entry| is_where(entry, port)) {
            match self.adopt(hand, port, &entry.expectation(), &entry.standing()) {
                Err(error) if error.mismatch().is_some() => {
                    info!(port = %port.name, "not adopted, made anew: {error}");
                }
                done => return done,
            }
        }
        match hand.make(&spec) {
            // It may be what a daemon left that died before it could write its journal.
            Err(error) if matches!(error.cause, Cause::Taken { .. }) => {
                let expect =
                    Expectation { mac: spec.mac, owner: spec.owner, netns: None, ifindex: None };
                match self.adopt(hand, port, &expect, &Standing::default()) {
                    // It was on its way out together with whoever was making it.
                    Err(again) if again.mismatch() == Some(&Mismatch::NoDevice) => hand.make(&spec),
                    Err(again) if again.mismatch().is_some() => Err(error),
                    adopted => adopted,
                }
            }
            made => made,
        }
    }

    fn adopt(
        &self,
        hand: &mut Hand<'_>,
        port: &Port,
        expect: &Expectation,
        standing: &Standing,
    ) -> Result<Made, DeviceError> {
        let spec = self.rules.tap(port);
        let mut made = hand.reopen(&spec, expect)?;
        let changes = hand.configure(&spec, made.facts.ifindex, standing)?;
        for change in &changes {
            info!(port = %port.name, "{change}");
        }
        made.facts.mac = spec.mac;
        made.facts.mtu = spec.mtu;
        info!(port = %port.name, device = %made.facts.ifname, "adopted");
        Ok(made)
    }
}

/// The path of a port's namespace.
fn place(port: &Port) -> Option<PathBuf> {
    port.netns.as_ref().map(crate::config::Netns::path)
}

/// Whether a recorded device is where `port` is to have its own.
fn is_where(entry: &Entry, port: &Port) -> bool {
    let netns = entry.netns.as_ref().map(|netns| netns.name.as_str());
    netns == port.netns.as_ref().map(crate::config::Netns::as_str)
        && entry.ifname == port.ifname.as_str()
}
