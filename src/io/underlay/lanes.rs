//! Which receive socket a datagram goes to: by whom it is from, so that a flow has one.
//!
//! Left to itself the kernel chooses by a hash of addresses and ports. That keeps flows apart, but the two
//! directions of one mostly go to two workers, which then look for the next frame of one conversation both,
//! and each with the flow's state in a processor's cache of its own. So a program chooses: the
//! worker by the bucket of the source port, which tells what also tells a port's queue
//! ([`crate::device::steering`]). What comes from other senders than Tapestry is shared out by the same
//! program; their ports are all over the range.

use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use super::sockets::{BUCKETS, LANES, PORTS_PER_BUCKET};
use crate::io::sys;

// Classic BPF (linux/bpf_common.h, linux/filter.h): the accumulator A, an index X, and a store.
const LOAD_WORD: u16 = 0x20;
const LOAD_HALF_INDEXED: u16 = 0x48;
const LOAD_HALF: u16 = 0x28;
const LOAD_STORED: u16 = 0x60;
const INDEX_STORED: u16 = 0x61;
/// X = four times the lower half of a byte: the length of an IPv4 header.
const INDEX_HEADER_LEN: u16 = 0xb1;
const STORE: u16 = 0x02;
const ADD_INDEX: u16 = 0x0c;
const MULTIPLY: u16 = 0x24;
const DIVIDE: u16 = 0x34;
const REMAINDER: u16 = 0x94;
const RETURN: u16 = 0x16;

/// From here on an offset is one from the IP header (`SKF_NET_OFF`).
const NETWORK: u32 = (-0x10_0000_i32).cast_unsigned();

/// Has the sockets of the group of `socket` take what is theirs: the first [`LANES`] are the first worker's,
/// and so on. With more workers than there are buckets the kernel goes on choosing.
pub(super) fn share_out(socket: BorrowedFd<'_>, local: IpAddr, workers: usize) -> io::Result<()> {
    if workers > BUCKETS { Ok(()) } else { sys::choose_by(socket, &mut program(local, workers)) }
}

/// The worker is the source port's bucket modulo the number of workers, so that two whose buckets are the
/// same have the same, whoever sent them. The lane is what else the port and the sender's address
/// tell.
fn program(local: IpAddr, workers: usize) -> Vec<libc::sock_filter> {
    const LANE: u32 = 0;
    const PORT: u32 = 1;
    const BUCKET: u32 = 2;
    let line = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    let [workers, lanes, buckets] = [workers, LANES, BUCKETS].map(|count| count as u32);
    let per_bucket = u32::from(PORTS_PER_BUCKET);
    // The last four bytes of the source address, and where the source port is.
    let (address, port) = match local {
        IpAddr::V4(_) => {
            let port = [line(INDEX_HEADER_LEN, NETWORK), line(LOAD_HALF_INDEXED, NETWORK)];
            (NETWORK + 12, port.to_vec())
        }
        // Extension headers would have to be walked; UDP's is the first here.
        IpAddr::V6(_) => (NETWORK + 20, vec![line(LOAD_HALF, NETWORK + 40)]),
    };
    let mut program = vec![line(LOAD_WORD, address), line(STORE, LANE)];
    program.extend(port);
    program.extend([
        line(STORE, PORT),
        line(REMAINDER, per_bucket),
        line(INDEX_STORED, LANE),
        line(ADD_INDEX, 0),
        line(STORE, LANE),
        line(LOAD_STORED, PORT),
        line(DIVIDE, per_bucket),
        // The first port of the first bucket is a multiple of all buckets' ports.
        line(REMAINDER, buckets),
        line(STORE, BUCKET),
        line(DIVIDE, workers),
        line(INDEX_STORED, LANE),
        line(ADD_INDEX, 0),
        line(REMAINDER, lanes),
        line(STORE, LANE),
        line(LOAD_STORED, BUCKET),
        line(REMAINDER, workers),
        line(MULTIPLY, lanes),
        line(INDEX_STORED, LANE),
        line(ADD_INDEX, 0),
        line(RETURN, 0),
    ]);
    program
}
