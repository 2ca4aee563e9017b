//! CHECK and STATUS.

use super::call::{Call, Command};
use super::conf::Conf;
use super::error::{Code, Error};
use super::result::Said;
use super::{interface, ipam};
use crate::attach::client::{Client, ClientError};
use crate::attach::protocol::{Expected, RefusedKind};
use crate::device::netns::Netns;

/// Whether a container is attached as was said when it was: by the plugin that gave its addresses,
/// by the daemon, and in its namespace.
pub(super) fn check(call: &Call, conf: &Conf) -> Result<(), Error> {
    let Some(result) = &conf.prev_result else {
        return Err(Error::new(Code::Config, "prevResult is missing"));
    };
    let Some(path) = &call.netns else {
        return Err(Error::new(Code::Environment, "CNI_NETNS is missing"));
    };
    let said = Said::read(result, &call.ifname)?;
    if conf.ipam.is_some() {
        ipam::run(Command::Check, call, conf)?;
    }
    let netns = Netns::open_path(path).map_err(interface::absent)?;
    let expected = Expected {
        identity: Some(netns.identity()),
        addresses: said.addresses.iter().map(ipnet::IpNet::addr).collect(),
        mac: said.mac,
    };
    let checked = Client::connect(&conf.socket)?.check(&conf.key(call), expected);
    checked.map_err(|error| match &error {
        ClientError::Refused(refused) if refused.kind == RefusedKind::NotFound => {
            Error::new(Code::UnknownContainer, error)
        }
        _ => error.into(),
    })?;
    interface::check(&netns, &call.ifname, &said, switch::GATEWAY_MAC.get())
}

/// Whether a container could be attached now.
pub(super) fn status(call: &Call, conf: &Conf) -> Result<(), Error> {
    let asked = Client::connect(&conf.socket)
        .and_then(|mut client| client.status(conf.segment.as_deref(), conf.ipam.is_some()));
    asked.map_err(|error| Error::new(Code::NotAvailable, error))?;
    if conf.ipam.is_some() {
        ipam::run_if_known(Command::Status, call, conf)?;
    }
    Ok(())
}
