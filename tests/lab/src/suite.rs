//! The runner of tests that need a cell: `cargo test`'s arguments and output, one test at a time.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::{Result, bail};
use libtest_mimic::{Arguments, Failed, Trial};

use crate::cell::{self, Side};
use crate::tool;

/// A test: what it shows, and the doing.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// A path and a sentence, `kernel::tcp_flows_both_ways`.
    pub name: &'static str,
    /// Programs without which it cannot run.
    pub needs: &'static [&'static str],
    /// The test.
    pub run: fn() -> Result<()>,
}

/// Lists functions as cases named for their module and themselves.
#[macro_export]
macro_rules! cases {
    ($module:ident, needs $needs:expr, [$($function:ident),+ $(,)?]) => {
        [$($crate::suite::Case {
            name: concat!(stringify!($module), "::", stringify!($function)),
            needs: $needs,
            run: $module::$function,
        }),+]
    };
}

/// Enters a cell and runs the cases there. To be the whole of a test binary's `main`.
///
/// A case whose programs are missing, and every case where there can be no cell, is skipped with a
/// loud word; where CI is set in the environment it fails.
#[must_use]
pub fn main(cases: &[Case]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Namespaces, CPU time and the machine's patience are shared.
    arguments.test_threads = Some(1);
    let trials = |obstacle: Option<String>| {
        let wrap = |case: &Case| {
            let (case, obstacle) = (*case, obstacle.clone());
            Trial::test(case.name, move || attempt(case, obstacle).map_err(failed))
        };
        cases.iter().map(wrap).collect::<Vec<_>>()
    };
    let names: BTreeSet<_> = cases.iter().map(|case| case.name).collect();
    if names.len() != cases.len() {
        eprintln!("two cases have one name");
        return ExitCode::FAILURE;
    }
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(None)).exit_code();
    }
    let obstacle = match cell::enter() {
        Ok(Side::Done(code)) => return code,
        // The kernel ends everything in the cell together with its first process: this one.
        Ok(Side::Inside) => {
            cell::on_interrupt(|| std::process::exit(130)).and_then(|()| cell::require_tun()).err()
        }
        Err(error) => Some(error),
    };
    let trials = trials(obstacle.map(|error| format!("{error:#}")));
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn attempt(case: Case, obstacle: Option<String>) -> Result<()> {
    let missing: Vec<_> = case.needs.iter().copied().filter(|name| !tool::exists(name)).collect();
    let obstacle = obstacle
        .or_else(|| (!missing.is_empty()).then(|| format!("missing: {}", missing.join(", "))));
    match obstacle {
        None => (case.run)(),
        Some(why) if std::env::var_os("CI").is_some() => bail!("cannot run: {why}"),
        Some(why) => {
            eprintln!("\n*** SKIPPED {}: {why} ***", case.name);
            Ok(())
        }
    }
}

fn failed(error: anyhow::Error) -> Failed {
    // The chain of causes; a backtrace would only show this runner.
    let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    Failed::from(causes.join("\n  because: "))
}
