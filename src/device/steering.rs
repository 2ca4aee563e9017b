//! Which queue of a TAP a flow is read from: always the same one.
//!
//! Left to itself the kernel sends a flow to the queue on which its return direction was written
//! last, and after some seconds of silence to another. Each time a flow changes its queue two workers
//! have frames of it, and one may overtake the other. So a program is attached that tells the queue
//! by the flow alone (TUNSETSTEERINGEBPF, linux/if_tun.h), and the kernel need not keep and write its
//! own table of flows. It computes a [`FlowHash`], which is the same for both directions of a flow, and
//! takes of it what also tells the tunnel's source port, by which a peer chooses among its workers
//! ([`crate::io::underlay`]): both directions of a flow have one worker in each node.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use encap::FlowHash;
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::io::sys;
use crate::io::underlay::BUCKETS;

/// How flows are spread over a device's queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Steering {
    /// By the flow alone.
    FlowHash,
    /// As the kernel likes: a flow may change its queue and arrive out of order.
    Automatic,
}

/// A program, loaded once for all devices, or why it cannot be (an errno).
type Loaded = OnceLock<Result<OwnedFd, i32>>;

/// Has the flow alone decide which of so many queues, as far as the kernel lets this process: to load a
/// program takes CAP_BPF or CAP_SYS_ADMIN outside of any user namespace.
pub(super) fn steer(tun: BorrowedFd<'_>, queues: usize) -> Steering {
    let steered =
        program(Classes::of(queues)).and_then(|program| sys::tun_set_steering(tun, program));
    if steered.is_ok() { Steering::FlowHash } else { Steering::Automatic }
}

/// How many different numbers flows have, of which the kernel takes the remainder by the number of
/// queues.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Classes {
    /// One for each source port of the tunnel: the number is the source port's bucket.
    Buckets,
    /// As many as count: more queues than there are buckets.
    Many,
}

impl Classes {
    const fn of(queues: usize) -> Self {
        if queues > BUCKETS { Self::Many } else { Self::Buckets }
    }

    /// By how much the hash is shifted: its upper bits depend on all of the flow.
    const fn shift(self) -> i32 {
        match self {
            Self::Buckets => 32 - BUCKETS.trailing_zeros().cast_signed(),
            // The kernel looks at 16 bits.
            Self::Many => 16,
        }
    }
}

const _: () = assert!(BUCKETS.is_power_of_two());

fn program(classes: Classes) -> io::Result<BorrowedFd<'static>> {
    static BY_BUCKET: Loaded = OnceLock::new();
    static MANY: Loaded = OnceLock::new();
    let program = match classes {
        Classes::Buckets => &BY_BUCKET,
        Classes::Many => &MANY,
    };
    let loaded = program.get_or_init(|| {
        sys::load_socket_filter(&flow_hash(classes)).map_err(|error| {
            info!("the kernel decides which queue a flow is read from: bpf: {error}");
            error.raw_os_error().unwrap_or(libc::ENOSYS)
        })
    });
    loaded.as_ref().map(|program| program.as_fd()).map_err(|e| io::Error::from_raw_os_error(*e))
}

// Registers. The frame is in R6, as BPF_LD wants it; what is loaded comes in R0.
const R0: u8 = 0;
const R1: u8 = 1;
const R6: u8 = 6;
const HASH: u8 = 7;
const AT: u8 = 8;

// linux/bpf.h, linux/bpf_common.h: class, then operation or size and mode, then source.
const LOAD_BYTE: u8 = 0x30;
const LOAD_HALF: u8 = 0x28;
const LOAD_WORD: u8 = 0x20;
const LOAD_WORD_AT: u8 = 0x40;
const MOVE: u8 = 0xbf;
const MOVE_VALUE: u8 = 0xb7;
const ADD: u8 = 0x0f;
const AND_VALUE: u8 = 0x57;
const SHIFT_LEFT: u8 = 0x67;
const SHIFT_RIGHT: u8 = 0x77;
/// Of 32 bits: the upper half of the register becomes zero.
const MULTIPLY_32: u8 = 0x24;
const JUMP: u8 = 0x05;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_IF_ANY: u8 = 0x45;
const EXIT: u8 = 0x95;

/// An instruction or a place that jumps lead to.
enum Line {
    Do { code: u8, to: u8, from: u8, value: i32 },
    Jump { code: u8, of: u8, value: i32, label: Label },
    Place(Label),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Label {
    V4,
    V6,
    Protocol,
    Ports,
    Mix,
}

use Line::Place;

const fn load(code: u8, offset: i32) -> Line {
    Line::Do { code, to: R0, from: AT, value: offset }
}

const fn on(code: u8, to: u8, from: u8) -> Line {
    Line::Do { code, to, from, value: 0 }
}

const fn by(code: u8, to: u8, value: i32) -> Line {
    Line::Do { code, to, from: 0, value }
}

const fn jump(code: u8, value: i32, label: Label) -> Line {
    Line::Jump { code, of: R0, value, label }
}

/// The program: [`FlowHash`], but for IPv6 with extension headers, whose ports do not count here. A
/// frame too short for what is loaded from it ends the program with zero.
fn flow_hash(classes: Classes) -> Vec<[u8; 8]> {
    const IPV4: i32 = 0x0800;
    const IPV6: i32 = 0x86dd;
    const TCP: i32 = 6;
    const UDP: i32 = 17;
    const SCTP: i32 = 132;
    /// More fragments, and the fragment's offset.
    const FRAGMENT: i32 = 0x3fff;
    // Offsets from the frame's start; a VLAN tag is beside it, not in it.
    assemble(&[
        on(MOVE, R6, R1),
        load(LOAD_HALF, 12),
        jump(JUMP_IF_EQUAL, IPV4, Label::V4),
        jump(JUMP_IF_EQUAL, IPV6, Label::V6),
        // Neither: the ends of the MAC addresses.
        load(LOAD_WORD, 2),
        on(MOVE, HASH, R0),
        load(LOAD_WORD, 8),
        on(ADD, HASH, R0),
        jump(JUMP, 0, Label::Mix),
        Place(Label::V4),
        load(LOAD_WORD, 26),
        on(MOVE, HASH, R0),
        load(LOAD_WORD, 30),
        on(ADD, HASH, R0),
        load(LOAD_HALF, 20),
        jump(JUMP_IF_ANY, FRAGMENT, Label::Mix),
        load(LOAD_BYTE, 14),
        by(AND_VALUE, R0, 15),
        by(SHIFT_LEFT, R0, 2),
        on(MOVE, AT, R0),
        load(LOAD_BYTE, 23),
        jump(JUMP, 0, Label::Protocol),
        Place(Label::V6),
        load(LOAD_WORD, 30),
        on(MOVE, HASH, R0),
        load(LOAD_WORD, 34),
        on(ADD, HASH, R0),
        load(LOAD_WORD, 46),
        on(ADD, HASH, R0),
        load(LOAD_WORD, 50),
        on(ADD, HASH, R0),
        by(MOVE_VALUE, AT, 40),
        load(LOAD_BYTE, 20),
        Place(Label::Protocol),
        jump(JUMP_IF_EQUAL, TCP, Label::Ports),
        jump(JUMP_IF_EQUAL, UDP, Label::Ports),
        jump(JUMP_IF_EQUAL, SCTP, Label::Ports),
        jump(JUMP, 0, Label::Mix),
        Place(Label::Ports),
        load(LOAD_WORD_AT, 14),
        on(MOVE, AT, R0),
        by(SHIFT_RIGHT, AT, 16),
        on(ADD, HASH, AT),
        by(AND_VALUE, R0, 0xffff),
        on(ADD, HASH, R0),
        Place(Label::Mix),
        by(MULTIPLY_32, HASH, FlowHash::MULTIPLIER.cast_signed()),
        by(SHIFT_RIGHT, HASH, classes.shift()),
        on(MOVE, R0, HASH),
        on(EXIT, 0, 0),
    ])
}

fn assemble(lines: &[Line]) -> Vec<[u8; 8]> {
    let is_code = |line: &&Line| !matches!(line, Place(_));
    let place_of = |label: Label| {
        let at = lines.iter().position(|line| matches!(line, Place(other) if *other == label));
        lines.iter().take(at.unwrap_or(lines.len())).filter(is_code).count()
    };
    let code = lines.iter().filter(is_code).enumerate();
    code.map(|(at, line)| match *line {
        Line::Do { code, to, from, value } => encode(code, to, from, 0, value),
        Line::Jump { code, of, value, label } => {
            let distance = place_of(label).saturating_sub(at + 1);
            let of = if code == JUMP { 0 } else { of };
            encode(code, of, 0, i16::try_from(distance).unwrap_or(0), value)
        }
        Place(_) => [0; 8],
    })
    .collect()
}

/// `struct bpf_insn` (linux/bpf.h).
fn encode(code: u8, to: u8, from: u8, offset: i16, value: i32) -> [u8; 8] {
    // Only a load relative to a register has one as its source.
    let from = if matches!(code, LOAD_BYTE | LOAD_HALF | LOAD_WORD) { 0 } else { from };
    let registers = if cfg!(target_endian = "little") { from << 4 | to } else { to << 4 | from };
    let ([o0, o1], [v0, v1, v2, v3]) = (offset.to_ne_bytes(), value.to_ne_bytes());
    [code, registers, o0, o1, v0, v1, v2, v3]
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    /// What the kernel's interpreter makes of the program (bpf(2), linux/bpf.h): what the program
    /// does is checked without the right to load it.
    fn queue_number(frame: &[u8]) -> u64 {
        number(frame, Classes::Many)
    }

    fn number(frame: &[u8], classes: Classes) -> u64 {
        let program = flow_hash(classes);
        let mut registers = [0_u64; 16];
        let mut at = 0;
        loop {
            let [code, both, o0, o1, value @ ..] = program[at];
            let (to, from) = if cfg!(target_endian = "little") {
                (usize::from(both & 15), usize::from(both >> 4))
            } else {
                (usize::from(both >> 4), usize::from(both & 15))
            };
            let value = i32::from_ne_bytes(value);
            let wide = i64::from(value).cast_unsigned();
            at += 1;
            let jumped = at.strict_add_signed(isize::from(i16::from_ne_bytes([o0, o1])));
            let packet = |len: usize, start: u64| {
                let start = usize::try_from(start).ok()?;
                let bytes = frame.get(start..start + len)?;
                Some(bytes.iter().fold(0, |all, byte| all << 8 | u64::from(*byte)))
            };
            let loaded = match code {
                LOAD_BYTE => packet(1, wide),
                LOAD_HALF => packet(2, wide),
                LOAD_WORD => packet(4, wide),
                LOAD_WORD_AT => packet(4, registers[from].wrapping_add(wide)),
                _ => Some(registers[0]),
            };
            // A load that leaves the frame ends the program.
            let Some(loaded) = loaded else { return 0 };
            registers[0] = loaded;
            match code {
                LOAD_BYTE | LOAD_HALF | LOAD_WORD | LOAD_WORD_AT => {}
                MOVE => registers[to] = registers[from],
                MOVE_VALUE => registers[to] = wide,
                ADD => registers[to] = registers[to].wrapping_add(registers[from]),
                AND_VALUE => registers[to] &= wide,
                SHIFT_LEFT => registers[to] <<= value,
                SHIFT_RIGHT => registers[to] >>= value,
                MULTIPLY_32 => {
                    let product = (registers[to] as u32).wrapping_mul(value.cast_unsigned());
                    registers[to] = u64::from(product);
                }
                JUMP => at = jumped,
                JUMP_IF_EQUAL if registers[to] == wide => at = jumped,
                JUMP_IF_ANY if registers[to] & wide != 0 => at = jumped,
                JUMP_IF_EQUAL | JUMP_IF_ANY => {}
                EXIT => return registers[0],
                other => panic!("no such instruction: {other:#x}"),
            }
        }
    }

    const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

    /// A frame of a flow: of IPv4 or IPv6, TCP or UDP, one way or back.
    fn frame(v6: bool, tcp: bool, ports: [u16; 2], back: bool) -> Vec<u8> {
        let turned = |mut pair: [u16; 2]| {
            if back {
                pair.reverse();
            }
            pair
        };
        let [source, destination] = turned(ports);
        let [near, far] = turned([1, 2]).map(|end| usize::from(end) - 1);
        let builder = PacketBuilder::ethernet2(MACS[near], MACS[far]);
        let builder = if v6 {
            builder.ipv6([near as u8 + 1; 16], [far as u8 + 1; 16], 64)
        } else {
            builder.ipv4([10, 0, 0, near as u8], [10, 0, 0, far as u8], 64)
        };
        let mut bytes = Vec::new();
        if tcp {
            builder.tcp(source, destination, 1, 100).write(&mut bytes, b"payload").unwrap();
        } else {
            builder.udp(source, destination).write(&mut bytes, b"payload").unwrap();
        }
        bytes
    }

    #[test]
    fn both_directions_of_a_flow_have_one_number_and_flows_are_spread() {
        for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut queues = [0_u32; 4];
            for port in 0..256 {
                let ports = [40_000 + port, 5201];
                let number = queue_number(&frame(v6, tcp, ports, false));
                assert_eq!(number, queue_number(&frame(v6, tcp, ports, true)), "{v6} {tcp} {port}");
                queues[usize::try_from(number % 4).unwrap()] += 1;
            }
            assert!(queues.iter().all(|count| (32..96).contains(count)), "{queues:?}");
        }
    }

    #[test]
    fn the_number_is_the_bucket_of_the_flow_hash() {
        let mut frames: Vec<Vec<u8>> = Vec::new();
        for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
            frames.extend((0..64).map(|port| frame(v6, tcp, [40_000 + port, 5201], port % 3 == 0)));
        }
        let mut options = frames[64].clone();
        options[14] = 0x46;
        options.splice(34..34, [1, 1, 1, 0]);
        let mut fragment = frames[0].clone();
        fragment[20] = 0x20;
        let mut sctp = frames[1].clone();
        sctp[23] = 132;
        let mut ping = frames[2].clone();
        ping[23] = 1;
        let arp = [&MACS[0][..], &MACS[1], &[8, 6], &[0; 46]].concat();
        frames.extend([options, fragment, sctp, ping, arp]);
        for frame in frames {
            let hash = FlowHash::of(&frame);
            assert_eq!(number(&frame, Classes::Buckets), hash.bucket(BUCKETS) as u64, "{frame:?}");
            assert_eq!(number(&frame, Classes::Many), u64::from(hash.0 >> 16), "{frame:?}");
        }
    }

    #[test]
    fn all_fragments_of_a_datagram_have_one_number() {
        let whole = frame(false, false, [1000, 2000], false);
        let fragment = |flags_and_offset: u16, behind: &[u8]| {
            let mut bytes = whole.clone();
            bytes[20..22].copy_from_slice(&flags_and_offset.to_be_bytes());
            bytes[34..34 + behind.len()].copy_from_slice(behind);
            queue_number(&bytes)
        };
        let first = fragment(0x2000, &[]);
        assert_eq!(first, fragment(0x2010, &[1, 2, 3, 4]));
        assert_eq!(first, fragment(0x0020, &[5, 6, 7, 8]));
        assert_ne!(first, queue_number(&whole), "ports do count where nothing is cut");
        // Don't fragment is no fragment.
        assert_eq!(queue_number(&whole), fragment(0x4000, &[]));
    }

    #[test]
    fn options_of_ipv4_are_stepped_over() {
        let plain = frame(false, true, [1000, 2000], false);
        let mut bytes = plain.clone();
        bytes[14] = 0x46;
        bytes.splice(34..34, [1, 1, 1, 0]);
        assert_eq!(queue_number(&bytes), queue_number(&plain));
    }

    #[test]
    fn what_is_short_or_no_ip_has_a_number_too() {
        let whole = frame(true, true, [1000, 2000], false);
        for len in 0..whole.len() {
            assert!(queue_number(&whole[..len]) <= 0xffff, "{len} bytes");
        }
        let arp = |from: usize, to: usize| {
            let bytes = [&MACS[to][..], &MACS[from], &[8, 6], &[0; 46]].concat();
            queue_number(&bytes)
        };
        assert_eq!(arp(0, 1), arp(1, 0));
        assert_ne!(arp(0, 1), 0);
    }

    #[test]
    fn each_jump_leads_forward_and_into_the_program() {
        let program = flow_hash(Classes::Buckets);
        assert_eq!(program.last().map(|last| last[0]), Some(EXIT));
        for (at, line) in program.iter().enumerate() {
            if matches!(line[0], JUMP | JUMP_IF_ANY | JUMP_IF_EQUAL) {
                let distance = usize::try_from(i16::from_ne_bytes([line[2], line[3]])).unwrap();
                assert!(at + 1 + distance < program.len(), "line {at}");
            }
            assert!(matches!(line[0], EXIT) == (at == program.len() - 1), "line {at}");
        }
    }
}
