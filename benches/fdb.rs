//! The forwarding database: look up and learn at three sizes, by one to eight threads, and readers
//! beside a learner. One operation's time is what is reported, per thread.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use encap::{MacAddr, StationBits, StationMac};
use fdb::{Dest, Fdb, PortId, Reader, SegmentId, SegmentLimits, Settings, Tick, VtepId};

const SEGMENT: SegmentId = SegmentId(1);
const SIZES: [(&str, u64); 3] = [("1k", 1 << 10), ("64k", 1 << 16), ("1M", 1 << 20)];
const THREADS: [u64; 4] = [1, 2, 4, 8];
/// An odd number by which to stride through a power of two in no recognisable order.
const STRIDE: u64 = 0x9e37_79b1;
/// Look-ups at a time.
const BURST: u64 = 32;

fn station(n: u64) -> StationMac {
    let mac = MacAddr::from_bits(0x0200_0000_0000 | (n & 0xff_ffff_ffff));
    mac.station().unwrap_or_else(|| unreachable!("the group bit is clear"))
}

/// Eight ports and a thousand VTEPs.
fn owner(n: u64) -> Dest {
    match n % 1008 {
        slot @ 0..8 => Dest::Port(PortId { slot: slot as u16, generation: 1 }),
        slot => Dest::Vtep(VtepId { slot: slot as u16, generation: 1 }),
    }
}

/// A table with room for `max` stations that holds the first `filled`.
fn table(max: u64, filled: u64) -> Arc<Fdb> {
    let max = u32::try_from(max).unwrap_or(u32::MAX);
    let fdb = Arc::new(Fdb::new(Settings { max_entries: max, ..Settings::default() }));
    let limits =
        SegmentLimits { max_macs: max, per_port: max, per_vtep: max, ..SegmentLimits::default() };
    fdb.configure_segment(SEGMENT, limits);
    for n in 0..filled {
        fdb.learn(SEGMENT, station(n), owner(n), Tick(0));
    }
    fdb
}

fn look_up(reader: &mut Reader, size: u64, first: u64, iters: u64) {
    for n in first..first + iters {
        let mac = station(black_box(n.wrapping_mul(STRIDE) % size)).get();
        black_box(reader.lookup(SEGMENT, mac, Tick(0)));
    }
}

/// As [`look_up`], 32 at a time.
fn look_up_in_bursts(reader: &mut Reader, size: u64, first: u64, iters: u64) {
    for burst in (first..first + iters).step_by(BURST as usize) {
        let Some(view) = reader.view(SEGMENT, Tick(0)) else { return };
        let macs: [StationBits; BURST as usize] = std::array::from_fn(|at| {
            StationBits::from(station((burst + at as u64).wrapping_mul(STRIDE) % size))
        });
        let foreseen = black_box(macs).map(|mac| view.foresee(mac));
        for station in foreseen.iter().flatten() {
            black_box(view.find(*station));
        }
    }
}

/// The time in which every one of `threads` threads has done `work`.
fn together(threads: u64, work: impl Fn(u64) + Sync) -> Duration {
    let start = Instant::now();
    thread::scope(|scope| {
        for thread in 1..threads {
            let work = &work;
            scope.spawn(move || work(thread));
        }
        work(0);
    });
    start.elapsed()
}

fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fdb/lookup");
    group.throughput(Throughput::Elements(1));
    for (name, size) in SIZES {
        let fdb = table(size, size);
        for threads in THREADS {
            group.bench_function(BenchmarkId::new(name, threads), |bencher| {
                bencher.iter_custom(|iters| {
                    together(threads, |thread| {
                        look_up(&mut fdb.reader(), size, thread * 12_345, iters);
                    })
                });
            });
        }
        group.bench_function(BenchmarkId::new("in bursts", name), |bencher| {
            bencher.iter_custom(|iters| {
                together(1, |_| look_up_in_bursts(&mut fdb.reader(), size, 0, iters))
            });
        });
    }
    let fdb = table(1 << 16, 1 << 16);
    let mut reader = fdb.reader();
    group.bench_function("same station", |bencher| {
        let mac = station(7).get();
        bencher.iter(|| reader.lookup(SEGMENT, black_box(mac), Tick(0)));
    });
    group.bench_function("unknown station", |bencher| {
        let mac = station(1 << 30).get();
        bencher.iter(|| reader.lookup(SEGMENT, black_box(mac), Tick(0)));
    });
    group.bench_function("without a reader", |bencher| {
        let mut n = 0_u64;
        bencher.iter(|| {
            n = n.wrapping_add(STRIDE) % (1 << 16);
            fdb.lookup(SEGMENT, station(n).get(), Tick(0))
        });
    });
    group.finish();
}

fn learn(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fdb/learn");
    group.throughput(Throughput::Elements(1));
    for (name, size) in SIZES {
        let fdb = table(size, size);
        for threads in THREADS {
            group.bench_function(BenchmarkId::new(format!("known/{name}"), threads), |bencher| {
                bencher.iter_custom(|iters| {
                    together(threads, |thread| {
                        let mut reader = fdb.reader();
                        for n in 0..iters {
                            let n = (n + thread * 12_345).wrapping_mul(STRIDE) % size;
                            black_box(reader.learn(SEGMENT, station(n), owner(n), Tick(0)));
                        }
                    })
                });
            });
        }
        // Each pass over the stations is a second later: every frame refreshes.
        let mut step = size;
        group.bench_function(BenchmarkId::new("refresh", name), |bencher| {
            let mut reader = fdb.reader();
            bencher.iter(|| {
                step += 1;
                let n = step.wrapping_mul(STRIDE) % size;
                reader.learn(SEGMENT, station(n), owner(n), Tick(step / size * 1100))
            });
        });
        // The table is full: every stranger costs an entry.
        let mut stranger = size;
        group.bench_function(BenchmarkId::new("stranger, full", name), |bencher| {
            let mut reader = fdb.reader();
            bencher.iter(|| {
                stranger += 1;
                reader.learn(SEGMENT, station(stranger), owner(stranger), Tick(0))
            });
        });
    }
    for threads in THREADS {
        group.bench_function(BenchmarkId::new("stranger, from empty", threads), |bencher| {
            bencher.iter_custom(|iters| {
                let fdb = table(1 << 20, 0);
                together(threads, |thread| {
                    let mut reader = fdb.reader();
                    for n in 0..iters {
                        let n = (thread << 32) | n;
                        black_box(reader.learn(SEGMENT, station(n), owner(n), Tick(0)));
                    }
                })
            });
        });
    }
    group.finish();
}

/// The least that any table of a million entries costs here: one flat array of keys and words, half
/// full, without shards, limits, aging, or anyone else's writes. Figures for 1M are read beside it.
struct Plain {
    slots: Box<[(u64, u64)]>,
}

impl Plain {
    fn with(size: u64) -> Self {
        let mut plain = Self { slots: vec![(0, 0); 2 * size as usize].into_boxed_slice() };
        for n in 0..size {
            let key = station(n).get().to_bits();
            let mut at = plain.home(key);
            while plain.slots[at].0 != 0 {
                at = (at + 1) & (plain.slots.len() - 1);
            }
            plain.slots[at] = (key, n);
        }
        plain
    }

    fn home(&self, key: u64) -> usize {
        let product = u128::from(key) * 0x9e37_79b9_7f4a_7c15_u128;
        (product as u64 ^ (product >> 64) as u64) as usize & (self.slots.len() - 1)
    }

    fn look_up(&self, key: u64) -> Option<u64> {
        let mut at = self.home(key);
        loop {
            match self.slots[at] {
                (0, _) => return None,
                (found, word) if found == key => return Some(word),
                _ => at = (at + 1) & (self.slots.len() - 1),
            }
        }
    }
}

fn plain(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fdb/plain");
    group.throughput(Throughput::Elements(1));
    for (name, size) in SIZES {
        let plain = Plain::with(size);
        let mut n = 0_u64;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                n += 1;
                plain.look_up(black_box(station(n.wrapping_mul(STRIDE) % size).get().to_bits()))
            });
        });
    }
    group.finish();
}

/// Readers while a learner takes in ten thousand strangers a second, ten at a time: to wake it for each
/// would take the readers' processors from them for much longer than learning does.
fn beside(criterion: &mut Criterion) {
    const EVERY: Duration = Duration::from_millis(1);
    const STRANGERS: u64 = 10;
    let mut group = criterion.benchmark_group("fdb/beside");
    group.throughput(Throughput::Elements(1));
    let size = 1 << 20;
    let fdb = table(size, size);
    let strangers = AtomicU64::new(size);
    for (name, readers, learning) in [
        ("one reader alone", 1, false),
        ("two readers alone", 2, false),
        ("two readers and 10k learns/s", 2, true),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iters| {
                let over = AtomicBool::new(!learning);
                thread::scope(|scope| {
                    scope.spawn(|| {
                        let mut next = Instant::now();
                        while !over.load(Ordering::Relaxed) {
                            let first = strangers.fetch_add(STRANGERS, Ordering::Relaxed);
                            for n in first..first + STRANGERS {
                                fdb.learn(SEGMENT, station(n), owner(n), Tick(0));
                            }
                            next += EVERY;
                            thread::sleep(next.saturating_duration_since(Instant::now()));
                        }
                    });
                    let time = together(readers, |thread| {
                        look_up(&mut fdb.reader(), size, thread * 12_345, iters);
                    });
                    over.store(true, Ordering::Relaxed);
                    time
                })
            });
        });
    }
    group.finish();
}

fn settings() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
}

criterion_group! { name = benches; config = settings(); targets = plain, lookup, learn, beside }
criterion_main!(benches);
