//! What an address pool remembers over a restart, on disk: which addresses rest, and where the search
//! for a free one goes on. The journal says which are held; a file that is lost costs their rest only.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::durable::{self, FileError, PutAside, ReadError};

const FILE: &str = "addresses.json";
const VERSION: u32 = 1;
/// More than 100,000 addresses' worth.
const MAX_LEN: u64 = 8 << 20;

/// What outlives the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rests {
    /// The index at which the search begins.
    pub cursor: u32,
    /// Until when each address rests, in milliseconds since the Unix epoch.
    pub resting: BTreeMap<IpAddr, u64>,
}

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    #[serde(flatten)]
    rests: Rests,
}

/// Where that is kept.
#[derive(Clone, Debug)]
pub struct RestsFile(PathBuf);

impl RestsFile {
    /// The file of this state directory.
    #[must_use]
    pub fn of(state_dir: &Path) -> Self {
        Self(state_dir.join(FILE))
    }

    /// What was kept; nothing, if there is no file. One that is of no use is put aside and reported.
    ///
    /// # Errors
    ///
    /// If there is a file that cannot be read, or put aside.
    pub fn load(&self) -> Result<(Rests, Option<PutAside>), FileError> {
        let read = durable::read(&self.0, MAX_LEN).and_then(|text| match text {
            None => Ok(Rests::default()),
            Some(text) => parse(&text).map_err(ReadError::Useless),
        });
        durable::or_put_aside(&self.0, read)
    }

    /// Keeps this in place of what was kept before. Blocks until it is on disk.
    ///
    /// # Errors
    ///
    /// If it cannot be written; what was there before stays.
    pub fn save(&self, rests: Rests) -> Result<(), FileError> {
        match serde_json::to_vec(&Content { version: VERSION, rests }) {
            Ok(text) => durable::replace(&self.0, &text, 0o600),
            Err(error) => {
                Err(FileError { path: self.0.clone(), step: "encode", source: error.into() })
            }
        }
    }

    /// Forgets what was kept.
    ///
    /// # Errors
    ///
    /// If it cannot be removed.
    pub fn remove(&self) -> Result<(), FileError> {
        durable::remove(&self.0).map(drop)
    }
}

fn parse(text: &[u8]) -> Result<Rests, String> {
    let content: Content = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if content.version == VERSION {
        Ok(content.rests)
    } else {
        Err(format!("version {}, not {VERSION}", content.version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::tempdir;

    #[test]
    fn what_was_kept_is_there_again_and_what_is_of_no_use_is_put_aside() {
        let dir = tempdir().unwrap();
        let file = RestsFile::of(&dir.path().join("not/there"));
        assert_eq!(file.load().unwrap(), (Rests::default(), None));
        let resting = ["10.244.1.7", "fd00::7"].map(|text| (text.parse().unwrap(), 1_000));
        let rests = Rests { cursor: 8, resting: resting.into() };
        file.save(rests.clone()).unwrap();
        assert_eq!(file.load().unwrap(), (rests, None));
        for text in ["", "{}", r#"{"version":2,"cursor":1,"resting":{}}"#] {
            std::fs::write(&file.0, text).unwrap();
            let (rests, aside) = file.load().unwrap();
            assert_eq!((rests, aside.is_some()), (Rests::default(), true), "{text}");
        }
        file.remove().unwrap();
        // Not even root can read a directory as a file.
        std::fs::create_dir(&file.0).unwrap();
        assert_eq!(file.load().unwrap_err().step, "read");
        assert!(file.0.is_dir());
    }
}
