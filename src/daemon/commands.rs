//! Answers to the control socket.

use std::net::IpAddr;
use std::time::Duration;

use encap::StationMac;
use fdb::{Dest, Insert, Origin, Scope, SegmentId};
use tracing::info;

use super::state::Daemon;
use crate::config::{self, PortSpec};
use crate::control::model::{
    FdbOrigin, FdbRow, FdbScope, FdbStatic, Flushed, ObjectOrigin, PortRow,
};
use crate::control::{Answer, Command, Refusal};

/// How long an attachment waits for the rules that lead ports of the node to it.
const RULES_PATIENCE: Duration = Duration::from_secs(2);

impl Daemon {
    /// Does what `command` asks, and answers. Whoever asked may have gone away, which is no error.
    pub(super) fn obey(&mut self, command: Command) {
        match command {
            Command::Status(reply) => drop(reply.send(Ok(self.status()))),
            Command::Ready(reply) => drop(reply.send(Ok(self.readiness()))),
            Command::Metrics(reply) => drop(reply.send(Ok(Box::new(self.snapshot())))),
            Command::PortList(reply) => drop(reply.send(Ok(self.port_rows()))),
            Command::PortAdd(spec, origin, reply) => {
                drop(reply.send(self.port_add(&spec, origin)));
            }
            Command::PortDel(name, reply) => drop(reply.send(self.port_del(&name))),
            Command::SegmentList(reply) => drop(reply.send(Ok(self.segment_rows()))),
            Command::PeerList(reply) => drop(reply.send(Ok(self.peer_rows()))),
            Command::FdbList(scope, reply) => drop(reply.send(self.fdb_list(&scope))),
            Command::FdbAdd(entry, reply) => drop(reply.send(self.fdb_add(&entry))),
            Command::FdbDel { segment, mac, reply } => {
                drop(reply.send(self.fdb_del(&segment, &mac)));
            }
            Command::FdbFlush(scope, reply) => drop(reply.send(self.fdb_flush(&scope))),
            Command::Drops { all, reply } => drop(reply.send(Ok(self.drop_rows(all)))),
            Command::NodeList(reply) => drop(reply.send(self.node_rows())),
            Command::NodeRelease(name, reply) => self.node_release(name, reply),
            Command::NodeConfirm(reply) => self.node_confirm(reply),
            Command::PodList(reply) => drop(reply.send(Ok(self.pod_rows()))),
            Command::IpList(reply) => drop(reply.send(self.ip_rows())),
            Command::IpRelease(text, reply) => drop(reply.send(self.ip_release(&text))),
            Command::Gc(scope, reply) => drop(reply.send(self.collect(scope))),
            Command::Attach(ask, reply) => {
                let (answer, before) =
                    (self.attach_ask(ask), self.pods.as_ref().map(|pods| pods.way_out.asked()));
                self.settle_way_out();
                // Ports of the node lead to the pod when its ADD is over, and to nobody after its DEL.
                let pods = self.pods.as_ref().filter(|pods| Some(pods.way_out.asked()) != before);
                match pods.and_then(|pods| pods.way_out.rules_dealt_with()) {
                    Some(dealt_with) => drop(tokio::spawn(async move {
                        // Why they do not stand after that is in the status.
                        let _ = tokio::time::timeout(RULES_PATIENCE, dealt_with).await;
                        let _ = reply.send(Ok(answer));
                    })),
                    None => drop(reply.send(Ok(answer))),
                }
            }
            Command::Reload(reply) => drop(reply.send(self.reload())),
        }
    }

    fn port_add(&mut self, spec: &PortSpec, origin: ObjectOrigin) -> Answer<PortRow> {
        self.finish_bringing();
        if spec.pod.is_some() {
            let message = "attachments are made through the attachment socket";
            return Err(Refusal::invalid(message).at("pod"));
        }
        if self.ports.contains_key(&spec.name) {
            let message = format!("there is a port \"{}\" already", spec.name);
            return Err(Refusal::refused(message).at("name"));
        }
        let others: Vec<_> = self.ports.values().map(|other| other.port.clone()).collect();
        let node = &self.config.node.name;
        let port = config::check_port(spec, node, &self.config.segments, &others)
            .map_err(|problems| Refusal::problems(&problems))?;
        let name = port.name.as_str().to_owned();
        self.add_ports(vec![(port, origin)]);
        let Some(attachment) = self.ports.get(&name) else {
            return Err(Refusal::failed("the port vanished while it was made"));
        };
        if let super::ports::Device::Down { reason, .. } = &attachment.device {
            // Nothing that could not be made stays on the books of somebody who is here to try again.
            let reason = reason.clone();
            self.ports.remove(&name);
            self.apply();
            return Err(Refusal::refused(reason));
        }
        info!(port = name, "added");
        Ok(self.port_row(attachment))
    }

    fn port_del(&mut self, name: &str) -> Answer<()> {
        let Some(attachment) = self.ports.get(name) else {
            return Err(Refusal::not_found(format!("no port \"{name}\"")));
        };
        if attachment.origin == ObjectOrigin::Config {
            let message = format!(
                "port \"{name}\" is in the configuration file: take it out there and reload"
            );
            return Err(Refusal::refused(message));
        }
        let pod = attachment.port.pod.as_ref().map(|pod| pod.key.clone());
        self.finish_bringing();
        if let Some(key) = pod {
            // With its addresses, which another pod may have then.
            return self.release_pod(&key);
        }
        let removed = self.remove_ports(&[name.to_owned()]);
        removed.into_iter().collect::<Result<(), _>>().map_err(Refusal::failed)?;
        info!(port = name, "removed");
        Ok(())
    }

    fn segment_id(&self, name: &str) -> Answer<SegmentId> {
        let segment = self.topology.segment_named(name);
        let missing = || Refusal::not_found(format!("no segment \"{name}\"")).at("segment");
        segment.map(|segment| segment.id).ok_or_else(missing)
    }

    fn port_dest(&self, name: &str) -> Answer<Dest> {
        let port = self.topology.port_named(name);
        let missing = || Refusal::not_found(format!("no port \"{name}\"")).at("port");
        port.map(|port| Dest::Port(port.id)).ok_or_else(missing)
    }

    fn vtep_dest(&self, text: &str) -> Answer<Dest> {
        let address: IpAddr = Self::parse_vtep(text).ok_or_else(|| {
            Refusal::invalid(format!("\"{text}\" is no address of a VTEP")).at("vtep")
        })?;
        let vtep = self.topology.vtep_at(address);
        let missing = || Refusal::not_found(format!("no peer {text}")).at("vtep");
        vtep.map(|vtep| Dest::Vtep(vtep.id)).ok_or_else(missing)
    }

    fn scope(&self, scope: &FdbScope) -> Answer<Scope> {
        let mut result = Scope::all();
        if let Some(segment) = &scope.segment {
            result.segment = Some(self.segment_id(segment)?);
        }
        result.dest = match (&scope.port, &scope.vtep) {
            (Some(_), Some(_)) => {
                return Err(Refusal::invalid("an entry has either a port or a VTEP").at("vtep"));
            }
            (Some(port), None) => Some(self.port_dest(port)?),
            (None, Some(vtep)) => Some(self.vtep_dest(vtep)?),
            (None, None) => None,
        };
        if let Some(mac) = &scope.mac {
            result.mac = Some(station(mac)?);
        }
        Ok(result)
    }

    fn fdb_list(&self, scope: &FdbScope) -> Answer<Vec<FdbRow>> {
        let scope = self.scope(scope)?;
        let entries = self.fdb.entries(self.clock.tick());
        let within = entries.iter().filter(|row| {
            scope.segment.is_none_or(|segment| segment == row.segment)
                && scope.dest.is_none_or(|dest| dest == row.dest)
                && scope.mac.is_none_or(|mac| mac == row.mac)
        });
        let mut rows: Vec<FdbRow> = within.filter_map(|row| self.fdb_row(row)).collect();
        rows.sort_by(|a, b| (&a.segment, &a.mac).cmp(&(&b.segment, &b.mac)));
        Ok(rows)
    }

    fn fdb_add(&mut self, entry: &FdbStatic) -> Answer<FdbRow> {
        let segment = self.segment_id(&entry.segment)?;
        let mac = station(&entry.mac)?;
        let dest = match (&entry.port, &entry.vtep) {
            (Some(port), None) => self.port_dest(port)?,
            (None, Some(vtep)) => self.vtep_dest(vtep)?,
            _ => {
                return Err(Refusal::invalid("an entry needs either a port or a VTEP").at("port"));
            }
        };
        if let Dest::Port(id) = dest {
            let port = self.topology.port(id);
            if port.is_none_or(|port| port.mode.tag_of(segment).is_none()) {
                let message = format!("the port is not in segment \"{}\"", entry.segment);
                return Err(Refusal::refused(message).at("port"));
            }
        }
        match self.fdb.insert(segment, mac, dest, Origin::Static, self.clock.tick()) {
            Insert::Refused => Err(Refusal::refused("the FDB is full")),
            _ => Ok(FdbRow {
                segment: entry.segment.clone(),
                vni: self.topology.segment(segment).map_or(0, |segment| segment.spec.vni.get()),
                mac: mac.to_string(),
                port: entry.port.clone(),
                vtep: entry.vtep.clone(),
                origin: FdbOrigin::Static,
                age_ms: 0,
            }),
        }
    }

    fn fdb_del(&mut self, segment: &str, mac: &str) -> Answer<()> {
        let id = self.segment_id(segment)?;
        let mac = station(mac)?;
        match self.fdb.remove(id, mac) {
            Some(_) => Ok(()),
            None => Err(Refusal::not_found(format!("no entry {mac} in segment \"{segment}\""))),
        }
    }

    fn fdb_flush(&mut self, scope: &FdbScope) -> Answer<Flushed> {
        let removed = self.fdb.flush(self.scope(scope)?);
        Ok(Flushed { removed: u64::try_from(removed).unwrap_or(u64::MAX) })
    }
}

fn station(text: &str) -> Answer<StationMac> {
    let mac: encap::MacAddr = text.parse().map_err(|error| Refusal::invalid(error).at("mac"))?;
    let message = format!("{mac} is a group address or all zeros: no station has it");
    mac.station().ok_or_else(|| Refusal::invalid(message).at("mac"))
}
