//! A host: a smoltcp stack behind a port.

use encap::MacAddr;
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Address, Ipv6Address};
use std::collections::VecDeque;
use std::net::IpAddr;
use switch::{GATEWAY_V4, GATEWAY_V6};

/// A host of the fabric, by its place in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostId(pub(crate) usize);

pub(crate) struct Host {
    pub(crate) n: u8,
    pub(crate) node: usize,
    pub(crate) port: String,
    pub(crate) sockets: SocketSet<'static>,
    pub(crate) interface: Interface,
    /// Everything that was delivered, untagged.
    pub(crate) capture: VecDeque<Vec<u8>>,
    nic: Nic,
    vlan: Option<u16>,
}

/// `10.9.0.n`.
pub(crate) fn ipv4(n: u8) -> IpAddr {
    Ipv4Address::new(10, 9, 0, n).into()
}

/// `fd09::n`.
pub(crate) fn ipv6(n: u8) -> IpAddr {
    Ipv6Address::new(0xfd09, 0, 0, 0, 0, 0, 0, u16::from(n)).into()
}

impl Host {
    pub(crate) fn new(n: u8, node: usize, port: String, vlan: Option<u16>) -> Self {
        let addresses = [IpCidr::new(ipv4(n).into(), 24), IpCidr::new(ipv6(n).into(), 64)];
        let mac = MacAddr([2, 0, 0, 0, 0, n]);
        Self::with(mac, &addresses, node, port, vlan)
    }

    /// A host with these addresses and no neighbour but the gateway of its cluster segment. smoltcp
    /// has no fixed neighbours, and believes ARP only within a network of its own: so it gets one
    /// around the gateway, behind the addresses that it speaks from.
    pub(crate) fn routed(mac: MacAddr, addresses: &[IpAddr], node: usize, port: String) -> Self {
        let alone = |ip: &IpAddr| IpCidr::new((*ip).into(), if ip.is_ipv4() { 32 } else { 128 });
        let mut addresses: Vec<IpCidr> = addresses.iter().map(alone).collect();
        addresses.push(IpCidr::new(Ipv4Address::new(169, 254, 1, 2).into(), 30));
        let mut host = Self::with(mac, &addresses, node, port, None);
        host.interface.routes_mut().add_default_ipv4_route(GATEWAY_V4).unwrap();
        host.interface.routes_mut().add_default_ipv6_route(GATEWAY_V6).unwrap();
        host
    }

    fn with(mac: MacAddr, cidrs: &[IpCidr], node: usize, port: String, vlan: Option<u16>) -> Self {
        let n = mac.0[5];
        let mut nic = Nic::default();
        let mut config = Config::new(EthernetAddress(mac.0).into());
        config.random_seed = u64::from(n);
        let mut interface = Interface::new(config, &mut nic, Instant::ZERO);
        interface.update_ip_addrs(|addresses| addresses.extend_from_slice(cidrs).unwrap());
        let (sockets, capture) = (SocketSet::new(Vec::new()), VecDeque::new());
        Self { n, node, port, sockets, interface, capture, nic, vlan }
    }

    /// Hands over a frame from the port.
    pub(crate) fn deliver(&mut self, frame: Vec<u8>) {
        let tag = match frame.get(12..16) {
            Some(&[0x81, 0, high, low]) => Some(u16::from_be_bytes([high, low])),
            _ => None,
        };
        if tag.map(|tci| tci & 0xfff) != self.vlan {
            return;
        }
        let untagged = match tag {
            Some(_) => [&frame[..12], &frame[16..]].concat(),
            None => frame,
        };
        self.capture.push_back(untagged.clone());
        self.nic.received.push_back(untagged);
    }

    /// Whether nothing was delivered that the stack has not seen.
    pub(crate) fn is_idle(&self) -> bool {
        self.nic.received.is_empty()
    }

    /// Lets the stack work, and takes what it sends.
    pub(crate) fn poll(&mut self, now: u64) -> Vec<Vec<u8>> {
        self.interface.poll(instant(now), &mut self.nic, &mut self.sockets);
        let sent = std::mem::take(&mut self.nic.sent);
        let Some(vlan) = self.vlan else { return sent };
        let tag = [0x81, 0, (vlan >> 8) as u8, vlan as u8];
        sent.iter().map(|frame| [&frame[..12], &tag, &frame[12..]].concat()).collect()
    }

    /// When the stack wants to work next.
    pub(crate) fn next_at(&mut self, now: u64) -> Option<u64> {
        let at = self.interface.poll_at(instant(now), &self.sockets)?;
        Some(at.total_micros().max(0) as u64)
    }
}

fn instant(now: u64) -> Instant {
    Instant::from_micros(now as i64)
}

/// The host's card: two queues.
#[derive(Debug, Default)]
struct Nic {
    received: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
}

struct Received(Vec<u8>);
struct Sending<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = vec![0; len];
        let result = write(&mut frame);
        self.0.push(frame);
        result
    }
}

impl Device for Nic {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        Some((Received(self.received.pop_front()?), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        // Ethernet's 14 bytes and the overlay's MTU.
        capabilities.max_transmission_unit = 1464;
        capabilities
    }
}
