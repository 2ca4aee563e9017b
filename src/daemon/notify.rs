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

    /// Nudges the workers, so that one without traffic lets go of old tables, and feeds the watchdog
    /// if every one has turned since it was nudged before. A worker that hangs starves it, and the
    /// service manager starts the daemon anew.
    pub(super) fn nudge(&mut self, workers: &[worker::Handle]) {
        if self.watchdog {
            self.feed_watchdog(workers);
        }
        workers.iter().for_each(worker::Handle::nudge);
    }

    fn feed_watchdog(&mut self, workers: &[worker::Handle]) {
        let turns: Vec<u64> = workers.iter().map(|worker| worker.stats.turns.get()).collect();
        let first = self.turns.len() != turns.len();
        if first || turns.iter().zip(&self.turns).all(|(now, before)| now != before) {
            tell(&[NotifyState::Watchdog]);
        }
        self.turns = turns;
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

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use fdb::{Fdb, Settings};
    use switch::Topology;
    use tokio::sync::Notify;

    use super::super::clock::Clock;
    use super::super::worker::{Newsroom, Shared};
    use super::*;

    #[test]
    fn workers_are_nudged_with_a_watchdog_and_without() {
        let ((news, _news), (closing, _closing)) =
            (crossbeam_channel::unbounded(), crossbeam_channel::unbounded());
        let shared = Shared {
            topology: Arc::new(Topology::empty(IpAddr::V4(Ipv4Addr::LOCALHOST), 1450)),
            fdb: Arc::new(Fdb::new(Settings::default())),
            clock: Clock::start(),
            newsroom: Newsroom::new(news, Arc::new(Notify::new())),
            closing,
            spin: Duration::ZERO,
        };
        let workers = [worker::Handle::start(0, shared).unwrap()];
        let turns = || workers[0].stats.turns.get();
        for watchdog in [false, true] {
            let mut notifier = Notifier { watchdog, ..Notifier::new() };
            // More than the turn with which a worker begins.
            for _ in 0..3 {
                let (before, begun) = (turns(), Instant::now());
                notifier.nudge(&workers);
                while turns() == before {
                    assert!(begun.elapsed() < Duration::from_secs(20), "with {watchdog}: no turn");
                    std::thread::yield_now();
                }
            }
        }
        workers.into_iter().for_each(worker::Handle::stop);
    }
}
