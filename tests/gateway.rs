//! The node's gateway on real kernels: who reaches whom, and whose address is seen, by which style of
//! Service translation; that the rules stay; and that what stands in their way is named.
//! `cargo test --test gateway -- FILTER`.

#![allow(clippy::unwrap_used, reason = "texts in the tables are addresses, or the test fails")]

use std::process::ExitCode;

use lab::cases;

#[path = "gateway/keep.rs"]
mod keep;
#[path = "gateway/lab.rs"]
mod land;
#[path = "gateway/matrix.rs"]
mod matrix;
#[path = "gateway/obstacles.rs"]
mod obstacles;
#[path = "gateway/probe.rs"]
mod probe;
#[path = "gateway/product.rs"]
mod product;
#[path = "gateway/services.rs"]
mod services;
#[path = "gateway/standin.rs"]
mod standin;

const NFT: &[&str] = &["ip", "nsenter", "nft", "sysctl"];
const IPTABLES: &[&str] = &["ip", "nsenter", "nft", "sysctl", "iptables", "ip6tables"];
const LEGACY: &[&str] = &["ip", "nsenter", "nft", "sysctl", "iptables-legacy"];

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
        &cases!(product, needs NFT, [
            pods_and_nodes_through_the_tunnel,
            pods_and_nodes_by_direct_routing,
            pods_and_nodes_without_a_tunnel,
            services_by_nft_through_the_tunnel,
            services_by_nft_by_direct_routing,
            services_by_nft_without_a_tunnel,
            mapped_ports,
            mapped_ports_by_direct_routing,
        ]),
        &cases!(product, needs IPTABLES, [services_by_iptables_through_the_tunnel]),
        &cases!(matrix, needs IPTABLES, [
            services_by_iptables_through_the_tunnel,
            services_by_iptables_without_a_tunnel,
        ]),
        &cases!(keep, needs NFT, [
            the_table_is_back_within_a_second,
            what_changes_is_changed_in_place,
            and_so_it_is_where_the_kernel_says_nothing,
            a_host_without_nft_says_so,
            datagrams_of_the_underlay_are_not_tracked,
            pods_reach_no_vtep_and_no_loopback,
            untranslated_service_traffic_is_refused,
            plain_routes_come_and_go_and_others_stay,
            five_thousand_nodes,
        ]),
        &cases!(obstacles, needs IPTABLES, [
            a_policy_of_drop_is_named_and_mended,
            firewalld_is_named,
            settings_that_are_wrong_are_named_and_mended,
        ]),
        &cases!(obstacles, needs LEGACY, [the_old_iptables_are_named_and_mended]),
    ];
    lab::suite::main(&groups.concat())
}
