//! A Kubernetes control plane on a host: real etcd, API server and controller manager. Debian has no
//! package of the latter two, so who wants them names their directory.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cluster::NETWORKS;
use crate::etcd::Etcd;
use crate::tool::{self, Background, eventually};
use crate::world::Space;

/// Names the directory with `kube-apiserver` and `kube-controller-manager`.
pub const PROGRAMS: &str = "TAPESTRY_KUBE_BIN";

const PORT: u16 = 6443;
const SERVICES: &str = "10.96.0.0/16,fd00:96::/112";
const TOKEN: &str = "not-a-secret";

/// How long it may take until it answers.
const PATIENCE: Duration = Duration::from_secs(60);

/// A control plane that gives Nodes podCIDRs. Dropping it kills it; what it keeps goes with it.
#[derive(Debug)]
pub struct Kubernetes {
    manager: Option<Background>,
    server: Option<Background>,
    /// Where its objects are kept.
    pub etcd: Etcd,
    programs: PathBuf,
    space: Space,
    address: IpAddr,
    dir: TempDir,
}

impl Kubernetes {
    /// Starts one and waits until it is ready; `None` where nobody has said where its programs are.
    ///
    /// # Errors
    ///
    /// If it does not get ready; with what it said.
    pub fn start(space: &Space, address: IpAddr) -> Result<Option<Self>> {
        let Some(programs) = std::env::var_os(PROGRAMS).map(PathBuf::from) else { return Ok(None) };
        let dir = TempDir::with_prefix("kubernetes-")?;
        let path = |name: &str| dir.path().join(name);
        tool::run(tool::command("openssl").arg("genrsa").arg("-out").arg(path("accounts.key")))?;
        fs::write(path("tokens.csv"), format!("{TOKEN},admin,admin,\"system:masters\"\n"))?;
        fs::write(path("kubeconfig"), kubeconfig(address, dir.path()).to_string())?;
        let etcd = Etcd::start(space, address)?;
        let (space, manager, server) = (space.clone(), None, None);
        let mut plane = Self { manager, server, etcd, programs, space, address, dir };
        plane.launch()?;
        let mut manager = Command::new(plane.programs.join("kube-controller-manager"));
        manager.arg("--kubeconfig").arg(plane.kubeconfig()).args([
            "--controllers=nodeipam",
            "--leader-elect=false",
            "--feature-gates=IPv6DualStack=true",
            "--allocate-node-cidrs",
            "--node-cidr-mask-size-ipv4=24",
            "--node-cidr-mask-size-ipv6=64",
        ]);
        manager.arg(format!("--cluster-cidr={}", NETWORKS.join(",")));
        manager.arg(format!("--service-cluster-ip-range={SERVICES}"));
        plane.manager = Some(plane.background(&mut manager, "manager")?);
        Ok(Some(plane))
    }

    fn background(&self, command: &mut Command, name: &str) -> Result<Background> {
        self.space.run(|| Background::start(command, self.dir.path(), name))?
    }

    /// Starts the API server again after [`Self::kill`].
    ///
    /// # Errors
    ///
    /// If it does not get ready; with what it said.
    pub fn launch(&mut self) -> Result<()> {
        let path = |name: &str| self.dir.path().join(name);
        let mut command = Command::new(self.programs.join("kube-apiserver"));
        command.arg("--cert-dir").arg(path("certificates"));
        command.arg("--token-auth-file").arg(path("tokens.csv"));
        for flag in ["--service-account-key-file", "--service-account-signing-key-file"] {
            command.arg(flag).arg(path("accounts.key"));
        }
        command.args([
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=RBAC",
            "--feature-gates=IPv6DualStack=true",
        ]);
        command.arg(format!("--service-cluster-ip-range={SERVICES}"));
        command.arg(format!("--etcd-servers={}", self.etcd.url()));
        for flag in ["--bind-address", "--advertise-address"] {
            command.arg(format!("{flag}={}", self.address));
        }
        command.arg(format!("--secure-port={PORT}"));
        let server = self.background(&mut command, "api-server")?;
        self.server = Some(server);
        let ready = eventually(PATIENCE, "the API server is ready", || {
            let server = self.server.as_mut().context("not running")?;
            ensure!(server.is_running()?, "it has ended");
            Ok(self.ctl("get --raw /readyz").is_ok())
        });
        let said = self.server.as_ref().map(Background::said).unwrap_or_default();
        ready.context(said)
    }

    /// The API server's credentials for everything.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// `store = "kubernetes"` and its table for a node.
    #[must_use]
    pub fn store(&self) -> String {
        let path = self.kubeconfig();
        format!("store = \"kubernetes\"\n[cluster.kubernetes]\nkubeconfig = \"{}\"", path.display())
    }

    /// Runs `kubectl` beside it. Returns what that prints.
    ///
    /// # Errors
    ///
    /// If it does not succeed.
    pub fn ctl(&self, line: &str) -> Result<String> {
        let mut command = self.space.command("kubectl");
        command.arg("--kubeconfig").arg(self.kubeconfig()).arg("--request-timeout=5s");
        tool::run(command.args(line.split(' ')))
    }

    /// Makes a Node with an address, as a kubelet does.
    ///
    /// # Errors
    ///
    /// If the API server refuses.
    pub fn add_node(&self, name: &str, address: IpAddr) -> Result<()> {
        let path = self.dir.path().join(name);
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } });
        fs::write(&path, node.to_string())?;
        self.ctl(&format!("create -f {}", path.display()))?;
        let addresses = json!([{ "type": "InternalIP", "address": address }]);
        let patch = json!({ "status": { "addresses": addresses } });
        self.ctl(&format!("patch node {name} --subresource=status --type=merge -p {patch}"))?;
        Ok(())
    }

    /// A Node as the API server has it.
    ///
    /// # Errors
    ///
    /// If the API server does not answer.
    pub fn node(&self, name: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.ctl(&format!("get node {name} -o json"))?)?)
    }

    /// Sends the API server a signal.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.server.as_ref().context("not running")?.signal(signal)
    }

    /// Ends the API server as a crash would.
    ///
    /// # Errors
    ///
    /// If it does not end.
    pub fn kill(&mut self) -> Result<()> {
        let mut server = self.server.take().context("not running")?;
        server.signal(Signal::SIGKILL)?;
        server.wait(PATIENCE).map(drop)
    }
}

fn kubeconfig(address: IpAddr, dir: &Path) -> Value {
    let server = format!("https://{}", SocketAddr::new(address, PORT));
    // It signs for itself when it starts.
    let authority = dir.join("certificates").join("apiserver.crt");
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            { "name": "lab", "cluster": { "server": server, "certificate-authority": authority } },
        ],
        "users": [{ "name": "admin", "user": { "token": TOKEN } }],
        "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": "admin" } }],
        "current-context": "lab",
    })
}
