//! Commands to type are in the crate of the command line alone. Everywhere else what can be done is a hint, a value of
//! `lifeboat_model::hint`, which each surface puts into its own words: no text there begins a command of ours. What a hint means
//! is for people to judge.

use crate::Finding;
use crate::files::Tree;

/// Where commands may be in texts: the command line, and programs that are no part of the product.
const MAY: [&str; 3] = ["crates/lifeboat/", "crates/lifeboat-bench/", "xtask/"];

/// How a command begins.
const PROGRAM: &str = "lifeboat ";

/// Texts that only look like one: they are hashed, and never change.
const NO_COMMANDS: [&str; 2] = ["lifeboat enrolment 1", "lifeboat host {}"];

const WHAT_TO_DO: &str =
    "say what can be done as a hint (lifeboat_model::hint), and put it into a command in crates/lifeboat";

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let elsewhere = |path: &str| !MAY.iter().any(|place| path.starts_with(place));
    let files = tree
        .sources
        .iter()
        .filter(|file| !file.is_test && elsewhere(&file.path));
    let found = files.flat_map(|file| {
        let literals = file.source.literals.iter();
        let commands = literals.filter_map(|(line, text)| Some((line, command(text)?)));
        commands.map(|(line, command)| {
            let what = format!("the text has the command \"{command}\" in it; {WHAT_TO_DO}");
            Finding::error(format!("{}:{line}", file.path), what)
        })
    });
    found.collect()
}

/// The first command that a literal begins anywhere in it.
fn command(literal: &str) -> Option<String> {
    if NO_COMMANDS.iter().any(|text| literal.contains(text)) {
        return None;
    }
    let text = unbroken(literal);
    let begins = text.match_indices(PROGRAM).find_map(|(at, _)| {
        let word: String = text[at + PROGRAM.len()..]
            .chars()
            .take_while(char::is_ascii_lowercase)
            .collect();
        let alone = !text[..at].ends_with(|c: char| c.is_alphanumeric() || "-_/.".contains(c));
        (alone && !word.is_empty()).then_some(word)
    });
    begins.map(|word| format!("{PROGRAM}{word}"))
}

/// The literal as one line: a backslash at the end of a line takes the break and the indentation away.
fn unbroken(literal: &str) -> String {
    let mut lines = literal.split("\\\n");
    let mut text = lines.next().unwrap_or_default().to_owned();
    for line in lines {
        text.push_str(line.trim_start());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Places of commands in one file.
    fn refused(path: &str, text: &str) -> Vec<String> {
        let findings = check(&Tree::example(&[(path, text)]));
        findings.into_iter().map(|f| f.place).collect()
    }

    const ENGINE: &str = "crates/lifeboat-engine/src/a.rs";

    #[test]
    fn a_command_in_a_text_is_refused() {
        for text in [
            "//! A.\nconst A: &str = \"see: lifeboat vm show\";\n",
            "//! A.\nlet a = format!(\"end it (lifeboat failover stop-test {name})\");\n",
            "//! A.\n#[error(\"no point {0}; list them with: lifeboat points\")]\n",
            "//! A.\nlet a = \"list them with: \\\n         lifeboat points\";\n",
            "//! A.\nlet a = \"list them with: lifeboat \\\n         points\";\n",
            "//! A.\nlet a = r\"lifeboat points\";\n",
        ] {
            let place = format!("{ENGINE}:2");
            assert_eq!(refused(ENGINE, text), [place], "{text}");
        }
    }

    #[test]
    fn what_begins_no_command_passes() {
        for text in [
            "//! Starts with `lifeboat serve`.\n// As lifeboat points shows them.\n",
            "//! A.\nconst A: &str = \"lifeboat.toml, lifeboat-engine and Lifeboat itself\";\n",
            "//! A.\nconst A: &str = \"/run/lifeboat is there\";\n",
            "//! A.\nlet a = b\"lifeboat enrolment 1\";\n",
            "//! A.\n#[cfg(test)]\nmod tests {\n    const A: &str = \"lifeboat points\";\n}\n",
        ] {
            assert!(refused(ENGINE, text).is_empty(), "{text}");
        }
        let text = "//! A.\nconst A: &str = \"lifeboat points\";\n";
        for path in [
            "crates/lifeboat/src/a.rs",
            "crates/lifeboat-bench/src/a.rs",
            "crates/lifeboat-engine/tests/a.rs",
            "xtask/src/a.rs",
        ] {
            assert!(refused(path, text).is_empty(), "{path}");
        }
    }
}
