//! Sockets: options that no library wraps, and messages many at a time.

use std::io::{self, IoSlice};
use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// The socket options that no library wraps; all of them hold one `int`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketOption {
    /// `UDP_NO_CHECK6_TX`: send zero checksums over IPv6 (RFC 6935).
    NoCheck6Tx,
    /// `UDP_NO_CHECK6_RX`: accept zero checksums over IPv6 (RFC 6935).
    NoCheck6Rx,
    /// `SO_NO_CHECK`: send zero checksums over IPv4.
    NoCheck,
    /// `IP_MTU_DISCOVER`.
    MtuDiscover4,
    /// `IPV6_MTU_DISCOVER`.
    MtuDiscover6,
    /// `IP_MTU`: the path MTU of a connected socket; read only.
    PathMtu4,
    /// `IPV6_MTU`: the path MTU of a connected socket; read only.
    PathMtu6,
}

/// The value of [`SocketOption::MtuDiscover4`] and its IPv6 twin: set DF, and send up to the
/// device's MTU whatever the route cache holds (`IP_PMTUDISC_PROBE`).
pub const MTU_DISCOVER_PROBE: i32 = libc::IP_PMTUDISC_PROBE;

impl SocketOption {
    const fn level_and_name(self) -> (i32, i32) {
        match self {
            Self::NoCheck6Tx => (libc::SOL_UDP, libc::UDP_NO_CHECK6_TX),
            Self::NoCheck6Rx => (libc::SOL_UDP, libc::UDP_NO_CHECK6_RX),
            Self::NoCheck => (libc::SOL_SOCKET, libc::SO_NO_CHECK),
            Self::MtuDiscover4 => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
            Self::MtuDiscover6 => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
            Self::PathMtu4 => (libc::IPPROTO_IP, libc::IP_MTU),
            Self::PathMtu6 => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
        }
    }
}

/// Sets `option` of `fd` to `value` (`setsockopt(2)`).
///
/// # Errors
/// What the kernel says: `ENOPROTOOPT` for an option it does not know, `EPERM` without the right.
pub fn set_option(fd: BorrowedFd<'_>, option: SocketOption, value: i32) -> io::Result<()> {
    let (level, name) = option.level_and_name();
    // SAFETY: the pointer and the length are those of `value`, which lives until the call returns.
    let code = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has `program` choose among the sockets of the group of `fd`, by their order in it
/// (`SO_ATTACH_REUSEPORT_CBPF`, socket(7)): its result is the index. For an index that there is not, the
/// kernel chooses.
///
/// # Errors
/// What the kernel says: `EINVAL` for a program that it does not accept, or without a group.
pub fn choose_by(fd: BorrowedFd<'_>, program: &mut [libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the pointer and the length are those of `program`, which points to as many instructions as
    // it says; all of it lives until the call returns, by which the kernel has copied it.
    let code = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads `option` of `fd` (`getsockopt(2)`).
///
/// # Errors
/// What the kernel says.
pub fn option(fd: BorrowedFd<'_>, option: SocketOption) -> io::Result<i32> {
    let (level, name) = option.level_and_name();
    let mut value: i32 = 0;
    let mut len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `value`, and both live until it returns.
    let code = unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len)
    };
    if code == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// How many datagrams `fd` has lost so far to a full receive buffer (`SO_MEMINFO`,
/// linux/sock_diag.h), wrapping.
///
/// # Errors
/// What the kernel says.
pub fn socket_drops(fd: BorrowedFd<'_>) -> io::Result<u32> {
    /// `SK_MEMINFO_DROPS`, the last of the nine words.
    const DROPS: usize = 8;
    let mut words = [0_u32; DROPS + 1];
    let mut len = size_of_val(&words) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `words`, and both live until it returns.
    let code = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            words.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if code == 0 { Ok(words[DROPS]) } else { Err(io::Error::last_os_error()) }
}

/// The MTU of the interface called `name`, asked through any socket `fd` of the namespace
/// (`SIOCGIFMTU`, netdevice(7)).
///
/// # Errors
/// `ENODEV` when there is no such interface, `EINVAL` when the name is too long.
pub fn interface_mtu(fd: BorrowedFd<'_>, name: &str) -> io::Result<u32> {
    // SAFETY: all zeros is a valid `ifreq`: bytes, integers and plain addresses.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: SIOCGIFMTU reads the name and writes `ifru_mtu` within the `ifreq` given.
    let code = unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) };
    if code != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: SIOCGIFMTU has succeeded, so `ifru_mtu` is the field of the union that is set.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    Ok(u32::try_from(mtu).unwrap_or(0))
}

/// An address as the kernel takes it: `sockaddr_in` lies within the larger `sockaddr_in6`.
type Name = libc::sockaddr_in6;

const _: () = assert!(size_of::<libc::sockaddr_in>() <= size_of::<Name>());
const _: () = assert!(align_of::<libc::sockaddr_in>() <= align_of::<Name>());

fn empty_name() -> Name {
    // SAFETY: all zeros is a valid `sockaddr_in6`.
    unsafe { mem::zeroed() }
}

/// Writes `address` to `name` and returns the length of what was written.
fn encode(address: SocketAddr, name: &mut Name) -> libc::socklen_t {
    match address {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(*v4.ip()).to_be() },
                sin_zero: [0; 8],
            };
            // SAFETY: `name` has room and alignment for a `sockaddr_in`, asserted above.
            unsafe { (&raw mut *name).cast::<libc::sockaddr_in>().write(raw) };
            size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
        SocketAddr::V6(v6) => {
            name.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            name.sin6_port = v6.port().to_be();
            name.sin6_flowinfo = 0;
            name.sin6_addr = libc::in6_addr { s6_addr: v6.ip().octets() };
            name.sin6_scope_id = v6.scope_id();
            size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }
}

/// The address in `name`, of which the kernel wrote `len` bytes.
fn decode(name: &Name, len: libc::socklen_t) -> Option<SocketAddr> {
    let len = len as usize;
    match i32::from(name.sin6_family) {
        libc::AF_INET if len >= size_of::<libc::sockaddr_in>() => {
            // SAFETY: `name` is larger than a `sockaddr_in`, no less aligned, and initialised.
            let raw = unsafe { (&raw const *name).cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr));
            Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(raw.sin_port))))
        }
        libc::AF_INET6 if len >= size_of::<libc::sockaddr_in6>() => {
            let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
            let port = u16::from_be(name.sin6_port);
            Some(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, name.sin6_scope_id)))
        }
        _ => None,
    }
}

/// A control message of at most one word, laid out as `cmsg(3)` wants it.
#[repr(C)]
#[derive(Clone, Copy)]
struct ControlMessage {
    header: libc::cmsghdr,
    value: [u8; size_of::<usize>()],
}

// SAFETY: CMSG_SPACE only computes with its argument.
const CONTROL_SPACE: usize = unsafe { libc::CMSG_SPACE(4) } as usize;
const _: () = assert!(size_of::<ControlMessage>() == CONTROL_SPACE);

impl ControlMessage {
    fn empty() -> Self {
        // SAFETY: all zeros is a valid `cmsghdr` and a valid array.
        unsafe { mem::zeroed() }
    }

    fn set<const N: usize>(&mut self, level: i32, kind: i32, value: [u8; N]) {
        const { assert!(N <= size_of::<usize>() && N <= 4) };
        // SAFETY: CMSG_LEN only computes with its argument.
        self.header.cmsg_len = unsafe { libc::CMSG_LEN(N as u32) } as _;
        self.header.cmsg_level = level;
        self.header.cmsg_type = kind;
        for (to, from) in self.value.iter_mut().zip(value) {
            *to = from;
        }
    }
}

/// Calls `visit` with level, type and bytes of each control message in `header`.
///
/// # Safety
/// `header.msg_control` must point to `header.msg_controllen` initialised bytes.
pub(super) unsafe fn for_each_control(
    header: &libc::msghdr,
    mut visit: impl FnMut(i32, i32, &[u8]),
) {
    // SAFETY: CMSG_LEN only computes with its argument.
    let prefix = unsafe { libc::CMSG_LEN(0) } as usize;
    // SAFETY: the caller vouches for the buffer; the macros stay within `msg_controllen`.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !next.is_null() {
        // SAFETY: a pointer returned by the macros is aligned and has a whole `cmsghdr` before it.
        let (len, level, kind) =
            unsafe { ((*next).cmsg_len as usize, (*next).cmsg_level, (*next).cmsg_type) };
        // SAFETY: the kernel wrote `cmsg_len` bytes from the header on, within the buffer.
        let bytes = unsafe {
            std::slice::from_raw_parts(libc::CMSG_DATA(next), len.saturating_sub(prefix))
        };
        visit(level, kind, bytes);
        // SAFETY: as for the first one.
        next = unsafe { libc::CMSG_NXTHDR(header, next) };
    }
}

/// One message to send: one datagram, or a train of equal ones.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// Where to.
    pub to: SocketAddr,
    /// The bytes, gathered in this order.
    pub parts: &'a [IoSlice<'a>],
    /// Cut the bytes into datagrams of this many bytes each (`UDP_SEGMENT`).
    pub segment_size: Option<u16>,
    /// DSCP and ECN of the outer header (`IP_TOS`, `IPV6_TCLASS`).
    pub tos: u8,
}

/// The most messages that one [`send_batch`] takes.
pub const SEND_BATCH: usize = 32;

/// Sends up to [`SEND_BATCH`] of `messages` in order and returns how many went (`sendmmsg(2)`).
/// Never blocks.
///
/// # Errors
/// What became of the first message, when that one failed: those behind it were not tried.
pub fn send_batch(fd: BorrowedFd<'_>, messages: &[Outgoing<'_>]) -> io::Result<usize> {
    // Each is written only as far as it is used: to clear all of them takes as long as to send.
    let mut names = [const { MaybeUninit::<Name>::uninit() }; SEND_BATCH];
    let mut controls = [const { MaybeUninit::<[ControlMessage; 2]>::uninit() }; SEND_BATCH];
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; SEND_BATCH];
    let slots = headers.iter_mut().zip(&mut names).zip(&mut controls);
    for (((header, name), control), message) in slots.zip(messages) {
        let name = name.write(empty_name());
        let control = control.write([ControlMessage::empty(); 2]);
        // SAFETY: all zeros is a valid `mmsghdr`: null pointers with zero lengths.
        let header = &mut header.write(unsafe { mem::zeroed() }).msg_hdr;
        header.msg_namelen = encode(message.to, name);
        header.msg_name = (&raw mut *name).cast();
        header.msg_iov = message.parts.as_ptr().cast_mut().cast();
        header.msg_iovlen = message.parts.len() as _;
        let used = fill_control(message, control);
        if used > 0 {
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = (used * CONTROL_SPACE) as _;
        }
    }
    let count = messages.len().min(SEND_BATCH);
    // SAFETY: the first `count` headers are initialised and point to names, controls and parts that
    // outlive the call; `IoSlice` is ABI-compatible with `iovec`, and the kernel only reads through it.
    let sent = unsafe {
        let headers = headers.as_mut_ptr().cast();
        libc::sendmmsg(fd.as_raw_fd(), headers, count as u32, libc::MSG_DONTWAIT)
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Writes what `message` needs into `control` and returns how many entries that took.
fn fill_control(message: &Outgoing<'_>, control: &mut [ControlMessage; 2]) -> usize {
    let mut entries = control.iter_mut();
    if let Some(size) = message.segment_size
        && let Some(entry) = entries.next()
    {
        entry.set(libc::SOL_UDP, libc::UDP_SEGMENT, size.to_ne_bytes());
    }
    if message.tos != 0
        && let Some(entry) = entries.next()
    {
        let (level, kind) = match message.to {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TOS),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
        };
        entry.set(level, kind, i32::from(message.tos).to_ne_bytes());
    }
    2 - entries.len()
}

/// What came with one received message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Incoming {
    /// Who sent it; `None` when the kernel named nobody that has an IP address.
    pub from: Option<SocketAddr>,
    /// How many bytes were written to its buffer.
    pub len: usize,
    /// Bytes or control messages were lost for want of room.
    pub truncated: bool,
    /// The bytes are a train of datagrams of this size, the last one perhaps shorter (`UDP_GRO`).
    pub segment_size: Option<u16>,
    /// DSCP and ECN of the outer header.
    pub tos: u8,
}

/// The most messages that one [`receive_batch`] returns.
pub const RECEIVE_BATCH: usize = 8;

const RECEIVE_CONTROL: usize = 16;

/// Receives up to [`RECEIVE_BATCH`] messages, message `i` into the `i`th `size` bytes of `arena`,
/// and returns how many came (`recvmmsg(2)`). Never blocks.
///
/// # Errors
/// `EAGAIN` when there is nothing; else what the kernel says.
pub fn receive_batch(
    fd: BorrowedFd<'_>,
    arena: &mut [u8],
    size: usize,
    messages: &mut [Incoming; RECEIVE_BATCH],
) -> io::Result<usize> {
    let mut names = [empty_name(); RECEIVE_BATCH];
    let mut controls = [const { MaybeUninit::<[u64; RECEIVE_CONTROL]>::uninit() }; RECEIVE_BATCH];
    // SAFETY: all zeros is a valid `iovec`: a null pointer with length zero.
    let mut buffers: [libc::iovec; RECEIVE_BATCH] = unsafe { mem::zeroed() };
    // SAFETY: all zeros is a valid `mmsghdr`: null pointers with zero lengths.
    let mut headers: [libc::mmsghdr; RECEIVE_BATCH] = unsafe { mem::zeroed() };
    let mut count = 0_u32;
    let slots = headers.iter_mut().zip(&mut names).zip(&mut controls).zip(&mut buffers);
    for ((((header, name), control), buffer), bytes) in slots.zip(arena.chunks_exact_mut(size)) {
        *buffer = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let header = &mut header.msg_hdr;
        header.msg_name = (&raw mut *name).cast();
        header.msg_namelen = size_of::<Name>() as libc::socklen_t;
        header.msg_iov = buffer;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(control) as _;
        count += 1;
    }
    // SAFETY: the first `count` headers point to names, controls and disjoint chunks of `arena`,
    // all of which outlive the call; a null timeout is allowed.
    let received = unsafe {
        libc::recvmmsg(
            fd.as_raw_fd(),
            headers.as_mut_ptr(),
            count,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
        )
    };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    for ((message, header), name) in messages.iter_mut().zip(&headers).zip(&names).take(received) {
        // SAFETY: the kernel filled this header, and its control buffer as far as it says.
        *message = unsafe { describe(header, name) };
    }
    Ok(received)
}

/// # Safety
/// `header` must have been filled by the kernel and its control buffer must still be alive.
unsafe fn describe(header: &libc::mmsghdr, name: &Name) -> Incoming {
    let mut message = Incoming {
        from: decode(name, header.msg_hdr.msg_namelen),
        len: header.msg_len as usize,
        truncated: header.msg_hdr.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0,
        ..Incoming::default()
    };
    let visit = |level, kind, bytes: &[u8]| match (level, kind) {
        (libc::SOL_UDP, libc::UDP_GRO) => {
            message.segment_size =
                int(bytes).and_then(|size| u16::try_from(size).ok()).filter(|size| *size > 0);
        }
        (libc::IPPROTO_IP, libc::IP_TOS) => message.tos = bytes.first().copied().unwrap_or(0),
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
            message.tos = int(bytes).map_or(0, |class| (class & 0xff) as u8);
        }
        _ => {}
    };
    // SAFETY: the caller vouches for the control buffer.
    unsafe { for_each_control(&header.msg_hdr, visit) };
    message
}

fn int(bytes: &[u8]) -> Option<i32> {
    bytes.first_chunk().map(|raw| i32::from_ne_bytes(*raw))
}

/// One entry of a socket's error queue (`sock_extended_err`, ip(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuedError {
    /// Where the datagram that failed was going: the address and port that the error quotes.
    pub to: Option<SocketAddr>,
    /// What a later send would have failed with.
    pub errno: i32,
    /// Whether this host itself found out, without any ICMP message.
    pub local: bool,
    /// ICMP type; 0 for a local error.
    pub icmp_type: u8,
    /// ICMP code; 0 for a local error.
    pub icmp_code: u8,
    /// The MTU with `EMSGSIZE`, else without meaning.
    pub info: u32,
}

/// Takes one entry off the error queue of `fd` (`recvmsg(2)` with `MSG_ERRQUEUE`).
///
/// # Errors
/// `EAGAIN` when the queue is empty; else what the kernel says.
pub fn receive_error(fd: BorrowedFd<'_>) -> io::Result<Option<QueuedError>> {
    let mut name = empty_name();
    let mut control = [0_u64; 32];
    // The failed datagram itself is of no use: no buffer for it.
    // SAFETY: all zeros is a valid `msghdr`.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen = size_of::<Name>() as libc::socklen_t;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the header points to `name` and `control`, which outlive the call.
    let code = unsafe {
        libc::recvmsg(fd.as_raw_fd(), &raw mut header, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT)
    };
    if code < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut report = None;
    let visit = |level, kind, bytes: &[u8]| {
        let expected = matches!(
            (level, kind),
            (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
        );
        // ee_errno, ee_origin, ee_type, ee_code, ee_pad, ee_info, as in linux/errqueue.h.
        if expected
            && let Some(&[e0, e1, e2, e3, origin, icmp_type, icmp_code, _, i0, i1, i2, i3]) =
                bytes.first_chunk()
        {
            report = Some(QueuedError {
                to: decode(&name, header.msg_namelen),
                errno: i32::from_ne_bytes([e0, e1, e2, e3]),
                local: !matches!(origin, libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6),
                icmp_type,
                icmp_code,
                info: u32::from_ne_bytes([i0, i1, i2, i3]),
            });
        }
    };
    // SAFETY: the kernel filled `header`; `control` was zeroed at first and is still alive.
    unsafe { for_each_control(&header, visit) };
    Ok(report)
}
