//! What documents say of the code: every test that `docs/field-cases.md` names is there. Whether it shows what the document
//! says is for people to judge.

use crate::Finding;
use crate::files::Tree;
use crate::source::lines_with;

/// The document with a test for each case.
const CASES: &str = "docs/field-cases.md";

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let Some(document) = tree.texts.iter().find(|t| t.path == CASES) else {
        return vec![Finding::error(
            CASES,
            "is gone; it names the test of each case that failed once".to_owned(),
        )];
    };
    // A macro may make the function, so its name is looked for anywhere.
    let missing = |name: &&str| tree.sources.iter().all(|s| lines_with(&s.text, name).is_empty());
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
        assert_eq!(lines_with("fn one_of_four_words() {", "one_of_four_words"), [1]);
        assert!(lines_with("fn one_of_four_words_more() {", "one_of_four_words").is_empty());
    }
}
