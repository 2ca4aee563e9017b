//! Network namespaces and the links between them.

use std::cell::RefCell;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use tapestry::device::netlink::{Link, LinkChange, Netlink};
use tapestry::device::netns::{self, Netns};

use crate::{cell, tool};

/// Numbers the worlds of a process, so that their names differ.
static WORLDS: AtomicU32 = AtomicU32::new(0);

/// A set of network namespaces that ends with the value.
#[derive(Debug)]
pub struct World {
    prefix: String,
    bridges: RefCell<u32>,
}

impl World {
    /// An empty world, with names no other world of this process has.
    #[must_use]
    pub fn new() -> Self {
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        Self { prefix: format!("w{number}"), bridges: RefCell::new(0) }
    }

    /// Adds a namespace with its loopback up.
    ///
    /// # Errors
    ///
    /// EEXIST if this world has one of this name.
    pub fn space(&self, role: &str) -> Result<Space> {
        let name = format!("{}-{role}", self.prefix);
        let netns = Netns::create_named(&name)?;
        let space = Space { inner: Arc::new(Inner { name, netns }) };
        space.up("lo")?;
        Ok(space)
    }

    /// Joins two namespaces by a veth pair with the devices' names given, both up.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn veth(&self, a: (&Space, &str), b: (&Space, &str), mtu: u32) -> Result<()> {
        a.0.netlink(|link| link.add_veth(a.1, b.1, Some(b.0.inner.netns.as_fd())))??;
        for (space, name) in [a, b] {
            space.change(
                name,
                &LinkChange { mtu: Some(mtu), up: Some(true), ..LinkChange::default() },
            )?;
        }
        Ok(())
    }

    /// Joins many namespaces by a bridge in one of its own: each gets a device of the name given.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn lan(&self, members: &[&Space], device: &str, mtu: u32) -> Result<Space> {
        let number = self.bridges.replace_with(|number| *number + 1);
        let lan = self.space(&format!("lan{number}"))?;
        lan.netlink(|link| link.add_bridge("br0"))??;
        // A bridge that listens to multicast reports would not pass what nobody asked for.
        tool::run(lan.command("ip").args("link set br0 type bridge mcast_snooping 0".split(' ')))
            .or_else(|error| if tool::exists("ip") { Err(error) } else { Ok(String::new()) })?;
        lan.up("br0")?;
        let bridge = lan.link("br0")?.index;
        for (number, member) in members.iter().enumerate() {
            let end = format!("m{number}");
            self.veth((&lan, &end), (member, device), mtu)?;
            lan.change(&end, &LinkChange { master: Some(bridge), ..LinkChange::default() })?;
        }
        Ok(lan)
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Debug)]
struct Inner {
    name: String,
    netns: Netns,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = netns::remove_named(&self.name);
    }
}

/// A named network namespace. The name goes with the last clone.
#[derive(Clone, Debug)]
pub struct Space {
    inner: Arc<Inner>,
}

impl Space {
    /// Its name, as `ip netns` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Runs a closure inside, on a thread of its own.
    ///
    /// # Errors
    ///
    /// If the namespace cannot be entered.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        Ok(self.inner.netns.run(inside)?)
    }

    /// Starts a thread inside that goes on beside the caller's.
    ///
    /// # Errors
    ///
    /// If there is no descriptor or thread left.
    pub fn spawn<T: Send + 'static>(
        &self,
        inside: impl FnOnce() -> T + Send + 'static,
    ) -> Result<std::thread::JoinHandle<Result<T>>> {
        let netns = self.inner.netns.try_clone()?;
        Ok(std::thread::Builder::new().spawn(move || Ok(netns.run(inside)?))?)
    }

    /// Runs a closure with a netlink socket inside.
    ///
    /// # Errors
    ///
    /// If the namespace cannot be entered, or gives no socket.
    pub fn netlink<T: Send>(&self, ask: impl FnOnce(&mut Netlink) -> T + Send) -> Result<T> {
        Ok(self.run(|| Netlink::open().map(|mut netlink| ask(&mut netlink)))??)
    }

    /// A device inside.
    ///
    /// # Errors
    ///
    /// If there is none of this name.
    pub fn link(&self, device: &str) -> Result<Link> {
        self.netlink(|netlink| netlink.link_by_name(device))?
            .with_context(|| format!("in {}", self.name()))
    }

    /// Changes a device inside.
    ///
    /// # Errors
    ///
    /// If there is none of this name, or the kernel refuses.
    pub fn change(&self, device: &str, change: &LinkChange<'_>) -> Result<()> {
        let index = self.link(device)?.index;
        self.run(|| Netlink::open()?.set_link(index, change))?
            .with_context(|| format!("{device} in {}", self.name()))
    }

    /// Sets a device up.
    ///
    /// # Errors
    ///
    /// As [`Self::change`].
    pub fn up(&self, device: &str) -> Result<()> {
        self.change(device, &LinkChange { up: Some(true), ..LinkChange::default() })
    }

    /// Gives a device an address, usable at once.
    ///
    /// # Errors
    ///
    /// If there is no such device, or the kernel refuses.
    pub fn address(&self, device: &str, net: IpNet) -> Result<()> {
        let index = self.link(device)?.index;
        self.netlink(|netlink| netlink.add_address(index, net))?
            .with_context(|| format!("{net} on {device} in {}", self.name()))
    }

    /// A command that runs inside once spawned through [`Self::output`] or by `ip`-like tools:
    /// the program is started by `nsenter`'s way, so that any way of spawning it will do.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = tool::command("nsenter");
        command.arg(format!("--net={}/{}", netns::RUN_DIR, self.name())).arg("--");
        command.arg(tool::command(program).get_program());
        command
    }

    /// Runs a program inside to its end: its words, split at spaces.
    ///
    /// # Errors
    ///
    /// If it ends with anything but success.
    pub fn output(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let mut command = self.command(words.next().unwrap_or_default());
        tool::run(command.args(words))
    }

    /// Spawns a command inside, with no signal blocked.
    ///
    /// # Errors
    ///
    /// If the namespace cannot be entered or the process not be made.
    pub fn spawn_process(&self, command: &mut Command) -> Result<std::process::Child> {
        Ok(self.run(|| cell::spawn_unblocked(command))??)
    }

    /// What the kernel counted inside, from `/proc/net/snmp`: for instance `Tcp`, `RetransSegs`.
    ///
    /// # Errors
    ///
    /// If there is no such counter.
    pub fn snmp(&self, group: &str, counter: &str) -> Result<u64> {
        self.counter("snmp", group, counter)
    }

    /// As [`Self::snmp`], from `/proc/net/netstat`: for instance `TcpExt`, `TCPOFOQueue`.
    ///
    /// # Errors
    ///
    /// If there is no such counter.
    pub fn netstat(&self, group: &str, counter: &str) -> Result<u64> {
        self.counter("netstat", group, counter)
    }

    fn counter(&self, file: &str, group: &str, counter: &str) -> Result<u64> {
        let path = format!("/proc/thread-self/net/{file}");
        let text = self.run(|| std::fs::read_to_string(path))??;
        let prefix = format!("{group}: ");
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(&prefix));
        let (names, values) = lines.next().zip(lines.next()).context("no such group")?;
        let pair = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == counter);
        Ok(pair.with_context(|| format!("no {group} {counter}"))?.1.parse()?)
    }

    /// MACs, addresses and routes of a device, as one text to compare.
    ///
    /// # Errors
    ///
    /// If there is no such device.
    pub fn portrait(&self, device: &str) -> Result<String> {
        let link = self.link(device)?;
        let (addresses, routes) = self.netlink(|netlink| {
            (netlink.addresses(Some(link.index)), netlink.routes(Some(link.index)))
        })?;
        let mut lines: Vec<String> =
            addresses?.iter().map(|a| format!("address {}", a.net)).collect();
        lines.extend(routes?.iter().map(|entry| {
            let via = entry.route.via.map(|via| format!(" via {via}")).unwrap_or_default();
            format!("route {}{via}", entry.route.to)
        }));
        lines.sort();
        let mac = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
        Ok(format!("mac {mac} mtu {}\n{}", link.mtu, lines.join("\n")))
    }

    /// Sets offloads of a device with `ethtool -K`.
    ///
    /// # Errors
    ///
    /// If ethtool refuses.
    pub fn offloads(&self, device: &str, settings: &str) -> Result<()> {
        self.output(&format!("ethtool -K {device} {settings}")).map(|_| ())
    }

    /// Makes a veth end behave as a plain card without tunnel offloads: it segments and checksums.
    ///
    /// # Errors
    ///
    /// As [`Self::offloads`].
    pub fn honest(&self, device: &str) -> Result<()> {
        self.offloads(
            device,
            "tx-udp-segmentation off tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off \
             tx-checksum-ip-generic off gro on",
        )
    }
}

/// An address with its prefix length, from text that the caller wrote.
///
/// # Errors
///
/// If it is none.
pub fn net(text: &str) -> Result<IpNet> {
    text.parse().with_context(|| format!("{text} is no address with a prefix length"))
}

/// The address without its prefix.
#[must_use]
pub fn host(net: IpNet) -> IpAddr {
    net.addr()
}
