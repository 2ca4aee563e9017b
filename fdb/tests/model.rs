//! The table beside a naive model: one map, no cleverness, the same steps.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::Arc;

use encap::{MacAddr, StationMac};
use fdb::{
    Damping, Dest, Fdb, Insert, Learn, Lookup, Origin, PortId, Reader, Refusal, Row, Scope,
    SegmentId, SegmentLimits, Settings, Tick, VtepId,
};
use proptest::prelude::*;

type Key = (SegmentId, StationMac);

const DAMPING: Damping = Damping { moves: 2, window_ms: 3000, freeze_ms: 1500 };
const MAX_ENTRIES: u32 = 12;

#[derive(Clone, Copy, Debug)]
enum Step {
    Configure(SegmentId, SegmentLimits),
    RemoveSegment(SegmentId),
    Learn { key: Key, dest: Dest, by_reader: bool },
    Lookup(Key),
    Insert(Key, Dest, Origin),
    Remove(Key),
    Flush(Scope),
    Expire { budget: usize },
    Advance(u64),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    dest: Dest,
    origin: Origin,
    /// Tenths of a second.
    seen: u64,
    /// Rises with each write: the smallest is the oldest.
    order: u64,
    /// Followed moves in the window that began at this tenth.
    moves: Option<(u64, u8)>,
    frozen: Option<u64>,
}

#[derive(Debug, Default)]
struct Model {
    limits: BTreeMap<SegmentId, SegmentLimits>,
    entries: BTreeMap<Key, Entry>,
    /// Evicted entries, which a reader may still take for known for a tenth of a second.
    ghosts: Vec<(Key, u64)>,
    order: u64,
    now: u64,
    bumped: bool,
}

impl Model {
    const fn tenth(&self) -> u64 {
        self.now / 100
    }

    fn expired(&self, key: Key, entry: &Entry) -> bool {
        let aging = self.limits.get(&key.0).map_or(0, |limits| limits.aging_ms);
        entry.origin == Origin::Learned && aging > 0 && self.tenth() - entry.seen >= aging / 100
    }

    fn live(&self, key: Key) -> Option<Entry> {
        self.entries.get(&key).copied().filter(|entry| !self.expired(key, entry))
    }

    fn lookup(&self, key: Key) -> Lookup {
        self.live(key).map_or(Lookup::Unknown, |entry| entry.dest.into())
    }

    fn learned(&self) -> impl Iterator<Item = (Key, Entry)> {
        let learned = |(_, entry): &(&Key, &Entry)| entry.origin == Origin::Learned;
        self.entries.iter().filter(learned).map(|(key, entry)| (*key, *entry))
    }

    fn count(&self, segment: SegmentId, owner: Option<Dest>) -> u32 {
        let counts = |(key, entry): &(Key, Entry)| {
            key.0 == segment && owner.is_none_or(|dest| dest == entry.dest)
        };
        self.learned().filter(counts).count() as u32
    }

    fn owners(&self, segment: SegmentId) -> BTreeMap<Dest, u32> {
        let mut owners = BTreeMap::new();
        for ((s, _), entry) in &self.entries {
            if *s == segment {
                *owners.entry(entry.dest).or_default() +=
                    u32::from(entry.origin == Origin::Learned);
            }
        }
        owners
    }

    fn evict(&mut self, segment: SegmentId, owner: Dest) {
        let owned = self.learned().filter(|(key, e)| key.0 == segment && e.dest == owner);
        let (key, _) = owned.min_by_key(|(_, entry)| entry.order).expect("an entry to evict");
        self.entries.remove(&key);
        self.ghosts.push((key, self.tenth()));
    }

    /// Whether this station was evicted in this tenth of a second.
    fn haunts(&self, key: Key) -> bool {
        self.ghosts.iter().any(|(k, tenth)| *k == key && *tenth == self.tenth())
    }

    fn write(&mut self, key: Key, dest: Dest, origin: Origin) {
        self.order += 1;
        let (seen, order) = (self.tenth(), self.order);
        let fresh = Entry { dest, origin, seen, order, moves: None, frozen: None };
        self.entries.insert(key, fresh);
    }

    /// What `learn` must answer; `evicted` is its word on who paid, where the rules leave a choice.
    fn learn(&mut self, key: Key, dest: Dest, evicted: Option<Dest>) -> Learn {
        let Some(limits) = self.limits.get(&key.0).copied().filter(|limits| limits.learning) else {
            return Learn::Refused(Refusal::Disabled);
        };
        match self.live(key) {
            Some(entry) if entry.dest == dest => {
                let aging = limits.aging_ms / 100;
                let often = if aging == 0 { 10 } else { (aging / 4).clamp(1, 10) };
                if entry.origin == Origin::Learned && self.tenth() - entry.seen >= often {
                    self.order += 1;
                    let (seen, order) = (self.tenth(), self.order);
                    self.entries.insert(key, Entry { seen, order, ..entry });
                }
                Learn::Known
            }
            Some(entry) if entry.origin != Origin::Learned => Learn::Refused(Refusal::Static),
            Some(entry) => self.move_to(key, entry, dest, limits.cap(dest)),
            None => {
                self.entries.remove(&key);
                self.admit(key, dest, limits, evicted)
            }
        }
    }

    fn move_to(&mut self, key: Key, mut entry: Entry, dest: Dest, cap: u32) -> Learn {
        let now = self.tenth();
        if cap == 0 {
            return Learn::Refused(Refusal::Limit);
        }
        if let Some(since) = entry.frozen {
            if now - since < DAMPING.freeze_ms / 100 {
                return Learn::Refused(Refusal::Damped);
            }
            (entry.frozen, entry.moves) = (None, None);
        }
        let (since, count) = entry
            .moves
            .filter(|(since, _)| now - since < DAMPING.window_ms / 100)
            .unwrap_or((now, 0));
        if count == DAMPING.moves {
            self.entries.insert(key, Entry { frozen: Some(now), ..entry });
            return Learn::Refused(Refusal::Damped);
        }
        if self.count(key.0, Some(dest)) >= cap {
            self.evict(key.0, dest);
        }
        self.write(key, dest, Origin::Learned);
        self.entries.get_mut(&key).unwrap().moves = Some((since, count + 1));
        self.bumped = true;
        Learn::Moved { from: entry.dest }
    }

    fn admit(
        &mut self,
        key: Key,
        dest: Dest,
        limits: SegmentLimits,
        evicted: Option<Dest>,
    ) -> Learn {
        let total = self.count(key.0, None);
        let all_full = self.learned().count() as u32 >= MAX_ENTRIES;
        let own = self.count(key.0, Some(dest));
        if limits.cap(dest) == 0 || limits.max_macs == 0 || (all_full && total == 0) {
            return Learn::Refused(Refusal::Limit);
        }
        if own >= limits.cap(dest) {
            assert_eq!(evicted, Some(dest), "who is above its cap pays itself");
            self.evict(key.0, dest);
        } else if total >= limits.max_macs || all_full {
            let heaviest = evicted.expect("someone must pay");
            let most = self.owners(key.0).into_values().max();
            assert_eq!(Some(self.count(key.0, Some(heaviest))), most, "the heaviest pays");
            assert!(own < most.unwrap() || heaviest == dest, "of equals who learns pays");
            self.evict(key.0, heaviest);
        } else {
            assert_eq!(evicted, None, "there was room");
        }
        self.write(key, dest, Origin::Learned);
        Learn::New { evicted }
    }

    fn insert(&mut self, key: Key, dest: Dest, origin: Origin) -> Insert {
        let before = self.entries.get(&key).copied();
        let outcome = match before {
            _ if origin == Origin::Learned => return Insert::Refused,
            Some(e) if e.origin == Origin::Static && origin == Origin::Control => {
                return Insert::Refused;
            }
            Some(e) if (e.dest, e.origin) == (dest, origin) => return Insert::Unchanged,
            Some(e) => Insert::Replaced { dest: e.dest, origin: e.origin },
            None => Insert::New,
        };
        self.write(key, dest, origin);
        self.bumped = true;
        outcome
    }

    fn in_scope(scope: &Scope, key: Key, entry: &Entry) -> bool {
        let same_slot = |dest: Dest| match (dest, entry.dest) {
            (Dest::Port(a), Dest::Port(b)) => a.slot == b.slot && b.generation <= a.generation,
            (Dest::Vtep(a), Dest::Vtep(b)) => a.slot == b.slot && b.generation <= a.generation,
            _ => false,
        };
        scope.segment.is_none_or(|segment| segment == key.0)
            && scope.mac.is_none_or(|mac| mac == key.1)
            && scope.dest.is_none_or(same_slot)
            && (scope.pinned || entry.origin == Origin::Learned)
    }

    /// Lowered limits: the table says who lost how many, the model says whether that is right.
    fn trim(&mut self, segment: SegmentId, limits: SegmentLimits, after: &BTreeMap<Dest, u32>) {
        for owner in self.owners(segment).into_keys() {
            while self.count(segment, Some(owner)) > limits.cap(owner) {
                self.evict(segment, owner);
            }
        }
        let most = after.values().copied().max().unwrap_or(0);
        let total = self.count(segment, None).min(limits.max_macs);
        assert_eq!(after.values().sum::<u32>(), total, "trimmed to the limit and not below");
        for (owner, count) in self.owners(segment) {
            let kept = after.get(&owner).copied().unwrap_or(0);
            assert!(kept == count || kept + 1 >= most, "{owner:?} lost though not the heaviest");
            for _ in kept..count {
                self.evict(segment, owner);
            }
        }
    }
}

/// Both, and a reader.
struct Pair {
    fdb: Arc<Fdb>,
    reader: Reader,
    model: Model,
}

impl Pair {
    fn new() -> Self {
        let settings = Settings { damping: DAMPING, max_entries: MAX_ENTRIES, seed: None };
        let fdb = Arc::new(Fdb::new(settings));
        Self { reader: fdb.reader(), fdb, model: Model::default() }
    }

    fn now(&self) -> Tick {
        Tick(self.model.now)
    }

    fn step(&mut self, step: Step) {
        let now = self.now();
        let before: Vec<u32> = SEGMENTS.iter().map(|s| self.fdb.generation(*s)).collect();
        self.model.bumped = false;
        match step {
            Step::Configure(segment, limits) => {
                self.fdb.configure_segment(segment, limits);
                self.model.limits.insert(segment, limits);
                let after = self.fdb.owners(segment).into_iter().collect();
                self.model.trim(segment, limits, &after);
                self.model.bumped = true;
            }
            Step::RemoveSegment(segment) => {
                let known = self.model.limits.remove(&segment).is_some();
                let before = self.model.entries.len();
                self.model.entries.retain(|key, _| key.0 != segment);
                let gone = before - self.model.entries.len();
                assert_eq!(self.fdb.remove_segment(segment), gone);
                if known || gone > 0 {
                    self.model.bumped = true;
                } else {
                    return; // Whether an unknown segment's generation changes is nobody's concern.
                }
            }
            Step::Learn { key, dest, by_reader } => self.learn(key, dest, by_reader),
            Step::Lookup(key) => self.lookup(key),
            Step::Insert(key, dest, origin) => {
                let outcome = self.fdb.insert(key.0, key.1, dest, origin, now);
                assert_eq!(outcome, self.model.insert(key, dest, origin));
            }
            Step::Remove(key) => {
                let gone = self.model.entries.remove(&key).map(|e| (e.dest, e.origin));
                assert_eq!(self.fdb.remove(key.0, key.1), gone);
                self.model.bumped = gone.is_some();
            }
            Step::Flush(scope) => {
                let before = self.model.entries.len();
                self.model.entries.retain(|key, entry| !Model::in_scope(&scope, *key, entry));
                let gone = before - self.model.entries.len();
                assert_eq!(self.fdb.flush(scope), gone);
                self.model.bumped = gone > 0;
            }
            Step::Expire { budget } => self.expire(budget),
            Step::Advance(ms) => self.model.now += ms,
        }
        let after: Vec<u32> = SEGMENTS.iter().map(|s| self.fdb.generation(*s)).collect();
        assert_eq!(before != after, self.model.bumped, "generation");
    }

    fn learn(&mut self, key: Key, dest: Dest, by_reader: bool) {
        self.knows(key, dest);
        let now = self.now();
        // A reader may be late by a moment after an eviction, when it learns.
        let ghost = self.model.haunts(key);
        let learn = if by_reader && !ghost {
            self.reader.learn(key.0, key.1, dest, now)
        } else {
            self.fdb.learn(key.0, key.1, dest, now)
        };
        let evicted = if let Learn::New { evicted } = learn { evicted } else { None };
        assert_eq!(learn, self.model.learn(key, dest, evicted));
    }

    fn lookup(&mut self, key: Key) {
        let expect = self.model.lookup(key);
        let now = self.now();
        assert_eq!(self.fdb.lookup(key.0, key.1.get(), now), expect);
        assert_eq!(self.reader.lookup(key.0, key.1.get(), now), expect, "by a reader");
        let learns = self.model.limits.get(&key.0).is_some_and(|limits| limits.learning);
        let view = self.reader.view(key.0, now);
        assert_eq!(view.is_some(), learns, "a view");
        if let Some(view) = view {
            let found = view.foresee(key.1.into()).and_then(|station| view.find(station));
            assert_eq!(found.map_or(Lookup::Unknown, Lookup::from), expect, "by a view");
        }
    }

    /// A view says that learning writes nothing where that is so, and nowhere else.
    fn knows(&mut self, key: Key, dest: Dest) {
        let now = self.now();
        let Some(mut view) = self.reader.view(key.0, now) else { return };
        let knows = view.knows(key.1.into(), dest);
        let idle = self.model.live(key).is_some_and(|entry| {
            let aging = self.model.limits.get(&key.0).map_or(0, |limits| limits.aging_ms / 100);
            let often = if aging == 0 { 10 } else { (aging / 4).clamp(1, 10) };
            let young = self.model.tenth() - entry.seen < often;
            entry.dest == dest && (entry.origin != Origin::Learned || young)
        });
        assert!(knows == idle || self.model.haunts(key), "{key:?} at {dest:?}: {knows}");
    }

    fn expire(&mut self, budget: usize) {
        let now = self.now();
        let dead: Vec<Key> = self
            .model
            .entries
            .iter()
            .filter(|(key, entry)| self.model.expired(**key, entry))
            .map(|(key, _)| *key)
            .collect();
        if !dead.is_empty() {
            assert_eq!(self.fdb.next_deadline(now), Some(now), "there is something to sweep");
        }
        let mut removed = 0;
        for turn in 0.. {
            assert!(turn < 1000, "the sweep does not end");
            let expired = self.fdb.expire(now, budget);
            assert!(expired.removed <= budget);
            removed += expired.removed;
            if expired.done {
                break;
            }
            assert_eq!(self.fdb.next_deadline(now), Some(now), "a sweep goes on at once");
        }
        assert_eq!(removed, dead.len());
        for key in dead {
            self.model.entries.remove(&key);
        }
        let aging = |(key, entry): (Key, Entry)| {
            let aging = self.model.limits.get(&key.0)?.aging_ms;
            (aging > 0).then_some(Tick(entry.seen * 100 + aging))
        };
        assert_eq!(self.fdb.next_deadline(now), self.model.learned().filter_map(aging).min());
    }

    /// All that can be asked.
    fn compare(&mut self) {
        let now = self.now();
        let age = |entry: &Entry| (self.model.tenth() - entry.seen) * 100;
        let rows: Vec<Row> = self
            .model
            .entries
            .iter()
            .filter(|(key, entry)| !self.model.expired(**key, entry))
            .map(|(&(segment, mac), entry)| {
                let (dest, origin) = (entry.dest, entry.origin);
                Row { segment, mac, dest, origin, age_ms: age(entry) }
            })
            .collect();
        assert_eq!(self.fdb.entries(now), rows);
        for segment in SEGMENTS {
            let counts = self.fdb.counts(segment);
            let count = |origin| {
                let here = |(key, e): &(&Key, &Entry)| key.0 == segment && e.origin == origin;
                self.model.entries.iter().filter(here).count() as u32
            };
            assert_eq!(counts.learned, count(Origin::Learned));
            assert_eq!(counts.fixed, count(Origin::Static));
            assert_eq!(counts.control, count(Origin::Control));
            let owners = self.model.owners(segment).into_iter().collect::<Vec<_>>();
            assert_eq!(self.fdb.owners(segment), owners);
        }
        for mac in MACS {
            for segment in SEGMENTS {
                self.lookup((segment, station(mac)));
            }
        }
    }
}

const SEGMENTS: [SegmentId; 3] = [SegmentId(0), SegmentId(1), SegmentId(700)];
const MACS: std::ops::Range<u8> = 1..11;

fn station(n: u8) -> StationMac {
    MacAddr([2, 0, 0, 0, 0, n]).station().unwrap()
}

fn segment() -> impl Strategy<Value = SegmentId> {
    prop::sample::select(&SEGMENTS[..])
}

fn key() -> impl Strategy<Value = Key> {
    (segment(), MACS.prop_map(station))
}

fn dest() -> impl Strategy<Value = Dest> {
    prop_oneof![
        (0..3_u16, 0..2_u16).prop_map(|(slot, generation)| Dest::Port(PortId { slot, generation })),
        (0..2_u16, 0..2_u16).prop_map(|(slot, generation)| Dest::Vtep(VtepId { slot, generation })),
    ]
}

fn limits() -> impl Strategy<Value = SegmentLimits> {
    let aging = prop::sample::select(&[0, 300, 1000, 2000, 20_000][..]);
    (aging, 0..9_u32, 0..5_u32, 0..5_u32, prop::bool::weighted(0.9)).prop_map(
        |(aging_ms, max_macs, per_port, per_vtep, learning)| SegmentLimits {
            aging_ms,
            max_macs,
            per_port,
            per_vtep,
            learning,
        },
    )
}

fn scope() -> impl Strategy<Value = Scope> {
    let parts = (
        prop::option::of(segment()),
        prop::option::of(dest()),
        prop::option::weighted(0.3, MACS.prop_map(station)),
        any::<bool>(),
    );
    parts.prop_map(|(segment, dest, mac, pinned)| Scope { segment, dest, mac, pinned })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => (key(), dest(), any::<bool>())
            .prop_map(|(key, dest, by_reader)| Step::Learn { key, dest, by_reader }),
        10 => key().prop_map(Step::Lookup),
        3 => (key(), dest(), prop::sample::select(
                &[Origin::Learned, Origin::Static, Origin::Control][..]))
            .prop_map(|(key, dest, origin)| Step::Insert(key, dest, origin)),
        2 => key().prop_map(Step::Remove),
        1 => scope().prop_map(Step::Flush),
        2 => (1..6_usize).prop_map(|budget| Step::Expire { budget }),
        12 => prop_oneof![0..120_u64, 0..3000_u64].prop_map(Step::Advance),
        1 => (segment(), limits()).prop_map(|(segment, limits)| Step::Configure(segment, limits)),
        1 => segment().prop_map(Step::RemoveSegment),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_table_and_the_model_agree(
        setup in prop::collection::vec(limits(), SEGMENTS.len()),
        steps in prop::collection::vec(step(), 1..250),
    ) {
        let mut pair = Pair::new();
        for (segment, limits) in SEGMENTS.into_iter().zip(setup) {
            pair.step(Step::Configure(segment, SegmentLimits { learning: true, ..limits }));
        }
        for (at, step) in steps.into_iter().enumerate() {
            pair.step(step);
            if at % 8 == 0 {
                pair.compare();
            }
        }
        pair.compare();
    }
}
