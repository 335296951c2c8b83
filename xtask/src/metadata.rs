//! What cargo says about our crates and the foreign ones, reduced to what the checks ask for. Judgement is theirs.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// When a dependency is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// In the product, or to build it.
    Product,
    /// In tests only.
    Dev,
}

/// A crate of ours with the dependencies it declares.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) uses: Vec<(Kind, String)>,
}

/// A crate as it is really built, ours or foreign.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Built {
    pub(crate) name: String,
    pub(crate) version: String,
}

/// The workspace as cargo sees it.
#[derive(Debug, Default)]
pub(crate) struct Metadata {
    pub(crate) members: Vec<Member>,
    /// What is in the product or builds it, on Linux.
    pub(crate) product: BTreeSet<Built>,
}

impl Metadata {
    pub(crate) fn of_workspace(root: &Path) -> Result<Self> {
        let json = cargo(
            root,
            &["metadata", "--format-version", "1", "--locked", "--no-deps"],
        )?;
        let json = serde_json::from_str(&json).context("cargo metadata printed no JSON")?;
        let members = parse_members(&json).context("cargo metadata printed something unexpected")?;
        // Not from the metadata: there a feature that is merely mentioned counts as used.
        let tree = [
            "tree",
            "--workspace",
            "--locked",
            "--target",
            "x86_64-unknown-linux-gnu",
        ];
        let form = ["--edges", "normal,build", "--prefix", "none", "--format", "{p}"];
        let product = parse_tree(&cargo(root, &[&tree[..], &form].concat())?);
        Ok(Self { members, product })
    }

    /// For tests: one crate and what it uses; the product holds the same.
    #[cfg(test)]
    pub(crate) fn example(name: &str, uses: &[(Kind, &str)]) -> Self {
        let built = |name: &str| Built {
            name: name.into(),
            version: "1.0.0".into(),
        };
        let in_product = uses.iter().filter(|(kind, _)| *kind == Kind::Product);
        Self {
            product: in_product.map(|(_, used)| built(used)).collect(),
            members: vec![Member {
                name: name.into(),
                uses: uses
                    .iter()
                    .map(|(kind, used)| (*kind, (*used).to_owned()))
                    .collect(),
            }],
        }
    }
}

fn cargo(root: &Path, args: &[&str]) -> Result<String> {
    let output = Command::new(env!("CARGO")).args(args).current_dir(root).output();
    let output = output.context("cannot run cargo")?;
    if !output.status.success() {
        bail!(
            "cargo {} failed:\n{}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    String::from_utf8(output.stdout).context("cargo printed something that is not UTF-8")
}

fn parse_members(json: &Value) -> Option<Vec<Member>> {
    let mut members = Vec::new();
    for package in json["packages"].as_array()? {
        let mut uses = Vec::new();
        for dependency in package["dependencies"].as_array()? {
            let kind = if dependency["kind"] == "dev" {
                Kind::Dev
            } else {
                Kind::Product
            };
            uses.push((kind, dependency["name"].as_str()?.to_owned()));
        }
        members.push(Member {
            name: package["name"].as_str()?.to_owned(),
            uses,
        });
    }
    Some(members)
}

/// Lines such as `serde v1.0.2 (proc-macro)`.
fn parse_tree(text: &str) -> BTreeSet<Built> {
    let package = |line: &str| {
        let mut words = line.split_whitespace();
        let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
        Some(Built {
            name: name.into(),
            version: version.into(),
        })
    };
    text.lines().filter_map(package).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_is_understood() {
        let json = serde_json::json!({ "packages": [{ "name": "a", "dependencies": [
            { "name": "b", "kind": null }, { "name": "c", "kind": "dev" }, { "name": "d", "kind": "build" },
        ] }] });
        let members = parse_members(&json).expect("all fields are there");
        let used = |kind| members[0].uses.iter().filter(|(k, _)| *k == kind).count();
        assert_eq!(
            (members[0].name.as_str(), used(Kind::Product), used(Kind::Dev)),
            ("a", 2, 1)
        );
        assert!(parse_members(&serde_json::json!({})).is_none());

        let tree = parse_tree("a v1.2.3 (path)\nb v0.1.0 (proc-macro)\n\na v1.2.3 (path) (*)\n");
        let names: Vec<&str> = tree.iter().map(|built| built.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
    }
}
