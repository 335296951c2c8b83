//! The command line around the library: arguments in, lines and an exit code out. Nothing is decided here.
// To move into [workspace.lints] when all crates hold it.
#![warn(clippy::match_bool, clippy::option_option, clippy::struct_excessive_bools)]
#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]

use std::io::{self, Write};
use std::process::ExitCode;

use lifeboat_workload::args::{Command, HELP, parse};
use lifeboat_workload::{verify, write};

fn main() -> ExitCode {
    let command = match parse(std::env::args().skip(1)) {
        Ok(command) => command,
        Err(why) => return could_not(&why),
    };
    match command {
        Command::Help => print(HELP, 0),
        Command::Write(place, pace) => match write::run(&place, &pace, io::stdout().lock()) {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => could_not(&error.to_string()),
        },
        Command::Verify {
            place,
            expect_some,
            json,
        } => {
            let report = verify::run(&place, expect_some);
            let text = if json {
                report.to_json()
            } else {
                report.to_string()
            };
            print(&format!("{text}\n"), report.exit_code())
        }
    }
}

/// An answer that was not received is no answer.
fn print(text: &str, code: u8) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::from(code),
        Err(error) => could_not(&format!("cannot print: {error}")),
    }
}

fn could_not(why: &str) -> ExitCode {
    // With stderr gone too, the exit code is all that is left to say.
    let _ = writeln!(io::stderr(), "lifeboat-workload: {why}");
    ExitCode::from(2)
}
