//! What every store has in common: what it reports, what it is told, and what this node says of itself.
//!
//! A store is a task. It reports what it sees as [`Update`]s, in the order it sees them, and carries
//! out [`Order`]s until their channel is closed; then it ends. What follows from its reports is not
//! its business but [`super::membership`]'s: it neither compares nodes nor judges deletions.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::model::{Exception, Node};

/// An object as a store read it: a node, or what is wrong with the object.
pub type Object = Result<Node, String>;

/// What a store reports. A key is whatever the store knows an object by; it never changes.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// Every object there is, the oldest first: of two that contradict each other the earlier one
    /// is right.
    Listed(Vec<(String, Object)>),
    /// An object is new, or another than before.
    Put(String, Object),
    /// An object is gone.
    Deleted(String),
    /// The store cannot be asked, and why.
    Trouble(String),
    /// The store has answered, if only that nothing is new.
    Answered,
    /// Why the store does not let this node be a member; `None`: nothing is in the way (any more).
    Refused(Option<String>),
    /// This node has given back what it held, and is no member until it is started again.
    GivenBack,
    /// The identity that the cluster has in the store, for stores that keep several.
    Cluster(String),
}

/// What a store is told.
#[derive(Debug)]
pub enum Order {
    /// This node says something else of itself from now on.
    Publish(Own),
    /// Give back what a node holds.
    Release(Release),
    /// Report a [`Update::Listed`] soon, whatever is known.
    Relist,
    /// An operator has said that what the store holds is right, even if it is another cluster.
    Accept,
}

/// The order to give back what a node holds.
#[derive(Debug)]
pub struct Release {
    /// The node's name.
    pub node: String,
    /// Whether it is done even though the node seems to be alive. This node itself always is.
    pub force: bool,
    /// Where the outcome goes: what was given back, or why nothing was.
    pub answer: oneshot::Sender<Result<String, String>>,
}

/// What this node says of itself: its record, but for the podCIDRs that the store gives it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Own {
    /// Its name.
    pub name: String,
    /// Its identity, see [`Node::identity`].
    pub identity: String,
    /// Its VTEP.
    pub vtep: SocketAddr,
    /// Its addresses besides the VTEP's.
    pub addresses: Vec<IpAddr>,
    /// Addresses and networks outside its shares that its pods have.
    pub exceptions: Vec<Exception>,
    /// What it understands beyond the minimum, by name.
    pub capabilities: Vec<String>,
}

impl Own {
    /// The record of this node with these podCIDRs.
    #[must_use]
    pub fn node(&self, pod_cidrs: Vec<ipnet::IpNet>) -> Node {
        let mut addresses = vec![self.vtep.ip()];
        addresses.extend(self.addresses.iter().copied().filter(|a| *a != self.vtep.ip()));
        Node {
            name: self.name.clone(),
            identity: self.identity.clone(),
            vtep: self.vtep,
            addresses,
            pod_cidrs,
            exceptions: self.exceptions.clone(),
            capabilities: self.capabilities.clone(),
        }
    }
}

/// A store's ends of its channels.
#[derive(Debug)]
pub struct Link {
    /// Where its reports go. When nobody takes them any more it ends.
    pub updates: mpsc::Sender<Update>,
    /// What it is told. When nobody can tell it anything any more it ends.
    pub orders: mpsc::Receiver<Order>,
}

/// Nobody listens any more: the store's task is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody listens")]
pub struct Gone;

impl Link {
    /// Reports something, once there is room for it.
    ///
    /// # Errors
    ///
    /// If nobody listens.
    pub async fn report(&self, update: Update) -> Result<(), Gone> {
        self.updates.send(update).await.map_err(|_| Gone)
    }
}
