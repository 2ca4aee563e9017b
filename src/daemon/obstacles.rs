//! What on this node stands between the pods and the outside, looked for beside the loop: it runs
//! programs that take their time.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tracing::{debug, info, warn};

use crate::config::Cluster;
use crate::gateway::firewall::PodNetwork;
use crate::gateway::preflight::{Finding, managers, read_system, settings};
use crate::privilege::Hands;

/// What was found last.
#[derive(Clone, Debug, Default)]
pub(super) struct Obstacles(Arc<Mutex<Vec<Finding>>>);

impl Obstacles {
    /// Looks anew, on a thread. `device` is the gateway port's index, `underlay` the device of the
    /// node's own address.
    pub(super) fn look(
        &self,
        hands: &Hands,
        cluster: &Cluster,
        device: u32,
        underlay: Option<String>,
    ) {
        let (found, cluster) = (Arc::clone(&self.0), cluster.clone());
        // A connection of its own: that this takes long says nothing about the helper.
        let hands = Hands::new(hands.helper());
        let look = move || {
            let mut new = settings(&cluster, underlay.as_deref(), &read_system);
            new.extend(managers(&cluster, device, &read_system));
            match hands.firewalls(&PodNetwork::from(&cluster)) {
                Ok(findings) => new.extend(findings),
                // Without nft, or without the right to ask it, there is nothing to be told.
                Err(error) => debug!("firewalls: {error}"),
            }
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            for finding in new.iter().filter(|finding| !found.contains(finding)) {
                info!("{}: {}; {}", finding.subject, finding.message, finding.remedy);
            }
            *found = new;
        };
        if let Err(error) = thread::Builder::new().name("obstacles".to_owned()).spawn(look) {
            warn!("no thread to look for obstacles: {error}");
        }
    }

    /// What was found, in words.
    pub(super) fn words(&self) -> Vec<String> {
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let words = |one: &Finding| format!("{}: {}; {}", one.subject, one.message, one.remedy);
        found.iter().map(words).collect()
    }
}
