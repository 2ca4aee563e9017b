//! A worker's queues, by port slot.

use fdb::PortId;

use crate::io::port::PortQueue;

/// The queues of one worker.
#[derive(Debug, Default)]
pub(super) struct Ports {
    slots: Vec<Option<(PortId, PortQueue)>>,
}

impl Ports {
    /// Puts `queue` into the port's slot and returns what was there.
    pub(super) fn attach(&mut self, port: PortId, queue: PortQueue) -> Option<(PortId, PortQueue)> {
        let slot = usize::from(port.slot);
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        self.slots.get_mut(slot)?.replace((port, queue))
    }

    /// Takes the queue of exactly this port.
    pub(super) fn detach(&mut self, port: PortId) -> Option<PortQueue> {
        let slot = self.slots.get_mut(usize::from(port.slot))?;
        slot.take_if(|(id, _)| *id == port).map(|(_, queue)| queue)
    }

    /// The queue of exactly this port.
    #[inline]
    pub(super) fn get(&self, port: PortId) -> Option<&PortQueue> {
        let (id, queue) = self.slots.get(usize::from(port.slot))?.as_ref()?;
        (*id == port).then_some(queue)
    }

    /// Takes every queue.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = PortQueue> + '_ {
        self.slots.drain(..).flatten().map(|(_, queue)| queue)
    }
}
