//! The cluster as it was last known, on disk: what a node forwards by when it starts and the store
//! cannot be asked.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config::{Cluster, Store};

use super::membership::Memory;
use super::model::{Exception, Node};
use super::store::Own;
use crate::durable::{self, FileError, PutAside, ReadError};

/// The file in the state directory.
pub const FILE: &str = "cluster.json";
const VERSION: u32 = 1;
/// More than 100,000 nodes' worth.
const MAX_LEN: u64 = 64 << 20;

/// Where the last good state of one cluster, as one node knows it, is kept.
#[derive(Clone, Debug)]
pub struct LastGood {
    dir: PathBuf,
    conflist: Option<PathBuf>,
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
    /// Where the CNI configuration was put: who is in no cluster any more has it from here.
    #[serde(default)]
    conflist: Option<PathBuf>,
    cluster: Option<String>,
    answered_ms: Option<u64>,
    nodes: Vec<Keyed>,
    generations: Vec<Exception>,
}

#[derive(Serialize, Deserialize)]
struct Keyed {
    key: String,
    node: Arc<Node>,
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
        Self { dir: dir.to_owned(), conflist: config.conflist.clone(), belongs }
    }

    /// What was kept; `None` if there is nothing. What is of no use is renamed to
    /// `cluster.json.bad`, and reported.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or a useless one cannot be put aside.
    pub fn load(&self) -> Result<(Option<Memory>, Option<PutAside>), FileError> {
        let path = self.dir.join(FILE);
        let read = durable::read(&path, MAX_LEN).and_then(|text| {
            text.map(|text| self.parse(&text)).transpose().map_err(ReadError::Useless)
        });
        durable::or_put_aside(&path, read)
    }

    fn parse(&self, text: &[u8]) -> Result<Memory, String> {
        let content: Content = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if content.version != VERSION {
            return Err(format!("version {}, not {VERSION}", content.version));
        }
        self.belongs.compare(&content.belongs)?;
        let generation = |exception: &Exception| (exception.net, exception.generation);
        Ok(Memory {
            cluster: content.cluster,
            nodes: content.nodes.into_iter().map(|keyed| (keyed.key, keyed.node)).collect(),
            generations: content.generations.iter().map(generation).collect(),
            answered_ms: content.answered_ms,
        })
    }

    /// Keeps a state in place of the one before it: either of them is there whole whenever this is
    /// interrupted. Blocks until it is on disk.
    ///
    /// # Errors
    ///
    /// If it cannot be written; what was there before stays.
    pub fn save(&self, memory: Memory) -> Result<(), FileError> {
        let path = self.dir.join(FILE);
        let generations = memory.generations.into_iter();
        let content = Content {
            version: VERSION,
            belongs: self.belongs.clone(),
            conflist: self.conflist.clone(),
            cluster: memory.cluster,
            answered_ms: memory.answered_ms,
            nodes: memory.nodes.into_iter().map(|(key, node)| Keyed { key, node }).collect(),
            generations: generations
                .map(|(net, generation)| Exception { net, generation })
                .collect(),
        };
        match serde_json::to_vec(&content) {
            Ok(text) => durable::replace(&path, &text, 0o600),
            Err(error) => Err(FileError { path, step: "encode", source: error.into() }),
        }
    }

    /// Whether anything was kept there, of whatever cluster.
    #[must_use]
    pub fn is_in(dir: &Path) -> bool {
        dir.join(FILE).exists()
    }

    /// Where the CNI configuration of the cluster was put whose state was kept, as far as that can be
    /// told.
    #[must_use]
    pub fn conflist_of(dir: &Path) -> Option<PathBuf> {
        let text = durable::read(&dir.join(FILE), MAX_LEN).ok().flatten()?;
        serde_json::from_slice::<Content>(&text).ok()?.conflist
    }

    /// Forgets what was kept.
    ///
    /// # Errors
    ///
    /// If it cannot be removed.
    pub fn remove(dir: &Path) -> Result<(), FileError> {
        durable::remove(&dir.join(FILE)).map(drop)
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
