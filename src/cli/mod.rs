//! The command line: what is typed ([`args`]), what is asked of the daemon, and how its answer is
//! shown. Tables and `--json` come from the structs that the socket carries.

pub mod args;
mod cluster_views;
mod logging;
mod output;
mod request;
mod table;
mod views;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{CommandFactory as _, FromArgMatches as _};
use serde::Serialize;

use crate::config::{Config, ConfigError, render_error};
use crate::control::client::ClientError;
use crate::privilege::helper;
use args::{Args, Verb};
use output::Output;

/// Refused, not found, or failed; the reason is on stderr.
const REFUSED: u8 = 1;
/// Wrong usage.
const USAGE: u8 = 2;
/// The daemon cannot be reached.
const UNREACHABLE: u8 = 3;

/// Does what the arguments say (the first is the program's name) and says how it went: 0 done,
/// 1 refused or not found, 2 wrong usage, 3 the daemon cannot be reached.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = Args::command()
        .try_get_matches_from(arguments)
        .and_then(|matches| Args::from_arg_matches(&matches).map(|args| (args, matches)));
    let (args, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            // A closed pipe is no reason to complain about help that nobody reads.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    let mut output = Output::new(args.json);
    let done = match &args.verb {
        Verb::Run { config, ephemeral } => {
            logging::start();
            daemon(crate::daemon::run(config, *ephemeral))
        }
        Verb::Teardown { config } => {
            logging::start();
            daemon(crate::daemon::teardown(config))
        }
        Verb::Helper { user } => {
            logging::start();
            // The default, and the variable, are those of the control socket.
            let typed = matches.value_source("socket") == Some(ValueSource::CommandLine);
            let path = if typed { &args.socket } else { Path::new(helper::DEFAULT_SOCKET) };
            daemon(helper::run(path, user))
        }
        Verb::Check { config } => check(config, &mut output),
        asking => request::ask(asking, &args.socket, &mut output).map_err(Failed::from),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            if let Some(message) = &failed.message {
                output::complain(message);
            }
            ExitCode::from(failed.code)
        }
    }
}

/// How a command failed.
struct Failed {
    code: u8,
    /// `None`: said already.
    message: Option<String>,
}

impl From<ClientError> for Failed {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Unreachable { .. } => Self {
                code: UNREACHABLE,
                message: Some(format!(
                    "{error}\nIs it running (systemctl status tapestry)? Another socket is named \
                     with --socket or TAPESTRY_SOCKET."
                )),
            },
            ClientError::Refused { failure, .. } => {
                let said = |path: &String| failure.error.starts_with(&format!("{path}: "));
                let message = match failure.path.as_ref().filter(|path| !said(path)) {
                    Some(path) => format!("{path}: {}", failure.error),
                    None => failure.error,
                };
                Self { code: REFUSED, message: Some(message) }
            }
        }
    }
}

fn daemon(ended: anyhow::Result<()>) -> Result<(), Failed> {
    ended.map_err(|error| Failed { code: REFUSED, message: Some(format!("{error:#}")) })
}

/// What `check --json` prints.
#[derive(Serialize)]
struct CheckReport<'a> {
    ok: bool,
    file: &'a Path,
    errors: Vec<CheckError>,
}

/// One error of a configuration.
#[derive(Serialize)]
struct CheckError {
    path: String,
    message: String,
    line: Option<usize>,
    column: Option<usize>,
}

fn check(file: &Path, output: &mut Output) -> Result<(), Failed> {
    let error = match Config::load(file) {
        Ok(config) => {
            let report = CheckReport { ok: true, file, errors: Vec::new() };
            let (segments, ports) = (config.segments.len(), config.ports.len());
            let name = file.display();
            output.show(&report, || {
                let (s, p) = (plural(segments), plural(ports));
                format!("{name}: ok, {segments} segment{s}, {ports} port{p}\n")
            });
            return Ok(());
        }
        Err(error) => error,
    };
    if !output.json {
        return Err(Failed { code: REFUSED, message: Some(render_error(&error)) });
    }
    let mut errors: Vec<CheckError> = Vec::new();
    if let ConfigError::Read { source, .. } = &error {
        let message = source.to_string();
        errors.push(CheckError { path: String::new(), message, line: None, column: None });
    }
    errors.extend(error.problems().iter().map(|problem| CheckError {
        path: problem.path.clone(),
        message: problem.message.clone(),
        line: problem.place.map(|(line, _)| line),
        column: problem.place.map(|(_, column)| column),
    }));
    output.show(&CheckReport { ok: false, file, errors }, String::new);
    Err(Failed { code: REFUSED, message: None })
}

const fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}
