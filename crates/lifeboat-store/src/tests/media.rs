//! Exports on real files, whole, interrupted, damaged and forged; and what the store takes in of them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use futures_util::StreamExt;
use lifeboat_engine::ports::media::{Manifest, Media, MediaError, Segment, SegmentFile};
use lifeboat_engine::ports::store::{ReplicaStore, StoreError};
use lifeboat_model::{GenerationId, Position, VmId};
use uuid::Uuid;

use super::world::{World, body, stream};
use crate::FileMedia;

const VM: VmId = VmId(Uuid::from_u128(7));

fn start(n: u128) -> Position {
    Position::start(GenerationId(Uuid::from_u128(n)))
}

struct Place {
    _tmp: tempfile::TempDir,
    dir: Utf8PathBuf,
}

fn place() -> Place {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Utf8PathBuf::from_path_buf(tmp.path().join("a/b")).unwrap();
    Place { _tmp: tmp, dir }
}

fn names(dir: &Utf8Path) -> Vec<String> {
    let entries = dir.read_dir_utf8().unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().to_owned()).collect();
    names.sort();
    names
}

fn manifest(files: &[SegmentFile]) -> Manifest {
    let segment = |(n, file): (u64, &SegmentFile)| Segment {
        disk: 0,
        from: n,
        to: n + 1,
        file: file.clone(),
    };
    Manifest {
        version: 1,
        vm: VM,
        name: "web".into(),
        start: start(1),
        disks: Vec::new(),
        segments: (0..).zip(files).map(segment).collect(),
    }
}

/// A complete export of two files.
async fn exported() -> (Place, Vec<SegmentFile>) {
    let p = place();
    FileMedia.begin(&p.dir, VM, start(1)).await.unwrap();
    let mut files = Vec::new();
    for (name, content) in [
        ("00-000000.segment", vec![1; 700_000]),
        ("00-000001.segment", vec![2; 5]),
    ] {
        let file = FileMedia.put(&p.dir, name, stream(&content)).await.unwrap();
        assert_eq!((file.bytes, file.name.as_str()), (content.len() as u64, name));
        files.push(file);
    }
    FileMedia.finish(&p.dir, &manifest(&files)).await.unwrap();
    (p, files)
}

#[tokio::test]
async fn what_is_exported_is_read_again() {
    let (p, files) = exported().await;
    let sum = super::world::run_ok("sha256sum", &[p.dir.join(&files[0].name).as_str()]);
    assert_eq!(FileMedia.open(&p.dir).await.unwrap(), manifest(&files));
    for file in &files {
        FileMedia.check(&p.dir, file).await.unwrap();
        let mut read = Vec::new();
        let mut body = FileMedia.read(&p.dir, file).await.unwrap();
        while let Some(piece) = body.next().await {
            read.extend_from_slice(&piece.unwrap());
        }
        assert_eq!(read, fs::read(p.dir.join(&file.name)).unwrap());
    }
    assert_eq!(
        sum,
        super::world::run_ok("sha256sum", &[p.dir.join(&files[0].name).as_str()])
    );
    let mode = |path: &Utf8Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&p.dir), 0o700);
    for name in names(&p.dir) {
        assert_eq!(mode(&p.dir.join(&name)), 0o600, "{name}");
    }
}

#[tokio::test]
async fn only_an_empty_or_a_new_directory_is_taken() {
    let p = place();
    assert_eq!(FileMedia.found(&p.dir, VM, start(1)).await.unwrap(), None);
    fs::create_dir_all(p.dir.join("lost+found")).unwrap();
    assert_eq!(
        FileMedia.found(&p.dir, VM, start(1)).await.unwrap(),
        None,
        "a new file system"
    );
    FileMedia.begin(&p.dir, VM, start(1)).await.unwrap();
    for (vm, start) in [(VM, start(2)), (VmId(Uuid::from_u128(8)), start(1))] {
        let found = FileMedia.found(&p.dir, vm, start).await;
        assert!(matches!(found, Err(MediaError::NotEmpty(_))), "{found:?}");
        let begun = FileMedia.begin(&p.dir, vm, start).await;
        assert!(matches!(begun, Err(MediaError::NotEmpty(_))), "{begun:?}");
    }
    let p = place();
    fs::create_dir_all(&p.dir).unwrap();
    fs::write(p.dir.join("holiday.jpg"), b"x").unwrap();
    assert!(FileMedia.begin(&p.dir, VM, start(1)).await.is_err());
    assert_eq!(names(&p.dir), ["holiday.jpg"]);
    fs::remove_file(p.dir.join("holiday.jpg")).unwrap();
    fs::write(p.dir.join("file"), b"x").unwrap();
    assert!(FileMedia.begin(&p.dir.join("file"), VM, start(1)).await.is_err());
}

#[tokio::test]
async fn what_an_interruption_leaves_is_no_export_and_is_gone_on_with() {
    let p = place();
    FileMedia.begin(&p.dir, VM, start(1)).await.unwrap();
    let whole = FileMedia
        .put(&p.dir, "00-000000.segment", stream(&[3; 9000]))
        .await
        .unwrap();
    let broken = body(vec![
        Ok(Bytes::from_static(b"half")),
        Err(std::io::Error::other("the disk is gone")),
    ]);
    let put = FileMedia.put(&p.dir, "00-000001.segment", broken).await;
    assert!(put.unwrap_err().to_string().contains("the disk is gone"));
    assert!(matches!(
        FileMedia.open(&p.dir).await,
        Err(MediaError::NoExport(_))
    ));
    FileMedia.begin(&p.dir, VM, start(1)).await.unwrap();
    assert_eq!(
        FileMedia.found(&p.dir, VM, start(1)).await.unwrap(),
        Some(vec![whole])
    );
    FileMedia
        .put(&p.dir, "00-000001.segment", stream(b"all of it"))
        .await
        .unwrap();
    assert_eq!(fs::read(p.dir.join("00-000001.segment")).unwrap(), b"all of it");
    assert_eq!(
        names(&p.dir),
        ["00-000000.segment", "00-000001.segment", "lifeboat-export.begun"]
    );
}

#[tokio::test]
async fn damage_is_found() {
    let (p, files) = exported().await;
    let path = p.dir.join(&files[0].name);
    let good = fs::read(&path).unwrap();
    let mut flipped = good.clone();
    flipped[350_000] ^= 1;
    let mut longer = good.clone();
    longer.push(0);
    for bad in [flipped, good[..good.len() - 1].to_vec(), longer, Vec::new()] {
        fs::write(&path, bad).unwrap();
        let checked = FileMedia.check(&p.dir, &files[0]).await;
        assert!(matches!(checked, Err(MediaError::Damaged { .. })), "{checked:?}");
    }
    fs::remove_file(&path).unwrap();
    assert!(FileMedia.check(&p.dir, &files[0]).await.is_err());
    let text = fs::read_to_string(p.dir.join("lifeboat-export.json")).unwrap();
    for bad in [
        String::new(),
        text.replace("\"version\"", "\"versio\""),
        text[..text.len() / 2].to_owned(),
    ] {
        fs::write(p.dir.join("lifeboat-export.json"), bad).unwrap();
        let opened = FileMedia.open(&p.dir).await;
        assert!(matches!(opened, Err(MediaError::Damaged { .. })), "{opened:?}");
    }
}

#[tokio::test]
async fn no_name_in_a_manifest_leads_out_of_the_directory() {
    let (p, files) = exported().await;
    let secret = p.dir.parent().unwrap().join("secret.segment");
    fs::write(&secret, b"secret").unwrap();
    for name in [
        "../secret.segment",
        secret.as_str(),
        "..",
        "",
        ".hidden.segment",
        "a/b.segment",
        "lifeboat-export.json",
    ] {
        let mut forged = manifest(&files);
        name.clone_into(&mut forged.segments[0].file.name);
        let text = serde_json::to_vec(&forged).unwrap();
        fs::write(p.dir.join("lifeboat-export.json"), text).unwrap();
        let opened = FileMedia.open(&p.dir).await;
        assert!(
            matches!(opened, Err(MediaError::Damaged { .. })),
            "{name}: {opened:?}"
        );
        assert!(
            FileMedia.read(&p.dir, &forged.segments[0].file).await.is_err(),
            "{name}"
        );
        assert!(
            FileMedia.check(&p.dir, &forged.segments[0].file).await.is_err(),
            "{name}"
        );
        assert!(FileMedia.put(&p.dir, name, stream(b"x")).await.is_err(), "{name}");
    }
    symlink(&secret, p.dir.join("00-000009.segment")).unwrap();
    let linked = SegmentFile {
        name: "00-000009.segment".into(),
        bytes: 6,
        blake3: blake3::hash(b"secret").to_hex().to_string(),
    };
    assert!(FileMedia.check(&p.dir, &linked).await.is_err());
    assert!(FileMedia.read(&p.dir, &linked).await.is_err());
}

/// A replica that has logs but no copy yet, the copy in segments, and what it makes of the disks.
async fn awaiting(seed: u64) -> (World, Vec<Vec<u8>>) {
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
    let file = SegmentFile {
        name: "00-000000.segment".into(),
        bytes: 1,
        blake3: String::new(),
    };
    let answers = [
        FileMedia.found(dir, VM, start(1)).await.map(|_| ()),
        FileMedia.begin(dir, VM, start(1)).await,
        FileMedia.put(dir, &file.name, stream(b"x")).await.map(|_| ()),
        FileMedia.finish(dir, &manifest(&[])).await,
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
    let answers = [
        FileMedia.open(dir).await.map(|_| ()),
        FileMedia.check(dir, &files[0]).await,
        FileMedia.read(dir, &files[0]).await.map(|_| ()),
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
    assert_eq!(FileMedia.open(&p.dir).await.unwrap(), manifest(&files));
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
    FileMedia.begin(&p.dir, VM, start(1)).await.unwrap();
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
    for name in ["lifeboat-export.json", &files[0].name, "lifeboat-export.begun"] {
        let path = p.dir.join(name);
        fs::remove_file(&path).unwrap();
        super::world::run_ok("mkfifo", &[path.as_str()]);
    }
    assert!(FileMedia.open(&p.dir).await.is_err());
    assert!(FileMedia.check(&p.dir, &files[0]).await.is_err());
    assert!(FileMedia.read(&p.dir, &files[0]).await.is_err());
    assert!(FileMedia.found(&p.dir, VM, start(1)).await.is_err());
}
