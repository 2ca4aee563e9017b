//! What an error follows from.

use std::error::Error;

/// An error with everything that it follows from, each said once: "transport error" alone tells nobody
/// anything.
pub(super) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Chained(&'static str, #[source] Option<Box<Chained>>);

    #[test]
    fn each_cause_is_said_once() {
        let refused = Chained("connection refused", None);
        let repeated = Chained("connect: connection refused", Some(Box::new(refused)));
        let all = Chained("transport error", Some(Box::new(repeated)));
        assert_eq!(causes(&all), "transport error: connect: connection refused");
    }
}
