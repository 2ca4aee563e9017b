//! The daemon and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    tapestry::cli::main(std::env::args_os())
}
