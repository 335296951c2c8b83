//! One wrong byte in the catalog's file: found where it matters, with the record or the file named and a way out, and of no
//! consequence where it does not. The bytes are changed behind the catalog's back, in the file.

#![allow(clippy::unwrap_used, reason = "test support")]

mod common;

use camino::Utf8Path;
use common::{event, job, path, relationship};
use lifeboat_catalog::SqliteCatalog;
use lifeboat_engine::ports::catalog::{Catalog, CatalogError};

async fn filled(at: &Utf8Path) {
    let catalog = SqliteCatalog::open(at).unwrap();
    for n in 1..=3 {
        catalog
            .put(&relationship(n, 4711), &[job(n, 4711)], &[])
            .await
            .unwrap();
        catalog
            .add_event(&event(8000 + u64::try_from(n).unwrap(), None))
            .await
            .unwrap();
    }
}

/// Flips one bit of the last place at which `text` stands in the file, `offset` bytes further.
fn flip(at: &Utf8Path, text: &str, offset: usize) {
    let mut bytes = std::fs::read(at).unwrap();
    let found = bytes.windows(text.len()).rposition(|w| w == text.as_bytes());
    let place = found.unwrap() + offset;
    bytes[place] ^= 1;
    std::fs::write(at, bytes).unwrap();
}

#[tokio::test]
async fn one_bit_of_a_record_is_found_and_the_record_named() {
    for (text, offset, named) in [
        // Numbers and words that would pass for good ones.
        ("\"cycles\":4711", 9, "relationship"),
        ("\"peer\":\"b.example.org:8700\"", 8, "relationship"),
        ("step 4711", 5, "job"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        filled(&path(&dir)).await;
        flip(&path(&dir), text, offset);
        let catalog = SqliteCatalog::open(&path(&dir)).unwrap();
        let e = catalog.load().await.unwrap_err();
        assert!(
            matches!(&e, CatalogError::Record(key, why) if key.starts_with(named) && why.contains("restore a copy")),
            "{text}: {e}"
        );
    }
}

#[tokio::test]
async fn one_bit_of_an_event_hides_no_other_event() {
    let dir = tempfile::tempdir().unwrap();
    filled(&path(&dir)).await;
    flip(&path(&dir), "event 8002", 9);
    let catalog = SqliteCatalog::open(&path(&dir)).unwrap();
    catalog.load().await.unwrap();
    let left = catalog.events(None, 10).await.unwrap();
    assert_eq!(left, [event(8003, None), event(8001, None)]);
    // A page of nothing but the damaged one leads on to the next.
    let page = |before| catalog.events_before(None, before, 1);
    let first = page(None).await.unwrap();
    let second = page(Some(first.events[0].0)).await.unwrap();
    assert!(second.more && second.events[0].1.is_none(), "{second:?}");
    let third = page(Some(second.events[0].0)).await.unwrap();
    assert_eq!(
        (&third.events[0].1, third.more),
        (&Some(event(8001, None)), false)
    );
}

#[tokio::test]
async fn a_damaged_structure_is_said_at_the_start_with_a_way_out() {
    let dir = tempfile::tempdir().unwrap();
    filled(&path(&dir)).await;
    let mut bytes = std::fs::read(path(&dir)).unwrap();
    // The number of cells of the second page.
    bytes[4096 + 4] ^= 0x40;
    std::fs::write(path(&dir), bytes).unwrap();
    let e = SqliteCatalog::open(&path(&dir)).unwrap_err().to_string();
    assert!(
        e.contains("damaged") && e.contains(".recover") && e.contains("catalog.db"),
        "{e}"
    );
}

#[tokio::test]
async fn what_is_in_free_space_does_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    filled(&path(&dir)).await;
    let catalog = SqliteCatalog::open(&path(&dir)).unwrap();
    for n in 10..40 {
        catalog.put_job(&job(n, 5)).await.unwrap();
    }
    for n in 10..40 {
        catalog.remove_job(job(n, 5).id).await.unwrap();
    }
    drop(catalog);
    let mut bytes = std::fs::read(path(&dir)).unwrap();
    // What was removed is overwritten.
    let removed = b"copying, step 5";
    assert!(!bytes.windows(removed.len()).any(|w| w == removed));
    let free = bytes.windows(1024).rposition(|w| w.iter().all(|b| *b == 0));
    bytes[free.unwrap() + 512] ^= 1;
    std::fs::write(path(&dir), bytes).unwrap();
    let catalog = SqliteCatalog::open(&path(&dir)).unwrap();
    let image = catalog.load().await.unwrap();
    assert_eq!((image.relationships.len(), image.jobs.len()), (3, 3));
    catalog.put_job(&job(50, 6)).await.unwrap();
}

#[tokio::test]
async fn a_file_of_the_version_before_gets_its_digests() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/catalog-v1.db");
    std::fs::copy(fixture, path(&dir)).unwrap();
    drop(SqliteCatalog::open(&path(&dir)).unwrap());
    let raw = rusqlite::Connection::open(path(&dir)).unwrap();
    for table in ["relationship", "job", "authorization_entry", "server_settings"] {
        let sql = format!("SELECT count(*), count(digest) FROM {table}");
        let (all, with): (i64, i64) = raw.query_row(&sql, [], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
        assert!(all > 0 && all == with, "{table}: {with} of {all}");
    }
}
