//! Whether an object makes sense by itself, whatever the others say. Objects are written by others:
//! everything has a bound.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::{Name, Network, overlap, unicast};

use super::model::{Exception, Node};

const MAX_TEXT: usize = 256;
const MAX_ADDRESSES: usize = 64;
const MAX_CIDRS: usize = 16;
const MAX_EXCEPTIONS: usize = 16_384;
const MAX_CAPABILITIES: usize = 64;
/// The highest generation that is believed: whoever counts on from it stays there.
pub(super) const MAX_GENERATION: u64 = u64::MAX >> 1;

/// What is wrong with a node, in words that follow its name.
///
/// # Errors
///
/// If the node cannot be a member of a cluster with these networks.
pub fn check(node: &Node, networks: &[Network]) -> Result<(), String> {
    Name::new(&node.name).map_err(|error| error.to_string())?;
    if node.identity.is_empty() || node.identity.len() > MAX_TEXT {
        return Err(format!("its identity has {} bytes (1 to {MAX_TEXT})", node.identity.len()));
    }
    bounded("addresses", node.addresses.len(), MAX_ADDRESSES)?;
    bounded("podCIDRs", node.pod_cidrs.len(), MAX_CIDRS)?;
    bounded("exceptions", node.exceptions.len(), MAX_EXCEPTIONS)?;
    bounded("capabilities", node.capabilities.len(), MAX_CAPABILITIES)?;
    if node.capabilities.iter().any(|capability| capability.len() > MAX_TEXT) {
        return Err(format!("a capability has more than {MAX_TEXT} bytes"));
    }
    unicast(node.vtep.ip())?;
    if node.vtep.port() == 0 {
        return Err(format!("its VTEP {} has port 0", node.vtep));
    }
    if let Some(network) = holding(networks, node.vtep.ip()) {
        return Err(format!("its VTEP {} is within the pods' {}", node.vtep.ip(), network.net));
    }
    for (at, cidr) in node.pod_cidrs.iter().enumerate() {
        canonical(cidr)?;
        if !networks.iter().any(|network| network.net.contains(cidr)) {
            return Err(format!("its podCIDR {cidr} is outside the cluster's networks"));
        }
        let before = node.pod_cidrs.get(..at).unwrap_or_default();
        if let Some(other) = before.iter().find(|other| overlap(other, cidr)) {
            return Err(format!("its podCIDRs {other} and {cidr} overlap"));
        }
    }
    Ok(())
}

/// Why an address that a node gives as its own is not routed to it.
///
/// # Errors
///
/// If no node can have that address.
pub fn check_address(address: IpAddr, networks: &[Network]) -> Result<(), String> {
    if address.is_loopback() {
        return Err(format!("{address} is a loopback address"));
    }
    unicast(address)?;
    match holding(networks, address) {
        Some(network) => Err(format!("{address} is within the pods' {}", network.net)),
        None => Ok(()),
    }
}

/// Why an exception is not routed to its node.
///
/// # Errors
///
/// If pods can have no such addresses.
pub fn check_exception(exception: &Exception) -> Result<(), String> {
    let net = exception.net;
    canonical(&net)?;
    if net.prefix_len() == 0 {
        return Err(format!("{net} is everything"));
    }
    if net.addr().is_loopback() || unicast(net.addr()).is_err() {
        return Err(format!("{net} holds no addresses of pods"));
    }
    if exception.generation > MAX_GENERATION {
        return Err(format!("{net} has generation {}", exception.generation));
    }
    Ok(())
}

fn bounded(what: &str, have: usize, max: usize) -> Result<(), String> {
    if have <= max { Ok(()) } else { Err(format!("it has {have} {what}, {max} at most")) }
}

fn canonical(net: &IpNet) -> Result<(), String> {
    if net.trunc() == *net {
        return Ok(());
    }
    Err(format!("{net} has host bits; the network is {}", net.trunc()))
}

fn holding(networks: &[Network], address: IpAddr) -> Option<&Network> {
    networks.iter().find(|network| network.net.contains(&address))
}
