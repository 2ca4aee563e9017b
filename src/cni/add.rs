//! ADD.

use std::os::fd::AsFd;
use std::path::Path;

use encap::MacAddr;
use ipnet::IpNet;
use serde_json::Value;

use super::call::{Call, Command};
use super::conf::Conf;
use super::error::{Code, Error};
use super::result::{Given, Report};
use super::{interface, ipam};
use crate::attach::client::Client;
use crate::attach::protocol::{Reserve, Reserved};
use crate::device::netlink::Route;
use crate::device::netns::Netns;

/// Attaches a container, and returns the result. Whatever was done is taken back when a later step
/// fails: by the daemon as soon as the connection ends, and here what another plugin gave.
pub(super) fn add(call: &Call, conf: &Conf) -> Result<Value, Error> {
    let Some(path) = &call.netns else {
        return Err(Error::new(Code::Environment, "CNI_NETNS is missing"));
    };
    let netns = Netns::open_path(path).map_err(interface::absent)?;
    // Before another plugin is called: nothing is to be taken back if nobody is there.
    let client = Client::connect(&conf.socket)?;
    let given = match &conf.ipam {
        Some(_) => Some(ipam::run(Command::Add, call, conf)?),
        None => None,
    };
    let attached = attach(call, conf, path, &netns, client, given.as_ref());
    if attached.is_err() && given.is_some() {
        // Its own error would hide the one that matters.
        let _ = ipam::run(Command::Del, call, conf);
    }
    attached
}

fn attach(
    call: &Call,
    conf: &Conf,
    path: &Path,
    netns: &Netns,
    mut client: Client,
    given: Option<&Value>,
) -> Result<Value, Error> {
    let given = given.map(Given::read).transpose()?;
    if given.as_ref().is_some_and(|given| given.addresses.is_empty()) {
        return Err(Error::new(Code::Failed, "the IPAM plugin gave no address"));
    }
    let reserved = client.reserve(reserve(call, conf, path, netns, given.as_ref()))?;
    let made = interface::make(netns, path, &call.ifname, &reserved)?;
    let queues: Vec<_> = made.queues.iter().map(AsFd::as_fd).collect();
    client.attach(made.facts.ifindex, &queues)?;
    client.commit()?;
    let report = report(call, conf, path, &reserved, made.facts.mac, given.as_ref());
    Ok(report.json(conf.version, conf.prev_result.as_ref()))
}

fn reserve(call: &Call, conf: &Conf, path: &Path, netns: &Netns, given: Option<&Given>) -> Reserve {
    let route = |(to, via): &(IpNet, Option<_>)| Route::new(to.trunc(), *via);
    Reserve {
        key: conf.key(call),
        netns: path.to_owned(),
        identity: netns.identity(),
        segment: conf.segment.clone(),
        // The other plugin has them in its configuration, or from the runtime.
        wanted: if given.is_some() { Vec::new() } else { conf.wish.ips.clone() },
        given: given
            .map(|given| given.addresses.iter().map(|(net, _)| *net).collect())
            .unwrap_or_default(),
        routes: given.map(|given| given.routes.iter().map(route).collect()).unwrap_or_default(),
        mac: conf.wish.mac,
        mtu: conf.wish.mtu,
        host_ports: conf.wish.host_ports.clone(),
        masquerade: conf.wish.masquerade,
        spoof: conf.wish.spoof,
    }
}

fn report<'a>(
    call: &'a Call,
    conf: &Conf,
    path: &'a Path,
    reserved: &Reserved,
    mac: MacAddr,
    given: Option<&Given>,
) -> Report<'a> {
    let routed = !reserved.gateways.is_empty();
    let gateway = |net: &IpNet| {
        let given = given.iter().flat_map(|given| &given.addresses);
        let mut own = reserved.gateways.iter();
        let same = own.find(|gateway| gateway.is_ipv4() == net.addr().is_ipv4());
        if routed {
            same.copied()
        } else {
            given.filter(|(other, _)| other == net).find_map(|(_, gateway)| *gateway)
        }
    };
    let addresses = reserved.addresses.iter().map(|net| (*net, gateway(net))).collect();
    let routes = reserved.routes.iter().filter(|route| !routed || route.via.is_some());
    Report {
        ifname: &call.ifname,
        netns: path,
        mac,
        mtu: reserved.mtu,
        addresses,
        routes: routes.map(|route| (route.to, route.via)).collect(),
        dns: conf.wish.dns.clone().or_else(|| given.and_then(|given| given.dns.clone())),
    }
}
