//! What the helper does not do for anybody, whatever the kernel would let it do.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use nix::sys::stat::{SFlag, fstat, major, minor};

use super::rules;
use super::wire::{DEVICE_MAX, PATHS_MAX, ROUTES_MAX, Request};
use crate::device::spec::{NetnsRef, TapSpec, is_valid_ifname};

/// The longest ring of a device, in units: the kernel allocates it for each queue.
const RING_MAX: u32 = 16_384;

/// NAME_MAX and PATH_MAX (linux/limits.h), less the zero.
const NAME_MAX: usize = 255;
const PATH_LEN_MAX: usize = 4095;

/// /dev/net/tun (Documentation/admin-guide/devices.txt).
const TUN: (u64, u64) = (10, 200);

/// Whether a request of `size` bytes may be fulfilled: devices belong to `owner`, the uid that is served, and to
/// nobody else; namespaces have a name of `ip netns` or an absolute path; rules are for the one table.
pub(super) fn admit(
    request: &Request,
    size: usize,
    rights: &[OwnedFd],
    owner: u32,
) -> Result<(), String> {
    // What is looked for in a list is looked for in all of it: that is how long a verb may take.
    let long = matches!(
        request,
        Request::ReplaceRules { .. } | Request::AmendRules { .. } | Request::Routes { .. }
    );
    if size > DEVICE_MAX && !long {
        return Err(format!("{size} bytes, and {DEVICE_MAX} at most"));
    }
    if !rights.is_empty() && !matches!(request, Request::Adopt { .. }) {
        return Err("descriptors came with a request that takes none".to_owned());
    }
    let ours = |uid: u32| match uid == owner {
        true => Ok(()),
        false => Err(format!("a device of uid {uid}, while uid {owner} is served")),
    };
    match request {
        Request::Hello { .. } => Err("a greeting in the middle".to_owned()),
        Request::Make { spec } => admit_spec(spec).and_then(|()| ours(spec.owner)),
        Request::Reopen { spec, expect } => {
            admit_spec(spec)?;
            ours(spec.owner)?;
            ours(expect.owner)
        }
        Request::Configure { spec, ifindex: _, previous: _ } => {
            admit_spec(spec)?;
            ours(spec.owner)
        }
        Request::Remove { netns, ifname, expect } => {
            netns.as_ref().map_or(Ok(()), admit_netns)?;
            if !is_valid_ifname(ifname) {
                return Err("the name is no device name".to_owned());
            }
            ours(expect.owner)
        }
        Request::Adopt { expect, wish: _ } => {
            rights.iter().try_for_each(admit_queue)?;
            ours(expect.owner)
        }
        Request::Look { paths } if paths.len() > PATHS_MAX => Err("too many paths".to_owned()),
        Request::Look { paths } => paths.iter().try_for_each(|path| admit_path(path)),
        Request::Routes { routes } if routes.len() > ROUTES_MAX => {
            Err(format!("more than {ROUTES_MAX} routes"))
        }
        // To a share of a node; where everything goes is somebody else's business.
        Request::Routes { routes } if routes.iter().any(|one| one.route.to.prefix_len() == 0) => {
            Err("a default route".to_owned())
        }
        Request::ReplaceRules { body } => rules::admit(body),
        Request::AmendRules { changes } => rules::admit_changes(changes),
        // Whose device it is, the kernel says.
        Request::Tune { ifindex: _ } | Request::Routes { routes: _ } => Ok(()),
        Request::ReadRules | Request::RemoveRules | Request::Listen => Ok(()),
        Request::Firewalls { pods } if !is_valid_ifname(&pods.device) => {
            Err("the name is no device name".to_owned())
        }
        Request::Firewalls { .. } => Ok(()),
    }
}

fn admit_spec(spec: &TapSpec) -> Result<(), String> {
    spec.netns.as_ref().map_or(Ok(()), admit_netns)?;
    if spec.txqueuelen.is_some_and(|length| length > RING_MAX) {
        return Err(format!("a ring of more than {RING_MAX} units"));
    }
    // The rest is what making checks for itself.
    Ok(())
}

fn admit_netns(netns: &NetnsRef) -> Result<(), String> {
    let name = netns.0.as_str();
    if name.contains('/') {
        return admit_path(Path::new(name));
    }
    let fine = (1..=NAME_MAX).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(char::is_control);
    if fine { Ok(()) } else { Err("the namespace has no name that one can have".to_owned()) }
}

/// What is no namespace is refused when it is opened: that opens nothing else.
fn admit_path(path: &Path) -> Result<(), String> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if path.is_absolute() && bytes.len() <= PATH_LEN_MAX && !bytes.contains(&0) {
        Ok(())
    } else {
        Err("the path of a namespace is not absolute".to_owned())
    }
}

/// A number of a request to the kernel means something else for another kind of descriptor.
fn admit_queue(queue: &OwnedFd) -> Result<(), String> {
    let is_tun = fstat(queue.as_fd()).is_ok_and(|stat| {
        SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR
            && (major(stat.st_rdev), minor(stat.st_rdev)) == TUN
    });
    if is_tun { Ok(()) } else { Err("a descriptor is no queue of a TAP".to_owned()) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::PathBuf;

    use super::*;
    use crate::device::adopt::Expectation;
    use crate::device::netlink::Route;
    use crate::device::offload::OffloadWish;
    use crate::device::spec::Standing;
    use crate::gateway::firewall::PodNetwork;
    use crate::gateway::rules::SetChange;
    use crate::gateway::ways::Direct;

    const OWNER: u32 = 1000;

    fn spec() -> TapSpec {
        serde_json::from_value(serde_json::json!({
            "netns": "pod-a", "ifname": "eth0", "mac": "02:00:00:00:0a:01", "mtu": 1450, "queues": 1,
            "owner": OWNER, "addresses": ["10.9.0.1/24"], "routes": [], "neighbours": [], "txqueuelen": 1000,
            "persist": true, "offload": "auto",
        }))
        .unwrap()
    }

    fn expect(owner: u32) -> Expectation {
        let mac = "02:00:00:00:0a:01".parse().unwrap();
        Expectation { mac, owner, netns: None, ifindex: None }
    }

    fn way(to: &str) -> Direct {
        let via = Some([192, 0, 2, 2].into());
        Direct { link: 2, route: Route::new(to.parse().unwrap(), via) }
    }

    fn firewalls(device: &str) -> Request {
        let networks = vec!["10.42.0.0/16".parse().unwrap()];
        Request::Firewalls { pods: PodNetwork { device: device.to_owned(), networks } }
    }

    fn make(change: impl FnOnce(&mut TapSpec)) -> Request {
        let mut spec = spec();
        change(&mut spec);
        Request::Make { spec }
    }

    fn remove(netns: &str, ifname: &str, owner: u32) -> Request {
        let netns = Some(NetnsRef(netns.to_owned()));
        Request::Remove { netns, ifname: ifname.to_owned(), expect: expect(owner) }
    }

    fn amend(set: &str) -> Request {
        let change = SetChange {
            set: set.to_owned(),
            gone: vec!["192.0.2.1".to_owned()],
            new: vec!["192.0.2.2 . 4789".to_owned()],
        };
        Request::AmendRules { changes: vec![change] }
    }

    #[test]
    fn what_the_daemon_asks_for_is_done() {
        let path = || PathBuf::from("/proc/7/ns/net");
        for request in [
            make(|_| ()),
            make(|spec| spec.netns = None),
            make(|spec| spec.netns = Some(NetnsRef("/proc/7/ns/net".to_owned()))),
            Request::Reopen { spec: spec(), expect: expect(OWNER) },
            Request::Configure { spec: spec(), ifindex: 1, previous: Standing::default() },
            remove("pod-a", "eth0", OWNER),
            Request::Look { paths: vec![path(); PATHS_MAX] },
            Request::ReplaceRules { body: "chain a { }".to_owned() },
            amend("nodes4"),
            Request::ReadRules,
            Request::RemoveRules,
            Request::Listen,
            firewalls("tapestry0"),
            Request::Tune { ifindex: 7 },
            Request::Routes { routes: vec![way("10.42.1.0/24"); ROUTES_MAX] },
        ] {
            assert_eq!(admit(&request, DEVICE_MAX, &[], OWNER), Ok(()), "{request:?}");
        }
    }

    #[test]
    fn what_is_not_the_daemons_is_not_touched() {
        let other = |spec: &mut TapSpec| spec.owner = 0;
        let netns = |name: &str| {
            let name = name.to_owned();
            make(|spec| spec.netns = Some(NetnsRef(name)))
        };
        for request in [
            make(other),
            Request::Reopen { spec: spec(), expect: expect(0) },
            remove("pod-a", "eth0", 0),
            remove("pod-a", "e/h", OWNER),
            remove("", "eth0", OWNER),
            netns(".."),
            netns("a/b"),
            netns("../etc/passwd"),
            netns("a\0b"),
            netns("/a\0b"),
            netns(&"a".repeat(NAME_MAX + 1)),
            netns(&format!("/{}", "a".repeat(PATH_LEN_MAX))),
            make(|spec| spec.txqueuelen = Some(u32::MAX)),
            Request::Look { paths: vec![PathBuf::from("relative")] },
            Request::Look { paths: vec![PathBuf::from("/a"); PATHS_MAX + 1] },
            Request::ReplaceRules { body: "} table inet other {".to_owned() },
            amend("nodes4 }"),
            firewalls("tap; reboot"),
            Request::Routes { routes: vec![way("10.42.1.0/24"), way("0.0.0.0/0")] },
            Request::Routes { routes: vec![way("10.42.1.0/24"); ROUTES_MAX + 1] },
            Request::Hello {
                version: 1,
                netns: crate::device::netns::NetnsIdentity { dev: 1, ino: 1 },
            },
        ] {
            assert!(admit(&request, 100, &[], OWNER).is_err(), "{request:?}");
        }
        assert!(admit(&make(|_| ()), DEVICE_MAX + 1, &[], OWNER).is_err());
        let rules = Request::ReplaceRules { body: String::new() };
        assert_eq!(admit(&rules, DEVICE_MAX + 1, &[], OWNER), Ok(()));
    }

    #[test]
    fn descriptors_are_taken_with_one_verb_and_only_of_taps() {
        let null = || vec![OwnedFd::from(File::open("/dev/null").unwrap())];
        assert!(admit(&make(|_| ()), 100, &null(), OWNER).is_err());
        let adopt = Request::Adopt { expect: expect(OWNER), wish: OffloadWish::Auto };
        assert!(admit(&adopt, 100, &null(), OWNER).unwrap_err().contains("no queue"));
        if let Ok(tun) = File::open("/dev/net/tun") {
            assert_eq!(admit(&adopt, 100, &[tun.into()], OWNER), Ok(()));
        }
    }
}
