//! Messages with descriptors over a `SOCK_SEQPACKET` socket.

use std::io::{self, IoSlice};
use std::os::fd::{BorrowedFd, OwnedFd};

use super::protocol::MAX_MESSAGE;
use crate::io::sys;

/// A message as it came.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) bytes: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// Sends one message with the descriptors beside it.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    sys::send_with_rights(socket, &[IoSlice::new(bytes)], descriptors)
}

/// Receives one message; `None`: the other end has closed.
///
/// # Errors
///
/// `InvalidData` for one that is longer than a message may be; `WouldBlock` when none is there.
pub(super) fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<Message>> {
    // One byte more than may come: what fills it was cut.
    let mut bytes = vec![0; MAX_MESSAGE + 1];
    let got = sys::receive_with_rights(socket, &mut bytes)?;
    if got.truncated || got.len > MAX_MESSAGE {
        let message =
            format!("a message is longer than {MAX_MESSAGE} bytes, or descriptors are lost");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    bytes.truncate(got.len);
    let empty = bytes.is_empty() && got.rights.is_empty();
    Ok((!empty).then_some(Message { bytes, descriptors: got.rights }))
}
