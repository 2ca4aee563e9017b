//! A running `tapestry`, its command line, and the rules every run must keep.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::config::Config;
use crate::tool::{Background, eventually};
use crate::world::Space;

/// How long a start may take. Ports in twenty namespaces on a busy machine are made in less.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// How long an end may take.
const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// How a program is started as a daemon: `tapestry` itself, or something that calls its library.
#[derive(Clone, Debug)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// Arguments in front of `run --config …`.
    pub first: Vec<String>,
}

impl Program {
    /// An executable that needs no arguments in front.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), first: Vec::new() }
    }
}

/// A daemon in a namespace. Dropping it kills it, without another word.
#[derive(Debug)]
pub struct Daemon {
    program: Program,
    space: Space,
    dir: TempDir,
    process: Option<Background>,
    notify: UnixDatagram,
    flags: Vec<String>,
    allowed: Vec<String>,
}

impl Daemon {
    /// Writes a config, starts the daemon and waits until it says READY.
    ///
    /// # Errors
    ///
    /// If it ends or stays silent instead; the error holds its log.
    pub fn start(program: &Program, space: &Space, config: &Config) -> Result<Self> {
        let mut daemon = Self::prepare(program, space)?;
        daemon.configure(config)?;
        daemon.launch()?;
        Ok(daemon)
    }

    /// All that a daemon needs, but not started, and without a config.
    ///
    /// # Errors
    ///
    /// If the directory or the notification socket cannot be made.
    pub fn prepare(program: &Program, space: &Space) -> Result<Self> {
        let dir = TempDir::with_prefix("tapestry-")?;
        let notify = UnixDatagram::bind(dir.path().join("notify"))?;
        notify.set_read_timeout(Some(Duration::from_millis(100)))?;
        let (program, space) = (program.clone(), space.clone());
        Ok(Self {
            program,
            space,
            dir,
            process: None,
            notify,
            flags: Vec::new(),
            allowed: Vec::new(),
        })
    }

    /// The path of its control socket.
    #[must_use]
    pub fn socket(&self) -> String {
        self.beside("tapestry.sock")
    }

    /// The path of a file in its directory.
    #[must_use]
    pub fn beside(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// The path of its config.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("tapestry.toml")
    }

    /// The namespace it runs in.
    #[must_use]
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// A config with this daemon's own places in it, as text.
    #[must_use]
    pub fn text_of(&self, config: &Config) -> String {
        config.toml(&self.socket(), &self.dir.path().join("state").display().to_string())
    }

    /// Replaces the config file by this config.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn configure(&self, config: &Config) -> Result<()> {
        self.write_config(&self.text_of(config))
    }

    /// Replaces the config file.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn write_config(&self, text: &str) -> Result<()> {
        fs::write(self.config_path(), text).context("write the config")
    }

    /// Permits WARN and ERROR lines that contain one of these texts.
    pub fn allow(&mut self, texts: &[&str]) {
        self.allowed.extend(texts.iter().map(|text| (*text).to_owned()));
    }

    /// Has every later launch carry this flag, for instance `--ephemeral`.
    pub fn flag(&mut self, flag: &str) {
        self.flags.push(flag.to_owned());
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program.path);
        command.args(&self.program.first);
        command.env("TAPESTRY_SOCKET", self.socket());
        command.env("NO_COLOR", "1").env("RUST_BACKTRACE", "1");
        command
    }

    /// Starts the daemon and waits until it says READY. Returns how long that took.
    ///
    /// # Errors
    ///
    /// If it ends or stays silent instead; the error holds its log.
    pub fn launch(&mut self) -> Result<Duration> {
        match self.launch_within(START_PATIENCE)? {
            Some(took) => Ok(took),
            None => bail!("{}: no READY: {}", self.space.name(), self.log()),
        }
    }

    /// Starts the daemon and waits for its READY no longer than `patience`. Returns when it came.
    ///
    /// # Errors
    ///
    /// If it ends instead; the error holds its log.
    pub fn launch_within(&mut self, patience: Duration) -> Result<Option<Duration>> {
        fs::create_dir_all(self.dir.path().join("state"))?;
        self.notify.set_nonblocking(true)?;
        while self.notify.recv(&mut [0; 4096]).is_ok() {}
        self.notify.set_nonblocking(false)?;
        let begun = Instant::now();
        let mut command = self.command();
        command.arg("run").arg("--config").arg(self.config_path()).args(&self.flags);
        command.env("NOTIFY_SOCKET", self.dir.path().join("notify"));
        let dir = self.dir.path().to_owned();
        let process = self.space.run(|| Background::start(&mut command, &dir, "daemon"))??;
        self.process = Some(process);
        loop {
            if self.heard("READY=1") {
                return Ok(Some(begun.elapsed()));
            }
            let running = self.process.as_mut().is_some_and(|p| p.is_running().unwrap_or(false));
            if !running {
                bail!("{}: no READY: {}", self.space.name(), self.log());
            }
            if begun.elapsed() > patience {
                return Ok(None);
            }
        }
    }

    /// Reads one notification, if there is one within 100 ms.
    fn heard(&self, word: &str) -> bool {
        let mut buffer = [0; 4096];
        let Ok(length) = self.notify.recv(&mut buffer) else { return false };
        String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).lines().any(|l| l == word)
    }

    /// Its process id.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn pid(&self) -> Result<i32> {
        Ok(self.process.as_ref().context("not running")?.pid())
    }

    /// What it has logged, of all its runs.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.dir.path().join("daemon.log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Stops its threads where they are; they go on with SIGCONT, see [`Self::thaw`].
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn freeze(&self) -> Result<()> {
        self.process.as_ref().context("not running")?.freeze()
    }

    /// Ends [`Self::freeze`].
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn thaw(&self) -> Result<()> {
        self.process.as_ref().context("not running")?.signal(Signal::SIGCONT)
    }

    /// Kills it as a crash would: no last word.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("not running")?;
        process.signal(Signal::SIGKILL)?;
        process.wait(STOP_PATIENCE)?;
        Ok(())
    }

    /// Stops it as systemd would.
    ///
    /// # Errors
    ///
    /// If it does not run, does not end, or ends with anything but success.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("not running")?;
        process.signal(Signal::SIGTERM)?;
        let status = process.wait(STOP_PATIENCE).with_context(|| self.log())?;
        ensure!(status.success(), "{}: stopped with {status}: {}", self.space.name(), self.log());
        Ok(())
    }

    /// Runs a command line against this daemon.
    ///
    /// # Errors
    ///
    /// If the program cannot be started.
    pub fn output<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Output> {
        let mut command = self.command();
        command.args(arguments).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(self.space.spawn_process(&mut command)?.wait_with_output()?)
    }

    /// Runs a command line that must succeed; returns what it prints.
    ///
    /// # Errors
    ///
    /// If it does not succeed: with its words.
    pub fn cli(&self, line: &str) -> Result<String> {
        let Output { status, stdout, stderr } =
            self.output(&line.split_whitespace().collect::<Vec<_>>())?;
        if !status.success() {
            bail!("tapestry {line}: {status}: {}", String::from_utf8_lossy(&stderr).trim());
        }
        Ok(String::from_utf8(stdout)?)
    }

    /// Runs a command line with `--json` that must succeed; returns the document.
    ///
    /// # Errors
    ///
    /// If it does not succeed, or prints anything but one document.
    pub fn json(&self, line: &str) -> Result<Value> {
        let text = self.cli(&format!("{line} --json"))?;
        serde_json::from_str(&text).with_context(|| format!("tapestry {line} --json: {text}"))
    }

    /// Runs a command line that must be refused; returns its exit code and what it says on stderr.
    ///
    /// # Errors
    ///
    /// If it succeeds, or dies of a signal.
    pub fn refusal(&self, line: &str) -> Result<(i32, String)> {
        let output = self.output(&line.split_whitespace().collect::<Vec<_>>())?;
        let code = output.status.code().context("killed")?;
        ensure!(code != 0, "tapestry {line}: succeeded");
        Ok((code, String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    /// Runs `tapestry run` as a further process in the same namespace, which must end by itself.
    ///
    /// # Errors
    ///
    /// If it goes on running.
    pub fn rival(&self, config: &Path) -> Result<(ExitStatus, String)> {
        let mut command = self.command();
        command.arg("run").arg("--config").arg(config);
        let dir = self.dir.path().to_owned();
        let mut process = self.space.run(|| Background::start(&mut command, &dir, "rival"))??;
        let status = process.wait(START_PATIENCE)?;
        Ok((status, process.said()))
    }

    /// How often a reason was counted, over all ports and peers.
    ///
    /// # Errors
    ///
    /// If the daemon cannot be asked.
    pub fn drops(&self, reason: &str) -> Result<u64> {
        let rows = self.json("drops --all")?;
        let rows = rows.as_array().context("drops: no list")?;
        let matching: Vec<_> = rows.iter().filter(|row| row["reason"] == reason).collect();
        ensure!(!matching.is_empty(), "there is no drop reason `{reason}`");
        Ok(matching.iter().filter_map(|row| row["count"].as_u64()).sum())
    }

    /// Holds the daemon to its rules at the end of a test: it lives, the counting law holds, and
    /// its log has no WARN or ERROR line that was not allowed.
    ///
    /// # Errors
    ///
    /// With what it did.
    pub fn assert_sound(&mut self) -> Result<()> {
        let process = self.process.as_mut().context("not running")?;
        ensure!(process.is_running()?, "the daemon has ended: {}", self.log());
        self.assert_counting_law()?;
        self.assert_quiet_log()
    }

    /// received = forwarded + answered + dropped. Counters move while they are read: the law
    /// must hold within two seconds of the traffic's end.
    ///
    /// # Errors
    ///
    /// With the totals that break it.
    pub fn assert_counting_law(&self) -> Result<()> {
        let mut seen = Value::Null;
        let held = eventually(Duration::from_secs(2), "the counting law", || {
            seen = self.json("status")?["totals"].take();
            let count = |name: &str| {
                seen[name].as_u64().with_context(|| format!("status has no totals.{name}: {seen}"))
            };
            let sum = count("forwarded")? + count("answered")? + count("dropped")?;
            Ok(count("received")? == sum)
        });
        held.with_context(|| format!("{}: {seen}", self.space.name()))
    }

    /// No WARN or ERROR line that was not allowed.
    ///
    /// # Errors
    ///
    /// With the lines.
    pub fn assert_quiet_log(&self) -> Result<()> {
        let log = self.log();
        let loud = |line: &&str| {
            line.contains("WARN") || line.contains("ERROR") || line.contains("panicked")
        };
        let allowed = |line: &&str| self.allowed.iter().any(|text| line.contains(text.as_str()));
        let bad: Vec<_> = log.lines().filter(loud).filter(|line| !allowed(line)).collect();
        ensure!(bad.is_empty(), "{}: the log says\n{}", self.space.name(), bad.join("\n"));
        Ok(())
    }
}
