//! The offloads of a TAP device: which of them the kernel takes, from the most to none.
//!
//! TUNSETOFFLOAD says what the *reader* of the device accepts, and holds for the whole device: the
//! last call on any queue wins. What may be *written* (a vnet header with GSO) does not depend on
//! it, but kernels have refused such writes by mistake, so a fresh device is asked by a write.

use std::io;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::spec::VNET_HDR_LEN;
use crate::io::sys;

// linux/if_tun.h; older headers lack the USO bits.
const TUN_F_CSUM: u32 = 0x01;
const TUN_F_TSO4: u32 = 0x02;
const TUN_F_TSO6: u32 = 0x04;
const TUN_F_TSO_ECN: u32 = 0x08;
const TUN_F_USO4: u32 = 0x20;
const TUN_F_USO6: u32 = 0x40;

// linux/virtio_net.h
const VIRTIO_NET_HDR_F_NEEDS_CSUM: u8 = 1;
const VIRTIO_NET_HDR_GSO_TCPV4: u8 = 1;
const VIRTIO_NET_HDR_GSO_UDP_L4: u8 = 5;

/// Which offloads an operator wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OffloadWish {
    /// The best the kernel takes.
    #[default]
    Auto,
    /// At least TCP segmentation; without it the device is refused.
    Always,
    /// None: single frames with whole checksums.
    Never,
}

/// The offloads in use on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapOffloads {
    /// Frames may carry an unfinished checksum.
    pub csum: bool,
    /// TCP superframes.
    pub tso: bool,
    /// UDP superframes.
    pub uso: bool,
}

/// The rungs, best first. The kernel takes USO4 and USO6 only together, and neither they nor TSO
/// without CSUM.
const LADDER: [TapOffloads; 4] = [
    TapOffloads { csum: true, tso: true, uso: true },
    TapOffloads { csum: true, tso: true, uso: false },
    TapOffloads { csum: true, tso: false, uso: false },
    TapOffloads { csum: false, tso: false, uso: false },
];

impl TapOffloads {
    /// The TUN_F_* bits.
    #[must_use]
    pub const fn flags(self) -> u32 {
        let mut flags = 0;
        if self.csum {
            flags |= TUN_F_CSUM;
        }
        if self.tso {
            flags |= TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
        }
        if self.uso {
            flags |= TUN_F_USO4 | TUN_F_USO6;
        }
        flags
    }
}

/// The wish cannot be met.
#[derive(Debug, thiserror::Error)]
pub enum OffloadError {
    /// TCP segmentation was demanded and the kernel refuses it.
    #[error("the kernel refuses TCP segmentation offload, which the configuration demands")]
    Unavailable,
    /// The device does not answer as a TAP.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Sets the best offloads that the wish and the kernel allow.
///
/// # Errors
///
/// [`OffloadError::Unavailable`], or what the kernel says other than EINVAL.
pub fn apply(tun: BorrowedFd<'_>, wish: OffloadWish) -> Result<TapOffloads, OffloadError> {
    climb(wish, |rung| set(tun, rung))
}

/// As [`apply`], on a device that is still down: each rung with superframes is also tried by
/// writing one. A device that is down refuses every frame (EIO), after it has judged its vnet
/// header (EINVAL), so nothing is ever delivered.
///
/// # Errors
///
/// As [`apply`].
pub fn probe(tun: BorrowedFd<'_>, wish: OffloadWish) -> Result<TapOffloads, OffloadError> {
    climb(wish, |rung| {
        Ok(set(tun, rung)?
            && (!rung.tso || accepts(tun, &superframe(VIRTIO_NET_HDR_GSO_TCPV4))?)
            && (!rung.uso || accepts(tun, &superframe(VIRTIO_NET_HDR_GSO_UDP_L4))?))
    })
}

fn climb(
    wish: OffloadWish,
    mut takes: impl FnMut(TapOffloads) -> io::Result<bool>,
) -> Result<TapOffloads, OffloadError> {
    for rung in LADDER {
        let wanted = match wish {
            OffloadWish::Auto => true,
            OffloadWish::Always => rung.tso,
            OffloadWish::Never => rung == TapOffloads::default(),
        };
        if wanted && takes(rung)? {
            return Ok(rung);
        }
    }
    match wish {
        OffloadWish::Always => Err(OffloadError::Unavailable),
        // No offload at all is what the device has from the start.
        OffloadWish::Auto | OffloadWish::Never => Ok(TapOffloads::default()),
    }
}

fn set(tun: BorrowedFd<'_>, rung: TapOffloads) -> io::Result<bool> {
    match sys::tun_set_offload(tun, rung.flags()) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        result => result.map(|()| true),
    }
}

fn accepts(tun: BorrowedFd<'_>, unit: &[u8]) -> io::Result<bool> {
    match nix::unistd::write(tun, unit) {
        Ok(_) | Err(Errno::EIO | Errno::EAGAIN) => Ok(true),
        Err(Errno::EINVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A vnet header and an IPv4 superframe of three segments, TCP or UDP, from one documentation
/// address (RFC 5737) to another. The vnet header is little-endian.
fn superframe(gso_type: u8) -> Vec<u8> {
    const SEGMENT: u16 = 100;
    const L3: u16 = 14;
    const L4: u16 = L3 + 20;
    let udp = gso_type == VIRTIO_NET_HDR_GSO_UDP_L4;
    let (protocol, l4_len, csum_offset): (u8, u16, u16) =
        if udp { (17, 8, 6) } else { (6, 20, 16) };
    let total = 20 + l4_len + 3 * SEGMENT;

    let mut unit = vec![VIRTIO_NET_HDR_F_NEEDS_CSUM, gso_type];
    for field in [L4 + l4_len, SEGMENT, L4, csum_offset, 0] {
        unit.extend_from_slice(&field.to_le_bytes());
    }
    debug_assert_eq!(unit.len(), usize::from(VNET_HDR_LEN));
    unit.extend_from_slice(&[0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 0x08, 0x00]);
    unit.extend_from_slice(&[0x45, 0]);
    unit.extend_from_slice(&total.to_be_bytes());
    unit.extend_from_slice(&[0, 0, 0x40, 0, 64, protocol, 0, 0]);
    unit.extend_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2]);
    unit.extend_from_slice(&[0, 9, 0, 9]);
    if udp {
        unit.extend_from_slice(&(8 + 3 * SEGMENT).to_be_bytes());
        unit.extend_from_slice(&[0, 0]);
    } else {
        unit.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0, 1, 0, 0, 0, 0]);
    }
    unit.resize(usize::from(VNET_HDR_LEN) + usize::from(L3 + total), 0);
    unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_ends_on_the_best_rung_the_kernel_takes() {
        use OffloadWish::{Always, Auto, Never};
        // How many rungs from the top a kernel refuses; what each wish then gets.
        for (refused, wish, got) in [
            (0, Auto, Some((true, true, true))),
            (1, Auto, Some((true, true, false))),
            (2, Auto, Some((true, false, false))),
            (3, Auto, Some((false, false, false))),
            (4, Auto, Some((false, false, false))),
            (0, Always, Some((true, true, true))),
            (1, Always, Some((true, true, false))),
            (2, Always, None),
            (0, Never, Some((false, false, false))),
        ] {
            let result = climb(wish, |rung| {
                let place = LADDER.iter().position(|one| *one == rung).unwrap();
                Ok(place >= refused)
            });
            let result = result.ok().map(|got| (got.csum, got.tso, got.uso));
            assert_eq!(result, got, "{refused} refused, {wish:?}");
        }
    }

    #[test]
    fn never_sets_nothing_but_zero() {
        let mut asked = Vec::new();
        let _ = climb(OffloadWish::Never, |rung| {
            asked.push(rung.flags());
            Ok(true)
        });
        assert_eq!(asked, [0]);
    }

    #[test]
    fn another_error_than_einval_is_not_taken_for_a_refusal() {
        let result = climb(OffloadWish::Auto, |_| Err(Errno::EBADFD.into()));
        assert!(matches!(result, Err(OffloadError::Io(_))));
    }

    #[test]
    fn probing_superframes_parse() {
        for (gso, is_tcp) in [(VIRTIO_NET_HDR_GSO_TCPV4, true), (VIRTIO_NET_HDR_GSO_UDP_L4, false)]
        {
            let unit = superframe(gso);
            let frame = unit.get(usize::from(VNET_HDR_LEN)..).unwrap();
            let sliced = etherparse::SlicedPacket::from_ethernet(frame).unwrap();
            let l4 = sliced.transport.unwrap();
            assert_eq!(matches!(l4, etherparse::TransportSlice::Tcp(_)), is_tcp);
            let payload = match l4 {
                etherparse::TransportSlice::Tcp(tcp) => tcp.payload().len(),
                etherparse::TransportSlice::Udp(udp) => udp.payload().len(),
                _ => 0,
            };
            assert_eq!(payload, 300);
        }
    }
}
