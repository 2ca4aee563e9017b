//! The table: its parts, configuration, and what is asked without changing anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use encap::MacAddr;

use crate::damping::Rule;
use crate::owners::Owners;
use crate::segment::{Segment, Segments};
use crate::shard::Shards;
use crate::sweep::Cursor;
use crate::totals::Tally;
use crate::word::{Key, Stamp, millis};
use crate::{
    Counts, Dest, Lookup, Reader, Row, Scope, SegmentId, SegmentLimits, Settings, Tick, Totals,
};

/// Who lives where. Shared by all workers and by control; see the crate's page for the rules.
#[derive(Debug)]
pub struct Fdb {
    pub(crate) segments: Segments,
    pub(crate) shards: Shards,
    pub(crate) owners: Owners,
    pub(crate) tally: Tally,
    pub(crate) damping: Rule,
    pub(crate) max_entries: u32,
    /// No learned entry expires before this tick; `u64::MAX` for never.
    pub(crate) deadline: AtomicU64,
    pub(crate) cursor: Cursor,
}

impl Default for Fdb {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}

impl Fdb {
    /// An empty table: some 70 KiB, and 1 KiB for each reader.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            segments: Segments::default(),
            shards: Shards::new(settings.seed),
            owners: Owners::default(),
            tally: Tally::default(),
            damping: settings.damping.into(),
            max_entries: settings.max_entries,
            deadline: AtomicU64::new(u64::MAX),
            cursor: Cursor::default(),
        }
    }

    /// A worker's own view: one per thread.
    #[must_use]
    pub fn reader(self: &Arc<Self>) -> Reader {
        Reader::new(Arc::clone(self))
    }

    /// Makes a segment learn by these limits, from now on. Entries above a lowered limit go at
    /// once, the oldest of the heaviest owners first.
    pub fn configure_segment(&self, id: SegmentId, limits: SegmentLimits) {
        let segment = self.segments.get_or_make(id);
        let mut ledger = segment.lock();
        ledger.limits = Some(limits);
        segment.hot.configure(Some(&limits));
        drop(ledger);
        self.trim(id, segment);
        // What had expired must not come back to life in an answer that somebody kept.
        segment.hot.bump();
        // The sweep works out anew when something ends.
        self.deadline.store(0, Ordering::Relaxed);
    }

    /// Forgets a segment with all its entries. Returns how many went.
    pub fn remove_segment(&self, id: SegmentId) -> usize {
        let Some(segment) = self.segments.get(id) else { return 0 };
        let mut ledger = segment.lock();
        ledger.limits = None;
        segment.hot.configure(None);
        drop(ledger);
        let count = self.flush(Scope::segment(id).with_pinned());
        segment.hot.bump();
        count
    }

    /// How a segment learns; `None` where it is not configured.
    #[must_use]
    pub fn limits(&self, segment: SegmentId) -> Option<SegmentLimits> {
        self.segments.get(segment)?.lock().limits
    }

    /// Where a station lives. Takes no lock; for a frame's path see [`Reader::lookup`].
    #[must_use]
    pub fn lookup(&self, segment: SegmentId, mac: MacAddr, now: Tick) -> Lookup {
        let Some(Segment { hot, .. }) = self.segments.get(segment) else { return Lookup::Unknown };
        let Some(key) = Key::of_destination(segment, mac) else { return Lookup::Unknown };
        let word = self.shards.read(self.shards.hash(key), key);
        if word.is_dead() || hot.expired(word, Stamp::of(now)) {
            return Lookup::Unknown;
        }
        word.dest().into()
    }

    /// Changes when an entry of the segment moves, is set, removed or flushed, and when the segment
    /// is configured: not when a station is learned, ages out or is evicted.
    ///
    /// The contract for whoever keeps an answer: read the generation, then look up, keep both. The
    /// answer holds while the generation is the same and for at most one second, since an eviction
    /// does not announce itself; and no longer than the entry itself.
    #[must_use]
    pub fn generation(&self, segment: SegmentId) -> u32 {
        self.segments.get(segment).map_or(0, |segment| segment.hot.generation())
    }

    /// All entries that have not expired, by segment and address. Takes no lock: each row is an
    /// entry that stood while this ran.
    #[must_use]
    pub fn entries(&self, now: Tick) -> Vec<Row> {
        let now = Stamp::of(now);
        let mut rows = Vec::new();
        for table in self.shards.tables() {
            rows.extend(table.iter().filter_map(|(_, key, word)| {
                let segment = key.segment();
                if self.segments.get(segment)?.hot.expired(word, now) {
                    return None;
                }
                let age_ms = millis(word.seen().age(now));
                let (dest, origin) = (word.dest(), word.origin());
                Some(Row { segment, mac: key.mac()?, dest, origin, age_ms })
            }));
        }
        rows.sort_unstable();
        rows
    }

    /// Entries of a segment by origin, without counting them anew.
    #[must_use]
    pub fn counts(&self, segment: SegmentId) -> Counts {
        self.segments.get(segment).map_or_else(Counts::default, |segment| segment.lock().counts())
    }

    /// Everyone who has entries in a segment, with the number of learned ones, ordered.
    #[must_use]
    pub fn owners(&self, segment: SegmentId) -> Vec<(Dest, u32)> {
        self.segments.get(segment).map_or_else(Vec::new, |segment| segment.lock().owners())
    }

    /// Events since the table was made.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals {
            refused: self.tally.refused.get(),
            expired: self.tally.expired.get(),
            flushed: self.tally.flushed.get(),
            ..Totals::default()
        };
        for (_, segment) in self.segments.iter_from(0) {
            let ledger = segment.lock();
            let counts = ledger.counts();
            totals.learned += ledger.admitted();
            totals.moves += counts.moves;
            totals.damped += counts.damped;
            totals.evicted += counts.evicted;
        }
        totals
    }

    /// Bytes that the table has allocated, without those of its readers.
    #[must_use]
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.segments.bytes() + self.shards.bytes() + self.owners.bytes()
    }
}
