//! One busy port or peer, and those beside it.
//!
//! A bound on a time is only kept where somebody keeps time: the quiet and the loaded rounds
//! alternate, each is short, and what counts is the median of their ratios.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lab::overlay::{Overlay, Plan, Pod, VNI};
use lab::tool::eventually;
use lab::traffic::flood::Flood;
use lab::traffic::frames::{BROADCAST, EXPERIMENTAL, frame};
use lab::traffic::ping;

use crate::common::{mac_of, start};

/// Rounds that count, an odd number, so that there is a median; and how many are tried, since one
/// in which the flood got no processor to speak of shows nothing.
const ROUNDS: usize = 5;
const TRIES: usize = 15;
const PINGS: u16 = 1000;
const PATIENCE: Duration = Duration::from_secs(10);

/// Frames per second that make a flood.
const RATE_MIN: f64 = 20_000.0;

/// The p99 of a ping beside a flood is at most so many times its quiet value; in a debug build, in
/// which a frame costs several times as much and a wake-up does not, twice as many.
const RATIO_MAX: f64 = if cfg!(debug_assertions) { 10.0 } else { 5.0 };

#[derive(Clone, Copy, Debug)]
struct Round {
    ratio: f64,
    quiet: Duration,
    rate: f64,
}

pub(crate) fn a_flooding_port_does_not_starve_another() -> Result<()> {
    let mut overlay = start(&Plan { nodes: 1, strangers: 1, pods: 4, ..Plan::default() })?;
    let pods = overlay.pods[0].clone();
    let [busy, sink, a, b] = [&pods[0], &pods[1], &pods[2], &pods[3]];
    let unit = frame(octets(&mac_of(sink)?)?, octets(&mac_of(busy)?)?, EXPERIMENTAL, b"flood");
    let flood = || Flood::of_frames(&busy.space, "eth0", unit.clone());
    beside("a flooding port", &overlay, &flood, a, b)?;
    overlay.assert_sound()
}

pub(crate) fn a_flooding_peer_does_not_starve_the_ports() -> Result<()> {
    let mut overlay = start(&Plan { nodes: 1, strangers: 1, pods: 3, ..Plan::default() })?;
    let pods = overlay.pods[0].clone();
    let [sink, a, b] = [&pods[0], &pods[1], &pods[2]];
    let peer = &overlay.nodes[1];
    let inner = frame(octets(&mac_of(sink)?)?, [2, 0xbe, 0xef, 0, 0, 1], EXPERIMENTAL, b"flood");
    let vni = VNI.to_be_bytes();
    let header = [8, 0, 0, 0, vni[1], vni[2], vni[3], 0];
    let datagram = [&header[..], &inner].concat();
    let to = SocketAddr::new(overlay.nodes[0].v4.into(), 4789);
    let flood = || Flood::of_datagrams(&peer.space, to, datagram.clone());
    beside("a flooding peer", &overlay, &flood, a, b)?;
    overlay.assert_sound()
}

/// A broadcast costs as many writes as there are ports: the dearest flood there is.
pub(crate) fn a_port_that_floods_everybody_does_not_starve_another() -> Result<()> {
    let mut overlay = start(&Plan { nodes: 1, strangers: 1, pods: 8, ..Plan::default() })?;
    let pods = overlay.pods[0].clone();
    let [busy, a, b] = [&pods[0], &pods[1], &pods[2]];
    let unit = frame(BROADCAST, octets(&mac_of(busy)?)?, EXPERIMENTAL, b"flood");
    // It goes to the peer as well, who is to have an ear for it.
    let peer = &overlay.nodes[1];
    let _ear = peer.space.run(|| UdpSocket::bind(SocketAddr::new(peer.v4.into(), 4789)))??;
    let flood = || Flood::of_frames(&busy.space, "eth0", unit.clone());
    beside("a port that floods everybody", &overlay, &flood, a, b)?;
    overlay.assert_sound()
}

fn beside(
    what: &str,
    overlay: &Overlay,
    flood: &dyn Fn() -> Result<Flood>,
    a: &Pod,
    b: &Pod,
) -> Result<()> {
    let to = b.hosts()[0];
    ping::ping(&a.space, to, 100, 56)?;
    let mut rounds = Vec::new();
    for _ in 0..TRIES {
        let quiet = p99(a, to)?;
        let flood = flood()?;
        eventually(PATIENCE, "the flood begins", || Ok(flood.sent() >= 1000))?;
        let (before, begun) = (received(overlay)?, Instant::now());
        let loaded = p99(a, to)?;
        let passed = received(overlay)? - before;
        let rate = passed as f64 / begun.elapsed().as_secs_f64();
        flood.end()?;
        if rate >= RATE_MIN {
            rounds.push(Round { ratio: loaded.as_secs_f64() / quiet.as_secs_f64(), quiet, rate });
        }
        if rounds.len() == ROUNDS {
            break;
        }
    }
    ensure!(rounds.len() == ROUNDS, "{what}: the flood was none: {rounds:?}");
    rounds.sort_by(|x, y| x.ratio.total_cmp(&y.ratio));
    let (least, middle, most) = (rounds[0], rounds[ROUNDS / 2], rounds[ROUNDS - 1]);
    eprintln!(
        "{what}, {:.0} frames/s: p99 of a ping is {:.1} times the quiet {:.0?} ({:.1} to {:.1})",
        middle.rate, middle.ratio, middle.quiet, least.ratio, most.ratio
    );
    ensure!(middle.ratio <= RATIO_MAX, "{what}: {rounds:?}");
    Ok(())
}

fn received(overlay: &Overlay) -> Result<u64> {
    let status = overlay.daemons[0].json("status")?;
    status["totals"]["received"].as_u64().context("totals.received")
}

fn p99(from: &Pod, to: IpAddr) -> Result<Duration> {
    let mut times = ping::ping(&from.space, to, PINGS, 56)?;
    times.sort_unstable();
    times.get(times.len() * 99 / 100).copied().context("no ping")
}

fn octets(mac: &str) -> Result<[u8; 6]> {
    Ok(mac.parse::<encap::MacAddr>()?.0)
}
