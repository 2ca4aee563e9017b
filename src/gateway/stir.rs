//! The kernel's own word that a table of rules was changed.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

/// NFNLGRP_NFTABLES (linux/netfilter/nfnetlink.h)
const GROUP: u32 = 7;

/// NFNL_SUBSYS_NFTABLES, the upper byte of a message's type.
const SUBSYSTEM: u16 = 10;

/// `struct nlmsghdr` and, behind it, `struct nfgenmsg`.
const HEADER: usize = 16;
const GENERIC: usize = 4;

/// The attribute with the table's name has this number in messages of every kind: of tables, chains,
/// rules, sets, elements, objects and flow tables (NFTA_TABLE_NAME and the like).
const NAME: u16 = 1;

/// The room for one read; a message that is longer is taken for one of ours.
const ROOM: usize = 64 * 1024;

/// What is said of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Nothing.
    Silence,
    /// It was changed in one transaction.
    Once,
    /// It was changed in several.
    Several,
    /// It may have been changed, in however many: words cannot be read, or were lost.
    Lost,
}

/// Tells that somebody has changed a table, by the notifications of nftables.
#[derive(Debug)]
pub struct Stirs {
    socket: OwnedFd,
    name: Vec<u8>,
}

impl Stirs {
    /// Tells of what happens from now on to tables of this name in the calling thread's network
    /// namespace. Needs CAP_NET_ADMIN.
    ///
    /// # Errors
    ///
    /// EPERM without that capability, EPROTONOSUPPORT without nftables.
    pub fn open(name: &str) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.add_membership(GROUP)?;
        Ok(Self::adopt(socket.as_fd().try_clone_to_owned()?, name))
    }

    /// Takes a socket that somebody with the capability has opened: to listen to it needs none.
    #[must_use]
    pub fn adopt(socket: OwnedFd, name: &str) -> Self {
        Self { socket, name: name.as_bytes().to_vec() }
    }

    /// The socket, to be passed on.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.socket
    }

    /// What to wait on for the next word.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Takes all that there is, and says what of it is about the table. Whoever has just changed it,
    /// and had taken all before that, finds its own transaction here.
    #[must_use]
    pub fn take(&self) -> Word {
        let mut word = Heard::default();
        let mut buffer = vec![0; ROOM];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, flags) {
                Ok(0) => return word.of(),
                Ok(length) => match buffer.get(..length) {
                    Some(datagram) => word.hear(datagram, &self.name),
                    None => word.lost = true,
                },
                Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => word.lost = true,
                Err(_) => return word.of(),
            }
        }
    }
}

/// What was heard so far.
#[derive(Debug, Default)]
struct Heard {
    /// The lower half of the number of the first transaction; the kernel gives each the next one.
    transaction: Option<u16>,
    more: bool,
    lost: bool,
}

impl Heard {
    const fn of(&self) -> Word {
        match (self.transaction, self.more, self.lost) {
            (_, true, _) => Word::Several,
            (_, false, true) => Word::Lost,
            (Some(_), false, false) => Word::Once,
            (None, false, false) => Word::Silence,
        }
    }

    /// Hears what of a datagram's messages is about a table of this name. What cannot be read may be.
    fn hear(&mut self, datagram: &[u8], name: &[u8]) {
        let mut rest = datagram;
        while !rest.is_empty() {
            let message = head(rest).and_then(|(length, kind)| Some((rest.get(..length)?, kind)));
            let Some((message, kind)) = message else {
                self.lost = true;
                return;
            };
            if kind >> 8 == SUBSYSTEM && named(message, name) {
                let number = transaction(message);
                self.more |= self.transaction.is_some_and(|first| first != number);
                self.transaction = Some(number);
            }
            rest = rest.get(message.len().next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// `res_id` of `struct nfgenmsg`: of what nftables tells, the lower half of the number of the
/// transaction (nfnl_msg_put in net/netfilter/nf_tables_api.c).
fn transaction(message: &[u8]) -> u16 {
    let id = message.get(HEADER + 2..).and_then(<[u8]>::first_chunk);
    id.map_or(0, |id| u16::from_be_bytes(*id))
}

/// Length and type of a message.
fn head(rest: &[u8]) -> Option<(usize, u16)> {
    let (head, _) = rest.split_first_chunk::<HEADER>()?;
    let [a, b, c, d, e, f, ..] = *head;
    let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).ok()?;
    (length >= HEADER).then_some((length, u16::from_ne_bytes([e, f])))
}

/// Whether a message's name attribute is this one, with the zero at its end.
fn named(message: &[u8], name: &[u8]) -> bool {
    let mut rest = message.get(HEADER + GENERIC..).unwrap_or_default();
    while let Some((head, _)) = rest.split_first_chunk::<4>() {
        let [a, b, c, d] = *head;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let Some(value) = rest.get(4..length) else { return false };
        if u16::from_ne_bytes([c, d]) == NAME {
            return value.strip_suffix(&[0]).is_some_and(|value| value == name);
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        message_of(7, kind, attributes)
    }

    fn message_of(transaction: u8, kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![1, 0, 0, transaction];
        for (kind, value) in attributes {
            let length = u16::try_from(4 + value.len()).unwrap();
            body.extend_from_slice(&length.to_ne_bytes());
            body.extend_from_slice(&kind.to_ne_bytes());
            body.extend_from_slice(value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let length = u32::try_from(HEADER + body.len()).unwrap();
        let mut all = length.to_ne_bytes().to_vec();
        all.extend_from_slice(&kind.to_ne_bytes());
        all.resize(HEADER, 0);
        all.extend_from_slice(&body);
        all
    }

    fn heard(datagrams: &[&[u8]]) -> Word {
        let mut heard = Heard::default();
        datagrams.iter().for_each(|datagram| heard.hear(datagram, b"tapestry"));
        heard.of()
    }

    #[test]
    fn one_transaction_is_told_from_several() {
        let ours = [(1, &b"tapestry\0"[..])];
        let (seven, eight) = (message_of(7, 0x0a08, &ours), message_of(8, 0x0a08, &ours));
        let other = message_of(8, 0x0a08, &[(1, &b"other\0"[..])]);
        assert_eq!(heard(&[]), Word::Silence);
        assert_eq!(heard(&[&other]), Word::Silence);
        assert_eq!(heard(&[&seven, &seven, &[seven.clone(), other].concat()]), Word::Once);
        assert_eq!(heard(&[&seven, &eight]), Word::Several);
        assert_eq!(heard(&[&[eight, seven].concat()]), Word::Several);
    }

    #[test]
    fn a_message_about_the_table_is_told_from_others() {
        let (ours, theirs) = (&b"tapestry\0"[..], &b"tapestry2\0"[..]);
        let about = |datagram: &[u8]| heard(&[datagram]) == Word::Once;
        // NFT_MSG_DELRULE, NFT_MSG_DELTABLE
        assert!(about(&message(0x0a08, &[(1, ours)])));
        assert!(about(&message(0x0a02, &[(3, &[0; 8]), (1, ours)])));
        assert!(!about(&message(0x0a08, &[(1, theirs)])));
        assert!(!about(&message(0x0a08, &[(2, ours)])));
        assert!(!about(&message(0x0108, &[(1, ours)])), "another subsystem");
        // NFT_MSG_NEWGEN: the generation's number is attribute 1.
        assert!(!about(&message(0x0a0f, &[(1, &[0, 0, 0, 5])])));
        let both = [message(0x0a08, &[(1, theirs)]), message(0x0a08, &[(1, ours)])].concat();
        assert!(about(&both));
        assert!(!about(&[]));
    }

    #[test]
    fn nonsense_is_taken_for_one_of_ours_and_never_a_panic() {
        let whole = message(0x0a08, &[(1, b"tapestry\0"), (2, b"chain\0")]);
        for end in 1..HEADER {
            assert_eq!(heard(&[&whole[..end]]), Word::Lost, "{end}");
        }
        for end in HEADER..whole.len() {
            let _ = heard(&[&whole[..end]]);
        }
        assert_eq!(heard(&[&[0; 64]]), Word::Lost);
        assert_eq!(heard(&[&[255; 64]]), Word::Lost);
    }
}
