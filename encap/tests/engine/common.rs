//! Frames from a description, and checks by naive means.

use std::io::IoSlice;

use encap::{Checksum, Frame, Gso, GsoKind, Offload};
use etherparse::{IpNumber, Ipv4Header, Ipv6Header, TcpHeader, UdpHeader};
use proptest::prelude::*;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const URG: u8 = 0x20;
pub(crate) const ECE: u8 = 0x40;
pub(crate) const CWR: u8 = 0x80;

/// What a frame is to be.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) kind: GsoKind,
    pub(crate) v6: bool,
    /// Tags between MAC addresses and EtherType.
    pub(crate) tags: usize,
    pub(crate) payload: Vec<u8>,
    pub(crate) source_port: u16,
    pub(crate) sequence: u32,
    pub(crate) ack: u32,
    pub(crate) window: u16,
    pub(crate) flags: u8,
    /// Whole words of TCP options (no-operation).
    pub(crate) options: usize,
    pub(crate) identification: u16,
    pub(crate) df: bool,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
}

impl Spec {
    pub(crate) fn new(kind: GsoKind, v6: bool, payload: usize) -> Self {
        Self {
            kind,
            v6,
            tags: 0,
            payload: (0..payload).map(|i| (i * 7 + i / 251 + 3) as u8).collect(),
            source_port: 40_000,
            sequence: 0xffff_f000,
            ack: 77,
            window: 501,
            flags: ACK,
            options: 3,
            identification: 0xfffe,
            df: true,
            tos: 2,
            ttl: 64,
        }
    }

    pub(crate) fn tcp4(payload: usize) -> Self {
        Self::new(GsoKind::Tcp, false, payload)
    }

    pub(crate) fn udp4(payload: usize) -> Self {
        Self::new(GsoKind::Udp, false, payload)
    }

    pub(crate) fn l3(&self) -> usize {
        14 + 4 * self.tags
    }

    pub(crate) fn l4(&self) -> usize {
        self.l3() + if self.v6 { 40 } else { 20 }
    }

    pub(crate) fn header_len(&self) -> usize {
        self.l4() + if self.kind == GsoKind::Tcp { 20 + 4 * self.options } else { 8 }
    }

    /// Where the checksum lies, from layer 4 on.
    pub(crate) fn checksum_offset(&self) -> usize {
        if self.kind == GsoKind::Tcp { 16 } else { 6 }
    }

    /// The frame's bytes, all checksums finished.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for tag in 0..self.tags {
            let tpid = if tag == 0 && self.tags == 2 { [0x88, 0xa8] } else { [0x81, 0x00] };
            frame.extend([tpid[0], tpid[1], 0x60, 10 + tag as u8]);
        }
        frame.extend(if self.v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        let proto = if self.kind == GsoKind::Tcp { IpNumber::TCP } else { IpNumber::UDP };
        let l4_len = self.header_len() - self.l4() + self.payload.len();
        if self.v6 {
            let header = Ipv6Header {
                traffic_class: self.tos,
                flow_label: 0x12345.try_into().unwrap(),
                payload_length: l4_len as u16,
                next_header: proto,
                hop_limit: self.ttl,
                source: [0xfd; 16],
                destination: [0xfe; 16],
            };
            header.write(&mut frame).unwrap();
        } else {
            let mut header =
                Ipv4Header::new(l4_len as u16, self.ttl, proto, [10, 0, 0, 1], [10, 0, 0, 2])
                    .unwrap();
            header.identification = self.identification;
            header.dont_fragment = self.df;
            header.dscp = (self.tos >> 2).try_into().unwrap();
            header.ecn = (self.tos & 3).try_into().unwrap();
            header.header_checksum = header.calc_header_checksum();
            header.write(&mut frame).unwrap();
        }
        if self.kind == GsoKind::Tcp {
            let mut header = TcpHeader::new(self.source_port, 5201, self.sequence, self.window);
            header.acknowledgment_number = self.ack;
            header.set_options_raw(&vec![1; 4 * self.options]).unwrap();
            let at = frame.len() + 13;
            header.write(&mut frame).unwrap();
            frame[at] = self.flags;
        } else {
            let header = UdpHeader {
                source_port: self.source_port,
                destination_port: 53,
                length: l4_len as u16,
                checksum: 0,
            };
            header.write(&mut frame).unwrap();
        }
        frame.extend(&self.payload);
        finish_l4(&mut frame, self.l3(), self.l4(), self.checksum_offset());
        frame
    }

    /// The frame as a superframe: the checksum field holds the pseudo-header sum.
    pub(crate) fn superframe(&self, size: usize) -> (Vec<u8>, Offload) {
        let mut frame = self.build();
        let at = self.l4() + self.checksum_offset();
        let l4_len = frame.len() - self.l4();
        let pseudo = naive_sum(&pseudo_header(&frame, self.l3(), self.l4(), l4_len));
        frame[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        let gso = Gso {
            kind: self.kind,
            size: size as u16,
            segments: self.payload.len().div_ceil(size) as u16,
            header_len: self.header_len() as u16,
        };
        let checksum =
            Checksum::Partial { start: self.l4() as u16, offset: self.checksum_offset() as u16 };
        (frame, Offload { checksum, gso: Some(gso) })
    }
}

/// Specs of all sorts; `payload` bytes of payload.
pub(crate) fn specs(payload: std::ops::Range<usize>) -> impl Strategy<Value = Spec> {
    let tcp = prop_oneof![Just(GsoKind::Tcp), Just(GsoKind::Udp)];
    let numbers = (any::<u32>(), any::<u32>(), any::<u16>(), any::<u16>(), any::<u8>());
    let payload = proptest::collection::vec(any::<u8>(), payload);
    let shape = (0..=2usize, 0..=10usize, any::<bool>(), any::<[bool; 4]>());
    (tcp, any::<bool>(), payload, numbers, shape).prop_map(|(kind, v6, payload, n, shape)| {
        let (tags, options, df, [fin, psh, ece, cwr]) = shape;
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        Spec {
            kind,
            v6,
            tags,
            payload,
            source_port: 40_000,
            sequence: n.0,
            ack: n.1,
            window: n.2,
            flags: ACK | flag(fin, FIN) | flag(psh, PSH) | flag(ece, ECE) | flag(cwr, CWR),
            options,
            identification: n.3,
            df,
            tos: n.4,
            ttl: 63,
        }
    })
}

/// RFC 1071 as its section 1 says it, word by word.
pub(crate) fn naive_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        if sum > 0xffff {
            sum -= 0xffff;
        }
    }
    sum as u16
}

pub(crate) fn pseudo_header(frame: &[u8], l3: usize, l4: usize, l4_len: usize) -> Vec<u8> {
    let mut pseudo = Vec::new();
    if frame[l3] >> 4 == 4 {
        pseudo.extend(&frame[l3 + 12..l3 + 20]);
        pseudo.extend([0, frame[l3 + 9]]);
    } else {
        pseudo.extend(&frame[l3 + 8..l3 + 40]);
        pseudo.extend([0, if l4 == l3 + 40 { frame[l3 + 6] } else { 0 }]);
    }
    pseudo.extend((l4_len as u32).to_be_bytes());
    pseudo
}

fn l4_sum(frame: &[u8], l3: usize, l4: usize) -> u16 {
    let covered = &frame[l4..];
    naive_sum(&[&pseudo_header(frame, l3, l4, covered.len()), covered].concat())
}

fn finish_l4(frame: &mut [u8], l3: usize, l4: usize, offset: usize) {
    let at = l4 + offset;
    frame[at..at + 2].fill(0);
    let sum = !l4_sum(frame, l3, l4);
    let sum = if sum == 0 && offset == 6 { 0xffff } else { sum };
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Panics unless etherparse finds the frame sound and every checksum in it is right.
pub(crate) fn assert_sound(frame: &[u8], spec: &Spec) {
    let oracle = etherparse::SlicedPacket::from_ethernet(frame).unwrap();
    let (l3, l4) = (spec.l3(), spec.l4());
    match oracle.net.unwrap() {
        etherparse::NetSlice::Ipv4(ip) => {
            assert_eq!(usize::from(ip.header().total_len()), frame.len() - l3);
            assert_eq!(naive_sum(&frame[l3..l4]), 0xffff, "IPv4 header checksum");
        }
        etherparse::NetSlice::Ipv6(ip) => {
            assert_eq!(usize::from(ip.header().payload_length()), frame.len() - l4);
        }
        etherparse::NetSlice::Arp(_) => panic!("ARP instead of IP"),
    }
    match oracle.transport.unwrap() {
        etherparse::TransportSlice::Tcp(tcp) => {
            assert_eq!(tcp.header_len(), spec.header_len() - l4);
        }
        etherparse::TransportSlice::Udp(udp) => {
            assert_eq!(usize::from(udp.length()), frame.len() - l4);
            assert_ne!(udp.checksum(), 0);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(l4_sum(frame, l3, l4), 0xffff, "transport checksum");
}

/// A frame's bytes as slices: cut at these places, taken modulo its length.
pub(crate) fn cut<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<IoSlice<'a>> {
    let mut places: Vec<usize> = cuts.iter().map(|at| at % (bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| IoSlice::new(&bytes[pair[0]..pair[1]])).collect()
}

/// All bytes of a frame.
pub(crate) fn bytes_of(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = frame.head.to_vec();
    for slice in frame.body {
        bytes.extend_from_slice(slice);
    }
    bytes
}

/// The frames that come of a frame on a wire.
pub(crate) fn wire(frame: &Frame<'_>, mtu: Option<u16>) -> Vec<Vec<u8>> {
    let segments = encap::Segments::plan(frame, mtu).unwrap();
    (0..segments.count())
        .map(|i| {
            let mut out = vec![0; segments.header_len()];
            assert_eq!(segments.write_header(i, &mut out), out.len());
            for slice in segments.payload(i) {
                out.extend_from_slice(slice);
            }
            assert_eq!(out.len(), segments.segment_len(i));
            out
        })
        .collect()
}
