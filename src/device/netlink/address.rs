//! Addresses on devices (RTM_*ADDR).

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Ask, Netlink, NetlinkError};

/// An address of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The device's index.
    pub link: u32,
    /// Address and prefix length; the host bits are the address.
    pub net: IpNet,
    /// IFA_F_* (linux/if_addr.h).
    pub flags: AddressFlags,
}

impl Address {
    /// Whether duplicate address detection is still under way or has failed.
    #[must_use]
    pub fn is_unusable(&self) -> bool {
        self.flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed)
    }
}

pub(super) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

impl Netlink {
    /// The addresses of a device, or of all devices, IPv4 and IPv6.
    ///
    /// # Errors
    ///
    /// Those of the socket and of the kernel.
    pub fn addresses(&mut self, link: Option<u32>) -> Result<Vec<Address>, NetlinkError> {
        let object =
            link.map_or_else(|| "addresses".to_owned(), |link| format!("addresses of #{link}"));
        let ask = Ask { verb: "list", object: &object };
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = AddressMessage::default();
            message.header.family = family;
            message.header.index = link.unwrap_or(0);
            let answers = match self.dump(ask, &RouteNetlinkMessage::GetAddress(message)) {
                Err(error) if error.errno() == Some(libc::EAFNOSUPPORT) => continue,
                answers => answers?,
            };
            found.extend(answers.into_iter().filter_map(read_address));
        }
        found.retain(|address| link.is_none_or(|link| link == address.link));
        Ok(found)
    }

    /// Adds an address; one of IPv6 is usable at once, without duplicate address detection
    /// (IFA_F_NODAD).
    ///
    /// # Errors
    ///
    /// [`NetlinkError::is_present`] if the device has it already.
    pub fn add_address(&mut self, link: u32, net: IpNet) -> Result<(), NetlinkError> {
        let object = format!("address {net} on #{link}");
        let ask = Ask { verb: "add", object: &object };
        let mut message = address_message(link, net);
        match net {
            IpNet::V4(v4) if v4.prefix_len() < 31 => {
                message.attributes.push(AddressAttribute::Broadcast(v4.broadcast()));
            }
            IpNet::V4(_) => {}
            IpNet::V6(_) => message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad)),
        }
        self.request(ask, RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Removes an address.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::is_absent`] if the device does not have it.
    pub fn delete_address(&mut self, link: u32, net: IpNet) -> Result<(), NetlinkError> {
        let object = format!("address {net} on #{link}");
        let ask = Ask { verb: "delete", object: &object };
        self.request(ask, RouteNetlinkMessage::DelAddress(address_message(link, net)), 0)
    }
}

fn address_message(link: u32, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(net.addr());
    message.header.prefix_len = net.prefix_len();
    message.header.index = link;
    if matches!(net, IpNet::V6(v6) if v6.addr().is_unicast_link_local()) {
        message.header.scope = AddressScope::Link;
    }
    message.attributes.push(AddressAttribute::Local(net.addr()));
    message.attributes.push(AddressAttribute::Address(net.addr()));
    message
}

fn read_address(answer: RouteNetlinkMessage) -> Option<Address> {
    let RouteNetlinkMessage::NewAddress(message) = answer else {
        return None;
    };
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            // With a peer (point-to-point) IFA_ADDRESS is the peer's.
            AddressAttribute::Local(own) => local = Some(*own),
            AddressAttribute::Address(own) => address = Some(*own),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let net = IpNet::new(local.or(address)?, message.header.prefix_len).ok()?;
    Some(Address { link: message.header.index, net, flags })
}
