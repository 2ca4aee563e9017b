//! The CNI configuration list: what tells a container runtime that this node's network is there.
//!
//! A kubelet calls its node Ready once there is such a file. So it is written last, when the
//! network works, and whole: no runtime ever reads half of one.

use std::path::Path;

use crate::durable::{self, FileError, ReadError};
use serde_json::json;

/// The plugin's name in the runtime's directory of plugins.
const PLUGIN: &str = "tapestry-cni";
/// What runtimes read that know one version only: containerd since 1.6, CRI-O and podman know it.
const VERSION: &str = "1.0.0";
/// What the plugin speaks: runtimes that know this list (CNI 1.1.0) take the highest they know.
const VERSIONS: [&str; 3] = ["0.4.0", "1.0.0", "1.1.0"];
/// What is longer was not written here.
const MAX_LEN: u64 = 64 * 1024;

/// What is in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflist {
    /// The name of the network and of its segment.
    pub name: String,
}

impl Conflist {
    /// The file's text.
    #[must_use]
    pub fn text(&self) -> String {
        let list = json!({
            "cniVersion": VERSION,
            "cniVersions": VERSIONS,
            "name": self.name,
            "plugins": [{
                "type": PLUGIN,
                "segment": self.name,
                "capabilities": {"portMappings": true},
            }],
        });
        format!("{list:#}\n")
    }

    /// Puts the file there, readable by all, in place of whatever was there. Where it already says
    /// the same, nothing is written: runtimes read their directory anew at each change. Returns
    /// whether it was written.
    ///
    /// # Errors
    ///
    /// If that fails; what was there is then still there.
    pub fn put(&self, path: &Path) -> Result<bool, FileError> {
        let text = self.text();
        if stands(path)?.is_some_and(|standing| standing == text.as_bytes()) {
            return Ok(false);
        }
        durable::replace(path, text.as_bytes(), 0o644).map(|()| true)
    }
}

/// Takes the file away, if it is one that was put there by [`Conflist::put`]. One that is not
/// there, or names another plugin, is left alone. Returns whether it was there.
///
/// # Errors
///
/// If it cannot be removed.
pub fn remove(path: &Path) -> Result<bool, FileError> {
    durable::remove(&durable::beside(path, "tmp"))?;
    if !stands(path)?.is_some_and(|standing| is_ours(&standing)) {
        return Ok(false);
    }
    durable::remove(path)
}

/// Whether a list begins with our plugin.
fn is_ours(text: &[u8]) -> bool {
    let list: serde_json::Value = serde_json::from_slice(text).unwrap_or_default();
    list.pointer("/plugins/0/type").and_then(serde_json::Value::as_str) == Some(PLUGIN)
}

/// What is there, if it may be one of ours.
fn stands(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match durable::read(path, MAX_LEN) {
        Ok(standing) => Ok(standing),
        Err(ReadError::Useless(_)) => Ok(None),
        Err(ReadError::Io(source)) => {
            Err(FileError { path: path.to_owned(), step: "read", source })
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::durable::beside;

    fn pods() -> Conflist {
        Conflist { name: "pods".into() }
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn the_text_is_a_list_that_every_runtime_reads() {
        let list: serde_json::Value = serde_json::from_str(&pods().text()).unwrap();
        assert_eq!(list["cniVersion"], "1.0.0");
        assert!(list["cniVersions"].as_array().unwrap().contains(&list["cniVersion"]));
        assert_eq!(
            list["plugins"],
            json!([{"type": "tapestry-cni", "segment": "pods", "capabilities": {"portMappings": true}}])
        );
    }

    #[test]
    fn it_is_put_whole_once_and_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("net.d/10-tapestry.conflist");
        assert!(pods().put(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), pods().text());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert!(!pods().put(&path).unwrap(), "it says so already");
        assert!(Conflist { name: "others".into() }.put(&path).unwrap());
        assert_eq!(names(path.parent().unwrap()), ["10-tapestry.conflist"]);
        assert!(remove(&path).unwrap());
        assert!(!remove(&path).unwrap());
        assert!(names(path.parent().unwrap()).is_empty());
    }

    #[test]
    fn what_is_left_of_a_crash_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("10-tapestry.conflist");
        let victim = dir.path().join("victim");
        fs::write(&victim, "stays").unwrap();
        std::os::unix::fs::symlink(&victim, beside(&path, "tmp")).unwrap();
        assert!(pods().put(&path).unwrap());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "stays");
        fs::write(beside(&path, "tmp"), "half").unwrap();
        assert!(remove(&path).unwrap());
        assert_eq!(names(dir.path()), ["victim"]);
    }

    #[test]
    fn half_a_file_is_replaced_and_anothers_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("10-tapestry.conflist");
        fs::write(&path, &pods().text()[..30]).unwrap();
        assert!(pods().put(&path).unwrap());
        for other in ["", "{", r#"{"plugins":[{"type":"bridge"}]}"#] {
            fs::write(&path, other).unwrap();
            assert!(!remove(&path).unwrap());
            assert!(path.exists());
        }
    }

    #[test]
    fn what_fails_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir(&path).unwrap();
        let error = pods().put(&path).unwrap_err();
        assert_eq!(error.step, "read");
        assert!(error.to_string().contains("taken: read: "), "{error}");
        assert_eq!(names(dir.path()), ["taken"]);
    }
}
