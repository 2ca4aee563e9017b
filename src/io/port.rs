//! A port's queue: a TAP queue, or in tests one end of a socket pair. Each read and each write is
//! one frame or superframe behind its vnet header.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use encap::{Checksum, Frame, GsoKind, HEAD_MAX, HEADROOM, Segments, VNET_LEN, VnetHeader, vnet};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::uio::writev;
use socket2::{SockRef, Type};

use super::errors::{Operation, Verdict, classify};

/// Bytes of a read buffer: the vnet header, Ethernet with two tags, the longest IP packet, and one
/// byte more by which truncation shows.
pub const READ_SIZE: usize = VNET_LEN + 22 + 65_535 + 1;

/// Slices of one write: vnet header, head, and a body as long as a joined train makes it.
const SLICES: usize = 80;

/// So many superframes in a row must be refused as invalid before a device is believed to take
/// none at all: a single one may be what its sender made of it.
const REFUSALS_MAX: u32 = 8;

/// What came of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum ReadOutcome {
    /// This many bytes: a vnet header and a frame.
    Frame(usize),
    /// Nothing is waiting.
    Again,
    /// A frame that is no frame: shorter than its vnet header. It is lost.
    Runt,
    /// A frame longer than the buffer. It is lost.
    Truncated,
    /// The read failed this time, with this error number.
    Failed(i32),
    /// The device or the other end is gone, with this error number (0: closed). The queue must
    /// leave the epoll set.
    Gone(i32),
}

/// Why a frame was not written, or not all of its segments were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The reader does not keep up.
    #[error("the port's queue is full")]
    Full,
    /// The frame's headers contradict its offload.
    #[error("superframe cannot be cut")]
    Malformed,
    /// The device is down, or refuses this frame.
    #[error("the port refused the frame (error {0})")]
    Refused(i32),
    /// The device or the other end is gone. The port goes down.
    #[error("the port is gone (error {0})")]
    Gone(i32),
}

/// What came of a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Written {
    /// Frames written, as they are on a wire.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames that were not.
    pub lost: u64,
    /// Why not.
    pub error: Option<WriteError>,
}

/// What a device takes on a write, as it was set up. Shared by all queues of the port.
#[derive(Debug, Default)]
pub struct PortOffloads {
    checksum: bool,
    tso: bool,
    uso: bool,
    /// Superframes refused since the last one that was taken.
    refusals: AtomicU32,
}

impl PortOffloads {
    /// The device takes frames whose checksum is only the pseudo-header sum (`checksum`), TCP
    /// superframes of either IP version (`tso`) and UDP superframes (`uso`). The latter two
    /// mean nothing without the first.
    #[must_use]
    pub const fn new(checksum: bool, tso: bool, uso: bool) -> Self {
        Self { checksum, tso, uso, refusals: AtomicU32::new(0) }
    }

    /// Whether unfinished checksums are left to the device.
    #[must_use]
    pub const fn checksum(&self) -> bool {
        self.checksum
    }

    /// Whether TCP superframes are written whole.
    #[must_use]
    pub fn tso(&self) -> bool {
        self.checksum && self.tso && !self.revoked()
    }

    /// Whether UDP superframes are written whole.
    #[must_use]
    pub fn uso(&self) -> bool {
        self.checksum && self.uso && !self.revoked()
    }

    /// Whether the device was set up for superframes but refused them.
    #[must_use]
    pub fn revoked(&self) -> bool {
        self.refusals.load(Ordering::Relaxed) >= REFUSALS_MAX
    }

    /// Whether the device does what is left to do for `frame`.
    fn suffice(&self, frame: &Frame<'_>) -> bool {
        let partial = match frame.offload.checksum {
            Checksum::Partial { .. } => true,
            Checksum::Done | Checksum::Vouched => false,
        };
        match frame.offload.gso.filter(|gso| gso.segments > 1) {
            None => self.checksum || !partial,
            Some(gso) => match gso.kind {
                GsoKind::Tcp => partial && self.tso(),
                GsoKind::Udp => {
                    partial && self.uso() && usize::from(gso.segments) <= vnet::UDP_SEGMENTS_MAX
                }
            },
        }
    }

    fn refused(&self) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
    }

    fn taken(&self) {
        if self.refusals.load(Ordering::Relaxed) != 0 {
            self.refusals.store(0, Ordering::Relaxed);
        }
    }
}

/// One queue of a port.
#[derive(Debug)]
pub struct PortQueue {
    fd: OwnedFd,
    offloads: Arc<PortOffloads>,
    /// Whether reading nothing means that the other end has closed: so with `SOCK_SEQPACKET`.
    ends: bool,
}

impl PortQueue {
    /// Adopts a descriptor and makes it non-blocking. A TAP queue must have been set up with a
    /// vnet header of [`VNET_LEN`] bytes, little endian.
    ///
    /// # Errors
    /// What `fcntl(2)` says.
    pub fn adopt(fd: OwnedFd, offloads: Arc<PortOffloads>) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let ends = SockRef::from(&fd).r#type().is_ok_and(|kind| kind == Type::SEQPACKET);
        Ok(Self { fd, offloads, ends })
    }

    /// What the device takes.
    #[must_use]
    pub fn offloads(&self) -> &PortOffloads {
        &self.offloads
    }

    /// Reads one vnet header and frame into `buffer`, which has [`READ_SIZE`] bytes.
    pub fn read(&self, buffer: &mut [u8]) -> ReadOutcome {
        loop {
            let error = match nix::unistd::read(&self.fd, buffer) {
                Ok(0) if self.ends => return ReadOutcome::Gone(0),
                Ok(len) if len < VNET_LEN => return ReadOutcome::Runt,
                Ok(len) if len >= buffer.len() => return ReadOutcome::Truncated,
                Ok(len) => return ReadOutcome::Frame(len),
                Err(errno) => errno,
            };
            match classify(Operation::PortRead, &error.into()) {
                Verdict::Retry => {}
                Verdict::Wait => return ReadOutcome::Again,
                Verdict::Count => return ReadOutcome::Failed(error as i32),
                Verdict::PortDown | Verdict::Fatal => return ReadOutcome::Gone(error as i32),
            }
        }
    }

    /// Writes one frame or superframe. It is cut and its checksums are finished here, as far as
    /// the device does not take that over.
    pub fn write(&self, frame: &Frame<'_>) -> Written {
        if !self.offloads.suffice(frame) {
            return self.write_cut(frame);
        }
        let superframe = frame.offload.gso.is_some_and(|gso| gso.segments > 1);
        let mut parts = Parts::new();
        let header = VnetHeader::of(frame).encode();
        let pieces = [&header[..], frame.head].into_iter();
        if !pieces.chain(frame.body.iter().map(|slice| &**slice)).all(|part| parts.push(part)) {
            return self.write_cut(frame);
        }
        match self.write_parts(&parts) {
            Ok(()) => {
                if superframe {
                    self.offloads.taken();
                }
                Written {
                    frames: frame.wire_frames(),
                    bytes: frame.wire_bytes(),
                    ..Written::default()
                }
            }
            Err(WriteError::Refused(libc::EINVAL)) if superframe => {
                self.offloads.refused();
                self.write_cut(frame)
            }
            Err(error) => {
                Written { lost: frame.wire_frames(), error: Some(error), ..Written::default() }
            }
        }
    }

    /// Writes a frame as the plain frames that it stands for. The first that is not taken ends it.
    fn write_cut(&self, frame: &Frame<'_>) -> Written {
        let mut written = Written::default();
        let Ok(segments) = Segments::plan(frame, None) else {
            written.lost = frame.wire_frames();
            written.error = Some(WriteError::Malformed);
            return written;
        };
        for i in 0..segments.count() {
            if let Err(error) = self.write_segment(&segments, i) {
                written.lost = (segments.count() - i) as u64;
                written.error = Some(error);
                break;
            }
            written.frames += 1;
            written.bytes += segments.segment_len(i) as u64;
        }
        written
    }

    fn write_segment(&self, segments: &Segments<'_>, i: usize) -> Result<(), WriteError> {
        // The vnet header of a plain frame is all zeros.
        let mut buffer = [0; VNET_LEN + HEADROOM + HEAD_MAX];
        let header = buffer.get_mut(VNET_LEN..).unwrap_or_default();
        let len = segments.write_header(i, header);
        if len == 0 {
            return Err(WriteError::Malformed);
        }
        let mut parts = Parts::new();
        let front = buffer.get(..VNET_LEN + len).unwrap_or_default();
        if !parts.push(front) || !segments.payload(i).all(|part| parts.push(part)) {
            return Err(WriteError::Malformed);
        }
        self.write_parts(&parts)
    }

    fn write_parts(&self, parts: &Parts<'_>) -> Result<(), WriteError> {
        loop {
            let Err(error) = writev(&self.fd, parts.slices()) else { return Ok(()) };
            match classify(Operation::PortWrite, &error.into()) {
                Verdict::Retry => {}
                Verdict::Wait => return Err(WriteError::Full),
                Verdict::Count => return Err(WriteError::Refused(error as i32)),
                Verdict::PortDown | Verdict::Fatal => return Err(WriteError::Gone(error as i32)),
            }
        }
    }
}

impl AsFd for PortQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The slices of one write.
struct Parts<'a> {
    slices: [IoSlice<'a>; SLICES],
    len: usize,
}

impl<'a> Parts<'a> {
    fn new() -> Self {
        Self { slices: [IoSlice::new(&[]); SLICES], len: 0 }
    }

    /// Adds a slice; `false` when there is no room.
    fn push(&mut self, part: &'a [u8]) -> bool {
        let Some(slot) = self.slices.get_mut(self.len) else { return false };
        *slot = IoSlice::new(part);
        self.len += 1;
        true
    }

    fn slices(&self) -> &[IoSlice<'a>] {
        self.slices.get(..self.len).unwrap_or(&self.slices)
    }
}
