//! One turn of a worker after the other.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fdb::{PortId, Tick};
use switch::{Counters, Engine, Topology};

use super::super::clock::Clock;
use super::arrivals::{self, Arrivals, Fill};
use super::outputs::{Outputs, flush};
use super::underlay::{self, Underlay};
use super::{News, Order, Worker};
use crate::io::readiness::{Events, Interest, Readiness, Token};
use crate::io::underlay::{ReceiveSocket, UnderlaySockets};

/// What a turn may cost per port: reading a frame counts one, a superframe eight, and writing to a
/// port four, so that at most 64 frames or 8 superframes are taken before the next descriptor has
/// its turn, and fewer of what is dear.
const BUDGET: u32 = 64;

/// Messages of the underlay in one turn, each up to a train of 64 KiB, shared out evenly among the
/// sockets that have some.
const MESSAGES: usize = 16;

/// Messages that a socket may have taken however many others have some: one call.
const MESSAGES_LEAST: usize = 2;

/// Milliseconds between two reports of what the engine noticed.
const REPORT_MS: u64 = 100;

/// The token of the worker's own bell.
pub(super) const WAKER: Token = Kind::Waker.token(0);

/// Kinds of descriptors, in the upper half of a token; the lower half says which one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Waker = 0,
    Receive = 1,
    Group = 2,
    Sender = 3,
    Port = 4,
}

impl Kind {
    const fn token(self, index: u32) -> Token {
        Token((self as u64) << 32 | index as u64)
    }

    fn of(token: Token) -> Option<(Self, u32)> {
        let kind = match token.0 >> 32 {
            0 => Self::Waker,
            1 => Self::Receive,
            2 => Self::Group,
            3 => Self::Sender,
            4 => Self::Port,
            _ => return None,
        };
        u32::try_from(token.0 & u64::from(u32::MAX)).ok().map(|index| (kind, index))
    }
}

fn port_token(port: PortId) -> Token {
    Kind::Port.token(u32::from(port.generation) << 16 | u32::from(port.slot))
}

fn port_of(index: u32) -> PortId {
    let [generation_high, generation_low, slot_high, slot_low] = index.to_be_bytes();
    PortId {
        slot: u16::from_be_bytes([slot_high, slot_low]),
        generation: u16::from_be_bytes([generation_high, generation_low]),
    }
}

impl Worker {
    /// Turns until it is told to stop, or cannot go on.
    pub(super) fn run(mut self) {
        let mut buffer = vec![0; arrivals::ARENA].into_boxed_slice();
        let mut events = Events::new();
        let mut steady = Steady::of(&self.engine);
        loop {
            let nanos = match self.look(&mut events, &steady, &mut buffer) {
                Ok(Some(nanos)) => nanos,
                Ok(None) => {
                    thread::yield_now();
                    self.spin.missed(self.clock.nanos());
                    continue;
                }
                Err(error) => {
                    self.tell(News::Failed(self.id, error));
                    return;
                }
            };
            self.spin.came(nanos);
            let now = Clock::tick_of(nanos);
            let ordered = self.serve_all(now, &steady, &events, &mut buffer);
            if let Some(underlay) = &mut self.underlay {
                flush(&steady.counters, &mut underlay.tx);
            }
            self.report(now);
            if ordered {
                if !self.obey() {
                    return;
                }
                steady = Steady::of(&self.engine);
            }
            // Counted when the bell is silent again: whoever sees this turn and rings gets another.
            self.stats.turns.add(1);
            self.spin.done(self.clock.nanos());
        }
    }

    /// Waits for something to do, or while traffic is lively only looks for it. Returns when it was
    /// found, and in `events` what is still to be done; `None` when there was nothing.
    #[inline]
    fn look(
        &mut self,
        events: &mut Events,
        steady: &Steady,
        buffer: &mut [u8],
    ) -> io::Result<Option<u64>> {
        let looking = self.spin.looking();
        if looking && self.recent.glance() {
            events.clear();
            let nanos = self.clock.nanos();
            return Ok(self.glance(nanos, steady, buffer).then_some(nanos));
        }
        let patience = if looking { Some(Duration::ZERO) } else { self.patience() };
        self.readiness.wait(events, patience)?;
        if looking && events.is_empty() {
            self.recent.silent();
            return Ok(None);
        }
        Ok(Some(self.clock.nanos()))
    }

    /// Serves what epoll has found. Returns whether there are orders.
    fn serve_all(
        &mut self,
        now: Tick,
        steady: &Steady,
        events: &Events,
        buffer: &mut [u8],
    ) -> bool {
        let receiving = |kind| matches!(kind, Kind::Receive | Kind::Group);
        let kinds = events.iter().filter_map(|event| Kind::of(event.token));
        let sockets = kinds.filter(|(kind, _)| receiving(*kind)).count();
        let turn = Turn { now, steady, share: Share::Full { sockets } };
        let mut ordered = false;
        for event in events.iter() {
            match Kind::of(event.token) {
                Some((Kind::Waker, _)) => ordered = true,
                Some((kind, index)) => {
                    let found = self.serve(&turn, kind, index, event.error, buffer);
                    if found {
                        self.recent.heard(event.token);
                    }
                }
                None => {}
            }
        }
        ordered
    }

    /// Takes the first frame or so from where they came from last, without asking epoll. Returns
    /// whether there was one.
    #[inline]
    fn glance(&mut self, nanos: u64, steady: &Steady, buffer: &mut [u8]) -> bool {
        let turn = Turn { now: Clock::tick_of(nanos), steady, share: Share::First };
        let mut found = false;
        for (kind, index) in self.recent.tokens().filter_map(Kind::of) {
            found |= self.serve(&turn, kind, index, false, buffer);
        }
        if found {
            self.recent.found();
        }
        found
    }

    /// Serves one descriptor, up to its share. Returns whether frames came from it.
    #[inline]
    fn serve(
        &mut self,
        turn: &Turn<'_>,
        kind: Kind,
        index: u32,
        error: bool,
        buffer: &mut [u8],
    ) -> bool {
        match kind {
            Kind::Waker => false,
            Kind::Port => self.serve_port(turn, port_of(index), buffer),
            Kind::Receive | Kind::Group => self.serve_underlay(turn, kind, index),
            Kind::Sender if error => {
                if let (Some(underlay), Ok(bucket)) = (&self.underlay, usize::try_from(index)) {
                    let (engine, newsroom, stats) = (&self.engine, &self.newsroom, &self.stats);
                    underlay::take_errors(engine, underlay, bucket, newsroom, stats);
                }
                false
            }
            Kind::Sender => false,
        }
    }

    fn serve_port(&mut self, turn: &Turn<'_>, port: PortId, buffer: &mut [u8]) -> bool {
        let Self { engine, ports, underlay, destinations, stats, .. } = self;
        let Some(queue) = ports.get(port) else { return false };
        let tx = underlay.as_mut().map(|underlay| (&mut underlay.tx, underlay.end.outer));
        let mut outputs = turn.outputs(ports, tx, destinations);
        let share = turn.share.of_port();
        let mut budget = share;
        let end = loop {
            let mut arrivals = Arrivals { now: turn.now, engine, port, outputs: &mut outputs };
            match arrivals.fill(queue, buffer, &mut budget, stats) {
                Fill::Full if budget > 0 => {}
                end => break end,
            }
        };
        if let Fill::Gone(errno) = end {
            self.detach(port);
            self.tell(News::PortGone(port, errno));
        }
        budget < share
    }

    fn serve_underlay(&mut self, turn: &Turn<'_>, kind: Kind, index: u32) -> bool {
        let Self { engine, ports, underlay, destinations, stats, .. } = self;
        let Some(Underlay { end, receiver, tx }) = underlay else { return false };
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let socket = match kind {
            Kind::Group => end.groups.get(index).map(|socket| &**socket),
            _ => lanes(&end.sockets, self.id).get(index),
        };
        let Some(socket) = socket else { return false };
        let mut outputs = turn.outputs(ports, Some((tx, end.outer)), destinations);
        let most = turn.share.of_underlay();
        match underlay::drain(turn.now, engine, receiver, socket, most, &mut outputs, stats) {
            Ok(taken) => taken > 0,
            Err(error) => {
                self.tell(News::Failed(self.id, error));
                false
            }
        }
    }

    /// Obeys what the control side has said. Returns whether to go on.
    fn obey(&mut self) -> bool {
        self.waker.drain();
        while let Ok(order) = self.inbox.try_recv() {
            match order {
                Order::Topology(topology) => self.adopt(topology),
                Order::Attach(port, queue) => {
                    let added = self.readiness.add(&queue, port_token(port), Interest::Read);
                    if let Some((_, old)) = self.ports.attach(port, queue) {
                        self.close(old);
                    }
                    if let Err(error) = added {
                        self.detach(port);
                        self.tell(News::PortGone(port, error.raw_os_error().unwrap_or(0)));
                    }
                }
                Order::Detach(port) => self.detach(port),
                Order::Underlay(end) => {
                    if let Err(error) = self.take_underlay(Underlay::new(*end)) {
                        self.tell(News::Failed(self.id, error));
                    }
                }
                Order::Stop => {
                    for queue in self.ports.drain() {
                        // Closing takes the kernel milliseconds each; the process ends soon.
                        drop(self.closing.try_send(queue));
                    }
                    return false;
                }
            }
        }
        // Nudges come here too, so that a worker without traffic does not keep old tables.
        self.engine.release();
        true
    }

    fn adopt(&mut self, topology: Arc<Topology>) {
        let flood = topology.segments().map(|segment| segment.flood.len()).max().unwrap_or(0);
        self.destinations.reserve(flood.saturating_sub(self.destinations.len()));
        self.engine.adopt(topology);
    }

    /// Uses other sockets. Those before leave the set first: they may be the same ones, with other
    /// rules or groups.
    fn take_underlay(&mut self, underlay: Underlay) -> io::Result<()> {
        if let Some(before) = self.underlay.take() {
            self.each_socket(&before, |readiness, fd, _, _| readiness.remove(fd))?;
        }
        self.each_socket(&underlay, |readiness, fd, token, interest| {
            readiness.add(fd, token, interest)
        })?;
        self.underlay = Some(underlay);
        Ok(())
    }

    /// Calls `act` with every descriptor of `underlay` that this worker watches.
    fn each_socket(
        &self,
        underlay: &Underlay,
        act: impl Fn(&Readiness, BorrowedFd<'_>, Token, Interest) -> io::Result<()>,
    ) -> io::Result<()> {
        let sockets = &underlay.end.sockets;
        for (lane, socket) in (0..).zip(lanes(sockets, self.id)) {
            act(&self.readiness, socket.as_fd(), Kind::Receive.token(lane), Interest::Read)?;
        }
        for (index, group) in (0..).zip(&underlay.end.groups) {
            act(&self.readiness, group.as_fd(), Kind::Group.token(index), Interest::Read)?;
        }
        if underlay.end.takes_errors {
            for (index, sender) in (0..).zip(sockets.senders()) {
                act(&self.readiness, sender, Kind::Sender.token(index), Interest::Errors)?;
            }
        }
        Ok(())
    }

    fn detach(&mut self, port: PortId) {
        if let Some(queue) = self.ports.detach(port) {
            self.close(queue);
        }
    }

    /// Gives a queue away to be closed. It leaves the epoll set first: closing does not take it
    /// out while another process holds the descriptor.
    fn close(&self, queue: crate::io::port::PortQueue) {
        if self.readiness.remove(&queue).is_err() {
            self.stats.port_read_errors.add(1);
        }
        // Without a closing thread it is closed right here.
        drop(self.closing.try_send(queue));
    }

    /// How long to sleep when nothing happens: for ever, unless there is something to report.
    fn patience(&self) -> Option<Duration> {
        self.engine.has_events().then(|| {
            let passed = self.clock.tick().since(self.reported);
            Duration::from_millis(REPORT_MS.saturating_sub(passed))
        })
    }

    /// Passes on what the engine noticed, at most so often: a station that flaps would otherwise
    /// keep the control side as busy as the worker. What waits is bounded, and happens again.
    fn report(&mut self, now: Tick) {
        if now.since(self.reported) < REPORT_MS {
            return;
        }
        self.reported = now;
        let Self { engine, newsroom, stats, .. } = self;
        for event in engine.take_events() {
            if !newsroom.tell(News::Event(event)) {
                stats.news_lost.add(1);
            }
        }
    }

    fn tell(&self, news: News) {
        if !self.newsroom.tell(news) {
            self.stats.news_lost.add(1);
        }
    }
}

/// A worker's receive sockets.
fn lanes(sockets: &UnderlaySockets, worker: u32) -> &[ReceiveSocket] {
    usize::try_from(worker).map_or(&[], |worker| sockets.receive(worker))
}

/// How much of what waits a descriptor may have taken.
#[derive(Clone, Copy)]
enum Share {
    /// Up to the bound of a turn, in which so many sockets of the underlay have something.
    Full { sockets: usize },
    /// What came first: it is on its way before anybody asks whether there is more.
    First,
}

impl Share {
    const fn of_port(self) -> u32 {
        match self {
            Self::Full { .. } => BUDGET,
            Self::First => 1,
        }
    }

    fn of_underlay(self) -> usize {
        match self {
            Self::Full { sockets } => (MESSAGES / sockets.max(1)).max(MESSAGES_LEAST),
            Self::First => 1,
        }
    }
}

/// What stays the same until there are orders. Held apart from the engine, so that a turn can lend it
/// while the engine works, without touching reference counts that other workers share.
struct Steady {
    topology: Arc<Topology>,
    counters: Arc<Counters>,
}

impl Steady {
    fn of(engine: &Engine) -> Self {
        Self { topology: Arc::clone(engine.topology()), counters: Arc::clone(engine.counters()) }
    }
}

/// What stays the same during one turn.
struct Turn<'t> {
    now: Tick,
    steady: &'t Steady,
    share: Share,
}

impl<'t> Turn<'t> {
    /// The outputs that frames of this turn go to.
    fn outputs<'w>(
        &self,
        ports: &'w super::ports::Ports,
        underlay: Option<(&'w mut crate::io::underlay::TxBatch, super::OuterRules)>,
        destinations: &'w mut Vec<crate::io::underlay::Destination>,
    ) -> Outputs<'w>
    where
        't: 'w,
    {
        let Steady { topology, counters } = self.steady;
        Outputs { topology, counters, ports, underlay, destinations, spent: 0 }
    }
}
