//! What the port promises, on a real file: records come back, one owner, old and newer files, damaged records.
//! Crashes and full disks are in `crash.rs`.

#![allow(clippy::unwrap_used, reason = "test support")]

mod common;

use lifeboat_model::hint;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use common::{event, job, path, relationship, request, vm};
use lifeboat_catalog::SqliteCatalog;
use lifeboat_engine::ports::catalog::{Catalog, CatalogError, CatalogImage};
use lifeboat_engine::records::{PrimarySide, RequestState, ServerSettings, Side};
use lifeboat_model::AuthorizationEntry;

fn entry(primary: &str) -> AuthorizationEntry {
    AuthorizationEntry {
        primary: primary.into(),
        storage_location: "/srv/replicas".into(),
        trust_group: "main".into(),
        allow_start: false,
        keep_at_least_s: 0,
        locked_until: None,
        quota: Default::default(),
    }
}

/// What the fixture of version 1 holds.
fn fixture_image() -> CatalogImage {
    CatalogImage {
        relationships: vec![relationship(1, 5)],
        jobs: vec![job(2, 6)],
        entries: vec![entry("*.example.org")],
        server: ServerSettings {
            enabled: true,
            ..ServerSettings::default()
        },
        requests: Vec::new(),
    }
}

fn fixture() -> Utf8PathBuf {
    Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/catalog-v1.db")
}

async fn fill(catalog: &SqliteCatalog) {
    let image = fixture_image();
    catalog
        .put(&image.relationships[0], &[image.jobs[0].clone()], &[])
        .await
        .unwrap();
    catalog.put_entry(&image.entries[0]).await.unwrap();
    catalog.put_server(&image.server).await.unwrap();
    catalog.add_event(&event(1, None)).await.unwrap();
}

#[tokio::test]
async fn what_was_put_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = SqliteCatalog::open(&path(&dir)).unwrap();
    assert_eq!(catalog.load().await.unwrap(), CatalogImage::default());
    fill(&catalog).await;
    drop(catalog);
    let catalog = SqliteCatalog::open(&path(&dir)).unwrap();
    assert_eq!(catalog.load().await.unwrap(), fixture_image());
    assert_eq!(catalog.events(None, 10).await.unwrap(), vec![event(1, None)]);
}

#[tokio::test]
async fn putting_again_replaces_and_removing_twice_is_fine() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = SqliteCatalog::open(&path(&dir)).unwrap();
    let extended = lifeboat_engine::records::Relationship {
        index: 1,
        ..relationship(1, 1)
    };
    catalog.put(&relationship(1, 1), &[], &[]).await.unwrap();
    catalog.put(&extended, &[], &[]).await.unwrap();
    catalog.put(&relationship(1, 2), &[], &[]).await.unwrap();
    catalog.put_job(&job(1, 1)).await.unwrap();
    catalog.put_job(&job(1, 2)).await.unwrap();
    catalog.put_entry(&entry("a")).await.unwrap();
    catalog
        .put_entry(&AuthorizationEntry {
            trust_group: "other".into(),
            ..entry("a")
        })
        .await
        .unwrap();
    let image = catalog.load().await.unwrap();
    assert_eq!(image.relationships, vec![relationship(1, 2), extended.clone()]);
    assert_eq!(image.jobs, vec![job(1, 2)]);
    assert_eq!(image.entries[0].trust_group, "other");
    for there in [true, false] {
        catalog.remove_relationship(vm(1), 0).await.unwrap();
        catalog.remove_job(job(1, 1).id).await.unwrap();
        assert_eq!(catalog.remove_entry("a").await.unwrap(), there);
    }
    let left = CatalogImage {
        relationships: vec![extended],
        ..CatalogImage::default()
    };
    assert_eq!(catalog.load().await.unwrap(), left);
}

#[tokio::test]
async fn a_request_and_the_event_that_tells_of_it_are_one() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = SqliteCatalog::open(&path(&dir)).unwrap();
    let first = request(1, RequestState::Waits);
    catalog.put_request(&first, &event(1, None)).await.unwrap();
    let second = request(2, RequestState::Waits);
    catalog.put_request(&second, &event(2, None)).await.unwrap();
    let confirmed = RequestState::Confirmed {
        second: Box::new(second.by.clone()),
    };
    let first = request(1, confirmed);
    catalog.put_request(&first, &event(3, None)).await.unwrap();
    drop(catalog);
    let catalog = SqliteCatalog::open(&path(&dir)).unwrap();
    assert_eq!(
        catalog.load().await.unwrap().requests,
        [first.clone(), second.clone()]
    );
    // The second time there is none; it is told all the same.
    for n in [4, 5] {
        catalog.remove_request(first.id, &event(n, None)).await.unwrap();
        assert_eq!(
            catalog.load().await.unwrap().requests,
            std::slice::from_ref(&second)
        );
    }
    let told: Vec<_> = [5, 4, 3, 2, 1].map(|n| event(n, None)).into();
    assert_eq!(catalog.events(None, 10).await.unwrap(), told);
}

/// Up to version 2 an entry whose trust group nobody had named shared one with all the others.
#[tokio::test]
async fn an_entry_of_the_group_of_everybody_gets_its_own_once() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(fixture(), path(&dir)).unwrap();
    let raw = rusqlite::Connection::open(path(&dir)).unwrap();
    let shared = "INSERT INTO authorization_entry (primary_host, record) VALUES ('b.test',
        '{\"primary\":\"b.test\",\"storage_location\":\"/srv\",\"trust_group\":\"default\"}')";
    assert_eq!(raw.execute(shared, []).unwrap(), 1);
    drop(raw);
    let group = |image: &CatalogImage, primary: &str| {
        let entry = image.entries.iter().find(|e| e.primary == primary);
        entry.unwrap().trust_group.clone()
    };
    let catalog = SqliteCatalog::open(&path(&dir)).unwrap();
    let image = catalog.load().await.unwrap();
    assert_eq!(group(&image, "b.test"), "b.test");
    assert_eq!(group(&image, "*.example.org"), "main", "somebody named it");
    let said = catalog.events(None, 1).await.unwrap();
    let share = hint::Trust::ShareGroup {
        primary: "b.test".into(),
    };
    assert_eq!(said[0].hint, Some(share.into()), "{said:?}");
    // Who names that group from now on means it.
    let named = AuthorizationEntry {
        trust_group: "default".into(),
        ..entry("b.test")
    };
    catalog.put_entry(&named).await.unwrap();
    drop(catalog);
    let catalog = SqliteCatalog::open(&path(&dir)).unwrap();
    assert_eq!(group(&catalog.load().await.unwrap(), "b.test"), "default");
    assert_eq!(catalog.events(None, 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn events_come_newest_first_by_vm_and_no_more_than_ten_thousand_stay() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = SqliteCatalog::open(&path(&dir)).unwrap();
    // Old ones by the thousand, put where the catalog would have put them, to save 10,000 commits.
    drop(catalog);
    let raw = rusqlite::Connection::open(path(&dir)).unwrap();
    let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9999)
                INSERT INTO event (at, vm, record) SELECT i, NULL, '{\"at\":' || i || ',\"vm\":null,\"message\":\"old\"}' FROM n";
    raw.execute(many, []).unwrap();
    drop(raw);
    let catalog = SqliteCatalog::open(&path(&dir)).unwrap();
    for n in 10_000..10_010 {
        catalog
            .add_event(&event(n, Some(u128::from(n % 2))))
            .await
            .unwrap();
    }
    let all = catalog.events(None, u32::MAX).await.unwrap();
    assert_eq!(all.len(), 10_000);
    assert_eq!((all[0].at.0, all[9999].at.0), (10_009, 10));
    // The same in pages, while another one comes.
    let (mut paged, mut before) = (Vec::new(), None);
    loop {
        let page = catalog.events_before(None, before, 999).await.unwrap();
        before = page.events.last().map(|(number, _)| *number);
        paged.extend(page.events.into_iter().map(|(_, event)| event.unwrap()));
        if !page.more {
            break;
        }
        if paged.len() == 999 {
            catalog.add_event(&event(20_000, None)).await.unwrap();
        }
    }
    // The new one has pushed the oldest out.
    assert_eq!(paged, all[..9999]);
    let odd: Vec<u64> = catalog
        .events(Some(vm(1)), 2)
        .await
        .unwrap()
        .iter()
        .map(|e| e.at.0)
        .collect();
    assert_eq!(odd, [10_009, 10_007]);
    assert!(catalog.events(Some(vm(9)), 5).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Arc::new(SqliteCatalog::open(&path(&dir)).unwrap());
    let callers: Vec<_> = (1..=16)
        .map(|n| {
            let catalog = catalog.clone();
            tokio::spawn(async move {
                for revision in 1..=10 {
                    catalog
                        .put(&relationship(n, revision), &[job(n, revision)], &[])
                        .await
                        .unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let image = catalog.load().await.unwrap();
    assert_eq!(
        image.relationships,
        (1..=16).map(|n| relationship(n, 10)).collect::<Vec<_>>()
    );
    assert_eq!(image.jobs, (1..=16).map(|n| job(n, 10)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_pair_is_written_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = SqliteCatalog::open(&path(&dir)).unwrap();
    catalog.put(&relationship(1, 1), &[job(1, 1)], &[]).await.unwrap();
    drop(catalog);
    let raw = rusqlite::Connection::open(path(&dir)).unwrap();
    raw.execute_batch("CREATE TRIGGER no BEFORE UPDATE ON job BEGIN SELECT raise(ABORT, 'not today'); END")
        .unwrap();
    drop(raw);
    let catalog = SqliteCatalog::open(&path(&dir)).unwrap();
    let e = catalog
        .put(&relationship(1, 2), &[job(1, 2)], &[])
        .await
        .unwrap_err();
    assert!(e.to_string().contains("not today"), "{e}");
    let image = catalog.load().await.unwrap();
    assert_eq!(
        (image.relationships, image.jobs),
        (vec![relationship(1, 1)], vec![job(1, 1)])
    );
    catalog.put(&relationship(1, 3), &[], &[]).await.unwrap();
}

#[tokio::test]
async fn the_file_is_for_its_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = SqliteCatalog::open(&path(&dir)).unwrap();
    catalog.add_event(&event(1, None)).await.unwrap();
    let mut seen = 0;
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", file.file_name());
        seen += 1;
    }
    assert!(seen >= 3, "database, log and lock");
}

/// A key of an export is in the catalog for as long as it is needed and in its owner's files alone; what SQLite leaves of a
/// record that was replaced or removed is overwritten.
#[tokio::test]
async fn a_key_that_is_no_longer_needed_is_nowhere_in_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let key = |n: u8| format!("{}=", format!("{n}").repeat(43));
    let with = |n: u8| {
        let mut rel = relationship(u128::from(n), 1);
        let sealing = format!(
            r#"{{"export":"00000000-0000-0000-0000-000000000009","key":"{}"}}"#,
            key(n)
        );
        rel.side = Side::Primary(PrimarySide {
            export: Some("/media/usb".into()),
            sealing: Some(serde_json::from_str(&sealing).unwrap()),
            ..PrimarySide::new(rel.position)
        });
        rel
    };
    let files = || {
        let each = std::fs::read_dir(dir.path()).unwrap();
        each.flat_map(|f| std::fs::read(f.unwrap().path()).unwrap())
            .collect::<Vec<u8>>()
    };
    let has = |n: u8| files().windows(44).any(|w| w == key(n).as_bytes());
    let catalog = SqliteCatalog::open(&path(&dir)).unwrap();
    // Written to the file itself, not only to its log, before they are given up.
    for n in [4, 8] {
        catalog.put(&with(n), &[], &[]).await.unwrap();
    }
    drop(catalog);
    assert!(has(4) && has(8));
    let catalog = SqliteCatalog::open(&path(&dir)).unwrap();
    assert_eq!(catalog.load().await.unwrap().relationships, [with(4), with(8)]);
    catalog.put(&relationship(4, 1), &[], &[]).await.unwrap();
    catalog.remove_relationship(vm(8), 0).await.unwrap();
    drop(catalog);
    assert!(!has(4), "the record was replaced");
    assert!(!has(8), "the record was removed");
}

#[tokio::test]
async fn a_second_owner_is_refused_until_the_first_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let first = SqliteCatalog::open(&path(&dir)).unwrap();
    let e = SqliteCatalog::open(&path(&dir)).unwrap_err().to_string();
    assert!(
        e.contains("in use by another Lifeboat") && e.contains("catalog.db"),
        "{e}"
    );
    first.put_job(&job(1, 1)).await.unwrap();
    drop(first);
    SqliteCatalog::open(&path(&dir)).unwrap();
}

#[tokio::test]
async fn people_can_read_while_the_daemon_runs() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = SqliteCatalog::open(&path(&dir)).unwrap();
    catalog.put_job(&job(1, 3)).await.unwrap();
    let raw = rusqlite::Connection::open(path(&dir)).unwrap();
    let sql = "SELECT json_extract(record, '$.done_bytes') FROM job";
    assert_eq!(raw.query_row(sql, [], |r| r.get::<_, i64>(0)).unwrap(), 3);
    let mode: String = raw
        .pragma_query_value(None, "journal_mode", |r| r.get(0))
        .unwrap();
    assert_eq!(mode, "wal");
}

#[tokio::test]
async fn damaged_records_are_named() {
    for (sql, key) in [
        (
            "UPDATE relationship SET record = '{'",
            "relationship 00000000-0000-0000-0000-000000000001/0",
        ),
        ("UPDATE relationship SET vm = 'x'", "relationship x/0"),
        (
            "UPDATE job SET record = json_set(record, '$.percent', 1000)",
            "job 00000000-0000-0000-0000-000000000002",
        ),
        ("UPDATE job SET id = 'mine'", "job mine"),
        (
            "UPDATE authorization_entry SET record = '{}'",
            "authorization entry *.example.org",
        ),
        ("UPDATE server_settings SET record = 'no'", "server settings"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        fill(&SqliteCatalog::open(&path(&dir)).unwrap()).await;
        let raw = rusqlite::Connection::open(path(&dir)).unwrap();
        assert_eq!(raw.execute(sql, []).unwrap(), 1, "{sql}");
        drop(raw);
        let e = SqliteCatalog::open(&path(&dir))
            .unwrap()
            .load()
            .await
            .unwrap_err();
        assert!(
            matches!(&e, CatalogError::Record(found, _) if found == key),
            "{sql}: {e}"
        );
    }
}

#[tokio::test]
async fn the_first_version_still_opens() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(fixture(), path(&dir)).unwrap();
    let catalog = SqliteCatalog::open(&path(&dir)).unwrap();
    let mut written = fixture_image();
    // Who asked was not recorded then.
    written.jobs.iter_mut().for_each(|job| job.by = None);
    assert_eq!(catalog.load().await.unwrap(), written);
    assert_eq!(catalog.events(None, 10).await.unwrap(), vec![event(1, None)]);
    catalog.put_job(&job(9, 9)).await.unwrap();
}

/// The fixture has only a primary. This is a replica as the first version wrote it, failed over.
const REPLICA_V1: &str = r#"{
    "vm": "00000000-0000-0000-0000-000000000001", "index": 0, "mode": "Replica", "state": "Recovered",
    "settings": {"peer": "b.example.org:8700", "interval_s": 30, "history": 4, "point_spacing_s": 3600,
                 "any_point_window_s": 600, "disks": ["sys"], "compression": true},
    "spec": {"name": "vm-1", "uuid": "00000000-0000-0000-0000-000000000001", "memory_mib": 512, "cpus": 2,
             "disk": [{"id": "sys", "path": "/srv/vm/sys.qcow2", "format": "qcow2"}]},
    "peer": "a.example.org",
    "position": {"generation": "00000000-0000-0000-0000-000000000007", "sequence": 3},
    "side": {"side": "replica", "dir": "/srv/replicas/1", "failover": {
        "branch": "00000000-0000-0000-0000-000000000003",
        "target": {"kind": "point", "id": "00000000-0000-0000-0000-000000000004"}, "instant": 5,
        "consistency": "crash", "kind": "Regular", "phase": {"phase": "ready"},
        "job": "00000000-0000-0000-0000-000000000002", "before": "Replicating"}},
    "problem": null, "created": 1, "last_replication": 2, "newest_instant": 3,
    "counters": {"cycles": 1, "failures": 0, "missed": 0, "bytes": 9, "largest": 9, "last_latency_ms": 4,
                 "max_latency_ms": 4}
}"#;

#[tokio::test]
async fn a_replica_of_the_first_version_still_loads() {
    let dir = tempfile::tempdir().unwrap();
    fill(&SqliteCatalog::open(&path(&dir)).unwrap()).await;
    let raw = rusqlite::Connection::open(path(&dir)).unwrap();
    let changed = raw.execute("UPDATE relationship SET record = ?1, digest = NULL", [REPLICA_V1]);
    assert_eq!(changed.unwrap(), 1);
    drop(raw);
    let image = SqliteCatalog::open(&path(&dir)).unwrap().load().await.unwrap();
    let rel = &image.relationships[0];
    let replica = rel.replica().unwrap();
    assert_eq!(
        (replica.dir.as_deref(), replica.awaits_import),
        (Some("/srv/replicas/1"), false)
    );
    let failover = rel.failover().unwrap();
    assert_eq!(
        (&failover.at, &failover.take_over, &failover.reverse),
        (&None, &None, &None)
    );
    assert!(replica.test.is_none() && rel.home.is_none() && rel.settings.auto_resync.is_none());
}

/// The catalog of a host that went back to an older Lifeboat: what the newer one wrote is named and not looked into.
#[tokio::test]
async fn a_record_of_a_newer_version_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fill(&SqliteCatalog::open(&path(&dir)).unwrap()).await;
    let raw = rusqlite::Connection::open(path(&dir)).unwrap();
    let sql = "UPDATE relationship SET record = json_set(record, '$.version', 3, '$.mode', 7), digest = NULL";
    assert_eq!(raw.execute(sql, []).unwrap(), 1);
    drop(raw);
    let e = SqliteCatalog::open(&path(&dir))
        .unwrap()
        .load()
        .await
        .unwrap_err();
    let said = e.to_string();
    assert!(
        matches!(
            e,
            CatalogError::NewerRecord {
                found: 3,
                known: 2,
                ..
            }
        ),
        "{said}"
    );
    assert!(
        said.contains(&format!("relationship {}/0", vm(1))) && said.contains("start the newer version again"),
        "{said}"
    );
}

/// Run by hand before a release, never after one: old files must open as they are.
#[tokio::test]
#[ignore = "writes the fixture anew"]
async fn write_v1_fixture() {
    let dir = tempfile::tempdir().unwrap();
    fill(&SqliteCatalog::open(&path(&dir)).unwrap()).await;
    std::fs::copy(path(&dir), fixture()).unwrap();
}

#[test]
fn newer_foreign_and_broken_files_are_refused_as_they_are() {
    for (make, part) in [
        (
            "PRAGMA application_id = 0x4c696665; PRAGMA user_version = 99; CREATE TABLE job (x);",
            "schema version 99",
        ),
        ("CREATE TABLE recipe (name TEXT);", "another program"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let raw = rusqlite::Connection::open(path(&dir)).unwrap();
        raw.execute_batch(make).unwrap();
        drop(raw);
        let before = std::fs::read(path(&dir)).unwrap();
        let e = SqliteCatalog::open(&path(&dir)).unwrap_err().to_string();
        assert!(e.contains(part), "{e}");
        assert_eq!(std::fs::read(path(&dir)).unwrap(), before);
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(path(&dir), "Dear diary, ".repeat(500)).unwrap();
    let e = SqliteCatalog::open(&path(&dir)).unwrap_err().to_string();
    assert!(
        e.contains("not an SQLite database") && e.contains("catalog.db"),
        "{e}"
    );
    let e = SqliteCatalog::open(&path(&dir).join("no/such"))
        .unwrap_err()
        .to_string();
    assert!(e.contains("no/such"), "{e}");
}
