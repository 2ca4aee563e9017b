//! Messages that carry descriptors (`SCM_RIGHTS`, unix(7)), and those that a service manager passed.

use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use super::checked;
use super::socket::for_each_control;

/// The most descriptors that one message carries (SCM_MAX_FD, include/net/scm.h).
pub const RIGHTS_MAX: usize = 253;

const FD: usize = size_of::<RawFd>();
/// A control message with as many descriptors as there can be, in words: aligned as `cmsg(3)` wants.
// SAFETY: CMSG_SPACE only computes with its argument.
const ROOM: usize = unsafe { libc::CMSG_SPACE((RIGHTS_MAX * FD) as u32) } as usize / 8 + 1;

/// Sends one message with up to [`RIGHTS_MAX`] descriptors (`sendmsg(2)`). The receiver gets
/// duplicates; a socket whose other end is gone gives an error and no signal.
///
/// # Errors
/// `EINVAL` for more descriptors than one message carries; else what the kernel says.
pub fn send_with_rights(
    socket: BorrowedFd<'_>,
    parts: &[IoSlice<'_>],
    rights: &[BorrowedFd<'_>],
) -> io::Result<()> {
    if rights.len() > RIGHTS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut control = [0_u64; ROOM];
    // SAFETY: all zeros is a valid `msghdr`.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = parts.as_ptr().cast_mut().cast();
    header.msg_iovlen = parts.len() as _;
    if !rights.is_empty() {
        let len = (rights.len() * FD) as u32;
        header.msg_control = control.as_mut_ptr().cast();
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute with their argument.
        header.msg_controllen = unsafe { libc::CMSG_SPACE(len) } as _;
        // SAFETY: `control` is aligned, zeroed, and has room for `msg_controllen` bytes, which is at
        // least a header: the pointer is to a whole `cmsghdr`, with `rights.len()` ints behind it.
        unsafe {
            let first = libc::CMSG_FIRSTHDR(&raw const header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(len) as _;
            let data = libc::CMSG_DATA(first).cast::<RawFd>();
            for (at, fd) in rights.iter().enumerate() {
                data.add(at).write_unaligned(fd.as_raw_fd());
            }
        }
    }
    loop {
        // SAFETY: the header points to `parts` and `control`, which outlive the call; `IoSlice` is
        // ABI-compatible with `iovec`, and the kernel only reads through it.
        let sent =
            unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
        match io::Error::last_os_error() {
            _ if sent >= 0 => return Ok(()),
            error if error.kind() == io::ErrorKind::Interrupted => {}
            error => return Err(error),
        }
    }
}

/// A message with what came along.
#[derive(Debug)]
pub struct WithRights {
    /// How many bytes were written to the buffer.
    pub len: usize,
    /// Bytes or descriptors were lost for want of room.
    pub truncated: bool,
    /// The descriptors, close-on-exec.
    pub rights: Vec<OwnedFd>,
}

/// Receives one message with its descriptors (`recvmsg(2)`). Nothing at all: the other end has
/// closed.
///
/// # Errors
/// `EAGAIN` when nothing came within the socket's receive timeout; else what the kernel says.
pub fn receive_with_rights(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<WithRights> {
    let mut control = [0_u64; ROOM];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeros is a valid `msghdr`.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _;
    let len = loop {
        // SAFETY: the header points to `part`, `buffer` and `control`, which outlive the call.
        let len =
            unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
        match (usize::try_from(len), io::Error::last_os_error()) {
            (Ok(len), _) => break len,
            (Err(_), error) if error.kind() == io::ErrorKind::Interrupted => {}
            (Err(_), error) => return Err(error),
        }
    };
    let mut rights = Vec::new();
    let take = |level, kind, bytes: &[u8]| {
        if (level, kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            for raw in bytes.chunks_exact(FD).filter_map(|raw| raw.first_chunk()) {
                // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
                rights.push(unsafe { OwnedFd::from_raw_fd(RawFd::from_ne_bytes(*raw)) });
            }
        }
    };
    // SAFETY: the kernel filled `header`; `control` was zeroed at first and is still alive.
    unsafe { for_each_control(&header, take) };
    let truncated = header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
    Ok(WithRights { len, truncated, rights })
}

/// The one descriptor that a service manager passed to this process, if it did
/// (sd_listen_fds(3)). It is given out once.
///
/// # Errors
/// When several were passed, or the one is not open.
pub fn passed_descriptor() -> io::Result<Option<OwnedFd>> {
    /// SD_LISTEN_FDS_START.
    const FIRST: RawFd = 3;
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) || TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(None);
    }
    if number("LISTEN_FDS") != Some(1) {
        let message = "not exactly one socket was passed by the service manager";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    // SAFETY: the call changes a flag of a descriptor, if that is open.
    checked(unsafe { libc::fcntl(FIRST, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it was open before this process began, as the variables that are meant for it say, so
    // that nothing here can have been given its number; and it is taken once.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(FIRST) }))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Seek as _, Write as _};
    use std::os::fd::AsFd as _;

    use socket2::{Domain, Socket, Type};

    use super::*;

    fn pair() -> (Socket, Socket) {
        Socket::pair(Domain::UNIX, Type::SEQPACKET, None).unwrap()
    }

    #[test]
    fn as_many_descriptors_as_one_message_takes_arrive_and_are_what_was_sent() {
        let (near, far) = pair();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"it is me").unwrap();
        let rights = vec![file.as_fd(); RIGHTS_MAX];
        let parts = [IoSlice::new(b"a"), IoSlice::new(b"bc")];
        send_with_rights(near.as_fd(), &parts, &rights).unwrap();
        let mut buffer = [0; 8];
        let got = receive_with_rights(far.as_fd(), &mut buffer).unwrap();
        assert_eq!((got.len, &buffer[..3], got.truncated), (3, &b"abc"[..], false));
        assert_eq!(got.rights.len(), RIGHTS_MAX);
        let mut text = String::new();
        let mut last = File::from(got.rights.into_iter().next_back().unwrap());
        last.rewind().unwrap();
        last.read_to_string(&mut text).unwrap();
        assert_eq!(text, "it is me");
        let more = vec![file.as_fd(); RIGHTS_MAX + 1];
        assert!(send_with_rights(near.as_fd(), &parts, &more).is_err());
    }

    #[test]
    fn what_has_no_room_is_told_and_an_end_is_nothing() {
        let (near, far) = pair();
        send_with_rights(near.as_fd(), &[IoSlice::new(b"abcdef")], &[]).unwrap();
        let got = receive_with_rights(far.as_fd(), &mut [0; 3]).unwrap();
        assert!(got.truncated && got.len == 3 && got.rights.is_empty());
        drop(near);
        assert_eq!(receive_with_rights(far.as_fd(), &mut [0; 3]).unwrap().len, 0);
        let error = send_with_rights(far.as_fd(), &[IoSlice::new(b"a")], &[]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPIPE));
    }

    #[test]
    fn nothing_was_passed_to_a_test() {
        assert!(passed_descriptor().unwrap().is_none());
    }
}
