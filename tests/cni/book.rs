//! The book of attachments with a host that only remembers: each step, and what becomes of it when
//! the next one never comes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use encap::MacAddr;
use fdb::Tick;
use ipnet::IpNet;
use tapestry::attach::protocol::{
    Answer, Expected, Refused, RefusedKind, Request, Reserve, Reserved,
};
use tapestry::attach::{Book, Host, Key, Place, PodRow, Pool, Ticket, Tombstone};
use tapestry::config::{Name, PortSpec};
use tapestry::device::netns::NetnsIdentity;
use tapestry::device::offload::OffloadWish;

const NOW: Tick = Tick(1_000_000);

/// Ports as they stand, and in which order what was done to them.
#[derive(Default)]
struct Remembering {
    ports: BTreeMap<String, PortSpec>,
    gone: Vec<String>,
    /// A device that cannot be removed.
    stuck: Option<String>,
    /// Ports that have no row: on record only, or not even there.
    hidden: bool,
    full_disk: bool,
}

impl Remembering {
    fn row(&self, port: &str) -> Option<PodRow> {
        let spec = self.ports.get(port)?;
        let gone = self.gone.contains(&port.to_owned());
        Some(PodRow {
            port: port.to_owned(),
            pod: spec.pod.clone()?,
            netns: spec.netns.clone()?,
            mac: spec.mac.as_deref()?.parse().ok()?,
            trouble: gone.then(|| "gone".to_owned()),
            gone,
        })
    }
}

impl Host for Remembering {
    fn place(&self, segment: Option<&str>) -> Result<Place, Refused> {
        let name = segment.unwrap_or("pods");
        if !["pods", "blue"].contains(&name) {
            return Err(Refused::new(RefusedKind::NotFound, "no such segment"));
        }
        Ok(Place {
            node: Name::new("a").unwrap(),
            segment: name.to_owned(),
            routed: name == "pods",
            mtu: 1450,
            queues: 1,
            owner: 0,
            txqueuelen: None,
            offload: OffloadWish::Auto,
        })
    }

    fn check(&self, _: &PortSpec) -> Result<(), Refused> {
        Ok(())
    }

    fn add(&mut self, spec: &PortSpec, _: Vec<OwnedFd>, _: u32) -> Result<(), Refused> {
        if self.full_disk {
            return Err(Refused::new(RefusedKind::Failed, "no space left on device"));
        }
        self.ports.insert(spec.name.clone(), spec.clone());
        Ok(())
    }

    fn remove(&mut self, port: &str) -> Result<(), Refused> {
        if self.stuck.as_deref() == Some(port) {
            return Err(Refused::new(RefusedKind::Failed, "busy"));
        }
        self.ports.remove(port);
        Ok(())
    }

    fn pod(&self, port: &str) -> Option<PodRow> {
        self.row(port)
    }

    fn pods(&self) -> Vec<PodRow> {
        let shown = self.ports.keys().filter(|_| !self.hidden);
        shown.filter_map(|port| self.row(port)).collect()
    }
}

struct Case {
    book: Book,
    host: Remembering,
}

fn key(container: &str) -> Key {
    let [network, container, ifname] = ["pods", container, "eth0"].map(str::to_owned);
    Key { network, container, ifname }
}

fn wish(container: &str) -> Reserve {
    Reserve {
        key: key(container),
        netns: format!("/run/netns/{container}").into(),
        identity: NetnsIdentity { dev: 4, ino: 1 },
        segment: None,
        wanted: Vec::new(),
        given: Vec::new(),
        routes: Vec::new(),
        mac: None,
        mtu: None,
        host_ports: Vec::new(),
        masquerade: false,
        spoof: false,
    }
}

impl Case {
    fn new() -> Self {
        let mut pool = Pool::new(Duration::from_secs(60));
        let nets: Vec<IpNet> =
            ["10.244.1.0/24", "fd00::/64"].map(|text| text.parse().unwrap()).to_vec();
        pool.set_ranges(&nets).unwrap();
        Self { book: Book::new(pool), host: Remembering::default() }
    }

    fn ask(&mut self, ticket: u64, request: Request) -> Answer {
        let fds = match request {
            Request::Attach { .. } => vec![std::fs::File::open("/dev/null").unwrap().into()],
            _ => Vec::new(),
        };
        self.book.answer(Ticket(ticket), request, fds, &mut self.host, NOW)
    }

    fn refused(&mut self, ticket: u64, request: Request) -> Refused {
        match self.ask(ticket, request) {
            Answer::Refused(refused) => refused,
            other => panic!("{other:?}"),
        }
    }

    fn reserve(&mut self, ticket: u64, wish: Reserve) -> Reserved {
        match self.ask(ticket, Request::Reserve(Box::new(wish))) {
            Answer::Reserved(reserved) => *reserved,
            other => panic!("{other:?}"),
        }
    }

    fn add(&mut self, ticket: u64, wish: Reserve) -> Reserved {
        let reserved = self.reserve(ticket, wish);
        assert_eq!(self.ask(ticket, Request::Attach { ifindex: 2 }), Answer::Done);
        assert_eq!(self.ask(ticket, Request::Commit), Answer::Done);
        reserved
    }

    fn release(&mut self, container: &str) -> usize {
        match self.ask(99, Request::Release { key: key(container) }) {
            Answer::Released { keys, .. } => keys.len(),
            other => panic!("{other:?}"),
        }
    }

    fn counts(&self) -> (u64, u64) {
        let counts = self.book.pool.counts(NOW);
        (counts.used, counts.resting)
    }
}

#[test]
fn a_whole_walk_and_back() {
    let mut case = Case::new();
    let reserved = case.add(1, wish("a"));
    let shown: Vec<String> = reserved.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["10.244.1.2/32", "fd00::2/128"]);
    assert_eq!(reserved.mac, Some(MacAddr([0x0a, 0x7a, 10, 244, 1, 2])));
    assert_eq!((reserved.gateways.len(), reserved.routes.len()), (2, 3));
    case.book.abandon(Ticket(1), &mut case.host, NOW);
    assert_eq!((case.host.ports.len(), case.counts()), (1, (1, 0)), "it was committed");
    let pod = case.host.ports.values().next().unwrap().pod.clone().unwrap();
    assert_eq!((pod.key, pod.routed), (key("a"), true));
    assert_eq!((case.release("a"), case.release("a")), (1, 0));
    assert_eq!((case.host.ports.len(), case.counts()), (0, (0, 1)));
    let tally = case.book.operations;
    assert_eq!((tally.add.done, tally.del.done), (1, 2));
}

#[test]
fn what_is_not_committed_goes_with_its_connection() {
    let mut case = Case::new();
    let first = case.reserve(1, wish("a"));
    case.book.abandon(Ticket(1), &mut case.host, NOW);
    assert_eq!((case.book.len(), case.counts()), (0, (0, 0)), "never seen, so it does not rest");
    case.reserve(2, wish("a"));
    assert_eq!(case.ask(2, Request::Attach { ifindex: 2 }), Answer::Done);
    case.book.abandon(Ticket(2), &mut case.host, NOW);
    assert_eq!((case.book.len(), case.host.ports.len(), case.counts()), (0, 0, (0, 1)));
    // It may have been seen, and so it rests.
    assert_ne!(case.add(3, wish("a")).addresses, first.addresses);
}

#[test]
fn steps_out_of_turn_are_refused() {
    let mut case = Case::new();
    let malformed = RefusedKind::Malformed;
    assert_eq!(case.refused(1, Request::Attach { ifindex: 2 }).kind, malformed);
    assert_eq!(case.refused(1, Request::Commit).kind, malformed);
    case.reserve(1, wish("a"));
    // Of another connection.
    assert_eq!(case.refused(2, Request::Attach { ifindex: 2 }).kind, malformed);
    assert_eq!(case.refused(2, Request::Reserve(Box::new(wish("a")))).kind, RefusedKind::Exists);
    let none = Request::Attach { ifindex: 2 };
    let answer = case.book.answer(Ticket(1), none, Vec::new(), &mut case.host, NOW);
    assert!(matches!(answer, Answer::Refused(refused) if refused.kind == malformed));
    assert!(case.book.is_empty(), "a broken walk is taken back");
}

#[test]
fn the_same_container_again_is_told_from_one_that_was_forgotten() {
    let mut case = Case::new();
    let first = case.add(1, wish("a"));
    assert_eq!(case.refused(2, Request::Reserve(Box::new(wish("a")))).kind, RefusedKind::Exists);
    assert_eq!(case.counts(), (1, 0));
    let elsewhere = Reserve { identity: NetnsIdentity { dev: 4, ino: 2 }, ..wish("a") };
    let again = case.add(3, elsewhere);
    assert_ne!(again.addresses, first.addresses);
    assert_eq!((case.host.ports.len(), case.counts()), (1, (1, 1)));
}

#[test]
fn a_full_disk_leaves_nothing_and_a_stuck_device_keeps_its_address() {
    let mut case = Case::new();
    case.host.full_disk = true;
    case.reserve(1, wish("a"));
    let refused = case.refused(1, Request::Attach { ifindex: 2 });
    assert!(refused.message.contains("no space"), "{refused}");
    assert_eq!((case.book.len(), case.counts()), (0, (0, 0)));
    case.host.full_disk = false;
    let port = case.add(2, wish("a")).port;
    case.host.stuck = Some(port);
    assert_eq!(case.refused(3, Request::Release { key: key("a") }).kind, RefusedKind::Failed);
    assert_eq!((case.book.len(), case.counts()), (1, (1, 0)));
    case.host.stuck = None;
    assert_eq!((case.release("a"), case.counts()), (1, (0, 1)));
}

#[test]
fn a_removal_that_failed_is_tried_again_by_itself() {
    let mut case = Case::new();
    let look = |case: &mut Case, at| -> Vec<bool> {
        let leaks = case.book.find_leaks(&mut case.host, Tick(NOW.0 + at), 10_000);
        leaks.into_iter().map(|(_, released)| released.is_ok()).collect()
    };
    // Of a release, and of a connection that ended before its commit.
    let port = case.add(1, wish("a")).port;
    case.host.stuck = Some(port);
    case.refused(2, Request::Release { key: key("a") });
    assert_eq!(case.book.orphans().collect::<Vec<_>>(), [&key("a")]);
    assert_eq!((look(&mut case, 9_999), look(&mut case, 10_000)), (vec![], vec![false]));
    // Not at each look, but some time later.
    assert_eq!((look(&mut case, 10_001), look(&mut case, 20_000)), (vec![], vec![false]));
    case.host.stuck = None;
    assert_eq!((look(&mut case, 30_000), case.counts()), (vec![true], (0, 1)));
    let port = case.reserve(3, wish("b")).port;
    assert_eq!(case.ask(3, Request::Attach { ifindex: 2 }), Answer::Done);
    case.host.stuck = Some(port);
    case.book.abandon(Ticket(3), &mut case.host, NOW);
    case.host.stuck = None;
    assert_eq!((look(&mut case, 0), look(&mut case, 10_000)), (vec![], vec![true]));
    assert!(case.book.is_empty());
    // The same container may come again at once.
    let port = case.add(4, wish("c")).port;
    case.host.stuck = Some(port);
    case.refused(5, Request::Release { key: key("c") });
    case.host.stuck = None;
    case.add(6, wish("c"));
}

#[test]
fn an_attachment_that_nobody_knows_has_nothing_but_its_address() {
    let mut case = Case::new();
    case.add(1, wish("a"));
    case.host.hidden = true;
    let look = |case: &mut Case, at| case.book.find_leaks(&mut case.host, Tick(at), 10_000).len();
    assert_eq!((look(&mut case, 0), look(&mut case, 9_999), look(&mut case, 10_000)), (0, 0, 1));
    assert_eq!(case.book.len(), 0);
}

#[test]
fn a_hundred_at_once_have_a_hundred_addresses() {
    let mut case = Case::new();
    let mut seen = std::collections::BTreeSet::new();
    for number in 0..100 {
        let reserved = case.reserve(number, wish(&format!("c{number}")));
        assert!(reserved.addresses.into_iter().all(|net| seen.insert(net)));
    }
    for number in 0..100 {
        assert_eq!(case.ask(number, Request::Attach { ifindex: 2 }), Answer::Done);
        assert_eq!(case.ask(number, Request::Commit), Answer::Done);
    }
    assert_eq!((seen.len(), case.host.ports.len()), (200, 100));
}

#[test]
fn given_addresses_are_kept_apart_from_our_own() {
    let mut case = Case::new();
    let given = vec!["10.244.1.2/24".parse().unwrap()];
    let routed = case.add(1, Reserve { given: given.clone(), ..wish("a") });
    assert_eq!(routed.addresses, ["10.244.1.2/32".parse::<IpNet>().unwrap()]);
    assert_eq!(case.add(2, wish("b")).addresses[0].to_string(), "10.244.1.3/32");
    let blue = Reserve { given: vec!["10.9.0.5/24".parse().unwrap()], ..wish("c") };
    let plain = case.add(3, Reserve { segment: Some("blue".to_owned()), ..blue });
    assert_eq!((plain.addresses[0].to_string(), plain.gateways.len()), ("10.9.0.5/24".into(), 0));
    // Bridged ones are of another world, whatever they are: neither held nor to be published.
    let same = Reserve { given: vec!["10.244.1.4/24".parse().unwrap()], ..wish("f") };
    let same = case.add(7, Reserve { segment: Some("blue".to_owned()), ..same });
    assert_eq!(same.addresses[0].to_string(), "10.244.1.4/24");
    assert_eq!(case.add(8, wish("g")).addresses[0].to_string(), "10.244.1.4/32");
    assert_eq!(case.book.pool.exceptions(), Some(Vec::new()));
    let rows = case.host.pods();
    let mut next = Case::new();
    let restored = rows.iter().map(|row| next.book.restore(row));
    assert_eq!(restored.filter(Result::is_err).count(), 0);
    assert_eq!(next.book.pool.exceptions(), Some(Vec::new()));
    let twice = Request::Reserve(Box::new(Reserve { given, ..wish("d") }));
    let refused = case.refused(4, twice);
    assert!(refused.message.contains("taken by interface eth0 of container a"), "{refused}");
    let blue = Reserve { segment: Some("blue".to_owned()), ..wish("e") };
    let wanted = Reserve { wanted: vec![IpAddr::from([10, 9, 0, 6])], ..blue.clone() };
    let refused = case.refused(5, Request::Reserve(Box::new(wanted)));
    assert!(refused.message.contains("ipam"), "{refused}");
    assert!(case.add(6, blue).addresses.is_empty(), "a bare attachment has none");
}

#[test]
fn garbage_is_of_its_own_network_and_committed() {
    let mut case = Case::new();
    for container in ["a", "b"] {
        case.add(1, wish(container));
    }
    let mut other = wish("a");
    other.key.network = "other".to_owned();
    case.add(1, other);
    case.reserve(2, wish("coming"));
    let gc = Request::Gc { network: "pods".into(), valid: vec![("b".into(), "eth0".into())] };
    let released = Answer::Released { keys: vec![key("a")], failed: Vec::new() };
    assert_eq!(case.ask(3, gc), released);
    assert_eq!((case.book.len(), case.host.ports.len()), (3, 2));
}

#[test]
fn what_garbage_could_be_removed_is_told_beside_what_could_not() {
    let mut case = Case::new();
    let stuck = case.add(1, wish("a")).port;
    case.add(2, wish("b"));
    case.host.stuck = Some(stuck);
    let gc = Request::Gc { network: "pods".into(), valid: Vec::new() };
    let Answer::Released { keys, failed } = case.ask(3, gc) else { panic!() };
    assert_eq!((keys, failed.len()), (vec![key("b")], 1));
    assert!(failed[0].contains("container a") && failed[0].contains("busy"), "{failed:?}");
    assert_eq!((case.book.operations.gc.done, case.book.operations.gc.refused), (0, 1));
}

#[test]
fn a_namespace_that_is_gone_for_long_is_a_leak_and_one_that_comes_back_is_not() {
    let mut case = Case::new();
    let port = case.add(1, wish("a")).port;
    case.add(2, wish("b"));
    let look = |case: &mut Case, at| case.book.find_leaks(&mut case.host, Tick(at), 10_000).len();
    case.host.gone = vec![port.clone()];
    assert_eq!(look(&mut case, 0), 0);
    assert_eq!(case.book.orphans().collect::<Vec<_>>(), [&key("a")]);
    assert_eq!(look(&mut case, 9_999), 0);
    case.host.gone.clear();
    assert_eq!(look(&mut case, 10_000), 0);
    case.host.gone = vec![port];
    assert_eq!((look(&mut case, 20_000), look(&mut case, 29_999)), (0, 0));
    assert_eq!(look(&mut case, 30_000), 1);
    assert_eq!((case.host.ports.len(), case.book.operations.orphans), (1, 1));
}

#[test]
fn a_tombstone_is_for_what_was_there_when_it_was_left() {
    let mut case = Case::new();
    case.add(1, wish("a"));
    let stone = Tombstone::now(key("a")).unwrap();
    let before = Tombstone { at_ms: 1, ..stone.clone() };
    let mut bury =
        |stone: &Tombstone, boot: &str| case.book.bury(stone, boot, &mut case.host, NOW).unwrap();
    assert!(!bury(&before, &stone.boot_id), "attached after it was left");
    assert!(!bury(&stone, "another boot"));
    assert!(bury(&stone, &stone.boot_id) && !bury(&stone, &stone.boot_id));
}

#[test]
fn what_the_journal_has_is_what_there_is() {
    let mut case = Case::new();
    let reserved = case.add(1, wish("a"));
    let rows = case.host.pods();
    let mut next = Case { host: case.host, ..Case::new() };
    next.book.restore(&rows[0]).unwrap();
    assert!(next.book.restore(&PodRow { port: "x".into(), ..other(&rows[0]) }).is_err());
    assert_ne!(next.add(1, wish("b")).addresses, reserved.addresses);
    let good = Expected { mac: reserved.mac, ..Expected::default() };
    let check = |expected| Request::Check { key: key("a"), expected };
    assert_eq!(next.ask(2, check(good)), Answer::Done);
    let wrong = Expected { addresses: vec![IpAddr::from([1, 2, 3, 4])], ..Expected::default() };
    assert_eq!(next.refused(2, check(wrong)).kind, RefusedKind::Differs);
    let missing = Request::Check { key: key("z"), expected: Expected::default() };
    assert_eq!(next.refused(2, missing).kind, RefusedKind::NotFound);
    assert_eq!(next.release("a"), 1);
}

/// The same attachment under another key.
fn other(row: &PodRow) -> PodRow {
    let mut row = row.clone();
    row.pod.key = key("other");
    row
}

#[test]
fn names_that_would_be_paths_are_refused() {
    let mut case = Case::new();
    for bad in ["", "../a", "a/b", "a\0"] {
        let request = Request::Reserve(Box::new(wish(bad)));
        assert_eq!(case.refused(1, request).kind, RefusedKind::Invalid, "{bad:?}");
        let request = Request::Release { key: key(bad) };
        assert_eq!(case.refused(1, request).kind, RefusedKind::Invalid, "{bad:?}");
    }
    let away = Request::Status { segment: Some("nowhere".into()), delegated: false };
    assert_eq!(case.refused(1, away).kind, RefusedKind::NotFound);
}
