//! Taking over a device that stands already: after a restart, by name within its namespace, or
//! from descriptors that someone kept for us. Nothing is believed: the kernel is asked.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use encap::MacAddr;
use serde::{Deserialize, Serialize};

use super::error::{Cause, DeviceError};
use super::make::{self, Made};
use super::netlink::{Link, Netlink};
use super::netns::{Netns, NetnsIdentity};
use super::offload::{self, OffloadWish};
use super::spec::{Facts, TapSpec};
use crate::io::sys;

/// What is known of a device from when it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// Its MAC address.
    pub mac: MacAddr,
    /// The uid that it belongs to.
    pub owner: u32,
    /// The namespace it was made in; `None`: any.
    pub netns: Option<NetnsIdentity>,
    /// Its index there; `None`: any.
    pub ifindex: Option<u32>,
}

impl Expectation {
    /// Whether a link in the expected namespace is certainly the one that was made, whatever was
    /// done to its name and MAC address since: an index is not given twice in a namespace.
    fn is_certain(&self, link: &Link) -> bool {
        self.netns.is_some() && self.ifindex == Some(link.index)
    }
}

/// Why a device that stands is not adopted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Mismatch {
    /// There is no namespace at the path.
    #[error("its namespace is gone")]
    NoNamespace,
    /// The path leads to another namespace than the one in which the device was made.
    #[error("its namespace was replaced: made in {expected}, found {found}")]
    OtherNamespace {
        /// Where it was made.
        expected: NetnsIdentity,
        /// What is there.
        found: NetnsIdentity,
    },
    /// There is no such device in the namespace.
    #[error("there is no such device")]
    NoDevice,
    /// The device is no TAP.
    #[error("it is no TAP device but {kind}")]
    NotTap {
        /// Its kind.
        kind: String,
    },
    /// The device was not made multi-queue, and cannot become so.
    #[error("it is a single-queue TAP device")]
    SingleQueue,
    /// The device has no vnet header.
    #[error("it has no vnet header")]
    NoVnetHdr,
    /// The device was not made persistent.
    #[error("it is not persistent")]
    NotPersistent,
    /// The device belongs to another uid, or to none.
    #[error("it belongs to {}, not to uid {expected}", found.map_or("nobody".to_owned(), |uid| format!("uid {uid}")))]
    OtherOwner {
        /// Ours.
        expected: u32,
        /// Its own.
        found: Option<u32>,
    },
    /// Some process holds queues of it.
    #[error("another process holds {queues} of its queues")]
    Busy {
        /// How many.
        queues: u32,
    },
    /// The MAC address is another, and nothing else proves that the device is ours.
    #[error("its MAC address is {}, not {expected}", found.map_or("none".to_owned(), |mac| mac.to_string()))]
    OtherMac {
        /// The one it was given.
        expected: MacAddr,
        /// The one it has.
        found: Option<MacAddr>,
    },
    /// The name led to another device while it was opened.
    #[error("the device changed while it was opened")]
    Changed,
}

/// Whether a link may be adopted. The namespace was compared before.
pub(super) fn check(link: &Link, expect: &Expectation) -> Result<(), Mismatch> {
    check_ours(link, expect)?;
    let tun = link.tun.unwrap_or_default();
    if !tun.multi_queue {
        return Err(Mismatch::SingleQueue);
    }
    match tun.queues {
        Some(queues) if queues > 0 => return Err(Mismatch::Busy { queues }),
        _ => {}
    }
    if tun.persistent { Ok(()) } else { Err(Mismatch::NotPersistent) }
}

/// Whether a link is one that we made.
pub(super) fn check_ours(link: &Link, expect: &Expectation) -> Result<(), Mismatch> {
    check_owner(link, expect.owner)?;
    if link.mac != Some(expect.mac) && !expect.is_certain(link) {
        return Err(Mismatch::OtherMac { expected: expect.mac, found: link.mac });
    }
    Ok(())
}

/// Whether a link is a TAP that belongs to this uid.
pub(super) fn check_owner(link: &Link, owner: u32) -> Result<(), Mismatch> {
    const IFF_TAP: u8 = 2;
    let kind = || link.kind.clone().unwrap_or_else(|| "physical".to_owned());
    let tun = link.tun.ok_or_else(|| Mismatch::NotTap { kind: kind() })?;
    if tun.kind != IFF_TAP {
        return Err(Mismatch::NotTap { kind: "tun (layer 3)".to_owned() });
    }
    if tun.owner == Some(owner) {
        Ok(())
    } else {
        Err(Mismatch::OtherOwner { expected: owner, found: tun.owner })
    }
}

/// Whether the device with this index is a TAP that belongs to this uid.
///
/// # Errors
///
/// [`Cause::Mismatch`] if it is not.
pub fn check_index(netlink: &mut Netlink, ifindex: u32, owner: u32) -> Result<(), Cause> {
    Ok(check_owner(&netlink.link_by_index(ifindex)?, owner)?)
}

/// What a TAP descriptor is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identified {
    /// The device's name now.
    pub ifname: String,
    /// IFF_TAP, IFF_VNET_HDR, … (linux/if_tun.h).
    pub flags: u16,
    /// The device's MAC address.
    pub mac: MacAddr,
    /// The namespace it is in now; `None` if the kernel may not or cannot tell (EPERM without
    /// CAP_NET_ADMIN, ENOTTY before Linux 5.1).
    pub netns: Option<NetnsIdentity>,
}

/// Asks the kernel what a descriptor is attached to.
///
/// # Errors
///
/// EBADFD if the device is gone or was never attached; ENOTTY if it is no TAP descriptor.
pub fn identify(tun: BorrowedFd<'_>) -> io::Result<Identified> {
    let (ifname, flags) = sys::tun_get_iff(tun)?;
    let mac = MacAddr(sys::tun_get_mac(tun)?);
    let netns = match sys::tun_get_dev_netns(tun) {
        Ok(fd) => Some(Netns::from_fd(fd).map_err(|error| error.source)?.identity()),
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EPERM | libc::ENOTTY | libc::EINVAL | libc::EOPNOTSUPP)
            ) =>
        {
            None
        }
        Err(error) => return Err(error),
    };
    Ok(Identified { ifname, flags, mac, netns })
}

/// Opens the device again by name within its namespace, if it is the one that was made, and
/// attaches `spec.queues` queues. Its MAC address, MTU, addresses and routes stay as they are; see
/// [`make::configure`] to bring them to the specification.
///
/// # Errors
///
/// [`DeviceError::mismatch`] tells why it is not adopted; nothing was touched then.
pub fn adopt(spec: &TapSpec, expect: &Expectation) -> Result<Made, DeviceError> {
    make::reopen(spec, expect)
}

/// Takes over queues that were passed in by a service manager or another process. The device may
/// have been renamed or moved to another namespace meanwhile.
///
/// # Errors
///
/// [`DeviceError::mismatch`] if they are not queues of the one device that was made.
pub fn adopt_descriptors(
    queues: Vec<OwnedFd>,
    expect: &Expectation,
    wish: OffloadWish,
) -> Result<Made, DeviceError> {
    let mut ifname = "(descriptor)".to_owned();
    let found = check_descriptors(&queues, expect, &mut ifname);
    let fail = |cause| DeviceError { ifname, netns: None, step: "adopt descriptors".into(), cause };
    let (identified, netns) = match found {
        Ok(found) => found,
        Err(cause) => return Err(fail(cause)),
    };
    match settle_descriptors(&queues, wish, &identified, netns) {
        Ok(facts) => Ok(Made { queues, facts }),
        Err(cause) => Err(fail(cause)),
    }
}

fn check_descriptors(
    queues: &[OwnedFd],
    expect: &Expectation,
    ifname: &mut String,
) -> Result<(Identified, Netns), Cause> {
    let first = queues.first().ok_or(Cause::Spec("no descriptor"))?;
    let identified = identify(first.as_fd())?;
    identified.ifname.clone_into(ifname);
    for queue in queues.iter().skip(1) {
        if identify(queue.as_fd())? != identified {
            return Err(Mismatch::Changed.into());
        }
    }
    check_flags(identified.flags)?;
    if identified.mac != expect.mac {
        let (expected, found) = (expect.mac, Some(identified.mac));
        return Err(Mismatch::OtherMac { expected, found }.into());
    }
    let netns = Netns::from_fd(sys::tun_get_dev_netns(first.as_fd())?)?;
    Ok((identified, netns))
}

/// Whether a device has the flags (linux/if_tun.h) that ours have for life.
pub(super) fn check_flags(flags: u16) -> Result<(), Mismatch> {
    let has = |flag: libc::c_int| libc::c_int::from(flags) & flag != 0;
    if !has(libc::IFF_TAP) {
        Err(Mismatch::NotTap { kind: "tun (layer 3)".to_owned() })
    } else if !has(libc::IFF_MULTI_QUEUE) {
        Err(Mismatch::SingleQueue)
    } else if !has(libc::IFF_VNET_HDR) {
        Err(Mismatch::NoVnetHdr)
    } else {
        Ok(())
    }
}

fn settle_descriptors(
    queues: &[OwnedFd],
    wish: OffloadWish,
    identified: &Identified,
    netns: Netns,
) -> Result<Facts, Cause> {
    let first = queues.first().ok_or(Cause::Spec("no descriptor"))?;
    make::set_header(first.as_fd())?;
    let offloads = offload::apply(first.as_fd(), wish)?;
    let link = make::look_inside(&netns, &identified.ifname)?;
    Ok(Facts {
        ifname: link.name,
        ifindex: link.index,
        netns: netns.identity(),
        mac: identified.mac,
        mtu: link.mtu,
        offloads,
        steering: make::steer(queues),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::netlink::TunFacts;

    fn ours() -> (Link, Expectation) {
        let mac = MacAddr([2, 0, 0, 0, 0x0a, 1]);
        let tun = TunFacts {
            owner: Some(7),
            kind: 2,
            no_pi: true,
            vnet_hdr: true,
            persistent: true,
            multi_queue: true,
            queues: Some(0),
        };
        let link = Link {
            index: 4,
            mac: Some(mac),
            kind: Some("tun".to_owned()),
            tun: Some(tun),
            ..Link::default()
        };
        let netns = Some(NetnsIdentity { dev: 4, ino: 9 });
        (link, Expectation { mac, owner: 7, netns, ifindex: Some(4) })
    }

    fn with(change: impl FnOnce(&mut Link, &mut TunFacts)) -> Result<(), Mismatch> {
        let (mut link, expect) = ours();
        let mut tun = link.tun.unwrap();
        change(&mut link, &mut tun);
        link.tun = link.tun.and(Some(tun));
        check(&link, &expect)
    }

    #[test]
    fn each_mismatch_is_named() {
        assert_eq!(with(|_, _| ()), Ok(()));
        assert_eq!(with(|_, tun| tun.multi_queue = false), Err(Mismatch::SingleQueue));
        assert_eq!(with(|_, tun| tun.persistent = false), Err(Mismatch::NotPersistent));
        assert_eq!(with(|_, tun| tun.queues = Some(2)), Err(Mismatch::Busy { queues: 2 }));
        for found in [None, Some(8)] {
            let result = with(|_, tun| tun.owner = found);
            assert_eq!(result, Err(Mismatch::OtherOwner { expected: 7, found }));
        }
        assert!(matches!(with(|_, tun| tun.kind = 1), Err(Mismatch::NotTap { .. })));
        let veth = with(|link, _| (link.tun, link.kind) = (None, Some("veth".to_owned())));
        assert_eq!(veth, Err(Mismatch::NotTap { kind: "veth".to_owned() }));
    }

    #[test]
    fn each_flag_that_is_missing_is_named() {
        let all = libc::IFF_TAP | libc::IFF_MULTI_QUEUE | libc::IFF_VNET_HDR;
        let without = |flag: libc::c_int| check_flags(u16::try_from(all & !flag).unwrap());
        assert_eq!(without(libc::IFF_NO_PI), Ok(()));
        assert!(matches!(without(libc::IFF_TAP), Err(Mismatch::NotTap { .. })));
        assert_eq!(without(libc::IFF_MULTI_QUEUE), Err(Mismatch::SingleQueue));
        assert_eq!(without(libc::IFF_VNET_HDR), Err(Mismatch::NoVnetHdr));
    }

    #[test]
    fn another_mac_is_forgiven_only_to_the_same_index_in_the_same_namespace() {
        let other = Some(MacAddr([2, 9, 9, 9, 9, 9]));
        assert_eq!(with(|link, _| link.mac = other), Ok(()));
        let moved = with(|link, _| (link.mac, link.index) = (other, 5));
        assert!(matches!(moved, Err(Mismatch::OtherMac { .. })));
        let (mut link, mut expect) = ours();
        (link.mac, expect.netns) = (other, None);
        assert!(matches!(check(&link, &expect), Err(Mismatch::OtherMac { .. })));
    }

    #[test]
    fn a_descriptor_that_is_no_tap_is_refused() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(identify(file.as_fd()).is_err());
        let (_, expect) = ours();
        let result = adopt_descriptors(vec![file.into()], &expect, OffloadWish::Auto);
        assert!(result.unwrap_err().to_string().contains("adopt descriptors"));
        assert!(adopt_descriptors(Vec::new(), &expect, OffloadWish::Auto).is_err());
    }
}
