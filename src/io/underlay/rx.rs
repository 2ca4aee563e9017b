//! Receiving from the underlay: a batch of datagrams, or of trains of them, with one call.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use super::sockets::ReceiveSocket;
use crate::io::errors::{Operation, Verdict, classify};
use crate::io::sys::{self, Incoming, RECEIVE_BATCH};

/// Bytes for each message: no UDP payload, and no train of them, is longer than 65,527 bytes.
pub const RECEIVE_SIZE: usize = 64 << 10;

/// Bytes from which on messages are long.
const LONG: usize = RECEIVE_SIZE / 4;
/// Long messages that are received at once.
const LONG_BATCH: usize = 2;

// Bounded memory: this is all that a worker's receiver holds, small enough to stay in the cache.
const _: () = assert!(RECEIVE_BATCH * RECEIVE_SIZE <= 512 << 10);

/// One message from the underlay.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// The sender's address and source port.
    pub peer: SocketAddr,
    /// One datagram, or with a `segment_size` a train of them without anything in between.
    pub bytes: &'a [u8],
    /// Bytes of each datagram of the train but the last, which may be shorter.
    pub segment_size: Option<u16>,
    /// DSCP and ECN of the outer header.
    pub tos: u8,
    /// It was longer than the buffer, or its train's size was lost: the bytes are not to be used.
    pub truncated: bool,
}

/// The messages of one call.
#[derive(Debug)]
pub struct Batch<'a> {
    arena: &'a [u8],
    messages: &'a [Incoming],
    room: usize,
}

impl<'a> Batch<'a> {
    /// How many messages there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether all room was used, so that more may be waiting.
    #[must_use]
    pub const fn may_be_more(&self) -> bool {
        self.messages.len() == self.room
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The messages in order. One whose sender the kernel did not name is left out.
    pub fn iter(&self) -> impl Iterator<Item = Received<'a>> + use<'a> {
        let buffers = self.arena.chunks_exact(RECEIVE_SIZE);
        self.messages.iter().zip(buffers).filter_map(|(message, buffer)| {
            Some(Received {
                peer: message.from?,
                bytes: buffer.get(..message.len)?,
                segment_size: message.segment_size,
                tos: message.tos,
                truncated: message.truncated,
            })
        })
    }
}

/// A worker's receive buffers.
#[derive(Debug)]
pub struct Receiver {
    arena: Box<[u8]>,
    messages: [Incoming; RECEIVE_BATCH],
    /// Messages for which the next call makes room.
    room: usize,
}

impl Receiver {
    /// Buffers for [`RECEIVE_BATCH`] messages.
    #[must_use]
    pub fn new() -> Self {
        let arena = vec![0; RECEIVE_BATCH * RECEIVE_SIZE].into_boxed_slice();
        Self { arena, messages: [Incoming::default(); RECEIVE_BATCH], room: RECEIVE_BATCH }
    }

    /// Receives what is there, up to `most` messages, and not many more than there were last time.
    /// An empty batch says that there is nothing, or that a stray error was taken off the socket.
    ///
    /// # Errors
    /// Only what makes the socket useless.
    pub fn receive(&mut self, socket: &ReceiveSocket, most: usize) -> io::Result<Batch<'_>> {
        let room = self.room.min(most);
        let count = loop {
            let Self { arena, messages, .. } = self;
            let arena = arena.get_mut(..room * RECEIVE_SIZE).unwrap_or_default();
            match sys::receive_batch(socket.as_fd(), arena, RECEIVE_SIZE, messages) {
                Ok(count) => break count,
                Err(error) => match classify(Operation::UnderlayReceive, &error) {
                    Verdict::Retry => {}
                    Verdict::Wait | Verdict::Count => break 0,
                    Verdict::PortDown | Verdict::Fatal => return Err(error),
                },
            }
        };
        let messages = self.messages.get(..count).unwrap_or(&self.messages);
        self.room = next_room(room, messages);
        Ok(Batch { arena: &self.arena, messages, room })
    }
}

/// For how many messages the next call makes room, which takes time for each. Long trains are taken
/// two at a time: what they are copied to stays in the processor's cache.
fn next_room(room: usize, messages: &[Incoming]) -> usize {
    let bytes: usize = messages.iter().map(|message| message.len).sum();
    let most = if bytes > messages.len() * LONG { LONG_BATCH } else { RECEIVE_BATCH };
    let wanted = if messages.len() == room { 2 * room } else { messages.len() + 1 };
    wanted.min(most)
}

impl Default for Receiver {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_follows_what_came() {
        let came = |room, count: usize, len| {
            next_room(room, &vec![Incoming { len, ..Incoming::default() }; count])
        };
        assert_eq!(came(RECEIVE_BATCH, 0, 0), 1, "nothing");
        assert_eq!(came(1, 1, 100), 2, "all room was used");
        assert_eq!(came(4, 1, 100), 2, "and one for good measure");
        assert_eq!(came(RECEIVE_BATCH, RECEIVE_BATCH, 100), RECEIVE_BATCH);
        assert_eq!(came(RECEIVE_BATCH, RECEIVE_BATCH, RECEIVE_SIZE), LONG_BATCH, "long trains");
        assert_eq!(came(LONG_BATCH, LONG_BATCH, 100), 4, "and no more of them");
    }
}
