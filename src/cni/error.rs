//! Errors as the CNI specification wants them.

use serde_json::{Value, json};

use crate::attach::client::ClientError;
use crate::attach::protocol::RefusedKind;

/// The numbers of errors (CNI specification, section 5, "Error").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// 1: the version is not spoken.
    Version,
    /// 2: a field of the configuration cannot be supported.
    Unsupported,
    /// 3: the container is not attached.
    UnknownContainer,
    /// 4: an environment variable is missing or wrong.
    Environment,
    /// 5: something could not be read or written.
    Io,
    /// 6: something could not be decoded.
    Decode,
    /// 7: the configuration is wrong.
    Config,
    /// 11: it may work later.
    TryAgain,
    /// 50: the plugin is not available.
    NotAvailable,
    /// 100: the interface's name is taken.
    Taken,
    /// 101: the daemon refused, or the system.
    Failed,
    /// 102: the attachment is not what it was.
    Differs,
    /// Of another plugin.
    Other(u64),
}

impl Code {
    /// What a plugin that gives no number means.
    pub(super) const FAILED: u64 = 101;

    const fn number(self) -> u64 {
        match self {
            Self::Version => 1,
            Self::Unsupported => 2,
            Self::UnknownContainer => 3,
            Self::Environment => 4,
            Self::Io => 5,
            Self::Decode => 6,
            Self::Config => 7,
            Self::TryAgain => 11,
            Self::NotAvailable => 50,
            Self::Taken => 100,
            Self::Failed => 101,
            Self::Differs => 102,
            Self::Other(number) => number,
        }
    }
}

/// Why a command was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Its number.
    pub code: Code,
    /// In words that stand alone.
    pub message: String,
}

impl Error {
    /// One with these words.
    pub fn new(code: Code, message: impl ToString) -> Self {
        Self { code, message: message.to_string() }
    }

    /// As it is printed.
    #[must_use]
    pub fn json(&self, version: &str) -> Value {
        json!({ "cniVersion": version, "code": self.code.number(), "msg": self.message })
    }
}

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::Unreachable { .. } | ClientError::Lost(_) => Code::TryAgain,
            ClientError::Refused(refused) => match refused.kind {
                RefusedKind::NotReady | RefusedKind::Full => Code::TryAgain,
                RefusedKind::Invalid | RefusedKind::NotFound => Code::Config,
                RefusedKind::Differs => Code::Differs,
                RefusedKind::Version => Code::Version,
                RefusedKind::Malformed
                | RefusedKind::Exists
                | RefusedKind::Failed
                | RefusedKind::Other => Code::Failed,
            },
        };
        Self::new(code, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_below_a_hundred_are_the_specifications() {
        let well_known = [
            (Code::Version, 1),
            (Code::Unsupported, 2),
            (Code::UnknownContainer, 3),
            (Code::Environment, 4),
            (Code::Io, 5),
            (Code::Decode, 6),
            (Code::Config, 7),
            (Code::TryAgain, 11),
            (Code::NotAvailable, 50),
        ];
        for (code, number) in well_known {
            assert_eq!(Error::new(code, "x").json("1.1.0")["code"], number);
        }
        assert!([Code::Taken, Code::Failed, Code::Differs].iter().all(|code| code.number() >= 100));
    }
}
