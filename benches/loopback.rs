//! What two nodes forward, guest to guest: real workers over socket pairs and loopback UDP, one
//! worker each. A burst is sent and awaited whole, so that nothing is lost; figures count what a
//! wire would carry. Sending and taking at the guests' ends is part of the time.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark")]

#[path = "../tests/worker/kit.rs"]
mod kit;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kit::{Guest, HEADERS, Net, Node, Stream, udp};

/// Two nodes with a guest each; the guests' ports take superframes or not.
struct Pair {
    nodes: [Node; 2],
    one: Guest,
    other: Guest,
}

impl Pair {
    fn new(superframes: bool) -> Self {
        let net = Net::new();
        let nodes = [Node::new(net, 1, &[2], &["a"], 1), Node::new(net, 2, &[1], &["b"], 1)];
        let one = nodes[0].attach("a", superframes);
        let other = nodes[1].attach("b", superframes);
        nodes.iter().for_each(Node::settle);
        // Both sides learn who is where, as they would within the first exchange.
        other.send(&udp(2, 1, 0, 0, 60));
        let mut pair = Self { nodes, one, other };
        assert_eq!(pair.one.frame(), udp(2, 1, 0, 0, 60));
        pair.one.send(&udp(1, 2, 0, 0, 60));
        assert_eq!(pair.other.frame(), udp(1, 2, 0, 0, 60));
        pair
    }

    fn stop(self) {
        self.nodes.iter().for_each(Node::law);
        self.nodes.into_iter().for_each(Node::stop);
    }
}

/// Frames that arrive as they were sent.
fn frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("loopback/frames");
    // Bytes of the frame, and frames in a burst: as many as every buffer holds.
    for (len, burst) in [(64, 128), (1464, 64)] {
        let mut pair = Pair::new(false);
        let frame = udp(1, 2, 0, 0, len - 42);
        assert_eq!(frame.len(), len);
        group.throughput(Throughput::ElementsAndBytes {
            elements: burst,
            bytes: burst * len as u64,
        });
        group.bench_function(BenchmarkId::from_parameter(len), |b| {
            b.iter(|| {
                (0..burst).for_each(|_| pair.one.send(&frame));
                (0..burst).for_each(|_| assert_eq!(pair.other.frame().len(), len));
            });
        });
        pair.stop();
    }
    group.finish();
}

/// TCP superframes, which arrive as such.
fn superframes(c: &mut Criterion) {
    const BURST: usize = 4;
    let mut group = c.benchmark_group("loopback/superframes");
    let mut pair = Pair::new(true);
    let stream = Stream::new(1, 2, 60_000, 1396);
    let (segments, len) = (stream.segments.len(), stream.payload.len());
    let wire = len + segments * HEADERS;
    group.throughput(Throughput::ElementsAndBytes {
        elements: (BURST * segments) as u64,
        bytes: (BURST * wire) as u64,
    });
    group.bench_function(BenchmarkId::from_parameter(len), |b| {
        b.iter(|| {
            (0..BURST).for_each(|_| pair.one.send_on(0, stream.vnet, &stream.bytes));
            let mut left = BURST * len;
            while left > 0 {
                left -= pair.other.frame().len() - HEADERS;
            }
        });
    });
    pair.stop();
    group.finish();
}

criterion_group!(benches, frames, superframes);
criterion_main!(benches);
