//! The end of the process and of the disk in the middle of a stream of puts. A killed process shows that nothing is
//! half-written and nothing answered is lost from the kernel's hands; only a power cut could prove the fsyncs, and
//! this file does not claim it does.

#![allow(clippy::unwrap_used, reason = "test support")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use camino::{Utf8Path, Utf8PathBuf};
use common::{event, job, path, relationship};
use lifeboat_catalog::SqliteCatalog;
use lifeboat_engine::ports::catalog::{Catalog, CatalogError};

const DIR: &str = "LIFEBOAT_TEST_CHILD_DIR";
/// Room on the small disk, in bytes.
const SMALL: usize = 1 << 20;

/// This test program again, running one of the ignored tests below.
fn child_command(test: &str, dir: &Utf8Path) -> Vec<String> {
    let me = std::env::current_exe()
        .unwrap()
        .into_os_string()
        .into_string()
        .unwrap();
    [
        "env",
        &format!("{DIR}={dir}"),
        &me,
        test,
        "--exact",
        "--ignored",
        "--nocapture",
    ]
    .map(String::from)
    .into()
}

fn child_path() -> Utf8PathBuf {
    let dir = std::env::var(DIR).expect("started by a test of this file only");
    Utf8PathBuf::from(dir).join("catalog.db")
}

fn start(argv: &[String]) -> Child {
    Command::new(&argv[0])
        .args(&argv[1..])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test]
#[ignore = "the child of killed_in_the_middle_everything_answered_is_there"]
async fn child_puts_for_ever() {
    let catalog = SqliteCatalog::open(&child_path()).unwrap();
    for revision in 1.. {
        catalog
            .put(&relationship(1, revision), &[job(1, revision)], &[])
            .await
            .unwrap();
        catalog
            .put_job(&job(u128::from(1000 + revision), revision))
            .await
            .unwrap();
        catalog.add_event(&event(revision, None)).await.unwrap();
        println!("\nanswered {revision}");
        std::io::stdout().flush().unwrap();
    }
}

#[tokio::test]
async fn killed_in_the_middle_everything_answered_is_there() {
    for round in 1..=8 {
        let dir = tempfile::tempdir().unwrap();
        let mut child = start(&child_command(
            "child_puts_for_ever",
            path(&dir).parent().unwrap(),
        ));
        let mut answered = 0;
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // What was in the pipe when the child died counts as answered too.
        for line in lines.map_while(Result::ok) {
            if let Some(n) = line.strip_prefix("answered ") {
                answered = n.parse::<u64>().unwrap();
                if answered == round * 5 {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        assert!(answered >= round * 5, "the child ended by itself");

        let catalog = SqliteCatalog::open(&path(&dir)).unwrap();
        let image = catalog.load().await.unwrap();
        let events = catalog.events(None, 10_000).await.unwrap();
        let revision = image.relationships[0].counters.cycles;
        assert!(
            (answered..=answered + 1).contains(&revision),
            "{revision} after {answered}"
        );
        assert_eq!(image.relationships, vec![relationship(1, revision)]);
        assert_eq!(image.jobs[0], job(1, revision), "the pair fell apart");
        for n in 1..=answered {
            let id = u128::from(1000 + n);
            assert!(image.jobs.contains(&job(id, n)), "job of {n} of {answered}");
            assert!(events.contains(&event(n, None)), "event of {n} of {answered}");
        }
    }
}

#[tokio::test]
#[ignore = "the child of a_full_disk_is_said_and_survived, inside its small disk"]
async fn child_fills_the_disk() {
    let at = child_path();
    let catalog = SqliteCatalog::open(&at).unwrap();
    catalog.put(&relationship(1, 1), &[job(1, 1)], &[]).await.unwrap();
    let ballast = at.with_file_name("ballast");
    std::fs::write(&ballast, vec![1; SMALL / 2]).unwrap();
    let mut answered = 0;
    let e = loop {
        match catalog.put_job(&job(1000 + answered, 1)).await {
            Ok(()) => answered += 1,
            Err(e) => break e,
        }
        assert!(answered < 10_000, "the disk is not small");
    };
    assert!(matches!(e, CatalogError::NoSpace), "{e}");
    // Replacing a record may still fit where adding one does not; either way the pair stays a pair.
    let pair = match catalog.put(&relationship(1, 2), &[job(1, 2)], &[]).await {
        Ok(()) => 2,
        Err(CatalogError::NoSpace) => 1,
        Err(e) => panic!("{e}"),
    };
    let check = |image: lifeboat_engine::ports::catalog::CatalogImage| {
        assert_eq!(image.relationships, vec![relationship(1, pair)]);
        assert_eq!(image.jobs[0], job(1, pair));
        assert_eq!(image.jobs.len() as u128, 1 + answered);
    };
    check(catalog.load().await.unwrap());
    drop(catalog);
    let other = at.with_file_name("other.db");
    let mut rest = std::fs::File::create(at.with_file_name("rest")).unwrap();
    while rest.write_all(&[0; 512]).is_ok() {}
    let e = SqliteCatalog::open(&other).unwrap_err();
    assert!(matches!(e, CatalogError::NoSpace), "{e}");

    std::fs::remove_file(&ballast).unwrap();
    let catalog = SqliteCatalog::open(&at).unwrap();
    check(catalog.load().await.unwrap());
    catalog.put(&relationship(1, 3), &[job(1, 3)], &[]).await.unwrap();
    SqliteCatalog::open(&other).unwrap();
    println!("\nsurvived {answered}");
}

#[test]
fn a_full_disk_is_said_and_survived() {
    let dir = tempfile::tempdir().unwrap();
    let at = path(&dir).parent().unwrap().to_owned();
    let child = child_command("child_fills_the_disk", &at).join(" ");
    // A mount of its own, gone with the process.
    let script = format!("mount -t tmpfs -o size={SMALL} small {at} && exec {child}");
    let unshare = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        &script,
    ]
    .map(String::from);
    let output = start(&unshare).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && said.contains("\nsurvived "),
        "no user namespaces here? {said}"
    );
}

#[tokio::test]
#[ignore = "the child of an_error_of_the_disk_costs_nothing_that_was_answered, with a limit on its files"]
async fn child_meets_an_error() {
    let at = child_path();
    let catalog = SqliteCatalog::open(&at).unwrap();
    let mut answered = 0;
    let e = loop {
        match catalog
            .put(
                &relationship(1, answered + 1),
                &[job(u128::from(1001 + answered), 1)],
                &[],
            )
            .await
        {
            Ok(()) => answered += 1,
            Err(e) => break e,
        }
        assert!(answered < 10_000, "there is no limit");
    };
    assert!(matches!(e, CatalogError::Database(_)), "{e}");
    println!("\nfailed {}", std::process::id());
    std::io::stdout().flush().unwrap();
    std::io::stdin().lines().next().unwrap().unwrap();
    // Nobody started the catalog again; it did that itself.
    let image = catalog.load().await.unwrap();
    assert_eq!(image.relationships, vec![relationship(1, answered)]);
    assert_eq!(image.jobs.len() as u64, answered);
    catalog
        .put(&relationship(1, 99_999), &[job(1, 1)], &[])
        .await
        .unwrap();
    drop(catalog);
    let image = SqliteCatalog::open(&at).unwrap().load().await.unwrap();
    assert_eq!(image.relationships, vec![relationship(1, 99_999)]);
    assert_eq!(image.jobs.len() as u64, answered + 1);
    println!("\nsurvived {answered}");
}

#[test]
fn an_error_of_the_disk_costs_nothing_that_was_answered() {
    let dir = tempfile::tempdir().unwrap();
    let child = child_command("child_meets_an_error", path(&dir).parent().unwrap()).join(" ");
    // Writing beyond the limit is an error like one of the disk, as long as the signal is ignored.
    let script = format!("trap '' XFSZ; ulimit -S -f 1000; exec {child}");
    let mut child = Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut survived = false;
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in lines.map_while(Result::ok) {
        if let Some(pid) = line.strip_prefix("failed ") {
            let lifted = Command::new("prlimit")
                .args(["--pid", pid, "--fsize=unlimited:unlimited"])
                .status();
            assert!(lifted.unwrap().success());
            child.stdin.take().unwrap().write_all(b"\n").unwrap();
        }
        survived |= line.starts_with("survived ");
    }
    assert!(child.wait().unwrap().success() && survived);
}
