//! Network namespaces: handles, identities, and running a closure inside one.
//!
//! Only helper threads change their namespace, never a caller's: a thread that has entered one
//! ends there.

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use serde::{Deserialize, Serialize};

/// Where `ip netns` keeps its names (ip-netns(8)).
pub const RUN_DIR: &str = "/run/netns";

/// Where older systems keep them.
const OLD_RUN_DIR: &str = "/var/run/netns";

thread_local! {
    /// The namespace that this thread was made to enter, if it is such a thread.
    static ENTERED: Cell<Option<NetnsIdentity>> = const { Cell::new(None) };
}

/// A step with a namespace that failed.
#[derive(Debug, thiserror::Error)]
#[error("network namespace {netns}: {step}: {source}")]
pub struct NetnsError {
    /// Its name, path or identity.
    pub netns: String,
    /// What was tried.
    pub step: &'static str,
    /// Why it failed.
    pub source: io::Error,
}

impl NetnsError {
    fn new(netns: impl fmt::Display, step: &'static str, source: impl Into<io::Error>) -> Self {
        Self { netns: netns.to_string(), step, source: source.into() }
    }

    /// Whether there is no such namespace: no file, or a file that is no namespace (EINVAL), as
    /// `ip netns` leaves behind when its mount is gone.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self.source.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::EINVAL))
    }
}

/// What tells a namespace from any other that is alive: device and inode of its file in nsfs
/// (namespaces(7)). An inode may be used again after its namespace died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NetnsIdentity {
    /// The nsfs device.
    pub dev: u64,
    /// The namespace's inode.
    pub ino: u64,
}

impl NetnsIdentity {
    /// Whether a path leads to this namespace.
    #[must_use]
    pub fn is_at(self, path: &Path) -> bool {
        std::fs::metadata(path)
            .is_ok_and(|there| (there.dev(), there.ino()) == (self.dev, self.ino))
    }
}

impl fmt::Display for NetnsIdentity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "net:[{}]", self.ino)
    }
}

/// An open network namespace. While it is open, the namespace lives.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    identity: NetnsIdentity,
}

impl Netns {
    /// The calling thread's namespace.
    ///
    /// # Errors
    ///
    /// If `/proc` is not mounted or not readable.
    pub fn current() -> Result<Self, NetnsError> {
        Self::open_path(Path::new("/proc/thread-self/ns/net"))
    }

    /// Opens a namespace by the name `ip netns` knows it under, or by a path (anything with a
    /// slash).
    ///
    /// # Errors
    ///
    /// [`NetnsError::is_absent`] if there is none.
    pub fn open(name_or_path: &str) -> Result<Self, NetnsError> {
        Self::open_path(&path_of(name_or_path))
    }

    /// Opens a namespace by its path.
    ///
    /// # Errors
    ///
    /// [`NetnsError::is_absent`] if the path is none, or no namespace.
    pub fn open_path(path: &Path) -> Result<Self, NetnsError> {
        let fail = |step| move |e: io::Error| NetnsError::new(path.display(), step, e);
        let open = |path: &Path, flags| {
            File::options().read(true).custom_flags(flags | libc::O_CLOEXEC).open(path)
        };
        // A path may lead anywhere, and to open a device or a pipe does something or waits: so it is
        // looked at first, and opened only when it is what it is to be.
        let place = OwnedFd::from(open(path, libc::O_PATH).map_err(fail("open"))?);
        let identity = identify(&place).map_err(fail("identify"))?;
        let again = PathBuf::from(format!("/proc/self/fd/{}", place.as_raw_fd()));
        let fd = open(&again, 0).map_err(fail("open"))?.into();
        Ok(Self { fd, identity })
    }

    /// Takes a descriptor that was passed in.
    ///
    /// # Errors
    ///
    /// EINVAL if it is no namespace.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, NetnsError> {
        let identity = identify(&fd).map_err(|e| NetnsError::new("descriptor", "identify", e))?;
        Ok(Self { fd, identity })
    }

    /// What tells it from others.
    #[must_use]
    pub fn identity(&self) -> NetnsIdentity {
        self.identity
    }

    /// A second handle on the same namespace.
    ///
    /// # Errors
    ///
    /// If no descriptor is left.
    pub fn try_clone(&self) -> Result<Self, NetnsError> {
        let fd = self.fd.try_clone().map_err(|e| NetnsError::new(self.identity, "duplicate", e))?;
        Ok(Self { fd, identity: self.identity })
    }

    /// Runs a closure inside the namespace, on a thread of its own that ends afterwards, and
    /// returns what it returns. Sockets and TAP descriptors opened in it stay in the namespace.
    /// A panic in the closure is passed on. Within such a closure, another for the same namespace
    /// runs on the same thread: entering costs more than most of what is done inside.
    ///
    /// # Errors
    ///
    /// If no thread can be had, or the namespace may not be entered (EPERM without CAP_SYS_ADMIN).
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        if ENTERED.get() == Some(self.identity) {
            return Ok(inside());
        }
        thread::scope(|scope| {
            let body = || {
                setns(&self.fd, CloneFlags::CLONE_NEWNET)
                    .map_err(|e| NetnsError::new(self.identity, "enter", e))?;
                ENTERED.set(Some(self.identity));
                Ok(inside())
            };
            let thread = thread::Builder::new()
                .name("netns".to_owned())
                .spawn_scoped(scope, body)
                .map_err(|e| NetnsError::new(self.identity, "start a thread", e))?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Makes a new namespace without a name, for tests and the demo. It lives as long as the
    /// handle or anything that was opened inside.
    ///
    /// # Errors
    ///
    /// EPERM without CAP_SYS_ADMIN.
    pub fn create() -> Result<Self, NetnsError> {
        let made = thread::Builder::new()
            .name("netns".to_owned())
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)
                    .map_err(|e| NetnsError::new("new", "unshare", e))?;
                Self::current()
            })
            .map_err(|e| NetnsError::new("new", "start a thread", e))?;
        made.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Makes a new namespace and binds it to a name, as `ip netns add` does, for tests and the
    /// demo: the daemon itself makes no namespaces. [`remove_named`] takes the name away.
    ///
    /// # Errors
    ///
    /// EEXIST if the name is taken, EPERM without CAP_SYS_ADMIN.
    pub fn create_named(name: &str) -> Result<Self, NetnsError> {
        let fail = |step, source: io::Error| NetnsError::new(name, step, source);
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            return Err(fail("name", io::ErrorKind::InvalidInput.into()));
        }
        let _lock = share_run_dir().map_err(|e| fail("share /run/netns", e))?;
        let path = Path::new(RUN_DIR).join(name);
        File::create_new(&path).map_err(|e| fail("create its file", e))?;
        let made = thread::scope(|scope| {
            let body = || {
                unshare(CloneFlags::CLONE_NEWNET).map_err(|e| fail("unshare", e.into()))?;
                mount(
                    Some("/proc/thread-self/ns/net"),
                    &path,
                    None::<&str>,
                    MsFlags::MS_BIND,
                    None::<&str>,
                )
                .map_err(|e| fail("bind", e.into()))?;
                Self::current()
            };
            let thread = thread::Builder::new()
                .name("netns".to_owned())
                .spawn_scoped(scope, body)
                .map_err(|e| fail("start a thread", e))?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        if made.is_err() {
            let _ = umount2(&path, MntFlags::MNT_DETACH);
            let _ = std::fs::remove_file(&path);
        }
        made
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Takes away a name that [`Netns::create_named`] or `ip netns add` bound, for tests and the demo.
/// The namespace dies with the last descriptor opened in it.
///
/// # Errors
///
/// ENOENT if there is no such name.
pub fn remove_named(name: &str) -> Result<(), NetnsError> {
    let path = Path::new(RUN_DIR).join(name);
    match umount2(&path, MntFlags::MNT_DETACH) {
        // A file left behind without its mount.
        Ok(()) | Err(nix::errno::Errno::EINVAL) => {}
        Err(error) => return Err(NetnsError::new(name, "unmount", error)),
    }
    std::fs::remove_file(&path).map_err(|e| NetnsError::new(name, "remove its file", e))
}

/// The path behind a name that `ip netns` knows, or the path itself if it has a slash.
#[must_use]
pub fn path_of(name_or_path: &str) -> PathBuf {
    if name_or_path.contains('/') {
        return PathBuf::from(name_or_path);
    }
    let path = Path::new(RUN_DIR).join(name_or_path);
    let old = Path::new(OLD_RUN_DIR).join(name_or_path);
    if !path.exists() && old.exists() { old } else { path }
}

/// The identity of the namespace at a path; `None` if there is no file or it is no namespace.
///
/// # Errors
///
/// Any other failure, for instance EACCES.
pub fn identity_of(path: &Path) -> Result<Option<NetnsIdentity>, NetnsError> {
    match Netns::open_path(path) {
        Ok(netns) => Ok(Some(netns.identity)),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
    }
}

fn identify(fd: &OwnedFd) -> io::Result<NetnsIdentity> {
    if fstatfs(fd)?.filesystem_type() != NSFS_MAGIC {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let metadata = File::from(fd.try_clone()?).metadata()?;
    Ok(NetnsIdentity { dev: metadata.dev(), ino: metadata.ino() })
}

/// Makes the directory a shared mount, so that a name removed here is gone in every mount
/// namespace (as iproute2's netns_add). The lock keeps two makers from mounting it twice.
fn share_run_dir() -> io::Result<Flock<File>> {
    std::fs::create_dir_all(RUN_DIR)?;
    let lock = Flock::lock(File::open(RUN_DIR)?, FlockArg::LockExclusive).map_err(|(_, e)| e)?;
    let none = None::<&str>;
    let shared = MsFlags::MS_SHARED | MsFlags::MS_REC;
    match mount(none, RUN_DIR, none, shared, none) {
        Err(nix::errno::Errno::EINVAL) => {
            mount(Some(RUN_DIR), RUN_DIR, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
            mount(none, RUN_DIR, none, shared, none)?;
        }
        result => result?,
    }
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_file_of_ip_netns_and_a_path_is_itself() {
        assert_eq!(path_of("no-such-name-here"), Path::new("/run/netns/no-such-name-here"));
        assert_eq!(path_of("/proc/1/ns/net"), Path::new("/proc/1/ns/net"));
    }

    #[test]
    fn the_own_namespace_has_one_identity() {
        let path = Path::new("/proc/self/ns/net");
        let own = Netns::current().unwrap().identity();
        assert_eq!(identity_of(path).unwrap(), Some(own));
        assert!(own.is_at(path) && !own.is_at(Path::new("/etc/passwd")));
        assert!(!own.is_at(Path::new("/no/such/path")));
    }

    #[test]
    fn what_is_no_namespace_is_absent() {
        assert_eq!(identity_of(Path::new("/no/such/path")).unwrap(), None);
        assert_eq!(identity_of(Path::new("/etc/passwd")).unwrap(), None);
        assert!(Netns::open("no-such-name-here").unwrap_err().is_absent());
    }

    #[test]
    fn a_pipe_is_no_namespace_and_nobody_waits_for_its_writer() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(Netns::open_path(&pipe).unwrap_err().is_absent());
    }

    #[test]
    fn a_name_with_a_slash_is_refused() {
        for name in ["", ".", "..", "a/b"] {
            assert!(Netns::create_named(name).is_err(), "{name}");
        }
    }
}
