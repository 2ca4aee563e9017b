//! What can be asked of a running membership.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};

use super::store::Release;

/// What can be asked of a running membership. Cheap to clone, for those who carry out commands.
#[derive(Clone, Debug)]
pub struct Requests(mpsc::UnboundedSender<Request>);

#[derive(Debug)]
pub(super) enum Request {
    Vtep(SocketAddr),
    Addresses(Vec<IpAddr>),
    Exceptions(Vec<IpNet>),
    Release(Release),
    ApplyHeld(oneshot::Sender<usize>),
    Stop,
}

impl Requests {
    pub(super) const fn new(task: mpsc::UnboundedSender<Request>) -> Self {
        Self(task)
    }

    /// This node's VTEP has another address.
    pub fn set_vtep(&self, vtep: SocketAddr) {
        self.send(Request::Vtep(vtep));
    }

    /// These, and no others, are the addresses and networks outside its shares that this node's pods
    /// have. One that was not among them before is taken over from whoever has it.
    pub fn set_exceptions(&self, nets: Vec<IpNet>) {
        self.send(Request::Exceptions(nets));
    }

    /// Gives back what a node holds: its record and its podCIDRs. Returns what that was.
    ///
    /// # Errors
    ///
    /// Why nothing was given back: the node is unknown, alive (unless `force`), or the store cannot
    /// be asked.
    pub async fn release(&self, node: &str, force: bool) -> Result<String, String> {
        let (answer, outcome) = oneshot::channel();
        self.send(Request::Release(Release { node: node.to_owned(), force, answer }));
        outcome.await.unwrap_or_else(|_| Err("the store did not answer".to_owned()))
    }

    /// Carries out the deletions that were held back. Returns how many there were.
    pub async fn apply_held(&self) -> usize {
        let (answer, outcome) = oneshot::channel();
        self.send(Request::ApplyHeld(answer));
        outcome.await.unwrap_or_default()
    }

    /// If the task has ended there is nobody left who would want to know.
    pub(super) fn send(&self, request: Request) {
        let _ = self.0.send(request);
    }
}
