//! From what was typed to what it means. Every check runs, whatever the others found.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::address::vtep;
use super::check_cluster::{self, Surroundings};
use super::check_port::PortRules;
use super::check_segment::SegmentRules;
use super::raw::{Raw, RawUnderlay};
use super::reader::shorten;
use super::{
    Config, Control, DEFAULT_PORT, DEFAULT_SOCKET, DEFAULT_STATE_DIR, HELPER_VARIABLE, IfName,
    Local, Metrics, Name, Node, Privilege, Problem, State, Toggle, Underlay,
};

/// The longest path of a Unix socket: `sun_path` less the terminating zero (unix(7)).
pub(super) const SOCKET_PATH: usize = 107;
/// For how long a worker looks for more before it sleeps, unless told otherwise.
const SPIN: Duration = Duration::from_micros(50);
/// Ports and segments each have 16-bit slots in the topology.
const SLOTS: usize = 65_535;

/// What the raw configuration means, or `None` with at least one problem added.
pub(super) fn check(raw: &Raw, problems: &mut Vec<Problem>) -> Option<Config> {
    let node = node(raw.node.as_deref(), problems).map(|name| Node { name });
    let socket = raw.socket.as_deref().unwrap_or(DEFAULT_SOCKET);
    let socket = absolute("control.socket", socket, SOCKET_PATH, problems);
    let listen = listen(raw.listen.as_deref(), problems);
    let dir = raw.state_dir.as_deref().unwrap_or(DEFAULT_STATE_DIR);
    let dir = absolute("state.dir", dir, 4000, problems);
    let named = std::env::var(HELPER_VARIABLE).ok().filter(|path| !path.is_empty());
    let helper = raw.helper.clone().or(named);
    let helper = helper.map(|path| absolute("privilege.helper", &path, SOCKET_PATH, problems));
    let underlay = underlay(&raw.underlay, problems);
    if raw.underlay.udp_checksum == Some(false) && raw.offload.udp_gso == Toggle::On {
        let message =
            "true needs underlay.udp_checksum (the kernel segments checksummed datagrams only)";
        problems.push(Problem::new("offload.udp_gso", message));
    }
    for (key, count) in [("segment", raw.segments.len()), ("port", raw.ports.len())] {
        if count > SLOTS {
            problems.push(Problem::new(key, format!("{count} of them, {SLOTS} at most")));
        }
    }

    let mut rules = SegmentRules::new(underlay.as_ref());
    let mut segments = Vec::with_capacity(raw.segments.len());
    for (index, spec) in raw.segments.iter().enumerate() {
        segments.extend(rules.check(spec, &format!("segment[{index}]."), problems));
    }
    let names = raw.segments.iter().map(|segment| segment.name.as_str());
    let mut rules = PortRules::new(node.as_ref().map(|node| &node.name), names);
    let mut ports = Vec::with_capacity(raw.ports.len());
    for (index, spec) in raw.ports.iter().enumerate() {
        ports.extend(rules.check(spec, &format!("port[{index}]."), problems));
    }
    let around =
        Surroundings { node: node.as_ref(), underlay: underlay.as_ref(), segments: &segments };
    let cluster =
        raw.cluster.as_ref().and_then(|cluster| check_cluster::check(cluster, &around, problems));
    Some(Config {
        node: node?,
        control: Control { socket: socket? },
        metrics: Metrics { listen },
        state: State { dir: dir? },
        privilege: Privilege {
            helper: match helper {
                None => None,
                Some(path) => Some(path?),
            },
        },
        underlay: underlay?,
        offload: raw.offload,
        segments,
        ports,
        cluster,
    })
}

fn node(typed: Option<&str>, problems: &mut Vec<Problem>) -> Option<Name> {
    let named = match typed {
        Some(name) => Name::new(name).map_err(|error| error.to_string()),
        None => host_name().and_then(|host| {
            Name::new(&host).map_err(|error| format!("the host name cannot be used: {error}"))
        }),
    };
    named.map_err(|message| problems.push(Problem::new("node.name", message))).ok()
}

fn host_name() -> Result<String, String> {
    let host = nix::unistd::gethostname().map_err(|error| format!("no host name: {error}"))?;
    host.into_string().map_err(|_| "the host name is not UTF-8".to_owned())
}

pub(super) fn absolute(
    key: &str,
    text: &str,
    max: usize,
    problems: &mut Vec<Problem>,
) -> Option<PathBuf> {
    let wrong = if text.contains('\0') {
        Some(format!("\"{}\" holds a zero byte", shorten(text)))
    } else if !text.starts_with('/') {
        Some(format!("\"{}\" is not an absolute path", shorten(text)))
    } else if text.len() > max {
        Some(format!("{} bytes long, {max} at most", text.len()))
    } else if text.ends_with('/') && max == SOCKET_PATH {
        Some(format!("\"{text}\" is a directory"))
    } else {
        None
    };
    match wrong {
        None => Some(Path::new(text).to_owned()),
        Some(message) => {
            problems.push(Problem::new(key, message));
            None
        }
    }
}

fn listen(typed: Option<&str>, problems: &mut Vec<Problem>) -> Option<SocketAddr> {
    let text = typed?;
    let message = match text.parse::<SocketAddr>() {
        Ok(listen) if listen.port() != 0 => return Some(listen),
        Ok(_) => format!("\"{text}\" has port 0"),
        Err(_) => format!("\"{}\" is no address:port (as \"127.0.0.1:9190\")", shorten(text)),
    };
    problems.push(Problem::new("metrics.listen", message));
    None
}

fn underlay(raw: &RawUnderlay, problems: &mut Vec<Problem>) -> Option<Underlay> {
    let local = match (&raw.address, &raw.interface) {
        (Some(_), Some(_)) => {
            Err(("interface", "given beside \"address\"; one of them".to_owned()))
        }
        (None, None) => Err(("address", "missing (or \"interface\")".to_owned())),
        (Some(text), None) => address(text).map(Local::Address).map_err(|error| ("address", error)),
        (None, Some(name)) => IfName::new(name)
            .map(Local::Interface)
            .map_err(|error| ("interface", error.to_string())),
    };
    let local = local
        .map_err(|(key, message)| problems.push(Problem::new(format!("underlay.{key}"), message)));
    Some(Underlay {
        local: local.ok()?,
        port: raw.port.and_then(|port| u16::try_from(port).ok()).unwrap_or(DEFAULT_PORT),
        udp_checksum: raw.udp_checksum.unwrap_or(true),
        workers: raw.workers.and_then(|workers| u16::try_from(workers).ok()).unwrap_or(0),
        dscp: raw.dscp,
        rcvbuf: raw.rcvbuf,
        sndbuf: raw.sndbuf,
        spin: raw.spin_us.map_or(SPIN, |us| Duration::from_micros(us.into())),
    })
}

fn address(text: &str) -> Result<IpAddr, String> {
    let address = text.parse().map_err(|_| format!("\"{}\" is no IP address", shorten(text)))?;
    vtep(address).map(|()| address)
}
