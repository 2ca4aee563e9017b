//! What was made, on disk, so that the next start can adopt it and `teardown` can remove it.
//!
//! The file is replaced whole (written aside, flushed, renamed, directory flushed): it is always
//! either the old or the new one. A file that makes no sense is put aside and reported; ports are
//! then told from what stands by the configuration alone. One that cannot be read stays where it is.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use encap::MacAddr;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::adopt::Expectation;
use super::netlink::Route;
use super::netns::NetnsIdentity;
use super::spec::{Facts, Standing, TapSpec};
use crate::durable::{self, FileError, PutAside, ReadError};

const FILE: &str = "ports.json";
const VERSION: u32 = 1;

/// A journal larger than this is no journal: 1,000 ports fill about a megabyte.
const MAX_LEN: u64 = 64 * 1024 * 1024;

/// Who asked for a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The configuration file.
    Config,
    /// The control socket.
    Api,
    /// The CNI plugin.
    Cni,
}

/// The namespace a device was made in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetnsRecord {
    /// The name or path, as it was given.
    pub name: String,
    /// Its identity then.
    pub identity: NetnsIdentity,
}

/// What was made for one port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Who asked for it.
    pub origin: Origin,
    /// The device's name.
    pub ifname: String,
    /// Its namespace; `None`: the daemon's own.
    pub netns: Option<NetnsRecord>,
    /// The boot it was made in: no device outlives it.
    pub boot_id: String,
    /// Its index in its namespace.
    pub ifindex: u32,
    /// Its MAC address.
    #[serde(with = "mac_text")]
    pub mac: MacAddr,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// How many queues it was given.
    pub queues: u16,
    /// The uid it belongs to.
    pub owner: u32,
    /// The addresses it was given, the link-local one included.
    pub addresses: Vec<IpNet>,
    /// The routes it was given.
    pub routes: Vec<Route>,
    /// The permanent neighbours it was given.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "neighbours_text")]
    pub neighbours: Vec<(IpAddr, MacAddr)>,
    /// What was asked for, in the words of who asked: an API-made port is restored from it.
    pub spec: serde_json::Value,
}

impl Entry {
    /// The record of a device that was just made, adopted or configured.
    #[must_use]
    pub fn new(
        origin: Origin,
        spec: &TapSpec,
        facts: &Facts,
        boot_id: &str,
        asked: serde_json::Value,
    ) -> Self {
        let standing = Standing::from(spec);
        let record = |netns: &super::spec::NetnsRef| NetnsRecord {
            name: netns.0.clone(),
            identity: facts.netns,
        };
        Self {
            origin,
            ifname: facts.ifname.clone(),
            netns: spec.netns.as_ref().map(record),
            boot_id: boot_id.to_owned(),
            ifindex: facts.ifindex,
            mac: facts.mac,
            mtu: facts.mtu,
            queues: spec.queues,
            owner: spec.owner,
            addresses: standing.addresses,
            routes: standing.routes,
            neighbours: standing.neighbours,
            spec: asked,
        }
    }

    /// What a device must be to be this one.
    #[must_use]
    pub fn expectation(&self) -> Expectation {
        let netns = self.netns.as_ref().map(|netns| netns.identity);
        // Without a recorded identity an index says nothing: the daemon's own namespace may be
        // another one now.
        let ifindex = netns.map(|_| self.ifindex);
        Expectation { mac: self.mac, owner: self.owner, netns, ifindex }
    }

    /// What may be taken from the device again.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing {
            addresses: self.addresses.clone(),
            routes: self.routes.clone(),
            neighbours: self.neighbours.clone(),
        }
    }
}

mod mac_text {
    use encap::MacAddr;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(mac: &MacAddr, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(mac)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<MacAddr, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// As a list of pairs: `["169.254.1.1", "0e:00:00:00:00:01"]`.
mod neighbours_text {
    use std::net::IpAddr;

    use encap::MacAddr;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(
        neighbours: &[(IpAddr, MacAddr)],
        out: S,
    ) -> Result<S::Ok, S::Error> {
        out.collect_seq(neighbours.iter().map(|(address, mac)| (address, mac.to_string())))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<(IpAddr, MacAddr)>, D::Error> {
        let pairs = Vec::<(IpAddr, String)>::deserialize(from)?;
        let read = |(address, mac): (IpAddr, String)| {
            Ok((address, mac.parse().map_err(D::Error::custom)?))
        };
        pairs.into_iter().map(read).collect()
    }
}

#[derive(Serialize)]
struct Outgoing<'a> {
    version: u32,
    ports: &'a BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Incoming {
    version: u32,
    ports: BTreeMap<String, Entry>,
}

/// What was made for each port, by the port's name. What is in memory is on disk.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    ports: BTreeMap<String, Entry>,
}

impl Journal {
    /// Opens the journal in a state directory, which is made if it is not there. A journal that is
    /// not there is empty; one that makes no sense is renamed to `ports.json.bad` and reported.
    ///
    /// # Errors
    ///
    /// If the directory cannot be made, the journal cannot be read, or a bad one cannot be put aside.
    pub fn open(dir: &Path) -> Result<(Self, Option<PutAside>), FileError> {
        let path = dir.join(FILE);
        fs::create_dir_all(dir).map_err(|source| FileError {
            path: path.clone(),
            step: "create its directory",
            source,
        })?;
        let (ports, put_aside) = durable::or_put_aside(&path, read(&path))?;
        Ok((Self { dir: dir.to_owned(), ports }, put_aside))
    }

    /// What was made for a port.
    #[must_use]
    pub fn get(&self, port: &str) -> Option<&Entry> {
        self.ports.get(port)
    }

    /// All ports, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.ports.iter().map(|(port, entry)| (port.as_str(), entry))
    }

    /// How many ports there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ports.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    /// Records what was made for a port, in place of what was there.
    ///
    /// # Errors
    ///
    /// If it cannot be written; the journal is then as before, in memory and on disk.
    pub fn insert(&mut self, port: &str, entry: Entry) -> Result<(), FileError> {
        self.insert_all([(port.to_owned(), entry)])
    }

    /// Records several ports with one write.
    ///
    /// # Errors
    ///
    /// As [`Self::insert`].
    pub fn insert_all(
        &mut self,
        entries: impl IntoIterator<Item = (String, Entry)>,
    ) -> Result<(), FileError> {
        let mut before = Vec::new();
        for (port, entry) in entries {
            if self.ports.get(&port) != Some(&entry) {
                before.push((port.clone(), self.ports.insert(port, entry)));
            }
        }
        if before.is_empty() {
            return Ok(());
        }
        let saved = self.save();
        if saved.is_err() {
            // The last one first: an entry may have been replaced twice.
            for (port, entry) in before.into_iter().rev() {
                match entry {
                    Some(entry) => self.ports.insert(port, entry),
                    None => self.ports.remove(&port),
                };
            }
        }
        saved
    }

    /// Forgets a port, and returns what was recorded of it.
    ///
    /// # Errors
    ///
    /// If that cannot be written. The port is forgotten in memory even so, because its device is
    /// gone: the next write that succeeds says so on disk, too.
    pub fn remove(&mut self, port: &str) -> Result<Option<Entry>, FileError> {
        let Some(entry) = self.ports.remove(port) else {
            return Ok(None);
        };
        self.save()?;
        Ok(Some(entry))
    }

    /// Forgets several ports with one write.
    ///
    /// # Errors
    ///
    /// As [`Self::remove`].
    pub fn remove_all<'p>(
        &mut self,
        ports: impl IntoIterator<Item = &'p str>,
    ) -> Result<(), FileError> {
        let before = self.ports.len();
        for port in ports {
            self.ports.remove(port);
        }
        if self.ports.len() == before { Ok(()) } else { self.save() }
    }

    fn save(&self) -> Result<(), FileError> {
        let path = self.dir.join(FILE);
        match serde_json::to_vec(&Outgoing { version: VERSION, ports: &self.ports }) {
            Ok(text) => durable::replace(&path, &text, 0o600),
            Err(error) => Err(FileError { path, step: "encode", source: error.into() }),
        }
    }
}

/// What is on disk, or what is wrong with it.
fn read(path: &Path) -> Result<BTreeMap<String, Entry>, ReadError> {
    let Some(text) = durable::read(path, MAX_LEN)? else { return Ok(BTreeMap::new()) };
    let incoming: Incoming =
        serde_json::from_slice(&text).map_err(|error| ReadError::Useless(error.to_string()))?;
    if incoming.version != VERSION {
        return Err(ReadError::Useless(format!("version {}, not {VERSION}", incoming.version)));
    }
    Ok(incoming.ports)
}

/// The identity of this boot (proc(5), random/boot_id).
///
/// # Errors
///
/// If /proc is not readable.
pub fn boot_id() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::tempdir;

    fn entry(ifname: &str) -> Entry {
        Entry {
            origin: Origin::Api,
            ifname: ifname.to_owned(),
            netns: Some(NetnsRecord {
                name: "pod-a".to_owned(),
                identity: NetnsIdentity { dev: 4, ino: 4_026_532_999 },
            }),
            boot_id: "b".to_owned(),
            ifindex: 7,
            mac: "02:00:00:00:0a:01".parse().unwrap(),
            mtu: 1450,
            queues: 2,
            owner: 0,
            addresses: vec!["10.9.0.1/24".parse().unwrap(), "fe80::1/64".parse().unwrap()],
            routes: vec![Route::new("0.0.0.0/0".parse().unwrap(), Some([10, 9, 0, 254].into()))],
            neighbours: vec![([169, 254, 1, 1].into(), MacAddr([14, 0, 0, 0, 0, 1]))],
            spec: serde_json::json!({ "segment": "blue", "nested": [1, null] }),
        }
    }

    #[test]
    fn what_was_inserted_is_there_after_opening_again() {
        let dir = tempdir().unwrap();
        let state = dir.path().join("not/yet/there");
        let (mut journal, bad) = Journal::open(&state).unwrap();
        assert!(bad.is_none() && journal.is_empty());
        journal.insert("a", entry("tap-a")).unwrap();
        journal.insert_all([("b".to_owned(), entry("tap-b"))]).unwrap();
        journal.insert("a", entry("tap-z")).unwrap();
        assert_eq!(journal.remove("nobody").unwrap(), None);
        let (mut journal, bad) = Journal::open(&state).unwrap();
        assert_eq!(bad, None);
        assert_eq!(journal.get("a"), Some(&entry("tap-z")));
        assert_eq!(journal.iter().map(|(port, _)| port).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(journal.remove("b").unwrap(), Some(entry("tap-b")));
        assert_eq!(Journal::open(&state).unwrap().0.len(), 1);
        journal.insert_all(["c", "d"].map(|port| (port.to_owned(), entry(port)))).unwrap();
        journal.remove_all(["a", "c", "nobody"]).unwrap();
        let (journal, _) = Journal::open(&state).unwrap();
        assert_eq!(journal.iter().map(|(port, _)| port).collect::<Vec<_>>(), ["d"]);
    }

    #[test]
    fn a_file_cut_at_any_byte_is_put_aside() {
        let dir = tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path()).unwrap();
        journal.insert("a", entry("tap-a")).unwrap();
        let path = dir.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let (journal, bad) = Journal::open(dir.path()).unwrap();
            let bad = bad.unwrap_or_else(|| panic!("cut at {length} was taken"));
            assert!(journal.is_empty() && !bad.reason.is_empty() && !path.exists());
            assert_eq!(fs::read(&bad.path).unwrap(), &whole[..length]);
        }
    }

    #[test]
    fn nonsense_is_put_aside_with_its_reason() {
        let dir = tempdir().unwrap();
        let path = dir.path().join(FILE);
        for (text, reason) in [
            ("{\"version\":2,\"ports\":{}}", "version 2"),
            ("[]", "invalid"),
            ("{\"version\":1,\"ports\":{\"a\":{}}}", "missing field"),
            ("\u{0}\u{0}", "expected value"),
        ] {
            fs::write(&path, text).unwrap();
            let (mut journal, bad) = Journal::open(dir.path()).unwrap();
            assert!(bad.as_ref().is_some_and(|bad| bad.reason.contains(reason)), "{bad:?}");
            journal.insert("a", entry("tap-a")).unwrap();
            assert_eq!(Journal::open(dir.path()).unwrap().1, None);
        }
    }

    #[test]
    fn what_cannot_be_written_is_not_remembered_but_what_cannot_be_erased_is_forgotten() {
        let dir = tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path()).unwrap();
        journal.insert("a", entry("tap-a")).unwrap();
        // A directory in the place of the file to be written: as good as a full disk, for root too.
        let aside = dir.path().join("ports.json.tmp");
        fs::create_dir(&aside).unwrap();
        let error = journal.insert("b", entry("tap-b")).unwrap_err();
        assert_eq!(error.step, "create");
        assert_eq!(journal.get("b"), None);
        let twice = ["tap-x", "tap-y"].map(|ifname| ("a".to_owned(), entry(ifname)));
        journal.insert_all(twice).unwrap_err();
        assert_eq!(journal.get("a"), Some(&entry("tap-a")));
        assert!(journal.remove("a").is_err());
        assert_eq!(journal.get("a"), None);
        fs::remove_dir(&aside).unwrap();
        assert_eq!(Journal::open(dir.path()).unwrap().0.len(), 1);
        journal.insert("c", entry("tap-c")).unwrap();
        let (journal, _) = Journal::open(dir.path()).unwrap();
        assert_eq!(journal.iter().map(|(port, _)| port).collect::<Vec<_>>(), ["c"]);
    }

    /// Written by the version before permanent neighbours and preferred sources.
    #[test]
    fn an_older_file_still_reads() {
        let dir = tempdir().unwrap();
        let text = r#"{"version":1,"ports":{"a":{"origin":"api","ifname":"tap-a",
            "netns":{"name":"pod-a","identity":{"dev":4,"ino":4026532999}},"boot_id":"b",
            "ifindex":7,"mac":"02:00:00:00:0a:01","mtu":1450,"queues":2,"owner":0,
            "addresses":["10.9.0.1/24","fe80::1/64"],
            "routes":[{"to":"0.0.0.0/0","via":"10.9.0.254"}],
            "spec":{"segment":"blue","nested":[1,null]}}}}"#;
        fs::write(dir.path().join(FILE), text).unwrap();
        let (journal, bad) = Journal::open(dir.path()).unwrap();
        assert_eq!(bad, None);
        let mut expected = entry("tap-a");
        expected.neighbours.clear();
        assert_eq!(journal.get("a"), Some(&expected));
    }

    #[test]
    fn an_index_counts_only_together_with_its_namespace() {
        let mut own = entry("tap-a");
        assert_eq!(own.expectation().ifindex, Some(7));
        own.netns = None;
        assert_eq!(own.expectation().ifindex, None);
    }

    #[test]
    fn this_boot_has_an_identity() {
        assert_eq!(boot_id().unwrap().len(), 36);
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
    }
}
