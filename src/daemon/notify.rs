//! What the service manager is told: that the daemon is ready, how it fares, and that its workers
//! make progress (sd_notify(3)).

use sd_notify::NotifyState;
use tracing::{debug, info, warn};

use super::worker;
use crate::control::model::Readiness;

/// Talks to the service manager, if there is one.
#[derive(Debug)]
pub(super) struct Notifier {
    ready: bool,
    said: Option<String>,
    watchdog: bool,
    /// Each worker's progress when it was last nudged.
    turns: Vec<u64>,
}

impl Notifier {
    pub(super) fn new() -> Self {
        let watchdog = sd_notify::watchdog_enabled().is_some();
        Self { ready: false, said: None, watchdog, turns: Vec::new() }
    }

    /// Says READY=1 once, when ports and underlay are up, and afterwards what is the matter.
    pub(super) fn tell_state(&mut self, readiness: &Readiness) {
        let status =
            if readiness.ready { "forwarding".to_owned() } else { readiness.pending.join("; ") };
        if readiness.ready && !self.ready {
            self.ready = true;
            info!("ready");
            tell(&[NotifyState::Ready]);
        }
        if self.said.as_ref() != Some(&status) {
            if !readiness.ready {
                warn!("not ready: {status}");
            }
            tell(&[NotifyState::Status(&status)]);
            self.said = Some(status);
        }
    }

    /// Feeds the watchdog if every worker has turned since it was last nudged, and nudges them
    /// again. A worker that hangs starves it, and the service manager starts the daemon anew.
    pub(super) fn feed_watchdog(&mut self, workers: &[worker::Handle]) {
        if !self.watchdog {
            return;
        }
        let turns: Vec<u64> = workers.iter().map(|worker| worker.stats.turns.get()).collect();
        let first = self.turns.len() != turns.len();
        if first || turns.iter().zip(&self.turns).all(|(now, before)| now != before) {
            tell(&[NotifyState::Watchdog]);
        }
        self.turns = turns;
        for worker in workers {
            worker.nudge();
        }
    }

    /// Says that the daemon is on its way out.
    pub(super) fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!("service manager: {error}");
    }
}
