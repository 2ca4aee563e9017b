//! What the benches of engines in memory have in common.

use std::hint::black_box;

use encap::{Frame, MacAddr, StationMac};
use fdb::{PortId, Tick};
use switch::{Remote, Sink};

/// When everything happens.
pub(crate) const NOW: Tick = Tick(1_000);

/// Counts copies, and looks at each head as a driver would have to.
#[derive(Default)]
pub(crate) struct Counting(u64);

impl Sink for Counting {
    fn to_port(&mut self, _: PortId, _: u16, frame: &Frame<'_>) {
        self.0 += black_box(frame.head).len() as u64;
    }

    fn to_vteps(&mut self, remote: Remote<'_>, frame: &Frame<'_>) {
        self.0 += (black_box(frame.head).len() * black_box(remote).vteps.len()) as u64;
    }
}

/// The `n`th station.
pub(crate) fn station(n: u32) -> StationMac {
    let [a, b, c, d] = n.to_be_bytes();
    MacAddr([2, 0, a, b, c, d]).station().expect("a station's address")
}
