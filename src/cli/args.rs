//! What is typed on the command line.

use std::path::PathBuf;

use clap::{ArgGroup, Args as Arguments, Parser, Subcommand};

use crate::config::{DEFAULT_PATH, DEFAULT_SOCKET, TrunkSpec};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused or not found; the reason is on stderr
  2  wrong usage
  3  the daemon cannot be reached";

/// A userspace virtual switch and VXLAN tunnel daemon.
///
/// `tapestry run` is the daemon. The other commands ask a running daemon over its control socket,
/// except `check` and `teardown`, which need none.
#[derive(Debug, Parser)]
#[command(name = "tapestry", version, after_help = EXIT_CODES, arg_required_else_help = true)]
#[command(propagate_version = false, infer_subcommands = false, verbatim_doc_comment)]
pub struct Args {
    /// Print one JSON document instead of a table.
    #[arg(long, global = true)]
    pub json: bool,
    /// The daemon's control socket.
    #[arg(long, global = true, value_name = "PATH", env = "TAPESTRY_SOCKET")]
    #[arg(default_value = DEFAULT_SOCKET, hide_env_values = true)]
    pub socket: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the daemon in the foreground; it logs to stderr.
    ///
    /// systemd is told READY=1 once ports and underlay are up. On SIGTERM the daemon ends and
    /// leaves ports, addresses and routes for the next start, which adopts them: what is attached
    /// does not notice. `tapestry teardown` removes them. TAPESTRY_LOG sets what is logged:
    /// `info` (the default), `debug`, `tapestry::daemon=trace,warn`.
    #[command(verbatim_doc_comment)]
    Run {
        #[allow(missing_docs)]
        #[command(flatten)]
        config: ConfigFile,
        /// Remove ports, addresses and routes when the daemon ends.
        #[arg(long)]
        ephemeral: bool,
    },
    /// Remove everything that a stopped daemon left: ports, routes, rules, state.
    ///
    /// Refused while the daemon runs.
    Teardown {
        #[allow(missing_docs)]
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Hold the capabilities in place of the daemon, and make, change and remove devices for it.
    ///
    /// For a daemon that runs as its own user without any: `privilege.helper` in its configuration
    /// names the socket. It listens on the one that systemd passes, else on --socket (default:
    /// /run/tapestry/helper.sock), serves one user alone, keeps nothing, and may be stopped and
    /// started at any moment. It needs CAP_NET_ADMIN, CAP_SYS_ADMIN for ports in namespaces, and the
    /// daemon's own network namespace.
    #[command(verbatim_doc_comment)]
    Helper {
        /// Whose devices it makes: the user that the daemon runs as, by name or number.
        #[arg(long, value_name = "USER", default_value = "tapestry")]
        user: String,
    },
    /// Validate a configuration and touch nothing.
    ///
    /// Every error is printed with its place in the file and its path, in which the first
    /// port is number 0: `port[0].segment`.
    #[command(
        verbatim_doc_comment,
        after_help = "Example:\n  tapestry check --config /etc/tapestry/tapestry.toml"
    )]
    Check {
        #[allow(missing_docs)]
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Make the running daemon read its configuration again.
    ///
    /// Prints what changed. What did not change is not touched. A file with errors changes
    /// nothing; ports made with `port add` stay.
    #[command(verbatim_doc_comment)]
    Reload,
    /// Show version, node, underlay, workers, offloads in use, uptime and totals.
    Status,
    /// List, make and remove ports.
    #[command(subcommand)]
    Port(PortVerb),
    /// List segments.
    #[command(subcommand)]
    Segment(SegmentVerb),
    /// List remote VTEPs.
    #[command(subcommand)]
    Peer(PeerVerb),
    /// List and change the forwarding database.
    #[command(subcommand)]
    Fdb(FdbVerb),
    /// List the nodes of the cluster, and give back the share of one that is gone.
    #[command(subcommand)]
    Node(NodeVerb),
    /// List the pods on this node.
    #[command(subcommand)]
    Pod(PodVerb),
    /// List the addresses of this node's share that are not free.
    #[command(subcommand)]
    Ip(IpVerb),
    /// Remove attachments whose namespace is gone, and free their addresses.
    Gc {
        /// Only say what would be removed.
        #[arg(long)]
        dry_run: bool,
    },
    /// Show what was dropped, by reason and place.
    Drops {
        /// Show the reasons that never occurred too.
        #[arg(long)]
        all: bool,
    },
}

/// Where the configuration is.
#[derive(Debug, Arguments)]
pub struct ConfigFile {
    /// The configuration file.
    #[arg(long = "config", value_name = "FILE", default_value = DEFAULT_PATH)]
    pub path: PathBuf,
}

impl core::ops::Deref for ConfigFile {
    type Target = std::path::Path;

    fn deref(&self) -> &Self::Target {
        &self.path
    }
}

/// What to do with ports.
#[derive(Debug, Subcommand)]
pub enum PortVerb {
    /// List ports, from the configuration and from `port add`.
    List,
    /// Make a port: a TAP device that lasts until `port del` or `teardown`.
    #[command(after_help = "\
Examples:
  tapestry port add tap-a --segment blue
  tapestry port add web --segment blue --netns pod-a --ifname eth0 --address 10.9.0.1/24
  tapestry port add vm7 --trunk 10=blue,20=green --native white")]
    Add(PortAdd),
    /// Remove a port and its device.
    Del {
        /// The port's name.
        name: String,
    },
}

/// A port to make.
#[derive(Debug, Arguments)]
#[command(group = ArgGroup::new("mode").required(true).args(["segment", "trunk"]))]
pub struct PortAdd {
    /// The port's name, and its device's unless --ifname is given.
    pub name: String,
    /// The segment of an access port.
    #[arg(long, value_name = "S")]
    pub segment: Option<String>,
    /// The VLANs of a trunk port, each with its segment.
    #[arg(long, value_name = "VLAN=S,…", value_delimiter = ',', value_parser = trunk)]
    pub trunk: Vec<TrunkSpec>,
    /// The segment of a trunk's untagged frames.
    #[arg(long, value_name = "S", conflicts_with = "segment", requires = "trunk")]
    pub native: Option<String>,
    /// The namespace of the device: a name known to `ip netns`, or a path. Default: the daemon's.
    #[arg(long, value_name = "N")]
    pub netns: Option<String>,
    /// The name of the device. Default: the port's.
    #[arg(long, value_name = "I")]
    pub ifname: Option<String>,
    /// The MAC address of the device. Default: derived from the names of node and port.
    #[arg(long, value_name = "M")]
    pub mac: Option<String>,
    /// An address of the device with its prefix length; may be repeated.
    #[arg(long = "address", value_name = "A")]
    pub addresses: Vec<String>,
    /// The MTU of the device. Default: what fits through the tunnel.
    #[arg(long, value_name = "N")]
    pub mtu: Option<u32>,
}

fn trunk(text: &str) -> Result<TrunkSpec, String> {
    let (vlan, segment) = text.split_once('=').ok_or("expected VLAN=SEGMENT, as 10=blue")?;
    let vlan = vlan.parse().map_err(|_| format!("\"{vlan}\" is no VLAN (1 to 4094)"))?;
    Ok(TrunkSpec { vlan, segment: segment.to_owned() })
}

/// What to do with segments.
#[derive(Debug, Subcommand)]
pub enum SegmentVerb {
    /// List segments.
    List,
}

/// What to do with remote VTEPs.
#[derive(Debug, Subcommand)]
pub enum PeerVerb {
    /// List remote VTEPs: segments, traffic each way, last heard, path MTU.
    List,
}

/// What to do with nodes.
#[derive(Debug, Subcommand)]
pub enum NodeVerb {
    /// List nodes: VTEP, shares of the pods' networks, how their pods are reached, last heard.
    List,
    /// Give back a node's share of the pods' networks.
    ///
    /// Refused while it has pods or shows signs of life. Without a name it is this node's own.
    #[command(verbatim_doc_comment)]
    Release {
        /// The node's name. Default: this node.
        name: Option<String>,
    },
    /// Believe the store about nodes that it has lost and that were kept because they are many.
    ///
    /// Without this they go when a second full list some minutes later has not got them either. A
    /// store that says it is another cluster's, or another machine's, is believed as well.
    #[command(verbatim_doc_comment)]
    Confirm,
}

/// What to do with pods.
#[derive(Debug, Subcommand)]
pub enum PodVerb {
    /// List pods: container, addresses, MAC, port, since when.
    List,
}

/// What to do with addresses.
#[derive(Debug, Subcommand)]
pub enum IpVerb {
    /// List the addresses that are used or rest.
    List,
    /// Have an address rest no longer, so that the next pod may get it.
    Release {
        /// The address.
        address: String,
    },
}

/// What to do with the forwarding database.
#[derive(Debug, Subcommand)]
pub enum FdbVerb {
    /// List the entries that meet every condition given.
    List(Scope),
    /// Set a static entry: it neither ages nor moves.
    #[command(after_help = "\
Examples:
  tapestry fdb add --segment blue --mac 02:00:00:00:0a:01 --port tap-a
  tapestry fdb add --segment blue --mac 02:00:00:00:0b:01 --vtep 192.0.2.2")]
    #[command(group = ArgGroup::new("place").required(true).args(["port", "vtep"]))]
    Add {
        /// The segment.
        #[arg(long, value_name = "S")]
        segment: String,
        /// The station.
        #[arg(long, value_name = "M")]
        mac: String,
        /// The port that it is behind.
        #[arg(long, value_name = "P")]
        port: Option<String>,
        /// The remote VTEP that it is behind.
        #[arg(long, value_name = "A")]
        vtep: Option<String>,
    },
    /// Remove an entry, however it came to be.
    Del {
        /// The segment.
        #[arg(long, value_name = "S")]
        segment: String,
        /// The station.
        #[arg(long, value_name = "M")]
        mac: String,
    },
    /// Forget the learned entries that meet every condition given; all of them without any.
    Flush(Scope),
}

/// Part of the forwarding database.
#[derive(Debug, Arguments)]
pub struct Scope {
    /// In this segment.
    #[arg(long, value_name = "S")]
    pub segment: Option<String>,
    /// Behind this port.
    #[arg(long, value_name = "P")]
    pub port: Option<String>,
    /// Behind this remote VTEP.
    #[arg(long, value_name = "A")]
    pub vtep: Option<String>,
    /// This station.
    #[arg(long, value_name = "M")]
    pub mac: Option<String>,
}
