//! Addresses whose constructors are the proof: what exists is in range.

use core::fmt;
use core::num::NonZeroU32;
use core::str::FromStr;

/// A 48-bit MAC address, any of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "String", into = "String")
)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether the group bit is set: multicast or broadcast (IEEE 802-2014 section 8.2).
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether all bits are set.
    #[must_use]
    pub const fn is_broadcast(self) -> bool {
        matches!(self.0, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff])
    }

    /// Whether this is one of `01:80:c2:00:00:00`–`0f`, which a bridge never forwards
    /// (IEEE 802.1Q table 8-1).
    #[must_use]
    pub const fn is_link_local(self) -> bool {
        matches!(self.0, [0x01, 0x80, 0xc2, 0x00, 0x00, 0x00..=0x0f])
    }

    /// The address as that of one station, or `None` for a group address and for all zeros.
    #[must_use]
    pub const fn station(self) -> Option<StationMac> {
        if self.is_group() || matches!(self.0, [0, 0, 0, 0, 0, 0]) {
            None
        } else {
            Some(StationMac(self))
        }
    }

    /// The 48 bits as an integer, the first octet highest.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    /// The inverse of [`Self::to_bits`]; the upper 16 bits are ignored.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        let [_, _, a, b, c, d, e, f] = bits.to_be_bytes();
        Self([a, b, c, d, e, f])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// The text is no MAC address in the form `aa:bb:cc:dd:ee:ff`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no MAC address (six octets in hex, as 02:00:00:00:0a:01)")]
pub struct MacParseError(String);

impl FromStr for MacAddr {
    type Err = MacParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = || MacParseError(text.to_owned());
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or_else(fail)?;
            if part.len() != 2 || !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(fail());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| fail())?;
        }
        if parts.next().is_some() { Err(fail()) } else { Ok(Self(octets)) }
    }
}

impl TryFrom<String> for MacAddr {
    type Error = MacParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

/// The MAC address of one station: neither a group address nor all zeros. Only such an address
/// can be learned.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "MacAddr", into = "MacAddr")
)]
pub struct StationMac(MacAddr);

impl StationMac {
    /// The plain address.
    #[must_use]
    pub const fn get(self) -> MacAddr {
        self.0
    }
}

/// A [`StationMac`] as one number. Compilers take six octets apart and put them together again wherever
/// they pass, for a fifth of what a frame costs; this they leave alone.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StationBits(u64);

impl StationBits {
    /// The address in the lower 48 bits, its first octet lowest; `None` if it is no station's.
    #[must_use]
    #[inline(always)]
    pub const fn new(bits: u64) -> Option<Self> {
        const GROUP: u64 = 1;
        let bits = bits & 0xffff_ffff_ffff;
        if bits & GROUP != 0 || bits == 0 { None } else { Some(Self(bits)) }
    }

    /// The 48 bits, the first octet lowest.
    #[must_use]
    #[inline(always)]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The address.
    #[must_use]
    pub const fn mac(self) -> StationMac {
        let [a, b, c, d, e, f, _, _] = self.0.to_le_bytes();
        StationMac(MacAddr([a, b, c, d, e, f]))
    }
}

impl From<StationMac> for StationBits {
    fn from(StationMac(MacAddr([a, b, c, d, e, f])): StationMac) -> Self {
        Self(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }
}

impl fmt::Debug for StationBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.mac().fmt(f)
    }
}

/// The address is a group address or all zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is the address of no single station")]
pub struct NoStation(pub MacAddr);

impl TryFrom<MacAddr> for StationMac {
    type Error = NoStation;

    fn try_from(mac: MacAddr) -> Result<Self, Self::Error> {
        mac.station().ok_or(NoStation(mac))
    }
}

impl From<StationMac> for MacAddr {
    fn from(mac: StationMac) -> Self {
        mac.0
    }
}

impl fmt::Display for StationMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for StationMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A VLAN identifier that names a VLAN: 1 to 4094 (IEEE 802.1Q-2018 section 9.6). Zero is only a
/// priority, 4095 is reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "u16", into = "u16")
)]
pub struct VlanId(u16);

/// The number names no VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("VLAN {0} is out of range (1 to 4094)")]
pub struct VlanOutOfRange(pub u32);

impl VlanId {
    /// The VLAN with this identifier.
    ///
    /// # Errors
    /// When `raw` is 0 or above 4094.
    pub const fn new(raw: u16) -> Result<Self, VlanOutOfRange> {
        if raw >= 1 && raw <= 4094 { Ok(Self(raw)) } else { Err(VlanOutOfRange(raw as u32)) }
    }

    /// The identifier.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for VlanId {
    type Error = VlanOutOfRange;

    fn try_from(raw: u16) -> Result<Self, Self::Error> {
        Self::new(raw)
    }
}

impl From<VlanId> for u16 {
    fn from(vlan: VlanId) -> Self {
        vlan.0
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A VXLAN network identifier that can name a segment: 1 to 16777215 (RFC 7348 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "u32", into = "u32")
)]
pub struct Vni(NonZeroU32);

/// The number names no segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("VNI {0} is out of range (1 to 16777215)")]
pub struct VniOutOfRange(pub u32);

impl Vni {
    /// The largest VNI: 24 bits.
    pub const MAX: u32 = 0x00ff_ffff;

    /// The segment with this number.
    ///
    /// # Errors
    /// When `raw` is 0 or does not fit in 24 bits.
    pub const fn new(raw: u32) -> Result<Self, VniOutOfRange> {
        match NonZeroU32::new(raw) {
            Some(vni) if raw <= Self::MAX => Ok(Self(vni)),
            _ => Err(VniOutOfRange(raw)),
        }
    }

    /// The VNI of three bytes as they stand in a VXLAN header; `None` for zero, which no segment
    /// can have.
    #[must_use]
    pub const fn from_wire([a, b, c]: [u8; 3]) -> Option<Self> {
        match NonZeroU32::new(u32::from_be_bytes([0, a, b, c])) {
            Some(vni) => Some(Self(vni)),
            None => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// The three bytes of a VXLAN header.
    #[must_use]
    pub const fn to_wire(self) -> [u8; 3] {
        let [_, a, b, c] = self.get().to_be_bytes();
        [a, b, c]
    }
}

impl TryFrom<u32> for Vni {
    type Error = VniOutOfRange;

    fn try_from(raw: u32) -> Result<Self, Self::Error> {
        Self::new(raw)
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> Self {
        vni.get()
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An EtherType, or an 802.3 length below 0x0600.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: Self = Self(0x0800);
    /// ARP.
    pub const ARP: Self = Self(0x0806);
    /// An 802.1Q customer tag follows.
    pub const VLAN: Self = Self(0x8100);
    /// An 802.1ad service tag follows.
    pub const SERVICE_VLAN: Self = Self(0x88a8);
    /// IPv6.
    pub const IPV6: Self = Self(0x86dd);
    /// MAC control: PAUSE and relatives (IEEE 802.3 clause 31).
    pub const MAC_CONTROL: Self = Self(0x8808);

    /// Whether an 802.1Q or 802.1ad tag follows.
    #[must_use]
    pub const fn is_tag(self) -> bool {
        matches!(self, Self::VLAN | Self::SERVICE_VLAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_text() {
        for text in ["02:00:00:00:0a:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"] {
            assert_eq!(text.parse::<MacAddr>().unwrap().to_string(), text);
        }
        assert_eq!("02:AB:cd:00:00:01".parse::<MacAddr>().unwrap().0[1..3], [0xab, 0xcd]);
        for text in [
            "",
            "02:00:00:00:0a",
            "02:00:00:00:0a:01:02",
            "2:0:0:0:a:1",
            "02-00-00-00-0a-01",
            "+2:00:00:00:0a:01",
            "02:00:00:00:0a:0g",
            "02:00:00:00:0a:01 ",
        ] {
            assert_eq!(text.parse::<MacAddr>(), Err(MacParseError(text.to_owned())));
        }
    }

    #[test]
    fn stations_are_unicast_and_not_zero() {
        let station = |text: &str| text.parse::<MacAddr>().unwrap().station().is_some();
        assert!(station("02:00:00:00:00:01") && station("00:00:00:00:00:01"));
        assert!(!station("00:00:00:00:00:00"));
        assert!(!station("01:00:5e:00:00:01") && !station("ff:ff:ff:ff:ff:ff"));
    }

    #[test]
    fn a_station_is_the_same_as_one_number() {
        let mac = MacAddr([0x02, 0x80, 0xff, 0, 1, 0x7f]).station().unwrap();
        let bits = StationBits::from(mac);
        assert_eq!((bits.get(), bits.mac()), (0x7f01_00ff_8002, mac));
        assert_eq!(StationBits::new(bits.get() | 0xffff << 48), Some(bits));
        for group_or_nobody in [0, 0xffff << 48, 1, 0xffff_ffff_ffff, 0x0200_0000_0001] {
            assert_eq!(StationBits::new(group_or_nobody), None);
        }
        assert!(StationBits::new(0x0100_0000_0000).is_some());
    }

    #[test]
    fn link_local_is_sixteen_addresses() {
        let link_local = |last| MacAddr([1, 0x80, 0xc2, 0, 0, last]).is_link_local();
        assert_eq!((0..=255).filter(|&last| link_local(last)).count(), 16);
        assert!(link_local(0) && link_local(15));
    }

    #[test]
    fn bits_survive() {
        let mac = MacAddr([0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc]);
        assert_eq!(mac.to_bits(), 0x1234_5678_9abc);
        assert_eq!(MacAddr::from_bits(mac.to_bits() | 0xffff << 48), mac);
    }

    #[test]
    fn ranges() {
        assert_eq!(
            [0, 1, 4094, 4095].map(|raw| VlanId::new(raw).is_ok()),
            [false, true, true, false]
        );
        assert_eq!(
            [0, 1, Vni::MAX, Vni::MAX + 1].map(|raw| Vni::new(raw).is_ok()),
            [false, true, true, false]
        );
        assert_eq!(Vni::from_wire([0, 0, 0]), None);
        assert_eq!(Vni::from_wire([1, 2, 3]).map(Vni::get), Some(0x0001_0203));
    }

    #[cfg(feature = "serde")]
    #[test]
    fn serde_goes_through_the_constructors() {
        let json = |text| serde_json::from_str::<(MacAddr, VlanId, Vni, StationMac)>(text);
        let good = r#"["02:00:00:00:0a:01",10,100,"02:00:00:00:0a:02"]"#;
        let value = json(good).unwrap();
        assert_eq!(serde_json::to_string(&value).unwrap(), good);
        for bad in [
            r#"["02:00:00:00:0a",10,100,"02:00:00:00:0a:02"]"#,
            r#"["02:00:00:00:0a:01",0,100,"02:00:00:00:0a:02"]"#,
            r#"["02:00:00:00:0a:01",10,16777216,"02:00:00:00:0a:02"]"#,
            r#"["02:00:00:00:0a:01",10,-1,"02:00:00:00:0a:02"]"#,
            r#"["02:00:00:00:0a:01",10,100,"03:00:00:00:0a:02"]"#,
        ] {
            assert!(json(bad).is_err(), "{bad}");
        }
    }
}
