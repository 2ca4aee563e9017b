//! How long a container waits for its network, and what its neighbours notice of it: the plugin as a
//! runtime calls it, from exec to exit, on a node of two, while two other pods talk.
//! `make attachments`; docs/performance.md has what came of it.

// A bench talks to its user.
#![allow(clippy::print_stdout)]

#[path = "versus/stats.rs"]
mod stats;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use lab::cell::{self, Side};
use lab::cluster::{Cluster, ClusterPlan, call_plugin, conf};
use lab::daemon::Program;
use lab::traffic::tcp;
use lab::world::Space;
use serde_json::{Value, json};

use stats::{Spread, quantile};

/// How many pods are attached in each phase.
const PODS: usize = 50;

/// How often everything is measured.
const ROUNDS: usize = 5;

/// The pause between two questions of those who talk.
const PAUSE: Duration = Duration::from_micros(200);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // `cargo bench` says so; `cargo test` does not, and `--test` asks for no more than a sign of life.
    if !words.iter().any(|word| word == "--bench") || words.iter().any(|word| word == "--test") {
        println!("attachments: runs as `make attachments` only");
        return ExitCode::SUCCESS;
    }
    let outcome = cell::enter().and_then(|side| match side {
        Side::Done(code) => Ok(code),
        Side::Inside => {
            cell::on_interrupt(|| std::process::exit(130))?;
            cell::require_tun()?;
            run().map(|()| ExitCode::SUCCESS)
        }
    });
    outcome.unwrap_or_else(|error| {
        eprintln!("attachments: {error:#}");
        ExitCode::FAILURE
    })
}

/// What is done to the first node while the others talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Quiet,
    /// The plugin is run as often as for [`Self::AddsAtOnce`], and attaches nothing.
    VersionsAtOnce,
    Adds,
    Dels,
    AddsAtOnce,
    DelsAtOnce,
}

impl Phase {
    const ALL: [Self; 6] = [
        Self::Quiet,
        Self::VersionsAtOnce,
        Self::Adds,
        Self::Dels,
        Self::AddsAtOnce,
        Self::DelsAtOnce,
    ];

    fn title(self) -> String {
        match self {
            Self::Quiet => "nothing, for a second".to_owned(),
            Self::VersionsAtOnce => format!("{PODS} VERSION at once"),
            Self::Adds => format!("{PODS} ADD one after the other"),
            Self::Dels => format!("{PODS} DEL one after the other"),
            Self::AddsAtOnce => format!("{PODS} ADD at once"),
            Self::DelsAtOnce => format!("{PODS} DEL at once"),
        }
    }

    fn command(self) -> Option<(&'static str, bool)> {
        match self {
            Self::Quiet => None,
            Self::VersionsAtOnce => Some(("VERSION", true)),
            Self::Adds => Some(("ADD", false)),
            Self::Dels => Some(("DEL", false)),
            Self::AddsAtOnce => Some(("ADD", true)),
            Self::DelsAtOnce => Some(("DEL", true)),
        }
    }
}

/// What came of a phase, in milliseconds.
#[derive(Debug, Default)]
struct Found {
    calls: Vec<f64>,
    whole: Vec<f64>,
    /// p50, p99 and the longest of the waits, of each round.
    waits: [Vec<f64>; 3],
}

fn run() -> Result<()> {
    let plugin = PathBuf::from(env!("CARGO_BIN_EXE_tapestry-cni"));
    let program = Program::new(env!("CARGO_BIN_EXE_tapestry"));
    let mut cluster = Cluster::start(&program, plugin.clone(), &ClusterPlan::default())?;
    let (near, far) = (cluster.add_pod(0, "near")?, cluster.add_pod(1, "far")?);
    let pods: Vec<Space> = (0..PODS)
        .map(|number| cluster.overlay.world.space(&format!("p{number}")))
        .collect::<Result<_>>()?;
    let (node, daemon) = cluster.node(0)?;
    let config = conf(daemon, &json!({}));
    let caller = Caller { plugin: &plugin, node: &node.space, config: &config, pods: &pods };
    let mut found: Vec<(Phase, Found)> =
        Phase::ALL.map(|phase| (phase, Found::default())).into_iter().collect();
    for round in 0..ROUNDS {
        eprintln!("attachments: round {} of {ROUNDS}", round + 1);
        for (phase, found) in &mut found {
            let talk = Talk::start(&near.space, &far.space, far.hosts()[0])?;
            let begun = Instant::now();
            found.calls.extend(caller.calls(*phase)?);
            found.whole.push(milliseconds(begun.elapsed()));
            let mut waits = talk.end()?;
            waits.sort_by(f64::total_cmp);
            ensure!(!waits.is_empty(), "nobody talked");
            let [p50, p99, longest] = &mut found.waits;
            p50.push(quantile(&waits, 0.5));
            p99.push(quantile(&waits, 0.99));
            longest.push(quantile(&waits, 1.0));
        }
    }
    for (phase, found) in &found {
        print(*phase, found)?;
    }
    let left = cluster.overlay.daemons[0].json("pod list")?;
    ensure!(left.as_array().is_some_and(|left| left.len() == 1), "there is left: {left}");
    cluster.assert_sound()
}

fn print(phase: Phase, found: &Found) -> Result<()> {
    println!("{}", phase.title());
    if !found.calls.is_empty() {
        let mut sorted = found.calls.clone();
        sorted.sort_by(f64::total_cmp);
        println!("  a call     {}, p90 {:.1} ms", spread(&found.calls)?, quantile(&sorted, 0.9));
    }
    println!("  all        {}", spread(&found.whole)?);
    for (name, values) in ["wait p50 ", "wait p99 ", "longest  "].iter().zip(&found.waits) {
        println!("  {name}  {}", spread(values)?);
    }
    Ok(())
}

fn spread(values: &[f64]) -> Result<String> {
    let Spread { median, min, max } = Spread::of(values.iter().copied()).context("no values")?;
    Ok(format!("{median:.2} ms ({min:.2}–{max:.2})"))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Calls the plugin on the first node.
#[derive(Clone, Copy)]
struct Caller<'a> {
    plugin: &'a Path,
    node: &'a Space,
    config: &'a Value,
    pods: &'a [Space],
}

impl Caller<'_> {
    /// Does what a phase is; how long each call took.
    fn calls(self, phase: Phase) -> Result<Vec<f64>> {
        let Some((command, at_once)) = phase.command() else {
            thread::sleep(Duration::from_secs(1));
            return Ok(Vec::new());
        };
        let numbers = 0..self.pods.len();
        if !at_once {
            return numbers.map(|number| self.call(command, number)).collect();
        }
        thread::scope(|scope| {
            let threads: Vec<_> =
                numbers.map(|number| scope.spawn(move || self.call(command, number))).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, Result<f64>>| {
                thread.join().unwrap_or_else(|_| bail!("a thread panicked"))
            };
            threads.into_iter().map(join).collect()
        })
    }

    fn call(self, command: &str, number: usize) -> Result<f64> {
        let pod = self.pods.get(number).context("no such pod")?;
        let begun = Instant::now();
        let name = format!("c{number}");
        call_plugin(self.plugin, self.node, self.config, command, &name, pod)?;
        Ok(milliseconds(begun.elapsed()))
    }
}

/// Two pods on different nodes with a question always on its way.
struct Talk {
    over: Arc<AtomicBool>,
    client: thread::JoinHandle<Result<Vec<f64>>>,
    server: thread::JoinHandle<Result<()>>,
}

impl Talk {
    fn start(client: &Space, server: &Space, address: IpAddr) -> Result<Self> {
        let (near, far) = tcp::connect(client, server, address)?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&over);
        Ok(Self {
            over,
            client: thread::spawn(move || ask(near, &stop)),
            server: thread::spawn(move || answer(far)),
        })
    }

    /// Ends it. Returns every wait for an answer, in milliseconds.
    fn end(self) -> Result<Vec<f64>> {
        self.over.store(true, Ordering::Relaxed);
        let waits = self.client.join().map_err(|_| anyhow!("the client panicked"))??;
        self.server.join().map_err(|_| anyhow!("the server panicked"))??;
        Ok(waits)
    }
}

fn ask(mut stream: TcpStream, over: &AtomicBool) -> Result<Vec<f64>> {
    let mut waits = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        stream.write_all(&[1; 64]).context("ask")?;
        stream.read_exact(&mut [0; 64]).context("listen")?;
        waits.push(milliseconds(begun.elapsed()));
        thread::sleep(PAUSE);
    }
    Ok(waits)
}

fn answer(mut stream: TcpStream) -> Result<()> {
    let mut question = [0; 64];
    while stream.read_exact(&mut question).is_ok() {
        stream.write_all(&question).context("answer")?;
    }
    Ok(())
}
