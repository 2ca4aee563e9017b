//! One wrapper per system call: all unsafe code there is.

mod bpf;
mod rights;
mod socket;
mod tap;

use std::io;

pub use bpf::*;
pub use rights::*;
pub use socket::*;
pub use tap::*;

/// Whatever the kernel returned that is negative, as the errno it left.
fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
