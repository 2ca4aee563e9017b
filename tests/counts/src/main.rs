//! A guard against slow changes that no clock is needed for: each of the engine's main paths is
//! run under callgrind, in a release build, and its instructions are compared with a ceiling.
//!
//! `counts` checks all paths, `counts NAME…` those. The numbers do not depend on the machine's
//! load, and little on the machine. A path that became dearer on purpose gets a new ceiling in
//! [`PATHS`], about an eighth above what is printed. So does one that became much cheaper: far below
//! its ceiling a path is not guarded, or does not do its work.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::expect_used, reason = "a tool for developers")]

mod cluster;
mod engine;
mod table;
mod train;

use std::process::{Command, ExitCode};

/// A path that is guarded.
struct Path {
    name: &'static str,
    /// What one run of the path handles, for the report.
    what: &'static str,
    /// Instructions per run, at most.
    ceiling: u64,
    /// Sets the path up, and then runs it so many times within [`measured`].
    run: fn(u64),
    /// How many times: enough for the set-up's traces in the numbers to vanish.
    runs: u64,
}

const fn path(
    name: &'static str,
    what: &'static str,
    ceiling: u64,
    run: fn(u64),
    runs: u64,
) -> Path {
    Path { name, what, ceiling, run, runs }
}

/// Superframe and train have 44 segments: divide by that for the cost of one.
const PATHS: [Path; 17] = [
    path("port-to-port", "64-byte frame", 416, engine::port_to_port, 20_000),
    path("burst", "32 64-byte frames, port to port", 8_650, engine::burst, 1_000),
    path("port-to-vtep", "64-byte frame", 580, engine::port_to_vtep, 20_000),
    path("vtep-to-port", "64-byte frame", 400, engine::vtep_to_port, 20_000),
    path("superframe", "TCP superframe, port to VTEP", 545, engine::superframe, 5_000),
    path("pod-to-pod", "64-byte frame", 1_110, cluster::pod_to_pod, 20_000),
    path("pod-to-vtep", "64-byte frame, 10 k routes", 1_275, cluster::pod_to_vtep, 20_000),
    path("vtep-to-pod", "64-byte frame, 10 k routes", 1_450, cluster::vtep_to_pod, 20_000),
    path("pod-superframe", "TCP superframe, pod to VTEP", 1_240, cluster::superframe, 5_000),
    path("segmentation", "44 headers written", 47_000, train::segmentation, 1_000),
    path("coalescing", "44 frames joined, vouched", 17_300, train::coalescing, 1_000),
    path("alternating", "44 frames of two flows in turns", 52_000, train::alternating, 1_000),
    path("verifying", "44 frames verified and joined", 53_800, train::verifying, 200),
    path("look-up", "hit among 64 k", 104, table::look_up, 50_000),
    path("learn-known", "known station among 64 k", 155, table::learn_known, 50_000),
    path("learn-new", "new station, at the limit", 1_440, table::learn_new, 50_000),
    path("node-moves", "1 of 5 k nodes, 250 pods here", 2_900_000, cluster::node_moves, 20),
];

/// What is counted: callgrind collects between this function's beginning and its end.
#[inline(never)]
fn measured(runs: u64, mut once: impl FnMut(u64)) {
    for n in 0..runs {
        once(n);
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name] = &arguments[..]
        && flag == "--run"
    {
        return match PATHS.iter().find(|path| path.name == name) {
            Some(path) => {
                (path.run)(path.runs);
                ExitCode::SUCCESS
            }
            None => ExitCode::from(2),
        };
    }
    let chosen = |path: &&Path| arguments.is_empty() || arguments.iter().any(|a| a == path.name);
    let paths: Vec<&Path> = PATHS.iter().filter(chosen).collect();
    if let Some(name) = arguments.iter().find(|name| PATHS.iter().all(|path| path.name != **name)) {
        let names = PATHS.map(|path| path.name).join(", ");
        println!("counts: no such path: {name}; there are {names}");
        return ExitCode::from(2);
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("counts: SKIPPED: valgrind is not installed, so nobody guards the paths' cost");
        // Elsewhere a missing tool is no reason to fail; there it is installed, or the run is wrong.
        return if std::env::var_os("CI").is_some() {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        };
    }
    let failed = paths.iter().filter(|path| !holds(path)).count();
    println!("counts: {} passed, {failed} failed", paths.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Counts a path and says how it stands.
fn holds(path: &Path) -> bool {
    let Path { name, what, ceiling, .. } = *path;
    match count(path) {
        Ok(count) if count < ceiling / 4 * 3 => {
            println!(
                "{name:<14} {count:>7} instructions, FAR BELOW the ceiling of {ceiling}: {what}"
            );
            false
        }
        Ok(count) if count <= ceiling => {
            println!("{name:<14} {count:>7} instructions of at most {ceiling:>7} ({what})");
            true
        }
        Ok(count) => {
            println!(
                "{name:<14} {count:>7} instructions, MORE THAN the ceiling of {ceiling} ({what})"
            );
            false
        }
        Err(reason) => {
            println!("{name:<14} could not be counted: {reason}");
            false
        }
    }
}

/// Instructions per run of a path.
fn count(path: &Path) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        // Mangled and demangled names alike.
        .arg("--toggle-collect=*counts*measured*")
        .arg(program)
        .args(["--run", path.name])
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    let report = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{}: {report}", output.status));
    }
    let collected =
        report.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    match collected {
        Some(0) | None => Err(format!("callgrind saw nothing of it: {report}")),
        Some(instructions) => Ok(u64::div_ceil(instructions, path.runs)),
    }
}
