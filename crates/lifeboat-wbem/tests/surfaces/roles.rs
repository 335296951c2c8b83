//! What the documents say of roles and of second persons, against the functions that decide: every action and every method
//! of the management API, in tables that `UPDATE_DOCS=1` writes.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use lifeboat_engine::action::{Action, InitialCopy};
use lifeboat_engine::requests::may_wait;
use lifeboat_wbem::cim::Role;
use lifeboat_wbem::cim::methods::METHODS;
use lifeboat_wbem::cim::roles::{About, needed};

use crate::samples::actions;

fn document(name: &str) -> String {
    format!("{}/../../docs/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Compares what stands between two marks of a document, or writes it.
fn compare(name: &str, mark: &str, wanted: &str) {
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

/// An action's name, with what of it makes a difference.
fn label(action: &Action, about: About) -> String {
    let tag = serde_json::to_value(action).unwrap()["action"].clone();
    let tag = tag.as_str().unwrap();
    let of = match (action, about) {
        (_, About::TestVm) => " of a test VM",
        (
            Action::StartReplication {
                how: InitialCopy::Export { .. },
                ..
            },
            _,
        ) => " to a medium",
        (
            Action::ReverseReplication {
                settings: Some(_), ..
            },
            _,
        ) => " with settings",
        _ => "",
    };
    format!("`{tag}`{of}")
}

/// A row for each role, from the least.
fn table(head: &str, all: &BTreeSet<(Role, String)>) -> String {
    let mut out = format!("| role | {head} |\n|---|---|\n");
    for role in Role::ALL {
        let own = all.iter().filter(|(r, _)| *r == role).map(|(_, l)| l.as_str());
        writeln!(out, "| {role} | {} |", own.collect::<Vec<_>>().join(", ")).unwrap();
    }
    out
}

#[test]
fn the_documents_say_what_each_role_may() {
    let mut all = BTreeSet::new();
    for action in actions() {
        let role = needed(&action, About::Other);
        all.insert((role, label(&action, About::Other)));
        let of_test = needed(&action, About::TestVm);
        assert!(of_test <= role, "{action:?}");
        if of_test != role {
            all.insert((of_test, label(&action, About::TestVm)));
        }
    }
    // Each label is of one role, or the samples hide a difference that nobody is told of.
    let labels: BTreeSet<&String> = all.iter().map(|(_, l)| l).collect();
    assert_eq!(labels.len(), all.len(), "{all:?}");
    compare("security.md", "roles", &table("may", &all));
    let mut methods = BTreeSet::new();
    for (class, entries) in METHODS {
        for entry in *entries {
            let name = match *class {
                "Msvm_ReplicationService" => format!("`{}`", entry.method),
                class => format!("`{class}.{}`", entry.method),
            };
            methods.insert((entry.role, name));
        }
    }
    compare("wmi.md", "methods", &table("methods", &methods));
}

#[test]
fn the_documents_say_what_may_wait() {
    let waits: BTreeSet<String> = actions()
        .iter()
        .filter(|a| may_wait(a))
        .map(|a| label(a, About::Other))
        .collect();
    let waits: Vec<String> = waits.into_iter().collect();
    compare("security.md", "requests", &format!("{}.\n", waits.join(", ")));
    // An emergency waits for nobody, and whatever waits is an administrator's.
    for action in actions() {
        assert!(
            !may_wait(&action) || needed(&action, About::TestVm) == Role::Administrator,
            "{action:?}"
        );
    }
}
