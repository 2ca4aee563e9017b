//! What every test here needs: the right to run, names of its own, and a witness.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tapestry::device::adopt::Expectation;
use tapestry::device::make::Made;
use tapestry::device::netlink::{Netlink, Route};
use tapestry::device::netns::{self, Netns, NetnsError};
use tapestry::device::offload::OffloadWish;
use tapestry::device::spec::{NetnsRef, TapSpec};

/// Whether namespaces and TAP devices may be made here. If not, says so and returns false; where
/// everything must run (CI, TAPESTRY_REQUIRE_ALL) it fails instead.
pub(crate) fn permitted() -> bool {
    let tun = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    let missing = match (tun, Named::try_new()) {
        (Ok(_), Ok(_)) => return true,
        (Err(error), _) => format!("cannot open /dev/net/tun: {error}"),
        (_, Err(error)) => error.to_string(),
    };
    missing_here(&missing);
    false
}

/// Whether a witness is installed; as [`permitted`] where it is not.
pub(crate) fn installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        missing_here(&format!("{program} is not installed"));
    }
    found
}

fn missing_here(what: &str) {
    let all = std::env::var_os("CI").is_some()
        || std::env::var_os("TAPESTRY_REQUIRE_ALL").is_some_and(|value| value == "1");
    assert!(!all, "this test must run here, but: {what}");
    eprintln!("SKIPPED: {what}");
}

/// Whether this user namespace knows other uids than its own.
pub(crate) fn knows_other_uids() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    map.lines().any(|line| {
        line.split_whitespace().nth(2).is_some_and(|count| count.parse::<u64>().unwrap() > 54321)
    })
}

/// A named namespace that is removed with its handle.
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) netns: Netns,
}

impl Named {
    pub(crate) fn new() -> Self {
        Self::try_new().unwrap()
    }

    fn try_new() -> Result<Self, NetnsError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tpd-{}-{number}", std::process::id());
        let netns = Netns::create_named(&name)?;
        Ok(Self { name, netns })
    }

    /// Runs with a netlink socket inside.
    pub(crate) fn netlink<T: Send>(&self, inside: impl FnOnce(&mut Netlink) -> T + Send) -> T {
        self.netns.run(|| inside(&mut Netlink::open().unwrap())).unwrap()
    }

    /// What `ip -json ARGS` prints inside.
    pub(crate) fn ip(&self, args: &[&str]) -> Value {
        let output = Command::new("ip")
            .args(["-json", "-details", "-netns", &self.name])
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "ip {args:?}: {output:?}");
        match output.stdout.as_slice() {
            [] => Value::Array(Vec::new()),
            text => serde_json::from_slice(text).unwrap(),
        }
    }

    /// Runs `ip ARGS` inside.
    pub(crate) fn ip_do(&self, args: &[&str]) {
        let status = Command::new("ip").args(["-netns", &self.name]).args(args).status().unwrap();
        assert!(status.success(), "ip {args:?}");
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        // A test may have removed it itself.
        let _ = netns::remove_named(&self.name);
    }
}

/// A plain persistent device `eth0` in a namespace.
pub(crate) fn spec(named: &Named) -> TapSpec {
    TapSpec {
        netns: Some(NetnsRef(named.name.clone())),
        ifname: "eth0".to_owned(),
        mac: "02:00:00:00:0a:01".parse().unwrap(),
        mtu: 1450,
        queues: 1,
        owner: nix::unistd::geteuid().as_raw(),
        addresses: Vec::new(),
        routes: Vec::new(),
        neighbours: Vec::new(),
        txqueuelen: None,
        persist: true,
        offload: OffloadWish::Auto,
    }
}

/// What a journal would remember of a device.
pub(crate) fn expectation(spec: &TapSpec, made: &Made) -> Expectation {
    Expectation {
        mac: made.facts.mac,
        owner: spec.owner,
        netns: Some(made.facts.netns),
        ifindex: Some(made.facts.ifindex),
    }
}

pub(crate) fn route(to: &str, via: Option<&str>) -> Route {
    Route::new(to.parse().unwrap(), via.map(|via| via.parse().unwrap()))
}
