//! Threads at once: whoever reads never sees a place that is not the station's, nor an old one
//! after news of a newer one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use encap::{MacAddr, StationMac};
use fdb::{
    Damping, Dest, Fdb, Insert, Learn, Lookup, Origin, PortId, Scope, SegmentId, SegmentLimits,
    Settings, Tick, VtepId,
};

const SEGMENTS: [SegmentId; 2] = [SegmentId(0), SegmentId(65_535)];
/// Learned entries of both together: fewer than their own limits allow.
const MAX_ENTRIES: u32 = 600;

fn station(n: u64) -> StationMac {
    MacAddr::from_bits(0x0200_0000_0000 | n).station().unwrap()
}

/// Each station's places carry its number and its segment's, so that half an entry shows.
fn place(segment: SegmentId, n: u64, version: u16) -> Dest {
    let slot = (n as u16) ^ segment.0;
    let generation = (version & 0xff) | ((n >> 8) as u16) << 8;
    if version & 1 == 0 {
        Dest::Port(PortId { slot, generation })
    } else {
        Dest::Vtep(VtepId { slot, generation })
    }
}

fn check(segment: SegmentId, n: u64, lookup: Lookup) {
    let dest = match lookup {
        Lookup::Unknown => return,
        Lookup::Port(port) => Dest::Port(port),
        Lookup::Vtep(vtep) => Dest::Vtep(vtep),
    };
    let version = match dest {
        Dest::Port(PortId { generation, .. }) | Dest::Vtep(VtepId { generation, .. }) => {
            generation & 0xff
        }
    };
    assert_eq!(dest, place(segment, n, version), "station {n} of {segment:?}");
}

/// A stream of numbers.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// The stations that exist about now: a window that slides, so that stations come and go for good.
fn someone(state: &mut u64, clock: &AtomicU64) -> u64 {
    1 + clock.load(Ordering::Relaxed) / 4 + random(state) % 600
}

/// One of those whose work the others wait for; also when it fails, so that the test ends.
struct AtWork<'a>(&'a AtomicUsize);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[test]
fn nobody_sees_a_place_that_is_not_the_stations() {
    const STEPS: u64 = if cfg!(miri) { 300 } else { 60_000 };
    // What the readers find at the least: the learners go on until then, within reason.
    const ENOUGH: u64 = if cfg!(miri) { 0 } else { 5000 };
    let damping = Damping { moves: 3, window_ms: 2000, freeze_ms: 1000 };
    let settings = Settings { damping, max_entries: MAX_ENTRIES, ..Settings::default() };
    let fdb = Arc::new(Fdb::new(settings));
    for segment in SEGMENTS {
        let limits = SegmentLimits { aging_ms: 1500, max_macs: 400, ..SegmentLimits::default() };
        fdb.configure_segment(segment, limits);
    }
    let clock = AtomicU64::new(0);
    let (seen, learned) = (AtomicU64::new(0), SEGMENTS.map(|_| AtomicU64::new(0)));
    let (learners, start) = (AtomicUsize::new(2), Barrier::new(5));
    thread::scope(|scope| {
        for seed in 0..2 {
            let (fdb, clock, seen, learned) = (&fdb, &clock, &seen, &learned);
            let (learners, start) = (&learners, &start);
            // Readers of the frames' path, who also learn.
            scope.spawn(move || {
                let (mut reader, mut state) = (fdb.reader(), seed);
                start.wait();
                while learners.load(Ordering::Relaxed) > 0 {
                    let n = someone(&mut state, clock);
                    let at = random(&mut state) as usize % 2;
                    let segment = SEGMENTS[at];
                    let now = Tick(clock.load(Ordering::Relaxed));
                    let lookup = reader.lookup(segment, station(n).get(), now);
                    check(segment, n, lookup);
                    seen.fetch_add(u64::from(lookup != Lookup::Unknown), Ordering::Relaxed);
                    check(segment, n, fdb.lookup(segment, station(n).get(), now));
                    if let Some(view) = reader.view(segment, now) {
                        let others = [n, someone(&mut state, clock), someone(&mut state, clock)];
                        let foreseen = others.map(|n| view.foresee(station(n).into()));
                        for (n, station) in others.into_iter().zip(foreseen) {
                            let found = station.and_then(|station| view.find(station));
                            check(segment, n, found.map_or(Lookup::Unknown, Lookup::from));
                        }
                    }
                    if random(&mut state).is_multiple_of(8) {
                        let dest = place(segment, n, random(&mut state) as u16 % 4);
                        match reader.learn(segment, station(n), dest, now) {
                            Learn::Moved { from } => check(segment, n, from.into()),
                            Learn::New { .. } => {
                                learned[at].fetch_add(1, Ordering::Relaxed);
                            }
                            Learn::Known | Learn::Refused(_) => {}
                        }
                    }
                }
            });
            // Learners and movers.
            scope.spawn(move || {
                let (_at_work, mut state) = (AtWork(learners), seed + 10);
                start.wait();
                for step in 0..STEPS * 100 {
                    if step >= STEPS && seen.load(Ordering::Relaxed) >= ENOUGH {
                        break;
                    }
                    let now = Tick(clock.fetch_add(1, Ordering::Relaxed));
                    let n = someone(&mut state, clock);
                    let segment = SEGMENTS[random(&mut state) as usize % 2];
                    let dest = place(segment, n, random(&mut state) as u16 % 3);
                    fdb.learn(segment, station(n), dest, now);
                }
            });
        }
        // Control.
        scope.spawn(|| {
            let mut state = 99;
            start.wait();
            for step in 0..STEPS / 4 {
                let now = Tick(clock.load(Ordering::Relaxed));
                let n = someone(&mut state, &clock);
                let segment = SEGMENTS[random(&mut state) as usize % 2];
                match random(&mut state) % 64 {
                    0 => drop(fdb.flush(Scope::segment(segment))),
                    1 => {
                        for row in fdb.entries(now) {
                            check(row.segment, row.mac.get().to_bits() & 0xffff, row.dest.into());
                        }
                    }
                    2..8 => drop(fdb.flush(Scope::dest(place(segment, n, 2)).with_pinned())),
                    8..24 => drop(fdb.expire(now, step as usize % 40)),
                    24..40 => {
                        let dest = place(segment, n, 5);
                        let insert = fdb.insert(segment, station(n), dest, Origin::Static, now);
                        if let Insert::Replaced { dest, .. } = insert {
                            check(segment, n, dest.into());
                        }
                    }
                    _ => {
                        if let Some((dest, _)) = fdb.remove(segment, station(n)) {
                            check(segment, n, dest.into());
                        }
                    }
                }
            }
        });
    });
    assert!(seen.into_inner() >= ENOUGH, "the readers found hardly anybody");
    for learned in learned {
        assert!(learned.into_inner() >= ENOUGH / 50, "the readers learned hardly anybody");
    }
    settle(&fdb, clock.into_inner());
}

/// When all is quiet, every account of the table is the same.
fn settle(fdb: &Fdb, now: u64) {
    while !fdb.expire(Tick(now), 1000).done {}
    let rows = fdb.entries(Tick(now));
    let keys: BTreeSet<_> = rows.iter().map(|row| (row.segment, row.mac)).collect();
    assert_eq!(keys.len(), rows.len(), "a station twice");
    for row in &rows {
        assert_eq!(fdb.lookup(row.segment, row.mac.get(), Tick(now)), row.dest.into());
    }
    for segment in SEGMENTS {
        let of = |origin| {
            rows.iter().filter(|row| row.segment == segment && row.origin == origin).count() as u32
        };
        let counts = fdb.counts(segment);
        assert!(counts.learned <= 400);
        assert_eq!(counts.learned, of(Origin::Learned));
        assert_eq!(counts.fixed, of(Origin::Static));
        let owned: u32 = fdb.owners(segment).iter().map(|(_, count)| count).sum();
        assert_eq!(owned, counts.learned);
    }
    let learned: u32 = SEGMENTS.iter().map(|segment| fdb.counts(*segment).learned).sum();
    assert!(learned <= MAX_ENTRIES);
    assert_eq!(fdb.flush(Scope::all().with_pinned()), rows.len());
    assert_eq!(fdb.entries(Tick(now)), []);
    // Every place among all entries was given back, and none twice: so many are free again.
    fdb.configure_segment(SEGMENTS[0], SegmentLimits::default());
    for n in 0..=MAX_ENTRIES {
        let dest = place(SEGMENTS[0], 1, 0);
        let learn = fdb.learn(SEGMENTS[0], station(n.into()), dest, Tick(now));
        let evicted = (n == MAX_ENTRIES).then_some(dest);
        assert_eq!(learn, Learn::New { evicted }, "the {n}th");
    }
}

/// A station moves and tells everyone; who has heard must find it there or further, while
/// strangers make the table grow and be rebuilt (the readers' clock stands).
#[test]
fn news_is_never_older_than_what_was_heard() {
    const ROUNDS: u64 = if cfg!(miri) { 40 } else { 12_000 };
    const STATIONS: u64 = 32;
    let segment = SEGMENTS[0];
    let settings = Settings {
        damping: Damping { moves: 254, window_ms: 100, freeze_ms: 100 },
        ..Settings::default()
    };
    let fdb = Arc::new(Fdb::new(settings));
    let limits = SegmentLimits { aging_ms: 0, max_macs: 100_000, ..SegmentLimits::default() };
    fdb.configure_segment(segment, SegmentLimits { per_port: 3000, ..limits });
    let heard: Vec<AtomicU64> = (0..=STATIONS).map(|_| AtomicU64::new(0)).collect();
    let movers = AtomicUsize::new(1);
    thread::scope(|scope| {
        let (fdb, heard, movers) = (&fdb, &heard, &movers);
        let version = |lookup| match lookup {
            Lookup::Port(PortId { generation, .. }) => u64::from(generation),
            _ => 0,
        };
        for seed in 0..2 {
            scope.spawn(move || {
                let (mut reader, mut state) = (fdb.reader(), seed);
                while movers.load(Ordering::Relaxed) > 0 {
                    let n = 1 + random(&mut state) % STATIONS;
                    let least = heard[n as usize].load(Ordering::Acquire);
                    let found = version(reader.lookup(segment, station(n).get(), Tick(0)));
                    assert!(found >= least, "station {n}: {found} after {least}");
                    let found = version(fdb.lookup(segment, station(n).get(), Tick(0)));
                    assert!(found >= least, "station {n}: {found} after {least}, shared");
                    let view = reader.view(segment, Tick(0)).expect("it learns");
                    let foreseen = view.foresee(station(n).into());
                    let found =
                        foreseen.and_then(|it| view.find(it)).map_or(Lookup::Unknown, Lookup::from);
                    let found = version(found);
                    assert!(found >= least, "station {n}: {found} after {least}, by a view");
                }
            });
        }
        scope.spawn(move || {
            let mut n = 1000;
            while movers.load(Ordering::Relaxed) > 0 {
                n += 1;
                let dest = Dest::Port(PortId { slot: 9999, generation: 0 });
                fdb.learn(segment, station(n), dest, Tick(0));
            }
        });
        scope.spawn(move || {
            let _at_work = AtWork(movers);
            for round in 1..=ROUNDS {
                for n in 1..=STATIONS {
                    let port = PortId { slot: n as u16, generation: round as u16 };
                    fdb.learn(segment, station(n), Dest::Port(port), Tick(round * 200));
                    heard[n as usize].store(round, Ordering::Release);
                }
            }
        });
    });
    assert_eq!(fdb.totals().moves, (ROUNDS - 1) * STATIONS);
    assert_eq!(fdb.totals().damped, 0);
}
