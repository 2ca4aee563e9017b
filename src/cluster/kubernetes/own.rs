//! The own Node: waiting for it and for its podCIDR, writing what others read, and giving it back.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;
use tracing::{info, warn};

use super::api::Part;
use super::failure::Failure;
use super::object::{IDENTITY, Object, VTEP};
use super::{Pace, Store, follow, publish};
use crate::cluster::backoff::Backoff;
use crate::cluster::store::{Gone, Object as Record, Own, Release, Update};

/// When to write next, and whether at all.
#[derive(Debug)]
pub(super) struct Writing {
    /// When there may be something to write; `None`: when something changes.
    due: Option<Instant>,
    /// Not before this.
    not_before: Option<Instant>,
    backoff: Backoff,
    /// The machine's identity under which the own Node's annotations were seen or written.
    established: bool,
    /// Another machine writes the own Node, and this one has given in.
    yielded: bool,
    again: Duration,
}

impl Writing {
    pub(super) fn new(pace: Pace, seed: u64) -> Self {
        Self {
            due: None,
            not_before: None,
            backoff: Backoff::new(pace.first, pace.most.max(pace.again), seed ^ 0x5bd1_e995),
            established: false,
            yielded: false,
            again: pace.again,
        }
    }

    /// Something has changed.
    pub(super) fn at_once(&mut self) {
        self.due = Some(Instant::now());
    }

    /// An operator says that this machine is the right one.
    pub(super) fn accept(&mut self) {
        (self.established, self.yielded) = (false, false);
        self.at_once();
    }

    /// When to write; `None`: nothing is to be written.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        self.due.map(|due| due.max(self.not_before.unwrap_or(now)))
    }

    fn done(&mut self) {
        self.due = None;
        self.backoff.reset();
    }

    fn wrote(&mut self) {
        self.not_before = Some(Instant::now() + self.again);
    }

    fn failed(&mut self, failure: &Failure) {
        let delay = self.backoff.delay().max(failure.after().unwrap_or_default());
        let at = Instant::now() + delay;
        (self.due, self.not_before) = (Some(at), Some(at));
    }
}

impl Store {
    /// The own Node as it is now. What comes late, after an answer that was newer, is not taken.
    pub(super) fn found(&mut self, object: Object) {
        let number = |object: &Object| object.metadata.resource_version.parse::<u64>().ok();
        let late = self.node.as_ref().is_some_and(|known| {
            known.metadata.uid == object.metadata.uid && number(known) > number(&object)
        });
        if !late {
            self.node = Some(object);
            self.writing.at_once();
        }
    }

    /// This node as a member: what it says of itself, with the shares that its Node has. That the
    /// others cannot read it yet is no reason not to begin.
    pub(super) fn own_record(&self) -> Option<Record> {
        let node = self.node.as_ref()?;
        let Some(own) = self.own.as_ref().filter(|_| !self.writing.yielded) else {
            return follow::record(node);
        };
        match node.shares() {
            Ok(shares) if shares.is_empty() => None,
            Ok(shares) => {
                let mut record = own.node(shares);
                for address in node.internal_addresses() {
                    if !record.addresses.contains(&address) {
                        record.addresses.push(address);
                    }
                }
                Some(Ok(record))
            }
            Err(reason) => Some(Err(reason)),
        }
    }

    /// Reports this node, where there was a list to which it belongs.
    pub(super) async fn report_own(&mut self) -> Result<(), Gone> {
        if self.version.is_none() {
            return Ok(());
        }
        let record = self.own_record();
        self.report(self.name.clone(), record).await
    }

    /// Writes what differs, if it is time, and reports what is in the way.
    pub(super) async fn write(&mut self) -> Result<(), Gone> {
        let now = Instant::now();
        if self.writing.not_before.is_some_and(|not_before| now < not_before) {
            return Ok(());
        }
        let obstacle = match self.written().await {
            Ok(obstacle) => {
                self.writing.done();
                obstacle
            }
            Err(failure) => {
                self.write_failed(&failure).await;
                Some(format!("this node's annotations cannot be written: {failure}"))
            }
        };
        self.report_own().await?;
        self.refuse(obstacle).await
    }

    async fn write_failed(&mut self, failure: &Failure) {
        match failure {
            Failure::Unauthorized(_) | Failure::Credentials(_) | Failure::Unreachable(_) => {
                self.api.forget();
            }
            // It was changed or made anew: what it is now says the next event, or this answer.
            Failure::Conflict(_) => match self.api.node(&self.name).await {
                Ok(object) => self.node = Some(object),
                Err(Failure::NotFound(_)) => self.node = None,
                Err(_) => {}
            },
            Failure::NotFound(_) => self.node = None,
            _ => {}
        }
        self.writing.failed(failure);
    }

    /// Brings the own Node to what it should say, and returns what stands in the way of that.
    async fn written(&mut self) -> Result<Option<String>, Failure> {
        let name = self.name.clone();
        let Some(node) = &self.node else {
            return Ok(Some(format!(
                "the API server has no Node {name:?}: this node is no member until its kubelet has \
                 registered it (or set cluster.kubernetes.node to its right name)"
            )));
        };
        let Some(own) = &self.own else { return Ok(None) };
        if let Some(other) = self.writing.other_machine(node, own) {
            return Ok(Some(other));
        }
        match publish::annotations(node, own) {
            Err(error) => return Ok(Some(error.to_string())),
            Ok(None) => {}
            Ok(Some(patch)) => {
                let object = self.api.patch(&name, Part::Object, &patch).await?;
                info!(node = name, "annotations written");
                self.writing.wrote();
                self.node = Some(object);
            }
        }
        self.writing.established = true;
        let Some(node) = &self.node else { return Ok(None) };
        match node.shares() {
            Err(reason) => return Ok(Some(reason)),
            Ok(shares) if shares.is_empty() => {
                return Ok(Some(format!(
                    "Node {name:?} has no podCIDR yet; kube-controller-manager gives it one if it \
                     runs with --allocate-node-cidrs=true and --cluster-cidr"
                )));
            }
            Ok(_) => {}
        }
        if *self.works.borrow_and_update() {
            let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            if let Some(patch) = publish::network_works(node, &now) {
                let object = self.api.patch(&name, Part::Status, &patch).await?;
                info!(node = name, "NetworkUnavailable set to False");
                self.writing.wrote();
                self.node = Some(object);
            }
        }
        Ok(None)
    }

    /// Reports what stands in the way of this node's membership, if that is something else now.
    async fn refuse(&mut self, obstacle: Option<String>) -> Result<(), Gone> {
        if self.refused == obstacle {
            return Ok(());
        }
        if let Some(obstacle) = &obstacle {
            warn!("{obstacle}");
        }
        self.refused.clone_from(&obstacle);
        self.link.report(Update::Refused(obstacle)).await
    }

    /// Takes the annotations off a Node. Its podCIDR is not ours to give back.
    pub(super) async fn release(&mut self, release: Release) -> Result<(), Gone> {
        let Release { node, force, answer } = release;
        let outcome = self.released(&node, force).await;
        // Who asked may have gone away meanwhile.
        let _ = answer.send(outcome);
        self.report_own().await
    }

    async fn released(&mut self, name: &str, force: bool) -> Result<String, String> {
        let node = self.api.node(name).await.map_err(|failure| failure.to_string())?;
        // Of its own pods the daemon has made sure before it asks.
        let alive = name != self.name && node.condition("Ready") == Some("True");
        if alive && !force {
            return Err(format!("Node {name:?} seems to be alive; with force it is done even so"));
        }
        let Some(patch) = publish::withdrawal(&node) else {
            return Err(format!("Node {name:?} has no annotations of ours"));
        };
        // What is given back is not written again meanwhile; what could not be given back is this
        // node's as before.
        let own = if name == self.name { self.own.take() } else { None };
        let object = match self.api.patch(name, Part::Object, &patch).await {
            Ok(object) => object,
            Err(failure) => {
                self.own = self.own.take().or(own);
                return Err(failure.to_string());
            }
        };
        if name == self.name {
            self.node = Some(object);
        }
        Ok(format!(
            "the annotations of Node {name:?}; its podCIDR stays the Node's until that is deleted"
        ))
    }
}

impl Writing {
    /// Whether another machine has written the own Node since this one did. It was there later and
    /// is wrong, but writing against it would never end: who finds the other's words gives in.
    fn other_machine(&mut self, node: &Object, own: &Own) -> Option<String> {
        let theirs = node.annotation(IDENTITY).filter(|identity| *identity != own.identity);
        self.yielded = theirs.is_some() && (self.yielded || self.established);
        let theirs = theirs.filter(|_| self.yielded)?;
        Some(format!(
            "another machine ({IDENTITY} {theirs:?}, {VTEP} {:?}) takes itself for Node {:?}; \
             this one ({:?}, {}) no longer writes it",
            node.annotation(VTEP).unwrap_or_default(),
            node.metadata.name,
            own.identity,
            own.vtep,
        ))
    }
}
