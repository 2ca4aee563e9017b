//! What the gateway needs of the kernel's settings, and of those who manage devices.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::Cluster;

/// Something on this node that breaks a path, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is about: a setting, a chain, a program.
    pub subject: String,
    /// How it is, and what does not work because of that.
    pub message: String,
    /// What an operator should do.
    pub remedy: String,
}

/// The file that sets everything that is asked for here.
const SHIPPED: &str = "copy 99-tapestry-pods.conf to /etc/sysctl.d, then: sysctl --system";

/// RTF_DEFAULT and RTF_ADDRCONF (linux/ipv6_route.h): a default route that a router advertised.
const ADVERTISED: u32 = 0x0001_0000 | 0x0004_0000;

/// Reads a file of `/proc` or `/run`; `None`: there is none, or it may not be read.
pub type Read<'a> = &'a dyn Fn(&Path) -> Option<String>;

/// Reads from the system itself, in the calling thread's network namespace.
#[must_use]
pub fn read_system(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// Compares the settings that the gateway port and forwarding need with what they are. `underlay` is
/// the device of the node's own address, if it is known. What cannot be read is not complained about:
/// a device that is not there yet, or a kernel without IPv6.
#[must_use]
pub fn settings(cluster: &Cluster, underlay: Option<&str>, read: Read<'_>) -> Vec<Finding> {
    let has = |v4: bool| cluster.networks.iter().any(|one| one.net.addr().is_ipv4() == v4);
    let device = cluster.gateway.as_str();
    let mut found = Vec::new();
    if has(true) {
        found.extend(ipv4(device, read));
    }
    if has(false) {
        found.extend(ipv6(device, underlay, read));
    }
    found
}

fn ipv4(device: &str, read: Read<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut need = |key: String, message: &str| {
        if number(&key, read) == Some(0) {
            found.push(off(&key, message));
        }
    };
    need("net.ipv4.ip_forward".to_owned(), "pods reach neither the outside nor Services");
    let of = |key: &str| format!("net.ipv4.conf.{device}.{key}");
    need(of("forwarding"), "pods reach neither the outside nor Services");
    need(of("route_localnet"), "mapped ports do not work at 127.0.0.1");
    let key = "net.ipv4.conf.all.rp_filter";
    let strictness = [number(key, read), number(&of("rp_filter"), read)];
    // The larger one of the two holds (ip-sysctl, rp_filter).
    if strictness.into_iter().flatten().max() == Some(1) {
        found.push(Finding {
            subject: of("rp_filter"),
            message: "the reverse path filter is strict (1): what comes from another node's own \
                      address through the tunnel is dropped"
                .to_owned(),
            remedy: format!("sysctl -w {}=2; for good: {SHIPPED}", of("rp_filter")),
        });
    }
    found
}

fn ipv6(device: &str, underlay: Option<&str>, read: Read<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    let global = "net.ipv6.conf.all.forwarding";
    for key in [global.to_owned(), format!("net.ipv6.conf.{device}.forwarding")] {
        if number(&key, read) == Some(0) {
            found.push(off(&key, "pods reach neither the outside nor Services over IPv6"));
        }
    }
    let key = format!("net.ipv6.conf.{device}.disable_ipv6");
    if number(&key, read) == Some(1) {
        found.push(Finding {
            message: "1: the node has no IPv6 on its gateway port".to_owned(),
            remedy: format!("sysctl -w {key}=0"),
            subject: key,
        });
    }
    let Some(underlay) = underlay else { return found };
    let key = format!("net.ipv6.conf.{underlay}.accept_ra");
    if number(&key, read) == Some(1) && advertised(underlay, read) {
        found.push(Finding {
            message: format!(
                "1: with forwarding on, the kernel no longer listens to routers, and the default \
                 route of {underlay} ends with its lifetime"
            ),
            remedy: format!("sysctl -w {key}=2"),
            subject: key,
        });
    }
    found
}

fn off(key: &str, message: &str) -> Finding {
    Finding {
        subject: key.to_owned(),
        message: format!("0: {message}"),
        remedy: format!("sysctl -w {key}=1; for good: {SHIPPED}"),
    }
}

/// The value of a setting. A device's name may have dots in it, which no other part has.
fn number(key: &str, read: Read<'_>) -> Option<u32> {
    let mut path = PathBuf::from("/proc/sys");
    match key.split_once(".conf.").and_then(|(front, rest)| Some((front, rest.rsplit_once('.')?))) {
        Some((front, (device, leaf))) => {
            path.extend(front.split('.'));
            path.extend(["conf", device, leaf]);
        }
        None => path.extend(key.split('.')),
    }
    read(&path)?.trim().parse().ok()
}

/// Whether the kernel has a default route through a device that a router advertised.
fn advertised(device: &str, read: Read<'_>) -> bool {
    let table = read(Path::new("/proc/thread-self/net/ipv6_route")).unwrap_or_default();
    table.lines().any(|line| {
        let mut fields = line.split_whitespace().rev();
        let (name, flags) = (fields.next(), fields.next());
        let flags = flags.and_then(|flags| u32::from_str_radix(flags, 16).ok()).unwrap_or(0);
        name == Some(device) && flags & ADVERTISED == ADVERTISED
    })
}

/// Who else takes the gateway port's device for theirs: they would take its addresses and routes
/// away. `index` is the device's.
#[must_use]
pub fn managers(cluster: &Cluster, index: u32, read: Read<'_>) -> Vec<Finding> {
    let device = cluster.gateway.as_str();
    let says = |path: String, key: &str, value: &[&str]| {
        let text = read(Path::new(&path)).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.split_once('='))
            .any(|(k, v)| k.trim() == key && value.contains(&v.trim()))
    };
    let mut found = Vec::new();
    if says(format!("/run/NetworkManager/devices/{index}"), "managed", &["true", "full"]) {
        found.push(Finding {
            subject: "NetworkManager".to_owned(),
            message: format!("it manages {device}: addresses and routes go when it thinks fit"),
            remedy: "copy networkmanager/tapestry.conf to /etc/NetworkManager/conf.d, then: nmcli general \
                     reload"
                .to_owned(),
        });
    }
    let states = ["configuring", "configured", "pending", "degraded", "failed"];
    if says(format!("/run/systemd/netif/links/{index}"), "ADMIN_STATE", &states) {
        found.push(Finding {
            subject: "systemd-networkd".to_owned(),
            message: format!("it manages {device}: addresses and routes go when it is restarted"),
            remedy: "copy networkd/50-tapestry.network to /etc/systemd/network, then: \
                     networkctl reload"
                .to_owned(),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::IfName;
    use crate::gateway::ruleset::fixture::cluster;

    /// A node on which everything is as it should be, but for some files.
    fn node(changes: &[(&str, &str)]) -> BTreeMap<String, String> {
        let mut files = BTreeMap::new();
        for (key, value) in [
            ("sys/net/ipv4/ip_forward", "1\n"),
            ("sys/net/ipv4/conf/all/rp_filter", "1\n"),
            ("sys/net/ipv4/conf/tapestry0/rp_filter", "2\n"),
            ("sys/net/ipv4/conf/tapestry0/forwarding", "1\n"),
            ("sys/net/ipv4/conf/tapestry0/route_localnet", "1\n"),
            ("sys/net/ipv6/conf/all/forwarding", "1\n"),
            ("sys/net/ipv6/conf/tapestry0/forwarding", "1\n"),
            ("sys/net/ipv6/conf/tapestry0/disable_ipv6", "0\n"),
            ("sys/net/ipv6/conf/eth0/accept_ra", "1\n"),
        ] {
            files.insert(format!("/proc/{key}"), value.to_owned());
        }
        for (path, value) in changes {
            files.insert((*path).to_owned(), (*value).to_owned());
        }
        files
    }

    fn subjects(cluster: &Cluster, files: &BTreeMap<String, String>) -> Vec<String> {
        let read = |path: &Path| files.get(path.to_str().unwrap()).cloned();
        let found = settings(cluster, Some("eth0"), &read);
        assert!(found.iter().all(|one| !one.remedy.is_empty()));
        found.into_iter().map(|one| one.subject).collect()
    }

    #[test]
    fn each_setting_that_is_wrong_is_named() {
        assert!(subjects(&cluster(), &node(&[])).is_empty());
        assert!(subjects(&cluster(), &BTreeMap::new()).is_empty(), "nothing can be read");
        for (path, value, subject) in [
            ("ipv4/ip_forward", "0", "net.ipv4.ip_forward"),
            ("ipv4/conf/tapestry0/forwarding", "0", "net.ipv4.conf.tapestry0.forwarding"),
            ("ipv4/conf/tapestry0/rp_filter", "0", "net.ipv4.conf.tapestry0.rp_filter"),
            ("ipv4/conf/tapestry0/rp_filter", "1", "net.ipv4.conf.tapestry0.rp_filter"),
            ("ipv4/conf/tapestry0/route_localnet", "0", "net.ipv4.conf.tapestry0.route_localnet"),
            ("ipv6/conf/all/forwarding", "0", "net.ipv6.conf.all.forwarding"),
            ("ipv6/conf/tapestry0/disable_ipv6", "1", "net.ipv6.conf.tapestry0.disable_ipv6"),
        ] {
            let files = node(&[(&format!("/proc/sys/net/{path}"), value)]);
            assert_eq!(subjects(&cluster(), &files), [subject], "{path} = {value}");
        }
    }

    #[test]
    fn a_family_that_the_pods_do_not_have_needs_nothing() {
        let files = node(&[("/proc/sys/net/ipv6/conf/all/forwarding", "0")]);
        let mut cluster = cluster();
        cluster.networks.truncate(1);
        assert!(subjects(&cluster, &files).is_empty());
    }

    #[test]
    fn a_default_route_that_routers_advertise_is_in_danger() {
        let route = |flags: &str, device: &str| {
            let none = "0".repeat(32);
            let hop = "fe800000000000000000000000000001";
            format!("{none} 00 {none} 00 {hop} 00000400 00000001 00000000 {flags} {device}\n")
        };
        let with = |table: String| {
            subjects(&cluster(), &node(&[("/proc/thread-self/net/ipv6_route", &table)]))
        };
        assert_eq!(with(route("00450003", "eth0")), ["net.ipv6.conf.eth0.accept_ra"]);
        assert!(with(route("00450003", "eth1")).is_empty());
        assert!(with(route("00000003", "eth0")).is_empty(), "a static one");
        assert!(with("nonsense\n\n".to_owned()).is_empty());
    }

    #[test]
    fn a_device_with_a_dot_in_its_name_is_found() {
        let cluster = Cluster { gateway: IfName::new("tap.0").unwrap(), ..cluster() };
        let files = node(&[("/proc/sys/net/ipv4/conf/tap.0/route_localnet", "0")]);
        let found = subjects(&cluster, &files);
        assert!(found.contains(&"net.ipv4.conf.tap.0.route_localnet".to_owned()), "{found:?}");
    }

    #[test]
    fn those_who_manage_devices_are_named() {
        let named = |path: &str, text: &str| {
            let files = node(&[(path, text)]);
            let read = |path: &Path| files.get(path.to_str().unwrap()).cloned();
            managers(&cluster(), 7, &read).into_iter().map(|one| one.subject).collect::<Vec<_>>()
        };
        let nm = "/run/NetworkManager/devices/7";
        assert_eq!(named(nm, "[device]\nmanaged=true\n"), ["NetworkManager"]);
        assert!(named(nm, "[device]\nmanaged=false\n").is_empty());
        assert!(named("/run/NetworkManager/devices/8", "[device]\nmanaged=true\n").is_empty());
        let networkd = "/run/systemd/netif/links/7";
        let state = |state: &str| format!("# private\nADMIN_STATE={state}\nOPER_STATE=routable\n");
        assert_eq!(named(networkd, &state("configured")), ["systemd-networkd"]);
        assert!(named(networkd, &state("unmanaged")).is_empty());
    }
}
