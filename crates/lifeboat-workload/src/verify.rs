//! The verifiers: what a disk must hold follows from the highest record found on it; everything else is a fault.
//! They only read, and "could not tell" is an answer of its own, never a pass.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::Mode;
use crate::args::Place;
use crate::record::{APPEND_LEN, BLOCK_LEN, Found, Record, classify, scatter_slot};

/// The three answers a verifier has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The disk holds a state it really had.
    Ok,
    /// Something is lost, stale, damaged or out of order.
    Bad,
    /// Nothing can be said, for this reason.
    Unknown(String),
}

/// What was found, counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which stream was looked at.
    pub mode: Mode,
    /// The answer.
    pub verdict: Verdict,
    /// The last record up to which everything is there; `pair`: on both disks.
    pub high: Option<u64>,
    /// When that record was written, milliseconds since 1970; 0 without one.
    pub wall_ms: u64,
    /// Places that are empty, or hold another run's record, and should hold a record.
    pub holes: u64,
    /// Places that hold an older record than they should.
    pub stale: u64,
    /// Places with torn, garbled or misplaced content.
    pub damaged: u64,
    /// Whole records of other runs.
    pub foreign: u64,
    /// `append`: an empty place at the very end, where the record being written at the cut would have come.
    pub tail: u64,
    /// `pair`: highest record on disk A and on disk B.
    pub highs: Option<[Option<u64>; 2]>,
}

impl Report {
    fn new(mode: Mode) -> Self {
        Self {
            mode,
            verdict: Verdict::Ok,
            high: None,
            wall_ms: 0,
            holes: 0,
            stale: 0,
            damaged: 0,
            foreign: 0,
            tail: 0,
            highs: None,
        }
    }

    fn unknown(mode: Mode, why: String) -> Self {
        Self {
            verdict: Verdict::Unknown(why),
            ..Self::new(mode)
        }
    }

    fn judged(mut self, also_bad: bool) -> Self {
        if also_bad || self.holes + self.stale + self.damaged > 0 {
            self.verdict = Verdict::Bad;
        }
        self
    }

    /// The process exit code for this report: 0 OK, 1 BAD, 2 could not tell.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.verdict {
            Verdict::Ok => 0,
            Verdict::Bad => 1,
            Verdict::Unknown(_) => 2,
        }
    }

    fn word(&self) -> &'static str {
        match self.verdict {
            Verdict::Ok => "OK",
            Verdict::Bad => "BAD",
            Verdict::Unknown(_) => "UNKNOWN",
        }
    }

    /// All numbers with their names, in printing order. A record number that does not exist is -1.
    fn fields(&self) -> Vec<(&'static str, i128)> {
        let number = |high: Option<u64>| high.map_or(-1, i128::from);
        let mut fields = vec![
            ("high", number(self.high)),
            ("wall_ms", self.wall_ms.into()),
            ("holes", self.holes.into()),
            ("stale", self.stale.into()),
            ("damaged", self.damaged.into()),
            ("foreign", self.foreign.into()),
        ];
        if self.mode == Mode::Append {
            fields.push(("tail", self.tail.into()));
        }
        if let Some([high_a, high_b]) = self.highs {
            fields.extend([("high_a", number(high_a)), ("high_b", number(high_b))]);
        }
        fields
    }

    /// The report as one JSON object without a line break.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut json = format!(r#"{{"result":"{}","mode":"{}""#, self.word(), self.mode);
        for (name, value) in self.fields() {
            // Writing to a String cannot fail.
            let _ = write!(json, r#","{name}":{value}"#);
        }
        if let Verdict::Unknown(why) = &self.verdict {
            let _ = write!(json, r#","reason":"{}""#, json_escaped(why));
        }
        json.push('}');
        json
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RESULT {} mode={}", self.word(), self.mode)?;
        for (name, value) in self.fields() {
            write!(f, " {name}={value}")?;
        }
        match &self.verdict {
            Verdict::Unknown(why) => write!(f, " reason={why}"),
            Verdict::Ok | Verdict::Bad => Ok(()),
        }
    }
}

fn json_escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\\' => escaped.extend(['\\', character]),
            control if control.is_control() => {
                // Writing to a String cannot fail.
                let _ = write!(escaped, "\\u{:04x}", u32::from(control));
            }
            plain => escaped.push(plain),
        }
    }
    escaped
}

/// Verifies the stream at `place`. With `expect_some`, finding no record at all is [`Verdict::Unknown`].
#[must_use]
pub fn run(place: &Place, expect_some: bool) -> Report {
    let outcome = match place.mode {
        Mode::Append => append(place),
        Mode::Scatter => scatter(place),
        Mode::Pair => pair(place),
    };
    let mut report = outcome.unwrap_or_else(|why| Report::unknown(place.mode, why));
    let nothing = report
        .highs
        .map_or(report.high.is_none(), |highs| highs == [None, None]);
    if expect_some && nothing && report.verdict == Verdict::Ok {
        report.verdict = Verdict::Unknown("no record found".into());
    }
    report
}

fn open(path: &Path) -> Result<File, String> {
    File::open(path).map_err(|error| format!("cannot open {}: {error}", path.display()))
}

fn append(place: &Place) -> Result<Report, String> {
    let mut reader = BufReader::with_capacity(1 << 20, open(&place.path)?);
    let mut report = Report::new(Mode::Append);
    let mut empty_run = 0;
    let mut whole = true;
    for index in 0_u64.. {
        let mut buf = [0; APPEND_LEN];
        let got =
            fill(&mut reader, &mut buf).map_err(|e| format!("cannot read {}: {e}", place.path.display()))?;
        if got == 0 {
            break;
        }
        let found = if got == APPEND_LEN {
            classify(&buf, place.run)
        } else {
            Found::Damaged
        };
        if found == Found::Empty {
            empty_run += 1;
            continue;
        }
        // Something follows the empty places: they are a hole, not the end.
        report.holes += empty_run;
        whole &= empty_run == 0;
        empty_run = 0;
        match found {
            Found::Good(record) if record.seq == index && whole => {
                (report.high, report.wall_ms) = (Some(index), record.wall_ms);
            }
            Found::Good(record) if record.seq == index => {}
            Found::Good(record) if record.seq < index => (report.stale, whole) = (report.stale + 1, false),
            Found::Foreign => (report.foreign, whole) = (report.foreign + 1, false),
            Found::Good(_) | Found::Damaged | Found::Empty => {
                (report.damaged, whole) = (report.damaged + 1, false)
            }
        }
    }
    // Each record is synced before the next begins, so a cut leaves at most one place without its bytes.
    report.tail = empty_run;
    let bad = report.tail > 1 || report.foreign > 0;
    Ok(report.judged(bad))
}

/// Like `read_exact`, but says how much there was before the end.
fn fill(reader: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buf.len() {
        match reader.read(&mut buf[got..]) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

fn scatter(place: &Place) -> Result<Report, String> {
    let file = open(&place.path)?;
    let mut found = survey(&file, place.offsets[0], place.slots, place.run)
        .map_err(|why| format!("{}: {why}", place.path.display()))?;
    misplaced_is_damaged(&mut found, |record| {
        scatter_slot(place.run, record.seq, place.slots)
    });
    let mut report = Report::new(Mode::Scatter);
    let high = highest(&found);
    report.high = high.map(|record| record.seq);
    report.wall_ms = high.map_or(0, |record| record.wall_ms);
    let state = scatter_state(place, report.high);
    compare(&mut report, &found, &state);
    Ok(report.judged(false))
}

/// For each slot the record it holds once everything up to `high` is written. Goes backwards from the newest
/// and stops when every slot has one, so it costs by the size of the ring, not by the length of the stream.
fn scatter_state(place: &Place, high: Option<u64>) -> Vec<Option<u64>> {
    let mut state = vec![None; usize::try_from(place.slots).unwrap_or(usize::MAX)];
    let mut left = state.len();
    for seq in high.into_iter().flat_map(|high| (0..=high).rev()) {
        let slot = usize::try_from(scatter_slot(place.run, seq, place.slots)).unwrap_or(usize::MAX);
        if let Some(entry @ None) = state.get_mut(slot) {
            *entry = Some(seq);
            left -= 1;
        }
        if left == 0 {
            break;
        }
    }
    state
}

fn pair(place: &Place) -> Result<Report, String> {
    let mut report = Report::new(Mode::Pair);
    let mut highs = [None, None];
    for (disk, path) in [&place.path, &place.path_b].into_iter().enumerate() {
        let mut found = survey(&open(path)?, place.offsets[disk], place.slots, place.run)
            .map_err(|why| format!("{}: {why}", path.display()))?;
        misplaced_is_damaged(&mut found, |record| record.seq % place.slots);
        highs[disk] = highest(&found);
        compare(
            &mut report,
            &found,
            &ring_state(place.slots, highs[disk].map(|record| record.seq)),
        );
    }
    let [high_a, high_b] = highs.map(|high| high.map(|record| record.seq));
    report.highs = Some([high_a, high_b]);
    report.high = high_b;
    report.wall_ms = highs[1].map_or(0, |record| record.wall_ms);
    // A is synced before B begins: at any instant A is level with B or one ahead.
    let count = |high: Option<u64>| high.map_or(0, |high| u128::from(high) + 1);
    let lead = count(high_a).checked_sub(count(high_b));
    Ok(report.judged(!matches!(lead, Some(0 | 1))))
}

/// For each slot of a plain ring the newest record up to `high` that belongs there.
fn ring_state(slots: u64, high: Option<u64>) -> Vec<Option<u64>> {
    (0..slots)
        .map(|slot| high?.checked_sub(slot).map(|above| slot + above / slots * slots))
        .collect()
}

/// Reads a ring of `slots` blocks at `offset` and says what each slot holds.
///
/// # Errors
/// A sentence: the device is too short or unreadable, or its ring has another size.
pub(crate) fn survey(file: &File, offset: u64, slots: u64, run: u64) -> Result<Vec<Found>, String> {
    let mut block = AlignedBlock::zeroed();
    let mut found = Vec::new();
    for slot in 0..slots {
        let at = offset + slot * BLOCK_LEN as u64;
        file.read_exact_at(block.bytes_mut(), at).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                format!("ends before slot {slot} of {slots} (byte {at})")
            } else {
                format!("cannot read slot {slot} (byte {at}): {error}")
            }
        })?;
        let here = classify(block.bytes(), run);
        if let Found::Good(record) = here
            && record.slots != slots
        {
            return Err(format!(
                "the ring there was written with --slots {}, not {slots}",
                record.slots
            ));
        }
        found.push(here);
    }
    Ok(found)
}

/// A whole record in a slot that is not its own got there by a fault.
fn misplaced_is_damaged(found: &mut [Found], home: impl Fn(&Record) -> u64) {
    for (slot, found) in (0_u64..).zip(found) {
        if let Found::Good(record) = found
            && (record.slot != slot || home(record) != slot)
        {
            *found = Found::Damaged;
        }
    }
}

fn highest(found: &[Found]) -> Option<Record> {
    let good = found.iter().filter_map(|found| match found {
        Found::Good(record) => Some(*record),
        Found::Empty | Found::Foreign | Found::Damaged => None,
    });
    good.max_by_key(|record| record.seq)
}

fn compare(report: &mut Report, found: &[Found], wanted: &[Option<u64>]) {
    for (found, wanted) in found.iter().zip(wanted) {
        report.foreign += u64::from(*found == Found::Foreign);
        match (found, wanted) {
            (Found::Damaged, _) => report.damaged += 1,
            (Found::Empty | Found::Foreign, Some(_)) => report.holes += 1,
            (Found::Good(record), Some(wanted)) if record.seq < *wanted => report.stale += 1,
            (Found::Empty | Found::Foreign | Found::Good(_), _) => {}
        }
    }
}

/// A block where `O_DIRECT` accepts it.
#[repr(align(4096))]
pub(crate) struct AlignedBlock([u8; BLOCK_LEN]);

impl AlignedBlock {
    pub(crate) fn zeroed() -> Box<Self> {
        Box::new(Self([0; BLOCK_LEN]))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
