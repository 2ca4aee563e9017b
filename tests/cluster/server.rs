//! Real etcd servers on loopback.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lab::tool::{self, Background, eventually};
use tapestry::config::Cluster;

use crate::{config, etcd_store};

/// The tests with servers take turns: the machine's patience is shared.
static TURN: Mutex<()> = Mutex::new(());

/// Everything a test with servers needs: its turn, a directory, a runtime.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// Runs a test with a server, where there is etcd: where there is none, a user's machine says so,
/// and continuous integration fails.
pub(crate) fn with_etcd<F: Future<Output = ()>>(test: impl FnOnce(Bench) -> F) {
    let missing: Vec<_> =
        ["etcd", "etcdctl"].into_iter().filter(|program| !tool::exists(program)).collect();
    if !missing.is_empty() {
        assert!(std::env::var_os("CI").is_none(), "cannot run: missing: {}", missing.join(", "));
        eprintln!("\n*** SKIPPED: missing: {} ***", missing.join(", "));
        return;
    }
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let bench = Bench { dir: tempfile::tempdir().unwrap(), _turn: turn };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let patience = Duration::from_secs(120);
        tokio::time::timeout(patience, test(bench)).await.expect("the test takes too long");
    });
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// A member of an etcd cluster.
pub(crate) struct Server {
    process: Option<Background>,
    name: String,
    data: PathBuf,
    logs: PathBuf,
    arguments: Vec<String>,
    scheme: &'static str,
    pub(crate) port: u16,
    peer: u16,
    /// What `etcdctl` is given besides the endpoint.
    pub(crate) access: Vec<String>,
}

impl Server {
    fn new(dir: &Path, name: &str) -> Self {
        Self {
            process: None,
            name: name.to_owned(),
            data: dir.join(name),
            logs: dir.to_owned(),
            arguments: Vec::new(),
            scheme: "http",
            port: free_port(),
            peer: free_port(),
            access: Vec::new(),
        }
    }

    /// A server of its own.
    pub(crate) fn single(dir: &Path) -> Self {
        let mut server = Self::new(dir, "etcd");
        server.arguments = vec!["--initial-cluster".to_owned(), server.initial()];
        server.start();
        server
    }

    /// A server of its own that speaks TLS, and takes only clients with a certificate of its CA.
    pub(crate) fn tls(dir: &Path, ca: &Path, certificate: &Path, key: &Path) -> Self {
        let mut server = Self::new(dir, "etcd");
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        server.scheme = "https";
        server.arguments = vec!["--initial-cluster".to_owned(), server.initial()];
        for (option, value) in
            [("--cert-file", certificate), ("--key-file", key), ("--trusted-ca-file", ca)]
        {
            server.arguments.extend([option.to_owned(), text(value)]);
        }
        server.arguments.push("--client-cert-auth".to_owned());
        for (option, value) in [("--cacert", ca), ("--cert", certificate), ("--key", key)] {
            server.access.push(format!("{option}={}", text(value)));
        }
        server.start();
        server
    }

    /// Three members of one cluster.
    pub(crate) fn three(dir: &Path) -> Vec<Self> {
        let mut servers: Vec<Self> =
            ["one", "two", "three"].iter().map(|name| Self::new(dir, name)).collect();
        let initial = servers.iter().map(Self::initial).collect::<Vec<_>>().join(",");
        for server in &mut servers {
            server.arguments = vec!["--initial-cluster".to_owned(), initial.clone()];
            server.spawn();
        }
        servers.iter().for_each(Self::wait);
        servers
    }

    fn initial(&self) -> String {
        format!("{}=http://127.0.0.1:{}", self.name, self.peer)
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    /// A cluster that is kept in this server.
    pub(crate) fn cluster(&self) -> Cluster {
        config(etcd_store(vec![self.url()]))
    }

    pub(crate) fn start(&mut self) {
        self.spawn();
        self.wait();
    }

    fn spawn(&mut self) {
        let peer = format!("http://127.0.0.1:{}", self.peer);
        let mut command = tool::command("etcd");
        command.args(["--name", &self.name, "--data-dir"]).arg(&self.data);
        command.args(["--listen-client-urls", &self.url(), "--advertise-client-urls", &self.url()]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--heartbeat-interval", "50", "--election-timeout", "500"]);
        command.args(&self.arguments).env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH);
        self.process = Some(Background::start(&mut command, &self.logs, &self.name).unwrap());
    }

    fn wait(&self) {
        let said = || self.process.as_ref().map(Background::said).unwrap_or_default();
        let ready = || Ok(self.try_ctl(&["endpoint", "health"]).is_ok());
        if let Err(error) = eventually(Duration::from_secs(30), "etcd is healthy", ready) {
            panic!("{error}; it said: {}", said());
        }
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        self.process.as_ref().unwrap().signal(signal).unwrap();
    }

    /// Forgets everything, as a server whose disk was replaced; stopped.
    pub(crate) fn wipe(&mut self) {
        self.kill();
        std::fs::remove_dir_all(&self.data).unwrap();
    }

    /// Starts again from a backup.
    pub(crate) fn restore(&mut self, snapshot: &Path) {
        self.wipe();
        let mut command = tool::command("etcdctl");
        command.env("ETCDCTL_API", "3").args(["snapshot", "restore"]).arg(snapshot);
        command.args(["--name", &self.name, "--initial-cluster", &self.initial()]);
        command.arg("--initial-advertise-peer-urls");
        command.arg(format!("http://127.0.0.1:{}", self.peer));
        tool::run(command.arg("--data-dir").arg(&self.data)).unwrap();
        self.start();
    }

    fn etcdctl(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = tool::command("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.url()]);
        command.args(["--dial-timeout=2s", "--command-timeout=5s"]);
        command.args(&self.access).args(arguments);
        command
    }

    pub(crate) fn try_ctl(&self, arguments: &[&str]) -> Result<String, String> {
        tool::run(&mut self.etcdctl(arguments)).map_err(|error| error.to_string())
    }

    pub(crate) fn ctl(&self, arguments: &[&str]) -> String {
        self.try_ctl(arguments).unwrap()
    }

    /// The value of a key below the prefix; nothing if it is not there.
    pub(crate) fn get(&self, key: &str) -> String {
        let key = format!("/tapestry/{key}");
        self.ctl(&["get", "--print-value-only", &key]).trim().to_owned()
    }

    pub(crate) fn put(&self, key: &str, value: &str) {
        self.ctl(&["put", &format!("/tapestry/{key}"), value]);
    }

    /// Many keys at once.
    pub(crate) fn put_all(&self, pairs: &[(String, String)]) {
        use std::io::Write as _;
        for some in pairs.chunks(100) {
            let mut text = "\n".to_owned();
            for (key, value) in some {
                text.push_str(&format!("put /tapestry/{key} {value:?}\n"));
            }
            text.push_str("\n\n");
            let mut command = self.etcdctl(&["txn"]);
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            assert!(child.wait().unwrap().success());
        }
    }

    /// The revision of the store.
    pub(crate) fn revision(&self) -> i64 {
        let text = self.ctl(&["get", "/tapestry", "--write-out=json"]);
        let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
        answer["header"]["revision"].as_i64().unwrap()
    }
}
