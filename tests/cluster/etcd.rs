//! Nodes with a real etcd.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::tool;
use tapestry::cluster::Feed;
use tapestry::cluster::model::Node;
use tapestry::config::{Cluster, Etcd, Store};
use tokio::task::JoinSet;

use crate::server::{Bench, Server, with_etcd};
use crate::{Change, is_alarmed, key, names, net, node, start, view, vtep};

/// A state directory for each node.
pub(crate) fn state(bench: &Bench, number: u32) -> PathBuf {
    bench.dir.path().join(format!("state-{number}"))
}

pub(crate) fn join(bench: &Bench, cluster: &Cluster, number: u32) -> Feed {
    start(cluster, number, &state(bench, number))
}

pub(crate) async fn share(feed: &Feed) -> String {
    let view = view(feed, "it has a share", |view| view.own.is_some()).await;
    view.own.as_ref().unwrap().pod_cidrs[0].to_string()
}

pub(crate) async fn sees(feed: &Feed, others: &[&str]) {
    view(feed, &format!("sees {others:?}"), |view| names(view) == others).await;
}

/// Asks a server, without keeping this thread's nodes from going on.
pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..300 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}

fn with(cluster: &Cluster, change: impl FnOnce(&mut Etcd)) -> Cluster {
    let mut cluster = cluster.clone();
    let Store::Etcd(etcd) = &mut cluster.store else { panic!("not etcd") };
    change(etcd);
    cluster
}

#[test]
fn shares_are_claimed_lowest_first_and_given_back_by_release() {
    with_etcd(async |bench| {
        let server = Server::single(bench.dir.path());
        let cluster = server.cluster();
        let a = join(&bench, &cluster, 1);
        assert_eq!(share(&a).await, "10.244.0.0/24");
        let b = join(&bench, &cluster, 2);
        assert_eq!(share(&b).await, "10.244.1.0/24");
        sees(&a, &["node-2"]).await;
        sees(&b, &["node-1"]).await;
        assert_eq!(b.view.borrow().routes.get(&net("10.244.0.0/24")), Some(&vtep(1)));

        let requests = a.requests();
        eventually("node 2 is alive", || !server.get("alive/node-2").is_empty()).await;
        let refused = requests.release("node-2", false).await.unwrap_err();
        assert!(refused.contains("alive"), "{refused}");
        assert!(requests.release("node-9", true).await.unwrap_err().contains("no node"));
        b.stop().await;
        eventually("it sees that node 2 has stopped", || server.get("alive/node-2").is_empty())
            .await;
        sees(&a, &["node-2"]).await;
        let released = loop {
            match requests.release("node-2", false).await {
                Err(why) if why.contains("alive") || why.contains("meanwhile") => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                outcome => break outcome.unwrap(),
            }
        };
        assert!(released.contains("10.244.1.0/24"), "{released}");
        sees(&a, &[]).await;
        let left = server.ctl(&["get", "--prefix", "--keys-only", "/tapestry/"]);
        assert!(!left.contains("node-2") && !left.contains("10.244.1.0"), "{left}");
        let c = join(&bench, &cluster, 3);
        assert_eq!(share(&c).await, "10.244.1.0/24");
        c.stop().await;
        a.stop().await;
    });
}

#[test]
fn a_node_gives_back_its_own_share_and_claims_none_until_it_starts_again() {
    with_etcd(async |bench| {
        let server = Server::single(bench.dir.path());
        let cluster = server.cluster();
        let (a, b) = (join(&bench, &cluster, 1), join(&bench, &cluster, 2));
        let (own, _) = (share(&a).await, share(&b).await);
        eventually("it is alive", || !server.get("alive/node-1").is_empty()).await;
        let released = a.requests().release("node-1", false).await.unwrap();
        assert!(released.contains(&own), "{released}");
        sees(&b, &[]).await;
        let told = |view: &tapestry::cluster::model::View| {
            view.own.is_none() && is_alarmed(view, "node-1", "has given back its share")
        };
        view(&a, "it has none", told).await;
        // What happens in the cluster, and what it has to say itself, is no reason to claim again.
        a.requests().set_vtep(vtep(7));
        b.requests().set_vtep(vtep(8));
        view(&a, "it follows", |view| view.others.get("node-2").unwrap().vtep == vtep(8)).await;
        let left = server.ctl(&["get", "--prefix", "--keys-only", "/tapestry/"]);
        assert!(!left.contains("node-1") && !left.contains(&own), "{left}");
        let refused = a.requests().release("node-1", true).await.unwrap_err();
        assert!(refused.contains("no node"), "{refused}");
        view(&a, "it still has none", told).await;
        let c = join(&bench, &cluster, 3);
        assert_eq!(share(&c).await, own);
        a.stop().await;
        let a = join(&bench, &cluster, 1);
        assert_eq!(share(&a).await, "10.244.2.0/24");
        for feed in [a, b, c] {
            feed.stop().await;
        }
    });
}

#[test]
fn nobody_gives_back_what_is_of_another_machine_of_its_name() {
    with_etcd(async |bench| {
        let server = Server::single(bench.dir.path());
        let cluster = server.cluster();
        let a = join(&bench, &cluster, 1);
        share(&a).await;
        eventually("it is alive", || !server.get("alive/node-1").is_empty()).await;
        let who = tapestry::cluster::Identity {
            name: "node-1".to_owned(),
            vtep: vtep(2),
            capabilities: Vec::new(),
        };
        let b = tapestry::cluster::start(&cluster, who, &state(&bench, 2)).unwrap();
        view(&b, "its name is taken", |view| is_alarmed(view, "node-1", "its name is that")).await;
        let refused = b.requests().release("node-1", true).await.unwrap_err();
        assert!(refused.contains("another one's"), "{refused}");
        assert!(!server.get("nodes/node-1").is_empty());
        for feed in [a, b] {
            feed.stop().await;
        }
    });
}

#[test]
fn a_claim_to_everything_costs_the_nodes_their_shares_and_no_time() {
    with_etcd(async |bench| {
        let server = Server::single(bench.dir.path());
        let mut cluster = server.cluster();
        cluster.networks[0].net = net("10.0.0.0/8");
        cluster.networks[0].node_prefix = 30;
        server.put("cidrs/10.0.0.0/9", "somebody");
        let a = join(&bench, &cluster, 1);
        assert_eq!(share(&a).await, "10.128.0.0/30");
        a.stop().await;
    });
}

#[test]
fn fifty_that_come_at_once_get_fifty_shares() {
    with_etcd(async |bench| {
        let server = Server::single(bench.dir.path());
        let cluster = server.cluster();
        let feeds: Vec<Feed> = (1..=50).map(|number| join(&bench, &cluster, number)).collect();
        let mut shares = Vec::new();
        for feed in &feeds {
            shares.push(share(feed).await);
            view(feed, "sees all others", |view| view.others.len() == 49).await;
        }
        shares.sort_unstable();
        shares.dedup();
        assert_eq!(shares.len(), 50);
        let mut stopping: JoinSet<()> = feeds.into_iter().map(Feed::stop).collect();
        while stopping.join_next().await.is_some() {}
    });
}

#[test]
fn a_user_logs_in_and_one_who_may_only_read_follows() {
    with_etcd(async |bench| {
        let mut server = Server::single(bench.dir.path());
        for words in [
            "user add root:r00t",
            "role add root",
            "user grant-role root root",
            "role add writer",
            "role grant-permission writer --prefix=true readwrite /tapestry/",
            "user add node:s3cret",
            "user grant-role node writer",
            "role add reader",
            "role grant-permission reader --prefix=true read /tapestry/",
            "user add guest:s3cret",
            "user grant-role guest reader",
            "auth enable",
        ] {
            server.ctl(&words.split(' ').collect::<Vec<_>>());
        }
        server.access = vec!["--user=root:r00t".to_owned()];
        let password = bench.dir.path().join("password");
        fs::write(&password, "wrong\n").unwrap();
        let user = |name: &str| {
            with(&server.cluster(), |etcd| etcd.user = Some((name.to_owned(), password.clone())))
        };
        let a = join(&bench, &user("node"), 1);
        let is_told = |view: &tapestry::cluster::model::View| {
            view.store.trouble.as_ref().is_some_and(|trouble| trouble.contains("authentication"))
        };
        view(&a, "the password is wrong", is_told).await;
        fs::write(&password, "s3cret\n").unwrap();
        assert_eq!(share(&a).await, "10.244.0.0/24");
        let guest = join(&bench, &user("guest"), 2);
        view(&guest, "it may not write, and follows", |view| {
            names(view) == ["node-1"]
                && view.own.is_none()
                && is_alarmed(view, "node-2", "permission denied")
        })
        .await;
        a.stop().await;
        guest.stop().await;
    });
}

/// A certificate authority, and what it signed.
fn certificate(dir: &Path, name: &str, signer: Option<&str>) {
    let path = |suffix: &str| dir.join(format!("{name}.{suffix}"));
    let mut command = tool::command("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    command.args(["-nodes", "-days", "2", "-subj", &format!("/CN={name}")]);
    command.arg("-keyout").arg(path("key")).arg("-out").arg(path("crt"));
    match signer {
        None => {
            command.args(["-addext", "keyUsage=critical,keyCertSign"]);
        }
        Some(signer) => {
            command.arg("-CA").arg(dir.join(format!("{signer}.crt")));
            command.arg("-CAkey").arg(dir.join(format!("{signer}.key")));
            command.args(["-addext", "basicConstraints=critical,CA:false"]);
            command.args(["-addext", "subjectAltName=IP:127.0.0.1"]);
            command.args(["-addext", "extendedKeyUsage=serverAuth,clientAuth"]);
        }
    }
    tool::run(&mut command).unwrap();
}

#[test]
fn tls_with_client_certificates_and_nothing_less() {
    with_etcd(async |bench| {
        let dir = bench.dir.path();
        certificate(dir, "ca", None);
        certificate(dir, "server", Some("ca"));
        certificate(dir, "client", Some("ca"));
        certificate(dir, "stranger", None);
        let path = |name: &str| dir.join(name);
        let server = Server::tls(dir, &path("ca.crt"), &path("server.crt"), &path("server.key"));
        let good = with(&server.cluster(), |etcd| {
            etcd.ca = Some(path("ca.crt"));
            etcd.identity = Some((path("client.crt"), path("client.key")));
        });
        let a = join(&bench, &good, 1);
        assert_eq!(share(&a).await, "10.244.0.0/24");
        a.stop().await;
        let bad: [(&str, Change<Etcd>); 4] = [
            ("another authority", &|etcd| etcd.ca = Some(path("stranger.crt"))),
            ("no certificate", &|etcd| etcd.identity = None),
            ("a missing file", &|etcd| etcd.ca = Some(path("nobody.crt"))),
            ("no authority that the system knows", &|etcd| etcd.ca = None),
        ];
        for (number, (what, change)) in (2..).zip(bad) {
            let feed = join(&bench, &with(&good, change), number);
            let view = view(&feed, what, |view| view.store.trouble.is_some()).await;
            assert!(view.own.is_none(), "{what}");
            feed.stop().await;
        }
    });
}

#[test]
fn what_somebody_writes_by_hand_harms_nobody_else() {
    with_etcd(async |bench| {
        let server = Server::single(bench.dir.path());
        let cluster = server.cluster();
        let a = join(&bench, &cluster, 1);
        share(&a).await;
        server.put(&key(10), &serde_json::to_string(&node(10)).unwrap());
        server.put("nodes/junk", "{\"name\": 7");
        server.put("nodes/other-name", &serde_json::to_string(&node(11)).unwrap());
        server.put("nodes/", "");
        server.put("cidrs/nonsense", "x");
        server.put("unknown", "x");
        view(&a, "each is named", |view| {
            names(view) == ["node-10"]
                && is_alarmed(view, "nodes/junk", "makes no sense")
                && is_alarmed(view, "nodes/other-name", "node-11")
        })
        .await;
        // What was right stays when it is overwritten with nonsense, and the own record too.
        server.put(&key(10), "nonsense");
        server.put(&key(1), "nonsense");
        view(&a, "the last good one stays", |view| {
            names(view) == ["node-10"] && is_alarmed(view, &key(10), "stays")
        })
        .await;
        eventually("its own record is mended", || server.get(&key(1)).contains("identity")).await;
        assert_eq!(share(&a).await, "10.244.0.0/24");
        server.ctl(&["del", &format!("/tapestry/{}", key(1))]);
        eventually("its own record is there again", || !server.get(&key(1)).is_empty()).await;
        assert_eq!(share(&a).await, "10.244.0.0/24");
        a.stop().await;
    });
}

#[test]
fn deletions_in_a_mass_are_held_back_until_somebody_confirms_them() {
    with_etcd(async |bench| {
        let mut server = Server::single(bench.dir.path());
        let cluster = server.cluster();
        let a = join(&bench, &cluster, 1);
        let own = share(&a).await;
        let others: Vec<_> = (10..20)
            .map(|number| (key(number), serde_json::to_string(&node(number)).unwrap()))
            .collect();
        server.put_all(&others);
        view(&a, "sees them", |view| view.others.len() == 10).await;
        server.ctl(&["del", "--prefix", "/tapestry/"]);
        view(&a, "they stay", |view| is_alarmed(view, "deletions", "are missing")).await;
        eventually("its own claim is there again", || {
            !server.get(&key(1)).is_empty() && !server.get("cidrs/10.244.0.0/24").is_empty()
        })
        .await;
        assert!(a.view.borrow().others.len() >= 5, "{:?}", names(&a.view.borrow()));
        let left = a.view.borrow().others.len();
        assert_eq!(a.requests().apply_held().await, left);
        view(&a, "they go", |view| view.others.is_empty() && view.alarms.is_empty()).await;

        // The same with a server that comes back empty.
        server.put_all(&others);
        view(&a, "sees them", |view| view.others.len() == 10).await;
        server.wipe();
        view(&a, "the store is down", |view| !view.store.connected).await;
        server.start();
        view(&a, "they stay", |view| {
            view.others.len() == 10
                && view.store.connected
                && is_alarmed(view, "deletions", "10 nodes")
        })
        .await;
        assert_eq!(share(&a).await, own);
        eventually("its own claim is there again", || !server.get(&key(1)).is_empty()).await;
        a.stop().await;
    });
}

#[test]
fn of_two_with_one_name_identity_or_vtep_the_second_refuses() {
    with_etcd(async |bench| {
        let server = Server::single(bench.dir.path());
        let cluster = server.cluster();
        let a = join(&bench, &cluster, 1);
        share(&a).await;
        eventually("it is alive", || !server.get("alive/node-1").is_empty()).await;

        let same_name = tapestry::cluster::Identity {
            name: "node-1".to_owned(),
            vtep: vtep(2),
            capabilities: Vec::new(),
        };
        let b = tapestry::cluster::start(&cluster, same_name, &state(&bench, 2)).unwrap();
        view(&b, "its name is taken", |view| {
            view.own.is_none() && is_alarmed(view, "node-1", "its name is that of a live node")
        })
        .await;
        b.stop().await;

        let same_vtep = tapestry::cluster::Identity {
            name: "node-3".to_owned(),
            vtep: vtep(1),
            capabilities: Vec::new(),
        };
        let c = tapestry::cluster::start(&cluster, same_vtep, &state(&bench, 3)).unwrap();
        view(&c, "its VTEP is taken", |view| {
            view.own.is_none() && is_alarmed(view, "node-3", "is held by node \"node-1\"")
        })
        .await;
        assert!(server.get("nodes/node-3").is_empty());
        // Once it has an address of its own it is a member.
        c.requests().set_vtep(vtep(3));
        share(&c).await;
        c.stop().await;

        // A copy of the whole machine but for its name and address.
        let copy = state(&bench, 4);
        fs::create_dir_all(&copy).unwrap();
        fs::copy(state(&bench, 1).join("node-id"), copy.join("node-id")).unwrap();
        let d = join(&bench, &cluster, 4);
        view(&d, "its identity is taken", |view| {
            view.own.is_none() && is_alarmed(view, "node-4", "its identity is that of a live node")
        })
        .await;
        d.stop().await;
        assert!(a.view.borrow().alarms.is_empty(), "{:?}", a.view.borrow().alarms);
        a.stop().await;
    });
}

#[test]
fn a_machine_that_is_renamed_or_installed_anew_keeps_its_share() {
    with_etcd(async |bench| {
        let server = Server::single(bench.dir.path());
        let cluster = server.cluster();
        let (a, b) = (join(&bench, &cluster, 1), join(&bench, &cluster, 2));
        let (own, _) = (share(&a).await, share(&b).await);
        a.stop().await;
        let renamed = state(&bench, 3);
        fs::create_dir_all(&renamed).unwrap();
        fs::copy(state(&bench, 1).join("node-id"), renamed.join("node-id")).unwrap();
        let a = join(&bench, &cluster, 3);
        assert_eq!(share(&a).await, own);
        sees(&b, &["node-3"]).await;
        a.stop().await;
        fs::remove_dir_all(&renamed).unwrap();
        let a = join(&bench, &cluster, 3);
        assert_eq!(share(&a).await, own);
        let identity = fs::read_to_string(renamed.join("node-id")).unwrap();
        assert_eq!(server.get(&format!("cidrs/{own}")), identity.trim());
        sees(&b, &["node-3"]).await;
        a.stop().await;
        b.stop().await;
    });
}

#[test]
fn a_share_is_taken_over_only_from_a_node_that_was_silent_for_long() {
    with_etcd(async |bench| {
        let server = Server::single(bench.dir.path());
        // Two shares.
        let mut cluster = server.cluster();
        cluster.networks[0].net = net("10.244.0.0/23");
        let (a, b) = (join(&bench, &cluster, 1), join(&bench, &cluster, 2));
        let (_, old) = (share(&a).await, share(&b).await);
        b.stop().await;
        let c = join(&bench, &cluster, 3);
        view(&c, "nothing is free", |view| is_alarmed(view, "node-3", "no podCIDR is free")).await;
        c.stop().await;
        let never = with(&cluster, |etcd| etcd.grace = Duration::ZERO);
        let c = join(&bench, &never, 3);
        view(&c, "nothing is free", |view| is_alarmed(view, "node-3", "no podCIDR is free")).await;
        c.stop().await;
        let soon = with(&cluster, |etcd| etcd.grace = Duration::from_secs(1));
        let c = join(&bench, &soon, 3);
        assert_eq!(share(&c).await, old);
        sees(&a, &["node-3"]).await;
        // The one that was away too long does not take it back, and says why.
        let b = join(&bench, &soon, 2);
        view(&b, "its share is another's", |view| {
            is_alarmed(view, "node-2", "is held by node \"node-3\"")
        })
        .await;
        for feed in [a, b, c] {
            feed.stop().await;
        }
    });
}

#[test]
fn another_cluster_in_the_same_place_is_not_believed() {
    with_etcd(async |bench| {
        let mut server = Server::single(bench.dir.path());
        let cluster = server.cluster();
        let a = join(&bench, &cluster, 1);
        let own = share(&a).await;
        a.stop().await;
        server.wipe();
        server.start();
        let b = join(&bench, &cluster, 2);
        share(&b).await;
        let a = join(&bench, &cluster, 1);
        let foreign = view(&a, "it is told", |view| {
            view.store.trouble.as_ref().is_some_and(|trouble| trouble.contains("this node belongs"))
        })
        .await;
        assert_eq!(foreign.own.as_ref().unwrap().pod_cidrs[0].to_string(), own);
        assert!(foreign.others.is_empty());
        a.requests().apply_held().await;
        // Its old share is node 2's now, and node 2 is believed from now on.
        view(&a, "the operator says so", |view| is_alarmed(view, "node-1", "node-2")).await;
        for feed in [a, b] {
            feed.stop().await;
        }
        let other = {
            let mut other = cluster.clone();
            other.networks[0].node_prefix = 25;
            other
        };
        let c = join(&bench, &other, 3);
        view(&c, "it cuts otherwise", |view| is_alarmed(view, "node-3", "by /25")).await;
        c.stop().await;
    });
}

/// The record of a node that has claimed properly.
fn claimed(node: &Node) -> [(String, String); 3] {
    let record = serde_json::to_string(node).unwrap();
    [
        (format!("nodes/{}", node.name), record),
        (format!("cidrs/{}", node.pod_cidrs[0]), node.identity.clone()),
        (format!("vteps/{}", node.vtep.ip()), node.identity.clone()),
    ]
}

#[test]
fn five_thousand_nodes_are_listed_cold() {
    with_etcd(async |bench| {
        let server = Server::single(bench.dir.path());
        let mut cluster = server.cluster();
        cluster.networks[0].net = net("10.0.0.0/8");
        let nodes: Vec<_> = crate::scale::nodes(5000);
        server.put_all(&nodes.iter().flat_map(claimed).collect::<Vec<_>>());
        let began = std::time::Instant::now();
        let a = join(&bench, &cluster, 0);
        view(&a, "all are there", |view| view.others.len() == 5000 && view.own.is_some()).await;
        let took = began.elapsed();
        eprintln!("5,000 nodes and the own share: {took:?} in a debug build");
        assert!(took < Duration::from_secs(10), "{took:?}");
        a.stop().await;
    });
}
