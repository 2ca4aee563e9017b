//! What is to be gone, and could not be said because no daemon was there to hear it: a file for each,
//! which the daemon consumes when it starts, and while it runs.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Key;
use crate::durable::{self, FileError, ReadError, unix_ms};

/// The directory within the state directory.
const DIR: &str = "tombstones";

/// How a tombstone's file ends; those that are being written end otherwise.
const SUFFIX: &str = "json";

/// A longer file is no tombstone.
const MAX_LEN: u64 = 4096;

/// The most that are read at a time.
const MAX_FILES: usize = 10_000;

/// An attachment that was to be removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Which.
    #[serde(flatten)]
    pub key: Key,
    /// When, in milliseconds since the Unix epoch: what was attached later is another one.
    pub at_ms: u64,
    /// In which boot.
    pub boot_id: String,
}

/// What is in the directory.
#[derive(Debug, Default)]
pub struct Found {
    /// The tombstones and their files.
    pub good: Vec<(PathBuf, Tombstone)>,
    /// Files that are none, and why.
    pub bad: Vec<(PathBuf, String)>,
    /// Files that may be some and cannot be read, and why not.
    pub unread: Vec<(PathBuf, io::Error)>,
}

/// The tombstones of a state directory.
#[derive(Clone, Debug)]
pub struct Tombstones {
    dir: PathBuf,
}

impl Tombstones {
    /// Those of this state directory, which need not be there.
    #[must_use]
    pub fn of(state_dir: &Path) -> Self {
        Self { dir: state_dir.join(DIR) }
    }

    /// Leaves one, durably: when this returns, the attachment will be gone. Leaving it twice is the
    /// same as once.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn leave(&self, tombstone: &Tombstone) -> io::Result<()> {
        let dir = self.hold()?;
        let held = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
        let stem = tombstone.key.file_stem();
        let path = held.join(format!("{stem}.{SUFFIX}"));
        let aside = held.join(format!("{stem}.{}", std::process::id()));
        let text = serde_json::to_vec(tombstone)?;
        durable::replace_by(&aside, &path, &text, 0o644).map_err(
            |FileError { step, source, .. }| {
                io::Error::new(source.kind(), format!("{}: {step}: {source}", self.dir.display()))
            },
        )
    }

    /// The directory, made where there is none. It is the daemon's, whoever makes it: a daemon with an
    /// account of its own could not remove what is in another's. And since that account could put a
    /// link in its place, while whoever leaves a tombstone is root, none is followed, and the directory
    /// is held from here on.
    fn hold(&self) -> io::Result<File> {
        let state = self.dir.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(state)?;
        match fs::DirBuilder::new().mode(0o755).create(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let mut options = File::options();
        options.read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW);
        let dir = options.open(&self.dir)?;
        let (state, own) = (fs::metadata(state)?, dir.metadata()?);
        if (state.uid(), state.gid()) != (own.uid(), own.gid()) {
            fchown(&dir, Some(state.uid()), Some(state.gid()))?;
        }
        Ok(dir)
    }

    /// All that were left, with their files.
    ///
    /// # Errors
    ///
    /// If the directory is there and cannot be read.
    pub fn read(&self) -> io::Result<Found> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::default()),
            Err(error) => return Err(error),
        };
        let mut found = Found::default();
        for entry in entries.take(MAX_FILES) {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != SUFFIX) {
                continue;
            }
            match read(&path) {
                Ok(Some(tombstone)) => found.good.push((path, tombstone)),
                Ok(None) => {}
                Err(ReadError::Useless(reason)) => found.bad.push((path, reason)),
                Err(ReadError::Io(error)) => found.unread.push((path, error)),
            }
        }
        Ok(found)
    }

    /// Removes one that has been acted upon. It may be gone.
    pub fn remove(&self, path: &Path) {
        let _ = fs::remove_file(path);
    }

    /// Removes all of them, and their directory.
    ///
    /// # Errors
    ///
    /// If one cannot be removed.
    pub fn remove_all(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

/// A tombstone; `None`: it is gone meanwhile.
fn read(path: &Path) -> Result<Option<Tombstone>, ReadError> {
    let Some(text) = durable::read(path, MAX_LEN)? else { return Ok(None) };
    let tombstone: Tombstone =
        serde_json::from_slice(&text).map_err(|error| ReadError::Useless(error.to_string()))?;
    tombstone.key.check().map_err(|error| ReadError::Useless(error.to_string()))?;
    Ok(Some(tombstone))
}

impl Tombstone {
    /// One for an attachment that is to be gone now, in this boot.
    ///
    /// # Errors
    ///
    /// If `/proc` does not tell which boot this is.
    pub fn now(key: Key) -> io::Result<Self> {
        let boot_id = crate::device::journal::boot_id()?;
        Ok(Self { key, at_ms: unix_ms(), boot_id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::tempdir;

    fn tombstone(container: &str) -> Tombstone {
        let [network, container, ifname] = ["pods", container, "eth0"].map(str::to_owned);
        Tombstone::now(Key { network, container, ifname }).unwrap()
    }

    #[test]
    fn a_link_in_the_place_of_the_directory_is_not_followed() {
        let (state, elsewhere) = (tempdir().unwrap(), tempdir().unwrap());
        let stones = Tombstones::of(state.path());
        std::os::unix::fs::symlink(elsewhere.path(), state.path().join(DIR)).unwrap();
        let error = stones.leave(&tombstone("a")).unwrap_err();
        assert!(error.raw_os_error().is_some_and(|no| [libc::ELOOP, libc::ENOTDIR].contains(&no)));
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
        fs::remove_file(state.path().join(DIR)).unwrap();
        stones.leave(&tombstone("a")).unwrap();
        assert_eq!(stones.read().unwrap().good.len(), 1);
    }

    #[test]
    fn what_was_left_is_found_once_however_often_it_was_left() {
        let dir = tempdir().unwrap();
        let stones = Tombstones::of(&dir.path().join("not/there"));
        assert_eq!(stones.read().unwrap().good, []);
        let (one, two) = (tombstone("a"), tombstone("b"));
        for stone in [&one, &two, &one] {
            stones.leave(stone).unwrap();
        }
        let mut found = stones.read().unwrap().good;
        found.sort_by(|a, b| a.1.key.cmp(&b.1.key));
        assert_eq!(found.iter().map(|(_, stone)| stone).collect::<Vec<_>>(), [&one, &two]);
        stones.remove(&found[0].0);
        stones.remove(&found[0].0);
        assert_eq!(stones.read().unwrap().good.len(), 1);
        stones.remove_all().unwrap();
        stones.remove_all().unwrap();
        assert_eq!(stones.read().unwrap().good, []);
    }

    #[test]
    fn what_is_no_tombstone_is_told_with_its_reason() {
        let dir = tempdir().unwrap();
        let stones = Tombstones::of(dir.path());
        stones.leave(&tombstone("a")).unwrap();
        let whole = fs::read(&stones.read().unwrap().good[0].0).unwrap();
        let place = |name: &str| dir.path().join(DIR).join(name);
        fs::write(place("half.json"), &whole[..whole.len() / 2]).unwrap();
        fs::write(place("long.json"), vec![b' '; 5000]).unwrap();
        let evil = String::from_utf8(whole).unwrap().replace("\"a\"", "\"../a\"");
        fs::write(place("evil.json"), evil).unwrap();
        // One that is still being written is not looked at.
        fs::write(place("aside.4711"), "{").unwrap();
        // As a disk that fails: it may be one, and is not to be removed.
        fs::create_dir(place("unreadable.json")).unwrap();
        let Found { good, bad, unread } = stones.read().unwrap();
        assert_eq!((good.len(), bad.len(), unread.len()), (1, 3, 1));
    }
}
