//! A running membership with the static store: no server needed.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tapestry::cluster::StartError;
use tapestry::cluster::model::View;
use tapestry::config::{Name, StaticNode, Store};

use crate::{config, is_alarmed, names, net, node, start, view, vtep};

fn listed(numbers: &[u32]) -> Store {
    let node = |number: &u32| {
        let node = node(*number);
        StaticNode {
            name: Name::new(&node.name).unwrap(),
            address: node.vtep,
            pod_cidrs: node.pod_cidrs,
            addresses: Vec::new(),
        }
    };
    Store::Static(numbers.iter().map(node).collect())
}

#[tokio::test]
async fn a_static_cluster_follows_its_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let feed = start(&config(listed(&[1, 2, 3])), 1, dir.path());
    let first = view(&feed, "sees all", |view| names(view) == ["node-2", "node-3"]).await;
    assert_eq!(first.own.as_ref().unwrap().pod_cidrs, node(1).pod_cidrs);
    assert!(first.store.connected && first.alarms.is_empty());
    let mut changed = config(listed(&[1, 4]));
    changed.addresses = vec!["192.0.2.50".parse().unwrap()];
    feed.reconfigure(&changed);
    view(&feed, "sees the new list", |view| names(view) == ["node-4"]).await;
    feed.requests().set_vtep(vtep(9));
    view(&feed, "its own VTEP is what it says", |view| {
        view.own.as_ref().is_some_and(|own| own.vtep == vtep(9))
    })
    .await;
    feed.requests().set_exceptions(vec![net("10.77.0.0/24")]);
    view(&feed, "its exceptions have generations", |view| {
        view.own.as_ref().is_some_and(|own| own.exceptions.iter().any(|e| e.generation == 1))
    })
    .await;
    let refused = feed.requests().release("node-4", true).await.unwrap_err();
    assert!(refused.contains("configuration"), "{refused}");
    let began = Instant::now();
    feed.stop().await;
    assert!(began.elapsed() < Duration::from_secs(5));
    let kept = fs::read_to_string(dir.path().join("cluster.json")).unwrap();
    assert!(kept.contains("node-4") && !kept.contains("node-3"));
}

#[tokio::test]
async fn what_was_published_stands_over_a_restart_until_it_is_known_what_is_now() {
    let dir = tempfile::tempdir().unwrap();
    let published = |view: &View| {
        let own = view.own.as_ref();
        own.is_some_and(|own| own.exceptions.iter().any(|one| one.net == net("10.77.0.7/32")))
    };
    let feed = start(&config(listed(&[1, 2])), 1, dir.path());
    feed.requests().set_exceptions(vec![net("10.77.0.7/32")]);
    view(&feed, "it is published", published).await;
    feed.stop().await;
    let feed = start(&config(listed(&[1, 2])), 1, dir.path());
    let spoken = view(&feed, "the store has spoken", |view| view.store.connected).await;
    assert!(published(&spoken), "{:?}", spoken.own);
    feed.requests().set_exceptions(Vec::new());
    view(&feed, "there is none any more", |view| !published(view)).await;
    feed.stop().await;
}

/// A daemon that dies a moment after it got its share has it when it is back.
#[tokio::test]
async fn a_share_is_on_disk_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let feed = start(&config(listed(&[1, 2])), 1, dir.path());
    view(&feed, "the share is known", |view| view.own.is_some()).await;
    let begun = Instant::now();
    let kept =
        || fs::read_to_string(dir.path().join("cluster.json")).is_ok_and(|t| t.contains("node-1"));
    while !kept() {
        assert!(begun.elapsed() < Duration::from_millis(1500), "as late as everything else");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    feed.stop().await;
}

#[tokio::test]
async fn many_changes_are_few_views() {
    let dir = tempfile::tempdir().unwrap();
    let feed = start(&config(listed(&[1])), 1, dir.path());
    let mut views = feed.view.clone();
    let counted = tokio::spawn(async move {
        let mut seen: Vec<Arc<_>> = Vec::new();
        while views.changed().await.is_ok() {
            seen.push(views.borrow_and_update().clone());
        }
        seen.len()
    });
    for number in 2..200 {
        feed.reconfigure(&config(listed(&[1, number])));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    view(&feed, "the last one is seen", |view| names(view) == ["node-199"]).await;
    feed.stop().await;
    let count = counted.await.unwrap();
    assert!((2..=60).contains(&count), "{count}");
}

#[tokio::test]
async fn an_unusable_state_directory_is_told() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("node-id"), "nonsense").unwrap();
    let who = || tapestry::cluster::Identity {
        name: "node-1".to_owned(),
        vtep: vtep(1),
        capabilities: Vec::new(),
    };
    let error = tapestry::cluster::start(&config(listed(&[1])), who(), dir.path()).unwrap_err();
    assert!(matches!(error, StartError::Identity { .. }) && error.to_string().contains("node-id"));
    fs::remove_file(dir.path().join("node-id")).unwrap();
    // What cannot be read, as on a disk that fails, may be worth everything.
    fs::create_dir(dir.path().join("cluster.json")).unwrap();
    let error = tapestry::cluster::start(&config(listed(&[1])), who(), dir.path()).unwrap_err();
    assert!(matches!(&error, StartError::LastGood(file) if file.step == "read"), "{error}");
    fs::remove_dir(dir.path().join("cluster.json")).unwrap();
    fs::write(dir.path().join("cluster.json"), "{").unwrap();
    let feed = tapestry::cluster::start(&config(listed(&[1, 2])), who(), dir.path()).unwrap();
    assert!(is_alarmed(&feed.view.borrow(), "last good state", "cluster.json.bad"));
    fs::create_dir(dir.path().join("cluster.json.tmp")).unwrap();
    view(&feed, "it cannot be kept", |view| is_alarmed(view, "last good state", "create")).await;
    feed.stop().await;
}
