//! A port's queue: a TAP queue, or in tests one end of a socket pair. Each read and each write is
//! one frame or superframe behind its vnet header.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arrayvec::ArrayVec;
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
        let header = VnetHeader::of(frame).encode();
        let mut parts = Parts::new();
        parts.push(IoSlice::new(&header));
        parts.push(IoSlice::new(frame.head));
        if parts.try_extend_from_slice(frame.body).is_err() {
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
        parts.push(IoSlice::new(buffer.get(..VNET_LEN + len).unwrap_or_default()));
        for part in segments.payload(i) {
            parts.try_push(IoSlice::new(part)).map_err(|_| WriteError::Malformed)?;
        }
        self.write_parts(&parts)
    }

    fn write_parts(&self, parts: &Parts<'_>) -> Result<(), WriteError> {
        loop {
            let Err(error) = writev(&self.fd, parts) else { return Ok(()) };
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
type Parts<'a> = ArrayVec<IoSlice<'a>, SLICES>;

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::io::Write as _;

    use encap::{Contiguous, Gso, Offload};
    use etherparse::PacketBuilder;
    use socket2::{Domain, Socket};

    use super::*;

    fn pair(offloads: PortOffloads) -> (PortQueue, Socket) {
        let (near, far) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        (PortQueue::adopt(near.into(), Arc::new(offloads)).unwrap(), far)
    }

    fn udp_frame(payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv6([1; 16], [2; 16], 64)
            .udp(1000, 2000);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, payload).unwrap();
        bytes
    }

    /// A UDP superframe with only the pseudo-header sum, and the datagrams that it stands for.
    fn superframe(payload: usize, size: usize) -> (Vec<u8>, Offload, Vec<Vec<u8>>) {
        let payload: Vec<u8> = (0..payload).map(|i| (i * 13 + i / 250) as u8).collect();
        let mut bytes = udp_frame(&payload);
        // Sixteen times 0x0101 and 0x0202 less carries, the length and the protocol.
        let sum = 8 * 0x0101 + 8 * 0x0202 + payload.len() as u32 + 8 + 17;
        let sum = (sum >> 16) + (sum & 0xffff);
        bytes[60..62].copy_from_slice(&(sum as u16).to_be_bytes());
        let segments: Vec<_> = payload.chunks(size).map(udp_frame).collect();
        let gso = Gso {
            kind: GsoKind::Udp,
            size: size as u16,
            segments: segments.len() as u16,
            header_len: 62,
        };
        let checksum = Checksum::Partial { start: 54, offset: 6 };
        (bytes, Offload { checksum, gso: Some(gso) }, segments)
    }

    fn received(far: &mut Socket) -> Vec<u8> {
        let mut buffer = vec![0; READ_SIZE];
        let len = far.read(&mut buffer).unwrap();
        buffer.truncate(len);
        buffer
    }

    fn empty(far: &mut Socket) -> bool {
        far.set_nonblocking(true).unwrap();
        far.read(&mut [0; 1]).is_err()
    }

    #[test]
    fn a_device_with_offloads_gets_a_superframe_whole() {
        let (queue, mut far) = pair(PortOffloads::new(true, true, true));
        let (bytes, offload, segments) = superframe(20_000, 1200);
        let written = queue.write(&Contiguous::new(&bytes, offload).frame());
        let on_the_wire = segments.iter().map(|segment| segment.len() as u64).sum();
        let expected = Written { frames: 17, bytes: on_the_wire, lost: 0, error: None };
        assert_eq!(written, expected);
        let read = received(&mut far);
        // NEEDS_CSUM, UDP_L4, header length 62, size 1200, start 54, offset 6.
        assert_eq!(read[..12], [1, 5, 62, 0, 0xb0, 0x04, 54, 0, 6, 0, 0, 0]);
        assert!(read[12..] == bytes);
        assert!(empty(&mut far));
    }

    #[test]
    fn a_device_without_offloads_gets_the_frames_it_stands_for() {
        let (bytes, offload, segments) = superframe(20_000, 1200);
        let lacking = [(false, false, false), (true, false, false), (true, true, false)];
        for (checksum, tso, uso) in lacking {
            let (queue, mut far) = pair(PortOffloads::new(checksum, tso, uso));
            let written = queue.write(&Contiguous::new(&bytes, offload).frame());
            assert_eq!((written.frames, written.lost, written.error), (17, 0, None));
            for segment in &segments {
                let read = received(&mut far);
                assert_eq!(read[..12], [0; 12]);
                assert!(read[12..] == *segment);
            }
            assert!(empty(&mut far));
        }
    }

    #[test]
    fn an_unfinished_checksum_is_the_devices_or_finished_here() {
        let (bytes, offload, segments) = superframe(300, 1200);
        let frame = Contiguous::new(&bytes, Offload { gso: None, ..offload });
        let (queue, mut far) = pair(PortOffloads::new(true, false, false));
        assert_eq!(queue.write(&frame.frame()).frames, 1);
        let read = received(&mut far);
        assert_eq!(read[..12], [1, 0, 62, 0, 0, 0, 54, 0, 6, 0, 0, 0]);
        assert_eq!(read[12..], bytes);
        let (queue, mut far) = pair(PortOffloads::new(false, false, false));
        assert_eq!(queue.write(&frame.frame()).frames, 1);
        assert_eq!(received(&mut far), [&[0; 12], &segments[0][..]].concat());
    }

    #[test]
    fn a_full_queue_costs_what_did_not_fit_and_a_closed_one_is_gone() {
        let (queue, far) = pair(PortOffloads::default());
        let (bytes, offload, segments) = superframe(20_000, 1200);
        let frame = Contiguous::new(&bytes, offload);
        let mut written = queue.write(&frame.frame());
        let mut taken = written.frames;
        while written.error.is_none() {
            written = queue.write(&frame.frame());
            taken += written.frames;
        }
        assert_eq!(written.error, Some(WriteError::Full));
        assert_eq!(written.frames + written.lost, segments.len() as u64);
        far.set_nonblocking(true).unwrap();
        let mut buffer = vec![0; READ_SIZE];
        assert_eq!(std::iter::from_fn(|| (&far).read(&mut buffer).ok()).count() as u64, taken);
        drop(far);
        assert_eq!(queue.write(&frame.frame()).error, Some(WriteError::Gone(libc::EPIPE)));
        assert_eq!(queue.read(&mut buffer), ReadOutcome::Gone(0));
    }

    #[test]
    fn what_cannot_be_cut_is_lost_and_nothing_is_written() {
        let (queue, mut far) = pair(PortOffloads::default());
        let (bytes, offload, _) = superframe(20_000, 1200);
        let mut hostile = bytes;
        hostile[12] = 0x99;
        let written = queue.write(&Contiguous::new(&hostile, offload).frame());
        assert_eq!((written.frames, written.lost), (0, 17));
        assert_eq!(written.error, Some(WriteError::Malformed));
        assert!(empty(&mut far));
    }

    #[test]
    fn reading_tells_frames_from_what_is_none() {
        let (queue, mut far) = pair(PortOffloads::default());
        let mut buffer = vec![0; READ_SIZE];
        assert_eq!(queue.read(&mut buffer), ReadOutcome::Again);
        for (len, expected) in [
            (VNET_LEN - 1, ReadOutcome::Runt),
            (VNET_LEN, ReadOutcome::Frame(VNET_LEN)),
            (READ_SIZE - 1, ReadOutcome::Frame(READ_SIZE - 1)),
            (READ_SIZE, ReadOutcome::Truncated),
            (READ_SIZE + 100, ReadOutcome::Truncated),
        ] {
            far.write_all(&vec![7; len]).unwrap();
            assert_eq!(queue.read(&mut buffer), expected, "{len} bytes");
            assert_eq!(queue.read(&mut buffer), ReadOutcome::Again);
        }
    }

    #[test]
    fn headers_that_lie_are_refused_and_a_true_one_is_understood() {
        let (queue, mut far) = pair(PortOffloads::default());
        let (bytes, offload, _) = superframe(20_000, 1200);
        let truth = VnetHeader::of(&Contiguous::new(&bytes, offload).frame());
        let lies = [
            ("no size", VnetHeader { gso_size: 0, ..truth }),
            ("too many segments", VnetHeader { gso_size: 1, ..truth }),
            ("TCP of IPv4", VnetHeader { gso_type: 1, ..truth }),
            ("fragmentation", VnetHeader { gso_type: 3, ..truth }),
            ("ECN alone", VnetHeader { gso_type: 0x80, ..truth }),
            ("checksum behind the end", VnetHeader { csum_start: 65_000, ..truth }),
            ("checksum over layer 3", VnetHeader { csum_start: 14, ..truth }),
        ];
        let mut buffer = vec![0; READ_SIZE];
        let mut read = |header: VnetHeader| {
            far.write_all(&[&header.encode()[..], &bytes].concat()).unwrap();
            let ReadOutcome::Frame(len) = queue.read(&mut buffer) else { panic!("not read") };
            let (raw, frame) = buffer[..len].split_first_chunk_mut().unwrap();
            let len = frame.len();
            VnetHeader::decode(raw).resolve(&mut frame[..HEAD_MAX], len)
        };
        for (name, lie) in lies {
            assert!(read(lie).is_err(), "{name}");
        }
        assert_eq!(read(VnetHeader { hdr_len: 9, ..truth }), Ok(offload));
    }

    #[test]
    fn only_refusals_in_a_row_take_superframes_away() {
        let offloads = PortOffloads::new(true, true, true);
        for _ in 0..3 {
            (1..REFUSALS_MAX).for_each(|_| offloads.refused());
            assert!(offloads.tso() && offloads.uso() && !offloads.revoked());
            offloads.taken();
        }
        (0..REFUSALS_MAX).for_each(|_| offloads.refused());
        assert!(offloads.revoked() && !offloads.tso() && !offloads.uso() && offloads.checksum());
        assert!(!PortOffloads::new(false, true, true).tso(), "nothing without checksums");
    }
}
