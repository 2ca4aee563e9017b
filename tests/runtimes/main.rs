//! Real container runtimes: containerd by its own client and by the CRI that a kubelet speaks, and
//! podman. Their containers on two nodes reach each other, their nodes and the outside, and are
//! reached; and what they leave is nothing. `cargo test --test runtimes -- FILTER`.
//!
//! A runtime's daemon, its state, its configuration and what it runs are in the test's own namespaces
//! and directories; root file systems are made here, of busybox.

use std::process::ExitCode;

use lab::cases;

mod containerd;
mod crash;
mod cri;
mod ctr;
mod image;
mod podman;
mod podman_runs;
mod sandboxes;
mod stage;
mod web;

const CTR: &[&str] = &["ip", "nsenter", "nft", "unshare", "busybox", "containerd", "ctr", "runc"];
const CRI: &[&str] = &[
    "ip",
    "nsenter",
    "nft",
    "tar",
    "sha256sum",
    "busybox",
    "containerd",
    "ctr",
    "runc",
    "/usr/lib/cni/loopback",
];
const PODMAN: &[&str] = &["ip", "nsenter", "nft", "busybox", "podman", "conmon", "runc"];
const CHAINED: &[&str] = &[
    "ip",
    "nsenter",
    "nft",
    "iptables",
    "busybox",
    "podman",
    "conmon",
    "runc",
    "/usr/lib/cni/portmap",
    "/usr/lib/cni/tuning",
];

fn main() -> ExitCode {
    let groups: &[&[lab::suite::Case]] = &[
        &cases!(ctr, needs CTR, [
            containers_of_two_nodes_fetch_from_each_other,
            a_container_that_goes_without_del_is_found,
        ]),
        &cases!(sandboxes, needs CRI, [
            sandboxes_of_two_nodes_fetch_from_each_other,
            a_host_port_leads_to_its_sandbox,
        ]),
        &cases!(podman_runs, needs PODMAN, [
            containers_of_two_nodes_fetch_from_each_other,
            a_published_port_leads_to_its_container,
            an_address_that_is_asked_for_is_given,
        ]),
        &cases!(podman_runs, needs CHAINED, [portmap_and_tuning_may_follow_in_the_chain]),
        &cases!(crash, needs PODMAN, [a_daemon_that_dies_while_containers_start]),
    ];
    lab::suite::main(&groups.concat())
}
