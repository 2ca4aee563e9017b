//! UDP as fast as one thread can send it: what arrives, and what does not.

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lab::world::Space;
use nix::errno::Errno;
use nix::sys::socket::{
    MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg, setsockopt, sockopt,
};
use socket2::SockRef;

use crate::machine::CpuClock;
use crate::measure::{Ends, Figure, Start, join};

/// Datagrams per system call, on both sides.
const BATCH: usize = 64;

/// The most that one UDP_SEGMENT send takes, all datagrams together.
const RUN: usize = 65_000;

/// Asked for on the receiving side, so that a pause of its thread is no loss.
const BUFFER: usize = 4 << 20;

/// Silence after which nothing more is on its way.
const SILENCE: Duration = Duration::from_millis(100);

/// Longest wait for what is still on its way.
const DRAIN: Duration = Duration::from_secs(2);

/// How the sender hands datagrams to its kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// `sendmmsg`, each datagram a message.
    OneByOne,
    /// UDP_SEGMENT, many datagrams in one buffer.
    Segmented,
}

/// A client's socket, connected to a server's.
///
/// # Errors
///
/// If they cannot be had.
pub(crate) fn pair(ends: Ends<'_>) -> Result<(UdpSocket, UdpSocket)> {
    let bind = |space: &Space, address: IpAddr| -> Result<UdpSocket> {
        Ok(space.run(|| UdpSocket::bind(SocketAddr::new(address, 0)))??)
    };
    let far = bind(ends.server, ends.address)?;
    let near = bind(ends.client, Ipv4Addr::UNSPECIFIED.into())?;
    near.connect(far.local_addr()?)?;
    Ok((near, far))
}

/// What came, of the right size.
#[derive(Clone, Copy, Debug, Default)]
struct Received {
    in_time: u64,
    total: u64,
}

/// Sends datagrams of one size for a while.
///
/// # Errors
///
/// If a socket fails, nothing arrives, or something of another size.
pub(crate) fn run(ends: Ends<'_>, size: usize, how: How, length: Duration) -> Result<Vec<Figure>> {
    let (near, far) = pair(ends)?;
    far.set_read_timeout(Some(SILENCE))?;
    SockRef::from(&far).set_recv_buffer_size(BUFFER)?;
    let start = Start::new(3, length);
    let (sent, received, cpu) = thread::scope(|scope| -> Result<_> {
        let sender = scope.spawn(|| match how {
            How::OneByOne => send(&near, size, &start),
            How::Segmented => send_runs(&near, size, &start),
        });
        let receiver = scope.spawn(|| receive(&far, size, &start));
        let clock = CpuClock::start()?;
        start.deadline();
        let (sent, received) = (join(sender)?, join(receiver)?);
        Ok((sent, received, clock.seconds()?))
    })?;
    ensure!(received.in_time > 0, "none of {sent} datagrams arrived");
    ensure!(received.total <= sent, "{} of {sent} datagrams arrived", received.total);
    let lost = 1.0 - received.total as f64 / sent as f64;
    let rate = received.in_time as f64 / length.as_secs_f64() / 1e6;
    Ok(vec![
        Figure::higher("rate", "Mframes/s", rate),
        Figure::lower("cpu", "CPU s/Mframe", cpu / (received.total as f64 / 1e6)),
        Figure::count("loss", "%", lost * 100.0),
    ])
}

/// What a full queue on the way out says, and what passes by itself.
fn is_passing(errno: Errno) -> bool {
    matches!(errno, Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR)
}

fn send(socket: &UdpSocket, size: usize, start: &Start) -> Result<u64> {
    let payload = vec![0x5a; size];
    let slices = [[IoSlice::new(&payload)]; BATCH];
    let addresses = [None::<SockaddrStorage>; BATCH];
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    let (deadline, mut sent) = (start.deadline(), 0);
    while Instant::now() < deadline {
        let flags = MsgFlags::empty();
        match sendmmsg(socket.as_raw_fd(), &mut headers, &slices, addresses, [], flags) {
            Ok(done) => sent += done.count() as u64,
            Err(errno) if is_passing(errno) => {}
            Err(errno) => return Err(errno).context("sendmmsg"),
        }
    }
    Ok(sent)
}

fn send_runs(socket: &UdpSocket, size: usize, start: &Start) -> Result<u64> {
    setsockopt(socket, sockopt::UdpGsoSegment, &i32::try_from(size)?).context("UDP_SEGMENT")?;
    let datagrams = BATCH.min(RUN / size);
    let run = vec![0x5a; size * datagrams];
    let (deadline, mut sent) = (start.deadline(), 0);
    while Instant::now() < deadline {
        match socket.send(&run) {
            Ok(_) => sent += datagrams as u64,
            Err(error) if error.raw_os_error().map(Errno::from_raw).is_some_and(is_passing) => {}
            Err(error) => return Err(error).context("send"),
        }
    }
    Ok(sent)
}

fn receive(socket: &UdpSocket, size: usize, start: &Start) -> Result<Received> {
    // One byte more than expected, so that a datagram too long is seen as such.
    let mut buffers = vec![vec![0; size + 1]; BATCH];
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    let (deadline, mut received) = (start.deadline(), Received::default());
    loop {
        let mut slices: Vec<_> = buffers.iter_mut().map(|b| [IoSliceMut::new(b)]).collect();
        let flags = MsgFlags::MSG_WAITFORONE;
        let result = recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), flags, None);
        let now = Instant::now();
        match result {
            Ok(messages) => {
                for message in messages {
                    ensure!(message.bytes == size, "{} bytes for {size}", message.bytes);
                    received.total += 1;
                    received.in_time += u64::from(now < deadline);
                }
            }
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) if now < deadline => {}
            Err(Errno::EAGAIN) => return Ok(received),
            Err(errno) => return Err(errno).context("recvmmsg"),
        }
        if now > deadline + DRAIN {
            return Ok(received);
        }
    }
}
