//! Writes the seeds: sound inputs of each kind, and some that are nearly so.

use std::fs;
use std::path::Path;

use encap::{Contiguous, Segments, VnetHeader, Vni, vxlan};
use etherparse::PacketBuilder;

const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
const B: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let save = |target: &str, name: &str, bytes: &[u8]| {
        let directory = corpus.join(target);
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(name), bytes)
    };
    for (name, frame) in frames() {
        save("frame", name, &frame)?;
        let datagram = [&vxlan::emit(vni())[..], &frame].concat();
        let size = (datagram.len() as u16).to_le_bytes();
        save("datagram", name, &[&size[..], &datagram, &datagram].concat())?;
    }
    for (name, header, frame) in superframes() {
        let input = [&[0][..], &header.encode(), &frame].concat();
        save("segmentation", name, &input)?;
        let name = format!("{name}-mtu");
        save("segmentation", &name, &[&[20][..], &input[1..]].concat())?;
        let mut train = Vec::new();
        for segment in segments(header, frame) {
            train.extend((segment.len() as u16).to_le_bytes());
            train.extend(segment);
        }
        save("coalescing", name.trim_end_matches("-mtu"), &train)?;
    }
    let (_, header, frame) = superframes().remove(2);
    let datagram = [&[144, 1][..], &vxlan::emit(vni()), &frame].concat();
    save("datagram", "inner-superframe", &datagram)?;
    let mut plain = VnetHeader { gso_type: 0, ..header }.encode().to_vec();
    plain.insert(0, 0);
    save("segmentation", "checksum-only", &[plain, frame].concat())
}

fn vni() -> Vni {
    Vni::from_wire([0, 0, 100]).unwrap_or_else(|| unreachable!("100 is a VNI"))
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7) as u8).collect()
}

fn tcp4() -> etherparse::PacketBuilderStep<etherparse::TcpHeader> {
    let ip = PacketBuilder::ethernet2(B, A).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
    ip.tcp(40_000, 5201, 0xffff_ff00, 501).ack(7).psh()
}

fn tcp6() -> etherparse::PacketBuilderStep<etherparse::TcpHeader> {
    let ip = PacketBuilder::ethernet2(B, A).ipv6([0xfd; 16], [0xfe; 16], 64);
    ip.tcp(40_000, 5201, 0xffff_ff00, 501).ack(7)
}

fn udp4() -> etherparse::PacketBuilderStep<etherparse::UdpHeader> {
    PacketBuilder::ethernet2(B, A).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(40_000, 53)
}

fn udp6() -> etherparse::PacketBuilderStep<etherparse::UdpHeader> {
    PacketBuilder::ethernet2(B, A).ipv6([0xfd; 16], [0xfe; 16], 64).udp(40_000, 53)
}

fn built(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = Vec::new();
    write(&mut frame);
    frame
}

macro_rules! frame {
    ($builder:expr, $len:expr) => {
        built(|out| $builder.write(out, &payload($len)).unwrap_or_else(|error| panic!("{error}")))
    };
}

fn frames() -> Vec<(&'static str, Vec<u8>)> {
    let tagged = |frame: &[u8], tag: &[u8]| [&frame[..12], tag, &frame[12..]].concat();
    let udp = frame!(udp4(), 64);
    let mut fragment = udp.clone();
    fragment[20] = 0x20;
    let arp = [
        &[0xff; 6][..],
        &B,
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
        &B,
        &[10, 0, 0, 2],
        &[0; 6],
        &[10, 0, 0, 1],
    ]
    .concat();
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 9];
    let nd = PacketBuilder::ethernet2(B, [0x33, 0x33, 0xff, 0, 0, 9])
        .ipv6([0xfd; 16], group, 255)
        .icmpv6_raw(135, 0, [0; 4]);
    let question = [&[0xfd; 16][..], &[1, 1], &B].concat();
    let nd = built(|out| nd.write(out, &question).unwrap_or_else(|error| panic!("{error}")));
    let mut extended = frame!(udp6(), 24);
    extended[20] = 0;
    extended[54..62].copy_from_slice(&[44, 0, 1, 4, 0, 0, 0, 0]);
    extended[62..70].copy_from_slice(&[17, 0, 0, 1, 0, 0, 0, 9]);
    vec![
        ("tcp4", frame!(tcp4(), 300)),
        ("tcp6", frame!(tcp6(), 10)),
        ("udp4-tagged", tagged(&udp, &[0x81, 0, 0x60, 10])),
        ("udp4-twice", tagged(&udp, &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 2])),
        ("udp4", udp),
        ("udp4-fragment", fragment),
        ("udp6", frame!(udp6(), 10)),
        ("udp6-extensions", extended),
        ("arp", arp),
        ("nd", nd),
        ("runt", vec![2; 13]),
    ]
}

fn superframes() -> Vec<(&'static str, VnetHeader, Vec<u8>)> {
    let header = |gso_type, gso_size, start, offset| VnetHeader {
        flags: 1,
        gso_type,
        hdr_len: 0,
        gso_size,
        csum_start: start,
        csum_offset: offset,
    };
    let mut tagged = frame!(tcp4(), 500);
    tagged.splice(12..12, [0x81, 0, 0, 10]);
    let superframes = vec![
        ("tcp4", header(1, 100, 34, 16), frame!(tcp4(), 950)),
        ("tcp6", header(0x84, 100, 54, 16), frame!(tcp6(), 700)),
        ("udp4", header(5, 100, 34, 6), frame!(udp4(), 820)),
        ("udp6", header(5, 18, 54, 6), frame!(udp6(), 180)),
        ("tcp4-tagged", header(1, 150, 38, 16), tagged),
        ("tcp4-one", header(1, 500, 34, 16), frame!(tcp4(), 200)),
    ];
    superframes
        .into_iter()
        .map(|(name, header, frame)| (name, header, unfinished(header, frame)))
        .collect()
}

/// The frame with only the pseudo-header sum in its checksum field.
fn unfinished(header: VnetHeader, mut frame: Vec<u8>) -> Vec<u8> {
    let len = frame.len();
    let forced = VnetHeader { flags: 0, gso_size: 40, ..header };
    forced.resolve(&mut frame, len).unwrap_or_else(|error| panic!("{error}"));
    frame
}

fn segments(header: VnetHeader, mut frame: Vec<u8>) -> Vec<Vec<u8>> {
    let len = frame.len();
    let offload = header.resolve(&mut frame, len).unwrap_or_else(|error| panic!("{error}"));
    let contiguous = Contiguous::new(&frame, offload);
    let segments =
        Segments::plan(&contiguous.frame(), None).unwrap_or_else(|error| panic!("{error}"));
    let segment = |i| {
        let mut out = vec![0; segments.header_len()];
        segments.write_header(i, &mut out);
        segments.payload(i).for_each(|slice| out.extend_from_slice(slice));
        out
    };
    (0..segments.count()).map(segment).collect()
}
