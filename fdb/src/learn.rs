//! Learning where something has to be written: strangers, moves, refreshes.
//!
//! Every change of an entry happens under its segment's lock, and there in this order: books,
//! table, generation. A refresh changes no more than a stamp and an order, and does the table first.

use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use encap::StationMac;

use crate::damping::Verdict;
use crate::ledger::Ledger;
use crate::limits::{Fill, Room};
use crate::segment::Segment;
use crate::shard::Found;
use crate::word::{Key, Stamp, Word, tick_after};
use crate::{Dest, Fdb, Learn, Origin, Refusal, SegmentId, SegmentLimits, Tick};

/// Entries that are removed under one lock, so that no worker waits long for it.
pub(crate) const BATCH: usize = 256;

impl Fdb {
    /// Takes in that a frame came from this station at this place. For a frame's path see
    /// [`crate::Reader::learn`].
    ///
    /// A known station at its known place costs a few loads. Once a second its entry is refreshed,
    /// for which nobody is waited for. Only a stranger or a move waits for the segment's lock.
    pub fn learn(&self, id: SegmentId, mac: StationMac, dest: Dest, now: Tick) -> Learn {
        let segment = self.segments.get(id).filter(|segment| segment.hot.learning());
        let Some(segment) = segment else {
            return self.tally.tell(Learn::Refused(Refusal::Disabled));
        };
        let key = Key::new(id, mac);
        let read = || self.shards.read(self.shards.hash(key), key);
        let word = read();
        match segment.hot.learn_unwritten(word, dest, Stamp::of(now)) {
            Some(learn) => self.tally.tell(learn),
            None => self.learn_written(segment, key, word, dest, now, read),
        }
    }

    /// Learns where `word`, just read, does not suffice; `again` reads it anew.
    pub(crate) fn learn_written(
        &self,
        segment: &Segment,
        key: Key,
        word: Word,
        dest: Dest,
        now: Tick,
        again: impl FnOnce() -> Word,
    ) -> Learn {
        let stamp = Stamp::of(now);
        let known = !word.is_dead() && !segment.hot.expired(word, stamp);
        let ledger = if known && (word.dest() == dest || word.is_frozen()) {
            segment.try_lock()
        } else {
            Some(segment.lock())
        };
        let learn = match ledger {
            Some(ledger) => self.learn_locked(segment, ledger, key, dest, now, again),
            None if word.dest() == dest => {
                // Its place in the order of eviction stays that of the refresh before.
                self.shards.replace(key, word, word.with_seen(stamp));
                Learn::Known
            }
            // A loop moves stations with every frame, and nobody shall wait for those. Whether the
            // time is over is for the next one to ask.
            None => Learn::Refused(Refusal::Damped),
        };
        self.tally.tell(learn)
    }

    fn learn_locked(
        &self,
        segment: &Segment,
        mut ledger: MutexGuard<'_, Ledger>,
        key: Key,
        dest: Dest,
        now: Tick,
        again: impl FnOnce() -> Word,
    ) -> Learn {
        let stamp = Stamp::of(now);
        let Some(limits) = ledger.limits.filter(|limits| limits.learning) else {
            return Learn::Refused(Refusal::Disabled);
        };
        // Whoever writes this key holds the segment's lock: what the table says now stays.
        if again().is_dead() {
            return self.admit(segment, &mut ledger, &limits, (key, dest), now);
        }
        let here = |word: Word| {
            word.is_learned() && word.dest() == dest && !segment.hot.expired(word, stamp)
        };
        let refreshed = |word: Word| here(word).then(|| word.with_seen(stamp));
        match self.shards.find_and(key, refreshed) {
            Some(found) if here(found.word) => {
                ledger.touch(found.node);
                Learn::Known
            }
            Some(found) if !found.word.is_learned() => {
                let same = found.word.dest() == dest;
                if same { Learn::Known } else { Learn::Refused(Refusal::Static) }
            }
            Some(found) if segment.hot.expired(found.word, stamp) => {
                self.drop_found(&mut ledger, key, found);
                self.tally.expired.add(1);
                self.admit(segment, &mut ledger, &limits, (key, dest), now)
            }
            Some(found) => {
                self.relocate(segment, &mut ledger, &limits, (key, dest), (found, stamp))
            }
            None => self.admit(segment, &mut ledger, &limits, (key, dest), now),
        }
    }

    /// A stranger comes in.
    fn admit(
        &self,
        segment: &Segment,
        ledger: &mut Ledger,
        limits: &SegmentLimits,
        (key, dest): (Key, Dest),
        now: Tick,
    ) -> Learn {
        let mut evicted = None;
        let node = loop {
            let fill = Fill {
                owner: (ledger.learned_of(dest), limits.cap(dest)),
                segment: (ledger.counts().learned, limits.max_macs),
                // The place of who was evicted is this one's.
                all_full: evicted.is_none() && self.tally.is_full(self.max_entries),
            };
            let payer = match fill.room() {
                Room::Free if evicted.is_some() || self.tally.reserve(self.max_entries) => {
                    let (node, appeared) = ledger.add(key, dest, Origin::Learned);
                    self.owners.appeared(key.segment(), appeared);
                    break node;
                }
                // Another segment took the place since.
                Room::Free => continue,
                Room::Own => ledger.owner(dest),
                Room::Heaviest => ledger.heaviest(dest),
                Room::Nowhere => None,
            };
            if let Some(own) = payer
                && evicted.is_none()
                && fill.lacks_one()
                && ledger.owner_in(own) == Some(dest)
                && let Some((gone, node)) = ledger.exchange(key, own)
            {
                self.shards.kill(gone);
                ledger.note_eviction();
                evicted = Some(dest);
                break node;
            }
            let Some(payer) = payer.and_then(|payer| self.make_room(ledger, payer)) else {
                if evicted.is_some() {
                    self.tally.release();
                }
                return Learn::Refused(Refusal::Limit);
            };
            if evicted.replace(payer).is_some() {
                self.tally.release();
            }
        };
        self.shards.put(key, Word::new(dest, Origin::Learned, Stamp::of(now)), node);
        ledger.note_learned();
        let aging = segment.hot.aging();
        if aging != 0 {
            self.ends_at(tick_after(now, aging));
        }
        Learn::New { evicted }
    }

    /// A known station appears elsewhere.
    fn relocate(
        &self,
        segment: &Segment,
        ledger: &mut Ledger,
        limits: &SegmentLimits,
        (key, dest): (Key, Dest),
        (found, now): (Found, Stamp),
    ) -> Learn {
        let cap = limits.cap(dest);
        if cap == 0 {
            return Learn::Refused(Refusal::Limit);
        }
        let moves = match ledger.moves(found.node).attempt(now, self.damping) {
            Verdict::Follow(moves) => moves,
            Verdict::Held => return Learn::Refused(Refusal::Damped),
            Verdict::Freeze(moves) => {
                ledger.set_moves(found.node, moves);
                self.shards.put(key, found.word.with_frozen(), found.node);
                ledger.note_damped();
                return Learn::Refused(Refusal::Damped);
            }
        };
        if ledger.learned_of(dest) >= cap
            && let Some(owner) = ledger.owner(dest)
        {
            self.evict(ledger, owner);
        }
        let from = found.word.dest();
        let (appeared, vanished) = ledger.hand_over(found.node, dest);
        self.owners.appeared(key.segment(), appeared);
        self.owners.vanished(key.segment(), vanished);
        ledger.set_moves(found.node, moves);
        self.shards.put(key, Word::new(dest, Origin::Learned, now), found.node);
        segment.hot.bump();
        ledger.note_move();
        Learn::Moved { from }
    }

    /// Removes the oldest learned entry of the owner in this slot. Returns whether it had one.
    pub(crate) fn evict(&self, ledger: &mut Ledger, owner: u32) -> bool {
        let had = self.make_room(ledger, owner).is_some();
        if had {
            self.tally.release();
        }
        had
    }

    /// As [`Self::evict`], but the place among all entries stays taken, for another one. Returns
    /// whose entry it was.
    fn make_room(&self, ledger: &mut Ledger, owner: u32) -> Option<Dest> {
        let dest = ledger.owner_in(owner)?;
        let (key, node) = ledger.oldest(owner)?;
        let vanished = ledger.drop_entry(node, Origin::Learned);
        self.owners.vanished(key.segment(), vanished);
        self.shards.kill(key);
        ledger.note_eviction();
        Some(dest)
    }

    /// Removes an entry that the books name.
    pub(crate) fn drop_key(&self, ledger: &mut Ledger, key: Key) {
        if let Some(found) = self.shards.find(key) {
            self.drop_found(ledger, key, found);
        }
    }

    /// Removes an entry.
    pub(crate) fn drop_found(&self, ledger: &mut Ledger, key: Key, found: Found) {
        let vanished = ledger.drop_entry(found.node, found.word.origin());
        self.owners.vanished(key.segment(), vanished);
        self.shards.kill(key);
        if found.word.is_learned() {
            self.tally.release();
        }
    }

    /// Evicts until a segment is within its limits, in batches.
    pub(crate) fn trim(&self, id: SegmentId, segment: &Segment) {
        let owners = self.owners(id);
        for (owner, _) in owners {
            self.in_batches(segment, |ledger| {
                let cap = ledger.limits.map_or(0, |limits| limits.cap(owner));
                ledger.learned_of(owner) > cap
                    && ledger.owner(owner).is_some_and(|owner| self.evict(ledger, owner))
            });
        }
        self.in_batches(segment, |ledger| {
            let max = ledger.limits.map_or(0, |limits| limits.max_macs);
            if ledger.counts().learned <= max {
                return false;
            }
            let nobody = Dest::Port(crate::PortId { slot: u16::MAX, generation: u16::MAX });
            ledger.heaviest(nobody).is_some_and(|owner| self.evict(ledger, owner))
        });
    }

    /// Repeats a step under the segment's lock until it returns false, with pauses for others.
    /// Returns how often it returned true.
    pub(crate) fn in_batches(
        &self,
        segment: &Segment,
        mut step: impl FnMut(&mut Ledger) -> bool,
    ) -> usize {
        let mut count = 0;
        loop {
            let mut ledger = segment.lock();
            for _ in 0..BATCH {
                if !step(&mut ledger) {
                    return count;
                }
                count += 1;
            }
        }
    }

    /// Something expires at this tick.
    pub(crate) fn ends_at(&self, tick: u64) {
        // Later ends are the rule: then the line is only read.
        if tick < self.deadline.load(Ordering::Relaxed) {
            self.deadline.fetch_min(tick, Ordering::Relaxed);
        }
    }
}
