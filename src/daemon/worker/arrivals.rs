//! What a port's queue has: frames are read side by side into one arena, and those that belong
//! together go on as one superframe, as a device with GRO would have it.

use encap::{Checksum, Coalescer, Contiguous, Frame, Merge, Offload, Trust, VNET_LEN};
use encap::{VnetError, VnetHeader};
use fdb::{PortId, Tick};
use switch::{DropReason, Engine, Weight};

use super::outputs::Outputs;
use super::stats::Stats;
use crate::io::port::{PortQueue, READ_SIZE, ReadOutcome};

/// Bytes of the arena: room for one superframe behind a turn's worth of frames of Ethernet's usual
/// length.
pub(super) const ARENA: usize = READ_SIZE + (96 << 10);

/// What a superframe takes of a turn's budget, where a frame takes one.
const SUPERFRAME: u32 = 8;

/// What may be joined: TCP segments of a guest without TSO, and equal datagrams. Whoever gets them
/// cuts them again where the output does not take them whole.
const MERGE: Merge = Merge { tcp: true, udp: true, adopt: None };

/// Why no more was read.
pub(super) enum Fill {
    /// The arena is full, a superframe was forwarded, or the budget is used up.
    Full,
    /// The queue has nothing more.
    Empty,
    /// The device is gone, with this error number.
    Gone(i32),
}

/// Frames on their way from a port's queue to the engine.
pub(super) struct Arrivals<'a, 'w> {
    pub(super) now: Tick,
    pub(super) engine: &'a mut Engine,
    pub(super) port: PortId,
    pub(super) outputs: &'a mut Outputs<'w>,
}

impl Arrivals<'_, '_> {
    /// Reads until nothing is left, the arena is full or `budget` used up, and has everything
    /// forwarded.
    pub(super) fn fill(
        &mut self,
        queue: &PortQueue,
        arena: &mut [u8],
        budget: &mut u32,
        stats: &Stats,
    ) -> Fill {
        let mut free = arena;
        let mut joined = Coalescer::new(MERGE);
        let end = loop {
            if *budget == 0 {
                break Fill::Full;
            }
            let Some(room) = free.get_mut(..READ_SIZE) else { break Fill::Full };
            let mut cost = 1;
            let mut whole = false;
            match queue.read(room) {
                ReadOutcome::Frame(len) => {
                    stats.units.add(1);
                    let (bytes, rest) = free.split_at_mut(len);
                    free = rest;
                    if len > READ_SIZE / 16 {
                        cost = SUPERFRAME;
                    }
                    whole = self.take(bytes, &mut joined);
                }
                ReadOutcome::Again => break Fill::Empty,
                ReadOutcome::Runt => self.refuse(0, DropReason::VnetTruncated),
                ReadOutcome::Truncated => self.refuse(READ_SIZE, DropReason::FrameTooLong),
                ReadOutcome::Failed(_) => {
                    stats.port_read_errors.add(1);
                    break Fill::Empty;
                }
                ReadOutcome::Gone(errno) => break Fill::Gone(errno),
            }
            cost += std::mem::take(&mut self.outputs.spent);
            *budget = budget.saturating_sub(cost);
            if whole {
                // Nothing is held: the next one comes to lie where this one did, which the cache has.
                break Fill::Full;
            }
        };
        joined.finish(&mut |frame| self.forward(&frame));
        end
    }

    /// Makes a frame of what was read, and forwards what cannot be joined any further. Returns whether
    /// that was a superframe, so that all that was read before is forwarded, too.
    #[inline]
    fn take<'f>(&mut self, bytes: &'f mut [u8], joined: &mut Coalescer<'f>) -> bool {
        let len = bytes.len().saturating_sub(VNET_LEN);
        let (frame, offload) = match split(bytes) {
            Ok(parts) => parts,
            Err(error) => {
                self.refuse(len, vnet_reason(&error));
                return false;
            }
        };
        let trust = match (offload.gso, offload.checksum) {
            (None, Checksum::Done) => Trust::Verify,
            (None, Checksum::Partial { start, offset }) => Trust::Unfinished { start, offset },
            (None, Checksum::Vouched) | (Some(_), _) => {
                // Perhaps of a flow that is held: it must not overtake.
                joined.finish(&mut |frame| self.forward(&frame));
                self.forward(&Contiguous::new(frame, offload).frame());
                return true;
            }
        };
        joined.push(frame, trust, &mut |frame| self.forward(&frame));
        false
    }

    #[inline]
    fn forward(&mut self, frame: &Frame<'_>) {
        self.engine.from_port(self.now, self.port, frame, self.outputs);
    }

    #[cold]
    fn refuse(&self, len: usize, reason: DropReason) {
        self.engine.refuse_from_port(self.port, Weight::single(len), reason);
    }
}

/// Takes the vnet header off.
fn split(bytes: &mut [u8]) -> Result<(&[u8], Offload), VnetError> {
    let len = bytes.len();
    let (header, frame) =
        bytes.split_first_chunk_mut::<VNET_LEN>().ok_or(VnetError::Truncated { len })?;
    let header = VnetHeader::decode(header);
    let len = frame.len();
    let head = frame.get_mut(..len.min(encap::HEAD_MAX)).unwrap_or_default();
    let offload = header.resolve(head, len)?;
    Ok((frame, offload))
}

const fn vnet_reason(error: &VnetError) -> DropReason {
    match error {
        VnetError::Truncated { .. } => DropReason::VnetTruncated,
        VnetError::ChecksumPlace { .. } => DropReason::VnetChecksum,
        VnetError::GsoSize { .. } | VnetError::TooManySegments { .. } => DropReason::VnetGsoSize,
        VnetError::Ufo | VnetError::GsoType { .. } => DropReason::VnetGsoType,
        VnetError::Headers | VnetError::Protocol { .. } | VnetError::Fragment => {
            DropReason::VnetProtocol
        }
        VnetError::Length { .. } => DropReason::VnetLength,
    }
}
