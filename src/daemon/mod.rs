//! The daemon.

pub(crate) mod clock;
mod plan;
mod ports;
mod state;
mod underlay;
mod worker;

use std::path::Path;

/// Runs the daemon in the foreground until it is told to stop.
///
/// # Errors
/// When the configuration is wrong, or the system refuses what the daemon cannot do without.
pub fn run(_config: &Path, _ephemeral: bool) -> anyhow::Result<()> {
    anyhow::bail!("the daemon is not part of this build")
}

/// Removes everything that a stopped daemon left.
///
/// # Errors
/// When a daemon is still running, or something could not be removed.
pub fn teardown(_config: &Path) -> anyhow::Result<()> {
    anyhow::bail!("the daemon is not part of this build")
}
