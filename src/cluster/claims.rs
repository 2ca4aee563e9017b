//! Who holds what: disjoint shares, addresses, and exceptions with their generations. Every
//! operation is logarithmic in what is there.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::rules::MAX_GENERATION;
use crate::config::overlap;

/// How long the generation of an exception that nobody claims any more is remembered: longer than
/// any message about it can be under way.
const TOMBSTONE: Duration = Duration::from_secs(24 * 3600);
/// How many of those are remembered at most; the oldest go first.
const MAX_TOMBSTONES: usize = 65_536;

/// Networks of which no two overlap, and who holds each.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// By first address. Since nothing overlaps, whatever overlaps with a network either holds its
    /// first address or begins within it.
    by_first: BTreeMap<IpAddr, (IpNet, String)>,
}

impl Shares {
    /// Somebody other than `key` who holds something of `net`.
    pub(super) fn holder_other_than(&self, net: &IpNet, key: &str) -> Option<(&IpNet, &str)> {
        let within = self.by_first.range(net.network()..=net.broadcast());
        let before = self.by_first.range(..net.network()).next_back();
        within
            .chain(before)
            .map(|(_, (held, holder))| (held, holder.as_str()))
            .find(|(held, holder)| *holder != key && overlap(held, net))
    }

    /// Who holds exactly this network.
    pub(super) fn holder(&self, net: &IpNet) -> Option<&str> {
        let (_, holder) = self.by_first.get(&net.network()).filter(|(held, _)| held == net)?;
        Some(holder)
    }

    /// Every network that is somebody's.
    pub(super) fn nets(&self) -> impl Iterator<Item = IpNet> {
        self.by_first.values().map(|(net, _)| *net)
    }

    pub(super) fn insert(&mut self, net: IpNet, key: &str) {
        self.by_first.insert(net.network(), (net, key.to_owned()));
    }

    pub(super) fn remove(&mut self, net: &IpNet) {
        self.by_first.remove(&net.network());
    }
}

/// Addresses that several may claim: the first that did has it.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    claims: BTreeMap<IpAddr, Vec<String>>,
}

impl Hosts {
    pub(super) fn claim(&mut self, address: IpAddr, key: &str) {
        let claims = self.claims.entry(address).or_default();
        if !claims.iter().any(|claim| claim == key) {
            claims.push(key.to_owned());
        }
    }

    pub(super) fn withdraw(&mut self, address: IpAddr, key: &str) {
        if let Some(claims) = self.claims.get_mut(&address) {
            claims.retain(|claim| claim != key);
            if claims.is_empty() {
                self.claims.remove(&address);
            }
        }
    }

    /// By whom an address is claimed, the first first.
    pub(super) fn claims(&self, address: IpAddr) -> &[String] {
        self.claims.get(&address).map(Vec::as_slice).unwrap_or_default()
    }

    /// Every address that is claimed.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.claims.keys().copied()
    }
}

/// Exceptions: of several claims that of the highest generation ever seen is right, of several with
/// that generation the first. A claim of a lower generation stays wrong after the right one is gone.
#[derive(Debug, Default)]
pub(super) struct Exceptions {
    contests: BTreeMap<IpNet, Contest>,
    /// The networks that nobody claims, the longest so first; those claimed again since are in it
    /// too.
    graves: VecDeque<(Duration, IpNet)>,
}

#[derive(Debug, Default)]
struct Contest {
    highest: u64,
    claims: Vec<(String, u64)>,
    /// Since when nobody claims it.
    empty_since: Option<Duration>,
}

impl Exceptions {
    pub(super) fn claim(&mut self, net: IpNet, generation: u64, key: &str) {
        let contest = self.contests.entry(net).or_default();
        contest.highest = contest.highest.max(generation);
        contest.empty_since = None;
        let claim = (key.to_owned(), generation);
        if !contest.claims.contains(&claim) {
            // Another generation is another claim: those that were made before come before it.
            contest.claims.retain(|(claimant, _)| claimant != key);
            contest.claims.push(claim);
        }
    }

    pub(super) fn withdraw(&mut self, net: &IpNet, key: &str, now: Duration) {
        let Some(contest) = self.contests.get_mut(net) else { return };
        contest.claims.retain(|(claimant, _)| claimant != key);
        if contest.claims.is_empty() && contest.empty_since.is_none() {
            contest.empty_since = Some(now);
            self.graves.push_back((now, *net));
        }
        self.forget(now);
    }

    fn forget(&mut self, now: Duration) {
        while let Some((since, net)) = self.graves.front().copied() {
            if self.graves.len() <= MAX_TOMBSTONES && now.saturating_sub(since) < TOMBSTONE {
                return;
            }
            self.graves.pop_front();
            if self.contests.get(&net).is_some_and(|contest| contest.empty_since == Some(since)) {
                self.contests.remove(&net);
            }
        }
    }

    /// A generation that is right from now on, for one who does not hold the network yet. Where there
    /// is none, the highest that the others believe.
    pub(super) fn next_generation(&self, net: &IpNet) -> u64 {
        let next = |contest: &Contest| contest.highest.saturating_add(1).min(MAX_GENERATION);
        self.contests.get(net).map_or(1, next)
    }

    /// Of those who claim a network: who is right, and who claims the same generation in vain.
    pub(super) fn right(&self, net: &IpNet) -> Option<(&str, Vec<&str>)> {
        let contest = self.contests.get(net)?;
        let claims = contest.claims.iter();
        let mut right = claims
            .filter(|(_, generation)| *generation == contest.highest)
            .map(|(key, _)| key.as_str());
        Some((right.next()?, right.collect()))
    }

    /// Every network that is claimed, or was.
    pub(super) fn nets(&self) -> impl Iterator<Item = IpNet> {
        self.contests.keys().copied()
    }

    /// Every network and the highest generation seen of it, claimed or not.
    pub(super) fn generations(&self) -> impl Iterator<Item = (IpNet, u64)> {
        self.contests.iter().map(|(net, contest)| (*net, contest.highest))
    }

    /// Remembers that there was this generation.
    pub(super) fn remember(&mut self, net: IpNet, generation: u64, now: Duration) {
        let contest = self.contests.entry(net).or_default();
        contest.highest = contest.highest.max(generation);
        if contest.claims.is_empty() && contest.empty_since.is_none() {
            contest.empty_since = Some(now);
            self.graves.push_back((now, net));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn shares_overlap_when_one_holds_the_other_or_the_other_way_round() {
        let mut shares = Shares::default();
        shares.insert(net("10.0.4.0/22"), "a");
        shares.insert(net("10.0.9.0/24"), "b");
        shares.insert(net("fd00:0:0:1::/64"), "a");
        let holder = |text: &str| shares.holder_other_than(&net(text), "x").map(|(_, key)| key);
        assert_eq!(holder("10.0.4.0/24"), Some("a"));
        assert_eq!(holder("10.0.7.0/24"), Some("a"));
        assert_eq!(holder("10.0.7.255/32"), Some("a"));
        assert_eq!(holder("10.0.8.0/24"), None);
        assert_eq!(holder("10.0.8.0/23"), Some("b"));
        assert_eq!(holder("10.0.0.0/16"), Some("a"));
        assert_eq!(holder("10.0.3.0/24"), None);
        assert_eq!(holder("fd00::/48"), Some("a"));
        assert_eq!(holder("fd00:0:0:2::/64"), None);
        assert_eq!(
            shares.holder_other_than(&net("10.0.0.0/16"), "a").map(|(_, key)| key),
            Some("b")
        );
        assert_eq!(shares.holder(&net("10.0.9.0/24")), Some("b"));
        assert_eq!(shares.holder(&net("10.0.9.0/25")), None);
    }

    #[test]
    fn nobody_counts_beyond_what_is_believed() {
        let mut exceptions = Exceptions::default();
        let pod = net("10.0.0.1/32");
        let is_believed = |generation| {
            let exception = crate::cluster::model::Exception { net: pod, generation };
            crate::cluster::rules::check_exception(&exception).is_ok()
        };
        for generation in [MAX_GENERATION - 1, MAX_GENERATION] {
            exceptions.claim(pod, generation, "a");
            assert_eq!(exceptions.next_generation(&pod), MAX_GENERATION);
            assert!(is_believed(exceptions.next_generation(&pod)));
        }
        assert!(!is_believed(MAX_GENERATION + 1));
    }

    #[test]
    fn tombstones_are_bounded_in_time_and_number() {
        let mut exceptions = Exceptions::default();
        let at = Duration::from_secs;
        exceptions.claim(net("10.0.0.1/32"), 5, "a");
        exceptions.withdraw(&net("10.0.0.1/32"), "a", at(0));
        exceptions.claim(net("10.0.0.1/32"), 4, "b");
        assert_eq!(exceptions.right(&net("10.0.0.1/32")), None);
        assert_eq!(exceptions.next_generation(&net("10.0.0.1/32")), 6);
        exceptions.withdraw(&net("10.0.0.1/32"), "b", at(1));
        // The first grave is of before it was claimed again, and must not take the second with it.
        exceptions.claim(net("10.0.0.2/32"), 1, "a");
        exceptions.withdraw(&net("10.0.0.2/32"), "a", TOMBSTONE);
        assert_eq!(exceptions.next_generation(&net("10.0.0.1/32")), 6);
        exceptions.claim(net("10.0.0.2/32"), 2, "a");
        exceptions.withdraw(&net("10.0.0.2/32"), "a", TOMBSTONE + at(1));
        assert_eq!(exceptions.next_generation(&net("10.0.0.1/32")), 1);
        for low in 0..70_000_u32 {
            let net = IpNet::new(std::net::Ipv4Addr::from(low).into(), 32).unwrap();
            exceptions.claim(net, 7, "a");
            exceptions.withdraw(&net, "a", TOMBSTONE + at(2));
        }
        assert!(exceptions.generations().count() <= MAX_TOMBSTONES);
    }
}
