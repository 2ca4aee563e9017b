//! Per segment: what the frames' path reads, and the books behind a lock.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};

use crate::ledger::Ledger;
use crate::outcome::{Learn, Refusal};
use crate::word::{Span, Stamp, Word, tenths};
use crate::{Dest, SegmentId, SegmentLimits};

/// Segments in a page; pages come into being as segments are configured.
const PAGE: usize = 64;
const PAGES: usize = (1 << 16) / PAGE;

// The longest life that counts is a span: what a configuration says cannot make one that is none.
const _: Span = Span::of(tenths(SegmentLimits::MAX_AGING_MS, u32::MAX));

/// What every frame reads, on a cache line that only control and moves write.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Hot {
    generation: AtomicU32,
    /// The [`Span`] after which an entry's time is over.
    aging: AtomicU32,
    /// The one after which a frame refreshes its source's entry.
    refresh: AtomicU32,
    learning: AtomicBool,
}

impl Default for Hot {
    fn default() -> Self {
        let hot = Self {
            generation: AtomicU32::default(),
            aging: AtomicU32::default(),
            refresh: AtomicU32::default(),
            learning: AtomicBool::default(),
        };
        hot.configure(None);
        hot
    }
}

impl Hot {
    /// See [`crate::Fdb::generation`]. Whoever reads it before a table sees in the table all that
    /// was written before the generation was bumped to this value.
    #[inline]
    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// After the table was written.
    pub(crate) fn bump(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Tenths of a second for which an entry lives that is not seen again; `None` for ever.
    pub(crate) fn aging(&self) -> Option<u32> {
        Span::from_raw(self.aging.load(Ordering::Relaxed)).tenths()
    }

    pub(crate) fn learning(&self) -> bool {
        self.learning.load(Ordering::Relaxed)
    }

    /// Writes what the frames' path needs of these limits.
    pub(crate) fn configure(&self, limits: Option<&SegmentLimits>) {
        let aging = limits.and_then(|limits| match limits.aging_ms {
            0 => None,
            ms => Some(tenths(ms.min(SegmentLimits::MAX_AGING_MS), u32::MAX)),
        });
        self.aging.store(aging.map_or(Span::NEVER, Span::of).raw(), Ordering::Relaxed);
        // Once a second, or four times in a short life.
        let refresh = aging.map_or(10, |aging| (aging / 4).clamp(1, 10));
        self.refresh.store(Span::of(refresh).raw(), Ordering::Relaxed);
        self.learning.store(limits.is_some_and(|limits| limits.learning), Ordering::Relaxed);
    }

    /// Whether an entry's time is over. What was not learned has no end.
    #[inline]
    pub(crate) fn expired(&self, word: Word, now: Stamp) -> bool {
        // The age first: it is what most entries are not out of.
        let aging = Span::from_raw(self.aging.load(Ordering::Relaxed));
        word.seen().reached(now, aging) && word.is_learned()
    }

    /// What learning comes to where nothing needs to be written; `None` where something does.
    #[inline]
    pub(crate) fn learn_unwritten(&self, word: Word, dest: Dest, now: Stamp) -> Option<Learn> {
        if word.is_dead() || self.expired(word, now) {
            return None;
        }
        let refresh = Span::from_raw(self.refresh.load(Ordering::Relaxed));
        match (word.is_at(dest), word.is_learned()) {
            (true, true) if word.seen().reached(now, refresh) => None,
            (true, _) => Some(Learn::Known),
            (false, true) => None,
            (false, false) => Some(Learn::Refused(Refusal::Static)),
        }
    }
}

/// A segment.
#[derive(Debug, Default)]
pub(crate) struct Segment {
    pub(crate) hot: Hot,
    ledger: Mutex<Ledger>,
}

impl Segment {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The books, unless someone else has them.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, Ledger>> {
        match self.ledger.try_lock() {
            Ok(ledger) => Some(ledger),
            Err(TryLockError::Poisoned(error)) => Some(error.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// All segments.
#[derive(Debug)]
pub(crate) struct Segments {
    pages: Box<[OnceLock<Box<[Segment; PAGE]>>; PAGES]>,
}

impl Default for Segments {
    fn default() -> Self {
        Self { pages: Box::new([const { OnceLock::new() }; PAGES]) }
    }
}

impl Segments {
    /// A segment that was ever configured, or one of its neighbours.
    #[inline]
    pub(crate) fn get(&self, id: SegmentId) -> Option<&Segment> {
        let id = usize::from(id.0);
        Some(&self.pages[id / PAGE].get()?[id % PAGE])
    }

    /// A segment, made if need be.
    pub(crate) fn get_or_make(&self, id: SegmentId) -> &Segment {
        let id = usize::from(id.0);
        let page = || Box::new(std::array::from_fn(|_| Segment::default()));
        &self.pages[id / PAGE].get_or_init(page)[id % PAGE]
    }

    /// All segments that exist from `first` on, in order.
    pub(crate) fn iter_from(&self, first: u32) -> impl Iterator<Item = (SegmentId, &Segment)> {
        let skip = first as usize;
        self.pages.iter().enumerate().skip(skip / PAGE).flat_map(move |(page, cell)| {
            let segments = cell.get().into_iter().flat_map(|page| page.iter()).enumerate();
            segments.filter_map(move |(at, segment)| {
                let id = page * PAGE + at;
                (id >= skip).then_some((SegmentId(id as u16), segment))
            })
        })
    }

    /// Bytes allocated.
    pub(crate) fn bytes(&self) -> usize {
        let pages = self.pages.iter().filter_map(OnceLock::get).map(|page| size_of_val(&**page));
        let ledgers = self.iter_from(0).map(|(_, segment)| segment.lock().bytes());
        size_of_val(&*self.pages) + pages.sum::<usize>() + ledgers.sum::<usize>()
    }
}
