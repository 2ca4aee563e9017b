//! Which addresses of this node's podCIDRs are whose.
//!
//! In a podCIDR index 0 is the network, 1 the gateway port's address, and pods have all others but
//! IPv4's last. Both families of a pod have the same index, so that one follows from the other. What
//! was freed rests for a while before somebody else gets it, unless there is nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use fdb::Tick;
use ipnet::IpNet;

use super::{Key, Rests};

/// The first index that a pod may have.
const FIRST: u32 = 2;

/// A podCIDR, as far as pods have addresses in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    net: IpNet,
    /// The last index that a pod may have.
    last: u32,
}

/// What is no podCIDR for this pool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// It has no index for any pod.
    #[error("podCIDR {0} is too small for pods: a network of /30 or /126 has room for one")]
    TooSmall(IpNet),
    /// There is one of the family already.
    #[error("podCIDRs {0} and {1} are of one family: a node has one of each")]
    TwoOfOneFamily(IpNet, IpNet),
}

/// Why there is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// The node has no podCIDR.
    #[error("this node has no podCIDR yet")]
    NoRange,
    /// Every address is some pod's.
    #[error("podCIDR {ranges} is full: all its {capacity} addresses are in use")]
    Full {
        /// The podCIDRs.
        ranges: String,
        /// How many pods have an address in them.
        capacity: u64,
    },
    /// The address is another's.
    #[error("address {address} is taken by {by}")]
    Taken {
        /// The address.
        address: IpAddr,
        /// Whose it is.
        by: Key,
    },
    /// The address is none of this node's.
    #[error("address {address} is not in this node's podCIDR {ranges}")]
    Outside {
        /// The address.
        address: IpAddr,
        /// The podCIDRs.
        ranges: String,
    },
    /// The address is in the podCIDR and not for pods.
    #[error("address {address} of podCIDR {range} is not for pods ({why})")]
    NotForPods {
        /// The address.
        address: IpAddr,
        /// The podCIDR.
        range: IpNet,
        /// What it is for.
        why: &'static str,
    },
    /// Two addresses of one family are asked for.
    #[error("{0} and {1} are of one family: a pod has one address of each")]
    TwoOfOneFamily(IpAddr, IpAddr),
}

/// How full a pool is, in indices: a pod of two families counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// How many pods it has room for.
    pub capacity: u64,
    /// How many have an address in it.
    pub used: u64,
    /// How many addresses rest.
    pub resting: u64,
    /// Pods with addresses that are in none of the podCIDRs.
    pub outside: u64,
}

impl Counts {
    /// How many more pods get an address that does not rest.
    #[must_use]
    pub const fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.used).saturating_sub(self.resting)
    }
}

/// An address that is not free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressRow {
    /// The address.
    pub address: IpAddr,
    /// What is with it.
    pub state: AddressState,
    /// Whether a podCIDR of this node holds it.
    pub inside: bool,
}

/// What is with an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressState {
    /// It is a pod's.
    Used(Key),
    /// It was a pod's, and is nobody's until so many milliseconds from now.
    Resting(u64),
}

/// The addresses of a node's pods.
#[derive(Clone, Debug)]
pub struct Pool {
    ranges: Vec<Range>,
    rest_ms: u64,
    held: BTreeMap<IpAddr, Key>,
    by_key: BTreeMap<Key, Vec<IpAddr>>,
    /// Until when each rests.
    resting: BTreeMap<IpAddr, Tick>,
    /// Where the search for a free index begins: behind the one that was found last.
    cursor: u32,
    /// How often something of what [`Self::rests`] says has changed.
    changes: u64,
}

impl Pool {
    /// A pool without podCIDRs, whose freed addresses rest this long.
    #[must_use]
    pub fn new(rest: Duration) -> Self {
        Self {
            ranges: Vec::new(),
            rest_ms: u64::try_from(rest.as_millis()).unwrap_or(u64::MAX),
            held: BTreeMap::new(),
            by_key: BTreeMap::new(),
            resting: BTreeMap::new(),
            cursor: FIRST,
            changes: 0,
        }
    }

    /// Takes other podCIDRs: one, or one of each family. What pods hold they keep, also outside of
    /// them; new ones get their addresses from these. Returns whether anything changed.
    ///
    /// # Errors
    ///
    /// When they make no pool; the ones before stay.
    pub fn set_ranges(&mut self, nets: &[IpNet]) -> Result<bool, RangeError> {
        let mut ranges: Vec<Range> = Vec::new();
        for net in nets.iter().map(IpNet::trunc) {
            let range = Range::new(net)?;
            if let Some(other) = ranges.iter().find(|other| other.is_family_of(net.addr())) {
                return Err(RangeError::TwoOfOneFamily(other.net, net));
            }
            ranges.push(range);
        }
        ranges.sort_by_key(|range| range.net.addr().is_ipv6());
        if ranges == self.ranges {
            return Ok(false);
        }
        let recalled = self.ranges.is_empty() && self.cursor != FIRST;
        self.ranges = ranges;
        if !recalled {
            let last = self.held.keys().filter_map(|address| self.index_of(*address)).max();
            self.cursor = last.map_or(FIRST, |last| last.saturating_add(1));
        }
        Ok(true)
    }

    /// The podCIDRs.
    #[must_use]
    pub fn ranges(&self) -> Vec<IpNet> {
        self.ranges.iter().map(|range| range.net).collect()
    }

    /// Addresses for a pod, one of each family that the node has: the `wanted` ones, which may name
    /// one or both families, or any.
    ///
    /// # Errors
    ///
    /// When there are none, or not those; nothing is taken then.
    pub fn allocate(
        &mut self,
        key: &Key,
        wanted: &[IpAddr],
        now: Tick,
    ) -> Result<Vec<IpAddr>, PoolError> {
        self.wake(now);
        let addresses = match wanted {
            [] => self.addresses_of(self.find()?),
            wanted => self.complete(wanted)?,
        };
        self.hold(key, &addresses)?;
        if let (true, Some(index)) =
            (wanted.is_empty(), addresses.first().and_then(|first| self.index_of(*first)))
        {
            self.cursor = index.saturating_add(1);
            self.changes += 1;
        }
        Ok(addresses)
    }

    /// Notes that a pod has these addresses, wherever they are from.
    ///
    /// # Errors
    ///
    /// [`PoolError::Taken`] when one of them is another's; none is noted then.
    pub fn hold(&mut self, key: &Key, addresses: &[IpAddr]) -> Result<(), PoolError> {
        for address in addresses {
            if let Some(by) = self.held.get(address) {
                return Err(PoolError::Taken { address: *address, by: by.clone() });
            }
        }
        if let Some(address) = self.by_key.get(key).and_then(|held| held.first()) {
            return Err(PoolError::Taken { address: *address, by: key.clone() });
        }
        for address in addresses {
            self.resting.remove(address);
            self.held.insert(*address, key.clone());
        }
        self.by_key.insert(key.clone(), addresses.to_vec());
        Ok(())
    }

    /// Takes a pod's addresses back. They rest from now on.
    pub fn free(&mut self, key: &Key, now: Tick) -> Vec<IpAddr> {
        let freed = self.discard(key);
        let until = Tick(now.0.saturating_add(self.rest_ms));
        self.resting.extend(freed.iter().map(|address| (*address, until)));
        self.changes += 1;
        freed
    }

    /// Takes addresses back that nobody has ever seen in use.
    pub fn discard(&mut self, key: &Key) -> Vec<IpAddr> {
        let freed = self.by_key.remove(key).unwrap_or_default();
        for address in &freed {
            self.held.remove(address);
        }
        freed
    }

    /// Ends the rest of an address. Returns whether it rested.
    pub fn wake_up(&mut self, address: IpAddr) -> bool {
        self.changes += 1;
        self.resting.remove(&address).is_some()
    }

    /// How often something of what [`Self::rests`] says has changed.
    #[must_use]
    pub const fn changes(&self) -> u64 {
        self.changes
    }

    /// What outlives the process: what rests, and where the search goes on.
    #[must_use]
    pub fn rests(&self, now: Tick, unix_ms: u64) -> Rests {
        let left = |until: Tick| until.since(now);
        let resting = self.resting.iter().filter(|(_, until)| left(**until) > 0);
        let until = |until: Tick| unix_ms.saturating_add(left(until));
        Rests { cursor: self.cursor, resting: resting.map(|(ip, at)| (*ip, until(*at))).collect() }
    }

    /// Takes up what was before a restart; to be called before anything else is. A clock that went
    /// back meanwhile lets nothing rest for longer than it would have.
    pub fn recall(&mut self, rests: Rests, now: Tick, unix_ms: u64) {
        self.cursor = rests.cursor;
        for (address, until) in rests.resting {
            let left = until.saturating_sub(unix_ms).min(self.rest_ms);
            if left > 0 {
                self.resting.insert(address, Tick(now.0.saturating_add(left)));
            }
        }
    }

    /// Pods with addresses outside the podCIDRs, and those addresses.
    pub fn outside(&self) -> impl Iterator<Item = (&Key, IpAddr)> {
        let outside = |address: &IpAddr| self.range_of(*address).is_none();
        self.held
            .iter()
            .filter(move |(address, _)| outside(address))
            .map(|(address, key)| (key, *address))
    }

    /// The addresses outside the podCIDRs that pods have; `None` while there is no podCIDR, and so no
    /// telling what is outside.
    #[must_use]
    pub fn exceptions(&self) -> Option<Vec<IpNet>> {
        let known = !self.ranges.is_empty();
        known.then(|| self.outside().map(|(_, address)| IpNet::from(address)).collect())
    }

    /// How full it is.
    #[must_use]
    pub fn counts(&self, now: Tick) -> Counts {
        let index = |address: &IpAddr| self.index_of(*address);
        let used: BTreeSet<u32> = self.held.keys().filter_map(index).collect();
        let rests = |(_, until): &(&IpAddr, &Tick)| now < **until;
        let resting = self.resting.iter().filter(rests).filter_map(|(address, _)| index(address));
        let resting: BTreeSet<u32> = resting.filter(|index| !used.contains(index)).collect();
        let outside: BTreeSet<&Key> = self.outside().map(|(key, _)| key).collect();
        let count = |len: usize| u64::try_from(len).unwrap_or(u64::MAX);
        let in_use = used.iter().filter(|index| self.is_for_pods(**index)).count();
        Counts {
            capacity: self.capacity(),
            used: count(in_use),
            resting: count(resting.len()),
            outside: count(outside.len()),
        }
    }

    /// Every address that is not free, in order.
    #[must_use]
    pub fn rows(&self, now: Tick) -> Vec<AddressRow> {
        let row = |address: IpAddr, state| AddressRow {
            address,
            state,
            inside: self.range_of(address).is_some(),
        };
        let used = self.held.iter().map(|(ip, key)| row(*ip, AddressState::Used(key.clone())));
        let left = |until: Tick| until.since(now);
        let resting = self.resting.iter().filter(|(_, until)| left(**until) > 0);
        let resting = resting.map(|(ip, until)| row(*ip, AddressState::Resting(left(*until))));
        let mut rows: Vec<AddressRow> = used.chain(resting).collect();
        rows.sort_by_key(|row| row.address);
        rows
    }

    /// Forgets what has rested.
    fn wake(&mut self, now: Tick) {
        self.resting.retain(|_, until| now < *until);
    }

    /// An index that is nobody's; one that rests only when there is no other, and then the one that
    /// has done so for longest.
    fn find(&self) -> Result<u32, PoolError> {
        let Some(last) = self.last() else { return Err(PoolError::NoRange) };
        let cursor = if (FIRST..=last).contains(&self.cursor) { self.cursor } else { FIRST };
        // Each address that is not free bars one index, so that one of so many is not barred.
        let tries = self.held.len().saturating_add(self.resting.len()).saturating_add(1);
        let indices = (cursor..=last).chain(FIRST..cursor).take(tries);
        for index in indices {
            let mut addresses = self.at(index);
            if !addresses.any(|ip| self.held.contains_key(&ip) || self.resting.contains_key(&ip)) {
                return Ok(index);
            }
        }
        let mut rested: BTreeMap<u32, Tick> = BTreeMap::new();
        for (address, until) in &self.resting {
            let Some(index) = self.index_of(*address).filter(|index| self.is_for_pods(*index))
            else {
                continue;
            };
            if !self.at(index).any(|ip| self.held.contains_key(&ip)) {
                let last = rested.entry(index).or_insert(*until);
                *last = (*last).max(*until);
            }
        }
        let oldest = rested.into_iter().min_by_key(|(index, until)| (*until, *index));
        oldest
            .map(|(index, _)| index)
            .ok_or_else(|| PoolError::Full { ranges: self.shown(), capacity: self.capacity() })
    }

    /// The wanted addresses, and that of the other family if it is not among them.
    fn complete(&self, wanted: &[IpAddr]) -> Result<Vec<IpAddr>, PoolError> {
        if self.ranges.is_empty() {
            return Err(PoolError::NoRange);
        }
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in wanted {
            let (address, ranges) = (*address, self.shown());
            let range = self.range_of(address).ok_or(PoolError::Outside { address, ranges })?;
            let why = match range.index_of(address) {
                Some(0) => Some("it names the network"),
                Some(1) => Some("it is the gateway port's"),
                Some(index) if self.is_for_pods(index) => None,
                _ if address.is_ipv4() && range.net.broadcast() == address => {
                    Some("it is the broadcast address")
                }
                _ => Some("it is beyond those that every family has"),
            };
            if let Some(why) = why {
                return Err(PoolError::NotForPods { address, range: range.net, why });
            }
            if let Some(other) = addresses.iter().find(|ip| range.is_family_of(**ip)) {
                return Err(PoolError::TwoOfOneFamily(*other, address));
            }
            addresses.push(address);
        }
        let index = addresses.first().and_then(|first| self.index_of(*first)).unwrap_or(FIRST);
        for range in &self.ranges {
            if !addresses.iter().any(|ip| range.is_family_of(*ip)) {
                addresses.push(range.at(index));
            }
        }
        addresses.sort_by_key(IpAddr::is_ipv6);
        Ok(addresses)
    }

    fn addresses_of(&self, index: u32) -> Vec<IpAddr> {
        self.at(index).collect()
    }

    fn at(&self, index: u32) -> impl Iterator<Item = IpAddr> {
        self.ranges.iter().map(move |range| range.at(index))
    }

    fn range_of(&self, address: IpAddr) -> Option<&Range> {
        self.ranges.iter().find(|range| range.net.contains(&address))
    }

    fn index_of(&self, address: IpAddr) -> Option<u32> {
        self.range_of(address)?.index_of(address)
    }

    fn is_for_pods(&self, index: u32) -> bool {
        self.last().is_some_and(|last| (FIRST..=last).contains(&index))
    }

    /// The last index that pods may have: that of the smaller podCIDR.
    fn last(&self) -> Option<u32> {
        self.ranges.iter().map(|range| range.last).min()
    }

    fn capacity(&self) -> u64 {
        self.last().map_or(0, |last| u64::from(last).saturating_sub(u64::from(FIRST) - 1))
    }

    fn shown(&self) -> String {
        Shown(&self.ranges).to_string()
    }
}

struct Shown<'a>(&'a [Range]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.0.iter().enumerate() {
            write!(out, "{}{}", if at == 0 { "" } else { " and " }, range.net)?;
        }
        Ok(())
    }
}

impl Range {
    fn new(net: IpNet) -> Result<Self, RangeError> {
        let size = 1_u128.checked_shl(u32::from(net.max_prefix_len() - net.prefix_len()));
        let size = size.unwrap_or(u128::MAX);
        // IPv4's last address is the broadcast address.
        let behind = if net.addr().is_ipv4() { 2 } else { 1 };
        let last = u32::try_from(size.saturating_sub(behind)).unwrap_or(u32::MAX);
        if last < FIRST { Err(RangeError::TooSmall(net)) } else { Ok(Self { net, last }) }
    }

    /// The address with an index that the range has.
    fn at(&self, index: u32) -> IpAddr {
        match self.net {
            IpNet::V4(net) => IpAddr::V4((u32::from(net.network()) | index).into()),
            IpNet::V6(net) => IpAddr::V6((u128::from(net.network()) | u128::from(index)).into()),
        }
    }

    /// The index of an address of the range; `None` for those that are beyond all indices.
    fn index_of(&self, address: IpAddr) -> Option<u32> {
        match (self.net, address) {
            (IpNet::V4(net), IpAddr::V4(ip)) => u32::from(ip).checked_sub(u32::from(net.network())),
            (IpNet::V6(net), IpAddr::V6(ip)) => {
                u32::try_from(u128::from(ip).checked_sub(u128::from(net.network()))?).ok()
            }
            _ => None,
        }
    }

    fn is_family_of(&self, address: IpAddr) -> bool {
        self.net.addr().is_ipv4() == address.is_ipv4()
    }
}
