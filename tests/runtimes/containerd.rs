//! containerd on a node, with everything it keeps in a directory of its own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use lab::tool::{self, Background, eventually};
use lab::world::Space;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::image;
use super::stage::{PATIENCE, Stage, telling};
use super::web::Inside;

/// Gives `ctr`, which knows no other places, a node's network configuration and plugin: in a mount
/// namespace of that call.
const AT_THE_USUAL_PLACES: &str = "mount -t tmpfs tmpfs /etc && mkdir -p /etc/cni/net.d && \
     cp \"$1\"/* /etc/cni/net.d/ && mount -t tmpfs tmpfs /opt && mkdir -p /opt/cni && \
     ln -s \"$2\" /opt/cni/bin && shift 2 && exec ctr \"$@\"";

/// A running containerd.
pub(crate) struct Containerd {
    process: Background,
    space: Space,
    net: PathBuf,
    bin: PathBuf,
    dir: TempDir,
}

impl Containerd {
    /// Starts it on a node; `net` has the network's configuration.
    pub(crate) fn start(stage: &Stage, node: usize, net: PathBuf) -> Result<Self> {
        let dir = TempDir::with_prefix("containerd-")?;
        let (space, bin) = (stage.space(node)?.clone(), stage.bin.clone());
        let config = dir.path().join("config.toml");
        fs::write(&config, configuration(dir.path(), &net, &bin))?;
        let mut command = tool::command("containerd");
        command.arg("--config").arg(&config);
        let process = space.run(|| Background::start(&mut command, dir.path(), "containerd"))??;
        let mut containerd = Self { process, space, net, bin, dir };
        let ready = eventually(PATIENCE, "containerd answers", || {
            ensure!(containerd.process.is_running()?, "it has ended");
            Ok(containerd.ctr(&["version"]).is_ok())
        });
        telling(ready, || containerd.process.said())?;
        Ok(containerd)
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("ctr.sock")
    }

    /// What it has said.
    pub(crate) fn said(&self) -> String {
        self.process.said()
    }

    /// Runs `ctr` to its end.
    pub(crate) fn ctr(&self, words: &[&str]) -> Result<String> {
        let mut command = self.space.command("ctr");
        tool::run(command.arg("--address").arg(self.socket()).args(words))
    }

    /// Takes an image for those of its clients that speak the CRI.
    pub(crate) fn import(&self, archive: &Path) -> Result<()> {
        let archive = archive.to_str().context("the archive's path")?;
        let words = ["--namespace", "k8s.io", "image", "import", "--snapshotter", "native"];
        self.ctr(&[&words[..], &["--no-unpack", archive]].concat()).map(drop)
    }

    /// Ends it as systemd would.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)?;
        self.process.wait(PATIENCE).map(drop)
    }

    /// Starts a container that serves, attached by `ctr` itself.
    pub(crate) fn run(&self, stage: &Stage, id: &str) -> Result<Container<'_>> {
        let server = image::server();
        let words = ["run", "--rm", "--cni", "--null-io", "--env", "PATH=/bin", "--cgroup"];
        let mut command = tool::command("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", AT_THE_USUAL_PLACES]);
        command.arg("sh").arg(&self.net).arg(&self.bin);
        command.arg("--address").arg(self.socket()).args(words);
        command.arg(format!("{}/{id}", stage.cgroup)).arg("--rootfs").arg(&stage.rootfs);
        command.arg(id).args(server);
        let client = self.space.run(|| Background::start(&mut command, self.dir.path(), id))??;
        let mut container = Container { containerd: self, id: id.to_owned(), client };
        let runs = eventually(PATIENCE, "the container runs", || {
            ensure!(container.client.is_running()?, "ctr has ended");
            // It runs before it is attached, and its device is there before its addresses are.
            Ok(container.addresses().is_ok())
        });
        telling(runs, || format!("{}{}", container.client.said(), self.said()))?;
        Ok(container)
    }
}

/// A container that `ctr` waits for.
pub(crate) struct Container<'a> {
    containerd: &'a Containerd,
    id: String,
    client: Background,
}

impl Container<'_> {
    /// Ends what runs in it. `ctr` sees it, detaches the container, and ends.
    pub(crate) fn end(mut self) -> Result<()> {
        self.containerd.ctr(&["task", "kill", "--signal", "KILL", &self.id])?;
        let ended = self.client.wait(PATIENCE);
        telling(ended.map(drop), || self.client.said())
    }

    /// Kills `ctr`, and then ends what runs in the container: nobody detaches it.
    pub(crate) fn abandon(mut self) -> Result<()> {
        self.client.signal(Signal::SIGKILL)?;
        self.client.wait(PATIENCE)?;
        self.containerd.ctr(&["task", "delete", "--force", &self.id])?;
        self.containerd.ctr(&["container", "delete", &self.id]).map(drop)
    }
}

impl Inside for Container<'_> {
    fn name(&self) -> &str {
        &self.id
    }

    fn run(&self, words: &[&str]) -> Result<String> {
        let mut all = vec!["task", "exec", "--exec-id", "one", &self.id];
        all.extend(words);
        self.containerd.ctr(&all)
    }
}

fn configuration(dir: &Path, net: &Path, bin: &Path) -> String {
    let (dir, net, bin) = (dir.display(), net.display(), bin.display());
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
address = "{dir}/ctr.sock"
[ttrpc]
address = "{dir}/ttrpc.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image}"
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
conf_dir = "{net}"
bin_dir = "{bin}"
"#,
        image = image::NAME
    )
}
