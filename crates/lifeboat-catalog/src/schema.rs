//! Schema versions: which one a file has, and the way from an older one to ours. What the rows mean is in `rows`.

use lifeboat_engine::ports::catalog::CatalogError;
use rusqlite::{Connection, TransactionBehavior};

use crate::error::database;

/// Marks a file as a Lifeboat catalog ("Life"), so that another program's database is never taken for an empty one.
const APPLICATION_ID: i64 = 0x4c69_6665;

/// Step `n` leads from version `n` to version `n + 1`. A released step is never changed, only followed by another.
pub(crate) const MIGRATIONS: &[&str] = &[
    include_str!("schema_v1.sql"),
    include_str!("schema_v2.sql"),
    include_str!("schema_v3.sql"),
    include_str!("schema_v4.sql"),
];

/// Brings the file to the newest version known here. Each step is one transaction: a crash leaves the version before
/// or the version after.
pub(crate) fn migrate(connection: &mut Connection, steps: &[&str]) -> Result<(), CatalogError> {
    let mut version = checked_version(connection, steps.len())?;
    for step in &steps[version.min(steps.len())..] {
        version += 1;
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|e| database(&e))?;
        transaction.execute_batch(step).map_err(|e| database(&e))?;
        transaction
            .pragma_update(None, "application_id", APPLICATION_ID)
            .map_err(|e| database(&e))?;
        transaction
            .pragma_update(None, "user_version", i64::try_from(version).unwrap_or(i64::MAX))
            .map_err(|e| database(&e))?;
        transaction.commit().map_err(|e| database(&e))?;
    }
    Ok(())
}

/// The version of the file, when it is ours and not newer than `known`. Changes nothing.
pub(crate) fn checked_version(connection: &Connection, known: usize) -> Result<usize, CatalogError> {
    let number = |pragma: &str| {
        connection
            .pragma_query_value(None, pragma, |row| row.get::<_, i64>(0))
            .map_err(|e| database(&e))
    };
    let (version, application) = (number("user_version")?, number("application_id")?);
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(|e| database(&e))?;
    let fresh = version == 0 && application == 0 && tables == 0;
    if !fresh && application != APPLICATION_ID {
        return Err(CatalogError::Database(
            "this is a database of another program, not a Lifeboat catalog; name another file".into(),
        ));
    }
    match usize::try_from(version) {
        Ok(v) if v <= known => Ok(v),
        _ => Err(CatalogError::TooNew {
            found: version,
            known: i64::try_from(known).unwrap_or(i64::MAX),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEXT: &str = "ALTER TABLE job ADD COLUMN colour TEXT NOT NULL DEFAULT 'red';";

    fn version(c: &Connection) -> i64 {
        c.pragma_query_value(None, "user_version", |r| r.get(0)).unwrap()
    }

    #[test]
    fn only_the_missing_steps_are_taken() {
        let mut c = Connection::open_in_memory().unwrap();
        migrate(&mut c, &MIGRATIONS[..1]).unwrap();
        c.execute("INSERT INTO job VALUES ('j', 'v', '{}')", []).unwrap();
        let two = [MIGRATIONS[0], NEXT];
        for _ in 0..2 {
            migrate(&mut c, &two).unwrap();
            assert_eq!(version(&c), 2);
        }
        let colour: String = c.query_row("SELECT colour FROM job", [], |r| r.get(0)).unwrap();
        assert_eq!(colour, "red");
    }

    #[test]
    fn a_step_that_fails_leaves_the_version_before() {
        let mut c = Connection::open_in_memory().unwrap();
        migrate(&mut c, &MIGRATIONS[..1]).unwrap();
        let bad = format!("{NEXT} CREATE TABLE job (x);");
        migrate(&mut c, &[MIGRATIONS[0], &bad]).unwrap_err();
        assert_eq!(version(&c), 1);
        assert!(
            c.prepare("SELECT colour FROM job").is_err(),
            "half of the step is there"
        );
    }

    #[test]
    fn a_newer_file_is_refused_and_unchanged() {
        let mut c = Connection::open_in_memory().unwrap();
        migrate(&mut c, &[MIGRATIONS[0], NEXT]).unwrap();
        let e = migrate(&mut c, &MIGRATIONS[..1]).unwrap_err();
        assert!(matches!(e, CatalogError::TooNew { found: 2, known: 1 }), "{e}");
        assert_eq!(version(&c), 2);
    }

    #[test]
    fn a_stranger_is_refused_and_unchanged() {
        let mut c = Connection::open_in_memory().unwrap();
        c.execute_batch("CREATE TABLE recipe (name TEXT)").unwrap();
        let e = migrate(&mut c, MIGRATIONS).unwrap_err();
        assert!(e.to_string().contains("another program"), "{e}");
        assert!(c.prepare("SELECT * FROM job").is_err());
    }
}
