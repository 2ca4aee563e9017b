//! Control's verbs: set, remove, flush.

use encap::StationMac;

use crate::owners::covers;
use crate::segment::Segment;
use crate::word::{Key, Stamp, Word};
use crate::{Dest, Fdb, Insert, Origin, Scope, SegmentId, Tick};

impl Fdb {
    /// Sets a static or control-plane entry. It counts against no learning limit and stays where
    /// it is until it is set anew, removed, or flushed with [`Scope::with_pinned`].
    pub fn insert(
        &self,
        id: SegmentId,
        mac: StationMac,
        dest: Dest,
        origin: Origin,
        now: Tick,
    ) -> Insert {
        if origin == Origin::Learned {
            return Insert::Refused;
        }
        let key = Key::new(id, mac);
        let segment = self.segments.get_or_make(id);
        let mut ledger = segment.lock();
        let hash = self.shards.hash(key);
        let before = self.shards.find_and(hash, key, |_| None);
        let outcome = match before {
            None => Insert::New,
            Some(found) if found.word.origin() == Origin::Static && origin == Origin::Control => {
                return Insert::Refused;
            }
            Some(found) if (found.word.dest(), found.word.origin()) == (dest, origin) => {
                return Insert::Unchanged;
            }
            Some(found) => {
                Insert::Replaced { dest: found.word.dest(), origin: found.word.origin() }
            }
        };
        let (node, appeared) = ledger.add(key, dest, origin);
        self.owners.appeared(id, appeared);
        self.shards.put(hash, key, Word::new(dest, origin, Stamp::of(now)), node);
        if let Some(found) = before {
            let vanished = ledger.drop_entry(found.node, found.word.origin());
            self.owners.vanished(id, vanished);
            if found.word.is_learned() {
                self.tally.release();
            }
        }
        segment.hot.bump();
        outcome
    }

    /// Removes an entry, of whatever origin. Returns where it said the station lives, and how it
    /// had come to be.
    pub fn remove(&self, segment: SegmentId, mac: StationMac) -> Option<(Dest, Origin)> {
        self.remove_if(self.segments.get(segment)?, Key::new(segment, mac), |_| true)
    }

    /// Removes what is in scope: what was learned, unless [`Scope::pinned`] asks for all. Returns
    /// how many entries went.
    ///
    /// Entries that are learned while this runs may stay. Workers wait for a batch of some
    /// hundred entries at most.
    pub fn flush(&self, scope: Scope) -> usize {
        let segments: Vec<(SegmentId, &Segment)> = match scope.segment {
            Some(id) => self.segments.get(id).map(|segment| (id, segment)).into_iter().collect(),
            None => self.segments.iter_from(0).collect(),
        };
        if let Some(mac) = scope.mac {
            let matches = |word: Word| {
                (scope.pinned || word.is_learned())
                    && scope.dest.is_none_or(|dest| covers(dest, word.dest()))
            };
            let gone = segments
                .iter()
                .filter_map(|&(id, segment)| self.remove_if(segment, Key::new(id, mac), matches));
            return gone.count();
        }
        let owned: Vec<(Dest, SegmentId)> = match scope.dest {
            Some(dest) => {
                let places = self.owners.places(dest).into_iter();
                places.filter(|(_, id)| scope.segment.is_none_or(|only| only == *id)).collect()
            }
            None => {
                let owners = |id| self.owners(id).into_iter().map(move |(owner, _)| (owner, id));
                segments.iter().flat_map(|&(id, _)| owners(id)).collect()
            }
        };
        let drain = |(owner, id)| {
            let Some(segment) = self.segments.get(id) else { return 0 };
            let pinned = scope.pinned.then(|| self.drain(segment, owner, Origin::Static));
            self.drain(segment, owner, Origin::Learned) + pinned.unwrap_or(0)
        };
        owned.into_iter().map(drain).sum()
    }

    /// Removes an entry that matches.
    fn remove_if(
        &self,
        segment: &Segment,
        key: Key,
        matches: impl Fn(Word) -> bool,
    ) -> Option<(Dest, Origin)> {
        let mut ledger = segment.lock();
        let found = self.shards.find(key).filter(|found| matches(found.word))?;
        self.drop_found(&mut ledger, key, found);
        segment.hot.bump();
        self.tally.flushed.add(1);
        Some((found.word.dest(), found.word.origin()))
    }

    /// Removes the entries that an owner has when this begins: learned ones, or all others.
    fn drain(&self, segment: &Segment, owner: Dest, origin: Origin) -> usize {
        let mut left = segment.lock().len_of(owner, origin);
        let count = self.in_batches(segment, |ledger| {
            let first = if left > 0 { ledger.first(owner, origin) } else { None };
            let Some(key) = first else { return false };
            left -= 1;
            self.drop_key(ledger, key);
            // Within the batch: a worker must not keep using what is gone until the last one is.
            segment.hot.bump();
            true
        });
        self.tally.flushed.add(count as u64);
        count
    }
}
