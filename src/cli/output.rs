//! Writing to whoever reads, who may have stopped reading.

use std::io::{self, BufWriter, Write};

use serde::Serialize;

/// stdout, as a table or as one JSON document.
pub(super) struct Output {
    pub(super) json: bool,
}

impl Output {
    pub(super) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Shows the value: itself as JSON, or the text that `human` makes of it. A reader who has
    /// gone is not an error: `tapestry fdb list | head` ends quietly.
    pub(super) fn show<T: Serialize>(&mut self, value: &T, human: impl FnOnce() -> String) {
        let mut out = BufWriter::new(io::stdout().lock());
        let written = if self.json {
            serde_json::to_writer_pretty(&mut out, value)
                .map_err(io::Error::from)
                .and_then(|()| out.write_all(b"\n"))
        } else {
            out.write_all(human().as_bytes())
        };
        if let Err(error) = written.and_then(|()| out.flush())
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            complain(&format!("stdout: {error}"));
        }
        // What is left in the buffer has no reader; dropping the writer would try once more.
        let (_, _) = out.into_parts();
    }
}

/// Says it on stderr, if anybody reads there.
pub(super) fn complain(message: &str) {
    let _ = writeln!(io::stderr().lock(), "tapestry: {message}");
}
