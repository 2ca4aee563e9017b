//! With more workers and queues a flow still arrives in the order in which it was sent.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lab::overlay::{Overlay, Plan, Pod};
use lab::traffic::tcp;

use crate::common::{row, start};

/// Streams at the same time.
const STREAMS: usize = 8;
const BYTES: usize = 3_000_000;

/// After so long a silence the kernel's own table of flows has forgotten them, and what comes next
/// would go to another queue than what follows the first answer.
const SILENCE: Duration = Duration::from_millis(4500);
const SILENCES: usize = 2;

pub(crate) fn streams_through_two_workers_stay_in_order() -> Result<()> {
    let plan = Plan { underlay_extra: "workers = 2".to_owned(), ..Plan::default() };
    let mut overlay = start(&plan)?;
    if !is_steered(&overlay)? {
        return Ok(());
    }
    let (a, b) = (&overlay.pods[0][0], &overlay.pods[1][0]);
    let pairs: Vec<_> = b
        .hosts()
        .into_iter()
        .flat_map(|host| (0..STREAMS / 2).map(move |_| host))
        .map(|host: IpAddr| tcp::connect(&a.space, &b.space, host))
        .collect::<Result<_>>()?;
    let before = [out_of_order(a)?, out_of_order(b)?];
    for _ in 0..SILENCES {
        all_at_once(&pairs)?;
        thread::sleep(SILENCE);
    }
    all_at_once(&pairs)?;
    let after = [out_of_order(a)?, out_of_order(b)?];
    ensure!(before == after, "segments came out of order: {before:?} before, {after:?} after");
    ensure_all_work(&overlay)?;
    overlay.assert_sound()
}

/// Both directions of a conversation come to the same worker, in each node: its state is in one
/// processor's cache, and one thread looks for what comes next.
pub(crate) fn a_conversation_has_one_worker_in_each_node() -> Result<()> {
    const ROUNDS: u64 = 200;
    const CONVERSATIONS: usize = 24;
    let plan = Plan { underlay_extra: "workers = 2".to_owned(), ..Plan::default() };
    let mut overlay = start(&plan)?;
    if !is_steered(&overlay)? {
        return Ok(());
    }
    let (a, b) = (&overlay.pods[0][0], &overlay.pods[1][0]);
    let mut chosen = [0_usize; 2];
    for host in b.hosts().into_iter().flat_map(|host| [host; CONVERSATIONS / 2]) {
        let (mut near, mut far) = tcp::connect(&a.space, &b.space, host)?;
        let before = [units(&overlay, 0)?, units(&overlay, 1)?];
        let mut byte = [0];
        for _ in 0..ROUNDS {
            near.write_all(&byte)?;
            far.read_exact(&mut byte)?;
            far.write_all(&byte)?;
            near.read_exact(&mut byte)?;
        }
        for (node, before) in before.into_iter().enumerate() {
            let after = units(&overlay, node)?;
            let [one, two] = [after[0] - before[0], after[1] - before[1]];
            // Beside the conversation there may be something that nodes or kernels ask each other.
            ensure!(one.min(two) < ROUNDS / 4, "node {node} to {host}: {one} and {two} units");
            ensure!(one.max(two) + 10 > 2 * ROUNDS, "node {node} to {host}: {one} and {two} units");
            chosen[usize::from(two > one)] += 1;
        }
    }
    ensure!(chosen.iter().all(|count| *count > 0), "the same worker had all: {chosen:?}");
    overlay.assert_sound()
}

/// Whether the flow alone chooses among a port's two queues. Says so loudly where it cannot.
fn is_steered(overlay: &Overlay) -> Result<bool> {
    let port = row(&overlay.daemons[0], "port list", "name", "pod1")?;
    ensure!(port["queues"] == 2, "{port}");
    let steered = port["steering"] == "flow_hash";
    if !steered {
        ensure!(!lab::cell::is_root_outside(), "root may load a program, but: {port}");
        eprintln!("\n*** SKIPPED: the kernel lets nobody but root load a program ***");
    }
    Ok(steered)
}

/// What each of a node's two workers has taken in.
fn units(overlay: &Overlay, node: usize) -> Result<[u64; 2]> {
    let status = overlay.daemons[node].json("status")?;
    let of = |worker: usize| status["workers"][worker]["units"].as_u64().context("units");
    Ok([of(0)?, of(1)?])
}

fn all_at_once(pairs: &[(TcpStream, TcpStream)]) -> Result<()> {
    thread::scope(|scope| {
        let tasks: Vec<_> = pairs
            .iter()
            .flat_map(|(near, far)| {
                [
                    scope.spawn(move || {
                        let mut near = near;
                        near.write_all(&vec![0x5a; BYTES])
                    }),
                    scope.spawn(move || {
                        let mut far = far;
                        far.read_exact(&mut vec![0; BYTES])
                    }),
                ]
            })
            .collect();
        tasks.into_iter().try_for_each(|task| {
            task.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).context("stream")
        })
    })
}

/// Flows that all had the same queue would be in order, too.
fn ensure_all_work(overlay: &Overlay) -> Result<()> {
    let status = overlay.daemons[0].json("status")?;
    let workers = status["workers"].as_array().context("workers")?;
    let least = workers.iter().filter_map(|worker| worker["units"].as_u64()).min();
    ensure!(workers.len() == 2 && least > Some(100), "one of the workers idles: {workers:?}");
    Ok(())
}

/// Segments that a pod's TCP had to put aside because one before them was missing (TCPOFOQueue).
fn out_of_order(pod: &Pod) -> Result<u64> {
    pod.space.netstat("TcpExt", "TCPOFOQueue")
}
