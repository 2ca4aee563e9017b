//! BPF programs (bpf(2)).

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};

use super::checked;

/// The part of `union bpf_attr` (linux/bpf.h) that loading a program without a log needs; the
/// kernel takes what is missing behind it as zeros.
#[repr(C)]
struct ProgramLoad {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
}

/// Loads a BPF_PROG_TYPE_SOCKET_FILTER of these instructions (`struct bpf_insn`; bpf(2)).
///
/// # Errors
///
/// EPERM without CAP_BPF, where the kernel asks for it; EINVAL or EACCES if the verifier refuses.
pub fn load_socket_filter(instructions: &[[u8; 8]]) -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: libc::c_int = 5;
    const SOCKET_FILTER: u32 = 1;
    // Only programs that call what is reserved for the GPL need to be under it.
    let license = c"Apache-2.0 OR MIT";
    let attributes = ProgramLoad {
        kind: SOCKET_FILTER,
        count: u32::try_from(instructions.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
    };
    // SAFETY: `attributes` has the given size and outlives the call, as do the instructions and the
    // license that it points to. The kernel checks the instructions, whatever their alignment.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const attributes,
            size_of::<ProgramLoad>() as libc::c_uint,
        )
    };
    let fd = checked(libc::c_int::try_from(fd).unwrap_or(-1))?;
    // SAFETY: the kernel made this descriptor for us (close-on-exec); nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
