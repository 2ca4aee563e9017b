//! What an attachment is known by.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::device::spec::is_valid_ifname;

/// The longest name of a network or container that is taken. Kubernetes' are 64 bytes.
const MAX: usize = 256;

/// What tells an attachment from all others: a container has each interface once in a network (CNI
/// specification, section 1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The name of the network configuration.
    pub network: String,
    /// The container's ID (`CNI_CONTAINERID`).
    pub container: String,
    /// The interface's name in the container (`CNI_IFNAME`).
    pub ifname: String,
}

/// What is wrong with a key, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// As the CNI specification writes names and IDs.
    #[error(
        "\"{text}\" is no {what}: a letter or digit, then letters, digits, '_', '.' and '-' (256 at most)"
    )]
    Name {
        /// Which part.
        what: &'static str,
        /// What was given, shortened.
        text: String,
    },
    /// As the kernel takes it.
    #[error("\"{0}\" is no name of an interface (1 to 15 bytes, no space, slash, colon or %)")]
    Ifname(String),
}

impl Key {
    /// The key, if each part of it is well-formed. Part of the text may become part of a file name.
    ///
    /// # Errors
    ///
    /// The first part that is not.
    pub fn check(&self) -> Result<(), KeyError> {
        Self::check_network(&self.network)?;
        Self::check_container(&self.container)?;
        if is_valid_ifname(&self.ifname) {
            Ok(())
        } else {
            Err(KeyError::Ifname(shorten(&self.ifname)))
        }
    }

    /// Whether a text is the name of a network, of as many bytes as are taken.
    ///
    /// # Errors
    ///
    /// If it is not.
    pub fn check_network(text: &str) -> Result<(), KeyError> {
        check_name("name of a network", text)
    }

    /// Whether a text is a container's ID, of as many bytes as are taken.
    ///
    /// # Errors
    ///
    /// If it is not.
    pub fn check_container(text: &str) -> Result<(), KeyError> {
        check_name("container ID", text)
    }

    /// The name of its port: what an operator recognises of the container, and a hash of the whole.
    #[must_use]
    pub fn port_name(&self) -> String {
        let container: String = self.container.chars().take(12).collect();
        format!("{container}-{}-{:08x}", self.safe_ifname(), self.hash() >> 32)
    }

    /// A name that no other attachment's file has.
    #[must_use]
    pub fn file_stem(&self) -> String {
        format!("{}-{:016x}", self.port_name(), self.hash())
    }

    /// A device's name may have characters that a port's may not.
    fn safe_ifname(&self) -> String {
        let safe = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' };
        self.ifname.chars().map(safe).collect()
    }

    /// FNV-1a, finished by a mix: the same in each release, since ports are found by it.
    fn hash(&self) -> u64 {
        let parts = [&self.network, &self.container, &self.ifname];
        let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mixed = (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 32)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, container, ifname } = self;
        write!(out, "interface {ifname} of container {container} in network {network}")
    }
}

/// Whether a text is a name or ID as the CNI specification has them: `[a-zA-Z0-9][a-zA-Z0-9_.\-]*`.
fn check_name(what: &'static str, text: &str) -> Result<(), KeyError> {
    let follows = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let good = text.len() <= MAX
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(follows);
    if good { Ok(()) } else { Err(KeyError::Name { what, text: shorten(text) }) }
}

fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(64).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Name;

    fn key(network: &str, container: &str, ifname: &str) -> Key {
        let [network, container, ifname] = [network, container, ifname].map(str::to_owned);
        Key { network, container, ifname }
    }

    #[test]
    fn parts_are_as_the_specification_has_them() {
        assert_eq!(key("pods", "a1b2", "eth0").check(), Ok(()));
        assert_eq!(key("k8s-pod.net_1", &"f".repeat(256), "a").check(), Ok(()));
        for bad in ["", "-a", ".", "..", "a/b", "a b", "ä", "a\0", "../x", &"a".repeat(257)] {
            assert!(key(bad, "c", "eth0").check().is_err(), "network {bad:?}");
            assert!(key("n", bad, "eth0").check().is_err(), "container {bad:?}");
        }
        for bad in ["", "..", "a/b", "sixteen_bytes_16", "a b"] {
            assert!(key("n", "c", bad).check().is_err(), "interface {bad:?}");
        }
    }

    #[test]
    fn port_names_are_names_stable_and_apart() {
        let one = key("pods", &"a".repeat(64), "eth0");
        assert_eq!(one.port_name(), "aaaaaaaaaaaa-eth0-7a95975f");
        let others = [
            key("pods", &"a".repeat(64), "eth1"),
            key("pods", &"a".repeat(63), "eth0"),
            key("podsa", &"a".repeat(63), "eth0"),
            key("pod", &"a".repeat(64), "eth@-,\"0"),
        ];
        for other in &others {
            assert_ne!(other.port_name(), one.port_name());
            assert!(Name::new(&other.port_name()).is_ok() && Name::new(&other.file_stem()).is_ok());
        }
    }
}
