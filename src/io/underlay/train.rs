//! From received messages to inner frames: trains are taken apart, VXLAN headers come off, and
//! what belongs together is joined into superframes.

use std::net::SocketAddr;

use encap::vxlan::{self, DecapError, Header};
use encap::{Coalescer, Contiguous, Frame, Merge, Train, Trust, adopt_partial};

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
    coalescer: Coalescer<'a>,
    /// The overlay's MTU, when frames with unfinished checksums are adopted.
    adopt: Option<u16>,
    /// Where everything that the coalescer holds came from, and the header as it came.
    current: Option<(Origin, [u8; vxlan::HEADER_LEN])>,
}

impl<'a> Decap<'a> {
    /// Holds nothing; joins what `merge` allows. A batch has one, since it takes a while to make.
    #[must_use]
    #[inline]
    pub fn new(merge: Merge) -> Self {
        Self { coalescer: Coalescer::new(merge), adopt: merge.adopt, current: None }
    }

    /// Takes one message, its bytes trusted as far as `trust` says. One that is truncated is not
    /// to be used: it is left out.
    pub fn take(&mut self, received: &Received<'a>, trust: Trust, inner: &mut impl Inner) {
        if received.truncated {
            return;
        }
        if received.bytes.is_empty() {
            return self.datagram(received, &[], trust, inner);
        }
        let train = Train::new(received.bytes, received.segment_size);
        match train.inner_udp_size() {
            Some(size) => self.superframe(received, size, trust, inner),
            None => train.for_each(|datagram| self.datagram(received, datagram, trust, inner)),
        }
    }

    fn datagram(
        &mut self,
        received: &Received<'a>,
        datagram: &'a [u8],
        trust: Trust,
        inner: &mut impl Inner,
    ) {
        if let Some((origin, frame)) = self.split(received, datagram, inner) {
            self.coalescer.push(frame, trust, &mut |frame| inner.frame(&origin, frame));
        }
    }

    /// One datagram that holds a whole UDP superframe, as a kernel peer sends it across veth: what
    /// is not finished about it is known, so there is nothing to join.
    fn superframe(
        &mut self,
        received: &Received<'a>,
        size: u16,
        trust: Trust,
        inner: &mut impl Inner,
    ) {
        let Some((origin, frame)) = self.split(received, received.bytes, inner) else { return };
        let adopted = self.adopt.and_then(|mtu| adopt_partial(frame, mtu, Some(size)));
        match adopted {
            Some(offload) => {
                self.coalescer.finish(&mut |frame| inner.frame(&origin, frame));
                inner.frame(&origin, Contiguous::new(frame, offload).frame());
            }
            None => self.coalescer.push(frame, trust, &mut |frame| inner.frame(&origin, frame)),
        }
    }

    /// Takes the VXLAN header off. What is held goes out first when it came from elsewhere.
    fn split(
        &mut self,
        received: &Received<'a>,
        datagram: &'a [u8],
        inner: &mut impl Inner,
    ) -> Option<(Origin, &'a [u8])> {
        let (header, frame) = match vxlan::split(datagram) {
            Ok(parts) => parts,
            Err(error) => {
                inner.malformed(received.peer, error);
                return None;
            }
        };
        let wire = *datagram.first_chunk()?;
        let origin = Origin { peer: received.peer, tos: received.tos, header };
        if self.current != Some((origin, wire)) {
            self.finish(inner);
            self.current = Some((origin, wire));
        }
        Some((origin, frame))
    }

    /// Hands out everything that is held. To be called at the end of each batch.
    pub fn finish(&mut self, inner: &mut impl Inner) {
        if let Some((origin, _)) = self.current.take() {
            self.coalescer.finish(&mut |frame| inner.frame(&origin, frame));
        }
    }
}

#[cfg(test)]
mod tests {
    use encap::{Checksum, GsoKind};
    use etherparse::PacketBuilder;

    use super::*;

    const WIRE: [u8; 8] = [8, 0, 0, 0, 0, 0, 42, 0];

    type Taken = (SocketAddr, u8, Vec<u8>, encap::Offload);

    #[derive(Default)]
    struct Collected(Vec<Taken>, Vec<DecapError>);

    impl Inner for Collected {
        fn frame(&mut self, origin: &Origin, frame: Frame<'_>) {
            let body = frame.body.iter().flat_map(|slice| slice.iter());
            let bytes = frame.head.iter().chain(body).copied().collect();
            self.0.push((origin.peer, origin.tos, bytes, frame.offload));
        }

        fn malformed(&mut self, _: SocketAddr, error: DecapError) {
            self.1.push(error);
        }
    }

    fn tcp(sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv6([1; 16], [2; 16], 64)
            .tcp(1000, 2000, sequence, 100)
            .ack(5)
            .write(&mut bytes, payload)
            .unwrap();
        bytes
    }

    fn message(bytes: &[u8], segment_size: Option<u16>) -> Received<'_> {
        let peer = "192.0.2.2:50000".parse().unwrap();
        Received { peer, bytes, segment_size, tos: 0, truncated: false }
    }

    fn decap(messages: &[Received<'_>]) -> Collected {
        let mut collected = Collected::default();
        let mut decap = Decap::new(Merge { tcp: true, udp: true, adopt: Some(1450) });
        messages.iter().for_each(|one| decap.take(one, Trust::Verify, &mut collected));
        decap.finish(&mut collected);
        collected
    }

    fn train(range: std::ops::Range<u32>) -> Vec<u8> {
        let segment = |i| [&WIRE[..], &tcp(i * 1000, &[i as u8; 1000])].concat();
        range.flat_map(segment).collect()
    }

    #[test]
    fn a_tcp_train_becomes_one_superframe_and_so_do_messages_in_a_row() {
        let (first, second) = (train(0..10), train(10..13));
        let size = Some(8 + 74 + 1000);
        let collected = decap(&[message(&first, size), message(&second, size)]);
        let [(.., bytes, offload)] = &collected.0[..] else { panic!("{:?}", collected.0.len()) };
        let gso = offload.gso.unwrap();
        assert_eq!((gso.kind, gso.size, gso.segments), (GsoKind::Tcp, 1000, 13));
        let expected: Vec<u8> = (0..13_u8).flat_map(|i| [i; 1000]).collect();
        assert!(bytes[74..] == expected);
        assert!(matches!(offload.checksum, Checksum::Partial { start: 54, offset: 16 }));
    }

    #[test]
    fn what_differs_in_origin_is_never_joined() {
        let (first, second) = (train(0..1), train(1..2));
        let here = message(&first, None);
        let mut other_segment = second.clone();
        other_segment[6] = 43;
        for (name, next) in [
            ("tos", Received { tos: 3, ..message(&second, None) }),
            (
                "peer",
                Received { peer: "192.0.2.3:50000".parse().unwrap(), ..message(&second, None) },
            ),
            ("segment", message(&other_segment, None)),
        ] {
            assert_eq!(decap(&[here, next]).0.len(), 2, "{name}");
        }
        assert_eq!(decap(&[here, message(&second, None)]).0.len(), 1, "the same origin");
    }

    #[test]
    fn a_superframe_of_a_kernel_peer_in_one_datagram_is_adopted() {
        let payload: Vec<u8> = (0..20_000_u32).map(|i| (i % 251) as u8).collect();
        let mut bytes = tcp(0, &payload);
        let sum = 8 * 0x0101 + 8 * 0x0202 + payload.len() as u32 + 20 + 6;
        let sum = (sum >> 16) + (sum & 0xffff);
        bytes[70..72].copy_from_slice(&(sum as u16).to_be_bytes());
        let datagram = [&WIRE[..], &bytes].concat();
        let collected = decap(&[message(&datagram, None)]);
        let [(.., taken, offload)] = &collected.0[..] else { panic!() };
        assert!(*taken == bytes);
        assert!(matches!(offload.checksum, Checksum::Partial { start: 54, offset: 16 }));
        let gso = offload.gso.unwrap();
        assert_eq!((gso.size, gso.segments), (1450 - 60, 15));
    }

    #[test]
    fn a_bad_datagram_is_told_and_its_neighbours_are_taken() {
        let mut bytes = train(0..3);
        bytes[1082] = 0;
        let collected = decap(&[message(&bytes, Some(1082))]);
        assert_eq!(collected.0.len(), 2);
        assert_eq!(collected.1, [DecapError::NoVni { flags: 0 }]);
        let cut = Received { truncated: true, ..message(&bytes, Some(1082)) };
        let collected = decap(&[cut, message(&[], None), message(&bytes[..9], Some(3))]);
        assert!(collected.0.is_empty());
        assert_eq!(collected.1, [0, 3, 3, 3].map(|len| DecapError::Truncated { len }));
    }

    #[test]
    fn a_kernel_peers_udp_superframe_is_one_unit() {
        // One that is longer than any MTU, and one of small datagrams that would fit it.
        for (payload, size, segments) in [(4000_u16, 400, 10), (1080, 18, 60)] {
            let mut frame = Vec::new();
            PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
                .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
                .udp(1000, 2000)
                .write(&mut frame, &vec![7; usize::from(payload)])
                .unwrap();
            // The kernel leaves the pseudo-header sum: addresses, protocol and length.
            let sum = 0x0a00 + 1 + 0x0a00 + 2 + 17 + payload + 8;
            frame[40..42].copy_from_slice(&sum.to_be_bytes());
            let bytes = [&WIRE[..], &frame].concat();
            let Collected(taken, errors) = decap(&[message(&bytes, Some(size))]);
            assert!(errors.is_empty());
            let [(_, _, got, offload)] = &taken[..] else { panic!("{} units", taken.len()) };
            assert_eq!(*got, frame);
            let gso = offload.gso.unwrap();
            assert_eq!((gso.kind, gso.size, gso.segments), (GsoKind::Udp, size, segments));
            assert_eq!(offload.checksum, Checksum::Partial { start: 34, offset: 6 });
        }
    }
}
