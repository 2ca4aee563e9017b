//! Discovery in pieces, by which it would get past who looks for it (RFC 6980, RFC 7113).

use crate::rows::{ALL_NODES, PODS, TWO6, flood_multicast, icmp6};
use crate::world::{Row, Unit, on, via};
use switch::DropReason as Why;

/// Bytes of the fragment header.
const HEADER: usize = 8;

/// The IPv6 packet as a fragment at eight times this offset.
pub(crate) fn piece(mut unit: Unit, offset: u16, more: bool) -> Unit {
    let field = (offset << 3 | u16::from(more)).to_be_bytes();
    unit.l3.splice(40..40, [unit.l3[6], 0, field[0], field[1], 0, 0, 0, 9]);
    unit.l3[6] = 44;
    ends_at(unit, usize::MAX)
}

/// The IPv6 packet behind an empty destination options header.
fn with_options(mut unit: Unit) -> Unit {
    unit.l3.splice(40..40, [unit.l3[6], 0, 1, 4, 0, 0, 0, 0]);
    unit.l3[6] = 60;
    ends_at(unit, usize::MAX)
}

/// The packet's first bytes, as a packet.
fn ends_at(mut unit: Unit, len: usize) -> Unit {
    unit.l3.truncate(len);
    let len = (unit.l3.len() - 40) as u16;
    unit.l3[4..6].copy_from_slice(&len.to_be_bytes());
    unit
}

/// Padded by a byte that reads like the type of a ping.
fn padded(mut unit: Unit) -> Unit {
    unit.l3.push(128);
    unit
}

/// A router advertisement of somebody on the link, a ping, and what is neither.
fn message(kind: u8) -> Unit {
    icmp6(kind, TWO6, "ff02::1")
}

fn from_afar(kind: u8) -> Unit {
    icmp6(kind, "fd44:0:0:2::9", "ff02::1")
}

pub(crate) fn rows() -> Vec<Row> {
    const ADVERTISEMENT: u8 = 134;
    const PING: u8 = 128;
    let bare = |unit: Unit| ends_at(piece(unit, 0, true), 40 + HEADER);
    let link = |name, unit| on(name, "two", unit).drops(Why::LinkControl);
    let afar = |name, unit| via(name, 2, unit).given(flood_multicast).drops(Why::LinkControl);
    let all = &["two", "three", "narrow", "loose"];
    vec![
        link("discovery in a first piece", piece(message(ADVERTISEMENT), 0, true)),
        link("discovery in the only piece", piece(message(ADVERTISEMENT), 0, false)),
        link("discovery, a piece before its type", bare(message(ADVERTISEMENT))),
        link("discovery, a padded piece before its type", padded(bare(message(ADVERTISEMENT)))),
        link(
            "discovery behind options, a piece before its type",
            padded(ends_at(piece(with_options(message(ADVERTISEMENT)), 0, true), 40 + HEADER + 8)),
        ),
        link(
            "discovery in pieces, to the gateway's MAC",
            bare(icmp6(137, TWO6, "fd44:0:0:1::3")).to(switch::GATEWAY_MAC.get()),
        ),
        link("a message without a type", ends_at(message(ADVERTISEMENT), 40)),
        link("a padded message without a type", padded(ends_at(message(ADVERTISEMENT), 40))),
        on(
            "discovery, a piece amid its options",
            "two",
            ends_at(piece(with_options(message(ADVERTISEMENT)), 0, true), 40 + HEADER),
        )
        .drops(Why::IpMalformed),
        afar("underlay: discovery in a first piece", piece(from_afar(ADVERTISEMENT), 0, true)),
        afar("underlay: discovery, a piece before its type", bare(from_afar(ADVERTISEMENT))),
        afar(
            "underlay: discovery, a padded piece before its type",
            padded(bare(from_afar(ADVERTISEMENT))),
        ),
        on("a ping in a first piece", "two", piece(message(PING), 0, true)).floods(PODS, &[]),
        on("a later piece", "two", piece(message(ADVERTISEMENT), 1, false)).floods(PODS, &[]),
        via("underlay: a ping in a first piece", 2, piece(from_afar(PING), 0, true))
            .given(flood_multicast)
            .floods(all, &[]),
        on("a ping to all nodes", "two", message(PING).to(ALL_NODES)).floods(PODS, &[]),
    ]
}
