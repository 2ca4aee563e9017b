//! What came out: a table for people, JSON for programs.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::args::Args;
use crate::contestants::Contestant;
use crate::measure::{Better, Figure, Measure};
use crate::stats::Spread;
use crate::underlay::Place;
use crate::{chart, machine};

/// A number with all that it belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) place: Place,
    pub(crate) contestant: Contestant,
    pub(crate) measure: Measure,
    pub(crate) round: usize,
    pub(crate) figure: Figure,
}

/// What could not be measured, and why.
#[derive(Debug)]
struct Skip {
    place: Place,
    contestant: Contestant,
    what: String,
    why: String,
}

/// Everything that a run found.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) samples: Vec<Sample>,
    pub(crate) footprints: Vec<(Place, Contestant, Value)>,
    skips: Vec<Skip>,
    places: Vec<Place>,
    contestants: Vec<Contestant>,
    measures: Vec<Measure>,
    rounds: usize,
    seconds: f64,
    /// The pods' TCP congestion control.
    congestion: String,
    date: String,
    machine: Value,
}

/// A line of the table: one metric of one measure in one place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) place: Place,
    pub(crate) measure: Measure,
    pub(crate) figure: Figure,
}

impl Results {
    pub(crate) fn new(args: &Args) -> Self {
        Self {
            samples: Vec::new(),
            footprints: Vec::new(),
            skips: Vec::new(),
            places: args.places.clone(),
            contestants: args.contestants.clone(),
            measures: args.measures.clone(),
            rounds: args.rounds,
            seconds: args.length.as_secs_f64(),
            congestion: args.congestion.clone().unwrap_or_else(machine::congestion),
            date: machine::date(),
            machine: machine::describe(),
        }
    }

    /// Notes what could not be measured, aloud.
    pub(crate) fn skip(&mut self, place: Place, one: Contestant, what: &str, why: &anyhow::Error) {
        let (place_name, name) = (place.name(), one.name());
        eprintln!("versus: *** SKIPPED {name}, {place_name}, {what}: {why:#} ***");
        let (what, why) = (what.to_owned(), format!("{why:#}"));
        self.skips.push(Skip { place, contestant: one, what, why });
    }

    /// Whether anything is missing that should not be.
    pub(crate) fn has_failed(&self) -> bool {
        self.skips.iter().any(|skip| !skip.contestant.is_optional())
    }

    pub(crate) fn places(&self) -> &[Place] {
        &self.places
    }

    pub(crate) fn contestants(&self) -> &[Contestant] {
        &self.contestants
    }

    /// Date, machine and effort, in one line.
    pub(crate) fn subtitle(&self) -> String {
        let text = |name: &str| self.machine.get(name).and_then(Value::as_str).unwrap_or("?");
        let cpus = self.machine.get("cpus").and_then(Value::as_u64).unwrap_or(0);
        format!(
            "{}, {} x {}, Linux {}, TCP with {}, {} round(s) of {} s",
            self.date,
            cpus,
            text("cpu"),
            text("kernel"),
            self.congestion,
            self.rounds,
            self.seconds
        )
    }

    /// The metrics that a place has figures for, in the order of their measures.
    pub(crate) fn rows(&self, place: Place) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for measure in &self.measures {
            for sample in &self.samples {
                let fits = sample.place == place && sample.measure == *measure;
                let same = |row: &Row| {
                    row.measure == *measure && row.figure.metric == sample.figure.metric
                };
                if fits && !rows.iter().any(same) {
                    rows.push(Row { place, measure: *measure, figure: sample.figure });
                }
            }
        }
        rows
    }

    fn value(&self, row: Row, one: Contestant, round: usize) -> Option<f64> {
        let found = self.samples.iter().find(|sample| {
            sample.place == row.place
                && sample.contestant == one
                && sample.measure == row.measure
                && sample.round == round
                && sample.figure.metric == row.figure.metric
        });
        found.map(|sample| sample.figure.value)
    }

    /// A contestant's own figures.
    pub(crate) fn spread(&self, row: Row, one: Contestant) -> Option<Spread> {
        Spread::of((0..self.rounds).filter_map(|round| self.value(row, one, round)))
    }

    /// One contestant's figures by another's of the same round.
    pub(crate) fn ratio(&self, row: Row, one: Contestant, by: Contestant) -> Option<Spread> {
        if row.figure.better == Better::Count {
            return None;
        }
        let pair = |round| Some(self.value(row, one, round)? / self.value(row, by, round)?);
        Spread::of((0..self.rounds).filter_map(pair))
    }

    /// The table that is printed.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("\n{}\n", self.subtitle());
        for place in &self.places {
            self.table_of(*place, &mut text);
        }
        if !self.footprints.is_empty() {
            text.push_str("\n== daemons: peak memory, socket buffers\n");
        }
        for (place, one, row) in &self.footprints {
            let peak = row.get("peak_rss_kib").and_then(Value::as_u64).unwrap_or(0);
            let buffers = row.get("socket_buffers").map(Value::to_string).unwrap_or_default();
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{:<9} {:<16} {:>7.1} MiB  {buffers}",
                place.name(),
                one.name(),
                peak as f64 / 1024.0
            );
        }
        for skip in &self.skips {
            let (place, one) = (skip.place.name(), skip.contestant.name());
            let _ = writeln!(text, "SKIPPED {one}, {place}, {}: {}", skip.what, skip.why);
        }
        text
    }

    fn table_of(&self, place: Place, text: &mut String) {
        let others: Vec<_> = self
            .contestants
            .iter()
            .copied()
            .filter(|one| *one != Contestant::Kernel && one.fits(place))
            .collect();
        let _ = write!(
            text,
            "\n== {}: medians; x: ratio to the kernel of the same round (least to most)\n{:<15}{:<12}{:<13}{:>10}",
            place.title(),
            "measure",
            "metric",
            "unit",
            "kernel"
        );
        for one in &others {
            let _ = write!(text, "  {:>19}", one.name());
        }
        let versus_ovs =
            others.contains(&Contestant::Ovs) && others.contains(&Contestant::Tapestry);
        let _ = writeln!(text, "{}", if versus_ovs { "         tapestry / ovs" } else { "" });
        for row in self.rows(place) {
            let kernel = self.spread(row, Contestant::Kernel);
            let arrow = match row.figure.better {
                Better::Higher => "+",
                Better::Lower => "-",
                Better::Count => " ",
            };
            let _ = write!(
                text,
                "{:<15}{arrow}{:<11}{:<13}{:>10}",
                row.measure.name(),
                row.figure.metric,
                row.figure.unit,
                kernel.map_or("-".to_owned(), |spread| number(spread.median))
            );
            for one in &others {
                let cell = if row.figure.better == Better::Count {
                    self.spread(row, *one).map(|spread| number(spread.median))
                } else {
                    self.ratio(row, *one, Contestant::Kernel).map(times)
                };
                let _ = write!(text, "  {:>19}", cell.unwrap_or_else(|| "-".to_owned()));
            }
            let by_ovs = self.ratio(row, Contestant::Tapestry, Contestant::Ovs).map(times);
            let _ = writeln!(text, "  {:>21}", by_ovs.filter(|_| versus_ovs).unwrap_or_default());
        }
    }

    fn json(&self) -> Value {
        let figures: Vec<Value> = self
            .samples
            .iter()
            .map(|sample| {
                json!({
                    "place": sample.place.name(),
                    "contestant": sample.contestant.name(),
                    "measure": sample.measure.name(),
                    "metric": sample.figure.metric,
                    "unit": sample.figure.unit,
                    "round": sample.round,
                    "value": sample.figure.value,
                })
            })
            .collect();
        let skipped: Vec<Value> = self
            .skips
            .iter()
            .map(|skip| {
                let (place, one) = (skip.place.name(), skip.contestant.name());
                json!({ "place": place, "contestant": one, "what": skip.what, "why": skip.why })
            })
            .collect();
        let daemons: Vec<Value> = self
            .footprints
            .iter()
            .map(|(place, one, row)| {
                json!({ "place": place.name(), "contestant": one.name(), "daemon": row })
            })
            .collect();
        json!({
            "date": self.date,
            "machine": self.machine,
            "congestion": self.congestion,
            "version": env!("CARGO_PKG_VERSION"),
            "rounds": self.rounds,
            "seconds": self.seconds,
            "ratios": self.ratios(),
            "daemons": daemons,
            "skipped": skipped,
            "figures": figures,
        })
    }

    fn ratios(&self) -> Vec<Value> {
        let mut ratios = Vec::new();
        for row in self.places.iter().flat_map(|place| self.rows(*place)) {
            for one in &self.contestants {
                for by in [Contestant::Kernel, Contestant::Ovs] {
                    let Some(spread) = self.ratio(row, *one, by).filter(|_| *one != by) else {
                        continue;
                    };
                    ratios.push(json!({
                        "place": row.place.name(),
                        "measure": row.measure.name(),
                        "metric": row.figure.metric,
                        "contestant": one.name(),
                        "to": by.name(),
                        "median": spread.median,
                        "min": spread.min,
                        "max": spread.max,
                    }));
                }
            }
        }
        ratios
    }

    /// Writes `results.json` and `chart.svg`.
    ///
    /// # Errors
    ///
    /// If the directory or a file cannot be written.
    pub(crate) fn write(&self, dir: &Path) -> Result<(PathBuf, PathBuf)> {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        let (json, svg) = (dir.join("results.json"), dir.join("chart.svg"));
        let text = serde_json::to_string_pretty(&self.json())?;
        fs::write(&json, text + "\n").with_context(|| json.display().to_string())?;
        fs::write(&svg, chart::draw(self)).with_context(|| svg.display().to_string())?;
        Ok((json, svg))
    }
}

fn times(spread: Spread) -> String {
    let Spread { median, min, max } = spread;
    format!("x{} ({}-{})", number(median), number(min), number(max))
}

/// Three digits that matter.
fn number(value: f64) -> String {
    let size = value.abs();
    let digits = if size >= 100.0 {
        0
    } else if size >= 10.0 {
        1
    } else if size >= 1.0 || size == 0.0 {
        2
    } else {
        3
    };
    format!("{value:.digits$}")
}
