//! containerd by the CRI, as a kubelet uses it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use lab::tool::{self, eventually};
use serde_json::json;

use super::containerd::Containerd;
use super::cri::{Cri, PortMapping};
use super::image;
use super::stage::{BOTH, PATIENCE, Stage, telling, with};
use super::web::{Inside, PORT, closes, fetch_from_each_other, seen_from};

/// containerd on a node, and the connection of what would be the kubelet.
struct Kubelet {
    cri: Cri,
    containerd: Containerd,
    node: usize,
}

/// A sandbox. Nothing enters one for its programs: the namespace is entered instead, with the
/// machine's busybox.
struct Sandbox {
    name: String,
    id: String,
    netns: PathBuf,
    node: usize,
}

impl Kubelet {
    fn start(stage: &Stage, node: usize) -> Result<Self> {
        let net =
            stage.conflist(node, &json!({ "capabilities": { "portMappings": true } }), &[])?;
        let containerd = Containerd::start(stage, node, net)?;
        let dir = tempfile::tempdir()?;
        containerd.import(&image::archive(&stage.rootfs, dir.path())?)?;
        let mut cri = Cri::connect(&containerd.socket(), &stage.cgroup)?;
        eventually(PATIENCE, "the CRI knows the image", || {
            Ok(cri.has_image(image::NAME).unwrap_or(false))
        })?;
        Ok(Self { cri, containerd, node })
    }

    fn run(&mut self, stage: &Stage, name: &str, ports: &[PortMapping]) -> Result<Sandbox> {
        let id = telling(self.cri.run(name, ports), || self.containerd.said())?;
        let rows = stage.daemon(self.node)?.json("pod list")?;
        let mut rows = rows.as_array().context("no list")?.iter();
        let row = rows.find(|row| row["container"] == id.as_str()).context("not attached")?;
        // A path, or the name of one at the usual place.
        let netns = row["netns"].as_str().context("no netns")?;
        let netns = Path::new("/run/netns").join(netns);
        Ok(Sandbox { name: name.to_owned(), id, netns, node: self.node })
    }

    /// Takes a sandbox down as a kubelet does: twice.
    fn end(&mut self, sandbox: &Sandbox) -> Result<()> {
        self.cri.stop(&sandbox.id)?;
        self.cri.stop(&sandbox.id)?;
        self.cri.remove(&sandbox.id)
    }
}

impl Inside for Sandbox {
    fn name(&self) -> &str {
        &self.name
    }

    fn run(&self, words: &[&str]) -> Result<String> {
        let mut command = tool::command("nsenter");
        command.arg(format!("--net={}", self.netns.display())).args(["--", "busybox"]);
        tool::run(command.args(words))
    }
}

pub(crate) fn sandboxes_of_two_nodes_fetch_from_each_other() -> Result<()> {
    with(|stage| {
        let mut kubelets = [Kubelet::start(stage, 0)?, Kubelet::start(stage, 1)?];
        let one = kubelets[0].run(stage, "one", &[])?;
        let two = kubelets[1].run(stage, "two", &[])?;
        fetch_from_each_other(&one, &two)?;
        for sandbox in [&one, &two] {
            let own = sandbox.addresses()?;
            let told = kubelets[sandbox.node].cri.addresses(&sandbox.id)?;
            ensure!(told == own, "the kubelet is told {told:?}, the pod has {own:?}");
            for node in BOTH {
                for to in own {
                    seen_from(stage.space(node)?, SocketAddr::new(to, PORT))?;
                }
            }
        }
        for (kubelet, sandbox) in kubelets.iter_mut().zip([&one, &two]) {
            kubelet.end(sandbox)?;
            let left = stage.attached(kubelet.node)?;
            ensure!(left.is_empty(), "{left:?} is left");
        }
        kubelets.into_iter().try_for_each(|kubelet| kubelet.containerd.stop())
    })
}

pub(crate) fn a_host_port_leads_to_its_sandbox() -> Result<()> {
    with(|stage| {
        let mut kubelet = Kubelet::start(stage, 0)?;
        let mapping = |host_port, host_ip: &str| PortMapping {
            container_port: i32::from(PORT),
            host_port,
            host_ip: host_ip.to_owned(),
        };
        let ports = [mapping(8000, ""), mapping(8001, "127.0.0.1")];
        let sandbox = kubelet.run(stage, "mapped", &ports)?;
        let client = kubelet.run(stage, "client", &[])?;
        let node = &stage.cluster.node(0)?.0;
        let outside = stage.outside()?;
        let (own, other) = (stage.space(0)?, stage.space(1)?);
        let hosts: [IpAddr; 2] = [node.v4.into(), node.v6.into()];
        for host in hosts {
            let at = SocketAddr::new(host, 8000);
            for space in [&outside.space, own, other] {
                seen_from(space, at).with_context(|| format!("{} to {at}", space.name()))?;
            }
            client.seen_by(at)?;
        }
        let seen = seen_from(&outside.space, SocketAddr::new(node.v4.into(), 8000))?;
        ensure!(seen == IpAddr::from(outside.v4), "the outside is seen as {seen}");
        let loopback = |port| SocketAddr::new([127, 0, 0, 1].into(), port);
        for port in [8000, 8001] {
            seen_from(own, loopback(port))?;
        }
        closes(&outside.space, SocketAddr::new(node.v4.into(), 8001))?;
        kubelet.end(&sandbox)?;
        for port in [8000, 8001] {
            closes(own, loopback(port))?;
            closes(&outside.space, SocketAddr::new(node.v4.into(), port))?;
        }
        kubelet.end(&client)?;
        kubelet.containerd.stop()
    })
}
