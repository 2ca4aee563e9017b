//! What a user relies on, one rule a test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use encap::{MacAddr, StationMac};
use fdb::{
    Damping, Dest, Fdb, Insert, Learn, Lookup, Origin, PortId, Refusal, Scope, SegmentId,
    SegmentLimits, Settings, Tick, VtepId,
};

const RED: SegmentId = SegmentId(1);
const BLUE: SegmentId = SegmentId(2);

fn station(n: u64) -> StationMac {
    MacAddr::from_bits(0x0200_0000_0000 | n).station().unwrap()
}

const fn port(slot: u16) -> Dest {
    Dest::Port(PortId { slot, generation: 0 })
}

const fn vtep(slot: u16) -> Dest {
    Dest::Vtep(VtepId { slot, generation: 0 })
}

fn table(limits: SegmentLimits) -> Arc<Fdb> {
    let fdb = Arc::new(Fdb::default());
    fdb.configure_segment(RED, limits);
    fdb.configure_segment(BLUE, limits);
    fdb
}

#[test]
fn a_flood_from_one_port_costs_nobody_else_an_entry() {
    const FLOOD: u64 = 1 << 20;
    for (name, limits) in [
        ("by the segment's limit", SegmentLimits::default()),
        ("by the port's limit", SegmentLimits { per_port: 1000, ..SegmentLimits::default() }),
    ] {
        let fdb = table(limits);
        // Others: 20 VTEPs with 100 stations each, and 50 stations in another segment.
        for n in 0..2000 {
            fdb.learn(RED, station(n), vtep((n % 20) as u16), Tick(0));
        }
        for n in 0..50 {
            fdb.learn(BLUE, station(n), port(1), Tick(0));
        }
        for n in 0..FLOOD {
            let learn = fdb.learn(RED, station(0x10_0000 + n), port(1), Tick(n / 1000));
            assert!(
                matches!(learn, Learn::New { evicted: None })
                    || learn == Learn::New { evicted: Some(port(1)) },
                "{name}: {learn:?}"
            );
        }
        for n in 0..2000 {
            let found = fdb.lookup(RED, station(n).get(), Tick(FLOOD / 1000));
            assert_eq!(found, Lookup::from(vtep((n % 20) as u16)), "{name}");
        }
        assert_eq!(fdb.counts(BLUE).learned, 50);
        let flooded = fdb.counts(RED).learned - 2000;
        assert_eq!(flooded, limits.per_port.min(limits.max_macs - 2000), "{name}");
        // What is left of the flood is its end.
        let last = station(0x10_0000 + FLOOD - u64::from(flooded));
        assert_eq!(fdb.lookup(RED, last.get(), Tick(FLOOD / 1000)), Lookup::from(port(1)));
        assert_eq!(fdb.totals().evicted, FLOOD - u64::from(flooded));
        assert!(fdb.memory() < 2 << 20, "{name}: {} bytes", fdb.memory());
    }
}

#[test]
fn a_pod_that_moves_once_is_followed_at_once_by_every_reader() {
    let fdb = table(SegmentLimits::default());
    let (mut here, mut there) = (fdb.reader(), fdb.reader());
    here.learn(RED, station(1), port(1), Tick(0));
    for reader in [&mut here, &mut there] {
        assert_eq!(reader.lookup(RED, station(1).get(), Tick(1)), Lookup::from(port(1)));
    }
    let generation = fdb.generation(RED);
    assert_eq!(there.learn(RED, station(1), vtep(3), Tick(2)), Learn::Moved { from: port(1) });
    assert_ne!(fdb.generation(RED), generation);
    for reader in [&mut here, &mut there] {
        assert_eq!(reader.lookup(RED, station(1).get(), Tick(2)), Lookup::from(vtep(3)));
    }
    // The same address in another segment is another station.
    assert_eq!(here.lookup(BLUE, station(1).get(), Tick(2)), Lookup::Unknown);
}

#[test]
fn a_station_that_flaps_is_held_and_released() {
    let damping = Damping::default();
    let fdb = table(SegmentLimits::default());
    let mut reader = fdb.reader();
    reader.learn(RED, station(1), port(0), Tick(0));
    for n in 1..=u16::from(damping.moves) {
        let learn = reader.learn(RED, station(1), port(n), Tick(n.into()));
        assert_eq!(learn, Learn::Moved { from: port(n - 1) });
    }
    let held = port(damping.moves.into());
    for ms in 10..20 {
        let learn = reader.learn(RED, station(1), port(0), Tick(ms));
        assert_eq!(learn, Learn::Refused(Refusal::Damped));
        assert_eq!(reader.learn(RED, station(1), held, Tick(ms)), Learn::Known);
        assert_eq!(reader.lookup(RED, station(1).get(), Tick(ms)), held.into());
    }
    let totals = fdb.totals();
    assert_eq!((totals.moves, totals.damped, totals.refused), (5, 1, 10));
    let after = Tick(10 + damping.freeze_ms + 1000);
    assert_eq!(reader.learn(RED, station(1), port(0), after), Learn::Moved { from: held });
}

#[test]
fn what_an_operator_set_stands() {
    let fdb = table(SegmentLimits { max_macs: 2, aging_ms: 1000, ..SegmentLimits::default() });
    let mut reader = fdb.reader();
    assert_eq!(fdb.learn(RED, station(1), port(1), Tick(0)), Learn::New { evicted: None });
    let set = |origin, dest| fdb.insert(RED, station(1), dest, origin, Tick(0));
    assert_eq!(
        set(Origin::Control, port(2)),
        Insert::Replaced { dest: port(1), origin: Origin::Learned }
    );
    assert_eq!(
        set(Origin::Static, port(3)),
        Insert::Replaced { dest: port(2), origin: Origin::Control }
    );
    assert_eq!(set(Origin::Control, port(2)), Insert::Refused);
    assert_eq!(set(Origin::Static, port(3)), Insert::Unchanged);
    assert_eq!(set(Origin::Learned, port(4)), Insert::Refused);
    for n in 0..10 {
        fdb.learn(RED, station(100 + n), vtep(1), Tick(n));
        let learn = reader.learn(RED, station(1), vtep(1), Tick(n));
        assert_eq!(learn, Learn::Refused(Refusal::Static));
    }
    let late = Tick(24 * 3600 * 1000);
    fdb.expire(late, usize::MAX);
    assert_eq!(reader.lookup(RED, station(1).get(), late), port(3).into());
    assert_eq!(fdb.flush(Scope::all()), 0);
    assert_eq!(fdb.flush(Scope::dest(port(3))), 0);
    assert_eq!(fdb.flush(Scope::dest(port(3)).with_pinned()), 1);
    assert_eq!(reader.lookup(RED, station(1).get(), late), Lookup::Unknown);
}

#[test]
fn a_flushed_port_is_gone_with_its_earlier_generations() {
    let fdb = table(SegmentLimits::default());
    let mut reader = fdb.reader();
    let generation = |generation| Dest::Port(PortId { slot: 4, generation });
    for n in 0..4 {
        fdb.learn(RED, station(n), generation(n as u16), Tick(0));
        fdb.learn(BLUE, station(n), port(5), Tick(0));
        reader.lookup(RED, station(n).get(), Tick(0));
    }
    assert_eq!(fdb.flush(Scope::dest(generation(2))), 3);
    for n in 0..3 {
        assert_eq!(reader.lookup(RED, station(n).get(), Tick(0)), Lookup::Unknown);
    }
    assert_eq!(reader.lookup(RED, station(3).get(), Tick(0)), generation(3).into());
    assert_eq!(fdb.counts(BLUE).learned, 4);
}

#[test]
fn a_segment_that_is_not_configured_learns_nothing() {
    let fdb = Arc::new(Fdb::default());
    let mut reader = fdb.reader();
    let refused = Learn::Refused(Refusal::Disabled);
    assert_eq!(reader.learn(RED, station(1), port(1), Tick(0)), refused);
    assert_eq!(fdb.learn(RED, station(1), port(1), Tick(0)), refused);
    fdb.configure_segment(RED, SegmentLimits::default());
    // A neighbour comes into being with it.
    assert_eq!(reader.learn(BLUE, station(1), port(1), Tick(0)), refused);
    assert_eq!(reader.learn(RED, station(1), port(1), Tick(0)), Learn::New { evicted: None });
    assert_eq!(fdb.remove_segment(RED), 1);
    assert_eq!(fdb.limits(RED), None);
    assert_eq!(reader.learn(RED, station(1), port(1), Tick(0)), refused);
    assert_eq!(reader.lookup(RED, station(1).get(), Tick(0)), Lookup::Unknown);
}

#[test]
fn all_segments_together_have_a_limit() {
    let fdb = Fdb::new(Settings { max_entries: 10, ..Settings::default() });
    fdb.configure_segment(RED, SegmentLimits::default());
    fdb.configure_segment(BLUE, SegmentLimits::default());
    for n in 0..10 {
        assert_eq!(fdb.learn(RED, station(n), port(1), Tick(n)), Learn::New { evicted: None });
    }
    let refused = Learn::Refused(Refusal::Limit);
    assert_eq!(fdb.learn(BLUE, station(1), port(2), Tick(10)), refused);
    assert_eq!(
        fdb.learn(RED, station(11), port(2), Tick(10)),
        Learn::New { evicted: Some(port(1)) }
    );
    fdb.remove(RED, station(5));
    assert_eq!(fdb.learn(BLUE, station(1), port(2), Tick(10)), Learn::New { evicted: None });
}
