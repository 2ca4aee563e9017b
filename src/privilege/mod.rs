//! Where the privileged verbs are done: in this process, or in a small one beside it that holds the
//! capabilities while the daemon and its workers hold none.
//!
//! [`Hands`] is the one seam. The helper ([`helper`]) keeps no state and believes nothing: each
//! request carries its whole specification and is held against what its sender may ask for, and the
//! kernel is asked about the device as it is in one process. So either may die at any moment; the
//! daemon connects again and asks again, which finds done what was done.

mod channel;
mod check;
mod client;
mod hands;
pub mod helper;
pub(crate) mod program;
mod rules;
mod serve;
mod wire;

pub use hands::{Hand, Hands, VerbError};
pub use rules::{RulesError, TABLE};

/// The bit of CAP_NET_ADMIN in a capability set (linux/capability.h).
const CAP_NET_ADMIN: u32 = 12;

/// Whether this process has CAP_NET_ADMIN, without which no device is made; true where `/proc` does
/// not tell.
#[must_use]
pub fn may_make_devices() -> bool {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    effective(&status).is_none_or(|set| set & (1 << CAP_NET_ADMIN) != 0)
}

/// The effective capabilities that a process's status tells (proc(5)).
fn effective(status: &str) -> Option<u64> {
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(set.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_tells_the_capabilities() {
        let status =
            "CapPrm:\t0000000000000000\nCapEff:\t0000000000201000\nCapBnd:\t000001ffffffffff";
        assert_eq!(effective(status), Some(1 << CAP_NET_ADMIN | 1 << 21));
        assert_eq!(effective("CapEff:\tnonsense"), None);
        assert_eq!(effective(""), None);
    }
}
