//! Passwords and passphrases as people give them: typed without being shown, as one line of standard input, or from a file.
//! They are never arguments, which every user of a host can read. What they are for is not known here.

use std::io::{BufRead, IsTerminal, Write};

use camino::Utf8Path;
use lifeboat_tls::Passphrase;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::exit::{Exit, Failure};
use crate::private::standing;

/// Most that is read of a file with a passphrase, in bytes.
const LARGEST: u64 = 4096;

/// Asks on the terminal.
pub(super) fn asked(prompt: &str) -> Result<Passphrase, Failure> {
    eprint!("{prompt}");
    let _ = std::io::stderr().flush();
    let hidden = HiddenInput::begin();
    let line = line();
    drop(hidden);
    eprintln!();
    line
}

/// Reads one line of standard input.
pub(super) fn line() -> Result<Passphrase, Failure> {
    first_line(std::io::stdin().lock()).map_err(|e| Failure::io("read standard input", &e))
}

fn first_line(mut from: impl BufRead) -> std::io::Result<Passphrase> {
    let mut line = Passphrase::new(String::with_capacity(256));
    from.read_line(&mut line)?;
    let end = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(end);
    Ok(line)
}

/// The first line of a file that only its owner may read.
pub(super) fn from_file(path: &Utf8Path) -> std::io::Result<Passphrase> {
    use std::io::Read;
    let file = std::fs::File::open(path)?;
    if standing(&file.metadata()?).exposes_key() {
        let why = format!(
            "{path}: others than its owner may read this file; take that away with: chmod 600 {path}"
        );
        return Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, why));
    }
    first_line(std::io::BufReader::new(file.take(LARGEST)))
}

/// The passphrase of a key that is encrypted: of the file, typed, or a line of standard input.
pub(super) fn of_key(file: Option<&Utf8Path>, key: &Utf8Path) -> std::io::Result<Passphrase> {
    if let Some(file) = file {
        return from_file(file);
    }
    let given = if std::io::stdin().is_terminal() {
        asked(&format!("Passphrase of {key}: "))
    } else {
        line()
    };
    let given = given.map_err(|f| std::io::Error::other(f.message))?;
    if given.is_empty() {
        Err(std::io::ErrorKind::UnexpectedEof.into())
    } else {
        Ok(given)
    }
}

/// A new passphrase: of the file, typed twice, or a line of standard input.
pub(super) fn new_for_key(file: Option<&Utf8Path>) -> Result<Passphrase, Failure> {
    if let Some(file) = file {
        return from_file(file).map_err(|e| Failure::io("read the passphrase", &e));
    }
    if !std::io::stdin().is_terminal() {
        return line();
    }
    let (first, second) = (asked("New passphrase: ")?, asked("Again: ")?);
    if first == second {
        Ok(first)
    } else {
        Err(Failure::new(Exit::Failed, "the two passphrases differ", ""))
    }
}

/// Shows nothing of what is typed, until dropped.
struct HiddenInput(Option<Termios>);

impl HiddenInput {
    fn begin() -> Self {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok();
        if let Some(mut hidden) = before.clone() {
            hidden.local_modes.remove(LocalModes::ECHO);
            // A terminal that refuses is used as it is.
            let _ = tcsetattr(&stdin, OptionalActions::Flush, &hidden);
        }
        Self(before)
    }
}

impl Drop for HiddenInput {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, before);
        }
    }
}
