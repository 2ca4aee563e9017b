//! Sending to the underlay: frames are encapsulated once, gathered into trains and sent with as
//! few calls as the kernel allows.
//!
//! A small frame is copied with its header into an arena, once for all who get it. Equal ones that
//! follow one another to the same peer from the same source port become one train. A superframe is
//! not copied: its segments' headers are written side by side, and the kernel gathers them and the
//! payload that lies elsewhere.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use arrayvec::ArrayVec;
use encap::{
    Ethernet, Frame, HEAD_MAX, HEADROOM, IpVersion, Offload, SegmentError, Segments, mtu, vxlan,
};

use super::runs::{Entry, Gathered, Run, TRAIN_SEGMENTS};
use super::send::{Label, SLICES, Sending};
use super::sockets::{BUCKETS, UnderlaySockets};
use crate::io::sys::{Outgoing, SEND_BATCH};

/// Where a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The peer's address and VXLAN port, or a multicast group.
    pub address: SocketAddr,
    /// Bytes of the longest IP packet that the path there takes.
    pub path_mtu: u16,
    /// Handed back with the outcome: the caller's number for this peer.
    pub tag: u32,
}

/// One frame to be encapsulated for one peer or many.
#[derive(Clone, Copy, Debug)]
pub struct Transmit<'a> {
    /// Everybody who gets it.
    pub to: &'a [Destination],
    /// The inner flow's class, which decides the source port: below
    /// [`BUCKETS`].
    pub bucket: usize,
    /// DSCP and ECN of the outer header.
    pub tos: u8,
    /// The VXLAN header.
    pub header: [u8; vxlan::HEADER_LEN],
    /// The frame or superframe.
    pub frame: Frame<'a>,
}

/// Why frames did not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendDrop {
    /// Longer than the path takes.
    TooBig,
    /// The send buffer or the device's queue stayed full.
    Full,
    /// The peer's host said that nobody listens.
    Refused,
    /// No route to the peer, or its link is down.
    Unreachable,
    /// A filter on this host forbids it.
    Denied,
    /// The frame's headers contradict its offload.
    Malformed,
    /// Any other error, by its number.
    Other(i32),
}

/// What became of some frames to one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The destination's address.
    pub to: SocketAddr,
    /// The destination's tag.
    pub tag: u32,
    /// How many pushed frames this is, a superframe being one. A superframe that needs several
    /// sends is counted with the first.
    pub units: u32,
    /// Frames on the wire.
    pub frames: u32,
    /// Bytes of these frames, from their destination MAC on.
    pub bytes: u64,
    /// Sent, or why not.
    pub result: Result<(), SendDrop>,
}

/// Bytes of small frames that may wait, their VXLAN headers included.
const ARENA: usize = 128 << 10;
/// Datagrams that may wait.
const ENTRIES: usize = 512;
/// Runs that may wait.
const RUNS: usize = 128;
/// Bytes of the headers of one train of a superframe's segments.
const HEADERS: usize = TRAIN_SEGMENTS * HEADER;
/// Bytes of the headers of one segment, or of a whole one that is short.
const HEADER: usize = vxlan::HEADER_LEN + HEADROOM + HEAD_MAX;

// Bounded memory: all that a worker's batch holds, and the longest datagram fits in.
const _: () = assert!(ARENA + HEADERS <= 160 << 10 && ARENA > mtu::UDP_PAYLOAD_MAX);
// A whole train can be gathered by one message.
const _: () = assert!(TRAIN_SEGMENTS * 2 < SLICES && ENTRIES < u16::MAX as usize);

/// A worker's outgoing frames. Memory is bounded and allocated once.
#[derive(Debug)]
pub struct TxBatch {
    sockets: Arc<UnderlaySockets>,
    sending: Sending,
    arena: Box<[u8]>,
    used: usize,
    entries: Vec<Entry>,
    /// In the order of their first datagrams: a run takes no more once a newer one has its
    /// destination and bucket, so sending them in order keeps the order of every flow.
    runs: Vec<Run>,
    headers: Box<[u8]>,
}

impl TxBatch {
    /// An empty batch that sends through `sockets`.
    #[must_use]
    pub fn new(sockets: Arc<UnderlaySockets>) -> Self {
        Self {
            sockets,
            sending: Sending::new(),
            arena: vec![0; ARENA].into_boxed_slice(),
            used: 0,
            entries: Vec::with_capacity(ENTRIES),
            runs: Vec::with_capacity(RUNS),
            headers: vec![0; HEADERS].into_boxed_slice(),
        }
    }

    /// The sockets that it sends through.
    #[must_use]
    pub const fn sockets(&self) -> &Arc<UnderlaySockets> {
        &self.sockets
    }

    /// How many sends were tried again since another peer's error had met them.
    #[must_use]
    pub const fn retries(&self) -> u64 {
        self.sending.retries
    }

    /// Whether nothing waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Takes a frame. What is small is copied and waits for [`Self::flush`]; a superframe leaves
    /// at once, behind whatever waits for the same peer and bucket. Outcomes of earlier frames
    /// may be reported too.
    pub fn push(&mut self, transmit: &Transmit<'_>, outcome: &mut impl FnMut(Outcome)) {
        let transmit = Transmit { bucket: transmit.bucket % BUCKETS, ..*transmit };
        if transmit.frame.offload.gso.is_some_and(|gso| gso.segments > 1) {
            self.push_superframe(&transmit, outcome);
        } else {
            self.push_single(&transmit, outcome);
        }
    }

    /// Sends everything that waits. To be called at the end of each turn.
    pub fn flush(&mut self, outcome: &mut impl FnMut(Outcome)) {
        self.sending.begin_turn();
        self.send_waiting(None, outcome);
    }

    fn push_single(&mut self, transmit: &Transmit<'_>, outcome: &mut impl FnMut(Outcome)) {
        let len = vxlan::HEADER_LEN + transmit.frame.len();
        let Some(start) = self.copy(transmit, len, outcome) else {
            let reason =
                if len > mtu::UDP_PAYLOAD_MAX { SendDrop::TooBig } else { SendDrop::Malformed };
            transmit.to.iter().for_each(|to| outcome(dropped(transmit, to, reason)));
            return;
        };
        for to in transmit.to {
            if len > payload_max(to) {
                outcome(dropped(transmit, to, SendDrop::TooBig));
                continue;
            }
            if self.entries.len() == ENTRIES || self.runs.len() == RUNS {
                // The bytes of this frame stay where they are.
                self.send_waiting(None, outcome);
            }
            self.append(transmit, to, start, len);
        }
    }

    /// Copies header and frame into the arena, its checksum finished, and returns where.
    fn copy(
        &mut self,
        transmit: &Transmit<'_>,
        len: usize,
        outcome: &mut impl FnMut(Outcome),
    ) -> Option<usize> {
        if len > mtu::UDP_PAYLOAD_MAX {
            return None;
        }
        if self.arena.len() - self.used < len {
            self.send_waiting(None, outcome);
        }
        if self.runs.is_empty() {
            self.used = 0;
            self.entries.clear();
        }
        let start = self.used;
        let offload = Offload { gso: None, ..transmit.frame.offload };
        let segments = Segments::plan(&Frame { offload, ..transmit.frame }, None).ok()?;
        let room = self.arena.get_mut(start..start + len)?;
        let (front, room) = room.split_first_chunk_mut()?;
        *front = transmit.header;
        let mut at = segments.write_header(0, room);
        for part in segments.payload(0) {
            room.get_mut(at..at + part.len())?.copy_from_slice(part);
            at += part.len();
        }
        self.used = start + len;
        Some(start)
    }

    /// Puts a datagram of the arena at the end of its destination's run, or of a new one.
    fn append(&mut self, transmit: &Transmit<'_>, to: &Destination, start: usize, len: usize) {
        let entry = self.entries.len();
        self.entries.push(Entry { start, len, next: None });
        let same = |run: &&mut Run| run.to == to.address && run.bucket == transmit.bucket;
        // Only the latest one may grow.
        if let Some(run) = self.runs.iter_mut().rev().find(same)
            && !run.sent
            && run.takes(transmit.tos, len)
        {
            if let Some(last) = self.entries.get_mut(run.last) {
                last.next = Some(entry);
            }
            run.last = entry;
            run.count += 1;
            run.bytes += len;
            return;
        }
        self.runs.push(Run {
            to: to.address,
            tag: to.tag,
            bucket: transmit.bucket,
            tos: transmit.tos,
            size: len,
            bytes: len,
            count: 1,
            first: entry,
            last: entry,
            sent: false,
        });
    }

    /// Sends a superframe at once, cut for each path.
    fn push_superframe(&mut self, transmit: &Transmit<'_>, outcome: &mut impl FnMut(Outcome)) {
        let l3 = Ethernet::parse(transmit.frame.head).map_or(0, |ethernet| ethernet.l3);
        for group in transmit.to.chunk_by(|a, b| payload_max(a) == payload_max(b)) {
            let Some(first) = group.first() else { continue };
            let room = payload_max(first).saturating_sub(vxlan::HEADER_LEN + l3);
            let room = u16::try_from(room).unwrap_or(u16::MAX);
            let segments = match Segments::plan(&transmit.frame, Some(room)) {
                Ok(segments) => segments,
                Err(error) => {
                    let reason = match error {
                        SegmentError::TooBig { .. } => SendDrop::TooBig,
                        SegmentError::Headers => SendDrop::Malformed,
                    };
                    group.iter().for_each(|to| outcome(dropped(transmit, to, reason)));
                    continue;
                }
            };
            let waits = |run: &Run| {
                run.bucket == transmit.bucket && group.iter().any(|to| to.address == run.to)
            };
            if self.runs.iter().any(waits) {
                self.send_waiting(Some(transmit.bucket), outcome);
            }
            let len = vxlan::HEADER_LEN + segments.segment_len(0);
            let most = mtu::segments_per_send(len, TRAIN_SEGMENTS);
            let to = Transmit { to: group, ..*transmit };
            for range in segments.batches(most) {
                self.send_train(&to, &segments, range, outcome);
            }
        }
    }

    /// Sends some segments of a superframe to everybody who gets it.
    fn send_train(
        &mut self,
        transmit: &Transmit<'_>,
        segments: &Segments<'_>,
        range: Range<usize>,
        outcome: &mut impl FnMut(Outcome),
    ) {
        let Self { sockets, sending, headers, .. } = self;
        let Some(fd) = sockets.sender(transmit.bucket) else { return };
        let mut written = Stamped::write(headers, transmit.header, segments, range.clone());
        let mut next = range.start;
        while next < range.end {
            let start = next;
            let mut slices = ArrayVec::<_, SLICES>::new();
            next += written.gather(segments, start, &mut slices);
            if next == start {
                // More pieces than one datagram can be gathered from, or a head of any length.
                let frames = (range.end - start) as u32;
                let bytes = (start..range.end).map(|i| segments.segment_len(i) as u64).sum();
                let units = u32::from(start == 0);
                for to in transmit.to {
                    let lost = dropped(transmit, to, SendDrop::Malformed);
                    outcome(Outcome { units, frames, bytes, ..lost });
                }
                return;
            }
            let size = vxlan::HEADER_LEN + segments.segment_len(start);
            let segment_size = if next - start > 1 { u16::try_from(size).ok() } else { None };
            for group in transmit.to.chunks(SEND_BATCH) {
                let mut messages = ArrayVec::<_, SEND_BATCH>::new();
                let mut labels = ArrayVec::<_, SEND_BATCH>::new();
                for to in group {
                    let (to, tos, tag) = (to.address, transmit.tos, to.tag);
                    messages.push(Outgoing { to, parts: &slices, segment_size, tos });
                    labels.push(Label { tag, units: u32::from(start == 0) });
                }
                sending.send(fd, sockets.offloads(), &messages, &labels, outcome);
            }
        }
    }

    /// Sends the runs of one bucket, or of all.
    fn send_waiting(&mut self, only: Option<usize>, outcome: &mut impl FnMut(Outcome)) {
        if self.runs.is_empty() {
            return;
        }
        let Self { sockets, sending, arena, entries, runs, .. } = self;
        let mut gathered = Gathered::default();
        for bucket in 0..BUCKETS {
            if only.is_some_and(|only| only != bucket) || !waits_in(runs, bucket) {
                continue;
            }
            let Some(fd) = sockets.sender(bucket) else { continue };
            let mut next = 0;
            while gathered.fill(runs, &mut next, bucket, arena, entries) {
                let mut messages = ArrayVec::<_, SEND_BATCH>::new();
                let mut labels = ArrayVec::<_, SEND_BATCH>::new();
                let mut start = 0;
                for &(run, end) in &gathered.ends {
                    let Some(run) = runs.get(run) else { continue };
                    let size = u16::try_from(run.size).ok();
                    messages.push(Outgoing {
                        to: run.to,
                        parts: gathered.slices.get(start..end).unwrap_or_default(),
                        segment_size: size.filter(|_| run.count > 1),
                        tos: run.tos,
                    });
                    labels.push(Label { tag: run.tag, units: run.count as u32 });
                    start = end;
                }
                sending.send(fd, sockets.offloads(), &messages, &labels, outcome);
            }
        }
        runs.retain(|run| !run.sent);
        if runs.is_empty() {
            entries.clear();
        }
    }
}

/// The headers of some segments of a superframe, one behind the other. Short payloads lie between
/// them, since to gather them costs more than to copy them.
struct Stamped<'h> {
    headers: &'h [u8],
    /// Bytes of each, the last one's payload perhaps being shorter.
    each: usize,
    /// Whether payloads lie behind their headers.
    copied: bool,
    /// Segments that are not gathered yet.
    left: usize,
}

impl<'h> Stamped<'h> {
    fn write(
        buffer: &'h mut [u8],
        vxlan: [u8; vxlan::HEADER_LEN],
        segments: &Segments<'_>,
        range: Range<usize>,
    ) -> Self {
        let whole = vxlan::HEADER_LEN + segments.segment_len(range.start);
        let copied = whole <= HEADER;
        let each = if copied { whole } else { vxlan::HEADER_LEN + segments.header_len() };
        let left = range.len();
        for (slot, i) in buffer.chunks_exact_mut(each).zip(range) {
            let Some((front, rest)) = slot.split_first_chunk_mut() else { continue };
            *front = vxlan;
            let mut at = segments.write_header(i, rest);
            for part in segments.payload(i).take_while(|_| copied) {
                if let Some(room) = rest.get_mut(at..at + part.len()) {
                    room.copy_from_slice(part);
                }
                at += part.len();
            }
        }
        Self { headers: buffer, each, copied, left }
    }

    /// Adds as many datagrams to `slices` as there is room for, from segment `start` on, and
    /// returns how many.
    fn gather<'s>(
        &mut self,
        segments: &Segments<'s>,
        start: usize,
        slices: &mut ArrayVec<IoSlice<'s>, SLICES>,
    ) -> usize
    where
        'h: 's,
    {
        let mut count = 0;
        if self.copied {
            let lens =
                (start..start + self.left).map(|i| vxlan::HEADER_LEN + segments.segment_len(i));
            let bytes = self.headers.get(..lens.sum()).unwrap_or_default();
            slices.push(IoSlice::new(bytes));
            count = self.left;
        }
        while count < self.left
            && segments.payload(start + count).count() < slices.remaining_capacity()
            && let Some((header, behind)) = self.headers.split_at_checked(self.each)
        {
            slices.push(IoSlice::new(header));
            slices.extend(segments.payload(start + count).map(IoSlice::new));
            self.headers = behind;
            count += 1;
        }
        self.left -= count;
        count
    }
}

fn waits_in(runs: &[Run], bucket: usize) -> bool {
    runs.iter().any(|run| run.bucket == bucket && !run.sent)
}

/// Bytes of the longest UDP payload that the path to `to` takes.
fn payload_max(to: &Destination) -> usize {
    let ip = if to.address.is_ipv4() { IpVersion::V4 } else { IpVersion::V6 };
    let headers = ip.header_len() + mtu::UDP_HEADER_LEN;
    usize::from(to.path_mtu).saturating_sub(headers).min(mtu::UDP_PAYLOAD_MAX)
}

/// The outcome of a frame of which nothing was sent to `to`.
fn dropped(transmit: &Transmit<'_>, to: &Destination, reason: SendDrop) -> Outcome {
    Outcome {
        to: to.address,
        tag: to.tag,
        units: 1,
        frames: u32::try_from(transmit.frame.wire_frames()).unwrap_or(u32::MAX),
        bytes: transmit.frame.wire_bytes(),
        result: Err(reason),
    }
}
