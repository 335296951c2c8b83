//! The conformance table: every method against every return value of the API. A cell is a situation that is played in a
//! world of its own and must answer with this value, or the reason why it cannot occur. The table is a document
//! (`docs/conformance.md`), made here; `UPDATE_DOCS=1` writes it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use lifeboat_cim::Schema;
use lifeboat_sim::harness::{THREE_HOSTS, TWO_HOSTS, simulate_small};
use lifeboat_wbem::cim::VIRTUALIZATION;
use lifeboat_wbem::cim::methods::{METHODS, NOT_SERVED};

use crate::cim_methods::table::{self, Situation};
use crate::cim_methods::world::*;

/// The columns.
const CODES: [u32; 14] = [
    0, 4096, 32768, 32769, 32770, 32771, 32772, 32773, 32774, 32775, 32776, 32777, 32778, 32779,
];

/// Every method that is served, and of the replication service those that are not as well.
fn rows() -> Vec<(&'static str, &'static str)> {
    let served = METHODS
        .iter()
        .flat_map(|(class, entries)| entries.iter().map(|e| (*class, e.method)));
    let not = NOT_SERVED.iter().filter(|n| n.class == "Msvm_ReplicationService");
    let mut rows: Vec<_> = served
        .chain(not.flat_map(|n| n.methods.iter().map(|m| (n.class, *m))))
        .collect();
    // By class in the order of the table; stable within it.
    rows.sort_by_key(|(class, _)| METHODS.iter().position(|(c, _)| c == class));
    rows
}

/// Methods of these classes are in exactly one of the two tables, and the tables have no others.
#[test]
fn every_method_of_the_schema_is_served_or_says_why_not() {
    let space = Schema::builtin().namespace(VIRTUALIZATION).unwrap();
    for (class, entries) in METHODS {
        let mut told: Vec<&str> = entries.iter().map(|e| e.method).collect();
        let not = NOT_SERVED.iter().filter(|n| n.class == *class);
        told.extend(not.flat_map(|n| n.methods));
        told.sort_unstable();
        let mut declared: Vec<&str> = space
            .class(class)
            .unwrap()
            .methods
            .iter()
            .map(|m| m.name.as_str())
            .collect();
        declared.sort_unstable();
        assert_eq!(told, declared, "{class}");
    }
    for not in NOT_SERVED {
        assert!(METHODS.iter().any(|(c, _)| *c == not.class), "{}", not.class);
        assert!(!not.reason.is_empty());
    }
    let service = space.class("Msvm_ReplicationService").unwrap();
    assert_eq!(service.methods.len(), 29);
}

/// Plays a situation; the value that was really returned, and what the engine was asked for it.
pub(crate) fn play(situation: &Situation) -> (u32, Vec<(String, u32)>) {
    let hosts: &[&str] = if situation.stage.needs_a_third_host() {
        THREE_HOSTS
    } else {
        TWO_HOSTS
    };
    simulate_small(77, hosts, async |w| {
        situation.stage.reach(w).await;
        (situation.spoil)(w);
        let target = (situation.target)(w);
        let args = (situation.args)(w);
        let (manager, counting) = counted(w, situation.host);
        let caller = caller(situation.role);
        let answered = manager
            .invoke(&caller, VIRTUALIZATION, &target, situation.method, args)
            .await;
        let answered = answered.unwrap_or_else(|e| panic!("{}: {}: {e}", situation.method, situation.words));
        (answered.value, counting.take())
    })
}

/// Plays all of them on all processors; the mistakes.
fn play_all(all: &[Situation]) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(situation) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play(situation).0));
                    if played.as_ref().ok() != Some(&situation.code) {
                        let what = played.map_or_else(|_| "a panic".to_owned(), |code| code.to_string());
                        wrong.lock().unwrap().push(format!(
                            "{} {}: {}: it was {what}",
                            situation.method, situation.code, situation.words
                        ));
                    }
                }
            });
        }
    });
    wrong.into_inner().unwrap()
}

/// The reason why a cell is empty: the first that is for this method, or for all.
fn reason(class: &str, method: &str, code: u32) -> Option<&'static str> {
    let own = format!("{class}.{method}");
    let fits = |names: &str| {
        names
            .split_whitespace()
            .any(|n| n == "*" || n == method || n == own)
    };
    let mut fitting = table::REASONS
        .iter()
        .filter(|(names, codes, _)| codes.contains(&code) && fits(names));
    fitting.next().map(|(_, _, why)| *why)
}

#[test]
fn each_answer_comes_from_the_situation_it_names() {
    let all = table::situations();
    let wrong = play_all(&all);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let document = document(&all);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/conformance.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &document).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == document,
        "docs/conformance.md is not what was played: run this test with UPDATE_DOCS=1"
    );
}

fn document(all: &[Situation]) -> String {
    let mut out = String::from(HEAD);
    let mut notes: Vec<&'static str> = Vec::new();
    let mut empty = Vec::new();
    let mut details = String::new();
    out += "| method |";
    CODES.iter().for_each(|c| write!(out, " {c} |").unwrap());
    out += " own |\n|---|";
    out += &"---|".repeat(CODES.len() + 1);
    out.push('\n');
    for (class, method) in rows() {
        let shown = match class {
            "Msvm_ReplicationService" => method.to_owned(),
            _ => format!("{class}.{method}"),
        };
        let mine: Vec<&Situation> = all
            .iter()
            .filter(|s| s.class == class && s.method == method)
            .collect();
        write!(out, "| {shown} |").unwrap();
        for code in CODES {
            let played = mine.iter().any(|s| s.code == code);
            match (played, reason(class, method, code)) {
                (true, _) => out += " **x** |",
                (false, Some(why)) => {
                    let at = notes.iter().position(|n| *n == why).unwrap_or_else(|| {
                        notes.push(why);
                        notes.len() - 1
                    });
                    write!(out, " {} |", at + 1).unwrap();
                }
                (false, None) => empty.push(format!("{shown} {code}")),
            }
        }
        let mut own: Vec<String> = mine
            .iter()
            .filter(|s| !CODES.contains(&s.code))
            .map(|s| s.code.to_string())
            .collect();
        own.dedup();
        writeln!(out, " {} |", own.join(", ")).unwrap();
        detail(&mut details, &shown, &mine);
    }
    assert!(
        empty.is_empty(),
        "cells without a situation or a reason:\n{}",
        empty.join("\n")
    );
    out += "\n## Why a cell is empty\n\n";
    for (n, why) in notes.iter().enumerate() {
        writeln!(out, "{}. {why}", n + 1).unwrap();
    }
    for (names, _, why) in table::REASONS {
        assert!(notes.contains(why), "a reason that no cell needs: {names}: {why}");
    }
    out += "\n## What was played\n";
    out += &details;
    out += "\n## Not served\n\n";
    for not in NOT_SERVED {
        let code = not.numbers.of(lifeboat_model::api::ReturnCode::NotSupported);
        writeln!(
            out,
            "- `{}`: {} answer {code}: {}.",
            not.class,
            not.methods.join(", "),
            not.reason
        )
        .unwrap();
    }
    out
}

fn detail(out: &mut String, method: &str, mine: &[&Situation]) {
    let mut by_code: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    for situation in mine {
        by_code.entry(situation.code).or_default().push(situation.words);
    }
    write!(out, "\n### {method}\n\n| answer | when |\n|---|---|\n").unwrap();
    for (code, words) in by_code {
        writeln!(out, "| {code} | {} |", words.join("; ")).unwrap();
    }
}

const HEAD: &str = "\
# What each method answers

Made by a test (`UPDATE_DOCS=1 cargo nextest run -p lifeboat-wbem --test surfaces` writes it) that plays every situation
below on real engines in a simulated world of two or three hosts, calls the method as the protocols do, and compares the
value that comes back. **x**: played, see the list further down. A number: it cannot occur, for the reason with that number.
*own*: values that a method has beside those of the API.

A refusal is an ordinary reply with this value as its return value. The API has no room for more: what was wrong and the way
out are in the log of the host that was called.

";
