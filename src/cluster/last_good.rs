//! The cluster as it was last known, on disk: what a node forwards by when it starts and the store
//! cannot be asked.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config::{Cluster, Store};

use super::membership::Memory;
use super::model::{Exception, Node};
use super::store::Own;

/// The file in the state directory.
pub const FILE: &str = "cluster.json";
const VERSION: u32 = 1;
/// More than 100,000 nodes' worth.
const MAX_LEN: u64 = 64 << 20;

/// Where the last good state of one cluster, as one node knows it, is kept.
#[derive(Clone, Debug)]
pub struct LastGood {
    dir: PathBuf,
    belongs: Belongs,
}

/// Whose state a file holds. That of another node or cluster is worth nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Belongs {
    node: String,
    identity: String,
    networks: Vec<IpNet>,
    vni: u32,
    store: String,
}

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    #[serde(flatten)]
    belongs: Belongs,
    cluster: Option<String>,
    answered_ms: Option<u64>,
    nodes: Vec<Keyed>,
    generations: Vec<Exception>,
}

#[derive(Serialize, Deserialize)]
struct Keyed {
    key: String,
    node: Node,
}

/// The state cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("last good state of the cluster {}: {step}: {source}", path.display())]
pub struct LastGoodError {
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

impl LastGood {
    /// The place of the state of this node in this cluster, in a state directory.
    #[must_use]
    pub fn new(dir: &Path, config: &Cluster, own: &Own) -> Self {
        let store = match &config.store {
            Store::Static(_) => "static".to_owned(),
            Store::Etcd(etcd) => format!("etcd {}", etcd.prefix),
            Store::Kubernetes(_) => "kubernetes".to_owned(),
        };
        let belongs = Belongs {
            node: own.name.clone(),
            identity: own.identity.clone(),
            networks: config.networks.iter().map(|network| network.net).collect(),
            vni: config.vni.get(),
            store,
        };
        Self { dir: dir.to_owned(), belongs }
    }

    /// What was kept; `None` if there is nothing. What is of no use is renamed to
    /// `cluster.json.bad`, and reported.
    ///
    /// # Errors
    ///
    /// If a useless file cannot be put aside.
    pub fn load(&self) -> Result<(Option<Memory>, Option<PutAside>), LastGoodError> {
        let path = self.dir.join(FILE);
        match self.read(&path) {
            Ok(memory) => Ok((memory, None)),
            Err(reason) => {
                let bad = path.with_extension("json.bad");
                let renamed = fs::rename(&path, &bad);
                renamed.map_err(|source| LastGoodError { path, step: "put aside", source })?;
                Ok((None, Some(PutAside { path: bad, reason })))
            }
        }
    }

    fn read(&self, path: &Path) -> Result<Option<Memory>, String> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let mut text = Vec::new();
        file.take(MAX_LEN + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
        if text.len() as u64 > MAX_LEN {
            return Err(format!("larger than {MAX_LEN} bytes"));
        }
        let content: Content = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        if content.version != VERSION {
            return Err(format!("version {}, not {VERSION}", content.version));
        }
        self.belongs.compare(&content.belongs)?;
        let generation = |exception: &Exception| (exception.net, exception.generation);
        Ok(Some(Memory {
            cluster: content.cluster,
            nodes: content.nodes.into_iter().map(|keyed| (keyed.key, keyed.node)).collect(),
            generations: content.generations.iter().map(generation).collect(),
            answered_ms: content.answered_ms,
        }))
    }

    /// Keeps a state in place of the one before it: either of them is there whole whenever this is
    /// interrupted. Blocks until it is on disk.
    ///
    /// # Errors
    ///
    /// If it cannot be written; what was there before stays.
    pub fn save(&self, memory: Memory) -> Result<(), LastGoodError> {
        let path = self.dir.join(FILE);
        let aside = self.dir.join("cluster.json.tmp");
        let written = self.write(memory, &path, &aside);
        if written.is_err() {
            let _ = fs::remove_file(&aside);
        }
        written.map_err(|(step, source)| LastGoodError { path, step, source })
    }

    fn write(
        &self,
        memory: Memory,
        path: &Path,
        aside: &Path,
    ) -> Result<(), (&'static str, io::Error)> {
        let step = |step| move |error: io::Error| (step, error);
        let generations = memory.generations.into_iter();
        let content = Content {
            version: VERSION,
            belongs: self.belongs.clone(),
            cluster: memory.cluster,
            answered_ms: memory.answered_ms,
            nodes: memory.nodes.into_iter().map(|(key, node)| Keyed { key, node }).collect(),
            generations: generations
                .map(|(net, generation)| Exception { net, generation })
                .collect(),
        };
        let text = serde_json::to_vec(&content).map_err(|error| ("encode", error.into()))?;
        fs::create_dir_all(&self.dir).map_err(step("create its directory"))?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(aside).map_err(step("create"))?;
        file.write_all(&text).map_err(step("write"))?;
        file.sync_all().map_err(step("flush"))?;
        fs::rename(aside, path).map_err(step("rename"))?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(step("flush its directory"))
    }

    /// Forgets what was kept.
    ///
    /// # Errors
    ///
    /// If it cannot be removed.
    pub fn remove(dir: &Path) -> io::Result<()> {
        match fs::remove_file(dir.join(FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Belongs {
    fn compare(&self, file: &Self) -> Result<(), String> {
        let differs = |what: &str, theirs: &dyn std::fmt::Debug, ours: &dyn std::fmt::Debug| {
            Err(format!("it is of {what} {theirs:?}, and this is {ours:?}"))
        };
        if file.node != self.node {
            return differs("node", &file.node, &self.node);
        }
        if file.identity != self.identity {
            return differs("a node with the identity", &file.identity, &self.identity);
        }
        if file.networks != self.networks {
            return differs("a cluster with the networks", &file.networks, &self.networks);
        }
        if file.vni != self.vni {
            return differs("a cluster with VNI", &file.vni, &self.vni);
        }
        if file.store != self.store {
            return differs("a cluster in the store", &file.store, &self.store);
        }
        Ok(())
    }
}
