//! Whole daemons in network namespaces: among themselves, against the kernel's VXLAN device, against
//! Open vSwitch, against an attacker, and through restarts. `cargo test --test netns -- FILTER`.

use std::process::ExitCode;

use lab::cases;

#[path = "netns/cluster.rs"]
mod cluster;
#[path = "netns/common.rs"]
mod common;
#[path = "netns/etcd.rs"]
mod etcd;
#[path = "netns/fairness.rs"]
mod fairness;
#[path = "netns/helper.rs"]
mod helper;
#[path = "netns/hostile.rs"]
mod hostile;
#[path = "netns/kernel.rs"]
mod kernel;
#[path = "netns/kubernetes.rs"]
mod kubernetes;
#[path = "netns/life.rs"]
mod life;
#[path = "netns/mesh.rs"]
mod mesh;
#[path = "netns/order.rs"]
mod order;
#[path = "netns/ovs.rs"]
mod ovs;
#[path = "netns/parted.rs"]
mod parted;
#[path = "netns/peers.rs"]
mod peers;
#[path = "netns/privilege.rs"]
mod privilege;
#[path = "netns/restart.rs"]
mod restart;
#[path = "netns/scale.rs"]
mod scale;
#[path = "netns/settings.rs"]
mod settings;
#[path = "netns/trouble.rs"]
mod trouble;
#[path = "netns/trunk.rs"]
mod trunk;
#[path = "netns/way_out.rs"]
mod way_out;
#[path = "netns/wire.rs"]
mod wire;

const OVS: &[&str] = lab::peer::ovs::PROGRAMS;
const KERNEL: &[&str] = &["ip", "bridge", "ethtool", "nsenter"];
const CAPTURE: &[&str] = &["ip", "ethtool", "nsenter", "tshark"];
const LAN: &[&str] = &["ip", "nsenter"];
const PARTED: &[&str] = &["ip", "nsenter", "setpriv", "nft"];
const CLUSTER: &[&str] = &["ip", "nsenter", "nft"];
const ETCD: &[&str] = &["ip", "nsenter", "nft", "etcd"];
const SCALE: &[&str] = &["ip", "nsenter", "prlimit", "nft"];
const FLOOD: &[&str] = &["ip", "nsenter", "chrt"];

fn main() -> ExitCode {
    let groups: &[&[lab::suite::Case]] = &[
        &cases!(peers, needs KERNEL, [kernels_agree_with_each_other]),
        &cases!(peers, needs OVS, [open_vswitch_agrees_with_the_kernel]),
        &cases!(mesh, needs LAN, [
            three_nodes_talk_over_an_ipv4_underlay,
            three_nodes_talk_over_an_ipv6_underlay,
            two_pods_of_one_node_talk_without_the_underlay,
            broadcast_multicast_and_unknown_unicast_reach_each_pod_once,
            a_flush_forgets_and_traffic_teaches_again,
            idle_pods_cost_no_cpu,
        ]),
        &cases!(cluster, needs CLUSTER, [
            nodes_reach_each_others_gateways,
            each_pod_reaches_each_pod,
            the_same_over_an_ipv6_underlay,
            nodes_reach_pods_and_pods_reach_nodes,
            who_is_not_there_is_unreachable_and_never_flooded_for,
            a_pod_may_send_from_its_own_addresses_only,
            pods_live_on_while_their_daemon_is_killed,
            lists_say_who_is_where,
            a_namespace_that_goes_leaves_no_orphan,
            broadcasts_stay_on_their_node,
            teardown_leaves_neither_device_nor_rules,
        ]),
        &cases!(way_out, needs CLUSTER, [
            the_gateway_port_is_the_same_after_a_restart,
            direct_routes_are_there_and_come_back,
            a_mapped_port_is_there_when_add_is_over,
            who_leaves_the_cluster_takes_rules_and_routes_along,
            a_firewall_in_the_way_is_in_the_status,
        ]),
        &cases!(way_out, needs PARTED, [a_daemon_without_capabilities_has_a_way_out_too]),
        &cases!(etcd, needs ETCD, [
            each_node_takes_a_share_and_each_pod_reaches_each_pod,
            traffic_flows_whatever_becomes_of_etcd,
            traffic_flows_whatever_becomes_of_members,
            routes_outlive_a_start_that_knows_nobody,
            a_share_that_is_given_back_is_nobodys,
        ]),
        &cases!(kubernetes, needs ETCD, [traffic_flows_whatever_becomes_of_the_api_server]),
        &cases!(trouble, needs CLUSTER, [
            a_share_that_changes_leaves_the_pods_their_addresses,
            a_disk_that_takes_nothing_costs_new_pods_only,
            an_address_of_the_node_is_no_pods,
        ]),
        &cases!(trunk, needs LAN, [each_vlan_reaches_its_segment_and_no_other]),
        &cases!(settings, needs LAN, [
            two_workers_and_queues,
            zero_outer_checksums,
            no_offload_at_all,
            offloads_on_one_side_only,
            flooding_by_multicast,
            a_trunk_meets_an_access_port,
            a_guest_learns_that_the_tunnel_is_narrower,
            ports_follow_the_underlays_mtu,
            the_vtep_follows_its_interface,
            a_reload_changes_the_underlay,
            a_receive_buffer_overflows,
        ]),
        &cases!(kernel, needs KERNEL, [
            talks_with_udp_checksums,
            talks_without_udp_checksums,
            talks_with_udp_checksums_and_no_offloads,
            talks_without_udp_checksums_and_no_offloads,
            talks_over_ipv6,
            talks_over_ipv6_and_no_offloads,
            talks_across_cards_that_segment_and_checksum,
            floods_reach_it_once_and_come_back_never,
        ]),
        &cases!(ovs, needs OVS, [talks_both_ways]),
        &cases!(wire, needs CAPTURE, [
            every_field_is_as_rfc_7348_wants_it_over_ipv4,
            every_field_is_as_rfc_7348_wants_it_over_ipv6,
            congestion_marks_are_copied_out_and_in,
        ]),
        &cases!(hostile, needs LAN, [
            each_bad_datagram_is_a_named_drop,
            each_bad_frame_of_a_pod_is_a_named_drop,
            odd_but_legal_datagrams_are_delivered,
            a_strict_segment_drops_each_reserved_bit,
            giants_are_dropped_and_noise_does_no_harm,
            a_flood_of_addresses_leaves_the_neighbours_their_entries,
        ]),
        &cases!(restart, needs LAN, [
            a_crash_breaks_no_connection,
            a_stop_breaks_no_connection,
            both_nodes_crash_at_once,
        ]),
        &cases!(privilege, needs PARTED, [
            a_daemon_without_capabilities_has_ports_by_its_helper,
            a_namespace_comes_and_goes_under_a_helper,
            ports_wait_for_a_helper_that_is_away,
            pods_survive_the_death_of_either_and_of_both,
            ports_are_made_whoever_dies_over_it,
            many_ports_are_made_as_fast,
        ]),
        &cases!(helper, needs PARTED, [
            a_stranger_is_not_served,
            nonsense_is_refused_and_does_no_harm,
            what_is_not_the_daemons_is_not_touched,
            every_verb_is_the_same_by_the_helper,
        ]),
        &cases!(scale, needs SCALE, [
            a_thousand_ports_in_one_namespace,
            a_thousand_ports_in_namespaces_of_their_own,
            a_daemon_with_two_ports_is_small_and_idle,
            a_million_addresses_are_learned,
            five_thousand_nodes_of_a_cluster,
        ]),
        &cases!(fairness, needs FLOOD, [
            a_flooding_port_does_not_starve_another,
            a_port_that_floods_everybody_does_not_starve_another,
            a_flooding_peer_does_not_starve_the_ports,
        ]),
        &cases!(order, needs LAN, [
            a_conversation_has_one_worker_in_each_node,
            streams_through_two_workers_stay_in_order,
        ]),
        &cases!(life, needs LAN, [
            a_reload_touches_only_what_changed,
            a_wrong_config_changes_nothing,
            a_port_comes_and_goes_with_its_namespace,
            a_namespace_may_come_after_the_daemon,
            a_namespace_behind_a_link_comes_and_goes_with_the_link,
            a_port_that_could_not_come_up_is_tried_again,
            teardown_leaves_nothing,
            an_ephemeral_daemon_takes_its_ports_along,
            a_second_daemon_is_refused,
            ports_of_the_command_line_outlive_reload_and_restart,
            metrics_tell_what_the_command_line_tells,
        ]),
    ];
    lab::suite::main(&groups.concat())
}
