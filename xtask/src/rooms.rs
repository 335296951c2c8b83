//! The rooms of the engine: which folder of it may name which, as a table, like `layers` for crates. Circles inside of a room are
//! `modules`'s. And the actor's own methods: what an actor is, only its room knows; what it does is done by its parts.
//!
//! What is looked at are paths, in `use` and in the code, re-exports followed. A method that is called without a path is not seen.

use crate::Finding;
use crate::files::Tree;
use crate::modules;

const ENGINE: &str = "lifeboat-engine";
const SOURCES: &str = "crates/lifeboat-engine/src/";
/// The room that alone says what an actor can do.
const ACTOR: &str = "actor";

/// The rooms, lower ones first, and what each of them may name. Every one may name itself.
const ROOMS: [(&str, &[&str]); 13] = [
    ("common", &[]),
    ("contract", &["common"]),
    // An action that waits for a second person is remembered as it was asked for.
    ("record", &["common", "contract"]),
    // The catalog keeps records.
    ("port", &["common", "record"]),
    ("work", &["common", "contract", "record", "port"]),
    ("host", &["common", "contract", "record", "port", "work"]),
    ("core", &["common", "contract", "record", "port", "work", "host"]),
    (
        "target",
        &["common", "contract", "record", "port", "work", "host", "core"],
    ),
    (
        "source",
        &[
            "common", "contract", "record", "port", "work", "host", "core", "target",
        ],
    ),
    (
        "failover",
        &[
            "common", "contract", "record", "port", "work", "host", "core", "target",
        ],
    ),
    (
        "roles",
        &[
            "common", "contract", "record", "port", "work", "host", "core", "target", "source", "failover",
        ],
    ),
    (
        ACTOR,
        &[
            "common", "contract", "record", "port", "work", "host", "core", "target", "source", "failover",
            "roles",
        ],
    ),
    // It reaches actors by their mailboxes.
    (
        "engine",
        &["common", "contract", "record", "port", "work", "host"],
    ),
];

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for step in modules::steps(tree, ENGINE) {
        match ROOMS.iter().find(|(room, _)| *room == step.from) {
            None => findings.push(Finding::error(
                &step.place,
                format!("{} is no room of the engine; give it a place in xtask/src/rooms.rs", step.from),
            )),
            Some((_, allowed)) if !allowed.contains(&step.to.as_str()) => findings.push(Finding::error(
                &step.place,
                format!(
                    "the engine's room {} may not name {}; move what it needs to a room below both, or hand it in",
                    step.from, step.to
                ),
            )),
            Some(_) => {}
        }
    }
    findings.extend(flat(tree));
    findings.extend(methods(tree));
    findings
}

/// Files beside the rooms.
fn flat(tree: &Tree) -> impl Iterator<Item = Finding> + '_ {
    let inside = |path: &str| path.strip_prefix(SOURCES).map(str::to_owned);
    let beside = tree.sources.iter().filter_map(move |file| {
        let path = inside(&file.path)?;
        (!path.contains('/') && path != "lib.rs").then_some(&file.path)
    });
    beside.map(|path| {
        Finding::error(
            path,
            "lies in no room of the engine; put it into one of its folders",
        )
    })
}

/// Methods of the actor outside of its room.
fn methods(tree: &Tree) -> Vec<Finding> {
    let own = format!("{SOURCES}{ACTOR}/");
    let others = tree
        .sources
        .iter()
        .filter(|file| file.path.starts_with(SOURCES) && !file.path.starts_with(&own));
    let mut findings = Vec::new();
    for file in others {
        for (line, text) in file.source.product.lines().enumerate() {
            if text.starts_with("impl Actor ") || text.ends_with(" for Actor {") {
                findings.push(Finding::error(
                    format!("{}:{}", file.path, line + 1),
                    "a method of the actor outside of actor/; give it to the part whose state it needs",
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let named: Vec<(String, &str)> = files
            .iter()
            .map(|(path, text)| (format!("{SOURCES}{path}"), *text))
            .collect();
        let named: Vec<(&str, &str)> = named.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        check(&Tree::example(&named))
            .into_iter()
            .map(|f| f.to_string())
            .collect()
    }

    #[test]
    fn a_room_names_only_what_the_table_allows() {
        let source = ("source/copy.rs", "//! C.\npub(crate) fn f() {}");
        let target = "//! T.\nuse crate::source::copy;\n";
        let said = found(&[
            source,
            ("target/replica.rs", target),
            ("source/mod.rs", ""),
            ("target/mod.rs", ""),
        ]);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("target/replica.rs:2"), "{said:?}");
        assert!(said[0].contains("room target may not name source"), "{said:?}");
        let back = ("source/copy.rs", "use crate::target::replica;");
        let fine = found(&[
            back,
            ("target/replica.rs", ""),
            ("source/mod.rs", ""),
            ("target/mod.rs", ""),
        ]);
        assert_eq!(fine, [""; 0]);
    }

    #[test]
    fn a_path_in_the_code_is_seen_as_well() {
        let host = "fn f() { crate::engine::stop() }";
        let said = found(&[
            ("host/mod.rs", host),
            ("engine/mod.rs", "pub(crate) fn stop() {}"),
        ]);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("room host may not name engine"), "{said:?}");
    }

    #[test]
    fn a_folder_that_the_table_does_not_know_is_told() {
        let said = found(&[("attic/mod.rs", "use crate::host;"), ("host/mod.rs", "")]);
        assert!(said[0].contains("attic is no room"), "{said:?}");
    }

    #[test]
    fn nothing_lies_beside_the_rooms() {
        let said = found(&[("lib.rs", "mod copy;"), ("copy.rs", "")]);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("copy.rs: lies in no room"), "{said:?}");
    }

    #[test]
    fn only_its_own_room_gives_the_actor_methods() {
        let method = "impl Actor {\n    fn f(&self) {}\n}\n";
        assert_eq!(
            found(&[("actor/power.rs", method), ("actor/mod.rs", "")]),
            [""; 0]
        );
        for elsewhere in [method, "impl Drop for Actor {\n    fn drop(&mut self) {}\n}\n"] {
            let said = found(&[("source/power.rs", elsewhere), ("source/mod.rs", "")]);
            assert_eq!(said.len(), 1, "{said:?}");
            assert!(said[0].contains("source/power.rs:1"), "{said:?}");
        }
    }
}
