//! Namespaces of the process's own. What runs in a cell cannot touch the machine's network or
//! mounts, and the kernel removes all of it when the cell's first process ends, even by SIGKILL.
//!
//! `/run` is a fresh tmpfs in a cell, so that names of network namespaces cannot clash with anybody's.

use std::env;
use std::fs;
use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::OnceLock;
use std::thread;

use anyhow::{Context as _, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{getegid, geteuid};
use tapestry::device::netlink::{LinkChange, Netlink};

/// Set for the process inside; holds the directory for its temporary files.
const INSIDE: &str = "TAPESTRY_CELL";

/// Where a process in a cell keeps its temporary files: on the cell's own tmpfs.
const SCRATCH: &str = "/run/scratch";

/// On which side of the wall this process is after [`enter`].
#[derive(Debug)]
pub enum Side {
    /// Outside: the program ran again within a cell and ended with this code.
    Done(ExitCode),
    /// Inside: go on.
    Inside,
}

/// Runs this program once more within a cell, with the same arguments, and waits for it. Call it
/// first in `main`, before any thread is started.
///
/// # Errors
///
/// If the kernel does not let this user make namespaces, with words that say what is missing.
pub fn enter() -> Result<Side> {
    if env::var_os(INSIDE).is_some() {
        settle().context("set the cell up")?;
        return Ok(Side::Inside);
    }
    let wanted = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    let (uid, gid) = (geteuid(), getegid());
    if unshare(wanted).is_err() {
        unshare(wanted | CloneFlags::CLONE_NEWUSER).map_err(|errno| {
            anyhow::anyhow!(
                "no namespaces for this user ({errno}): run as root, or allow user namespaces \
             (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces, \
             kernel.apparmor_restrict_unprivileged_userns=0)"
            )
        })?;
        fs::write("/proc/self/setgroups", "deny").context("/proc/self/setgroups")?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1")).context("/proc/self/uid_map")?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1")).context("/proc/self/gid_map")?;
    }
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("private mounts")?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
        .context("/run")?;
    fs::create_dir(SCRATCH).context(SCRATCH)?;

    // The terminal's signals are for the process inside, which cleans up and ends; this one waits.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    let status = Command::new(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(INSIDE, SCRATCH)
        .env("TMPDIR", SCRATCH)
        .spawn()
        .context("start the process inside")?
        .wait()?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(Side::Done(ExitCode::from(u8::try_from(code).unwrap_or(1))))
}

/// This process's id as the machine sees it: where to find the cell from outside.
static OUTER_PID: OnceLock<String> = OnceLock::new();

/// The id of the process inside, as the machine outside sees it.
#[must_use]
pub fn outer_pid() -> Option<&'static str> {
    OUTER_PID.get().map(String::as_str)
}

/// Whether the cell was made by root, that is, without a user namespace.
#[must_use]
pub fn is_root_outside() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// The first steps inside: die with the parent, see only the cell's own processes, have a loopback.
fn settle() -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let none = None::<&str>;
    if let Ok(pid) = fs::read_link("/proc/self") {
        let _ = OUTER_PID.set(pid.display().to_string());
    }
    // In a container with parts of /proc covered this is refused. Then /proc shows the outer PIDs,
    // which nothing here depends on.
    let _ = mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none);
    let mut netlink = Netlink::open()?;
    let lo = netlink.link_by_name("lo")?;
    netlink.set_link(lo.index, &LinkChange { up: Some(true), ..LinkChange::default() })?;
    Ok(())
}

/// Calls `stop` once on the first SIGINT or SIGTERM; a second one ends the process at once. To be
/// called inside, before other threads start: they inherit the blocked signals.
///
/// # Errors
///
/// If the signals cannot be blocked, or no thread be had.
pub fn on_interrupt(stop: impl FnOnce() + Send + 'static) -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if signals.wait().is_ok() {
            stop();
        }
        if signals.wait().is_ok() {
            std::process::exit(130);
        }
    })?;
    Ok(())
}

/// Spawns a child with no signal blocked, whatever the calling thread blocks.
///
/// # Errors
///
/// Those of [`Command::spawn`].
pub fn spawn_unblocked(command: &mut Command) -> io::Result<std::process::Child> {
    thread::scope(|scope| {
        let body = || {
            SigSet::empty().thread_set_mask()?;
            command.process_group(0).spawn()
        };
        scope.spawn(body).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Whether TAP devices can be made here; the error says what to do where they cannot.
///
/// # Errors
///
/// If `/dev/net/tun` is missing or closed to this user.
pub fn require_tun() -> Result<()> {
    let path = Path::new("/dev/net/tun");
    match fs::File::options().read(true).write(true).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
            "/dev/net/tun is missing: load the module (modprobe tun), or pass the device to this container"
        ),
        Err(error) => bail!(
            "/dev/net/tun cannot be opened ({error}): run as root, or make it accessible \
             (chmod 666 /dev/net/tun, the mode that udev gives it)"
        ),
    }
}
