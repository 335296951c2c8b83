//! What documents say of the code: every test that `docs/field-cases.md` names is there. Whether it shows what the document
//! says is for people to judge.

use crate::Finding;
use crate::files::Tree;

/// The document with a test for each case.
const CASES: &str = "docs/field-cases.md";

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let Some(document) = tree.texts.iter().find(|t| t.path == CASES) else {
        return vec![Finding::error(
            CASES,
            "is gone; it names the test of each case that failed once".to_owned(),
        )];
    };
    let missing = |name: &&str| !tree.sources.iter().any(|s| is_there(&s.text, name));
    let finding = |(number, name): (usize, &str)| {
        let what = format!("names the test {name}, which is nowhere");
        Finding::error(format!("{CASES}:{number}"), what)
    };
    let named = (1..).zip(document.text.lines());
    let named = named.flat_map(|(number, line)| names(line).map(move |name| (number, name)));
    named.filter(|(_, name)| missing(name)).map(finding).collect()
}

/// Words in backticks that can only be names of tests.
fn names(line: &str) -> impl Iterator<Item = &str> {
    let quoted = line.split('`').skip(1).step_by(2);
    quoted.filter(|word| {
        let letters = word
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        letters && word.matches('_').count() > 2
    })
}

/// Whether a source has this name as a word of its own. A macro may make the function.
fn is_there(text: &str, name: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(name).any(|(at, _)| {
        let before = text.get(..at).and_then(|t| t.chars().next_back());
        let after = text.get(at + name.len()..).and_then(|t| t.chars().next());
        !before.is_some_and(part) && !after.is_some_and(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tests_are_told_from_other_words() {
        let line = "| `ac8a7a9` | field::`a_seed_that_differs`; kind `foreign-edit` of `no_test` and `one_of_four_words` |";
        assert_eq!(
            names(line).collect::<Vec<_>>(),
            ["a_seed_that_differs", "one_of_four_words"]
        );
        assert!(is_there("fn one_of_four_words() {", "one_of_four_words"));
        assert!(!is_there("fn one_of_four_words_more() {", "one_of_four_words"));
    }
}
