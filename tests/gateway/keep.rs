//! What the rules do besides translating, and that they stay.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use lab::tool::eventually;
use lab::world::{Space, World};
use socket2::Type;
use switch::SharedMap;
use tapestry::attach::Protocol;
use tapestry::cluster::model::{Exception, Node, View};
use tapestry::device::netlink::Route;
use tapestry::gateway::keeper::Keeper;
use tapestry::gateway::mapping::Mapping;
use tapestry::gateway::rules::{Rules, SetChange};
use tapestry::gateway::ruleset::{Ruleset, TABLE};
use tapestry::gateway::stir::Stirs;
use tapestry::gateway::ways::{Direct, reconcile, ways};
use tapestry::privilege::Hands;

use super::land::{Lab, Way, Who};
use super::probe::ask;
use super::standin::{StandIn, census};

/// The rules of node a, for a namespace where nothing else is.
fn rules(lab: &Lab, view: &View) -> Result<Ruleset> {
    let cluster = lab.cluster(Who::A)?;
    let ways = ways(&cluster, view, &[]);
    Ok(Ruleset::new(&cluster, view.own.as_ref(), &census(&cluster, view), &ways, &[])?)
}

fn table(space: &Space) -> Option<String> {
    space.output(&format!("nft -s list table {TABLE}")).ok()
}

fn kept(space: &Space, keeper: &Keeper, whole: &str, harm: &str) -> Result<()> {
    let before = keeper.state().restored;
    let begun = Instant::now();
    space.output(harm)?;
    eventually(Duration::from_secs(1), &format!("the table is back after {harm}"), || {
        Ok(table(space).as_deref() == Some(whole))
    })?;
    eprintln!("back {:?} after {harm}", begun.elapsed());
    // It is not taken for somebody else's work when it puts it back.
    eventually(Duration::from_secs(1), "it is known", || Ok(keeper.state().restored > before))?;
    std::thread::sleep(Duration::from_millis(300));
    ensure!(keeper.state().restored == before + 1, "{:?}", keeper.state());
    Ok(())
}

pub(crate) fn the_table_is_back_within_a_second() -> Result<()> {
    stays(true)
}

pub(crate) fn and_so_it_is_where_the_kernel_says_nothing() -> Result<()> {
    stays(false)
}

fn stays(told: bool) -> Result<()> {
    let lab = Lab::new(&StandIn, Way::Tunnel, &[])?;
    let world = World::new();
    let space = world.space("node")?;
    let rules = rules(&lab, &lab.view(Who::A))?;
    let stirs = if told { Some(space.run(|| Stirs::open("tapestry"))??) } else { None };
    // A socket that was opened by somebody else does as well.
    let stirs = stirs.map(|stirs| Stirs::adopt(stirs.into_fd(), "tapestry"));
    let keeper = Keeper::start(InNetns(space.clone()), stirs)?;
    keeper.want(rules);
    eventually(Duration::from_secs(5), "it stands", || Ok(keeper.state().stands))?;
    let whole = table(&space).context("no table")?;
    for harm in [
        "nft flush ruleset",
        "nft delete table inet tapestry",
        "nft flush table inet tapestry",
        "nft flush chain inet tapestry from_pods",
        "nft delete element inet tapestry nodes4 { 192.0.2.2 }",
        "nft add rule inet tapestry sources accept",
    ] {
        kept(&space, &keeper, &whole, harm)?;
    }
    // What others do to tables of their own is none of its business.
    let before = keeper.state();
    space.output("nft add table inet firewalld")?;
    space.output("nft delete table inet firewalld")?;
    std::thread::sleep(Duration::from_millis(300));
    ensure!(keeper.state() == before, "{:?}", keeper.state());
    // The pods outlive the daemon, and so does the table.
    drop(keeper);
    ensure!(table(&space).as_ref() == Some(&whole));
    space.run(|| Hands::new(None).remove_rules())??;
    ensure!(table(&space).is_none(), "it is removed");
    space.run(|| Hands::new(None).remove_rules())??;
    Ok(())
}

/// The own hands, in a namespace that is not the process's: nft is started from there.
#[derive(Debug)]
struct InNetns(Space);

impl Rules for InNetns {
    fn replace(&mut self, body: &str) -> Result<String, String> {
        let done = self.0.run(|| Rules::replace(&mut Hands::new(None), body));
        done.map_err(|error| error.to_string())?
    }

    fn amend(&mut self, changes: &[SetChange]) -> Result<(), String> {
        let done = self.0.run(|| Rules::amend(&mut Hands::new(None), changes));
        done.map_err(|error| error.to_string())?
    }

    fn read(&mut self) -> Result<Option<String>, String> {
        let done = self.0.run(|| Rules::read(&mut Hands::new(None)));
        done.map_err(|error| error.to_string())?
    }
}

/// As [`InNetns`], counted: how often the table was replaced, amended and read.
#[derive(Debug)]
struct Counted(InNetns, Arc<[AtomicU32; 3]>);

impl Rules for Counted {
    fn replace(&mut self, body: &str) -> Result<String, String> {
        self.1[0].fetch_add(1, Relaxed);
        self.0.replace(body)
    }

    fn amend(&mut self, changes: &[SetChange]) -> Result<(), String> {
        self.1[1].fetch_add(1, Relaxed);
        self.0.amend(changes)
    }

    fn read(&mut self) -> Result<Option<String>, String> {
        self.1[2].fetch_add(1, Relaxed);
        self.0.read()
    }
}

/// Nodes and pods come and go: the sets follow, element by element, and what the keeper takes the
/// table for is what the kernel shows.
pub(crate) fn what_changes_is_changed_in_place() -> Result<()> {
    let lab = Lab::new(&StandIn, Way::Tunnel, &[])?;
    let world = World::new();
    let (space, fresh) = (world.space("node")?, world.space("fresh")?);
    let counts = Arc::<[AtomicU32; 3]>::default();
    let count = || counts.each_ref().map(|one| one.load(Relaxed));
    let stirs = space.run(|| Stirs::open("tapestry"))??;
    let hands = Counted(InNetns(space.clone()), Arc::clone(&counts));
    let keeper = Keeper::start(hands, Some(stirs))?;
    let cluster = lab.cluster(Who::A)?;
    let mut view = lab.view(Who::A);
    let pattern = view.others.values().next().context("no other node")?.clone();
    let mut mappings: Vec<Mapping> = Vec::new();
    let put = |view: &View, mappings: &[Mapping]| -> Result<Ruleset> {
        let (others, ways) = (census(&cluster, view), ways(&cluster, view, &[]));
        Ok(Ruleset::new(&cluster, view.own.as_ref(), &others, &ways, mappings)?)
    };
    keeper.want(put(&view, &mappings)?);
    eventually(Duration::from_secs(5), "it stands", || Ok(keeper.state().stands))?;
    std::thread::sleep(Duration::from_millis(300));
    let [replaced, _, read] = count();
    let net = |text: &str| -> Result<IpNet> { Ok(text.parse()?) };
    for step in 0..7_u8 {
        let mut node = Node::clone(&pattern);
        node.name = format!("n{}", step % 4);
        node.vtep = SocketAddr::new(IpAddr::from([172, 20, 0, step]), 4789);
        // The last is listed in another form than it is written in.
        let more = [format!("2001:db8:9::{step}"), format!("::1.2.3.{step}")];
        node.addresses = vec![node.vtep.ip(), more[0].parse()?, more[1].parse()?];
        // Networks that are merged with others, and split again.
        let nets = match step {
            1 => vec![net("10.99.0.0/24")?, net("fd99::7/128")?],
            2 => vec![net("10.99.1.0/24")?, net("10.77.0.7/32")?],
            3 => vec![net("10.99.2.0/23")?],
            _ => Vec::new(),
        };
        node.exceptions = nets.into_iter().map(|net| Exception { net, generation: 1 }).collect();
        view.others.insert(node.name.clone(), Arc::new(node));
        mappings = match step {
            0..3 => vec![mapping(8080 + u16::from(step))?, mapping(9000)?],
            3 => Vec::new(),
            _ => vec![mapping(9000)?],
        };
        let rules = put(&view, &mappings)?;
        let body = rules.body();
        let wanted = count()[1] + 1;
        keeper.want(rules);
        eventually(Duration::from_secs(5), "it is changed", || Ok(count()[1] >= wanted))?;
        // What nft makes of the whole, in a namespace where nothing was before.
        let whole = InNetns(fresh.clone()).replace(&body).map_err(anyhow::Error::msg)?;
        eventually(
            Duration::from_secs(2),
            &format!("step {step}: the table is as if it were new"),
            || Ok(table(&space).as_ref() == Some(&whole)),
        )?;
    }
    std::thread::sleep(Duration::from_millis(300));
    ensure!(count() == [replaced, 7, read], "not by changes alone: {:?}", count());
    // Had it taken the table for another one, it would put it back now.
    let one = "element inet tapestry nodes4 { 172.20.0.6 }";
    space.output(&format!("nft delete {one}; add {one}"))?;
    eventually(Duration::from_secs(2), "it looks", || Ok(count()[2] > read))?;
    std::thread::sleep(Duration::from_millis(300));
    ensure!(keeper.state().restored == 0 && count()[0] == replaced, "{:?}", keeper.state());
    let whole = table(&space).context("no table")?;
    kept(&space, &keeper, &whole, "nft delete element inet tapestry nodes4 { 172.20.0.6 }")?;
    kept(&space, &keeper, &whole, "nft add element inet tapestry nodes6 { 2001:db8:9::99 }")
}

fn mapping(port: u16) -> Result<Mapping> {
    let to = "10.42.0.10:80".parse()?;
    Ok(Mapping { protocol: Protocol::Tcp, host: None, port, to })
}

/// How many datagrams of the VXLAN port the connection table has.
fn tracked(lab: &Lab, node: Who) -> Result<usize> {
    let path = "/proc/thread-self/net/nf_conntrack";
    let text = lab.space(node).run(|| std::fs::read_to_string(path))??;
    Ok(text.lines().filter(|line| line.contains("dport=4789")).count())
}

fn send(space: &Space, to: SocketAddr) -> Result<()> {
    space.run(|| -> Result<()> {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        UdpSocket::bind(any)?.send_to(b"frame", to)?;
        Ok(())
    })?
}

/// A command in a namespace of the same world that is nobody's.
fn command_in(role: &str, lab: &Lab) -> std::process::Command {
    let own = lab.space(Who::A).name();
    let name = own.replace("-a", &format!("-{role}"));
    let mut command = lab::tool::command("nsenter");
    command.arg(format!("--net=/run/netns/{name}")).arg("--");
    command
}

fn receiver(space: &Space, at: SocketAddr) -> Result<UdpSocket> {
    let socket = space.run(|| UdpSocket::bind(at))??;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    Ok(socket)
}

pub(crate) fn datagrams_of_the_underlay_are_not_tracked() -> Result<()> {
    let lab = Lab::new(&StandIn, Way::Tunnel, &[])?;
    let vtep = SocketAddr::new(Who::B.address(0), 4789);
    let socket = receiver(lab.space(Who::B), vtep)?;
    send(lab.space(Who::A), vtep)?;
    socket.recv(&mut [0; 16]).context("from node to node")?;
    for node in [Who::A, Who::B] {
        ensure!(tracked(&lab, node)? == 0, "{node:?} tracks the underlay");
    }
    // Another port is tracked: the table could have been empty for another reason.
    let other = SocketAddr::new(Who::B.address(0), 4790);
    let socket = receiver(lab.space(Who::B), other)?;
    send(lab.space(Who::A), other)?;
    socket.recv(&mut [0; 16])?;
    let path = "/proc/thread-self/net/nf_conntrack";
    let text = lab.space(Who::B).run(|| std::fs::read_to_string(path))??;
    ensure!(text.contains("dport=4790"), "{text}");
    Ok(())
}

pub(crate) fn pods_reach_no_vtep_and_no_loopback() -> Result<()> {
    // By plain routes, so that the pod's datagrams to another node pass the kernel here.
    let lab = Lab::new(&StandIn, Way::Route, &[])?;
    for (node, port, arrives) in
        [(Who::B, 4789, false), (Who::A, 4789, false), (Who::B, 4790, true), (Who::A, 4790, true)]
    {
        let at = SocketAddr::new(node.address(0), port);
        let socket = receiver(lab.space(node), at)?;
        send(lab.space(Who::P1), at)?;
        let arrived = socket.recv(&mut [0; 16]).is_ok();
        ensure!(arrived == arrives, "pod -> {at}: {arrived}");
    }
    // A pod that has the node's loopback behind its gateway.
    lab.ip(Who::P1, "addr del 127.0.0.1/8 dev lo")?;
    lab.ip(Who::P1, "route add 127.0.0.2 via 169.254.1.1 dev eth0 onlink src 10.42.0.10")?;
    lab.sysctl(Who::P1, "net.ipv4.conf.all.route_localnet=1")?;
    // The switch would pass it on.
    let switch = "sysctl -qw net.ipv4.conf.all.route_localnet=1";
    let mut shell = command_in("sw-a", &lab);
    lab::tool::run(
        shell
            .arg("sh")
            .arg("-c")
            .arg(format!("{switch}; ip route add 127.0.0.2 via 10.42.0.1 dev gw onlink")),
    )?;
    let at: SocketAddr = "127.0.0.2:9000".parse()?;
    let socket = receiver(lab.space(Who::A), at)?;
    send(lab.space(Who::P1), at)?;
    ensure!(socket.recv(&mut [0; 16]).is_err(), "a pod reaches the node's loopback");
    lab.space(Who::A).output("nft flush chain inet tapestry untracked_in")?;
    send(lab.space(Who::P1), at)?;
    socket.recv(&mut [0; 16]).context("without the rule it would")?;
    Ok(())
}

pub(crate) fn untranslated_service_traffic_is_refused() -> Result<()> {
    let lab = Lab::new(&StandIn, Way::Tunnel, &[])?;
    for address in ["10.96.0.99", "fd96::99"] {
        let at = SocketAddr::new(address.parse()?, 80);
        let begun = Instant::now();
        let error = ask(lab.space(Who::P1), None, at, Type::STREAM).err().context("no error")?;
        ensure!(format!("{error:#}").contains("refused"), "{error:#}");
        ensure!(begun.elapsed() < Duration::from_secs(1));
    }
    let path = "/proc/thread-self/net/nf_conntrack";
    let text = lab.space(Who::A).run(|| std::fs::read_to_string(path))??;
    ensure!(!text.contains("10.96.0.99"), "it left an entry that would bind what follows: {text}");
    Ok(())
}

pub(crate) fn a_host_without_nft_says_so() -> Result<()> {
    /// No program of that name.
    struct Nowhere;
    impl Rules for Nowhere {
        fn replace(&mut self, _: &str) -> Result<String, String> {
            // What the own hands say where there is no such program.
            Err("nftables: nft(8) is not installed".to_owned())
        }
        fn amend(&mut self, _: &[SetChange]) -> Result<(), String> {
            Err("nftables: nft(8) is not installed".to_owned())
        }
        fn read(&mut self) -> Result<Option<String>, String> {
            Ok(None)
        }
    }
    let lab = Lab::new(&StandIn, Way::Tunnel, &[])?;
    let keeper = Keeper::start(Nowhere, None)?;
    keeper.want(rules(&lab, &lab.view(Who::A))?);
    eventually(Duration::from_secs(5), "it is told", || Ok(keeper.state().trouble.is_some()))?;
    let state = keeper.state();
    ensure!(!state.stands && state.trouble.is_some_and(|why| why.contains("not installed")));
    Ok(())
}

pub(crate) fn plain_routes_come_and_go_and_others_stay() -> Result<()> {
    let world = World::new();
    let (a, b) = (world.space("a")?, world.space("b")?);
    world.veth((&a, "eth0"), (&b, "eth0"), 1500)?;
    a.address("eth0", "192.0.2.1/24".parse()?)?;
    a.output("ip addr add 2001:db8::1/64 dev eth0 nodad")?;
    a.output("ip route add 10.42.9.0/24 via 192.0.2.9")?;
    let link = a.link("eth0")?.index;
    let direct = |to: &str, via: &str| -> Result<Direct> {
        let via: IpAddr = via.parse()?;
        Ok(Direct { link, route: Route::new(to.parse()?, Some(via)) })
    };
    let ours = [
        direct("10.42.1.0/24", "192.0.2.2")?,
        direct("fd42:0:0:1::/64", "2001:db8::2")?,
        direct("10.42.9.0/24", "192.0.2.3")?,
    ];
    let done = a.netlink(|netlink| reconcile(netlink, &ours))??;
    ensure!(done.added == ours[..2] && done.blocked == ours[2..], "{done:?}");
    let shown = a.output("ip route show proto 122")?;
    ensure!(shown.trim() == "10.42.1.0/24 via 192.0.2.2 dev eth0", "{shown}");
    // Again: nothing to do, but for what is in the way.
    let done = a.netlink(|netlink| reconcile(netlink, &ours))??;
    ensure!(done.added.is_empty() && done.removed.is_empty(), "{done:?}");
    // A node has another address now.
    let moved = [direct("10.42.1.0/24", "192.0.2.7")?];
    let done = a.netlink(|netlink| reconcile(netlink, &moved))??;
    ensure!(done.added == moved && done.removed == ours[..2], "{done:?}");
    let done = a.netlink(|netlink| reconcile(netlink, &[]))??;
    ensure!(done.removed == moved, "{done:?}");
    let (v4, v6) = (a.output("ip route")?, a.output("ip -6 route show proto 122")?);
    ensure!(v4.contains("10.42.9.0/24 via 192.0.2.9") && v6.is_empty(), "{v4}{v6}");
    Ok(())
}

/// A table of many nodes is put in place, and looked at, in a time in which it may be done again and
/// again.
pub(crate) fn five_thousand_nodes() -> Result<()> {
    let lab = Lab::new(&StandIn, Way::Tunnel, &[])?;
    let mut view = lab.view(Who::A);
    let pattern = view.others.values().next().context("no other node")?.clone();
    view.others = SharedMap::default();
    for number in 0..5_000_u32 {
        let mut node = Node::clone(&pattern);
        node.name = format!("{}{number}", pattern.name);
        node.vtep = SocketAddr::new(IpAddr::from((0xac10_0000 + number).to_be_bytes()), 4789);
        node.addresses = vec![node.vtep.ip()];
        view.others.insert(node.name.clone(), Arc::new(node));
    }
    let rules = rules(&lab, &view)?;
    let world = World::new();
    let mut hands = InNetns(world.space("node")?);
    let words = anyhow::Error::msg;
    let begun = Instant::now();
    let stood = hands.replace(&rules.body()).map_err(words)?;
    let replaced = begun.elapsed();
    let begun = Instant::now();
    ensure!(hands.read().map_err(words)? == Some(stood.clone()), "it reads the same twice");
    let (read, bytes) = (begun.elapsed(), rules.body().len());
    eprintln!("{bytes} bytes: replaced in {replaced:?}, read in {read:?}");
    view.others.remove(&format!("{}7", pattern.name));
    let fewer = self::rules(&lab, &view)?;
    let begun = Instant::now();
    let changes = rules.changes(&fewer).context("other chains")?;
    hands.amend(&changes).map_err(words)?;
    eprintln!("a node less in {:?}", begun.elapsed());
    ensure!(hands.read().map_err(words)?.is_some_and(|table| table != stood), "nothing changed");
    let again = hands.replace(&rules.body()).map_err(words)?;
    ensure!(again == stood, "it stands the same when it is put there again");
    ensure!(replaced < Duration::from_secs(2) && read < Duration::from_secs(1));
    Ok(())
}
