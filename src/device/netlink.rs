//! A blocking rtnetlink socket (RFC 3549, linux/rtnetlink.h): one request, one answer.
//!
//! A socket belongs to the network namespace its thread was in when it was opened and stays there.
//! To speak to another namespace, open it within [`Netns::run`](super::netns::Netns::run).

mod address;
mod changes;
mod inet;
mod link;
mod neighbour;
mod qdisc;
mod route;

use std::io;
use std::os::fd::AsFd as _;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};

pub use address::Address;
pub use changes::Changes;
pub use link::{Link, LinkChange, TunFacts, VxlanSpec};
pub use neighbour::Neighbour;
pub use route::{Route, RouteEntry};

/// How long the kernel may take to answer, in seconds. It answers within the request's own system
/// call, so that a silence of this length is a lost answer.
const ANSWER_TIMEOUT: i64 = 10;

/// A kernel's answer is at most 32 KiB unless a larger buffer was shown to it.
const ANSWER_ROOM: usize = 64 * 1024;

/// How often a dump that changed while it was read is started again.
const DUMP_ATTEMPTS: usize = 8;

const HEADER_LEN: usize = 16;

/// A request that failed: what was asked, of which object, and why.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel refused; `detail` is its extended acknowledgement, where it gave one.
    #[error("{verb} {object}: {source}{}", detail.as_deref().map(|text| format!(" ({text})")).unwrap_or_default())]
    Refused {
        /// What was asked.
        verb: &'static str,
        /// Of which object.
        object: String,
        /// The kernel's errno.
        source: io::Error,
        /// The kernel's own words.
        detail: Option<String>,
    },
    /// The socket itself failed.
    #[error("netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The answer could not be read.
    #[error("{verb} {object}: unreadable answer: {reason}")]
    Unreadable {
        /// What was asked.
        verb: &'static str,
        /// Of which object.
        object: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// There is no such object.
    #[error("{verb} {object}: not found")]
    NotFound {
        /// What was asked.
        verb: &'static str,
        /// Of which object.
        object: String,
    },
}

impl NetlinkError {
    /// The errno behind this error, if the kernel or the socket gave one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } | Self::Socket(source) => source.raw_os_error(),
            Self::NotFound { .. } => Some(libc::ENODEV),
            Self::Unreadable { .. } => None,
        }
    }

    /// Whether the object is not there: ENODEV, ENXIO, ENOENT, ESRCH or EADDRNOTAVAIL.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::ENODEV | libc::ENXIO | libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL)
        )
    }

    /// Whether the object is there already (EEXIST).
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }
}

/// What a request is about, for its error.
#[derive(Clone, Copy, Debug)]
struct Ask<'a> {
    verb: &'static str,
    object: &'a str,
}

impl Ask<'_> {
    fn refused(self, errno: i32, detail: Option<String>) -> NetlinkError {
        NetlinkError::Refused {
            verb: self.verb,
            object: self.object.to_owned(),
            source: io::Error::from_raw_os_error(errno),
            detail,
        }
    }

    fn unreadable(self, reason: impl ToString) -> NetlinkError {
        NetlinkError::Unreadable {
            verb: self.verb,
            object: self.object.to_owned(),
            reason: reason.to_string(),
        }
    }

    fn not_found(self) -> NetlinkError {
        NetlinkError::NotFound { verb: self.verb, object: self.object.to_owned() }
    }
}

/// An rtnetlink socket in one network namespace.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl std::fmt::Debug for Netlink {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Netlink").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Socket`] if the kernel gives no socket.
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Older kernels know none of these; what is missing is only the better error text, and
        // filters that are applied to the answers again here.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_netlink_get_strict_chk(true);
        setsockopt(&socket.as_fd(), sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_TIMEOUT))
            .map_err(io::Error::from)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends one request and waits for its acknowledgement.
    fn request(
        &mut self,
        ask: Ask<'_>,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        self.exchange(ask, message, NLM_F_REQUEST | NLM_F_ACK | flags, |_| ()).map(|_| ())
    }

    /// Asks for one object.
    fn get(
        &mut self,
        ask: Ask<'_>,
        message: RouteNetlinkMessage,
    ) -> Result<Option<RouteNetlinkMessage>, NetlinkError> {
        let mut found = None;
        self.exchange(ask, message, NLM_F_REQUEST | NLM_F_ACK, |answer| found = Some(answer))?;
        Ok(found)
    }

    /// Asks for all objects of a kind; a list that changed while it was read is read again.
    fn dump(
        &mut self,
        ask: Ask<'_>,
        message: &RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let mut found = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            found.clear();
            let flags = NLM_F_REQUEST | NLM_F_DUMP;
            let torn = self.exchange(ask, message.clone(), flags, |answer| found.push(answer))?;
            if !torn {
                break;
            }
        }
        Ok(found)
    }

    /// Sends a request and reads answers until it is acknowledged, done or refused. Returns
    /// whether the kernel marked the answers as torn (NLM_F_DUMP_INTR).
    fn exchange(
        &mut self,
        ask: Ask<'_>,
        message: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> Result<bool, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut torn = false;
        let mut buffer = Vec::with_capacity(ANSWER_ROOM);
        loop {
            buffer.clear();
            let (_, sender) = match self.socket.recv_from(&mut buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                received => received?,
            };
            if sender.port_number() != 0 {
                // Only the kernel answers; another process could write to this port.
                continue;
            }
            let mut rest = buffer.as_slice();
            while rest.len() >= HEADER_LEN {
                let head = NetlinkBuffer::new_checked(rest).map_err(|e| ask.unreadable(e))?;
                let (length, sequence, flags) =
                    (head.length() as usize, head.sequence_number(), head.flags());
                let (one, more) = rest
                    .split_at_checked(length.max(HEADER_LEN))
                    .ok_or_else(|| ask.unreadable("message longer than its datagram"))?;
                rest = more.get(length.next_multiple_of(4) - length..).unwrap_or_default();
                if sequence != self.sequence {
                    continue;
                }
                torn |= flags & NLM_F_DUMP_INTR != 0;
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(one)
                    .map_err(|e| ask.unreadable(e))?;
                match answer.payload {
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(ask.refused(-done.code, None));
                    }
                    NetlinkPayload::Done(_) => return Ok(torn),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(torn),
                            Some(code) => {
                                Err(ask
                                    .refused(code.get().saturating_neg(), extended(&error.header)))
                            }
                        };
                    }
                    NetlinkPayload::InnerMessage(inner) => each(inner),
                    _ => {}
                }
            }
        }
    }
}

/// The text of an extended acknowledgement: NLMSGERR_ATTR_MSG behind the 16 bytes of the quoted
/// request's header (linux/netlink.h).
fn extended(quoted: &[u8]) -> Option<String> {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let mut rest = quoted.get(HEADER_LEN..)?;
    loop {
        let (head, _) = rest.split_first_chunk::<4>()?;
        let [a, b, c, d] = *head;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = rest.get(4..length)?;
        if u16::from_ne_bytes([c, d]) == NLMSGERR_ATTR_MSG {
            let text = value.split(|byte| *byte == 0).next()?;
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extended_text_is_found_behind_other_attributes() {
        let mut quoted = vec![0; HEADER_LEN];
        quoted.extend_from_slice(&8_u16.to_ne_bytes());
        quoted.extend_from_slice(&2_u16.to_ne_bytes());
        quoted.extend_from_slice(&[9; 4]);
        quoted.extend_from_slice(&7_u16.to_ne_bytes());
        quoted.extend_from_slice(&1_u16.to_ne_bytes());
        quoted.extend_from_slice(b"no\0\0");
        assert_eq!(extended(&quoted).as_deref(), Some("no"));
    }

    #[test]
    fn extended_text_of_nonsense_is_none() {
        assert_eq!(extended(&[]), None);
        assert_eq!(extended(&[0; 16]), None);
        // A length below its own header must end the walk.
        assert_eq!(extended(&[0; 64]), None);
        assert_eq!(extended(&[255; 40]), None);
    }

    #[test]
    fn an_error_names_verb_object_and_errno() {
        let ask = Ask { verb: "set link", object: "tap-a" };
        let error = ask.refused(libc::EPERM, Some("why".to_owned()));
        let text = error.to_string();
        assert!(text.contains("set link tap-a") && text.contains("os error 1"), "{text}");
        assert!(text.ends_with("(why)"), "{text}");
        assert_eq!(error.errno(), Some(libc::EPERM));
        assert!(ask.refused(libc::ENODEV, None).is_absent());
        assert!(ask.refused(libc::EEXIST, None).is_present());
    }
}
