//! What a TAP device shall be, and what it turned out to be.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use encap::MacAddr;
use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::netlink::Route;
use super::netns::{NetnsIdentity, path_of};
use super::offload::{OffloadWish, TapOffloads};
use super::steering::Steering;

/// Most queues of a TAP device (MAX_TAP_QUEUES, drivers/net/tun.c).
pub const MAX_QUEUES: u16 = 256;

/// The vnet header's length on every TAP, in bytes: `struct virtio_net_hdr_v1`
/// (linux/virtio_net.h).
pub const VNET_HDR_LEN: u8 = 12;

/// The smallest MTU with which the kernel speaks IPv6 on a device (RFC 8200 section 5).
pub const IPV6_MIN_MTU: u32 = 1280;

/// A network namespace by name or path, as configured.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NetnsRef(pub String);

impl NetnsRef {
    /// Where its file is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        path_of(&self.0)
    }
}

impl fmt::Display for NetnsRef {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// What a TAP device shall be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TapSpec {
    /// Where; `None`: the calling thread's own namespace.
    pub netns: Option<NetnsRef>,
    /// Its name there.
    pub ifname: String,
    /// Its MAC address, the one its user has; unicast.
    pub mac: MacAddr,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// How many queues, 1 to [`MAX_QUEUES`].
    pub queues: u16,
    /// The uid that may attach to it: the daemon's own.
    pub owner: u32,
    /// Addresses, besides the link-local one of IPv6 that follows from `mac`.
    pub addresses: Vec<IpNet>,
    /// Routes through it.
    pub routes: Vec<Route>,
    /// Permanent entries of its neighbour table: addresses that are never asked for.
    pub neighbours: Vec<(IpAddr, MacAddr)>,
    /// The length of its ring, in units; `None`: the kernel's default.
    pub txqueuelen: Option<u32>,
    /// Whether it outlives the daemon.
    pub persist: bool,
    /// Which offloads are wanted.
    pub offload: OffloadWish,
}

impl TapSpec {
    /// The wanted addresses with the link-local one, each once.
    #[must_use]
    pub fn all_addresses(&self) -> Vec<IpNet> {
        let mut all = self.addresses.clone();
        if self.mtu >= IPV6_MIN_MTU {
            all.push(link_local(self.mac).into());
        }
        distinct(all)
    }

    /// The wanted routes with host bits cleared, each once, those without a next hop first:
    /// next hops may be reached by them.
    #[must_use]
    pub fn all_routes(&self) -> Vec<Route> {
        let mut all = distinct(self.routes.iter().map(|route| route.trunc()).collect());
        all.sort_by_key(|route| route.via.is_some());
        all
    }

    /// The wanted neighbours, each address once: the last one counts.
    #[must_use]
    pub fn all_neighbours(&self) -> Vec<(IpAddr, MacAddr)> {
        let mut all: Vec<(IpAddr, MacAddr)> = Vec::new();
        for (address, mac) in &self.neighbours {
            all.retain(|(other, _)| other != address);
            all.push((*address, *mac));
        }
        all
    }
}

fn distinct<T: PartialEq>(all: Vec<T>) -> Vec<T> {
    all.into_iter().fold(Vec::new(), |mut kept, one| {
        if !kept.contains(&one) {
            kept.push(one);
        }
        kept
    })
}

/// What a device is, as the kernel told after it was made, adopted or configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Its name.
    pub ifname: String,
    /// Its index in its namespace.
    pub ifindex: u32,
    /// The namespace it is in.
    pub netns: NetnsIdentity,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// The offloads in use.
    pub offloads: TapOffloads,
    /// How flows are spread over its queues; `None` for a single one.
    pub steering: Option<Steering>,
}

/// What we gave a standing device: what may be taken from it again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// Its addresses, the link-local one included.
    pub addresses: Vec<IpNet>,
    /// Its routes.
    pub routes: Vec<Route>,
    /// Its permanent neighbours.
    pub neighbours: Vec<(IpAddr, MacAddr)>,
}

impl From<&TapSpec> for Standing {
    fn from(spec: &TapSpec) -> Self {
        Self {
            addresses: spec.all_addresses(),
            routes: spec.all_routes(),
            neighbours: spec.all_neighbours(),
        }
    }
}

/// Whether the kernel would take this as the name of one device (dev_valid_name), and not as a
/// pattern such as `tap%d`.
#[must_use]
pub fn is_valid_ifname(name: &str) -> bool {
    let odd = |c: char| c.is_ascii_whitespace() || matches!(c, '/' | ':' | '%' | '\0' | '\x0b');
    (1..libc::IFNAMSIZ).contains(&name.len()) && name != "." && name != ".." && !name.contains(odd)
}

/// The link-local address that follows from a MAC address: fe80::/64 with a modified EUI-64
/// (RFC 4291 appendix A).
#[must_use]
pub fn link_local(mac: MacAddr) -> Ipv6Net {
    let [a, b, c, d, e, f] = mac.0;
    let octets = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    Ipv6Net::new_assert(octets.into(), 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_follows_rfc_4291() {
        let mac = "02:00:00:00:0a:01".parse().unwrap();
        assert_eq!(link_local(mac).to_string(), "fe80::ff:fe00:a01/64");
        let mac = "34:56:78:9a:bc:de".parse().unwrap();
        assert_eq!(link_local(mac).to_string(), "fe80::3656:78ff:fe9a:bcde/64");
    }

    #[test]
    fn names_the_kernel_would_refuse_or_expand_are_invalid() {
        for good in ["a", "eth0", "tap-a", "exactly15bytes_"] {
            assert!(is_valid_ifname(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "a:1", "tap%d", "sixteen_bytes_16", "a\0", "a\n"] {
            assert!(!is_valid_ifname(bad), "{bad:?}");
        }
    }

    #[test]
    fn wanted_lists_are_distinct_and_on_link_routes_come_first() {
        let route = |to: &str, via: Option<&str>| {
            Route::new(to.parse().unwrap(), via.map(|via| via.parse().unwrap()))
        };
        let gateway = |last| ([169, 254, 1, 1].into(), MacAddr([2, 0, 0, 0, 0, last]));
        let spec = TapSpec {
            netns: None,
            ifname: "tap-a".to_owned(),
            mac: "02:00:00:00:0a:01".parse().unwrap(),
            mtu: 1450,
            queues: 1,
            owner: 0,
            addresses: vec!["10.9.0.1/24".parse().unwrap(); 2],
            routes: vec![
                route("0.0.0.0/0", Some("169.254.1.1")),
                route("169.254.1.1/32", None),
                route("169.254.1.1/32", None),
            ],
            neighbours: vec![gateway(1), gateway(2)],
            txqueuelen: None,
            persist: true,
            offload: OffloadWish::Auto,
        };
        let shown: Vec<_> = spec.all_addresses().iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.9.0.1/24", "fe80::ff:fe00:a01/64"]);
        let shown: Vec<_> = spec.all_routes().iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["169.254.1.1/32", "0.0.0.0/0 via 169.254.1.1"]);
        assert_eq!(spec.all_neighbours(), [gateway(2)]);
        assert_eq!(TapSpec { mtu: 1279, ..spec }.all_addresses().len(), 1);
    }
}
