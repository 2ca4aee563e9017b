//! The forwarding database with 64 k stations.

use std::hint::black_box;
use std::sync::Arc;

use encap::{MacAddr, StationMac};
use fdb::{
    Dest, Fdb, Learn, Lookup, PortId, Reader, SegmentId, SegmentLimits, Settings, Tick, VtepId,
};

use crate::measured;

const SEGMENT: SegmentId = SegmentId(1);
const SIZE: u32 = 1 << 16;
/// An odd number by which to stride through a power of two in no recognisable order.
const STRIDE: u64 = 0x9e37_79b1;
const NOW: Tick = Tick(1_000);

/// The station with this number.
pub(crate) fn station(n: u64) -> StationMac {
    let mac = MacAddr::from_bits(0x0200_0000_0000 | (n & 0xff_ffff_ffff));
    mac.station().expect("the group bit is clear")
}

fn owner(n: u64) -> Dest {
    match n % 100 {
        slot @ 0..8 => Dest::Port(PortId { slot: slot as u16, generation: 1 }),
        slot => Dest::Vtep(VtepId { slot: slot as u16, generation: 1 }),
    }
}

/// A full table: every stranger costs an entry.
fn full() -> Reader {
    let fdb =
        Arc::new(Fdb::new(Settings { max_entries: SIZE, seed: Some(1), ..Settings::default() }));
    let limits = SegmentLimits {
        max_macs: SIZE,
        per_port: SIZE,
        per_vtep: SIZE,
        ..SegmentLimits::default()
    };
    fdb.configure_segment(SEGMENT, limits);
    let mut reader = fdb.reader();
    for n in 0..u64::from(SIZE) {
        reader.learn(SEGMENT, station(n), owner(n), NOW);
    }
    reader
}

fn some(n: u64) -> u64 {
    n.wrapping_mul(STRIDE) % u64::from(SIZE)
}

pub(crate) fn look_up(runs: u64) {
    let (mut reader, mut hits) = (full(), 0);
    measured(runs, |n| {
        let found = reader.lookup(SEGMENT, black_box(station(some(n)).get()), NOW);
        hits += u64::from(found != Lookup::Unknown);
    });
    assert_eq!(hits, runs);
}

pub(crate) fn learn_known(runs: u64) {
    let (mut reader, mut known) = (full(), 0);
    measured(runs, |n| {
        let learn = reader.learn(SEGMENT, station(some(n)), owner(some(n)), NOW);
        known += u64::from(learn == Learn::Known);
    });
    assert_eq!(known, runs);
}

pub(crate) fn learn_new(runs: u64) {
    let (mut reader, mut new) = (full(), 0);
    measured(runs, |n| {
        let n = n + u64::from(SIZE);
        let learn = reader.learn(SEGMENT, station(n), owner(n), NOW);
        new += u64::from(matches!(learn, Learn::New { evicted: Some(_) }));
    });
    assert_eq!(new, runs);
}
