//! Two nodes with daemons, somebody outside, and what a runtime needs on each.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use lab::cell;
use lab::cluster::{Cluster, ClusterPlan, NETWORK};
use lab::daemon::{Daemon, Program};
use lab::overlay::Node;
use lab::tool::eventually;
use lab::world::Space;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::image;

/// How long something may take that follows by itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Two nodes of a cluster.
pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    pub(crate) rootfs: PathBuf,
    /// Where the plugin is.
    pub(crate) bin: PathBuf,
    /// The parent of every container's cgroup.
    pub(crate) cgroup: String,
    pub(crate) dir: TempDir,
}

/// Runs a test on a stage, where runtimes run at all: they take root's own namespaces. Elsewhere it
/// is skipped aloud, and where CI is set it fails.
pub(crate) fn with(test: impl FnOnce(&mut Stage) -> Result<()>) -> Result<()> {
    if !cell::is_root_outside() {
        let why = "runtimes need root, and not that of a user namespace";
        ensure!(std::env::var_os("CI").is_none(), "cannot run: {why}");
        eprintln!("\n*** SKIPPED: {why} ***");
        return Ok(());
    }
    let mut stage = Stage::new()?;
    test(&mut stage)?;
    stage.leaves_nothing()?;
    stage.cluster.assert_sound()
}

impl Stage {
    fn new() -> Result<Self> {
        cover()?;
        let program = Program::new(env!("CARGO_BIN_EXE_tapestry"));
        let plan = ClusterPlan { strangers: 1, ..ClusterPlan::default() };
        let plugin = PathBuf::from(env!("CARGO_BIN_EXE_tapestry-cni"));
        let cluster = Cluster::start(&program, plugin.clone(), &plan)?;
        let dir = TempDir::with_prefix("runtimes-")?;
        let (rootfs, bin) = (dir.path().join("rootfs"), dir.path().join("bin"));
        image::rootfs(&rootfs)?;
        fs::create_dir(&bin)?;
        symlink(plugin, bin.join("tapestry-cni"))?;
        // containerd's CRI calls it for every sandbox.
        symlink("/usr/lib/cni/loopback", bin.join("loopback"))?;
        let own = cell::outer_pid().unwrap_or("0");
        Ok(Self { cluster, rootfs, bin, cgroup: format!("/tapestry-{own}"), dir })
    }

    pub(crate) fn space(&self, node: usize) -> Result<&Space> {
        Ok(&self.cluster.node(node)?.0.space)
    }

    pub(crate) fn daemon(&self, node: usize) -> Result<&Daemon> {
        Ok(self.cluster.node(node)?.1)
    }

    /// Somebody in the nodes' network who is no member.
    pub(crate) fn outside(&self) -> Result<&Node> {
        self.cluster.overlay.nodes.last().context("nobody is outside")
    }

    /// Writes the network's configuration for a node's runtime: `own` is added to the plugin's, and
    /// `chained` come after it. Returns the directory.
    pub(crate) fn conflist(&self, node: usize, own: &Value, chained: &[Value]) -> Result<PathBuf> {
        let daemon = self.daemon(node)?;
        let mut plugin = json!({
            "type": "tapestry-cni",
            "socket": daemon.beside("attach.sock"),
            "stateDir": daemon.beside("state"),
        });
        if let (Some(plugin), Some(own)) = (plugin.as_object_mut(), own.as_object()) {
            plugin.extend(own.clone());
        }
        let plugins: Vec<&Value> = std::iter::once(&plugin).chain(chained).collect();
        let list = json!({ "cniVersion": "1.0.0", "name": NETWORK, "plugins": plugins });
        let dir = self.dir.path().join(format!("net.d-{node}"));
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("10-pods.conflist"), list.to_string())?;
        Ok(dir)
    }

    /// The containers that a node's daemon has attached.
    pub(crate) fn attached(&self, node: usize) -> Result<Vec<String>> {
        let rows = self.daemon(node)?.json("pod list")?;
        let names = rows.as_array().context("no list")?.iter();
        Ok(names.filter_map(|row| row["container"].as_str().map(str::to_owned)).collect())
    }

    /// No attachment, no port, no address in use: on any node.
    pub(crate) fn leaves_nothing(&self) -> Result<()> {
        for node in 0..2 {
            let daemon = self.daemon(node)?;
            let mut left = Value::Null;
            eventually(PATIENCE, "nothing is left", || {
                let ips = daemon.json("ip list")?;
                let rows = ips.as_array().context("no list")?.iter();
                let used: Vec<Value> = rows.filter(|row| row["state"] == "used").cloned().collect();
                left = json!([daemon.json("pod list")?, used]);
                Ok(left == json!([[], []]))
            })
            .with_context(|| left.to_string())?;
            let space = self.space(node)?;
            eventually(PATIENCE, "no mapped port is left", || {
                let rules = space.output("nft list table inet tapestry")?;
                let mut maps = rules.split("map host_ports").skip(1);
                let is_empty =
                    |map: &str| map.split('}').next().is_none_or(|it| !it.contains("elements"));
                Ok(maps.all(is_empty))
            })?;
        }
        Ok(())
    }
}

impl Drop for Stage {
    /// Ends what a test that failed has left running, and removes its cgroups: they are the one thing
    /// of a runtime that is the machine's.
    fn drop(&mut self) {
        let name = self.cgroup.trim_start_matches('/');
        let root = Path::new("/sys/fs/cgroup");
        // Version 2 has one hierarchy, version 1 one of each kind.
        let kinds = fs::read_dir(root).into_iter().flatten().flatten();
        let mut dirs: Vec<PathBuf> = kinds.map(|kind| kind.path().join(name)).collect();
        dirs.push(root.join(name));
        let _ = eventually(PATIENCE, "the cgroups are removed", || {
            dirs.iter().for_each(|dir| end(dir));
            Ok(dirs.iter().all(|dir| !dir.exists()))
        });
    }
}

/// Kills what runs in a cgroup and those below, and removes those that nothing runs in.
fn end(dir: &Path) {
    for below in fs::read_dir(dir).into_iter().flatten().flatten() {
        if below.file_type().is_ok_and(|kind| kind.is_dir()) {
            end(&below.path());
        }
    }
    // Processes of other PID namespaces are shown as 0.
    let all = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in all.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 1) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let _ = fs::remove_dir(dir);
}

/// Covers, within the cell, what runtimes and libcni write to the machine: results of plugins are kept
/// below /var/lib/cni whatever one configures.
fn cover() -> Result<()> {
    static DONE: OnceLock<()> = OnceLock::new();
    if DONE.get().is_some() {
        return Ok(());
    }
    let none = None::<&str>;
    for path in ["/var/lib", "/dev/shm"] {
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), none)
            .with_context(|| format!("a tmpfs on {path}"))?;
    }
    let _ = DONE.set(());
    Ok(())
}

/// One node's index and the other's.
pub(crate) const BOTH: [usize; 2] = [0, 1];

/// Fails with what a program said, if a step failed.
pub(crate) fn telling<T>(result: Result<T>, said: impl FnOnce() -> String) -> Result<T> {
    match result {
        Ok(value) => Ok(value),
        Err(error) => bail!("{error:#}; it said:\n{}", said()),
    }
}
