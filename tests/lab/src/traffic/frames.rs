//! Single frames, sent and seen through a packet socket (packet(7)) on a pod's device.

use std::io::{ErrorKind, Read as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::bind;
use socket2::{Domain, Protocol, Socket, Type};
use std::os::fd::{AsRawFd as _, OwnedFd};

use crate::world::Space;

/// Ethernet's local experimental type (IEEE 802, 88b5): nobody else sends it.
pub const EXPERIMENTAL: u16 = 0x88b5;

/// The broadcast address.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// ETH_P_ALL (linux/if_ether.h).
const ETH_P_ALL: u16 = 3;

/// A packet socket on one device.
#[derive(Debug)]
pub struct Frames {
    socket: Socket,
    mac: [u8; 6],
}

impl Frames {
    /// Opens one. It sees what arrives from then on, whomever it is for.
    ///
    /// # Errors
    ///
    /// If there is no such device, or the user may not.
    pub fn open(space: &Space, device: &str) -> Result<Self> {
        let mac = space.link(device)?.mac.context("no Ethernet device")?.0;
        let socket = socket(space, device, ETH_P_ALL)?;
        // Room for what a busy device carries between two reads.
        socket.set_recv_buffer_size(4 << 20)?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        Ok(Self { socket, mac })
    }

    /// The device's MAC address.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Sends a frame as it is. Waits up to a second for room in the device: one without a queueing
    /// discipline says when it has none.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, for instance ENETDOWN.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let mut patience = 1000;
        loop {
            match (&self.socket).write_all(frame) {
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) && patience > 0 => {
                    patience -= 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
                sent => return sent.with_context(|| format!("send {} bytes", frame.len())),
            }
        }
    }

    /// Sends an experimental frame with this text, padded to 60 bytes.
    ///
    /// # Errors
    ///
    /// As [`Self::send`].
    pub fn say(&self, to: [u8; 6], text: &str) -> Result<()> {
        self.send(&frame(to, self.mac, EXPERIMENTAL, text.as_bytes()))
    }

    /// The next frame, or `None` if none comes within a tenth of a second.
    ///
    /// # Errors
    ///
    /// The socket's.
    pub fn next(&self) -> Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; 70_000];
        match (&self.socket).read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                Ok(Some(buffer))
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Collects the texts of experimental frames until `last` has come. Frames of one sender to one
    /// destination keep their order, so that whatever was sent before `last` is among them, as often
    /// as it will ever arrive.
    ///
    /// # Errors
    ///
    /// If `last` does not come within five seconds.
    pub fn heard_until(&self, last: &str) -> Result<Vec<String>> {
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut heard = Vec::new();
        while Instant::now() < deadline {
            let Some(frame) = self.next()? else { continue };
            let Some(text) = text_of(&frame) else { continue };
            if text == last {
                return Ok(heard);
            }
            heard.push(text);
        }
        bail!("`{last}` did not come; heard {heard:?}")
    }

    /// Waits for a frame that fulfils a condition.
    ///
    /// # Errors
    ///
    /// If none comes within five seconds.
    pub fn wait_for(&self, what: &str, mut is_it: impl FnMut(&[u8]) -> bool) -> Result<Vec<u8>> {
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if let Some(frame) = self.next()?.filter(|frame| is_it(frame)) {
                return Ok(frame);
            }
        }
        bail!("no frame came: {what}")
    }
}

/// A packet socket on a device that only sends: what it sees of the device's traffic is nothing.
///
/// # Errors
///
/// As [`Frames::open`].
pub fn sender(space: &Space, device: &str) -> Result<OwnedFd> {
    Ok(socket(space, device, 0)?.into())
}

fn socket(space: &Space, device: &str, protocol: u16) -> Result<Socket> {
    space.run(|| {
        let protocol = Protocol::from(i32::from(protocol.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
        let mut links = getifaddrs()?.filter(|interface| interface.interface_name == device);
        let address = links
            .find_map(|link| link.address?.as_link_addr().copied())
            .with_context(|| format!("no device {device}"))?;
        // The address of a device has no protocol: the socket's own stays.
        bind(socket.as_raw_fd(), &address)?;
        Ok(socket)
    })?
}

/// An Ethernet frame, padded to the 60 bytes that the wire wants.
#[must_use]
pub fn frame(to: [u8; 6], from: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = [to.as_slice(), &from, &kind.to_be_bytes(), payload].concat();
    bytes.resize(bytes.len().max(60), 0);
    bytes
}

/// The text of an experimental frame.
#[must_use]
pub fn text_of(frame: &[u8]) -> Option<String> {
    let (head, payload) = frame.split_first_chunk::<14>()?;
    let kind = u16::from_be_bytes([*head.get(12)?, *head.get(13)?]);
    let end = payload.iter().position(|byte| *byte == 0).unwrap_or(payload.len());
    (kind == EXPERIMENTAL)
        .then(|| String::from_utf8_lossy(payload.get(..end).unwrap_or_default()).into_owned())
}

/// Says something from one pod and asserts how often each of the others hears it.
///
/// Only frames of one flow keep their order. So those who are to hear it hear its end as well, sent
/// the same way; once they have, the end for those who are not goes to everybody.
///
/// # Errors
///
/// If one hears it more or less often than said.
pub fn assert_heard(
    from: &Frames,
    to: [u8; 6],
    text: &str,
    listeners: &[(&str, &Frames, usize)],
) -> Result<()> {
    let (end, end_of_all) = (format!("{text}, end"), format!("{text}, end of all"));
    from.say(to, text)?;
    from.say(to, &end)?;
    let ensure_count = |name: &str, listener: &Frames, last: &str, times: usize| {
        let heard = listener.heard_until(last).with_context(|| name.to_owned())?;
        let count = heard.iter().filter(|heard| *heard == text).count();
        ensure!(count == times, "{name} heard `{text}` {count} times, not {times}");
        Ok(())
    };
    let (hearers, others): (Vec<_>, Vec<_>) = listeners.iter().copied().partition(|row| row.2 > 0);
    for (name, listener, times) in hearers {
        ensure_count(name, listener, &end, times)?;
    }
    from.say(BROADCAST, &end_of_all)?;
    for (name, listener, _) in others {
        ensure_count(name, listener, &end_of_all, 0)?;
    }
    Ok(())
}
