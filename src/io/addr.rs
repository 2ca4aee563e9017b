//! Which interface holds an underlay address, and how long a datagram may be on it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::SockaddrStorage;

use super::sys;

/// An interface of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its MTU: bytes of the longest IP packet.
    pub mtu: u32,
}

/// The interface of the calling thread's namespace that holds `address`.
///
/// # Errors
/// `AddrNotAvailable` when none does; else what the kernel says.
pub fn interface_of(address: IpAddr) -> io::Result<Interface> {
    let found = getifaddrs()?.find(|entry| entry.address.as_ref().and_then(ip) == Some(address));
    let Some(entry) = found else {
        return Err(io::Error::new(
            io::ErrorKind::AddrNotAvailable,
            format!("no interface of this host has the address {address}"),
        ));
    };
    interface(&entry.interface_name)
}

/// The interface called `name`.
///
/// # Errors
/// What the kernel says: `ENODEV` when there is none.
pub fn interface(name: &str) -> io::Result<Interface> {
    let asking = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .or_else(|_| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)))?;
    let mtu = sys::interface_mtu(asking.as_fd(), name)?;
    Ok(Interface { name: name.to_owned(), index: if_nametoindex(name)?, mtu })
}

/// The first address of the wanted family on the interface called `name` that other hosts can
/// reach: no link-local IPv6 address.
///
/// # Errors
/// `AddrNotAvailable` when it has none; else what the kernel says.
pub fn address_on(name: &str, wants_v6: bool) -> io::Result<IpAddr> {
    getifaddrs()?
        .filter(|entry| entry.interface_name == name)
        .filter_map(|entry| entry.address.as_ref().and_then(ip))
        .find(|address| match address {
            IpAddr::V4(_) => !wants_v6,
            IpAddr::V6(v6) => wants_v6 && !v6.is_unicast_link_local(),
        })
        .ok_or_else(|| {
            let family = if wants_v6 { "IPv6" } else { "IPv4" };
            io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                format!("interface {name} has no {family} address"),
            )
        })
}

/// Bytes of the longest IP packet that the route from `source` to `peer` takes as far as this host
/// knows: the device's, the route's, or what an ICMP message taught the kernel.
///
/// # Errors
/// What the kernel says: `ENETUNREACH` without a route.
pub fn route_mtu(source: IpAddr, peer: IpAddr) -> io::Result<u32> {
    let asking = UdpSocket::bind(SocketAddr::new(source, 0))?;
    asking.connect(SocketAddr::new(peer, 9))?;
    let option = match source {
        IpAddr::V4(_) => sys::SocketOption::PathMtu4,
        IpAddr::V6(_) => sys::SocketOption::PathMtu6,
    };
    let mtu = sys::option(asking.as_fd(), option)?;
    Ok(u32::try_from(mtu).unwrap_or(0))
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(IpAddr::V4(v4.ip()));
    }
    address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_by_either_address() {
        for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            let found = interface_of(address).unwrap();
            assert_eq!(found.name, "lo");
            assert_eq!(found, interface("lo").unwrap());
            assert!(found.mtu >= 1280, "{found:?}");
            assert_eq!(route_mtu(address, address).unwrap().min(65_535), found.mtu.min(65_535));
        }
        let from_sysfs = std::fs::read_to_string("/sys/class/net/lo/mtu").unwrap();
        assert_eq!(interface("lo").unwrap().mtu.to_string(), from_sysfs.trim());
        assert_eq!(address_on("lo", false).unwrap(), IpAddr::V4(Ipv4Addr::LOCALHOST));
    }

    #[test]
    fn a_foreign_address_or_name_is_an_error_that_names_it() {
        let foreign = "192.0.2.77".parse().unwrap();
        let error = interface_of(foreign).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        assert!(error.to_string().contains("192.0.2.77"));
        assert!(interface("no-such-if").is_err());
        assert!(interface("a-name-that-is-longer-than-any-interface").is_err());
    }
}
