//! Parts of documents that are made: what stands between two marks is compared with what the program says, and written when
//! `UPDATE_DOCS` is set.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use lifeboat_engine::action::Role;

fn document(name: &str) -> String {
    format!("{}/../../docs/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Compares what stands between two marks of a document, or writes it.
pub(crate) fn compare(name: &str, mark: &str, wanted: &str) {
    let path = document(name);
    let text = std::fs::read_to_string(&path).unwrap();
    let begin = text.find(&format!("<!-- {mark}: ")).unwrap();
    let begin = begin + text[begin..].find("-->\n").unwrap() + 4;
    let end = text.find(&format!("<!-- end of {mark} -->")).unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let updated = format!("{}{wanted}{}", &text[..begin], &text[end..]);
        std::fs::write(&path, updated).unwrap();
        return;
    }
    assert_eq!(
        &text[begin..end],
        wanted,
        "docs/{name}: run this test with UPDATE_DOCS=1"
    );
}

/// A row for each role, from the least.
pub(crate) fn table(head: &str, all: &BTreeSet<(Role, String)>) -> String {
    let mut out = format!("| role | {head} |\n|---|---|\n");
    for role in Role::ALL {
        let own = all.iter().filter(|(r, _)| *r == role).map(|(_, l)| l.as_str());
        writeln!(out, "| {role} | {} |", own.collect::<Vec<_>>().join(", ")).unwrap();
    }
    out
}
