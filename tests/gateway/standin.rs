//! A stand-in for the switch, made of the kernel's own routing: a namespace beside each node that
//! has the pods' host routes, knows one way to the other node's, and gives the rest to the node. It
//! tracks no connection.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use lab::world::Space;
use switch::{GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6};
use tapestry::cluster::model::View;
use tapestry::config::Cluster;
use tapestry::device::netlink::LinkChange;
use tapestry::gateway::census::Census;
use tapestry::gateway::port::{gateway_port, tune};
use tapestry::gateway::ruleset::{Ruleset, TABLE};
use tapestry::gateway::ways::{Subnet, Ways, reconcile, ways};

use super::land::{Lab, Laid, Plumbing, Who, gateway, nft};

/// See above.
pub(crate) struct StandIn;

impl Laid for [Space; 2] {}

impl Plumbing for StandIn {
    fn lay(&self, lab: &Lab) -> Result<Box<dyn Laid>> {
        let switches = [lab.world.space("sw-a")?, lab.world.space("sw-b")?];
        let [a, b] = &switches;
        for switch in &switches {
            for setting in [
                "net.ipv4.ip_forward=1",
                "net.ipv6.conf.all.forwarding=1",
                "net.ipv4.conf.all.rp_filter=0",
                "net.ipv4.conf.all.send_redirects=0",
                "net.ipv4.conf.default.send_redirects=0",
            ] {
                switch.output(&format!("sysctl -qw {setting}"))?;
            }
        }
        lab.world.veth((a, "tun"), (b, "tun"), 1450)?;
        for (switch, node, pods) in
            [(a, Who::A, &[Who::P1, Who::P2][..]), (b, Who::B, &[Who::Q1][..])]
        {
            let subnets = subnets(lab, node)?;
            let ways = ways(&lab.cluster(node)?, &lab.view(node), &subnets);
            kernel(lab, node, switch, &ways)?;
            let other = if node == Who::A { b } else { a };
            routes(lab, node, switch, other, &ways)?;
            for pod in pods {
                attach(lab, *pod, switch)?;
            }
        }
        Ok(Box::new(switches))
    }
}

fn subnets(lab: &Lab, node: Who) -> Result<Vec<Subnet>> {
    let link = lab.space(node).link("eth0")?.index;
    let net = |text: &str| Ok(Subnet { net: text.parse()?, link });
    ["192.0.2.0/24", "2001:db8::/64"].into_iter().map(net).collect()
}

/// Of the other nodes in a view.
pub(crate) fn census(cluster: &Cluster, view: &View) -> Census {
    let mut census = Census::new(cluster);
    census.follow(&view.others);
    census
}

/// The node's own side: the gateway port's device, plain routes, rules.
fn kernel(lab: &Lab, node: Who, switch: &Space, ways: &Ways) -> Result<()> {
    let (space, cluster, view) = (lab.space(node), lab.cluster(node)?, lab.view(node));
    lab.world.veth((switch, "gw"), (space, "tapestry0"), 1450)?;
    as_gateway(switch, "gw")?;
    let index = space.link("tapestry0")?.index;
    let (own, others) = (view.own.as_ref(), census(&cluster, &view));
    let port = gateway_port(&cluster, own, &others, ways).context("no gateway port")?;
    space.netlink(|netlink| -> Result<()> {
        tune(netlink, index)?;
        for address in &port.addresses {
            netlink.add_address(index, *address)?;
        }
        for (address, mac) in &port.neighbours {
            netlink.set_neighbour(index, *address, *mac)?;
        }
        for route in &port.routes {
            netlink.add_route(index, *route)?;
        }
        let done = reconcile(netlink, &ways.routes)?;
        anyhow::ensure!(done.blocked.is_empty(), "{done:?}");
        Ok(())
    })??;
    let mine: Vec<_> = if node == Who::A { lab.mappings.clone() } else { Vec::new() };
    let rules = Ruleset::new(&cluster, own, &others, ways, &mine)?;
    nft(space, &format!("table {TABLE} {{\n{}}}\n", rules.body()))
}

fn as_gateway(switch: &Space, device: &str) -> Result<()> {
    switch.change(device, &LinkChange { mac: Some(GATEWAY_MAC.get()), ..LinkChange::default() })
}

fn flag(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "" } else { "-6 " }
}

/// The switch's side: what is on the node is given to its kernel, with the default.
fn routes(lab: &Lab, node: Who, switch: &Space, other: &Space, ways: &Ways) -> Result<()> {
    let ip = |line: &str| switch.output(&format!("ip {line}"));
    let mac = lab.space(node).link("tapestry0")?.mac.context("no MAC")?;
    for address in gateway(node) {
        let flag = flag(address);
        ip(&format!("{flag}neigh add {address} lladdr {mac} dev gw nud permanent"))?;
        ip(&format!("{flag}route add {address} dev gw"))?;
        ip(&format!("{flag}route add default via {address} dev gw onlink"))?;
    }
    let mac = other.link("tun")?.mac.context("no MAC")?;
    for hop in ["169.254.2.2", "fe80::2"] {
        let flag = flag(hop.parse()?);
        ip(&format!("{flag}neigh add {hop} lladdr {mac} dev tun nud permanent"))?;
    }
    for net in ways.tunnel.keys() {
        let hop = if net.addr().is_ipv4() { "169.254.2.2" } else { "fe80::2" };
        ip(&format!("{}route add {net} via {hop} dev tun onlink", flag(net.addr())))?;
    }
    let networks: Vec<IpNet> = lab.cluster(node)?.networks.iter().map(|one| one.net).collect();
    for net in ways.inside(&networks) {
        ip(&format!("{}route add unreachable {net} metric 9999", flag(net.addr())))?;
    }
    Ok(())
}

/// A pod: host addresses, and the gateway for its only neighbour.
fn attach(lab: &Lab, pod: Who, switch: &Space) -> Result<()> {
    let (space, end) = (lab.space(pod), pod.name());
    lab.world.veth((switch, end), (space, "eth0"), 1450)?;
    as_gateway(switch, end)?;
    let mac = space.link("eth0")?.mac.context("no MAC")?;
    let gateways = [IpAddr::from(GATEWAY_V4), IpAddr::from(GATEWAY_V6)];
    for (address, via) in pod.addresses().into_iter().zip(gateways) {
        let flag = flag(address);
        let nodad = if address.is_ipv4() { "" } else { "nodad" };
        lab.ip(pod, &format!("addr add {address} dev eth0 {nodad}"))?;
        let gateway = GATEWAY_MAC.get();
        lab.ip(pod, &format!("{flag}neigh add {via} lladdr {gateway} dev eth0 nud permanent"))?;
        lab.ip(pod, &format!("{flag}route add default via {via} dev eth0 onlink"))?;
        switch.output(&format!(
            "ip {flag}neigh add {address} lladdr {mac} dev {end} nud permanent"
        ))?;
        switch.output(&format!("ip {flag}route add {address} dev {end}"))?;
    }
    Ok(())
}
