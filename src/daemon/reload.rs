//! A reload: the file is read again, compared with what runs, and what differs is changed. What
//! did not change is not touched, and its traffic does not notice.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroUsize;

use tracing::info;

use super::ports::{Device, Record};
use super::state::Daemon;
use crate::config::{self, Cluster, Config, ConfigError, Port, Segment, Store};
use crate::control::model::{ObjectOrigin, ReloadReport};
use crate::control::{Answer, Refusal};

impl Daemon {
    /// Reads the file again and applies what changed. A file that is wrong, or that asks for what
    /// cannot be changed while running, changes nothing.
    pub(super) fn reload(&mut self) -> Answer<ReloadReport> {
        self.finish_bringing();
        let next = Config::load(&self.config_path).map_err(|error| match &error {
            ConfigError::Invalid { problems, .. } => Refusal::problems(problems),
            ConfigError::Read { .. } => Refusal::invalid(&error),
        })?;
        refuse_what_needs_a_restart(&self.config, &next)?;
        let others = self.check_others(&next)?;
        let mut changes = Vec::new();
        self.reload_underlay(&next, &mut changes)?;
        describe_segments(&self.config, &next, &mut changes);
        self.config = next;
        self.follow_overlay_mtu();
        self.reload_ports(&others, &mut changes);
        self.apply();
        self.configure_segments();
        self.tell_cluster();
        for change in &changes {
            info!("reload: {change}");
        }
        Ok(ReloadReport { changes })
    }

    /// Ports that did not come from the file stay, so they must still make sense beside it.
    fn check_others(&self, next: &Config) -> Answer<BTreeMap<String, Port>> {
        let held = self.ports.iter().filter(|(_, held)| held.origin != ObjectOrigin::Config);
        let (names, specs): (Vec<_>, Vec<_>) =
            held.map(|(name, held)| (name, held.port.spec())).unzip();
        let checked = config::check_ports(&specs, &next.node.name, &next.segments, &next.ports);
        let mut others = BTreeMap::new();
        for (name, checked) in names.into_iter().zip(checked) {
            match checked {
                Ok(port) => {
                    others.insert(name.clone(), port);
                }
                Err(problems) => {
                    let why: Vec<String> = problems.iter().map(ToString::to_string).collect();
                    return Err(Refusal::refused(format!(
                        "port \"{name}\", which did not come from the file, no longer fits it: {}",
                        why.join("; ")
                    )));
                }
            }
        }
        Ok(others)
    }

    fn reload_underlay(&mut self, next: &Config, changes: &mut Vec<String>) -> Answer<()> {
        let (before, after) = (&self.config.underlay, &next.underlay);
        if before.local != after.local || before.port != after.port {
            let workers = NonZeroUsize::new(self.workers.len()).unwrap_or(NonZeroUsize::MIN);
            self.underlay.replace(next, workers).map_err(Refusal::refused)?;
            changes.push(format!("underlay: now at {}", self.underlay.local()));
        } else if before.dscp != after.dscp {
            changes.push("underlay.dscp: changed".to_owned());
        } else if groups(&self.config) == groups(next) {
            return Ok(());
        }
        self.hand_out_underlay(next);
        Ok(())
    }

    fn reload_ports(&mut self, others: &BTreeMap<String, Port>, changes: &mut Vec<String>) {
        let gateway = self.pods.as_ref().and_then(|pods| self.gateway(pods));
        let wanted: BTreeMap<&str, &Port> = (self.config.ports.iter().chain(&gateway))
            .map(|port| (port.name.as_str(), port))
            .collect();
        let gone = self
            .ports
            .keys()
            .filter(|name| !wanted.contains_key(name.as_str()) && !others.contains_key(*name));
        let gone: Vec<String> = gone.cloned().collect();
        let (mut added, mut anew, mut changed) = (Vec::new(), Vec::new(), Vec::new());
        for (name, port) in wanted {
            match self.ports.get(name) {
                None => added.push(port.clone()),
                Some(before) if before.port == *port => {}
                Some(before) if moved(&before.port, port) => anew.push(port.clone()),
                Some(_) => changed.push(port.clone()),
            }
        }
        self.remove_and_tell(&gone, "removed", changes);
        changes.extend(added.iter().map(|port| format!("port {}: added", port.name)));
        let names: Vec<String> = anew.iter().map(|port| port.name.to_string()).collect();
        self.remove_and_tell(&names, "made anew", changes);
        let records: Vec<_> =
            changed.into_iter().filter_map(|port| self.change_port(port, changes)).collect();
        self.devices.keep(records);
        added.extend(anew);
        self.add_and_tell(added, changes);
    }

    fn remove_and_tell(&mut self, names: &[String], what: &str, changes: &mut Vec<String>) {
        for (name, removed) in names.iter().zip(self.remove_ports(names)) {
            changes.push(match removed {
                Ok(()) => format!("port {name}: {what}"),
                Err(error) => format!("port {name}: {what}, but {error}"),
            });
        }
    }

    fn add_and_tell(&mut self, ports: Vec<Port>, changes: &mut Vec<String>) {
        if ports.is_empty() {
            return;
        }
        let names: Vec<String> = ports.iter().map(|port| port.name.to_string()).collect();
        self.add_ports(ports.into_iter().map(|port| (port, ObjectOrigin::Config)).collect());
        for name in names {
            let device = self.ports.get(&name).map(|attachment| &attachment.device);
            if let Some(Device::Down { reason, .. }) = device {
                changes.push(format!("port {name}: down: {reason}"));
            }
        }
    }

    /// Changes a port whose device stays. Returns what is to be kept of it.
    pub(super) fn change_port(&mut self, port: Port, changes: &mut Vec<String>) -> Option<Record> {
        let name = port.name.as_str().to_owned();
        let mut attachment = self.ports.remove(&name)?;
        if attachment.port.mode != port.mode {
            changes.push(format!("port {name}: other segments"));
        }
        let mut kept = None;
        if let Device::Up(facts) = &mut attachment.device {
            match self.devices.update(&port, attachment.origin, facts, &attachment.port) {
                Ok((done, record)) => {
                    changes.extend(done.into_iter().map(|done| format!("port {name}: {done}")));
                    kept = Some(record);
                }
                Err(error) => changes.push(format!("port {name}: {error}")),
            }
        } else {
            changes.push(format!("port {name}: changed, still down"));
        }
        attachment.port = port;
        self.ports.insert(name, attachment);
        kept
    }
}

/// Whether the device itself has to be another one.
fn moved(before: &Port, after: &Port) -> bool {
    before.netns != after.netns || before.ifname != after.ifname
}

fn groups(config: &Config) -> Vec<std::net::IpAddr> {
    config.segments.iter().filter_map(|segment| segment.multicast).collect()
}

fn refuse_what_needs_a_restart(before: &Config, after: &Config) -> Answer<()> {
    let (under, over) = (&before.underlay, &after.underlay);
    let fixed = [
        ("node.name", before.node == after.node),
        ("control.socket", before.control == after.control),
        ("metrics.listen", before.metrics == after.metrics),
        ("state.dir", before.state == after.state),
        ("privilege.helper", before.privilege == after.privilege),
        ("offload", before.offload == after.offload),
        ("underlay.workers", under.workers == over.workers),
        ("underlay.udp_checksum", under.udp_checksum == over.udp_checksum),
        ("underlay.rcvbuf", under.rcvbuf == over.rcvbuf),
        ("underlay.sndbuf", under.sndbuf == over.sndbuf),
        ("underlay.spin_us", under.spin == over.spin),
        ("cluster", same_cluster(before.cluster.as_ref(), after.cluster.as_ref())),
    ];
    match fixed.into_iter().find(|(_, same)| !same) {
        None => Ok(()),
        Some((key, _)) => {
            let message = format!("{key}: cannot be changed while the daemon runs: restart it");
            Err(Refusal::refused(message).at(key))
        }
    }
}

/// Whether two clusters differ in nothing but what can follow: the nodes of the static store.
fn same_cluster(before: Option<&Cluster>, after: Option<&Cluster>) -> bool {
    match (before, after) {
        (Some(before), Some(after)) => match (&before.store, &after.store) {
            (Store::Static(_), Store::Static(_)) => {
                let store = before.store.clone();
                Cluster { store, ..after.clone() } == *before
            }
            _ => before == after,
        },
        (before, after) => before.is_none() && after.is_none(),
    }
}

fn describe_segments(before: &Config, after: &Config, changes: &mut Vec<String>) {
    let (held, kept) = (by_name(before), by_name(after));
    for segment in &before.segments {
        if !kept.contains_key(segment.name.as_str()) {
            changes.push(format!("segment {}: removed", segment.name));
        }
    }
    for segment in &after.segments {
        match held.get(segment.name.as_str()) {
            None => changes.push(format!("segment {}: added", segment.name)),
            Some(held) if *held == segment => {}
            Some(held) => describe_segment(held, segment, changes),
        }
    }
}

fn by_name(config: &Config) -> HashMap<&str, &Segment> {
    config.segments.iter().map(|segment| (segment.name.as_str(), segment)).collect()
}

fn describe_segment(before: &Segment, after: &Segment, changes: &mut Vec<String>) {
    let name = &after.name;
    let (held, kept): (HashSet<_>, HashSet<_>) =
        (before.peers.iter().collect(), after.peers.iter().collect());
    let gone = before.peers.iter().filter(|peer| !kept.contains(peer));
    let new = after.peers.iter().filter(|peer| !held.contains(peer));
    let peers: Vec<String> = gone
        .map(|peer| format!("segment {name}: peer {} removed", peer.ip()))
        .chain(new.map(|peer| format!("segment {name}: peer {} added", peer.ip())))
        .collect();
    let mut rest = before.clone();
    rest.peers.clone_from(&after.peers);
    if rest != *after || peers.is_empty() {
        changes.push(format!("segment {name}: changed"));
    }
    changes.extend(peers);
}
