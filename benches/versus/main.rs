//! Tapestry beside the kernel, Open vSwitch and bare veth, alternating in one run.
//! `make versus`; docs/performance.md says what is measured and how to read it.

// A bench talks to its user.
#![allow(clippy::print_stdout)]

mod args;
mod chart;
mod contestants;
mod machine;
mod measure;
mod report;
mod stats;
mod underlay;

use std::process::ExitCode;

use anyhow::Result;
use lab::cell::{self, Side};

use args::{Args, Wish};
use contestants::{Contestant, Stage};
use report::{Results, Sample};
use underlay::Place;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // `cargo bench` says so; `cargo test` does not, and `--test` asks for no more than a sign of life.
    let benching = words.iter().any(|word| word == "--bench");
    if !benching || words.iter().any(|word| word == "--test") {
        println!("versus: takes minutes and runs as `make versus` only");
        return ExitCode::SUCCESS;
    }
    start(words).unwrap_or_else(|error| {
        eprintln!("versus: {error:#}");
        ExitCode::FAILURE
    })
}

fn start(words: Vec<String>) -> Result<ExitCode> {
    let args = match args::parse(words.into_iter())? {
        Wish::Help => {
            print!("{}", args::HELP);
            return Ok(ExitCode::SUCCESS);
        }
        Wish::List => {
            print!("{}", args::names());
            return Ok(ExitCode::SUCCESS);
        }
        Wish::Run(args) => args,
    };
    match cell::enter()? {
        Side::Done(code) => Ok(code),
        Side::Inside => {
            cell::on_interrupt(|| std::process::exit(130))?;
            cell::require_tun()?;
            run(&args)
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    let mut results = Results::new(args);
    for place in &args.places {
        measure_in(*place, args, &mut results);
    }
    print!("{}", results.table());
    let (json, svg) = results.write(&args.out)?;
    println!("\n{}\n{}", json.display(), svg.display());
    let failed = results.has_failed();
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Sets all contestants up side by side, so that rounds can alternate between them.
fn measure_in(place: Place, args: &Args, results: &mut Results) {
    let mut stages: Vec<(Contestant, Stage)> = Vec::new();
    for one in args.contestants.iter().copied().filter(|one| one.fits(place)) {
        let built = Stage::build(one, place, args.other.as_ref());
        let ready = built.and_then(|stage| {
            args.congestion.as_deref().map_or(Ok(()), |name| stage.congestion(name))?;
            Ok(stage)
        });
        match ready {
            Ok(stage) => stages.push((one, stage)),
            Err(error) => results.skip(place, one, "set-up", &error),
        }
    }
    for round in 0..args.rounds {
        eprintln!("versus: {}, round {} of {}", place.title(), round + 1, args.rounds);
        for measure in &args.measures {
            // Nobody always comes first, or always after the same one.
            let count = stages.len();
            let order = (0..count).map(|at| if round % 2 == 0 { at } else { count - 1 - at });
            for (one, stage) in order.filter_map(|at| stages.get((at + round / 2) % count)) {
                match measure.run(stage.ends(), args.length) {
                    Ok(figures) => results.samples.extend(figures.into_iter().map(|figure| {
                        Sample { place, contestant: *one, measure: *measure, round, figure }
                    })),
                    Err(error) => results.skip(place, *one, &measure.name(), &error),
                }
            }
        }
    }
    for (one, stage) in stages {
        match stage.footprints() {
            Ok(rows) => results.footprints.extend(rows.into_iter().map(|row| (place, one, row))),
            Err(error) => results.skip(place, one, "footprint", &error),
        }
        if let Err(error) = stage.end() {
            results.skip(place, one, "end", &error);
        }
    }
}
