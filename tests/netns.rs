//! Whole daemons in network namespaces: among themselves, against the kernel's VXLAN device, against
//! Open vSwitch, against an attacker, and through restarts. `cargo test --test netns -- FILTER`.

use std::process::ExitCode;

use lab::cases;

#[path = "netns/peers.rs"]
mod peers;

const OVS: &[&str] = lab::peer::ovs::PROGRAMS;
const KERNEL: &[&str] = &["ip", "bridge", "ethtool", "nsenter"];

fn main() -> ExitCode {
    let groups: &[&[lab::suite::Case]] = &[
        &cases!(peers, needs KERNEL, [kernels_agree_with_each_other]),
        &cases!(peers, needs OVS, [open_vswitch_agrees_with_the_kernel]),
    ];
    lab::suite::main(&groups.concat())
}
