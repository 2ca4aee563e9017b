//! The reference: a switch without slots, generations, caches or snapshots.

use super::step::{AGING, MODES, Parts, SEGMENTS, Step, TagKind, is_station};
use super::{Copy, Tally};
use crate::kit::{C_TAG, RawTag};
use std::collections::{BTreeMap, BTreeSet};
use switch::DropReason;

/// Where a station lives. Ports and VTEPs are told from their successors by a number of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    Port(u64),
    Vtep(u64),
}

#[derive(Debug)]
struct Port {
    life: u64,
    mode: usize,
    up: bool,
}

#[derive(Debug)]
struct Entry {
    home: Home,
    /// When it was last seen; never for what was pinned.
    seen: Option<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Naive {
    pub(crate) tally: Tally,
    now: u64,
    lives: u64,
    ports: BTreeMap<u8, Port>,
    peers: BTreeMap<usize, BTreeSet<u8>>,
    vteps: BTreeMap<u8, u64>,
    table: BTreeMap<(usize, u8), Entry>,
}

/// The tag of a member of `segment`, if a port in this mode is one.
fn membership(mode: usize, segment: usize) -> Option<Option<u16>> {
    let (untagged, tagged, _) = MODES[mode];
    if untagged == Some(segment) {
        return Some(None);
    }
    tagged.iter().find(|(_, s)| *s == segment).map(|(vlan, _)| Some(*vlan))
}

impl Naive {
    fn life(&mut self) -> u64 {
        self.lives += 1;
        self.lives
    }

    pub(crate) fn step(&mut self, step: &Step) -> Vec<Copy> {
        match step {
            Step::SetPort { port, mode, up } => {
                let life = self.ports.get(port).map(|port| port.life);
                let life = life.unwrap_or_else(|| self.life());
                self.ports.insert(*port, Port { life, mode: *mode, up: *up });
            }
            Step::RemovePort(port) => drop(self.ports.remove(port)),
            Step::SetPeers { segment, peers } => {
                self.peers.insert(*segment, peers.clone());
                let all: BTreeSet<u8> = self.peers.values().flatten().copied().collect();
                self.vteps.retain(|vtep, _| all.contains(vtep));
                for vtep in all {
                    let life = self.life();
                    self.vteps.entry(vtep).or_insert(life);
                }
            }
            Step::Advance { ms } => self.now += ms,
            Step::PinToPort { segment, mac, port } => {
                let home = self.ports.get(port).map(|port| Home::Port(port.life));
                self.pin(*segment, *mac, home);
            }
            Step::PinToVtep { segment, mac, vtep } => {
                let home = self.vteps.get(vtep).map(|life| Home::Vtep(*life));
                self.pin(*segment, *mac, home);
            }
            Step::Unpin { segment, mac } => drop(self.table.remove(&(*segment, *mac))),
            Step::Flush { segment, mac } => self.table.retain(|(s, m), entry| {
                let spared = segment.is_some_and(|only| only != *s);
                spared || mac.is_some_and(|only| only != *m) || entry.seen.is_none()
            }),
            Step::FromPort { port, parts } => {
                let outcome = self.enter_by_port(*port, parts);
                return self.count(outcome);
            }
            Step::Burst { port, frames } => {
                let mut copies = Vec::new();
                for parts in frames {
                    let outcome = self.enter_by_port(*port, parts);
                    copies.extend(self.count(outcome));
                }
                copies.sort();
                return copies;
            }
            Step::FromPeer { peer, segment, parts } => {
                let outcome = self.enter_by_peer(*peer, *segment, parts);
                return self.count(outcome);
            }
        }
        Vec::new()
    }

    fn pin(&mut self, segment: usize, mac: u8, home: Option<Home>) {
        if let Some(home) = home {
            self.table.insert((segment, mac), Entry { home, seen: None });
        }
    }

    fn count(&mut self, outcome: Result<Vec<Copy>, DropReason>) -> Vec<Copy> {
        match outcome {
            Ok(mut copies) => {
                self.tally.forwarded += 1;
                copies.sort();
                copies
            }
            Err(reason) => {
                *self.tally.dropped.entry(reason).or_default() += 1;
                Vec::new()
            }
        }
    }

    fn admit(parts: &Parts) -> Result<(), DropReason> {
        match (is_station(parts.src), parts.dst) {
            (false, _) => Err(DropReason::SourceMacInvalid),
            (_, 8) => Err(DropReason::LinkLocal),
            (_, 7) => Err(DropReason::DestMacInvalid),
            _ => Ok(()),
        }
    }

    fn enter_by_port(&mut self, name: u8, parts: &Parts) -> Result<Vec<Copy>, DropReason> {
        let port = self.ports.get(&name).filter(|port| port.up).ok_or(DropReason::PortDown)?;
        let (untagged, tagged, access) = MODES[port.mode];
        let home = Home::Port(port.life);
        Self::admit(parts)?;
        let segment = match parts.tag {
            TagKind::None | TagKind::Priority => untagged.ok_or(DropReason::VlanUntagged)?,
            _ if access => return Err(DropReason::VlanTagged),
            TagKind::Double => return Err(DropReason::VlanUnknown),
            TagKind::Vlan(vlan) => {
                let carried = tagged.iter().find(|(v, _)| *v == vlan);
                carried.map(|(_, segment)| *segment).ok_or(DropReason::VlanUnknown)?
            }
        };
        let known = self.known(segment, parts.dst);
        self.learn(segment, parts.src, home)?;
        if known == Some(home) {
            return Err(DropReason::SamePort);
        }
        self.forward(segment, parts, known, Some(name))
    }

    fn enter_by_peer(&mut self, ip: u8, at: usize, parts: &Parts) -> Result<Vec<Copy>, DropReason> {
        if ip == 1 {
            return Err(DropReason::Reflected);
        }
        let (.., open) = SEGMENTS.get(at).ok_or(DropReason::VniUnknown)?;
        let member = self.peers.get(&at).is_some_and(|peers| peers.contains(&ip));
        let vtep = self.vteps.get(&ip).copied();
        match vtep {
            _ if member || *open => {}
            Some(_) => return Err(DropReason::PeerNotInSegment),
            None => return Err(DropReason::PeerUnknown),
        }
        Self::admit(parts)?;
        if matches!(parts.tag, TagKind::Vlan(_) | TagKind::Double) {
            return Err(DropReason::InnerVlan);
        }
        let known = self.known(at, parts.dst);
        if let Some(life) = vtep.filter(|_| member) {
            self.learn(at, parts.src, Home::Vtep(life))?;
        }
        if matches!(known, Some(Home::Vtep(_))) {
            return Err(DropReason::SplitHorizon);
        }
        self.forward(at, parts, known, None)
    }

    /// Where the station lives, if that is still a place of the segment.
    fn known(&self, segment: usize, mac: u8) -> Option<Home> {
        let entry = self.table.get(&(segment, mac)).filter(|_| is_station(mac))?;
        let fresh = entry.seen.is_none_or(|seen| self.now - seen < AGING);
        let stands = match entry.home {
            Home::Port(life) => self
                .ports
                .values()
                .any(|port| port.life == life && membership(port.mode, segment).is_some()),
            Home::Vtep(life) => self.vteps.values().any(|vtep| *vtep == life),
        };
        (fresh && stands).then_some(entry.home)
    }

    fn learn(&mut self, segment: usize, mac: u8, home: Home) -> Result<(), DropReason> {
        match self.table.get(&(segment, mac)) {
            Some(Entry { home: pinned, seen: None }) if *pinned == home => Ok(()),
            Some(Entry { seen: None, .. }) => Err(DropReason::StaticMac),
            _ => {
                self.table.insert((segment, mac), Entry { home, seen: Some(self.now) });
                Ok(())
            }
        }
    }

    /// To the one place that is known, or to everybody. `from` is the ingress port; what comes from
    /// a tunnel has none, and goes to no VTEP.
    fn forward(
        &self,
        segment: usize,
        parts: &Parts,
        known: Option<Home>,
        from: Option<u8>,
    ) -> Result<Vec<Copy>, DropReason> {
        let (_, vni, flood_unknown, _) = SEGMENTS[segment];
        if known.is_none() && !flood_unknown && is_station(parts.dst) {
            return Err(DropReason::UnknownUnicast);
        }
        let mut copies = Vec::new();
        for (name, port) in &self.ports {
            let Some(vlan) = membership(port.mode, segment) else { continue };
            match known {
                Some(home) if home != Home::Port(port.life) => continue,
                Some(_) if !port.up => return Err(DropReason::PortDown),
                None if !port.up || from == Some(*name) => continue,
                _ => copies.push(Copy::Port(*name, retag(parts, vlan))),
            }
        }
        for (ip, life) in self.vteps.iter().filter(|_| from.is_some()) {
            let member = self.peers.get(&segment).is_some_and(|peers| peers.contains(ip));
            if known == Some(Home::Vtep(*life)) || (known.is_none() && member) {
                copies.push(Copy::Vtep(*ip, vni, retag(parts, None)));
            }
        }
        match (copies.is_empty(), parts.big, known) {
            (true, ..) => Err(DropReason::NoDestination),
            (_, true, Some(_)) => Err(DropReason::TooBig),
            // The copies are lost one by one.
            (_, true, None) => Ok(Vec::new()),
            _ => Ok(copies),
        }
    }
}

/// The frame's bytes with another tag; the priority stays.
fn retag(parts: &Parts, vlan: Option<u16>) -> Vec<u8> {
    let priority = parts.tags().first().map_or(0, |(_, tci)| tci & 0xf000);
    let tag: Option<RawTag> = vlan.map(|vlan| (C_TAG, priority | vlan));
    parts.with_tags(tag.as_slice())
}
