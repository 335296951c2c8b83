//! Exports on real files, whole, interrupted and in places where they are not taken; and what the store takes in of them.
//! Those that were changed on the way are `forged`'s.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use futures_util::StreamExt;
use lifeboat_engine::ports::media::{Manifest, Media, MediaError, Part, Seal, Segment, SegmentFile};
use lifeboat_engine::ports::store::{ImageStore, StoreError};
use lifeboat_engine::sealing::{ExportKey, KEY, Sealing};
use lifeboat_model::{GenerationId, Position, VmId};
use uuid::Uuid;

use super::world::{World, body, stream};
use crate::FileMedia;

pub(super) const VM: VmId = VmId(Uuid::from_u128(7));

pub(super) const ONE: Part = Part { disk: 0, number: 0 };
pub(super) const TWO: Part = Part { disk: 0, number: 1 };

/// An export of this number, with a key that belongs to it.
pub(super) fn seal(n: u8) -> Seal {
    Seal {
        vm: VM,
        sealing: Sealing {
            export: Uuid::from_u128(n.into()),
            key: ExportKey::new([n; KEY]),
        },
    }
}

pub(super) struct Place {
    _tmp: tempfile::TempDir,
    pub(super) dir: Utf8PathBuf,
}

pub(super) fn place() -> Place {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Utf8PathBuf::from_path_buf(tmp.path().join("a/b")).unwrap();
    Place { _tmp: tmp, dir }
}

pub(super) fn names(dir: &Utf8Path) -> Vec<String> {
    let entries = dir.read_dir_utf8().unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().to_owned()).collect();
    names.sort();
    names
}

pub(super) fn manifest(files: &[SegmentFile]) -> Manifest {
    let segment = |(n, file): (u64, &SegmentFile)| Segment {
        from: n,
        to: n + 1,
        file: file.clone(),
    };
    Manifest {
        version: 2,
        vm: VM,
        name: "web".into(),
        start: Position::start(GenerationId(Uuid::from_u128(1))),
        disks: Vec::new(),
        segments: (0..).zip(files).map(segment).collect(),
    }
}

/// A complete export of two files with this content, in a directory of its own.
pub(super) async fn exported_as(seal: &Seal, content: [&[u8]; 2]) -> (Place, Vec<SegmentFile>) {
    let p = place();
    FileMedia.begin(&p.dir, seal).await.unwrap();
    let mut files = Vec::new();
    for (part, content) in [ONE, TWO].into_iter().zip(content) {
        let file = FileMedia.put(&p.dir, seal, part, stream(content)).await.unwrap();
        assert_eq!(file.part, part);
        assert_eq!(fs::metadata(p.dir.join(part.name())).unwrap().len(), file.bytes);
        files.push(file);
    }
    FileMedia.finish(&p.dir, seal, &manifest(&files)).await.unwrap();
    (p, files)
}

async fn exported() -> (Place, Vec<SegmentFile>) {
    exported_as(&seal(1), [&[1; 700_000], &[2; 5]]).await
}

/// All of a file's content, or why not.
pub(super) async fn content(dir: &Utf8Path, seal: &Seal, file: &SegmentFile) -> (Vec<u8>, Option<String>) {
    let mut read = Vec::new();
    let mut body = match FileMedia.read(dir, seal, file).await {
        Ok(body) => body,
        Err(e) => return (read, Some(e.to_string())),
    };
    while let Some(piece) = body.next().await {
        match piece {
            Ok(piece) => read.extend_from_slice(&piece),
            Err(e) => return (read, Some(e.to_string())),
        }
    }
    (read, None)
}

#[tokio::test]
async fn what_is_exported_is_read_again() {
    let (p, files) = exported().await;
    let seal = seal(1);
    assert_eq!(FileMedia.open(&p.dir, &seal).await.unwrap(), manifest(&files));
    for (file, is) in files.iter().zip([vec![1; 700_000], vec![2; 5]]) {
        FileMedia.check(&p.dir, &seal, file).await.unwrap();
        assert_eq!(content(&p.dir, &seal, file).await, (is, None));
    }
    let mode = |path: &Utf8Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&p.dir), 0o700);
    for name in names(&p.dir) {
        assert_eq!(mode(&p.dir.join(&name)), 0o600, "{name}");
    }
}

#[tokio::test]
async fn content_of_any_length_comes_back() {
    let p = place();
    let seal = seal(1);
    FileMedia.begin(&p.dir, &seal).await.unwrap();
    let chunk = 64 << 10;
    for len in [0, 1, chunk - 1, chunk, chunk + 1, 2 * chunk, 3 * chunk + 7] {
        let is: Vec<u8> = (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect();
        // In pieces that do not fit the chunks.
        let pieces = is.chunks(50_000).map(|c| Ok(Bytes::copy_from_slice(c)));
        let file = FileMedia
            .put(&p.dir, &seal, ONE, body(pieces.collect()))
            .await
            .unwrap();
        FileMedia.check(&p.dir, &seal, &file).await.unwrap();
        assert_eq!(content(&p.dir, &seal, &file).await, (is, None), "{len} bytes");
    }
}

#[tokio::test]
async fn only_an_empty_or_a_new_directory_is_taken() {
    let p = place();
    assert_eq!(FileMedia.found(&p.dir, &seal(1)).await.unwrap(), None);
    fs::create_dir_all(p.dir.join("lost+found")).unwrap();
    assert_eq!(
        FileMedia.found(&p.dir, &seal(1)).await.unwrap(),
        None,
        "a new file system"
    );
    FileMedia.begin(&p.dir, &seal(1)).await.unwrap();
    let found = FileMedia.found(&p.dir, &seal(2)).await;
    assert!(matches!(found, Err(MediaError::NotEmpty(_))), "{found:?}");
    let begun = FileMedia.begin(&p.dir, &seal(2)).await;
    assert!(matches!(begun, Err(MediaError::NotEmpty(_))), "{begun:?}");
    let p = place();
    fs::create_dir_all(&p.dir).unwrap();
    fs::write(p.dir.join("holiday.jpg"), b"x").unwrap();
    assert!(FileMedia.begin(&p.dir, &seal(1)).await.is_err());
    assert_eq!(names(&p.dir), ["holiday.jpg"]);
    fs::remove_file(p.dir.join("holiday.jpg")).unwrap();
    fs::write(p.dir.join("file"), b"x").unwrap();
    assert!(FileMedia.begin(&p.dir.join("file"), &seal(1)).await.is_err());
}

#[tokio::test]
async fn what_an_interruption_leaves_is_no_export_and_is_gone_on_with() {
    let p = place();
    let seal = seal(1);
    FileMedia.begin(&p.dir, &seal).await.unwrap();
    let whole = FileMedia
        .put(&p.dir, &seal, ONE, stream(&[3; 9000]))
        .await
        .unwrap();
    let broken = body(vec![
        Ok(Bytes::from_static(b"half")),
        Err(std::io::Error::other("the disk is gone")),
    ]);
    let put = FileMedia.put(&p.dir, &seal, TWO, broken).await;
    assert!(put.unwrap_err().to_string().contains("the disk is gone"));
    assert!(matches!(
        FileMedia.open(&p.dir, &seal).await,
        Err(MediaError::NoExport(_))
    ));
    FileMedia.begin(&p.dir, &seal).await.unwrap();
    assert_eq!(
        FileMedia.found(&p.dir, &seal).await.unwrap(),
        Some(vec![whole.clone()])
    );
    let two = FileMedia
        .put(&p.dir, &seal, TWO, stream(b"all of it"))
        .await
        .unwrap();
    assert_eq!(content(&p.dir, &seal, &two).await, (b"all of it".to_vec(), None));
    assert_eq!(
        names(&p.dir),
        ["00-000000.segment", "00-000001.segment", "lifeboat-export.begun"]
    );
    // One that does not open any more is no part of it and is written again.
    let path = p.dir.join(TWO.name());
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(FileMedia.found(&p.dir, &seal).await.unwrap(), Some(vec![whole]));
}

/// A disk goes on changing while a piece that was interrupted waits to be written again. Both writings may be on the medium,
/// the first one in space that is free now; with one key stream they would give each other away.
#[tokio::test]
async fn no_two_writings_share_a_key_stream() {
    let p = place();
    let seal = seal(1);
    FileMedia.begin(&p.dir, &seal).await.unwrap();
    let (mut writings, mut files) = (Vec::new(), Vec::new());
    for part in [ONE, ONE, TWO] {
        let file = FileMedia
            .put(&p.dir, &seal, part, stream(&[0; 1000]))
            .await
            .unwrap();
        // Of zeros, encrypted, the key stream itself.
        writings.push(fs::read(p.dir.join(part.name())).unwrap().split_off(56));
        files.push(file);
    }
    for (n, one) in writings.iter().enumerate() {
        for other in &writings[..n] {
            let same = one.iter().zip(other).filter(|(a, b)| a == b).count();
            assert!(same < 64, "{same} of {} bytes are the same", one.len());
        }
    }
    assert!(files[0].salt != files[1].salt && files[0].salt.len() == 64);
    assert_eq!(content(&p.dir, &seal, &files[1]).await, (vec![0; 1000], None));
    // The first writing, put back, is not the one that the manifest names.
    let (bytes, said) = content(&p.dir, &seal, &files[0]).await;
    assert!(bytes.is_empty() && said.unwrap().contains("another one of this name"));
}

#[test]
fn a_name_of_a_file_is_that_of_its_part_alone() {
    for part in [
        ONE,
        TWO,
        Part {
            disk: 123,
            number: 1 << 40,
        },
    ] {
        assert_eq!(Part::of(&part.name()), Some(part));
    }
    for name in [
        "",
        ".segment",
        "0-0.segment",
        "+0-000000.segment",
        "00-+00000.segment",
        "00-000000.segment.unfinished",
        "../00-000000.segment",
        "00-0000000.segment",
        "99999-000000.segment",
        "lifeboat-export.sealed",
    ] {
        assert_eq!(Part::of(name), None, "{name}");
    }
}

/// A replica that has logs but no copy yet, the copy in segments, and what it makes of the disks.
pub(super) async fn awaiting(seed: u64) -> (World, Vec<Vec<u8>>) {
    let mut w = World::new(seed).await;
    let mut segments = Vec::new();
    for target in w.disks() {
        let mut done = 0;
        while done < target.size {
            let len = (512 * 1024).min(target.size - done);
            let mut bytes = vec![0; usize::try_from(len).unwrap()];
            w.rng.fill(&mut bytes);
            segments.push(w.segment(&target, done, &bytes));
            let from = usize::try_from(done).unwrap();
            w.now.get_mut(&target.id).unwrap()[from..from + bytes.len()].copy_from_slice(&bytes);
            done += len;
        }
    }
    w.at.insert(w.start, w.now.clone());
    for _ in 0..3 {
        w.receive().await;
    }
    (w, segments)
}

#[tokio::test]
async fn an_imported_copy_goes_below_the_logs_that_wait() {
    let (mut w, segments) = awaiting(900).await;
    for (n, segment) in segments.iter().enumerate() {
        let network = w.store.bulk(w.vm, stream(segment)).await;
        assert!(
            matches!(network, Err(StoreError::Conflict(_))),
            "over the network it is too late"
        );
        if n == 2 {
            // Interrupted within a frame, and after a start of the daemon from its beginning again.
            let half = segment.len() * 2 / 3;
            let broken = vec![
                Ok(Bytes::copy_from_slice(&segment[..half])),
                Err(std::io::Error::other("pulled out")),
            ];
            assert!(w.store.import(w.vm, body(broken)).await.is_err());
            w.reopen().await;
        }
        w.store.import(w.vm, stream(segment)).await.unwrap();
        // A log may arrive at any moment, and a segment twice.
        w.receive().await;
        w.store.import(w.vm, stream(segment)).await.unwrap();
    }
    w.seal().await;
    w.check().await;
    let late = w.store.import(w.vm, stream(&segments[0])).await;
    assert!(matches!(late, Err(StoreError::Conflict(_))), "{late:?}");
    w.rounds(1).await;
    w.check().await;
}

#[tokio::test]
async fn segments_that_leave_a_gap_or_are_of_another_copy_are_refused() {
    let (w, segments) = awaiting(901).await;
    let gap = w.store.import(w.vm, stream(&segments[1])).await;
    assert!(matches!(gap, Err(StoreError::BadLog(_))), "{gap:?}");
    let mut other = World::new(902).await;
    other.vm = w.vm;
    let target = w.disks().remove(0);
    let foreign = other.segment(&target, 0, &[1; 512]);
    let refused = w.store.import(w.vm, stream(&foreign)).await;
    assert!(matches!(refused, Err(StoreError::BadLog(_))), "{refused:?}");
    let info = w.store.info(w.vm).await.unwrap();
    assert!(info.bulk.iter().all(|b| b.done == 0));
}

/// Whatever is asked of this directory is refused, in words with these in them, and nothing of it is changed.
async fn is_not_taken(dir: &Utf8Path, words: &str) {
    let before = fs::metadata(dir).map(|m| m.permissions().mode()).ok();
    let seal = seal(1);
    let answers = [
        FileMedia.found(dir, &seal).await.map(|_| ()),
        FileMedia.begin(dir, &seal).await,
        FileMedia.put(dir, &seal, ONE, stream(b"x")).await.map(|_| ()),
        FileMedia.finish(dir, &seal, &manifest(&[])).await,
    ];
    for answer in answers {
        let error = answer.unwrap_err();
        let said = error.to_string();
        assert!(
            matches!(error, MediaError::NotTaken { .. }) && said.contains(words),
            "{dir}: {said}"
        );
    }
    let after = fs::metadata(dir).map(|m| m.permissions().mode()).ok();
    assert_eq!(before, after, "permissions are not this program's to change");
}

/// Whatever is to be read of it is refused.
async fn is_not_read(dir: &Utf8Path, files: &[SegmentFile]) {
    let seal = seal(1);
    let answers = [
        FileMedia.open(dir, &seal).await.map(|_| ()),
        FileMedia.check(dir, &seal, &files[0]).await,
        FileMedia.read(dir, &seal, &files[0]).await.map(|_| ()),
    ];
    for answer in answers {
        assert!(
            matches!(answer, Err(MediaError::NotTaken { .. })),
            "{dir}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn no_link_is_followed_on_the_way_to_a_medium() {
    let (p, files) = exported().await;
    let beside = p.dir.parent().unwrap();
    // The last part, one before it, and one that leads nowhere yet.
    for (name, to, dir) in [
        ("last", p.dir.as_str(), "last"),
        ("before", beside.as_str(), "before/b"),
        ("later", "not-there", "later/x"),
        ("relative", ".", "relative/new"),
    ] {
        symlink(to, beside.join(name)).unwrap();
        is_not_taken(&beside.join(dir), "symbolic link").await;
    }
    is_not_read(&beside.join("last"), &files).await;
    is_not_read(&beside.join("before/b"), &files).await;
    assert!(!beside.join("not-there").exists() && !beside.join("new").exists());
    assert_eq!(FileMedia.open(&p.dir, &seal(1)).await.unwrap(), manifest(&files));
}

#[tokio::test]
async fn a_directory_that_others_can_write_to_is_not_taken_and_stays_as_it_is() {
    for mode in [0o777, 0o1777, 0o770, 0o702] {
        let p = place();
        fs::create_dir_all(&p.dir).unwrap();
        fs::set_permissions(&p.dir, fs::Permissions::from_mode(mode)).unwrap();
        is_not_taken(&p.dir, "chmod go-w").await;
        assert!(names(&p.dir).is_empty());
    }
    let (p, files) = exported().await;
    fs::set_permissions(&p.dir, fs::Permissions::from_mode(0o777)).unwrap();
    is_not_read(&p.dir, &files).await;
    // Empty and this user's own: taken, with the permissions it has.
    let p = place();
    fs::create_dir_all(&p.dir).unwrap();
    fs::set_permissions(&p.dir, fs::Permissions::from_mode(0o755)).unwrap();
    FileMedia.begin(&p.dir, &seal(1)).await.unwrap();
    let mode = |path: &Utf8Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&p.dir), 0o755);
    assert_eq!(mode(&p.dir.join("lifeboat-export.begun")), 0o600);
    if rustix::process::geteuid().is_root() {
        let p = place();
        fs::create_dir_all(&p.dir).unwrap();
        std::os::unix::fs::chown(&p.dir, Some(1000), Some(1000)).unwrap();
        is_not_taken(&p.dir, "belongs to user 1000").await;
    }
}

#[tokio::test]
async fn what_is_no_file_is_not_waited_for() {
    let (p, files) = exported().await;
    let seal = seal(1);
    let segment = files[0].part.name();
    for name in ["lifeboat-export.sealed", &segment, "lifeboat-export.begun"] {
        let path = p.dir.join(name);
        fs::remove_file(&path).unwrap();
        super::world::run_ok("mkfifo", &[path.as_str()]);
    }
    assert!(FileMedia.open(&p.dir, &seal).await.is_err());
    assert!(FileMedia.check(&p.dir, &seal, &files[0]).await.is_err());
    assert!(FileMedia.read(&p.dir, &seal, &files[0]).await.is_err());
    assert!(FileMedia.found(&p.dir, &seal).await.is_err());
}
