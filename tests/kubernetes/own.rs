//! The own Node: found late, without a share, written, contested, given back.

use serde_json::{Value, json};
use tapestry::cluster::store::{Order, Release};
use tokio::sync::oneshot;

use super::seen::{Running, brisk, own};
use super::stand_in::{Fault, Kind, StandIn, recorded, recorded_nodes};

fn named(name: &str) -> Value {
    recorded_nodes().into_iter().find(|node| node["metadata"]["name"] == name).unwrap()
}

fn start(server: &StandIn, node: &str) -> Running {
    Running::start(server.kubeconfig(), node, brisk())
}

fn annotation(server: &StandIn, key: &str) -> Option<String> {
    let node = server.node("node-1");
    node["metadata"]["annotations"][key].as_str().map(ToOwned::to_owned)
}

fn condition(server: &StandIn) -> Option<String> {
    let node = server.node("node-1");
    let conditions = node["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|found| found["type"] == "NetworkUnavailable")?;
    found["status"].as_str().map(ToOwned::to_owned)
}

#[tokio::test]
async fn annotations_are_written_once_and_others_stay() {
    let mut node = named("node-1");
    node["metadata"]["annotations"] = json!({"example.org/other": "stays"});
    let server = StandIn::start([node]).await;
    let mut store = start(&server, "node-1");
    let seen = store.until("membership", |seen| seen.vtep("node-1").is_some()).await;
    let own_record = seen.members["node-1"].clone().unwrap();
    assert_eq!(own_record.identity, "machine-of-node-1");
    assert_eq!(own_record.pod_cidrs.len(), 2);
    server.until("the annotations", |server| server.count(Kind::Patch) > 0).await;
    assert_eq!(annotation(&server, "tapestry.dev/vtep").unwrap(), "192.0.2.1:4789");
    assert_eq!(annotation(&server, "tapestry.dev/addresses").unwrap(), "198.51.100.1");
    assert_eq!(annotation(&server, "example.org/other").unwrap(), "stays");
    server.until("a watch", |server| server.count(Kind::Watch) > 0).await;
    // Another start finds them as they should be.
    store.hang_up().await;
    let mut store = start(&server, "node-1");
    store.until("membership", |seen| seen.vtep("node-1").is_some()).await;
    server.until("a watch", |server| server.count(Kind::Watch) > 1).await;
    server.bookmark();
    let answers = store.seen.answers;
    store.until("an answer", |seen| seen.answers > answers).await;
    assert_eq!(server.patches().len(), 1, "{:?}", server.patches());
}

#[tokio::test]
async fn what_somebody_takes_away_is_written_again() {
    let server = StandIn::start([named("node-1")]).await;
    let _store = start(&server, "node-1");
    server.until("the annotations", |server| server.patches().len() == 1).await;
    server.until("a watch", |server| server.count(Kind::Watch) > 0).await;
    server.change("node-1", |node| {
        node["metadata"]["annotations"].as_object_mut().unwrap().remove("tapestry.dev/vtep");
    });
    server.until("again", |server| server.patches().len() == 2).await;
    let patch = &server.patches()[1].1["metadata"]["annotations"];
    assert_eq!(*patch, json!({"tapestry.dev/vtep": "192.0.2.1:4789"}), "only what differs");
}

#[tokio::test]
async fn the_condition_follows_the_network_and_nothing_else() {
    let server = StandIn::start([named("node-1")]).await;
    let mut store = start(&server, "node-1");
    store.until("membership", |seen| seen.vtep("node-1").is_some()).await;
    server.until("the annotations", |server| server.count(Kind::Patch) == 1).await;
    server.until("a watch", |server| server.count(Kind::Watch) > 0).await;
    assert_eq!(condition(&server), None, "it does not work yet");
    store.works.send_replace(true);
    server.until("it works", |server| condition(server).as_deref() == Some("False")).await;
    assert_eq!(server.patches()[1].0, "node-1/status");
    store.works.send_replace(false);
    server.change("node-1", |node| node["metadata"]["labels"]["x"] = "y".into());
    server.bookmark();
    let answers = store.so_far().answers;
    store.until("an answer", |seen| seen.answers > answers).await;
    assert_eq!(condition(&server).as_deref(), Some("False"), "it is never set to True");
    assert_eq!(server.patches().len(), 2);
    // A cloud's controller sets it, while the network does not work: it stays.
    server.change("node-1", |node| {
        node["status"]["conditions"] =
            json!([{"type": "NetworkUnavailable", "status": "True"}, {"type": "Ready", "status": "True"}]);
    });
    let answers = store.so_far().answers;
    server.bookmark();
    store.until("an answer", |seen| seen.answers > answers).await;
    assert_eq!(condition(&server).as_deref(), Some("True"));
    store.works.send_replace(true);
    server.until("it works", |server| condition(server).as_deref() == Some("False")).await;
    let ready = &server.node("node-1")["status"]["conditions"][0];
    assert_eq!(ready["type"], "Ready", "other conditions stay");
}

#[tokio::test]
async fn a_node_that_is_not_there_is_waited_for() {
    let server = StandIn::start([named("node-2")]).await;
    let mut store = start(&server, "node-1");
    let seen = store.until("refusal", |seen| seen.refused.is_some()).await;
    assert!(seen.refused.as_ref().unwrap().contains("no Node \"node-1\""), "{seen:?}");
    assert_eq!(seen.trouble, None, "the server is well");
    server.put(named("node-1"));
    store.until("membership", |seen| seen.vtep("node-1").is_some()).await;
    store.until("nothing in the way", |seen| seen.refused.is_none()).await;
    assert!(annotation(&server, "tapestry.dev/vtep").is_some());
    server.delete("node-1");
    let seen = store.until("refusal", |seen| seen.refused.is_some()).await;
    assert!(seen.names().is_empty(), "{seen:?}");
}

#[tokio::test]
async fn a_share_that_comes_late_is_waited_for() {
    let mut node = named("node-without-cidr");
    node["metadata"]["name"] = "node-1".into();
    let server = StandIn::start([node]).await;
    let mut store = start(&server, "node-1");
    store.works.send_replace(true);
    let seen = store.until("refusal", |seen| seen.refused.is_some()).await;
    assert!(seen.refused.as_ref().unwrap().contains("no podCIDR yet"), "{seen:?}");
    assert_eq!(condition(&server), None, "without a share nothing works");
    server.until("a watch", |server| server.count(Kind::Watch) > 0).await;
    server.change("node-1", |node| node["spec"]["podCIDRs"] = json!(["10.244.9.0/24"]));
    let seen = store.until("membership", |seen| seen.vtep("node-1").is_some()).await;
    assert_eq!(
        seen.members["node-1"].as_ref().unwrap().pod_cidrs,
        ["10.244.9.0/24".parse().unwrap()]
    );
    store.until("nothing in the way", |seen| seen.refused.is_none()).await;
}

#[tokio::test]
async fn a_conflict_is_tried_again_with_what_is_there_now() {
    let server = StandIn::start([named("node-1")]).await;
    server.fault(Kind::Patch, Fault::Answer(409, recorded("node-put-409.json")));
    let mut store = start(&server, "node-1");
    server.until("the annotations", |server| server.patches().len() == 1).await;
    store.until("nothing in the way", |seen| seen.lists == 1 && seen.refused.is_none()).await;
    assert_eq!(server.count(Kind::Get), 1);
    assert!(annotation(&server, "tapestry.dev/vtep").is_some());
}

#[tokio::test]
async fn a_node_that_is_made_anew_is_not_written_as_the_old_one() {
    let server = StandIn::start([named("node-1")]).await;
    let _store = start(&server, "node-1");
    server.until("the annotations", |server| server.patches().len() == 1).await;
    server.until("a watch", |server| server.count(Kind::Watch) > 0).await;
    server.delete("node-1");
    let mut anew = named("node-1");
    anew["metadata"]["uid"] = "another".into();
    server.put(anew);
    server
        .until("the new one's", |server| {
            annotation(server, "tapestry.dev/node-uid").as_deref() == Some("another")
        })
        .await;
}

#[tokio::test]
async fn what_the_server_finds_invalid_is_said_and_tried_rarely() {
    let server = StandIn::start([named("node-1")]).await;
    for _ in 0..3 {
        server.fault(Kind::Patch, Fault::Answer(422, recorded("node-podcidr-change-422.json")));
    }
    let mut store = start(&server, "node-1");
    let seen = store.until("refusal", |seen| seen.refused.is_some()).await;
    assert!(seen.refused.as_ref().unwrap().contains("is invalid"), "{seen:?}");
    assert!(seen.vtep("node-1").is_some(), "this node can begin even so");
    store.until("nothing in the way", |seen| seen.refused.is_none()).await;
    assert_eq!(server.count(Kind::Patch), 4);
}

#[tokio::test]
async fn a_token_that_expires_while_a_watch_runs_is_read_anew_to_write() {
    let server = StandIn::start([named("node-1")]).await;
    let mut store = start(&server, "node-1");
    server.until("the annotations", |server| server.patches().len() == 1).await;
    server.until("a watch", |server| server.count(Kind::Watch) > 0).await;
    server.require("second");
    let mut changed = own();
    changed.vtep = "192.0.2.11:4789".parse().unwrap();
    store.order(Order::Publish(changed)).await;
    store.until("refusal", |seen| seen.refused.is_some()).await;
    server.write_kubeconfig("second");
    store.until("acceptance", |seen| seen.refused.is_none()).await;
    assert_eq!(annotation(&server, "tapestry.dev/vtep").unwrap(), "192.0.2.11:4789");
    assert_eq!(server.count(Kind::Watch), 1, "the watch was not disturbed");
}

#[tokio::test]
async fn two_machines_that_take_themselves_for_one_node_do_not_write_for_ever() {
    let server = StandIn::start([named("node-1")]).await;
    let mut first = start(&server, "node-1");
    server.until("the annotations", |server| server.patches().len() == 1).await;
    server.until("a watch", |server| server.count(Kind::Watch) > 0).await;
    let mut other = own();
    (other.identity, other.vtep) = ("another-machine".into(), "192.0.2.99:4789".parse().unwrap());
    let second = Running::start_as(server.kubeconfig(), "node-1", brisk(), other);
    let seen = first.until("refusal", |seen| seen.refused.is_some()).await;
    let refused = seen.refused.as_ref().unwrap();
    assert!(refused.contains("another-machine") && refused.contains("192.0.2.99"), "{refused}");
    assert_eq!(server.patches().len(), 2);
    assert_eq!(annotation(&server, "tapestry.dev/identity").unwrap(), "another-machine");
    assert_eq!(seen.members["node-1"].as_ref().unwrap().identity, "another-machine");
    // The second is stopped, and an operator says that the first is right.
    second.hang_up().await;
    first.order(Order::Accept).await;
    first.until("nothing in the way", |seen| seen.refused.is_none()).await;
    assert_eq!(annotation(&server, "tapestry.dev/identity").unwrap(), "machine-of-node-1");
}

async fn release(store: &Running, node: &str, force: bool) -> Result<String, String> {
    let (answer, outcome) = oneshot::channel();
    store.order(Order::Release(Release { node: node.into(), force, answer })).await;
    outcome.await.unwrap()
}

#[tokio::test]
async fn a_release_takes_the_annotations_off() {
    let mut alive = named("node-2");
    alive["metadata"]["annotations"] = json!({"tapestry.dev/vtep": "x", "other": "stays"});
    alive["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    let server = StandIn::start([named("node-1"), alive]).await;
    let mut store = start(&server, "node-1");
    store.until("membership", |seen| seen.vtep("node-1").is_some()).await;
    server.until("a watch", |server| server.count(Kind::Watch) > 0).await;
    assert!(release(&store, "node-3", false).await.unwrap_err().contains("not found"));
    assert!(release(&store, "node-2", false).await.unwrap_err().contains("alive"));
    server.change("node-2", |node| node["status"]["conditions"][0]["status"] = "Unknown".into());
    release(&store, "node-2", false).await.unwrap();
    assert_eq!(server.node("node-2")["metadata"]["annotations"], json!({"other": "stays"}));
    assert!(release(&store, "node-2", true).await.unwrap_err().contains("no annotations"));
    release(&store, "node-1", false).await.unwrap();
    store.until("it is gone", |seen| seen.names().is_empty()).await;
    assert_eq!(annotation(&server, "tapestry.dev/vtep"), None);
}
