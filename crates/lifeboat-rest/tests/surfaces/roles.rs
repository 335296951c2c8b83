//! What the documents say of roles and of second persons, against the facts of every action.

use std::collections::BTreeSet;

use lifeboat_engine::action::{Action, InitialCopy, Role};
use lifeboat_engine::requests::may_wait;

use crate::documents::{compare, table};
use crate::samples::actions;

/// Whether an action is meant as one that is done to the VM of a test.
#[derive(Clone, Copy)]
enum About {
    TestVm,
    Other,
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

#[test]
fn the_documents_say_what_each_role_may() {
    let mut all = BTreeSet::new();
    for action in actions() {
        let facts = action.facts();
        all.insert((facts.role, label(&action, About::Other)));
        assert!(facts.role_on_test_vm <= facts.role, "{action:?}");
        if facts.role_on_test_vm != facts.role {
            all.insert((facts.role_on_test_vm, label(&action, About::TestVm)));
        }
    }
    // Each label is of one role, or the samples hide a difference that nobody is told of.
    let labels: BTreeSet<&String> = all.iter().map(|(_, l)| l).collect();
    assert_eq!(labels.len(), all.len(), "{all:?}");
    compare("security.md", "roles", &table("may", &all));
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
            !may_wait(&action) || action.facts().role_on_test_vm == Role::Administrator,
            "{action:?}"
        );
    }
}
