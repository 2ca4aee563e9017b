//! Taking over a device that another process made and handed over with its descriptors. As when
//! adopting, the kernel is asked; but nothing here needs any right.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use encap::MacAddr;

use super::adopt::{self, Mismatch};
use super::error::Cause;
use super::make::{self, Made};
use super::netns::NetnsIdentity;
use super::offload::{self, OffloadWish};
use super::spec::Facts;
use crate::io::sys;

/// What is said of a device by who hands it over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handed {
    /// Its name.
    pub ifname: String,
    /// Its index in its namespace.
    pub ifindex: u32,
    /// The namespace it was made in.
    pub netns: NetnsIdentity,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its MTU in bytes.
    pub mtu: u32,
}

/// Takes over all queues of a device, if it is the one that is said.
///
/// # Errors
///
/// [`Cause::Mismatch`] if it is another; what the kernel says if the descriptors are of no device.
pub fn take(queues: Vec<OwnedFd>, handed: &Handed, wish: OffloadWish) -> Result<Made, Cause> {
    let first = queues.first().ok_or(Cause::Spec("no descriptor"))?;
    for queue in &queues {
        let found = adopt::identify(queue.as_fd())?;
        adopt::check_flags(found.flags)?;
        if found.ifname != handed.ifname {
            return Err(Mismatch::Changed.into());
        }
        if found.mac != handed.mac {
            let (expected, found) = (handed.mac, Some(found.mac));
            return Err(Mismatch::OtherMac { expected, found }.into());
        }
        if let Some(netns) = found.netns.filter(|netns| *netns != handed.netns) {
            return Err(Mismatch::OtherNamespace { expected: handed.netns, found: netns }.into());
        }
    }
    make::set_header(first.as_fd())?;
    let offloads = offload::apply(first.as_fd(), wish)?;
    let steering = make::steer(&queues);
    let Handed { ifname, ifindex, netns, mac, mtu } = handed.clone();
    Ok(Made { queues, facts: Facts { ifname, ifindex, netns, mac, mtu, offloads, steering } })
}

/// Has a device outlive its descriptors.
///
/// # Errors
///
/// What the kernel says.
pub fn keep(made: &Made) -> io::Result<()> {
    made.queues.first().map_or(Ok(()), |first| sys::tun_set_persist(first.as_fd(), true))
}
