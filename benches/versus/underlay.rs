//! Where the two pods are, and what the cable between their nodes can do.

use anyhow::{Context as _, Result};
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
    pub(crate) fn join(
        self,
        world: &World,
        ends: [&Space; 2],
        device: &'static str,
    ) -> Result<Vec<CableEnd>> {
        let [a, b] = ends;
        world.veth((a, device), (b, device), 1500)?;
        ends.into_iter().try_for_each(|end| self.shape(end, device))?;
        Ok(ends.map(|space| CableEnd { space: space.clone(), device }).into())
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

/// A device that is one end of a cable.
#[derive(Debug)]
pub(crate) struct CableEnd {
    space: Space,
    device: &'static str,
}

impl CableEnd {
    /// Packets that it did not take, or that the other end had no room for (`/proc/net/dev`): a veth
    /// holds 256 that are not taken yet, and without a queueing discipline nobody waits.
    ///
    /// # Errors
    ///
    /// If the device is not there.
    pub(crate) fn lost(&self) -> Result<u64> {
        let all = self.space.run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
        let line = all.lines().find_map(|line| line.trim().strip_prefix(self.device));
        let counters = line.and_then(|line| line.strip_prefix(':')).context("no such device")?;
        // Eight counters of what is received, then bytes, packets, errors and drops of what is sent.
        let dropped = counters.split_whitespace().nth(11).context("too few counters")?;
        Ok(dropped.parse()?)
    }
}

/// The device's name, the same for every contestant.
pub(crate) const DEVICE: &str = UNDERLAY;
