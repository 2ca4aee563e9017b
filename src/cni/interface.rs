//! The container's device: made, compared, removed.

use std::net::IpAddr;
use std::path::Path;

use encap::MacAddr;

use super::error::{Code, Error};
use super::result::Said;
use crate::attach::protocol::Reserved;
use crate::device::error::{Cause, DeviceError};
use crate::device::make::{self, Made};
use crate::device::netlink::{LinkChange, Netlink, NetlinkError, Route};
use crate::device::netns::{Netns, NetnsError};
use crate::device::spec::{NetnsRef, TapSpec};

/// Makes the device with its addresses, routes and neighbours, up, and the loopback device up. It
/// vanishes with its descriptors: only the daemon has it last.
pub(super) fn make(
    netns: &Netns,
    path: &Path,
    ifname: &str,
    reserved: &Reserved,
) -> Result<Made, Error> {
    let mac = reserved.mac.ok_or_else(|| Error::new(Code::Failed, "no MAC address was given"))?;
    let gateway_mac = reserved.gateway_mac.unwrap_or(mac);
    let spec = TapSpec {
        netns: Some(NetnsRef(path.display().to_string())),
        ifname: ifname.to_owned(),
        mac,
        mtu: reserved.mtu,
        queues: reserved.queues,
        owner: reserved.owner,
        addresses: reserved.addresses.clone(),
        routes: reserved.routes.clone(),
        neighbours: reserved.gateways.iter().map(|gateway| (*gateway, gateway_mac)).collect(),
        txqueuelen: reserved.txqueuelen,
        persist: false,
        offload: reserved.offload,
    };
    // One entering for all of it: to enter costs more than what is then done.
    let made = netns.run(|| -> Result<Made, DeviceError> {
        loopback_up();
        make::make(&spec)
    });
    made.map_err(absent)?.map_err(|error| {
        let taken = matches!(error.cause, Cause::Taken { .. });
        Error::new(if taken { Code::Taken } else { Code::Failed }, error)
    })
}

/// Most runtimes have done so. Where it cannot be, the container is none the worse.
fn loopback_up() {
    let up = || -> Result<(), NetlinkError> {
        let mut netlink = Netlink::open()?;
        let lo = netlink.link_by_name("lo")?;
        if lo.up {
            return Ok(());
        }
        netlink.set_link(lo.index, &LinkChange { up: Some(true), ..LinkChange::default() })
    };
    let _ = up();
}

/// Whether the device is as a result once said.
pub(super) fn check(
    netns: &Netns,
    ifname: &str,
    said: &Said,
    gateway_mac: MacAddr,
) -> Result<(), Error> {
    let differs = |what: String| Err(Error::new(Code::Differs, format!("{ifname}: {what}")));
    let failed = |error: NetlinkError| Error::new(Code::Failed, error);
    let look = || {
        let mut netlink = Netlink::open().map_err(failed)?;
        let Some(link) = netlink.find_link(ifname).map_err(failed)? else {
            return differs("the interface is not there".to_owned());
        };
        if !link.up {
            return differs("it is down".to_owned());
        }
        if let Some(mac) = said.mac.filter(|mac| link.mac != Some(*mac)) {
            return differs(format!("its MAC address is not {mac} any more"));
        }
        if let Some(mtu) = said.mtu.filter(|mtu| link.mtu != *mtu) {
            return differs(format!("its MTU is {}, not {mtu}", link.mtu));
        }
        let addresses = netlink.addresses(Some(link.index)).map_err(failed)?;
        let has = |net| addresses.iter().any(|address| address.net == net);
        if let Some(net) = said.addresses.iter().find(|net| !has(**net)) {
            return differs(format!("address {net} is missing"));
        }
        let routes = netlink.routes(Some(link.index)).map_err(failed)?;
        // Routes of a result have no interface: those of other interfaces are not ours.
        let ours = |via: &Option<IpAddr>| via.is_some_and(is_gateway);
        for (to, via) in said.routes.iter().filter(|(_, via)| ours(via)) {
            let route = Route::new(*to, *via);
            if !routes.iter().any(|entry| route.is_met_by(&entry.route)) {
                return differs(format!("route {route} is missing"));
            }
            let neighbours = netlink.neighbours(Some(link.index)).map_err(failed)?;
            let mut entries = neighbours.iter().filter(|entry| entry.address == *via);
            if !entries.any(|entry| entry.is_permanent(gateway_mac)) {
                return differs("the neighbour entry of its gateway is missing".to_owned());
            }
        }
        Ok(())
    };
    netns.run(look).map_err(absent)?
}

fn is_gateway(address: IpAddr) -> bool {
    address == IpAddr::V4(switch::GATEWAY_V4) || address == IpAddr::V6(switch::GATEWAY_V6)
}

/// Removes a device that the daemon does not know, or cannot be asked about, if it is the TAP that
/// was made: by its address. What cannot be removed goes with its namespace.
pub(super) fn remove(path: &Path, ifname: &str, mac: MacAddr) {
    let Ok(netns) = Netns::open_path(path) else { return };
    let _ = netns.run(|| -> Result<(), NetlinkError> {
        let mut netlink = Netlink::open()?;
        match netlink.find_link(ifname)? {
            Some(link) if link.tun.is_some() && link.mac == Some(mac) => {
                netlink.delete_link(link.index)
            }
            _ => Ok(()),
        }
    });
}

/// The namespace is not there, or cannot be entered.
pub(super) fn absent(error: NetnsError) -> Error {
    let code = if error.is_absent() { Code::Environment } else { Code::Failed };
    Error::new(code, format!("CNI_NETNS: {error}"))
}
