//! ICMP and ICMPv6 echo (RFC 792, RFC 4443).

use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use socket2::{Domain, Protocol, Socket, Type};

use crate::traffic::pattern;
use crate::world::Space;

/// How long one echo may take. A neighbour's resolution and a TAP that has just come up fit in.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends echo requests with `size` bytes of payload one after the other and checks each reply.
/// Returns the round trips.
///
/// # Errors
///
/// If one is not answered within two seconds, or its payload came back changed.
pub fn ping(space: &Space, to: IpAddr, count: u16, size: usize) -> Result<Vec<Duration>> {
    let socket = space.run(|| open(to))??;
    let payload: Vec<u8> = pattern(7).into_iter().cycle().take(size).collect();
    (0..count).map(|sequence| echo(&socket, to, sequence, &payload)).collect()
}

/// Pings until an answer comes: after a change, when learned state must first find its way.
///
/// # Errors
///
/// If none comes within `patience`.
pub fn until_answered(space: &Space, to: IpAddr, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        match ping(space, to, 1, 56) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Whether echo requests stay unanswered: three of them, for half a second each.
///
/// # Errors
///
/// If there is no socket to be had.
pub fn is_silent(space: &Space, to: IpAddr) -> Result<bool> {
    let socket = space.run(|| open(to))??;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    Ok((0..3).all(|sequence| {
        attempt(&socket, to, sequence, b"anybody?", Duration::from_millis(500)).is_err()
    }))
}

fn open(to: IpAddr) -> Result<Socket> {
    let (domain, protocol) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn echo(socket: &Socket, to: IpAddr, sequence: u16, payload: &[u8]) -> Result<Duration> {
    attempt(socket, to, sequence, payload, PATIENCE)
}

fn attempt(
    mut socket: &Socket,
    to: IpAddr,
    sequence: u16,
    payload: &[u8],
    patience: Duration,
) -> Result<Duration> {
    let identifier = (std::process::id() as u16) ^ 0x7a7a;
    let (request, reply) = if to.is_ipv4() { (8, 0) } else { (128, 129) };
    let mut message = vec![request, 0, 0, 0];
    message.extend_from_slice(&identifier.to_be_bytes());
    message.extend_from_slice(&sequence.to_be_bytes());
    message.extend_from_slice(payload);
    if to.is_ipv4() {
        let sum = checksum(&message).to_be_bytes();
        message.splice(2..4, sum);
    }
    let begun = Instant::now();
    socket.send_to(&message, &SocketAddr::new(to, 0).into())?;
    let mut buffer = vec![0; 70_000];
    while begun.elapsed() < patience {
        let length = match socket.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                break;
            }
            Err(error) => return Err(error.into()),
        };
        let mut got = buffer.get(..length).unwrap_or_default();
        if to.is_ipv4() {
            // A raw IPv4 socket gives the IP header, too.
            let header = usize::from(got.first().copied().unwrap_or(0) & 15) * 4;
            got = got.get(header..).unwrap_or_default();
        }
        let ours = got.first() == Some(&reply) && got.get(4..8) == message.get(4..8);
        if !ours {
            continue;
        }
        if got.get(8..) != Some(payload) {
            bail!(
                "{to}: echo {sequence} came back changed ({} bytes for {})",
                got.len(),
                message.len()
            );
        }
        return Ok(begun.elapsed());
    }
    bail!("{to}: no answer to echo {sequence} with {} bytes", payload.len())
}

/// The Internet checksum (RFC 1071), the slow way.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        let high = u32::from(pair.first().copied().unwrap_or(0));
        let low = u32::from(pair.get(1).copied().unwrap_or(0));
        sum += high << 8 | low;
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
