//! A session with one endpoint: list, watch, claim, stay alive.

use std::future::pending;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::Etcd;
use super::client::{Client, Failure, Stream};
use super::mirror::{Mirror, Seen, alive_key, node_key, seen_key};
use super::plan::{self, Plan, Situation, Writes};
use super::wire;
use crate::cluster::model::Node;
use crate::cluster::store::{Gone, Order, Release, Update};

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
const TICK: Duration = Duration::from_secs(1);

type Watch = Stream<wire::WatchRequest, wire::WatchResponse>;
type KeepAlive = Stream<wire::LeaseKeepAliveRequest, wire::LeaseKeepAliveResponse>;

struct Lease {
    id: i64,
    stream: KeepAlive,
    asked: Instant,
    answered: Instant,
}

struct Session {
    client: Client,
    watch: Watch,
    lease: Option<Lease>,
    lease_due: Instant,
    settle_due: Instant,
    seen_due: Instant,
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
        let settle = async {
            match self.settled {
                true => pending().await,
                false => tokio::time::sleep_until(session.settle_due).await,
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

    /// An answer without time left, or none, is a lease that is no more: there will be another.
    async fn kept_alive(
        &self,
        session: &mut Session,
        kept: Result<Option<wire::LeaseKeepAliveResponse>, tonic::Status>,
    ) -> Result<(), Failure> {
        match (kept, &mut session.lease) {
            (Ok(Some(answer)), Some(lease)) if answer.ttl > 0 => {
                lease.answered = Instant::now();
                self.link.report(Update::Answered).await?;
            }
            _ => session.lease = None,
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

    /// Carries out a transaction, and takes in and reports what it has written. Returns whether it
    /// did: not, if something is no longer as it was read.
    async fn write(&mut self, session: &Session, writes: &Writes) -> Result<bool, Failure> {
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
        if !self.settled && session.settle_due <= now {
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
            now_ms: unix_ms(),
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

    /// Keeps the lease, and from time to time says that this node was there.
    async fn stay_alive(&mut self, session: &mut Session) -> Result<(), Failure> {
        let now = Instant::now();
        if let Some(lease) = &mut session.lease {
            if now.duration_since(lease.answered) >= self.config.lease {
                return Err(Failure::Trouble("the lease was not renewed in its time".to_owned()));
            }
            if now.duration_since(lease.asked) >= self.config.lease / 3 {
                lease.asked = now;
                let request = wire::LeaseKeepAliveRequest { id: lease.id };
                if lease.stream.ask.try_send(request).is_err() {
                    session.lease = None;
                }
            }
        }
        if session.lease.is_none() && session.lease_due <= now {
            session.lease_due = now + TICK;
            match self.lease(session).await {
                Ok(lease) => session.lease = lease,
                Err(Failure::Denied(why)) => tracing::warn!("cluster: no lease: {why}"),
                Err(failure) => return Err(failure),
            }
        }
        if session.seen_due <= now {
            // Nobody takes anything over before the grace has passed: that often is often enough.
            let often = (self.config.grace / 10).clamp(TICK, Duration::from_secs(3600));
            session.seen_due = now + often;
            let seen = Seen { identity: self.own.identity.clone(), at_ms: unix_ms() };
            let text = serde_json::to_vec(&seen).unwrap_or_default();
            let mut writes = Writes::default();
            let node = node_key(&self.own.name);
            writes.unchanged.insert(node.clone(), self.mirror.modified(&node));
            writes.keys.insert(seen_key(&self.own.name), Some(text));
            match self.write(session, &writes).await {
                Ok(_) => {}
                Err(Failure::Denied(why)) => tracing::warn!("cluster: not seen: {why}"),
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// A new lease, with this node's sign of life bound to it; `None` if the record is not this
    /// node's any more.
    async fn lease(&mut self, session: &Session) -> Result<Option<Lease>, Failure> {
        let ttl = i64::try_from(self.config.lease.as_secs()).unwrap_or(i64::MAX);
        let id = session.client.grant(ttl).await?;
        let node = node_key(&self.own.name);
        let key = alive_key(&self.own.name);
        let value = self.own.identity.clone().into_bytes();
        let compare = wire::Compare {
            result: 0,
            target: wire::COMPARE_MOD,
            key: self.mirror.absolute(&node),
            mod_revision: Some(self.mirror.modified(&node)),
        };
        let put = wire::PutRequest { key: self.mirror.absolute(&key), value, lease: id };
        let operation = wire::RequestOp { request: Some(wire::Operation::Put(put.clone())) };
        let request = wire::TxnRequest { compare: vec![compare], success: vec![operation] };
        let answer = session.client.txn(request).await?;
        if !answer.succeeded {
            session.client.revoke(id).await?;
            return Ok(None);
        }
        let revision = answer.header.unwrap_or_default().revision;
        self.mirror.written(&key, Some(put.value), revision);
        let stream = session.client.keep_alive(id).await?;
        let now = Instant::now();
        Ok(Some(Lease { id, stream, asked: now, answered: now }))
    }
}

fn unix_ms() -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(unix.as_millis()).unwrap_or(u64::MAX)
}
