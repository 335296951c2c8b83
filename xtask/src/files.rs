//! The files of the project as git sees them: what is tracked, or would be with the next `git add`. Without a repository all
//! files but built ones.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::source::{self, Source, TestModule};

/// Directories that are not the project's where git cannot say so: what `.gitignore` names, and git's own.
const BUILT: [&str; 4] = [".git", ".lab", "artifacts", "target"];

/// Every text file of the project.
pub(crate) struct Tree {
    pub(crate) texts: Vec<TextFile>,
    pub(crate) sources: Vec<SourceFile>,
}

/// A file that is UTF-8.
pub(crate) struct TextFile {
    /// Relative to the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// A Rust file.
pub(crate) struct SourceFile {
    /// Relative to the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// The text with comments, literals and test modules blanked out.
    pub(crate) source: Source,
    /// All of it is there for tests.
    pub(crate) is_test: bool,
}

impl SourceFile {
    /// The crate's directory name, for files below `crates/NAME/src`.
    pub(crate) fn crate_of_src(&self) -> Option<&str> {
        let (name, rest) = self.path.strip_prefix("crates/")?.split_once('/')?;
        rest.starts_with("src/").then_some(name)
    }
}

impl Tree {
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let mut texts = Vec::new();
        for path in listing(root)? {
            // Deleted but still tracked, or a binary file: nothing to read.
            if let Ok(text) = std::fs::read_to_string(root.join(&path)) {
                texts.push(TextFile { path, text });
            }
        }
        Ok(Self::from_texts(texts))
    }

    pub(crate) fn from_texts(texts: Vec<TextFile>) -> Self {
        let rust = || texts.iter().filter(|file| file.path.ends_with(".rs"));
        let mut sources: Vec<SourceFile> = rust()
            .map(|file| SourceFile {
                path: file.path.clone(),
                text: file.text.clone(),
                source: source::scan(&file.text),
                is_test: false,
            })
            .collect();
        let test_modules: Vec<PathBuf> = sources
            .iter()
            .flat_map(|file| {
                file.source
                    .test_modules
                    .iter()
                    .map(|module| module_path(&file.path, module))
            })
            .collect();
        for file in &mut sources {
            let path = Path::new(&file.path);
            let declared = test_modules
                .iter()
                .any(|module| path.strip_prefix(module).is_ok() || path.with_extension("") == *module);
            let folder = |name| path.components().any(|part| part.as_os_str() == name);
            file.is_test = declared || folder("tests") || folder("benches");
        }
        Self { texts, sources }
    }

    /// For tests: a tree of these files.
    #[cfg(test)]
    pub(crate) fn example(files: &[(&str, &str)]) -> Self {
        let texts = files.iter().map(|(path, text)| TextFile {
            path: (*path).into(),
            text: (*text).into(),
        });
        Self::from_texts(texts.collect())
    }
}

/// The files of the project, relative to `root`: from git where there is a repository, and from the directory where there is
/// none, as in an unpacked archive.
fn listing(root: &Path) -> Result<Vec<String>> {
    let git = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output();
    let Some(output) = git.ok().filter(|output| output.status.success()) else {
        let mut files = Vec::new();
        walk(root, Path::new(""), &mut files)?;
        return Ok(files);
    };
    let listing = String::from_utf8(output.stdout).context("a file name is not UTF-8")?;
    Ok(listing.split_terminator('\0').map(str::to_owned).collect())
}

/// All files below `folder` but those that builds make.
fn walk(root: &Path, folder: &Path, files: &mut Vec<String>) -> Result<()> {
    let unreadable = || format!("cannot read the directory {}", root.join(folder).display());
    for entry in std::fs::read_dir(root.join(folder)).with_context(unreadable)? {
        let entry = entry.with_context(unreadable)?;
        let path = folder.join(entry.file_name());
        let kind = entry.file_type().with_context(unreadable)?;
        if kind.is_dir() && !BUILT.contains(&entry.file_name().to_string_lossy().as_ref()) {
            walk(root, &path, files)?;
        } else if kind.is_file() {
            files.push(path.to_str().context("a file name is not UTF-8")?.to_owned());
        }
    }
    Ok(())
}

/// Where a module declared in `file` is, without the extension or `/mod.rs`.
fn module_path(file: &str, module: &TestModule) -> PathBuf {
    let file = Path::new(file);
    let folder = file.parent().unwrap_or(Path::new(""));
    match (module, file.file_stem().and_then(|stem| stem.to_str())) {
        (TestModule::At(path), _) => folder.join(path).with_extension(""),
        (TestModule::Named(name), Some("lib" | "main" | "mod") | None) => folder.join(name),
        (TestModule::Named(name), Some(stem)) => folder.join(stem).join(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_files_are_recognised() {
        let tree = Tree::example(&[
            ("crates/a/src/lib.rs", "mod x;\n#[cfg(test)]\nmod helpers;\n"),
            ("crates/a/src/helpers.rs", ""),
            ("crates/a/src/helpers/more.rs", ""),
            (
                "crates/a/src/x.rs",
                "#[cfg(test)]\n#[allow(dead_code)]\nmod y_tests;\n",
            ),
            ("crates/a/src/x/y_tests.rs", ""),
            ("crates/a/src/y_tests.rs", ""),
            (
                "crates/a/src/z.rs",
                "#[cfg(test)]\n#[path = \"z_tests.rs\"]\nmod tests;\n",
            ),
            ("crates/a/src/z_tests.rs", ""),
            ("crates/a/tests/t.rs", ""),
        ]);
        let product: Vec<&str> = tree
            .sources
            .iter()
            .filter(|file| !file.is_test)
            .map(|file| file.path.as_str())
            .collect();
        let names = ["lib.rs", "x.rs", "y_tests.rs", "z.rs"].map(|name| format!("crates/a/src/{name}"));
        assert_eq!(product, names);
    }

    #[test]
    fn without_a_repository_the_directory_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        };
        let ours = [".ci/run", "a.rs", "crates/b/src/lib.rs"];
        let others = ["target/c.rs", "fuzz/target/d.rs", ".git/e"];
        ours.iter().chain(&others).for_each(|path| write(path));
        let mut files = Vec::new();
        walk(folder.path(), Path::new(""), &mut files).unwrap();
        files.sort();
        assert_eq!(files, ours);
    }
}
