//! What a store reports becomes what a membership knows: lists are compared with it, and deletions
//! are doubted.

use std::collections::HashSet;
use std::time::Duration;

use super::membership::{Membership, Moment, Standing};
use super::model::StoreState;
use super::store::{Object, Update};

impl Membership {
    /// Takes in what a store reports.
    pub fn apply(&mut self, update: Update, now: Moment) {
        match update {
            Update::Listed(objects) => {
                self.list(objects, now.elapsed);
                self.answered(now);
            }
            Update::Put(key, object) => {
                self.object(&key, object, now.elapsed);
                self.answered(now);
            }
            Update::Deleted(key) => {
                self.delete(&key, now.elapsed);
                self.answered(now);
            }
            Update::Answered => self.answered(now),
            Update::Trouble(trouble) => {
                let trouble = Some(shorten(&trouble));
                self.changed |= self.store.connected || self.store.trouble != trouble;
                self.store.connected = false;
                self.store.trouble = trouble;
            }
            Update::Refused(why) => {
                let why = why.as_deref().map(shorten);
                self.changed |= self.refused != why;
                self.refused = why;
            }
            Update::Cluster(identity) => self.cluster = Some(identity),
            Update::GivenBack => {
                if let Some(key) = self.own_key.clone() {
                    self.remove(&key, now.elapsed);
                }
                self.own_deleted = false;
            }
        }
    }

    fn answered(&mut self, now: Moment) {
        self.changed |= !self.store.connected;
        self.store = StoreState { connected: true, trouble: None, answered_ms: Some(now.unix_ms) };
    }

    fn list(&mut self, objects: Vec<(String, Object)>, now: Duration) {
        let present: HashSet<&str> = objects.iter().map(|(key, _)| key.as_str()).collect();
        let malformed = self.malformed.len();
        self.malformed.retain(|key, _| present.contains(key.as_str()));
        self.changed |= self.malformed.len() != malformed || !self.listed;
        self.listed = true;
        let is_gone = |key: &str| !present.contains(key) && self.own_key.as_deref() != Some(key);
        let mut gone: Vec<(u64, String)> = self
            .entries
            .iter()
            .filter(|(key, _)| is_gone(key))
            .map(|(key, entry)| (entry.sequence, key.clone()))
            .collect();
        // Who waits for whom is served in an order that does not depend on a hash.
        gone.sort_unstable();
        if let Some(own) = self.own_key.as_deref()
            && !present.contains(own)
        {
            self.changed |= !self.own_deleted;
            self.own_deleted = true;
        }
        let is_new = |key: &str| self.is_member(key) && !self.guard.is_held(key);
        let fresh = gone.iter().filter(|(_, key)| is_new(key)).count();
        let known = self.known_others();
        let doubt = self.guarded
            && fresh > 0
            && (present.is_empty() || self.guard.is_mass(fresh, known, now));
        for (_, key) in gone {
            if self.guard.is_confirmed(&key, now) {
                self.remove(&key, now);
            } else if self.guard.is_held(&key) {
            } else if doubt && self.is_member(&key) {
                self.hold(&key, now);
            } else {
                if self.is_member(&key) {
                    self.guard.count(now);
                }
                self.remove(&key, now);
            }
        }
        for (key, object) in objects {
            self.object(&key, object, now);
        }
    }

    fn object(&mut self, key: &str, object: Object, now: Duration) {
        if self.guard.is_held(key) {
            self.guard.let_go(key);
            self.changed = true;
        }
        match object {
            Ok(node) => {
                self.changed |= self.malformed.remove(key).is_some();
                self.put(key, node, now);
                self.give_way_to(key, now);
            }
            Err(what) => {
                let what = shorten(&what);
                self.changed |= self.malformed.insert(key.to_owned(), what.clone()) != Some(what);
            }
        }
        if self.own_deleted && self.own_key.as_deref() == Some(key) {
            self.own_deleted = false;
            self.changed = true;
        }
    }

    fn delete(&mut self, key: &str, now: Duration) {
        self.changed |= self.malformed.remove(key).is_some();
        if self.own_key.as_deref() == Some(key) {
            self.changed |= !self.own_deleted;
            self.own_deleted = true;
        } else if self.guard.is_held(key) {
        } else if self.is_member(key) {
            let known = self.known_others();
            if self.guarded && self.guard.is_mass(1, known, now) {
                self.hold(key, now);
                let waiting = self.waiting.get(key).and_then(|all| all.values().next().cloned());
                if let Some(waiting) = waiting {
                    self.give_way_to(&waiting, now);
                }
            } else {
                self.guard.count(now);
                self.remove(key, now);
            }
        } else {
            self.remove(key, now);
        }
    }

    fn hold(&mut self, key: &str, now: Duration) {
        self.guard.hold(key, now);
        self.changed = true;
    }

    /// A deletion that is held back is believed as soon as the store has somebody else in that place:
    /// one that lost its data would not say so.
    fn give_way_to(&mut self, key: &str, now: Duration) {
        while let Some(blocker) = self.held_blocker_of(key) {
            self.guard.count(now);
            self.remove(&blocker, now);
        }
    }

    fn held_blocker_of(&self, key: &str) -> Option<String> {
        match &self.entries.get(key)?.standing {
            Standing::Refused(refusal) => {
                refusal.blocker.clone().filter(|blocker| self.guard.is_held(blocker))
            }
            Standing::Member => None,
        }
    }
}

/// A text of others', of bounded length and printable.
fn shorten(text: &str) -> String {
    const MAX: usize = 400;
    let mut short: String =
        text.chars().take(MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
