//! A table as nft(8) lists it, remembered in a few numbers: what it says besides its elements, and
//! which elements each of its sets has.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;

use ipnet::IpNet;

use super::rules::SetChange;

/// By what listings are hashed: two can be compared if it is the same one.
pub(super) type Key = RandomState;

/// The table. Two are equal if the kernel shows the same, as far as 64 bits can tell: their key is
/// known to nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    frame: u64,
    sets: BTreeMap<String, Elements>,
}

/// The elements of a set, in whatever order: their number, and the sum of their hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Elements {
    count: usize,
    sum: u64,
}

impl Elements {
    fn add(&mut self, key: &Key, element: &str) {
        self.count = self.count.wrapping_add(1);
        self.sum = self.sum.wrapping_add(key.hash_one(canonical(element)));
    }

    fn remove(&mut self, key: &Key, element: &str) {
        self.count = self.count.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(key.hash_one(canonical(element)));
    }
}

/// An element in one form of the several that it has: nft(8) writes some IPv6 addresses with an IPv4
/// one at their end, and a protocol by its name only where `/etc/protocols` has it.
fn canonical(element: &str) -> String {
    let mut text = String::with_capacity(element.len());
    for word in element.split_whitespace() {
        match (word.parse::<IpAddr>(), word.parse::<IpNet>(), word) {
            (Ok(address), ..) => text.push_str(&address.to_string()),
            (_, Ok(net), _) => text.push_str(&net.to_string()),
            (.., "tcp") => text.push('6'),
            (.., "udp") => text.push_str("17"),
            (.., "sctp") => text.push_str("132"),
            (.., word) => text.push_str(word),
        }
        text.push(' ');
    }
    text
}

impl Listing {
    /// Of what nft prints.
    pub(super) fn of(key: &Key, text: &str) -> Self {
        let (mut frame, mut sets) = (String::new(), BTreeMap::new());
        let mut set = "";
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let mut words = line.split_whitespace();
            if let (Some("set" | "map"), Some(name)) = (words.next(), words.next()) {
                set = name;
            }
            let Some(mut rest) = line.trim_start().strip_prefix("elements = {") else {
                frame.push_str(line);
                frame.push('\n');
                continue;
            };
            let elements: &mut Elements = sets.entry(set.to_owned()).or_default();
            loop {
                let (inside, is_last) = match rest.split_once('}') {
                    Some((inside, _)) => (inside, true),
                    None => (rest, false),
                };
                let all = inside.split(',').map(str::trim).filter(|element| !element.is_empty());
                all.for_each(|element| elements.add(key, element));
                if is_last {
                    break;
                }
                let Some(line) = lines.next() else { break };
                rest = line;
            }
        }
        Self { frame: key.hash_one(frame), sets }
    }

    /// The same table after these changes.
    pub(super) fn amend(&mut self, key: &Key, changes: &[SetChange]) {
        for SetChange { set, gone, new } in changes {
            let elements = self.sets.entry(set.clone()).or_default();
            gone.iter().for_each(|element| elements.remove(key, element));
            new.iter().for_each(|element| elements.add(key, element));
            if elements.count == 0 {
                self.sets.remove(set);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "table inet tapestry {\n\tset nodes4 {\n\t\ttype ipv4_addr\n\t\telements = \
        { 192.0.2.1, 192.0.2.2,\n\t\t\t     192.0.2.3 }\n\t}\n\tmap ports4 {\n\t\ttype inet_proto . \
        inet_service : ipv4_addr . inet_service\n\t\telements = { tcp . 8080 : 10.0.0.2 . 80 }\n\
        \t}\n\tset empty {\n\t\ttype ipv4_addr\n\t}\n\n\tchain a {\n\t\tip saddr { 10.0.0.1, \
        10.0.0.2 } accept\n\t}\n}\n";

    fn change(set: &str, gone: &[&str], new: &[&str]) -> SetChange {
        let owned = |all: &[&str]| all.iter().map(|&one| one.to_owned()).collect();
        SetChange { set: set.to_owned(), gone: owned(gone), new: owned(new) }
    }

    #[test]
    fn every_change_of_a_table_makes_another_listing() {
        let key = Key::new();
        let listing = Listing::of(&key, TABLE);
        assert_eq!(listing.sets["nodes4"].count, 3);
        assert_eq!(listing.sets["ports4"].count, 1);
        assert_eq!(listing.sets.len(), 2);
        for (old, new) in [
            ("192.0.2.3 }", "192.0.2.4 }"),
            (",\n\t\t\t     192.0.2.3", ""),
            ("\t\telements = { tcp . 8080 : 10.0.0.2 . 80 }\n", ""),
            ("8080", "8081"),
            ("10.0.0.2 } accept", "10.0.0.3 } accept"),
            ("accept", "drop"),
            ("set empty", "set empties"),
            ("\tset empty {\n\t\ttype ipv4_addr\n\t}\n", ""),
        ] {
            let other = TABLE.replace(old, new);
            assert_ne!(other, TABLE, "{old:?}");
            assert_ne!(Listing::of(&key, &other), listing, "{old:?} -> {new:?}");
        }
        let order = TABLE.replace("192.0.2.1, 192.0.2.2", "192.0.2.2, 192.0.2.1");
        assert_eq!(Listing::of(&key, &order), listing, "their order means nothing");
    }

    #[test]
    fn a_listing_that_is_amended_is_that_of_the_table_which_is() {
        let key = Key::new();
        let mut listing = Listing::of(&key, TABLE);
        listing.amend(
            &key,
            &[
                change("nodes4", &["192.0.2.3"], &["192.0.2.4", "192.0.2.5"]),
                change("empty", &[], &["192.0.2.9"]),
                change("ports4", &["tcp . 8080 : 10.0.0.2 . 80"], &[]),
            ],
        );
        let text = TABLE
            .replace("192.0.2.3", "192.0.2.4, 192.0.2.5")
            .replace("\t\telements = { tcp . 8080 : 10.0.0.2 . 80 }\n", "")
            .replace(
                "set empty {\n\t\ttype ipv4_addr\n",
                "set empty {\n\t\ttype ipv4_addr\n\t\telements = { 192.0.2.9 }\n",
            );
        assert_eq!(listing, Listing::of(&key, &text));
        assert_ne!(listing, Listing::of(&key, TABLE));
    }

    #[test]
    fn an_element_is_the_same_however_it_is_written() {
        for (one, other) in [
            ("tcp . 8080 : 10.0.0.2 . 80", "6 . 8080 : 10.0.0.2 . 80"),
            ("192.0.2.1 . udp . 53 : 10.0.0.2 . 53", "192.0.2.1 . 17 . 53 : 10.0.0.2 . 53"),
            ("sctp . 9 : 10.0.0.2 . 9", "132 . 9 : 10.0.0.2 . 9"),
            ("::1.2.3.4", "::102:304"),
            ("::1.2.3.0/120", "::102:300/120"),
            ("2001:db8::1 . 4789", "2001:DB8:0::1 . 4789"),
        ] {
            assert_eq!(canonical(one), canonical(other));
        }
        assert_ne!(canonical("tcp . 80 : 10.0.0.2 . 80"), canonical("udp . 80 : 10.0.0.2 . 80"));
        assert_ne!(canonical("10.0.0.0/8"), canonical("10.0.0.0/9"));
    }

    #[test]
    fn whatever_is_listed_is_taken() {
        let key = Key::new();
        for end in 0..TABLE.len() {
            let _ = Listing::of(&key, &TABLE[..end]);
        }
        assert_ne!(Listing::of(&key, "elements = {"), Listing::of(&key, "elements = { a"));
    }
}
