//! Where the two pods are, and what the cable between their nodes can do.

use anyhow::Result;
use lab::overlay::UNDERLAY;
use lab::world::{Space, World};

/// A place to measure in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Two nodes, veth as it is: superframes are neither cut nor summed on it.
    Raw,
    /// Two nodes, a card that checksums but does not segment, with GRO.
    Nic,
    /// Two nodes, a card that can do neither, with GRO.
    Honest,
    /// Both pods on one node.
    OneNode,
}

impl Place {
    pub(crate) const ALL: [Self; 4] = [Self::Raw, Self::Nic, Self::Honest, Self::OneNode];

    /// As `--only` and the results call it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Nic => "nic",
            Self::Honest => "honest",
            Self::OneNode => "one-node",
        }
    }

    /// As a heading.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Raw => "two nodes, raw underlay",
            Self::Nic => "two nodes, nic underlay",
            Self::Honest => "two nodes, honest underlay",
            Self::OneNode => "one node",
        }
    }

    /// Joins two namespaces by a cable of this kind.
    ///
    /// # Errors
    ///
    /// If the kernel or ethtool refuses.
    pub(crate) fn join(self, world: &World, ends: [&Space; 2], device: &str) -> Result<()> {
        let [a, b] = ends;
        world.veth((a, device), (b, device), 1500)?;
        ends.into_iter().try_for_each(|end| self.shape(end, device))
    }

    fn shape(self, space: &Space, device: &str) -> Result<()> {
        let cut = "tso off tx-udp-segmentation off tx-udp_tnl-segmentation off \
                   tx-udp_tnl-csum-segmentation off gro on";
        match self {
            Self::Raw | Self::OneNode => Ok(()),
            Self::Nic => space.offloads(device, &format!("tx-checksum-ip-generic on {cut}")),
            Self::Honest => space.offloads(device, &format!("tx-checksum-ip-generic off {cut}")),
        }
    }
}

/// The device's name, the same for every contestant.
pub(crate) const DEVICE: &str = UNDERLAY;
