//! The table as one burst of frames sees it: what is the same for all of them is read once, and where
//! their destinations live is fetched for many at a time.

use encap::StationBits;

use crate::outcome::Learn;
use crate::reader::Known;
use crate::segment::Hot;
use crate::shard::{SHARDS, Shards};
use crate::table::{Glance, Table};
use crate::word::{Key, Stamp, Word};
use crate::{Dest, Fdb, SegmentId};

/// One segment at one moment, for frames that teach nothing: their source is known where they come
/// from. For all others there are [`Reader::lookup`](crate::Reader::lookup) and
/// [`Reader::learn`](crate::Reader::learn). It writes nothing, and what others write meanwhile it may see
/// or not; so it is for as many frames as a driver takes in one go, and not to be kept (16 million removals from
/// one bucket between [`View::foresee`] and [`View::find`] could show another station's place).
#[derive(Debug)]
pub struct View<'r> {
    pub(crate) fdb: &'r Fdb,
    pub(crate) hot: &'r Hot,
    /// Found to be the published ones after `generation` was read.
    pub(crate) tables: &'r [Table; SHARDS],
    pub(crate) known: &'r mut Known,
    pub(crate) id: SegmentId,
    pub(crate) generation: u32,
    pub(crate) stamp: Stamp,
}

/// A station whose entry is on its way from memory.
#[derive(Clone, Copy, Debug)]
pub struct Foreseen<'r> {
    key: Key,
    glance: Glance<'r>,
}

impl<'r> View<'r> {
    /// Has a station's entry fetched; never `None`, as far as anybody knows. One look-up waits for memory as
    /// long as a dozen of these in a row.
    #[inline(always)]
    #[must_use]
    pub fn foresee(&self, mac: StationBits) -> Option<Foreseen<'r>> {
        let key = Key::of(self.id, mac);
        let hash = self.fdb.shards.hash(key);
        let glance = self.tables[Shards::shard_of(hash)].glance(hash)?;
        Some(Foreseen { key, glance })
    }

    /// Where a station lives.
    #[inline(always)]
    #[must_use]
    pub fn find(&self, station: Foreseen<'r>) -> Option<Dest> {
        let Foreseen { key, glance } = station;
        let word = glance.read(key).unwrap_or_else(|| read_whole(self.fdb, self.tables, key));
        (!word.is_dead() && !self.hot.expired(word, self.stamp)).then(|| word.dest())
    }

    /// Whether `src` is known to live at `from`, and to learn so once more would write nothing.
    #[inline(always)]
    #[must_use]
    pub fn knows(&mut self, src: StationBits, from: Dest) -> bool {
        let key = Key::of(self.id, src);
        let known = Known::at(key, from, self.generation, self.stamp);
        if *self.known == known {
            return true;
        }
        let word = read_whole(self.fdb, self.tables, key);
        let knows = self.hot.learn_unwritten(word, from, self.stamp) == Some(Learn::Known);
        if knows {
            *self.known = known;
        }
        knows
    }
}

/// The entry of a key, wherever it is.
// With no more than it needs: what is lent to a call lies in memory, on every path.
#[inline(never)]
fn read_whole(fdb: &Fdb, tables: &[Table; SHARDS], key: Key) -> Word {
    let hash = fdb.shards.hash(key);
    tables[Shards::shard_of(hash)].read(hash, key)
}
