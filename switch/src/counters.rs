//! Counters that obey one law: per ingress, received = forwarded + answered + dropped.
//!
//! Each worker has its own set and is its only writer, so that counting is a load and a store on a
//! cache line that nobody else writes. Readers add the workers' sets up. All figures count frames
//! and bytes as they would be on the wire: a superframe adds its segments.

use crate::reason::DropReason;
use encap::Frame;
use fdb::{PortId, Tick, VtepId};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// One number with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`. Only the owning worker may call this: two writers would lose updates.
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    /// The sum so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// How much a frame counts for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// Frames on a wire.
    pub frames: u64,
    /// Bytes on a wire, without preamble and frame check sequence.
    pub bytes: u64,
    /// One for a superframe of at least two segments, else zero.
    pub superframes: u64,
}

impl Weight {
    /// A single frame of `bytes`.
    #[must_use]
    pub const fn single(bytes: usize) -> Self {
        Self { frames: 1, bytes: bytes as u64, superframes: 0 }
    }

    /// The weight of `frame`.
    #[must_use]
    #[inline]
    pub fn of(frame: &Frame<'_>) -> Self {
        if frame.offload.gso.is_none() {
            return Self::single(frame.len());
        }
        let frames = frame.wire_frames();
        Self { frames, bytes: frame.wire_bytes(), superframes: u64::from(frames > 1) }
    }
}

impl core::ops::AddAssign for Weight {
    #[inline]
    fn add_assign(&mut self, other: Self) {
        self.frames += other.frames;
        self.bytes += other.bytes;
        self.superframes += other.superframes;
    }
}

/// What came in at a port or from a VTEP, and what became of it.
#[derive(Debug)]
pub struct Ingress {
    /// The tick of the last frame that was not dropped, plus one; zero for none.
    heard: AtomicU64,
    frames: Counter,
    bytes: Counter,
    superframes: Counter,
    forwarded: Counter,
    answered: Counter,
    dropped: [Counter; DropReason::COUNT],
}

/// What went out at a port or to a VTEP, and what could not.
#[derive(Debug)]
pub struct Egress {
    frames: Counter,
    bytes: Counter,
    superframes: Counter,
    dropped: [Counter; DropReason::COUNT],
}

impl Default for Ingress {
    fn default() -> Self {
        Self {
            heard: AtomicU64::new(0),
            frames: Counter::default(),
            bytes: Counter::default(),
            superframes: Counter::default(),
            forwarded: Counter::default(),
            answered: Counter::default(),
            dropped: std::array::from_fn(|_| Counter::default()),
        }
    }
}

impl Default for Egress {
    fn default() -> Self {
        Self {
            frames: Counter::default(),
            bytes: Counter::default(),
            superframes: Counter::default(),
            dropped: std::array::from_fn(|_| Counter::default()),
        }
    }
}

impl Ingress {
    #[inline]
    fn received(&self, weight: Weight) {
        self.frames.add(weight.frames);
        self.bytes.add(weight.bytes);
        if weight.superframes != 0 {
            self.superframes.add(weight.superframes);
        }
    }

    /// Something valid came in at `now`.
    #[inline]
    pub(crate) fn heard_at(&self, now: Tick) {
        self.heard.store(now.0.wrapping_add(1), Relaxed);
    }

    /// When something valid last came in.
    #[must_use]
    pub fn last_heard(&self) -> Option<Tick> {
        self.heard.load(Relaxed).checked_sub(1).map(Tick)
    }

    /// The frame went to at least one output.
    #[inline]
    pub fn forwarded(&self, weight: Weight) {
        self.received(weight);
        self.forwarded.add(weight.frames);
    }

    /// The frame was answered by the switch itself.
    pub fn answered(&self, weight: Weight) {
        self.received(weight);
        self.answered.add(weight.frames);
    }

    /// The frame was dropped.
    pub fn dropped(&self, weight: Weight, reason: DropReason) {
        self.received(weight);
        self.dropped[reason as usize].add(weight.frames);
    }
}

impl Egress {
    /// The frame was handed to the kernel.
    #[inline]
    pub fn sent(&self, weight: Weight) {
        self.frames.add(weight.frames);
        self.bytes.add(weight.bytes);
        if weight.superframes != 0 {
            self.superframes.add(weight.superframes);
        }
    }

    /// The copy for this output was lost. This stands beside the law: the frame counts as
    /// forwarded at its ingress.
    pub fn dropped(&self, frames: u64, reason: DropReason) {
        self.dropped[reason as usize].add(frames);
    }
}

/// Both directions of a port or VTEP.
#[derive(Debug, Default)]
pub struct Link {
    /// From the port or VTEP into the switch.
    pub rx: Ingress,
    /// From the switch to the port or VTEP.
    pub tx: Egress,
}

const CHUNK: usize = 16;

/// Counters by slot, made when a slot is first used and then never moved, so that the worker and
/// its readers need no lock.
#[derive(Debug)]
struct Slots {
    chunks: Box<[OnceLock<Box<[Link; CHUNK]>>]>,
}

impl Default for Slots {
    fn default() -> Self {
        let chunks = (usize::from(u16::MAX) + 1) / CHUNK;
        Self { chunks: (0..chunks).map(|_| OnceLock::new()).collect() }
    }
}

impl Slots {
    #[inline]
    fn at(&self, slot: u16) -> &Link {
        let slot = usize::from(slot);
        let chunk = self.chunks[slot / CHUNK]
            .get_or_init(|| Box::new(std::array::from_fn(|_| Link::default())));
        &chunk[slot % CHUNK]
    }

    fn peek(&self, slot: u16) -> Option<&Link> {
        let slot = usize::from(slot);
        self.chunks[slot / CHUNK].get().map(|chunk| &chunk[slot % CHUNK])
    }
}

/// The counters of one worker.
#[derive(Debug, Default)]
pub struct Counters {
    ports: Slots,
    vteps: Slots,
    stranger: Link,
    reserved_bits: Counter,
}

impl Counters {
    /// The counters of a port's slot.
    #[must_use]
    #[inline]
    pub fn port(&self, port: PortId) -> &Link {
        self.ports.at(port.slot)
    }

    /// The counters of a VTEP's slot.
    #[must_use]
    #[inline]
    pub fn vtep(&self, vtep: VtepId) -> &Link {
        self.vteps.at(vtep.slot)
    }

    /// The counters of datagrams whose source is no known VTEP.
    #[must_use]
    pub fn stranger(&self) -> &Link {
        &self.stranger
    }

    /// Frames that were accepted although a reserved bit of their VXLAN header was set.
    #[must_use]
    pub fn reserved_bits(&self) -> &Counter {
        &self.reserved_bits
    }
}

/// A [`Link`] read at one time, summed over workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Received frames, bytes and superframes.
    pub rx: Weight,
    /// Received frames that went to at least one output.
    pub forwarded: u64,
    /// Received frames that the switch answered itself.
    pub answered: u64,
    /// Received frames dropped, by reason.
    pub rx_dropped: [u64; DropReason::COUNT],
    /// Sent frames, bytes and superframes.
    pub tx: Weight,
    /// Copies that were lost on the way out, by reason.
    pub tx_dropped: [u64; DropReason::COUNT],
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            rx: Weight::default(),
            forwarded: 0,
            answered: 0,
            rx_dropped: [0; DropReason::COUNT],
            tx: Weight::default(),
            tx_dropped: [0; DropReason::COUNT],
        }
    }
}

impl Reading {
    /// Adds what `link` counts now.
    pub fn add(&mut self, link: &Link) {
        self.rx.frames += link.rx.frames.get();
        self.rx.bytes += link.rx.bytes.get();
        self.rx.superframes += link.rx.superframes.get();
        self.forwarded += link.rx.forwarded.get();
        self.answered += link.rx.answered.get();
        self.tx.frames += link.tx.frames.get();
        self.tx.bytes += link.tx.bytes.get();
        self.tx.superframes += link.tx.superframes.get();
        for (sum, counter) in self.rx_dropped.iter_mut().zip(&link.rx.dropped) {
            *sum += counter.get();
        }
        for (sum, counter) in self.tx_dropped.iter_mut().zip(&link.tx.dropped) {
            *sum += counter.get();
        }
    }

    /// What was counted since `earlier`: the life of a slot's present user.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let weight = |a: Weight, b: Weight| Weight {
            frames: a.frames.wrapping_sub(b.frames),
            bytes: a.bytes.wrapping_sub(b.bytes),
            superframes: a.superframes.wrapping_sub(b.superframes),
        };
        Self {
            rx: weight(self.rx, earlier.rx),
            forwarded: self.forwarded.wrapping_sub(earlier.forwarded),
            answered: self.answered.wrapping_sub(earlier.answered),
            rx_dropped: std::array::from_fn(|i| {
                self.rx_dropped[i].wrapping_sub(earlier.rx_dropped[i])
            }),
            tx: weight(self.tx, earlier.tx),
            tx_dropped: std::array::from_fn(|i| {
                self.tx_dropped[i].wrapping_sub(earlier.tx_dropped[i])
            }),
        }
    }

    /// All received frames that were dropped.
    #[must_use]
    pub fn rx_dropped_total(&self) -> u64 {
        self.rx_dropped.iter().sum()
    }

    /// All copies that were lost on the way out.
    #[must_use]
    pub fn tx_dropped_total(&self) -> u64 {
        self.tx_dropped.iter().sum()
    }

    /// Whether received = forwarded + answered + dropped. Holds whenever the workers rest.
    #[must_use]
    pub fn law_holds(&self) -> bool {
        self.rx.frames == self.forwarded + self.answered + self.rx_dropped_total()
    }
}

/// Sums one port's slot over the workers' counters.
#[must_use]
pub fn read_port<'a>(workers: impl IntoIterator<Item = &'a Counters>, port: PortId) -> Reading {
    read(workers.into_iter().map(|counters| counters.ports.peek(port.slot)))
}

/// Sums one VTEP's slot over the workers' counters.
#[must_use]
pub fn read_vtep<'a>(workers: impl IntoIterator<Item = &'a Counters>, vtep: VtepId) -> Reading {
    read(workers.into_iter().map(|counters| counters.vteps.peek(vtep.slot)))
}

/// Sums what came from no known VTEP over the workers' counters.
#[must_use]
pub fn read_stranger<'a>(workers: impl IntoIterator<Item = &'a Counters>) -> Reading {
    read(workers.into_iter().map(|counters| Some(&counters.stranger)))
}

fn read<'a>(links: impl Iterator<Item = Option<&'a Link>>) -> Reading {
    let mut reading = Reading::default();
    links.flatten().for_each(|link| reading.add(link));
    reading
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_counts_for_its_present_user_only() {
        let counters = [Counters::default(), Counters::default()];
        let port = PortId { slot: 700, generation: 0 };
        counters[0].port(port).rx.forwarded(Weight::single(60));
        counters[1].port(port).rx.dropped(Weight::single(70), DropReason::LinkLocal);
        let earlier = read_port(&counters, port);
        assert_eq!((earlier.rx.frames, earlier.rx.bytes, earlier.forwarded), (2, 130, 1));
        assert!(earlier.law_holds());
        counters[1].port(port).rx.answered(Weight { frames: 44, bytes: 61_000, superframes: 1 });
        let life = read_port(&counters, port).since(&earlier);
        assert_eq!((life.rx.frames, life.rx.superframes, life.answered), (44, 1, 44));
        assert_eq!(life.rx_dropped_total(), 0);
        assert!(life.law_holds());
    }
}
