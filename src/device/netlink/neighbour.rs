//! Neighbours and bridge FDB entries (RTM_*NEIGH).

use std::net::IpAddr;

use encap::MacAddr;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::address::family;
use super::{Ask, Netlink, NetlinkError};

/// An entry of the neighbour table, or of a bridge's or VXLAN device's FDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The device's index.
    pub link: u32,
    /// The neighbour's IP address; in an FDB, the remote VTEP's.
    pub address: Option<IpAddr>,
    /// Its MAC address, where it is known.
    pub mac: Option<MacAddr>,
    /// NUD_* (linux/neighbour.h).
    pub state: NeighbourState,
}

impl Neighbour {
    /// Whether it is a permanent entry with this MAC address.
    #[must_use]
    pub fn is_permanent(&self, mac: MacAddr) -> bool {
        self.state == NeighbourState::Permanent && self.mac == Some(mac)
    }
}

impl Netlink {
    /// The neighbour table of a device, or of all, IPv4 and IPv6.
    ///
    /// # Errors
    ///
    /// Those of the socket and of the kernel.
    pub fn neighbours(&mut self, link: Option<u32>) -> Result<Vec<Neighbour>, NetlinkError> {
        let mut found = self.neighbour_dump("neighbours", AddressFamily::Inet)?;
        found.extend(self.neighbour_dump("neighbours", AddressFamily::Inet6)?);
        found.retain(|entry| link.is_none_or(|link| link == entry.link));
        Ok(found)
    }

    /// The FDB entries of a bridge port or VXLAN device, or of all (AF_BRIDGE).
    ///
    /// # Errors
    ///
    /// Those of the socket and of the kernel.
    pub fn fdb(&mut self, link: Option<u32>) -> Result<Vec<Neighbour>, NetlinkError> {
        let mut found = self.neighbour_dump("fdb entries", AddressFamily::Bridge)?;
        found.retain(|entry| link.is_none_or(|link| link == entry.link));
        Ok(found)
    }

    /// Appends a destination to a VXLAN device's FDB, as `bridge fdb append` does. The address of
    /// all zeros is where unknown and group frames go.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, for instance EEXIST.
    pub fn append_fdb(&mut self, link: u32, mac: MacAddr, to: IpAddr) -> Result<(), NetlinkError> {
        let object = format!("fdb {mac} dst {to} on #{link}");
        let ask = Ask { verb: "append", object: &object };
        let mut message = NeighbourMessage::default();
        let header = &mut message.header;
        header.family = AddressFamily::Bridge;
        header.ifindex = link;
        header.state = NeighbourState::Other(NUD_PERMANENT | NUD_NOARP);
        header.flags = NeighbourFlags::Own;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        message.attributes.push(NeighbourAttribute::Destination(destination(to)));
        let message = RouteNetlinkMessage::NewNeighbour(message);
        self.request(ask, message, NLM_F_CREATE | NLM_F_APPEND)
    }

    /// Sets a permanent entry in the neighbour table.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn set_neighbour(
        &mut self,
        link: u32,
        address: IpAddr,
        mac: MacAddr,
    ) -> Result<(), NetlinkError> {
        let object = format!("neighbour {address} lladdr {mac} on #{link}");
        let ask = Ask { verb: "set", object: &object };
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = link;
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::Destination(destination(address)));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        let message = RouteNetlinkMessage::NewNeighbour(message);
        self.request(ask, message, NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Removes an entry from the neighbour table.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::is_absent`] if there is none.
    pub fn delete_neighbour(&mut self, link: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let object = format!("neighbour {address} on #{link}");
        let ask = Ask { verb: "delete", object: &object };
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = link;
        message.attributes.push(NeighbourAttribute::Destination(destination(address)));
        self.request(ask, RouteNetlinkMessage::DelNeighbour(message), 0)
    }

    fn neighbour_dump(
        &mut self,
        object: &'static str,
        family: AddressFamily,
    ) -> Result<Vec<Neighbour>, NetlinkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = family;
        let ask = Ask { verb: "list", object };
        let answers = self.dump(ask, &RouteNetlinkMessage::GetNeighbour(message))?;
        Ok(answers.into_iter().filter_map(read_neighbour).collect())
    }
}

const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;

fn destination(address: IpAddr) -> NeighbourAddress {
    match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    }
}

fn read_neighbour(answer: RouteNetlinkMessage) -> Option<Neighbour> {
    let RouteNetlinkMessage::NewNeighbour(message) = answer else {
        return None;
    };
    let mut entry = Neighbour {
        link: message.header.ifindex,
        address: None,
        mac: None,
        state: message.header.state,
    };
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::Destination(to) => entry.address = read_destination(&to),
            NeighbourAttribute::LinkLayerAddress(mac) => {
                entry.mac = mac.try_into().ok().map(MacAddr);
            }
            _ => {}
        }
    }
    Some(entry)
}

/// In an FDB entry the address has no family: its length tells.
fn read_destination(to: &NeighbourAddress) -> Option<IpAddr> {
    match to {
        NeighbourAddress::Inet(address) => Some((*address).into()),
        NeighbourAddress::Inet6(address) => Some((*address).into()),
        NeighbourAddress::Other(bytes) => <[u8; 4]>::try_from(bytes.as_slice())
            .map(IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from))
            .ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_without_family_is_told_by_its_length() {
        let read = |bytes: &[u8]| read_destination(&NeighbourAddress::Other(bytes.to_vec()));
        assert_eq!(read(&[192, 0, 2, 7]), Some("192.0.2.7".parse().unwrap()));
        assert_eq!(read(&[0; 16]), Some("::".parse().unwrap()));
        assert_eq!(read(&[1, 2, 3]), None);
    }
}
