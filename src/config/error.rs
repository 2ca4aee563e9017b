//! What is wrong with a configuration, said so that an operator finds the place.

use core::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::MAX_FILE;

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, as `port[2].segment`; empty for a syntax error.
    pub path: String,
    /// What is wrong with it, with the offending value.
    pub message: String,
    /// Line and column in the file, both counted from 1, where they are known.
    pub place: Option<(usize, usize)>,
}

impl Problem {
    /// A problem without a place in a file, as of an object that came over the control socket.
    #[must_use]
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into(), place: None }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.path.as_str(), self.place) {
            ("", Some((line, column))) => {
                write!(f, "line {line}, column {column}: {}", self.message)
            }
            ("", None) => f.write_str(&self.message),
            (path, _) => write!(f, "{path}: {}", self.message),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file was read, and is wrong.
    #[error("{}", list(.path.as_deref(), .problems))]
    Invalid {
        /// The file, if the text came from one.
        path: Option<PathBuf>,
        /// Everything found, in the order of the file where a place is known.
        problems: Vec<Problem>,
    },
}

impl ConfigError {
    pub(super) fn invalid(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.place.unwrap_or((usize::MAX, 0)));
        Self::Invalid { path: None, problems }
    }

    pub(super) fn in_file(self, file: &Path) -> Self {
        match self {
            Self::Invalid { problems, .. } => {
                Self::Invalid { path: Some(file.to_owned()), problems }
            }
            read @ Self::Read { .. } => read,
        }
    }

    /// The problems, when the file could be read.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Read { .. } => &[],
            Self::Invalid { problems, .. } => problems,
        }
    }
}

/// The error as an operator reads it: a line for each problem, none of them ending in a newline.
#[must_use]
pub fn render_error(error: &ConfigError) -> String {
    error.to_string()
}

fn list(file: Option<&Path>, problems: &[Problem]) -> String {
    let mut lines = Vec::with_capacity(problems.len());
    for problem in problems {
        let place = match (file, problem.place) {
            (Some(file), Some((line, column))) => format!("{}:{line}:{column}: ", file.display()),
            (Some(file), None) => format!("{}: ", file.display()),
            (None, _) => String::new(),
        };
        lines.push(if place.is_empty() || !problem.path.is_empty() {
            format!("{place}{problem}")
        } else {
            format!("{place}{}", problem.message)
        });
    }
    lines.join("\n")
}

/// The text of `file`, at most [`MAX_FILE`] bytes of it.
pub(super) fn read(file: &Path) -> Result<String, ConfigError> {
    let fail = |source| ConfigError::Read { path: file.to_owned(), source };
    let mut text = String::new();
    let opened = std::fs::File::open(file).map_err(fail)?;
    let taken = opened.take(MAX_FILE + 1).read_to_string(&mut text).map_err(fail)?;
    if taken as u64 > MAX_FILE {
        let message = format!("larger than {MAX_FILE} bytes");
        return Err(fail(std::io::Error::new(std::io::ErrorKind::FileTooLarge, message)));
    }
    Ok(text)
}
