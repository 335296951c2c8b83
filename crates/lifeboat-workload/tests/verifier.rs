//! Is the oracle awake? Real streams are written to real files, then broken in each way a bad copy could be
//! broken, and every break must be found. The guest tests lean on this.
#![allow(clippy::unwrap_used)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use lifeboat_workload::Mode;
use lifeboat_workload::args::{Pace, Place};
use lifeboat_workload::verify::{self, Report, Verdict};
use lifeboat_workload::write;
use tempfile::TempDir;

const BLOCK: u64 = 4096;
const SLOTS: u64 = 16;

fn place(mode: Mode, dir: &TempDir) -> Place {
    Place {
        mode,
        path: dir.path().join("a"),
        path_b: dir.path().join(if mode == Mode::Pair { "b" } else { "a" }),
        offsets: if mode == Mode::Append {
            [0, 0]
        } else {
            [BLOCK, 2 * BLOCK]
        },
        slots: SLOTS,
        run: 1,
    }
}

/// A device-like file for each disk of `place`, larger than the ring.
fn prepare(place: &Place) {
    if place.mode != Mode::Append {
        for path in [&place.path, &place.path_b] {
            File::create(path).unwrap().set_len((SLOTS + 4) * BLOCK).unwrap();
        }
    }
}

fn write_some(place: &Place, count: u64) {
    let pace = Pace {
        count: Some(count),
        ..Pace::default()
    };
    write::run(place, &pace, io::sink()).unwrap();
}

fn written(mode: Mode, dir: &TempDir, count: u64) -> Place {
    let place = place(mode, dir);
    prepare(&place);
    write_some(&place, count);
    place
}

fn check(place: &Place) -> Report {
    verify::run(place, false)
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .write_all_at(bytes, at)
        .unwrap();
}

fn read(path: &Path, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    File::open(path).unwrap().read_exact_at(&mut bytes, at).unwrap();
    bytes
}

#[test]
fn every_length_of_every_stream_is_a_state_the_disk_had() {
    for mode in [Mode::Append, Mode::Scatter, Mode::Pair] {
        let dir = TempDir::new().unwrap();
        let place = place(mode, &dir);
        prepare(&place);
        for total in 0..=3 * SLOTS {
            if total > 0 || mode == Mode::Append {
                write_some(&place, u64::from(total > 0));
            }
            let report = check(&place);
            assert_eq!(
                (report.verdict.clone(), report.high),
                (Verdict::Ok, total.checked_sub(1)),
                "{report}"
            );
        }
    }
}

#[test]
fn direct_writes_leave_the_same_stream() {
    let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let place = place(Mode::Scatter, &dir);
    prepare(&place);
    let pace = Pace {
        count: Some(20),
        direct: true,
        ..Pace::default()
    };
    write::run(&place, &pace, io::sink()).unwrap();
    assert_eq!(check(&place).high, Some(19));
    assert_eq!(check(&place).verdict, Verdict::Ok);
}

#[test]
fn writers_say_where_they_start_what_is_durable_and_how_long_it_took() {
    let dir = TempDir::new().unwrap();
    let place = written(Mode::Append, &dir, 3);
    let mut out = Vec::new();
    let pace = Pace {
        count: Some(5),
        ..Pace::default()
    };
    assert_eq!(write::run(&place, &pace, &mut out).unwrap(), Some(7));
    let out = String::from_utf8(out).unwrap();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.first(), Some(&"START append 3"), "{out}");
    assert!(
        lines.iter().any(|line| line.starts_with("ACK append 7 ")),
        "{out}"
    );
    assert!(lines.last().unwrap().starts_with("LAT append n=5 mean="), "{out}");
}

#[test]
fn a_lost_append_record_is_found() {
    let dir = TempDir::new().unwrap();
    let place = written(Mode::Append, &dir, 10);
    overwrite(&place.path, 4 * 512, &[0; 512]);
    let report = check(&place);
    assert_eq!(
        (report.verdict, report.high, report.holes),
        (Verdict::Bad, Some(3), 1)
    );
}

#[test]
fn a_torn_append_record_is_found_even_at_the_end() {
    for record in [4, 9] {
        let dir = TempDir::new().unwrap();
        let place = written(Mode::Append, &dir, 10);
        overwrite(&place.path, record * 512 + 256, &[0; 256]);
        let report = check(&place);
        assert_eq!((report.verdict, report.damaged), (Verdict::Bad, 1));
    }
}

#[test]
fn a_stale_append_record_is_found() {
    let dir = TempDir::new().unwrap();
    let place = written(Mode::Append, &dir, 10);
    overwrite(&place.path, 6 * 512, &read(&place.path, 5 * 512, 512));
    let report = check(&place);
    assert_eq!(
        (report.verdict, report.stale, report.high),
        (Verdict::Bad, 1, Some(5))
    );
}

#[test]
fn swapped_append_records_are_found() {
    let dir = TempDir::new().unwrap();
    let place = written(Mode::Append, &dir, 10);
    let (one, two) = (read(&place.path, 5 * 512, 512), read(&place.path, 6 * 512, 512));
    overwrite(&place.path, 5 * 512, &two);
    overwrite(&place.path, 6 * 512, &one);
    assert_eq!(check(&place).verdict, Verdict::Bad);
}

#[test]
fn one_empty_record_at_the_end_of_a_file_is_the_cut_and_two_are_a_loss() {
    let dir = TempDir::new().unwrap();
    let place = written(Mode::Append, &dir, 10);
    let file = OpenOptions::new().write(true).open(&place.path).unwrap();
    file.set_len(11 * 512).unwrap();
    assert_eq!((check(&place).verdict, check(&place).tail), (Verdict::Ok, 1));
    file.set_len(12 * 512).unwrap();
    assert_eq!(check(&place).verdict, Verdict::Bad);
    write_some(&place, 1);
    assert_eq!(
        (check(&place).verdict, check(&place).high),
        (Verdict::Ok, Some(10))
    );
}

#[test]
fn any_single_lost_torn_or_stale_scatter_block_is_found_except_the_newest() {
    // Losing exactly the newest block gives the state before it was written, which is a state the disk had.
    let dir = TempDir::new().unwrap();
    let base = written(Mode::Scatter, &dir, SLOTS);
    let before: Vec<u8> = read(&base.path, 0, usize::try_from((SLOTS + 4) * BLOCK).unwrap());
    write_some(&base, 5 * SLOTS);
    let after = read(&base.path, 0, before.len());
    let high = check(&base).high;
    for slot in 0..SLOTS {
        let at = (slot + 1) * BLOCK;
        let range = usize::try_from(at).unwrap()..usize::try_from(at + BLOCK).unwrap();
        let mut torn = after[range.clone()].to_vec();
        torn[512..1024].copy_from_slice(&before[range.clone()][512..1024]);
        overwrite(&base.path, at, &torn);
        assert_eq!(
            (check(&base).verdict, check(&base).damaged),
            (Verdict::Bad, 1),
            "torn slot {slot}"
        );

        overwrite(&base.path, at, &[0; 4096]);
        let lost = check(&base);
        if lost.high == high {
            assert_eq!((lost.verdict, lost.holes), (Verdict::Bad, 1), "lost slot {slot}");
            overwrite(&base.path, at, &before[range.clone()]);
            let stale = check(&base);
            assert_eq!(stale.verdict, Verdict::Bad, "stale slot {slot}");
            assert_eq!(stale.stale + stale.holes, 1, "stale slot {slot}");
        }
        overwrite(&base.path, at, &after[range]);
        assert_eq!(check(&base).verdict, Verdict::Ok);
    }
}

#[test]
fn a_scatter_block_in_the_wrong_slot_is_found() {
    let dir = TempDir::new().unwrap();
    let place = written(Mode::Scatter, &dir, 6 * SLOTS);
    overwrite(&place.path, BLOCK, &read(&place.path, 2 * BLOCK, 4096));
    assert_eq!(check(&place).verdict, Verdict::Bad);
}

#[test]
fn disks_of_different_instants_are_found() {
    // The two disks of one VM, each fine alone, caught at different instants.
    let dir = TempDir::new().unwrap();
    let place = written(Mode::Pair, &dir, 20);
    let early = [
        std::fs::read(&place.path).unwrap(),
        std::fs::read(&place.path_b).unwrap(),
    ];
    write_some(&place, 1);
    let one_later = std::fs::read(&place.path).unwrap();
    write_some(&place, 1);
    let verdict_with = |a: &[u8], b: &[u8]| {
        std::fs::write(&place.path, a).unwrap();
        std::fs::write(&place.path_b, b).unwrap();
        check(&place).verdict
    };
    let late = [
        std::fs::read(&place.path).unwrap(),
        std::fs::read(&place.path_b).unwrap(),
    ];
    assert_eq!(verdict_with(&late[0], &late[1]), Verdict::Ok);
    assert_eq!(
        verdict_with(&one_later, &early[1]),
        Verdict::Ok,
        "A one ahead is between the two writes"
    );
    assert_eq!(verdict_with(&late[0], &early[1]), Verdict::Bad, "A two ahead");
    assert_eq!(verdict_with(&early[0], &late[1]), Verdict::Bad, "B ahead of A");
}

#[test]
fn a_record_that_reached_only_the_first_disk_is_written_again() {
    let dir = TempDir::new().unwrap();
    let place = written(Mode::Pair, &dir, 20);
    let b = std::fs::read(&place.path_b).unwrap();
    write_some(&place, 1);
    std::fs::write(&place.path_b, b).unwrap();
    write_some(&place, 5);
    let report = check(&place);
    assert_eq!(
        (report.verdict, report.highs),
        (Verdict::Ok, Some([Some(24), Some(24)]))
    );
}

#[test]
fn another_run_is_told_apart() {
    let dir = TempDir::new().unwrap();
    let place = written(Mode::Scatter, &dir, 4 * SLOTS);
    let second = Place {
        run: 2,
        ..place.clone()
    };
    write_some(&second, 2);
    let report = check(&second);
    assert_eq!((report.verdict, report.high), (Verdict::Ok, Some(1)));
    assert!(report.foreign > 0);
    assert_eq!(
        check(&place).verdict,
        Verdict::Bad,
        "the first run lost blocks to the second"
    );
}

#[test]
fn could_not_tell_is_no_pass() {
    let dir = TempDir::new().unwrap();
    let unknown = |place: &Place, expect_some| {
        let report = verify::run(place, expect_some);
        assert!(matches!(report.verdict, Verdict::Unknown(_)), "{report}");
        assert_eq!(report.exit_code(), 2);
    };
    for mode in [Mode::Append, Mode::Scatter, Mode::Pair] {
        unknown(&place(mode, &dir), false);
    }
    let empty = place(Mode::Scatter, &dir);
    prepare(&empty);
    unknown(&empty, true);
    assert_eq!(verify::run(&empty, false).verdict, Verdict::Ok);
    unknown(
        &Place {
            slots: 1000,
            ..empty.clone()
        },
        false,
    );
    write_some(&empty, 4 * SLOTS);
    unknown(
        &Place {
            slots: SLOTS / 2,
            ..empty.clone()
        },
        false,
    );
    assert!(
        write::run(
            &Place {
                slots: SLOTS / 2,
                ..empty
            },
            &Pace::default(),
            io::sink()
        )
        .is_err()
    );
}

fn run_binary(args: &[&str], path: &Path) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_lifeboat-workload"))
        .args(args)
        .arg(path)
        .output()
        .unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
    )
}

#[test]
fn the_command_line_prints_one_result_and_exits_by_it() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("records.log");
    assert_eq!(run_binary(&["verify-append"], &file).0, 2);
    assert_eq!(run_binary(&["append", "--count", "4"], &file).0, 0);

    let (code, text) = run_binary(&["verify-append"], &file);
    assert_eq!((code, text.lines().count()), (0, 1));
    assert!(
        text.starts_with("RESULT OK mode=append high=3 wall_ms="),
        "{text}"
    );
    assert!(
        text.ends_with(" holes=0 stale=0 damaged=0 foreign=0 tail=0\n"),
        "{text}"
    );

    let (_, json) = run_binary(&["verify-append", "--json"], &file);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["result"], &json["high"]), (&"OK".into(), &3.into()));

    overwrite(&file, 512, &[0; 512]);
    let (code, text) = run_binary(&["verify-append"], &file);
    assert_eq!(code, 1);
    assert!(text.starts_with("RESULT BAD mode=append high=0 "), "{text}");
}
