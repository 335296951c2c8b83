//! Two rules about words. Documentation of items is no single plain word, such as "Which." or "Name.", which the name and the
//! type say already. And comments, messages and names use the terms of `docs/glossary.md`: what it lists as not the term is
//! refused, as far as it can mean nothing else. Whether a sentence is true, and whether it helps, is for people to judge.

use crate::Finding;
use crate::files::{SourceFile, Tree};

const WHAT_TO_SAY: &str =
    "say what the name and the type do not: the unit, the range, the error, or the reason";

/// This file has to name the words that it refuses.
const ITSELF: &str = "xtask/src/words.rs";

/// Words that are not the term, in lower case and without the s of a plural or a verb, and what is written instead.
/// `docs/glossary.md` has each of them.
const NOT_THE_TERM: [(&str, &str); 31] = [
    ("anew", "again"),
    ("change record", "dirty bitmap"),
    ("courier", "forwarder"),
    ("everybody", "every user, every caller"),
    ("fire drill", "test failover"),
    ("fsck", "scrub"),
    ("gave way", "was demoted, became the replica, yielded"),
    ("give way", "demote, become the replica, yield"),
    ("given way", "was demoted, became the replica, yielded"),
    ("lineage", "generation"),
    ("nobody", "no user, no caller, no process; or the passive voice"),
    ("partial log", "resync fragment"),
    ("partner", "peer"),
    ("piece of a comparison", "resync fragment"),
    ("piece of synchronization", "resync fragment"),
    ("record of changes", "dirty bitmap"),
    ("recovery server", "replica's host"),
    ("restore point", "recovery point"),
    ("slave", "replica"),
    (
        "somebody",
        "an administrator, a caller, a process; or the passive voice",
    ),
    ("split brain", "split"),
    ("standby", "replica"),
    ("stand still", "be stalled, be frozen"),
    ("stranger", "unidentified caller; untrusted"),
    ("takeover", "failover"),
    ("thumbprint", "key fingerprint"),
    ("torso", "part"),
    ("way back", "callback address"),
    ("way out", "hint; what to do instead"),
    ("whoever", "the caller, the user, the process that"),
    ("wish", "request, action, command"),
];

/// Parts of names that the rule leaves alone: the stage of a connection whose caller is not identified, in lifeboat-admission and
/// what uses it.
const NAMES: [&str; 1] = ["stranger"];

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = one_word(tree);
    findings.extend(other_terms(tree));
    findings
}

fn one_word(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.sources.iter().filter(|file| !file.is_test) {
        findings.extend(one_word_docs(file).into_iter().map(|(line, word)| {
            let what = format!("the documentation of an item is the word \"{word}\"; {WHAT_TO_SAY}");
            Finding::error(format!("{}:{line}", file.path), what)
        }));
    }
    findings
}

fn other_terms(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let product = tree
        .sources
        .iter()
        .filter(|file| !file.is_test && file.path != ITSELF);
    for file in product {
        findings.extend(not_the_term(file).into_iter().map(|(line, said, instead)| {
            let what = format!("\"{said}\" is not the term (docs/glossary.md); write: {instead}");
            Finding::error(format!("{}:{line}", file.path), what)
        }));
    }
    findings
}

/// Words of comments, literals and names that are not the term, with their line and what to write instead.
fn not_the_term(file: &SourceFile) -> Vec<(usize, &'static str, &'static str)> {
    let code = &file.source.code;
    let apart = file.text.chars().zip(code.chars());
    let prose: String = apart
        .map(|(text, code)| if code == ' ' { text } else { blank(code) })
        .collect();
    let prose = words(&prose);
    let of_names = words(code);
    let names = of_names.iter().flat_map(|(line, name)| {
        let parts = parts(name).into_iter();
        parts.map(move |part| (*line, part))
    });
    let mut found = Vec::new();
    for (said, instead) in NOT_THE_TERM {
        let sought: Vec<&str> = said.split(' ').collect();
        let hits = prose.windows(sought.len()).filter(|window| {
            let mut pairs = window.iter().zip(&sought);
            pairs.all(|((_, word), sought)| is_form(word, sought))
        });
        found.extend(hits.map(|window| (window[0].0, said, instead)));
        if !NAMES.contains(&said) {
            let hits = names.clone().filter(|(_, part)| is_form(part, said));
            found.extend(hits.map(|(line, _)| (line, said, instead)));
        }
    }
    found.sort_unstable();
    found
}

/// Whether a word is this one, also with the s of a plural or a verb.
fn is_form(word: &str, of: &str) -> bool {
    let word = word.to_ascii_lowercase();
    let ending = word.strip_prefix(of);
    ending.is_some_and(|ending| ["", "s", "es"].contains(&ending))
}

/// A place in which no word is, with lines where they were.
fn blank(code: char) -> char {
    if code == '\n' { '\n' } else { ' ' }
}

/// The words of a text with their lines. An underscore is a letter here, so that a name is one word.
fn words(text: &str) -> Vec<(usize, &str)> {
    let lines = text.lines().enumerate();
    let in_lines = lines.flat_map(|(n, line)| {
        let words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        words
            .filter(|word| !word.is_empty())
            .map(move |word| (n + 1, word))
    });
    in_lines.collect()
}

/// The words that a name consists of, in lower case: of `way_back` and `WayBack` each two.
fn parts(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut before_is_lower = false;
    for c in name.chars() {
        if c == '_' || (c.is_uppercase() && before_is_lower) {
            parts.push(String::new());
        }
        if let Some(part) = parts.last_mut().filter(|_| c != '_') {
            part.extend(c.to_lowercase());
        }
        before_is_lower = c.is_lowercase();
    }
    parts
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
    use crate::Level;

    /// Line and level of each finding in one file.
    fn found(path: &str, text: &str) -> Vec<(String, Level)> {
        let findings = one_word(&Tree::example(&[(path, text)]));
        findings.into_iter().map(|f| (f.place, f.level)).collect()
    }

    /// Places of words that are not the term, in one file.
    fn refused(path: &str, text: &str) -> Vec<String> {
        let findings = other_terms(&Tree::example(&[(path, text)]));
        let errors = findings.into_iter().filter(|f| f.level == Level::Error);
        errors.map(|f| f.place).collect()
    }

    #[test]
    fn words_that_are_not_the_term_are_refused() {
        for text in [
            "//! A.\n// Nobody waits.\n",
            "//! A.\n/// What somebody sends.\nfn a() {}\n",
            "//! A.\nconst A: &str = \"made anew\";\n",
            "//! A.\nlet a = format!(\"ways out: {b}\");\n",
            "//! A.\n/// It gives\n/// way.\n",
            "//! A.\n/// XML of strangers, ü.\n",
            "//! A.\nfn wishes() {}\n",
            "//! A.\nstruct FirstWish;\n",
            "//! A.\nlet nobody_asked = 1;\n",
            "//! A.\nlet LINEAGE = 1;\n",
        ] {
            let place = "crates/lifeboat-model/src/a.rs:2";
            assert_eq!(refused("crates/lifeboat-model/src/a.rs", text), [place], "{text}");
        }
        let text = "//! \"é\"\n#[cfg(test)]\nmod tests {\n    // Whoever.\n}\n";
        assert_eq!(refused("xtask/src/a.rs", text), ["xtask/src/a.rs:4"]);
    }

    #[test]
    fn the_term_and_longer_words_pass() {
        for text in [
            "//! A.\n/// A newborn, unwished; the way is out.\n",
            "//! A.\nlet stranger = wishbone();\n",
            "//! A.\nStage::Stranger\n",
            "//! The way it goes.\nlet a = 1; // Out of order.\n",
        ] {
            assert!(
                refused("crates/lifeboat-model/src/a.rs", text).is_empty(),
                "{text}"
            );
        }
        let text = "//! Nobody.\n";
        for path in ["crates/lifeboat-model/tests/a.rs", ITSELF] {
            assert!(refused(path, text).is_empty(), "{path}");
        }
    }

    #[test]
    fn the_glossary_has_what_is_refused() {
        let glossary = include_str!("../../docs/glossary.md").to_lowercase();
        let glossary = words(&glossary);
        for (said, _) in NOT_THE_TERM {
            let sought: Vec<&str> = said.split(' ').collect();
            let is_there =
                |window: &[(usize, &str)]| window.iter().map(|(_, word)| *word).eq(sought.iter().copied());
            assert!(glossary.windows(sought.len()).any(is_there), "{said}");
        }
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
}
