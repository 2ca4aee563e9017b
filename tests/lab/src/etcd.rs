//! Real etcd servers on hosts, each in a directory of its own.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::tool::{self, Background, eventually};
use crate::world::Space;

/// The programs that it takes.
pub const PROGRAMS: &[&str] = &["etcd"];

const CLIENTS: u16 = 2379;
const MEMBERS: u16 = 2380;

/// How long it may take until it answers.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server. Dropping it kills it; what it keeps goes with it.
#[derive(Debug)]
pub struct Etcd {
    process: Option<Background>,
    space: Space,
    address: IpAddr,
    /// All members of its cluster, as `--initial-cluster` takes them.
    members: String,
    dir: TempDir,
}

impl Etcd {
    /// Starts one that is alone in its cluster, and waits until it answers.
    ///
    /// # Errors
    ///
    /// If it does not; with what it said.
    pub fn start(space: &Space, address: IpAddr) -> Result<Self> {
        Self::start_all(&[(space, address)])?.pop().context("no server")
    }

    /// Starts the members of one cluster, and waits until each answers.
    ///
    /// # Errors
    ///
    /// If one does not; with what it said.
    pub fn start_all(hosts: &[(&Space, IpAddr)]) -> Result<Vec<Self>> {
        let named = |address: IpAddr| format!("{}={}", name(address), url(address, MEMBERS));
        let members: Vec<String> = hosts.iter().map(|(_, address)| named(*address)).collect();
        let all = hosts.iter().map(|(space, address)| {
            let (space, members) = ((*space).clone(), members.join(","));
            let dir = TempDir::with_prefix("etcd-")?;
            let mut etcd = Self { process: None, space, address: *address, members, dir };
            etcd.spawn()?;
            Ok(etcd)
        });
        let mut all = all.collect::<Result<Vec<Self>>>()?;
        all.iter_mut().try_for_each(Self::wait)?;
        Ok(all)
    }

    /// `store = "etcd"` and its table, for servers at these addresses.
    #[must_use]
    pub fn store(addresses: &[IpAddr]) -> String {
        let urls = addresses.iter().map(|address| format!("\"{}\"", url(*address, CLIENTS)));
        let urls = urls.collect::<Vec<_>>().join(", ");
        format!("store = \"etcd\"\n[cluster.etcd]\nendpoints = [{urls}]")
    }

    /// Starts it again after [`Self::kill`], with what it kept.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub fn launch(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait()
    }

    fn spawn(&mut self) -> Result<()> {
        let [clients, members] = [CLIENTS, MEMBERS].map(|port| url(self.address, port));
        let mut command = tool::command("etcd");
        command
            .args(["--name", &name(self.address), "--data-dir"])
            .arg(self.dir.path().join("data"));
        command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
        command.args(["--listen-peer-urls", &members, "--initial-advertise-peer-urls", &members]);
        command.args(["--initial-cluster", &self.members]);
        // Debian's build refuses to run on others than amd64 without.
        command.env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH);
        let dir = self.dir.path();
        self.process = Some(self.space.run(|| Background::start(&mut command, dir, "etcd"))??);
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        let process = self.process.as_mut().context("not running")?;
        let (space, at) = (&self.space, SocketAddr::new(self.address, CLIENTS));
        let healthy = eventually(PATIENCE, "etcd is healthy", || {
            ensure!(process.is_running()?, "etcd has ended");
            Ok(space.run(|| is_healthy(at))?.unwrap_or(false))
        });
        healthy.map_err(|error| error.context(process.said()))
    }

    /// Where its clients find it.
    #[must_use]
    pub fn url(&self) -> String {
        url(self.address, CLIENTS)
    }

    /// Forgets all that is not the latest.
    ///
    /// # Errors
    ///
    /// If it refuses.
    pub fn compact(&self) -> Result<()> {
        let ctl = |line: &str| {
            let mut command = self.space.command("etcdctl");
            command.env("ETCDCTL_API", "3").args(["--endpoints", &self.url()]);
            tool::run(command.args(line.split(' ')))
        };
        let all: serde_json::Value = serde_json::from_str(&ctl("endpoint status -w json")?)?;
        ctl(&format!("compaction {}", all[0]["Status"]["header"]["revision"])).map(drop)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.as_ref().context("not running")?.signal(signal)
    }

    /// Removes all it keeps, as when its disk was replaced; it must have been killed.
    ///
    /// # Errors
    ///
    /// If something cannot be removed.
    pub fn forget(&self) -> Result<()> {
        ensure!(self.process.is_none(), "etcd runs");
        std::fs::remove_dir_all(self.dir.path().join("data")).context("etcd's data")
    }

    /// Ends it as a crash would.
    ///
    /// # Errors
    ///
    /// If it does not end.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.signal(Signal::SIGKILL)?;
        process.wait(PATIENCE).map(drop)
    }
}

fn name(address: IpAddr) -> String {
    format!("etcd-{address}")
}

fn url(address: IpAddr, port: u16) -> String {
    format!("http://{}", SocketAddr::new(address, port))
}

fn is_healthy(at: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.contains(r#""health":"true""#))
}
