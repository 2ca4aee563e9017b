//! The engine agrees with a naive switch at every step.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod kit;
#[path = "model/mod.rs"]
mod model;

use model::{Step, run, steps_from_bytes};
use proptest::prelude::*;

/// A few ports and peers, so that frames find somebody from the start.
fn furnished() -> Vec<Step> {
    let ports = (0..5).map(|port| Step::SetPort { port, mode: usize::from(port), up: true });
    let peers = (0..3).map(|segment| Step::SetPeers { segment, peers: [2, 3].into() });
    ports.chain(peers).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn engine_and_naive_switch_agree(bytes in proptest::collection::vec(any::<u8>(), 0..1000)) {
        run(&[furnished(), steps_from_bytes(&bytes)].concat());
    }

    #[test]
    fn they_agree_from_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
        run(&steps_from_bytes(&bytes));
    }
}

/// The steps reach what they are for: else the two could agree about nothing.
#[test]
fn the_universe_is_not_boring() {
    let mut state = 1u32;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(5 * 400)
    .collect();
    let tally = model::tally_of(&[furnished(), steps_from_bytes(&bytes)].concat());
    assert!(tally.forwarded > 50, "{tally:?}");
    assert!(tally.dropped.len() >= 15, "{tally:?}");
}
