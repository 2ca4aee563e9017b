//! The machine that measures: what it is, and the CPU time that all of it has spent.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use nix::unistd::{SysconfVar, sysconf};
use serde_json::{Value, json};

/// Counts the CPU time of the whole machine: much of a data path runs in soft interrupts, which are
/// on nobody's account.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuClock(f64);

impl CpuClock {
    /// Starts counting.
    ///
    /// # Errors
    ///
    /// If `/proc/stat` cannot be read.
    pub(crate) fn start() -> Result<Self> {
        busy().map(Self)
    }

    /// CPU seconds since the start, all CPUs together.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub(crate) fn seconds(self) -> Result<f64> {
        Ok((busy()? - self.0).max(0.0))
    }
}

/// Where a namespace says which congestion control its TCP connections begin with.
pub(crate) const CONGESTION: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// What a namespace begins with that nobody has told otherwise.
pub(crate) fn congestion() -> String {
    fs::read_to_string(CONGESTION).map_or_else(|_| "?".to_owned(), |name| name.trim().to_owned())
}

/// Seconds spent on anything but waiting.
fn busy() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let line = text.lines().next().and_then(|line| line.strip_prefix("cpu ")).context("no cpu")?;
    let ticks: Vec<f64> =
        line.split_whitespace().map(str::parse).collect::<Result<_, _>>().context("/proc/stat")?;
    // user nice system idle iowait irq softirq; steal belongs to other machines, guest is in user.
    let [user, nice, system, _, _, irq, soft, ..] = ticks.as_slice() else {
        anyhow::bail!("/proc/stat: {line}");
    };
    let hertz = sysconf(SysconfVar::CLK_TCK)?.context("no clock")?;
    ensure!(hertz > 0, "no clock");
    Ok((user + nice + system + irq + soft) / hertz as f64)
}

/// Processor, memory, kernel and date.
pub(crate) fn describe() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    let cpus = read("/proc/cpuinfo");
    json!({
        "cpu": field(&cpus, "model name"),
        "cpus": cpus.lines().filter(|line| line.starts_with("processor")).count(),
        "memory": field(&read("/proc/meminfo"), "MemTotal"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "hypervisor": cpus.contains(" hypervisor"),
    })
}

/// The day and time, UTC, as RFC 3339 has it.
pub(crate) fn date() -> String {
    let seconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The Gregorian date of a day after 1970-01-01 (the era arithmetic of Howard Hinnant's `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day_of_year - (153 * from_march + 2) / 5 + 1)
}
