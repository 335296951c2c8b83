//! Foreign crates: where they may come from, which we do without, and which are there twice.
//! Licences and advisories are not looked at.

use std::collections::{BTreeMap, BTreeSet};

use crate::metadata::Metadata;
use crate::{Finding, Level};

/// Crates that must not be in the product, however they get there, and what to use instead.
const BANNED: [(&str, &str); 7] = [
    ("async-std", "tokio is our runtime"),
    ("bincode", "formats on disk and wire are specified by hand"),
    ("native-tls", "rustls is our TLS"),
    ("openssl", "rustls is our TLS"),
    ("openssl-sys", "rustls is our TLS"),
    ("ring", "aws-lc-rs is our one crypto library"),
    ("rustls-pemfile", "rustls-pki-types reads PEM"),
];

/// Crates that our own must not name, though foreign ones may.
const BANNED_BY_NAME: [(&str, &str); 1] = [("lazy_static", "std::sync::LazyLock does it")];

pub(crate) fn check(metadata: &Metadata, lock: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in (1..).zip(lock.lines()) {
        if line.starts_with("source = \"git+") {
            let place = format!("Cargo.lock:{number}");
            findings.push(Finding::error(
                place,
                "a dependency from git; use a released version",
            ));
        }
    }
    findings.extend(banned(
        &BANNED,
        metadata.product.iter().map(|built| built.name.as_str()),
    ));
    for member in &metadata.members {
        let named = || member.uses.iter().map(|(_, name)| name.as_str());
        findings.extend(banned(&BANNED, named()));
        findings.extend(banned(&BANNED_BY_NAME, named()));
    }

    let mut lines = BTreeMap::<&str, BTreeSet<&str>>::new();
    for built in &metadata.product {
        lines
            .entry(&built.name)
            .or_default()
            .insert(release_line(&built.version));
    }
    for (name, versions) in lines.into_iter().filter(|(_, versions)| versions.len() > 1) {
        let versions: Vec<&str> = versions.into_iter().collect();
        let what = format!(
            "in the product in several incompatible versions: {}",
            versions.join(", ")
        );
        findings.push(Finding {
            level: Level::Info,
            place: name.into(),
            what,
        });
    }
    findings
}

fn banned<'a>(list: &[(&str, &str)], names: impl Iterator<Item = &'a str>) -> Vec<Finding> {
    let reason = |name| {
        list.iter()
            .find(|(banned, _)| *banned == name)
            .map(|(_, instead)| (name, instead))
    };
    let found = names.filter_map(reason);
    found
        .map(|(name, instead)| Finding::error(name, format!("is not to be used: {instead}")))
        .collect()
}

/// The part of a version that has to be equal for two releases to be compatible.
fn release_line(version: &str) -> &str {
    let significant = |character: char| character.is_ascii_digit() && character != '0';
    let start = version.find(significant).unwrap_or(version.len());
    version[start..]
        .find('.')
        .map_or(version, |dot| &version[..start + dot])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{Built, Kind};

    #[test]
    fn banned_crates_and_git_sources_are_found() {
        let errors = |metadata: &Metadata, lock| {
            check(metadata, lock)
                .into_iter()
                .filter(|finding| finding.level == Level::Error)
                .count()
        };
        let clean = Metadata::example("lifeboat", &[(Kind::Product, "rustls")]);
        assert_eq!(errors(&clean, "source = \"registry+x\"\n"), 0);
        assert_eq!(errors(&clean, "source = \"git+https://example.org/x\"\n"), 1);
        for kind in [Kind::Product, Kind::Dev] {
            assert!(errors(&Metadata::example("lifeboat", &[(kind, "ring")]), "") > 0);
            assert!(errors(&Metadata::example("lifeboat", &[(kind, "lazy_static")]), "") > 0);
        }
        let foreign = Built {
            name: "lazy_static".into(),
            version: "1.0.0".into(),
        };
        let indirect = Metadata {
            product: [foreign].into(),
            ..Metadata::default()
        };
        assert_eq!(errors(&indirect, ""), 0);
    }

    #[test]
    fn versions_are_compared_as_cargo_does() {
        assert_eq!(release_line("1.2.3"), "1");
        assert_eq!(release_line("12.0.3"), "12");
        assert_eq!(release_line("0.12.3"), "0.12");
        assert_eq!(release_line("0.0.3"), "0.0.3");
        assert_eq!(release_line("0.0.0"), "0.0.0");
    }
}
