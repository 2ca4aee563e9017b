//! The helper at its socket: what it does, what it refuses, and what does it no harm.

#![allow(clippy::unwrap_used, reason = "an error that is wanted and not there fails the test")]

use std::fs::Permissions;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lab::overlay::{Plan, access_port, pod};
use lab::tool::eventually;
use serde_json::{Value, json};
use socket2::{Domain, SockAddr, Socket, Type};
use tapestry::device::adopt::Expectation;
use tapestry::device::make;
use tapestry::device::netlink::{LinkChange, Route};
use tapestry::device::netns::Netns;
use tapestry::device::offload::OffloadWish;
use tapestry::device::spec::{NetnsRef, TapSpec};
use tapestry::gateway::rules::SetChange;
use tapestry::gateway::stir::Word;
use tapestry::gateway::ways::Direct;
use tapestry::privilege::Hands;

use crate::common::{row, still_forwarding};
use crate::parted::{Helper, OWNER, PATIENCE, Parted, STRANGER, daemon_as, permitted};

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
        let hello = json!({ "hello": { "version": 3, "netns": netns } });
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
        json!({ "hello": { "version": 2, "netns": home } }).to_string(),
        json!({ "hello": { "version": 3, "netns": elsewhere } }).to_string(),
        json!({ "hello": { "version": 3 } }).to_string(),
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
        ensure!(stirs.take() == Word::Silence, "a word about somebody else's table");
        // Some thousand addresses: more than one part of a message.
        let many: Vec<String> =
            (0..8000_u32).map(|n| format!("10.{}.{}.1", n / 200, n % 200)).collect();
        let body = format!("set nodes {{ type ipv4_addr; elements = {{ {} }} }}", many.join(", "));
        let table = hands.replace_rules(&body)?;
        ensure!(table.contains("10.39.199.1"), "{}", table.len());
        let _ = stirs.take();
        let change = |gone: &str, new: &str| SetChange {
            set: "nodes".to_owned(),
            gone: vec![gone.to_owned()],
            new: vec![new.to_owned()],
        };
        hands.amend_rules(&[change("10.39.199.1", "10.99.0.1")])?;
        ensure!(stirs.take() == Word::Once, "one transaction is one word");
        let amended = hands.read_rules()?.context("no table")?;
        ensure!(amended.contains("10.99.0.1") && !amended.contains("10.39.199.1"));
        for bad in [
            change("10.39.199.1", "10.99.0.2"),
            change("10.99.0.1", "10.99.0.2 }; flush ruleset; add element inet tapestry nodes {"),
            SetChange { set: "others".to_owned(), ..change("10.99.0.1", "10.99.0.2") },
        ] {
            ensure!(hands.amend_rules(std::slice::from_ref(&bad)).is_err(), "{bad:?}");
        }
        ensure!(hands.read_rules()? == Some(amended), "a refused one changed something");
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
        ensure!(stirs.take() == Word::Once, "no word about the own table");
        hands.remove_rules()?;
        hands.remove_rules()?;
        ensure!(hands.read_rules()?.is_none());
        Ok(())
    })??;
    ensure!(nft("list ruleset")?.contains("table inet other"), "somebody else's table");
    parted.end()
}
