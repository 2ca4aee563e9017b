//! The steps of an attachment, from the reservation to the commit.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use fdb::Tick;
use ipnet::IpNet;

use super::book::{Book, Entry, Stage, Ticket, checked, refused};
use super::host::{Host, Place};
use super::pod::{gateways, mac_of, routes};
use super::protocol::{Answer, Refused, RefusedKind, Reserve, Reserved};
use super::{Ipam, Key, Pod};
use crate::config::{PortSpec, RouteSpec, derived_mac};
use crate::device::netns::NetnsIdentity;
use crate::durable::unix_ms;

impl Book {
    pub(super) fn reserve(
        &mut self,
        ticket: Ticket,
        reserve: Reserve,
        host: &mut impl Host,
        now: Tick,
    ) -> Result<Reserved, Refused> {
        let key = reserve.key.clone();
        checked(&key)?;
        if self.has_begun(ticket) {
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
        self.entries.insert(key, Entry::new(port, identity, since_ms, stage));
        Ok(reserved)
    }

    /// An attachment of the same key in another namespace is what somebody forgot to remove, or could
    /// not.
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
            Stage::Standing if entry.leaving || entry.identity != identity => {
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
        match (given.is_empty(), place.routed) {
            (false, true) => {
                self.pool.hold(&reserve.key, &given).map_err(refused)?;
                Ok(given.into_iter().map(IpNet::from).collect())
            }
            // Where a segment bridges, they are none of ours: another one may have the same.
            (false, false) => {
                self.pool.hold(&reserve.key, &[]).map_err(refused)?;
                Ok(reserve.given.clone())
            }
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

    pub(super) fn attach(
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

    pub(super) fn commit(&mut self, ticket: Ticket, now: Tick) -> Result<Answer, Refused> {
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

fn out_of_turn(message: &str) -> Refused {
    Refused::new(RefusedKind::Malformed, format!("{message} on this connection"))
}
