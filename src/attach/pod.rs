//! What the journal says of an attachment besides what it says of every port.

use std::net::IpAddr;
use std::str::FromStr;

use encap::MacAddr;
use ipnet::IpNet;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
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
///
/// Runtimes read and write it by Go's rules, so that its keys come in two ways: as the convention has
/// them (`hostPort`), and as the fields are named (`HostPort`, of containerd). What is empty is absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPort {
    /// The node's port, 1 to 65535.
    #[serde(alias = "HostPort")]
    pub host_port: u16,
    /// The container's port, 1 to 65535.
    #[serde(alias = "ContainerPort")]
    pub container_port: u16,
    /// The transport protocol.
    #[serde(default, alias = "Protocol")]
    pub protocol: Protocol,
    /// The node's address it is on; `None`: all of them.
    #[serde(
        default,
        rename = "hostIP",
        alias = "HostIP",
        deserialize_with = "address_or_empty",
        skip_serializing_if = "Option::is_none"
    )]
    pub host_ip: Option<IpAddr>,
}

fn address_or_empty<'de, D: Deserializer<'de>>(from: D) -> Result<Option<IpAddr>, D::Error> {
    let text = Option::<String>::deserialize(from)?.filter(|text| !text.is_empty());
    let wrong = |text: &str| D::Error::custom(format!("hostIP {} is no IP address", quoted(text)));
    text.map(|text| text.parse().map_err(|_| wrong(&text))).transpose()
}

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
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

/// A text is no protocol whose ports can be led on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("protocol {0} is not tcp, udp or sctp")]
pub struct NoProtocol(String);

impl FromStr for Protocol {
    type Err = NoProtocol;

    /// In either case; an empty text is TCP.
    fn from_str(text: &str) -> Result<Self, NoProtocol> {
        let names = [("", Self::Tcp), ("tcp", Self::Tcp), ("udp", Self::Udp), ("sctp", Self::Sctp)];
        let found = names.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        found.map(|(_, protocol)| protocol).ok_or_else(|| NoProtocol(quoted(text)))
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// The beginning of somebody's text.
fn quoted(text: &str) -> String {
    format!("{:?}", text.chars().take(64).collect::<String>())
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

    fn host_port(text: &str) -> Result<HostPort, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn host_ports_are_read_as_runtimes_write_them() {
        let expected = |protocol, host_ip: Option<IpAddr>| HostPort {
            host_port: 8080,
            container_port: 80,
            protocol,
            host_ip,
        };
        for (text, protocol, host_ip) in [
            // containerd
            (r#"{"HostPort":8080,"ContainerPort":80,"Protocol":"tcp","HostIP":""}"#, "tcp", None),
            (
                r#"{"HostPort":8080,"ContainerPort":80,"Protocol":"sctp","HostIP":"192.0.2.1"}"#,
                "sctp",
                Some("192.0.2.1"),
            ),
            // CRI-O
            (r#"{"hostPort":8080,"containerPort":80,"protocol":"UDP","hostIP":""}"#, "udp", None),
            // podman
            (
                r#"{"hostPort":8080,"containerPort":80,"protocol":"tcp","hostIP":"::1"}"#,
                "tcp",
                Some("::1"),
            ),
            (r#"{"hostPort":8080,"containerPort":80,"protocol":"","hostIP":null}"#, "tcp", None),
            (r#"{"hostPort":8080,"containerPort":80}"#, "tcp", None),
        ] {
            let host_ip = host_ip.map(|text| text.parse().unwrap());
            let expected = expected(protocol.parse().unwrap(), host_ip);
            assert_eq!(host_port(text), Ok(expected), "{text}");
        }
        // As the journal has it.
        let text = r#"{"hostPort":53,"containerPort":53,"protocol":"udp"}"#;
        assert_eq!(serde_json::to_string(&host_port(text).unwrap()).unwrap(), text);
    }

    #[test]
    fn what_is_no_host_port_is_told() {
        for (text, word) in [
            (r#"{"hostPort":70000,"containerPort":1}"#, "70000"),
            (r#"{"HostPort":-1,"ContainerPort":1}"#, "-1"),
            (r#"{"HostPort":1,"hostPort":1,"ContainerPort":1}"#, "duplicate"),
            (r#"{"hostPort":1}"#, "containerPort"),
            (r#"{"hostPort":1,"containerPort":1,"protocol":"icmp"}"#, "icmp"),
            (r#"{"hostPort":1,"containerPort":1,"hostIP":"here"}"#, "hostIP \"here\""),
        ] {
            let error = host_port(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
