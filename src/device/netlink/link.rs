//! Links: list, get, set, add, delete (RTM_*LINK).

use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use encap::MacAddr;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, Nla as _};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoTun, InfoVeth, InfoVxlan,
    LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use super::{Ask, Netlink, NetlinkError};

/// What the kernel says of a TUN or TAP device (IFLA_TUN_*, linux/if_link.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunFacts {
    /// The uid that may attach besides CAP_NET_ADMIN, if one was set.
    pub owner: Option<u32>,
    /// IFF_TUN (1) or IFF_TAP (2).
    pub kind: u8,
    /// Whether IFF_NO_PI is set.
    pub no_pi: bool,
    /// Whether IFF_VNET_HDR is set.
    pub vnet_hdr: bool,
    /// Whether it outlives its last descriptor.
    pub persistent: bool,
    /// Whether it is multi-queue.
    pub multi_queue: bool,
    /// Attached and enabled queues; for a multi-queue device only.
    pub queues: Option<u32>,
}

/// A network device as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its index in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its address, if it is an Ethernet one.
    pub mac: Option<MacAddr>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is administratively up (IFF_UP).
    pub up: bool,
    /// Whether it has a carrier (IFF_LOWER_UP).
    pub carrier: bool,
    /// The index of the bridge it is a port of.
    pub master: Option<u32>,
    /// The kind of a virtual device ("tun", "veth", "vxlan", …).
    pub kind: Option<String>,
    /// The length of its transmit queue, in units.
    pub txqueuelen: u32,
    /// The most segments of a superframe it takes.
    pub gso_max_segs: u32,
    /// The longest superframe it takes, in bytes.
    pub gso_max_size: u32,
    /// For a TUN or TAP device.
    pub tun: Option<TunFacts>,
    /// Whether the kernel adds no link-local IPv6 address by itself (addr_gen_mode none).
    pub addr_gen_none: bool,
}

/// What to change on a device; what is `None` is left alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkChange<'a> {
    /// A new name.
    pub name: Option<&'a str>,
    /// A new MAC address.
    pub mac: Option<MacAddr>,
    /// A new MTU in bytes.
    pub mtu: Option<u32>,
    /// Administratively up or down. The kernel sets it after name, address and MTU, but before
    /// `master` and `addr_gen_none`.
    pub up: Option<bool>,
    /// The index of the bridge to join; zero leaves it.
    pub master: Option<u32>,
    /// The network namespace to move to.
    pub netns: Option<BorrowedFd<'a>>,
    /// The length of the transmit queue.
    pub txqueuelen: Option<u32>,
    /// The most segments a superframe may have.
    pub gso_max_segs: Option<u32>,
    /// The longest superframe, in bytes: TCP makes none that is longer less some 320 bytes.
    pub gso_max_size: Option<u32>,
    /// Whether the kernel shall leave the IPv6 link-local address to us (IN6_ADDR_GEN_MODE_NONE).
    pub addr_gen_none: Option<bool>,
}

impl LinkChange<'_> {
    fn message(&self) -> LinkMessage {
        let mut message = LinkMessage::default();
        let out = &mut message.attributes;
        out.extend(self.name.map(|name| LinkAttribute::IfName(name.to_owned())));
        out.extend(self.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
        out.extend(self.mtu.map(LinkAttribute::Mtu));
        out.extend(self.master.map(LinkAttribute::Controller));
        out.extend(self.netns.map(|fd| LinkAttribute::NetNsFd(fd.as_raw_fd())));
        out.extend(self.txqueuelen.map(LinkAttribute::TxQueueLen));
        out.extend(self.gso_max_segs.map(LinkAttribute::GsoMaxSegs));
        out.extend(self.gso_max_size.map(LinkAttribute::GsoMaxSize));
        if let Some(none) = self.addr_gen_none {
            let mode = if none { In6AddrGenMode::None } else { In6AddrGenMode::Eui64 };
            out.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![
                AfSpecInet6::AddrGenMode(mode),
            ])]));
        }
        if let Some(up) = self.up {
            message.header.change_mask = LinkFlags::Up;
            message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        }
        message
    }
}

/// A kernel VXLAN device, for tests against the kernel as a peer.
#[derive(Clone, Copy, Debug)]
pub struct VxlanSpec {
    /// The VNI.
    pub id: u32,
    /// The outer source address.
    pub local: IpAddr,
    /// The default destination: a peer or a multicast group.
    pub remote: Option<IpAddr>,
    /// The device's index for a multicast group.
    pub link: Option<u32>,
    /// The UDP port, both sent to and listened on.
    pub port: u16,
    /// Whether it learns from the datagrams' sources.
    pub learning: bool,
    /// Whether it sends UDP checksums over IPv4 (udpcsum / noudpcsum).
    pub udp_csum: bool,
    /// Whether it sends zero UDP checksums over IPv6 (udp6zerocsumtx).
    pub udp6_zero_csum_tx: bool,
    /// Whether it takes zero UDP checksums over IPv6 (udp6zerocsumrx).
    pub udp6_zero_csum_rx: bool,
}

impl Netlink {
    /// All devices in the namespace.
    ///
    /// # Errors
    ///
    /// Those of the socket and of the kernel.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let ask = Ask { verb: "list", object: "links" };
        let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self.dump(ask, &message)?;
        Ok(answers.into_iter().filter_map(read_link).collect())
    }

    /// The device with this name.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::is_absent`] if there is none.
    pub fn link_by_name(&mut self, name: &str) -> Result<Link, NetlinkError> {
        let ask = Ask { verb: "get link", object: name };
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let answer = self.get(ask, RouteNetlinkMessage::GetLink(message))?;
        answer.and_then(read_link).ok_or_else(|| ask.not_found())
    }

    /// As [`Self::link_by_name`], with absence as a value.
    ///
    /// # Errors
    ///
    /// Those of the socket and of the kernel, except that there is no such device.
    pub fn find_link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        match self.link_by_name(name) {
            Ok(link) => Ok(Some(link)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The device with this index.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::is_absent`] if there is none.
    pub fn link_by_index(&mut self, index: u32) -> Result<Link, NetlinkError> {
        let object = format!("#{index}");
        let ask = Ask { verb: "get link", object: &object };
        let mut message = LinkMessage::default();
        message.header.index = index;
        let answer = self.get(ask, RouteNetlinkMessage::GetLink(message))?;
        answer.and_then(read_link).ok_or_else(|| ask.not_found())
    }

    /// Changes a device.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, for instance EPERM, or EBUSY for a new name while up on old kernels.
    pub fn set_link(&mut self, index: u32, change: &LinkChange<'_>) -> Result<(), NetlinkError> {
        let object = format!("#{index} {}", describe(change));
        let mut message = change.message();
        message.header.index = index;
        let ask = Ask { verb: "set link", object: &object };
        self.request(ask, RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Deletes a device.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, for instance EOPNOTSUPP for a physical device.
    pub fn delete_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        let object = format!("#{index}");
        let mut message = LinkMessage::default();
        message.header.index = index;
        let ask = Ask { verb: "delete link", object: &object };
        self.request(ask, RouteNetlinkMessage::DelLink(message), 0)
    }

    /// Adds a pair of veth devices, the peer in another namespace if one is given.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, for instance EEXIST.
    pub fn add_veth(
        &mut self,
        name: &str,
        peer: &str,
        peer_netns: Option<BorrowedFd<'_>>,
    ) -> Result<(), NetlinkError> {
        let end = LinkChange { name: Some(peer), netns: peer_netns, ..LinkChange::default() };
        let data = InfoData::Veth(InfoVeth::Peer(end.message()));
        self.add_link(name, InfoKind::Veth, Some(data))
    }

    /// Adds a bridge.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, for instance EEXIST.
    pub fn add_bridge(&mut self, name: &str) -> Result<(), NetlinkError> {
        self.add_link(name, InfoKind::Bridge, None)
    }

    /// Adds a kernel VXLAN device.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, for instance EEXIST, or EOPNOTSUPP without the module.
    pub fn add_vxlan(&mut self, name: &str, spec: &VxlanSpec) -> Result<(), NetlinkError> {
        let mut data = vec![
            InfoVxlan::Id(spec.id),
            InfoVxlan::Port(spec.port),
            InfoVxlan::Learning(spec.learning),
            InfoVxlan::UDPCsum(spec.udp_csum),
            InfoVxlan::UDPZeroCsumTX(spec.udp6_zero_csum_tx),
            InfoVxlan::UDPZeroCsumRX(spec.udp6_zero_csum_rx),
            match spec.local {
                IpAddr::V4(local) => InfoVxlan::Local(local),
                IpAddr::V6(local) => InfoVxlan::Local6(local),
            },
        ];
        data.extend(spec.link.map(InfoVxlan::Link));
        data.extend(spec.remote.map(|remote| match remote {
            IpAddr::V4(remote) => InfoVxlan::Group(remote),
            IpAddr::V6(remote) => InfoVxlan::Group6(remote),
        }));
        self.add_link(name, InfoKind::Vxlan, Some(InfoData::Vxlan(data)))
    }

    fn add_link(
        &mut self,
        name: &str,
        kind: InfoKind,
        data: Option<InfoData>,
    ) -> Result<(), NetlinkError> {
        let object = format!("{name} type {kind}");
        let mut info = vec![LinkInfo::Kind(kind)];
        info.extend(data.map(LinkInfo::Data));
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::LinkInfo(info));
        let ask = Ask { verb: "add link", object: &object };
        self.request(ask, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }
}

fn describe(change: &LinkChange<'_>) -> String {
    let mut words = Vec::new();
    words.extend(change.name.map(|name| format!("name {name}")));
    words.extend(change.mac.map(|mac| format!("address {mac}")));
    words.extend(change.mtu.map(|mtu| format!("mtu {mtu}")));
    words.extend(change.up.map(|up| if up { "up" } else { "down" }.to_owned()));
    words.extend(change.master.map(|master| format!("master #{master}")));
    words.extend(change.netns.map(|_| "netns".to_owned()));
    words.extend(change.txqueuelen.map(|length| format!("txqueuelen {length}")));
    words.extend(change.gso_max_segs.map(|segments| format!("gso_max_segs {segments}")));
    words.extend(change.gso_max_size.map(|size| format!("gso_max_size {size}")));
    words.extend(change.addr_gen_none.map(|none| format!("addrgenmode none={none}")));
    words.join(" ")
}

fn read_link(answer: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = answer else {
        return None;
    };
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(MacAddr),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(master) => link.master = Some(master),
            LinkAttribute::TxQueueLen(length) => link.txqueuelen = length,
            LinkAttribute::GsoMaxSegs(segments) => link.gso_max_segs = segments,
            LinkAttribute::GsoMaxSize(size) => link.gso_max_size = size,
            LinkAttribute::LinkInfo(infos) => read_info(&mut link, infos),
            LinkAttribute::AfSpecUnspec(specs) => {
                link.addr_gen_none = specs.iter().any(|spec| {
                    let AfSpecUnspec::Inet6(inner) = spec else { return false };
                    inner.contains(&AfSpecInet6::AddrGenMode(In6AddrGenMode::None))
                });
            }
            _ => {}
        }
    }
    Some(link)
}

fn read_info(link: &mut Link, infos: Vec<LinkInfo>) {
    for info in infos {
        match info {
            LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
            LinkInfo::Data(InfoData::Tun(attributes)) => link.tun = Some(read_tun(&attributes)),
            _ => {}
        }
    }
}

/// IFLA_TUN_* of linux/if_link.h; IFLA_TUN_OWNER is there only if an owner was set.
fn read_tun(attributes: &[InfoTun]) -> TunFacts {
    let mut facts = TunFacts::default();
    for attribute in attributes {
        let mut value = [0; 4];
        let length = attribute.value_len();
        if length > value.len() {
            continue;
        }
        attribute.emit_value(value.get_mut(..length).unwrap_or_default());
        let [first, ..] = value;
        match attribute.kind() {
            1 => facts.owner = Some(u32::from_ne_bytes(value)),
            3 => facts.kind = first,
            4 => facts.no_pi = first == 0,
            5 => facts.vnet_hdr = first != 0,
            6 => facts.persistent = first != 0,
            7 => facts.multi_queue = first != 0,
            8 => facts.queues = Some(u32::from_ne_bytes(value)),
            _ => {}
        }
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_described_in_words() {
        let change = LinkChange { mtu: Some(1450), up: Some(true), ..LinkChange::default() };
        assert_eq!(describe(&change), "mtu 1450 up");
        let message = change.message();
        assert_eq!(message.header.change_mask, LinkFlags::Up);
        assert_eq!(message.attributes, [LinkAttribute::Mtu(1450)]);
    }

    #[test]
    fn down_changes_the_flag_without_setting_it() {
        let message = LinkChange { up: Some(false), ..LinkChange::default() }.message();
        assert_eq!(message.header.change_mask, LinkFlags::Up);
        assert_eq!(message.header.flags, LinkFlags::empty());
    }
}
