//! What every test here needs: the right to run, names of its own, and a witness.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tapestry::device::netlink::Netlink;
use tapestry::device::netns::{self, Netns};

/// Whether namespaces and TAP devices may be made here. If not, says so and returns false; where
/// everything must run (CI, TAPESTRY_REQUIRE_ALL) it fails instead.
pub(crate) fn permitted() -> bool {
    let tun = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    let missing = match (tun, Netns::create()) {
        (Ok(_), Ok(_)) => return true,
        (Err(error), _) => format!("cannot open /dev/net/tun: {error}"),
        (_, Err(error)) => error.to_string(),
    };
    let all = std::env::var_os("CI").is_some()
        || std::env::var_os("TAPESTRY_REQUIRE_ALL").is_some_and(|value| value == "1");
    assert!(!all, "this test must run here, but: {missing}");
    eprintln!("SKIPPED: {missing}");
    false
}

/// A named namespace that is removed with its handle.
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) netns: Netns,
}

impl Named {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tpd-{}-{number}", std::process::id());
        let netns = Netns::create_named(&name).unwrap();
        Self { name, netns }
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
