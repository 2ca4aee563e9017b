//! Nodes whose etcd is away, comes back, or comes back as another one.

use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use tapestry::cluster::Feed;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::etcd::{eventually, join, sees, share, state};
use crate::server::{Server, with_etcd};
use crate::{config, etcd_store, is_alarmed, key, names, node, view, vtep};

#[test]
fn a_node_restarts_while_the_store_is_down() {
    with_etcd(async |bench| {
        let mut server = Server::single(bench.dir.path());
        let cluster = server.cluster();
        let (a, b) = (join(&bench, &cluster, 1), join(&bench, &cluster, 2));
        sees(&a, &["node-2"]).await;
        sees(&b, &["node-1"]).await;
        let before = view(&a, "it has a share", |view| view.own.is_some()).await;
        server.kill();
        view(&a, "the store is down", |view| !view.store.connected).await;
        a.stop().await;
        let a = join(&bench, &cluster, 1);
        // At once: what is on disk is the first view.
        let restored = a.view.borrow().clone();
        assert_eq!((&restored.own, &restored.others), (&before.own, &before.others));
        assert_eq!(restored.routes, before.routes);
        let answered = |ms: Option<u64>| ms.unwrap();
        assert!(
            answered(restored.store.answered_ms) <= answered(before.store.answered_ms) + 60_000
        );
        let down = view(&a, "it says so", |view| view.store.trouble.is_some()).await;
        assert_eq!(down.routes, before.routes);
        server.start();
        view(&a, "the store is back", |view| view.store.connected).await;
        b.requests().set_vtep(vtep(20));
        view(&a, "what is new comes", |view| view.others.get("node-2").unwrap().vtep == vtep(20))
            .await;
        assert!(server.get("vteps/198.18.0.2").is_empty());
        a.stop().await;
        b.stop().await;
    });
}

/// A daemon may be killed at any time, and the store with it.
#[test]
fn what_comes_after_a_quiet_while_is_on_disk_at_once() {
    with_etcd(async |bench| {
        let server = Server::single(bench.dir.path());
        let cluster = server.cluster();
        let a = join(&bench, &cluster, 1);
        share(&a).await;
        let kept = state(&bench, 1).join("cluster.json");
        let is_kept = |name: &str| std::fs::read_to_string(&kept).is_ok_and(|t| t.contains(name));
        for number in 10..13 {
            // Longer than writes are apart.
            tokio::time::sleep(Duration::from_millis(2_500)).await;
            let other = node(number);
            server.put(&key(number), &serde_json::to_string(&other).unwrap());
            view(&a, "it comes", |view| view.others.contains_key(&other.name)).await;
            let came = std::time::Instant::now();
            eventually("it is on disk", || is_kept(&other.name)).await;
            let took = came.elapsed();
            assert!(took < Duration::from_millis(1_800), "{took:?}");
        }
        a.stop().await;
    });
}

#[test]
fn etcd_is_killed_and_started_again_under_a_watch() {
    with_etcd(async |bench| {
        let mut server = Server::single(bench.dir.path());
        let cluster = server.cluster();
        let a = join(&bench, &cluster, 1);
        let own = share(&a).await;
        for round in 0..3 {
            server.kill();
            server.start();
            let other = node(10 + round);
            server.put(&key(10 + round), &serde_json::to_string(&other).unwrap());
            view(&a, "what came after it", |view| view.others.contains_key(&other.name)).await;
        }
        assert_eq!(share(&a).await, own);
        assert!(a.view.borrow().alarms.is_empty());
        a.stop().await;
    });
}

/// Lets connections through to a server, until it is cut.
struct Proxy {
    address: SocketAddr,
    task: JoinHandle<()>,
    to: u16,
}

impl Proxy {
    async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { address, task: Self::serve(listener, to), to }
    }

    fn serve(listener: TcpListener, to: u16) -> JoinHandle<()> {
        tokio::spawn(async move {
            // Dropped with the task, and so is every connection in it.
            let mut connections = JoinSet::new();
            loop {
                let (mut from, _) = listener.accept().await.unwrap();
                connections.spawn(async move {
                    let mut server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                    let _ = copy_bidirectional(&mut from, &mut server).await;
                });
            }
        })
    }

    async fn cut(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    async fn mend(&mut self) {
        self.task = Self::serve(TcpListener::bind(self.address).await.unwrap(), self.to);
    }
}

#[test]
fn what_was_compacted_unseen_is_listed_again() {
    with_etcd(async |bench| {
        let server = Server::single(bench.dir.path());
        let mut proxy = Proxy::start(server.port).await;
        let cluster = config(etcd_store(vec![format!("http://{}", proxy.address)]));
        let a = join(&bench, &cluster, 1);
        share(&a).await;
        for number in 10..16 {
            server.put(&key(number), &serde_json::to_string(&node(number)).unwrap());
        }
        view(&a, "sees them", |view| view.others.len() == 6).await;
        proxy.cut().await;
        view(&a, "is cut off", |view| !view.store.connected).await;
        server.ctl(&["del", &format!("/tapestry/{}", key(10))]);
        server.put(&key(16), &serde_json::to_string(&node(16)).unwrap());
        let revision = server.revision().to_string();
        server.ctl(&["compact", &revision]);
        server.ctl(&["defrag"]);
        server.put(&key(17), &serde_json::to_string(&node(17)).unwrap());
        proxy.mend().await;
        sees(&a, &["node-11", "node-12", "node-13", "node-14", "node-15", "node-16", "node-17"])
            .await;
        // And it is watched again, not only listed.
        server.put(&key(18), &serde_json::to_string(&node(18)).unwrap());
        view(&a, "what is new comes", |view| view.others.contains_key("node-18")).await;
        a.stop().await;
    });
}

#[test]
fn a_lost_lease_is_made_again_and_costs_nothing() {
    with_etcd(async |bench| {
        let server = Server::single(bench.dir.path());
        let a = join(&bench, &server.cluster(), 1);
        let own = share(&a).await;
        eventually("it is alive", || !server.get("alive/node-1").is_empty()).await;
        let lease = || -> String {
            let text = server.ctl(&["lease", "list"]);
            text.lines().last().unwrap().to_owned()
        };
        let first = lease();
        server.ctl(&["lease", "revoke", &first]);
        eventually("it is alive again", || !server.get("alive/node-1").is_empty()).await;
        assert_ne!(lease(), first);
        // Longer than the lease: somebody renews it.
        tokio::time::sleep(Duration::from_secs(7)).await;
        assert!(!server.get("alive/node-1").is_empty());
        assert_eq!(share(&a).await, own);
        assert!(a.view.borrow().alarms.is_empty());
        a.stop().await;
        assert!(server.get("alive/node-1").is_empty());
        assert!(!server.get("nodes/node-1").is_empty());
    });
}

#[test]
fn a_restored_backup_is_noticed_and_claims_are_made_again() {
    with_etcd(async |bench| {
        let mut server = Server::single(bench.dir.path());
        let cluster = server.cluster();
        let a = join(&bench, &cluster, 1);
        let first = share(&a).await;
        let backup = bench.dir.path().join("backup");
        server.ctl(&["snapshot", "save", backup.to_str().unwrap()]);
        let b = join(&bench, &cluster, 2);
        let second = share(&b).await;
        sees(&a, &["node-2"]).await;
        server.restore(&backup);
        eventually("node 2 is there again", || !server.get(&key(2)).is_empty()).await;
        assert_eq!((share(&a).await, share(&b).await), (first, second.clone()));
        view(&a, "both see each other", |view| {
            view.store.connected && names(view) == ["node-2"] && view.alarms.is_empty()
        })
        .await;

        // Somebody was faster than the node whose claim the backup lacks.
        b.stop().await;
        server.restore(&backup);
        let c = join(&bench, &cluster, 3);
        assert_eq!(share(&c).await, second);
        let b = join(&bench, &cluster, 2);
        let conflict = view(&b, "the conflict is named", |view| {
            is_alarmed(view, "node-2", &format!("its podCIDR {second} is held by node \"node-3\""))
        })
        .await;
        // Its pods have addresses of that share: it was there first.
        assert_eq!(conflict.own.as_ref().unwrap().pod_cidrs[0].to_string(), second);
        for feed in [a, b, c] {
            feed.stop().await;
        }
    });
}

#[test]
fn one_of_three_members_may_be_killed_or_cut_off() {
    with_etcd(async |bench| {
        let mut servers = Server::three(bench.dir.path());
        let urls: Vec<String> = servers.iter().map(Server::url).collect();
        let cluster = config(etcd_store(urls));
        let feeds: Vec<Feed> = (1..=3).map(|number| join(&bench, &cluster, number)).collect();
        for feed in &feeds {
            share(feed).await;
            view(feed, "sees the others", |view| view.others.len() == 2).await;
        }
        for lost in [0, 1, 2] {
            let address = 100 + u32::try_from(lost).unwrap();
            // The first way of being lost resets connections, the second leaves them hanging.
            if lost == 0 {
                servers[lost].kill();
            } else {
                servers[lost].signal(Signal::SIGSTOP);
            }
            feeds[0].requests().set_vtep(vtep(address));
            for feed in &feeds[1..] {
                view(feed, "what is new comes", |view| {
                    view.others.get("node-1").unwrap().vtep == vtep(address)
                })
                .await;
            }
            if lost == 0 {
                servers[lost].start();
            } else {
                servers[lost].signal(Signal::SIGCONT);
            }
            let health = || servers[lost].try_ctl(&["endpoint", "health"]).is_ok();
            eventually("it is back", health).await;
        }
        for feed in &feeds {
            view(feed, "all is well", |view| view.store.connected && view.alarms.is_empty()).await;
        }
        // Without a majority nothing is known, and everything stays.
        servers[0].signal(Signal::SIGSTOP);
        servers[1].kill();
        for feed in &feeds {
            view(feed, "the store is down", |view| {
                !view.store.connected && view.others.len() == 2 && view.own.is_some()
            })
            .await;
        }
        servers[0].signal(Signal::SIGCONT);
        for feed in feeds {
            view(&feed, "the store is back", |view| view.store.connected).await;
            feed.stop().await;
        }
    });
}
