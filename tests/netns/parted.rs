//! A daemon without any capability, and the helper that has them in its place: how to have them.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lab::cell;
use lab::daemon::{Daemon, Program};
use lab::overlay::{Node, Overlay, Plan};
use lab::tool::{self, Background};
use lab::world::Space;
use nix::sys::signal::Signal;
use nix::unistd::{Uid, chown};
use tempfile::TempDir;

use crate::common::tapestry;

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The daemon's uid, and somebody else's.
pub(crate) const OWNER: u32 = 4711;
pub(crate) const STRANGER: u32 = 4712;

/// Runs `setpriv`, from which the program begins with these capabilities and no others.
pub(crate) fn setpriv(words: &str) -> Program {
    let path = tool::command("setpriv").get_program().into();
    let first =
        format!("{words} --inh-caps=-all --ambient-caps=-all -- {}", tapestry().path.display());
    Program { path, first: first.split(' ').map(str::to_owned).collect() }
}

pub(crate) fn as_uid(uid: u32) -> Program {
    setpriv(&format!("--reuid={uid} --regid={uid} --clear-groups --bounding-set=-all"))
}

/// A running helper, with no more than what its unit has and what it takes to give its socket away.
pub(crate) struct Helper {
    pub(crate) space: Space,
    pub(crate) dir: TempDir,
    pub(crate) process: Background,
}

impl Helper {
    pub(crate) fn start(node: &Node) -> Result<Self> {
        let dir = TempDir::with_prefix("helper-")?;
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
        let process = Self::launch(&node.space, dir.path())?;
        Ok(Self { space: node.space.clone(), dir, process })
    }

    pub(crate) fn launch(space: &Space, dir: &Path) -> Result<Background> {
        let Program { path, first } = setpriv("--bounding-set=-all,+net_admin,+sys_admin,+chown");
        let mut command = Command::new(path);
        command.args(first).arg("helper").arg("--socket").arg(socket_in(dir));
        command.args(["--user", &OWNER.to_string()]).env("NO_COLOR", "1");
        // Where the daemon's socket is says nothing about the helper's.
        command.env("TAPESTRY_SOCKET", "/run/no-such-directory/socket");
        space.run(|| Background::start(&mut command, dir, "helper"))?
    }

    pub(crate) fn socket(&self) -> PathBuf {
        socket_in(self.dir.path())
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGKILL)?;
        self.process.wait(PATIENCE)?;
        Ok(())
    }

    pub(crate) fn relaunch(&mut self) -> Result<()> {
        self.process = Self::launch(&self.space, self.dir.path())?;
        Ok(())
    }

    pub(crate) fn assert_alive(&mut self) -> Result<()> {
        let said = self.process.said();
        ensure!(self.process.is_running()?, "the helper has ended: {said}");
        ensure!(!said.contains("panicked"), "{said}");
        Ok(())
    }
}

pub(crate) fn socket_in(dir: &Path) -> PathBuf {
    dir.join("helper.sock")
}

/// A daemon that is yet to be launched, as `uid` without capabilities, and whose helper is there.
pub(crate) fn daemon_as(uid: u32, space: &Space) -> Result<Daemon> {
    let daemon = Daemon::prepare(&as_uid(uid), space)?;
    let config = daemon.config_path();
    let dir = config.parent().context("a directory")?;
    std::fs::create_dir_all(dir.join("state"))?;
    for path in [dir.to_owned(), dir.join("state"), dir.join("notify")] {
        chown(&path, Some(Uid::from_raw(uid)), None)?;
    }
    Ok(daemon)
}

pub(crate) fn helper_section(socket: &Path) -> String {
    format!("[privilege]\nhelper = \"{}\"\n", socket.display())
}

/// An overlay whose first node has a daemon without capabilities and a helper.
pub(crate) struct Parted {
    pub(crate) helper: Helper,
    pub(crate) overlay: Overlay,
}

impl Parted {
    pub(crate) fn build(plan: &Plan) -> Result<Self> {
        let mut overlay = Overlay::build(plan)?;
        let helper = Helper::start(&overlay.nodes[0])?;
        overlay.configs[0].extra.push_str(&helper_section(&helper.socket()));
        let mut daemon = daemon_as(OWNER, &overlay.nodes[0].space)?;
        daemon.configure(&overlay.configs[0])?;
        daemon.allow(&["helper", "peer", "underlay"]);
        overlay.daemons.push(daemon);
        Ok(Self { helper, overlay })
    }

    pub(crate) fn start(plan: &Plan) -> Result<Self> {
        let mut parted = Self::build(plan)?;
        parted.overlay.daemons[0].launch()?;
        for (node, config) in parted.overlay.nodes.iter().zip(&parted.overlay.configs).skip(1) {
            let mut daemon = Daemon::start(&tapestry(), &node.space, config)?;
            daemon.allow(&["peer", "underlay"]);
            parted.overlay.daemons.push(daemon);
        }
        Ok(parted)
    }

    pub(crate) fn end(mut self) -> Result<()> {
        self.helper.assert_alive()?;
        self.overlay.assert_sound()
    }
}

/// Whether processes may have other uids here.
pub(crate) fn permitted() -> bool {
    let root = cell::is_root_outside();
    assert!(
        root || std::env::var_os("CI").is_none(),
        "other uids than one's own take root outside"
    );
    if !root {
        eprintln!("\n*** SKIPPED: other uids than one's own take root outside ***");
    }
    root
}

pub(crate) fn capabilities(pid: i32) -> Result<Vec<String>> {
    let mut sets = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = std::fs::read_to_string(task?.path().join("status"))?;
        let caps = status.lines().filter(|line| line.starts_with("Cap"));
        sets.push(caps.map(|line| line.replace('\t', " ")).collect::<Vec<_>>().join(" "));
    }
    sets.sort();
    sets.dedup();
    Ok(sets)
}
