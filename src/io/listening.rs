//! Unix sockets that are listened on under a name, one daemon at a time.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};

/// How many may stand in line to be served.
const BACKLOG: i32 = 1024;

/// A socket that listens. Its file is removed with it.
#[derive(Debug)]
pub struct Listening {
    socket: Socket,
    path: PathBuf,
    /// Device and inode, so that only our own file is removed.
    identity: (u64, u64),
}

impl Listening {
    /// Listens at `path`, not blocking, making its directory (0755) where there is none, with these
    /// permissions. A socket that nobody answers on is replaced.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AddrInUse`] when a daemon answers on it, [`io::ErrorKind::AlreadyExists`] when
    /// something other than a socket is there, and whatever the system says.
    pub fn bind(path: &Path, kind: Type, mode: Mode) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
        }
        let address = SockAddr::unix(path)?;
        clear(path, &address, kind)?;
        let socket = Socket::new(Domain::UNIX, kind, None)?;
        // The file gets the socket's own mode, less the umask: there is no moment in which more may
        // connect than shall.
        fchmod(&socket, mode)?;
        socket.bind(&address)?;
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode.bits());
        std::fs::set_permissions(path, permissions)?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let meta = std::fs::symlink_metadata(path)?;
        Ok(Self { socket, path: path.to_owned(), identity: (meta.dev(), meta.ino()) })
    }

    /// Another descriptor of the socket, for whoever accepts.
    ///
    /// # Errors
    ///
    /// If there is no descriptor left.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone().map(OwnedFd::from)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let meta = std::fs::symlink_metadata(&self.path);
        if meta.is_ok_and(|meta| (meta.dev(), meta.ino()) == self.identity) {
            // One that stays is replaced at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Removes a socket that nobody answers on.
fn clear(path: &Path, address: &SockAddr, kind: Type) -> io::Result<()> {
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let told = |kind, what: &str| Err(io::Error::new(kind, format!("{} {what}", path.display())));
    if !meta.file_type().is_socket() {
        return told(io::ErrorKind::AlreadyExists, "is there, and is no socket");
    }
    let socket = Socket::new(Domain::UNIX, kind, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(address) {
        Ok(()) => told(io::ErrorKind::AddrInUse, "is in use: a daemon answers on it"),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            told(io::ErrorKind::AddrInUse, "is in use: a daemon is busy on it")
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Err(error) => Err(error),
    }
}
