//! The writers: put records down in order, each synced before the next begins, and tell the world how far they
//! got. They never stop on their own account; being killed at any instant is what they are for.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::Mode;
use crate::args::{Pace, Place};
use crate::latency::Latencies;
use crate::record::{APPEND_LEN, BLOCK_LEN, Found, Record, classify, scatter_slot};
use crate::verify::{AlignedBlock, survey};

/// Why a writer ended before it was told to.
#[derive(Debug)]
pub enum WriteError {
    /// The disk or file did not take or give what was asked.
    Disk {
        /// Which one.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A ring on the device does not fit the options.
    Ring {
        /// Which device.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// The `ACK` lines cannot be written: their reader is gone.
    Output(io::Error),
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk { path, doing, source } => write!(f, "cannot {doing} {}: {source}", path.display()),
            Self::Ring { path, why } => write!(f, "cannot continue on {}: {why}", path.display()),
            Self::Output(source) => write!(f, "cannot print progress: {source}"),
        }
    }
}

impl std::error::Error for WriteError {}

/// Writes records at `place` until `pace` says it is enough, printing `START`, `ACK` and `LAT` lines to `out`.
/// Returns the number of the last durable record, if there is one.
///
/// # Errors
/// See [`WriteError`]. Everything acknowledged before stays durable.
pub fn run(place: &Place, pace: &Pace, out: impl Write) -> Result<Option<u64>, WriteError> {
    match place.mode {
        Mode::Append => append(place, pace, out),
        Mode::Scatter => scatter(place, pace, out),
        Mode::Pair => pair(place, pace, out),
    }
}

/// A disk or file with its name, for messages.
struct Target {
    path: PathBuf,
    file: File,
}

impl Target {
    fn open(path: &Path, create: bool, direct: bool) -> Result<Self, WriteError> {
        let flags = if direct {
            rustix::fs::OFlags::DIRECT.bits()
        } else {
            0
        };
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(create)
            .custom_flags(flags.cast_signed());
        let file = options.open(path).map_err(failed(path, "open"))?;
        Ok(Self {
            path: path.into(),
            file,
        })
    }

    fn put(&self, buf: &[u8], offset: u64) -> Result<(), WriteError> {
        self.file
            .write_all_at(buf, offset)
            .map_err(failed(&self.path, "write"))?;
        self.file.sync_data().map_err(failed(&self.path, "sync"))
    }

    /// The highest good record in a ring, if any.
    fn highest(&self, place: &Place, offset: u64) -> Result<Option<u64>, WriteError> {
        let found = survey(&self.file, offset, place.slots, place.run).map_err(|why| WriteError::Ring {
            path: self.path.clone(),
            why,
        })?;
        let seqs = found.iter().filter_map(|found| match found {
            Found::Good(record) => Some(record.seq),
            Found::Empty | Found::Foreign | Found::Damaged => None,
        });
        Ok(seqs.max())
    }
}

fn failed(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> WriteError {
    move |source| WriteError::Disk {
        path: path.into(),
        doing,
        source,
    }
}

fn append(place: &Place, pace: &Pace, out: impl Write) -> Result<Option<u64>, WriteError> {
    let target = Target::open(&place.path, true, false)?;
    let start = append_end(&target, place.run)?;
    target
        .file
        .set_len(start * APPEND_LEN as u64)
        .map_err(failed(&target.path, "shorten"))?;
    let mut buf = [0; APPEND_LEN];
    stream(place.mode, pace, start, out, |seq, wall_ms| {
        Record {
            run: place.run,
            seq,
            wall_ms,
            slot: seq,
            slots: 0,
        }
        .encode_into(&mut buf);
        target.put(&buf, seq * APPEND_LEN as u64)
    })
}

/// The number the next record gets: one more than the last good one, looking from the end.
fn append_end(target: &Target, run: u64) -> Result<u64, WriteError> {
    let len = target
        .file
        .metadata()
        .map_err(failed(&target.path, "measure"))?
        .len();
    let mut buf = [0; APPEND_LEN];
    for index in (0..len / APPEND_LEN as u64).rev() {
        let at = index * APPEND_LEN as u64;
        target
            .file
            .read_exact_at(&mut buf, at)
            .map_err(failed(&target.path, "read"))?;
        if matches!(classify(&buf, run), Found::Good(record) if record.seq == index) {
            return Ok(index + 1);
        }
    }
    Ok(0)
}

fn scatter(place: &Place, pace: &Pace, out: impl Write) -> Result<Option<u64>, WriteError> {
    let target = Target::open(&place.path, false, pace.direct)?;
    let start = target
        .highest(place, place.offsets[0])?
        .map_or(0, |high| high + 1);
    let mut block = AlignedBlock::zeroed();
    stream(place.mode, pace, start, out, |seq, wall_ms| {
        let slot = scatter_slot(place.run, seq, place.slots);
        Record {
            run: place.run,
            seq,
            wall_ms,
            slot,
            slots: place.slots,
        }
        .encode_into(block.bytes_mut());
        target.put(block.bytes(), place.offsets[0] + slot * BLOCK_LEN as u64)
    })
}

fn pair(place: &Place, pace: &Pace, out: impl Write) -> Result<Option<u64>, WriteError> {
    let first = Target::open(&place.path, false, pace.direct)?;
    let second = Target::open(&place.path_b, false, pace.direct)?;
    first.highest(place, place.offsets[0])?;
    // B decides: a record that reached only A is written again to both, or B would keep a hole for ever.
    let start = second
        .highest(place, place.offsets[1])?
        .map_or(0, |high| high + 1);
    let mut block = AlignedBlock::zeroed();
    stream(place.mode, pace, start, out, |seq, wall_ms| {
        let slot = seq % place.slots;
        Record {
            run: place.run,
            seq,
            wall_ms,
            slot,
            slots: place.slots,
        }
        .encode_into(block.bytes_mut());
        first.put(block.bytes(), place.offsets[0] + slot * BLOCK_LEN as u64)?;
        second.put(block.bytes(), place.offsets[1] + slot * BLOCK_LEN as u64)
    })
}

/// The loop all writers share: pace, write through `put`, acknowledge, report.
fn stream(
    mode: Mode,
    pace: &Pace,
    start: u64,
    mut out: impl Write,
    mut put: impl FnMut(u64, u64) -> Result<(), WriteError>,
) -> Result<Option<u64>, WriteError> {
    let mut say = |line: String| {
        writeln!(out, "{line}")
            .and_then(|()| out.flush())
            .map_err(WriteError::Output)
    };
    say(format!("START {mode} {start}"))?;
    let begun = Instant::now();
    let mut latencies = Latencies::new(mode, begun);
    let mut told = None;
    let mut last = None;
    for written in 0_u64.. {
        if pace.count.is_some_and(|count| written >= count)
            || pace.time.is_some_and(|time| begun.elapsed() >= time)
        {
            break;
        }
        wait_for_turn(begun, pace.rate, written);
        let (seq, wall_ms, before) = (start + written, wall_clock_ms(), Instant::now());
        put(seq, wall_ms)?;
        let now = Instant::now();
        latencies.add(now.duration_since(before));
        last = Some((seq, wall_ms));
        if told.is_none_or(|told| now.duration_since(told) >= pace.ack) {
            told = Some(now);
            say(format!("ACK {mode} {seq} {wall_ms}"))?;
        }
        if let Some(line) = latencies.line(now, false) {
            say(line)?;
        }
    }
    if let Some((seq, wall_ms)) = last {
        say(format!("ACK {mode} {seq} {wall_ms}"))?;
    }
    if let Some(line) = latencies.line(Instant::now(), true) {
        say(line)?;
    }
    Ok(last.map(|(seq, _)| seq).or(start.checked_sub(1)))
}

fn wait_for_turn(begun: Instant, rate: u64, written: u64) {
    if rate == 0 {
        return;
    }
    let due =
        Duration::from_secs(written / rate) + Duration::from_nanos(written % rate * 1_000_000_000 / rate);
    std::thread::sleep(due.saturating_sub(begun.elapsed()));
}

fn wall_clock_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}
