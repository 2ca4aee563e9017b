//! The CNI plugin.

use std::process::ExitCode;

fn main() -> ExitCode {
    tapestry::cni::main()
}
