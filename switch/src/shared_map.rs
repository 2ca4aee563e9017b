//! A map of which there are many versions at once, each little different from the one before.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher as _, Hash};
use std::sync::Arc;

use foldhash::fast::FixedState;

/// Of some ten thousand entries, a part has some dozens.
const PARTS: usize = 256;

/// A map that is copied in a constant time, and whose versions share what is the same in both.
///
/// It is cut into 256 parts by the keys' hashes. A change copies the one part that it is in, and two
/// versions are compared part by part, those that they share at one look: both cost the number of
/// changes, not that of the entries. Who can choose the keys can have them all in one part, and has
/// a plain map then.
pub struct SharedMap<K, V> {
    parts: Arc<[Part<K, V>]>,
    len: usize,
}

type Part<K, V> = Arc<BTreeMap<K, V>>;

/// What became of one key from one version to another: `before` and `after` differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference<'m, K, V> {
    /// The key.
    pub key: &'m K,
    /// What it had; `None`: it was not there.
    pub before: Option<&'m V>,
    /// What it has; `None`: it is gone.
    pub after: Option<&'m V>,
}

impl<K, V> SharedMap<K, V> {
    /// How many entries there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries, in an order that is the same for the same keys, and is not that of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.parts.iter().flat_map(|part| part.iter())
    }

    /// All keys, in the order of [`iter`](Self::iter).
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// All values, in the order of [`iter`](Self::iter).
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    fn part<Q: Hash + ?Sized>(key: &Q) -> usize {
        usize::from(FixedState::default().hash_one(key).to_be_bytes()[0])
    }
}

impl<K: Ord + Hash, V> SharedMap<K, V> {
    /// The value of a key.
    #[must_use]
    pub fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Ord + Hash + ?Sized,
    {
        self.parts.get(Self::part(key))?.get(key)
    }

    /// Whether there is this key.
    #[must_use]
    pub fn contains_key<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Ord + Hash + ?Sized,
    {
        self.get(key).is_some()
    }
}

impl<K: Ord + Hash + Clone, V: Clone> SharedMap<K, V> {
    /// Gives a key a value. Returns the one before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let part = Arc::make_mut(&mut self.parts).get_mut(Self::part(&key))?;
        let before = Arc::make_mut(part).insert(key, value);
        self.len += usize::from(before.is_none());
        before
    }

    /// Takes a key away. Returns the value it had.
    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Ord + Hash + ?Sized,
    {
        // What is not there is no reason for a copy.
        self.get(key)?;
        let part = Arc::make_mut(&mut self.parts).get_mut(Self::part(key))?;
        let before = Arc::make_mut(part).remove(key);
        self.len -= usize::from(before.is_some());
        before
    }
}

impl<K: Ord, V: PartialEq> SharedMap<K, V> {
    /// What is different in `next`.
    pub fn differences<'m>(&'m self, next: &'m Self) -> impl Iterator<Item = Difference<'m, K, V>> {
        let pairs = self.parts.iter().zip(next.parts.iter());
        pairs.filter(|(old, new)| !Arc::ptr_eq(old, new)).flat_map(|(old, new)| {
            let changed = old.iter().filter_map(|(key, before)| {
                let after = new.get(key);
                let differs = after != Some(before);
                differs.then_some(Difference { key, before: Some(before), after })
            });
            let added = new.iter().filter(|(key, _)| !old.contains_key(*key));
            let added =
                added.map(|(key, after)| Difference { key, before: None, after: Some(after) });
            changed.chain(added)
        })
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self { parts: vec![Part::default(); PARTS].into(), len: 0 }
    }
}

// Derived, it would ask for keys and values that can be copied.
impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        Self { parts: Arc::clone(&self.parts), len: self.len }
    }
}

impl<K: Ord, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.differences(other).next().is_none()
    }
}

impl<K: Ord, V: Eq> Eq for SharedMap<K, V> {}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Ord + Hash + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        map.extend(entries);
        map
    }
}

impl<K: Ord + Hash + Clone, V: Clone> Extend<(K, V)> for SharedMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;

    type Map = SharedMap<String, u32>;

    fn name(number: u16) -> String {
        format!("node-{number}")
    }

    #[test]
    fn versions_share_what_is_the_same() {
        let mut before: Map = (0..5000).map(|n| (name(n), 0)).collect();
        let after = {
            let mut next = before.clone();
            assert!(Arc::ptr_eq(&next.parts, &before.parts));
            next.insert(name(7), 1);
            next.insert(name(7000), 1);
            assert_eq!(next.remove("node-8"), Some(0));
            assert_eq!(next.remove("nobody"), None);
            next
        };
        let shared = |a: &Map, b: &Map| {
            a.parts.iter().zip(b.parts.iter()).filter(|(a, b)| Arc::ptr_eq(a, b)).count()
        };
        assert!(shared(&before, &after) >= PARTS - 3);
        let largest = after.parts.iter().map(|part| part.len()).max().unwrap();
        assert!(largest < 64, "a part has {largest} of 5,000");
        let mut differences: Vec<_> =
            before.differences(&after).map(|one| one.key.clone()).collect();
        differences.sort();
        assert_eq!(differences, ["node-7", "node-7000", "node-8"]);
        // What nobody else has is changed where it is.
        let place = Arc::as_ptr(&before.parts);
        drop(after);
        before.insert(name(9), 2);
        assert_eq!(Arc::as_ptr(&before.parts), place);
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config {
            failure_persistence: None,
            ..Default::default()
        })]

        /// Against an ordinary map: what is in it, and what is different.
        #[test]
        fn is_as_an_ordinary_map(
            first in vec((0_u16..600, 0_u32..3), 0..400),
            then in vec((0_u16..600, proptest::option::of(0_u32..3)), 0..60),
        ) {
            let before: Map = first.iter().map(|(n, value)| (name(*n), *value)).collect();
            let plain: BTreeMap<_, _> = first.iter().map(|(n, value)| (name(*n), *value)).collect();
            let (mut after, mut model) = (before.clone(), plain.clone());
            for (n, value) in then {
                match value {
                    Some(value) => {
                        assert_eq!(after.insert(name(n), value), model.insert(name(n), value));
                    }
                    None => assert_eq!(after.remove(&name(n)), model.remove(&name(n))),
                }
            }
            for (map, model) in [(&before, &plain), (&after, &model)] {
                assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
                assert_eq!(&map.iter().map(|(k, v)| (k.clone(), *v)).collect::<BTreeMap<_, _>>(), model);
                assert!(model.iter().all(|(key, value)| map.get(key) == Some(value)));
            }
            assert_eq!(before == after, plain == model);
            let mut patched = plain.clone();
            for Difference { key, before, after } in before.differences(&after) {
                assert!(before != after && before == plain.get(key));
                match after {
                    Some(after) => patched.insert(key.clone(), *after),
                    None => patched.remove(key),
                };
            }
            assert_eq!(patched, model);
        }
    }
}
