//! What the modules share.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};
use lab::daemon::{Daemon, Program};
use lab::overlay::{Overlay, Plan, Pod};
use lab::traffic::{ping, tcp, udp};
use serde_json::Value;

/// The daemon under test.
pub(crate) fn tapestry() -> Program {
    Program::new(env!("CARGO_BIN_EXE_tapestry"))
}

pub(crate) fn start(plan: &Plan) -> Result<Overlay> {
    Overlay::start(&tapestry(), plan)
}

/// Sizes around every edge: empty, odd, the MTU over IPv4 and IPv6, fragments of the pods' own.
const DATAGRAMS: &[usize] = &[0, 1, 31, 512, 1402, 1422, 1423, 3000, 9001];

/// Ping, UDP, segmented UDP and TCP between two pods, over IPv4 and IPv6, content compared. Returns
/// how many TCP segments were lost.
pub(crate) fn exchange(a: &Pod, b: &Pod, megabytes: u64) -> Result<u64> {
    let mut lost = 0;
    for host in b.hosts() {
        let what = |what: &str| format!("{what} from {} to {host}", a.space.name());
        ping::ping(&a.space, host, 3, 56).with_context(|| what("ping"))?;
        ping::ping(&a.space, host, 1, 4000).with_context(|| what("ping in fragments"))?;
        udp::echo(&a.space, &b.space, host, DATAGRAMS).with_context(|| what("UDP"))?;
        for (size, count, tail) in [(400, 40, 7), (1350, 44, 0), (64, 60, 1)] {
            udp::segmented(&a.space, &b.space, host, size, count, tail)
                .with_context(|| what("segmented UDP"))?;
        }
        let bytes = megabytes * 1_000_000;
        let moved =
            tcp::transfer(&a.space, &b.space, host, (bytes, bytes)).with_context(|| what("TCP"))?;
        lost += moved.lost;
    }
    Ok(lost)
}

/// [`exchange`] on a path that loses nothing. A machine that does not get round to a process for a while
/// makes TCP probe for a loss that never was (RFC 8985 section 7); the other end says so, but perhaps
/// only after the last byte, so one of three tries has to be without. A path that does lose fails all
/// of them.
pub(crate) fn exchange_cleanly(a: &Pod, b: &Pod, megabytes: u64) -> Result<()> {
    let mut lost = 0;
    for _ in 0..3 {
        lost = exchange(a, b, megabytes)?;
        if lost == 0 {
            return Ok(());
        }
    }
    bail!("{lost} segments lost on a clean path, and some in each of three tries")
}

/// A quick sign that two pods still reach each other.
pub(crate) fn still_forwarding(a: &Pod, b: &Pod) -> Result<()> {
    b.hosts().into_iter().try_for_each(|host| ping::ping(&a.space, host, 1, 56).map(|_| ()))
}

/// The rows of a list command.
pub(crate) fn rows(daemon: &Daemon, line: &str) -> Result<Vec<Value>> {
    let value = daemon.json(line)?;
    Ok(value.as_array().with_context(|| format!("{line}: {value} is no list"))?.clone())
}

/// The row whose `key` has this value.
pub(crate) fn row(daemon: &Daemon, line: &str, key: &str, value: &str) -> Result<Value> {
    let rows = rows(daemon, line)?;
    let found = rows.iter().find(|row| row[key] == value).cloned();
    found.with_context(|| format!("{line}: no row with {key} {value} in {rows:?}"))
}

/// The MAC addresses that a daemon's FDB knows.
pub(crate) fn known(daemon: &Daemon) -> Result<BTreeSet<String>> {
    Ok(rows(daemon, "fdb list")?
        .iter()
        .filter_map(|r| r["mac"].as_str())
        .map(str::to_owned)
        .collect())
}

/// The MAC address of a pod's device, as the command line writes it.
pub(crate) fn mac_of(pod: &Pod) -> Result<String> {
    Ok(pod.space.link("eth0")?.mac.context("no MAC")?.to_string())
}

/// Asserts that a list holds exactly these values of a key, in any order.
pub(crate) fn ensure_same(what: &str, got: &[Value], key: &str, want: &[&str]) -> Result<()> {
    let got: BTreeSet<&str> = got.iter().filter_map(|row| row[key].as_str()).collect();
    let want: BTreeSet<&str> = want.iter().copied().collect();
    ensure!(got == want, "{what}: {got:?}, not {want:?}");
    Ok(())
}

/// User and system ticks of a process (proc(5), stat).
pub(crate) fn ticks(pid: i32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(") ").next().context("stat")?.split(' ').collect();
    let [user, system] =
        [11, 12].map(|at| fields.get(at).and_then(|text| text.parse::<u64>().ok()));
    Ok(user.context("utime")? + system.context("stime")?)
}
