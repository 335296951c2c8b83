//! The form of commit messages since the rule for them began: `area: imperative` in at most 72 characters, an empty line, and
//! a body. What a message says, and whether it is imperative at all, is for people to judge.

use std::path::Path;
use std::process::{Command, Output};

use crate::{Finding, Level};

/// The last commit before the rule. It and what is before it are not looked at.
const BEGINNING: &str = "1654a0356b4a52ab6e97ec9a825688605e22bca2";

/// The longest subject, in characters. Lists of commits on 80 columns show as much beside a short id.
const MOST_CHARACTERS: usize = 72;

const FORM: &str = "a subject is `area: imperative`, such as `store: keep the manifest's copy`";

pub(crate) fn check(root: &Path) -> Vec<Finding> {
    check_since(root, BEGINNING)
}

fn check_since(root: &Path, beginning: &str) -> Vec<Finding> {
    match messages(root, beginning) {
        Ok(messages) => messages.iter().flat_map(|commit| check_message(commit)).collect(),
        Err(reason) => vec![Finding {
            level: Level::Info,
            place: "commits".into(),
            what: format!("the messages of commits were not looked at: {reason}"),
        }],
    }
}

/// The messages of all commits after `beginning`, each below the commit's id; merges have messages that git makes and are left
/// out. The error says why there is nothing to look at.
fn messages(root: &Path, beginning: &str) -> Result<Vec<String>, String> {
    let is_commit = git(root, &["cat-file", "-e", &format!("{beginning}^{{commit}}")])?;
    let is_before = git(root, &["merge-base", "--is-ancestor", beginning, "HEAD"])?;
    if !(is_commit.status.success() && is_before.status.success()) {
        let known = git(root, &["rev-parse", "HEAD"])?;
        return Err(if known.status.success() {
            format!("commit {beginning} is not in the history (is this a shallow clone?)")
        } else {
            said(&known)
        });
    }
    let range = format!("{beginning}..HEAD");
    let log = git(root, &["log", "-z", "--no-merges", "--format=%H%n%B", &range])?;
    if !log.status.success() {
        return Err(said(&log));
    }
    let text = String::from_utf8_lossy(&log.stdout);
    Ok(text.split_terminator('\0').map(str::to_owned).collect())
}

fn git(root: &Path, arguments: &[&str]) -> Result<Output, String> {
    let git = Command::new("git").args(arguments).current_dir(root).output();
    git.map_err(|error| format!("cannot run git: {error}"))
}

/// What git said to its failure.
fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    format!("git says: {}", text.lines().next().unwrap_or("nothing"))
}

fn check_message(commit: &str) -> Vec<Finding> {
    let (id, message) = commit.split_once('\n').unwrap_or((commit, ""));
    let place = format!("commit {}", id.get(..12).unwrap_or(id));
    let finding = |what| Finding::error(&place, what);
    faults(message).into_iter().map(finding).collect()
}

/// What is wrong with a message, as sentences that say what to do.
fn faults(message: &str) -> Vec<String> {
    let mut lines = message.lines();
    let subject = lines.next().unwrap_or_default();
    let mut faults = Vec::new();
    match subject.split_once(": ") {
        Some((area, rest)) if is_area(area) && !rest.trim().is_empty() => {}
        _ => faults.push(format!("{FORM}; this one is {subject:?}")),
    }
    let length = subject.chars().count();
    if length > MOST_CHARACTERS {
        faults.push(format!(
            "the subject has {length} characters, {MOST_CHARACTERS} are allowed: {subject:?}"
        ));
    }
    if subject.ends_with('.') {
        faults.push(format!("the subject ends with a period: {subject:?}"));
    }
    let separated = lines.next().is_none_or(|line| line.trim().is_empty());
    if !separated {
        faults.push("the second line is not empty; it separates the subject from the body".into());
    } else if lines.all(|line| line.trim().is_empty()) {
        faults.push("has no body; say there why, and how it was shown".into());
    }
    faults
}

/// One area or several, as in `engine, api`: lowercase letters, digits and hyphens.
fn is_area(text: &str) -> bool {
    let letters = |area: &str| {
        area.chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    text.split(", ").all(|area| !area.is_empty() && letters(area))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;

    /// A repository of its own, which no setting of the user who runs the tests reaches.
    struct Repository {
        folder: TempDir,
    }

    impl Repository {
        fn new() -> Self {
            let repository = Self {
                folder: tempfile::tempdir().unwrap(),
            };
            repository.git(&["init", "--quiet", "--initial-branch=main"]);
            repository
        }

        fn root(&self) -> PathBuf {
            self.folder.path().to_owned()
        }

        fn git(&self, arguments: &[&str]) -> String {
            let output = Command::new("git")
                .args(["-c", "user.name=A", "-c", "user.email=a@example.org"])
                .args(["-c", "commit.gpgsign=false", "-c", "core.hooksPath=/dev/null"])
                .args(arguments)
                .current_dir(self.root())
                .output()
                .unwrap();
            assert!(output.status.success(), "git {arguments:?}: {output:?}");
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        }

        fn commit(&self, message: &str) -> String {
            self.git(&[
                "commit",
                "--quiet",
                "--allow-empty",
                "--allow-empty-message",
                "-m",
                message,
            ]);
            self.git(&["rev-parse", "HEAD"])
        }
    }

    fn levels(findings: &[Finding]) -> Vec<Level> {
        findings.iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn messages_in_form_pass() {
        let longest = format!("a: {}\n\nWhy.", "x".repeat(69));
        for message in [
            "store: keep the manifest's copy\n\nWhy, and how it was shown.\n",
            "store, engine: say 100: not less\n\nWhy.",
            "x86-64: be an area\n\n\nWhy, after one more empty line.",
            &longest,
            // Characters are counted, not bytes.
            &format!("a: {}\n\nWhy.", "ä".repeat(69)),
        ] {
            assert_eq!(faults(message), [""; 0], "{message:?}");
        }
    }

    #[test]
    fn messages_out_of_form_are_found() {
        let too_long = format!("a: {}\n\nWhy.", "x".repeat(70));
        for (message, part) in [
            ("Keep the copy\n\nWhy.", "a subject is"),
            ("Store: keep the copy\n\nWhy.", "a subject is"),
            ("the store: keep the copy\n\nWhy.", "a subject is"),
            ("store:keep the copy\n\nWhy.", "a subject is"),
            ("store: \n\nWhy.", "a subject is"),
            (": keep the copy\n\nWhy.", "a subject is"),
            ("store,engine: keep the copy\n\nWhy.", "a subject is"),
            ("fixup! store: keep the copy\n\nWhy.", "a subject is"),
            ("store: keep the copy.\n\nWhy.", "ends with a period"),
            (&too_long, "has 73 characters"),
            ("store: keep the copy", "has no body"),
            ("store: keep the copy\n\n \n", "has no body"),
            ("store: keep the copy\nof the manifest\n\nWhy.", "second line"),
        ] {
            let faults = faults(message);
            assert!(
                faults.len() == 1 && faults[0].contains(part),
                "{message:?}: {faults:?}"
            );
        }
        assert_eq!(faults("").len(), 2);
    }

    #[test]
    fn commits_after_the_beginning_are_judged_and_merges_are_not() {
        let repository = Repository::new();
        repository.commit("Long before");
        let beginning = repository.commit("The last one that was free");
        let findings = || check_since(&repository.root(), &beginning);
        assert_eq!(levels(&findings()), []);

        repository.commit("a: be in form\n\nWhy.");
        repository.git(&["checkout", "--quiet", "-b", "side", &beginning]);
        repository.commit("b: be in form beside it\n\nWhy.");
        repository.git(&["checkout", "--quiet", "main"]);
        repository.git(&["merge", "--quiet", "--no-ff", "-m", "Merge branch 'side'", "side"]);
        assert_eq!(levels(&findings()), []);

        let bad = repository.commit("Out of form");
        repository.commit("a: be in form again\n\nWhy.");
        let found = findings();
        assert_eq!(levels(&found), [Level::Error, Level::Error]);
        assert!(found.iter().all(|f| f.place == format!("commit {}", &bad[..12])));
    }

    #[test]
    fn without_the_beginning_nothing_is_judged_and_that_is_said() {
        let repository = Repository::new();
        let said = |beginning: &str| {
            let findings = check_since(&repository.root(), beginning);
            assert_eq!(levels(&findings), [Level::Info]);
            findings[0].what.clone()
        };
        let absent = "0123456789012345678901234567890123456789";
        assert!(said(absent).contains("git says: "), "no commit at all");

        let first = repository.commit("Out of form");
        assert!(said(absent).contains("is not in the history"));
        // Known, but not before what is checked out.
        repository.git(&["checkout", "--quiet", "--orphan", "other"]);
        repository.commit("Out of form, too");
        assert!(said(&first).contains("is not in the history"));

        std::fs::remove_dir_all(repository.root().join(".git")).unwrap();
        assert!(said(&first).contains("git says: "), "no repository");
    }

    #[test]
    fn a_shallow_clone_is_no_error() {
        let repository = Repository::new();
        let first = repository.commit("Out of form");
        repository.commit("a: be in form\n\nWhy.");
        let url = format!("file://{}", repository.root().display());
        let clone = tempfile::tempdir().unwrap();
        let place = clone.path().to_str().unwrap();
        repository.git(&["clone", "--quiet", "--depth", "1", &url, place]);
        let findings = check_since(clone.path(), &first);
        assert_eq!(levels(&findings), [Level::Info]);
        assert!(findings[0].what.contains("shallow clone"));
    }
}
