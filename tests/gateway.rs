//! The node's gateway on real kernels: who reaches whom, and whose address is seen, by which style of
//! Service translation; that the rules stay; and that what stands in their way is named.
//! `cargo test --test gateway -- FILTER`.

use std::process::ExitCode;

use lab::cases;

#[path = "gateway/lab.rs"]
mod land;
#[path = "gateway/matrix.rs"]
mod matrix;
#[path = "gateway/probe.rs"]
mod probe;
#[path = "gateway/services.rs"]
mod services;
#[path = "gateway/standin.rs"]
mod standin;

const NFT: &[&str] = &["ip", "nsenter", "nft", "sysctl"];
const IPTABLES: &[&str] = &["ip", "nsenter", "nft", "sysctl", "iptables", "ip6tables"];

fn main() -> ExitCode {
    let groups: &[&[lab::suite::Case]] = &[
        &cases!(matrix, needs NFT, [
            pods_and_nodes_through_the_tunnel,
            pods_and_nodes_by_direct_routing,
            pods_and_nodes_without_a_tunnel,
            services_by_nft_through_the_tunnel,
            services_by_nft_by_direct_routing,
            services_by_nft_without_a_tunnel,
            services_by_ipvs,
            mapped_ports,
            mapped_ports_by_direct_routing,
        ]),
        &cases!(matrix, needs IPTABLES, [
            services_by_iptables_through_the_tunnel,
            services_by_iptables_without_a_tunnel,
        ]),
    ];
    lab::suite::main(&groups.concat())
}
