//! A worker's end of the underlay: what it receives, and what the path says about what it sent.

use std::net::IpAddr;

use encap::vxlan::DecapError;
use encap::{Frame, Merge, Trust};
use fdb::Tick;
use switch::{DropReason, Engine, Outer, Weight};

use super::outputs::Outputs;
use super::stats::Stats;
use super::{News, Newsroom, UnderlayEnd};
use crate::io::underlay::{
    Decap, Inner, Origin, PeerError, PeerErrorKind, ReceiveSocket, Receiver, TxBatch, errqueue,
};

/// The underlay of one worker.
pub(super) struct Underlay {
    pub(super) end: UnderlayEnd,
    pub(super) receiver: Receiver,
    pub(super) tx: TxBatch,
}

impl Underlay {
    /// Takes up its end.
    pub(super) fn new(end: UnderlayEnd) -> Self {
        let tx = TxBatch::new(std::sync::Arc::clone(&end.sockets));
        Self { end, receiver: Receiver::new(), tx }
    }
}

/// Takes in what `socket` has, up to `most` messages, and returns how many came.
///
/// # Errors
/// When the socket is of no use any more.
pub(super) fn drain(
    now: Tick,
    engine: &mut Engine,
    receiver: &mut Receiver,
    socket: &ReceiveSocket,
    most: usize,
    outputs: &mut Outputs<'_>,
    stats: &Stats,
) -> std::io::Result<usize> {
    let merge = Merge { tcp: true, udp: true, adopt: Some(engine.topology().overlay_mtu()) };
    let mut taken = 0;
    while taken < most {
        let batch = receiver.receive(socket, most - taken)?;
        let more = batch.may_be_more();
        taken += batch.len();
        let mut arrivals = Arrivals { now, engine, outputs, stats };
        let mut decap = Decap::new(merge);
        for received in batch.iter() {
            if received.truncated {
                let weight = Weight::single(received.bytes.len());
                let reason = DropReason::DatagramTruncated;
                arrivals.engine.refuse_from_underlay(ip(received.peer.ip()), weight, reason);
            } else {
                decap.take(&received, Trust::Verify, &mut arrivals);
            }
        }
        decap.finish(&mut arrivals);
        if !more {
            break;
        }
    }
    Ok(taken)
}

/// Frames on their way from a train to the engine.
struct Arrivals<'a, 'w> {
    now: Tick,
    engine: &'a mut Engine,
    outputs: &'a mut Outputs<'w>,
    stats: &'a Stats,
}

impl Inner for Arrivals<'_, '_> {
    #[inline]
    fn frame(&mut self, origin: &Origin, frame: Frame<'_>) {
        self.stats.units.add(1);
        let outer = Outer { peer: ip(origin.peer.ip()), header: origin.header, tos: origin.tos };
        self.engine.from_underlay(self.now, outer, &frame, self.outputs);
    }

    #[cold]
    fn malformed(&mut self, peer: std::net::SocketAddr, error: DecapError) {
        let (reason, len) = match error {
            DecapError::Truncated { len } => (DropReason::HeaderTruncated, len),
            DecapError::NoVni { .. } => (DropReason::HeaderInvalid, 0),
            DecapError::ZeroVni => (DropReason::VniUnknown, 0),
            DecapError::InnerTruncated { len } => (DropReason::FrameTruncated, len),
        };
        self.engine.refuse_from_underlay(ip(peer.ip()), Weight::single(len), reason);
    }
}

/// An IPv4 address that came in an IPv6 dress is the IPv4 address.
fn ip(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Takes the errors that a send socket has, each for the peer that it quotes.
pub(super) fn take_errors(
    engine: &Engine,
    underlay: &Underlay,
    bucket: usize,
    newsroom: &Newsroom,
    stats: &Stats,
) {
    let Some(socket) = underlay.end.sockets.senders().nth(bucket) else { return };
    errqueue::drain(socket, |error: PeerError| {
        stats.peer_errors.add(1);
        let Some(vtep) = engine.topology().vtep_at(ip(error.peer.ip())) else { return };
        if let PeerErrorKind::MessageTooBig { mtu } = error.kind {
            let path = u16::try_from(mtu).unwrap_or(u16::MAX);
            let outer = underlay.end.outer;
            let overlay = path.saturating_sub(outer.overhead).max(outer.mtu_floor);
            if overlay < vtep.mtu() {
                vtep.set_mtu(overlay);
                if !newsroom.tell(News::PathMtu(vtep.id, overlay)) {
                    stats.news_lost.add(1);
                }
            }
        }
    });
}
