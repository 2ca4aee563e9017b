//! The pod network on this node: its segment and its gateway port follow from the configuration and
//! from what the store says of the cluster.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use encap::MacAddr;
use ipnet::IpNet;
use switch::{ClusterSpec, SegmentSpec};
use tokio::sync::watch;
use tracing::{info, warn};

use super::state::Daemon;
use super::way_out::WayOut;
use crate::cluster::conflist::Conflist;
use crate::cluster::model::{Node, View};
use crate::cluster::{self, Feed, Identity, Requests};
use crate::config::{Cluster, Config, Name, Port, PortMode, Role, Route, derived_mac};
use crate::control::model::{Done, ObjectOrigin};
use crate::control::{Answer, Refusal, Reply};
use crate::device::netlink::{self, Netlink};
use crate::gateway::census::Census;
use crate::gateway::port::gateway_port;
use crate::gateway::ways::{Subnet, Ways, ways};

/// Ticks between two looks whether the CNI configuration is still there.
const LIST_AFTER: u64 = 60;
/// How long a start waits for the store's first word.
const FIRST_VIEW: Duration = Duration::from_millis(500);

/// What the daemon knows of the cluster it is part of.
#[derive(Debug)]
pub(super) struct Pods {
    /// What is configured.
    pub(super) config: Cluster,
    /// What the store says.
    pub(super) view: Arc<View>,
    /// What the other nodes have together.
    pub(super) census: Census,
    /// How the other nodes are reached.
    pub(super) ways: Ways,
    /// What it is said by, once the control loop runs.
    pub(super) feed: Option<Feed>,
    /// Addresses of pods outside this node's shares, as they were published last; `None`: what was
    /// published before the start stands.
    outside: Option<Vec<IpNet>>,
    /// Whether the CNI configuration was put where it belongs, or why it could not be.
    listed: Option<Result<(), String>>,
    /// What this node's kernel does for its pods.
    pub(super) way_out: WayOut,
    /// This node gives its share back, or has done so.
    pub(super) leaving: Arc<AtomicBool>,
}

impl Pods {
    /// The pod network of this node, if it has one; nobody is known yet.
    pub(super) fn new(config: &Config) -> Option<Self> {
        let config = config.cluster.clone()?;
        Some(Self {
            census: Census::new(&config),
            config,
            view: Arc::default(),
            ways: Ways::default(),
            feed: None,
            outside: None,
            listed: None,
            way_out: WayOut::default(),
            leaving: Arc::default(),
        })
    }

    /// The segment of the pods, in the engine's terms.
    pub(super) fn segment(&self, vtep_port: u16) -> SegmentSpec {
        let Self { config, .. } = self;
        let networks: Vec<IpNet> = config.networks.iter().map(|network| network.net).collect();
        let cluster = ClusterSpec {
            networks: self.ways.inside(&networks),
            routes: self.ways.tunnel.clone(),
            ..ClusterSpec::default()
        };
        SegmentSpec {
            name: config.name.to_string(),
            vni: config.vni,
            peers: Vec::new(),
            multicast: None,
            learning: false,
            flood_unknown: false,
            strict_peers: true,
            strict_header: false,
            cluster: Some(ClusterSpec {
                own: self.own(|own| own.pod_cidrs.clone()),
                own_addresses: self.own(|own| own.addresses.clone()),
                vtep_port,
                flood_multicast: config.flood_multicast,
                ..cluster
            }),
        }
    }

    /// Says anew how the other nodes are reached.
    pub(super) fn find_ways(&mut self) {
        let subnets = if self.uses_subnets() { subnets() } else { Vec::new() };
        self.ways = ways(&self.config, &self.view, &subnets);
    }

    /// Puts the CNI configuration where it belongs, unless it was put there; `again` looks whether
    /// it still is. What keeps it from being put is told once.
    fn put_conflist(&mut self, again: bool) {
        let Some(path) = &self.config.conflist else { return };
        if self.listed == Some(Ok(())) && !again {
            return;
        }
        let list = Conflist { name: self.config.name.to_string() };
        let put = list.put(path).map(drop).map_err(|error| error.to_string());
        if self.listed.as_ref() != Some(&put) {
            match &put {
                Ok(()) => info!(path = %path.display(), "the CNI configuration is there"),
                Err(why) => warn!("the CNI configuration: {why}"),
            }
        }
        self.listed = Some(put);
    }

    /// Why the CNI configuration is not where it belongs.
    pub(super) fn unlisted(&self) -> Option<&str> {
        self.listed.as_ref()?.as_ref().err().map(String::as_str)
    }

    fn own<T: Default>(&self, of: impl FnOnce(&Node) -> T) -> T {
        self.view.own.as_ref().map(of).unwrap_or_default()
    }

    /// The gateway port, once this node has a share of the pods' networks.
    pub(super) fn gateway(&self, node: &Name) -> Option<Port> {
        let Self { config, view, census, ways, .. } = self;
        let made = gateway_port(config, view.own.as_ref(), census, ways)?;
        let name = Name::new(config.gateway.as_str()).ok()?;
        let station = |(address, mac): &(IpAddr, MacAddr)| Some((*address, mac.station()?));
        Some(Port {
            mode: PortMode::Access(config.name.clone()),
            netns: None,
            ifname: config.gateway.clone(),
            mac: derived_mac(node, name.as_str()),
            name,
            addresses: made.addresses,
            routes: made.routes.iter().map(route).collect(),
            neighbours: made.neighbours.iter().filter_map(station).collect(),
            mtu: None,
            role: Role::Gateway,
            pod: None,
        })
    }
}

const fn route(route: &netlink::Route) -> Route {
    Route { to: route.to, via: route.via, src: route.src, onlink: route.onlink }
}

/// The networks that this node is directly in.
fn subnets() -> Vec<Subnet> {
    let entries = Netlink::open().and_then(|mut netlink| netlink.addresses(None));
    match entries {
        Ok(entries) => {
            entries.iter().map(|entry| Subnet { net: entry.net, link: entry.link }).collect()
        }
        Err(error) => {
            warn!("this node's networks: {error}");
            Vec::new()
        }
    }
}

/// Whose share is given back, who is asked to, and, if it is this node's, where that is said.
type Leaving = (String, Requests, Option<Arc<AtomicBool>>);

/// By what the store is asked.
fn requests(pods: &Pods) -> Answer<Requests> {
    let feed = pods.feed.as_ref().ok_or_else(|| Refusal::unavailable("not started yet"))?;
    Ok(feed.requests())
}

/// The next view of a cluster; never, where there is none.
pub(super) async fn next(views: Option<&mut watch::Receiver<Arc<View>>>) -> Arc<View> {
    if let Some(views) = views
        && views.changed().await.is_ok()
    {
        return Arc::clone(&views.borrow_and_update());
    }
    std::future::pending().await
}

impl Daemon {
    /// Begins to listen to the store. To be called within the runtime. What was known before the
    /// last stop is known again at once.
    pub(super) async fn join_cluster(
        &mut self,
    ) -> anyhow::Result<Option<watch::Receiver<Arc<View>>>> {
        let vtep = SocketAddr::new(self.underlay.local(), self.config.underlay.port);
        let Some(pods) = &mut self.pods else { return Ok(None) };
        let name = pods.config.own_name(&self.config.node.name).to_string();
        let who = Identity { name, vtep, capabilities: Vec::new() };
        let feed = cluster::start(&pods.config, who, &self.config.state.dir).context("cluster")?;
        let mut views = feed.view.clone();
        pods.feed = Some(feed);
        // A store that is at hand says at once what this node's share is; one that is not is not
        // waited for.
        let known = views.wait_for(|view| view.own.is_some());
        let _ = tokio::time::timeout(FIRST_VIEW, known).await;
        let view = Arc::clone(&views.borrow_and_update());
        self.take_view(view);
        Ok(Some(views))
    }

    /// Tells the cluster what this node is now: another VTEP, or another configuration.
    pub(super) fn tell_cluster(&self) {
        let Some(feed) = self.pods.as_ref().and_then(|pods| pods.feed.as_ref()) else { return };
        feed.requests().set_vtep(SocketAddr::new(self.underlay.local(), self.config.underlay.port));
        if let Some(cluster) = &self.config.cluster {
            feed.reconfigure(cluster);
        }
    }

    /// Ends listening, after the last word has got to the disk.
    pub(super) async fn leave_cluster(&mut self) {
        if let Some(feed) = self.pods.as_mut().and_then(|pods| pods.feed.take()) {
            feed.stop().await;
        }
    }

    /// Gives back a node's share, this one's without a name.
    pub(super) fn node_release(&self, name: Option<String>, reply: Reply<Done>) {
        match self.node_to_release(name) {
            Err(refusal) => drop(reply.send(Err(refusal))),
            Ok((name, requests, leaving)) => drop(tokio::spawn(async move {
                let released = requests.release(&name, false).await;
                if let (Err(_), Some(leaving)) = (&released, leaving) {
                    leaving.store(false, Ordering::Relaxed);
                }
                let done = released.map(|what| Done { done: format!("{name}: {what}") });
                let _ = reply.send(done.map_err(Refusal::refused));
            })),
        }
    }

    /// Has the nodes go that the store has lost and that were kept because they are many.
    pub(super) fn node_confirm(&self, reply: Reply<Done>) {
        match self.cluster().and_then(requests) {
            Err(refusal) => drop(reply.send(Err(refusal))),
            Ok(requests) => drop(tokio::spawn(async move {
                let done = match requests.apply_held().await {
                    0 => "no node is kept against the store's word".to_owned(),
                    gone => format!("nodes that are gone: {gone}"),
                };
                let _ = reply.send(Ok(Done { done }));
            })),
        }
    }

    /// Whose share is given back, who is asked to, and what says that it is this node's: from now on no
    /// pod gets an address of it.
    fn node_to_release(&self, name: Option<String>) -> Answer<Leaving> {
        let pods = self.cluster()?;
        let own = pods.config.own_name(&self.config.node.name).as_str();
        let name = name.unwrap_or_else(|| own.to_owned());
        let requests = requests(pods)?;
        if name != own {
            return Ok((name, requests, None));
        }
        let ports = self.ports.values().filter(|held| matches!(held.port.role, Role::Pod { .. }));
        // Also those that are about to be attached, or are on record only.
        let now = self.clock.tick();
        let book = self.attachments.book.as_ref();
        let addresses = book.map_or(0, |book| book.pool.counts(now).used);
        let held = u64::try_from(ports.count()).unwrap_or(u64::MAX).max(addresses);
        if held != 0 {
            let message = format!("this node has {held} pods: their addresses are in its share");
            return Err(Refusal::refused(message));
        }
        pods.leaving.store(true, Ordering::Relaxed);
        Ok((name, requests, Some(Arc::clone(&pods.leaving))))
    }

    /// Takes another view of the cluster: the gateway port and the segment follow it.
    pub(super) fn take_view(&mut self, view: Arc<View>) {
        let Some(pods) = &mut self.pods else { return };
        for alarm in view.alarms.iter().filter(|alarm| !pods.view.alarms.contains(alarm)) {
            warn!(subject = alarm.subject, "cluster: {}", alarm.message);
        }
        let nodes = view.others.len() + usize::from(view.own.is_some());
        if nodes != pods.view.others.len() + usize::from(pods.view.own.is_some()) {
            info!(nodes, "cluster");
        }
        pods.view = view;
        pods.census.follow(&pods.view.others);
        pods.find_ways();
        pods.way_out.changed();
        self.follow_ways();
    }

    /// Has everything be what follows from the view and the ways in it. The kernel's routes are
    /// first: what the switch leaves to the kernel is to find them.
    pub(super) fn follow_ways(&mut self) {
        self.settle_way_out();
        self.settle_gateway();
        self.follow_pod_cidrs();
        self.apply();
        self.settle_way_out();
    }

    /// What has to be looked after of the cluster from time to time.
    pub(super) fn tick_cluster(&mut self, count: u64) {
        self.tick_way_out(count);
        let works = self.readiness().ready;
        let outside = self.attachments.book.as_ref().and_then(|book| book.pool.exceptions());
        let Some(pods) = &mut self.pods else { return };
        if let Some(feed) = &pods.feed {
            feed.set_works(works);
            if let Some(outside) = outside
                && pods.outside.as_ref() != Some(&outside)
            {
                feed.requests().set_exceptions(outside.clone());
                pods.outside = Some(outside);
            }
        }
        if works && pods.way_out.is_settled() {
            pods.put_conflist(count.is_multiple_of(LIST_AFTER));
        }
    }

    /// The gateway port as it is to be. One that is there stays when the share is lost: the pods
    /// behind it are still here.
    pub(super) fn gateway(&self, pods: &Pods) -> Option<Port> {
        let there = || self.ports.get(pods.config.gateway.as_str()).map(|held| held.port.clone());
        pods.gateway(&self.config.node.name).or_else(there)
    }

    /// Makes the gateway port what the view says.
    fn settle_gateway(&mut self) {
        let Some(port) = self.pods.as_ref().and_then(|pods| self.gateway(pods)) else { return };
        let name = port.name.as_str();
        match self.ports.get(name) {
            Some(held) if held.port == port => {}
            Some(_) => {
                let mut changes = Vec::new();
                let kept = self.change_port(port, &mut changes);
                self.devices.keep(kept.into_iter().collect());
                for change in changes {
                    info!("cluster: {change}");
                }
            }
            None => {
                self.finish_bringing();
                self.add_ports(vec![(port, ObjectOrigin::Config)]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mode;

    const CONFIG: &str = r#"
        [node]
        name = "a"
        [underlay]
        address = "192.0.2.1"
        [cluster]
        network = ["10.244.0.0/16", "fd00:10::/48"]
        [[cluster.node]]
        name = "a"
        address = "192.0.2.1"
        pod_cidrs = ["10.244.1.0/24", "fd00:10:0:1::/64"]
        "#;

    fn node(name: &str, last: u8) -> Node {
        Node {
            name: name.to_owned(),
            identity: name.to_owned(),
            vtep: SocketAddr::from(([192, 0, 2, last], 4789)),
            addresses: vec![IpAddr::from([192, 0, 2, last])],
            pod_cidrs: vec![
                format!("10.244.{last}.0/24").parse().unwrap(),
                format!("fd00:10:0:{last}::/64").parse().unwrap(),
            ],
            exceptions: Vec::new(),
            capabilities: Vec::new(),
        }
    }

    fn pods(mode: Mode) -> Pods {
        let config = Config::parse(CONFIG).unwrap();
        let (own, other) = (node("a", 1), node("b", 2));
        let routes = other.pod_cidrs.iter().map(|net| (*net, other.vtep)).collect();
        let others = [("b".to_owned(), Arc::new(other))].into_iter().collect();
        let view = View { own: Some(own), others, routes, ..View::default() };
        let mut pods = Pods::new(&config).unwrap();
        pods.view = Arc::new(view);
        pods.config.mode = mode;
        pods.find_ways();
        pods
    }

    #[test]
    fn without_a_tunnel_all_but_the_own_share_is_the_kernels() {
        let pods = pods(Mode::Route);
        let port = pods.gateway(&Name::new("a").unwrap()).unwrap();
        let to: Vec<String> = port.routes.iter().map(|route| route.to.to_string()).collect();
        assert_eq!(to, ["10.244.1.0/24", "fd00:10:0:1::/64"]);
        assert_eq!((port.role, port.neighbours.len()), (Role::Gateway, 2));
        let spec = pods.segment(4789);
        let cluster = spec.cluster.unwrap();
        let other = "10.244.2.9".parse::<IpAddr>().unwrap();
        assert!(!cluster.networks.iter().any(|net| net.contains(&other)));
        assert!(cluster.routes.is_empty() && spec.peers.is_empty());
        assert_eq!(cluster.own.len(), 2);
    }

    #[test]
    fn through_the_tunnel_the_whole_cluster_is_behind_the_gateway_port() {
        let pods = pods(Mode::Tunnel);
        let port = pods.gateway(&Name::new("a").unwrap()).unwrap();
        let to: Vec<String> = port.routes.iter().map(|route| route.to.to_string()).collect();
        assert_eq!(to, ["10.244.0.0/16", "fd00:10::/48"]);
        let spec = pods.segment(4789);
        let cluster = spec.cluster.unwrap();
        assert_eq!((cluster.networks.len(), cluster.routes.len(), spec.peers.len()), (2, 2, 0));
    }

    #[test]
    fn without_a_share_there_is_no_gateway_port() {
        let mut pods = pods(Mode::Tunnel);
        pods.view = Arc::default();
        pods.find_ways();
        assert_eq!(pods.gateway(&Name::new("a").unwrap()), None);
        assert!(pods.segment(4789).cluster.is_some_and(|cluster| cluster.own.is_empty()));
    }
}
