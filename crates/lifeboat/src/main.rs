//! The binary: `lifeboat serve` is the daemon of a host, everything else is the command line that talks to it. The only
//! crate that names adapters; what they do is theirs.

mod cli;
mod config;
mod encryption;
mod environment;
mod private;
mod rights;
mod serve;

fn main() -> std::process::ExitCode {
    cli::main()
}
