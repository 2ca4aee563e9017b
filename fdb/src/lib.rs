//! Who lives where: the forwarding database.
//!
//! | event | what the table does |
//! |---|---|
//! | a frame from an unknown station | learns it; at a limit an entry goes, see below |
//! | a frame from a known station at its place | refreshes the entry, at most once a second |
//! | the same station elsewhere | follows at once; too often, holds it ([`Damping`], RFC 7432 section 15.1) |
//! | a frame from a static or control-plane station elsewhere | refuses |
//! | nothing for the segment's aging time | forgets: unknown at once, swept by [`Fdb::expire`] |
//! | an owner at its limit | the owner's own oldest entry goes |
//! | a segment, or the whole table, at its limit | the oldest entry of the segment's heaviest owner goes |
//!
//! So a flood of addresses from one place pushes out that place's own entries and nobody else's
//! (the idea of Open vSwitch's MAC learning). Static and control-plane entries are outside all of
//! this: they count against no limit and never move, age or fall to eviction.
//!
//! # Who waits for whom
//!
//! Looking up takes no lock, nor does learning what is known. Strangers and moves, followed or
//! not, lock their segment, then one of 64 shards of the table, for a fraction of a microsecond; a
//! refresh that finds the segment locked writes its stamp without. `table.rs` has the argument why a reader
//! never sees half an entry. Workers go through a [`Reader`] of their own.
//!
//! Time is an argument ([`Tick`]) and kept in tenths of a second.
#![forbid(unsafe_code)]

#[cfg(test)]
mod checked;
mod damping;
mod edit;
mod epoch;
mod fdb;
mod learn;
mod ledger;
mod limits;
mod outcome;
mod owners;
mod reader;
mod segment;
mod shard;
mod sweep;
mod table;
mod totals;
mod types;
mod view;
mod weights;
mod word;

pub use fdb::Fdb;
pub use limits::{Damping, SegmentLimits, Settings};
pub use outcome::{Counts, Expired, Insert, Learn, Lookup, Refusal, Row, Scope, Totals};
pub use reader::Reader;
pub use types::{Dest, Origin, PortId, SegmentId, Tick, VtepId};
pub use view::{Foreseen, View};
