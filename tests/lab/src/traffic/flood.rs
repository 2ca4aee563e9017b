//! Small units as fast as one thread can send them, from a thread that takes no processor from
//! anybody: what is measured beside it is the switch's queueing, not the scheduler's.

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};

use crate::tool;
use crate::traffic::frames;
use crate::world::Space;

/// Units of one system call.
const BATCH: usize = 64;

/// A flood that goes on until it is ended or dropped.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Flood {
    /// Sends this frame again and again through a packet socket on a device.
    ///
    /// # Errors
    ///
    /// If there is no such device, or no thread to be had.
    pub fn of_frames(space: &Space, device: &str, frame: Vec<u8>) -> Result<Self> {
        Self::start(frames::sender(space, device)?, frame)
    }

    /// Sends this datagram again and again.
    ///
    /// # Errors
    ///
    /// If there is no socket or thread to be had.
    pub fn of_datagrams(space: &Space, to: SocketAddr, datagram: Vec<u8>) -> Result<Self> {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = space.run(|| {
            let socket = UdpSocket::bind(any)?;
            socket.connect(to).map(|()| socket)
        })??;
        Self::start(socket.into(), datagram)
    }

    fn start(socket: OwnedFd, unit: Vec<u8>) -> Result<Self> {
        let (stop, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let body = move || {
            let thread = nix::unistd::gettid().to_string();
            tool::run(tool::command("chrt").args(["--idle", "--pid", "0", &thread]))?;
            pour(&socket, &unit, &stopped, &count)
        };
        let thread = std::thread::Builder::new().name("flood".to_owned()).spawn(body)?;
        Ok(Self { stop, sent, thread: Some(thread) })
    }

    /// How many units have been sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it. Returns how many units were sent.
    ///
    /// # Errors
    ///
    /// If it ended before.
    pub fn end(mut self) -> Result<u64> {
        self.halt()?;
        Ok(self.sent())
    }

    fn halt(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Whoever only drops it has an error of its own to tell.
            drop(thread.join());
        }
    }
}

fn pour(socket: &OwnedFd, unit: &[u8], stop: &AtomicBool, sent: &AtomicU64) -> Result<()> {
    let slices = [[IoSlice::new(unit)]; BATCH];
    let addresses = [None::<SockaddrStorage>; BATCH];
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    while !stop.load(Ordering::Relaxed) {
        let flags = MsgFlags::empty();
        match sendmmsg(socket.as_raw_fd(), &mut headers, &slices, addresses, [], flags) {
            Ok(done) => {
                sent.fetch_add(done.count() as u64, Ordering::Relaxed);
            }
            // A full queue on the way out, and what a datagram before this one met with.
            Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => {}
            Err(errno) => return Err(errno).context("flood"),
        }
    }
    Ok(())
}
