//! The list and the watch, and everything that happens to them.

use std::time::Duration;

use serde_json::json;
use tapestry::cluster::kubernetes::Pace;
use tapestry::cluster::store::Order;

use super::seen::{Running, brisk};
use super::stand_in::{Fault, Kind, StandIn, member, recorded, recorded_nodes};

/// The recorded Nodes: node-1 (this one), node-2 and node-3 as members, one without a podCIDR.
async fn cluster() -> StandIn {
    let nodes = recorded_nodes().into_iter().map(|node| match node["metadata"]["name"].as_str() {
        Some("node-2") => member(node, "192.0.2.2:4789"),
        Some("node-3") => member(node, "192.0.2.3:4789"),
        _ => node,
    });
    StandIn::start(nodes).await
}

async fn running(server: &StandIn) -> Running {
    let mut store = Running::start(server.kubeconfig(), "node-1", brisk());
    store.until("all members", |seen| seen.names() == ["node-1", "node-2", "node-3"]).await;
    server.until("a watch", |server| server.count(Kind::Watch) > 0).await;
    store
}

#[tokio::test]
async fn all_pages_are_one_list_and_the_watch_goes_on_from_it() {
    let server = cluster().await;
    let mut store = running(&server).await;
    assert_eq!(store.seen.lists, 1);
    assert_eq!(store.seen.order, ["node-1", "node-2", "node-3"], "by age, then name");
    let lists = server.uris(Kind::List);
    assert_eq!(lists, ["/api/v1/nodes?limit=2", "/api/v1/nodes?limit=2&continue=239-node-2"]);
    let watch = &server.uris(Kind::Watch)[0];
    let expected = "/api/v1/nodes?watch=1&resourceVersion=239&allowWatchBookmarks=true&";
    assert!(watch.starts_with(expected), "{watch}");

    server.put({
        let mut node = member(recorded_nodes()[2].clone(), "192.0.2.4:4789");
        node["metadata"]["name"] = "node-4".into();
        node["metadata"]["uid"] = "u4".into();
        node["metadata"]["annotations"]["tapestry.dev/node-uid"] = "u4".into();
        node
    });
    store.until("an added one", |seen| seen.vtep("node-4").is_some()).await;
    server.change("node-2", |node| {
        node["metadata"]["annotations"]["tapestry.dev/vtep"] = "192.0.2.22:4789".into();
    });
    store.until("a change", |seen| seen.vtep("node-2").unwrap() == "192.0.2.22:4789").await;
    server.delete("node-4");
    store.until("a deletion", |seen| seen.vtep("node-4").is_none()).await;
    let puts = store.seen.puts;
    server.change("node-3", |node| node["metadata"]["labels"]["x"] = "y".into());
    let answers = store.seen.answers;
    store.until("an answer", |seen| seen.answers > answers).await;
    assert_eq!(store.seen.puts, puts, "what we do not look at is no news");
    assert_eq!(server.count(Kind::Watch), 1);
    store.hang_up().await;
}

#[tokio::test]
async fn a_watch_goes_on_from_the_last_bookmark() {
    let server = cluster().await;
    let mut store = running(&server).await;
    // Versions of other kinds of objects pass, of which only a bookmark tells.
    server.compact();
    let answers = store.so_far().answers;
    server.bookmark();
    store.until("the bookmark", |seen| seen.answers > answers).await;
    server.end_watches();
    server.until("another watch", |server| server.count(Kind::Watch) > 1).await;
    server.change("node-2", |node| {
        node["metadata"]["annotations"]["tapestry.dev/vtep"] = "192.0.2.22:4789".into();
    });
    store.until("a change", |seen| seen.vtep("node-2").unwrap() == "192.0.2.22:4789").await;
    assert_eq!(store.seen.lists, 1, "nothing had to be listed anew");
}

#[tokio::test]
async fn an_event_that_is_cut_is_heard_whole_on_the_next_watch() {
    let server = cluster().await;
    let mut store = running(&server).await;
    let line = recorded("nodes-watch.jsonl");
    server.cut(&line[..700]);
    store.until("trouble or an answer", |seen| seen.troubles > 0).await;
    server.change("node-2", |node| {
        node["metadata"]["annotations"]["tapestry.dev/vtep"] = "192.0.2.22:4789".into();
    });
    store.until("a change", |seen| seen.vtep("node-2").unwrap() == "192.0.2.22:4789").await;
    assert_eq!(store.seen.lists, 1);
    assert_eq!(store.seen.names(), ["node-1", "node-2", "node-3"]);
}

#[tokio::test]
async fn a_compacted_version_leads_to_a_list() {
    let server = cluster().await;
    let mut store = running(&server).await;
    // While nobody watches, a node goes and its deletion is compacted: only a list tells.
    server.fault(Kind::Watch, Fault::Events(String::new()));
    server.end_watches();
    server.delete("node-3");
    server.compact();
    let seen = store.until("a new list", |seen| seen.lists > 1).await;
    assert_eq!(seen.names(), ["node-1", "node-2"]);
    assert_eq!(seen.troubles, 0, "that is how it is meant to be");
}

#[tokio::test]
async fn an_expired_answer_to_the_watch_itself_leads_to_a_list() {
    let server = cluster().await;
    let mut store = running(&server).await;
    server.fault(Kind::Watch, Fault::Answer(410, recorded("nodes-list-exact-410.json")));
    server.end_watches();
    store.until("a new list", |seen| seen.lists > 1).await;
}

#[tokio::test]
async fn an_expired_continue_token_begins_the_list_anew() {
    let server = cluster().await;
    server.fault(Kind::List, Fault::Answer(200, recorded("nodes-list-page1.json")));
    // The token of that page is of the recorded server: the stand-in has to refuse it.
    server.fault(Kind::List, Fault::Answer(410, recorded("nodes-list-continue-410.json")));
    let store = running(&server).await;
    assert_eq!(store.seen.lists, 1, "half a list is never reported");
    let lists = server.uris(Kind::List);
    assert_eq!(lists.len(), 4, "{lists:?}");
    assert_eq!(lists[2], "/api/v1/nodes?limit=2");
}

#[tokio::test]
async fn a_list_whose_tokens_always_expire_is_asked_for_in_one_piece() {
    let server = cluster().await;
    server.hasty(true);
    let mut store = Running::start(server.kubeconfig(), "node-1", brisk());
    store.until("a list", |seen| seen.lists == 1).await;
    let lists = server.uris(Kind::List);
    assert_eq!(lists[4], "/api/v1/nodes", "{lists:?}");
}

#[tokio::test]
async fn a_watch_that_the_server_cannot_serve_is_not_asked_for_without_end() {
    let server = cluster().await;
    for _ in 0..6 {
        server.fault(Kind::Watch, Fault::Events(recorded("nodes-watchlist-refused.jsonl")));
    }
    let mut store = Running::start(server.kubeconfig(), "node-1", brisk());
    let seen = store.until("trouble", |seen| seen.troubles > 0).await;
    assert!(seen.trouble.as_ref().unwrap().contains("RequestWatchProgress"), "{seen:?}");
    server.until("all of them", |server| server.count(Kind::Watch) > 6).await;
    // After some failures it is listed, in case that helps.
    store.until("the way out", |seen| seen.trouble.is_none() && seen.lists > 1).await;
}

#[tokio::test]
async fn watches_that_end_at_once_are_made_ever_more_rarely() {
    let server = cluster().await;
    for _ in 0..1000 {
        server.fault(Kind::Watch, Fault::Events(String::new()));
    }
    let mut store = Running::start(server.kubeconfig(), "node-1", brisk());
    store.until("a list", |seen| seen.lists == 1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    // 5, 10, 20, 40, 50, 50, … ms, each at least half of it.
    let watches = server.count(Kind::Watch);
    assert!((5..=26).contains(&watches), "{watches}");
}

#[tokio::test]
async fn an_event_that_is_none_leads_to_a_list() {
    let server = cluster().await;
    let mut store = running(&server).await;
    server.fault(Kind::Watch, Fault::Events("<html>a proxy's page</html>\n".into()));
    server.end_watches();
    let seen = store.until("trouble", |seen| seen.troubles > 0).await;
    assert!(seen.trouble.as_ref().unwrap().contains("makes no sense"), "{seen:?}");
    store.until("a new list", |seen| seen.lists > 1).await;
}

#[tokio::test]
async fn a_malformed_node_costs_only_itself_in_the_list_and_the_watch() {
    let server = cluster().await;
    server.change("node-2", |node| node["spec"]["podCIDRs"] = json!("10.244.2.0/24"));
    let mut store = Running::start(server.kubeconfig(), "node-1", brisk());
    let seen = store.until("a list", |seen| seen.lists == 1).await;
    assert!(seen.members["node-2"].is_err() && seen.members["node-3"].is_ok(), "{seen:?}");
    server.until("a watch", |server| server.count(Kind::Watch) > 0).await;
    server.change("node-2", |node| node["spec"]["podCIDRs"] = json!(["10.244.2.0/24"]));
    store.until("it is mended", |seen| seen.vtep("node-2").is_some()).await;
    server.change("node-3", |node| {
        node["metadata"]["annotations"]["tapestry.dev/vtep"] = "nonsense".into();
    });
    let seen = store.until("the other is broken", |seen| seen.members["node-3"].is_err()).await;
    assert!(seen.members["node-2"].is_ok(), "{seen:?}");
    assert_eq!((seen.lists, server.count(Kind::Watch)), (1, 1));
}

#[tokio::test]
async fn a_token_that_is_no_longer_accepted_is_read_anew() {
    let server = cluster().await;
    let mut store = running(&server).await;
    server.require("second");
    server.end_watches();
    let seen = store.until("refusal", |seen| seen.trouble.is_some()).await;
    assert!(seen.trouble.as_ref().unwrap().contains("Unauthorized"), "{seen:?}");
    server.write_kubeconfig("second");
    store.until("acceptance", |seen| seen.trouble.is_none()).await;
    assert_eq!(store.seen.lists, 1, "the watch goes on where it was");
}

#[tokio::test]
async fn a_kubeconfig_that_is_not_there_yet_is_waited_for() {
    let server = cluster().await;
    std::fs::rename(server.kubeconfig(), server.kubeconfig().with_extension("away")).unwrap();
    let mut store = Running::start(server.kubeconfig(), "node-1", brisk());
    let seen = store.until("trouble", |seen| seen.trouble.is_some()).await;
    assert!(seen.trouble.as_ref().unwrap().contains("kubeconfig"), "{seen:?}");
    server.write_kubeconfig("first");
    store.until("a list", |seen| seen.lists == 1).await;
}

#[tokio::test]
async fn a_server_that_goes_away_and_comes_back_costs_nothing_but_time() {
    let mut server = cluster().await;
    let mut store = running(&server).await;
    server.go_away();
    let seen = store.until("trouble", |seen| seen.troubles > 2).await;
    assert!(seen.trouble.as_ref().unwrap().contains("cannot be reached"), "{seen:?}");
    assert_eq!(seen.names(), ["node-1", "node-2", "node-3"], "what is known stays");
    server.change("node-2", |node| {
        node["metadata"]["annotations"]["tapestry.dev/vtep"] = "192.0.2.22:4789".into();
    });
    server.come_back().await;
    store.until("the change", |seen| seen.vtep("node-2").unwrap() == "192.0.2.22:4789").await;
    assert_eq!((store.seen.lists, store.seen.trouble.clone()), (1, None));
}

#[tokio::test]
async fn a_silent_server_is_asked_whether_it_is_there() {
    let server = cluster().await;
    let pace = Pace { idle: Duration::from_millis(20), ..brisk() };
    let mut store = Running::start(server.kubeconfig(), "node-1", pace);
    store.until("a list", |seen| seen.lists == 1).await;
    server.until("two questions", |server| server.count(Kind::Get) >= 2).await;
    assert_eq!(server.count(Kind::Watch), 1);
}

#[tokio::test]
async fn a_busy_server_is_left_alone_for_as_long_as_it_asks() {
    let server = cluster().await;
    let mut status: serde_json::Value =
        serde_json::from_str(&recorded("nodes-list-exact-410.json")).unwrap();
    status["code"] = 429.into();
    status["details"] = json!({"retryAfterSeconds": 1});
    server.fault(Kind::List, Fault::Answer(429, status.to_string()));
    let pace = Pace { most: Duration::from_millis(300), ..brisk() };
    let mut store = Running::start(server.kubeconfig(), "node-1", pace);
    store.until("trouble", |seen| seen.trouble.is_some()).await;
    let began = std::time::Instant::now();
    store.until("a list", |seen| seen.lists == 1).await;
    assert!(began.elapsed() > Duration::from_millis(250), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_list_is_made_when_it_is_ordered() {
    let server = cluster().await;
    let mut store = running(&server).await;
    store.order(Order::Relist).await;
    store.until("a list", |seen| seen.lists == 2).await;
}

#[tokio::test]
async fn whoever_hangs_up_ends_it() {
    let mut server = cluster().await;
    let store = running(&server).await;
    store.hang_up().await;
    server.go_away();
    let mut store = Running::start(server.kubeconfig(), "node-1", brisk());
    store.until("trouble", |seen| seen.troubles > 3).await;
    store.hang_up().await;
}
