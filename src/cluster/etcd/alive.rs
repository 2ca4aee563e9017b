//! A node's signs of life: a lease, and from time to time a note of when it was there.

use std::time::Duration;

use tokio::time::Instant;

use super::Etcd;
use super::client::{Failure, Stream};
use super::mirror::{Seen, alive_key, node_key, seen_key};
use super::plan::Writes;
use super::session::{Session, TICK};
use super::wire;
use crate::cluster::store::Update;
use crate::durable;

/// However long the grace is, an operator may want to know when a node was there.
const SELDOM: Duration = Duration::from_secs(3600);

type KeepAlive = Stream<wire::LeaseKeepAliveRequest, wire::LeaseKeepAliveResponse>;

pub(super) struct Lease {
    pub(super) id: i64,
    pub(super) stream: KeepAlive,
    asked: Instant,
    answered: Instant,
}

/// How often a node says that it was there: nobody takes anything over before the grace has passed,
/// or ever, where there is none.
fn seen_every(grace: Duration) -> Duration {
    if grace.is_zero() { SELDOM } else { (grace / 10).clamp(TICK, SELDOM) }
}

impl Etcd {
    /// An answer without time left, or none, is a lease that is no more: there will be another.
    pub(super) async fn kept_alive(
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

    /// Keeps the lease, and from time to time says that this node was there.
    pub(super) async fn stay_alive(&mut self, session: &mut Session) -> Result<(), Failure> {
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
            session.seen_due = now + seen_every(self.config.grace);
            let seen = Seen { identity: self.own.identity.clone(), at_ms: durable::unix_ms() };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_of_life_costs_a_write_and_is_given_as_seldom_as_will_do() {
        let seconds = |grace| seen_every(Duration::from_secs(grace)).as_secs();
        assert_eq!(
            [seconds(0), seconds(1), seconds(600), seconds(7 * 86_400)],
            [3600, 1, 60, 3600]
        );
    }
}
