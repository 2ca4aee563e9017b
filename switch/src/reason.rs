//! Why a frame was dropped. One enum is the code, the counter, the metric's label, the row of the
//! command line and the table in the documentation.

/// Defines the enum with its labels and explanations, so that they cannot drift apart.
macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal,)+) => {
        /// Why a frame was not forwarded, or why one of its copies was not sent.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl DropReason {
            /// Every reason, in the order of the walk.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$name),+];
            /// How many reasons there are.
            pub const COUNT: usize = [$(stringify!($name)),+].len();

            /// The reason's name outside the code: lower case with underscores.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// One sentence for an operator.
            #[must_use]
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// The reason with this label.
            #[must_use]
            pub fn from_label(label: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|reason| reason.label() == label)
            }
        }
    };
}

drop_reasons! {
    /// A port's queue gave less than a vnet header.
    VnetTruncated = "vnet_truncated",
    /// The vnet header asks for a kind of segmentation that does not exist or was not offered.
    VnetGsoType = "vnet_gso_type",
    /// The vnet header's segment size is zero, absurdly small, or makes too many segments.
    VnetGsoSize = "vnet_gso_size",
    /// The superframe claims another length than it has.
    VnetLength = "vnet_length",
    /// The vnet header's segmentation does not fit the frame's protocol.
    VnetProtocol = "vnet_protocol",
    /// The vnet header's checksum range lies outside the frame or over its headers.
    VnetChecksum = "vnet_checksum",
    /// The frame is longer than a port may send.
    FrameTooLong = "frame_too_long",
    /// The frame is shorter than an Ethernet header.
    FrameTruncated = "frame_truncated",
    /// The frame ends within an 802.1Q tag.
    TagTruncated = "tag_truncated",
    /// The UDP datagram is longer than any receive buffer.
    DatagramTruncated = "datagram_truncated",
    /// The datagram is shorter than a VXLAN header.
    HeaderTruncated = "header_truncated",
    /// The VXLAN header's I flag is not set.
    HeaderInvalid = "header_invalid",
    /// A reserved bit of the VXLAN header is set and the segment has `strict_header`.
    ReservedBits = "reserved_bits",
    /// No segment has this VNI.
    VniUnknown = "vni_unknown",
    /// The datagram's source is no VTEP that this node knows.
    PeerUnknown = "peer_unknown",
    /// The datagram's source is a VTEP, but not one of this segment.
    PeerNotInSegment = "peer_not_in_segment",
    /// The datagram's source is this node itself.
    Reflected = "reflected",
    /// The outer header says congestion was experienced, the inner one cannot (RFC 6040 section 4.2).
    EcnIllegal = "ecn_illegal",
    /// The decapsulated frame has an 802.1Q tag (RFC 7348 section 6.1).
    InnerVlan = "inner_vlan",
    /// The source MAC address is a group address or all zeros.
    SourceMacInvalid = "source_mac_invalid",
    /// The destination MAC address is all zeros.
    DestMacInvalid = "dest_mac_invalid",
    /// The destination is reserved for the link itself: 01:80:c2:00:00:00 to 0f.
    LinkLocal = "link_local",
    /// A MAC control frame, such as PAUSE.
    MacControl = "mac_control",
    /// An access port sent a tagged frame.
    VlanTagged = "vlan_tagged",
    /// A trunk without a native segment sent an untagged frame.
    VlanUntagged = "vlan_untagged",
    /// The trunk does not carry this VLAN, or the frame has two tags.
    VlanUnknown = "vlan_unknown",
    /// The source MAC address has a static entry elsewhere.
    StaticMac = "static_mac",
    /// A pod sent from another MAC address than its own.
    SpoofedMac = "spoofed_mac",
    /// A pod, or another node, sent from an IP address that it does not have.
    SpoofedAddress = "spoofed_address",
    /// A unicast frame in a cluster segment is not for the gateway's MAC address.
    NotGateway = "not_gateway",
    /// What is to be routed is neither IPv4 nor IPv6.
    NotIp = "not_ip",
    /// The IP header contradicts itself or the frame.
    IpMalformed = "ip_malformed",
    /// A message for neighbours only, which a cluster segment neither answers nor passes on.
    LinkControl = "link_control",
    /// A pod sent to the VXLAN port of a node.
    PodToVtep = "pod_to_vtep",
    /// The packet had no hop left, and its sender cannot be told.
    TtlExceeded = "ttl_exceeded",
    /// Nobody here has the destination, and the sender cannot be told.
    NoRoute = "no_route",
    /// The destination is unknown and the segment does not flood unknown unicast.
    UnknownUnicast = "unknown_unicast",
    /// The destination lives behind the port that the frame came from.
    SamePort = "same_port",
    /// The destination lives behind another VTEP: what comes from a tunnel never goes to one.
    SplitHorizon = "split_horizon",
    /// Nobody else is in the segment.
    NoDestination = "no_destination",
    /// The frame exceeds the MTU towards its destination and its sender cannot be told.
    TooBig = "too_big",
    /// The port is down or gone.
    PortDown = "port_down",
    /// The port's device did not take the frame.
    PortWrite = "port_write",
    /// The underlay socket's buffer stayed full.
    UnderlayFull = "underlay_full",
    /// The network to the VTEP is unreachable.
    UnderlayUnreachable = "underlay_unreachable",
    /// Sending to the VTEP failed otherwise.
    UnderlaySend = "underlay_send",
    /// The superframe could not be cut.
    Uncuttable = "uncuttable",
    /// The kernel dropped datagrams because the receive buffer was full.
    ReceiveBuffer = "receive_buffer",
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn labels_and_explanations_are_distinct_words() {
        let labels: BTreeSet<_> = DropReason::ALL.iter().map(|reason| reason.label()).collect();
        let texts: BTreeSet<_> =
            DropReason::ALL.iter().map(|reason| reason.explanation()).collect();
        assert_eq!(labels.len(), DropReason::COUNT);
        assert_eq!(texts.len(), DropReason::COUNT);
        for reason in DropReason::ALL {
            assert!(reason.label().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
            assert_eq!(DropReason::from_label(reason.label()), Some(reason));
            assert_eq!(DropReason::ALL[reason as usize], reason);
        }
    }
}
