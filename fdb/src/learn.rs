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

/// A station that was seen at a place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) key: Key,
    /// The key's hash.
    pub(crate) hash: u64,
    pub(crate) dest: Dest,
    pub(crate) now: Tick,
}

impl Arrival {
    const fn stamp(&self) -> Stamp {
        Stamp::of(self.now)
    }

    /// The entry that is learned from it.
    const fn word(&self) -> Word {
        Word::new(self.dest, Origin::Learned, self.stamp())
    }
}

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
        let hash = self.shards.hash(key);
        let read = || self.shards.read(hash, key);
        let word = read();
        match segment.hot.learn_unwritten(word, dest, Stamp::of(now)) {
            Some(learn) => self.tally.tell(learn),
            None => self.learn_written(segment, Arrival { key, hash, dest, now }, word, read),
        }
    }

    /// Learns where `word`, just read, does not suffice; `again` reads it anew.
    pub(crate) fn learn_written(
        &self,
        segment: &Segment,
        arrival: Arrival,
        word: Word,
        again: impl FnOnce() -> Word,
    ) -> Learn {
        let stamp = arrival.stamp();
        let here = word.is_at(arrival.dest) && !segment.hot.expired(word, stamp);
        let ledger =
            if here && !word.is_dead() { segment.try_lock() } else { Some(segment.lock()) };
        let learn = match ledger {
            Some(ledger) => self.learn_locked(segment, ledger, arrival, word, again),
            None => {
                // Its place in the order of eviction stays that of the refresh before.
                self.shards.replace(arrival.hash, arrival.key, word, word.with_seen(stamp));
                Learn::Known
            }
        };
        self.tally.tell(learn)
    }

    fn learn_locked(
        &self,
        segment: &Segment,
        mut ledger: MutexGuard<'_, Ledger>,
        arrival: Arrival,
        word: Word,
        again: impl FnOnce() -> Word,
    ) -> Learn {
        let Some(limits) = ledger.limits.filter(|limits| limits.learning) else {
            return Learn::Refused(Refusal::Disabled);
        };
        // Whoever writes this key holds the segment's lock: what the table says now stays.
        if word.is_dead() && again().is_dead() {
            return self.admit(segment, &mut ledger, &limits, arrival);
        }
        let Arrival { key, hash, dest, .. } = arrival;
        let stamp = arrival.stamp();
        let here =
            |word: Word| word.is_learned() && word.is_at(dest) && !segment.hot.expired(word, stamp);
        let refreshed = |word: Word| here(word).then(|| word.with_seen(stamp));
        match self.shards.find_and(hash, key, refreshed) {
            Some(found) if here(found.word) => {
                ledger.touch(found.node);
                Learn::Known
            }
            Some(found) if !found.word.is_learned() => {
                let same = found.word.is_at(dest);
                if same { Learn::Known } else { Learn::Refused(Refusal::Static) }
            }
            Some(found) if segment.hot.expired(found.word, stamp) => {
                self.drop_found(&mut ledger, key, found);
                self.tally.expired.add(1);
                self.admit(segment, &mut ledger, &limits, arrival)
            }
            Some(found) => self.relocate(segment, &mut ledger, &limits, arrival, found),
            None => self.admit(segment, &mut ledger, &limits, arrival),
        }
    }

    /// A stranger comes in.
    fn admit(
        &self,
        segment: &Segment,
        ledger: &mut Ledger,
        limits: &SegmentLimits,
        arrival: Arrival,
    ) -> Learn {
        let Arrival { key, hash, dest, now } = arrival;
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
                self.shards.kill(self.shards.hash(gone), gone);
                ledger.note_eviction();
                evicted = Some(dest);
                break node;
            }
            let Some(payer) = payer.and_then(|payer| self.make_room(ledger, payer)) else {
                // Where a limit is above zero and exceeded, there is an entry that can go.
                debug_assert!(evicted.is_none(), "entries went for nothing");
                return Learn::Refused(Refusal::Limit);
            };
            if evicted.replace(payer).is_some() {
                self.tally.release();
            }
        };
        self.shards.put(hash, key, arrival.word(), node);
        ledger.note_learned();
        if let Some(aging) = segment.hot.aging() {
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
        arrival: Arrival,
        found: Found,
    ) -> Learn {
        let Arrival { key, dest, .. } = arrival;
        let cap = limits.cap(dest);
        if cap == 0 {
            return Learn::Refused(Refusal::Limit);
        }
        let moves = match ledger.moves(found.node).attempt(arrival.stamp(), self.damping) {
            Verdict::Follow(moves) => moves,
            Verdict::Held => return Learn::Refused(Refusal::Damped),
            Verdict::Freeze(moves) => {
                ledger.set_moves(found.node, moves);
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
        self.shards.put(found.hash, key, arrival.word(), found.node);
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
        self.shards.kill(self.shards.hash(key), key);
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
        self.shards.kill(found.hash, key);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Damping, Lookup, PortId};
    use encap::MacAddr;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    const RED: SegmentId = SegmentId(1);

    fn station(n: u64) -> StationMac {
        MacAddr::from_bits(0x0200_0000_0000 | n).station().unwrap()
    }

    const fn port(slot: u16) -> Dest {
        Dest::Port(PortId { slot, generation: 0 })
    }

    fn table(limits: SegmentLimits) -> Fdb {
        let fdb = Fdb::default();
        fdb.configure_segment(RED, limits);
        fdb
    }

    /// Learns while somebody else has the segment's lock, and lets go of it when there is an answer
    /// or patience has run out. Returns the answer, and whether it was given without the lock.
    fn learn_locked_out(
        fdb: &Fdb,
        mac: StationMac,
        dest: Dest,
        now: Tick,
        patience: Duration,
    ) -> (Learn, bool) {
        let (tell, told) = mpsc::channel();
        thread::scope(|scope| {
            let ledger = fdb.segments.get(RED).unwrap().lock();
            scope.spawn(move || tell.send(fdb.learn(RED, mac, dest, now)));
            let early = told.recv_timeout(patience).ok();
            drop(ledger);
            (early.unwrap_or_else(|| told.recv().unwrap()), early.is_some())
        })
    }

    #[test]
    fn a_refresh_waits_for_nobody_and_counts() {
        let limits = SegmentLimits::default();
        let fdb = table(limits);
        fdb.learn(RED, station(1), port(1), Tick(0));
        let refreshed = Tick(2000);
        let learn = learn_locked_out(&fdb, station(1), port(1), refreshed, Duration::from_secs(10));
        assert_eq!(learn, (Learn::Known, true));
        let found = |ms| fdb.lookup(RED, station(1).get(), Tick(ms));
        assert_eq!(found(limits.aging_ms), Lookup::from(port(1)));
        assert_eq!(found(limits.aging_ms + refreshed.0), Lookup::Unknown);
    }

    /// Who says that a station is held, or that it moved, knows: the books say so.
    #[test]
    fn a_station_that_was_held_moves_once_it_may_whoever_has_the_lock() {
        let damping = Damping::default();
        let fdb = table(SegmentLimits::default());
        for n in 0..=u16::from(damping.moves) {
            fdb.learn(RED, station(1), port(n), Tick(0));
        }
        let refused = Learn::Refused(Refusal::Damped);
        assert_eq!(fdb.learn(RED, station(1), port(9), Tick(0)), refused);
        let held = port(damping.moves.into());
        // It has a last word where it was, while it was held.
        assert_eq!(fdb.learn(RED, station(1), held, Tick(damping.freeze_ms - 100)), Learn::Known);
        let after = Tick(damping.freeze_ms);
        let learn = learn_locked_out(&fdb, station(1), port(9), after, Duration::from_millis(50));
        assert_eq!(learn, (Learn::Moved { from: held }, false));
        assert_eq!(fdb.totals().damped, 1);
    }

    /// Limits that were lowered a moment ago, before anybody has evicted: a stranger pays for all.
    #[test]
    fn a_stranger_gives_back_the_places_of_all_who_made_room_for_it() {
        let lowered = SegmentLimits { max_macs: 8, per_port: 8, ..SegmentLimits::default() };
        for (name, limits, left) in [
            ("the segment's", SegmentLimits { max_macs: 3, ..lowered }, 3),
            ("the port's", SegmentLimits { per_port: 2, ..lowered }, 6),
            ("both", SegmentLimits { max_macs: 3, per_port: 2, ..lowered }, 3),
        ] {
            let fdb = table(lowered);
            for n in 0..8 {
                fdb.learn(RED, station(n), port(n as u16 % 2), Tick(0));
            }
            fdb.segments.get(RED).unwrap().lock().limits = Some(limits);
            let learn = fdb.learn(RED, station(9), port(1), Tick(0));
            assert!(matches!(learn, Learn::New { evicted: Some(_) }), "{name}: {learn:?}");
            assert_eq!(fdb.counts(RED).learned, left, "{name}");
            let full = |max| fdb.tally.is_full(max);
            assert!(full(left) && !full(left + 1), "{name}: {:?}", fdb.tally);
        }
    }
}
