//! What must hold for the delta log on any input. Shared by the fuzz targets and by a test of the crate that runs it over the
//! corpus and seeded mutations on a stable toolchain, so it uses only the public API and `arbitrary`.

use arbitrary::{Result, Unstructured};
use lifeboat_deltalog::{
    Consistency, DecodeError, Decoder, Encoder, FrameBody, FrameEncoder, Header, Item, LogDisk, LogKind,
    verify,
};
use lifeboat_model::{DiskId, GenerationId, Position, Timestamp, VmId};

/// What a decoder made of some bytes: the items, and how it ended.
type Outcome = (Vec<Item>, std::result::Result<(), DecodeError>);

fn run(bytes: &[u8], step: usize) -> Outcome {
    let mut decoder = Decoder::new();
    let mut items = Vec::new();
    for piece in bytes.chunks(step.max(1)) {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(item)) => items.push(item),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.next().unwrap_err(), error, "an error must stay");
                    return (items, Err(error));
                }
            }
        }
    }
    let end = decoder.finish();
    (items, end)
}

/// Arbitrary bytes: no panic, the same answer however they are cut, and what is accepted is a log in every respect.
pub(crate) fn decode(bytes: &[u8]) {
    let (items, end) = run(bytes, bytes.len());
    let step = 1 + bytes.first().map_or(0, |b| usize::from(*b) % 97);
    let (again, end_again) = run(bytes, step);
    assert_eq!(
        (&items, &end),
        (&again, &end_again),
        "pieces of {step} bytes change the answer"
    );
    assert_eq!(end.is_ok(), verify(bytes).is_ok());
    if let Err(error) = end {
        let ended = matches!(items.last(), Some(Item::End(_)));
        assert_eq!(
            ended,
            matches!(error, DecodeError::TrailingBytes { .. }),
            "{error}"
        );
        return;
    }
    let Some(Item::Header(header)) = items.first() else {
        panic!("accepted without a header")
    };
    let Some(Item::End(summary)) = items.last() else {
        panic!("accepted without an end")
    };
    // What was accepted can be written again and then says the same.
    let mut log = Vec::new();
    let mut encoder = Encoder::new(header, false, &mut log).expect("an accepted header");
    for item in &items {
        if let Item::Frame(frame) = item {
            let done = match &frame.body {
                FrameBody::Data(data) => encoder.data(frame.disk, frame.offset, data, &mut log),
                FrameBody::Zero(len) => encoder.zero(frame.disk, frame.offset, *len, &mut log),
            };
            done.expect("an accepted frame");
        }
    }
    let rewritten = encoder.finish(&mut log);
    assert_eq!(
        (&rewritten.extents, rewritten.frames),
        (&summary.extents, summary.frames)
    );
}

/// One disk's content, sector by sector: `None` where the log says nothing.
type Image = Vec<Option<[u8; 512]>>;

/// Sectors per disk in [`roundtrip`]: enough for several frames, small enough to compare whole.
const SECTORS: u16 = 128;

/// A log made from the input decodes to what was put in.
pub(crate) fn roundtrip(input: &[u8]) -> Result<()> {
    let mut u = Unstructured::new(input);
    let header = header(&mut u)?;
    let compress = u.arbitrary()?;
    let mut images: Vec<Image> = vec![vec![None; usize::from(SECTORS)]; header.disks.len()];
    let mut log = Vec::new();
    let mut encoder = Encoder::new(&header, compress, &mut log).expect("a valid header");
    let mut frames = FrameEncoder::new(compress);
    while !u.is_empty() {
        let disk = u.int_in_range(0..=u16::try_from(header.disks.len()).unwrap_or(1))?;
        let start = u.int_in_range(0..=SECTORS)?;
        let count = u.int_in_range(0..=16_u16)?;
        let how: u8 = u.int_in_range(0..=2)?;
        let content: [u8; 4] = u.arbitrary()?;
        let data: Vec<u8> = content
            .into_iter()
            .cycle()
            .take(usize::from(count) * 512)
            .collect();
        let (offset, len) = (u64::from(start) * 512, data.len() as u64);
        let before = log.len();
        let zeros = vec![0; data.len()];
        let (told, done) = match how {
            0 => (&data, encoder.data(disk, offset, &data, &mut log)),
            1 => (&zeros, encoder.zero(disk, offset, len, &mut log)),
            _ => {
                let made = frames.encode(disk, offset, &data);
                (&data, made.and_then(|f| encoder.push_frame(&f, &mut log)))
            }
        };
        let room = images
            .get_mut(usize::from(disk))
            .and_then(|i| i.get_mut(range(start, count)));
        let free = room.filter(|r| !r.is_empty() && r.iter().all(Option::is_none));
        match free {
            Some(room) => {
                done.expect("a range that is free");
                fill(room, told);
            }
            None => {
                done.expect_err("a range that is not free");
                assert_eq!(log.len(), before, "a refused frame leaves no bytes");
            }
        }
    }
    let written = encoder.finish(&mut log);
    let step = 1 + input.len() % 4096;
    let (items, end) = run(&log, step);
    assert_eq!(end, Ok(()));
    assert_eq!(items.first(), Some(&Item::Header(header)));
    assert_eq!(items.last(), Some(&Item::End(written)));
    assert_eq!(apply(&items, images.len()), images);
    Ok(())
}

fn range(start: u16, count: u16) -> std::ops::Range<usize> {
    usize::from(start)..usize::from(start) + usize::from(count)
}

fn fill(room: &mut [Option<[u8; 512]>], data: &[u8]) {
    let (sectors, _) = data.as_chunks::<512>();
    for (to, from) in room.iter_mut().zip(sectors) {
        *to = Some(*from);
    }
}

fn apply(items: &[Item], disks: usize) -> Vec<Image> {
    let mut images: Vec<Image> = vec![vec![None; usize::from(SECTORS)]; disks];
    for item in items {
        let Item::Frame(frame) = item else { continue };
        let zeros;
        let data = match &frame.body {
            FrameBody::Data(data) => data,
            FrameBody::Zero(len) => {
                zeros = vec![0; usize::try_from(*len).expect("small")];
                &zeros
            }
        };
        let first = usize::try_from(frame.offset / 512).expect("small");
        let image = images
            .get_mut(usize::from(frame.disk))
            .expect("a disk of the header");
        fill(
            image
                .get_mut(first..first + data.len() / 512)
                .expect("within the disk"),
            data,
        );
    }
    images
}

fn header(u: &mut Unstructured<'_>) -> Result<Header> {
    let count = u.int_in_range(1..=3_u8)?;
    let disk = |n: u8| LogDisk {
        id: DiskId::new(format!("disk-{n}")).expect("a disk id"),
        size: u64::from(SECTORS) * 512,
    };
    let mut position = |sequence| -> Result<Position> {
        let generation = GenerationId(uuid::Uuid::from_u128(u.arbitrary()?));
        Ok(Position::from_parts(generation, sequence))
    };
    let (parent, position) = (position(1)?, position(2)?);
    Ok(Header {
        vm: VmId(uuid::Uuid::from_u128(u.arbitrary()?)),
        kind: if u.arbitrary()? {
            LogKind::Delta
        } else {
            LogKind::Bulk
        },
        position,
        parent,
        instant: Timestamp(u.arbitrary()?),
        consistency: u
            .choose(&[Consistency::Crash, Consistency::Application, Consistency::Planned])
            .copied()?,
        disks: (0..count).map(disk).collect(),
    })
}
