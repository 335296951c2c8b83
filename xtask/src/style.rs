//! House rules about files: module docs, length, `unwrap`, `unsafe`, accept loops, and traces of a developer's machine.
//! What clippy and rustfmt know is theirs.

use crate::files::{SourceFile, Tree};
use crate::{Finding, Level, source};

const MOST_LINES: usize = 1000;
const MANY_LINES: usize = 600;

/// Beginnings of paths that exist on one developer's machine only. In pieces, or this file would find itself.
const PRIVATE_PLACES: [&str; 3] = [
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/"),
];

/// Where connections are accepted: one loop bounds them, goes on when accepting fails, and ends with what is under way.
const ACCEPTS: &str = "crates/lifeboat-admission/";

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings: Vec<Finding> = tree.sources.iter().flat_map(check_source).collect();
    findings.extend(check_unsafe(tree));
    for file in tree.texts.iter().filter(|file| file.path != "Cargo.lock") {
        for (number, line) in (1..).zip(file.text.lines()) {
            if let Some(place) = PRIVATE_PLACES.iter().find(|place| names_place(line, place)) {
                let what =
                    format!("names a place on one machine ({place}...); write it relative or make it up");
                findings.push(Finding::error(format!("{}:{number}", file.path), what));
            }
        }
    }
    findings
}

fn check_source(file: &SourceFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !file.text.starts_with("//!") {
        let what = "does not open with //!; say what the file is for and what it is not";
        findings.push(Finding::error(&file.path, what));
    }
    let lines = file.text.lines().count() - file.source.test_lines;
    if !file.is_test && lines > MANY_LINES {
        let level = if lines > MOST_LINES {
            Level::Error
        } else {
            Level::Warning
        };
        let what =
            format!("has {lines} lines without its tests; {MANY_LINES} is the aim, {MOST_LINES} the limit");
        findings.push(Finding {
            level,
            place: file.path.clone(),
            what,
        });
    }
    if !file.is_test && file.crate_of_src().is_some() {
        for line in source::lines_with(&file.source.product, ".unwrap()") {
            let what = ".unwrap() outside tests; return an error, or expect() with the invariant in words";
            findings.push(Finding::error(format!("{}:{line}", file.path), what));
        }
        if !file.path.starts_with(ACCEPTS) {
            for line in source::lines_with(&file.source.product, ".accept().await") {
                let what = "an accept loop of its own; use the one of lifeboat-admission";
                findings.push(Finding::error(format!("{}:{line}", file.path), what));
            }
        }
    }
    findings
}

/// One module may hold all unsafe code there is; the second is one too many.
fn check_unsafe(tree: &Tree) -> Vec<Finding> {
    let found = tree.sources.iter().filter_map(|file| {
        let line = *source::lines_with(&file.source.code, "unsafe").first()?;
        Some(format!("{}:{line}", file.path))
    });
    let places: Vec<String> = found.collect();
    let what = format!("unsafe in more than one module: {}", places.join(", "));
    places
        .iter()
        .skip(1)
        .map(|place| Finding::error(place, &what))
        .collect()
}

/// Whether `line` has an absolute path that begins with `place` and goes on.
fn names_place(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + place.len()..].chars().next();
        let absolute = before.is_none_or(|c| !(c.is_alphanumeric() || "._-/}*$".contains(c)));
        absolute && after.is_some_and(|c| c.is_alphanumeric() || c == '.' || c == '_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(files: &[(&str, &str)]) -> Vec<Level> {
        check(&Tree::example(files))
            .into_iter()
            .map(|finding| finding.level)
            .collect()
    }

    #[test]
    fn a_file_says_what_it_is_for() {
        assert_eq!(levels(&[("crates/a/src/lib.rs", "//! A.\n")]), []);
        assert_eq!(
            levels(&[("crates/a/src/lib.rs", "use b;\n//! A.\n")]),
            [Level::Error]
        );
        assert_eq!(levels(&[("crates/a/tests/t.rs", "")]), [Level::Error]);
    }

    #[test]
    fn long_files_are_found_without_counting_tests() {
        let of = |lines: usize| format!("//!\n{}", "x\n".repeat(lines - 1));
        assert_eq!(levels(&[("crates/a/src/a.rs", &of(600))]), []);
        assert_eq!(levels(&[("crates/a/src/a.rs", &of(601))]), [Level::Warning]);
        assert_eq!(levels(&[("crates/a/src/a.rs", &of(1001))]), [Level::Error]);
        assert_eq!(levels(&[("crates/a/tests/a.rs", &of(1001))]), []);
        let with_tests = format!("{}#[cfg(test)]\nmod t {{\n{}}}\n", of(500), "y\n".repeat(500));
        assert_eq!(levels(&[("crates/a/src/a.rs", &with_tests)]), []);
    }

    #[test]
    fn unwrap_is_for_tests() {
        let code = "//!\nfn f() { x.unwrap(); }\n";
        assert_eq!(levels(&[("crates/a/src/a.rs", code)]), [Level::Error]);
        assert_eq!(levels(&[("crates/a/tests/a.rs", code)]), []);
        let inside = "//! .unwrap()\n#[cfg(test)]\nmod tests { fn f() { x.unwrap(); } }\n";
        assert_eq!(levels(&[("crates/a/src/a.rs", inside)]), []);
    }

    #[test]
    fn connections_are_accepted_in_one_place() {
        let code = "//!\nfn f() { let x = listener.accept().await; }\n";
        assert_eq!(levels(&[("crates/a/src/a.rs", code)]), [Level::Error]);
        assert_eq!(levels(&[("crates/lifeboat-admission/src/accept.rs", code)]), []);
        assert_eq!(levels(&[("crates/a/tests/a.rs", code)]), []);
    }

    #[test]
    fn unsafe_has_one_home() {
        let code = "//! unsafe\nfn f() { unsafe { g() } }\n";
        assert_eq!(levels(&[("crates/a/src/a.rs", code)]), []);
        assert_eq!(
            levels(&[("crates/a/src/a.rs", code), ("crates/b/src/b.rs", code)]),
            [Level::Error]
        );
    }

    #[test]
    fn traces_of_a_machine_are_found() {
        let bad = [
            concat!("cd /ho", "me/ann/x"),
            concat!("\"/wo", "rk/x\""),
            concat!("=/ro", "ot/.ssh"),
        ];
        for line in bad {
            assert_eq!(levels(&[("README.md", line)]), [Level::Error], "{line}");
        }
        let fine = [
            concat!("a/wo", "rk/x"),
            concat!("$HOME/wo", "rk/x"),
            "/homework/x",
            concat!("/ro", "ot:/bin"),
        ];
        for line in fine {
            assert_eq!(levels(&[("README.md", line)]), [], "{line}");
        }
    }
}
