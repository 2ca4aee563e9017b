//! Results of plugins, in the versions' shapes.

use std::net::IpAddr;
use std::path::Path;

use encap::MacAddr;
use ipnet::IpNet;
use serde_json::{Value, json};

use super::error::{Code, Error};

/// What is told of an attachment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Report<'a> {
    pub(super) ifname: &'a str,
    pub(super) netns: &'a Path,
    pub(super) mac: MacAddr,
    pub(super) mtu: u32,
    /// With the gateway, where there is one.
    pub(super) addresses: Vec<(IpNet, Option<IpAddr>)>,
    pub(super) routes: Vec<(IpNet, Option<IpAddr>)>,
    pub(super) dns: Option<Value>,
}

impl Report<'_> {
    /// The result, added to what the plugins before have done.
    pub(super) fn json(&self, version: &str, before: Option<&Value>) -> Value {
        let list = |key: &str| -> Vec<Value> {
            let found = before.and_then(|before| before.get(key)).and_then(Value::as_array);
            found.cloned().unwrap_or_default()
        };
        let mut interfaces = list("interfaces");
        let at = interfaces.len();
        let sandbox = self.netns.display().to_string();
        let mut own = json!({
            "name": self.ifname, "mac": self.mac.to_string(), "sandbox": sandbox,
        });
        if version >= "1.1.0" {
            own["mtu"] = self.mtu.into();
        }
        interfaces.push(own);
        let mut ips = list("ips");
        for (address, gateway) in &self.addresses {
            let mut ip = json!({ "interface": at, "address": address.to_string() });
            if let Some(gateway) = gateway {
                ip["gateway"] = gateway.to_string().into();
            }
            if version < "1.0.0" {
                ip["version"] = if address.addr().is_ipv4() { "4" } else { "6" }.into();
            }
            ips.push(ip);
        }
        let mut routes = list("routes");
        for (to, via) in &self.routes {
            let mut route = json!({ "dst": to.to_string() });
            if let Some(via) = via {
                route["gw"] = via.to_string().into();
            }
            routes.push(route);
        }
        let dns = before.and_then(|before| before.get("dns")).or(self.dns.as_ref());
        json!({
            "cniVersion": version,
            "interfaces": interfaces,
            "ips": ips,
            "routes": routes,
            "dns": dns.cloned().unwrap_or_else(|| json!({})),
        })
    }
}

/// What another plugin gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Given {
    pub(super) addresses: Vec<(IpNet, Option<IpAddr>)>,
    /// Each with its next hop: its own or the address's of its family.
    pub(super) routes: Vec<(IpNet, Option<IpAddr>)>,
    pub(super) dns: Option<Value>,
}

impl Given {
    /// Reads a result.
    pub(super) fn read(result: &Value) -> Result<Self, Error> {
        let list = |key: &str| result.get(key).and_then(Value::as_array).into_iter().flatten();
        let mut given = Self { dns: result.get("dns").cloned(), ..Self::default() };
        for ip in list("ips") {
            let address = field(ip, "address")?.ok_or_else(|| wrong("ips", "no address"))?;
            given.addresses.push((address, field(ip, "gateway")?));
        }
        for route in list("routes") {
            let to: IpNet = field(route, "dst")?.ok_or_else(|| wrong("routes", "no dst"))?;
            let same =
                |(net, _): &&(IpNet, Option<IpAddr>)| net.addr().is_ipv4() == to.addr().is_ipv4();
            let gateway = given.addresses.iter().find(same).and_then(|(_, gateway)| *gateway);
            given.routes.push((to, field(route, "gw")?.or(gateway)));
        }
        Ok(given)
    }
}

/// What a result says of one interface in one namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Said {
    pub(super) mac: Option<MacAddr>,
    pub(super) mtu: Option<u32>,
    pub(super) addresses: Vec<IpNet>,
    pub(super) routes: Vec<(IpNet, Option<IpAddr>)>,
}

impl Said {
    /// What a result says of the container's interface of this name.
    pub(super) fn read(result: &Value, ifname: &str) -> Result<Self, Error> {
        let list = |key: &str| result.get(key).and_then(Value::as_array).into_iter().flatten();
        let inside = |interface: &Value| {
            let text = |key: &str| interface.get(key).and_then(Value::as_str).unwrap_or_default();
            text("name") == ifname && !text("sandbox").is_empty()
        };
        let Some((at, own)) = list("interfaces").enumerate().find(|(_, one)| inside(one)) else {
            let message = format!("prevResult: it has no interface {ifname:?} in a sandbox");
            return Err(Error::new(Code::Config, message));
        };
        let mut said = Self { mac: field(own, "mac")?, ..Self::default() };
        let mtu = own.get("mtu").and_then(Value::as_u64).filter(|mtu| *mtu != 0);
        said.mtu = mtu.map(|mtu| u32::try_from(mtu).unwrap_or(u32::MAX));
        for ip in list("ips") {
            if ip.get("interface").and_then(Value::as_u64) == u64::try_from(at).ok() {
                said.addresses.extend(field::<IpNet>(ip, "address")?);
            }
        }
        for route in list("routes") {
            let to: Option<IpNet> = field(route, "dst")?;
            let via = field(route, "gw")?;
            said.routes.extend(to.map(|to| (to, via)));
        }
        Ok(said)
    }
}

fn wrong(key: &str, what: &str) -> Error {
    Error::new(Code::Decode, format!("a result's {key}: {what}"))
}

fn field<T: std::str::FromStr>(object: &Value, key: &str) -> Result<Option<T>, Error> {
    let text = object.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    text.map(|text| {
        text.parse().map_err(|_| {
            let text: String = text.chars().take(64).collect();
            wrong(key, &format!("{text:?} makes no sense"))
        })
    })
    .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report<'static> {
        let via = Some([169, 254, 1, 1].into());
        Report {
            ifname: "eth0",
            netns: Path::new("/run/netns/a"),
            mac: MacAddr([10, 0x7a, 10, 244, 1, 2]),
            mtu: 1450,
            addresses: vec![("10.244.1.2/32".parse().unwrap(), via)],
            routes: vec![("0.0.0.0/0".parse().unwrap(), via)],
            dns: None,
        }
    }

    #[test]
    fn each_version_has_its_shape() {
        let new = report().json("1.1.0", None);
        assert_eq!(new["interfaces"][0]["mtu"], 1450);
        assert_eq!(new["ips"][0].get("version"), None);
        assert_eq!(new["ips"][0]["gateway"], "169.254.1.1");
        assert_eq!(new["routes"][0], json!({ "dst": "0.0.0.0/0", "gw": "169.254.1.1" }));
        let old = report().json("0.4.0", None);
        assert_eq!((&old["ips"][0]["version"], &old["cniVersion"]), (&"4".into(), &"0.4.0".into()));
        assert_eq!(old["interfaces"][0].get("mtu"), None);
        assert_eq!(report().json("1.0.0", None)["interfaces"][0].get("mtu"), None);
    }

    #[test]
    fn what_was_there_before_stays_and_is_read_back_apart() {
        let before = json!({
            "interfaces": [{ "name": "eth0", "sandbox": "" }, { "name": "lo", "sandbox": "/a" }],
            "ips": [{ "interface": 1, "address": "127.0.0.1/8" }],
            "dns": { "nameservers": ["10.96.0.10"] },
        });
        let result = report().json("1.1.0", Some(&before));
        assert_eq!(result["interfaces"].as_array().unwrap().len(), 3);
        assert_eq!(result["ips"][1]["interface"], 2);
        assert_eq!(result["dns"]["nameservers"][0], "10.96.0.10");
        let said = Said::read(&result, "eth0").unwrap();
        assert_eq!(said.addresses, ["10.244.1.2/32".parse().unwrap()]);
        assert_eq!((said.mtu, said.mac), (Some(1450), Some(report().mac)));
        assert_eq!(Said::read(&result, "eth1").unwrap_err().code, Code::Config);
    }

    #[test]
    fn a_route_without_a_next_hop_has_the_addresss() {
        let given = Given::read(&json!({
            "ips": [{ "address": "10.1.0.5/16", "gateway": "10.1.0.1" }],
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }, { "dst": "10.9.0.0/16", "gw": "10.1.0.9" }],
        }));
        let vias: Vec<_> = given.unwrap().routes.into_iter().map(|(_, via)| via).collect();
        assert_eq!(vias, [Some([10, 1, 0, 1].into()), None, Some([10, 1, 0, 9].into())]);
        assert!(Given::read(&json!({ "ips": [{ "address": "x" }] })).is_err());
        assert!(Given::read(&json!({ "ips": [{}] })).is_err());
    }
}
