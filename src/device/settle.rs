//! Bringing a device's settings, addresses, routes and neighbours to its specification, touching only what is
//! not right already.

use std::fmt;
use std::net::IpAddr;

use encap::{MacAddr, mtu};
use ipnet::IpNet;

use super::error::{Step, StepError};
use super::netlink::{Link, LinkChange, Netlink, NetlinkError, Route};
use super::spec::{IPV6_MIN_MTU, Standing, TapSpec, link_local};

/// Does it, inside the device's namespace, and returns what was changed, in words. Without a
/// `previous` the device is new: it has no address and no route, and is not asked for any.
pub(super) fn settle(
    netlink: &mut Netlink,
    link: &Link,
    spec: &TapSpec,
    previous: Option<&Standing>,
) -> Result<Vec<String>, StepError> {
    let mut settler = Settler { netlink, index: link.index, changes: Vec::new() };
    settler.properties(link, spec)?;
    match previous {
        Some(previous) => settler.addresses(spec, previous)?,
        None => {
            settler.hand_over_at_once();
            for net in spec.all_addresses() {
                settler.add_address(net, spec)?;
            }
        }
    }
    if !link.up {
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        settler.netlink.set_link(link.index, &up).step("set up")?;
        settler.changes.push("up".to_owned());
    }
    settler.routes(spec, previous.map_or(&[], |previous| &previous.routes))?;
    settler.neighbours(spec, previous)?;
    Ok(settler.changes)
}

/// The `gso_max_size` by which TCP makes superframes that fit one send through the tunnel: VXLAN
/// adds headers to each segment, and one that is longer would take a second send, with a train of
/// its own behind it all the way to the other pod.
fn superframe_max(mtu: u32) -> u32 {
    /// IPv4 and TCP headers with timestamps, as most segments have them.
    const HEADERS: u32 = 52;
    /// A device's own limit, unless it is told otherwise (`GSO_LEGACY_MAX_SIZE`).
    const LONGEST: u32 = 65_536;
    /// What TCP keeps free below the limit (`MAX_TCP_HEADER`, include/net/tcp.h, and one byte).
    const RESERVE: u32 = 321;
    let datagram = usize::try_from(mtu).unwrap_or(usize::MAX).saturating_add(22);
    let segments = mtu::segments_per_send(datagram, mtu::UDP_SEGMENTS_MAX_OLD);
    let payload = u32::try_from(segments).unwrap_or(1).saturating_mul(mtu.saturating_sub(HEADERS));
    payload.saturating_add(RESERVE).min(LONGEST)
}

struct Settler<'a> {
    netlink: &'a mut Netlink,
    index: u32,
    changes: Vec<String>,
}

impl Settler<'_> {
    /// What is set on the link itself. The address mode comes first: by default the kernel would
    /// add a link-local address of its own, with duplicate address detection, as soon as the
    /// device is up.
    ///
    /// All of it is one request. The kernel does not say which part of one it refuses, so each
    /// part is then asked for by itself.
    fn properties(&mut self, link: &Link, spec: &TapSpec) -> Result<(), StepError> {
        let mtu = (link.mtu != spec.mtu).then_some(spec.mtu);
        let txqueuelen = spec.txqueuelen.filter(|length| *length != link.txqueuelen);
        let mut parts = Vec::new();
        let mut whole = LinkChange::default();
        if !link.addr_gen_none && spec.mtu >= IPV6_MIN_MTU {
            whole.addr_gen_none = Some(true);
            let one = LinkChange { addr_gen_none: Some(true), ..LinkChange::default() };
            parts.push((one, "set addrgenmode none", "addrgenmode none".to_owned()));
        }
        if link.mac != Some(spec.mac) {
            whole.mac = Some(spec.mac);
            let one = LinkChange { mac: Some(spec.mac), ..LinkChange::default() };
            parts.push((one, "set the MAC address", format!("mac {}", spec.mac)));
        }
        if let Some(mtu) = mtu {
            whole.mtu = Some(mtu);
            let one = LinkChange { mtu: Some(mtu), ..LinkChange::default() };
            parts.push((one, "set the MTU", format!("mtu {} -> {mtu}", link.mtu)));
        }
        // One that is smaller is somebody's wish, unless it was ours for another MTU.
        let size = superframe_max(spec.mtu);
        let ours = link.gso_max_size == superframe_max(link.mtu);
        if link.gso_max_size > size || (ours && link.gso_max_size != size) {
            whole.gso_max_size = Some(size);
            let one = LinkChange { gso_max_size: Some(size), ..LinkChange::default() };
            let done = format!("gso_max_size {} -> {size}", link.gso_max_size);
            parts.push((one, "set gso_max_size", done));
        }
        if let Some(length) = txqueuelen {
            whole.txqueuelen = Some(length);
            let one = LinkChange { txqueuelen: Some(length), ..LinkChange::default() };
            let done = format!("txqueuelen {} -> {length}", link.txqueuelen);
            parts.push((one, "set txqueuelen", done));
        }
        if parts.len() > 1 && self.netlink.set_link(self.index, &whole).is_ok() {
            self.changes.extend(parts.into_iter().map(|(_, _, done)| done));
            return Ok(());
        }
        for (part, step, done) in parts {
            let set = self.netlink.set_link(self.index, &part);
            let set = if part.addr_gen_none.is_some() {
                done_unless_without_ipv6(set)
            } else if part.gso_max_size.is_some() {
                // Without it superframes take two sends.
                Ok(set.is_ok())
            } else {
                set.map(|()| true)
            };
            if set.step(step)? {
                self.changes.push(done);
            }
        }
        Ok(())
    }

    /// Without a discipline of its own a multi-queue TAP gets one for each of the 256 queues it might
    /// have, six megabytes of kernel memory in all and a millisecond to make. None of them ever
    /// holds a frame: the driver's ring takes or drops each at once. So it gets none, which also
    /// spares each frame the way through one. Where that is not to be had nothing else is different;
    /// what somebody sets later stays.
    fn hand_over_at_once(&mut self) {
        if self.netlink.set_noqueue(self.index).is_ok() {
            self.changes.push("qdisc noqueue".to_owned());
        }
    }

    /// New addresses come before old ones go, so that routes over the device never lose their
    /// last address; and what the kernel takes away along with an old one (secondary addresses
    /// of its subnet) is given back.
    fn addresses(&mut self, spec: &TapSpec, previous: &Standing) -> Result<(), StepError> {
        let wanted = spec.all_addresses();
        let mut before = self.present()?;
        let mut stale: Vec<IpNet> =
            previous.addresses.iter().filter(|net| !wanted.contains(net)).copied().collect();
        stale.retain(|net| before.contains(net));

        // IPv6 knows an address by itself, IPv4 together with its prefix length: a new length for
        // the same IPv6 address is EEXIST until the old one is gone.
        let in_the_way = |net: &IpNet| {
            net.addr().is_ipv6() && wanted.iter().any(|wanted| wanted.addr() == net.addr())
        };
        for net in stale.extract_if(.., |net| in_the_way(net)) {
            self.delete_address(net)?;
            before.retain(|present| *present != net);
        }
        for net in wanted.iter().filter(|net| !before.contains(net)) {
            self.add_address(*net, spec)?;
        }
        if stale.is_empty() {
            return Ok(());
        }
        for net in &stale {
            self.delete_address(*net)?;
        }
        let after = self.present()?;
        let kept = before.iter().filter(|net| !stale.contains(net) && !wanted.contains(net));
        for net in wanted.iter().chain(kept).filter(|net| !after.contains(net)) {
            self.add_address(*net, spec)?;
        }
        Ok(())
    }

    fn present(&mut self) -> Result<Vec<IpNet>, StepError> {
        let found = self.netlink.addresses(Some(self.index)).step("list addresses")?;
        Ok(found.into_iter().map(|address| address.net).collect())
    }

    fn add_address(&mut self, net: IpNet, spec: &TapSpec) -> Result<(), StepError> {
        let own = net == IpNet::V6(link_local(spec.mac));
        let ipv6_wanted = spec.addresses.iter().any(|net| net.addr().is_ipv6());
        let added = match self.netlink.add_address(self.index, net) {
            Err(error) if error.is_present() => return Ok(()),
            result if own && !ipv6_wanted => done_unless_without_ipv6(result),
            result => result.map(|()| true),
        };
        if added.step("add an address")? {
            self.changes.push(format!("+address {net}"));
        }
        Ok(())
    }

    fn delete_address(&mut self, net: IpNet) -> Result<(), StepError> {
        let deleted = self.netlink.delete_address(self.index, net);
        self.gone(deleted, "delete an address", format_args!("-address {net}"))
    }

    /// Old routes go first: a new one may have the same destination.
    fn routes(&mut self, spec: &TapSpec, previous: &[Route]) -> Result<(), StepError> {
        let wanted = spec.all_routes();
        let stale = previous.iter().map(|route| route.trunc());
        let stale: Vec<Route> = stale.filter(|route| !wanted.contains(route)).collect();
        // The kernel takes one that says more for one that says less, and would delete it.
        let replaced = |old: &Route| wanted.iter().any(|new| new.is_same_way(old));
        let standing =
            if stale.iter().any(replaced) { self.standing_routes()? } else { Vec::new() };
        for route in stale.iter().filter(|old| !replaced(old) || standing.contains(old)) {
            self.delete_route(*route)?;
        }
        // The kernel walks the namespace's whole table for it, whatever device is asked for.
        if wanted.is_empty() {
            return Ok(());
        }
        let standing = self.standing_routes()?;
        for route in wanted {
            if standing.iter().any(|standing| route.is_met_by(standing)) {
                continue;
            }
            // Of an IPv6 route whose source is no address here any more the kernel keeps the rest.
            let ours = previous.iter().any(|old| old.trunc().is_same_way(&route));
            if let Some(rest) = standing.iter().find(|one| ours && route.is_same_way(one)) {
                self.delete_route(*rest)?;
            }
            self.netlink.add_route(self.index, route).step("add a route")?;
            self.changes.push(format!("+route {route}"));
        }
        Ok(())
    }

    fn delete_route(&mut self, route: Route) -> Result<(), StepError> {
        let deleted = self.netlink.delete_route(self.index, route);
        self.gone(deleted, "delete a route", format_args!("-route {route}"))
    }

    /// What was to be deleted is gone; if it had been there, that is a change.
    fn gone(
        &mut self,
        deleted: Result<(), NetlinkError>,
        step: &'static str,
        change: fmt::Arguments<'_>,
    ) -> Result<(), StepError> {
        match deleted {
            Err(error) if error.is_absent() => Ok(()),
            deleted => {
                deleted.step(step)?;
                self.changes.push(change.to_string());
                Ok(())
            }
        }
    }

    fn standing_routes(&mut self) -> Result<Vec<Route>, StepError> {
        let found = self.netlink.routes(Some(self.index)).step("list routes")?;
        Ok(found.into_iter().map(|entry| entry.route).collect())
    }

    /// The kernel forgets them all when the device goes down. An entry that is no longer as we made
    /// it is somebody else's.
    fn neighbours(&mut self, spec: &TapSpec, previous: Option<&Standing>) -> Result<(), StepError> {
        let wanted = spec.all_neighbours();
        let before = previous.map_or(&[][..], |previous| &previous.neighbours);
        if wanted.is_empty() && before.is_empty() {
            return Ok(());
        }
        let standing = match previous {
            Some(_) => self.netlink.neighbours(Some(self.index)).step("list neighbours")?,
            None => Vec::new(),
        };
        let stands = |(address, mac): &(IpAddr, MacAddr)| {
            let mut entries = standing.iter().filter(|entry| entry.address == Some(*address));
            entries.any(|entry| entry.is_permanent(*mac))
        };
        let gone = before.iter().filter(|(old, _)| wanted.iter().all(|(new, _)| new != old));
        for (address, mac) in gone.filter(|old| stands(old)) {
            let deleted = self.netlink.delete_neighbour(self.index, *address);
            self.gone(deleted, "delete a neighbour", format_args!("-neighbour {address} {mac}"))?;
        }
        for (address, mac) in wanted.iter().filter(|new| !stands(new)) {
            self.netlink.set_neighbour(self.index, *address, *mac).step("set a neighbour")?;
            self.changes.push(format!("+neighbour {address} {mac}"));
        }
        Ok(())
    }
}

/// A host or namespace may have IPv6 switched off. What nobody asked for may then be missing.
fn done_unless_without_ipv6(result: Result<(), NetlinkError>) -> Result<bool, NetlinkError> {
    match result {
        Err(error)
            if matches!(
                error.errno(),
                Some(libc::EAFNOSUPPORT | libc::EACCES | libc::EOPNOTSUPP | libc::EPFNOSUPPORT)
            ) =>
        {
            Ok(false)
        }
        result => result.map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_superframe_fits_one_send_with_all_its_headers() {
        for (mtu, segments) in [(1450, 44), (1430, 45), (1280, 50), (8950, 7), (576, 64)] {
            let payload = superframe_max(mtu) - 321;
            let segment = mtu - 52;
            assert_eq!(payload / segment, segments, "MTU {mtu}");
            let datagrams = segments * (mtu + 22);
            assert!(datagrams <= 65_507, "MTU {mtu}: {datagrams} bytes");
        }
    }
}
