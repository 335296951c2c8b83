//! From MOF files to the repository: follows includes, keeps namespaces apart, and reports the first fault with its place.
//! How a class inherits is in `resolve`.

use super::fault::{Fault, MAX_INCLUDES};
use super::resolve::{self, Mention};
use super::{Namespace, QualifierDeclaration, Schema};
use crate::mof::{self, Declaration, Declared, MofError, QualifierText};

/// What is wrong with a schema; the fault of the MOF's author.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// Not MOF.
    #[error(transparent)]
    Mof(#[from] MofError),
    /// MOF that makes no sense.
    #[error("{file}, line {line}: {element}: {fault}")]
    Schema {
        /// Name of the file, as in the list that is compiled.
        file: String,
        /// Line, from 1.
        line: u32,
        /// What was declared there: a class, `CLASS.PROPERTY`, ...
        element: String,
        /// What is wrong with it.
        fault: Fault,
    },
}

struct Builder<'a> {
    files: &'a [(&'a str, &'a str)],
    schema: Schema,
    /// Key of the namespace that declarations go to.
    namespace: Option<String>,
    /// By namespace, and with the file they were found in.
    mentions: Vec<(String, String, Mention)>,
}

impl Schema {
    /// Compiles MOF. `roots` are read, and what they include; `files` are all there are, by name.
    ///
    /// # Errors
    /// The first fault found, with file and line.
    pub fn compile(roots: &[&str], files: &[(&str, &str)]) -> Result<Self, SchemaError> {
        let mut builder = Builder {
            files,
            schema: Self::default(),
            namespace: None,
            mentions: Vec::new(),
        };
        for root in roots {
            builder.namespace = None;
            builder.file(root, root, 1, 0)?;
        }
        builder.check_mentions()?;
        Ok(builder.schema)
    }
}

impl Builder<'_> {
    /// Reads a file that `by` includes.
    fn file(&mut self, name: &str, by: &str, line: u32, depth: usize) -> Result<(), SchemaError> {
        let error = |fault| at(by, line, name, fault);
        if depth > MAX_INCLUDES {
            return Err(error(Fault::IncludeDepth));
        }
        let found = self.files.iter().find(|(n, _)| *n == name);
        let (_, text) = found.ok_or_else(|| error(Fault::UnknownFile))?;
        for Declared { line, what } in mof::parse(name, text)? {
            match what {
                Declaration::Include(file) => self.file(&file, name, line, depth + 1)?,
                Declaration::Namespace(namespace) => self.enter(&namespace),
                Declaration::Pragma(_) => {}
                Declaration::Qualifier(text) => {
                    let element = text.name.clone();
                    let added = self.current().and_then(|n| add_qualifier(n, text));
                    added.map_err(|fault| at(name, line, &element, fault))?;
                }
                Declaration::Class(text) => self.class(name, &Declared { line, what: text })?,
            }
        }
        Ok(())
    }

    fn enter(&mut self, name: &str) {
        let key = name.to_ascii_lowercase();
        let namespace = self.schema.namespaces.entry(key.clone()).or_default();
        name.clone_into(&mut namespace.name);
        self.namespace = Some(key);
    }

    fn current(&mut self) -> Result<&mut Namespace, Fault> {
        let key = self.namespace.as_ref().ok_or(Fault::NoNamespace)?;
        self.schema.namespaces.get_mut(key).ok_or(Fault::NoNamespace)
    }

    fn class(&mut self, file: &str, text: &Declared<mof::ClassText>) -> Result<(), SchemaError> {
        let key = text.what.name.to_ascii_lowercase();
        let current = self.current();
        let namespace = current.map_err(|fault| at(file, text.line, &text.what.name, fault))?;
        if namespace.classes.contains_key(&key) {
            return Err(at(file, text.line, &text.what.name, Fault::Duplicate));
        }
        let resolved = resolve::class(namespace, text);
        let (class, mentions) = resolved.map_err(|f| at(file, f.line, &f.element, f.fault))?;
        namespace.classes.insert(key, class);
        let name = namespace.name.clone();
        let mentions = mentions.into_iter();
        self.mentions
            .extend(mentions.map(|m| (name.clone(), file.to_owned(), m)));
        Ok(())
    }

    /// Classes may be named before they are declared, as long as they are declared.
    fn check_mentions(&self) -> Result<(), SchemaError> {
        for (namespace, file, mention) in &self.mentions {
            let Some(namespace) = self.schema.namespaces.get(&namespace.to_ascii_lowercase()) else {
                continue;
            };
            let error = |fault| at(file, mention.line, &mention.element, fault);
            if !namespace
                .classes
                .contains_key(&mention.class.to_ascii_lowercase())
            {
                return Err(error(Fault::UnknownClass(mention.class.clone())));
            }
            if let Some(ancestor) = &mention.ancestor
                && !namespace.is_a(&mention.class, ancestor)
            {
                let fault = Fault::Widened(mention.class.clone(), ancestor.clone());
                return Err(error(fault));
            }
        }
        Ok(())
    }
}

fn at(file: &str, line: u32, element: &str, fault: Fault) -> SchemaError {
    SchemaError::Schema {
        file: file.to_owned(),
        line,
        element: element.to_owned(),
        fault,
    }
}

const SCOPES: &[&str] = &[
    "any",
    "association",
    "class",
    "indication",
    "method",
    "parameter",
    "property",
    "reference",
    "schema",
];

fn add_qualifier(namespace: &mut Namespace, text: QualifierText) -> Result<(), Fault> {
    let default = resolve::value(&text.kind, &text.default)?;
    let scopes: Vec<String> = text.scopes.iter().map(|s| s.to_ascii_lowercase()).collect();
    if let Some(unknown) = scopes.iter().find(|s| !SCOPES.contains(&s.as_str())) {
        return Err(Fault::UnknownWord(unknown.clone()));
    }
    let mut declaration = QualifierDeclaration {
        name: text.name,
        kind: text.kind.base,
        array: text.kind.array,
        default,
        scopes,
        overridable: true,
        to_subclass: true,
        translatable: false,
    };
    for flavor in text.flavors {
        match flavor.to_ascii_lowercase().as_str() {
            "enableoverride" => declaration.overridable = true,
            "disableoverride" => declaration.overridable = false,
            "tosubclass" => declaration.to_subclass = true,
            "restricted" => declaration.to_subclass = false,
            "translatable" => declaration.translatable = true,
            _ => return Err(Fault::UnknownWord(flavor)),
        }
    }
    let key = declaration.name.to_ascii_lowercase();
    if namespace.qualifiers.contains_key(&key) {
        return Err(Fault::Duplicate);
    }
    namespace.qualifiers.insert(key, declaration);
    Ok(())
}
