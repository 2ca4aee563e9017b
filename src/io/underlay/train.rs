//! From received messages to inner frames: trains are taken apart, VXLAN headers come off, and
//! what belongs together is joined into superframes.

use std::net::SocketAddr;

use encap::vxlan::{self, DecapError, Header};
use encap::{Coalescer, Frame, Merge, Trust};

use super::rx::Received;

/// Where an inner frame came from and what the outer header said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The sender's address and source port.
    pub peer: SocketAddr,
    /// DSCP and ECN of the outer header, the same for all that was joined.
    pub tos: u8,
    /// The VXLAN header.
    pub header: Header,
}

/// What comes out of decapsulation, in the order of each flow.
pub trait Inner {
    /// A frame or superframe.
    fn frame(&mut self, origin: &Origin, frame: Frame<'_>);
    /// A datagram from `peer` that holds no frame.
    fn malformed(&mut self, peer: SocketAddr, error: DecapError);
}

/// Takes received messages and hands out frames. Datagrams with the same sender, outer TOS and
/// VXLAN header that follow one another are joined, also across the messages of one batch;
/// nothing is held back longer than until [`Self::finish`].
#[derive(Debug)]
pub struct Decap<'a> {
    merge: Merge,
    current: Option<Current<'a>>,
}

#[derive(Debug)]
struct Current<'a> {
    origin: Origin,
    wire: [u8; vxlan::HEADER_LEN],
    coalescer: Coalescer<'a>,
}

impl<'a> Decap<'a> {
    /// Holds nothing; joins what `merge` allows.
    #[must_use]
    pub const fn new(merge: Merge) -> Self {
        Self { merge, current: None }
    }

    /// Takes one message. One that is truncated is not to be used: it is left out.
    pub fn take(&mut self, received: &Received<'a>, trust: Trust, inner: &mut impl Inner) {
        if received.truncated {
            return;
        }
        let size = received.segment_size.map_or(usize::MAX, usize::from).max(1);
        let mut rest = received.bytes;
        loop {
            let (datagram, behind) = rest.split_at_checked(size).unwrap_or((rest, &[]));
            self.datagram(received, datagram, trust, inner);
            if behind.is_empty() {
                return;
            }
            rest = behind;
        }
    }

    fn datagram(
        &mut self,
        received: &Received<'a>,
        datagram: &'a [u8],
        trust: Trust,
        inner: &mut impl Inner,
    ) {
        let (header, frame) = match vxlan::split(datagram) {
            Ok(parts) => parts,
            Err(error) => return inner.malformed(received.peer, error),
        };
        let Some(&wire) = datagram.first_chunk() else { return };
        let continues = self.current.as_ref().is_some_and(|current| {
            let origin = &current.origin;
            current.wire == wire && origin.peer == received.peer && origin.tos == received.tos
        });
        if !continues {
            self.finish(inner);
        }
        let current = self.current.get_or_insert_with(|| Current {
            origin: Origin { peer: received.peer, tos: received.tos, header },
            wire,
            coalescer: Coalescer::new(self.merge),
        });
        let origin = current.origin;
        current.coalescer.push(frame, trust, &mut |frame| inner.frame(&origin, frame));
    }

    /// Hands out everything that is held. To be called at the end of each batch.
    pub fn finish(&mut self, inner: &mut impl Inner) {
        if let Some(mut current) = self.current.take() {
            let origin = current.origin;
            current.coalescer.finish(&mut |frame| inner.frame(&origin, frame));
        }
    }
}
