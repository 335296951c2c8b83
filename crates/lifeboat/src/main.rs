//! The binary: `lifeboat serve` is the daemon of a host, everything else is the command line that talks to it. The only
//! crate that names adapters; what they do is theirs.
// To move into [workspace.lints] when all crates hold it.
#![warn(clippy::match_bool, clippy::option_option, clippy::struct_excessive_bools)]

mod cli;
mod config;
mod encryption;
mod environment;
mod hardware;
mod private;
mod rights;
mod serve;

fn main() -> std::process::ExitCode {
    cli::main()
}
