//! What a port hands over, or a VXLAN header is followed by: any bytes as an Ethernet frame.

use encap::{
    Arp, Checksum, Contiguous, Ecn, Ethernet, FlowHash, HEAD_MAX, Head, Inet, IpVersion, Neighbour,
    Offload, Tag, VlanId, ecn,
};
use etherparse::{NetSlice, SlicedPacket};

use super::sums;

/// Dissects the frame, compares with etherparse, and edits its head to and fro.
pub fn check(bytes: &[u8]) {
    let contiguous = Contiguous::new(bytes, Offload::default());
    let frame = contiguous.frame();
    assert!(frame.head.len() <= HEAD_MAX && frame.len() == bytes.len());
    assert!(frame.body.is_empty() || frame.head.len() == HEAD_MAX);

    let Ok(ethernet) = Ethernet::parse(bytes) else {
        assert!(bytes.len() < 22);
        assert_eq!(Inet::parse(bytes), None);
        return;
    };
    let inet = Inet::at(bytes, &ethernet);
    oracle(bytes, inet.as_ref());
    if let Some(message) = Arp::parse(bytes) {
        assert!(inet.is_none() && bytes.len() >= ethernet.l3 + 28);
        assert!(message.who_has().is_none_or(|target| target == message.target));
    }
    if let Some(message) = Neighbour::parse(bytes) {
        let inet = inet.as_ref();
        let whole = inet.is_some_and(|inet| {
            sums::l4_sum(&bytes[..inet.l3 + inet.l3_len], inet) == 0xffff
                && bytes[inet.l3 + 7] == 255
        });
        assert!(whole && !message.target.is_multicast());
    }
    if let Some(inet) = inet {
        mark(frame.head, &inet);
    }
    tag(frame.head);
}

/// Where etherparse finds a packet sound, so does this crate, and at the same place.
fn oracle(bytes: &[u8], inet: Option<&Inet>) {
    let Ok(packet) = SlicedPacket::from_ethernet(bytes) else { return };
    if packet.link_exts.len() > 2 {
        return;
    }
    let (version, payload) = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => (IpVersion::V4, ip.payload()),
        Some(NetSlice::Ipv6(ip)) => (IpVersion::V6, ip.payload()),
        _ => return,
    };
    // etherparse walks chains of any length, and authentication headers.
    let Some(inet) = inet else { return assert_eq!(version, IpVersion::V6) };
    assert_eq!(inet.version, version);
    assert!(inet.fits(bytes.len()));
    let at = payload.payload.as_ptr() as usize - bytes.as_ptr() as usize;
    let authenticated = inet.proto == 51;
    // So does it destination options behind a routing header, and a payload length of zero.
    if !authenticated && payload.ip_number.0 == inet.proto {
        assert_eq!(inet.l4, at);
        assert_eq!(inet.fragment.is_piece(), payload.fragmented);
    }
}

/// Marks congestion: the field changes, the header stays as valid or invalid as it was.
fn mark(head: &[u8], inet: &Inet) {
    let mut copy = Head::copy_of(head);
    let valid = |head: &[u8]| sums::sum(&head[inet.l3..inet.l4]) == 0xffff;
    let before = inet.l4 <= head.len() && inet.version == IpVersion::V4 && valid(head);
    for field in [Ecn::Ce, Ecn::Ect0, Ecn::of_tos(inet.tos)] {
        if inet.l4 > head.len() {
            return;
        }
        ecn::set(copy.as_mut_slice(), inet, field);
        let after = Inet::parse(copy.as_slice());
        assert_eq!(after.map(|after| after.tos), Some((inet.tos & !3) | field.bits()));
        assert!(!before || valid(copy.as_slice()));
    }
}

/// Pushes tags and pops them: the head is as it was, and so is the flow.
fn tag(head: &[u8]) {
    let Ok(vlan) = VlanId::new(7) else { return };
    let mut copy = Head::copy_of(head);
    let offload = Offload { checksum: Checksum::Partial { start: 34, offset: 16 }, gso: None };
    let depth = |head: &[u8]| Ethernet::parse(head).map(|ethernet| (ethernet.l3 - 14) / 4);
    if depth(head) == Ok(0) {
        let hash = FlowHash::of(head);
        assert_eq!(copy.push_tag(Tag::new(vlan)), Ok(()));
        assert_eq!(FlowHash::of(copy.as_slice()), hash);
        assert_eq!(copy.pop_tag(), Some(Tag::new(vlan)));
    }
    let mut pushed = 0;
    while copy.push_tag(Tag::new(vlan)).is_ok() {
        pushed += 1;
    }
    assert_eq!(pushed, 4);
    assert_eq!(offload.shifted(16).shifted(-16), offload);
    for _ in 0..pushed {
        assert_eq!(copy.pop_tag(), Some(Tag::new(vlan)));
    }
    assert_eq!(copy.as_slice(), head);
}
