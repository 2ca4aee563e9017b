//! The one table of nftables rules: `inet tapestry`, replaced as a whole by nft(8).
//!
//! What is given is only ever the inside of the table. So that it cannot leave it, or read a file,
//! it is held to a part of nft's language in which no brace is anything but a brace.

use std::io::{self, Read as _, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The table that is Tapestry's, of the family `inet`.
pub const TABLE: &str = "tapestry";

/// How long nft may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often its end is looked for.
const AGAIN: Duration = Duration::from_millis(2);

/// What is kept of what it says.
const WORDS_MAX: u64 = 1 << 20;

/// Why the rules are not what they were to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nftables: {0}")]
pub struct RulesError(pub(super) String);

/// Whether a text can only be the inside of one table: its braces are closed and none leaves it,
/// nothing is hidden in comments, escapes or strings over several lines, and no other file is read.
pub(super) fn admit(body: &str) -> Result<(), String> {
    let mut depth = 0_u32;
    for (number, line) in (1..).zip(body.split('\n')) {
        let refuse = |what: &str| Err(format!("rules, line {number}: {what}"));
        if line.chars().any(|c| !matches!(c, ' '..='~' | '\t')) {
            return refuse("a character other than printable ASCII");
        }
        // What is outside of strings is every other part.
        let parts: Vec<&str> = line.split('"').collect();
        if parts.len().is_multiple_of(2) {
            return refuse("a string does not end on its line");
        }
        for text in parts.iter().step_by(2) {
            if text.contains(['#', '\\', '$']) {
                return refuse("a comment, an escape or a variable");
            }
            let mut words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            if words.any(|word| matches!(word, "include" | "define" | "redefine" | "undefine")) {
                return refuse("a directive that is none of a table");
            }
            for brace in text.chars() {
                depth = match brace {
                    '{' => depth + 1,
                    '}' => match depth.checked_sub(1) {
                        Some(depth) => depth,
                        None => return refuse("a brace that closes the table"),
                    },
                    _ => depth,
                };
            }
        }
    }
    if depth == 0 { Ok(()) } else { Err("rules: a brace is not closed".to_owned()) }
}

/// Replaces the table, in one transaction, and returns it as it then stands.
pub(super) fn replace(body: &str) -> Result<String, RulesError> {
    admit(body).map_err(RulesError)?;
    run(&["-f", "-"], &format!("{}table inet {TABLE} {{\n{body}\n}}\n", gone()))?;
    read().map(Option::unwrap_or_default)
}

/// The table as it stands, without counters; `None`: there is none.
pub(super) fn read() -> Result<Option<String>, RulesError> {
    match run(&["--stateless", "list", "table", "inet", TABLE], "") {
        Err(RulesError(words)) if words.contains("No such file or directory") => Ok(None),
        listed => listed.map(Some),
    }
}

/// Removes the table.
pub(super) fn remove() -> Result<(), RulesError> {
    run(&["-f", "-"], &gone()).map(drop)
}

/// To delete what is not there is an error, so that it is added before.
fn gone() -> String {
    format!("add table inet {TABLE}\ndelete table inet {TABLE}\n")
}

fn run(arguments: &[&str], input: &str) -> Result<String, RulesError> {
    let mut command = Command::new("nft");
    // Where to look for it is none of who asks.
    command.env_clear().env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").env("LC_ALL", "C");
    command.args(arguments);
    let said = converse(&mut command, input, PATIENCE).map_err(|error| {
        RulesError(match error.kind() {
            io::ErrorKind::NotFound => "nft(8) is not installed".to_owned(),
            _ => format!("nft: {error}"),
        })
    })?;
    if said.status.success() {
        return Ok(said.out);
    }
    let words = said.err.lines().take(8).map(str::trim).collect::<Vec<_>>().join("; ");
    Err(RulesError(if words.is_empty() { said.status.to_string() } else { words }))
}

/// What a program said until it ended.
struct Said {
    status: ExitStatus,
    out: String,
    err: String,
}

/// Runs a program with `input`, and kills it if it takes longer than `patience`.
fn converse(command: &mut Command, input: &str, patience: Duration) -> io::Result<Said> {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        // It may say something before it has read everything: neither waits for the other.
        scope.spawn(move || {
            // One that does not read to the end says why itself.
            let _ = stdin.map(|mut stdin| stdin.write_all(input.as_bytes()));
        });
        let out = scope.spawn(move || stdout.map(words).unwrap_or_default());
        let err = scope.spawn(move || stderr.map(words).unwrap_or_default());
        let status = wait(&mut child, patience);
        let join = |words: thread::ScopedJoinHandle<'_, String>| words.join().unwrap_or_default();
        Ok(Said { out: join(out), err: join(err), status: status? })
    })
}

fn words(pipe: impl io::Read) -> String {
    let mut bytes = Vec::new();
    let _ = pipe.take(WORDS_MAX).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn wait(child: &mut Child, patience: Duration) -> io::Result<ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it took too long"));
        }
        thread::sleep(AGAIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inside_of_a_table_is_admitted() {
        for body in [
            "",
            "chain a {\n\ttype filter hook input priority 0; policy accept;\n}\n",
            "set s { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.0.2.1 } }",
            "chain a { iifname \"eth0\" ip daddr @s log prefix \"} # not the end $\" accept; }",
            "chain include_me { ct status dnat masquerade fully-random }",
        ] {
            assert_eq!(admit(body), Ok(()), "{body}");
        }
    }

    #[test]
    fn what_leaves_the_table_or_hides_is_refused() {
        for body in [
            "}",
            "} table inet other { chain a { }",
            "chain a { } } flush ruleset {",
            "chain a {",
            "include \"/etc/shadow\"",
            "chain a { }; include \"/etc/shadow\"",
            "define x = 1",
            "chain a { ip daddr $x }",
            "# {\n}",
            "chain a { \\\n}",
            "chain a { comment \"{\n\" }",
            "chain a { log prefix \"a }",
            "chain \u{e4} { }",
            "chain a\r{ }",
            "chain a\0{ }",
        ] {
            assert!(admit(body).is_err(), "{body}");
        }
        assert_eq!(
            admit("chain a {\n}\n}").unwrap_err(),
            "rules, line 3: a brace that closes the table"
        );
    }

    #[test]
    fn a_program_that_hangs_is_killed_and_one_that_does_not_read_is_heard() {
        let mut command = Command::new("sleep");
        let begun = Instant::now();
        let error = converse(command.arg("60"), "", Duration::from_millis(50)).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() < Duration::from_secs(10));
        let mut command = Command::new("sh");
        let input = "x".repeat(1 << 20);
        let said = converse(command.args(["-c", "echo no >&2; exit 3"]), &input, PATIENCE).unwrap();
        assert_eq!((said.status.code(), said.err.as_str()), (Some(3), "no\n"));
    }
}
