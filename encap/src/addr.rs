//! Addresses whose constructors are the proof: what exists is in range.

use core::fmt;
use core::num::NonZeroU32;
use core::str::FromStr;

/// A 48-bit MAC address, any of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// The MAC address of one station: neither a group address nor all zeros. Only such an address
/// can be learned.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StationMac(MacAddr);

impl StationMac {
    /// The plain address.
    #[must_use]
    pub const fn get(self) -> MacAddr {
        self.0
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

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A VXLAN network identifier that can name a segment: 1 to 16777215 (RFC 7348 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
