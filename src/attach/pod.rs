//! What the journal says of an attachment besides what it says of every port.

use std::net::IpAddr;

use encap::MacAddr;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use switch::{GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6};

use super::Key;
use crate::device::netlink::Route;
use crate::device::netns::NetnsIdentity;

/// A container's attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// What it is known by.
    #[serde(flatten)]
    pub key: Key,
    /// The container's namespace when it was attached; the port's specification has the path.
    pub netns: NetnsIdentity,
    /// Its addresses, one of each family at most, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Who gave it its addresses.
    pub ipam: Ipam,
    /// Whether its segment routes: it is then reached by its addresses alone, and reaches all else
    /// through the gateway.
    pub routed: bool,
    /// How many queues its device has.
    pub queues: u16,
    /// When it was attached, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// The ports of the node that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<HostPort>,
    /// Whether what it sends out of the cluster gets the node's address.
    #[serde(default)]
    pub masquerade: bool,
    /// Whether it may send from other addresses than its own.
    #[serde(default)]
    pub spoof: bool,
}

/// Who gives addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ipam {
    /// The daemon, from the node's podCIDR.
    Own,
    /// Another plugin, which the CNI plugin calls.
    Delegated,
}

/// A port of the node that leads to a container's, as the `portMappings` capability has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPort {
    /// The node's port, 1 to 65535.
    pub host_port: u16,
    /// The container's port, 1 to 65535.
    pub container_port: u16,
    /// The transport protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// The node's address it is on; `None`: all of them.
    #[serde(default, rename = "hostIP", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// The MAC address of a pod: it follows from its IPv4 address or, without one, from the end of its
/// IPv6 address, and so is as unique as that. `None` without any address.
#[must_use]
pub fn mac_of(addresses: &[IpAddr]) -> Option<MacAddr> {
    let v4 = addresses.iter().find(|address| address.is_ipv4());
    let [a, b, c, d] = match v4.or(addresses.first())? {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => {
            let [.., a, b, c, d] = address.octets();
            [a, b, c, d]
        }
    };
    Some(MacAddr([0x0a, 0x7a, a, b, c, d]))
}

/// The gateways of a pod with these addresses, one for each family it has.
#[must_use]
pub fn gateways(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let v4 = addresses.iter().any(IpAddr::is_ipv4).then_some(GATEWAY_V4.into());
    let v6 = addresses.iter().any(IpAddr::is_ipv6).then_some(GATEWAY_V6.into());
    v4.into_iter().chain(v6).collect()
}

/// The routes of a pod by its gateways: each is on the link, and everything else is behind it.
#[must_use]
pub fn routes(gateways: &[IpAddr]) -> Vec<Route> {
    let mut routes = Vec::new();
    for gateway in gateways {
        let any = match gateway {
            IpAddr::V4(_) => IpAddr::from([0; 4]),
            IpAddr::V6(_) => IpAddr::from([0; 16]),
        };
        // fe80::/64 is on every link by itself.
        if gateway.is_ipv4() {
            routes.push(Route::new(IpNet::from(*gateway), None));
        }
        routes.extend(IpNet::new(any, 0).map(|any| Route::new(any, Some(*gateway))));
    }
    routes
}

/// The permanent neighbours of a pod with these gateways.
#[must_use]
pub fn neighbours(gateways: &[IpAddr]) -> Vec<(IpAddr, MacAddr)> {
    gateways.iter().map(|gateway| (*gateway, GATEWAY_MAC.get())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_mac_follows_from_the_addresses() {
        let mac = |texts| mac_of(&ips(texts)).map(|mac| mac.to_string());
        assert_eq!(mac(&["10.244.1.2", "fd00::2"]).as_deref(), Some("0a:7a:0a:f4:01:02"));
        assert_eq!(mac(&["fd00::2", "10.244.1.2"]).as_deref(), Some("0a:7a:0a:f4:01:02"));
        assert_eq!(mac(&["fd00::1:2:3:4"]).as_deref(), Some("0a:7a:00:03:00:04"));
        assert_eq!(mac(&[]), None);
        assert!(mac_of(&ips(&["255.255.255.255"])).unwrap().station().is_some());
    }

    #[test]
    fn each_family_has_its_gateway() {
        let shown = |texts: &[&str]| -> Vec<String> {
            routes(&gateways(&ips(texts))).iter().map(ToString::to_string).collect()
        };
        let four = ["169.254.1.1/32", "0.0.0.0/0 via 169.254.1.1"];
        assert_eq!(shown(&["10.244.1.2"]), four);
        assert_eq!(shown(&["fd00::2"]), ["::/0 via fe80::1"]);
        assert_eq!(shown(&["10.244.1.2", "fd00::2"]).len(), 3);
        let of = neighbours(&gateways(&ips(&["fd00::2"])));
        assert_eq!(of, [("fe80::1".parse().unwrap(), GATEWAY_MAC.get())]);
    }

    #[test]
    fn host_ports_are_read_as_runtimes_write_them() {
        let text = r#"{"hostPort":8080,"containerPort":80,"protocol":"tcp","hostIP":"127.0.0.1"}"#;
        let port: HostPort = serde_json::from_str(text).unwrap();
        assert_eq!(port.host_ip, Some([127, 0, 0, 1].into()));
        let text = r#"{"hostPort":53,"containerPort":53,"protocol":"udp"}"#;
        let port: HostPort = serde_json::from_str(text).unwrap();
        assert_eq!((port.protocol, port.host_ip), (Protocol::Udp, None));
        assert_eq!(serde_json::to_string(&port).unwrap(), text);
        assert!(
            serde_json::from_str::<HostPort>(r#"{"hostPort":70000,"containerPort":1}"#).is_err()
        );
    }
}
