//! podman, whose network is a list of plugins.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::podman::Podman;
use super::stage::{BOTH, Stage, with};
use super::web::{Inside as _, PORT, closes, fetch_from_each_other, seen_from};

fn all() -> serde_json::Value {
    json!({ "capabilities": { "portMappings": true, "ips": true, "mac": true } })
}

fn plain(stage: &Stage, node: usize) -> Result<Podman> {
    Podman::new(stage, node, stage.conflist(node, &all(), &[])?)
}

pub(crate) fn containers_of_two_nodes_fetch_from_each_other() -> Result<()> {
    with(|stage| {
        let [one, two] = [plain(stage, 0)?, plain(stage, 1)?];
        let (here, beside, there) =
            (one.run("here", &[])?, one.run("beside", &[])?, two.run("there", &[])?);
        fetch_from_each_other(&here, &there)?;
        fetch_from_each_other(&here, &beside)?;
        for node in BOTH {
            for to in there.addresses()? {
                seen_from(stage.space(node)?, SocketAddr::new(to, PORT))?;
            }
        }
        // A daemon that is killed has its containers again, connections or not.
        stage.cluster.overlay.daemons[1].kill()?;
        stage.cluster.overlay.daemons[1].launch()?;
        fetch_from_each_other(&here, &there)?;
        there.end()?;
        here.end()?;
        beside.end()?;
        for node in BOTH {
            let left = stage.attached(node)?;
            ensure!(left.is_empty(), "{left:?} is left on node {node}");
        }
        Ok(())
    })
}

/// Who is asked for, is asked by the outside, both nodes, and a container on either.
fn is_published(stage: &Stage, podman: &Podman, options: &[&str]) -> Result<()> {
    let container = podman.run("published", options)?;
    let client = podman.run("client", &[])?;
    let other = plain(stage, 1)?;
    let remote = other.run("remote", &[])?;
    let at = SocketAddr::new(stage.cluster.node(0)?.0.v4.into(), 8000);
    let outside = stage.outside()?;
    for space in [&outside.space, stage.space(0)?, stage.space(1)?] {
        seen_from(space, at).with_context(|| format!("{} to {at}", space.name()))?;
    }
    let seen = seen_from(&outside.space, at)?;
    ensure!(seen == IpAddr::from(outside.v4), "the outside is seen as {seen}");
    for inside in [&client, &remote] {
        inside.seen_by(at)?;
    }
    seen_from(stage.space(0)?, SocketAddr::new([127, 0, 0, 1].into(), 8000))?;
    container.end()?;
    closes(&outside.space, at)?;
    client.end()?;
    remote.end()
}

pub(crate) fn a_published_port_leads_to_its_container() -> Result<()> {
    with(|stage| {
        let podman = plain(stage, 0)?;
        is_published(stage, &podman, &["--publish", "8000:8080"])
    })
}

/// Debian's plugins after this one: the mapping is then portmap's, of iptables rules.
pub(crate) fn portmap_and_tuning_may_follow_in_the_chain() -> Result<()> {
    with(|stage| {
        let chained = [
            json!({ "type": "tuning", "sysctl": { "net.ipv4.conf.IFNAME.log_martians": "1" } }),
            json!({ "type": "portmap", "snat": true, "capabilities": { "portMappings": true } }),
        ];
        let podman = Podman::new(stage, 0, stage.conflist(0, &json!({}), &chained)?)?;
        let tuned = podman.run("tuned", &[])?;
        let path = "/proc/sys/net/ipv4/conf/eth0/log_martians";
        ensure!(tuned.run(&["cat", path])?.trim() == "1", "the sysctl is not set");
        tuned.end()?;
        is_published(stage, &podman, &["--publish", "8000:8080"])
    })
}

pub(crate) fn an_address_that_is_asked_for_is_given() -> Result<()> {
    with(|stage| {
        let podman = plain(stage, 0)?;
        let options = ["--ip", "10.244.1.77", "--mac-address", "02:00:00:00:77:01"];
        let container = podman.run("chosen", &options)?;
        let [v4, v6] = container.addresses()?;
        ensure!(v4.to_string() == "10.244.1.77", "{v4}");
        ensure!(v6.to_string() == "fd00:10:244:1::4d", "the index is one for both families: {v6}");
        let link = container.run(&["ip", "link", "show", "dev", "eth0"])?;
        ensure!(link.contains("02:00:00:00:77:01"), "{link}");
        seen_from(stage.space(1)?, SocketAddr::new(v4, PORT))?;
        let error = podman.run("second", &options).err().context("an address was given twice")?;
        ensure!(format!("{error:#}").contains("10.244.1.77"), "{error:#}");
        podman.remove("second")?;
        container.end()
    })
}
