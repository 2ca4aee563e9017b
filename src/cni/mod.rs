//! `tapestry-cni`, the plugin that container runtimes call (CNI specification 1.1.0): it makes the
//! container's device in its namespace and hands it to the daemon.
//!
//! It blocks and has one thread, but for those that enter namespaces: a runtime waits for it.

mod add;
mod call;
mod check;
mod conf;
mod del;
mod error;
mod interface;
mod ipam;
mod result;

use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use serde_json::{Value, json};

pub use call::{Call, Command};
pub use conf::{Conf, Wish};
pub use error::{Code, Error};

/// The versions of the specification that are spoken, the oldest first.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The newest of them.
const NEWEST: &str = "1.1.0";

/// The longest configuration that is read, in bytes: a GC may name many attachments.
const MAX_STDIN: u64 = 8 * 1024 * 1024;

/// Does what the environment and standard input ask for, and says on standard output what came of it.
#[must_use]
pub fn main() -> ExitCode {
    let mut text = Vec::new();
    let read = std::io::stdin().lock().take(MAX_STDIN + 1).read_to_end(&mut text);
    let call = Call::from_env();
    let (version, done) = match read {
        Ok(_) if text.len() as u64 > MAX_STDIN => {
            (NEWEST.to_owned(), Err(Error::new(Code::Decode, "the configuration is too long")))
        }
        Ok(_) => (version_of(&text).unwrap_or_else(|| NEWEST.to_owned()), run(call, &text)),
        Err(error) => (
            NEWEST.to_owned(),
            Err(Error::new(Code::Io, format!("read the configuration: {error}"))),
        ),
    };
    let (answer, code) = match done {
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err(error) => (Some(error.json(&version)), ExitCode::FAILURE),
    };
    match answer.map_or(Ok(()), |answer| print(&answer)) {
        Ok(()) => code,
        // Nobody reads: nobody learns of an attachment, so that it counts as failed.
        Err(_) => ExitCode::FAILURE,
    }
}

fn print(answer: &Value) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, answer)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Does what is asked for; the answer, where the command has one.
fn run(call: Result<Call, Error>, text: &[u8]) -> Result<Option<Value>, Error> {
    let call = call?;
    if call.command == Command::Version {
        let version = version_of(text).unwrap_or_else(|| NEWEST.to_owned());
        return Ok(Some(json!({ "cniVersion": version, "supportedVersions": VERSIONS })));
    }
    let conf = Conf::parse(text, &call)?;
    match call.command {
        Command::Add => add::add(&call, &conf).map(Some),
        Command::Del => del::del(&call, &conf).map(|()| None),
        Command::Check => check::check(&call, &conf).map(|()| None),
        Command::Gc => del::gc(&call, &conf).map(|()| None),
        Command::Status => check::status(&call, &conf).map(|()| None),
        Command::Version => Ok(None),
    }
}

/// The version that the caller speaks, where it says so.
fn version_of(text: &[u8]) -> Option<String> {
    let conf: Value = serde_json::from_slice(text).ok()?;
    let version = conf.get("cniVersion")?.as_str()?;
    (version.len() < 32).then(|| version.to_owned())
}
