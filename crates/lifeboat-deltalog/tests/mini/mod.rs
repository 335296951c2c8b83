//! A second reader of delta logs, written from `docs/deltalog.md` alone: it shares no code with the crate. It takes a whole
//! log in memory, cares for clarity and not for speed, and panics nowhere.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

/// What the page calls a log, in plain numbers.
#[derive(Debug, PartialEq, Eq)]
pub struct MiniLog {
    pub vm: [u8; 16],
    pub position: ([u8; 16], u64),
    pub parent: ([u8; 16], u64),
    pub instant: u64,
    pub kind: u8,
    pub consistency: u8,
    /// Id and size.
    pub disks: Vec<(String, u64)>,
    /// Disk, offset, content; `Err(length)` for zeros.
    pub frames: Vec<(u16, u64, Result<Vec<u8>, u64>)>,
    /// Per disk (offset, length).
    pub index: Vec<Vec<(u64, u64)>>,
    pub data_total: u64,
    pub zero_total: u64,
    pub digest: [u8; 32],
}

struct Cursor<'a> {
    all: &'a [u8],
    at: usize,
}

type Read<T> = Result<T, &'static str>;

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Read<&'a [u8]> {
        let end = self.at.checked_add(n).ok_or("overflow")?;
        let bytes = self.all.get(self.at..end).ok_or("ends early")?;
        self.at = end;
        Ok(bytes)
    }

    /// A little-endian integer of `n` bytes.
    fn int(&mut self, n: usize) -> Read<u64> {
        Ok(self
            .take(n)?
            .iter()
            .rev()
            .fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    fn uuid(&mut self) -> Read<[u8; 16]> {
        self.take(16)?.try_into().map_err(|_| "uuid")
    }

    fn crc_since(&self, start: usize) -> u64 {
        u64::from(crc32c::crc32c(&self.all[start..self.at]))
    }
}

fn must(holds: bool, rule: &'static str) -> Read<()> {
    if holds { Ok(()) } else { Err(rule) }
}

/// Reads a log as the page says, or names the rule it breaks.
pub fn read(log: &[u8]) -> Read<MiniLog> {
    let mut c = Cursor { all: log, at: 0 };
    let mut mini = header(&mut c)?;
    let mut frames = 0;
    while log.get(c.at..c.at + 4) == Some(b"LBFR") {
        frame(&mut c, &mut mini)?;
        frames += 1;
    }
    footer(&mut c, &mut mini, frames)?;
    must(c.at == log.len(), "nothing follows the footer")?;
    Ok(mini)
}

fn header(c: &mut Cursor<'_>) -> Read<MiniLog> {
    must(c.take(8)? == b"LBDELTA\0", "magic")?;
    must(c.int(4)? == 1, "version")?;
    let length = c.int(4)?;
    let vm = c.uuid()?;
    let position = (c.uuid()?, c.int(8)?);
    let parent = (c.uuid()?, c.int(8)?);
    let instant = c.int(8)?;
    let (kind, consistency) = (c.take(1)?[0], c.take(1)?[0]);
    must(
        (1..=3).contains(&kind) && (1..=3).contains(&consistency),
        "kind, consistency",
    )?;
    let n = c.int(2)?;
    must(
        (1..=64).contains(&n) && length == 100 + 24 * n,
        "disks and header length",
    )?;
    must(c.int(4)? == 0, "flags")?;
    let mut disks: Vec<(String, u64)> = Vec::new();
    for _ in 0..n {
        let field = c.take(16)?;
        let id: String = field
            .iter()
            .take_while(|&&b| b != 0)
            .map(|&b| char::from(b))
            .collect();
        must(
            field[id.chars().count()..].iter().all(|&b| b == 0),
            "padding of the id",
        )?;
        let letters = id.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        must(
            letters && !id.is_empty() && !id.starts_with('-'),
            "letters of the id",
        )?;
        must(disks.iter().all(|(other, _)| *other != id), "an id twice")?;
        let size = c.int(8)?;
        must(
            size >= 512 && size.is_multiple_of(512) && size <= 1 << 56,
            "disk size",
        )?;
        disks.push((id, size));
    }
    let crc = c.crc_since(0);
    must(c.int(4)? == crc, "header CRC")?;
    must(
        kind == 2 || position.0 != parent.0 || parent.1 < position.1,
        "leads forward",
    )?;
    let index = vec![Vec::new(); disks.len()];
    let (frames, digest) = (Vec::new(), [0; 32]);
    let (data_total, zero_total) = (0, 0);
    Ok(MiniLog {
        vm,
        position,
        parent,
        instant,
        kind,
        consistency,
        disks,
        frames,
        index,
        data_total,
        zero_total,
        digest,
    })
}

fn frame(c: &mut Cursor<'_>, mini: &mut MiniLog) -> Read<()> {
    let start = c.at;
    c.take(4)?;
    let (kind, codec) = (c.take(1)?[0], c.take(1)?[0]);
    let disk = u16::try_from(c.int(2)?).map_err(|_| "disk")?;
    let (offset, length, stored) = (c.int(8)?, c.int(8)?, c.int(4)?);
    let head_crc = crc32c::crc32c(&c.all[start..c.at]);
    let crc = c.int(4)?;
    let (_, size) = mini.disks.get(usize::from(disk)).ok_or("disk index")?;
    must(
        length > 0 && length.is_multiple_of(512) && offset.is_multiple_of(512),
        "sectors",
    )?;
    must(
        offset.checked_add(length).is_some_and(|end| end <= *size),
        "within the disk",
    )?;
    must(kind == 2 || length <= 1 << 20, "1 MiB of data")?;
    match (kind, codec) {
        (1, 0) => must(stored == length, "stored raw")?,
        (1, 1) => must(stored > 0 && stored < length, "stored zstd")?,
        (2, 0) => must(stored == 0, "stored zero")?,
        _ => return Err("kind and codec"),
    }
    let payload = c.take(usize::try_from(stored).map_err(|_| "stored")?)?;
    must(
        u64::from(crc32c::crc32c_append(head_crc, payload)) == crc,
        "frame CRC",
    )?;
    let content = match (kind, codec) {
        (1, 0) => Ok(payload.to_vec()),
        (1, _) => {
            let frame_len = zstd::zstd_safe::find_frame_compressed_size(payload).map_err(|_| "zstd frame")?;
            must(frame_len == payload.len(), "one zstd frame")?;
            let data = zstd::bulk::decompress(payload, 1 << 20).map_err(|_| "zstd")?;
            must(data.len() as u64 == length, "unpacked length")?;
            Ok(data)
        }
        _ => Err(length),
    };
    match &content {
        Ok(_) => mini.data_total += length,
        Err(_) => mini.zero_total += length,
    }
    mini.frames.push((disk, offset, content));
    Ok(())
}

fn footer(c: &mut Cursor<'_>, mini: &mut MiniLog, frames: u64) -> Read<()> {
    let start = c.at;
    must(c.take(8)? == b"LBFOOTER", "footer magic")?;
    must(
        c.int(8)? == mini.data_total && c.int(8)? == mini.zero_total,
        "totals",
    )?;
    must(c.int(8)? == frames, "frame count")?;
    let mut counts = Vec::new();
    for _ in &mini.disks {
        counts.push(c.int(4)?);
    }
    must(counts.iter().sum::<u64>() <= 1 << 22, "extents")?;
    for (disk, count) in counts.iter().enumerate() {
        for _ in 0..*count {
            let extent = (c.int(8)?, c.int(8)?);
            mini.index[disk].push(extent);
        }
        must(mini.index[disk] == covered(mini, disk)?, "index")?;
    }
    let length = (c.at - start + 44) as u64;
    must(c.int(8)? == length, "footer length")?;
    let crc = c.crc_since(start);
    must(c.int(4)? == crc, "footer CRC")?;
    let digest = *blake3::hash(&c.all[..c.at]).as_bytes();
    must(c.take(32)? == digest, "digest")?;
    mini.digest = digest;
    Ok(())
}

/// The extents that the frames of one disk cover: sorted, without overlap, touching ones joined.
fn covered(mini: &MiniLog, disk: usize) -> Read<Vec<(u64, u64)>> {
    let of_disk = mini.frames.iter().filter(|f| usize::from(f.0) == disk);
    let mut spans: Vec<(u64, u64)> = of_disk
        .map(|f| {
            (
                f.1,
                f.2.as_ref().map_or_else(|zeros| *zeros, |data| data.len() as u64),
            )
        })
        .collect();
    spans.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (offset, length) in spans {
        match joined.last_mut() {
            Some(last) if last.0 + last.1 > offset => return Err("frames overlap"),
            Some(last) if last.0 + last.1 == offset => last.1 += length,
            _ => joined.push((offset, length)),
        }
    }
    Ok(joined)
}
