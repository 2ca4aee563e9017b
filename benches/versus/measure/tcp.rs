//! Bulk TCP: large writes, large reads, bytes counted where they arrive.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lab::traffic::tcp::connect;

use crate::machine::CpuClock;
use crate::measure::{Ends, Figure, Start, join};
use crate::underlay::CableEnd;

/// Of each write and each read.
const BLOCK: usize = 256 * 1024;

/// How long a blocked read waits before it looks at the clock.
const GLANCE: Duration = Duration::from_millis(50);

/// A connection and the direction its bytes take.
#[derive(Debug)]
pub(crate) struct Stream {
    from: TcpStream,
    to: TcpStream,
}

impl Stream {
    /// Connects, for bytes to the server or back.
    ///
    /// # Errors
    ///
    /// If the connection is not made.
    pub(crate) fn open(ends: Ends<'_>, to_server: bool) -> Result<Self> {
        let (near, far) = connect(ends.client, ends.server, ends.address)?;
        let (from, to) = if to_server { (near, far) } else { (far, near) };
        to.set_read_timeout(Some(GLANCE))?;
        Ok(Self { from, to })
    }

    /// Starts its two threads; the reader's result is the number of bytes that came in time.
    pub(crate) fn go<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        start: &'scope Start,
    ) -> Flow<'scope> {
        Flow {
            writer: scope.spawn(|| write(&self.from, start)),
            reader: scope.spawn(|| self.read(start)),
        }
    }

    /// Threads that wait for the start, per stream.
    pub(crate) const THREADS: usize = 2;

    fn read(&self, start: &Start) -> Result<u64> {
        let mut buffer = vec![0; BLOCK];
        let (deadline, mut total) = (start.deadline(), 0);
        let result = loop {
            if Instant::now() >= deadline {
                break Ok(total);
            }
            match (&self.to).read(&mut buffer) {
                Ok(0) => break Err(anyhow::anyhow!("the stream ended after {total} bytes")),
                Ok(length) => total += length as u64,
                Err(error) if is_wait(error.kind()) => {}
                Err(error) => break Err(error).context("read"),
            }
        };
        // Wakes a writer that waits for room.
        let _ = self.from.shutdown(Shutdown::Both);
        let _ = self.to.shutdown(Shutdown::Both);
        result
    }
}

/// The threads of a stream.
#[derive(Debug)]
pub(crate) struct Flow<'scope> {
    writer: ScopedJoinHandle<'scope, Result<()>>,
    reader: ScopedJoinHandle<'scope, Result<u64>>,
}

impl Flow<'_> {
    /// Bytes that arrived in time.
    ///
    /// # Errors
    ///
    /// If the connection broke before the end.
    pub(crate) fn end(self) -> Result<u64> {
        let read = join(self.reader);
        join(self.writer)?;
        read
    }
}

fn is_wait(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn write(mut stream: &TcpStream, start: &Start) -> Result<()> {
    let block = vec![0x5a; BLOCK];
    let deadline = start.deadline();
    while Instant::now() < deadline {
        match stream.write(&block) {
            Ok(_) => {}
            Err(_) if Instant::now() >= deadline => break,
            Err(error) => return Err(error).context("write"),
        }
    }
    Ok(())
}

/// Streams to the server and back at once.
///
/// # Errors
///
/// If a connection breaks or nothing arrives.
pub(crate) fn run(
    ends: Ends<'_>,
    (up, down): (usize, usize),
    length: Duration,
) -> Result<Vec<Figure>> {
    let streams: Vec<Stream> =
        (0..up + down).map(|n| Stream::open(ends, n < up)).collect::<Result<_>>()?;
    let start = Start::new(streams.len() * Stream::THREADS + 1, length);
    let before = (retransmits(ends)?, lost(ends)?);
    let (bytes, cpu) = thread::scope(|scope| -> Result<_> {
        let flows: Vec<_> = streams.iter().map(|stream| stream.go(scope, &start)).collect();
        let clock = CpuClock::start()?;
        start.deadline();
        let bytes = flows.into_iter().map(Flow::end).sum::<Result<u64>>()?;
        Ok((bytes, clock.seconds()?))
    })?;
    ensure!(bytes > 0, "no byte arrived in {length:?}");
    let (again, lost) = (retransmits(ends)? - before.0, lost(ends)? - before.1);
    Ok(vec![
        Figure::higher("rate", "Gb/s", bytes as f64 * 8.0 / length.as_secs_f64() / 1e9),
        Figure::lower("cpu", "CPU s/GB", cpu / (bytes as f64 / 1e9)),
        Figure::count("retransmits", "segments", again as f64),
        Figure::count("cable_drops", "packets", lost as f64),
    ])
}

/// What the cable has lost so far, both ways.
fn lost(ends: Ends<'_>) -> Result<u64> {
    ends.cable.iter().map(CableEnd::lost).sum()
}

/// What both pods have sent twice so far.
fn retransmits(ends: Ends<'_>) -> Result<u64> {
    Ok(ends.client.snmp("Tcp", "RetransSegs")? + ends.server.snmp("Tcp", "RetransSegs")?)
}
