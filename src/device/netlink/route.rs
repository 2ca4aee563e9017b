//! Routes of the main table (RTM_*ROUTE).

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use serde::{Deserialize, Serialize};

use super::address::family;
use super::{Ask, Netlink, NetlinkError};

/// A route through a device: to a network, by a next hop or on-link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    /// The destination; `0.0.0.0/0` and `::/0` are the default routes. Host bits are ignored.
    pub to: IpNet,
    /// The next hop; `None`: the destination is on the link, and the route's scope is the link.
    pub via: Option<IpAddr>,
    /// The preferred source address (RTA_PREFSRC); `None`: the kernel's choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src: Option<IpAddr>,
    /// Whether the next hop is taken to be on the link, although no route says so (RTNH_F_ONLINK).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub onlink: bool,
}

impl Route {
    /// A route to a network by a next hop, or on-link, with all else left to the kernel.
    #[must_use]
    pub fn new(to: IpNet, via: Option<IpAddr>) -> Self {
        Self { to, via, src: None, onlink: false }
    }

    /// The same route with the destination's host bits cleared, as the kernel keeps it.
    #[must_use]
    pub fn trunc(self) -> Self {
        Self { to: self.to.trunc(), ..self }
    }

    /// Whether the other one leads to the same place by the same next hop, whatever else it says.
    #[must_use]
    pub fn is_same_way(&self, other: &Self) -> bool {
        (self.to, self.via) == (other.to, other.via)
    }

    /// Whether a route that stands is as good as this one: it may say more.
    #[must_use]
    pub fn is_met_by(&self, standing: &Self) -> bool {
        self.is_same_way(standing)
            && (self.src.is_none() || self.src == standing.src)
            && (!self.onlink || standing.onlink)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.to)?;
        if let Some(via) = self.via {
            write!(out, " via {via}")?;
        }
        if let Some(src) = self.src {
            write!(out, " src {src}")?;
        }
        if self.onlink { out.write_str(" onlink") } else { Ok(()) }
    }
}

/// A unicast route of the main table as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteEntry {
    /// The device it leads through; zero for a multipath route.
    pub link: u32,
    /// Destination and next hop.
    pub route: Route,
    /// Its metric, if it has one.
    pub metric: Option<u32>,
    /// Who made it: the kernel itself with an address, or an operator.
    pub protocol: RouteProtocol,
}

impl Netlink {
    /// The unicast routes of the main table through a device, or through all, IPv4 and IPv6.
    ///
    /// # Errors
    ///
    /// Those of the socket and of the kernel.
    pub fn routes(&mut self, link: Option<u32>) -> Result<Vec<RouteEntry>, NetlinkError> {
        let object = link.map_or_else(|| "routes".to_owned(), |link| format!("routes of #{link}"));
        let ask = Ask { verb: "list", object: &object };
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.attributes.extend(link.map(RouteAttribute::Oif));
            let answers = match self.dump(ask, &RouteNetlinkMessage::GetRoute(message)) {
                Err(error) if error.errno() == Some(libc::EAFNOSUPPORT) => continue,
                answers => answers?,
            };
            found.extend(answers.into_iter().filter_map(read_route));
        }
        found.retain(|entry| link.is_none_or(|link| link == entry.link));
        Ok(found)
    }

    /// Adds a route through a device to the main table.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::is_present`] if there is such a route; ENETDOWN while the device is down;
    /// ENETUNREACH if the next hop is not on the link; EINVAL if the preferred source is no address
    /// of this namespace.
    pub fn add_route(&mut self, link: u32, route: Route) -> Result<(), NetlinkError> {
        self.add_route_of(link, route, RouteProtocol::Static)
    }

    /// As [`Self::add_route`], with the name of who made it (rtm_protocol, linux/rtnetlink.h), by
    /// which it is told from others' routes.
    ///
    /// # Errors
    ///
    /// As [`Self::add_route`].
    pub fn add_route_of(
        &mut self,
        link: u32,
        route: Route,
        protocol: RouteProtocol,
    ) -> Result<(), NetlinkError> {
        let object = format!("route {route} on #{link}");
        let ask = Ask { verb: "add", object: &object };
        let mut message = route_message(link, route);
        message.header.protocol = protocol;
        self.request(ask, RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Has an address of this namespace be taken in from a device too where the kernel is strict
    /// about it, as with `::1` (`ip route add local ADDRESS dev DEVICE table local`). It goes with
    /// the device.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, but not that it is so already.
    pub fn add_local_route(&mut self, link: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let object = format!("local route {address} on #{link}");
        let ask = Ask { verb: "add", object: &object };
        let mut message = route_message(link, Route::new(address.into(), None));
        message.header.table = libc::RT_TABLE_LOCAL;
        message.header.kind = RouteType::Local;
        message.header.scope = RouteScope::Host;
        let message = RouteNetlinkMessage::NewRoute(message);
        match self.request(ask, message, NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.is_present() => Ok(()),
            done => done,
        }
    }

    /// Removes a route through a device from the main table.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::is_absent`] if there is no such route.
    pub fn delete_route(&mut self, link: u32, route: Route) -> Result<(), NetlinkError> {
        self.delete_route_of(link, route, RouteProtocol::Static)
    }

    /// As [`Self::delete_route`], if it was made under this name.
    ///
    /// # Errors
    ///
    /// As [`Self::delete_route`].
    pub fn delete_route_of(
        &mut self,
        link: u32,
        route: Route,
        protocol: RouteProtocol,
    ) -> Result<(), NetlinkError> {
        let object = format!("route {route} on #{link}");
        let ask = Ask { verb: "delete", object: &object };
        let mut message = route_message(link, route);
        message.header.protocol = protocol;
        self.request(ask, RouteNetlinkMessage::DelRoute(message), 0)
    }
}

fn route_message(link: u32, route: Route) -> RouteMessage {
    let route = route.trunc();
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = family(route.to.addr());
    header.destination_prefix_length = route.to.prefix_len();
    header.table = RouteHeader::RT_TABLE_MAIN;
    header.protocol = RouteProtocol::Static;
    header.kind = RouteType::Unicast;
    header.scope = match (route.to, route.via) {
        (IpNet::V4(_), None) => RouteScope::Link,
        _ => RouteScope::Universe,
    };
    if route.onlink {
        header.flags |= RouteFlags::Onlink;
    }
    if route.to.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(route.to.addr().into()));
    }
    message.attributes.extend(route.via.map(|via| RouteAttribute::Gateway(via.into())));
    message.attributes.extend(route.src.map(|src| RouteAttribute::PrefSource(src.into())));
    message.attributes.push(RouteAttribute::Oif(link));
    message
}

fn read_route(answer: RouteNetlinkMessage) -> Option<RouteEntry> {
    let RouteNetlinkMessage::NewRoute(message) = answer else {
        return None;
    };
    let header = &message.header;
    if header.kind != RouteType::Unicast || header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let unspecified = match header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let (mut to, mut via, mut src) = (unspecified, None, None);
    let (mut link, mut metric) = (0, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = read_ip(address)?,
            RouteAttribute::Gateway(address) => via = Some(read_ip(address)?),
            RouteAttribute::PrefSource(address) => src = Some(read_ip(address)?),
            RouteAttribute::Oif(index) => link = *index,
            RouteAttribute::Priority(priority) => metric = Some(*priority),
            _ => {}
        }
    }
    let to = IpNet::new(to, header.destination_prefix_length).ok()?;
    let onlink = header.flags.contains(RouteFlags::Onlink);
    let route = Route { to, via, src, onlink };
    Some(RouteEntry { link, route, metric, protocol: header.protocol })
}

fn read_ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_survives_the_way_to_the_wire_and_back() {
        for (to, via, src, onlink) in [
            ("0.0.0.0/0", Some("10.0.0.1"), None, false),
            ("10.2.0.0/16", None, Some("10.2.0.1"), false),
            ("10.2.0.0/16", Some("169.254.1.1"), Some("10.2.0.1"), true),
            ("::/0", Some("fe80::1"), None, true),
            ("fd00:1::/64", Some("fd00::9"), Some("fd00::1"), false),
        ] {
            let address = |text: &str| text.parse().unwrap();
            let (via, src) = (via.map(address), src.map(address));
            let route = Route { to: to.parse().unwrap(), via, src, onlink };
            let message = RouteNetlinkMessage::NewRoute(route_message(7, route));
            let entry = read_route(message).unwrap();
            assert_eq!((entry.route, entry.link), (route, 7));
        }
    }

    #[test]
    fn host_bits_are_cleared() {
        let route = Route::new("10.2.3.4/16".parse().unwrap(), None);
        let entry = read_route(RouteNetlinkMessage::NewRoute(route_message(1, route))).unwrap();
        assert_eq!(entry.route.to.to_string(), "10.2.0.0/16");
    }

    #[test]
    fn a_route_is_met_by_one_that_says_more_but_not_by_one_that_says_less() {
        let plain = Route::new("10.2.0.0/16".parse().unwrap(), Some([169, 254, 1, 1].into()));
        let full = Route { src: Some([10, 2, 0, 1].into()), onlink: true, ..plain };
        assert!(plain.is_met_by(&plain) && plain.is_met_by(&full) && full.is_met_by(&full));
        assert!(!full.is_met_by(&plain));
        for other in [Route { onlink: false, ..full }, Route { src: None, ..full }] {
            assert!(!full.is_met_by(&other), "{other}");
        }
        assert!(!plain.is_met_by(&Route { via: None, ..plain }));
        assert_eq!(full.to_string(), "10.2.0.0/16 via 169.254.1.1 src 10.2.0.1 onlink");
    }

    #[test]
    fn a_route_of_an_older_journal_is_read_and_a_plain_one_is_written_as_before() {
        let text = r#"{"to":"0.0.0.0/0","via":"10.9.0.254"}"#;
        let route: Route = serde_json::from_str(text).unwrap();
        assert_eq!(route, Route::new("0.0.0.0/0".parse().unwrap(), Some([10, 9, 0, 254].into())));
        assert_eq!(serde_json::to_string(&route).unwrap(), text);
    }
}
