//! The shares of a network that nobody holds, the lowest first. What that costs depends on how many
//! are held, not on how large the network is or on how much of it somebody claims.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::Network;

/// Walks along a network from one gap between what is held to the next.
#[derive(Debug)]
pub(super) struct Gaps {
    v4: bool,
    node_prefix: u8,
    /// How many addresses a share has; `None`: more than can be counted, so that there is one share.
    size: Option<u128>,
    /// Where the next share would begin; `None`: beyond the network.
    at: Option<u128>,
    last: u128,
    /// What is held, by first and last address, in falling order.
    held: Vec<(u128, u128)>,
}

impl Gaps {
    pub(super) fn new(network: &Network, held: impl Iterator<Item = IpNet>) -> Self {
        let Network { net, node_prefix } = *network;
        let v4 = net.addr().is_ipv4();
        let ends = |net: IpNet| (number(net.network()), number(net.broadcast()));
        let same = held.filter(|held| held.addr().is_ipv4() == v4);
        let mut held: Vec<(u128, u128)> = same.map(ends).collect();
        held.sort_unstable_by(|a, b| b.cmp(a));
        let bits = u32::from(net.max_prefix_len().saturating_sub(node_prefix));
        let (first, last) = ends(net);
        Self { v4, node_prefix, size: 1_u128.checked_shl(bits), at: Some(first), last, held }
    }

    fn net(&self, at: u128) -> Option<IpNet> {
        let address = if self.v4 {
            IpAddr::V4(u32::try_from(at).ok()?.into())
        } else {
            IpAddr::V6(at.into())
        };
        IpNet::new(address, self.node_prefix).ok()
    }
}

impl Iterator for Gaps {
    type Item = IpNet;

    fn next(&mut self) -> Option<IpNet> {
        loop {
            let at = self.at.filter(|at| *at <= self.last)?;
            let end = self.size.map_or(u128::MAX, |size| at.saturating_add(size - 1));
            let Some((_, last)) = self.held.last().copied().filter(|(first, _)| *first <= end)
            else {
                self.at = end.checked_add(1);
                return self.net(at);
            };
            self.held.pop();
            if last >= at {
                // The first share that begins behind it.
                let size = self.size?;
                self.at = (last / size).checked_add(1).and_then(|next| next.checked_mul(size));
            }
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(net: &str, node_prefix: u8, held: &[&str]) -> Vec<String> {
        let network = Network { net: net.parse().unwrap(), node_prefix };
        let held = held.iter().map(|net| net.parse().unwrap());
        Gaps::new(&network, held).take(4).map(|net| net.to_string()).collect()
    }

    #[test]
    fn the_lowest_that_nobody_holds_come_first() {
        assert_eq!(
            gaps("10.0.0.0/22", 24, &[]).join(" "),
            "10.0.0.0/24 10.0.1.0/24 10.0.2.0/24 10.0.3.0/24"
        );
        let held = ["10.0.2.0/24", "10.0.0.0/24", "fd00::/64", "10.9.0.0/16", "9.0.0.0/8"];
        assert_eq!(gaps("10.0.0.0/22", 24, &held), ["10.0.1.0/24", "10.0.3.0/24"]);
        // Smaller and larger ones, and one within another.
        let held = ["10.0.0.64/26", "10.0.1.0/23", "10.0.1.128/25", "10.0.5.5/32"];
        assert_eq!(
            gaps("10.0.0.0/21", 24, &held),
            ["10.0.2.0/24", "10.0.3.0/24", "10.0.4.0/24", "10.0.6.0/24"]
        );
        let held = ["10.0.0.0/22", "10.0.1.0/24"];
        assert_eq!(gaps("10.0.0.0/21", 24, &held)[0], "10.0.4.0/24");
    }

    #[test]
    fn the_ends_of_the_address_space_and_claims_to_all_of_it_are_no_trouble() {
        assert_eq!(gaps("255.255.255.0/24", 25, &["255.255.255.0/25"]), ["255.255.255.128/25"]);
        assert!(
            gaps("255.255.255.0/24", 25, &["255.255.255.128/25", "255.255.255.0/25"]).is_empty()
        );
        assert_eq!(gaps("ffff::/16", 17, &["ffff::/17"]), ["ffff:8000::/17"]);
        assert!(gaps("fd00::/8", 64, &["::/0"]).is_empty());
        assert!(gaps("fd00::/8", 64, &["fd00::/8", "fd00::/64"]).is_empty());
        assert_eq!(gaps("::/0", 0, &[]), ["::/0"]);
        assert!(gaps("::/0", 0, &["fd00::/64"]).is_empty());
        assert_eq!(gaps("0.0.0.0/0", 0, &[]), ["0.0.0.0/0"]);
    }
}
