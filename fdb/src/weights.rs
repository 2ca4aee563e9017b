//! Who has most: owners in order of their number of entries, kept under steps of one.
//!
//! Owners with equally many entries share a bucket; buckets form a list in rising order. A step
//! moves an owner to the bucket next to its own, which is made or emptied as need be, so every
//! step and the question for the heaviest take constant time, however many owners there are.

/// No bucket, no owner.
const NIL: u32 = u32::MAX;

/// An owner's place in its bucket.
#[derive(Clone, Copy, Debug)]
struct Seat {
    bucket: u32,
    prev: u32,
    next: u32,
}

impl Seat {
    const NONE: Self = Self { bucket: NIL, prev: NIL, next: NIL };
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    count: u32,
    first: u32,
    below: u32,
    above: u32,
}

/// Owners by slot. Invariant: an owner sits in a bucket if and only if its count is not zero.
#[derive(Debug)]
pub(crate) struct Weights {
    seats: Vec<Seat>,
    buckets: Vec<Bucket>,
    free: Vec<u32>,
    lightest: u32,
    heaviest: u32,
}

impl Default for Weights {
    fn default() -> Self {
        let (seats, buckets, free) = (Vec::new(), Vec::new(), Vec::new());
        Self { seats, buckets, free, lightest: NIL, heaviest: NIL }
    }
}

impl Weights {
    /// One of those who have most, and how many that is; of equals rather `favourite`.
    pub(crate) fn heaviest(&self, favourite: Option<u32>) -> Option<u32> {
        let bucket = self.buckets.get(self.heaviest as usize)?;
        let among = |slot: &u32| self.seat(*slot).bucket == self.heaviest;
        Some(favourite.filter(among).unwrap_or(bucket.first))
    }

    /// The owner has one more.
    pub(crate) fn more(&mut self, slot: u32) {
        let from = self.seat(slot).bucket;
        let (count, above) = match self.buckets.get(from as usize) {
            Some(bucket) => (bucket.count + 1, bucket.above),
            None => (1, self.lightest),
        };
        let to = self.bucket(count, from, above);
        self.leave(slot);
        self.join(slot, to);
    }

    /// The owner has one less.
    pub(crate) fn less(&mut self, slot: u32) {
        let from = self.seat(slot).bucket;
        let Some(&Bucket { count, below, .. }) = self.buckets.get(from as usize) else { return };
        if count == 1 {
            self.leave(slot);
            return;
        }
        let to = self.bucket(count - 1, below, from);
        self.leave(slot);
        self.join(slot, to);
    }

    /// Bytes allocated.
    pub(crate) fn bytes(&self) -> usize {
        self.seats.capacity() * size_of::<Seat>()
            + self.buckets.capacity() * size_of::<Bucket>()
            + self.free.capacity() * size_of::<u32>()
    }

    fn seat(&self, slot: u32) -> Seat {
        self.seats.get(slot as usize).copied().unwrap_or(Seat::NONE)
    }

    /// The bucket for `count`, which is one of these neighbours or goes between them.
    fn bucket(&mut self, count: u32, below: u32, above: u32) -> u32 {
        for neighbour in [below, above] {
            if self.buckets.get(neighbour as usize).is_some_and(|bucket| bucket.count == count) {
                return neighbour;
            }
        }
        let bucket = Bucket { count, first: NIL, below, above };
        let id = if let Some(id) = self.free.pop() {
            self.buckets[id as usize] = bucket;
            id
        } else {
            self.buckets.push(bucket);
            self.buckets.len() as u32 - 1
        };
        *self.above_of(below) = id;
        *self.below_of(above) = id;
        id
    }

    fn above_of(&mut self, bucket: u32) -> &mut u32 {
        match self.buckets.get_mut(bucket as usize) {
            Some(bucket) => &mut bucket.above,
            None => &mut self.lightest,
        }
    }

    fn below_of(&mut self, bucket: u32) -> &mut u32 {
        match self.buckets.get_mut(bucket as usize) {
            Some(bucket) => &mut bucket.below,
            None => &mut self.heaviest,
        }
    }

    fn leave(&mut self, slot: u32) {
        let Seat { bucket, prev, next } = self.seat(slot);
        if bucket == NIL {
            return;
        }
        self.seats[slot as usize] = Seat::NONE;
        if next != NIL {
            self.seats[next as usize].prev = prev;
        }
        if prev != NIL {
            self.seats[prev as usize].next = next;
            return;
        }
        self.buckets[bucket as usize].first = next;
        if next == NIL {
            let Bucket { below, above, .. } = self.buckets[bucket as usize];
            *self.above_of(below) = above;
            *self.below_of(above) = below;
            self.free.push(bucket);
        }
    }

    fn join(&mut self, slot: u32, bucket: u32) {
        if self.seats.len() <= slot as usize {
            self.seats.resize(slot as usize + 1, Seat::NONE);
        }
        let first = std::mem::replace(&mut self.buckets[bucket as usize].first, slot);
        self.seats[slot as usize] = Seat { bucket, prev: NIL, next: first };
        if first != NIL {
            self.seats[first as usize].prev = slot;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heaviest_is_right_after_any_history() {
        let mut weights = Weights::default();
        let mut counts = [0_u32; 12];
        let mut random = 1_u64;
        for step in 0..if cfg!(miri) { 500 } else { 20_000 } {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let slot = (random >> 40) as usize % counts.len();
            // Up and down by turns, to nothing and back.
            let up = (random >> 50) % 8 < if step / 300 % 2 == 0 { 5 } else { 2 };
            if up {
                counts[slot] += 1;
                weights.more(slot as u32);
            } else if counts[slot] > 0 {
                counts[slot] -= 1;
                weights.less(slot as u32);
            }
            let most = counts.iter().copied().max().filter(|most| *most > 0);
            let found = weights.heaviest(None);
            assert_eq!(found.map(|slot| counts[slot as usize]), most, "step {step}");
            let favourite = weights.heaviest(Some(slot as u32));
            if Some(counts[slot]) == most {
                assert_eq!(favourite, Some(slot as u32), "step {step}");
            } else {
                assert_eq!(favourite, found, "step {step}");
            }
        }
        assert!(weights.buckets.len() <= counts.len() + 1, "buckets are used again");
    }
}
