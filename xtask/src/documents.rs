//! What documents say of the code: every test that `docs/field-cases.md` or `CONTRIBUTING.md` names is there, and every file that
//! `ARCHITECTURE.md` or `CONTRIBUTING.md` names. Whether it shows what the document says is for people to judge.

use crate::Finding;
use crate::files::{TextFile, Tree};
use crate::source::lines_with;

/// The document with a test for each case.
const CASES: &str = "docs/field-cases.md";
/// The document that says what to touch, and what names it when it is forgotten.
const STEPS: &str = "CONTRIBUTING.md";
/// The document that says where things are.
const MAP: &str = "ARCHITECTURE.md";

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (document, tests, files, why) in [
        (
            CASES,
            true,
            false,
            "it names the test of each case that failed once",
        ),
        (
            STEPS,
            true,
            true,
            "it says what has to be touched to add something",
        ),
        (MAP, false, true, "it says where things are"),
    ] {
        let Some(text) = tree.texts.iter().find(|t| t.path == document) else {
            findings.push(Finding::error(document, format!("is gone; {why}")));
            continue;
        };
        if tests {
            let missing = |name: &str| !is_test(tree, name);
            findings.extend(absent(text, missing, is_name_of_test, "the test"));
        }
        if files {
            let missing = |path: &str| !is_there(tree, path);
            findings.extend(absent(text, missing, is_path, "the file"));
        }
    }
    findings
}

/// A finding for each word in backticks that is of this kind and missing.
fn absent(
    document: &TextFile,
    missing: impl Fn(&str) -> bool,
    of_this_kind: impl Fn(&str) -> bool,
    kind: &str,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in (1..).zip(document.text.lines()) {
        for word in quoted(line).filter(|word| of_this_kind(word) && missing(word)) {
            let what = format!("names {kind} {word}, which is nowhere");
            findings.push(Finding::error(format!("{}:{number}", document.path), what));
        }
    }
    findings
}

fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Whether a word can only be the name of a test.
fn is_name_of_test(word: &str) -> bool {
    let letters = word
        .chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    letters && word.matches('_').count() > 2
}

/// A macro may make the function, so its name is looked for anywhere.
fn is_test(tree: &Tree, name: &str) -> bool {
    tree.sources.iter().any(|s| !lines_with(&s.text, name).is_empty())
}

/// Whether a word can only be a file or directory of ours. Shorter ones (`settings.rs`) are beside one that was named in full.
fn is_path(word: &str) -> bool {
    let first = word.split('/').next().filter(|first| first.len() < word.len());
    let ours = |first: &str| {
        first.starts_with("lifeboat") || ["crates", "docs", "scripts", "xtask", ".ci"].contains(&first)
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    first.is_some_and(ours) && word.chars().all(plain)
}

/// Whether there is such a file or directory, from the root or from `crates/`. A module may be named without its extension.
fn is_there(tree: &Tree, path: &str) -> bool {
    let path = path.trim_end_matches('/');
    let is = |file: &str| {
        let rest = file.strip_prefix(path);
        rest.is_some_and(|rest| rest.is_empty() || rest == ".rs" || rest.starts_with('/'))
    };
    let mut files = tree.texts.iter().map(|t| t.path.as_str());
    files.any(|file| is(file) || file.strip_prefix("crates/").is_some_and(is))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tests_are_told_from_other_words() {
        let line = "| `ac8a7a9` | field::`a_seed_that_differs`; kind `foreign-edit` of `no_test` and `one_of_four_words` |";
        assert_eq!(
            quoted(line)
                .filter(|word| is_name_of_test(word))
                .collect::<Vec<_>>(),
            ["a_seed_that_differs", "one_of_four_words"]
        );
        assert_eq!(lines_with("fn one_of_four_words() {", "one_of_four_words"), [1]);
        assert!(lines_with("fn one_of_four_words_more() {", "one_of_four_words").is_empty());
    }

    #[test]
    fn paths_are_told_from_other_words() {
        for path in [
            "lifeboat-a/src/b.rs",
            "lifeboat/src/cli/",
            "docs/a.md",
            "xtask/src",
            ".ci/run",
        ] {
            assert!(is_path(path), "{path}");
        }
        for other in [
            "settings.rs",
            "docs",
            "lifeboat serve",
            "HOST:PORT",
            "lifeboat-a/*",
            "cli/",
            "a/b",
        ] {
            assert!(!is_path(other), "{other}");
        }
    }

    #[test]
    fn what_a_document_names_and_is_gone_is_found() {
        let found = |steps: &str| {
            let tree = Tree::example(&[
                (CASES, ""),
                (MAP, ""),
                (STEPS, steps),
                ("crates/lifeboat-a/src/b.rs", "fn a_test_that_is_there() {}\n"),
                ("docs/a.md", ""),
            ]);
            check(&tree).len()
        };
        assert_eq!(
            found("`a_test_that_is_there`, `lifeboat-a/src/b.rs`, `lifeboat-a/src/`\n"),
            0
        );
        assert_eq!(found("`lifeboat-a/src/b`, `crates/lifeboat-a`, `docs/a.md`\n"), 0);
        assert_eq!(found("`a_test_that_is_gone`\n"), 1);
        assert_eq!(found("`lifeboat-a/src/c.rs`, `docs/b.md`, `lifeboat-a/sr`\n"), 3);
        assert_eq!(check(&Tree::example(&[])).len(), 3);
    }
}
