//! Where the engine's frames go: port queues and the underlay's batch. Whatever is sent or lost on
//! the way out is counted here.

use encap::{Frame, Gso, GsoKind, vxlan};
use fdb::{PortId, VtepId};
use switch::{Counters, DropReason, Remote, Sink, Topology, Weight};

use super::OuterRules;
use super::ports::Ports;
use crate::io::port::WriteError;
use crate::io::underlay::{BUCKETS, Destination, Outcome, SendDrop, Transmit, TxBatch};

/// What a write to a port takes of a turn's budget, where a read takes one: the receiver's own network
/// stack runs before it returns. To the underlay, each copy of a flooded frame but the first takes one.
const WRITE: u32 = 4;

/// A worker's outputs during one turn.
pub(super) struct Outputs<'w> {
    pub(super) topology: &'w Topology,
    pub(super) counters: &'w Counters,
    pub(super) ports: &'w Ports,
    pub(super) underlay: Option<(&'w mut TxBatch, OuterRules)>,
    /// Room for the addresses of one flood, kept so that it need not be allocated each time.
    pub(super) destinations: &'w mut Vec<Destination>,
    /// What sending has cost of the turn's budget.
    pub(super) spent: u32,
}

impl Sink for Outputs<'_> {
    #[inline]
    fn to_port(&mut self, port: PortId, mtu: u16, frame: &Frame<'_>) {
        self.spent = self.spent.saturating_add(WRITE);
        let egress = &self.counters.port(port).tx;
        let Some(queue) = self.ports.get(port) else {
            return egress.dropped(frame.wire_frames(), DropReason::PortDown);
        };
        let frame = &recut(frame, mtu);
        let written = queue.write(frame);
        if written.frames != 0 {
            let superframes = u64::from(written.frames > 1);
            egress.sent(Weight { frames: written.frames, bytes: written.bytes, superframes });
        }
        if let Some(error) = written.error {
            egress.dropped(written.lost, port_reason(error));
        }
    }

    #[inline]
    fn to_vteps(&mut self, remote: Remote<'_>, frame: &Frame<'_>) {
        let copies = u32::try_from(remote.vteps.len()).unwrap_or(u32::MAX);
        self.spent = self.spent.saturating_add(copies.saturating_sub(1));
        let Some((tx, outer)) = &mut self.underlay else {
            for vtep in remote.vteps {
                let egress = &self.counters.vtep(*vtep).tx;
                egress.dropped(frame.wire_frames(), DropReason::UnderlayUnreachable);
            }
            return;
        };
        self.destinations.clear();
        let vteps = remote.vteps.iter().filter_map(|id| self.topology.vtep(*id));
        self.destinations.extend(vteps.map(|vtep| Destination {
            address: vtep.address,
            path_mtu: vtep.mtu().saturating_add(outer.overhead),
            tag: tag_of(vtep.id),
        }));
        let transmit = Transmit {
            to: self.destinations,
            bucket: remote.flow.bucket(BUCKETS),
            tos: outer.tos(remote.tos),
            header: vxlan::emit(remote.vni),
            frame: *frame,
        };
        let counters = self.counters;
        tx.push(&transmit, &mut |outcome| count(counters, &outcome));
    }
}

/// Sends what waits in `tx`.
pub(super) fn flush(counters: &Counters, tx: &mut TxBatch) {
    tx.flush(&mut |outcome| count(counters, &outcome));
}

fn count(counters: &Counters, outcome: &Outcome) {
    let egress = &counters.vtep(vtep_of(outcome.tag)).tx;
    let frames = u64::from(outcome.frames);
    match outcome.result {
        Ok(()) => {
            // Units of one frame are no superframes; one of several is told by itself.
            let superframes = u64::from(outcome.units == 1 && outcome.frames > 1);
            egress.sent(Weight { frames, bytes: outcome.bytes, superframes });
        }
        Err(reason) => egress.dropped(frames, underlay_reason(reason)),
    }
}

/// A TCP superframe for a port with a smaller MTU than its segments has to be cut smaller: TCP
/// leaves the segment boundaries to whoever sends.
#[inline]
fn recut<'a>(frame: &Frame<'a>, mtu: u16) -> Frame<'a> {
    match frame.offload.gso {
        Some(gso) if gso.kind == GsoKind::Tcp && frame.wire_len_max() > usize::from(mtu) => {
            smaller(frame, gso, mtu).unwrap_or(*frame)
        }
        _ => *frame,
    }
}

fn smaller<'a>(frame: &Frame<'a>, gso: Gso, mtu: u16) -> Option<Frame<'a>> {
    let l3 = encap::Ethernet::parse(frame.head).ok()?.l3;
    let headers = gso.header_len.checked_sub(u16::try_from(l3).ok()?)?;
    let size = mtu.checked_sub(headers).filter(|size| *size > 0)?;
    if size >= gso.size {
        return None;
    }
    let payload = frame.len().checked_sub(usize::from(gso.header_len))?;
    let segments = u16::try_from(payload.div_ceil(usize::from(size))).ok()?;
    let mut frame = *frame;
    frame.offload.gso = Some(Gso { size, segments, ..gso });
    Some(frame)
}

const fn tag_of(id: VtepId) -> u32 {
    (id.generation as u32) << 16 | id.slot as u32
}

const fn vtep_of(tag: u32) -> VtepId {
    let [generation_high, generation_low, slot_high, slot_low] = tag.to_be_bytes();
    VtepId {
        slot: u16::from_be_bytes([slot_high, slot_low]),
        generation: u16::from_be_bytes([generation_high, generation_low]),
    }
}

const fn port_reason(error: WriteError) -> DropReason {
    match error {
        WriteError::Malformed => DropReason::Uncuttable,
        WriteError::Gone(_) => DropReason::PortDown,
        WriteError::Full | WriteError::Refused(_) => DropReason::PortWrite,
    }
}

const fn underlay_reason(reason: SendDrop) -> DropReason {
    match reason {
        SendDrop::TooBig => DropReason::TooBig,
        SendDrop::Full => DropReason::UnderlayFull,
        SendDrop::Refused | SendDrop::Unreachable => DropReason::UnderlayUnreachable,
        SendDrop::Malformed => DropReason::Uncuttable,
        SendDrop::Denied | SendDrop::Other(_) => DropReason::UnderlaySend,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_names_its_vtep() {
        for id in [VtepId { slot: 0, generation: 0 }, VtepId { slot: 65_535, generation: 258 }] {
            assert_eq!(vtep_of(tag_of(id)), id);
        }
    }
}
