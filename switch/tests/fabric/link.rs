//! The underlay's wires.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// How every path between two nodes behaves. The default is a perfect one of half a millisecond.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    /// Microseconds.
    pub(crate) delay: u64,
    /// Up to as many microseconds more, at random: datagrams overtake each other.
    pub(crate) jitter: u64,
    /// Of a thousand datagrams, how many are lost.
    pub(crate) loss: u32,
    /// Of a thousand datagrams, how many arrive twice.
    pub(crate) duplication: u32,
    /// The largest IPv4 packet.
    pub(crate) mtu: u16,
}

impl Default for Link {
    fn default() -> Self {
        Self { delay: 500, jitter: 0, loss: 0, duplication: 0, mtu: 1500 }
    }
}

/// What a driver takes from the socket in one go: the datagrams of one peer that are there.
#[derive(Debug)]
pub(crate) struct Train {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) datagrams: Vec<Datagram>,
}

/// A UDP payload, and what of its IP header matters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Datagram {
    pub(crate) tos: u8,
    pub(crate) payload: Vec<u8>,
}

/// Ordered by arrival, then by departure.
type InFlight = Reverse<(u64, u64, usize, usize, Datagram)>;

#[derive(Debug)]
pub(crate) struct Wires {
    pub(crate) link: Link,
    pub(crate) sent: u64,
    flying: BinaryHeap<InFlight>,
    departures: u64,
    random: u64,
}

impl Wires {
    pub(crate) fn new(seed: u64) -> Self {
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self { link: Link::default(), sent: 0, flying: BinaryHeap::new(), departures: 0, random }
    }

    /// Sends a datagram; returns the path's MTU when it does not fit.
    pub(crate) fn send(
        &mut self,
        now: u64,
        from: usize,
        to: usize,
        datagram: Datagram,
    ) -> Option<u16> {
        // IPv4 and UDP.
        if datagram.payload.len() + 28 > usize::from(self.link.mtu) {
            return Some(self.link.mtu);
        }
        self.sent += 1;
        if self.chance(self.link.loss) {
            return None;
        }
        let copies = 1 + u64::from(self.chance(self.link.duplication));
        for _ in 0..copies {
            let at = now + self.link.delay + self.random() % (self.link.jitter + 1);
            // Departures are numbered, so that datagrams of one instant keep their order.
            self.departures += 1;
            let serial = self.departures;
            self.flying.push(Reverse((at, serial, from, to, datagram.clone())));
        }
        None
    }

    pub(crate) fn next_at(&self) -> Option<u64> {
        self.flying.peek().map(|Reverse((at, ..))| *at)
    }

    /// What has arrived by now, in trains of one sender and receiver.
    pub(crate) fn take_due(&mut self, now: u64) -> Vec<Train> {
        let mut trains: Vec<Train> = Vec::new();
        while self.next_at().is_some_and(|at| at <= now) {
            let Some(Reverse((_, _, from, to, datagram))) = self.flying.pop() else { break };
            match trains.last_mut().filter(|train| (train.from, train.to) == (from, to)) {
                Some(train) => train.datagrams.push(datagram),
                None => trains.push(Train { from, to, datagrams: vec![datagram] }),
            }
        }
        trains
    }

    fn chance(&mut self, per_mille: u32) -> bool {
        self.random() % 1000 < u64::from(per_mille)
    }

    /// xorshift64*.
    fn random(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
}
