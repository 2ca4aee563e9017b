//! What outlives the process. Files: each is there whole, as it was or as it is to be, whenever a
//! write of it is interrupted.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A file cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("{}: {step}: {source}", path.display())]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// What was tried.
    pub step: &'static str,
    /// Why it failed.
    pub source: io::Error,
}

/// A file that is of no use was put aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutAside {
    /// Where it is now.
    pub path: PathBuf,
    /// What was wrong with it.
    pub reason: String,
}

/// Why a file has nothing to offer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is there, and cannot be read: what is in it may be worth everything.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It can be read, and is of no use, whatever is tried.
    #[error("{0}")]
    Useless(String),
}

/// Puts a text in place of whatever is in the file, with these permissions, whatever the umask. Its
/// directory is made where there is none. Blocks until it is on disk.
///
/// # Errors
///
/// If it cannot be written; what was there before stays.
pub fn replace(path: &Path, text: &[u8], mode: u32) -> Result<(), FileError> {
    replace_by(&beside(path, "tmp"), path, text, mode)
}

/// As [`replace`], with the file named that the text is written to first, in the same directory:
/// where several processes may write one file at a time, each needs another.
///
/// # Errors
///
/// As [`replace`].
pub fn replace_by(aside: &Path, path: &Path, text: &[u8], mode: u32) -> Result<(), FileError> {
    let written = write(aside, path, text, mode);
    if written.is_err() {
        // What of it was written is of no use, and nobody would look for it.
        let _ = fs::remove_file(aside);
    }
    written.map_err(|(step, source)| FileError { path: path.to_owned(), step, source })
}

fn write(
    aside: &Path,
    path: &Path,
    text: &[u8],
    mode: u32,
) -> Result<(), (&'static str, io::Error)> {
    let step = |step| move |error: io::Error| (step, error);
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir).map_err(step("create its directory"))?;
    // What an earlier process left half-written is not followed if it has become a link; if it
    // cannot be removed, it cannot be created either, and that is told.
    let _ = fs::remove_file(aside);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    let mut file = options.open(aside).map_err(step("create"))?;
    file.set_permissions(Permissions::from_mode(mode)).map_err(step("set its permissions"))?;
    file.write_all(text).map_err(step("write"))?;
    file.sync_all().map_err(step("flush"))?;
    fs::rename(aside, path).map_err(step("rename"))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(step("flush its directory"))
}

/// What is in a file of at most `max` bytes; `None`: there is no file.
///
/// # Errors
///
/// If it cannot be read, or is longer.
pub fn read(path: &Path, max: u64) -> Result<Option<Vec<u8>>, ReadError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut text = Vec::new();
    file.take(max.saturating_add(1)).read_to_end(&mut text)?;
    if u64::try_from(text.len()).is_ok_and(|length| length <= max) {
        Ok(Some(text))
    } else {
        Err(ReadError::Useless(format!("longer than {max} bytes")))
    }
}

/// What was read from a file, or nothing in place of what is of no use, which is put aside.
///
/// # Errors
///
/// If the file could not be read: it stays where it is, and whoever went on without it would write
/// over it. Also if it cannot be put aside.
pub fn or_put_aside<T: Default>(
    path: &Path,
    read: Result<T, ReadError>,
) -> Result<(T, Option<PutAside>), FileError> {
    match read {
        Ok(read) => Ok((read, None)),
        Err(ReadError::Useless(reason)) => Ok((T::default(), Some(put_aside(path, reason)?))),
        Err(ReadError::Io(source)) => {
            Err(FileError { path: path.to_owned(), step: "read", source })
        }
    }
}

/// Renames a file that is of no use to its name with `.bad` behind it.
///
/// # Errors
///
/// If that cannot be done: whoever goes on would write over it.
pub fn put_aside(path: &Path, reason: String) -> Result<PutAside, FileError> {
    let bad = beside(path, "bad");
    match fs::rename(path, &bad) {
        Ok(()) => Ok(PutAside { path: bad, reason }),
        Err(source) => Err(FileError { path: path.to_owned(), step: "put aside", source }),
    }
}

/// Removes a file. Returns whether it was there.
///
/// # Errors
///
/// If it is there and cannot be removed.
pub fn remove(path: &Path) -> Result<bool, FileError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(FileError { path: path.to_owned(), step: "remove", source }),
    }
}

/// Now, in milliseconds since the Unix epoch: for what is compared after a restart or elsewhere, where
/// a clock that never goes back means nothing.
#[must_use]
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The file with a further ending. It is in the same directory, since only then it can be renamed.
#[must_use]
pub fn beside(path: &Path, ending: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{name}.{ending}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("not/yet/there/file.json");
        assert_eq!(read(&path, 9).unwrap(), None);
        for (text, mode) in [("one", 0o600), ("two", 0o644)] {
            replace(&path, text.as_bytes(), mode).unwrap();
            assert_eq!(read(&path, 3).unwrap(), Some(text.into()));
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
        }
        let longer = read(&path, 2).unwrap_err();
        assert!(matches!(&longer, ReadError::Useless(why) if why == "longer than 2 bytes"));
        assert_eq!(names(path.parent().unwrap()), ["file.json"]);
        assert!(remove(&path).unwrap() && !remove(&path).unwrap());
    }

    #[test]
    fn what_a_crash_left_is_neither_in_the_way_nor_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("file"), dir.path().join("other"));
        fs::write(&other, "not ours").unwrap();
        std::os::unix::fs::symlink(&other, beside(&path, "tmp")).unwrap();
        replace(&path, b"ours", 0o600).unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "not ours");
        assert_eq!(fs::read_to_string(&path).unwrap(), "ours");
    }

    #[test]
    fn what_cannot_be_written_is_told_and_what_was_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        replace(&path, b"before", 0o600).unwrap();
        fs::create_dir(beside(&path, "tmp")).unwrap();
        let error = replace(&path, b"after", 0o600).unwrap_err();
        assert_eq!((error.step, error.path.as_path()), ("create", path.as_path()));
        assert_eq!(fs::read_to_string(&path).unwrap(), "before");
        let aside = put_aside(&path, "no use".to_owned()).unwrap();
        assert_eq!((aside.path, aside.reason.as_str()), (beside(&path, "bad"), "no use"));
        assert_eq!(names(dir.path()), ["file.bad", "file.tmp"]);
        assert_eq!(put_aside(&path, String::new()).unwrap_err().step, "put aside");
    }

    #[test]
    fn what_cannot_be_read_is_not_put_aside_and_what_is_of_no_use_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        // Not even root can read a directory as a file: EISDIR, as it might be EIO.
        fs::create_dir(&path).unwrap();
        let outcome = or_put_aside(&path, read(&path, 9)).unwrap_err();
        assert_eq!((outcome.step, outcome.path.as_path()), ("read", path.as_path()));
        assert_eq!(names(dir.path()), ["file"]);
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "0123456789").unwrap();
        let (nothing, aside) = or_put_aside(&path, read(&path, 9)).unwrap();
        assert_eq!((nothing, aside.unwrap().path), (None, beside(&path, "bad")));
    }
}
