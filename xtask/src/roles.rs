//! Three sets of types that must not become one: what is recorded, what is said to other hosts, and what is shown. A table says
//! which part of the source may not name which; what a crate may depend on is `layers`'s, circles of modules are `modules`'s.
//!
//! What is looked at are paths, in `use` and in the code. A type that is named by nothing, such as the one of a value that another
//! function gave, is not seen.

use crate::Finding;
use crate::files::{SourceFile, Tree};
use crate::modules::place_of;
use crate::source;

/// A part of the source, and what it may not name.
struct Rule {
    /// Beginnings of the paths of its files.
    files: &'static [&'static str],
    /// Paths that it may not name, with what lies below them.
    forbidden: &'static [&'static str],
    /// Paths that it may name nevertheless, with what lies below them, each in the files that begin like that.
    except: &'static [(&'static str, &'static str)],
    /// What to do instead.
    instead: &'static str,
}

const CONTRACT: &str = "crates/lifeboat-engine/src/contract/";
const PORTS: &str = "crates/lifeboat-engine/src/port/";
const LINK: &str = "crates/lifeboat-engine/src/port/link";
const RECORD: &str = "crates/lifeboat-engine/src/record/";

const RULES: [Rule; 4] = [
    Rule {
        files: &[CONTRACT],
        forbidden: &["crate::record", "crate::records", "crate::port"],
        except: &[],
        instead: "a view is a type of its own; shown.rs says what it shows of a record or of what a port saw",
    },
    Rule {
        files: &[PORTS, LINK],
        forbidden: &[
            "crate::record",
            "crate::records",
            "crate::contract",
            "crate::action",
        ],
        // The catalog is where records are kept: its port is about nothing else.
        except: &[("crates/lifeboat-engine/src/port/catalog.rs", "crate::record")],
        instead: "a port has types of its own, and so have the messages between hosts",
    },
    Rule {
        files: &[RECORD],
        forbidden: &["crate::port", "crate::contract", "crate::action"],
        // An action that waits for a second person is remembered as it was asked for.
        except: &[(
            "crates/lifeboat-engine/src/record/request.rs",
            "crate::contract::Action",
        )],
        instead: "a record is a type of its own; what records or reads it translates",
    },
    Rule {
        files: &[
            "crates/lifeboat-rest/src/",
            "crates/lifeboat-wbem/src/",
            "crates/lifeboat/src/cli",
        ],
        forbidden: &["lifeboat_engine"],
        except: &[
            ("crates/", "lifeboat_engine::action"),
            ("crates/", "lifeboat_engine::by"),
            ("crates/", "lifeboat_engine::paging"),
            ("crates/", "lifeboat_engine::person"),
            ("crates/", "lifeboat_engine::point_guid"),
            ("crates/", "lifeboat_engine::problem"),
            ("crates/", "lifeboat_engine::query"),
            // Not of its own: the time that a job has run is shown by the clock of the host.
            ("crates/lifeboat-wbem/src/", "lifeboat_engine::ports::Clock"),
        ],
        instead: "surfaces name the contract of the engine alone: lifeboat_engine::action and what it is made of",
    },
];

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let product = tree.sources.iter().filter(|file| !file.is_test);
    product
        .flat_map(|file| RULES.iter().flat_map(|rule| broken(rule, file)))
        .collect()
}

/// Where a file names what a rule forbids.
fn broken(rule: &Rule, file: &SourceFile) -> Vec<Finding> {
    if !rule.files.iter().any(|begin| file.path.starts_with(begin)) {
        return Vec::new();
    }
    let within = |path: &str, of: &str| {
        path.strip_prefix(of)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    let excepted = |path: &str| {
        let allows = |(begin, of): &(&str, &str)| file.path.starts_with(begin) && within(path, of);
        rule.except.iter().any(allows)
    };
    let mut found: Vec<(usize, String)> = named(file)
        .into_iter()
        .filter(|(_, path)| rule.forbidden.iter().any(|of| within(path, of)) && !excepted(path))
        .collect();
    found.dedup();
    let finding = |(line, path): (usize, String)| {
        Finding::error(
            format!("{}:{line}", file.path),
            format!("must not name {path}: {}", rule.instead),
        )
    };
    found.into_iter().map(finding).collect()
}

/// Every path in a file, from the root of its crate where it begins with `self` or `super`.
fn named(file: &SourceFile) -> Vec<(usize, String)> {
    let code = &file.source.product;
    let uses = source::uses(code).into_iter().map(|used| (used.line, used.path));
    let paths = source::paths(code)
        .into_iter()
        .map(|(line, path)| (line, path.to_owned()));
    let module = place_of(&file.path).map(|(_, module)| module).unwrap_or_default();
    uses.chain(paths)
        .map(|(line, path)| (line, from_root(&module, &path)))
        .collect()
}

fn from_root(module: &[String], path: &str) -> String {
    let mut at: Vec<&str> = module.iter().map(String::as_str).collect();
    let mut rest = path.split("::").peekable();
    if !matches!(rest.peek(), Some(&("self" | "super"))) {
        return path.to_owned();
    }
    while let Some(step @ ("self" | "super")) = rest.peek().copied() {
        if step == "super" {
            at.pop();
        }
        rest.next();
    }
    let all: Vec<&str> = std::iter::once("crate").chain(at).chain(rest).collect();
    all.join("::")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found in one file of this text.
    fn found(path: &str, text: &str) -> Vec<String> {
        let found = check(&Tree::example(&[(path, text)]));
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_rule_is_broken_on_purpose() {
        let engine = |below: &str| format!("crates/lifeboat-engine/src/{below}");
        let broken = [
            (engine("contract/views/vm.rs"), "use crate::record::Job;"),
            (engine("contract/views/vm.rs"), "use crate::records::{self, Job};"),
            (
                engine("contract/views/vm.rs"),
                "fn f(p: &super::super::super::port::hypervisor::Console) {}",
            ),
            (engine("contract/mod.rs"), "use crate::{by::By, record};"),
            (engine("port/link/message.rs"), "use crate::record::PlannedPhase;"),
            (engine("port/link.rs"), "use super::super::record::PlannedPhase;"),
            (engine("port/store.rs"), "use crate::contract::PointView;"),
            (engine("port/catalog.rs"), "use crate::action::Answer;"),
            (engine("record/replica.rs"), "use crate::port::store::Abandoned;"),
            (engine("record/job.rs"), "use crate::contract::JobView;"),
            (engine("record/request.rs"), "use crate::contract::RequestView;"),
            (
                "crates/lifeboat-rest/src/client.rs".into(),
                "use lifeboat_engine::record::Job;",
            ),
            (
                "crates/lifeboat-wbem/src/cim/located.rs".into(),
                "fn f() { lifeboat_engine::records::write(&1); }",
            ),
            (
                "crates/lifeboat-wbem/src/cim.rs".into(),
                "use lifeboat_engine::ports::Entropy;",
            ),
            (
                "crates/lifeboat/src/cli/show.rs".into(),
                "use lifeboat_engine::ports::store::Abandoned;",
            ),
            (
                "crates/lifeboat/src/cli.rs".into(),
                "use lifeboat_engine::sealing::Sealing;",
            ),
        ];
        for (path, text) in broken {
            let found = found(&path, text);
            assert!(
                !found.is_empty() && found.iter().all(|f| f.contains("must not name")),
                "{path}: {text}: {found:?}"
            );
        }
    }

    #[test]
    fn what_the_table_allows_passes() {
        let engine = |below: &str| format!("crates/lifeboat-engine/src/{below}");
        let allowed = [
            (
                engine("contract/views/vm.rs"),
                "use super::ReplicationView;\nuse crate::by::By;\n// crate::record::Job",
            ),
            (
                engine("port/catalog.rs"),
                "use crate::record::{Job, Relationship};",
            ),
            (
                engine("port/link/message.rs"),
                "use crate::port::store::Received;",
            ),
            (
                engine("record/request.rs"),
                "use crate::contract::Action;\nuse super::Record;",
            ),
            (engine("shown.rs"), "use crate::{contract, ports, record};"),
            (
                engine("port/store.rs"),
                "#[cfg(test)]\nmod tests {\n use crate::record::Job;\n}",
            ),
            (
                "crates/lifeboat-rest/src/client.rs".into(),
                "use lifeboat_engine::action::{Action, JobView};",
            ),
            (
                "crates/lifeboat-wbem/src/cim.rs".into(),
                "use lifeboat_engine::ports::Clock;",
            ),
            (
                "crates/lifeboat/src/serve.rs".into(),
                "use lifeboat_engine::ports::catalog::Catalog;",
            ),
            (
                "crates/lifeboat-store/src/store.rs".into(),
                "use lifeboat_engine::ports::store::Point;",
            ),
        ];
        for (path, text) in allowed {
            assert_eq!(found(&path, text), Vec::<String>::new(), "{path}: {text}");
        }
    }
}
