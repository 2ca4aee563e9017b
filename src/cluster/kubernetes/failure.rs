//! Why the API server did not do what it was asked, and what follows from it.

use std::time::Duration;

use super::wire::{NotAnAnswer, Refusal, TooLong};

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The kubeconfig or the service account's files cannot be read or make no sense.
    #[error("the credentials cannot be used: {0}")]
    Credentials(String),
    /// No answer, or none that ended.
    #[error("the API server cannot be reached: {0}")]
    Unreachable(String),
    /// 401: the token or certificate is not, or no longer, accepted.
    #[error("the API server does not accept the credentials: {0}")]
    Unauthorized(String),
    /// 403: a right is missing.
    #[error("the API server does not allow it (see the ClusterRole): {0}")]
    Forbidden(String),
    /// 404
    #[error("{0}")]
    NotFound(String),
    /// 409: the object has changed, or is another one of that name.
    #[error("{0}")]
    Conflict(String),
    /// 410: the version or the continue token is older than what the server kept.
    #[error("{0}")]
    Gone(String),
    /// 422: the object would make no sense.
    #[error("{0}")]
    Invalid(String),
    /// 429, 503, 504: later.
    #[error("the API server is busy: {message}")]
    Busy {
        /// In its words.
        message: String,
        /// When it wants to be asked again.
        after: Option<Duration>,
    },
    /// Any other refusal.
    #[error("the API server refuses ({code}): {message}")]
    Refused {
        /// The HTTP status.
        code: u16,
        /// In its words.
        message: String,
    },
    /// An answer that is none of an API server.
    #[error("the API server's answer makes no sense: {0}")]
    Malformed(String),
}

impl Failure {
    /// What a refusal means, by the status that came with it.
    #[must_use]
    pub fn from_refusal(status: u16, refusal: Refusal) -> Self {
        let Refusal { message, reason, code, details } = refusal;
        let code = if code == 0 { status } else { code };
        let message = match (message.is_empty(), reason.is_empty()) {
            (false, _) => shortened(message),
            (true, false) => reason,
            (true, true) => format!("HTTP status {code}"),
        };
        let after = details.and_then(|details| details.retry_after_seconds);
        match code {
            401 => Self::Unauthorized(message),
            403 => Self::Forbidden(message),
            404 => Self::NotFound(message),
            409 => Self::Conflict(message),
            410 => Self::Gone(message),
            422 => Self::Invalid(message),
            429 | 503 | 504 => {
                Self::Busy { message, after: after.map(|s| Duration::from_secs(u64::from(s))) }
            }
            code => Self::Refused { code, message },
        }
    }

    /// When the server wants to be asked again, where it said so.
    #[must_use]
    pub fn after(&self) -> Option<Duration> {
        match self {
            Self::Busy { after, .. } => *after,
            _ => None,
        }
    }
}

impl From<NotAnAnswer> for Failure {
    fn from(error: NotAnAnswer) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl From<TooLong> for Failure {
    fn from(error: TooLong) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// A message of the server, short enough for a log line.
fn shortened(mut message: String) -> String {
    const MAX: usize = 400;
    if message.len() > MAX {
        let end = (0..=MAX).rev().find(|&at| message.is_char_boundary(at)).unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::super::wire::Details;
    use super::*;

    #[test]
    fn each_status_has_its_meaning() {
        let refusal = |code| Refusal { message: "m".into(), code, ..Refusal::default() };
        let from = |code| Failure::from_refusal(500, refusal(code));
        assert_eq!(from(401), Failure::Unauthorized("m".into()));
        assert_eq!(from(403), Failure::Forbidden("m".into()));
        assert_eq!(from(404), Failure::NotFound("m".into()));
        assert_eq!(from(409), Failure::Conflict("m".into()));
        assert_eq!(from(410), Failure::Gone("m".into()));
        assert_eq!(from(422), Failure::Invalid("m".into()));
        assert_eq!(from(503), Failure::Busy { message: "m".into(), after: None });
        assert_eq!(from(0), Failure::Refused { code: 500, message: "m".into() });
    }

    #[test]
    fn a_busy_server_says_when() {
        let details = Some(Details { retry_after_seconds: Some(7) });
        let refusal = Refusal { code: 429, details, ..Refusal::default() };
        let failure = Failure::from_refusal(429, refusal);
        assert_eq!(failure.after(), Some(Duration::from_secs(7)));
        assert_eq!(failure.to_string(), "the API server is busy: HTTP status 429");
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let message = "ä".repeat(400);
        let cut = shortened(message);
        assert!(cut.len() <= 404 && cut.ends_with('…'), "{}", cut.len());
    }
}
