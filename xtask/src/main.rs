//! The project's own checks: rules that no compiler knows, so that they hold without anybody remembering them.
//! Formatting, lints and tests are `make check` and `make test`; nothing of the product lives here.
//!
//! `cargo run -p xtask -- check` prints what it finds and fails if anything of it is an error.

// To move into [workspace.lints] when all crates hold it.
#![warn(clippy::match_bool, clippy::option_option, clippy::struct_excessive_bools)]
#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]

mod actions;
mod commands;
mod commits;
mod dependencies;
mod documents;
mod files;
mod layers;
mod metadata;
mod modules;
mod purity;
mod roles;
mod rooms;
mod source;
mod style;
mod words;

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::files::Tree;
use crate::metadata::Metadata;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Info,
    Warning,
    Error,
}

/// One thing a check has to say.
#[derive(Debug)]
struct Finding {
    level: Level,
    /// File with line, or crate.
    place: String,
    /// What is wrong and what to do about it.
    what: String,
}

impl Finding {
    fn error(place: impl fmt::Display, what: impl fmt::Display) -> Self {
        Self {
            level: Level::Error,
            place: place.to_string(),
            what: what.to_string(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
        };
        write!(f, "{level}: {}: {}", self.place, self.what)
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args != ["check"] {
        bail!("the one command is: cargo run -p xtask -- check");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask lies in the workspace")?;
    let mut findings = check(root)?;
    findings.sort_by_key(|finding| finding.level);
    for finding in &findings {
        eprintln!("{finding}");
    }
    let errors = findings
        .iter()
        .filter(|finding| finding.level == Level::Error)
        .count();
    if errors > 0 {
        eprintln!("xtask: {errors} error(s)");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn check(root: &Path) -> Result<Vec<Finding>> {
    let metadata = Metadata::of_workspace(root)?;
    let lock = std::fs::read_to_string(root.join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let tree = Tree::read(root)?;
    let mut findings = layers::check(&metadata);
    findings.extend(dependencies::check(&metadata, &lock));
    findings.extend(purity::check(&metadata, &tree));
    findings.extend(modules::check(&tree));
    findings.extend(roles::check(&tree));
    findings.extend(rooms::check(&tree));
    findings.extend(actions::check(&tree));
    findings.extend(style::check(&tree));
    findings.extend(documents::check(&tree));
    findings.extend(words::check(&tree));
    findings.extend(commands::check(&tree));
    findings.extend(commits::check(root));
    Ok(findings)
}
