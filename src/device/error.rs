//! Why a device could not be made, configured, adopted or removed.

use std::borrow::Cow;
use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

use super::adopt::Mismatch;
use super::netlink::NetlinkError;
use super::netns::NetnsError;
use super::offload::OffloadError;
use super::spec::NetnsRef;

/// A step with a device that failed: which device, where, which step, why.
#[derive(Debug, thiserror::Error)]
#[error("device {ifname}{}: {step}: {cause}", Where(netns.as_ref()))]
pub struct DeviceError {
    /// The device's name.
    pub ifname: String,
    /// Its namespace; `None`: the daemon's own.
    pub netns: Option<NetnsRef>,
    /// What was tried.
    pub step: Cow<'static, str>,
    /// Why it failed.
    pub cause: Cause,
}

struct Where<'a>(Option<&'a NetnsRef>);

impl fmt::Display for Where<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |netns| write!(out, " in namespace {netns}"))
    }
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// A system call.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A netlink request.
    #[error(transparent)]
    Netlink(Box<NetlinkError>),
    /// The namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The offloads.
    #[error(transparent)]
    Offload(#[from] OffloadError),
    /// The name belongs to a device that Tapestry did not make.
    #[error("the name is taken by a device of kind {kind}")]
    Taken {
        /// Its kind, or "physical".
        kind: String,
    },
    /// What is there is not what was made.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// The specification asks for the impossible.
    #[error("{0}")]
    Spec(&'static str),
    /// What another process said that tried it for us, or why it could not be asked.
    #[error("{0}")]
    Told(Told),
}

/// An error as another process told it: its words, and what callers ask errors for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct Told {
    /// In words.
    pub text: String,
    /// The errno behind it.
    pub errno: Option<i32>,
    /// Whether the namespace is not there.
    pub netns_absent: bool,
}

impl From<NetlinkError> for Cause {
    fn from(error: NetlinkError) -> Self {
        Self::Netlink(Box::new(error))
    }
}

impl From<nix::errno::Errno> for Cause {
    fn from(errno: nix::errno::Errno) -> Self {
        Self::Io(errno.into())
    }
}

impl DeviceError {
    /// The errno behind it, if there is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match &self.cause {
            Cause::Io(error) | Cause::Offload(OffloadError::Io(error)) => error.raw_os_error(),
            Cause::Netlink(error) => error.errno(),
            Cause::Netns(error) => error.source.raw_os_error(),
            Cause::Told(told) => told.errno,
            Cause::Offload(_) | Cause::Taken { .. } | Cause::Mismatch(_) | Cause::Spec(_) => None,
        }
    }

    /// The reason why a device was not adopted, if it is that.
    #[must_use]
    pub fn mismatch(&self) -> Option<&Mismatch> {
        match &self.cause {
            Cause::Mismatch(reason) => Some(reason),
            _ => None,
        }
    }

    /// Whether the namespace is not there.
    #[must_use]
    pub fn is_netns_absent(&self) -> bool {
        match &self.cause {
            Cause::Netns(error) => error.is_absent(),
            Cause::Mismatch(reason) => matches!(reason, Mismatch::NoNamespace),
            Cause::Told(told) => told.netns_absent,
            _ => false,
        }
    }
}

/// A failed step before the device is named.
#[derive(Debug)]
pub(super) struct StepError {
    pub(super) step: &'static str,
    pub(super) cause: Cause,
}

/// Names the step in which something failed.
pub(super) trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, StepError>;
}

impl<T, E: Into<Cause>> Step<T> for Result<T, E> {
    fn step(self, step: &'static str) -> Result<T, StepError> {
        self.map_err(|cause| StepError { step, cause: cause.into() })
    }
}
