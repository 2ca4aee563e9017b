//! The checks of a port.
use super::{Name, Port, PortSpec, Problem, Segment};

/// Checks a port against the segments there are and the ports there are already.
///
/// # Errors
/// Every problem, with paths relative to the specification (`trunk[1].vlan`).
pub fn check_port(
    _spec: &PortSpec,
    _node: &Name,
    _segments: &[Segment],
    _others: &[Port],
) -> Result<Port, Vec<Problem>> {
    Err(Vec::new())
}
