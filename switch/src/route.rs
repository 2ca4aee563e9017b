//! Whose an address is: of all prefixes that it lies in, the longest one counts.
//!
//! One map per prefix length in use, longest first. A cluster has a handful of lengths (podCIDRs,
//! host routes, the networks themselves), so a look-up is as many hashes, however many routes there
//! are. The table is shared by the topologies that follow with the same routes, and copied and
//! changed for one that has a few others.

use crate::index::{Address, Index};
use crate::spec::ClusterSpec;
use core::hash::Hash;
use core::ops::BitAnd;
use fdb::VtepId;
use ipnet::IpNet;
use std::net::IpAddr;

/// Who has the addresses of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Another node.
    Vtep(VtepId),
    /// This node.
    Here,
    /// Nobody: it is in the cluster's networks, and that is all.
    Nobody,
}

/// The prefixes of a cluster segment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routes {
    v4: Lengths<u32>,
    v6: Lengths<u128>,
    /// How many routes lead to a VTEP.
    users: Index<Address, u32>,
}

/// Those that are in use, the longest first.
#[derive(Clone, Debug)]
struct Lengths<A>(Vec<Length<A>>);

/// All prefixes of one length.
#[derive(Clone, Debug)]
struct Length<A> {
    mask: A,
    owners: Index<A, Owner>,
}

impl Routes {
    /// The table of a cluster; `vtep` finds the VTEP at an address. Of equal prefixes a route counts
    /// before a podCIDR of this node, and that before a network.
    pub(crate) fn new(spec: &ClusterSpec, vtep: impl Fn(IpAddr) -> Option<VtepId>) -> Self {
        let mut routes = Self::default();
        spec.networks.iter().for_each(|prefix| routes.set(*prefix, Some(Owner::Nobody)));
        spec.own.iter().for_each(|prefix| routes.set(*prefix, Some(Owner::Here)));
        for (prefix, address) in spec.routes.iter() {
            if let Some(id) = vtep(address.ip()) {
                routes.lead(spec, *prefix, None, Some((address.ip(), id)));
            }
        }
        routes
    }

    /// A route leads to another VTEP from now on, or there is none any more. `spec` says what else
    /// the prefix may be.
    pub(crate) fn lead(
        &mut self,
        spec: &ClusterSpec,
        prefix: IpNet,
        before: Option<IpAddr>,
        after: Option<(IpAddr, VtepId)>,
    ) {
        if let Some(before) = before.map(Address) {
            match self.users(before.0) {
                0 | 1 => self.users.remove(&before),
                users => self.users.insert(before, users - 1),
            }
        }
        if let Some((after, _)) = after {
            self.users.insert(Address(after), self.users(after) + 1);
        }
        let is = |all: &[IpNet]| all.iter().any(|one| one.trunc() == prefix);
        let owner = match after {
            Some((_, id)) => Some(Owner::Vtep(id)),
            None if is(&spec.own) => Some(Owner::Here),
            None if is(&spec.networks) => Some(Owner::Nobody),
            None => None,
        };
        self.set(prefix, owner);
    }

    fn set(&mut self, prefix: IpNet, owner: Option<Owner>) {
        match prefix {
            IpNet::V4(prefix) => {
                let mask = prefix.netmask().to_bits();
                self.v4.set(mask, prefix.addr().to_bits() & mask, owner);
            }
            IpNet::V6(prefix) => {
                let mask = prefix.netmask().to_bits();
                self.v6.set(mask, prefix.addr().to_bits() & mask, owner);
            }
        }
    }

    /// How many routes lead to the VTEP at this address.
    pub(crate) fn users(&self, vtep: IpAddr) -> u32 {
        self.users.get(&Address(vtep)).unwrap_or(0)
    }

    /// Whose `address` is; `None` when it is outside the cluster's networks and all routes.
    #[inline]
    pub(crate) fn owner(&self, address: IpAddr) -> Option<Owner> {
        match address {
            IpAddr::V4(address) => self.v4.longest(address.to_bits()),
            IpAddr::V6(address) => self.v6.longest(address.to_bits()),
        }
    }

    /// Whether there is a prefix of `address` alone.
    pub(crate) fn is_host(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.is_host(u32::MAX, address.to_bits()),
            IpAddr::V6(address) => self.v6.is_host(u128::MAX, address.to_bits()),
        }
    }
}

impl<A: Copy + Ord + Hash + BitAnd<Output = A>> Lengths<A> {
    fn set(&mut self, mask: A, prefix: A, owner: Option<Owner>) {
        let at = self.0.binary_search_by(|length| mask.cmp(&length.mask));
        match (at, owner) {
            (Ok(at), Some(owner)) => self.0[at].owners.insert(prefix, owner),
            (Err(at), Some(owner)) => {
                let mut owners = Index::default();
                owners.insert(prefix, owner);
                self.0.insert(at, Length { mask, owners });
            }
            (Ok(at), None) => {
                self.0[at].owners.remove(&prefix);
                // Every length costs every look-up something.
                if self.0[at].owners.is_empty() {
                    self.0.remove(at);
                }
            }
            (Err(_), None) => {}
        }
    }

    #[inline]
    fn longest(&self, address: A) -> Option<Owner> {
        self.0.iter().find_map(|length| length.owners.get(&(address & length.mask)))
    }

    fn is_host(&self, all: A, address: A) -> bool {
        let hosts = self.0.first().filter(|length| length.mask == all);
        hosts.is_some_and(|hosts| hosts.owners.get(&address).is_some())
    }
}

// Derived, it would ask for a default of the addresses.
impl<A> Default for Lengths<A> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

    fn id(slot: u16) -> VtepId {
        VtepId { slot, generation: 0 }
    }

    fn vtep(slot: u16) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::new(192, 0, (slot >> 8) as u8, slot as u8).into(), 4789)
    }

    fn slot(address: IpAddr) -> Option<VtepId> {
        let IpAddr::V4(address) = address else { return None };
        let [.., hi, lo] = address.octets();
        Some(id(u16::from_be_bytes([hi, lo])))
    }

    fn table(networks: &[&str], own: &[&str], routes: &[(&str, u16)]) -> Routes {
        let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect();
        let routes = routes.iter().map(|(net, n)| (net.parse().unwrap(), vtep(*n))).collect();
        let spec =
            ClusterSpec { networks: nets(networks), own: nets(own), routes, ..Default::default() };
        Routes::new(&spec, slot)
    }

    #[test]
    fn the_longest_prefix_counts() {
        let table = table(
            &["10.244.0.0/16", "fd44::/48"],
            &["10.244.1.0/24", "fd44:0:0:1::/64"],
            &[
                ("10.244.2.0/24", 2),
                ("10.244.1.9/32", 3),
                ("10.244.2.7/32", 3),
                ("192.0.2.2/32", 2),
                ("fd44:0:0:2::/64", 2),
                ("fd44:0:0:2::7/128", 3),
            ],
        );
        for (address, owner) in [
            ("10.244.1.1", Some(Owner::Here)),
            ("10.244.1.9", Some(Owner::Vtep(id(3)))),
            ("10.244.2.6", Some(Owner::Vtep(id(2)))),
            ("10.244.2.7", Some(Owner::Vtep(id(3)))),
            ("10.244.3.1", Some(Owner::Nobody)),
            ("10.245.0.0", None),
            ("192.0.2.2", Some(Owner::Vtep(id(2)))),
            ("192.0.2.3", None),
            ("fd44:0:0:1::1", Some(Owner::Here)),
            ("fd44:0:0:2::6", Some(Owner::Vtep(id(2)))),
            ("fd44:0:0:2::7", Some(Owner::Vtep(id(3)))),
            ("fd44:0:0:3::", Some(Owner::Nobody)),
            ("fd45::", None),
        ] {
            assert_eq!(table.owner(address.parse().unwrap()), owner, "{address}");
        }
        let is_host = |address: &str| table.is_host(address.parse().unwrap());
        assert!(is_host("10.244.2.7") && is_host("fd44:0:0:2::7") && is_host("192.0.2.2"));
        assert!(!is_host("10.244.2.6") && !is_host("10.244.2.0") && !is_host("fd44:0:0:2::"));
    }

    #[test]
    fn equal_prefixes_and_the_widest() {
        let table = table(
            &["10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16"],
            &["10.1.0.0/16"],
            &[("10.2.0.0/16", 2), ("0.0.0.0/0", 9), ("::/0", 9)],
        );
        let owner = |address: &str| table.owner(address.parse().unwrap());
        assert_eq!(owner("10.1.2.3"), Some(Owner::Here));
        assert_eq!(owner("10.2.200.1"), Some(Owner::Vtep(id(2))));
        assert_eq!(owner("10.3.0.0"), Some(Owner::Nobody));
        assert_eq!(owner("8.8.8.8"), Some(Owner::Vtep(id(9))));
        assert_eq!(owner("2001:db8::1"), Some(Owner::Vtep(id(9))));
        assert!(!table.is_host("10.1.0.0".parse().unwrap()), "a network is no host");
        assert_eq!(Routes::default().owner("10.1.2.3".parse().unwrap()), None);
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config {
            failure_persistence: None,
            ..Default::default()
        })]

        /// Against a linear scan.
        #[test]
        fn agrees_with_a_linear_scan(
            prefixes in proptest::collection::vec((0u32..64, 0u8..=32, 0u16..9, 0u8..3), 0..40),
            probes in proptest::collection::vec(0u32..64, 1..40),
        ) {
            // Addresses differ in a few bits only, high ones and low ones, so that prefixes nest.
            let spread = |n: u32| (n & 7) << 29 | (n >> 3 & 7);
            let wide = |n: u32| u128::from(spread(n)) << 96 | u128::from(spread(n));
            let mut spec = ClusterSpec::default();
            for (bits, len, owner, kind) in prefixes {
                let v4 = IpNet::new(Ipv4Addr::from_bits(spread(bits)).into(), len).unwrap();
                let v6 = IpNet::new(Ipv6Addr::from_bits(wide(bits)).into(), len * 4).unwrap();
                for prefix in [v4, v6] {
                    match kind {
                        0 => spec.networks.push(prefix),
                        1 => spec.own.push(prefix),
                        _ => drop(spec.routes.insert(prefix.trunc(), vtep(owner))),
                    }
                }
            }
            let table = Routes::new(&spec, slot);
            // Later ones win among equals.
            let all: Vec<(IpNet, Owner)> = spec.networks.iter().map(|net| (*net, Owner::Nobody))
                .chain(spec.own.iter().map(|net| (*net, Owner::Here)))
                .chain(spec.routes.iter().map(|(net, vtep)| {
                    (*net, Owner::Vtep(slot(vtep.ip()).unwrap()))
                }))
                .collect();
            for probe in probes {
                let v4: IpAddr = Ipv4Addr::from_bits(spread(probe)).into();
                let v6: IpAddr = Ipv6Addr::from_bits(wide(probe)).into();
                for address in [v4, v6] {
                    let naive = all.iter().filter(|(net, _)| net.contains(&address));
                    let naive = naive.max_by_key(|(net, _)| net.prefix_len());
                    proptest::prop_assert_eq!(table.owner(address), naive.map(|(_, owner)| *owner));
                }
            }
        }
    }
}
