//! The network configuration, as it comes on standard input.

use std::net::IpAddr;
use std::path::PathBuf;

use encap::MacAddr;
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use super::VERSIONS;
use super::call::{Call, Command};
use super::error::{Code, Error};
use crate::attach::{DEFAULT_SOCKET, HostPort, Key};
use crate::config::DEFAULT_STATE_DIR;

/// The configuration as it is typed. What is not known here is of others.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    cni_version: String,
    #[serde(default)]
    name: String,
    segment: Option<String>,
    #[serde(default)]
    ip_masq: bool,
    mtu: Option<u32>,
    socket: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    #[serde(default = "yes")]
    spoof_check: bool,
    #[serde(default)]
    ipam: RawIpam,
    prev_result: Option<Value>,
    dns: Option<Value>,
    #[serde(default)]
    runtime_config: RawRuntime,
    #[serde(default)]
    args: RawArgs,
    #[serde(default, rename = "cni.dev/valid-attachments")]
    valid: Option<Vec<RawValid>>,
    /// As the specification had it before it was released.
    #[serde(default, rename = "cni.dev/attachments")]
    valid_before: Option<Vec<RawValid>>,
}

const fn yes() -> bool {
    true
}

#[derive(Debug, Default, Deserialize)]
struct RawIpam {
    #[serde(default, rename = "type")]
    kind: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRuntime {
    #[serde(default)]
    port_mappings: Vec<HostPort>,
    #[serde(default)]
    ips: Vec<String>,
    mac: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct RawArgs {
    #[serde(default)]
    cni: RawRuntime,
}

#[derive(Debug, Deserialize)]
struct RawValid {
    #[serde(rename = "containerID")]
    container: String,
    ifname: String,
}

/// The configuration of a network, and what the runtime adds for one call.
#[derive(Clone, Debug, PartialEq)]
pub struct Conf {
    /// Which version of the specification the caller speaks.
    pub version: &'static str,
    /// The network's name.
    pub name: String,
    /// The segment; `None`: the cluster's.
    pub segment: Option<String>,
    /// Whether what leaves the cluster gets the node's address.
    pub masquerade: bool,
    /// The MTU; `None`: what fits.
    pub mtu: Option<u32>,
    /// The daemon's socket.
    pub socket: PathBuf,
    /// The daemon's state directory, in which tombstones are left.
    pub state_dir: PathBuf,
    /// Whether the container may send from other addresses than its own.
    pub spoof: bool,
    /// The plugin that gives addresses; `None`: the daemon.
    pub ipam: Option<String>,
    /// What the plugins before this one, or this one earlier, have done.
    pub prev_result: Option<Value>,
    /// Name servers, to be passed on.
    pub dns: Option<Value>,
    /// The ports of the node that lead to the container.
    pub host_ports: Vec<HostPort>,
    /// The addresses that the container is to have.
    pub ips: Vec<IpAddr>,
    /// The MAC address that it is to have.
    pub mac: Option<MacAddr>,
    /// The attachments that are valid, of a GC.
    pub valid: Option<Vec<(String, String)>>,
    /// All of it, as it came: for other plugins.
    pub text: Vec<u8>,
}

impl Conf {
    /// Reads a configuration for a call.
    ///
    /// # Errors
    ///
    /// [`Code::Decode`] when it is no configuration, [`Code::Version`] when its version is not
    /// spoken or has no such command, [`Code::Config`] when something in it is wrong.
    pub fn parse(text: &[u8], call: &Call) -> Result<Self, Error> {
        let undecodable =
            |error| Error::new(Code::Decode, format!("network configuration: {error}"));
        let raw: Raw = serde_json::from_slice(text).map_err(undecodable)?;
        let version = version(&raw.cni_version, call.command)?;
        let wrong = |message: String| Error::new(Code::Config, message);
        let key =
            Key { network: raw.name.clone(), container: "a".to_owned(), ifname: "a".to_owned() };
        key.check().map_err(|error| wrong(format!("name: {error}")))?;
        let kind = raw.ipam.kind;
        if kind.contains('/') || kind.contains('\0') || kind == ".." || kind == "." {
            return Err(wrong(format!("ipam.type: {kind:?} is no name of a plugin")));
        }
        for (key, path) in [("socket", &raw.socket), ("stateDir", &raw.state_dir)] {
            if path.as_ref().is_some_and(|path| !path.is_absolute()) {
                return Err(wrong(format!("{key}: not an absolute path")));
            }
        }
        let host_ports = raw.runtime_config.port_mappings;
        if host_ports.iter().any(|port| port.host_port == 0 || port.container_port == 0) {
            return Err(wrong("runtimeConfig.portMappings: there is no port 0".to_owned()));
        }
        let pairs = |valid: Vec<RawValid>| {
            valid.into_iter().map(|one| (one.container, one.ifname)).collect()
        };
        let mac = [raw.runtime_config.mac.as_deref(), raw.args.cni.mac.as_deref(), call.arg("MAC")];
        Ok(Self {
            version,
            name: raw.name,
            segment: raw.segment,
            masquerade: raw.ip_masq,
            mtu: raw.mtu.filter(|mtu| *mtu != 0),
            socket: raw.socket.unwrap_or_else(|| DEFAULT_SOCKET.into()),
            state_dir: raw.state_dir.unwrap_or_else(|| DEFAULT_STATE_DIR.into()),
            spoof: !raw.spoof_check,
            ipam: (!kind.is_empty()).then_some(kind),
            prev_result: raw.prev_result.filter(|result| !result.is_null()),
            dns: raw.dns,
            host_ports,
            ips: ips(&raw.runtime_config.ips, &raw.args.cni.ips, call.arg("IP"))?,
            mac: mac
                .into_iter()
                .flatten()
                .find(|text| !text.is_empty())
                .map(station)
                .transpose()?,
            valid: raw.valid.or(raw.valid_before).map(pairs),
            text: text.to_vec(),
        })
    }

    /// What the attachment of this call is known by.
    #[must_use]
    pub fn key(&self, call: &Call) -> Key {
        Key {
            network: self.name.clone(),
            container: call.container.clone(),
            ifname: call.ifname.clone(),
        }
    }
}

fn version(text: &str, command: Command) -> Result<&'static str, Error> {
    let found = VERSIONS.into_iter().find(|version| *version == text);
    let refuse = |message| Err(Error::new(Code::Version, message));
    let Some(version) = found else {
        let spoken = VERSIONS.join(", ");
        let text: String = text.chars().take(32).collect();
        return refuse(format!("incompatible CNI version {text:?}; there are {spoken}"));
    };
    let since = match command {
        Command::Check => "0.4.0",
        Command::Gc | Command::Status => "1.1.0",
        Command::Add | Command::Del | Command::Version => "0.3.0",
    };
    // They sort as texts.
    if version < since {
        return refuse(format!("CNI {version} has no {}, which is of {since}", command.text()));
    }
    Ok(version)
}

/// The wanted addresses, from whoever names some first.
fn ips(runtime: &[String], args: &[String], arg: Option<&str>) -> Result<Vec<IpAddr>, Error> {
    let texts: Vec<&str> = match (runtime, args, arg) {
        ([], [], None) => Vec::new(),
        ([], [], Some(arg)) => arg.split(',').filter(|text| !text.is_empty()).collect(),
        ([], args, _) => args.iter().map(String::as_str).collect(),
        (runtime, ..) => runtime.iter().map(String::as_str).collect(),
    };
    let read = |text: &str| {
        let net = text.parse::<IpNet>().map(|net| net.addr());
        net.or_else(|_| text.parse::<IpAddr>()).map_err(|_| {
            let text: String = text.chars().take(64).collect();
            Error::new(Code::Config, format!("ips: {text:?} is no IP address"))
        })
    };
    texts.into_iter().map(read).collect()
}

fn station(text: &str) -> Result<MacAddr, Error> {
    let short: String = text.chars().take(64).collect();
    let wrong = |what| Error::new(Code::Config, format!("mac: {short:?} is {what}"));
    let mac: MacAddr = text.parse().map_err(|_| wrong("no MAC address"))?;
    mac.station().map(|_| mac).ok_or_else(|| wrong("no address of a station"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(command: Command, args: &[(&str, &str)]) -> Call {
        Call {
            command,
            container: "c1".to_owned(),
            netns: None,
            ifname: "eth0".to_owned(),
            args: args.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            path: Vec::new(),
        }
    }

    fn parse(text: &str) -> Result<Conf, Error> {
        Conf::parse(text.as_bytes(), &call(Command::Add, &[]))
    }

    #[test]
    fn what_is_absent_has_its_default() {
        let conf = parse(r#"{"cniVersion":"1.1.0","name":"pods","type":"tapestry-cni"}"#).unwrap();
        assert_eq!((conf.version, conf.name.as_str()), ("1.1.0", "pods"));
        assert_eq!((conf.ipam, conf.mtu, conf.segment), (None, None, None));
        assert_eq!(conf.socket.to_str(), Some("/run/tapestry/attach.sock"));
        assert!(!conf.spoof && !conf.masquerade && conf.ips.is_empty());
    }

    #[test]
    fn the_runtime_is_heard_before_arguments() {
        let text = r#"{"cniVersion":"0.4.0","name":"pods","spoofCheck":false,"mtu":1400,
            "args":{"cni":{"ips":["10.0.0.8"]}},"ipam":{"type":"host-local"},
            "runtimeConfig":{"ips":["10.0.0.7/24","fd00::7"],"mac":"02:00:00:00:00:07",
            "portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}}"#;
        let args = call(Command::Add, &[("IP", "10.0.0.9"), ("MAC", "02:00:00:00:00:09")]);
        let conf = Conf::parse(text.as_bytes(), &args).unwrap();
        assert_eq!(conf.ips, [IpAddr::from([10, 0, 0, 7]), "fd00::7".parse().unwrap()]);
        assert_eq!(conf.mac.unwrap().to_string(), "02:00:00:00:00:07");
        assert!(conf.spoof && conf.host_ports.len() == 1);
        assert_eq!(conf.ipam.as_deref(), Some("host-local"));
        let text = r#"{"cniVersion":"0.4.0","name":"pods"}"#;
        assert_eq!(Conf::parse(text.as_bytes(), &args).unwrap().ips, [IpAddr::from([10, 0, 0, 9])]);
    }

    #[test]
    fn mistakes_have_their_codes() {
        for (text, code, word) in [
            ("", Code::Decode, "EOF"),
            ("[]", Code::Decode, "invalid length"),
            (r#"{"name":"a"}"#, Code::Version, "incompatible"),
            (r#"{"cniVersion":"2.0.0","name":"a"}"#, Code::Version, "2.0.0"),
            (r#"{"cniVersion":"1.1.0"}"#, Code::Config, "name"),
            (r#"{"cniVersion":"1.1.0","name":"../a"}"#, Code::Config, "name"),
            (r#"{"cniVersion":"1.1.0","name":"a","ipam":{"type":"../sh"}}"#, Code::Config, "ipam"),
            (r#"{"cniVersion":"1.1.0","name":"a","socket":"here"}"#, Code::Config, "socket"),
            (r#"{"cniVersion":"1.1.0","name":"a","mtu":-1}"#, Code::Decode, "invalid value"),
            (
                r#"{"cniVersion":"1.1.0","name":"a","runtimeConfig":{"ips":["x"]}}"#,
                Code::Config,
                "ips",
            ),
            (
                r#"{"cniVersion":"1.1.0","name":"a","runtimeConfig":{"mac":"01:00:5e:00:00:01"}}"#,
                Code::Config,
                "mac",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.code, code, "{text}: {error}");
            assert!(error.message.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn a_command_is_only_of_the_versions_that_have_it() {
        let parse = |command, version: &str| {
            let text = format!(r#"{{"cniVersion":"{version}","name":"a"}}"#);
            Conf::parse(text.as_bytes(), &call(command, &[])).map_err(|error| error.code)
        };
        assert_eq!(parse(Command::Check, "0.3.1"), Err(Code::Version));
        assert!(parse(Command::Check, "0.4.0").is_ok());
        for command in [Command::Gc, Command::Status] {
            assert_eq!(parse(command, "1.0.0"), Err(Code::Version));
            assert!(parse(command, "1.1.0").is_ok());
        }
    }
}
