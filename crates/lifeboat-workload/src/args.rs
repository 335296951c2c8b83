//! The command line: parsing and the help text. By hand, because the same binary goes into a guest where every
//! megabyte is read through a BIOS. What the options do is up to the other modules.

use std::path::PathBuf;
use std::time::Duration;

use crate::Mode;

/// What `lifeboat-workload --help` prints.
pub const HELP: &str = "\
lifeboat-workload: write numbered records, or verify what is left of them

  append FILE            512-byte records at the end of FILE, each synced
  scatter DEV            4 KiB blocks over --slots slots in pseudo-random order, each synced
  pair DEVA DEVB         the same number to DEVA, synced, then to DEVB, synced
  verify-append FILE     the verifiers work on files, raw images and devices
  verify-scatter DEV
  verify-pair DEVA DEVB

Where (writer and verifier must agree):
  --offset B[,B2]        where the ring starts, in bytes; B2 for DEVB (default 0; B for both)   [not append]
  --slots N              size of the ring in blocks (default 1024)                              [not append]
  --run N                number of this stream (default 1)
Writers:
  --rate N               records a second; 0 means as fast as it goes (default 0)
  --seconds N --count N  stop after this time, or after this many records (default: never)
  --ack-ms N             print `ACK mode seq wall-ms` at most this often (default 200)
  --direct               past the page cache (O_DIRECT)                                         [not append]
Verifiers:
  --expect-some          finding no record at all is no pass, it is exit 2
  --json                 the result as one JSON object

A writer goes on after the last good record it finds. A verifier prints one RESULT line and exits
0 = OK, 1 = BAD, 2 = could not tell.
";

/// A command line, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Print [`HELP`].
    Help,
    /// Write records.
    Write(Place, Pace),
    /// Verify records; the flag asks for JSON.
    Verify {
        /// What to look at.
        place: Place,
        /// Finding nothing at all is "could not tell".
        expect_some: bool,
        /// One JSON object instead of the `RESULT` line.
        json: bool,
    },
}

/// Where a stream lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The kind of stream.
    pub mode: Mode,
    /// File or device; disk A for `pair`.
    pub path: PathBuf,
    /// Disk B; the same as `path` except for `pair`.
    pub path_b: PathBuf,
    /// Start of the ring in bytes, on `path` and on `path_b`. Unused by `append`.
    pub offsets: [u64; 2],
    /// Blocks in the ring, at least 1. Unused by `append`.
    pub slots: u64,
    /// The stream's number.
    pub run: u64,
}

/// How fast and how long to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Records a second; 0 for no limit.
    pub rate: u64,
    /// Stop after this time.
    pub time: Option<Duration>,
    /// Stop after this many records.
    pub count: Option<u64>,
    /// Least time between two `ACK` lines.
    pub ack: Duration,
    /// Open with `O_DIRECT`.
    pub direct: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            rate: 0,
            time: None,
            count: None,
            ack: Duration::from_millis(200),
            direct: false,
        }
    }
}

/// Understands the arguments after the program's name.
///
/// # Errors
/// A sentence for the person who typed it.
pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Command, String> {
    let mut args = args.into_iter();
    let word = args.next().unwrap_or_else(|| "--help".into());
    let (mode, verify) = match word.as_str() {
        "append" => (Mode::Append, false),
        "scatter" => (Mode::Scatter, false),
        "pair" => (Mode::Pair, false),
        "verify-append" => (Mode::Append, true),
        "verify-scatter" => (Mode::Scatter, true),
        "verify-pair" => (Mode::Pair, true),
        "-h" | "--help" | "help" => return Ok(Command::Help),
        other => return Err(format!("there is no command '{other}'; see --help")),
    };
    let mut raw = Raw::default();
    while let Some(arg) = args.next() {
        raw.take(arg, &mut args)?;
    }
    raw.finish(mode, verify)
}

/// Options as they were typed, before it is clear which of them belong to the command.
#[derive(Default)]
struct Raw {
    paths: Vec<PathBuf>,
    offsets: Option<[u64; 2]>,
    slots: Option<u64>,
    run: Option<u64>,
    pace: Pace,
    writer_option: Option<String>,
    expect_some: bool,
    json: bool,
}

impl Raw {
    fn take(&mut self, arg: String, rest: &mut impl Iterator<Item = String>) -> Result<(), String> {
        let mut value = || rest.next().ok_or_else(|| format!("{arg} needs a value"));
        let mut whole = || number(&arg, &value()?);
        match arg.as_str() {
            "--offset" => self.offsets = Some(two_numbers(&arg, &value()?)?),
            "--slots" => self.slots = Some(whole()?),
            "--run" => self.run = Some(whole()?),
            "--rate" => self.pace.rate = whole()?,
            "--seconds" => self.pace.time = Some(Duration::from_secs(whole()?)),
            "--count" => self.pace.count = Some(whole()?),
            "--ack-ms" => self.pace.ack = Duration::from_millis(whole()?),
            "--direct" => self.pace.direct = true,
            "--expect-some" => self.expect_some = true,
            "--json" => self.json = true,
            option if option.starts_with("--") => {
                return Err(format!("there is no option {option}; see --help"));
            }
            path => self.paths.push(path.into()),
        }
        if matches!(
            arg.as_str(),
            "--rate" | "--seconds" | "--count" | "--ack-ms" | "--direct"
        ) {
            self.writer_option = Some(arg);
        }
        Ok(())
    }

    fn finish(self, mode: Mode, verify: bool) -> Result<Command, String> {
        let wanted = if mode == Mode::Pair { 2 } else { 1 };
        if self.paths.len() != wanted {
            return Err(format!("{mode} needs {wanted} path(s), not {}", self.paths.len()));
        }
        if mode == Mode::Append && (self.offsets.is_some() || self.slots.is_some() || self.pace.direct) {
            return Err("append works on a plain file: --offset, --slots and --direct do not apply".into());
        }
        if let (true, Some(option)) = (verify, &self.writer_option) {
            return Err(format!("{option} is for writers"));
        }
        if !verify && (self.expect_some || self.json) {
            return Err("--expect-some and --json are for verifiers".into());
        }
        let slots = self.slots.unwrap_or(1024);
        if slots == 0 || slots > 1 << 28 {
            return Err("--slots must be between 1 and 268435456 (1 TiB of blocks)".into());
        }
        let mut paths = self.paths;
        let path_b = paths.last().cloned().unwrap_or_default();
        let place = Place {
            mode,
            path: paths.swap_remove(0),
            path_b,
            offsets: self.offsets.unwrap_or([0, 0]),
            slots,
            run: self.run.unwrap_or(1),
        };
        Ok(if verify {
            Command::Verify {
                place,
                expect_some: self.expect_some,
                json: self.json,
            }
        } else {
            Command::Write(place, self.pace)
        })
    }
}

fn number(option: &str, text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("{option} needs a whole number, not '{text}'"))
}

fn two_numbers(option: &str, text: &str) -> Result<[u64; 2], String> {
    Ok(match text.split_once(',') {
        Some((first, second)) => [number(option, first)?, number(option, second)?],
        None => [number(option, text)?; 2],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_writer_with_everything() {
        let command =
            parsed("pair /dev/a /dev/b --offset 4096,8192 --slots 16 --rate 50 --seconds 3 --direct");
        let place = Place {
            mode: Mode::Pair,
            path: "/dev/a".into(),
            path_b: "/dev/b".into(),
            offsets: [4096, 8192],
            slots: 16,
            run: 1,
        };
        let pace = Pace {
            rate: 50,
            time: Some(Duration::from_secs(3)),
            direct: true,
            ..Pace::default()
        };
        assert_eq!(command, Ok(Command::Write(place, pace)));
    }

    #[test]
    fn one_offset_counts_for_both_disks() {
        let Ok(Command::Verify {
            place,
            expect_some: true,
            json: true,
        }) = parsed("verify-pair a b --offset 512 --expect-some --json")
        else {
            panic!("a verifier was asked for");
        };
        assert_eq!(place.offsets, [512, 512]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for line in [
            "write x",
            "append",
            "append a b",
            "pair a",
            "append a --slots 4",
            "append a --direct",
            "scatter a --slots 0",
            "scatter a --slots many",
            "scatter a --json",
            "verify-scatter a --rate 3",
            "verify-scatter a --loud",
            "scatter a --rate",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
        assert_eq!(parsed("--help"), Ok(Command::Help));
    }
}
