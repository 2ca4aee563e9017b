//! Calling another plugin for addresses (CNI specification, section 4).

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command as Process, Stdio};

use serde_json::{Map, Value};

use super::VERSIONS;
use super::call::{Call, Command};
use super::conf::Conf;
use super::error::{Code, Error};

/// The longest part of a plugin's complaint that is passed on, in characters.
const MAX_COMPLAINT: usize = 1000;

/// Calls the plugin that gives addresses, with the same configuration and environment but for the
/// command, and for the container where `call` names another one. Returns what it printed.
///
/// # Errors
///
/// Its own, with its name; [`Code::Config`] when there is no such plugin.
pub(super) fn run(command: Command, call: &Call, conf: &Conf) -> Result<Value, Error> {
    run_with(command, call, conf, &conf.text)
}

/// Calls it for something that all versions of the specification have alike, in the configuration's
/// version or else in one that it knows: GC is of a version that few plugins know.
///
/// # Errors
///
/// As [`run`].
pub(super) fn run_of_any_version(
    command: Command,
    call: &Call,
    conf: &Conf,
) -> Result<Value, Error> {
    let mut done = run(command, call, conf);
    for version in VERSIONS.iter().rev().filter(|version| **version < conf.version) {
        if !matches!(done, Err(Error { code: Code::Other(1), .. })) {
            break;
        }
        let Ok(mut text) = serde_json::from_slice::<Map<String, Value>>(&conf.text) else { break };
        text.insert("cniVersion".to_owned(), (*version).into());
        done = run_with(command, call, conf, Value::Object(text).to_string().as_bytes());
    }
    done
}

fn run_with(command: Command, call: &Call, conf: &Conf, text: &[u8]) -> Result<Value, Error> {
    let Some(kind) = &conf.ipam else { return Ok(Value::Null) };
    let program = find(kind, call)?;
    let failed = |what: &str, error: std::io::Error| {
        Error::new(Code::Io, format!("{what} IPAM plugin {}: {error}", program.display()))
    };
    let mut child = Process::new(&program)
        .env("CNI_COMMAND", command.text())
        .env("CNI_CONTAINERID", &call.container)
        .env("CNI_IFNAME", &call.ifname)
        .env("CNI_NETNS", call.netns.clone().unwrap_or_default())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| failed("start", error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read says why in its answer.
        let _ = stdin.write_all(text);
    }
    let output = child.wait_with_output().map_err(|error| failed("wait for", error))?;
    if output.status.success() {
        if output.stdout.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        return serde_json::from_slice(&output.stdout)
            .map_err(|error| Error::new(Code::Decode, format!("IPAM plugin {kind}: {error}")));
    }
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let code = told.get("code").and_then(Value::as_u64).unwrap_or(Code::FAILED);
    let text = |key: &str| told.get(key).and_then(Value::as_str).unwrap_or_default();
    let why = match (text("msg"), text("details")) {
        ("", _) => output.status.to_string(),
        (message, "") => message.to_owned(),
        (message, details) => format!("{message} ({details})"),
    };
    let why: String = why.chars().take(MAX_COMPLAINT).collect();
    Err(Error::new(Code::Other(code), format!("IPAM plugin {kind}: {why}")))
}

/// Calls it for a command that it may not know.
///
/// # Errors
///
/// As [`run`], except that the command is not known.
pub(super) fn run_if_known(command: Command, call: &Call, conf: &Conf) -> Result<(), Error> {
    match run(command, call, conf) {
        // Plugins say so in one of two ways.
        Err(Error { code: Code::Other(1 | 4), .. }) => Ok(()),
        done => done.map(drop),
    }
}

fn find(kind: &str, call: &Call) -> Result<PathBuf, Error> {
    let mut places = call.path.iter().filter(|place| place.is_absolute());
    places.find_map(|place| Some(place.join(kind)).filter(|path| path.is_file())).ok_or_else(|| {
        let message = format!("ipam.type: there is no plugin {kind:?} in CNI_PATH");
        Error::new(Code::Config, message)
    })
}
