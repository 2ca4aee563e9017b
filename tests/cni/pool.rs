//! The pool against a naive model: what each index is, one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use fdb::Tick;
use ipnet::IpNet;
use proptest::prelude::*;
use tapestry::attach::{AddressState, Key, Pool, PoolError, RangeError};

const REST: u64 = 60_000;

fn key(number: usize) -> Key {
    let [network, container, ifname] = ["pods", &format!("c{number}"), "eth0"].map(str::to_owned);
    Key { network, container, ifname }
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn pool(texts: &[&str]) -> Pool {
    let mut pool = Pool::new(Duration::from_millis(REST));
    pool.set_ranges(&nets(texts)).unwrap();
    pool
}

#[test]
fn both_families_share_an_index_and_the_ends_are_not_for_pods() {
    let mut pool = pool(&["fd00:10:244:1::/64", "10.244.1.0/29"]);
    let now = Tick(0);
    let taken: Vec<Vec<IpAddr>> =
        (0..5).map(|number| pool.allocate(&key(number), &[], now).unwrap()).collect();
    assert_eq!(taken[0], ips(&["10.244.1.2", "fd00:10:244:1::2"]));
    assert_eq!(taken[4], ips(&["10.244.1.6", "fd00:10:244:1::6"]));
    let error = pool.allocate(&key(5), &[], now).unwrap_err();
    let words =
        "podCIDR 10.244.1.0/29 and fd00:10:244:1::/64 is full: all its 5 addresses are in use";
    assert_eq!(error.to_string(), words);
}

#[test]
fn a_wanted_address_is_given_or_the_reason_named() {
    let mut pool = pool(&["10.244.1.0/24", "fd00::/64"]);
    let now = Tick(0);
    let mut ask = |number, texts: &[&str]| pool.allocate(&key(number), &ips(texts), now);
    assert_eq!(ask(1, &["fd00::7"]).unwrap(), ips(&["10.244.1.7", "fd00::7"]));
    // The other family's half counts as well.
    let error = ask(2, &["10.244.1.7"]).unwrap_err();
    assert!(matches!(&error, PoolError::Taken { by, .. } if *by == key(1)), "{error}");
    assert!(error.to_string().contains("container c1"), "{error}");
    for (text, word) in [
        ("10.244.1.0", "names the network"),
        ("10.244.1.1", "gateway port"),
        ("10.244.1.255", "broadcast"),
        ("fd00::ff", "beyond"),
        ("fd00::1:0:0:0", "beyond"),
        ("10.244.2.7", "not in this node's podCIDR 10.244.1.0/24 and fd00::/64"),
        ("::", "not in this node's"),
    ] {
        let error = ask(2, &[text]).unwrap_err().to_string();
        assert!(error.contains(word), "{text}: {error}");
    }
    assert!(matches!(ask(2, &["10.244.1.8", "10.244.1.9"]), Err(PoolError::TwoOfOneFamily(..))));
    assert_eq!(ask(2, &["10.244.1.8", "fd00::9"]).unwrap(), ips(&["10.244.1.8", "fd00::9"]));
    assert!(ask(3, &["10.244.1.9"]).is_err() && ask(3, &["fd00::8"]).is_err());
    assert!(matches!(ask(2, &["10.244.1.20"]), Err(PoolError::Taken { .. })), "a second one");
    assert!(Pool::new(Duration::ZERO).allocate(&key(1), &[], now) == Err(PoolError::NoRange));
}

#[test]
fn what_was_freed_rests_unless_there_is_nothing_else() {
    let mut pool = pool(&["10.244.1.0/29"]);
    let all: Vec<_> =
        (0..5).map(|number| pool.allocate(&key(number), &[], Tick(0)).unwrap()).collect();
    pool.free(&key(3), Tick(1000));
    pool.free(&key(1), Tick(2000));
    // Full but for those that rest: the one that has done so for longest.
    assert_eq!(pool.allocate(&key(7), &[], Tick(2001)).unwrap(), all[3]);
    assert_eq!(pool.counts(Tick(2001)).resting, 1);
    let rests = pool.rows(Tick(3000)).into_iter().find(|row| row.address == all[1][0]).unwrap();
    assert_eq!(rests.state, AddressState::Resting(REST - 1000));
    // One that is asked for by name is given at once.
    assert_eq!(pool.allocate(&key(8), &all[1], Tick(3000)).unwrap(), all[1]);
    pool.free(&key(8), Tick(4000));
    assert_eq!(pool.counts(Tick(4000 + REST)).resting, 0);
    assert_eq!(pool.counts(Tick(4000 + REST)).free(), 1);
    pool.free(&key(0), Tick(5000));
    assert!(pool.wake_up(all[0][0]) && !pool.wake_up(all[0][0]));
    // What was never used has nothing to rest from.
    pool.discard(&key(7));
    assert_eq!(pool.counts(Tick(5000)).resting, 1);
}

#[test]
fn another_pod_cidr_keeps_who_is_there_and_tells() {
    let mut pool = pool(&["10.244.1.0/24"]);
    let old = pool.allocate(&key(1), &[], Tick(0)).unwrap();
    assert_eq!(pool.set_ranges(&nets(&["10.244.1.0/24"])), Ok(false));
    assert_eq!(pool.set_ranges(&nets(&["10.244.9.0/24"])), Ok(true));
    assert_eq!(pool.outside().collect::<Vec<_>>(), [(&key(1), old[0])]);
    assert_eq!(pool.allocate(&key(2), &[], Tick(0)).unwrap(), ips(&["10.244.9.2"]));
    let counts = pool.counts(Tick(0));
    assert_eq!((counts.used, counts.outside, counts.capacity), (1, 1, 253));
    assert!(pool.hold(&key(3), &old).is_err(), "it is still taken");
    pool.free(&key(1), Tick(1));
    assert_eq!(pool.outside().count(), 0);
    // What makes no pool leaves the one before.
    let two = pool.set_ranges(&nets(&["10.1.0.0/24", "10.2.0.0/24"]));
    assert!(matches!(two, Err(RangeError::TwoOfOneFamily(..))));
    for small in ["10.1.0.0/31", "10.1.0.0/32", "fd00::/127", "fd00::/128"] {
        assert!(
            matches!(pool.set_ranges(&nets(&[small])), Err(RangeError::TooSmall(_))),
            "{small}"
        );
    }
    assert_eq!(pool.ranges(), nets(&["10.244.9.0/24"]));
    for (small, only) in [("10.1.0.0/30", "10.1.0.2"), ("fd00::/126", "fd00::2")] {
        pool.set_ranges(&nets(&[small])).unwrap();
        assert_eq!(pool.allocate(&key(9), &[], Tick(2)).unwrap(), ips(&[only]));
        pool.discard(&key(9));
    }
}

#[test]
fn what_rests_rests_over_a_restart_too_and_the_search_goes_on_where_it_was() {
    let mut before = pool(&["10.244.1.0/28"]);
    let all: Vec<_> =
        (0..5).map(|number| before.allocate(&key(number), &[], Tick(0)).unwrap()).collect();
    let changes = before.changes();
    before.free(&key(4), Tick(100_000));
    assert_ne!(before.changes(), changes);
    before.free(&key(0), Tick(10_000));
    // Written a second after the last one was freed, and read twenty seconds later.
    let (written, read) = (1_700_000_000_000_u64, 1_700_000_020_000);
    let rests = before.rests(Tick(101_000), written);
    assert_eq!(rests.resting.len(), 1, "one has rested");
    let mut after = Pool::new(Duration::from_millis(REST));
    after.recall(rests.clone(), Tick(5), read);
    for (number, addresses) in all.iter().enumerate().take(4).skip(1) {
        after.hold(&key(number), addresses).unwrap();
    }
    after.set_ranges(&nets(&["10.244.1.0/28"])).unwrap();
    let row = after.rows(Tick(5)).into_iter().find(|row| row.address == all[4][0]).unwrap();
    assert_eq!(row.state, AddressState::Resting(REST - 21_000));
    // What was freed last is not what is given first.
    assert_eq!(after.allocate(&key(7), &[], Tick(6)).unwrap(), ips(&["10.244.1.7"]));
    let rested = Tick(5 + REST - 21_000);
    assert_eq!(after.counts(rested).resting, 0);
    // A clock that went back does not let it rest for years.
    let mut odd = Pool::new(Duration::from_millis(REST));
    odd.recall(rests, Tick(0), 0);
    assert_eq!(odd.rows(Tick(0))[0].state, AddressState::Resting(REST));
    // Without such a memory the search begins behind what is held.
    let mut none = Pool::new(Duration::from_millis(REST));
    none.hold(&key(1), &all[1]).unwrap();
    none.set_ranges(&nets(&["10.244.1.0/28"])).unwrap();
    assert_eq!(none.allocate(&key(2), &[], Tick(0)).unwrap(), all[2]);
}

#[test]
fn what_is_outside_is_known_once_it_is_known_what_is_inside() {
    let mut pool = Pool::new(Duration::ZERO);
    pool.hold(&key(1), &ips(&["10.244.1.7", "192.0.2.7"])).unwrap();
    assert_eq!(pool.exceptions(), None);
    pool.set_ranges(&nets(&["10.244.1.0/24"])).unwrap();
    assert_eq!(pool.exceptions(), Some(nets(&["192.0.2.7/32"])));
    pool.discard(&key(1));
    assert_eq!(pool.exceptions(), Some(Vec::new()));
}

#[derive(Clone, Debug)]
enum Step {
    Any(usize),
    This(usize, u8),
    Held(usize, u8),
    Free(usize),
    Discard(usize),
    Wait(u64),
    Move(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..24_usize;
    prop_oneof![
        8 => who.clone().prop_map(Step::Any),
        2 => (who.clone(), 0..18_u8).prop_map(|(who, index)| Step::This(who, index)),
        1 => (who.clone(), 0..18_u8).prop_map(|(who, index)| Step::Held(who, index)),
        5 => who.clone().prop_map(Step::Free),
        1 => who.prop_map(Step::Discard),
        3 => (0..REST).prop_map(Step::Wait),
        1 => any::<bool>().prop_map(Step::Move),
    ]
}

/// Who holds what, and what was freed when.
#[derive(Default)]
struct Model {
    held: BTreeMap<usize, Vec<IpAddr>>,
    freed: BTreeMap<IpAddr, u64>,
    now: u64,
    moved: bool,
}

impl Model {
    fn at(&self, index: u8) -> IpAddr {
        IpAddr::from([10, 244, u8::from(self.moved), index])
    }

    fn is_held(&self, address: IpAddr) -> bool {
        self.held.values().flatten().any(|held| *held == address)
    }

    fn rests(&self, address: IpAddr) -> bool {
        self.freed.get(&address).is_some_and(|freed| self.now - freed < REST)
    }

    fn for_pods(&self) -> Vec<IpAddr> {
        (2..=14).map(|index| self.at(index)).collect()
    }

    fn check_any(&mut self, who: usize, got: Result<Vec<IpAddr>, PoolError>) {
        let open: Vec<_> =
            self.for_pods().into_iter().filter(|address| !self.is_held(*address)).collect();
        if self.held.contains_key(&who) {
            assert!(got.is_err());
            return;
        }
        let rested: BTreeSet<_> =
            open.iter().filter(|address| !self.rests(**address)).copied().collect();
        match got {
            Err(error) => assert!(open.is_empty() && matches!(error, PoolError::Full { .. })),
            Ok(given) => {
                let [address] = given[..] else { panic!("{given:?}") };
                assert!(open.contains(&address), "{address} twice, or not for pods");
                if rested.is_empty() {
                    let first = open.iter().map(|open| self.freed[open]).min().unwrap();
                    assert_eq!(self.freed[&address], first, "not the one that rested longest");
                } else {
                    assert!(rested.contains(&address), "{address} still rests");
                }
                self.take(who, given);
            }
        }
    }

    fn take(&mut self, who: usize, addresses: Vec<IpAddr>) {
        for address in &addresses {
            self.freed.remove(address);
        }
        self.held.insert(who, addresses);
    }
}

proptest! {
    #[test]
    fn no_address_is_given_twice_and_none_is_lost(steps in prop::collection::vec(step(), 1..200)) {
        let mut pool = pool(&["10.244.0.0/28"]);
        let mut model = Model::default();
        for step in steps {
            let now = Tick(model.now);
            match step {
                Step::Any(who) => model.check_any(who, pool.allocate(&key(who), &[], now)),
                Step::This(who, index) => {
                    let address = model.at(index);
                    let good = (2..=14).contains(&index)
                        && !model.is_held(address)
                        && !model.held.contains_key(&who);
                    let got = pool.allocate(&key(who), &[address], now);
                    prop_assert_eq!(got.is_ok(), good);
                    if good {
                        model.take(who, vec![address]);
                    }
                }
                Step::Held(who, index) => {
                    let address = model.at(index);
                    let good = !model.is_held(address) && !model.held.contains_key(&who);
                    prop_assert_eq!(pool.hold(&key(who), &[address]).is_ok(), good);
                    if good {
                        model.take(who, vec![address]);
                    }
                }
                Step::Free(who) => {
                    let freed = pool.free(&key(who), now);
                    prop_assert_eq!(&freed, &model.held.remove(&who).unwrap_or_default());
                    model.freed.extend(freed.into_iter().map(|address| (address, model.now)));
                }
                Step::Discard(who) => {
                    let freed = pool.discard(&key(who));
                    prop_assert_eq!(freed, model.held.remove(&who).unwrap_or_default());
                }
                Step::Wait(ms) => model.now += ms,
                Step::Move(moved) => {
                    model.moved = moved;
                    let net = if moved { "10.244.1.0/28" } else { "10.244.0.0/28" };
                    pool.set_ranges(&nets(&[net])).unwrap();
                }
            }
            let counts = pool.counts(Tick(model.now));
            let used = model.for_pods().into_iter().filter(|one| model.is_held(*one)).count();
            prop_assert_eq!(counts.used, u64::try_from(used).unwrap());
            prop_assert!(counts.used + counts.resting <= counts.capacity + 3);
        }
        // None is lost: with everybody gone and rested, all are there again.
        for who in 0..24 {
            pool.free(&key(who), Tick(model.now));
        }
        let later = Tick(model.now + REST);
        prop_assert_eq!(pool.counts(later).free(), 13);
        let all: BTreeSet<_> =
            (0..13).map(|who| pool.allocate(&key(who), &[], later).unwrap()).collect();
        prop_assert_eq!(all.len(), 13);
    }
}
