//! Services as kube-proxy makes them of nodes' kernels, in the three styles it has.

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::Result;
use lab::tool;

use super::land::{Lab, Who};
use super::probe::PORT;

/// kube-proxy's modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Iptables,
    Nft,
    Ipvs,
}

/// A Service with one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    /// Tells its addresses and ports.
    pub(crate) number: u16,
    /// Who answers.
    pub(crate) endpoint: Who,
    /// `externalTrafficPolicy: Local`.
    pub(crate) local: bool,
}

const fn service(number: u16, endpoint: Who, local: bool) -> Service {
    Service { number, endpoint, local }
}

/// A pod on node a, on node b, the client itself, a host-network pod on node b, and the policy.
pub(crate) const ON_A: Service = service(11, Who::P2, false);
pub(crate) const ON_B: Service = service(12, Who::Q1, false);
pub(crate) const ITSELF: Service = service(13, Who::P1, false);
pub(crate) const ON_HOST: Service = service(14, Who::B, false);
pub(crate) const LOCAL: Service = service(15, Who::P2, true);
const ALL: [Service; 5] = [ON_A, ON_B, ITSELF, ON_HOST, LOCAL];

/// The port of every cluster address.
pub(crate) const CLUSTER_PORT: u16 = 80;

/// Pods' addresses, whose connections to a cluster address kube-proxy does not masquerade.
const PODS: [&str; 2] = ["10.42.0.0/16", "fd42::/48"];

impl Service {
    pub(crate) fn cluster_ip(self, family: usize) -> IpAddr {
        let number = self.number;
        [format!("10.96.0.{number}"), format!("fd96::{number}")][family].parse().unwrap()
    }

    pub(crate) fn node_port(self) -> u16 {
        30_000 + self.number
    }

    fn endpoint_at(self, family: usize) -> String {
        match self.endpoint.address(family) {
            IpAddr::V4(address) => format!("{address}:{PORT}"),
            IpAddr::V6(address) => format!("[{address}]:{PORT}"),
        }
    }

    /// Whether the endpoint is a pod or process of this node.
    fn is_on(self, node: Who) -> bool {
        match node {
            Who::A => matches!(self.endpoint, Who::P1 | Who::P2 | Who::A),
            _ => matches!(self.endpoint, Who::Q1 | Who::B),
        }
    }
}

/// Makes all Services on both nodes.
pub(crate) fn provide(lab: &Lab, style: Style) -> Result<()> {
    for node in [Who::A, Who::B] {
        for family in [0, 1] {
            match style {
                Style::Iptables => iptables(lab, node, family)?,
                Style::Nft => lab.nft(node, &nft(node, family))?,
                Style::Ipvs => ipvs(lab, node, family)?,
            }
        }
    }
    Ok(())
}

/// Why IPVS cannot be had here, if it cannot.
pub(crate) fn ipvs_obstacle() -> Option<String> {
    if !tool::exists("ipvsadm") {
        return Some("missing: ipvsadm".to_owned());
    }
    tool::run(tool::command("ipvsadm").arg("-L")).err().map(|error| format!("{error:#}"))
}

/// The rules of kube-proxy's iptables mode, for iptables-restore.
fn iptables(lab: &Lab, node: Who, family: usize) -> Result<()> {
    let mut text = "*nat\n:MASQ -\n:SERVICES -\n:NODEPORTS -\n\
         -A PREROUTING -j SERVICES\n-A OUTPUT -j SERVICES\n\
         -A POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A POSTROUTING -j MARK --xor-mark 0x4000\n\
         -A POSTROUTING -j MASQUERADE --random-fully\n\
         -A MASQ -j MARK --or-mark 0x4000\n"
        .to_owned();
    let pods = PODS[family];
    for service in ALL {
        let (number, ip) = (service.number, service.cluster_ip(family));
        let (to, host) = (service.endpoint_at(family), service.endpoint.address(family));
        write!(text, ":SVC{number} -\n:EXT{number} -\n:SEP{number} -\n")?;
        for protocol in ["tcp", "udp"] {
            let port = format!("-p {protocol} -m {protocol} --dport");
            writeln!(text, "-A SERVICES -d {ip} {port} {CLUSTER_PORT} -j SVC{number}")?;
            writeln!(text, "-A NODEPORTS {port} {} -j EXT{number}", service.node_port())?;
            writeln!(text, "-A SVC{number} ! -s {pods} -d {ip} {port} {CLUSTER_PORT} -j MASQ")?;
        }
        writeln!(text, "-A SVC{number} -j SEP{number}")?;
        writeln!(text, "-A SEP{number} -s {host} -j MASQ")?;
        for protocol in ["tcp", "udp"] {
            writeln!(text, "-A SEP{number} -p {protocol} -j DNAT --to-destination {to}")?;
        }
        if service.local {
            writeln!(text, "-A EXT{number} -s {pods} -j SVC{number}")?;
            writeln!(text, "-A EXT{number} -m addrtype --src-type LOCAL -j MASQ")?;
            writeln!(text, "-A EXT{number} -m addrtype --src-type LOCAL -j SVC{number}")?;
            if service.is_on(node) {
                writeln!(text, "-A EXT{number} -j SEP{number}")?;
            }
        } else {
            write!(text, "-A EXT{number} -j MASQ\n-A EXT{number} -j SVC{number}\n")?;
        }
    }
    text.push_str("-A SERVICES -m addrtype --dst-type LOCAL -j NODEPORTS\nCOMMIT\n");
    text.push_str(
        "*filter\n-A FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n",
    );
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("rules");
    std::fs::write(&path, text)?;
    let program = ["iptables-restore", "ip6tables-restore"][family];
    lab.space(node).output(&format!("{program} {}", path.display())).map(drop)
}

/// The rules of kube-proxy's nftables mode.
fn nft(node: Who, family: usize) -> String {
    let (ip, pods) = (["ip", "ip6"][family], PODS[family]);
    let (mut vips, mut ports, mut chains) = (Vec::new(), Vec::new(), String::new());
    for service in ALL {
        let (number, vip) = (service.number, service.cluster_ip(family));
        let (to, host) = (service.endpoint_at(family), service.endpoint.address(family));
        for protocol in ["tcp", "udp"] {
            vips.push(format!("{vip} . {protocol} . {CLUSTER_PORT} : goto svc{number}"));
            ports.push(format!("{protocol} . {} : goto ext{number}", service.node_port()));
        }
        let ext = match (service.local, service.is_on(node)) {
            (false, _) => format!("jump mark-for-masquerade\n goto svc{number}"),
            (true, here) => format!(
                "{ip} saddr {pods} goto svc{number}\n\
                 fib saddr type local jump mark-for-masquerade\n\
                 fib saddr type local goto svc{number}\n{}",
                if here { format!("goto sep{number}") } else { "drop".to_owned() }
            ),
        };
        let _ = write!(
            chains,
            "chain svc{number} {{\n {ip} daddr {vip} {ip} saddr != {pods} jump mark-for-masquerade\n\
             goto sep{number}\n}}\nchain ext{number} {{\n{ext}\n}}\n\
             chain sep{number} {{\n {ip} saddr {host} jump mark-for-masquerade\n\
             meta l4proto {{ tcp, udp }} dnat to {to}\n}}\n"
        );
    }
    format!(
        "table {ip} kube-proxy {{\n\
         map service-ips {{\n type {kind} . inet_proto . inet_service : verdict\n\
         elements = {{ {} }}\n}}\n\
         map service-nodeports {{\n type inet_proto . inet_service : verdict\n\
         elements = {{ {} }}\n}}\n\
         chain mark-for-masquerade {{\n mark set mark or 0x4000\n}}\n{chains}\
         chain services {{\n {ip} daddr . meta l4proto . th dport vmap @service-ips\n\
         fib daddr type local meta l4proto . th dport vmap @service-nodeports\n}}\n\
         chain nat-prerouting {{\n type nat hook prerouting priority dstnat; jump services\n}}\n\
         chain nat-output {{\n type nat hook output priority -100; jump services\n}}\n\
         chain nat-postrouting {{\n type nat hook postrouting priority srcnat;\n\
         mark & 0x4000 == 0 return\n mark set mark xor 0x4000\n masquerade fully-random\n}}\n\
         chain filter-forward {{\n type filter hook forward priority -110;\n\
         ct state invalid drop\n}}\n}}\n",
        vips.join(", "),
        ports.join(", "),
        kind = ["ipv4_addr", "ipv6_addr"][family],
    )
}

/// The tables of kube-proxy's IPVS mode: cluster addresses are the node's own, on a device nobody is
/// behind, and connections are translated where the node would take them in.
fn ipvs(lab: &Lab, node: Who, family: usize) -> Result<()> {
    let (ip, pods) = (["ip", "ip6"][family], PODS[family]);
    let bracketed = |address: IpAddr| match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    if family == 0 {
        lab.ip(node, "link add kube-ipvs0 type dummy")?;
        lab.sysctl(node, "net.ipv4.vs.conntrack=1")?;
    }
    let mut masquerade = String::new();
    let own = [node.address(family), super::land::gateway(node)[family]];
    for service in ALL {
        let vip = service.cluster_ip(family);
        lab.ip(node, &format!("addr add {vip} dev kube-ipvs0"))?;
        let mut at = vec![(vip, CLUSTER_PORT)];
        if !service.local || service.is_on(node) {
            at.extend(own.map(|address| (address, service.node_port())));
        }
        for (address, port) in at {
            for kind in ["-t", "-u"] {
                let virt = format!("{}:{port}", bracketed(address));
                let real = service.endpoint_at(family);
                lab.space(node).output(&format!("ipvsadm -A {kind} {virt} -s rr"))?;
                lab.space(node).output(&format!("ipvsadm -a {kind} {virt} -r {real} -m"))?;
            }
        }
        writeln!(masquerade, "{ip} daddr {vip} {ip} saddr != {pods} mark set mark or 0x4000")?;
        if !service.local {
            let port = service.node_port();
            writeln!(masquerade, "fib daddr type local th dport {port} mark set mark or 0x4000")?;
        }
    }
    lab.nft(
        node,
        &format!(
            "table {ip} kube-proxy {{\n\
             chain marks {{\n meta l4proto != {{ tcp, udp }} return\n{masquerade}}}\n\
             chain prerouting {{\n type nat hook prerouting priority dstnat; jump marks\n}}\n\
             chain output {{\n type nat hook output priority -100; jump marks\n}}\n\
             chain postrouting {{\n type nat hook postrouting priority srcnat;\n\
             mark & 0x4000 == 0 return\n mark set mark xor 0x4000\n masquerade fully-random\n}}\n}}\n"
        ),
    )
}
