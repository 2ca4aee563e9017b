//! A daemon on a node of its own, containers, and the plugin as libcni calls it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tapestry::attach::client::Client;
use tapestry::device::netlink::{LinkChange, Netlink};
use tapestry::device::netns::{self, Netns, NetnsError};

pub(crate) const PLUGIN: &str = env!("CARGO_BIN_EXE_tapestry-cni");

/// Where Debian has the reference plugins.
pub(crate) const PLUGINS: &str = "/usr/lib/cni";

/// Whether namespaces and TAP devices may be made here. If not, says so and returns false; where
/// everything must run (CI, TAPESTRY_REQUIRE_ALL) it fails instead.
pub(crate) fn permitted() -> bool {
    let tun = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    let missing = match (tun, Pod::try_new()) {
        (Ok(_), Ok(_)) => return true,
        (Err(error), _) => format!("cannot open /dev/net/tun: {error}"),
        (_, Err(error)) => error.to_string(),
    };
    missing_here(&missing);
    false
}

/// Whether a reference plugin is installed; as [`permitted`] where it is not.
pub(crate) fn installed(plugin: &str) -> bool {
    let there = Path::new(PLUGINS).join(plugin).exists();
    if !there {
        missing_here(&format!("{PLUGINS}/{plugin} is not installed"));
    }
    there
}

fn missing_here(what: &str) {
    let all = std::env::var_os("CI").is_some()
        || std::env::var_os("TAPESTRY_REQUIRE_ALL").is_some_and(|value| value == "1");
    assert!(!all, "this test must run here, but: {what}");
    eprintln!("SKIPPED: {what}");
}

/// A container: its namespace, and an ID. Both go with the handle.
pub(crate) struct Pod {
    pub(crate) id: String,
    pub(crate) netns: Netns,
}

impl Pod {
    pub(crate) fn new() -> Self {
        Self::try_new().unwrap()
    }

    fn try_new() -> Result<Self, NetnsError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("tpc-{}-{number}", std::process::id());
        let netns = Netns::create_named(&id)?;
        Ok(Self { id, netns })
    }

    pub(crate) fn path(&self) -> PathBuf {
        netns::path_of(&self.id)
    }

    /// What `ip -json ARGS` prints inside.
    pub(crate) fn ip(&self, args: &[&str]) -> Value {
        let output =
            Command::new("ip").args(["-json", "-netns", &self.id]).args(args).output().unwrap();
        assert!(output.status.success(), "ip {args:?}: {output:?}");
        match output.stdout.as_slice() {
            [] => Value::Array(Vec::new()),
            text => serde_json::from_slice(text).unwrap(),
        }
    }

    pub(crate) fn ip_do(&self, args: &[&str]) {
        let status = Command::new("ip").args(["-netns", &self.id]).args(args).status().unwrap();
        assert!(status.success(), "ip {args:?}");
    }

    /// The names of all devices but `lo`.
    pub(crate) fn devices(&self) -> Vec<String> {
        let links = self.ip(&["link", "show"]);
        let names = links.as_array().unwrap().iter().map(|link| link["ifname"].as_str().unwrap());
        names.filter(|name| *name != "lo").map(str::to_owned).collect()
    }

    /// The global addresses of a device, sorted; none, if there is no such device.
    pub(crate) fn addresses(&self, ifname: &str) -> Vec<String> {
        // Not of that device alone: it may vanish between a look whether it is there and this one.
        let found = self.ip(&["addr", "show", "scope", "global"]);
        let own = found.as_array().unwrap().iter().filter(|link| link["ifname"] == ifname);
        let infos = own.flat_map(|link| link["addr_info"].as_array().unwrap());
        // What the scope leaves out is an empty object.
        let text = |one: &Value| Some(format!("{}/{}", one["local"].as_str()?, one["prefixlen"]));
        let mut texts: Vec<String> = infos.filter_map(text).collect();
        texts.sort();
        texts
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = netns::remove_named(&self.id);
    }
}

/// A daemon in a namespace of its own, with the state that it leaves. Ends with its handle.
pub(crate) struct Node {
    home: Pod,
    pub(crate) dir: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Node {
    /// One with these podCIDRs, running.
    pub(crate) fn new(pod_cidrs: &[&str]) -> Self {
        let home = Pod::new();
        let up = || {
            let mut netlink = Netlink::open().unwrap();
            let lo = netlink.link_by_name("lo").unwrap().index;
            netlink.set_link(lo, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
        };
        home.netns.run(up).unwrap();
        let mut node = Self { home, dir: tempfile::tempdir().unwrap(), daemon: None };
        node.configure(pod_cidrs);
        node.start();
        node
    }

    pub(crate) fn configure(&self, pod_cidrs: &[&str]) {
        let dir = self.dir.path().display();
        let text = format!(
            r#"
            [node]
            name = "a"
            [control]
            socket = "{dir}/tapestry.sock"
            [state]
            dir = "{dir}/state"
            [underlay]
            address = "127.0.0.1"
            workers = 2
            [[segment]]
            name = "blue"
            vni = 100
            [cluster]
            network = ["10.244.0.0/16", "fd00:10:244::/48"]
            node_prefix = 24
            attach = "{dir}/attach.sock"
            [[cluster.node]]
            name = "a"
            address = "127.0.0.1"
            pod_cidrs = {pod_cidrs:?}
            "#
        );
        std::fs::write(self.dir.path().join("tapestry.toml"), text).unwrap();
    }

    pub(crate) fn start(&mut self) {
        let path = self.dir.path().join("log");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        let net = format!("--net={}", self.home.path().display());
        let child = Command::new("nsenter")
            .args([&net, env!("CARGO_BIN_EXE_tapestry"), "run", "--config"])
            .arg(self.dir.path().join("tapestry.toml"))
            .stderr(log)
            .spawn()
            .unwrap();
        self.daemon = Some(child);
        let deadline = Instant::now() + Duration::from_secs(20);
        // It listens before it answers: only an answer says that its ports are up.
        while Client::connect(&self.socket())
            .and_then(|mut client| client.status(None, true).map(drop))
            .is_err()
        {
            let ended = self.daemon.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "no daemon: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills it (-9), without another word.
    pub(crate) fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }

    /// Starts it if it was killed.
    pub(crate) fn ensure_running(&mut self) {
        if self.daemon.is_none() {
            self.start();
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("attach.sock")
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.socket()).unwrap()
    }

    /// A network configuration for this node.
    pub(crate) fn conf(&self, more: &Value) -> Value {
        let mut conf = json!({
            "cniVersion": "1.1.0",
            "name": "pods",
            "type": "tapestry-cni",
            "socket": self.socket(),
            "stateDir": self.dir.path().join("state"),
        });
        for (key, value) in more.as_object().unwrap() {
            conf[key] = value.clone();
        }
        conf
    }

    /// What the command line prints as JSON.
    pub(crate) fn cli(&self, args: &[&str]) -> Value {
        let socket = self.dir.path().join("tapestry.sock");
        let output = Command::new(env!("CARGO_BIN_EXE_tapestry"))
            .args(args)
            .args(["--json", "--socket"])
            .arg(socket)
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Addresses that could be given now.
    pub(crate) fn free(&self) -> u64 {
        self.client().status(None, false).unwrap().unwrap()
    }

    /// The containers that are attached, sorted.
    pub(crate) fn attached(&self) -> Vec<String> {
        let mut all: Vec<String> =
            self.client().list().unwrap().into_iter().map(|pod| pod.key.container).collect();
        all.sort();
        all
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
        self.kill();
    }
}

/// A call of the plugin.
#[derive(Clone)]
pub(crate) struct Call<'a> {
    pub(crate) command: &'a str,
    pub(crate) conf: Value,
    pub(crate) container: &'a str,
    pub(crate) netns: Option<PathBuf>,
    pub(crate) ifname: &'a str,
    pub(crate) args: &'a str,
    pub(crate) path: PathBuf,
}

impl<'a> Call<'a> {
    pub(crate) fn of(command: &'a str, conf: &Value, pod: &'a Pod) -> Self {
        Self {
            command,
            conf: conf.clone(),
            container: &pod.id,
            netns: Some(pod.path()),
            ifname: "eth0",
            args: "",
            path: PLUGINS.into(),
        }
    }

    pub(crate) fn spawn(&self) -> Child {
        let mut child = Command::new(PLUGIN)
            .env_clear()
            .env("CNI_COMMAND", self.command)
            .env("CNI_CONTAINERID", self.container)
            .env("CNI_NETNS", self.netns.clone().unwrap_or_default())
            .env("CNI_IFNAME", self.ifname)
            .env("CNI_ARGS", self.args)
            .env("CNI_PATH", &self.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let text = serde_json::to_vec(&self.conf).unwrap();
        // One that is killed in between does not read.
        let _ = child.stdin.take().unwrap().write_all(&text);
        child
    }

    /// What it prints: the result or the error.
    pub(crate) fn run(&self) -> Result<Value, Value> {
        let output = self.spawn().wait_with_output().unwrap();
        let printed = match output.stdout.as_slice() {
            [] => Value::Null,
            text => serde_json::from_slice(text).unwrap(),
        };
        if output.status.success() { Ok(printed) } else { Err(printed) }
    }
}

/// Looks until it is so, for at most so long.
pub(crate) fn eventually(patience: Duration, mut so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if so() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
