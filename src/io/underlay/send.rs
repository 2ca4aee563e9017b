//! Getting prepared messages out of one send socket, whatever happens to single ones.
//!
//! A message that fails is its destination's misfortune: the others are sent all the same.

use std::io::IoSlice;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;
use encap::vxlan;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::errqueue::may_be_anothers;
use super::offloads::Offloads;
use super::tx::{Outcome, SendDrop};
use crate::io::sys::{self, Outgoing, SEND_BATCH};

/// Slices of all messages of one call together. A whole train of 64 in pieces fits.
pub(super) const SLICES: usize = 256;

/// What a batch knows of a message beside its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Label {
    pub(super) tag: u32,
    pub(super) units: u32,
}

/// How often a turn may wait for room in a send buffer, a millisecond each time.
const WAITS: u8 = 3;

/// What the sends of one worker share.
#[derive(Debug)]
pub(super) struct Sending {
    waits: u8,
    /// Peers that get no trains; a copy of what all workers share, by its version.
    revoked: Vec<IpAddr>,
    version: u32,
    /// Sends that were tried again after an error that may have been another peer's.
    pub(super) retries: u64,
}

impl Sending {
    pub(super) const fn new() -> Self {
        Self { waits: WAITS, revoked: Vec::new(), version: 0, retries: 0 }
    }

    /// Begins a turn: the waits of the last one are forgotten.
    pub(super) const fn begin_turn(&mut self) {
        self.waits = WAITS;
    }

    fn refresh(&mut self, offloads: &Offloads) {
        if self.version != offloads.version() {
            self.version = offloads.version();
            self.revoked = offloads.revoked();
        }
    }

    fn takes_trains(&self, offloads: &Offloads, peer: IpAddr) -> bool {
        offloads.udp_segment && (self.revoked.is_empty() || !self.revoked.contains(&peer))
    }

    /// Sends `messages` in order and reports each one. Trains to peers that cannot have them are
    /// taken apart.
    pub(super) fn send(
        &mut self,
        fd: BorrowedFd<'_>,
        offloads: &Offloads,
        messages: &[Outgoing<'_>],
        labels: &[Label],
        outcome: &mut impl FnMut(Outcome),
    ) {
        self.refresh(offloads);
        let mut at = 0;
        let label = |i: usize| labels.get(i).copied().unwrap_or_default();
        while let Some(first) = messages.get(at) {
            if first.segment_size.is_some() && !self.takes_trains(offloads, first.to.ip()) {
                self.send_apart(fd, first, label(at), outcome);
                at += 1;
                continue;
            }
            let rest = messages.get(at..).unwrap_or_default();
            let plain = |message: &&Outgoing<'_>| {
                message.segment_size.is_none() || self.takes_trains(offloads, message.to.ip())
            };
            let together = rest.iter().take(SEND_BATCH).take_while(plain).count();
            let batch = rest.get(..together).unwrap_or_default();
            let (sent, error) = self.try_batch(fd, batch);
            for (i, message) in batch.iter().enumerate().take(sent) {
                outcome(report(message, label(at + i), Ok(())));
            }
            at += sent;
            let (Some(errno), Some(failed)) = (error, messages.get(at)) else { continue };
            if failed.segment_size.is_some() && matches!(errno, Errno::EIO | Errno::EINVAL) {
                // Only what works in pieces was the offload's fault.
                if self.send_apart(fd, failed, label(at), outcome) {
                    offloads.revoke_segment(failed.to.ip());
                    self.refresh(offloads);
                }
            } else {
                outcome(report(failed, label(at), Err(reason(errno))));
            }
            at += 1;
        }
    }

    /// Sends a batch until it is out or a message has failed for good: how many went, and why the
    /// next one did not.
    fn try_batch(&mut self, fd: BorrowedFd<'_>, batch: &[Outgoing<'_>]) -> (usize, Option<Errno>) {
        let mut sent = 0;
        let mut tried_again = false;
        while let Some(rest) = batch.get(sent..).filter(|rest| !rest.is_empty()) {
            let errno = match sys::send_batch(fd, rest) {
                Ok(count) => {
                    // A short count hides the error of the message behind: it comes again.
                    self.retries += u64::from(count < rest.len().min(SEND_BATCH));
                    sent += count;
                    tried_again = false;
                    continue;
                }
                Err(error) => Errno::from_raw(error.raw_os_error().unwrap_or(0)),
            };
            match errno {
                Errno::EINTR => {}
                Errno::EAGAIN if self.wait_for_room(fd) => {}
                errno if !tried_again && may_be_anothers(errno) => {
                    tried_again = true;
                    self.retries += 1;
                }
                errno => return (sent, Some(errno)),
            }
        }
        (sent, None)
    }

    /// Waits a millisecond for room in the send buffer; `false` when the turn has waited enough.
    fn wait_for_room(&mut self, fd: BorrowedFd<'_>) -> bool {
        let Some(left) = self.waits.checked_sub(1) else { return false };
        self.waits = left;
        let mut fds = [PollFd::new(fd, PollFlags::POLLOUT)];
        // Whatever ends the wait, the next send tells more.
        let _ = poll(&mut fds, PollTimeout::from(1_u8));
        true
    }

    /// Sends a train datagram by datagram. Returns whether any went.
    fn send_apart(
        &mut self,
        fd: BorrowedFd<'_>,
        train: &Outgoing<'_>,
        label: Label,
        outcome: &mut impl FnMut(Outcome),
    ) -> bool {
        let size = train.segment_size.map_or(usize::MAX, usize::from);
        let mut cutter = Cutter { parts: train.parts, skip: 0 };
        let mut sent = Outcome { units: 0, frames: 0, bytes: 0, ..report(train, label, Ok(())) };
        let mut lost = sent;
        loop {
            let mut slices = ArrayVec::new();
            let mut ends = ArrayVec::new();
            cutter.fill(size, &mut slices, &mut ends);
            if ends.is_empty() {
                break;
            }
            let mut datagrams = ArrayVec::<_, SEND_BATCH>::new();
            let mut start = 0;
            for end in ends {
                let parts = slices.get(start..end).unwrap_or_default();
                datagrams.push(Outgoing { parts, segment_size: None, ..*train });
                start = end;
            }
            let mut at = 0;
            while let Some(rest) = datagrams.get(at..).filter(|rest| !rest.is_empty()) {
                let (went, error) = self.try_batch(fd, rest);
                rest.iter().take(went).for_each(|datagram| add(&mut sent, datagram));
                at += went;
                if let (Some(errno), Some(failed)) = (error, rest.get(went)) {
                    lost.result = Err(reason(errno));
                    add(&mut lost, failed);
                    at += 1;
                }
            }
        }
        // In a run each datagram is a unit of its own; a superframe is one, lost if all of it is.
        let went = sent.frames > 0;
        if label.units > 1 {
            (sent.units, lost.units) = (sent.frames, lost.frames);
        } else if went {
            sent.units = label.units;
        } else {
            lost.units = label.units;
        }
        [sent, lost].into_iter().filter(|part| part.frames > 0).for_each(outcome);
        went
    }
}

/// Adds one datagram to an outcome.
fn add(to: &mut Outcome, datagram: &Outgoing<'_>) {
    let one = report(datagram, Label::default(), Ok(()));
    to.frames += one.frames;
    to.bytes += one.bytes;
}

/// Walks over slices in steps of a datagram.
struct Cutter<'a> {
    parts: &'a [IoSlice<'a>],
    /// Bytes of the first slice that are done.
    skip: usize,
}

impl<'a> Cutter<'a> {
    /// Adds the slices of the next datagrams of `size` bytes to `slices`, and to `ends` where each
    /// one's slices end; none at the end.
    fn fill(
        &mut self,
        size: usize,
        slices: &mut ArrayVec<IoSlice<'a>, SLICES>,
        ends: &mut ArrayVec<usize, SEND_BATCH>,
    ) {
        while !ends.is_full() {
            let before = (self.parts, self.skip);
            let mut left = size;
            let start = slices.len();
            while left > 0 {
                let Some((first, behind)) = self.parts.split_first() else { break };
                let rest = first.get(self.skip..).unwrap_or_default();
                let taken = rest.get(..left).unwrap_or(rest);
                if !taken.is_empty() && slices.try_push(IoSlice::new(taken)).is_err() {
                    // This datagram comes first the next time.
                    (self.parts, self.skip) = before;
                    slices.truncate(start);
                    return;
                }
                left -= taken.len();
                if taken.len() == rest.len() {
                    (self.parts, self.skip) = (behind, 0);
                } else {
                    self.skip += taken.len();
                }
            }
            if slices.len() == start {
                return;
            }
            ends.push(slices.len());
        }
    }
}

/// The outcome of a message, whose content is counted without VXLAN headers.
pub(super) fn report(
    message: &Outgoing<'_>,
    label: Label,
    result: Result<(), SendDrop>,
) -> Outcome {
    let total: usize = message.parts.iter().map(|part| part.len()).sum();
    let frames = message.segment_size.map_or(1, |size| total.div_ceil(usize::from(size).max(1)));
    Outcome {
        to: message.to,
        tag: label.tag,
        units: label.units,
        frames: u32::try_from(frames).unwrap_or(u32::MAX),
        bytes: total.saturating_sub(frames * vxlan::HEADER_LEN) as u64,
        result,
    }
}

fn reason(errno: Errno) -> SendDrop {
    match errno {
        Errno::EMSGSIZE => SendDrop::TooBig,
        Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM => SendDrop::Full,
        Errno::ECONNREFUSED => SendDrop::Refused,
        Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EHOSTDOWN | Errno::ENETDOWN => {
            SendDrop::Unreachable
        }
        Errno::EPERM | Errno::EACCES => SendDrop::Denied,
        other => SendDrop::Other(other as i32),
    }
}
