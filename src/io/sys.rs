//! One wrapper per system call.
