//! Media that somebody has changed on the way, with everything in hand but the key: each way of it is found before anything
//! that was not sealed with the key is handed out. Media that are only damaged are the same to this code.

use std::fs;

use camino::Utf8Path;
use lifeboat_engine::ports::media::{Media, MediaError, Part, Seal, SegmentFile};
use lifeboat_engine::ports::store::ImageStore;
use lifeboat_engine::sealing::{ExportKey, KEY};
use lifeboat_model::VmId;
use uuid::Uuid;

use super::media::{ONE, Place, TWO, awaiting, content, exported_as, manifest, place, seal};
use super::world::{Rng, stream};
use crate::FileMedia;

const MANIFEST: &str = "lifeboat-export.sealed";
/// What is in front of the first chunk, what a chunk holds, and what it is on the medium.
const HEADER: usize = 56;
const CHUNK: usize = 64 << 10;
const SEALED: usize = CHUNK + 16;

/// What a carrier wants on the replica.
const FORGED: &[u8] = b"FORGED-BY-THE-CARRIER";

fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Rng(seed).fill(&mut bytes);
    bytes
}

/// Three whole chunks and a part of one, twice.
fn disks() -> [Vec<u8>; 2] {
    [random(1, 3 * CHUNK + 100), random(2, 3 * CHUNK + 100)]
}

async fn exported(n: u8) -> (Place, Vec<SegmentFile>) {
    let [one, two] = disks();
    exported_as(&seal(n), [&one, &two]).await
}

/// Nothing of a changed file is believed: a look says so, and what is read is the beginning of what was exported, then an
/// error.
async fn is_found(dir: &Utf8Path, seal: &Seal, file: &SegmentFile, genuine: &[u8], what: &str) {
    let checked = FileMedia.check(dir, seal, file).await;
    assert!(
        matches!(checked, Err(MediaError::Damaged { .. })),
        "{what}: {checked:?}"
    );
    let (read, said) = content(dir, seal, file).await;
    let said = said.unwrap_or_else(|| panic!("{what}: all of it was handed out"));
    assert!(said.contains(&file.part.name()), "{what}: {said}");
    assert!(genuine.starts_with(&read), "{what}: forged bytes were handed out");
}

/// The same where whoever reads the file believes its length: the cipher alone has to find it.
async fn the_cipher_finds(dir: &Utf8Path, file: &SegmentFile, bytes: &[u8], what: &str) {
    let path = dir.join(file.part.name());
    let good = fs::read(&path).unwrap();
    fs::write(&path, bytes).unwrap();
    let believed = SegmentFile {
        bytes: bytes.len() as u64,
        ..file.clone()
    };
    let genuine = &disks()[usize::try_from(file.part.number).unwrap()];
    is_found(dir, &seal(1), file, genuine, what).await;
    is_found(dir, &seal(1), &believed, genuine, what).await;
    fs::write(&path, good).unwrap();
}

#[tokio::test]
async fn every_bit_of_a_segment_and_of_a_manifest_counts() {
    let (p, files) = exported_as(&seal(1), [b"small", b"smaller"]).await;
    let path = p.dir.join(ONE.name());
    let good = fs::read(&path).unwrap();
    assert_eq!(good.len(), HEADER + 5 + 16);
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, bad).unwrap();
        is_found(&p.dir, &seal(1), &files[0], b"small", &format!("bit {bit}")).await;
    }
    fs::write(&path, good).unwrap();
    FileMedia.check(&p.dir, &seal(1), &files[0]).await.unwrap();
    let path = p.dir.join(MANIFEST);
    let good = fs::read(&path).unwrap();
    for byte in 0..good.len() {
        let mut bad = good.clone();
        bad[byte] ^= 0x10;
        fs::write(&path, bad).unwrap();
        let opened = FileMedia.open(&p.dir, &seal(1)).await;
        let other_name = (8..24).contains(&byte);
        match opened {
            Err(MediaError::Another { .. }) if other_name => {}
            Err(MediaError::Damaged { .. }) if !other_name => {}
            opened => panic!("byte {byte}: {opened:?}"),
        }
    }
    for len in 0..good.len() {
        fs::write(&path, &good[..len]).unwrap();
        let opened = FileMedia.open(&p.dir, &seal(1)).await;
        assert!(
            matches!(opened, Err(MediaError::Damaged { .. })),
            "{len} bytes: {opened:?}"
        );
    }
    fs::write(&path, good).unwrap();
    assert_eq!(FileMedia.open(&p.dir, &seal(1)).await.unwrap(), manifest(&files));
}

#[tokio::test]
async fn chunks_that_are_cut_off_doubled_moved_or_changed_are_found() {
    let (p, files) = exported(1).await;
    let file = &files[0];
    let good = fs::read(p.dir.join(ONE.name())).unwrap();
    assert_eq!(good.len(), HEADER + 3 * SEALED + 100 + 16);
    let head = &good[..HEADER];
    let chunks: Vec<&[u8]> = good[HEADER..].chunks(SEALED).collect();
    assert_eq!(chunks.len(), 4);
    let of = |order: &[usize]| {
        [
            head,
            &order.iter().map(|n| chunks[*n]).collect::<Vec<_>>().concat(),
        ]
        .concat()
    };
    assert_eq!(of(&[0, 1, 2, 3]), good);
    for order in [
        &[] as &[usize],
        &[0],
        &[0, 1],
        &[0, 1, 2],
        &[3],
        &[1, 0, 2, 3],
        &[0, 2, 1, 3],
        &[0, 1, 3, 2],
        &[0, 0, 1, 2, 3],
        &[0, 1, 1, 2, 3],
        &[0, 1, 2, 3, 3],
        &[0, 1, 2, 2],
        &[0, 2, 3],
        &[1, 2, 3],
    ] {
        the_cipher_finds(&p.dir, file, &of(order), &format!("chunks {order:?}")).await;
    }
    // Within a byte of every boundary, and in front of the first chunk.
    for n in 0..=4 {
        let at = (HEADER + n * SEALED).min(good.len());
        for cut in [at.saturating_sub(1), at, at + 1] {
            if cut < good.len() {
                the_cipher_finds(&p.dir, file, &good[..cut], &format!("cut at {cut}")).await;
                let mut flipped = good.clone();
                flipped[cut] ^= 0x80;
                the_cipher_finds(&p.dir, file, &flipped, &format!("changed at {cut}")).await;
            }
        }
    }
    for cut in [0, 7, 8, 24, HEADER - 1] {
        the_cipher_finds(&p.dir, file, &good[..cut], &format!("cut at {cut}")).await;
    }
    for more in [&[0u8][..], chunks[3], chunks[0]] {
        the_cipher_finds(&p.dir, file, &[&good, more].concat(), "continued").await;
    }
    fs::remove_file(p.dir.join(ONE.name())).unwrap();
    is_found(&p.dir, &seal(1), file, &[], "left out").await;
}

/// A segment of this export, and one of another, put in the place of one.
#[tokio::test]
async fn a_segment_is_only_at_its_place_in_its_export() {
    let (p, files) = exported(1).await;
    let genuine = disks();
    let whole = |dir: &Utf8Path, part: Part| fs::read(dir.join(part.name())).unwrap();
    let (one, two) = (whole(&p.dir, ONE), whole(&p.dir, TWO));
    assert_eq!(one.len(), two.len(), "their lengths do not tell them apart");
    the_cipher_finds(&p.dir, &files[0], &two, "swapped").await;
    // The header of the one, which its manifest names, with the chunks of the other.
    let mixed = [&one[..HEADER], &two[HEADER..]].concat();
    the_cipher_finds(&p.dir, &files[0], &mixed, "swapped below the header").await;
    // Whoever reads it could believe even the salt.
    let moved = SegmentFile {
        part: ONE,
        ..files[1].clone()
    };
    fs::write(p.dir.join(ONE.name()), &two).unwrap();
    is_found(&p.dir, &seal(1), &moved, &[], "moved with its salt").await;
    fs::write(p.dir.join(ONE.name()), &one).unwrap();

    // Exports that differ in one of the key, the name and the VM.
    let mut others = [seal(1), seal(1), seal(1)];
    others[0].sealing.key = ExportKey::new([9; KEY]);
    others[1].sealing.export = Uuid::from_u128(9);
    others[2].vm = VmId(Uuid::from_u128(9));
    for other in others {
        let (q, of_other) = exported_as(&other, [&genuine[0], &genuine[1]]).await;
        let foreign = whole(&q.dir, ONE);
        the_cipher_finds(&p.dir, &files[0], &foreign, "of another export").await;
        fs::write(p.dir.join(ONE.name()), &foreign).unwrap();
        is_found(&p.dir, &seal(1), &of_other[0], &[], "with its salt").await;
        fs::write(p.dir.join(ONE.name()), &one).unwrap();
        let opened = FileMedia.open(&q.dir, &seal(1)).await;
        assert!(
            matches!(
                opened,
                Err(MediaError::Damaged { .. } | MediaError::Another { .. })
            ),
            "{opened:?}"
        );
    }
    FileMedia.check(&p.dir, &seal(1), &files[0]).await.unwrap();
}

#[tokio::test]
async fn an_older_export_of_the_same_vm_is_not_the_awaited_one() {
    let (older, files) = exported(1).await;
    let opened = FileMedia.open(&older.dir, &seal(2)).await;
    let Err(e @ MediaError::Another { .. }) = opened else {
        panic!("{opened:?}")
    };
    let said = e.to_string();
    for word in [
        older.dir.as_str(),
        &seal(1).sealing.export.to_string(),
        &seal(2).sealing.export.to_string(),
        "import the newest export",
    ] {
        assert!(said.contains(word), "{said}");
    }
    // Its manifest under the name of the awaited export, and its segments under the awaited manifest.
    let (newer, _) = exported(2).await;
    let mut renamed = fs::read(older.dir.join(MANIFEST)).unwrap();
    renamed[8..24].copy_from_slice(seal(2).sealing.export.as_bytes());
    fs::write(older.dir.join(MANIFEST), renamed).unwrap();
    let opened = FileMedia.open(&older.dir, &seal(2)).await;
    assert!(matches!(opened, Err(MediaError::Damaged { .. })), "{opened:?}");
    fs::copy(newer.dir.join(MANIFEST), older.dir.join(MANIFEST)).unwrap();
    let awaited = FileMedia.open(&older.dir, &seal(2)).await.unwrap();
    for segment in &awaited.segments {
        is_found(&older.dir, &seal(2), &segment.file, &[], "an older segment").await;
    }
    assert!(
        files
            .iter()
            .all(|f| awaited.segments.iter().all(|s| s.file.salt != f.salt))
    );
}

#[tokio::test]
async fn no_file_opens_as_another_kind_and_none_of_an_earlier_version_at_all() {
    let (p, _) = exported(1).await;
    let segment = fs::read(p.dir.join(ONE.name())).unwrap();
    for text in [&segment[..], b"{\"version\":1}", b""] {
        fs::write(p.dir.join(MANIFEST), text).unwrap();
        let opened = FileMedia.open(&p.dir, &seal(1)).await;
        assert!(matches!(opened, Err(MediaError::Damaged { .. })), "{opened:?}");
    }
    // Nobody waits for the end of one that has none.
    let endless = fs::File::create(p.dir.join(MANIFEST)).unwrap();
    std::io::Write::write_all(&mut &endless, &segment[..HEADER]).unwrap();
    endless.set_len(1 << 40).unwrap();
    let opened = FileMedia.open(&p.dir, &seal(1)).await;
    assert!(matches!(opened, Err(MediaError::Damaged { .. })), "{opened:?}");
    fs::remove_file(p.dir.join(MANIFEST)).unwrap();
    fs::write(p.dir.join("lifeboat-export.json"), b"{\"version\":1}").unwrap();
    let said = FileMedia.open(&p.dir, &seal(1)).await.unwrap_err();
    assert!(matches!(said, MediaError::NotSealed(_)), "{said}");
    assert!(said.to_string().contains("export it again"), "{said}");
}

/// The bytes of a file made by another implementation of what `seal` specifies (Python's `cryptography`: HKDF and AESGCM).
#[tokio::test]
async fn a_file_of_another_implementation_opens() {
    let p = place();
    let seal = seal(5);
    FileMedia.begin(&p.dir, &seal).await.unwrap();
    let part = Part { disk: 3, number: 258 };
    let hex = include_str!("sealed_vector.txt").trim();
    let byte = |n: usize| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap();
    let bytes: Vec<u8> = (0..hex.len() / 2).map(byte).collect();
    fs::write(p.dir.join(part.name()), &bytes).unwrap();
    let file = SegmentFile {
        part,
        bytes: bytes.len() as u64,
        salt: (0..32).map(|n| format!("{:02x}", 0xc0 + n)).collect(),
    };
    let (read, said) = content(&p.dir, &seal, &file).await;
    assert_eq!((read.as_slice(), said), (&b"what a disk held"[..], None));
    assert_eq!(FileMedia.found(&p.dir, &seal).await.unwrap(), Some(vec![file]));
}

/// All that is below a directory.
fn everything(dir: &Utf8Path, into: &mut Vec<Vec<u8>>) {
    for entry in dir.read_dir_utf8().unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            everything(entry.path(), into)
        } else {
            into.push(fs::read(entry.path()).unwrap())
        }
    }
}

fn has(files: &[Vec<u8>], what: &[u8]) -> bool {
    files.iter().any(|f| f.windows(what.len()).any(|w| w == what))
}

/// The finding: a carrier wrote a segment and a manifest of their own, both were taken, and the replica's base began with
/// what the carrier had written. Here the medium even changes after it was looked at.
#[tokio::test]
async fn nothing_that_a_carrier_wrote_reaches_the_base_of_a_replica() {
    let (w, segments) = awaiting(903).await;
    let Place { dir: medium, .. } = &place();
    let own = Seal { vm: w.vm, ..seal(1) };
    let mut carrier = own.clone();
    carrier.sealing.key = ExportKey::new([7; KEY]);
    let target = w.disks().remove(0);
    let mut wanted = FORGED.to_vec();
    wanted.resize(512 * 1024, 0);
    let forged = w.segment(&target, 0, &wanted);
    let (believing, _) = awaiting(903).await;
    believing
        .store
        .import(believing.vm, stream(&forged))
        .await
        .unwrap();
    let mut files = Vec::new();
    everything(&believing.root, &mut files);
    assert!(has(&files, FORGED), "a log in the clear would be taken");

    FileMedia.begin(medium, &own).await.unwrap();
    let genuine = FileMedia
        .put(medium, &own, ONE, stream(&segments[0]))
        .await
        .unwrap();
    FileMedia.check(medium, &own, &genuine).await.unwrap();
    let kept = fs::read(medium.join(ONE.name())).unwrap();
    // As an earlier version wrote it; under a key of the carrier's; and the same with the genuine header.
    let plain = forged.clone();
    let resealed = FileMedia
        .put(medium, &carrier, ONE, stream(&forged))
        .await
        .unwrap();
    let theirs = fs::read(medium.join(ONE.name())).unwrap();
    let masked = [&kept[..HEADER], &theirs[HEADER..]].concat();
    for bytes in [plain, theirs, masked] {
        fs::write(medium.join(ONE.name()), &bytes).unwrap();
        for file in [&genuine, &resealed] {
            let believed = SegmentFile {
                bytes: bytes.len() as u64,
                ..file.clone()
            };
            assert!(FileMedia.check(medium, &own, &believed).await.is_err());
            if let Ok(body) = FileMedia.read(medium, &own, &believed).await {
                assert!(w.store.import(w.vm, body).await.is_err());
            }
        }
    }
    files.clear();
    everything(&w.root, &mut files);
    assert!(!files.is_empty() && !has(&files, FORGED), "it is on the replica");
    let info = w.store.info(w.vm).await.unwrap();
    assert!(info.bulk.iter().all(|b| b.done == 0), "{:?}", info.bulk);
    // What was exported is still taken.
    fs::write(medium.join(ONE.name()), kept).unwrap();
    let body = FileMedia.read(medium, &own, &genuine).await.unwrap();
    assert!(w.store.import(w.vm, body).await.unwrap().done > 0);
}

/// Whoever finds a medium learns nothing of what is in it.
#[tokio::test]
async fn a_medium_shows_nothing_of_a_disk() {
    let secret = b"the guest's own words ".repeat(5000);
    let (p, files) = exported_as(&seal(1), [&secret, FORGED]).await;
    let mut on_it = Vec::new();
    everything(&p.dir, &mut on_it);
    assert_eq!(on_it.len(), 4);
    for word in [
        &secret[..8],
        FORGED,
        b"web",
        b"segments",
        seal(1).vm.0.as_bytes(),
        &[1; KEY],
    ] {
        assert!(!has(&on_it, word), "{word:?}");
    }
    assert!(!has(&on_it, seal(1).vm.to_string().as_bytes()));
    assert_eq!(
        content(&p.dir, &seal(1), &files[1]).await,
        (FORGED.to_vec(), None)
    );
}
