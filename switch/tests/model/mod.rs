//! A naive switch and the real one, driven by the same steps. Used by the property test and, through
//! [`steps_from_bytes`], by whoever has bytes: a fuzzer.
#![allow(dead_code, reason = "not every user of the model needs all of it")]

mod naive;
mod real;
mod step;

pub(crate) use step::{Step, steps_from_bytes};

/// Runs both and compares them after every step: what left, with which bytes, and what was counted.
///
/// # Panics
/// When they differ.
pub(crate) fn run(steps: &[Step]) {
    let mut naive = naive::Naive::default();
    let mut real = real::Real::new();
    for (at, step) in steps.iter().enumerate() {
        let want = naive.step(step);
        let got = real.step(step);
        assert_eq!(got, want, "step {at}: {step:?}");
        assert_eq!(real.tally(), naive.tally, "counters after step {at}: {step:?}");
    }
}

/// A copy that left, the same in both worlds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Copy {
    Port(u8, Vec<u8>),
    Vtep(u8, u32, Vec<u8>),
}

/// How many frames went on, and how many were dropped for which reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) forwarded: u64,
    pub(crate) dropped: std::collections::BTreeMap<switch::DropReason, u64>,
}

/// Runs both and returns what was counted.
pub(crate) fn tally_of(steps: &[Step]) -> Tally {
    run(steps);
    let mut naive = naive::Naive::default();
    steps.iter().for_each(|step| drop(naive.step(step)));
    naive.tally
}
