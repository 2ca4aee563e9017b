//! A map for one look-up per frame.

use core::hash::{Hash, Hasher};
use std::net::IpAddr;

/// An address as a key. The standard library hashes one in four steps, this in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address(pub(crate) IpAddr);

impl Hash for Address {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self.0 {
            IpAddr::V4(address) => state.write_u32(address.to_bits()),
            IpAddr::V6(address) => state.write_u128(address.to_bits()),
        }
    }
}

/// A hash map that is asked by key and never iterated: its order would differ from run to run.
#[derive(Clone, Debug)]
pub(crate) struct Index<K, V>(foldhash::HashMap<K, V>);

impl<K, V> Default for Index<K, V> {
    fn default() -> Self {
        Self(foldhash::HashMap::default())
    }
}

impl<K: Eq + Hash, V: Copy> Index<K, V> {
    #[inline]
    pub(crate) fn get(&self, key: &K) -> Option<V> {
        self.0.get(key).copied()
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.0.insert(key, value);
    }

    pub(crate) fn remove(&mut self, key: &K) {
        self.0.remove(key);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
