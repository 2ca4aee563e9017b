//! A port's queue on a real TAP device, the kernel's network stack behind it as the judge.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use encap::{Contiguous, HEAD_MAX, VnetHeader};
use etherparse::PacketBuilder;
use tapestry::io::port::{PortOffloads, PortQueue, READ_SIZE, ReadOutcome, WriteError};
use tapestry::io::sys;

const FLAGS: i32 = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

fn open_tap() -> std::io::Result<OwnedFd> {
    let tap: OwnedFd = File::options().read(true).write(true).open("/dev/net/tun")?.into();
    sys::tun_set_iff(tap.as_fd(), "tap0", FLAGS as u16)?;
    sys::tun_set_vnet_hdr_size(tap.as_fd(), 12)?;
    sys::tun_set_vnet_le(tap.as_fd(), true)?;
    Ok(tap)
}

/// Runs `test` on a thread in a network namespace of its own with a TAP. Without the right to make
/// them the test says so and is skipped.
fn with_tap(test: impl FnOnce(OwnedFd) + Send + 'static) {
    let thread = std::thread::spawn(|| {
        if let Err(error) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET) {
            eprintln!("SKIPPED: no network namespace: {error}");
            return;
        }
        match open_tap() {
            Ok(tap) => test(tap),
            Err(error) => eprintln!("SKIPPED: no TAP: {error}"),
        }
    });
    thread.join().unwrap();
}

/// UDP from 10.9.0.1 to the TAP's side, as a superframe with only the pseudo-header sum.
fn superframe(payload: &[u8], size: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], MAC)
        .ipv4([10, 9, 0, 1], [10, 9, 0, 2], 64)
        .udp(7000, 7001)
        .write(&mut bytes, payload)
        .unwrap();
    let sum = 2 * 0x0a09 + 1 + 2 + 17 + payload.len() as u32 + 8;
    bytes[40..42].copy_from_slice(&((sum >> 16) + (sum & 0xffff)).to_be_bytes()[2..]);
    let header = VnetHeader {
        flags: 1,
        gso_type: 5,
        gso_size: size,
        csum_start: 34,
        csum_offset: 6,
        ..VnetHeader::default()
    };
    [&header.encode()[..], &bytes].concat()
}

#[test]
fn the_kernel_takes_a_superframe_whole_and_a_cut_one_alike() {
    with_tap(|tap| {
        ip("link set tap0 address 02:00:00:00:00:02 up");
        ip("addr add 10.9.0.2/24 dev tap0");
        let socket = UdpSocket::bind("10.9.0.2:7001").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let payload: Vec<u8> = (0..30_000_u32).map(|i| (i * 7 + i / 250) as u8).collect();
        let mut bytes = superframe(&payload, 1200);
        let (raw, frame) = bytes.split_first_chunk_mut().unwrap();
        let len = frame.len();
        let offload = VnetHeader::decode(raw).resolve(&mut frame[..HEAD_MAX], len).unwrap();
        let frame = Contiguous::new(frame, offload);
        for whole in [true, false] {
            let offloads = Arc::new(PortOffloads::new(whole, whole, whole));
            let queue = PortQueue::adopt(tap.try_clone().unwrap(), offloads).unwrap();
            let written = queue.write(&frame.frame());
            assert_eq!((written.frames, written.lost, written.error), (25, 0, None));
            assert!(!queue.offloads().revoked());
            for expected in payload.chunks(1200) {
                let mut buffer = [0; 2000];
                let len = socket.recv(&mut buffer).unwrap();
                assert!(buffer[..len] == *expected, "whole: {whole}");
            }
        }
    });
}

#[test]
fn a_device_that_is_down_refuses_and_one_that_is_removed_is_gone() {
    with_tap(|tap| {
        let offloads = Arc::new(PortOffloads::new(true, true, true));
        let queue = PortQueue::adopt(tap, offloads).unwrap();
        let bytes = [1; 64];
        let frame = Contiguous::new(&bytes, encap::Offload::default());
        let error = queue.write(&frame.frame()).error;
        assert_eq!(error, Some(WriteError::Refused(libc::EIO)));
        let mut buffer = vec![0; READ_SIZE];
        assert_eq!(queue.read(&mut buffer), ReadOutcome::Again);
        ip("link set tap0 up");
        assert_eq!(queue.write(&frame.frame()).error, None);
        ip("link del tap0");
        assert_eq!(queue.write(&frame.frame()).error, Some(WriteError::Gone(libc::EBADFD)));
        assert_eq!(queue.read(&mut buffer), ReadOutcome::Gone(libc::EBADFD));
    });
}
