//! Other people's programs: run to the end, or in the background with what they say kept.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::cell;

/// Whether a program can be found in PATH or in the administrator's directories.
#[must_use]
pub fn exists(program: &str) -> bool {
    find(program).is_some()
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(extra)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}

/// A command for a program, wherever it is.
#[must_use]
pub fn command(program: &str) -> Command {
    Command::new(find(program).unwrap_or_else(|| PathBuf::from(program)))
}

/// Runs a program to its end and returns what it printed.
///
/// # Errors
///
/// If it cannot be started, or ends with anything but success: with its words.
pub fn run(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().with_context(|| format!("start {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}: {}", String::from_utf8_lossy(&stderr).trim());
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// A program in the background; killed when dropped.
#[derive(Debug)]
pub struct Background {
    child: Child,
    said: PathBuf,
}

impl Background {
    /// Starts it, with both of its outputs in a file of `dir`.
    ///
    /// # Errors
    ///
    /// If the file or the process cannot be made.
    pub fn start(command: &mut Command, dir: &Path, name: &str) -> Result<Self> {
        let said = dir.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&said)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = cell::spawn_unblocked(command).with_context(|| format!("start {command:?}"))?;
        Ok(Self { child, said })
    }

    /// What it has printed so far.
    #[must_use]
    pub fn said(&self) -> String {
        std::fs::read(&self.said)
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .unwrap_or_default()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Whether it still runs.
    ///
    /// # Errors
    ///
    /// Those of waitpid.
    pub fn is_running(&mut self) -> io::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// If it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.pid()), signal).context("kill")
    }

    /// Stops it (SIGSTOP), and returns when its last thread stands still: the signal alone says
    /// nothing of when.
    ///
    /// # Errors
    ///
    /// If it is gone, or ends instead.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)?;
        let whose = Id::Pid(Pid::from_raw(self.pid()));
        // Also of its end, which is left for `wait` to see.
        let what = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        match waitid(whose, what).context("waitid")? {
            WaitStatus::Stopped(..) => Ok(()),
            other => bail!("it does not stop: {other:?}"),
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// If it still runs after `patience`.
    pub fn wait(&mut self, patience: Duration) -> Result<std::process::ExitStatus> {
        let mut status = None;
        eventually(patience, "the process ends", || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })?;
        status.context("no status")
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks again and again until the answer is yes.
///
/// # Errors
///
/// If it is still no after `patience`; an error of `is_so` ends the asking.
pub fn eventually(
    patience: Duration,
    what: &str,
    mut is_so: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + patience;
    while !is_so()? {
        if Instant::now() > deadline {
            bail!("not within {patience:?}: {what}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
