//! podman with the CNI backend on a node, with everything it keeps in a directory of its own.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use lab::cluster::NETWORK;
use lab::tool;
use lab::world::Space;
use tempfile::TempDir;

use super::image;
use super::stage::Stage;
use super::web::Inside;

/// A node's podman. Containers that still run are removed when it is dropped.
pub(crate) struct Podman {
    space: Space,
    rootfs: PathBuf,
    cgroup: String,
    dir: TempDir,
}

impl Podman {
    /// One that uses a node's network; `net` has its configuration.
    pub(crate) fn new(stage: &Stage, node: usize, net: PathBuf) -> Result<Self> {
        let dir = TempDir::with_prefix("podman-")?;
        let (at, net, bin) = (dir.path().display(), net.display(), stage.bin.display());
        // The engine's locks would be in the machine's shared memory.
        let engine = format!(
            r#"[containers]
default_ulimits = []
apparmor_profile = "unconfined"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
tmp_dir = "{at}/tmp"
[network]
network_backend = "cni"
network_config_dir = "{net}"
cni_plugin_dirs = ["{bin}", "/usr/lib/cni"]
"#
        );
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{at}/graph\"\nrunroot = \"{at}/run\"\n"
        );
        fs::create_dir(dir.path().join("tmp"))?;
        fs::write(dir.path().join("containers.conf"), engine)?;
        fs::write(dir.path().join("storage.conf"), storage)?;
        let space = stage.space(node)?.clone();
        Ok(Self { space, rootfs: stage.rootfs.clone(), cgroup: stage.cgroup.clone(), dir })
    }

    /// A command line of it, to be run in its node's namespace.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.space.command("podman");
        command.env("CONTAINERS_CONF", self.dir.path().join("containers.conf"));
        command.env("CONTAINERS_STORAGE_CONF", self.dir.path().join("storage.conf"));
        command.env("TMPDIR", self.dir.path().join("tmp"));
        command.args(words);
        command
    }

    fn podman(&self, words: &[&str]) -> Result<String> {
        tool::run(&mut self.command(words))
    }

    /// What starts a container that serves; `options` are podman's.
    pub(crate) fn starting(&self, name: &str, options: &[&str]) -> Command {
        let words = ["run", "--detach", "--name", name, "--network", NETWORK, "--env", "PATH=/bin"];
        let mut command = self.command(&words);
        command.args(["--cgroups", "no-conmon", "--cgroup-parent", &self.cgroup]).args(options);
        command.arg("--rootfs").arg(&self.rootfs).args(image::server());
        command
    }

    /// Starts a container that serves.
    pub(crate) fn run(&self, name: &str, options: &[&str]) -> Result<Container<'_>> {
        tool::run(&mut self.starting(name, options))?;
        Ok(Container { podman: self, name: name.to_owned() })
    }

    /// Removes a container that was started, or begun to be.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let words = ["rm", "--force", "--ignore", "--time", "0", name];
        self.podman(&words).with_context(|| format!("remove {name}")).map(drop)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.podman(&["rm", "--force", "--all", "--time", "0"]);
    }
}

/// A running container.
pub(crate) struct Container<'a> {
    podman: &'a Podman,
    name: String,
}

impl Container<'_> {
    /// Ends and removes it.
    pub(crate) fn end(self) -> Result<()> {
        self.podman.remove(&self.name)
    }
}

impl Inside for Container<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn run(&self, words: &[&str]) -> Result<String> {
        self.podman.podman(&[&["exec", &self.name], words].concat())
    }
}
