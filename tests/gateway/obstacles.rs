//! What keeps pods from the outside is named, breaks what it is said to break, and is mended by what
//! is said to mend it.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use lab::world::Space;
use socket2::Type;
use tapestry::gateway::firewall::{self, PodNetwork};
use tapestry::gateway::preflight::{Finding, managers, read_system, settings};

use super::land::{Lab, Way, Who, nft};
use super::probe::{PORT, Servers, ask};
use super::standin::StandIn;

fn named(lab: &Lab, legacy: bool) -> Result<Vec<Finding>> {
    let space = lab.space(Who::A);
    let mut run = |program: &str, arguments: &[&str]| {
        let line = format!("{program} {}", arguments.join(" "));
        space.output(&line).map_err(|error| format!("{error:#}"))
    };
    firewall::findings(&PodNetwork::from(&lab.cluster(Who::A)?), legacy, &mut run)
        .map_err(anyhow::Error::msg)
}

/// Whether a pod reaches the outside.
fn reaches(lab: &Lab, family: usize) -> bool {
    let at = SocketAddr::new(Who::Out.address(family), PORT);
    ask(lab.space(Who::P1), None, at, Type::STREAM).is_ok()
}

/// Does what an operator is told to do.
fn obey(space: &Space, found: &Finding) -> Result<()> {
    found.remedy.split("; ").try_for_each(|line| space.output(line).map(drop))
}

fn named_and_mended(lab: &Lab, subject: &str, family: usize, legacy: bool) -> Result<()> {
    ensure!(!reaches(lab, family), "{subject} breaks nothing");
    let found = named(lab, legacy)?;
    let one = found.iter().find(|one| one.subject == subject);
    obey(lab.space(Who::A), one.with_context(|| format!("no {subject} in {found:?}"))?)?;
    ensure!(reaches(lab, family), "{subject}: the remedy mends nothing");
    let found = named(lab, legacy)?;
    ensure!(found.iter().all(|one| one.subject != subject), "still named: {found:?}");
    Ok(())
}

pub(crate) fn a_policy_of_drop_is_named_and_mended() -> Result<()> {
    let lab = Lab::new(&StandIn, Way::Tunnel, &[])?;
    let _servers = Servers::start(&lab)?;
    let node = lab.space(Who::A);
    ensure!(named(&lab, false)?.is_empty() && reaches(&lab, 0) && reaches(&lab, 1));
    node.output("iptables -P FORWARD DROP")?;
    named_and_mended(&lab, "chain ip filter FORWARD", 0, false)?;
    node.output("ip6tables -P FORWARD DROP")?;
    named_and_mended(&lab, "chain ip6 filter FORWARD", 1, false)?;
    // As Docker leaves it: its own chain is the place for others' rules.
    node.output("iptables -F FORWARD")?;
    node.output("iptables -N DOCKER-USER")?;
    node.output("iptables -A FORWARD -j DOCKER-USER")?;
    let found = named(&lab, false)?;
    ensure!(found.iter().any(|one| one.remedy.contains("DOCKER-USER")), "{found:?}");
    named_and_mended(&lab, "chain ip filter FORWARD", 0, false)?;
    // A rule for the pods' network is as good as one for the device.
    node.output("iptables -F DOCKER-USER")?;
    node.output("iptables -I FORWARD -s 10.42.0.0/16 -j ACCEPT")?;
    node.output("iptables -I FORWARD -d 10.42.0.0/16 -j ACCEPT")?;
    ensure!(reaches(&lab, 0) && named(&lab, false)?.is_empty());
    nft(
        node,
        "table inet mine {\n chain pass {\n type filter hook forward priority 0; policy drop;\n }\n}\n",
    )?;
    named_and_mended(&lab, "chain inet mine pass", 0, false)
}

pub(crate) fn the_old_iptables_are_named_and_mended() -> Result<()> {
    let lab = Lab::new(&StandIn, Way::Tunnel, &[])?;
    let _servers = Servers::start(&lab)?;
    lab.space(Who::A).output("iptables-legacy -P FORWARD DROP")?;
    named_and_mended(&lab, "iptables-legacy FORWARD", 0, true)
}

/// firewalld's forward chain: its policy accepts, its last rule rejects, and zones are by interface.
pub(crate) fn firewalld_is_named() -> Result<()> {
    let lab = Lab::new(&StandIn, Way::Tunnel, &[])?;
    let _servers = Servers::start(&lab)?;
    let node = lab.space(Who::A);
    let table = |zone: &str| {
        format!(
            "table inet firewalld {{\n chain filter_FWD_public {{ }}\n\
             chain filter_FWD_trusted {{ accept; }}\n\
             chain filter_FORWARD {{\n type filter hook forward priority 10; policy accept;\n\
             ct state {{ established, related }} accept\n ct status dnat accept\n\
             iifname \"lo\" accept\n{zone}\n iifname \"eth0\" goto filter_FWD_public\n\
             reject with icmpx admin-prohibited\n }}\n}}\n"
        )
    };
    nft(node, &table(""))?;
    ensure!(!reaches(&lab, 0));
    let found = named(&lab, false)?;
    let subject = "chain inet firewalld filter_FORWARD";
    let one = found.iter().find(|one| one.subject == subject).context("not named")?;
    ensure!(one.remedy.contains("--zone=trusted --add-interface=tapestry0"), "{one:?}");
    // As firewalld writes it once it is told.
    node.output("nft delete table inet firewalld")?;
    nft(node, &table("iifname \"tapestry0\" goto filter_FWD_trusted"))?;
    ensure!(reaches(&lab, 0) && named(&lab, false)?.is_empty());
    Ok(())
}

pub(crate) fn settings_that_are_wrong_are_named_and_mended() -> Result<()> {
    let lab = Lab::new(&StandIn, Way::Tunnel, &[])?;
    let _servers = Servers::start(&lab)?;
    let (node, cluster) = (lab.space(Who::A), lab.cluster(Who::A)?);
    let found = || node.run(|| settings(&cluster, Some("eth0"), &read_system));
    ensure!(found()?.is_empty(), "{:?}", found()?);
    let index = node.link("tapestry0")?.index;
    ensure!(managers(&cluster, index, &read_system).is_empty());
    for (setting, family) in [("net.ipv4.ip_forward=0", 0), ("net.ipv6.conf.all.forwarding=0", 1)] {
        lab.sysctl(Who::A, setting)?;
        ensure!(!reaches(&lab, family), "{setting} breaks nothing");
        let named = found()?;
        ensure!(!named.is_empty(), "{setting} is not named");
        for one in &named {
            node.output(one.remedy.split("; ").next().unwrap_or_default())?;
        }
        ensure!(found()?.is_empty() && reaches(&lab, family), "{:?}", found()?);
    }
    // A node's own address as the source of what comes by the tunnel.
    lab.sysctl(Who::A, "net.ipv4.conf.tapestry0.rp_filter=1")?;
    let named = found()?;
    ensure!(named.len() == 1 && named[0].subject.ends_with("rp_filter"), "{named:?}");
    node.output(named[0].remedy.split("; ").next().unwrap_or_default())?;
    ensure!(found()?.is_empty());
    Ok(())
}
