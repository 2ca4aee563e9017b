//! A guest behind a port: smoltcp answers ARP and pings.

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Address};
use std::collections::VecDeque;

pub(crate) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(crate) const IP: [u8; 4] = [10, 77, 0, 2];

pub(crate) struct Guest {
    interface: Interface,
    card: Card,
}

impl Guest {
    pub(crate) fn new() -> Self {
        let mut card = Card::default();
        let config = Config::new(EthernetAddress(MAC).into());
        let mut interface = Interface::new(config, &mut card, Instant::now());
        let address = IpCidr::new(Ipv4Address::from(IP).into(), 24);
        interface.update_ip_addrs(|addresses| {
            // There is room for two.
            let _ = addresses.push(address);
        });
        Self { interface, card }
    }

    /// A frame comes in at the guest's card.
    pub(crate) fn hear(&mut self, frame: Vec<u8>) {
        self.card.heard.push_back(frame);
    }

    /// Lets the stack work; what it has to say.
    pub(crate) fn speak(&mut self) -> impl Iterator<Item = Vec<u8>> {
        let mut no_sockets = SocketSet::new([]);
        self.interface.poll(Instant::now(), &mut self.card, &mut no_sockets);
        std::mem::take(&mut self.card.said).into_iter()
    }
}

#[derive(Default)]
struct Card {
    heard: VecDeque<Vec<u8>>,
    said: Vec<Vec<u8>>,
}

struct Heard(Vec<u8>);
struct Saying<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for Heard {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl TxToken for Saying<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = vec![0; len];
        let result = write(&mut frame);
        self.0.push(frame);
        result
    }
}

impl Device for Card {
    type RxToken<'a> = Heard;
    type TxToken<'a> = Saying<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Heard, Saying<'_>)> {
        Some((Heard(self.heard.pop_front()?), Saying(&mut self.said)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Saying<'_>> {
        Some(Saying(&mut self.said))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1464;
        capabilities
    }
}
