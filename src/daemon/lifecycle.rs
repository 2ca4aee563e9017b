//! Ports come up, go down and are removed. Whatever happens to many at once is one change of the
//! topology and one write of the journal.
//!
//! Who asks for a port waits until it is there. What nobody waits for, a port that is tried again or
//! whose namespace came back, is made on a thread beside the loop ([`Bringing`]).

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::{info, warn};

use super::ports::{Attachment, Device};
use super::state::Daemon;
use super::worker::Order;
use crate::config::Port;
use crate::control::model::ObjectOrigin;
use crate::device::error::DeviceError;
use crate::device::make::Made;
use crate::io::port::{PortOffloads, PortQueue};

/// The pause between two tries to bring up ports that are down, at least; and how much longer than
/// a try it is, so that ports which never come up cost a hundredth of a core at most.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
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
    retry_at: Option<Instant>,
}

#[derive(Debug)]
struct Task {
    ports: Vec<(Port, ObjectOrigin)>,
    done: Arc<AtomicBool>,
    thread: JoinHandle<(Vec<Result<Made, DeviceError>>, Duration)>,
}

impl Daemon {
    /// Adds `ports`, makes or adopts their devices, and hands their queues to the workers. What
    /// could not be made is down, and says why.
    pub(super) fn add_ports(&mut self, ports: Vec<(Port, ObjectOrigin)>) {
        let results = self.devices.bring_up(&ports);
        self.take_up(ports, results);
    }

    /// Takes ports with what came of making their devices.
    fn take_up(
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
        let (maker, bell) = (self.devices.maker(&ports), Arc::clone(&self.bringing.bell));
        let (asked, done) = (ports.clone(), Arc::<AtomicBool>::default());
        let is_done = Arc::clone(&done);
        let make = move || {
            let begun = Instant::now();
            let results = maker.make(&asked);
            is_done.store(true, Ordering::Release);
            bell.notify_one();
            (results, begun.elapsed())
        };
        match thread::Builder::new().name("bringing".to_owned()).spawn(make) {
            Ok(thread) => self.bringing.task = Some(Task { ports, done, thread }),
            // It is tried again at the next occasion.
            Err(error) => warn!("no thread to bring ports up: {error}"),
        }
    }

    /// Takes up what was brought up beside the loop, waiting for it if it is not through. Whoever
    /// is about to change ports calls this first, so that nothing changes under the one that makes
    /// their devices.
    pub(super) fn finish_bringing(&mut self) {
        let Some(Task { ports, thread, .. }) = self.bringing.task.take() else { return };
        let (results, took) = thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        let pause = RETRY_PAUSE.max(took.saturating_mul(RETRY_FACTOR));
        self.bringing.retry_at = Instant::now().checked_add(pause);
        self.devices.keep_made(&ports, &results);
        let names: Vec<_> = ports.iter().map(|(port, _)| port.name.as_str().to_owned()).collect();
        self.take_up(ports, results);
        for name in names {
            if self.ports.get(&name).is_some_and(|attachment| attachment.facts().is_some()) {
                info!(port = name, "up again");
            }
        }
        self.bring_back([]);
    }

    /// Takes up what was brought up beside the loop, if that is through.
    pub(super) fn take_brought(&mut self) {
        if self.bringing.task.as_ref().is_some_and(|task| task.done.load(Ordering::Acquire)) {
            self.finish_bringing();
        }
    }

    /// Takes up what is being brought up, and begins nothing more.
    pub(super) fn stop_bringing(&mut self) {
        self.bringing.waiting.clear();
        self.finish_bringing();
    }

    /// Tries again to bring up ports that are down for other reasons than an absent namespace, if
    /// it is time.
    pub(super) fn retry_ports(&mut self) {
        if self.bringing.retry_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let down = self.ports.iter().filter(|(_, attachment)| {
            matches!(attachment.device, Device::Down { absent: false, .. })
        });
        let down: Vec<String> = down.map(|(name, _)| name.clone()).collect();
        self.bring_back(down);
    }
}

/// A port whose device could not be had. What is tried again and again is told once.
fn down(name: &str, error: &DeviceError, before: Option<&Device>) -> Device {
    let now = Device::Down { reason: error.to_string(), absent: error.is_netns_absent() };
    if before != Some(&now) {
        warn!(port = name, "down: {error}");
    }
    now
}
