//! Whole messages with descriptors over a SOCK_SEQPACKET socket. What is larger than one of the
//! socket's own takes several: each begins with a byte that says whether another follows.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use socket2::Socket;

use crate::io::sys::{RIGHTS_MAX, receive_with_rights, send_with_rights};

/// Bytes in each part but the last: a socket's buffer holds some of them, however small it is.
const PART: usize = 48 * 1024;

const LAST: u8 = 0;
const MORE: u8 = 1;

/// How much a message may hold. Nothing beyond it is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub(super) bytes: usize,
    pub(super) rights: usize,
}

/// A message.
#[derive(Debug, Default)]
pub(super) struct Message {
    pub(super) bytes: Vec<u8>,
    pub(super) rights: Vec<OwnedFd>,
}

/// Why no message came.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoMessage {
    /// The other end has closed, between two messages.
    #[error("it hung up")]
    Closed,
    /// The socket says no, or too little comes in time.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What came is no message.
    #[error("{0}")]
    Malformed(&'static str),
}

impl NoMessage {
    /// Whether nothing came in time.
    pub(super) fn is_silence(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Sends a message, waiting for room no longer than the socket's write timeout for each part.
///
/// # Errors
/// EPIPE when the other end has closed, EAGAIN when it does not read.
pub(super) fn send(socket: &Socket, bytes: &[u8], rights: &[BorrowedFd<'_>]) -> io::Result<()> {
    let parts = bytes.len().div_ceil(PART).max(rights.len().div_ceil(RIGHTS_MAX)).max(1);
    let (mut bytes, mut rights) = (bytes, rights);
    for part in 1..=parts {
        let (now, later) = bytes.split_at(bytes.len().min(PART));
        let (with, left) = rights.split_at(rights.len().min(RIGHTS_MAX));
        let flag = [if part == parts { LAST } else { MORE }];
        send_with_rights(socket.as_fd(), &[IoSlice::new(&flag), IoSlice::new(now)], with)?;
        (bytes, rights) = (later, left);
    }
    Ok(())
}

/// Receives a message, waiting no longer than the socket's read timeout for each part.
///
/// # Errors
/// [`NoMessage`]; what came of a message that is too large or ends early is dropped, and the
/// connection is of no use afterwards.
pub(super) fn receive(socket: &Socket, limit: Limit) -> Result<Message, NoMessage> {
    let mut message = Message::default();
    let mut buffer = vec![0; PART + 1];
    let mut begun = false;
    loop {
        let part = receive_with_rights(socket.as_fd(), &mut buffer)?;
        message.rights.extend(part.rights);
        let (flag, bytes) = match buffer.get(..part.len).and_then(<[u8]>::split_first) {
            Some(parts) => parts,
            None if begun => return Err(NoMessage::Malformed("a message ended early")),
            None => return Err(NoMessage::Closed),
        };
        let too_much = message.bytes.len() + bytes.len() > limit.bytes;
        if part.truncated || too_much || message.rights.len() > limit.rights {
            return Err(NoMessage::Malformed("a message is too large"));
        }
        message.bytes.extend_from_slice(bytes);
        match *flag {
            LAST => return Ok(message),
            // Each part brings something, so that the limits bound how many there are.
            MORE if bytes.len() == PART || part_is_full(&message.rights, begun) => begun = true,
            MORE => return Err(NoMessage::Malformed("a message has a part that is not full")),
            _ => return Err(NoMessage::Malformed("a message begins with an unknown byte")),
        }
    }
}

/// Whether the first part of a message was full of descriptors, with more to follow.
fn part_is_full(rights: &[OwnedFd], begun: bool) -> bool {
    !begun && rights.len() == RIGHTS_MAX
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::thread;
    use std::time::Duration;

    use socket2::{Domain, Type};

    use super::*;

    const LIMIT: Limit = Limit { bytes: 300_000, rights: 256 };

    fn pair() -> (Socket, Socket) {
        let (near, far) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        for socket in [&near, &far] {
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            socket.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
        }
        (near, far)
    }

    #[test]
    fn messages_of_every_size_and_number_of_descriptors_arrive_whole() {
        let (near, far) = pair();
        let file = File::open("/dev/null").unwrap();
        for (size, count) in
            [(0, 0), (1, 1), (PART, 0), (PART + 1, 253), (2 * PART, 254), (300_000, 256), (5, 256)]
        {
            let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            let got = thread::scope(|scope| {
                let reader = scope.spawn(|| receive(&far, LIMIT));
                send(&near, &bytes, &vec![file.as_fd(); count]).unwrap();
                reader.join().unwrap().unwrap()
            });
            assert_eq!((got.bytes == bytes, got.rights.len()), (true, count), "{size}, {count}");
        }
    }

    /// What the receiver makes of parts that are sent as they are.
    fn parts(parts: &[&[u8]], rights: usize) -> String {
        let (near, far) = pair();
        let file = File::open("/dev/null").unwrap();
        for part in parts {
            let rights = vec![file.as_fd(); rights];
            send_with_rights(near.as_fd(), &[IoSlice::new(part)], &rights).unwrap();
        }
        drop(near);
        receive(&far, LIMIT).map(|message| format!("{message:?}")).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_message_is_refused_and_no_more_than_the_limit_is_kept() {
        let mut full = vec![7; PART + 1];
        full[0] = MORE;
        let mut longer = full.clone();
        longer.push(7);
        assert_eq!(parts(&[], 0), "it hung up");
        assert_eq!(parts(&[&[2, 1]], 0), "a message begins with an unknown byte");
        assert_eq!(parts(&[&[MORE, 1]], 0), "a message has a part that is not full");
        assert_eq!(parts(&[&[MORE]], RIGHTS_MAX), "a message ended early");
        assert_eq!(parts(&[&[MORE], &[MORE]], 100), "a message has a part that is not full");
        assert_eq!(parts(&[&[MORE], &[LAST]], RIGHTS_MAX), "a message is too large");
        assert_eq!(parts(&[&full], 0), "a message ended early");
        assert_eq!(parts(&[&longer], 0), "a message is too large");
        let (near, far) = pair();
        let message = thread::scope(|scope| {
            let writer = scope.spawn(move || send(&near, &vec![0; LIMIT.bytes + 1], &[]));
            let message = receive(&far, LIMIT);
            drop(far);
            let _ = writer.join().unwrap();
            message
        });
        assert_eq!(message.unwrap_err().to_string(), "a message is too large");
    }

    #[test]
    fn silence_is_told_from_an_end() {
        let (near, far) = pair();
        far.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        assert!(receive(&far, LIMIT).unwrap_err().is_silence());
        drop(near);
        assert!(matches!(receive(&far, LIMIT), Err(NoMessage::Closed)));
    }
}
