//! The network configuration, as it comes on standard input.

use std::net::IpAddr;
use std::path::PathBuf;

use encap::MacAddr;
use ipnet::IpNet;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::VERSIONS;
use super::call::{Call, Command};
use super::error::{Code, Error};
use crate::attach::{DEFAULT_SOCKET, HostPort, Key, Protocol};
use crate::config::DEFAULT_STATE_DIR;

/// What every command needs of the configuration as it is typed: who is to be undone must not fail by
/// what is of no use for that. What is not known here is of others.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    cni_version: String,
    #[serde(default)]
    name: String,
    socket: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    #[serde(default)]
    ipam: RawIpam,
    prev_result: Option<Value>,
    #[serde(default, rename = "cni.dev/valid-attachments")]
    valid: Value,
    /// As the specification had it before it was released.
    #[serde(default, rename = "cni.dev/attachments")]
    valid_before: Value,
}

#[derive(Debug, Default, Deserialize)]
struct RawIpam {
    #[serde(default, rename = "type")]
    kind: String,
}

#[derive(Debug, Deserialize)]
struct RawValid {
    #[serde(rename = "containerID")]
    container: String,
    ifname: String,
}

/// Where an attachment is to be: of use for ADD and STATUS.
#[derive(Debug, Default, Deserialize)]
struct RawPlace {
    segment: Option<String>,
}

/// What an attachment is to be like: of use for ADD only.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawWish {
    #[serde(default)]
    ip_masq: bool,
    mtu: Option<u32>,
    #[serde(default = "yes")]
    spoof_check: bool,
    dns: Option<Value>,
    #[serde(default)]
    runtime_config: RawRuntime,
    #[serde(default)]
    args: RawArgs,
}

const fn yes() -> bool {
    true
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRuntime {
    #[serde(default)]
    port_mappings: Option<Vec<Value>>,
    #[serde(default)]
    ips: Vec<String>,
    mac: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct RawArgs {
    #[serde(default)]
    cni: RawRuntime,
}

/// What an attachment is to be like.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wish {
    /// Whether what leaves the cluster gets the node's address.
    pub masquerade: bool,
    /// The MTU; `None`: what fits.
    pub mtu: Option<u32>,
    /// Whether the container may send from other addresses than its own.
    pub spoof: bool,
    /// Name servers, to be passed on.
    pub dns: Option<Value>,
    /// The ports of the node that lead to the container.
    pub host_ports: Vec<HostPort>,
    /// The addresses that the container is to have.
    pub ips: Vec<IpAddr>,
    /// The MAC address that it is to have.
    pub mac: Option<MacAddr>,
}

/// The configuration of a network, and what the runtime adds for one call. What a command does not
/// need is neither read nor checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Conf {
    /// Which version of the specification the caller speaks.
    pub version: &'static str,
    /// The network's name.
    pub name: String,
    /// The segment; `None`: the cluster's. For ADD and STATUS.
    pub segment: Option<String>,
    /// What the attachment is to be like. For ADD.
    pub wish: Wish,
    /// The daemon's socket.
    pub socket: PathBuf,
    /// The daemon's state directory, in which tombstones are left.
    pub state_dir: PathBuf,
    /// The plugin that gives addresses; `None`: the daemon.
    pub ipam: Option<String>,
    /// What the plugins before this one, or this one earlier, have done.
    pub prev_result: Option<Value>,
    /// The attachments that are valid. For GC.
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
    /// spoken or has no such command, [`Code::Config`] when something in it is wrong,
    /// [`Code::Unsupported`] when it is right and there is no such thing here.
    pub fn parse(text: &[u8], call: &Call) -> Result<Self, Error> {
        let command = call.command;
        let raw: Raw = decode(text)?;
        let version = version(&raw.cni_version, command)?;
        Key::check_network(&raw.name).map_err(|error| wrong(format!("name: {error}")))?;
        let kind = raw.ipam.kind;
        if kind.contains('/') || kind.contains('\0') || kind == ".." || kind == "." {
            return Err(wrong(format!("ipam.type: {kind:?} is no name of a plugin")));
        }
        for (key, path) in [("socket", &raw.socket), ("stateDir", &raw.state_dir)] {
            if path.as_ref().is_some_and(|path| !path.is_absolute()) {
                return Err(wrong(format!("{key}: not an absolute path")));
            }
        }
        let place = match command {
            Command::Add | Command::Status => decode(text)?,
            _ => RawPlace::default(),
        };
        Ok(Self {
            version,
            name: raw.name,
            segment: place.segment,
            wish: if command == Command::Add {
                wish(decode(text)?, call)?
            } else {
                Wish::default()
            },
            socket: raw.socket.unwrap_or_else(|| DEFAULT_SOCKET.into()),
            state_dir: raw.state_dir.unwrap_or_else(|| DEFAULT_STATE_DIR.into()),
            ipam: (!kind.is_empty()).then_some(kind),
            prev_result: raw.prev_result.filter(|result| !result.is_null()),
            valid: match command {
                Command::Gc => valid([raw.valid, raw.valid_before])?,
                _ => None,
            },
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

fn wrong(message: String) -> Error {
    Error::new(Code::Config, message)
}

fn decode<T: DeserializeOwned>(text: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(text)
        .map_err(|error| Error::new(Code::Decode, format!("network configuration: {error}")))
}

/// The attachments that are valid, under whichever name they come; `None`: under none.
fn valid(lists: [Value; 2]) -> Result<Option<Vec<(String, String)>>, Error> {
    let Some(list) = lists.into_iter().find(|list| !list.is_null()) else { return Ok(None) };
    let list: Vec<RawValid> = serde_json::from_value(list)
        .map_err(|error| Error::new(Code::Decode, format!("cni.dev/valid-attachments: {error}")))?;
    Ok(Some(list.into_iter().map(|one| (one.container, one.ifname)).collect()))
}

/// What the configuration, the runtime and the arguments wish.
fn wish(raw: RawWish, call: &Call) -> Result<Wish, Error> {
    let RawWish { runtime_config: runtime, args: RawArgs { cni: args }, .. } = raw;
    let mac = [runtime.mac.as_deref(), args.mac.as_deref(), call.arg("MAC")];
    let mac = mac.into_iter().flatten().find(|text| !text.is_empty());
    let host_ports = runtime.port_mappings.unwrap_or_default().into_iter().enumerate();
    Ok(Wish {
        masquerade: raw.ip_masq,
        mtu: raw.mtu.filter(|mtu| *mtu != 0),
        spoof: !raw.spoof_check,
        dns: raw.dns,
        host_ports: host_ports.map(|(at, one)| host_port(at, one)).collect::<Result<_, _>>()?,
        ips: ips(&runtime.ips, &args.ips, call.arg("IP"))?,
        mac: mac.map(station).transpose()?,
    })
}

fn host_port(at: usize, value: Value) -> Result<HostPort, Error> {
    let key = format!("runtimeConfig.portMappings[{at}]");
    let protocol = ["protocol", "Protocol"].into_iter().find_map(|key| value.get(key)?.as_str());
    if let Some(Err(error)) = protocol.map(str::parse::<Protocol>) {
        return Err(Error::new(Code::Unsupported, format!("{key}: {error}")));
    }
    let port: HostPort =
        serde_json::from_value(value).map_err(|error| wrong(format!("{key}: {error}")))?;
    if port.host_port == 0 || port.container_port == 0 {
        return Err(wrong(format!("{key}: there is no port 0")));
    }
    Ok(port)
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
        assert_eq!((conf.ipam, conf.segment, conf.wish), (None, None, Wish::default()));
        assert_eq!(conf.socket.to_str(), Some("/run/tapestry/attach.sock"));
    }

    #[test]
    fn the_runtime_is_heard_before_arguments() {
        let text = r#"{"cniVersion":"0.4.0","name":"pods","spoofCheck":false,"mtu":1400,
            "args":{"cni":{"ips":["10.0.0.8"]}},"ipam":{"type":"host-local"},
            "runtimeConfig":{"ips":["10.0.0.7/24","fd00::7"],"mac":"02:00:00:00:00:07",
            "portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}}"#;
        let args = call(Command::Add, &[("IP", "10.0.0.9"), ("MAC", "02:00:00:00:00:09")]);
        let conf = Conf::parse(text.as_bytes(), &args).unwrap();
        assert_eq!(conf.wish.ips, [IpAddr::from([10, 0, 0, 7]), "fd00::7".parse().unwrap()]);
        assert_eq!(conf.wish.mac.unwrap().to_string(), "02:00:00:00:00:07");
        assert!(conf.wish.spoof && conf.wish.host_ports.len() == 1);
        assert_eq!(conf.ipam.as_deref(), Some("host-local"));
        let text = r#"{"cniVersion":"0.4.0","name":"pods"}"#;
        let conf = Conf::parse(text.as_bytes(), &args).unwrap();
        assert_eq!(conf.wish.ips, [IpAddr::from([10, 0, 0, 9])]);
    }

    #[test]
    fn host_ports_are_known_by_both_spellings_and_told_when_they_cannot_be() {
        let with = |mappings: &str| {
            parse(&format!(
                r#"{{"cniVersion":"1.0.0","name":"a","runtimeConfig":{{"portMappings":{mappings}}}}}"#
            ))
        };
        let containerd = r#"[{"HostPort":8080,"ContainerPort":80,"Protocol":"tcp","HostIP":""}]"#;
        let crio = r#"[{"hostPort":8080,"containerPort":80,"protocol":"TCP","hostIP":""}]"#;
        let [one, other] = [containerd, crio].map(|text| with(text).unwrap().wish.host_ports);
        assert_eq!((one.len(), one[0].host_port, one[0].host_ip), (1, 8080, None));
        assert_eq!(one, other);
        assert_eq!(with("null").unwrap().wish.host_ports, []);
        for (mapping, code, word) in [
            (r#"{"HostPort":1,"ContainerPort":1,"Protocol":"icmp"}"#, Code::Unsupported, "icmp"),
            (r#"{"hostPort":0,"containerPort":1}"#, Code::Config, "portMappings[0]: there is no"),
            (r#"{"hostPort":1,"containerPort":1,"hostIP":"here"}"#, Code::Config, "here"),
            ("7", Code::Config, "portMappings[0]"),
        ] {
            let error = with(&format!("[{mapping}]")).unwrap_err();
            assert_eq!(error.code, code, "{mapping}: {error}");
            assert!(error.message.contains(word), "{mapping}: {error}");
        }
    }

    #[test]
    fn who_undoes_is_not_kept_from_it_by_what_is_of_no_use_for_that() {
        let common = r#""cniVersion":"1.1.0","name":"a","cni.dev/valid-attachments":[]"#;
        for odd in [
            r#""mtu":-1"#,
            r#""segment":7"#,
            r#""ipMasq":"yes""#,
            r#""spoofCheck":[]"#,
            r#""args":7"#,
            r#""runtimeConfig":{"portMappings":[{"hostPort":0}],"ips":["x"],"mac":"y"}"#,
        ] {
            let text = format!("{{{common},{odd}}}");
            for command in [Command::Del, Command::Gc, Command::Check] {
                let parsed = Conf::parse(text.as_bytes(), &call(command, &[("IP", "x")]));
                assert!(parsed.is_ok(), "{command:?} {odd}: {parsed:?}");
            }
            assert!(parse(&text).is_err(), "{odd}");
        }
        // And what only a GC needs does not keep a DEL from it.
        let odd = r#"{"cniVersion":"1.1.0","name":"a","cni.dev/valid-attachments":7}"#;
        let parse = |command| Conf::parse(odd.as_bytes(), &call(command, &[]));
        assert!(parse(Command::Del).is_ok());
        assert_eq!(parse(Command::Gc).unwrap_err().code, Code::Decode);
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
