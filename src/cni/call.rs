//! What the environment says: which command, for which container.

use std::ffi::OsString;
use std::path::PathBuf;

use super::error::{Code, Error};
use crate::attach::Key;
use crate::device::spec::is_valid_ifname;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Attach a container.
    Add,
    /// Detach it.
    Del,
    /// Is it attached as it was said to be?
    Check,
    /// Detach all but those that are valid.
    Gc,
    /// Could a container be attached?
    Status,
    /// Which versions are spoken?
    Version,
}

impl Command {
    /// As the environment has it.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

/// A call of the plugin. What a command does not need is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// `CNI_COMMAND`
    pub command: Command,
    /// `CNI_CONTAINERID`
    pub container: String,
    /// `CNI_NETNS`
    pub netns: Option<PathBuf>,
    /// `CNI_IFNAME`
    pub ifname: String,
    /// `CNI_ARGS` of an ADD: keys and values.
    pub args: Vec<(String, String)>,
    /// `CNI_PATH`: where other plugins are.
    pub path: Vec<PathBuf>,
}

impl Call {
    /// The call of this process.
    ///
    /// # Errors
    ///
    /// [`Code::Environment`] with everything that is missing or wrong.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_vars(|name| std::env::var_os(name))
    }

    /// The call that these variables make.
    ///
    /// # Errors
    ///
    /// As [`Self::from_env`].
    pub fn from_vars(var: impl Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        let text = |name: &str| -> Result<String, Error> {
            let wrong = |_| Error::new(Code::Environment, format!("{name} is not UTF-8"));
            var(name).unwrap_or_default().into_string().map_err(wrong)
        };
        let command = match text("CNI_COMMAND")?.as_str() {
            "ADD" => Command::Add,
            "DEL" => Command::Del,
            "CHECK" => Command::Check,
            "GC" => Command::Gc,
            "STATUS" => Command::Status,
            "VERSION" => Command::Version,
            "" => return Err(Error::new(Code::Environment, "CNI_COMMAND is missing")),
            other => {
                let message = format!("unknown CNI_COMMAND: {other:?}");
                return Err(Error::new(Code::Environment, message));
            }
        };
        let netns = text("CNI_NETNS")?;
        let call = Self {
            command,
            container: text("CNI_CONTAINERID")?,
            netns: (!netns.is_empty()).then(|| PathBuf::from(netns)),
            ifname: text("CNI_IFNAME")?,
            // Nobody else has wishes.
            args: if command == Command::Add { arguments(&text("CNI_ARGS")?)? } else { Vec::new() },
            path: std::env::split_paths(&var("CNI_PATH").unwrap_or_default()).collect(),
        };
        let problems = call.problems();
        if problems.is_empty() {
            return Ok(call);
        }
        Err(Error::new(Code::Environment, problems.join("; ")))
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let whole = matches!(self.command, Command::Add | Command::Check);
        if whole || self.command == Command::Del {
            if self.container.is_empty() {
                problems.push("CNI_CONTAINERID is missing".to_owned());
            } else if let Err(error) = Key::check_container(&self.container) {
                problems.push(format!("CNI_CONTAINERID: {error}"));
            }
            if self.ifname.is_empty() {
                problems.push("CNI_IFNAME is missing".to_owned());
            } else if !is_valid_ifname(&self.ifname) {
                let name: String = self.ifname.chars().take(64).collect();
                problems.push(format!("CNI_IFNAME {name:?} is no name of an interface"));
            }
        }
        match &self.netns {
            None if whole => problems.push("CNI_NETNS is missing".to_owned()),
            // Where none is needed libcni says "dummy".
            Some(path) if (whole || self.command == Command::Del) && !path.is_absolute() => {
                problems.push(format!("CNI_NETNS {path:?} is no absolute path"));
            }
            _ => {}
        }
        problems
    }

    /// The value of a key of `CNI_ARGS`.
    #[must_use]
    pub fn arg(&self, key: &str) -> Option<&str> {
        let mut found = self.args.iter().filter(|(other, _)| other == key);
        found.next().map(|(_, value)| value.as_str())
    }
}

/// `KEY=VALUE;KEY=VALUE`
fn arguments(text: &str) -> Result<Vec<(String, String)>, Error> {
    let pairs = text.split(';').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').ok_or_else(|| {
            let pair: String = pair.chars().take(64).collect();
            Error::new(Code::Environment, format!("CNI_ARGS: {pair:?} is not KEY=VALUE"))
        })?;
        Ok((key.to_owned(), value.to_owned()))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(vars: &[(&str, &str)]) -> Result<Call, Error> {
        Call::from_vars(|name| {
            vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into())
        })
    }

    const ADD: [(&str, &str); 6] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/a"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "IgnoreUnknown=1;IP=10.0.0.7;K8S_POD_NAME=a"),
        ("CNI_PATH", "/opt/cni/bin:/usr/lib/cni"),
    ];

    #[test]
    fn a_whole_call_is_read() {
        let call = call(&ADD).unwrap();
        assert_eq!((call.command, call.arg("IP")), (Command::Add, Some("10.0.0.7")));
        assert_eq!((call.arg("NOTHING"), call.path.len()), (None, 2));
    }

    #[test]
    fn each_variable_that_is_wrong_is_named() {
        let long = "a".repeat(257);
        for (name, values) in [
            ("CNI_COMMAND", &["", "add", "FLY"][..]),
            ("CNI_CONTAINERID", &["", "-a", "../a", "a/b", "a\nb", &long]),
            ("CNI_NETNS", &["", "relative"]),
            ("CNI_IFNAME", &["", "a/b", "..", "sixteen_bytes_16", "a b"]),
            ("CNI_ARGS", &["IP"]),
        ] {
            for value in values {
                let mut vars = ADD;
                for var in &mut vars {
                    if var.0 == name {
                        var.1 = value;
                    }
                }
                let error = call(&vars).unwrap_err();
                assert_eq!(error.code, Code::Environment);
                assert!(error.message.contains(name), "{name}={value:?}: {error}");
            }
        }
        let all = call(&[("CNI_COMMAND", "ADD")]).unwrap_err().message;
        assert!(["CONTAINERID", "NETNS", "IFNAME"].iter().all(|one| all.contains(one)), "{all}");
    }

    #[test]
    fn a_del_needs_no_namespace_and_others_no_container() {
        let del = [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c"), ("CNI_IFNAME", "eth0")];
        assert_eq!(call(&del).unwrap().netns, None);
        // What it does not need does not keep it from its work.
        let [command, container, ifname] = del;
        let odd = [command, container, ifname, ("CNI_ARGS", "nonsense")];
        assert_eq!(call(&odd).unwrap().args, []);
        for command in ["GC", "STATUS", "VERSION"] {
            assert!(call(&[("CNI_COMMAND", command)]).is_ok());
            let dummies = ["CNI_NETNS", "CNI_IFNAME", "CNI_PATH"].map(|name| (name, "dummy"));
            assert!(call(&[&[("CNI_COMMAND", command)], &dummies[..]].concat()).is_ok());
        }
    }
}
