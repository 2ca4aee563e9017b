//! Runs the programs by which rules are read and changed: found where the system has them, bounded
//! in time and in what is kept of their words.

use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where to look for them is none of who asks.
const PLACES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// How often its end is looked for.
const AGAIN: Duration = Duration::from_millis(2);

/// What is kept of what it says, in bytes.
const WORDS_MAX: u64 = 16 << 20;

/// How the words end that say so.
pub(crate) const NOT_INSTALLED: &str = "(8) is not installed";

/// Runs a program of the system, such as nft(8), with `input`, and returns what it prints.
///
/// # Errors
///
/// If it is not installed, takes too long, or fails: in words, its own where it has some.
pub(crate) fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, String> {
    // Named by its path, it is started without a copy of this process's memory having to be prepared,
    // which costs more than the program does.
    let path =
        PLACES.map(|place| Path::new(place).join(program)).into_iter().find(|at| at.is_file());
    let mut command = Command::new(path.ok_or_else(|| format!("{program}{NOT_INSTALLED}"))?);
    command.env_clear().env("PATH", PLACES.join(":")).env("LC_ALL", "C");
    command.args(arguments);
    let said = converse(&mut command, input, PATIENCE).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("{program}{NOT_INSTALLED}"),
        _ => format!("{program}: {error}"),
    })?;
    if said.status.success() {
        return Ok(said.out);
    }
    let words = said.err.lines().take(8).map(str::trim).collect::<Vec<_>>().join("; ");
    Err(if words.is_empty() { said.status.to_string() } else { words })
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
    fn one_that_is_not_there_is_named() {
        let error = run("tapestry-no-such-program", &[], "").unwrap_err();
        assert_eq!(error, "tapestry-no-such-program(8) is not installed");
        assert_eq!(run("cat", &[], "words").as_deref(), Ok("words"));
        assert_eq!(run("sh", &["-c", "exit 3"], ""), Err("exit status: 3".to_owned()));
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
