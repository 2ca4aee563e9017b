//! Daemon configs, as text that a test can also change by hand.

use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;

/// A `[[segment]]`.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Its name.
    pub name: String,
    /// Its VNI.
    pub vni: u32,
    /// Ingress replication list.
    pub peers: Vec<IpAddr>,
    /// Further lines.
    pub extra: String,
}

impl Segment {
    /// A segment with nothing but defaults.
    #[must_use]
    pub fn new(name: &str, vni: u32, peers: &[IpAddr]) -> Self {
        Self { name: name.to_owned(), vni, peers: peers.to_vec(), extra: String::new() }
    }
}

/// A `[[port]]`.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// The segment of an access port; `None` for a trunk, described in `extra`.
    pub segment: Option<String>,
    /// The namespace that its device is made in.
    pub netns: Option<String>,
    /// Its name there.
    pub ifname: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
    /// Further lines.
    pub extra: String,
}

/// A whole config.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name.
    pub node: String,
    /// The VTEP.
    pub underlay: IpAddr,
    /// Further lines of `[underlay]`.
    pub underlay_extra: String,
    /// Segments.
    pub segments: Vec<Segment>,
    /// Ports.
    pub ports: Vec<Port>,
    /// Whole sections.
    pub extra: String,
}

impl Config {
    /// A config with nothing but a VTEP.
    #[must_use]
    pub fn new(node: &str, underlay: IpAddr) -> Self {
        Self {
            node: node.to_owned(),
            underlay,
            underlay_extra: String::new(),
            segments: Vec::new(),
            ports: Vec::new(),
            extra: String::new(),
        }
    }

    /// The config as the daemon reads it, with its control socket and its state directory.
    #[must_use]
    pub fn toml(&self, socket: &str, state: &str) -> String {
        let mut text = format!(
            "[node]\nname = \"{}\"\n[control]\nsocket = \"{socket}\"\n[state]\ndir = \"{state}\"\n[underlay]\naddress = \"{}\"\n{}\n{}\n",
            self.node, self.underlay, self.underlay_extra, self.extra
        );
        // Writing to a String cannot fail.
        for segment in &self.segments {
            let _ = writeln!(
                text,
                "[[segment]]\nname = \"{}\"\nvni = {}\npeers = {}\n{}",
                segment.name,
                segment.vni,
                list(&segment.peers),
                segment.extra
            );
        }
        for port in &self.ports {
            let _ = writeln!(text, "[[port]]\nname = \"{}\"", port.name);
            let optional =
                [("segment", &port.segment), ("netns", &port.netns), ("ifname", &port.ifname)];
            for (key, value) in optional {
                if let Some(value) = value {
                    let _ = writeln!(text, "{key} = \"{value}\"");
                }
            }
            if !port.addresses.is_empty() {
                let _ = writeln!(text, "addresses = {}", list(&port.addresses));
            }
            let _ = writeln!(text, "{}", port.extra);
        }
        text
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    let quoted: Vec<String> =
        items.iter().map(|item| format!("\"{}\"", item.to_string())).collect();
    format!("[{}]", quoted.join(", "))
}
