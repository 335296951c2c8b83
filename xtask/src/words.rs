//! Documentation of items that says nothing: one plain word, such as "Which." or "Name.", which the name and the type say
//! already. Whether a sentence is true, and whether it helps, is for people to judge.

use crate::files::{SourceFile, Tree};
use crate::{Finding, Level};

/// Where one-word documentation is still left over; everything else is held to the rule, and so is what is taken out here.
const NOT_YET: [&str; 7] = [
    "crates/lifeboat-block/",
    "crates/lifeboat-engine/",
    "crates/lifeboat-link/",
    "crates/lifeboat-qemu/",
    "crates/lifeboat-rest/",
    "crates/lifeboat-store/",
    "crates/lifeboat-wbem/",
];

/// Parts of those that are held to it all the same.
const ALREADY: [&str; 3] = [
    "crates/lifeboat-engine/src/action.rs",
    "crates/lifeboat-engine/src/ports/",
    "crates/lifeboat-engine/src/records.rs",
];

const WHAT_TO_SAY: &str =
    "say what the name and the type do not: the unit, the range, the error, or the reason";

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut left_over = [false; NOT_YET.len()];
    for file in tree.sources.iter().filter(|file| !file.is_test) {
        let found = one_word_docs(file);
        let begins = |places: &[&str]| places.iter().position(|place| file.path.starts_with(place));
        match begins(&NOT_YET).filter(|_| begins(&ALREADY).is_none()) {
            Some(place) => left_over[place] |= !found.is_empty(),
            None => findings.extend(found.into_iter().map(|(line, word)| {
                let what = format!("the documentation of an item is the word \"{word}\"; {WHAT_TO_SAY}");
                Finding::error(format!("{}:{line}", file.path), what)
            })),
        }
    }
    let done = NOT_YET.iter().zip(left_over).filter(|(_, left_over)| !left_over);
    findings.extend(done.map(|(place, _)| Finding {
        level: Level::Warning,
        place: (*place).into(),
        what: "has no one-word documentation any more; take it out of NOT_YET in xtask/src/words.rs".into(),
    }));
    findings
}

/// Items whose documentation begins with a paragraph of one word, with the line of that word. Those that exist for tests only are
/// left out.
fn one_word_docs(file: &SourceFile) -> Vec<(usize, &str)> {
    let lines: Vec<&str> = file.text.lines().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let docs = lines[at..].iter().map_while(|line| doc(line));
        let docs: Vec<&str> = docs.collect();
        let item = at + docs.len();
        let alone = docs.get(1).is_none_or(|second| second.is_empty());
        if let Some(word) = docs.first().filter(|text| alone && is_one_word(text))
            && !is_for_tests(file, item)
        {
            found.push((at + 1, *word));
        }
        at = item.max(at + 1);
    }
    found
}

/// What a line of an item's documentation says.
fn doc(line: &str) -> Option<&str> {
    let text = line.trim_start().strip_prefix("///")?;
    Some(text.trim())
}

/// A word with capitals or digits inside is a name, and says which: `SeaBIOS`, `RevertFailover`, `qcow2`.
fn is_one_word(text: &str) -> bool {
    let word = text.strip_suffix('.').unwrap_or(text);
    let mut letters = word.chars();
    letters.next().is_some_and(|c| c.is_ascii_alphabetic()) && letters.all(|c| c.is_ascii_lowercase())
}

/// Whether the line with this index is code, and none of the product.
fn is_for_tests(file: &SourceFile, line: usize) -> bool {
    let is_empty = |text: &str| text.lines().nth(line).is_none_or(|line| line.trim().is_empty());
    is_empty(&file.source.product) && !is_empty(&file.source.code)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Line and level of each finding in one file of a tree where nothing is left over elsewhere.
    fn found(path: &str, text: &str) -> Vec<(String, Level)> {
        let left_over = NOT_YET.map(|place| (format!("{place}src/other.rs"), "/// Which.\na: B,\n"));
        let mut files: Vec<(&str, &str)> = left_over
            .iter()
            .map(|(path, text)| (path.as_str(), *text))
            .collect();
        files.push((path, text));
        let findings = check(&Tree::example(&files));
        findings.into_iter().map(|f| (f.place, f.level)).collect()
    }

    #[test]
    fn one_word_is_no_documentation() {
        for text in [
            "//! A.\n/// Which.\npub struct A;\n",
            "//! A.\n/// Which\npub struct A;\n",
            "//! A.\n    /// which.\n    a: B,\n",
            "//! A.\n///Which.\n#[derive(Debug)]\npub struct A;\n",
            "//! A.\n/// Reads.\n///\n/// # Errors\n/// It is not there.\npub fn a() {}\n",
        ] {
            let place = "crates/lifeboat-model/src/a.rs:2".to_owned();
            assert_eq!(
                found("crates/lifeboat-model/src/a.rs", text),
                [(place, Level::Error)],
                "{text}"
            );
        }
    }

    #[test]
    fn sentences_names_and_tests_pass() {
        for text in [
            "/// Which one.\na: B,\n",
            "/// RevertFailover.\na: B,\n",
            "/// SeaBIOS.\na: B,\n",
            "/// qcow2.\na: B,\n",
            "/// `ReplicationHealth`.\na: B,\n",
            "/// Has all of it encrypted.\n/// Repeatable.\nfn a() {}\n",
            "// Which.\nlet a = b;\n",
            "//! Which.\n",
            "#[cfg(test)]\nmod tests {\n    /// Which.\n    struct A;\n}\n",
        ] {
            assert_eq!(found("crates/lifeboat-model/src/a.rs", text), [], "{text}");
        }
        assert_eq!(
            found("crates/lifeboat-model/tests/a.rs", "/// Which.\na: B,\n"),
            []
        );
    }

    #[test]
    fn what_is_not_done_yet_is_left_alone_and_named_when_it_is() {
        let text = "/// Which.\na: B,\n";
        assert_eq!(found("crates/lifeboat-engine/src/actor.rs", text), []);
        let place = |path: &str| (format!("{path}:1"), Level::Error);
        for path in [
            "crates/lifeboat-engine/src/action.rs",
            "crates/lifeboat-engine/src/ports/link.rs",
        ] {
            assert_eq!(found(path, text), [place(path)]);
        }
        let none_left = check(&Tree::example(&[]));
        assert_eq!(none_left.len(), NOT_YET.len());
        assert!(none_left.iter().all(|f| f.level == Level::Warning));
    }
}
