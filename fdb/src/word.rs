//! An entry in two 64-bit words: the key (who) and the word (where, how, and when last seen).

use encap::{MacAddr, StationBits, StationMac};

use crate::{Dest, Origin, PortId, SegmentId, Tick, VtepId};

/// Milliseconds in one unit of a [`Stamp`].
const UNIT_MS: u64 = 100;

/// A moment in tenths of a second, modulo 2^28 (310 days). Ages are right up to half of that;
/// what lies in the future (another worker's clock reading may be younger) has age zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp(u32);

impl Stamp {
    const BITS: u32 = 28;
    const MASK: u32 = (1 << Self::BITS) - 1;

    pub(crate) const fn of(tick: Tick) -> Self {
        Self((tick.0 / UNIT_MS) as u32 & Self::MASK)
    }

    /// The lower bits, for where 28 are too many.
    pub(crate) const fn low24(self) -> u32 {
        self.0 & 0x00ff_ffff
    }

    /// Tenths of a second from `self` to `now`.
    pub(crate) const fn age(self, now: Self) -> u32 {
        let age = now.0.wrapping_sub(self.0) & Self::MASK;
        if age > Self::MASK / 2 { 0 } else { age }
    }

    /// Whether its age has come to a span: what [`Self::age`] would say, in one subtraction and one
    /// comparison, since every frame asks for it twice.
    #[inline]
    pub(crate) const fn reached(self, now: Self, span: Span) -> bool {
        // In the upper bits a moment that lies in the future is a negative age.
        let unused = u32::BITS - Self::BITS;
        (now.0 << unused).wrapping_sub(self.0 << unused) as i32 >= span.0 as i32
    }
}

/// An age to be [reached](Stamp::reached), as the upper bits of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(u32);

impl Span {
    /// No age comes to this.
    pub(crate) const NEVER: Self = Self(i32::MAX as u32);

    /// So many tenths of a second, less than half of what a stamp counts.
    pub(crate) const fn of(tenths: u32) -> Self {
        assert!(tenths <= Stamp::MASK / 2, "no age is so great");
        Self(tenths << (u32::BITS - Stamp::BITS))
    }

    /// Tenths of a second; `None` for never.
    pub(crate) const fn tenths(self) -> Option<u32> {
        match self {
            Self::NEVER => None,
            Self(upper) => Some(upper >> (u32::BITS - Stamp::BITS)),
        }
    }

    pub(crate) const fn raw(self) -> u32 {
        self.0
    }

    pub(crate) const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }
}

/// A span in tenths of a second, rounded up, at least one and at most `max`.
pub(crate) const fn tenths(ms: u64, max: u32) -> u32 {
    let units = ms.div_ceil(UNIT_MS);
    if units == 0 {
        1
    } else if units > max as u64 {
        max
    } else {
        units as u32
    }
}

/// The first tick at which something that is `left` tenths away has come.
pub(crate) const fn tick_after(now: Tick, left: u32) -> u64 {
    (now.0 / UNIT_MS).saturating_add(left as u64).saturating_mul(UNIT_MS)
}

/// Milliseconds in `age` tenths of a second.
pub(crate) const fn millis(age: u32) -> u64 {
    age as u64 * UNIT_MS
}

/// Segment and station, the address's first octet lowest, which takes the fewest instructions.
/// Never zero, since a station's address is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key(u64);

impl Key {
    const GROUP: u64 = 1;

    pub(crate) const fn new(segment: SegmentId, mac: StationMac) -> Self {
        Self(((segment.0 as u64) << 48) | Self::bits(mac.get()))
    }

    /// The key of a station whose address is one number.
    pub(crate) const fn of(segment: SegmentId, mac: StationBits) -> Self {
        Self(((segment.0 as u64) << 48) | mac.get())
    }

    const fn bits(MacAddr([a, b, c, d, e, f]): MacAddr) -> u64 {
        u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
    }

    /// The key under which a frame's destination would be found; `None` for what is nobody's
    /// ([`MacAddr::station`]).
    pub(crate) const fn of_destination(segment: SegmentId, mac: MacAddr) -> Option<Self> {
        let bits = Self::bits(mac);
        if bits == 0 || bits & Self::GROUP != 0 {
            None
        } else {
            Some(Self(((segment.0 as u64) << 48) | bits))
        }
    }

    pub(crate) const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    pub(crate) const fn raw(self) -> u64 {
        self.0
    }

    pub(crate) const fn segment(self) -> SegmentId {
        SegmentId((self.0 >> 48) as u16)
    }

    pub(crate) const fn mac(self) -> Option<StationMac> {
        let [a, b, c, d, e, f, _, _] = self.0.to_le_bytes();
        MacAddr([a, b, c, d, e, f]).station()
    }
}

/// Where, how and when: bits 0–27 the stamp, 29–30 the origin (zero: no entry), 31 whether a VTEP,
/// 32–47 the slot, 48–63 its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word(u64);

impl Word {
    /// No entry.
    pub(crate) const DEAD: Self = Self(0);
    const VTEP: u64 = 1 << 31;
    /// All bits that say where.
    const PLACE: u64 = !0 << 32 | Self::VTEP;

    pub(crate) const fn new(dest: Dest, origin: Origin, seen: Stamp) -> Self {
        let origin: u64 = match origin {
            Origin::Learned => 1,
            Origin::Static => 2,
            Origin::Control => 3,
        };
        Self(Self::place(dest) | (origin << 29) | seen.0 as u64)
    }

    /// The bits that say where.
    #[inline]
    pub(crate) const fn place(dest: Dest) -> u64 {
        let (kind, slot, generation) = match dest {
            Dest::Port(PortId { slot, generation }) => (0, slot, generation),
            Dest::Vtep(VtepId { slot, generation }) => (Self::VTEP, slot, generation),
        };
        ((generation as u64) << 48) | ((slot as u64) << 32) | kind
    }

    pub(crate) const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    pub(crate) const fn raw(self) -> u64 {
        self.0
    }

    pub(crate) const fn is_dead(self) -> bool {
        self.0 == 0
    }

    pub(crate) const fn dest(self) -> Dest {
        let slot = (self.0 >> 32) as u16;
        let generation = (self.0 >> 48) as u16;
        if self.0 & Self::VTEP == 0 {
            Dest::Port(PortId { slot, generation })
        } else {
            Dest::Vtep(VtepId { slot, generation })
        }
    }

    /// Whether `dest` is where it lives.
    #[inline]
    pub(crate) const fn is_at(self, dest: Dest) -> bool {
        self.0 & Self::PLACE == Self::place(dest)
    }

    pub(crate) const fn origin(self) -> Origin {
        match (self.0 >> 29) & 3 {
            2 => Origin::Static,
            3 => Origin::Control,
            _ => Origin::Learned,
        }
    }

    pub(crate) const fn is_learned(self) -> bool {
        (self.0 >> 29) & 3 == 1
    }

    pub(crate) const fn seen(self) -> Stamp {
        Stamp(self.0 as u32 & Stamp::MASK)
    }

    pub(crate) const fn with_seen(self, seen: Stamp) -> Self {
        Self((self.0 & !(Stamp::MASK as u64)) | seen.0 as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_gives_back_what_it_was_made_of() {
        let stamps = [0, 1, 99, 100, 12_345_678_900, u64::MAX];
        let dests = [
            Dest::Port(PortId { slot: 0, generation: 0 }),
            Dest::Port(PortId { slot: 0xffff, generation: 1 }),
            Dest::Vtep(VtepId { slot: 1, generation: 0xffff }),
            Dest::Vtep(VtepId { slot: 0xffff, generation: 0xffff }),
        ];
        for dest in dests {
            for origin in [Origin::Learned, Origin::Static, Origin::Control] {
                for ms in stamps {
                    let seen = Stamp::of(Tick(ms));
                    let word = Word::new(dest, origin, seen);
                    assert_eq!((word.dest(), word.origin(), word.seen()), (dest, origin, seen));
                    assert_eq!(word.is_learned(), origin == Origin::Learned);
                    assert!(!word.is_dead());
                    let later = word.with_seen(Stamp::of(Tick(700)));
                    assert_eq!((later.dest(), later.origin()), (dest, origin));
                    for other in dests {
                        assert_eq!(later.is_at(other), other == dest, "{later:?} {other:?}");
                    }
                    assert_eq!(later.seen(), Stamp::of(Tick(700)));
                }
            }
        }
    }

    #[test]
    fn ages_survive_the_wrap_and_skewed_clocks() {
        let wrap = (1_u64 << 28) * UNIT_MS;
        for (seen, now, age) in [
            (0, 0, 0),
            (0, 99, 0),
            (99, 100, 1),
            (1000, 61_000, 600),
            (wrap - 100, wrap + 100, 2),
            (5000, 4000, 0),
            (wrap, wrap - 100, 0),
        ] {
            assert_eq!(Stamp::of(Tick(seen)).age(Stamp::of(Tick(now))), age, "{seen} {now}");
        }
    }

    /// The short way says what the long one does, at every edge.
    #[test]
    fn an_age_is_reached_when_it_is_as_great() {
        let edges = [0, 1, 2, 10, 600, Stamp::MASK / 2, Stamp::MASK / 2 + 1, Stamp::MASK];
        for (seen, now) in edges.iter().flat_map(|seen| edges.map(|now| (Stamp(*seen), Stamp(now))))
        {
            for tenths in edges.into_iter().filter(|tenths| (1..=Stamp::MASK / 2).contains(tenths))
            {
                let span = Span::of(tenths);
                let age = seen.age(now);
                assert_eq!(seen.reached(now, span), age >= tenths, "{seen:?} {now:?} {tenths}");
                assert_eq!(span.tenths(), Some(tenths));
            }
            assert!(!seen.reached(now, Span::NEVER), "{seen:?} {now:?}");
        }
        assert_eq!(Span::NEVER.tenths(), None);
    }

    #[test]
    fn a_key_gives_back_segment_and_station() {
        let mac = MacAddr([0x02, 0xff, 0, 1, 0x80, 0x7f]).station().unwrap();
        let key = Key::new(SegmentId(0xfffe), mac);
        assert_eq!((key.segment(), key.mac()), (SegmentId(0xfffe), Some(mac)));
        assert_eq!(Key::of_destination(SegmentId(0xfffe), mac.get()), Some(key));
        for mac in [[0xff; 6], [0; 6], [1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [2, 0, 0, 0, 0, 1]] {
            let key = Key::of_destination(SegmentId(1), MacAddr(mac));
            assert_eq!(key, MacAddr(mac).station().map(|mac| Key::new(SegmentId(1), mac)));
        }
    }
}
