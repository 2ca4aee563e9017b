//! Ports come up, go down and are removed. Whatever happens to many at once is one change of the
//! topology and one write of the journal.
//!
//! Who asks for a port waits until it is there. What nobody waits for, a port that is tried again or
//! whose namespace came back, is made on a thread beside the loop ([`Bringing`]).

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fdb::Tick;
use tokio::sync::Notify;
use tracing::{error, info, warn};

use super::ports::{Attachment, Device};
use super::state::Daemon;
use super::worker::Order;
use crate::config::Port;
use crate::control::model::ObjectOrigin;
use crate::device::error::DeviceError;
use crate::device::make::Made;
use crate::io::port::{PortOffloads, PortQueue};

/// The pause after ports could not be brought up, at least and at most; and how much longer than the
/// try it is, so that ports which never come up cost a hundredth of a core.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(60);
const RETRY_FACTOR: u32 = 100;

/// Ports that come up while the loop goes on.
#[derive(Debug, Default)]
pub(super) struct Bringing {
    /// Those that are next.
    waiting: BTreeSet<String>,
    /// Those that are being made.
    task: Option<Task>,
    /// Rung when they are.
    pub(super) bell: Arc<Notify>,
    /// Before then, what failed is not tried again.
    retry_at: Tick,
}

/// Ports that are being made on a thread.
#[derive(Debug)]
struct Task {
    ports: Vec<(Port, ObjectOrigin)>,
    done: Arc<AtomicBool>,
    thread: JoinHandle<(Vec<Result<Made, DeviceError>>, Duration)>,
}

/// Says that a thread has done what it can, also when that was to panic.
struct Through {
    done: Arc<AtomicBool>,
    bell: Arc<Notify>,
}

impl Drop for Through {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
        self.bell.notify_one();
    }
}

impl Daemon {
    /// Adds `ports`, makes or adopts their devices, and hands their queues to the workers. What
    /// could not be made is down, and says why.
    pub(super) fn add_ports(&mut self, ports: Vec<(Port, ObjectOrigin)>) {
        let results = self.devices.bring_up(&ports);
        self.take_up(ports, results);
    }

    /// Takes ports with what came of making their devices.
    pub(super) fn take_up(
        &mut self,
        ports: Vec<(Port, ObjectOrigin)>,
        results: Vec<Result<Made, DeviceError>>,
    ) {
        let mut made = Vec::new();
        for ((port, origin), result) in ports.into_iter().zip(results) {
            let name = port.name.as_str().to_owned();
            let device = match result {
                Ok(Made { queues, facts }) => {
                    made.push((name.clone(), queues, facts.offloads));
                    Device::Up(facts)
                }
                Err(error) => {
                    let held = self.ports.get(&name).map(|held| &held.device);
                    down(&name, &error, held)
                }
            };
            self.ports.insert(name, Attachment { port, origin, device });
        }
        self.apply();
        for (name, queues, offloads) in made {
            let offloads = PortOffloads::new(offloads.csum, offloads.tso, offloads.uso);
            self.attach(&name, queues, Arc::new(offloads));
        }
        self.watch.look_again();
    }

    /// Hands a port's queues to the workers, one each.
    fn attach(&mut self, name: &str, queues: Vec<OwnedFd>, offloads: Arc<PortOffloads>) {
        let Some(id) = self.topology.port_named(name).map(|port| port.id) else { return };
        for (worker, fd) in self.workers.iter().zip(queues) {
            match PortQueue::adopt(fd, Arc::clone(&offloads)) {
                Ok(queue) => worker.order(Order::Attach(id, queue)),
                Err(error) => warn!(port = name, "queue {}: {error}", worker.id),
            }
        }
        self.offloads.insert(id, offloads);
    }

    /// Takes a port's queues from the workers.
    fn detach(&mut self, name: &str) {
        let Some(id) = self.topology.port_named(name).map(|port| port.id) else { return };
        self.offloads.remove(&id);
        for worker in &self.workers {
            worker.order(Order::Detach(id));
        }
    }

    /// Takes ports down and says why of each. `absent`: their namespaces are not there.
    pub(super) fn take_down(&mut self, ports: Vec<(String, String)>, absent: bool) {
        if ports.is_empty() {
            return;
        }
        for (name, reason) in ports {
            self.detach(&name);
            if let Some(attachment) = self.ports.get_mut(&name) {
                warn!(port = name, "down: {reason}");
                attachment.device = Device::Down { reason, absent };
            }
        }
        self.apply();
    }

    /// Removes ports and their devices; results are in the order given. A port whose device could
    /// not be removed is gone even so.
    pub(super) fn remove_ports(&mut self, names: &[String]) -> Vec<Result<(), DeviceError>> {
        if names.is_empty() {
            return Vec::new();
        }
        for name in names {
            self.detach(name);
        }
        let taken = names.iter().map(|name| self.ports.remove(name));
        let (held, there): (Vec<_>, Vec<bool>) = taken
            .map(|attachment| {
                let there = attachment.is_some();
                let held = attachment.map(|held| (held.port.clone(), held.facts().cloned()));
                (held, there)
            })
            .unzip();
        let held: Vec<_> = held.into_iter().flatten().collect();
        let mut removed = self.devices.remove(&held).into_iter();
        self.apply();
        let result = |there| if there { removed.next().unwrap_or(Ok(())) } else { Ok(()) };
        there.into_iter().map(result).collect()
    }

    /// Has ports that are down brought up, beside the loop.
    pub(super) fn bring_back(&mut self, names: impl IntoIterator<Item = String>) {
        self.bringing.waiting.extend(names);
        if self.bringing.task.is_some() {
            return;
        }
        let waiting = std::mem::take(&mut self.bringing.waiting);
        let down = waiting.iter().filter_map(|name| self.ports.get(name));
        let down = down.filter(|attachment| attachment.facts().is_none());
        let ports: Vec<_> =
            down.map(|attachment| (attachment.port.clone(), attachment.origin)).collect();
        if ports.is_empty() {
            return;
        }
        let (maker, asked) = (self.devices.maker(&ports), ports.clone());
        let done = Arc::<AtomicBool>::default();
        let through = Through { done: Arc::clone(&done), bell: Arc::clone(&self.bringing.bell) };
        let make = move || {
            let _through = through;
            let begun = Instant::now();
            (maker.make(&asked), begun.elapsed())
        };
        match thread::Builder::new().name("bringing".to_owned()).spawn(make) {
            Ok(thread) => self.bringing.task = Some(Task { ports, done, thread }),
            // It is tried again at the next occasion.
            Err(error) => warn!("no thread to bring ports up: {error}"),
        }
    }

    /// Takes up what was brought up beside the loop, waiting for it if it is not through, and begins
    /// nothing more. Whoever is about to change ports calls this first, so that nothing changes under
    /// the one that makes their devices.
    pub(super) fn finish_bringing(&mut self) {
        let Some(Task { ports, thread, .. }) = self.bringing.task.take() else { return };
        let now = self.clock.tick();
        let Ok((results, took)) = thread.join() else {
            // They are as they were, down, and tried again.
            error!("bringing up {} ports ended in a panic", ports.len());
            self.bringing.retry_at = after(now, RETRY_PAUSE_MAX);
            return;
        };
        let again = |result: &&Result<Made, DeviceError>| {
            result.as_ref().is_err_and(|error| !error.is_netns_absent())
        };
        if let Some(pause) = pause(results.iter().filter(again).count(), results.len(), took) {
            self.bringing.retry_at = after(now, pause);
        }
        self.devices.keep_made(&ports, &results);
        let names: Vec<_> = ports.iter().map(|(port, _)| port.name.as_str().to_owned()).collect();
        self.take_up(ports, results);
        for name in names {
            if self.ports.get(&name).is_some_and(|attachment| attachment.facts().is_some()) {
                info!(port = name, "up again");
            }
        }
    }

    /// Takes up what was brought up beside the loop, if that is through, and has what waited
    /// meanwhile brought up.
    pub(super) fn take_brought(&mut self) {
        if self.bringing.task.as_ref().is_some_and(|task| task.done.load(Ordering::Acquire)) {
            self.finish_bringing();
        }
        self.bring_back([]);
    }

    /// Has ports that are down for other reasons than an absent namespace tried again without a pause.
    pub(super) const fn retry_at_once(&mut self) {
        self.bringing.retry_at = Tick(0);
    }

    /// Tries again to bring up ports that are down for other reasons than an absent namespace, if
    /// it is time.
    pub(super) fn retry_ports(&mut self) {
        if self.bringing.task.is_some() || self.clock.tick() < self.bringing.retry_at {
            return;
        }
        let down = self.ports.iter().filter(|(_, attachment)| {
            matches!(attachment.device, Device::Down { absent: false, .. })
        });
        let down: Vec<String> = down.map(|(name, _)| name.clone()).collect();
        self.bring_back(down);
    }
}

fn after(now: Tick, pause: Duration) -> Tick {
    Tick(now.0.saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)))
}

/// How long not to try again after `failed` of `all` ports could not be made, which together took so
/// long; `None`: nothing is to be tried again.
fn pause(failed: usize, all: usize, took: Duration) -> Option<Duration> {
    if failed == 0 {
        return None;
    }
    let [failed, all] = [failed, all].map(|count| u32::try_from(count).unwrap_or(u32::MAX));
    let share = took.saturating_mul(failed) / all.max(1);
    Some(share.saturating_mul(RETRY_FACTOR).clamp(RETRY_PAUSE, RETRY_PAUSE_MAX))
}

/// A port whose device could not be had. What is tried again and again is told once.
fn down(name: &str, error: &DeviceError, before: Option<&Device>) -> Device {
    let now = Device::Down { reason: error.to_string(), absent: error.is_netns_absent() };
    if before != Some(&now) {
        warn!(port = name, "down: {error}");
    }
    now
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_make_a_pause_and_only_their_share_of_the_time_counts() {
        let (second, ms) = (Duration::from_secs, Duration::from_millis);
        for (failed, all, took, expected) in [
            (0, 1000, second(9), None),
            (1, 1, ms(10), Some(second(5))),
            (1, 1, ms(200), Some(second(20))),
            (1, 1000, second(1), Some(second(5))),
            (500, 1000, ms(400), Some(second(20))),
            (1000, 1000, second(8), Some(second(60))),
        ] {
            assert_eq!(pause(failed, all, took), expected, "{failed} of {all} in {took:?}");
        }
    }

    #[test]
    fn a_thread_that_panics_is_through_as_well() {
        let (done, bell) = (Arc::<AtomicBool>::default(), Arc::<Notify>::default());
        let through = Through { done: Arc::clone(&done), bell };
        let thread = thread::spawn(move || {
            let _through = through;
            panic!("on purpose");
        });
        assert!(thread.join().is_err());
        assert!(done.load(Ordering::Acquire));
    }
}
