//! The paths through the product: a daemon on each node, pods attached by the plugin.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lab::cluster::{call_plugin, conf};
use lab::daemon::{Daemon, Program};
use lab::tool::eventually;
use serde_json::{Value, json};

use super::land::{Lab, Laid, Plumbing, Way, Who};
use super::matrix::{mapped, paths, services};
use super::services::Style;

/// See above.
struct Product;

/// How long rules may take that follow from an attachment.
const PATIENCE: Duration = Duration::from_secs(5);

/// The daemons of nodes a and b.
struct Daemons([Daemon; 2]);

impl Plumbing for Product {
    fn lay(&self, lab: &Lab) -> Result<Box<dyn Laid>> {
        let daemons = Daemons([start(lab, Who::A)?, start(lab, Who::B)?]);
        let [a, b] = &daemons.0;
        for (pod, node, daemon) in
            [(Who::P1, Who::A, a), (Who::P2, Who::A, a), (Who::Q1, Who::B, b)]
        {
            attach(lab, pod, node, daemon)?;
        }
        // Rules are put in place beside what a daemon's being ready and the plugin wait for.
        for (node, mappings) in [(Who::A, &lab.mappings[..]), (Who::B, &[])] {
            eventually(PATIENCE, "the rules have every mapped port", || {
                let rules = lab.space(node).output("nft list table inet tapestry");
                let has = |rules: String| {
                    mappings
                        .iter()
                        .all(|one| rules.contains(&format!(". {} : {}", one.port, one.to.ip())))
                };
                Ok(rules.is_ok_and(has))
            })?;
        }
        Ok(Box::new(daemons))
    }
}

impl Laid for Daemons {
    fn check(&mut self) -> Result<()> {
        self.0.iter_mut().try_for_each(Daemon::assert_sound)
    }
}

fn start(lab: &Lab, node: Who) -> Result<Daemon> {
    let program = Program::new(env!("CARGO_BIN_EXE_tapestry"));
    let mut daemon = Daemon::prepare(&program, lab.space(node))?;
    let cluster = lab.config(node, &format!("attach = \"{}\"", daemon.beside("attach.sock")));
    let own = format!(
        "[control]\nsocket = \"{}\"\n[state]\ndir = \"{}\"\n",
        daemon.socket(),
        daemon.beside("state")
    );
    daemon.write_config(&format!("{own}{cluster}"))?;
    daemon.launch()?;
    Ok(daemon)
}

/// Attaches a pod with the addresses that it has in the tables, and its part of the mapped ports.
fn attach(lab: &Lab, pod: Who, node: Who, daemon: &Daemon) -> Result<()> {
    let keys = json!({
        "runtimeConfig": { "ips": [pod.address(0).to_string()], "portMappings": ports(lab, pod) },
    });
    let plugin = Path::new(env!("CARGO_BIN_EXE_tapestry-cni"));
    let (node, space) = (lab.space(node), lab.space(pod));
    let result = call_plugin(plugin, node, &conf(daemon, &keys), "ADD", pod.name(), space)?;
    let ips = result["ips"].as_array().context("no addresses")?;
    for address in pod.addresses() {
        let is_it = |ip: &Value| {
            let text = ip["address"].as_str().unwrap_or_default();
            text.split('/').next() == Some(&address.to_string())
        };
        ensure!(ips.iter().any(is_it), "{}: no {address} in {result}", pod.name());
    }
    Ok(())
}

/// What leads to a pod, as a runtime would say it. A port of every address is said once, and leads to
/// the pod's address of either family.
fn ports(lab: &Lab, pod: Who) -> Vec<Value> {
    let own = lab.mappings.iter().filter(|one| pod.addresses().contains(&one.to.ip()));
    let said = own.filter(|one| one.host.is_some() || one.to.is_ipv4());
    said.map(|one| {
        let mut port = json!({
            "hostPort": one.port,
            "containerPort": one.to.port(),
            "protocol": one.protocol.name(),
        });
        if let Some(host) = one.host {
            port["hostIP"] = json!(host);
        }
        port
    })
    .collect()
}

pub(crate) fn pods_and_nodes_through_the_tunnel() -> Result<()> {
    paths(&Product, Way::Tunnel)
}

pub(crate) fn pods_and_nodes_by_direct_routing() -> Result<()> {
    paths(&Product, Way::Direct)
}

pub(crate) fn pods_and_nodes_without_a_tunnel() -> Result<()> {
    paths(&Product, Way::Route)
}

pub(crate) fn services_by_nft_through_the_tunnel() -> Result<()> {
    services(&Product, Way::Tunnel, Style::Nft)
}

pub(crate) fn services_by_nft_without_a_tunnel() -> Result<()> {
    services(&Product, Way::Route, Style::Nft)
}

pub(crate) fn services_by_nft_by_direct_routing() -> Result<()> {
    services(&Product, Way::Direct, Style::Nft)
}

pub(crate) fn services_by_iptables_through_the_tunnel() -> Result<()> {
    services(&Product, Way::Tunnel, Style::Iptables)
}

pub(crate) fn mapped_ports() -> Result<()> {
    mapped(&Product, Way::Tunnel)
}

pub(crate) fn mapped_ports_by_direct_routing() -> Result<()> {
    mapped(&Product, Way::Direct)
}
