//! What is measured between two pods. Sockets belong to the pods' namespaces; the threads that use
//! them are this process's, the same for every contestant.

pub(crate) mod rtt;
pub(crate) mod tcp;
pub(crate) mod udp;

use std::net::IpAddr;
use std::sync::{Barrier, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Result;
use lab::world::Space;

use crate::underlay::CableEnd;

/// The two pods.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends<'a> {
    pub(crate) client: &'a Space,
    pub(crate) server: &'a Space,
    /// The server's.
    pub(crate) address: IpAddr,
    /// What everything goes through that is not between pods of one node.
    pub(crate) cable: &'a [CableEnd],
}

/// Which way is good, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    Higher,
    Lower,
    /// A count that may well be zero: shown as it is, never as a ratio.
    Count,
}

/// One number of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    pub(crate) metric: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) value: f64,
}

impl Figure {
    pub(crate) const fn higher(metric: &'static str, unit: &'static str, value: f64) -> Self {
        Self { metric, unit, better: Better::Higher, value }
    }

    pub(crate) const fn lower(metric: &'static str, unit: &'static str, value: f64) -> Self {
        Self { metric, unit, better: Better::Lower, value }
    }

    pub(crate) const fn count(metric: &'static str, unit: &'static str, value: f64) -> Self {
        Self { metric, unit, better: Better::Count, value }
    }
}

/// Something to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    /// TCP streams from client to server.
    Tcp(usize),
    /// One TCP stream each way at once.
    TcpBoth,
    /// Datagrams of this many bytes, one by one.
    Udp(usize),
    /// The same, sent in runs by UDP_SEGMENT.
    Gso(usize),
    /// Round trips, with a TCP stream beside them or without.
    Rtt { over: Over, loaded: bool },
}

/// What carries a round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    Tcp,
    Udp,
}

impl Measure {
    pub(crate) fn all() -> Vec<Self> {
        let mut all: Vec<_> = [1, 4, 16].map(Self::Tcp).into();
        all.push(Self::TcpBoth);
        all.extend([18, 512, 1200].map(Self::Udp));
        all.extend([18, 512, 1200].map(Self::Gso));
        for loaded in [false, true] {
            all.extend([Over::Tcp, Over::Udp].map(|over| Self::Rtt { over, loaded }));
        }
        all
    }

    /// As `--only` and the results call it.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Tcp(streams) => format!("tcp-{streams}"),
            Self::TcpBoth => "tcp-both".to_owned(),
            Self::Udp(size) => format!("udp-{size}"),
            Self::Gso(size) => format!("gso-{size}"),
            Self::Rtt { over, loaded } => {
                let over = if *over == Over::Tcp { "tcp" } else { "udp" };
                format!("rtt-{over}-{}", if *loaded { "load" } else { "idle" })
            }
        }
    }

    /// Measures.
    ///
    /// # Errors
    ///
    /// If a connection breaks or stands still, nothing arrives, or something of another size.
    pub(crate) fn run(self, ends: Ends<'_>, length: Duration) -> Result<Vec<Figure>> {
        match self {
            Self::Tcp(streams) => tcp::run(ends, (streams, 0), length),
            Self::TcpBoth => tcp::run(ends, (1, 1), length),
            Self::Udp(size) => udp::run(ends, size, udp::How::OneByOne, length),
            Self::Gso(size) => udp::run(ends, size, udp::How::Segmented, length),
            Self::Rtt { over, loaded } => rtt::run(ends, over, loaded, length),
        }
    }
}

/// The common start and end of the threads of one measure.
#[derive(Debug)]
pub(crate) struct Start {
    barrier: Barrier,
    begun: OnceLock<Instant>,
    length: Duration,
}

impl Start {
    pub(crate) fn new(threads: usize, length: Duration) -> Self {
        Self { barrier: Barrier::new(threads), begun: OnceLock::new(), length }
    }

    /// Waits for all threads; returns when the measure ends, the same moment for each.
    pub(crate) fn deadline(&self) -> Instant {
        self.barrier.wait();
        *self.begun.get_or_init(Instant::now) + self.length
    }
}

/// A thread's result; its panic is the caller's.
pub(crate) fn join<T>(handle: std::thread::ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
