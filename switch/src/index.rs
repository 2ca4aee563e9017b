//! A map for one look-up per frame.

use core::borrow::Borrow;
use core::hash::Hash;

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
    pub(crate) fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.0.get(key).copied()
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.0.insert(key, value);
    }
}
