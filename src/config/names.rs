//! Names whose constructors are the proof.

use core::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The name of a node, a segment or a port: 1 to 128 letters, digits, `-`, `_` and `.`, the first
/// a letter or digit, all ASCII. It is safe as a file name, a metric label and a word of a shell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// The name of a network interface, as the kernel accepts it (`dev_valid_name` in net/core/dev.c):
/// 1 to 15 bytes, neither `.` nor `..`, without `/`, `:` or white space; and without `%`, which the
/// kernel would replace by a number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName(String);

/// A network namespace: a name known to `ip netns`, or an absolute path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Netns(String);

/// Why a text is no such name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("the name is empty")]
    Empty,
    /// Too many bytes.
    #[error("\"{name}\" is {have} bytes long, {max} at most")]
    TooLong {
        /// The text.
        name: String,
        /// Its length in bytes.
        have: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// A character that may not be in it, or not first.
    #[error("\"{name}\" has {bad:?} where only {allowed} may stand")]
    BadCharacter {
        /// The text.
        name: String,
        /// The first character that is wrong.
        bad: char,
        /// What may stand there.
        allowed: &'static str,
    },
    /// `.` or `..`.
    #[error("\"{0}\" is reserved")]
    Reserved(String),
}

impl Name {
    const MAX: usize = 128;

    /// The text as a name.
    ///
    /// # Errors
    /// When it breaks the rules above.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let Some(first) = text.chars().next() else { return Err(NameError::Empty) };
        bounded(text, Self::MAX)?;
        let bad = |bad, allowed| NameError::BadCharacter { name: text.to_owned(), bad, allowed };
        if !first.is_ascii_alphanumeric() {
            return Err(bad(first, "a letter or digit"));
        }
        match text.chars().find(|&c| !c.is_ascii_alphanumeric() && !"-_.".contains(c)) {
            Some(other) => Err(bad(other, "letters, digits, '-', '_' and '.'")),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl IfName {
    /// `IFNAMSIZ` without the terminating zero.
    const MAX: usize = 15;

    /// The text as an interface name.
    ///
    /// # Errors
    /// When it breaks the rules above.
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        bounded(text, Self::MAX)?;
        if matches!(text, "." | "..") {
            return Err(NameError::Reserved(text.to_owned()));
        }
        let wrong = |c: &char| c.is_whitespace() || c.is_control() || "/:%".contains(*c);
        match text.chars().find(wrong) {
            Some(bad) => Err(NameError::BadCharacter {
                name: text.to_owned(),
                bad,
                allowed: "characters of an interface name (no space, '/', ':' or '%')",
            }),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl Netns {
    const MAX: usize = 255;
    const MAX_PATH: usize = 4095;
    const DIR: &str = "/run/netns/";

    /// The text as a namespace.
    ///
    /// # Errors
    /// When it is neither an absolute path nor a file name.
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if let Some(bad) = text.chars().find(|c| c.is_control()) {
            let name = text.escape_debug().to_string();
            let allowed = "printable characters";
            return Err(NameError::BadCharacter { name, bad, allowed });
        }
        if text.starts_with('/') {
            bounded(text, Self::MAX_PATH)?;
            // Two spellings of what `ip netns` made are one namespace.
            let below = [Self::DIR, "/var/run/netns/"].iter().find_map(|d| text.strip_prefix(*d));
            return Ok(match below.map(Self::new) {
                Some(Ok(name)) if !name.0.starts_with('/') => name,
                _ => Self(text.to_owned()),
            });
        }
        bounded(text, Self::MAX)?;
        if matches!(text, "." | "..") {
            return Err(NameError::Reserved(text.to_owned()));
        }
        if text.contains('/') {
            let allowed = "the characters of a name (a path must be absolute)";
            return Err(NameError::BadCharacter { name: text.to_owned(), bad: '/', allowed });
        }
        Ok(Self(text.to_owned()))
    }

    /// The file that holds the namespace: `/run/netns/NAME` for a name.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        if self.0.starts_with('/') {
            PathBuf::from(&self.0)
        } else {
            PathBuf::from(format!("{}{}", Self::DIR, self.0))
        }
    }
}

fn bounded(text: &str, max: usize) -> Result<(), NameError> {
    if text.len() <= max {
        return Ok(());
    }
    // The text may be anything and of any length; the message is neither.
    let name = text.chars().take(64).collect::<String>().escape_debug().to_string();
    Err(NameError::TooLong { name, have: text.len(), max })
}

macro_rules! text_of {
    ($($type:ty),*) => {$(
        impl $type {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }
    )*};
}

text_of!(Name, IfName, Netns);
