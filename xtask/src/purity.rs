//! Crates that decide must not act: no clock, file, socket or random source in the pure crates, and none but
//! tokio's timers and tasks in the engine. Tests inside these crates are free.

use crate::Finding;
use crate::files::{SourceFile, Tree};
use crate::metadata::{Kind, Metadata};
use crate::source;

const PURE: [&str; 4] = [
    "lifeboat-model",
    "lifeboat-deltalog",
    "lifeboat-cim",
    "lifeboat-xml",
];
const ENGINE: &str = "lifeboat-engine";

/// Crates a pure crate must not depend on.
const IMPURE_CRATES: [&str; 14] = [
    "async-std",
    "chrono",
    "fastrand",
    "getrandom",
    "hyper",
    "libc",
    "mio",
    "nix",
    "rand",
    "rustix",
    "rusqlite",
    "socket2",
    "tempfile",
    "tokio",
];

/// Paths and calls that a pure crate must not contain.
const IMPURE_PATHS: [&str; 12] = [
    "Instant::now",
    "SystemTime::now",
    "getrandom",
    "new_v4",
    "now_v7",
    "rand",
    "std::env",
    "std::fs",
    "std::net",
    "std::process",
    "std::time::Instant",
    "std::time::SystemTime",
];

/// Paths and calls that the engine must not contain: what they do belongs behind a port. Tokio's `Instant` is
/// fine, because tests turn that clock by hand.
const ENGINE_PATHS: [&str; 10] = [
    "SystemTime::now",
    "getrandom",
    "new_v4",
    "std::fs",
    "std::net",
    "std::process",
    "std::time::Instant",
    "tokio::fs",
    "tokio::net",
    "tokio::process",
];

pub(crate) fn check(metadata: &Metadata, tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in metadata
        .members
        .iter()
        .filter(|package| PURE.contains(&package.name.as_str()))
    {
        for (kind, used) in &package.uses {
            if *kind == Kind::Product && IMPURE_CRATES.contains(&used.as_str()) {
                let what =
                    format!("is a pure crate and must not depend on {used}; take its result as an argument");
                findings.push(Finding::error(&package.name, what));
            }
        }
    }
    for file in tree.sources.iter().filter(|file| !file.is_test) {
        match file.crate_of_src() {
            Some(name) if PURE.contains(&name) => {
                let why = "in a pure crate; take time, ids and bytes as arguments";
                findings.extend(mentions(file, &IMPURE_PATHS, why));
                findings.extend(mentions(file, &["tokio"], why));
            }
            Some(ENGINE) => findings.extend(mentions(
                file,
                &ENGINE_PATHS,
                "in the engine; put it behind a port",
            )),
            _ => {}
        }
    }
    findings
}

fn mentions(file: &SourceFile, banned: &[&str], why: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    let imports = source::imports(&file.source.product);
    for path in banned {
        let mut lines = source::lines_with(&file.source.product, path);
        let inside = format!("{path}::");
        lines.extend(
            imports
                .iter()
                .filter(|(_, used)| used == path || used.starts_with(&inside))
                .map(|(line, _)| *line),
        );
        lines.sort_unstable();
        lines.dedup();
        found.extend(
            lines
                .into_iter()
                .map(|line| Finding::error(format!("{}:{line}", file.path), format!("{path} {why}"))),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(path: &str, text: &str) -> usize {
        check(&Metadata::default(), &Tree::example(&[(path, text)])).len()
    }

    #[test]
    fn pure_crates_stay_pure() {
        let model = "crates/lifeboat-model/src/x.rs";
        for bad in [
            "fn f() { let _ = std::fs::read(x); }",
            "use std::{collections::BTreeMap, fs};",
            "use std::time::{Duration, Instant};",
            "fn f() { Uuid::new_v4() }",
            "use tokio::sync::mpsc;",
            "fn f() -> u8 { rand::random() }",
        ] {
            assert!(errors(model, bad) > 0, "{bad}");
            assert_eq!(errors("crates/lifeboat-qemu/src/x.rs", bad), 0, "{bad}");
            assert_eq!(
                errors(model, &format!("#[cfg(test)]\nmod t {{ {bad} }}")),
                0,
                "{bad}"
            );
        }
        assert_eq!(
            errors(
                model,
                "//! std::fs\nuse std::time::Duration;\nfn operand() { let s = \"std::net\"; }"
            ),
            0
        );
    }

    #[test]
    fn a_pure_crate_with_an_impure_dependency_is_found() {
        let tree = Tree::example(&[]);
        let of = |kind| check(&Metadata::example("lifeboat-deltalog", &[(kind, "tokio")]), &tree).len();
        assert_eq!((of(Kind::Product), of(Kind::Dev)), (1, 0));
    }

    #[test]
    fn the_engine_acts_through_ports() {
        let engine = "crates/lifeboat-engine/src/x.rs";
        assert_eq!(errors(engine, "use tokio::{sync::mpsc, time::sleep};"), 0);
        assert_eq!(errors(engine, "use tokio::{fs, sync::mpsc};"), 1);
        assert_eq!(errors(engine, "fn f() { SystemTime::now() }"), 1);
        assert_eq!(
            errors(engine, "use tokio::time::Instant; fn f() { Instant::now() }"),
            0
        );
        assert_eq!(
            errors(engine, "use std::time::Instant; fn f() { Instant::now() }"),
            1
        );
        assert_eq!(errors("crates/lifeboat-engine/tests/x.rs", "use tokio::fs;"), 0);
    }
}
