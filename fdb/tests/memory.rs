//! What a million entries cost. Alone in its process, whose resident size it reads.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::sync::Arc;

use encap::{MacAddr, StationMac};
use fdb::{
    Dest, Fdb, Learn, Lookup, PortId, Scope, SegmentId, SegmentLimits, Settings, Tick, VtepId,
};

const ENTRIES: u64 = 1 << 20;
const SEGMENT: SegmentId = SegmentId(1);

fn station(n: u64) -> StationMac {
    MacAddr::from_bits(0x0200_0000_0000 | n).station().unwrap()
}

fn owner(n: u64) -> Dest {
    match n % 200 {
        slot @ 0..8 => Dest::Port(PortId { slot: slot as u16, generation: 1 }),
        slot => Dest::Vtep(VtepId { slot: slot as u16, generation: 1 }),
    }
}

/// Bytes of this process in memory (proc_pid_statm(5), the second number, in pages).
fn resident() -> Option<usize> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    statm.split(' ').nth(1)?.parse::<usize>().ok().map(|pages| pages * 4096)
}

#[test]
fn a_million_entries_fit_into_128_bytes_each() {
    let before = resident();
    let fdb = Arc::new(Fdb::new(Settings::default()));
    let limits = SegmentLimits {
        max_macs: u32::MAX,
        per_port: u32::MAX,
        per_vtep: u32::MAX,
        ..SegmentLimits::default()
    };
    fdb.configure_segment(SEGMENT, limits);
    let mut reader = fdb.reader();
    assert!(fdb.memory() < 128 * 1024, "idle: {} bytes", fdb.memory());

    for n in 0..ENTRIES {
        let learn = reader.learn(SEGMENT, station(n), owner(n), Tick(n / 1000));
        assert_eq!(learn, Learn::New { evicted: None }, "{n}");
    }
    // Everybody has moved once: the history of moves is part of the price.
    for n in 0..ENTRIES {
        let learn = reader.learn(SEGMENT, station(n), owner(n + 1), Tick(2000));
        assert_eq!(learn, Learn::Moved { from: owner(n) });
    }
    for n in (0..ENTRIES).step_by(97) {
        let found = reader.lookup(SEGMENT, station(n).get(), Tick(2000));
        assert_eq!(found, Lookup::from(owner(n + 1)));
    }
    // The table is full: one more costs an entry and no memory.
    let full = fdb.memory();
    let stranger = fdb.learn(SEGMENT, station(ENTRIES), owner(3), Tick(2000));
    assert!(matches!(stranger, Learn::New { evicted: Some(_) }));
    assert_eq!(fdb.counts(SEGMENT).learned, ENTRIES as u32);

    let each = full as f64 / ENTRIES as f64;
    println!("{each:.1} bytes an entry by account");
    assert!(each <= 128.0, "{each} bytes an entry by account");
    if let (Some(before), Some(after)) = (before, resident()) {
        let each = (after - before) as f64 / ENTRIES as f64;
        println!("{each:.1} bytes an entry by the kernel's account, a reader with it");
        assert!(each <= 128.0, "{each} bytes an entry by the kernel's account");
        assert!((after - before) as f64 > full as f64 * 0.5, "the table's account is wrong");
    }

    assert_eq!(fdb.flush(Scope::all()), ENTRIES as usize);
    assert!(fdb.memory() < 2 << 20, "empty again: {} bytes", fdb.memory());
}
