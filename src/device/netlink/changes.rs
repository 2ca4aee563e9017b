//! News of links and addresses (rtnetlink(7), RTNLGRP_*).

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// RTMGRP_LINK, RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR (linux/rtnetlink.h).
const GROUPS: u32 = 0x1 | 0x10 | 0x100;

/// The most messages that are taken at one time; the others are taken the next time.
const AT_ONCE: usize = 4096;

/// Tells when a link or an address changed in the network namespace in which it was opened.
pub struct Changes(Socket);

impl std::fmt::Debug for Changes {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Changes").finish_non_exhaustive()
    }
}

impl Changes {
    /// Tells of what changes from now on in the calling thread's namespace.
    ///
    /// # Errors
    ///
    /// If the kernel gives no socket.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        socket.bind(&SocketAddr::new(0, GROUPS))?;
        Ok(Self(socket))
    }

    /// Whether anything has changed since this was asked last. Which link it was is not told:
    /// what overflows the socket's buffer would be missing.
    #[must_use]
    pub fn any(&self) -> bool {
        let mut any = false;
        // Of a message only that it was there is wanted: the kernel cuts what has no room.
        let mut room = [0_u8; 16];
        for _ in 0..AT_ONCE {
            match self.0.recv(&mut room.as_mut_slice(), 0) {
                Ok(_) => any = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return any,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // ENOBUFS: more has changed than there was room for.
                Err(_) => any = true,
            }
        }
        true
    }
}
