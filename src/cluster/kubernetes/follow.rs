//! All Nodes, and what happens to them: the list and the watch.

use std::collections::HashMap;

use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::failure::Failure;
use super::object::{Meaning, NotANode, Object};
use super::wire::Event;
use super::{Stop, Store};
use crate::cluster::store::{Gone, Object as Record, Update};

/// A list that is longer does not end.
const MAX_NODES: usize = 100_000;

/// A list as it comes in.
#[derive(Default)]
struct Listed {
    /// Age, name, record.
    members: Vec<(Option<String>, String, Record)>,
    own: Option<Object>,
    seen: usize,
}

impl Store {
    /// Lists all Nodes, reports them, and notes from where a watch goes on.
    pub(super) async fn list(&mut self) -> Result<(), Stop> {
        let (listed, version) = self.whole_list().await?;
        self.answered().await?;
        self.node = listed.own;
        let mut members = listed.members;
        if let Some(own) = self.own_record() {
            members.retain(|(_, name, _)| *name != self.name);
            let age = self.node.as_ref().and_then(|node| node.metadata.creation_timestamp.clone());
            members.push((age, self.name.clone(), own));
        }
        members.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        let members: Vec<(String, Record)> =
            members.into_iter().map(|(_, name, record)| (name, record)).collect();
        self.reported = members.iter().cloned().collect::<HashMap<_, _>>();
        self.link.report(Update::Listed(members)).await?;
        self.version = Some(version);
        Ok(self.write().await?)
    }

    /// Every page. A list may be older than what the server keeps before it is whole: it is begun
    /// anew, and the third time asked for in one piece. (The token that comes with such a refusal
    /// continues from another version: what changed in between would be in neither part.)
    async fn whole_list(&mut self) -> Result<(Listed, String), Failure> {
        let (mut listed, mut next) = (Listed::default(), None::<String>);
        let (mut limit, mut anew) = (self.pace.page, 0);
        loop {
            let page = match self.api.list(limit, next.as_deref()).await {
                Err(Failure::Gone(_)) if next.is_some() && anew < 2 => {
                    anew += 1;
                    limit = if anew == 2 { 0 } else { limit };
                    (listed, next) = (Listed::default(), None);
                    continue;
                }
                answer => answer?,
            };
            listed.seen += page.nodes.len();
            if listed.seen > MAX_NODES {
                return Err(Failure::Malformed(format!("more than {MAX_NODES} Nodes")));
            }
            for node in page.nodes {
                self.enlist(&mut listed, node);
            }
            match page.next {
                Some(token) => next = Some(token),
                None => return Ok((listed, page.version)),
            }
        }
    }

    fn enlist(&self, listed: &mut Listed, node: Result<Object, NotANode>) {
        match node {
            Ok(object) => {
                let (name, age) =
                    (object.metadata.name.clone(), object.metadata.creation_timestamp.clone());
                if let Some(record) = record(&object) {
                    listed.members.push((age, name.clone(), record));
                }
                if name == self.name {
                    listed.own = Some(object);
                }
            }
            Err(error) if error.name.is_empty() => warn!("{error}"),
            Err(error) => listed.members.push((None, error.name, Err(error.reason))),
        }
    }

    /// Watches from a version on, until the server ends the watch or there is everything to list.
    pub(super) async fn follow(&mut self, version: &str) -> Result<(), Stop> {
        let lasting = self.backoff.part_of(self.pace.watch);
        let mut watch = self.api.watch(version, lasting).await?;
        self.answered().await?;
        let end = Instant::now() + lasting + self.pace.grace;
        let mut heard = Instant::now();
        while self.version.is_some() {
            let write = self.writing.next(Instant::now());
            tokio::select! {
                event = watch.event() => {
                    heard = Instant::now();
                    match event? {
                        Some(event) => self.take(event).await?,
                        None => return Ok(()),
                    }
                }
                order = self.link.orders.recv() => self.obey(order.ok_or(Gone)?).await?,
                // When nobody can say any more whether it works, the daemon is ending.
                changed = self.works.changed() => {
                    changed.map_err(|_| Stop::Gone)?;
                    self.writing.at_once();
                }
                () = self.link.updates.closed() => return Err(Stop::Gone),
                () = sleep_until(write.unwrap_or(end)), if write.is_some() => self.write().await?,
                () = sleep_until(heard + self.pace.idle) => {
                    heard = Instant::now();
                    self.ask().await?;
                }
                () = sleep_until(end) => {
                    return Err(Failure::Unreachable("the watch does not end".to_owned()).into());
                }
            }
        }
        Ok(())
    }

    /// Asks for the own Node, to see whether the server is there.
    async fn ask(&mut self) -> Result<(), Stop> {
        match self.api.node(&self.name).await {
            Ok(_) | Err(Failure::NotFound(_)) => Ok(self.answered().await?),
            Err(failure) => Err(failure.into()),
        }
    }

    async fn take(&mut self, event: Event) -> Result<(), Stop> {
        match event {
            Event::Put(object) => {
                self.version = Some(object.metadata.resource_version.clone());
                if object.metadata.name == self.name {
                    self.found(object);
                    self.report_own().await?;
                } else {
                    let record = record(&object);
                    self.report(object.metadata.name, record).await?;
                }
            }
            Event::Deleted(object) => {
                self.version = Some(object.metadata.resource_version);
                if object.metadata.name == self.name {
                    self.node = None;
                    self.writing.at_once();
                    self.report_own().await?;
                } else {
                    self.report(object.metadata.name, None).await?;
                }
            }
            Event::Bookmark(version) => {
                self.version = Some(version);
                self.answered().await?;
            }
            Event::Malformed(error) => {
                if !error.version.is_empty() {
                    self.version = Some(error.version);
                }
                if error.name.is_empty() {
                    warn!(error.reason, "an event is about a Node without a name");
                } else {
                    self.report(error.name, Some(Err(error.reason))).await?;
                }
            }
            Event::Failed(refusal) => return Err(Failure::from_refusal(500, refusal).into()),
        }
        Ok(())
    }

    /// Reports what a Node is now, if it was another.
    pub(super) async fn report(
        &mut self,
        name: String,
        record: Option<Record>,
    ) -> Result<(), Gone> {
        if self.reported.get(&name) == record.as_ref() {
            return self.answered().await;
        }
        let update = match record {
            Some(record) => {
                self.reported.insert(name.clone(), record.clone());
                Update::Put(name, record)
            }
            None => {
                self.reported.remove(&name);
                Update::Deleted(name)
            }
        };
        self.link.report(update).await
    }
}

/// What a Node is to the cluster.
pub(super) fn record(object: &Object) -> Option<Record> {
    match object.meaning() {
        Meaning::Member(node) => Some(Ok(node)),
        Meaning::Malformed(reason) => Some(Err(reason)),
        Meaning::Stranger => None,
    }
}
