//! etcd as the cluster's store.
//!
//! One session at a time with one endpoint: everything below the prefix is listed once and then
//! watched. When a session ends the next endpoint has its turn, and the watch is resumed where it
//! was if etcd still is what it was; else everything is listed again. How claims work is said in
//! `plan.rs`, what is where in `mirror.rs`.

mod alive;
mod client;
mod gaps;
mod mirror;
mod plan;
mod session;
mod wire;

use std::time::Duration;

use ipnet::IpNet;
use tokio::time::{Instant, sleep_until};

use super::backoff::Backoff;
use super::identity;
use super::store::{Gone, Link, Order, Own, Update};
use crate::config::{self, Network};
use client::Failure;
use mirror::Mirror;

/// After a failure the next endpoint is tried after this, and ever later up to the most.
const FIRST_DELAY: Duration = Duration::from_millis(250);
const MOST_DELAY: Duration = Duration::from_secs(20);
/// A session that lasted this long was one: the failures before it do not count any more.
const STEADY: Duration = Duration::from_secs(10);

/// etcd as the store of a cluster.
#[derive(Debug)]
pub struct Etcd {
    config: config::Etcd,
    networks: Vec<Network>,
    own: Own,
    link: Link,
    mirror: Mirror,
    /// The cluster that this node belongs to: another one in etcd is not believed.
    cluster: Option<String>,
    /// The podCIDRs that this node has had.
    held: Vec<IpNet>,
    /// Whether this node's claim is as it is to be.
    settled: bool,
    /// Whether the record of this name is this node's.
    is_recorded: bool,
    /// Whether this node has given back what it held: it claims nothing more.
    is_given_back: bool,
    refused: Option<String>,
    backoff: Backoff,
    /// Any number, another one each time.
    chance: u64,
    endpoint: usize,
}

impl Etcd {
    /// The store of a cluster with these networks. `cluster` is the cluster's identity, if this node
    /// has been a member of it before, `held` are the podCIDRs that it had.
    #[must_use]
    pub fn new(
        config: &config::Etcd,
        networks: &[Network],
        own: Own,
        cluster: Option<String>,
        held: Vec<IpNet>,
        link: Link,
    ) -> Self {
        // Two that start together differ by their identities, one that starts twice by the time.
        let seed = own.identity.bytes().fold(u64::from(std::process::id()), |seed, byte| {
            (seed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let endpoints = u64::try_from(config.endpoints.len().max(1)).unwrap_or(1);
        Self {
            mirror: Mirror::new(&config.prefix),
            config: config.clone(),
            networks: networks.to_vec(),
            link,
            cluster,
            held,
            settled: false,
            is_recorded: false,
            is_given_back: false,
            refused: None,
            backoff: Backoff::new(FIRST_DELAY, MOST_DELAY, seed),
            chance: seed,
            // Not everybody begins with the first one.
            endpoint: usize::try_from(seed % endpoints).unwrap_or_default(),
            own,
        }
    }

    /// Lists, watches and claims until nobody listens any more.
    pub async fn run(mut self) {
        while let Ok(()) = self.step().await {}
    }

    /// One session, and the pause after it.
    async fn step(&mut self) -> Result<(), Gone> {
        let began = Instant::now();
        let endpoint = self.config.endpoints.get(self.endpoint).cloned().unwrap_or_default();
        let failure = match self.session(&endpoint).await {
            Failure::Gone(gone) => return Err(gone),
            failure => failure,
        };
        if failure == Failure::Compacted {
            tracing::info!(endpoint, "cluster: {failure}; everything is listed again");
            self.mirror.revision = 0;
        } else {
            self.link.report(Update::Trouble(format!("{endpoint}: {failure}"))).await?;
        }
        if began.elapsed() >= STEADY {
            self.backoff.reset();
        }
        self.endpoint = (self.endpoint + 1) % self.config.endpoints.len().max(1);
        let pause = Instant::now() + self.backoff.delay();
        loop {
            tokio::select! {
                () = sleep_until(pause) => return Ok(()),
                order = self.link.orders.recv() => match order.ok_or(Gone)? {
                    Order::Publish(own) => self.publish(own),
                    Order::Release(release) => {
                        let why = format!("etcd cannot be asked: {endpoint}: {failure}");
                        let _ = release.answer.send(Err(why));
                    }
                    Order::Relist => self.mirror.revision = 0,
                    Order::Accept => self.accept(),
                },
            }
        }
    }

    fn publish(&mut self, own: Own) {
        self.own = own;
        self.settled = false;
    }

    /// Whatever cluster is in etcd is this node's.
    fn accept(&mut self) {
        self.cluster = None;
        self.mirror.revision = 0;
    }

    fn next_chance(&mut self) -> u64 {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.chance >> 33
    }

    /// The identity that the cluster is to get if it has none.
    fn cluster_identity(&mut self) -> Result<String, Failure> {
        if let Some(cluster) = &self.cluster {
            return Ok(cluster.clone());
        }
        identity::random().map_err(|error| Failure::Trouble(format!("no random UUID: {error}")))
    }
}
