//! The Kubernetes API as a store: the Nodes are the members, the API server gives each its
//! podCIDRs, and what it does not know of a node are annotations that the node itself writes.
//!
//! All Nodes are listed in pages and then watched; what a Node means is [`object`]'s business, what
//! the server says [`wire`]'s. The annotations are written as strategic merge patches, only where
//! they differ, and never on a Node of another uid than the one that was read.

mod api;
mod failure;
mod follow;
pub mod object;
mod own;
mod publish;
pub mod wire;

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use self::api::Api;
pub use self::api::Patience;
pub use self::failure::Failure;
use super::backoff::Backoff;
use super::store::{Gone, Link, Object as Record, Order, Own, Update};
use crate::config::Kubernetes;

/// How often and how long. The defaults are for the field; tests have others.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long an answer is waited for.
    pub patience: Patience,
    /// How many Nodes are asked for at a time.
    pub page: usize,
    /// The first delay after a failure, before chance shortens it.
    pub first: Duration,
    /// The longest.
    pub most: Duration,
    /// After how long a watch is made anew, before chance shortens it.
    pub watch: Duration,
    /// How much longer than it was to last a watch may be silent.
    pub grace: Duration,
    /// A watch that lasted so long was none of a series of failures.
    pub steady: Duration,
    /// After how much silence the server is asked whether it is there: a watch over a connection
    /// that a firewall forgot is silent as well.
    pub idle: Duration,
    /// How soon after a change of the own Node it may be changed again.
    pub again: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            patience: Patience::default(),
            page: 500,
            first: Duration::from_millis(500),
            most: Duration::from_secs(30),
            watch: Duration::from_secs(300),
            grace: Duration::from_secs(20),
            steady: Duration::from_secs(10),
            idle: Duration::from_secs(90),
            again: Duration::from_secs(1),
        }
    }
}

/// The Nodes of a Kubernetes cluster as the members of ours: a task that ends when nobody listens.
#[derive(Debug)]
pub struct Store {
    api: Api,
    pace: Pace,
    backoff: Backoff,
    link: Link,
    /// Whether the network of this node works.
    works: watch::Receiver<bool>,
    /// The own Node.
    name: String,
    /// What is said of it; `None`: nothing any more, it was given back.
    own: Option<Own>,
    node: Option<object::Object>,
    writing: own::Writing,
    /// From where a watch goes on; `None`: everything is to be listed.
    version: Option<String>,
    /// What was reported of each Node last.
    reported: HashMap<String, Record>,
    /// What stands in the way of this node's membership, as reported last.
    refused: Option<String>,
    failures: Failures,
}

/// What was tried in vain lately.
#[derive(Debug, Default)]
struct Failures {
    in_a_row: u32,
    /// As it was logged last.
    said: Option<String>,
}

/// Why something ended.
#[derive(Debug)]
enum Stop {
    /// The server.
    Failed(Failure),
    /// Nobody listens.
    Gone,
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Store {
    /// The store that a configuration describes, for a node that says `own` of itself. `works` is
    /// whether this node's network works: its podCIDR is known, its gateway port and underlay are
    /// up. Once it does, and not before, the own Node's `NetworkUnavailable` is set to False; it is
    /// never set to True.
    #[must_use]
    pub fn new(
        config: &Kubernetes,
        pace: Pace,
        own: Own,
        link: Link,
        works: watch::Receiver<bool>,
    ) -> Self {
        let name = config.node.to_string();
        let seed = RandomState::new().hash_one(&name);
        Self {
            api: Api::new(config.kubeconfig.clone(), pace.patience),
            pace,
            backoff: Backoff::new(pace.first, pace.most, seed),
            link,
            works,
            name,
            own: Some(own),
            node: None,
            writing: own::Writing::new(pace, seed),
            version: None,
            reported: HashMap::new(),
            refused: None,
            failures: Failures::default(),
        }
    }

    /// Lists, follows, publishes and reports, until nobody listens any more.
    pub async fn run(mut self) {
        while let Ok(()) = self.step().await {}
    }

    async fn step(&mut self) -> Result<(), Gone> {
        while let Ok(order) = self.link.orders.try_recv() {
            self.obey(order).await?;
        }
        let began = Instant::now();
        let listing = self.version.is_none();
        let outcome = match self.version.clone() {
            None => self.list().await,
            Some(version) => self.follow(&version).await,
        };
        let steady = !listing && began.elapsed() >= self.pace.steady;
        if steady {
            self.backoff.reset();
            self.failures.in_a_row = 0;
        }
        match outcome {
            Ok(()) if listing || steady || self.version.is_none() => Ok(()),
            // A server that ends each watch at once is as bad as one that refuses them.
            Ok(()) => {
                let delay = self.backoff.delay();
                self.pause(delay).await
            }
            Err(Stop::Gone) => Err(Gone),
            Err(Stop::Failed(failure)) => self.failed(failure).await,
        }
    }

    /// Draws the conclusions from a failure, and waits.
    async fn failed(&mut self, failure: Failure) -> Result<(), Gone> {
        self.failures.in_a_row = self.failures.in_a_row.saturating_add(1);
        match &failure {
            // What the server kept no longer reaches back to there.
            Failure::Gone(_) | Failure::Malformed(_) => self.version = None,
            // The files may have changed, and the server's address with them.
            Failure::Unauthorized(_) | Failure::Credentials(_) | Failure::Unreachable(_) => {
                self.api.forget();
            }
            _ if self.failures.in_a_row >= 3 => self.version = None,
            _ => {}
        }
        let delay = self.backoff.delay();
        let delay = failure.after().map_or(delay, |after| delay.max(after.min(self.pace.most)));
        if matches!(failure, Failure::Gone(_)) {
            info!(%failure, "the Nodes are listed anew");
        } else {
            self.trouble(failure.to_string()).await?;
        }
        self.pause(delay).await
    }

    async fn trouble(&mut self, said: String) -> Result<(), Gone> {
        if self.failures.said.as_ref() != Some(&said) {
            warn!("{said}; what is known of the cluster stays as it is");
            self.failures.said = Some(said.clone());
        }
        self.link.report(Update::Trouble(said)).await
    }

    async fn answered(&mut self) -> Result<(), Gone> {
        if self.failures.said.take().is_some() {
            info!("the API server answers again");
        }
        self.link.report(Update::Answered).await
    }

    /// Waits, and takes orders meanwhile. They are carried out as soon as the server answers again.
    async fn pause(&mut self, delay: Duration) -> Result<(), Gone> {
        let until = Instant::now() + delay;
        loop {
            tokio::select! {
                order = self.link.orders.recv() => self.obey(order.ok_or(Gone)?).await?,
                () = self.link.updates.closed() => return Err(Gone),
                () = sleep_until(until) => return Ok(()),
            }
        }
    }

    async fn obey(&mut self, order: Order) -> Result<(), Gone> {
        match order {
            Order::Publish(own) => {
                // What was given back is not claimed again.
                self.own = self.own.as_ref().map(|_| own);
                self.writing.at_once();
                self.report_own().await
            }
            Order::Release(release) => self.release(release).await,
            Order::Relist => {
                self.version = None;
                Ok(())
            }
            Order::Accept => {
                self.writing.accept();
                Ok(())
            }
        }
    }
}
