//! TAP devices (linux/if_tun.h).

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use super::checked;

/// `struct ifreq` (linux/if.h): a name, and a union of 24 bytes.
#[repr(C)]
struct IfRequest {
    name: [u8; libc::IFNAMSIZ],
    data: [u8; 24],
}

impl IfRequest {
    const EMPTY: Self = Self { name: [0; libc::IFNAMSIZ], data: [0; 24] };
}

/// TUNSETIFF: attaches a fresh /dev/net/tun descriptor to the device `name`, which is made if
/// there is none. `flags` are IFF_TAP, IFF_NO_PI, … (linux/if_tun.h).
///
/// # Errors
///
/// The kernel's; EINVAL also for a name of 16 bytes or more.
pub fn tun_set_iff(tun: BorrowedFd<'_>, name: &str, flags: u16) -> io::Result<()> {
    let mut request = IfRequest::EMPTY;
    let bytes = name.as_bytes();
    let room = request.name.get_mut(..bytes.len()).filter(|room| room.len() < libc::IFNAMSIZ);
    room.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(bytes);
    let [low, high] = flags.to_ne_bytes();
    (request.data[0], request.data[1]) = (low, high);
    // SAFETY: the descriptor is open; `request` is a whole `struct ifreq` that outlives the call.
    checked(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    Ok(())
}

/// TUNGETIFF: the name and flags of the device that a descriptor is attached to.
///
/// # Errors
///
/// EBADFD if it is attached to none.
pub fn tun_get_iff(tun: BorrowedFd<'_>) -> io::Result<(String, u16)> {
    let mut request = IfRequest::EMPTY;
    // SAFETY: the descriptor is open; `request` is a whole `struct ifreq` that outlives the call.
    checked(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNGETIFF, &raw mut request) })?;
    let name = request.name.split(|byte| *byte == 0).next().unwrap_or_default();
    let flags = u16::from_ne_bytes([request.data[0], request.data[1]]);
    Ok((String::from_utf8_lossy(name).into_owned(), flags))
}

/// SIOCGIFHWADDR on a TAP descriptor: the MAC address of its device, from whichever namespace.
///
/// # Errors
///
/// EBADFD if it is attached to none.
pub fn tun_get_mac(tun: BorrowedFd<'_>) -> io::Result<[u8; 6]> {
    let mut request = IfRequest::EMPTY;
    // SAFETY: the descriptor is open; `request` is a whole `struct ifreq` that outlives the call.
    checked(unsafe { libc::ioctl(tun.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) })?;
    let [_, _, a, b, c, d, e, f, ..] = request.data;
    Ok([a, b, c, d, e, f])
}

/// TUNGETFEATURES: the TUNSETIFF flags this kernel knows.
///
/// # Errors
///
/// The kernel's.
pub fn tun_get_features(tun: BorrowedFd<'_>) -> io::Result<u32> {
    let mut features: libc::c_uint = 0;
    // SAFETY: the descriptor is open; the kernel writes one int, which outlives the call.
    checked(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNGETFEATURES, &raw mut features) })?;
    Ok(features)
}

/// TUNSETOFFLOAD: the TUN_F_* offloads that the reader of the device accepts, for the whole
/// device.
///
/// # Errors
///
/// EINVAL for a combination the kernel does not know.
pub fn tun_set_offload(tun: BorrowedFd<'_>, offload: u32) -> io::Result<()> {
    let value = libc::c_ulong::from(offload);
    // SAFETY: the descriptor is open; the argument is a value, not a pointer.
    checked(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETOFFLOAD, value) })?;
    Ok(())
}

/// TUNSETPERSIST: whether the device outlives its last descriptor.
///
/// # Errors
///
/// The kernel's.
pub fn tun_set_persist(tun: BorrowedFd<'_>, persist: bool) -> io::Result<()> {
    let value = libc::c_ulong::from(persist);
    // SAFETY: the descriptor is open; the argument is a value, not a pointer.
    checked(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETPERSIST, value) })?;
    Ok(())
}

/// TUNSETOWNER: the uid that may attach to the device, besides holders of CAP_NET_ADMIN.
///
/// # Errors
///
/// EINVAL for a uid that the user namespace does not map.
pub fn tun_set_owner(tun: BorrowedFd<'_>, uid: u32) -> io::Result<()> {
    let value = libc::c_ulong::from(uid);
    // SAFETY: the descriptor is open; the argument is a value, not a pointer.
    checked(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETOWNER, value) })?;
    Ok(())
}

/// TUNSETVNETHDRSZ: the length of the vnet header before each frame, in bytes.
///
/// # Errors
///
/// EINVAL if it is shorter than `struct virtio_net_hdr`.
pub fn tun_set_vnet_hdr_size(tun: BorrowedFd<'_>, size: u8) -> io::Result<()> {
    let value = libc::c_int::from(size);
    // SAFETY: the descriptor is open; the kernel reads one int, which outlives the call.
    checked(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const value) })?;
    Ok(())
}

/// TUNSETVNETLE: whether the vnet header's numbers are little-endian, whatever the machine's are.
///
/// # Errors
///
/// The kernel's.
pub fn tun_set_vnet_le(tun: BorrowedFd<'_>, little: bool) -> io::Result<()> {
    let value = libc::c_int::from(little);
    // SAFETY: the descriptor is open; the kernel reads one int, which outlives the call.
    checked(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETVNETLE, &raw const value) })?;
    Ok(())
}

/// TUNGETDEVNETNS: the network namespace that a descriptor's device is in now.
///
/// # Errors
///
/// EPERM without CAP_NET_ADMIN there; ENOTTY or EINVAL on kernels before 5.1.
pub fn tun_get_dev_netns(tun: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is open; the call takes no argument.
    let fd = checked(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNGETDEVNETNS, 0) })?;
    // SAFETY: the kernel made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// TUNSETSTEERINGEBPF: has a program tell for each frame which of the device's queues it is read
/// from, modulo their number. It stays with the device for life.
///
/// # Errors
///
/// EBADFD if the descriptor is attached to no device, EINVAL if the program is of another type.
pub fn tun_set_steering(tun: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let program: libc::c_int = program.as_raw_fd();
    // SAFETY: the descriptors are open; `program` is the `int` that is read, and outlives the call.
    checked(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETSTEERINGEBPF, &raw const program) })?;
    Ok(())
}
