//! What is written is read back, for any content, order and cut. The oracle is a disk image in memory, and the second reader.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like the tests")]

mod common;
mod mini;

use common::{Rng, decode, header};
use lifeboat_deltalog::{
    Encoder, Frame, FrameBody, FrameEncoder, Item, LOG_TAIL, LogKind, MAX_FRAME_DATA, Summary, footer_len,
    read_index,
};
use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, RngSeed};

const SECTORS: usize = 6000;

/// How a range gets its content.
#[derive(Clone, Copy, Debug)]
enum Fill {
    Noise,
    Text,
    ZeroData,
    Zero,
    Mixed,
}

/// Ranges by (disk, gap before, length) in sectors, with content; they are written in a shuffled order.
#[derive(Clone, Debug)]
struct Plan {
    compress: bool,
    ranges: Vec<(usize, usize, usize, Fill)>,
    seed: u64,
    step: usize,
}

fn plan() -> impl Strategy<Value = Plan> {
    let fill = prop_oneof![
        Just(Fill::Noise),
        Just(Fill::Text),
        Just(Fill::ZeroData),
        Just(Fill::Zero),
        Just(Fill::Mixed)
    ];
    let len = prop_oneof![8 => 1_usize..40, 1 => 2040_usize..2060, 1 => 4090_usize..4100];
    let range = (0_usize..2, prop_oneof![Just(0), 0_usize..50], len, fill);
    (
        any::<bool>(),
        prop::collection::vec(range, 0..24),
        any::<u64>(),
        1_usize..100_000,
    )
        .prop_map(|(compress, ranges, seed, step)| Plan {
            compress,
            ranges,
            seed,
            step,
        })
}

fn content(fill: Fill, sectors: usize, rng: &mut Rng) -> Vec<u8> {
    let len = sectors * 512;
    match fill {
        Fill::Noise => rng.bytes(len),
        Fill::Text => b"all hands to the boats "
            .iter()
            .copied()
            .cycle()
            .take(len)
            .collect(),
        Fill::ZeroData | Fill::Zero => vec![0; len],
        Fill::Mixed => {
            let mut data = vec![0; len];
            data[len / 2] = 1;
            data
        }
    }
}

/// Places the ranges; those that do not fit on the disk any more are left out.
fn place(plan: &Plan, rng: &mut Rng) -> Vec<(u16, usize, Vec<u8>, Fill)> {
    let mut ends = [0; 2];
    let mut placed = Vec::new();
    for &(disk, gap, len, fill) in &plan.ranges {
        let start = ends[disk] + gap;
        if start + len <= SECTORS {
            ends[disk] = start + len;
            placed.push((u16::try_from(disk).unwrap(), start, content(fill, len, rng), fill));
        }
    }
    for i in (1..placed.len()).rev() {
        placed.swap(i, rng.below(i + 1));
    }
    placed
}

/// `None` in a sector that nothing was written to.
type Image = Vec<Option<Vec<u8>>>;

fn write(image: &mut [Image], disk: u16, sector: usize, data: &[u8]) {
    for (n, part) in data.chunks(512).enumerate() {
        assert_eq!(
            image[usize::from(disk)][sector + n].replace(part.to_vec()),
            None,
            "written twice"
        );
    }
}

/// The index as the page defines it, from the image alone.
fn extents(image: &Image) -> Vec<(u64, u64)> {
    let mut found: Vec<(u64, u64)> = Vec::new();
    for (n, _) in image.iter().enumerate().filter(|(_, s)| s.is_some()) {
        let at = n as u64 * 512;
        match found.last_mut() {
            Some(last) if last.0 + last.1 == at => last.1 += 512,
            _ => found.push((at, 512)),
        }
    }
    found
}

fn check(plan: &Plan) {
    let mut rng = Rng::new(plan.seed);
    let size = SECTORS as u64 * 512;
    let mut header = header(&[("a", size), ("b", size)]);
    let kinds = [LogKind::Delta, LogKind::Bulk, LogKind::Sync];
    header.kind = kinds[rng.below(kinds.len())];
    let kind = kinds.iter().position(|k| *k == header.kind).unwrap() + 1;
    let mut wanted: Vec<Image> = vec![vec![None; SECTORS]; 2];
    let mut log = Vec::new();
    let mut encoder = Encoder::new(&header, plan.compress, &mut log).unwrap();
    for (disk, sector, data, fill) in place(plan, &mut rng) {
        let offset = sector as u64 * 512;
        match fill {
            Fill::Zero => encoder.zero(disk, offset, data.len() as u64, &mut log).unwrap(),
            Fill::Noise | Fill::Text | Fill::ZeroData | Fill::Mixed => {
                encoder.data(disk, offset, &data, &mut log).unwrap();
            }
        }
        write(&mut wanted, disk, sector, &data);
    }
    let summary = encoder.finish(&mut log);
    let items = decode(&log, plan.step).unwrap();
    assert_eq!(items[0], Item::Header(header));
    assert_eq!(items.last(), Some(&Item::End(summary.clone())));
    check_frames(&items, &wanted, &summary);
    check_mini(&log, &items, &summary);
    assert_eq!(usize::from(mini::read(&log).unwrap().kind), kind);
    let footer = footer_len(log.last_chunk::<LOG_TAIL>().unwrap()).unwrap();
    let start = log.len() - usize::try_from(footer).unwrap();
    assert_eq!(read_index(&log[start..], 2).unwrap(), summary.extents);
    for wrong in [
        read_index(&log[start..], 1),
        read_index(&log[start..], 3),
        read_index(&log[start + 1..], 2),
    ] {
        wrong.unwrap_err();
    }
}

fn check_frames(items: &[Item], wanted: &[Image], summary: &Summary) {
    let mut got: Vec<Image> = vec![vec![None; SECTORS]; 2];
    let (mut data_bytes, mut zero_bytes) = (0, 0);
    let frames = &items[1..items.len() - 1];
    for item in frames {
        let Item::Frame(Frame { disk, offset, body }) = item else {
            panic!("{item:?} between frames")
        };
        let sector = usize::try_from(offset / 512).unwrap();
        match body {
            FrameBody::Data(data) => {
                assert!(data.len() <= MAX_FRAME_DATA && data.iter().any(|&b| b != 0));
                data_bytes += data.len() as u64;
                write(&mut got, *disk, sector, data);
            }
            FrameBody::Zero(len) => {
                zero_bytes += len;
                write(&mut got, *disk, sector, &vec![0; usize::try_from(*len).unwrap()]);
            }
        }
    }
    assert!(got == wanted, "the disks differ");
    assert_eq!(summary.extents, [extents(&wanted[0]), extents(&wanted[1])]);
    assert_eq!((summary.data_bytes, summary.zero_bytes), (data_bytes, zero_bytes));
    assert_eq!(summary.frames, frames.len() as u64);
}

fn check_mini(log: &[u8], items: &[Item], summary: &Summary) {
    let second = mini::read(log).unwrap();
    let frames = items.iter().filter_map(|item| match item {
        Item::Frame(Frame {
            disk,
            offset,
            body: FrameBody::Data(data),
        }) => Some((*disk, *offset, Ok(data.clone()))),
        Item::Frame(Frame {
            disk,
            offset,
            body: FrameBody::Zero(len),
        }) => Some((*disk, *offset, Err(*len))),
        Item::Header(_) | Item::End(_) => None,
    });
    assert!(
        frames.eq(second.frames.iter().cloned()),
        "the second reader sees other frames"
    );
    assert_eq!((&second.index, second.digest), (&summary.extents, summary.digest));
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 96,
        rng_seed: RngSeed::Fixed(0x11fe_b0a7),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_goes_in_comes_out(plan in plan()) {
        check(&plan);
    }
}

#[test]
fn frames_made_apart_are_the_bytes_the_encoder_writes() {
    let data = [Rng::new(1).bytes(2 << 20), vec![0; 1 << 20], vec![9; 1536]].concat();
    for compress in [false, true] {
        let h = header(&[("a", 1 << 30)]);
        let (mut one, mut other) = (Vec::new(), Vec::new());
        let mut whole = Encoder::new(&h, compress, &mut one).unwrap();
        whole.data(0, 512, &data, &mut one).unwrap();
        let mut parts = Encoder::new(&h, compress, &mut other).unwrap();
        for (n, chunk) in data.chunks(MAX_FRAME_DATA).enumerate() {
            let offset = 512 + (n * MAX_FRAME_DATA) as u64;
            let frame = FrameEncoder::new(compress).encode(0, offset, chunk).unwrap();
            parts.push_frame(&frame, &mut other).unwrap();
            assert!(other.ends_with(frame.as_bytes()));
        }
        assert_eq!(whole.finish(&mut one), parts.finish(&mut other));
        assert!(one == other);
    }
}

#[test]
fn an_incompressible_frame_costs_its_head_and_zeros_cost_almost_nothing() {
    let size_with = |data: &[u8]| {
        let mut log = Vec::new();
        let mut e = Encoder::new(&header(&[("a", 1 << 30)]), true, &mut log).unwrap();
        let before = log.len();
        e.data(0, 0, data, &mut log).unwrap();
        log.len() - before
    };
    assert_eq!(size_with(&Rng::new(2).bytes(1 << 20)), (1 << 20) + 32);
    assert_eq!(size_with(&vec![0; 1 << 20]), 32);
    assert!(size_with(&vec![1; 1 << 20]) < 256);
}
