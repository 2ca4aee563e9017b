//! What can happen, and the small universe in which it does.

use crate::kit::{C_TAG, OPAQUE, RawTag, ethernet, mac};
use encap::MacAddr;
use std::collections::BTreeSet;

/// Segments: name, VNI, whether unknown unicast floods, whether strangers may send.
pub(crate) const SEGMENTS: [(&str, u32, bool, bool); 3] =
    [("s0", 100, true, false), ("s1", 200, false, false), ("s2", 300, true, true)];
/// The untagged segment, the tagged ones, and whether this is an access port.
pub(crate) type Mode = (Option<usize>, &'static [(u16, usize)], bool);
pub(crate) const MODES: [Mode; 6] = [
    (Some(0), &[], true),
    (Some(1), &[], true),
    (Some(2), &[], true),
    (None, &[(10, 0), (20, 1)], false),
    (Some(0), &[(10, 1)], false),
    (Some(1), &[(10, 0), (30, 2)], false),
];
pub(crate) const PORTS: u8 = 5;
pub(crate) const MTU: usize = 1450;
/// Milliseconds: learned entries expire.
pub(crate) const AGING: u64 = 300_000;
/// VTEPs that a segment may have as peers: 192.0.2.2 and up.
pub(crate) const VTEPS: [u8; 3] = [2, 3, 4];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TagKind {
    None,
    Priority,
    Vlan(u16),
    Double,
}

/// A frame by its parts; addresses are numbers in a small pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) src: u8,
    pub(crate) dst: u8,
    pub(crate) tag: TagKind,
    pub(crate) big: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The port is there, in this mode.
    SetPort {
        port: u8,
        mode: usize,
        up: bool,
    },
    RemovePort(u8),
    /// The segment has these peers.
    SetPeers {
        segment: usize,
        peers: BTreeSet<u8>,
    },
    FromPort {
        port: u8,
        parts: Parts,
    },
    /// Frames that a driver read in one go.
    Burst {
        port: u8,
        frames: Vec<Parts>,
    },
    /// From `192.0.2.peer`; a VNI that is none of [`SEGMENTS`] when out of range.
    FromPeer {
        peer: u8,
        segment: usize,
        parts: Parts,
    },
    Advance {
        ms: u64,
    },
    PinToPort {
        segment: usize,
        mac: u8,
        port: u8,
    },
    PinToVtep {
        segment: usize,
        mac: u8,
        vtep: u8,
    },
    Unpin {
        segment: usize,
        mac: u8,
    },
    Flush {
        segment: Option<usize>,
        mac: Option<u8>,
    },
}

/// The address with this number: five stations, and four that are none.
pub(crate) fn address(n: u8) -> MacAddr {
    match n {
        5 => MacAddr::BROADCAST,
        6 => MacAddr([0x01, 0x00, 0x5e, 0, 0, 1]),
        7 => MacAddr([0; 6]),
        8 => MacAddr([0x01, 0x80, 0xc2, 0, 0, 2]),
        station => mac(station + 1),
    }
}

/// Whether the address is a station's.
pub(crate) fn is_station(n: u8) -> bool {
    n < 5
}

impl Parts {
    pub(crate) fn payload(&self) -> Vec<u8> {
        vec![self.src ^ self.dst; if self.big { MTU + 1 } else { 46 }]
    }

    pub(crate) fn tags(&self) -> Vec<RawTag> {
        match self.tag {
            TagKind::None => vec![],
            TagKind::Priority => vec![(C_TAG, 0xb000)],
            TagKind::Vlan(vlan) => vec![(C_TAG, 0x7000 | vlan)],
            TagKind::Double => vec![(C_TAG, 10), (C_TAG, 20)],
        }
    }

    pub(crate) fn with_tags(&self, tags: &[RawTag]) -> Vec<u8> {
        ethernet(address(self.dst), address(self.src), tags, OPAQUE, &self.payload())
    }
}

/// As many steps as the bytes hold. Every string of bytes is some list of steps.
pub(crate) fn steps_from_bytes(bytes: &[u8]) -> Vec<Step> {
    bytes.chunks_exact(5).take(400).map(step).collect()
}

/// Mostly stations.
fn destination(n: u8) -> u8 {
    match n % 32 {
        25..28 => 5,
        special @ 28..31 => special - 22,
        _ => n % 5,
    }
}

fn source(n: u8) -> u8 {
    match n % 64 {
        62 => 6,
        63 => 7,
        _ => n % 5,
    }
}

fn tag(n: u8) -> TagKind {
    match n % 16 {
        0..9 => TagKind::None,
        9 => TagKind::Priority,
        10..13 => TagKind::Vlan(10),
        13 => TagKind::Vlan(20),
        14 => TagKind::Vlan(30),
        _ => TagKind::Double,
    }
}

/// Up to 70 frames, mostly from the station of the first one to others, and untagged.
fn burst(first: Parts, bytes: [u8; 3]) -> Vec<Parts> {
    let mut state = bytes.iter().fold(1u32, |state, byte| state << 8 ^ u32::from(*byte));
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let mut frames = vec![first];
    for _ in 0..next() % 70 {
        let [odd, n, dst] = [next(), next(), next()];
        let usual = Parts { dst: dst % 5, tag: TagKind::None, big: false, ..first };
        frames.push(match odd % 32 {
            0 => Parts { tag: tag(n), ..usual },
            1 => Parts { src: source(n), ..usual },
            2 => Parts { dst: destination(n), ..usual },
            3 => Parts { big: true, ..usual },
            _ => usual,
        });
    }
    frames
}

fn step(bytes: &[u8]) -> Step {
    let &[kind, a, b, c, d] = bytes else { unreachable!("chunks of five") };
    let segment = usize::from(a) % SEGMENTS.len();
    let parts = Parts { src: source(b), dst: destination(c), tag: tag(d), big: d & 0xf0 == 0xf0 };
    match kind % 64 {
        0..3 => {
            Step::SetPort { port: a % PORTS, mode: usize::from(b) % MODES.len(), up: c % 8 != 0 }
        }
        3 => Step::RemovePort(a % PORTS),
        4 | 5 => {
            let peers = VTEPS.iter().copied().filter(|vtep| b & (1 << vtep) != 0).collect();
            Step::SetPeers { segment, peers }
        }
        6..30 => Step::FromPort { port: a % PORTS, parts },
        30..35 => Step::Burst { port: a % PORTS, frames: burst(parts, [b, c, d]) },
        35..54 => {
            let peer = match a >> 4 {
                0 => 1,
                1 => 5,
                n => VTEPS[usize::from(n) % VTEPS.len()],
            };
            let segment = if a & 15 == 15 { SEGMENTS.len() } else { segment };
            Step::FromPeer { peer, segment, parts }
        }
        // Seven seconds are no divisor of the aging time, and more than the second in which an entry
        // is refreshed but once: no step hits an edge.
        54..57 => Step::Advance { ms: 7_000 * u64::from(b % 64) },
        57 => Step::PinToPort { segment, mac: b % 5, port: c % PORTS },
        58 => Step::PinToVtep { segment, mac: b % 5, vtep: VTEPS[usize::from(c) % VTEPS.len()] },
        59..62 => Step::Unpin { segment, mac: b % 5 },
        _ => Step::Flush {
            segment: (c & 1 != 0).then_some(segment),
            mac: (c & 2 != 0).then_some(b % 5),
        },
    }
}
