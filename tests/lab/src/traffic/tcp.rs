//! TCP streams, both directions at once, every byte compared.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::traffic::pattern;
use crate::world::Space;

/// How long a stream may stand still before it counts as broken.
const PATIENCE: Duration = Duration::from_secs(15);

/// A transfer that arrived whole.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Payload bytes, both directions together.
    pub bytes: u64,
    /// From the first byte to the last.
    pub elapsed: Duration,
    /// Segments that either end sent again.
    pub retransmits: u64,
    /// Those of them that were lost, for all that is known: not what a tail loss probe sent again (RFC
    /// 8985 section 7) and the other end then says it had already (RFC 2883). That was late.
    pub lost: u64,
}

impl Transfer {
    /// Payload bits per second, in thousand millions.
    #[must_use]
    pub fn gigabits(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.elapsed.as_secs_f64() / 1e9
    }
}

/// A client and its server, connected.
///
/// # Errors
///
/// If the connection is not made within fifteen seconds.
pub fn connect(client: &Space, server: &Space, address: IpAddr) -> Result<(TcpStream, TcpStream)> {
    let listener = server.run(|| TcpListener::bind(SocketAddr::new(address, 0)))??;
    let target = listener.local_addr()?;
    let near = client
        .run(|| TcpStream::connect_timeout(&target, PATIENCE))?
        .with_context(|| format!("connect to {target}"))?;
    let (far, _) = listener.accept()?;
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
    }
    Ok((near, far))
}

/// Moves `up` bytes from client to server and `down` bytes back at the same time.
///
/// # Errors
///
/// If the connection breaks or stands still, or a byte is not what was sent.
pub fn transfer(
    client: &Space,
    server: &Space,
    address: IpAddr,
    (up, down): (u64, u64),
) -> Result<Transfer> {
    transfer_watched(client, server, address, (up, down), &Arc::default())
}

/// As [`transfer`], counting checked bytes into `progress` while it runs.
///
/// # Errors
///
/// As [`transfer`].
pub fn transfer_watched(
    client: &Space,
    server: &Space,
    address: IpAddr,
    (up, down): (u64, u64),
    progress: &Arc<AtomicU64>,
) -> Result<Transfer> {
    let before = Again::of([client, server])?;
    let (near, far) = connect(client, server, address)?;
    let begun = Instant::now();
    thread::scope(|scope| {
        let tasks = [
            scope.spawn(|| write(&near, 1, up)),
            scope.spawn(|| write(&far, 2, down)),
            scope.spawn(|| read(&far, 1, up, progress)),
            scope.spawn(|| read(&near, 2, down, progress)),
        ];
        tasks.into_iter().try_for_each(|task| {
            task.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    let elapsed = begun.elapsed();
    let after = Again::of([client, server])?;
    let retransmits = after.segments - before.segments;
    let probes = after.probes - before.probes;
    let late = probes.min(after.duplicates - before.duplicates);
    Ok(Transfer { bytes: up + down, elapsed, retransmits, lost: retransmits.saturating_sub(late) })
}

/// What two ends have sent again so far.
struct Again {
    segments: u64,
    /// Tail loss probes, some of which are new data.
    probes: u64,
    /// What the receiver says it had already.
    duplicates: u64,
}

impl Again {
    fn of(ends: [&Space; 2]) -> Result<Self> {
        let extended = |counter| -> Result<u64> {
            ends.iter().map(|end| end.netstat("TcpExt", counter)).sum()
        };
        Ok(Self {
            segments: ends.iter().map(|end| end.snmp("Tcp", "RetransSegs")).sum::<Result<_>>()?,
            probes: extended("TCPLossProbes")?,
            duplicates: extended("TCPDSACKRecv")?,
        })
    }
}

fn write(mut stream: &TcpStream, seed: u64, mut left: u64) -> Result<()> {
    let block = pattern(seed);
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        stream.write_all(block.get(..length).unwrap_or_default()).context("write")?;
        left -= length as u64;
    }
    stream.shutdown(Shutdown::Write).context("shut down")
}

fn read(mut stream: &TcpStream, seed: u64, expected: u64, progress: &AtomicU64) -> Result<()> {
    let block = pattern(seed);
    let mut buffer = vec![0; 256 * 1024];
    let (mut at, mut total) = (0, 0_u64);
    loop {
        let length =
            stream.read(&mut buffer).with_context(|| format!("read after {total} bytes"))?;
        if length == 0 {
            break;
        }
        let mut got = buffer.get(..length).unwrap_or_default();
        while !got.is_empty() {
            let want = block.get(at..).unwrap_or_default();
            let piece = want.len().min(got.len());
            let (head, rest) = got.split_at(piece);
            if Some(head) != want.get(..piece) {
                bail!("content differs within {piece} bytes after byte {total}");
            }
            (got, at, total) = (rest, (at + piece) % block.len(), total + piece as u64);
        }
        progress.fetch_add(length as u64, Ordering::Relaxed);
    }
    ensure!(total == expected, "the stream ended after {total} of {expected} bytes");
    Ok(())
}
