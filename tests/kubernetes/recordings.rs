//! The recorded answers, as the store reads them.

use tapestry::cluster::kubernetes::object::{Meaning, Object};
use tapestry::cluster::kubernetes::wire::{Event, event, page};

use super::stand_in::recorded;

fn names(body: &str) -> (Vec<String>, String, bool) {
    let page = page(body.as_bytes()).unwrap();
    let names = page.nodes.iter().map(|node| node.as_ref().unwrap().metadata.name.clone());
    (names.collect(), page.version, page.next.is_some())
}

#[test]
fn a_list_whole_and_in_pages() {
    let (all, version, more) = names(&recorded("nodes-list.json"));
    assert_eq!(all, ["node-1", "node-2", "node-3", "node-without-cidr"]);
    assert_eq!((version.as_str(), more), ("239", false));
    let (first, _, more) = names(&recorded("nodes-list-page1.json"));
    assert!(more);
    let (second, version, more) = names(&recorded("nodes-list-page2.json"));
    assert_eq!(([first, second].concat(), version.as_str(), more), (all, "239", false));
}

#[test]
fn a_watch_with_its_bookmarks() {
    let events: Vec<String> = recorded("nodes-watch.jsonl")
        .lines()
        .map(|line| match event(line.as_bytes()).unwrap() {
            Event::Put(object) => {
                format!("+{}@{}", object.metadata.name, object.metadata.resource_version)
            }
            Event::Deleted(object) => format!("-{}", object.metadata.name),
            Event::Bookmark(version) => format!("@{version}"),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected =
        ["+node-1@240", "+node-2@241", "+node-4@242", "+node-3@243", "-node-4", "@244", "@244"];
    assert_eq!(events, expected);
    for line in recorded("nodes-watch-from-old.jsonl").lines() {
        assert!(matches!(event(line.as_bytes()), Ok(Event::Put(_) | Event::Deleted(_))), "{line}");
    }
}

#[test]
fn a_refused_watch_list_is_a_failure_of_the_server() {
    let line = recorded("nodes-watchlist-refused.jsonl");
    let Event::Failed(refusal) = event(line.trim_end().as_bytes()).unwrap() else { panic!() };
    assert_eq!((refusal.code, refusal.reason.as_str()), (500, "InternalError"));
}

#[test]
fn a_nodes_share_and_addresses() {
    let body = recorded("node-patch-strategic.json");
    let object = Object::parse(&body).unwrap();
    let shares: Vec<String> = object.shares().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(shares, ["10.244.1.0/24", "fd00:10:244:1::/64"]);
    assert_eq!(object.internal_addresses(), ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(object.meaning(), Meaning::Stranger, "annotations of others");
}
