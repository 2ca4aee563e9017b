//! DEL and GC.

use super::call::{Call, Command};
use super::conf::Conf;
use super::error::{Code, Error};
use super::result::Said;
use super::{interface, ipam};
use crate::attach::client::{Client, ClientError};
use crate::attach::protocol::RefusedKind;
use crate::attach::{Key, Tombstone, Tombstones};

/// Detaches a container: the port, its device, and then its addresses. Twice is the same as once, and
/// nothing needs to be there: no namespace, no attachment, no daemon.
pub(super) fn del(call: &Call, conf: &Conf) -> Result<(), Error> {
    let key = conf.key(call);
    let released = match Client::connect(&conf.socket).and_then(|mut client| client.release(&key)) {
        Ok(_) => Ok(()),
        Err(error) if is_away(&error) => leave_word(conf, key),
        Err(error) => Err(error.into()),
    };
    // Also one that the daemon has forgotten; and nobody is to wait for the daemon.
    let said = conf.prev_result.as_ref().and_then(|result| Said::read(result, &call.ifname).ok());
    if let (Some(path), Some(mac)) = (&call.netns, said.and_then(|said| said.mac)) {
        interface::remove(path, &call.ifname, mac);
    }
    // Last, and in any case: what it gives is not to be given again before nobody has it.
    match &conf.ipam {
        Some(_) => released.and(ipam::run(Command::Del, call, conf).map(drop)),
        None => released,
    }
}

/// Whether there was nobody to be told.
fn is_away(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. } | ClientError::Lost(_) => true,
        ClientError::Refused(refused) => refused.kind == RefusedKind::NotReady,
    }
}

/// Leaves word for the daemon that will be there.
fn leave_word(conf: &Conf, key: Key) -> Result<(), Error> {
    let stones = Tombstones::of(&conf.state_dir);
    let left = Tombstone::now(key).and_then(|stone| stones.leave(&stone));
    left.map_err(|error| {
        let dir = conf.state_dir.display();
        let message = format!("the daemon is away, and no word could be left in {dir}: {error}");
        Error::new(Code::Io, message)
    })
}

/// Detaches all of the network's containers but those that are valid. Those of other networks are
/// not looked at. What goes wrong with one keeps none of the others.
pub(super) fn gc(call: &Call, conf: &Conf) -> Result<(), Error> {
    let Some(valid) = conf.valid.clone() else {
        let message = "cni.dev/valid-attachments is missing: everything would be garbage";
        return Err(Error::new(Code::Config, message));
    };
    let (released, mut failed) = Client::connect(&conf.socket)?.gc(&conf.name, valid)?;
    if conf.ipam.is_some() {
        // Few of the plugins that give addresses know GC, but all know DEL.
        for key in released {
            let gone =
                Call { container: key.container, ifname: key.ifname, netns: None, ..call.clone() };
            if let Err(error) = ipam::run_of_any_version(Command::Del, &gone, conf) {
                failed.push(format!("container {}: {error}", gone.container));
            }
        }
        if let Err(error) = ipam::run_if_known(Command::Gc, call, conf) {
            failed.push(error.to_string());
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Error::new(Code::Failed, failed.join("; "))) }
}
