//! The privileged verbs, all of them and only they: make, configure, reopen, remove.
//!
//! They need CAP_NET_ADMIN in the device's namespace, and CAP_SYS_ADMIN to enter another one. No
//! command is called and nothing under /proc/sys is written.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::adopt::{self, Expectation, Mismatch};
use super::error::{Cause, DeviceError, Step, StepError};
use super::netlink::{Link, Netlink};
use super::netns::{Netns, NetnsIdentity};
use super::offload;
use super::settle::settle;
use super::spec::{Facts, MAX_QUEUES, NetnsRef, Standing, TapSpec, VNET_HDR_LEN, is_valid_ifname};
use super::steering::{self, Steering};
use crate::io::sys;

/// The flags of every TAP, for life: a single-queue device cannot become multi-queue.
const FLAGS: libc::c_int =
    libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;

/// `IFF_PERSIST` (linux/if_tun.h), which TUNGETIFF reports.
const IFF_PERSIST: libc::c_int = 0x0800;

/// How often, and after which pause, a device is looked at again whose queues are held: a process
/// that was killed, or a child of it between fork and exec, takes some milliseconds to let go.
const BUSY_ATTEMPTS: u32 = 25;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// A device with its queues attached. Dropping the queues leaves a persistent device standing.
#[derive(Debug)]
pub struct Made {
    /// One descriptor per queue, non-blocking.
    pub queues: Vec<OwnedFd>,
    /// What the kernel says it is.
    pub facts: Facts,
}

/// What a removal found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Removal {
    /// The device was there and is gone now.
    Removed,
    /// There was no such device, or no such namespace.
    Absent,
}

/// Makes a device inside its namespace with all queues, addresses and routes, up.
///
/// # Errors
///
/// [`Cause::Taken`] if the name is another device's; otherwise the step that failed. What was made
/// until then is gone again.
pub fn make(spec: &TapSpec) -> Result<Made, DeviceError> {
    let at = At { netns: spec.netns.as_ref(), ifname: &spec.ifname };
    at.name(validate(spec))?;
    at.enter(|netns| make_inside(spec, netns))
}

/// Brings a standing device to its specification: what is missing is added, what `previous` had
/// and the specification has not is removed, what others added is left alone. The device is the
/// one with the index, whatever it is called now. Returns what was changed, in words; nothing is
/// touched that is right already.
///
/// # Errors
///
/// [`DeviceError::mismatch`] if the device is no TAP or belongs to another uid; otherwise the step
/// that failed. What was done before it stays.
pub fn configure(
    spec: &TapSpec,
    ifindex: u32,
    previous: &Standing,
) -> Result<Vec<String>, DeviceError> {
    let at = At { netns: spec.netns.as_ref(), ifname: &spec.ifname };
    at.name(validate(spec))?;
    at.enter(|_| {
        let mut netlink = Netlink::open().step("open netlink")?;
        let link = netlink.link_by_index(ifindex).step("find the device")?;
        adopt::check_owner(&link, spec.owner).step("find the device")?;
        settle(&mut netlink, &link, spec, Some(previous))
    })
}

/// Opens a standing device again; see [`adopt::adopt`].
///
/// # Errors
///
/// [`DeviceError::mismatch`] tells why it is not the device that was made.
pub(super) fn reopen(spec: &TapSpec, expect: &Expectation) -> Result<Made, DeviceError> {
    let at = At { netns: spec.netns.as_ref(), ifname: &spec.ifname };
    at.name(validate(spec))?;
    match at.enter(|netns| reopen_inside(spec, expect, netns)) {
        Err(error) if error.is_netns_absent() => {
            Err(DeviceError { cause: Mismatch::NoNamespace.into(), ..error })
        }
        result => result,
    }
}

/// Deletes a device that we made.
///
/// # Errors
///
/// [`DeviceError::mismatch`] if the device of this name is not ours; it is left alone then.
pub fn remove(
    netns: Option<&NetnsRef>,
    ifname: &str,
    expect: &Expectation,
) -> Result<Removal, DeviceError> {
    let at = At { netns, ifname };
    let removed = at.enter(|netns| {
        if expect.netns.is_some_and(|expected| expected != netns) {
            // Another namespace took the path: ours is gone, and the device with it.
            return Ok(Removal::Absent);
        }
        let mut netlink = Netlink::open().step("open netlink")?;
        let Some(link) = find(&mut netlink, ifname, expect)? else {
            return Ok(Removal::Absent);
        };
        adopt::check_ours(&link, expect).step("compare")?;
        match netlink.delete_link(link.index) {
            Err(error) if error.is_absent() => Ok(Removal::Absent),
            result => result.step("delete").map(|()| Removal::Removed),
        }
    });
    match removed {
        Err(error) if error.is_netns_absent() => Ok(Removal::Absent),
        result => result,
    }
}

/// Where a device is, for its errors.
#[derive(Clone, Copy)]
struct At<'a> {
    netns: Option<&'a NetnsRef>,
    ifname: &'a str,
}

impl At<'_> {
    fn name<T>(self, result: Result<T, StepError>) -> Result<T, DeviceError> {
        result.map_err(|StepError { step, cause }| DeviceError {
            ifname: self.ifname.to_owned(),
            netns: self.netns.cloned(),
            step: step.into(),
            cause,
        })
    }

    /// Runs inside the namespace. The own namespace is not entered: that would need rights.
    fn enter<T: Send>(
        self,
        inside: impl FnOnce(NetnsIdentity) -> Result<T, StepError> + Send,
    ) -> Result<T, DeviceError> {
        let entered = || {
            let Some(netns) = self.netns else {
                return inside(Netns::current().step("find the own namespace")?.identity());
            };
            let netns = Netns::open_path(&netns.path()).step("open the namespace")?;
            let identity = netns.identity();
            netns.run(|| inside(identity)).step("enter the namespace")?
        };
        self.name(entered())
    }
}

fn validate(spec: &TapSpec) -> Result<(), StepError> {
    let refuse = |why| Err(Cause::Spec(why)).step("check the specification");
    if !is_valid_ifname(&spec.ifname) {
        return refuse("the name is no device name (1 to 15 bytes, no space, slash, colon or %)");
    }
    if spec.mac.station().is_none() {
        return refuse("the MAC address is a group address or all zeros");
    }
    if !(1..=MAX_QUEUES).contains(&spec.queues) {
        return refuse("the number of queues is not within 1 to 256");
    }
    Ok(())
}

fn make_inside(spec: &TapSpec, netns: NetnsIdentity) -> Result<Made, StepError> {
    let mut netlink = Netlink::open().step("open netlink")?;
    // Until it is made persistent as the last step, the device vanishes with its descriptors,
    // whether this function fails or the process dies in the middle of it.
    let mut queues = Vec::with_capacity(usize::from(spec.queues));
    let first = attach(&spec.ifname, libc::IFF_TUN_EXCL, "create").map_err(|error| {
        // With EBUSY or EINVAL the kernel does not tell whether the name is taken, and by what.
        match netlink.find_link(&spec.ifname) {
            Ok(Some(link)) => {
                let kind = link.kind.unwrap_or_else(|| "physical".to_owned());
                StepError { step: "create", cause: Cause::Taken { kind } }
            }
            _ => error,
        }
    })?;
    verify(first.as_fd(), &spec.ifname, netns).step("verify")?;
    set_header(first.as_fd()).step("set the vnet header")?;
    sys::tun_set_owner(first.as_fd(), spec.owner).step("set the owner")?;
    let offloads = offload::probe(first.as_fd(), spec.offload).step("set offloads")?;
    queues.push(first);
    attach_rest(&mut queues, spec, netns)?;
    let steering = steer(&queues);

    let link = netlink.link_by_name(&spec.ifname).step("read back")?;
    settle(&mut netlink, &link, spec, None)?;
    let link = netlink.link_by_index(link.index).step("read back")?;
    if spec.persist
        && let Some(first) = queues.first()
    {
        sys::tun_set_persist(first.as_fd(), true).step("make it persistent")?;
    }
    let facts = Facts {
        ifname: link.name,
        ifindex: link.index,
        netns,
        mac: link.mac.unwrap_or(spec.mac),
        mtu: link.mtu,
        offloads,
        steering,
    };
    Ok(Made { queues, facts })
}

fn reopen_inside(
    spec: &TapSpec,
    expect: &Expectation,
    netns: NetnsIdentity,
) -> Result<Made, StepError> {
    if let Some(expected) = expect.netns
        && expected != netns
    {
        return Err(Mismatch::OtherNamespace { expected, found: netns }).step("compare");
    }
    let mut netlink = Netlink::open().step("open netlink")?;
    // TUNSETIFF on a name that is not there would silently make a new device.
    let mut attempts = 0;
    let link = loop {
        let link = find(&mut netlink, &spec.ifname, expect)?
            .ok_or(Mismatch::NoDevice)
            .step("look for the device")?;
        match adopt::check(&link, expect) {
            Err(Mismatch::Busy { .. }) if attempts < BUSY_ATTEMPTS => {
                attempts += 1;
                std::thread::sleep(BUSY_PAUSE);
            }
            result => {
                result.step("compare")?;
                break link;
            }
        }
    };

    let spec = TapSpec { ifname: link.name.clone(), ..spec.clone() };
    let first = attach(&spec.ifname, 0, "attach")?;
    let flags = verify(first.as_fd(), &spec.ifname, netns).step("verify")?;
    let again = netlink.link_by_name(&spec.ifname).step("verify")?;
    if flags & IFF_PERSIST == 0 || again.index != link.index {
        return Err(Mismatch::Changed).step("verify");
    }
    // Both survive on the device from its last reader, who may have set them otherwise.
    set_header(first.as_fd()).step("set the vnet header")?;
    let offloads = offload::apply(first.as_fd(), spec.offload).step("set offloads")?;
    let mut queues = vec![first];
    attach_rest(&mut queues, &spec, netns)?;
    let steering = steer(&queues);
    let facts = Facts {
        ifname: link.name,
        ifindex: link.index,
        netns,
        mac: link.mac.unwrap_or(expect.mac),
        mtu: link.mtu,
        offloads,
        steering,
    };
    Ok(Made { queues, facts })
}

/// The device by name, or, if it was renamed, by its index where that is known.
fn find(
    netlink: &mut Netlink,
    ifname: &str,
    expect: &Expectation,
) -> Result<Option<Link>, StepError> {
    if let Some(link) = netlink.find_link(ifname).step("look for the device")? {
        return Ok(Some(link));
    }
    let (Some(_), Some(index)) = (expect.netns, expect.ifindex) else {
        return Ok(None);
    };
    match netlink.link_by_index(index) {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error).step("look for the device"),
    }
}

fn attach_rest(
    queues: &mut Vec<OwnedFd>,
    spec: &TapSpec,
    netns: NetnsIdentity,
) -> Result<(), StepError> {
    while queues.len() < usize::from(spec.queues) {
        let queue = attach(&spec.ifname, 0, "attach a queue")?;
        verify(queue.as_fd(), &spec.ifname, netns).step("verify a queue")?;
        queues.push(queue);
    }
    Ok(())
}

/// Opens /dev/net/tun in the thread's namespace and attaches it to the device.
fn attach(ifname: &str, also: libc::c_int, step: &'static str) -> Result<OwnedFd, StepError> {
    // Not to block, and because the kernel takes its short way for small frames only then.
    let tun: OwnedFd = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")
        .step("open /dev/net/tun")?
        .into();
    // TUNSETIFF takes the low 16 bits of the flags (struct ifreq).
    let bits = u16::try_from(FLAGS | also).map_err(|_| Cause::Spec("flags")).step(step)?;
    sys::tun_set_iff(tun.as_fd(), ifname, bits).step(step)?;
    Ok(tun)
}

/// Asks the kernel whether a descriptor's device is the one that was meant, and returns its flags.
fn verify(tun: BorrowedFd<'_>, ifname: &str, netns: NetnsIdentity) -> Result<libc::c_int, Cause> {
    let found = adopt::identify(tun)?;
    let flags = libc::c_int::from(found.flags);
    if found.ifname != ifname || flags & FLAGS != FLAGS {
        return Err(Mismatch::Changed.into());
    }
    match found.netns {
        Some(found) if found != netns => {
            Err(Mismatch::OtherNamespace { expected: netns, found }.into())
        }
        _ => Ok(flags),
    }
}

/// Fixes which queue a flow is read from, where there are several.
pub(super) fn steer(queues: &[OwnedFd]) -> Option<Steering> {
    match queues {
        [first, _, ..] => Some(steering::steer(first.as_fd(), queues.len())),
        _ => None,
    }
}

/// Sets the vnet header's length and byte order, which hold for the whole device.
pub(super) fn set_header(tun: BorrowedFd<'_>) -> io::Result<()> {
    sys::tun_set_vnet_hdr_size(tun, VNET_HDR_LEN)?;
    sys::tun_set_vnet_le(tun, true)
}

/// The device of a name in a namespace that is at hand as a descriptor.
pub(super) fn look_inside(netns: &Netns, ifname: &str) -> Result<Link, Cause> {
    let found = netns.run(|| Netlink::open()?.link_by_name(ifname))?;
    Ok(found?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::offload::OffloadWish;

    fn spec() -> TapSpec {
        TapSpec {
            netns: Some(NetnsRef("/no/such/namespace".to_owned())),
            ifname: "tap-a".to_owned(),
            mac: "02:00:00:00:0a:01".parse().unwrap(),
            mtu: 1450,
            queues: 1,
            owner: 0,
            addresses: Vec::new(),
            routes: Vec::new(),
            neighbours: Vec::new(),
            txqueuelen: None,
            persist: true,
            offload: OffloadWish::Auto,
        }
    }

    #[test]
    fn an_impossible_specification_is_refused_before_anything_is_touched() {
        for bad in [
            TapSpec { ifname: "tap%d".to_owned(), ..spec() },
            TapSpec { mac: "ff:ff:ff:ff:ff:ff".parse().unwrap(), ..spec() },
            TapSpec { queues: 0, ..spec() },
            TapSpec { queues: 257, ..spec() },
        ] {
            let error = make(&bad).unwrap_err();
            assert!(matches!(error.cause, Cause::Spec(_)), "{error}");
        }
    }

    #[test]
    fn a_missing_namespace_is_named() {
        let error = make(&spec()).unwrap_err();
        assert!(error.is_netns_absent());
        assert_eq!(error.errno(), Some(libc::ENOENT));
        let text = error.to_string();
        for part in ["tap-a", "/no/such/namespace", "open the namespace", "os error 2"] {
            assert!(text.contains(part), "{text}");
        }
        let expect = Expectation { mac: spec().mac, owner: 0, netns: None, ifindex: None };
        let error = reopen(&spec(), &expect).unwrap_err();
        assert_eq!(error.mismatch(), Some(&Mismatch::NoNamespace));
        let removed = remove(spec().netns.as_ref(), "tap-a", &expect).unwrap();
        assert_eq!(removed, Removal::Absent);
    }
}
