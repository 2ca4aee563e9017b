//! A session with one endpoint: list, watch, claim, stay alive.

use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::Etcd;
use super::alive::Lease;
use super::client::{Client, Failure, Stream};
use super::mirror::{Mirror, alive_key, node_key};
use super::plan::{self, Plan, Situation, Writes};
use super::wire;
use crate::cluster::model::Node;
use crate::cluster::store::{Gone, Order, Release, Update};
use crate::durable;

/// How many keys are asked for at once.
const PAGE: i64 = 2000;
/// More is not a cluster; it would only fill the memory.
const MAX_KEYS: usize = 1_000_000;
/// Everything is listed again after this, in case an event was lost.
const RELIST: Duration = Duration::from_secs(600);
/// What was refused is tried again after this.
const RETRY: Duration = Duration::from_secs(10);
/// After losing to another node its claim is waited for at most this long.
const CONFLICT: Duration = Duration::from_millis(200);
/// How often something is looked at that nothing tells of.
pub(super) const TICK: Duration = Duration::from_secs(1);

type Watch = Stream<wire::WatchRequest, wire::WatchResponse>;

pub(super) struct Session {
    pub(super) client: Client,
    watch: Watch,
    pub(super) lease: Option<Lease>,
    pub(super) lease_due: Instant,
    settle_due: Instant,
    pub(super) seen_due: Instant,
    relist_due: Instant,
    conflicts: u32,
}

enum News {
    Watched(Result<Option<wire::WatchResponse>, tonic::Status>),
    KeptAlive(Result<Option<wire::LeaseKeepAliveResponse>, tonic::Status>),
    Ordered(Option<Order>),
    Tick,
}

impl Etcd {
    /// Speaks with an endpoint until that does not work any more; why, is what it returns.
    pub(super) async fn session(&mut self, endpoint: &str) -> Failure {
        let mut session = match self.open(endpoint).await {
            Ok(session) => session,
            Err(failure) => return failure,
        };
        let failure = loop {
            if let Err(failure) = self.turn(&mut session).await {
                break failure;
            }
        };
        if let (Failure::Gone(_), Some(lease)) = (&failure, &session.lease) {
            // Whoever waits for this node's end, as its release does, need not wait for the lease.
            let _ = timeout(TICK, session.client.revoke(lease.id)).await;
        }
        failure
    }

    async fn open(&mut self, endpoint: &str) -> Result<Session, Failure> {
        let client = Client::connect(&self.config, endpoint).await?;
        if !self.can_resume(&client).await? {
            self.list(&client).await?;
        }
        let watch = self.watch(&client).await?;
        self.link.report(Update::Answered).await?;
        let now = Instant::now();
        tracing::debug!(endpoint, revision = self.mirror.revision, "cluster: etcd is watched");
        Ok(Session {
            client,
            watch,
            lease: None,
            lease_due: now,
            settle_due: now,
            seen_due: now,
            relist_due: now + self.jittered(RELIST),
            conflicts: 0,
        })
    }

    fn jittered(&mut self, whole: Duration) -> Duration {
        self.backoff.part_of(whole)
    }

    /// Whether etcd still is the one that was listed. One that was restored from a backup has gone
    /// back in time: then its revision is lower, or this node's record another.
    async fn can_resume(&mut self, client: &Client) -> Result<bool, Failure> {
        if self.mirror.revision == 0 {
            return Ok(false);
        }
        let key = node_key(&self.own.name);
        let request =
            wire::RangeRequest { key: self.mirror.absolute(&key), ..wire::RangeRequest::default() };
        let answer = client.range(request).await?;
        let header = answer.header.unwrap_or_default();
        let modified = answer.kvs.first().map_or(0, |kv| kv.mod_revision);
        let is_same = header.cluster_id == self.mirror.server
            && header.revision >= self.mirror.revision
            && (!self.settled || modified == self.mirror.modified(&key));
        if !is_same {
            tracing::warn!(
                before = self.mirror.revision,
                now = header.revision,
                "cluster: etcd is not what it was (restored from a backup?); everything is listed"
            );
        }
        Ok(is_same)
    }

    /// Lists everything and reports it.
    async fn list(&mut self, client: &Client) -> Result<(), Failure> {
        let (mut key, range_end) = self.mirror.range();
        let (mut kvs, mut revision, mut server) = (Vec::new(), 0, 0);
        loop {
            let range_end = range_end.clone();
            let page = wire::RangeRequest { key, range_end, limit: PAGE, revision };
            let page = client.range(page).await?;
            let header = page.header.unwrap_or_default();
            if revision == 0 {
                (revision, server) = (header.revision, header.cluster_id);
            }
            let last = page.kvs.last().map(|kv| kv.key.clone());
            kvs.extend(page.kvs);
            if kvs.len() > MAX_KEYS {
                let text = format!("more than {MAX_KEYS} keys below {}", self.config.prefix);
                return Err(Failure::Trouble(text));
            }
            let Some(last) = last.filter(|_| page.more) else { break };
            key = last;
            key.push(0);
        }
        let mut fresh = Mirror::new(&self.config.prefix);
        fresh.replace(kvs, revision, server);
        self.recognise(&fresh)?;
        self.mirror = fresh;
        self.settled = false;
        if let Some(cluster) = &self.cluster {
            self.link.report(Update::Cluster(cluster.clone())).await?;
        }
        Ok(self.link.report(Update::Listed(self.mirror.objects())).await?)
    }

    /// Another cluster than this node's is not believed: its nodes have nothing to do with the pods
    /// that are here.
    fn recognise(&mut self, fresh: &Mirror) -> Result<(), Failure> {
        let Some(Ok(record)) = fresh.cluster() else { return Ok(()) };
        match &self.cluster {
            Some(own) if *own != record.id => Err(Failure::Trouble(format!(
                "{} holds the cluster {}, and this node belongs to {own}; the last good state stays \
                 until an operator accepts the other",
                self.config.prefix, record.id
            ))),
            _ => {
                self.cluster = Some(record.id);
                Ok(())
            }
        }
    }

    async fn watch(&self, client: &Client) -> Result<Watch, Failure> {
        let (key, range_end) = self.mirror.range();
        let start_revision = self.mirror.revision + 1;
        let request =
            wire::WatchCreateRequest { key, range_end, start_revision, progress_notify: true };
        client.watch(request).await
    }

    /// Waits for one thing that happens, and does what follows.
    async fn turn(&mut self, session: &mut Session) -> Result<(), Failure> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.reset();
        let is_to_settle = self.is_to_settle();
        let settle = async {
            match is_to_settle {
                true => tokio::time::sleep_until(session.settle_due).await,
                false => pending().await,
            }
        };
        let kept = async {
            match &mut session.lease {
                Some(lease) => lease.stream.answers.message().await,
                None => pending().await,
            }
        };
        let news = tokio::select! {
            watched = session.watch.answers.message() => News::Watched(watched),
            kept = kept => News::KeptAlive(kept),
            order = self.link.orders.recv() => News::Ordered(order),
            () = settle => News::Tick,
            _ = tick.tick() => News::Tick,
        };
        match news {
            News::Watched(watched) => self.watched(session, watched?).await?,
            News::KeptAlive(kept) => self.kept_alive(session, kept).await?,
            News::Ordered(order) => self.ordered(session, order.ok_or(Gone)?).await?,
            News::Tick => {}
        }
        self.tend(session).await
    }

    async fn watched(
        &mut self,
        session: &mut Session,
        answer: Option<wire::WatchResponse>,
    ) -> Result<(), Failure> {
        let Some(answer) = answer else {
            return Err(Failure::Trouble("etcd has ended the watch".to_owned()));
        };
        if answer.compact_revision > 0 {
            return Err(Failure::Compacted);
        }
        if answer.canceled {
            let text = format!("etcd has cancelled the watch: {}", answer.cancel_reason);
            return Err(Failure::Trouble(text));
        }
        if answer.events.is_empty() {
            return Ok(self.link.report(Update::Answered).await?);
        }
        for event in answer.events {
            let Some(key) = self.mirror.apply(event) else { continue };
            if key == alive_key(&self.own.name) && !self.mirror.is_alive(&self.own.name) {
                session.lease = None;
                session.lease_due = Instant::now();
            }
            if let Some((key, object)) = self.mirror.object(&key) {
                let update = match object {
                    Some(object) => Update::Put(key, object),
                    None => Update::Deleted(key),
                };
                self.link.report(update).await?;
            }
            self.settled = false;
        }
        let now = Instant::now();
        if session.conflicts > 0 {
            session.settle_due = now;
        } else if self.refused.is_some() {
            session.settle_due = session.settle_due.min(now + TICK);
        }
        Ok(())
    }

    async fn ordered(&mut self, session: &mut Session, order: Order) -> Result<(), Failure> {
        match order {
            Order::Publish(own) => {
                self.publish(own);
                session.settle_due = Instant::now();
            }
            Order::Relist => session.relist_due = Instant::now(),
            Order::Accept => {
                self.accept();
                session.relist_due = Instant::now();
            }
            Order::Release(release) => self.release(session, release).await?,
        }
        Ok(())
    }

    async fn release(&mut self, session: &mut Session, release: Release) -> Result<(), Failure> {
        let planned = plan::release(&self.mirror, &release.node, &self.own, release.force);
        let outcome = match planned {
            Err(why) => Err(why),
            Ok((shares, writes)) => match self.write(session, &writes).await {
                Ok(true) => {
                    if release.node == self.own.name {
                        self.given_back(session).await?;
                    }
                    let shares: Vec<String> = shares.iter().map(ToString::to_string).collect();
                    Ok(format!("node \"{}\" has given back {}", release.node, shares.join(", ")))
                }
                Ok(false) => Err("something has changed meanwhile; try again".to_owned()),
                Err(failure) => Err(failure.to_string()),
            },
        };
        let _ = release.answer.send(outcome);
        Ok(())
    }

    /// This node holds nothing any more, and claims nothing until it is started again.
    async fn given_back(&mut self, session: &mut Session) -> Result<(), Failure> {
        (self.is_given_back, self.is_recorded) = (true, false);
        self.held.clear();
        if let Some(lease) = session.lease.take() {
            let _ = timeout(TICK, session.client.revoke(lease.id)).await;
        }
        self.link.report(Update::GivenBack).await?;
        let why = "it has given back its share, and takes one again when it is started again";
        self.refused = Some(why.to_owned());
        Ok(self.link.report(Update::Refused(self.refused.clone())).await?)
    }

    const fn is_to_settle(&self) -> bool {
        !self.settled && !self.is_given_back
    }

    /// Carries out a transaction, and takes in and reports what it has written. Returns whether it
    /// did: not, if something is no longer as it was read.
    pub(super) async fn write(
        &mut self,
        session: &Session,
        writes: &Writes,
    ) -> Result<bool, Failure> {
        let answer = session.client.txn(writes.request(&self.mirror)).await?;
        if !answer.succeeded {
            return Ok(false);
        }
        let revision = answer.header.unwrap_or_default().revision;
        for (key, value) in &writes.keys {
            self.mirror.written(key, value.clone(), revision);
            if let Some((key, object)) = self.mirror.object(key) {
                let update = object.map_or_else(
                    || Update::Deleted(key.clone()),
                    |object| Update::Put(key.clone(), object),
                );
                self.link.report(update).await?;
            }
        }
        Ok(true)
    }

    /// Does what is due.
    async fn tend(&mut self, session: &mut Session) -> Result<(), Failure> {
        let now = Instant::now();
        if session.relist_due <= now {
            session.relist_due = now + self.jittered(RELIST);
            session.settle_due = now;
            self.list(&session.client).await?;
            session.watch = self.watch(&session.client).await?;
        }
        if self.is_to_settle() && session.settle_due <= now {
            self.settle(session).await?;
        }
        if self.is_recorded {
            self.stay_alive(session).await?;
        } else if session.seen_due <= now {
            // A node with a lease hears from etcd all the time, one without has to ask.
            session.seen_due = now + self.config.lease;
            let key = self.mirror.absolute(&node_key(&self.own.name));
            session.client.range(wire::RangeRequest { key, ..Default::default() }).await?;
            self.link.report(Update::Answered).await?;
        }
        Ok(())
    }

    /// Sees to it that this node's claim is what it is to be.
    async fn settle(&mut self, session: &mut Session) -> Result<(), Failure> {
        let cluster = self.cluster_identity()?;
        let chance = self.next_chance();
        let planned = plan::plan(&Situation {
            mirror: &self.mirror,
            own: &self.own,
            networks: &self.networks,
            grace: self.config.grace,
            held: &self.held,
            cluster: &cluster,
            now_ms: durable::unix_ms(),
            conflicts: session.conflicts,
            chance,
        });
        let now = Instant::now();
        match planned {
            Plan::Settled(node) => self.is_settled(session, node).await?,
            Plan::Refused(why) => self.refuse(session, why).await?,
            Plan::Write(node, writes) => match self.write(session, &writes).await {
                Ok(true) => {
                    if let Some(Ok(record)) = self.mirror.cluster() {
                        self.cluster = Some(record.id.clone());
                        self.link.report(Update::Cluster(record.id)).await?;
                    }
                    self.is_settled(session, node).await?;
                }
                Ok(false) => {
                    session.conflicts += 1;
                    session.settle_due = now + self.jittered(CONFLICT);
                    // What was not told in the meantime has to be asked for.
                    if session.conflicts.is_multiple_of(8) {
                        session.relist_due = session.settle_due;
                    }
                }
                Err(Failure::Denied(why)) => self.refuse(session, why).await?,
                Err(failure) => return Err(failure),
            },
        }
        Ok(())
    }

    async fn is_settled(&mut self, session: &mut Session, node: Node) -> Result<(), Failure> {
        self.settled = true;
        self.is_recorded = true;
        self.held = node.pod_cidrs;
        session.conflicts = 0;
        if self.refused.take().is_some() {
            self.link.report(Update::Refused(None)).await?;
        }
        Ok(())
    }

    async fn refuse(&mut self, session: &mut Session, why: String) -> Result<(), Failure> {
        session.settle_due = Instant::now() + self.jittered(RETRY);
        let record = self.mirror.node(&self.own.name);
        self.is_recorded =
            record.is_some_and(|r| r.is_ok_and(|node| node.identity == self.own.identity));
        if self.refused.as_ref() != Some(&why) {
            self.refused = Some(why.clone());
            self.link.report(Update::Refused(Some(why))).await?;
        }
        Ok(())
    }
}
