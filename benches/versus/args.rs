//! What to run, for how long.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::contestants::Contestant;
use crate::measure::Measure;
use crate::underlay::Place;

pub(crate) const HELP: &str = "\
cargo bench --bench versus -- [OPTIONS]     (or: make versus VERSUS_ARGS=\"OPTIONS\")

  --rounds N         how often everything is measured (5)
  --seconds S        how long each measure takes (2)
  --only NAMES       only these, separated by commas; may be given more than once
  --quick            one round of half a second: shows that it works, not how fast
  --congestion NAME  the pods' TCP congestion control, for instance cubic (the machine's)
  --other PATH       a second tapestry to measure beside this one, for instance of another commit
  --out DIR          where results.json and chart.svg go (target/versus)
  --list             print the names that --only knows

Of underlays, contestants and measures, what --only does not name at all runs whole. A measure may be
named by its family (tcp, udp, gso, rtt). The kernel always runs: it is what ratios are taken to.
";

/// The wishes of a run.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) rounds: usize,
    pub(crate) length: Duration,
    pub(crate) places: Vec<Place>,
    pub(crate) contestants: Vec<Contestant>,
    pub(crate) measures: Vec<Measure>,
    /// The pods' TCP congestion control, where it is not to be the machine's.
    pub(crate) congestion: Option<String>,
    pub(crate) other: Option<PathBuf>,
    pub(crate) out: PathBuf,
}

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Wish {
    Run(Args),
    Help,
    List,
}

/// Reads the command line, without the program's name.
///
/// # Errors
///
/// If there is an unknown option or name, or a value that makes no sense.
pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Wish> {
    let out = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/versus");
    let mut args = Args {
        rounds: 5,
        length: Duration::from_secs(2),
        places: Place::ALL.to_vec(),
        contestants: Contestant::ALL.to_vec(),
        measures: Measure::all(),
        congestion: None,
        other: None,
        out,
    };
    let mut only = Vec::new();
    let mut words = words;
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} wants a value"));
        match word.as_str() {
            // What cargo itself adds.
            "--bench" => {}
            "--rounds" => args.rounds = value()?.parse().context("--rounds")?,
            "--seconds" => {
                let seconds: f64 = value()?.parse().context("--seconds")?;
                ensure!((0.05..=600.0).contains(&seconds), "--seconds: between 0.05 and 600");
                args.length = Duration::from_secs_f64(seconds);
            }
            "--only" => only.extend(value()?.split(',').map(|name| name.trim().to_owned())),
            "--quick" => (args.rounds, args.length) = (1, Duration::from_millis(500)),
            "--congestion" => args.congestion = Some(value()?),
            "--other" => args.other = Some(PathBuf::from(value()?).canonicalize()?),
            "--out" => args.out = PathBuf::from(value()?),
            "--help" | "-h" => return Ok(Wish::Help),
            "--list" => return Ok(Wish::List),
            _ => bail!("unknown argument {word}\n\n{HELP}"),
        }
    }
    ensure!((1..=1000).contains(&args.rounds), "--rounds: between 1 and 1000");
    if args.other.is_none() {
        args.contestants.retain(|contestant| *contestant != Contestant::Other);
    }
    restrict(&mut args, &only)?;
    Ok(Wish::Run(args))
}

fn restrict(args: &mut Args, only: &[String]) -> Result<()> {
    let place = |one: &Place, name: &str| one.name() == name;
    let contestant = |one: &Contestant, name: &str| one.name() == name;
    let measure = |one: &Measure, name: &str| is_called(&one.name(), name);
    for name in only {
        let known = args.places.iter().any(|one| place(one, name))
            || args.contestants.iter().any(|one| contestant(one, name))
            || args.measures.iter().any(|one| measure(one, name));
        ensure!(known, "--only {name}: no underlay, contestant or measure of this run (--list)");
    }
    keep(&mut args.places, only, place);
    keep(&mut args.contestants, only, contestant);
    keep(&mut args.measures, only, measure);
    if !args.contestants.contains(&Contestant::Kernel) {
        args.contestants.push(Contestant::Kernel);
    }
    Ok(())
}

/// Keeps those that are named, or all where none is.
fn keep<T>(all: &mut Vec<T>, only: &[String], is_meant: impl Fn(&T, &str) -> bool) {
    let named = |one: &T| only.iter().any(|name| is_meant(one, name));
    if all.iter().any(named) {
        all.retain(named);
    }
}

/// Whether a measure is meant by its name or by its family's.
fn is_called(measure: &str, name: &str) -> bool {
    measure.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// The names that `--only` knows.
pub(crate) fn names() -> String {
    let places: Vec<_> = Place::ALL.iter().map(|place| place.name()).collect();
    let contestants: Vec<_> = Contestant::ALL.iter().map(|one| one.name()).collect();
    let measures: Vec<_> = Measure::all().iter().map(Measure::name).collect();
    format!(
        "underlays    {}\ncontestants  {}\nmeasures     {}\n",
        places.join(" "),
        contestants.join(" "),
        measures.join(" ")
    )
}
