//! A reload: the file is read again, compared with what runs, and what differs is changed. What
//! did not change is not touched, and its traffic does not notice.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use tracing::info;

use super::ports::Device;
use super::state::Daemon;
use crate::config::{self, Config, ConfigError, Port};
use crate::control::model::{ObjectOrigin, ReloadReport};
use crate::control::{Answer, Refusal};

impl Daemon {
    /// Reads the file again and applies what changed. A file that is wrong, or that asks for what
    /// cannot be changed while running, changes nothing.
    pub(super) fn reload(&mut self) -> Answer<ReloadReport> {
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
        for change in &changes {
            info!("reload: {change}");
        }
        Ok(ReloadReport { changes })
    }

    /// Ports that did not come from the file stay, so they must still make sense beside it.
    fn check_others(&self, next: &Config) -> Answer<BTreeMap<String, Port>> {
        let mut ports = next.ports.clone();
        let mut others = BTreeMap::new();
        for (name, held) in &self.ports {
            if held.origin == ObjectOrigin::Config {
                continue;
            }
            let (spec, node) = (held.port.spec(), &next.node.name);
            match config::check_port(&spec, node, &next.segments, &ports) {
                Ok(port) => {
                    ports.push(port.clone());
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
        let wanted: BTreeMap<String, Port> = self
            .config
            .ports
            .iter()
            .map(|port| (port.name.as_str().to_owned(), port.clone()))
            .collect();
        let held: Vec<String> = self.ports.keys().cloned().collect();
        for name in held.iter().filter(|name| !wanted.contains_key(*name)) {
            if others.contains_key(name) {
                continue;
            }
            let gone = self.remove_port(name);
            changes.push(match gone {
                Ok(()) => format!("port {name}: removed"),
                Err(error) => format!("port {name}: removed, but {error}"),
            });
        }
        let mut added = Vec::new();
        for (name, port) in wanted {
            match self.ports.get(&name) {
                None => {
                    changes.push(format!("port {name}: added"));
                    added.push((port, ObjectOrigin::Config));
                }
                Some(before) if before.port == port => {}
                Some(before) if moved(&before.port, &port) => {
                    let gone = self.remove_port(&name);
                    changes.push(match gone {
                        Ok(()) => format!("port {name}: made anew"),
                        Err(error) => format!("port {name}: made anew, but {error}"),
                    });
                    added.push((port, ObjectOrigin::Config));
                }
                Some(_) => self.change_port(&name, port, changes),
            }
        }
        if !added.is_empty() {
            let names: Vec<String> = added.iter().map(|(port, _)| port.name.to_string()).collect();
            self.add_ports(added);
            for name in names {
                if let Some(Device::Down { reason, .. }) =
                    self.ports.get(&name).map(|attachment| &attachment.device)
                {
                    changes.push(format!("port {name}: down: {reason}"));
                }
            }
        }
    }

    /// Changes a port whose device stays.
    fn change_port(&mut self, name: &str, port: Port, changes: &mut Vec<String>) {
        let Some(mut attachment) = self.ports.remove(name) else { return };
        if attachment.port.mode != port.mode {
            changes.push(format!("port {name}: other segments"));
        }
        if let Device::Up(facts) = &mut attachment.device {
            let updated = self.devices.update(&port, attachment.origin, facts, &attachment.port);
            match updated {
                Ok(done) => {
                    changes.extend(done.into_iter().map(|done| format!("port {name}: {done}")));
                }
                Err(error) => changes.push(format!("port {name}: {error}")),
            }
        } else {
            changes.push(format!("port {name}: changed, still down"));
        }
        attachment.port = port;
        self.ports.insert(name.to_owned(), attachment);
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
        ("offload", before.offload == after.offload),
        ("underlay.workers", under.workers == over.workers),
        ("underlay.udp_checksum", under.udp_checksum == over.udp_checksum),
        ("underlay.rcvbuf", under.rcvbuf == over.rcvbuf),
        ("underlay.sndbuf", under.sndbuf == over.sndbuf),
        ("underlay.spin_us", under.spin == over.spin),
    ];
    match fixed.into_iter().find(|(_, same)| !same) {
        None => Ok(()),
        Some((key, _)) => {
            let message = format!("{key}: cannot be changed while the daemon runs: restart it");
            Err(Refusal::refused(message).at(key))
        }
    }
}

fn describe_segments(before: &Config, after: &Config, changes: &mut Vec<String>) {
    for segment in &before.segments {
        if after.segment(segment.name.as_str()).is_none() {
            changes.push(format!("segment {}: removed", segment.name));
        }
    }
    for segment in &after.segments {
        match before.segment(segment.name.as_str()) {
            None => changes.push(format!("segment {}: added", segment.name)),
            Some(held) if held == segment => {}
            Some(held) => {
                let gone = held.peers.iter().filter(|peer| !segment.peers.contains(peer));
                let new = segment.peers.iter().filter(|peer| !held.peers.contains(peer));
                let peers: Vec<String> = gone
                    .map(|peer| format!("segment {}: peer {} removed", segment.name, peer.ip()))
                    .chain(
                        new.map(|peer| {
                            format!("segment {}: peer {} added", segment.name, peer.ip())
                        }),
                    )
                    .collect();
                let mut rest = held.clone();
                rest.peers.clone_from(&segment.peers);
                if rest != *segment || peers.is_empty() {
                    changes.push(format!("segment {}: changed", segment.name));
                }
                changes.extend(peers);
            }
        }
    }
}
