//! Two nodes, two pods, one overlay, on this machine and without touching its network.
//!
//!     make demo                              or: cargo run --release --example two-node
//!     make demo DEMO_ARGS=--keep             leave it up to look around, until Ctrl-C
//!     make demo DEMO_ARGS="--megabytes 1000"
//!
//! Everything happens in namespaces of this process's own, as root or through a user namespace; the
//! kernel removes them with the process. The two daemons are this same program, run again: it
//! calls what `tapestry` calls.

// An example talks to its user.
#![allow(clippy::print_stdout)]

mod progress;
#[path = "../common/show.rs"]
mod show;
mod stage;

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use lab::cell::{self, Side};
use lab::traffic::{ping, tcp};

use progress::Progress;
use stage::Stage;

/// The hidden first argument that makes this program a `tapestry`.
const AS_TAPESTRY: &str = "as-tapestry";

#[derive(Debug)]
struct Wishes {
    keep: bool,
    megabytes: u64,
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().collect();
    if arguments.get(1).is_some_and(|first| first == AS_TAPESTRY) {
        return tapestry::cli::main(arguments.into_iter().filter(|word| word != AS_TAPESTRY));
    }
    let outcome = wishes().and_then(|wishes| match cell::enter()? {
        Side::Done(code) => Ok(code),
        Side::Inside => demo(&wishes).map(|()| ExitCode::SUCCESS),
    });
    outcome.unwrap_or_else(|error| {
        eprintln!("two-node: {error:#}");
        ExitCode::FAILURE
    })
}

fn wishes() -> Result<Wishes> {
    let mut wishes = Wishes { keep: false, megabytes: 800 };
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--keep" => wishes.keep = true,
            "--megabytes" => {
                let number = words.next().context("--megabytes wants a number")?;
                wishes.megabytes = number.parse().context("--megabytes")?;
            }
            _ => bail!("unknown argument {word}; there are --keep and --megabytes N"),
        }
    }
    Ok(wishes)
}

fn demo(wishes: &Wishes) -> Result<()> {
    cell::on_interrupt(|| {
        println!("\ninterrupted: daemons, pods and nodes are gone");
        std::process::exit(130);
    })?;
    cell::require_tun()?;

    show::step("two nodes, a cable between them, and a pod on each");
    let mut stage = Stage::build()?;
    println!(
        "  pod-a 10.9.1.1 -- node-a 192.0.2.1 ===== VXLAN over UDP ===== 192.0.2.2 node-b -- 10.9.2.1 pod-b"
    );

    show::step("a daemon on each node");
    stage.start_daemons()?;

    show::step("ping from pod-a to pod-b");
    for host in stage.pod_b.hosts() {
        // The first one also pays for finding the neighbour.
        let trips = ping::ping(&stage.pod_a.space, host, 4, 56)?;
        let words: Vec<String> = trips.iter().map(show::milliseconds).collect();
        println!("  {host}: {}", words.join(", "));
    }

    show::step("TCP between the pods, each byte compared on arrival");
    for host in stage.pod_b.hosts() {
        let bytes = wishes.megabytes * 1_000_000 / 4;
        let progress = Progress::start(&format!("{host}"), 2 * bytes);
        let moved = tcp::transfer_watched(
            &stage.pod_a.space,
            &stage.pod_b.space,
            host,
            (bytes, bytes),
            &progress.counter(),
        )?;
        progress.end(&moved);
    }

    show::step("what the switches learned and counted");
    for (name, daemon) in stage.daemons() {
        for command in ["fdb list", "port list", "peer list", "drops"] {
            println!("  {name}$ tapestry {command}");
            let text = daemon.cli(command)?;
            show::indented(if text.is_empty() { "(nothing)" } else { &text });
        }
    }
    for (_, daemon) in stage.daemons() {
        daemon.assert_counting_law()?;
    }
    println!("  on both nodes: received = forwarded + answered + dropped");

    if wishes.keep {
        show::leave_up(|| stage.print_keys());
    }
    show::step("clean up");
    stage.stop()?;
    println!("  daemons stopped, ports removed, namespaces gone with this process");
    Ok(())
}
