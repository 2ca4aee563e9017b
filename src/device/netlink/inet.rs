//! A device's IPv4 settings (IFLA_AF_SPEC, `net.ipv4.conf.DEVICE.*`).

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet, AfSpecUnspec, InetDevConf, LinkAttribute, LinkMessage,
};

use super::{Ask, Netlink, NetlinkError};

impl Netlink {
    /// Changes a device's IPv4 settings; those that are zero in `conf` are left alone.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, for instance EPERM.
    pub fn set_ipv4_conf(&mut self, index: u32, conf: InetDevConf) -> Result<(), NetlinkError> {
        let object = format!("IPv4 settings of #{index}");
        let ask = Ask { verb: "set", object: &object };
        let mut message = LinkMessage::default();
        message.header.index = index;
        let conf = AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(conf)]);
        message.attributes.push(LinkAttribute::AfSpecUnspec(vec![conf]));
        self.request(ask, RouteNetlinkMessage::SetLink(message), 0)
    }
}
