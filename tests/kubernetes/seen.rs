//! A store at work, and what it reported.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tapestry::cluster::kubernetes::{Pace, Patience, Store};
use tapestry::cluster::store::{Link, Object, Order, Own, Update};
use tapestry::config::{Kubernetes, Name};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// What a store reported, added up.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) members: BTreeMap<String, Object>,
    /// The keys of the last list, in its order.
    pub(crate) order: Vec<String>,
    pub(crate) trouble: Option<String>,
    pub(crate) troubles: usize,
    pub(crate) refused: Option<String>,
    pub(crate) lists: usize,
    pub(crate) puts: usize,
    pub(crate) answers: usize,
}

/// A store at work.
pub(crate) struct Running {
    pub(crate) seen: Seen,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) works: watch::Sender<bool>,
    updates: mpsc::Receiver<Update>,
    pub(crate) task: JoinHandle<()>,
}

/// Milliseconds where the field has seconds.
pub(crate) fn brisk() -> Pace {
    Pace {
        patience: Patience { connect: Duration::from_secs(5), answer: Duration::from_secs(10) },
        page: 2,
        first: Duration::from_millis(5),
        most: Duration::from_millis(50),
        again: Duration::from_millis(5),
        ..Pace::default()
    }
}

/// What `node-1` says of itself.
pub(crate) fn own() -> Own {
    Own {
        name: "node-1".into(),
        identity: "machine-of-node-1".into(),
        vtep: "192.0.2.1:4789".parse().unwrap(),
        addresses: vec!["198.51.100.1".parse().unwrap()],
        exceptions: Vec::new(),
        capabilities: vec!["direct".into()],
    }
}

impl Running {
    /// The store of a node that says of itself what [`own`] does.
    pub(crate) fn start(kubeconfig: PathBuf, node: &str, pace: Pace) -> Self {
        Self::start_as(kubeconfig, node, pace, Own { name: node.into(), ..own() })
    }

    /// The store of a node.
    pub(crate) fn start_as(kubeconfig: PathBuf, node: &str, pace: Pace, own: Own) -> Self {
        let (updates_in, updates) = mpsc::channel(4096);
        let (orders, orders_out) = mpsc::channel(16);
        let (works, works_out) = watch::channel(false);
        let config = Kubernetes { kubeconfig: Some(kubeconfig), node: Name::new(node).unwrap() };
        let link = Link { updates: updates_in, orders: orders_out };
        let task = tokio::spawn(Store::new(&config, pace, own, link, works_out).run());
        Self { seen: Seen::default(), orders, works, updates, task }
    }

    pub(crate) async fn order(&self, order: Order) {
        self.orders.send(order).await.unwrap();
    }

    /// Takes reports in until it is so.
    pub(crate) async fn until(&mut self, what: &str, is_so: impl Fn(&Seen) -> bool) -> &Seen {
        let end = tokio::time::Instant::now() + Duration::from_secs(20);
        while !is_so(&self.seen) {
            match tokio::time::timeout_at(end, self.updates.recv()).await {
                Ok(Some(update)) => self.seen.take(update),
                Ok(None) => panic!("the store has ended: {what}: {:#?}", self.seen),
                Err(_) => panic!("never: {what}: {:#?}", self.seen),
            }
        }
        &self.seen
    }

    /// Takes in what was reported so far.
    pub(crate) fn so_far(&mut self) -> &Seen {
        while let Ok(update) = self.updates.try_recv() {
            self.seen.take(update);
        }
        &self.seen
    }

    /// Stops listening.
    pub(crate) async fn hang_up(self) {
        drop((self.updates, self.orders));
        tokio::time::timeout(Duration::from_secs(10), self.task).await.unwrap().unwrap();
    }
}

impl Seen {
    fn take(&mut self, update: Update) {
        match update {
            Update::Listed(objects) => {
                self.lists += 1;
                self.order = objects.iter().map(|(key, _)| key.clone()).collect();
                self.members = objects.into_iter().collect();
            }
            Update::Put(key, object) => {
                self.puts += 1;
                self.members.insert(key, object);
            }
            Update::Deleted(key) => {
                let known = self.members.remove(&key);
                assert!(known.is_some(), "{key} was never there");
            }
            Update::Trouble(trouble) => {
                self.troubles += 1;
                self.trouble = Some(trouble);
                return;
            }
            Update::Answered => self.answers += 1,
            Update::Refused(why) => {
                self.refused = why;
                return;
            }
            Update::Cluster(identity) => panic!("{identity}"),
            Update::GivenBack => panic!("shares of Nodes are not given back"),
        }
        self.trouble = None;
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        self.members.keys().map(String::as_str).collect()
    }

    /// The VTEP of a member.
    pub(crate) fn vtep(&self, name: &str) -> Option<String> {
        Some(self.members.get(name)?.as_ref().ok()?.vtep.to_string())
    }
}
