//! Round trips: one message there, the same back, one at a time.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use lab::traffic::tcp::connect;

use crate::machine::CpuClock;
use crate::measure::tcp::{Flow, Stream};
use crate::measure::{Ends, Figure, Over, Start, join, udp};
use crate::stats::quantile;

/// Bytes of a message.
const MESSAGE: usize = 64;

/// After which a datagram counts as lost.
const LOST: Duration = Duration::from_millis(200);

/// What a client saw.
#[derive(Debug, Default)]
struct Trips {
    /// Each round trip, in microseconds.
    times: Vec<f64>,
    lost: u64,
}

/// Measures round trips, with a bulk TCP stream to the server beside them if `loaded`.
///
/// # Errors
///
/// If a connection breaks or not one message comes back.
pub(crate) fn run(
    ends: Ends<'_>,
    over: Over,
    loaded: bool,
    length: Duration,
) -> Result<Vec<Figure>> {
    let load = loaded.then(|| Stream::open(ends, true)).transpose()?;
    let bulk = if loaded { Stream::THREADS } else { 0 };
    let start = Start::new(bulk + 2, length);
    let start = &start;
    let (trips, cpu) = thread::scope(|scope| -> Result<_> {
        let pinger = match over {
            Over::Tcp => {
                let (near, far) = connect(ends.client, ends.server, ends.address)?;
                near.set_nodelay(true)?;
                far.set_nodelay(true)?;
                scope.spawn(move || ping_tcp(near, far, start))
            }
            Over::Udp => {
                let (near, far) = udp::pair(ends)?;
                near.set_read_timeout(Some(LOST))?;
                far.set_read_timeout(Some(LOST))?;
                scope.spawn(move || ping_udp(&near, &far, start))
            }
        };
        let flow = load.as_ref().map(|stream| stream.go(scope, start));
        let clock = CpuClock::start()?;
        start.deadline();
        let trips = join(pinger)?;
        flow.map(Flow::end).transpose()?;
        Ok((trips, clock.seconds()?))
    })?;
    figures(trips, cpu, loaded)
}

fn figures(mut trips: Trips, cpu: f64, loaded: bool) -> Result<Vec<Figure>> {
    ensure!(!trips.times.is_empty(), "no message came back ({} lost)", trips.lost);
    trips.times.sort_by(f64::total_cmp);
    let at = |share| quantile(&trips.times, share);
    let mut figures = vec![
        Figure::lower("p50", "us", at(0.5)),
        Figure::lower("p99", "us", at(0.99)),
        Figure::lower("p99.9", "us", at(0.999)),
        Figure::count("lost", "messages", trips.lost as f64),
    ];
    if !loaded {
        // Beside a bulk stream most of it would be the stream's.
        figures.push(Figure::lower("cpu", "CPU s/Mtrip", cpu / trips.times.len() as f64 * 1e6));
    }
    Ok(figures)
}

fn microseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}

fn ping_tcp(mut near: TcpStream, mut far: TcpStream, start: &Start) -> Result<Trips> {
    thread::scope(|scope| {
        let echo = scope.spawn(move || -> Result<()> {
            let mut message = [0; MESSAGE];
            loop {
                match far.read_exact(&mut message) {
                    Ok(()) => far.write_all(&message).context("echo")?,
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
                    Err(error) => return Err(error).context("the echo's read"),
                }
            }
        });
        let mut trips = Trips::default();
        let mut message = [0x5a; MESSAGE];
        let deadline = start.deadline();
        let mut trip = || -> Result<f64> {
            let begun = Instant::now();
            near.write_all(&message).context("write")?;
            near.read_exact(&mut message).context("read")?;
            Ok(microseconds(begun))
        };
        let mut result = Ok(());
        while result.is_ok() && Instant::now() < deadline {
            result = trip().map(|time| trips.times.push(time));
        }
        near.shutdown(Shutdown::Write)?;
        result?;
        join(echo)?;
        Ok(trips)
    })
}

fn ping_udp(near: &UdpSocket, far: &UdpSocket, start: &Start) -> Result<Trips> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let echo = scope.spawn(|| -> Result<()> {
            let mut message = [0; MESSAGE + 1];
            while !done.load(Ordering::Relaxed) {
                match far.recv_from(&mut message) {
                    Ok((0, _)) => {}
                    Ok((length, from)) => {
                        let got = message.get(..length).unwrap_or_default();
                        far.send_to(got, from).context("echo")?;
                    }
                    Err(error) if is_silence(&error) => {}
                    Err(error) => return Err(error).context("the echo's receive"),
                }
            }
            Ok(())
        });
        let deadline = start.deadline();
        let mut result = Ok(Trips::default());
        for number in 0_u64.. {
            let Ok(trips) = &mut result else { break };
            if Instant::now() >= deadline {
                break;
            }
            match trip_udp(near, number) {
                Ok(Some(time)) => trips.times.push(time),
                Ok(None) => trips.lost += 1,
                Err(error) => result = Err(error),
            }
        }
        done.store(true, Ordering::Relaxed);
        // An empty message wakes the echo; if it is lost, its timeout does.
        let _ = near.send(&[]);
        join(echo)?;
        result
    })
}

fn is_silence(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// One numbered message and its answer; answers to those given up before are passed over.
fn trip_udp(socket: &UdpSocket, number: u64) -> Result<Option<f64>> {
    let mut message = [0x5a; MESSAGE];
    let (head, _) = message.split_first_chunk_mut().context("a short message")?;
    *head = number.to_le_bytes();
    let begun = Instant::now();
    socket.send(&message).context("send")?;
    let mut answer = [0; MESSAGE + 1];
    while begun.elapsed() < LOST {
        match socket.recv(&mut answer) {
            Ok(MESSAGE) if answer.starts_with(&message) => return Ok(Some(microseconds(begun))),
            Ok(MESSAGE) => {}
            Ok(length) => bail!("{length} bytes came back for {MESSAGE}"),
            Err(error) if is_silence(&error) => return Ok(None),
            Err(error) => return Err(error).context("receive"),
        }
    }
    Ok(None)
}
