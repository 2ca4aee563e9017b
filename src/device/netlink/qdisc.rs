//! Queueing disciplines (RTM_*QDISC, tc(8)).

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};

use super::{Ask, Netlink, NetlinkError};

impl Netlink {
    /// Has a device hand what is sent through it to its driver at once (`tc qdisc replace dev …
    /// root noqueue`).
    ///
    /// # Errors
    ///
    /// The kernel's refusal, for instance EOPNOTSUPP without traffic control.
    pub fn set_noqueue(&mut self, link: u32) -> Result<(), NetlinkError> {
        let object = format!("qdisc of #{link}");
        let ask = Ask { verb: "set", object: &object };
        // The kernel reads the index as a signed number and refuses what is negative (ENODEV).
        let mut message = TcMessage::with_index(i32::try_from(link).unwrap_or(-1));
        message.header.parent = TcHandle::ROOT;
        message.attributes.push(TcAttribute::Kind("noqueue".to_owned()));
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.request(ask, RouteNetlinkMessage::NewQueueDiscipline(message), flags)
    }
}
