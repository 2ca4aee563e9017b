//! The identity of this machine: made up once, kept in the state directory.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use crate::durable;

/// The file in the state directory.
pub const FILE: &str = "node-id";
/// Where the kernel makes up random UUIDs (random(4)).
const SOURCE: &str = "/proc/sys/kernel/random/uuid";

/// Reads the identity of this machine, or makes it up if there is none yet.
///
/// # Errors
///
/// If it can be neither read nor kept, or the file holds something else. It is not replaced then:
/// the podCIDRs that this machine holds are held under it.
pub fn load_or_create(dir: &Path) -> io::Result<String> {
    let path = dir.join(FILE);
    match File::open(&path) {
        Ok(file) => {
            let mut text = String::new();
            file.take(4096).read_to_string(&mut text)?;
            return parse(&text).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "holds no identity of a node")
            });
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Err(_) => {}
    }
    let uuid = random()?;
    durable::replace(&path, format!("{uuid}\n").as_bytes(), 0o600)
        .map_err(|error| io::Error::new(error.source.kind(), error))?;
    Ok(uuid)
}

/// A random UUID.
///
/// # Errors
///
/// If the kernel gives none.
pub fn random() -> io::Result<String> {
    let text = fs::read_to_string(SOURCE)?;
    parse(&text).ok_or_else(|| io::Error::other("the kernel gave no UUID"))
}

fn parse(text: &str) -> Option<String> {
    let text = text.trim();
    let is_uuid = text.len() == 36
        && text.char_indices().all(|(at, c)| match at {
            8 | 13 | 18 | 23 => c == '-',
            _ => c.is_ascii_hexdigit(),
        });
    is_uuid.then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::tempdir;

    #[test]
    fn an_identity_is_made_up_once() {
        let dir = tempdir().unwrap();
        let state = dir.path().join("not/yet/there");
        let first = load_or_create(&state).unwrap();
        assert_eq!(load_or_create(&state).unwrap(), first);
        assert_ne!(random().unwrap(), first);
        assert_ne!(load_or_create(dir.path()).unwrap(), first);
    }

    #[test]
    fn an_identity_that_is_none_is_not_replaced() {
        let dir = tempdir().unwrap();
        for text in ["", "node-a\n", "6f2ad6b0-6a1c-4b26-9d0e-c2c1e5a7b0g1"] {
            fs::write(dir.path().join(FILE), text).unwrap();
            assert_eq!(load_or_create(dir.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
            assert_eq!(fs::read_to_string(dir.path().join(FILE)).unwrap(), text);
        }
    }
}
