//! The configuration file, in two steps: what was typed ([`PortSpec`], [`SegmentSpec`] and the
//! other raw shapes) becomes what it means ([`Config`]), or every error at once with its path.
//!
//! Paths count from zero, as the keys of the file would be indexed: `port[0]` is the first
//! `[[port]]`. Nothing here touches the system, except that [`Config::load`] reads the file, a missing
//! `node.name` asks for the host name, and a missing `privilege.helper` for [`HELPER_VARIABLE`].

mod address;
mod check;
mod check_cluster;
mod check_port;
mod check_segment;
mod cluster;
mod error;
mod names;
mod port;
mod raw;
mod reader;
mod segment;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use address::parse_peer;
pub(crate) use address::vtep as unicast;
pub use check_cluster::overlap;
pub use check_port::{check_port, check_ports};
pub use check_segment::check_segment;
pub use cluster::{Cluster, Etcd, Kubernetes, Mode, Network, StaticNode, Store};
pub use error::{ConfigError, Problem, render_error};
pub use names::{IfName, Name, NameError, Netns};
pub use port::{Port, PortMode, PortSpec, Role, Route, RouteSpec, TrunkSpec, derived_mac};
pub use segment::{Segment, SegmentSpec, UnknownUnicast};

/// Where the daemon and its command line look for the configuration.
pub const DEFAULT_PATH: &str = "/etc/tapestry/tapestry.toml";
/// Where the control socket is unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/tapestry/tapestry.sock";
/// Where attachments are handed over unless told otherwise.
pub const DEFAULT_ATTACH: &str = "/run/tapestry/attach.sock";
/// Where the daemon keeps what has to outlive it, unless told otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/tapestry";
/// Names the helper's socket where the configuration names none: the service manager that starts a
/// daemon without privileges knows where the helper is.
pub const HELPER_VARIABLE: &str = "TAPESTRY_HELPER";
/// The UDP port that IANA assigned to VXLAN (RFC 7348 section 5).
pub const DEFAULT_PORT: u16 = 4789;
/// The largest file that is read as a configuration, in bytes.
pub const MAX_FILE: u64 = 16 << 20;

/// A configuration that passed every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[node]`
    pub node: Node,
    /// `[control]`
    pub control: Control,
    /// `[metrics]`
    pub metrics: Metrics,
    /// `[state]`
    pub state: State,
    /// `[privilege]`
    pub privilege: Privilege,
    /// `[underlay]`
    pub underlay: Underlay,
    /// `[offload]`
    pub offload: Offload,
    /// `[[segment]]`, in the order of the file. Names and VNIs are unique.
    pub segments: Vec<Segment>,
    /// `[[port]]`, in the order of the file. Names and (namespace, interface) are unique, and
    /// every segment that a port names is in `segments`.
    pub ports: Vec<Port>,
    /// `[cluster]`, if this node is part of one.
    pub cluster: Option<Cluster>,
}

/// This node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name; the host name unless configured.
    pub name: Name,
}

/// The control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// An absolute path of at most 107 bytes.
    pub socket: PathBuf,
}

/// The metrics listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Where `/metrics`, `/healthz` and `/readyz` are served; `None`: nowhere.
    pub listen: Option<SocketAddr>,
}

/// What outlives the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// An absolute directory.
    pub dir: PathBuf,
}

/// Who does what needs privileges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Privilege {
    /// The socket of the helper, an absolute path of at most 107 bytes; `None`: the daemon itself.
    pub helper: Option<PathBuf>,
}

/// The local VTEP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// Whose address the VTEP has.
    pub local: Local,
    /// The UDP port, here and at peers that give none; never 0.
    pub port: u16,
    /// Whether outer UDP checksums are filled in.
    pub udp_checksum: bool,
    /// How many workers; 0: as many as fit.
    pub workers: u16,
    /// The outer DSCP. ECN is always handled as RFC 6040 says.
    pub dscp: Dscp,
    /// `SO_RCVBUF` of the receive sockets in bytes; `None`: as large as the kernel allows.
    pub rcvbuf: Option<u32>,
    /// `SO_SNDBUF` of the send sockets in bytes; `None`: as large as the kernel allows.
    pub sndbuf: Option<u32>,
    /// For how long a worker looks for more frames before it sleeps, while they come at shorter
    /// intervals than this; zero: never.
    pub spin: Duration,
}

/// Where the local VTEP's address comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Local {
    /// This address.
    Address(IpAddr),
    /// The address of this interface, followed when it changes.
    Interface(IfName),
}

impl Underlay {
    /// The address of the VTEP, where the configuration gives it.
    #[must_use]
    pub const fn address(&self) -> Option<IpAddr> {
        match &self.local {
            Local::Address(address) => Some(*address),
            Local::Interface(_) => None,
        }
    }
}

/// The DSCP of outer headers (RFC 2983 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dscp {
    /// That of the inner IP header (the uniform model); 0 for frames that are not IP.
    Inherit,
    /// This one (the pipe model), 0 to 63.
    Fixed(u8),
}

impl Default for Dscp {
    fn default() -> Self {
        Self::Fixed(0)
    }
}

/// Which kernel offloads are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// vnet headers with checksum and segmentation offload on TAP devices.
    pub tap_gso: Toggle,
    /// `UDP_SEGMENT` on the underlay's send sockets.
    pub udp_gso: Toggle,
    /// `UDP_GRO` on the underlay's receive sockets.
    pub udp_gro: Toggle,
}

/// Whether a kernel feature is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Toggle {
    /// Probed, and used where it works.
    #[default]
    Auto,
    /// Used; its absence is reported as a degradation.
    On,
    /// Not used.
    Off,
}

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError::Read`] when the file cannot be read, is larger than [`MAX_FILE`] or is not
    /// UTF-8, [`ConfigError::Invalid`] with every problem found in it otherwise.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = error::read(path)?;
        Self::parse(&text).map_err(|error| error.in_file(path))
    }

    /// Checks the text of a configuration file.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`], with every problem found. When the text is not TOML, these are
    /// the syntax errors alone.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        raw::parse(text)
    }

    /// The segment of this name.
    #[must_use]
    pub fn segment(&self, name: &str) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.name.as_str() == name)
    }
}
