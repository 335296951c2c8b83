//! The schema of this server, compiled into the program.

use std::sync::OnceLock;

use super::Schema;

/// One for each namespace; they include the others.
const ROOTS: &[&str] = &["root-virtualization-v2.mof", "root-interop.mof", "root-cimv2.mof"];

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../mof/", $name)))),*]
    };
}

const FILES: &[(&str, &str)] = files![
    "core.mof",
    "devices.mof",
    "events.mof",
    "guest.mof",
    "host.mof",
    "indications.mof",
    "interop.mof",
    "jobs.mof",
    "management.mof",
    "profiles.mof",
    "qualifiers.mof",
    "relationship.mof",
    "replication.mof",
    "root-cimv2.mof",
    "root-interop.mof",
    "root-virtualization-v2.mof",
    "snapshots.mof",
    "subscriptions.mof",
    "system.mof",
    "virtualization.mof",
];

impl Schema {
    /// The schema of this server. It is read once, in some milliseconds.
    #[must_use]
    pub fn builtin() -> &'static Self {
        static SCHEMA: OnceLock<Schema> = OnceLock::new();
        // It is part of the program, and a test fails on the first error in it: there is no caller to report it to here.
        SCHEMA.get_or_init(|| Self::compile(ROOTS, FILES).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_mof_compiles() {
        if let Err(error) = Schema::compile(ROOTS, FILES) {
            panic!("{error}");
        }
    }

    #[test]
    fn every_file_of_the_directory_is_built_in() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("mof");
        let mut there: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        there.sort();
        let built_in: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        assert_eq!(there, built_in);
    }
}
