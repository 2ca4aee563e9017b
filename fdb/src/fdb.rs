//! The table and its verbs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use encap::{MacAddr, StationMac};

use crate::{
    Counts, Dest, Expired, Insert, Learn, Lookup, Origin, Reader, Refusal, Row, Scope, SegmentId,
    SegmentLimits, Settings, Tick, Totals,
};

#[derive(Clone, Copy, Debug)]
struct Entry {
    dest: Dest,
    origin: Origin,
    seen: Tick,
}

#[derive(Debug, Default)]
struct State {
    limits: BTreeMap<SegmentId, SegmentLimits>,
    generations: BTreeMap<SegmentId, u32>,
    entries: BTreeMap<(SegmentId, StationMac), Entry>,
    totals: Totals,
}

impl State {
    fn live(&self, segment: SegmentId, mac: StationMac, now: Tick) -> Option<Entry> {
        let aging = self.limits.get(&segment)?.aging_ms;
        let entry = self.entries.get(&(segment, mac)).copied()?;
        (entry.origin != Origin::Learned || aging == 0 || now.since(entry.seen) < aging)
            .then_some(entry)
    }

    fn bump(&mut self, segment: SegmentId) {
        *self.generations.entry(segment).or_default() += 1;
    }
}

/// Who lives where. Shared by all workers and by control.
#[derive(Debug)]
pub struct Fdb {
    state: Mutex<State>,
}

impl Default for Fdb {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}

impl Fdb {
    /// An empty table.
    #[must_use]
    pub fn new(_settings: Settings) -> Self {
        Self { state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker's own view: one per thread.
    #[must_use]
    pub fn reader(self: &Arc<Self>) -> Reader {
        Reader::new(Arc::clone(self))
    }

    /// Makes a segment learn by these limits, from now on. What is above a lowered limit goes.
    pub fn configure_segment(&self, segment: SegmentId, limits: SegmentLimits) {
        self.state().limits.insert(segment, limits);
    }

    /// Forgets a segment with all its entries. Returns how many went.
    pub fn remove_segment(&self, segment: SegmentId) -> usize {
        let count = self.flush(Scope::segment(segment).with_pinned());
        self.state().limits.remove(&segment);
        count
    }

    /// How a segment learns; `None` where it is not configured.
    #[must_use]
    pub fn limits(&self, segment: SegmentId) -> Option<SegmentLimits> {
        self.state().limits.get(&segment).copied()
    }

    /// Where a station lives.
    #[must_use]
    pub fn lookup(&self, segment: SegmentId, mac: MacAddr, now: Tick) -> Lookup {
        mac.station()
            .and_then(|mac| self.state().live(segment, mac, now))
            .map_or(Lookup::Unknown, |entry| entry.dest.into())
    }

    /// Takes in that a frame came from this station at this place.
    pub fn learn(&self, segment: SegmentId, mac: StationMac, dest: Dest, now: Tick) -> Learn {
        let mut state = self.state();
        if !state.limits.get(&segment).is_some_and(|limits| limits.learning) {
            return Learn::Refused(Refusal::Disabled);
        }
        let before = state.live(segment, mac, now);
        if before.is_some_and(|entry| entry.origin != Origin::Learned) {
            return match before {
                Some(entry) if entry.dest == dest => Learn::Known,
                _ => Learn::Refused(Refusal::Static),
            };
        }
        state.entries.insert((segment, mac), Entry { dest, origin: Origin::Learned, seen: now });
        match before {
            None => Learn::New { evicted: None },
            Some(entry) if entry.dest == dest => Learn::Known,
            Some(entry) => {
                state.bump(segment);
                Learn::Moved { from: entry.dest }
            }
        }
    }

    /// Sets a static or control-plane entry.
    pub fn insert(
        &self,
        segment: SegmentId,
        mac: StationMac,
        dest: Dest,
        origin: Origin,
        now: Tick,
    ) -> Insert {
        let mut state = self.state();
        let before = state.entries.get(&(segment, mac)).copied();
        if origin == Origin::Learned
            || (origin == Origin::Control && before.is_some_and(|e| e.origin == Origin::Static))
        {
            return Insert::Refused;
        }
        state.entries.insert((segment, mac), Entry { dest, origin, seen: now });
        state.bump(segment);
        match before {
            None => Insert::New,
            Some(e) if e.dest == dest && e.origin == origin => Insert::Unchanged,
            Some(e) => Insert::Replaced { dest: e.dest, origin: e.origin },
        }
    }

    /// Removes an entry, of whatever origin. Returns where it said the station lives.
    pub fn remove(&self, segment: SegmentId, mac: StationMac) -> Option<(Dest, Origin)> {
        let mut state = self.state();
        state.bump(segment);
        state.entries.remove(&(segment, mac)).map(|entry| (entry.dest, entry.origin))
    }

    /// Removes what is in scope. Returns how many entries went.
    pub fn flush(&self, scope: Scope) -> usize {
        let mut state = self.state();
        let before = state.entries.len();
        state.entries.retain(|(segment, mac), entry| {
            scope.segment.is_some_and(|s| s != *segment)
                || scope.mac.is_some_and(|m| m != *mac)
                || scope.dest.is_some_and(|d| d != entry.dest)
                || (entry.origin != Origin::Learned && !scope.pinned)
        });
        for generation in state.generations.values_mut() {
            *generation += 1;
        }
        before - state.entries.len()
    }

    /// Sweeps out what has expired, in at most about `budget` steps.
    pub fn expire(&self, now: Tick, _budget: usize) -> Expired {
        let mut state = self.state();
        let dead: Vec<_> = state
            .entries
            .keys()
            .copied()
            .filter(|&(segment, mac)| state.live(segment, mac, now).is_none())
            .collect();
        for key in &dead {
            state.entries.remove(key);
        }
        Expired { removed: dead.len(), done: true }
    }

    /// When [`Self::expire`] has something to do next; never before `now`.
    #[must_use]
    pub fn next_deadline(&self, now: Tick) -> Option<Tick> {
        let state = self.state();
        state
            .entries
            .iter()
            .filter(|(_, entry)| entry.origin == Origin::Learned)
            .filter_map(|((segment, _), entry)| {
                let aging = state.limits.get(segment)?.aging_ms;
                (aging > 0).then(|| Tick(entry.seen.0 + aging).max(now))
            })
            .min()
    }

    /// All entries that have not expired, by segment and address.
    #[must_use]
    pub fn entries(&self, now: Tick) -> Vec<Row> {
        let state = self.state();
        let rows = state.entries.keys().filter_map(|&(segment, mac)| {
            let entry = state.live(segment, mac, now)?;
            let Entry { dest, origin, seen } = entry;
            Some(Row { segment, mac, dest, origin, age_ms: now.since(seen) })
        });
        rows.collect()
    }

    /// Entries of a segment by origin.
    #[must_use]
    pub fn counts(&self, segment: SegmentId) -> Counts {
        let mut counts = Counts::default();
        for ((s, _), entry) in &self.state().entries {
            if *s == segment {
                match entry.origin {
                    Origin::Learned => counts.learned += 1,
                    Origin::Static => counts.fixed += 1,
                    Origin::Control => counts.control += 1,
                }
            }
        }
        counts
    }

    /// Learned entries of each owner in a segment, ordered by owner.
    #[must_use]
    pub fn owners(&self, segment: SegmentId) -> Vec<(Dest, u32)> {
        let mut owners = BTreeMap::new();
        for ((s, _), entry) in &self.state().entries {
            if *s == segment && entry.origin == Origin::Learned {
                *owners.entry(entry.dest).or_default() += 1;
            }
        }
        owners.into_iter().collect()
    }

    /// Events since the table was made.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.state().totals
    }

    /// Changes when an entry of the segment moved, was set, removed or flushed.
    #[must_use]
    pub fn generation(&self, segment: SegmentId) -> u32 {
        self.state().generations.get(&segment).copied().unwrap_or(0)
    }

    /// Bytes that the table has allocated.
    #[must_use]
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.state().entries.len() * size_of::<(SegmentId, StationMac, Entry)>()
    }
}
