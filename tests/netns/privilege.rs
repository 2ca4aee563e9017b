//! A daemon without any capability, and the helper that has them in its place.

#![allow(clippy::unwrap_used, reason = "an error that is wanted and not there fails the test")]

use std::fs::Permissions;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use lab::daemon::Daemon;
use lab::overlay::{Overlay, Plan, Pod, access_port, pod};
use lab::tool::eventually;
use lab::traffic::lasting::Talks;
use lab::traffic::ping;
use serde_json::{Value, json};
use socket2::{Domain, SockAddr, Socket, Type};
use tapestry::device::adopt::Expectation;
use tapestry::device::make;
use tapestry::device::netlink::{LinkChange, Route};
use tapestry::device::netns::Netns;
use tapestry::device::offload::OffloadWish;
use tapestry::device::spec::{NetnsRef, TapSpec};
use tapestry::gateway::ways::Direct;
use tapestry::privilege::Hands;

use crate::common::{exchange, row, still_forwarding, tapestry};
use crate::parted::{
    Helper, OWNER, PATIENCE, Parted, STRANGER, capabilities, daemon_as, helper_section, permitted,
};

pub(crate) fn a_daemon_without_capabilities_has_ports_by_its_helper() -> Result<()> {
    if !permitted() {
        return Ok(());
    }
    let underlay_extra = "workers = 2".to_owned();
    let mut parted = Parted::start(&Plan { underlay_extra, ..Plan::default() })?;
    let Parted { helper, overlay } = &mut parted;
    let none = "0000000000000000";
    let caps = capabilities(overlay.daemons[0].pid()?)?;
    let expected = ["Inh", "Prm", "Eff", "Bnd", "Amb"].map(|set| format!("Cap{set}: {none}"));
    ensure!(caps == [expected.join(" ")], "{caps:?}");
    let caps = capabilities(helper.process.pid())?;
    // CHOWN, NET_ADMIN and SYS_ADMIN.
    ensure!(caps.iter().all(|set| set.contains("CapEff: 0000000000201001")), "{caps:?}");
    exchange(&overlay.pods[0][0], &overlay.pods[1][0], 5)?;

    let daemon = &overlay.daemons[0];
    let status = daemon.json("status")?["helper"].take();
    ensure!(status == json!({ "socket": helper.socket() }), "{status}");
    let port = row(daemon, "port list", "name", "pod1")?;
    ensure!(port["queues"] == 2 && port["steering"] == "flow_hash", "{port}");

    // By the command line.
    let extra = pod(&overlay.world, 1, 7)?;
    daemon.cli(&format!(
        "port add by-hand --segment blue --netns {} --ifname eth0 --address {} --address {}",
        extra.space.name(),
        extra.v4,
        extra.v6
    ))?;
    ping::until_answered(&extra.space, overlay.pods[1][0].hosts()[0], PATIENCE)?;
    daemon.cli("port del by-hand")?;
    ensure!(extra.space.link("eth0").is_err(), "port del left the device");

    // By the file: one port more, and another address and MTU for the first.
    let mut config = overlay.configs[0].clone();
    config.ports.push(access_port("pod7", &extra));
    config.ports[0].addresses.remove(1);
    config.ports[0].extra.push_str("mtu = 1400\n");
    daemon.configure(&config)?;
    let report = daemon.cli("reload")?;
    ensure!(report.contains("pod7") && report.contains("mtu"), "{report}");
    ping::until_answered(&extra.space, overlay.pods[1][0].hosts()[0], PATIENCE)?;
    let portrait = overlay.pods[0][0].space.portrait("eth0")?;
    ensure!(portrait.contains("mtu 1400") && !portrait.contains("fd09::"), "{portrait}");
    overlay.configs[0] = config;

    // The helper's place is not changed by a reload.
    let moved = overlay.configs[0].clone();
    let moved = lab::config::Config { extra: helper_section(Path::new("/run/other")), ..moved };
    overlay.daemons[0].configure(&moved)?;
    let (code, words) = overlay.daemons[0].refusal("reload")?;
    ensure!(code == 1 && words.contains("privilege.helper"), "exit {code}: {words}");
    overlay.daemons[0].allow(&["privilege.helper"]);
    overlay.daemons[0].configure(&overlay.configs[0])?;

    // Teardown, without rights of its own.
    let config = overlay.daemons[0].config_path().display().to_string();
    overlay.assert_sound()?;
    overlay.daemons[0].stop()?;
    overlay.daemons[0].cli(&format!("teardown --config {config}"))?;
    for space in [&extra.space, &overlay.pods[0][0].space] {
        ensure!(space.link("eth0").is_err(), "teardown left a port");
    }
    helper.assert_alive()
}

pub(crate) fn a_namespace_comes_and_goes_under_a_helper() -> Result<()> {
    if !permitted() {
        return Ok(());
    }
    let mut parted = Parted::start(&Plan::default())?;
    let overlay = &mut parted.overlay;
    overlay.daemons[0].allow(&["pod1"]);
    let name = overlay.pods[0].remove(0).space.name().to_owned();
    let state = |overlay: &Overlay, wanted: &str| {
        Ok(row(&overlay.daemons[0], "port list", "name", "pod1")?["state"] == wanted)
    };
    eventually(PATIENCE, "the port goes down", || state(overlay, "down"))?;
    let back = pod(&overlay.world, 1, 1)?;
    ensure!(back.space.name() == name);
    eventually(PATIENCE, "the port comes up", || state(overlay, "up"))?;
    ping::until_answered(&back.space, overlay.pods[1][0].hosts()[0], PATIENCE)?;
    parted.end()
}

pub(crate) fn ports_wait_for_a_helper_that_is_away() -> Result<()> {
    if !permitted() {
        return Ok(());
    }
    let mut parted = Parted::build(&Plan { pods: 2, ..Plan::default() })?;
    let Parted { helper, overlay } = &mut parted;
    overlay.daemons[0].allow(&["pod1", "pod2", "not ready", "late"]);
    helper.kill()?;
    let ready = overlay.daemons[0].launch_within(Duration::from_secs(3))?;
    ensure!(ready.is_none(), "ready without ports");
    let daemon = &overlay.daemons[0];
    let status = daemon.json("status")?;
    let trouble = status["helper"]["trouble"].as_str().unwrap_or_default();
    ensure!(trouble.contains("away"), "{status}");
    let port = row(daemon, "port list", "name", "pod1")?;
    let reason = port["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("helper.sock"), "{port}");
    helper.relaunch()?;
    let up =
        |daemon: &Daemon, name: &str| Ok(row(daemon, "port list", "name", name)?["state"] == "up");
    let patience = Duration::from_secs(3);
    eventually(patience, "a port comes up", || up(daemon, "pod1"))?;
    ensure!(daemon.json("status")?["helper"].get("trouble").is_none());

    // Those that are up go on without it; a new one waits.
    helper.kill()?;
    still_forwarding(&overlay.pods[0][0], &overlay.pods[0][1])?;
    let late = pod(&overlay.world, 1, 9)?;
    let begun = Instant::now();
    let line = format!(
        "port add late --segment blue --netns {} --ifname eth0 --address {} --address {}",
        late.space.name(),
        late.v4,
        late.v6
    );
    let (code, words) = overlay.daemons[0].refusal(&line)?;
    ensure!(code == 1 && words.contains("helper"), "exit {code}: {words}");
    ensure!(begun.elapsed() < Duration::from_secs(3), "refused after {:?}", begun.elapsed());
    still_forwarding(&overlay.pods[0][0], &overlay.pods[0][1])?;
    eventually(patience, "the trouble is told", || {
        Ok(overlay.daemons[0].cli("status")?.contains("helper.sock (it is away"))
    })?;
    helper.relaunch()?;
    eventually(patience, "the helper is found again", || {
        Ok(overlay.daemons[0].json("status")?["helper"].get("trouble").is_none())
    })?;
    overlay.daemons[0].cli(&line)?;
    still_forwarding(&late, &overlay.pods[0][1])?;
    parted.end()
}

fn portraits(overlay: &Overlay) -> Result<Vec<String>> {
    overlay.pods.iter().flatten().map(|pod| pod.space.portrait("eth0")).collect()
}

/// Gives a pod permanent entries for another: what a neighbour table forgets without carrier is asked
/// for again only after a second, whatever the daemon does.
fn acquaint(a: &Pod, b: &Pod) -> Result<()> {
    let (index, mac) = (a.space.link("eth0")?.index, b.space.link("eth0")?.mac.context("mac")?);
    for host in b.hosts() {
        a.space.netlink(|netlink| netlink.set_neighbour(index, host, mac))??;
    }
    Ok(())
}

pub(crate) fn pods_survive_the_death_of_either_and_of_both() -> Result<()> {
    if !permitted() {
        return Ok(());
    }
    let mut parted = Parted::start(&Plan { pods: 10, ..Plan::default() })?;
    let Parted { helper, overlay } = &mut parted;
    for (a, b) in overlay.pods[0].iter().zip(&overlay.pods[1]) {
        acquaint(a, b)?;
        acquaint(b, a)?;
    }
    let before = portraits(overlay)?;
    ensure!(before.iter().all(|p| p.contains("address fd09::") && p.contains("address 10.9.")));
    let deaths: [(&str, bool, bool); 4] = [
        ("helper", true, false),
        ("daemon", false, true),
        ("both", true, true),
        ("both", true, true),
    ];
    for (round, (who, helpers, daemons)) in deaths.into_iter().enumerate() {
        let mut talks = Talks::default();
        for (a, b) in overlay.pods[0].iter().zip(&overlay.pods[1]) {
            for host in b.hosts() {
                talks.open(&a.space, &b.space, host)?;
            }
        }
        talks.go_on()?;
        let (begun, mut away) = (Instant::now(), Duration::ZERO);
        if helpers {
            helper.kill()?;
        }
        if daemons {
            overlay.daemons[0].kill()?;
        }
        ensure!(portraits(overlay)? == before, "the death of {who} changed a pod");
        // In the last round the daemon is back first, and has to wait for its helper.
        if helpers && round < 3 {
            helper.relaunch()?;
        }
        let late = (round == 3).then(|| {
            let (space, dir) = (helper.space.clone(), helper.dir.path().to_owned());
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(300));
                Helper::launch(&space, &dir)
            })
        });
        if daemons {
            overlay.daemons[0].launch()?;
            away = begun.elapsed();
        }
        if let Some(late) = late {
            let Ok(process) = late.join() else { bail!("the thread panicked") };
            helper.process = process?;
        }
        talks.go_on().with_context(|| format!("{who}\n{}", overlay.daemons[0].log()))?;
        let stall = talks.end()?;
        eprintln!(
            "kill -9 of {who}: no daemon for {away:?}, 20 connections, longest wait for an answer {stall:?}"
        );
        ensure!(stall < Duration::from_secs(2), "{who}: a connection waited {stall:?}");
        ensure!(portraits(overlay)? == before, "the start after the death of {who} changed a pod");
    }
    // Adopted ports are the daemon's as before: they can be changed and removed.
    overlay.daemons[0].cli("port list")?;
    let mut config = overlay.configs[0].clone();
    let gone = config.ports.pop().context("a port")?;
    overlay.daemons[0].configure(&config)?;
    overlay.daemons[0].cli("reload")?;
    let left = overlay.pods[0].iter().filter(|pod| pod.space.link("eth0").is_ok()).count();
    ensure!(left == 9, "{}: {left} devices are left", gone.name);
    parted.end()
}

/// A daemon that dies over the making of its ports, again and again, has them all in the end, and
/// no other.
pub(crate) fn ports_are_made_whoever_dies_over_it() -> Result<()> {
    if !permitted() {
        return Ok(());
    }
    let mut parted = Parted::build(&Plan { pods: 12, ..Plan::default() })?;
    let Parted { helper, overlay } = &mut parted;
    overlay.daemons[0].allow(&["pod", "not ready", "port"]);
    for round in 0..6_u64 {
        let patience = Duration::from_millis(20 + 37 * round);
        let _ = overlay.daemons[0].launch_within(patience)?;
        if round % 3 != 0 {
            helper.kill()?;
        }
        if round % 3 != 1 {
            overlay.daemons[0].kill()?;
        }
        if round % 3 != 0 {
            helper.relaunch()?;
        }
        if round % 3 == 1 {
            overlay.daemons[0].kill()?;
        }
    }
    overlay.daemons[0].launch()?;
    let (first, rest) = overlay.pods[0].split_first().context("pods")?;
    rest.iter().try_for_each(|pod| still_forwarding(first, pod))?;
    for pod in &overlay.pods[0] {
        let links = pod.space.netlink(|netlink| netlink.links())??;
        let names: Vec<_> = links.iter().map(|link| link.name.as_str()).collect();
        ensure!(names == ["lo", "eth0"], "{names:?}");
    }
    parted.end()
}

pub(crate) fn a_stranger_is_not_served() -> Result<()> {
    if !permitted() {
        return Ok(());
    }
    let mut parted = Parted::start(&Plan { pods: 2, ..Plan::default() })?;
    let Parted { helper, overlay } = &mut parted;
    let extra = pod(&overlay.world, 1, 9)?;
    for (mode, words) in [(0o600, "Permission denied"), (0o666, "away")] {
        // The file alone is no wall: whoever gets past it is asked who he is.
        std::fs::set_permissions(helper.socket(), Permissions::from_mode(mode))?;
        let mut daemon = daemon_as(STRANGER, &overlay.nodes[0].space)?;
        let mut config = overlay.configs[0].clone();
        config.ports = vec![access_port("stolen", &extra)];
        config.underlay = overlay.nodes[0].v6.into();
        config.segments[0].peers.clear();
        daemon.configure(&config)?;
        let ready = daemon.launch_within(Duration::from_millis(2500))?;
        ensure!(ready.is_none(), "a stranger has a port");
        let port = row(&daemon, "port list", "name", "stolen")?;
        let reason = port["reason"].as_str().unwrap_or_default();
        ensure!(port["state"] == "down" && reason.contains(words), "{port}");
        ensure!(extra.space.link("eth0").is_err(), "a stranger has a device");
    }
    let said = helper.process.said();
    ensure!(said.contains("uid 4712 is not served"), "{said}");
    still_forwarding(&overlay.pods[0][0], &overlay.pods[0][1])?;
    parted.end()
}

/// A connection on which anything can be said.
struct Talk(Socket);

impl Talk {
    fn connect(helper: &Helper) -> Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(&SockAddr::unix(helper.socket())?)?;
        Ok(Self(socket))
    }

    fn greeted(helper: &Helper) -> Result<Self> {
        let netns = helper.space.run(|| Netns::current().map(|netns| netns.identity()))??;
        let hello = json!({ "hello": { "version": 2, "netns": netns } });
        let mut welcome = None;
        // Who comes when it is crowded is sent away without a word.
        eventually(PATIENCE, "a welcome", || {
            let talk = Self::connect(helper)?;
            let reply = talk.ask(&hello);
            welcome = reply.is_ok_and(|reply| reply == json!("welcome")).then_some(talk);
            Ok(welcome.is_some())
        })?;
        welcome.context("no welcome")
    }

    fn send(&self, bytes: &[u8]) -> Result<()> {
        Ok(self.0.send(bytes).map(drop)?)
    }

    /// The answer; `None`: the connection is closed.
    fn answer(&self) -> Result<Option<Value>> {
        let mut buffer = vec![0; 100_000];
        let length = match nix::unistd::read(self.0.as_fd(), &mut buffer) {
            Ok(0) | Err(nix::errno::Errno::ECONNRESET) => return Ok(None),
            length => length?,
        };
        Ok(Some(serde_json::from_slice(buffer.get(1..length).unwrap_or_default())?))
    }

    fn ask(&self, request: &Value) -> Result<Value> {
        self.send(format!("\0{request}").as_bytes())?;
        self.answer()?.with_context(|| format!("{request}: the connection was closed"))
    }
}

fn make_request(netns: &str, owner: u32) -> Value {
    let mut spec = json!({
        "netns": netns, "ifname": "eth1", "mac": "02:00:00:00:0a:01", "mtu": 1450, "queues": 1,
        "owner": owner, "addresses": [], "routes": [], "txqueuelen": 1000, "persist": true,
        "offload": "auto",
    });
    // What a specification has besides, by its own words.
    let all = serde_json::to_value(tap_spec(netns)).unwrap_or_default();
    for (key, value) in all.as_object().into_iter().flatten() {
        if spec.get(key).is_none() {
            spec[key] = value.clone();
        }
    }
    json!({ "make": { "spec": spec } })
}

fn tap_spec(netns: &str) -> TapSpec {
    TapSpec {
        netns: Some(NetnsRef(netns.to_owned())),
        ifname: "eth1".to_owned(),
        mac: encap::MacAddr([2, 0, 0, 0, 0x0a, 1]),
        mtu: 1450,
        queues: 1,
        owner: OWNER,
        addresses: Vec::new(),
        routes: Vec::new(),
        neighbours: Vec::new(),
        txqueuelen: None,
        persist: true,
        offload: OffloadWish::Auto,
    }
}

pub(crate) fn nonsense_is_refused_and_does_no_harm() -> Result<()> {
    if !permitted() {
        return Ok(());
    }
    let mut parted = Parted::start(&Plan { pods: 2, ..Plan::default() })?;
    let Parted { helper, overlay } = &mut parted;
    let refused =
        |reply: &Option<Value>| reply.as_ref().is_none_or(|reply| reply.get("refused").is_some());
    // At the door: nothing but a greeting of the same version, from the same namespace.
    let elsewhere = overlay.pods[0][0].space.run(|| Netns::current().map(|n| n.identity()))??;
    let home = overlay.nodes[0].space.run(|| Netns::current().map(|n| n.identity()))??;
    let at_the_door = [
        json!({ "hello": { "version": 1, "netns": home } }).to_string(),
        json!({ "hello": { "version": 2, "netns": elsewhere } }).to_string(),
        json!({ "hello": { "version": 2 } }).to_string(),
        json!("read_rules").to_string(),
        make_request("pod", OWNER).to_string(),
        String::new(),
        "}{".to_owned(),
        "[".repeat(40_000),
        "\u{0}\u{ff}".to_owned(),
    ];
    for text in &at_the_door {
        let talk = Talk::connect(helper)?;
        talk.send(format!("\0{text}").as_bytes())?;
        let reply = talk.answer()?;
        ensure!(refused(&reply), "{text}: {reply:?}");
        ensure!(talk.answer()?.is_none(), "{text}: still open");
    }
    // Inside: what is no message, is too long, or ends early.
    let mut full = vec![b' '; 48 * 1024 + 1];
    full[0] = 1;
    let longer = vec![0; 60_000];
    for (what, parts) in [
        ("unknown byte", vec![&b"\x02{}"[..]]),
        ("not full", vec![b"\x01{"]),
        ("larger than a part", vec![&longer]),
        ("without end", vec![&full; 60]),
        ("ends early", vec![&full, &full]),
        ("empty", vec![b""]),
    ] {
        let talk = Talk::greeted(helper)?;
        // It may be closed before all is said.
        let _ = parts.iter().try_for_each(|part| talk.send(part));
        talk.0.shutdown(std::net::Shutdown::Write)?;
        let reply = talk.answer();
        ensure!(reply.as_ref().map_or(true, refused), "{what}: {reply:?}");
    }
    // More who wait than there is room for: those who come then are sent away, and come again.
    let crowd: Vec<_> = (0..40).map(|_| Talk::connect(helper)).collect();
    drop(crowd);
    helper.assert_alive()?;

    // What would be a request, but not one for the daemon's own.
    let talk = Talk::greeted(helper)?;
    let pod = overlay.pods[0][0].space.name();
    let bad_paths = ["/etc/passwd", "/dev/null", "/proc/self/ns/mnt", "/no/such/place"];
    for netns in bad_paths {
        let reply = talk.ask(&make_request(netns, OWNER))?;
        ensure!(reply.get("failed").is_some(), "{netns}: {reply}");
    }
    for netns in ["../etc/passwd", "..", ""] {
        ensure!(refused(&Some(talk.ask(&make_request(netns, OWNER))?)), "{netns}");
    }
    ensure!(refused(&Some(talk.ask(&make_request(pod, 0))?)), "a device of root");
    ensure!(overlay.pods[0][0].space.link("eth1").is_err(), "something was made");
    let seen = talk.ask(&json!({ "look": { "paths": bad_paths } }))?;
    ensure!(seen["seen"][0] == json!({ "Ok": null }), "{seen}");
    helper.assert_alive()?;
    still_forwarding(&overlay.pods[0][0], &overlay.pods[0][1])?;
    parted.end()
}

pub(crate) fn what_is_not_the_daemons_is_not_touched() -> Result<()> {
    if !permitted() {
        return Ok(());
    }
    let mut parted = Parted::start(&Plan::default())?;
    let Parted { helper, overlay } = &mut parted;
    let space = overlay.pods[0][0].space.clone();
    let (name, hands) = (space.name(), Hands::new(Some(&helper.socket())));
    // Root's TAP, and a bridge, each with all else that one of the daemon's would have.
    let theirs = make::make(&TapSpec { owner: 0, ifname: "tap9".to_owned(), ..tap_spec(name) })?;
    space.netlink(|netlink| netlink.add_bridge("br9"))??;
    let bridge = space.link("br9")?;
    space.change("br9", &LinkChange { mac: Some(theirs.facts.mac), ..LinkChange::default() })?;
    drop(theirs.queues);
    let expect = |ifindex| Expectation {
        mac: theirs.facts.mac,
        owner: OWNER,
        netns: Some(theirs.facts.netns),
        ifindex: Some(ifindex),
    };
    let netns = NetnsRef(name.to_owned());
    helper.space.run(|| -> Result<()> {
        let mut hand = hands.hand();
        for (ifname, index) in [("tap9", theirs.facts.ifindex), ("br9", bridge.index)] {
            let spec = TapSpec { ifname: ifname.to_owned(), mtu: 1300, ..tap_spec(name) };
            let removed = hand.remove(Some(&netns), ifname, &expect(index)).unwrap_err();
            let opened = hand.reopen(&spec, &expect(index)).unwrap_err();
            let changed = hand.configure(&spec, index, &(&spec).into()).unwrap_err();
            for error in [removed, opened, changed] {
                ensure!(error.mismatch().is_some(), "{ifname}: {error}");
            }
            let taken = hand.make(&spec).unwrap_err();
            ensure!(taken.to_string().contains("taken"), "{ifname}: {taken}");
        }
        Ok(())
    })??;
    ensure!(space.link("tap9")?.mtu == 1450 && space.link("br9")?.index == bridge.index);
    parted.end()
}

/// What the daemon does not ask for yet, or seldom: many queues, queues from elsewhere, rules.
pub(crate) fn every_verb_is_the_same_by_the_helper() -> Result<()> {
    if !permitted() {
        return Ok(());
    }
    let mut parted = Parted::start(&Plan::default())?;
    let Parted { helper, overlay } = &mut parted;
    let space = overlay.pods[0][0].space.clone();
    let hands = Hands::new(Some(&helper.socket()));
    helper.space.run(|| -> Result<()> {
        let mut hand = hands.hand();
        // More descriptors than one message carries.
        let spec = TapSpec { queues: 254, ..tap_spec(space.name()) };
        let made = hand.make(&spec)?;
        ensure!(made.queues.len() == 254);
        let facts = made.facts.clone();
        // Without rights it could not be told where the device is, nor what it is there.
        let expect = Expectation {
            mac: facts.mac,
            owner: OWNER,
            netns: Some(facts.netns),
            ifindex: Some(facts.ifindex),
        };
        let adopted = hand.adopt(made.queues, &expect, OffloadWish::Auto)?;
        ensure!(adopted.facts == facts && adopted.queues.len() == 254, "{:?}", adopted.facts);
        let other = Expectation { mac: encap::MacAddr([2; 6]), ..expect };
        let refused = hand.adopt(adopted.queues, &other, OffloadWish::Auto).unwrap_err();
        ensure!(refused.mismatch().is_some(), "{refused}");
        Ok(())
    })??;

    // The gateway's settings, of the daemon's own devices alone; and routes to other nodes.
    let node = &helper.space;
    let gateway = TapSpec { netns: None, ifname: "gw9".to_owned(), ..tap_spec("") };
    let roots = TapSpec { owner: 0, ifname: "tap9".to_owned(), ..gateway.clone() };
    let roots = node.run(|| make::make(&roots))??;
    let under = node.link("under0")?.index;
    let way = |to: &str| -> Result<Direct> {
        let via = Some("192.0.2.2".parse()?);
        Ok(Direct { link: under, route: Route::new(to.parse()?, via) })
    };
    node.run(|| -> Result<()> {
        let made = hands.hand().make(&gateway)?;
        hands.tune(made.facts.ifindex)?;
        let error = hands.tune(roots.facts.ifindex).unwrap_err().to_string();
        ensure!(error.contains("belongs to uid 0"), "{error}");
        let done = hands.reconcile(&[way("10.42.1.0/24")?, way("10.42.2.0/24")?])?;
        ensure!(done.added.len() == 2, "{done:?}");
        let done = hands.reconcile(&[way("10.42.2.0/24")?])?;
        ensure!(done.removed == [way("10.42.1.0/24")?] && done.added.is_empty(), "{done:?}");
        ensure!(hands.reconcile(&[way("0.0.0.0/0")?]).is_err());
        Ok(())
    })??;
    let conf =
        node.output("sysctl -n net.ipv4.conf.gw9.rp_filter net.ipv4.conf.tap9.route_localnet")?;
    ensure!(conf.split_whitespace().eq(["2", "0"]), "{conf}");
    let routes = node.output("ip route show dev under0")?;
    ensure!(routes.contains("10.42.2.0/24") && !routes.contains("10.42.1.0/24"), "{routes}");

    let nft = |line: &str| helper.space.output(&format!("nft {line}"));
    nft("add table inet other")?;
    helper.space.run(|| -> Result<()> {
        ensure!(hands.read_rules()?.is_none());
        let stirs = hands.listen()?;
        nft("add table inet another")?;
        ensure!(!stirs.take(), "a word about somebody else's table");
        // Some thousand addresses: more than one part of a message.
        let many: Vec<String> =
            (0..8000_u32).map(|n| format!("10.{}.{}.1", n / 200, n % 200)).collect();
        let body = format!("set nodes {{ type ipv4_addr; elements = {{ {} }} }}", many.join(", "));
        let table = hands.replace_rules(&body)?;
        ensure!(table.contains("10.39.199.1"), "{}", table.len());
        let body = "chain forward {\n type filter hook forward priority 0;\n counter accept\n}";
        let table = hands.replace_rules(body)?;
        ensure!(table.contains("chain forward") && !table.contains("nodes"), "{table}");
        ensure!(hands.read_rules()?.as_ref() == Some(&table));
        for bad in
            ["chain a { nonsense }", "} table inet other { chain b { }", "include \"/etc/shadow\""]
        {
            let error = hands.replace_rules(bad).unwrap_err().to_string();
            ensure!(!error.contains("root:"), "{error}");
        }
        ensure!(hands.read_rules()?.as_ref() == Some(&table), "a refused one changed something");
        ensure!(stirs.take(), "no word about the own table");
        hands.remove_rules()?;
        hands.remove_rules()?;
        ensure!(hands.read_rules()?.is_none());
        Ok(())
    })??;
    ensure!(nft("list ruleset")?.contains("table inet other"), "somebody else's table");
    parted.end()
}

/// That others do it costs little: each port is a message or two more.
pub(crate) fn many_ports_are_made_as_fast() -> Result<()> {
    if !permitted() {
        return Ok(());
    }
    const PORTS: usize = 60;
    let mut took = Vec::new();
    for parted in [false, true] {
        let plan = Plan { nodes: 1, pods: PORTS, ..Plan::default() };
        let mut both = Parted::build(&plan)?;
        if !parted {
            let node = both.overlay.nodes[0].space.clone();
            let mut config = both.overlay.configs[0].clone();
            config.extra.clear();
            let daemon = Daemon::prepare(&tapestry(), &node)?;
            daemon.configure(&config)?;
            both.overlay.daemons[0] = daemon;
        }
        let made = both.overlay.daemons[0].launch()?;
        both.overlay.daemons[0].kill()?;
        let adopted = both.overlay.daemons[0].launch()?;
        took.push((made, adopted));
        both.end()?;
    }
    let [own, helped] = took.try_into().ok().context("two")?;
    eprintln!("{PORTS} ports made and adopted: by the daemon {own:?}, by the helper {helped:?}");
    for (own, helped) in [(own.0, helped.0), (own.1, helped.1)] {
        ensure!(helped < own * 2 + Duration::from_secs(1), "{helped:?}, not {own:?}");
    }
    Ok(())
}
