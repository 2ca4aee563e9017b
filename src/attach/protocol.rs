//! What a CNI plugin and the daemon say to each other: JSON, one document in each message of a
//! `SOCK_SEQPACKET` socket, descriptors beside it. Each request has one answer.

use std::net::IpAddr;
use std::path::PathBuf;

use encap::MacAddr;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{HostPort, Key};
use crate::device::netlink::Route;
use crate::device::netns::NetnsIdentity;
use crate::device::offload::OffloadWish;

/// The version that this side speaks.
pub const VERSION: u32 = 1;

/// The longest message in bytes, below what a socket takes by default. A list of 2,000 valid
/// attachments fits.
pub const MAX_MESSAGE: usize = 192 * 1024;

/// The most attachments in one answer to [`Request::List`].
pub const LIST_PAGE: usize = 100;

/// What a plugin asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Request {
    /// Addresses for an attachment, and what its device is to be like.
    Reserve(Box<Reserve>),
    /// The device of what was reserved on this connection: its queues come beside the message.
    Attach {
        /// Its index in the container's namespace.
        ifindex: u32,
    },
    /// The attachment is as it is to be: it stays when the connection ends.
    Commit,
    /// The attachment is to be gone. There may be none.
    Release {
        /// Which.
        key: Key,
    },
    /// Whether an attachment is what the plugin once said of it.
    Check {
        /// Which.
        key: Key,
        /// What its result says.
        expected: Expected,
    },
    /// Attachments of a network that are not valid any more are to be gone.
    Gc {
        /// The network.
        network: String,
        /// Those that are valid: container and interface.
        valid: Vec<(String, String)>,
    },
    /// Whether an attachment could be made.
    Status {
        /// The segment; `None`: the cluster's.
        #[serde(default)]
        segment: Option<String>,
        /// Whether the addresses come from elsewhere.
        #[serde(default)]
        delegated: bool,
    },
    /// The attachments, by the name of their port.
    List {
        /// Those behind this name only.
        #[serde(default)]
        after: Option<String>,
    },
}

impl Request {
    /// Whether ports come or go by it, or may.
    #[must_use]
    pub const fn changes_ports(&self) -> bool {
        match self {
            Self::Reserve(_) | Self::Attach { .. } | Self::Release { .. } | Self::Gc { .. } => true,
            Self::Commit | Self::Check { .. } | Self::Status { .. } | Self::List { .. } => false,
        }
    }
}

/// What an attachment is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserve {
    /// What it is known by.
    pub key: Key,
    /// The path of the container's namespace.
    pub netns: PathBuf,
    /// What was found there.
    pub identity: NetnsIdentity,
    /// The segment; `None`: the cluster's.
    #[serde(default)]
    pub segment: Option<String>,
    /// Addresses that the daemon is to give, one of each family at most; none: any.
    #[serde(default)]
    pub wanted: Vec<IpAddr>,
    /// Addresses that another plugin gave. The daemon then gives none.
    #[serde(default)]
    pub given: Vec<IpNet>,
    /// Routes that another plugin gave, for a segment that does not route.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// The MAC address; `None`: what follows from the addresses.
    #[serde(default, with = "mac_text")]
    pub mac: Option<MacAddr>,
    /// The MTU in bytes; `None`: what fits through the tunnel.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// The node's ports that lead to the container.
    #[serde(default)]
    pub host_ports: Vec<HostPort>,
    /// Whether what it sends out of the cluster gets the node's address.
    #[serde(default)]
    pub masquerade: bool,
    /// Whether it may send from other addresses than its own.
    #[serde(default)]
    pub spoof: bool,
}

/// What was reserved, and how the device is to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    /// The port's name.
    pub port: String,
    /// The device's addresses with the prefix lengths it is to have.
    pub addresses: Vec<IpNet>,
    /// Its gateways, permanent neighbours with [`Self::gateway_mac`]; none in a segment that does not
    /// route.
    pub gateways: Vec<IpAddr>,
    /// The gateways' MAC address.
    #[serde(with = "mac_text")]
    pub gateway_mac: Option<MacAddr>,
    /// Its routes.
    pub routes: Vec<Route>,
    /// Its MAC address.
    #[serde(with = "mac_text")]
    pub mac: Option<MacAddr>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// How many queues it is to have.
    pub queues: u16,
    /// The uid that it is to belong to.
    pub owner: u32,
    /// The length of its ring; `None`: the kernel's default.
    pub txqueuelen: Option<u32>,
    /// Which offloads are wanted.
    pub offload: OffloadWish,
}

/// What a plugin believes of an attachment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// The container's namespace.
    #[serde(default)]
    pub identity: Option<NetnsIdentity>,
    /// Its addresses.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Its MAC address.
    #[serde(default, with = "mac_text")]
    pub mac: Option<MacAddr>,
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// To [`Request::Reserve`].
    Reserved(Box<Reserved>),
    /// To [`Request::Attach`], [`Request::Commit`] and [`Request::Check`].
    Done,
    /// To [`Request::Release`] and [`Request::Gc`].
    Released {
        /// What was there and is gone now.
        keys: Vec<Key>,
        /// What is still there, and why. It is tried again by itself.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        failed: Vec<String>,
    },
    /// To [`Request::Status`].
    Ready {
        /// How many more attachments get an address.
        free: Option<u64>,
    },
    /// To [`Request::List`].
    List {
        /// The attachments.
        pods: Vec<Listed>,
        /// Whether there are more behind the last of them.
        more: bool,
    },
    /// To any.
    Refused(Refused),
}

/// An attachment in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// What it is known by.
    pub key: Key,
    /// The name of its port.
    pub port: String,
    /// The path of its namespace.
    pub netns: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its MAC address.
    #[serde(with = "mac_text")]
    pub mac: Option<MacAddr>,
    /// When it was attached, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// The node's ports that lead to it.
    pub host_ports: Vec<HostPort>,
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// What kind of reason it is.
    pub kind: RefusedKind,
    /// The reason, in words that stand alone.
    pub message: String,
}

/// The kinds of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedKind {
    /// The other side speaks another version.
    Version,
    /// The request cannot be read, or comes at the wrong time.
    Malformed,
    /// The request asks for what cannot be.
    Invalid,
    /// What it names is not there.
    NotFound,
    /// What it asks for is there already.
    Exists,
    /// No address is left.
    Full,
    /// The node is not there yet: it has no podCIDR, or is starting or stopping.
    NotReady,
    /// The attachment is not what was expected.
    Differs,
    /// The daemon tried and the system failed it.
    Failed,
    /// Said by a newer daemon.
    #[serde(other)]
    Other,
}

impl Refused {
    /// A reason of this kind.
    pub fn new(kind: RefusedKind, message: impl ToString) -> Self {
        Self { kind, message: message.to_string() }
    }
}

/// A message is a version and what it says.
#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    #[serde(flatten)]
    body: T,
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// The bytes of a request or an answer.
///
/// # Errors
///
/// [`RefusedKind::Invalid`] when it is longer than a message may be.
pub fn encode<T: Serialize>(body: &T) -> Result<Vec<u8>, Refused> {
    let failed = |error| Refused::new(RefusedKind::Failed, format!("encode a message: {error}"));
    let bytes = serde_json::to_vec(&Envelope { version: VERSION, body }).map_err(failed)?;
    if bytes.len() > MAX_MESSAGE {
        let message = format!("a message of {} bytes: {MAX_MESSAGE} at most", bytes.len());
        return Err(Refused::new(RefusedKind::Invalid, message));
    }
    Ok(bytes)
}

/// What the bytes of a message say.
///
/// # Errors
///
/// [`RefusedKind::Version`] when it is of another version, [`RefusedKind::Malformed`] when it makes
/// no sense.
pub fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, Refused> {
    let malformed = |error| Refused::new(RefusedKind::Malformed, format!("unreadable: {error}"));
    if bytes.len() > MAX_MESSAGE {
        let message = format!("longer than {MAX_MESSAGE} bytes");
        return Err(Refused::new(RefusedKind::Malformed, message));
    }
    let Versioned { version } = serde_json::from_slice(bytes).map_err(malformed)?;
    if version != VERSION {
        let message = format!(
            "the other side speaks version {version} of the attachment protocol, this one {VERSION}: \
             update tapestry and tapestry-cni together"
        );
        return Err(Refused::new(RefusedKind::Version, message));
    }
    let envelope: Envelope<T> = serde_json::from_slice(bytes).map_err(malformed)?;
    Ok(envelope.body)
}

mod mac_text {
    use encap::MacAddr;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};

    #[allow(clippy::ref_option, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(
        mac: &Option<MacAddr>,
        out: S,
    ) -> Result<S::Ok, S::Error> {
        mac.map(|mac| mac.to_string()).serialize(out)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<MacAddr>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse()).transpose().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserve() -> Request {
        let [network, container, ifname] = ["pods", "c1", "eth0"].map(str::to_owned);
        Request::Reserve(Box::new(Reserve {
            key: Key { network, container, ifname },
            netns: "/run/netns/a".into(),
            identity: NetnsIdentity { dev: 4, ino: 5 },
            segment: None,
            wanted: vec!["10.244.1.7".parse().unwrap()],
            given: Vec::new(),
            routes: Vec::new(),
            mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
            mtu: None,
            host_ports: Vec::new(),
            masquerade: true,
            spoof: false,
        }))
    }

    #[test]
    fn messages_survive_the_way() {
        let refused = Refused::new(RefusedKind::Full, "no room");
        for request in [reserve(), Request::Attach { ifindex: 7 }, Request::Commit] {
            assert_eq!(decode::<Request>(&encode(&request).unwrap()).unwrap(), request);
        }
        for answer in [Answer::Done, Answer::Refused(refused), Answer::Ready { free: None }] {
            assert_eq!(decode::<Answer>(&encode(&answer).unwrap()).unwrap(), answer);
        }
    }

    #[test]
    fn a_question_changes_no_port() {
        let (network, valid) = ("pods".to_owned(), Vec::new());
        for request in [reserve(), Request::Attach { ifindex: 7 }, Request::Gc { network, valid }] {
            assert!(request.changes_ports(), "{request:?}");
        }
        let status = Request::Status { segment: None, delegated: false };
        for request in [Request::Commit, status, Request::List { after: None }] {
            assert!(!request.changes_ports(), "{request:?}");
        }
    }

    #[test]
    fn what_is_no_message_is_told_apart() {
        let kind = |text: &str| decode::<Request>(text.as_bytes()).unwrap_err().kind;
        for text in [
            "",
            "{}",
            "[1]",
            "\u{0}",
            "{\"version\":1}",
            "{\"version\":1,\"verb\":\"nonsense\"}",
            "{\"version\":1,\"verb\":\"attach\"}",
            "{\"version\":1,\"verb\":\"attach\",\"ifindex\":-1}",
            "{\"version\":-1,\"verb\":\"commit\"}",
        ] {
            assert_eq!(kind(text), RefusedKind::Malformed, "{text}");
        }
        // Of what a newer one says, only the version is read.
        assert_eq!(kind("{\"version\":2,\"verb\":\"nonsense\"}"), RefusedKind::Version);
        let deep = format!("{{\"version\":1,\"verb\":{}", "[".repeat(MAX_MESSAGE / 2));
        assert_eq!(kind(&deep), RefusedKind::Malformed);
        assert_eq!(kind(&" ".repeat(MAX_MESSAGE + 1)), RefusedKind::Malformed);
    }

    #[test]
    fn what_is_too_long_is_not_sent() {
        let valid = vec![("c".repeat(250), "eth0".to_owned()); 1000];
        let error = encode(&Request::Gc { network: "pods".into(), valid }).unwrap_err();
        assert_eq!(error.kind, RefusedKind::Invalid);
        let fits = vec![("c".repeat(64), "eth0".to_owned()); 2000];
        assert!(encode(&Request::Gc { network: "pods".into(), valid: fits }).is_ok());
    }

    #[test]
    fn a_kind_of_tomorrow_is_read_today() {
        let text = r#"{"version":1,"answer":"refused","kind":"tired","message":"later"}"#;
        let Answer::Refused(refused) = decode(text.as_bytes()).unwrap() else { panic!() };
        assert_eq!(refused, Refused::new(RefusedKind::Other, "later"));
    }
}
