//! What daemon and helper say to each other, as JSON: a request with its whole specification, one
//! answer. Nothing refers to an earlier message, so that either end may die at any moment.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::channel::Limit;
use crate::device::adopt::{Expectation, Mismatch};
use crate::device::error::{Cause, DeviceError, Told};
use crate::device::make::Removal;
use crate::device::netns::NetnsIdentity;
use crate::device::offload::OffloadWish;
use crate::device::spec::{Facts, MAX_QUEUES, NetnsRef, Standing, TapSpec};
use crate::gateway::firewall::PodNetwork;
use crate::gateway::preflight::Finding;
use crate::gateway::rules::SetChange;
use crate::gateway::ways::{Direct, Reconciled};

/// The version of this language: both ends speak the same one, or not at all.
pub(super) const VERSION: u32 = 3;

/// The most that a request or an answer may be: a ruleset with some ten thousand addresses, and the
/// queues of one device.
pub(super) const LIMIT: Limit = Limit { bytes: 2 << 20, rights: MAX_QUEUES as usize };

/// The most that a request about one device may be, in bytes: some thousand addresses and routes.
pub(super) const DEVICE_MAX: usize = 256 << 10;

/// The most paths in one [`Request::Look`].
pub(super) const PATHS_MAX: usize = 256;

/// The most routes to other nodes: two for each of some thousands.
pub(super) const ROUTES_MAX: usize = 16_384;

/// One verb.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Request {
    /// The first one of each connection.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// The daemon's own network namespace, which has to be the helper's.
        netns: NetnsIdentity,
    },
    /// [`make::make`](crate::device::make::make); the queues come with the answer.
    Make {
        /// The device.
        spec: TapSpec,
    },
    /// [`adopt::adopt`](crate::device::adopt::adopt); the queues come with the answer.
    Reopen {
        /// The device.
        spec: TapSpec,
        /// What it was when it was made.
        expect: Expectation,
    },
    /// [`make::configure`](crate::device::make::configure)
    Configure {
        /// The device.
        spec: TapSpec,
        /// Its index.
        ifindex: u32,
        /// What it was given before.
        previous: Standing,
    },
    /// [`make::remove`](crate::device::make::remove)
    Remove {
        /// Where it is.
        netns: Option<NetnsRef>,
        /// Its name.
        ifname: String,
        /// What it was when it was made.
        expect: Expectation,
    },
    /// [`adopt::adopt_descriptors`](crate::device::adopt::adopt_descriptors): the queues come with
    /// the request, and only what they are with the answer.
    Adopt {
        /// What the device is to be.
        expect: Expectation,
        /// Its offloads.
        wish: OffloadWish,
    },
    /// Which namespaces these paths lead to.
    Look {
        /// Up to [`PATHS_MAX`].
        paths: Vec<PathBuf>,
    },
    /// [`tune`](crate::gateway::port::tune), in the helper's own namespace.
    Tune {
        /// The device's index.
        ifindex: u32,
    },
    /// [`reconcile`](crate::gateway::ways::reconcile), in the helper's own namespace.
    Routes {
        /// All of them, up to [`ROUTES_MAX`].
        routes: Vec<Direct>,
    },
    /// Replaces the one table of rules.
    ReplaceRules {
        /// What is between the table's braces.
        body: String,
    },
    /// Changes what is in the table's sets.
    AmendRules {
        /// Set by set.
        changes: Vec<SetChange>,
    },
    /// The table as it stands.
    ReadRules,
    /// Removes the table.
    RemoveRules,
    /// A socket that tells of changes of the table, in the helper's own namespace; it comes with the
    /// answer. Whoever holds it can listen, and without a capability of its own do nothing else.
    Listen,
    /// [`firewall::look`](crate::gateway::firewall::look), in the helper's own namespace.
    Firewalls {
        /// What is to pass.
        pods: PodNetwork,
    },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    /// To [`Request::Hello`].
    Welcome,
    /// To [`Request::Make`], [`Request::Reopen`] and [`Request::Adopt`].
    Device(Facts),
    /// To [`Request::Configure`]: what was changed.
    Changes(Vec<String>),
    /// To [`Request::Remove`].
    Removal(Removal),
    /// To [`Request::Look`], in the order of the paths; an error is in words.
    Seen(Vec<Result<Option<NetnsIdentity>, String>>),
    /// To [`Request::Tune`].
    Tuned,
    /// To [`Request::Routes`].
    Routes(Reconciled),
    /// To those about rules: the table that now stands, if it does.
    Rules(Option<String>),
    /// To [`Request::Listen`].
    Listening,
    /// To [`Request::Firewalls`].
    Found(Vec<Finding>),
    /// The device's verb failed.
    Failed(Failure),
    /// The request is none that is fulfilled, or it failed otherwise; in words.
    Refused(String),
}

/// A [`DeviceError`] on its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Failure {
    ifname: String,
    netns: Option<NetnsRef>,
    step: String,
    cause: FailureCause,
}

/// The causes by which callers decide, and all others in words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FailureCause {
    Taken { kind: String },
    Mismatch(Mismatch),
    Told(Told),
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Self {
        let told = Told {
            text: error.cause.to_string(),
            errno: error.errno(),
            netns_absent: error.is_netns_absent(),
        };
        let cause = match error.cause {
            Cause::Taken { kind } => FailureCause::Taken { kind },
            Cause::Mismatch(mismatch) => FailureCause::Mismatch(mismatch),
            _ => FailureCause::Told(told),
        };
        let DeviceError { ifname, netns, step, .. } = error;
        Self { ifname, netns, step: step.into_owned(), cause }
    }
}

impl From<Failure> for DeviceError {
    fn from(failure: Failure) -> Self {
        let Failure { ifname, netns, step, cause } = failure;
        let cause = match cause {
            FailureCause::Taken { kind } => Cause::Taken { kind },
            FailureCause::Mismatch(mismatch) => Cause::Mismatch(mismatch),
            FailureCause::Told(told) => Cause::Told(told),
        };
        Self { ifname, netns, step: step.into(), cause }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::netns::Netns;

    fn there_and_back(error: DeviceError) -> DeviceError {
        let text = serde_json::to_string(&Failure::from(error)).unwrap();
        serde_json::from_str::<Failure>(&text).unwrap().into()
    }

    fn error(cause: Cause) -> DeviceError {
        let netns = Some(NetnsRef("pod-a".to_owned()));
        DeviceError { ifname: "eth0".to_owned(), netns, step: "create".into(), cause }
    }

    #[test]
    fn an_error_says_the_same_on_the_other_side() {
        let ino = |ino| NetnsIdentity { dev: 4, ino };
        let absent = Netns::open("/no/such/place").unwrap_err();
        for cause in [
            Cause::Io(std::io::Error::from_raw_os_error(libc::EPERM)),
            Cause::Netns(absent),
            Cause::Taken { kind: "veth".to_owned() },
            Cause::Mismatch(Mismatch::NoNamespace),
            Cause::Mismatch(Mismatch::OtherNamespace { expected: ino(1), found: ino(2) }),
            Cause::Mismatch(Mismatch::OtherMac {
                expected: "02:00:00:00:0a:01".parse().unwrap(),
                found: None,
            }),
            Cause::Spec("it is wrong"),
        ] {
            let (before, after) = {
                let kept = |error: &DeviceError| {
                    let taken = matches!(error.cause, Cause::Taken { .. });
                    let mismatch = error.mismatch().cloned();
                    let (errno, absent) = (error.errno(), error.is_netns_absent());
                    (error.to_string(), errno, absent, mismatch, taken)
                };
                let error = error(cause);
                (kept(&error), kept(&there_and_back(error)))
            };
            assert_eq!(before, after);
        }
    }

    #[test]
    fn requests_and_replies_survive_the_way() {
        let expect = Expectation {
            mac: "02:00:00:00:0a:01".parse().unwrap(),
            owner: 1000,
            netns: Some(NetnsIdentity { dev: 4, ino: u64::MAX }),
            ifindex: Some(7),
        };
        let netns = Some(NetnsRef("/proc/7/ns/net".to_owned()));
        let request = Request::Remove { netns, ifname: "eth0".to_owned(), expect };
        let text = serde_json::to_vec(&request).unwrap();
        assert_eq!(serde_json::from_slice::<Request>(&text).unwrap(), request);
        let reply = Reply::Seen(vec![Ok(None), Err("no".to_owned())]);
        let text = serde_json::to_vec(&reply).unwrap();
        assert_eq!(serde_json::from_slice::<Reply>(&text).unwrap(), reply);
    }
}
