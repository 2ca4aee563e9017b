//! Firewalls of others that keep pods from the outside. That a table of ours accepts something does
//! not help against a chain of another table that drops it.

use std::path::Path;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::preflight::{Finding, read_system};
use super::rules::TABLE;
use crate::config::Cluster;
use crate::io::program;

/// The most that are named: an operator mends one and looks again.
const MOST: usize = 64;

/// How long looking may take before no further program is asked.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a firewall has to let pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodNetwork {
    /// The gateway port's device.
    pub device: String,
    /// The networks of the pods.
    pub networks: Vec<IpNet>,
}

impl From<&Cluster> for PodNetwork {
    fn from(cluster: &Cluster) -> Self {
        Self {
            device: cluster.gateway.to_string(),
            networks: cluster.networks.iter().map(|network| network.net).collect(),
        }
    }
}

/// As [`findings`], by the programs of the system, in the calling thread's network namespace.
/// Takes CAP_NET_ADMIN, and as long as those programs do.
///
/// # Errors
///
/// Those.
pub fn look(pods: &PodNetwork) -> Result<Vec<Finding>, String> {
    let names = read_system(Path::new("/proc/thread-self/net/ip_tables_names"));
    let legacy = names.is_some_and(|names| names.lines().any(|name| name == "filter"));
    let until = Instant::now() + PATIENCE;
    let mut ask = |program: &str, arguments: &[&str]| match Instant::now() < until {
        true => program::run(program, arguments, ""),
        false => Err(format!("it took longer than {PATIENCE:?}")),
    };
    let mut found = findings(pods, legacy, &mut ask)?;
    found.truncate(MOST);
    Ok(found)
}

/// Runs a program that only looks, `nft` or `iptables-legacy`, and returns what it prints; an error
/// is in words.
pub type Ask<'a> = &'a mut dyn FnMut(&str, &[&str]) -> Result<String, String>;

/// Names each chain that forwarded traffic has to pass and that lets nothing pass on its own: by its
/// policy or its last rule, with no rule in its table that is about the gateway's device or the
/// pods' networks. `legacy` says whether the old iptables have a filter table in the kernel, as
/// `/proc/net/ip_tables_names` tells.
///
/// # Errors
///
/// If nft is missing, or does not say: in words.
pub fn findings(pods: &PodNetwork, legacy: bool, ask: Ask<'_>) -> Result<Vec<Finding>, String> {
    let chains = objects(&ask("nft", &["-j", "list", "chains"])?, "chain")?;
    let mut found = Vec::new();
    for chain in chains.iter().filter(|chain| chain["hook"] == "forward") {
        let text = |key: &str| chain[key].as_str().unwrap_or_default();
        let (family, table, name) = (text("family"), text("table"), text("name"));
        if table == TABLE || !concerns(family, pods) {
            continue;
        }
        let rules = objects(&ask("nft", &["-j", "list", "chain", family, table, name])?, "rule")?;
        if chain["policy"] != "drop" && !rules.last().is_some_and(refuses_all) {
            continue;
        }
        let rules = objects(&ask("nft", &["-j", "list", "table", family, table])?, "rule")?;
        if !lets_pods_pass(&rules, pods, table == "firewalld") {
            let in_table = |other: &&Value| other["family"] == family && other["table"] == table;
            let docker = chains.iter().filter(in_table).any(|one| one["name"] == "DOCKER-USER");
            found.push(finding(pods, (family, table, name), docker));
        }
    }
    if legacy {
        found.extend(old_iptables(pods, ask));
    }
    Ok(found)
}

/// The objects of a kind in what `nft -j` prints.
fn objects(text: &str, kind: &str) -> Result<Vec<Value>, String> {
    let value: Value = serde_json::from_str(text).map_err(|e| format!("nft's answer: {e}"))?;
    let all = value["nftables"].as_array().ok_or("nft's answer: no list")?;
    Ok(all.iter().filter_map(|one| one.get(kind)).cloned().collect())
}

fn concerns(family: &str, pods: &PodNetwork) -> bool {
    let has = |v4: bool| pods.networks.iter().any(|net| net.addr().is_ipv4() == v4);
    match family {
        "inet" => true,
        "ip" => has(true),
        "ip6" => has(false),
        _ => false,
    }
}

fn expressions(rule: &Value) -> &[Value] {
    rule["expr"].as_array().map_or(&[], Vec::as_slice)
}

/// Whether a rule drops or rejects what reaches it, whatever it is.
fn refuses_all(rule: &Value) -> bool {
    let is = |one: &Value, kind: &str| one.get(kind).is_some();
    let idle = |one: &Value| ["counter", "log", "limit"].iter().any(|kind| is(one, kind));
    let all = expressions(rule);
    all.iter().any(|one| is(one, "drop") || is(one, "reject"))
        && all.iter().all(|one| is(one, "drop") || is(one, "reject") || idle(one))
}

/// Whether rules speak of the gateway's device, or of the pods, in both directions. firewalld needs
/// only be told which zone the device is in.
fn lets_pods_pass(rules: &[Value], pods: &PodNetwork, firewalld: bool) -> bool {
    let (mut from, mut to) = (false, false);
    for rule in rules {
        let all = expressions(rule);
        let goes_on = |one: &Value| {
            one.get("accept").is_some() || one.get("goto").is_some() || one.get("jump").is_some()
        };
        if !all.iter().any(goes_on) {
            continue;
        }
        for one in all.iter().filter_map(|one| one.get("match")).filter(|one| one["op"] == "==") {
            let (left, right) = (&one["left"], &one["right"]);
            let field = left["payload"]["field"].as_str();
            match (left["meta"]["key"].as_str(), field) {
                (Some("iifname" | "iif"), _) => from |= names(right, pods),
                (Some("oifname" | "oif"), _) => to |= names(right, pods),
                (_, Some("saddr")) => from |= holds(right, pods),
                (_, Some("daddr")) => to |= holds(right, pods),
                _ => {}
            }
        }
    }
    from && (to || firewalld)
}

/// Whether the gateway's device is what is compared with, or is among it.
fn names(right: &Value, pods: &PodNetwork) -> bool {
    match right {
        Value::String(name) => match name.strip_suffix('*') {
            Some(front) => pods.device.as_str().starts_with(front),
            None => name == pods.device.as_str(),
        },
        Value::Array(all) => all.iter().any(|one| names(one, pods)),
        Value::Object(_) => names(&right["set"], pods),
        _ => false,
    }
}

/// Whether one of the pods' networks is in what is compared with.
fn holds(right: &Value, pods: &PodNetwork) -> bool {
    match right {
        Value::Array(all) => all.iter().any(|one| holds(one, pods)),
        Value::Object(inner) if inner.contains_key("set") => holds(&right["set"], pods),
        _ => {
            let prefix = &right["prefix"];
            let (address, length) = (prefix["addr"].as_str(), prefix["len"].as_u64());
            let net = address.zip(length).and_then(|(address, length)| {
                IpNet::new(address.parse().ok()?, u8::try_from(length).ok()?).ok()
            });
            net.is_some_and(|net| pods.networks.iter().any(|one| net.contains(one)))
        }
    }
}

/// What does not work behind such a chain.
const BROKEN: &str = "pods reach neither the outside nor Services, and nobody outside reaches pods \
                      by node ports or mapped ports";

fn finding(pods: &PodNetwork, (family, table, name): (&str, &str, &str), docker: bool) -> Finding {
    let device = pods.device.as_str();
    let subject = format!("chain {family} {table} {name}");
    let message = format!("forwarded traffic is refused and nothing is said of {device}: {BROKEN}");
    let iptables = |program: &str, chain: &str| {
        format!(
            "{program} -I {chain} -i {device} -j ACCEPT; {program} -I {chain} -o {device} -j ACCEPT"
        )
    };
    let remedy = match (family, table, name) {
        (_, "firewalld", _) => format!(
            "firewall-cmd --permanent --zone=trusted --add-interface={device}; firewall-cmd --reload"
        ),
        ("ip", "filter", "FORWARD") if docker => iptables("iptables", "DOCKER-USER"),
        ("ip6", "filter", "FORWARD") if docker => iptables("ip6tables", "DOCKER-USER"),
        ("ip", "filter", "FORWARD") => iptables("iptables", "FORWARD"),
        ("ip6", "filter", "FORWARD") => iptables("ip6tables", "FORWARD"),
        _ => format!(
            "nft insert rule {family} {table} {name} iifname {device} accept; \
             nft insert rule {family} {table} {name} oifname {device} accept"
        ),
    };
    Finding { subject, message, remedy }
}

/// The chains of the old iptables, which nft does not show.
fn old_iptables(pods: &PodNetwork, ask: Ask<'_>) -> Vec<Finding> {
    let device = pods.device.as_str();
    let mut found = Vec::new();
    for (program, family) in [("iptables-legacy", "ip"), ("ip6tables-legacy", "ip6")] {
        // Whoever cannot look cannot tell.
        let Ok(rules) = ask(program, &["-S", "FORWARD"]) else { continue };
        let lines: Vec<&str> = rules.lines().map(str::trim).collect();
        let refuses = lines.contains(&"-P FORWARD DROP")
            || matches!(lines.last(), Some(&"-A FORWARD -j DROP"))
            || lines.last().is_some_and(|last| last.starts_with("-A FORWARD -j REJECT"));
        let passes = |flag: &str| {
            let wanted = format!("{flag} {device} ");
            lines.iter().any(|line| line.contains(&wanted) && line.ends_with("-j ACCEPT"))
        };
        if refuses && concerns(family, pods) && !(passes("-i") && passes("-o")) {
            found.push(Finding {
                subject: format!("{program} FORWARD"),
                message: format!(
                    "forwarded traffic is refused and nothing is said of {device}: {BROKEN}"
                ),
                remedy: format!(
                    "{program} -I FORWARD -i {device} -j ACCEPT; \
                     {program} -I FORWARD -o {device} -j ACCEPT"
                ),
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::ruleset::fixture::cluster;

    fn pods() -> PodNetwork {
        PodNetwork::from(&cluster())
    }

    #[test]
    fn what_nft_does_not_say_or_says_in_nonsense_is_an_error() {
        let mut ask = |_: &str, _: &[&str]| Err("nft: not installed".to_owned());
        assert_eq!(findings(&pods(), false, &mut ask).unwrap_err(), "nft: not installed");
        for answer in ["", "{", "{}", "[]", "{\"nftables\": 7}"] {
            let mut ask = |_: &str, _: &[&str]| Ok(answer.to_owned());
            assert!(findings(&pods(), false, &mut ask).is_err(), "{answer}");
        }
        let odd = "{\"nftables\": [{\"chain\": {\"hook\": \"forward\", \"family\": \"inet\"}}]}";
        let mut ask = |_: &str, _: &[&str]| Ok(odd.to_owned());
        assert_eq!(findings(&pods(), false, &mut ask), Ok(Vec::new()));
    }

    #[test]
    fn the_old_iptables_are_asked_in_their_own_words() {
        let subjects = |rules: &str| {
            let mut ask = |program: &str, _: &[&str]| match program {
                "nft" => Ok("{\"nftables\": []}".to_owned()),
                "iptables-legacy" => Ok(rules.to_owned()),
                _ => Err("not installed".to_owned()),
            };
            let found = findings(&pods(), true, &mut ask).unwrap();
            found.into_iter().map(|one| one.subject).collect::<Vec<_>>()
        };
        let open = "-A FORWARD -i tapestry0 -j ACCEPT\n-A FORWARD -o tapestry0 -j ACCEPT\n";
        assert!(subjects("-P FORWARD ACCEPT\n").is_empty());
        assert_eq!(subjects("-P FORWARD DROP\n"), ["iptables-legacy FORWARD"]);
        assert!(subjects(&format!("-P FORWARD DROP\n{open}")).is_empty());
        let other = "-A FORWARD -i tapestry01 -j ACCEPT\n-A FORWARD -o tapestry0 -j ACCEPT\n";
        assert_eq!(subjects(&format!("-P FORWARD DROP\n{other}")).len(), 1);
        let last = "-P FORWARD ACCEPT\n-A FORWARD -j REJECT --reject-with icmp-port-unreachable\n";
        assert_eq!(subjects(last).len(), 1);
    }
}
