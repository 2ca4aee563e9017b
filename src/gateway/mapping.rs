//! Port mappings: a port of the node that leads to a port of a pod (hostPort).

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::attach::Protocol;

/// One port of the node, in one family, and where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mapping {
    /// The protocol.
    pub protocol: Protocol,
    /// The node's address; `None`: every one of the pod's family.
    pub host: Option<IpAddr>,
    /// The node's port, not zero.
    pub port: u16,
    /// The pod's address and port.
    pub to: SocketAddr,
}

impl Mapping {
    /// What a runtime asks for, for a pod with these addresses: a mapping per family that the host
    /// address allows. An unspecified host address (`0.0.0.0`, `::`) is every one of its family.
    /// Of several pod addresses of a family the first one counts. A port of zero is none.
    #[must_use]
    pub fn of_pod(
        protocol: Protocol,
        host: Option<IpAddr>,
        port: u16,
        pod: &[IpAddr],
        pod_port: u16,
    ) -> Vec<Self> {
        let host = host.map(|address| address.to_canonical());
        let wanted = |v4: bool| host.is_none_or(|host| host.is_ipv4() == v4);
        [true, false]
            .into_iter()
            .filter(|v4| wanted(*v4) && port != 0 && pod_port != 0)
            .filter_map(|v4| pod.iter().find(|address| address.is_ipv4() == v4))
            .map(|address| Self {
                protocol,
                host: host.filter(|host| !host.is_unspecified()),
                port,
                to: SocketAddr::new(*address, pod_port),
            })
            .collect()
    }

    /// Whether both claim the same port of the same address, so that only one of them can be had:
    /// a mapping of one address stands beside one of all addresses, and wins.
    #[must_use]
    pub fn is_at_odds_with(&self, other: &Self) -> bool {
        let key = |one: &Self| (one.protocol, one.host, one.port, one.to.is_ipv4());
        key(self) == key(other) && self.to != other.to
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (protocol, to) = (self.protocol.name(), self.to);
        match self.host {
            Some(host) => write!(out, "{protocol} {} -> {to}", SocketAddr::new(host, self.port)),
            None => write!(out, "{protocol} *:{} -> {to}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_request_becomes_a_mapping_per_family() {
        let pod = [ip("10.42.0.2"), ip("fd42::2"), ip("10.42.0.3")];
        let shown = |host: Option<&str>, port| {
            let all = Mapping::of_pod(Protocol::Tcp, host.map(ip), port, &pod, 80);
            all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(shown(None, 8080), ["tcp *:8080 -> 10.42.0.2:80", "tcp *:8080 -> [fd42::2]:80"]);
        assert_eq!(shown(Some("0.0.0.0"), 8080), ["tcp *:8080 -> 10.42.0.2:80"]);
        assert_eq!(shown(Some("::"), 8080), ["tcp *:8080 -> [fd42::2]:80"]);
        assert_eq!(shown(Some("127.0.0.1"), 80), ["tcp 127.0.0.1:80 -> 10.42.0.2:80"]);
        assert_eq!(shown(Some("::ffff:127.0.0.1"), 80), ["tcp 127.0.0.1:80 -> 10.42.0.2:80"]);
        assert_eq!(shown(Some("::1"), 80), ["tcp [::1]:80 -> [fd42::2]:80"]);
        assert!(shown(None, 0).is_empty());
    }

    #[test]
    fn only_the_same_port_of_the_same_address_is_at_odds() {
        let one = |host: Option<&str>, port, to: &str| Mapping {
            protocol: Protocol::Udp,
            host: host.map(ip),
            port,
            to: to.parse().unwrap(),
        };
        let first = one(None, 53, "10.42.0.2:53");
        assert!(first.is_at_odds_with(&one(None, 53, "10.42.0.3:53")));
        assert!(!first.is_at_odds_with(&first));
        assert!(!first.is_at_odds_with(&one(None, 54, "10.42.0.3:53")));
        assert!(!first.is_at_odds_with(&one(Some("127.0.0.1"), 53, "10.42.0.3:53")));
        assert!(!first.is_at_odds_with(&one(None, 53, "[fd42::3]:53")));
        let tcp = Mapping { protocol: Protocol::Tcp, ..one(None, 53, "10.42.0.3:53") };
        assert!(!first.is_at_odds_with(&tcp));
    }
}
