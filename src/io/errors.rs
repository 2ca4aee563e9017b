//! What an IO error means: the one place that decides it.

use std::io;

/// What was tried when the error came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A frame was to be read from a port.
    PortRead,
    /// A frame was to be written to a port.
    PortWrite,
    /// Datagrams were to be received from the underlay.
    UnderlayReceive,
    /// A datagram, or a train of them, was to be sent to the underlay.
    UnderlaySend,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// A signal came first: the same call again.
    Retry,
    /// Nothing to read or no room to write: readiness will tell when to come back.
    Wait,
    /// This frame or datagram is lost and counted; the descriptor is as good as before.
    Count,
    /// The device or the other end is gone, or reports errors for ever: the descriptor leaves the
    /// epoll set and the port goes down.
    PortDown,
    /// Not an event of the world but of the program: the descriptor is not what it must be.
    Fatal,
}

/// Decides what `error` of `operation` means.
///
/// A read that fails in an unknown way would be reported by epoll for ever, so an unknown error
/// takes a port down when it is read, and costs one frame everywhere else.
pub fn classify(operation: Operation, error: &io::Error) -> Verdict {
    let Some(errno) = error.raw_os_error() else {
        return Verdict::Count;
    };
    match (errno, operation) {
        (libc::EINTR, _) => Verdict::Retry,
        (libc::EAGAIN, _) => Verdict::Wait,
        (libc::EBADF | libc::ENOTSOCK | libc::EFAULT, _) => Verdict::Fatal,
        (
            libc::EBADFD
            | libc::ENODEV
            | libc::ENXIO
            | libc::EPIPE
            | libc::ECONNRESET
            | libc::ENOTCONN
            | libc::ESHUTDOWN,
            Operation::PortRead | Operation::PortWrite,
        ) => Verdict::PortDown,
        // The other end of a socket pair has closed its end.
        (libc::ECONNREFUSED, Operation::PortWrite) => Verdict::PortDown,
        (libc::ENOMEM | libc::ENOBUFS, _) => Verdict::Count,
        (_, Operation::PortRead) => Verdict::PortDown,
        _ => Verdict::Count,
    }
}

#[cfg(test)]
mod tests {
    use super::Operation::{PortRead, PortWrite, UnderlayReceive, UnderlaySend};
    use super::*;

    #[test]
    fn every_error_has_its_meaning() {
        use Verdict::{Count, Fatal, PortDown, Retry, Wait};
        let table = [
            ("signal", libc::EINTR, PortRead, Retry),
            ("signal", libc::EINTR, UnderlaySend, Retry),
            ("no frame", libc::EAGAIN, PortRead, Wait),
            ("queue full", libc::EAGAIN, PortWrite, Wait),
            ("send buffer full", libc::EAGAIN, UnderlaySend, Wait),
            ("TAP detached", libc::EBADFD, PortRead, PortDown),
            ("TAP detached", libc::EBADFD, PortWrite, PortDown),
            ("netdev gone", libc::ENODEV, PortRead, PortDown),
            ("pair closed", libc::ECONNRESET, PortRead, PortDown),
            ("pair closed", libc::EPIPE, PortWrite, PortDown),
            ("pair closed", libc::ECONNREFUSED, PortWrite, PortDown),
            ("TAP is down", libc::EIO, PortWrite, Count),
            ("bad vnet header", libc::EINVAL, PortWrite, Count),
            ("unknown while reading", libc::ELOOP, PortRead, PortDown),
            ("unknown while writing", libc::ELOOP, PortWrite, Count),
            ("ICMP of a peer", libc::ECONNREFUSED, UnderlaySend, Count),
            ("no route", libc::ENETUNREACH, UnderlaySend, Count),
            ("no host", libc::EHOSTUNREACH, UnderlaySend, Count),
            ("path MTU", libc::EMSGSIZE, UnderlaySend, Count),
            ("firewall", libc::EPERM, UnderlaySend, Count),
            ("link down", libc::ENETDOWN, UnderlaySend, Count),
            ("device queue full", libc::ENOBUFS, UnderlaySend, Count),
            ("no memory", libc::ENOMEM, PortRead, Count),
            ("stray error", libc::ECONNREFUSED, UnderlayReceive, Count),
            ("closed", libc::EBADF, PortRead, Fatal),
            ("closed", libc::EBADF, UnderlayReceive, Fatal),
            ("no socket", libc::ENOTSOCK, UnderlaySend, Fatal),
        ];
        for (name, errno, operation, expected) in table {
            let verdict = classify(operation, &io::Error::from_raw_os_error(errno));
            assert_eq!(verdict, expected, "{name} ({errno}) at {operation:?}");
        }
        assert_eq!(classify(PortRead, &io::Error::other("no number")), Count);
    }
}
