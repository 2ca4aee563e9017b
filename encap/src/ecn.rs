//! Explicit congestion notification through the tunnel (RFC 6040).

use crate::checksum;
use crate::inet::Inet;
use crate::mtu::IpVersion;

/// The ECN field: the low two bits of TOS or traffic class (RFC 3168 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ecn {
    /// Not ECN-capable.
    NotEct = 0,
    /// ECN-capable, codepoint 01.
    Ect1 = 1,
    /// ECN-capable, codepoint 10.
    Ect0 = 2,
    /// Congestion experienced.
    Ce = 3,
}

impl Ecn {
    /// The field of a TOS or traffic class byte.
    #[must_use]
    pub const fn of_tos(tos: u8) -> Self {
        match tos & 3 {
            0 => Self::NotEct,
            1 => Self::Ect1,
            2 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// Whether this in an outer header changes no inner field, whatever that is ([`decapsulate`]).
    #[must_use]
    pub const fn leaves_inner(self) -> bool {
        matches!(self, Self::NotEct | Self::Ect0)
    }

    /// The field's two bits.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self as u8
    }
}

/// The outer header says congestion was experienced by an inner packet that cannot carry it: RFC
/// 6040 section 4.2 has it dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("congestion marked on an inner packet that is not ECN-capable")]
pub struct IllegalEcn;

/// The ECN field of the outer header for an inner packet with this TOS or traffic class: a copy
/// (RFC 6040 section 4.1, normal mode).
#[must_use]
pub const fn encapsulate(inner_tos: u8) -> Ecn {
    Ecn::of_tos(inner_tos)
}

/// The ECN field an inner packet leaves the tunnel with (RFC 6040 section 4.2, figure 4).
///
/// # Errors
/// When the outer field is CE and the inner packet is not ECN-capable: drop it.
pub const fn decapsulate(outer: Ecn, inner: Ecn) -> Result<Ecn, IllegalEcn> {
    match (inner, outer) {
        (Ecn::NotEct, Ecn::Ce) => Err(IllegalEcn),
        (Ecn::NotEct, _) => Ok(Ecn::NotEct),
        (_, Ecn::Ce) => Ok(Ecn::Ce),
        (Ecn::Ect0, Ecn::Ect1) => Ok(Ecn::Ect1),
        (inner, _) => Ok(inner),
    }
}

/// Sets the ECN field of the IP header in a frame's head and mends the IPv4 header checksum (RFC
/// 1624). `inet` must have been parsed from this head. Returns whether anything changed.
pub fn set(head: &mut [u8], inet: &Inet, ecn: Ecn) -> bool {
    let Some(header) = head.get_mut(inet.l3..) else { return false };
    match inet.version {
        IpVersion::V4 => {
            let Some([version, tos, _, _, _, _, _, _, _, _, c0, c1, ..]) =
                header.first_chunk_mut::<20>()
            else {
                return false;
            };
            let new = (*tos & !3) | ecn.bits();
            let old = u16::from_be_bytes([*version, *tos]);
            let check = u16::from_be_bytes([*c0, *c1]);
            let check = checksum::update(check, old, u16::from_be_bytes([*version, new]));
            let changed = *tos != new;
            if changed {
                *tos = new;
                [*c0, *c1] = check.to_be_bytes();
            }
            changed
        }
        IpVersion::V6 => {
            // Version (4), traffic class (8) and flow label (20): ECN is bits 10 and 11.
            let Some([_, byte, ..]) = header.first_chunk_mut::<40>() else { return false };
            let new = (*byte & !0x30) | (ecn.bits() << 4);
            let changed = *byte != new;
            *byte = new;
            changed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{tcp4, tcp6};
    use Ecn::{Ce, Ect0, Ect1, NotEct};

    #[test]
    fn what_leaves_the_inner_field_alone_is_known_from_the_outer_one() {
        for outer in (0..4).map(Ecn::of_tos) {
            let leaves =
                (0..4).map(Ecn::of_tos).all(|inner| decapsulate(outer, inner) == Ok(inner));
            assert_eq!(outer.leaves_inner(), leaves, "{outer:?}");
        }
    }

    #[test]
    fn rfc_6040_figure_4() {
        const DROP: Result<Ecn, IllegalEcn> = Err(IllegalEcn);
        // Rows: inner. Columns: outer Not-ECT, ECT(0), ECT(1), CE.
        let table = [
            (NotEct, [Ok(NotEct), Ok(NotEct), Ok(NotEct), DROP]),
            (Ect0, [Ok(Ect0), Ok(Ect0), Ok(Ect1), Ok(Ce)]),
            (Ect1, [Ok(Ect1), Ok(Ect1), Ok(Ect1), Ok(Ce)]),
            (Ce, [Ok(Ce), Ok(Ce), Ok(Ce), Ok(Ce)]),
        ];
        for (inner, row) in table {
            for (outer, want) in [NotEct, Ect0, Ect1, Ce].into_iter().zip(row) {
                assert_eq!(decapsulate(outer, inner), want, "inner {inner:?} outer {outer:?}");
            }
        }
    }

    #[test]
    fn encapsulation_copies() {
        for tos in 0..=255 {
            assert_eq!(encapsulate(tos).bits(), tos & 3);
        }
    }

    #[test]
    fn set_changes_the_field_and_keeps_the_header_valid() {
        for frame in [tcp4(10), tcp6(10)] {
            for ecn in [Ce, Ect0, Ect1, NotEct, NotEct] {
                let mut edited = frame.clone();
                let before = Inet::parse(&edited).unwrap();
                let changed = set(&mut edited, &before, ecn);
                let after = Inet::parse(&edited).unwrap();
                assert_eq!(changed, before.tos != after.tos);
                assert_eq!(after.tos, (before.tos & !3) | ecn.bits());
                if after.version == IpVersion::V4 {
                    assert_eq!(checksum::of(&edited[after.l3..after.l4]), 0);
                } else {
                    assert_eq!(edited[16..], frame[16..], "flow label and the rest stay");
                    assert_eq!(edited[15] & 0x0f, frame[15] & 0x0f);
                }
            }
        }
    }
}
