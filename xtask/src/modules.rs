//! No circle among the modules of a crate. Modules that need each other can be read, changed and tested only together, whatever the
//! files say. A parent and what lies below it belong together and may know each other; between two modules of one parent, what lies
//! below each included, the way is in one direction.
//!
//! What is looked at are paths, in `use` and in the code, re-exports followed. A method that is called without a path, on a value
//! that another item made, is not seen.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::Finding;
use crate::files::{SourceFile, Tree};
use crate::source;

/// Re-exports that a path is followed through, at most.
const HOPS: usize = 8;

/// A module, as the names that lead to it from the root of its crate.
type Module = Vec<String>;

/// A file of the product with the names that it brings in, and the paths behind them.
struct Part<'a> {
    file: &'a SourceFile,
    names: HashMap<String, String>,
}

/// The modules of one crate.
#[derive(Default)]
struct Crate<'a> {
    modules: BTreeMap<Module, Part<'a>>,
}

/// Where one module names another.
struct Mention {
    line: usize,
    path: String,
}

/// Modules of one parent, and which of them names which, with the first place where it does.
type Graph = BTreeMap<Module, BTreeMap<Module, String>>;

/// That one module at the root of a crate names another.
pub(crate) struct Step {
    pub(crate) from: String,
    pub(crate) to: String,
    /// The first place where it does.
    pub(crate) place: String,
}

/// Which modules at the root of a crate name which, what lies below each included.
pub(crate) fn steps(tree: &Tree, name: &str) -> Vec<Step> {
    let crates = crates(tree);
    let root = crates.get(name).and_then(|of| of.graphs().remove(&Module::new()));
    let mut steps = Vec::new();
    for (from, named) in root.unwrap_or_default() {
        for (to, place) in named {
            steps.push(Step {
                from: from.join("::"),
                to: to.join("::"),
                place,
            });
        }
    }
    steps
}

fn crates(tree: &Tree) -> BTreeMap<&str, Crate<'_>> {
    let mut crates: BTreeMap<&str, Crate<'_>> = BTreeMap::new();
    for file in tree.sources.iter().filter(|file| !file.is_test) {
        if let Some((name, module)) = place_of(&file.path) {
            let uses = source::uses(&file.source.product);
            let names = uses.into_iter().map(|used| (used.name, used.path)).collect();
            let modules = &mut crates.entry(name).or_default().modules;
            modules.insert(module, Part { file, names });
        }
    }
    crates
}

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let crates = crates(tree);
    let mut findings = Vec::new();
    for (name, with) in &crates {
        let graphs = with.graphs();
        let circles = graphs.values().flat_map(circles);
        findings.extend(circles.map(|what| Finding::error(name, what)));
    }
    findings
}

/// The crate and the module that a file is.
pub(crate) fn place_of(path: &str) -> Option<(&str, Module)> {
    let (name, inside) = match path.strip_prefix("crates/") {
        Some(below) => below.split_once('/')?,
        None => ("xtask", path.strip_prefix("xtask/")?),
    };
    let inside = inside.strip_prefix("src/")?.strip_suffix(".rs")?;
    let mut module: Module = inside.split('/').map(str::to_owned).collect();
    let last = module.last().map(String::as_str);
    if last == Some("mod") || (module.len() == 1 && matches!(last, Some("lib" | "main"))) {
        module.pop();
    }
    Some((name, module))
}

impl Crate<'_> {
    /// By parent: which of its modules names which other one, itself or by what lies below.
    fn graphs(&self) -> BTreeMap<Module, Graph> {
        let mut graphs: BTreeMap<Module, Graph> = BTreeMap::new();
        for (from, part) in &self.modules {
            for Mention { line, path } in mentions(part.file) {
                for to in self.named(from, &path) {
                    let Some((parent, a, b)) = siblings(from, &to) else {
                        continue;
                    };
                    let graph = graphs.entry(parent).or_default();
                    graph.entry(b.clone()).or_default();
                    let place = || format!("{}:{line}", part.file.path);
                    graph.entry(a).or_default().entry(b).or_insert_with(place);
                }
            }
        }
        graphs
    }

    /// The modules that a path names when it stands in `from`: the one that it leads to, and those that export what it ends with to
    /// that one. None are of another crate.
    fn named(&self, from: &Module, path: &str) -> Vec<Module> {
        let mut found = Vec::new();
        let (mut at, mut path) = (from.clone(), path.to_owned());
        for _ in 0..HOPS {
            let Some((module, rest)) = self.lead(&at, &path) else {
                break;
            };
            let exported = rest.split_first().and_then(|(name, after)| {
                let names = &self.modules.get(&module)?.names;
                let before = names.get(*name)?;
                Some([&[before.as_str()][..], after].concat().join("::"))
            });
            found.push(module.clone());
            let Some(exported) = exported else {
                break;
            };
            (at, path) = (module, exported);
        }
        found
    }

    /// The module that a path leads to from `at`, and the names of it that remain.
    fn lead<'p>(&self, at: &Module, path: &'p str) -> Option<(Module, Vec<&'p str>)> {
        let mut rest = path.split("::").peekable();
        let mut module = at.clone();
        let first = *rest.peek()?;
        match first {
            "crate" => {
                rest.next();
                module.clear();
            }
            "self" | "super" => {}
            name => {
                let is_known = self.modules.get(at)?.names.contains_key(name);
                if !is_known && !self.has(at, name) {
                    return None;
                }
            }
        }
        while let Some(&name) = rest.peek() {
            match name {
                "self" => {}
                "super" => drop(module.pop()?),
                _ if self.has(&module, name) => module.push(name.to_owned()),
                _ => break,
            }
            rest.next();
        }
        Some((module, rest.collect()))
    }

    fn has(&self, parent: &Module, name: &str) -> bool {
        let child = [parent.as_slice(), &[name.to_owned()]].concat();
        self.modules.contains_key(&child)
    }
}

/// Every path in a file: those that `use` spells out, and those in the code.
fn mentions(file: &SourceFile) -> Vec<Mention> {
    let code = &file.source.product;
    let uses = source::uses(code).into_iter().map(|used| Mention {
        line: used.line,
        path: used.path,
    });
    let paths = source::paths(code).into_iter().map(|(line, path)| Mention {
        line,
        path: path.to_owned(),
    });
    uses.chain(paths).collect()
}

/// The parent that two modules have in common, and which modules of it they are or lie in. `None` where one is the other, or lies
/// below it.
fn siblings(from: &Module, to: &Module) -> Option<(Module, Module, Module)> {
    let common = from.iter().zip(to).take_while(|(a, b)| a == b).count();
    if common == from.len() || common == to.len() {
        return None;
    }
    let of = |module: &Module| module[..=common].to_vec();
    Some((from[..common].to_vec(), of(from), of(to)))
}

/// A sentence for each set of modules that all lead to each other.
fn circles(graph: &Graph) -> Vec<String> {
    let mut told = BTreeSet::new();
    let mut found = Vec::new();
    for start in graph.keys() {
        if told.contains(start) {
            continue;
        }
        let leads_back =
            |other: &&Module| way(graph, start, other).is_some() && way(graph, other, start).is_some();
        let members: Vec<&Module> = graph.keys().filter(leads_back).collect();
        let shortest = members.iter().filter_map(|member| way(graph, member, member));
        let Some(shortest) = shortest.min_by_key(Vec::len) else {
            continue;
        };
        found.push(sentence(&members, &shortest));
        told.extend(members);
    }
    found
}

/// The shortest way from one module to another, or back to itself, as steps with the place of each.
fn way<'g>(graph: &'g Graph, from: &Module, to: &Module) -> Option<Vec<(&'g Module, &'g str)>> {
    let mut seen = BTreeSet::new();
    let mut ways = VecDeque::from([(from, Vec::new())]);
    while let Some((at, steps)) = ways.pop_front() {
        for (next, place) in graph.get(at)? {
            let steps = [steps.as_slice(), &[(next, place.as_str())]].concat();
            if next == to {
                return Some(steps);
            }
            if seen.insert(next) {
                ways.push_back((next, steps));
            }
        }
    }
    None
}

fn sentence(members: &[&Module], shortest: &[(&Module, &str)]) -> String {
    let members: Vec<String> = members.iter().map(|module| module.join("::")).collect();
    let steps: Vec<String> = shortest
        .iter()
        .map(|(to, place)| format!("{place} names {}", to.join("::")))
        .collect();
    format!(
        "modules form a circle ({}): {}; move what both need to a module of its own, or hand it in",
        members.join(", "),
        steps.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Level;

    /// What is found in a crate of these modules.
    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let named: Vec<(String, &str)> = files
            .iter()
            .map(|(path, text)| (format!("crates/x/src/{path}"), *text))
            .collect();
        let files: Vec<(&str, &str)> = named.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        let findings = check(&Tree::example(&files));
        assert!(findings.iter().all(|f| f.level == Level::Error && f.place == "x"));
        findings.into_iter().map(|f| f.what).collect()
    }

    fn is_circle(files: &[(&str, &str)]) -> bool {
        !found(files).is_empty()
    }

    #[test]
    fn two_modules_that_name_each_other_are_a_circle() {
        let said = found(&[
            ("a.rs", "//! A.\nuse crate::b::B;"),
            ("b.rs", "fn f() { crate::a::f() }"),
            ("c.rs", "use crate::a;\nuse super::b::B;"),
        ]);
        assert_eq!(said.len(), 1);
        for part in [
            "(a, b)",
            "crates/x/src/a.rs:2 names b",
            "crates/x/src/b.rs:1 names a",
        ] {
            assert!(said[0].contains(part), "{said:?}");
        }
        assert!(!is_circle(&[("a.rs", "use crate::b::B;"), ("b.rs", "fn f() {}")]));
    }

    #[test]
    fn a_circle_is_found_however_the_path_is_written() {
        for back in [
            "use super::a::A;",
            "use crate::{a::A, c};",
            "use crate::{\n    c::{self, C},\n    a as other,\n};",
            "fn f(x: super::a::A) {}",
            "pub(crate) use crate::a::A;",
            "use crate::a::*;",
            "impl From<crate::a::A> for B {}",
            "fn f() { x.map(crate::a::f) }",
        ] {
            let files = [("a.rs", "use crate::b::B;"), ("b.rs", back), ("c.rs", "")];
            assert!(is_circle(&files), "{back}");
        }
    }

    #[test]
    fn what_is_no_code_of_the_product_makes_no_circle() {
        for back in [
            "//! See [`A`](crate::a::A).",
            "fn f() { \"crate::a::A\" }",
            "#[cfg(test)]\nmod tests {\n use crate::a::A;\n}\n",
            "#[cfg(test)]\nuse crate::a::A;\n",
            "use a::A;",
            "use other::crate_a::A;",
        ] {
            let files = [("a.rs", "use crate::b::B;"), ("b.rs", back)];
            assert!(!is_circle(&files), "{back}");
        }
        let tests = ("b/tests.rs", "use crate::a::A;");
        assert!(!is_circle(&[
            ("a.rs", "use crate::b::B;"),
            ("b.rs", "#[cfg(test)]\nmod tests;"),
            tests,
        ]));
    }

    #[test]
    fn a_parent_and_its_children_may_know_each_other() {
        assert!(!is_circle(&[
            ("lib.rs", "mod a;\npub use a::A;"),
            ("a.rs", "mod b;\nuse b::B;\nuse crate::Root;"),
            (
                "a/b.rs",
                "use super::A;\nuse crate::a::f;\nuse super::super::Root;"
            ),
        ]));
    }

    #[test]
    fn below_one_parent_a_folder_counts_as_one() {
        let files = [
            ("a/mod.rs", ""),
            ("a/x.rs", "use crate::b::B;"),
            ("a/y.rs", ""),
            ("b.rs", "use crate::a::y::Y;"),
        ];
        assert!(is_circle(&files));
        let inside = [
            ("a.rs", ""),
            ("a/x.rs", "use super::y::Y;"),
            ("a/y.rs", "use crate::a::x::X;"),
        ];
        assert!(found(&inside)[0].contains("(a::x, a::y)"));
    }

    #[test]
    fn a_re_export_hides_no_circle() {
        let hidden = [
            ("lib.rs", "mod a;\nmod b;\npub use a::{A, f as renamed};"),
            ("a.rs", "use crate::b::B;"),
        ];
        for back in [
            "use crate::A;",
            "use super::{A as B};",
            "use crate::renamed;",
            "fn f(x: crate::A) {}",
        ] {
            assert!(is_circle(&[hidden[0], hidden[1], ("b.rs", back)]), "{back}");
        }
        assert!(!is_circle(&[hidden[0], hidden[1], ("b.rs", "use crate::f;")]));
        let by_import = [
            ("a.rs", "use crate::c;"),
            ("c.rs", "mod x;\nmod y;"),
            ("c/x.rs", "use crate::c as own;\nfn f() { own::y::g() }"),
            ("c/y.rs", "use super::x;"),
        ];
        assert!(found(&by_import)[0].contains("(c::x, c::y)"));
    }

    #[test]
    fn a_long_circle_is_told_once_with_its_shortest_part() {
        let said = found(&[
            ("a.rs", "use crate::b;"),
            ("b.rs", "use crate::c;\nuse crate::d;"),
            ("c.rs", "use crate::a;"),
            ("d.rs", "use crate::b;"),
            ("e.rs", "use crate::a;"),
        ]);
        assert_eq!(said.len(), 1);
        assert!(said[0].contains("(a, b, c, d)"), "{said:?}");
        assert!(
            said[0].contains("names d, ") && !said[0].contains("names c"),
            "{said:?}"
        );
    }

    #[test]
    fn these_checks_are_held_to_it_themselves() {
        let files = [
            ("xtask/src/a.rs", "use crate::b;"),
            ("xtask/src/b.rs", "use crate::a;"),
        ];
        let findings = check(&Tree::example(&files));
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].place, "xtask");
    }
}
