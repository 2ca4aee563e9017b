//! Runs: datagrams that one call can send as a train.

use std::io::IoSlice;
use std::net::SocketAddr;

use arrayvec::ArrayVec;
use encap::mtu;

use super::send::SLICES;
use crate::io::sys::SEND_BATCH;

/// The most bytes of one train: a UDP payload, less some room for IPv4 options.
pub(super) const TRAIN_BYTES: usize = 65_000;
/// The most datagrams of one train, on every kernel that has `UDP_SEGMENT`.
pub(super) const TRAIN_SEGMENTS: usize = mtu::UDP_SEGMENTS_MAX_OLD;
/// A datagram in the arena.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) start: usize,
    pub(super) len: usize,
    /// The next one of its run.
    pub(super) next: Option<usize>,
}

/// Datagrams of equal size for one destination, of which only the last may be shorter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) to: SocketAddr,
    pub(super) tag: u32,
    pub(super) bucket: usize,
    pub(super) tos: u8,
    pub(super) size: usize,
    pub(super) bytes: usize,
    pub(super) count: usize,
    pub(super) first: usize,
    pub(super) last: usize,
    pub(super) sent: bool,
}

impl Run {
    /// Whether a datagram of `len` bytes may follow.
    pub(super) fn takes(&self, tos: u8, len: usize) -> bool {
        // Shorter than its size times its count means that a shorter one has closed it.
        self.tos == tos
            && self.bytes == self.size * self.count
            && len <= self.size
            && self.count < TRAIN_SEGMENTS
            && self.bytes + len <= TRAIN_BYTES
    }
}

/// The slices of some runs of one bucket.
#[derive(Default)]
pub(super) struct Gathered<'a> {
    pub(super) slices: ArrayVec<IoSlice<'a>, SLICES>,
    /// The number of each run, and where its slices end.
    pub(super) ends: ArrayVec<(usize, usize), SEND_BATCH>,
}

impl<'a> Gathered<'a> {
    /// Takes as many unsent runs of `bucket` from `next` on as one call can send, and marks them as
    /// sent. Returns whether there were any left.
    pub(super) fn fill(
        &mut self,
        runs: &mut [Run],
        next: &mut usize,
        bucket: usize,
        arena: &'a [u8],
        entries: &[Entry],
    ) -> bool {
        self.slices.clear();
        self.ends.clear();
        while let Some(run) = runs.get_mut(*next) {
            if run.bucket == bucket && !run.sent {
                if self.ends.is_full() || run.count > self.slices.remaining_capacity() {
                    break;
                }
                for (start, len) in (Stretches { entries, next: Some(run.first) }) {
                    let bytes = arena.get(start..start + len).unwrap_or_default();
                    self.slices.push(IoSlice::new(bytes));
                }
                self.ends.push((*next, self.slices.len()));
                run.sent = true;
            }
            *next += 1;
        }
        !self.ends.is_empty()
    }
}

/// Start and length of the pieces of the arena that a run lies in: one, when nothing came in
/// between.
struct Stretches<'a> {
    entries: &'a [Entry],
    next: Option<usize>,
}

impl Iterator for Stretches<'_> {
    type Item = (usize, usize);

    fn next(&mut self) -> Option<(usize, usize)> {
        let first = self.entries.get(self.next?)?;
        let (start, mut len) = (first.start, first.len);
        self.next = first.next;
        while let Some(entry) = self.next.and_then(|next| self.entries.get(next))
            && entry.start == start + len
        {
            len += entry.len;
            self.next = entry.next;
        }
        Some((start, len))
    }
}
