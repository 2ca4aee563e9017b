//! Frames for the tests, built by etherparse: an oracle that shares no code with this crate.

use etherparse::PacketBuilder;

const DST: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SRC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A pattern that no shift maps onto itself.
pub(crate) fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

fn built<F: FnOnce(&mut Vec<u8>)>(write: F) -> Vec<u8> {
    let mut frame = Vec::new();
    write(&mut frame);
    frame
}

/// TCP over IPv4 with `len` bytes of payload.
pub(crate) fn tcp4(len: usize) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(SRC, DST)
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .tcp(40000, 5201, 0xffff_f000, 4096)
        .ack(77);
    built(|out| builder.write(out, &payload(len)).unwrap())
}

/// TCP over IPv6 with `len` bytes of payload.
pub(crate) fn tcp6(len: usize) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(SRC, DST)
        .ipv6([0xfd; 16], [0xfe; 16], 64)
        .tcp(40000, 5201, 0xffff_f000, 4096)
        .ack(77);
    built(|out| builder.write(out, &payload(len)).unwrap())
}

/// UDP over IPv4 with `len` bytes of payload.
pub(crate) fn udp4(len: usize) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2(SRC, DST).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(40000, 53);
    built(|out| builder.write(out, &payload(len)).unwrap())
}

/// UDP over IPv6 with `len` bytes of payload.
pub(crate) fn udp6(len: usize) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2(SRC, DST).ipv6([0xfd; 16], [0xfe; 16], 64).udp(40000, 53);
    built(|out| builder.write(out, &payload(len)).unwrap())
}

/// The frame with a tag behind its MAC addresses.
pub(crate) fn tagged(frame: &[u8], tag: [u8; 4]) -> Vec<u8> {
    let (macs, rest) = frame.split_at(12);
    [macs, &tag, rest].concat()
}
