//! Bringing a device's settings, addresses and routes to its specification, touching only what is
//! not right already.

use encap::mtu;
use ipnet::IpNet;

use super::error::{Step, StepError};
use super::netlink::{Link, LinkChange, Netlink, NetlinkError};
use super::spec::{IPV6_MIN_MTU, Standing, TapSpec, link_local};

/// Does it, inside the device's namespace, and returns what was changed, in words.
pub(super) fn settle(
    netlink: &mut Netlink,
    link: &Link,
    spec: &TapSpec,
    previous: &Standing,
) -> Result<Vec<String>, StepError> {
    let mut settler = Settler { netlink, index: link.index, changes: Vec::new() };
    settler.properties(link, spec)?;
    settler.addresses(spec, previous)?;
    if !link.up {
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        settler.netlink.set_link(link.index, &up).step("set up")?;
        settler.changes.push("up".to_owned());
    }
    settler.routes(spec, previous)?;
    Ok(settler.changes)
}

/// The `gso_max_size` by which TCP makes superframes that fit one send through the tunnel: VXLAN
/// adds headers to each segment, and one that is longer would take a second send, with a train of
/// its own behind it all the way to the other pod.
fn superframe_max(mtu: u32) -> u32 {
    /// IPv4 and TCP headers with timestamps, as most segments have them.
    const HEADERS: u32 = 52;
    /// What TCP keeps free below the limit (`MAX_TCP_HEADER`, include/net/tcp.h, and one byte).
    const RESERVE: u32 = 321;
    let datagram = usize::try_from(mtu).unwrap_or(usize::MAX).saturating_add(22);
    let segments = mtu::segments_per_send(datagram, mtu::UDP_SEGMENTS_MAX_OLD);
    u32::try_from(segments).unwrap_or(1).saturating_mul(mtu.saturating_sub(HEADERS)) + RESERVE
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
    fn properties(&mut self, link: &Link, spec: &TapSpec) -> Result<(), StepError> {
        if !link.addr_gen_none && spec.mtu >= IPV6_MIN_MTU {
            let none = LinkChange { addr_gen_none: Some(true), ..LinkChange::default() };
            let set = self.netlink.set_link(self.index, &none);
            if done_unless_without_ipv6(set).step("set addrgenmode none")? {
                self.changes.push("addrgenmode none".to_owned());
            }
        }
        if link.mac != Some(spec.mac) {
            let mac = LinkChange { mac: Some(spec.mac), ..LinkChange::default() };
            self.netlink.set_link(self.index, &mac).step("set the MAC address")?;
            self.changes.push(format!("mac {}", spec.mac));
        }
        if link.mtu != spec.mtu {
            let mtu = LinkChange { mtu: Some(spec.mtu), ..LinkChange::default() };
            self.netlink.set_link(self.index, &mtu).step("set the MTU")?;
            self.changes.push(format!("mtu {} -> {}", link.mtu, spec.mtu));
        }
        let size = superframe_max(spec.mtu);
        if link.gso_max_size > size {
            let shorter = LinkChange { gso_max_size: Some(size), ..LinkChange::default() };
            self.netlink.set_link(self.index, &shorter).step("set gso_max_size")?;
            self.changes.push(format!("gso_max_size {} -> {size}", link.gso_max_size));
        }
        if let Some(length) = spec.txqueuelen
            && length != link.txqueuelen
        {
            let queue = LinkChange { txqueuelen: Some(length), ..LinkChange::default() };
            self.netlink.set_link(self.index, &queue).step("set txqueuelen")?;
            self.changes.push(format!("txqueuelen {} -> {length}", link.txqueuelen));
        }
        Ok(())
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
        match self.netlink.delete_address(self.index, net) {
            Err(error) if error.is_absent() => Ok(()),
            result => {
                result.step("delete an address")?;
                self.changes.push(format!("-address {net}"));
                Ok(())
            }
        }
    }

    /// Old routes go first: a new one may have the same destination.
    fn routes(&mut self, spec: &TapSpec, previous: &Standing) -> Result<(), StepError> {
        let wanted = spec.all_routes();
        for route in previous.routes.iter().map(|route| route.trunc()) {
            if wanted.contains(&route) {
                continue;
            }
            match self.netlink.delete_route(self.index, route) {
                Err(error) if error.is_absent() => {}
                result => {
                    result.step("delete a route")?;
                    self.changes.push(format!("-route {route}"));
                }
            }
        }
        let present = self.netlink.routes(Some(self.index)).step("list routes")?;
        for route in wanted {
            if present.iter().any(|entry| entry.route == route) {
                continue;
            }
            self.netlink.add_route(self.index, route).step("add a route")?;
            self.changes.push(format!("+route {route}"));
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
