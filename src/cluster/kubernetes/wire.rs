//! What an API server says about Nodes: pages of a list, events of a watch, refusals. Pure.
//!
//! An object that is not understood is passed on as such, beside those that are: it costs only
//! itself.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::object::{NotANode, Object};

/// A page of a list.
#[derive(Debug, Default)]
pub struct Page {
    /// Each Node in it, or what is wrong with it.
    pub nodes: Vec<Result<Object, NotANode>>,
    /// From where a watch goes on; the same on all pages of one list.
    pub version: String,
    /// What the next page is asked with; `None`: this is the last one.
    pub next: Option<String>,
}

/// An event of a watch.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// There is such a Node, or it has changed.
    Put(Object),
    /// There is no such Node any more.
    Deleted(Object),
    /// Nothing happened until this version.
    Bookmark(String),
    /// The watch is over, and why.
    Failed(Refusal),
    /// A Node that was put, and is not understood.
    Malformed(NotANode),
}

/// A `Status`: why the server did not do what it was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Refusal {
    /// In words.
    #[serde(default)]
    pub message: String,
    /// In one word, as `Expired`.
    #[serde(default)]
    pub reason: String,
    /// As an HTTP status.
    #[serde(default)]
    pub code: u16,
    /// More about it.
    #[serde(default)]
    pub details: Option<Details>,
}

/// More about a refusal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// After how many seconds another try makes sense.
    #[serde(default)]
    pub retry_after_seconds: Option<u32>,
}

/// What is no answer of an API server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct NotAnAnswer {
    /// What it should have been.
    pub what: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

#[derive(Deserialize)]
struct RawPage<'a> {
    #[serde(default)]
    metadata: ListMetadata,
    #[serde(default, borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Versioned {
    metadata: ListMetadata,
}

/// A page from the body of an answer.
///
/// # Errors
///
/// If it is none, or has no version to go on from.
pub fn page(body: &[u8]) -> Result<Page, NotAnAnswer> {
    let wrong = |reason: String| NotAnAnswer { what: "the list of Nodes", reason };
    let raw: RawPage<'_> =
        serde_json::from_slice(body).map_err(|error| wrong(error.to_string()))?;
    if raw.metadata.resource_version.is_empty() {
        return Err(wrong("it has no resourceVersion".to_owned()));
    }
    let nodes = raw.items.unwrap_or_default();
    Ok(Page {
        nodes: nodes.into_iter().map(|item| Object::parse(item.get())).collect(),
        version: raw.metadata.resource_version,
        next: raw.metadata.next.filter(|next| !next.is_empty()),
    })
}

/// An event from a line of a watch.
///
/// # Errors
///
/// If the line is no event of a kind that is known: the watch cannot be relied on then.
pub fn event(line: &[u8]) -> Result<Event, NotAnAnswer> {
    let wrong = |reason: String| NotAnAnswer { what: "an event of the watch", reason };
    let raw: RawEvent<'_> =
        serde_json::from_slice(line).map_err(|error| wrong(error.to_string()))?;
    let text = raw.object.get();
    match raw.kind.as_ref() {
        "ADDED" | "MODIFIED" => Ok(Object::parse(text).map_or_else(Event::Malformed, Event::Put)),
        // What is deleted needs its name alone.
        "DELETED" => match Object::parse(text) {
            Ok(object) => Ok(Event::Deleted(object)),
            Err(error) if error.name.is_empty() => Ok(Event::Malformed(error)),
            Err(error) => {
                let mut object = Object::default();
                object.metadata.name = error.name;
                object.metadata.resource_version = error.version;
                Ok(Event::Deleted(object))
            }
        },
        "BOOKMARK" => {
            let object: Versioned =
                serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
            Ok(Event::Bookmark(object.metadata.resource_version))
        }
        "ERROR" => {
            Ok(Event::Failed(serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?))
        }
        other => Err(wrong(format!("its type is {other:?}"))),
    }
}

/// Lines from pieces of a stream.
#[derive(Debug)]
pub struct Lines {
    pieces: Vec<u8>,
    /// Up to where there is no end of a line.
    searched: usize,
    max: usize,
}

/// A line that is longer than any event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of the watch is longer than {0} bytes")]
pub struct TooLong(pub usize);

impl Lines {
    /// Lines of up to `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { pieces: Vec::new(), searched: 0, max }
    }

    /// Takes a piece in.
    pub fn push(&mut self, piece: &[u8]) {
        self.pieces.extend_from_slice(piece);
    }

    /// The next whole line, without its end. Empty ones are left out. What is left when the stream
    /// ends is half an event, and is never one.
    ///
    /// # Errors
    ///
    /// If it is too long.
    pub fn line(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
        loop {
            let rest = self.pieces.get(self.searched..).unwrap_or_default();
            let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
                self.searched = self.pieces.len();
                return if self.searched > self.max { Err(TooLong(self.max)) } else { Ok(None) };
            };
            let after = self.pieces.split_off(self.searched + end + 1);
            let mut line = std::mem::replace(&mut self.pieces, after);
            self.searched = 0;
            line.pop();
            if line.len() > self.max {
                return Err(TooLong(self.max));
            }
            if !line.is_empty() {
                return Ok(Some(line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_malformed_node_costs_only_itself() {
        let body = br#"{"metadata":{"resourceVersion":"9"},"items":[
            {"metadata":{"name":"a","uid":"1"}},
            {"metadata":{"name":"b","uid":"2"},"spec":7},
            17,
            {"metadata":{"name":"c","uid":"3"},"status":{"addresses":null}}]}"#;
        let page = page(body).unwrap();
        let names: Vec<Result<&str, &str>> = page
            .nodes
            .iter()
            .map(|node| match node {
                Ok(object) => Ok(object.metadata.name.as_str()),
                Err(error) => Err(error.name.as_str()),
            })
            .collect();
        assert_eq!(names, [Ok("a"), Err("b"), Err(""), Ok("c")]);
        assert_eq!((page.version.as_str(), page.next), ("9", None));
    }

    #[test]
    fn a_list_of_nothing_is_one_and_a_list_without_a_version_is_none() {
        assert!(
            page(br#"{"metadata":{"resourceVersion":"9"},"items":null}"#).unwrap().nodes.is_empty()
        );
        assert!(page(br#"{"metadata":{},"items":[]}"#).is_err());
        assert!(page(br#"{"metadata":{"resourceVersion":"9"},"items":{}}"#).is_err());
        assert!(page(b"").is_err());
    }

    #[test]
    fn events_are_told_apart() {
        let put = event(br#"{"type":"ADDED","object":{"metadata":{"name":"a","uid":"1"}}}"#);
        assert!(matches!(put, Ok(Event::Put(object)) if object.metadata.name == "a"));
        let bad = event(br#"{"type":"MODIFIED","object":{"metadata":{"name":"a"}}}"#);
        assert!(matches!(bad, Ok(Event::Malformed(error)) if error.name == "a"));
        let gone = event(br#"{"type":"DELETED","object":{"metadata":{"name":"a"},"spec":1}}"#);
        assert!(matches!(gone, Ok(Event::Deleted(object)) if object.metadata.name == "a"));
        let mark = event(br#"{"object":{"metadata":{"resourceVersion":"7"}},"type":"BOOKMARK"}"#);
        assert_eq!(mark, Ok(Event::Bookmark("7".into())));
        let failed = event(br#"{"type":"ERROR","object":{"reason":"Expired","code":410}}"#);
        assert!(matches!(failed, Ok(Event::Failed(status)) if status.code == 410));
        assert!(event(br#"{"type":"ELSE","object":{}}"#).is_err());
        assert!(event(br#"{"type":"ADDED","object":{"metada"#).is_err());
    }

    #[test]
    fn lines_are_whole_wherever_the_stream_is_cut() {
        let stream = b"one\n\ntwo\nthree";
        for cut in 0..=stream.len() {
            let mut lines = Lines::new(5);
            let mut found = Vec::new();
            for piece in [&stream[..cut], &stream[cut..]] {
                lines.push(piece);
                while let Some(line) = lines.line().unwrap() {
                    found.push(String::from_utf8(line).unwrap());
                }
            }
            assert_eq!(found, ["one", "two"], "cut at {cut}");
        }
    }

    #[test]
    fn lines_are_bounded_with_an_end_and_without() {
        for stream in [&b"sixsix\n"[..], b"sixsix"] {
            let mut lines = Lines::new(5);
            lines.push(stream);
            assert_eq!(lines.line(), Err(TooLong(5)));
        }
    }
}
