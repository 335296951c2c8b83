//! Names of instances, and paths: the same with a namespace and a host. Class names, key names and key values compare
//! without regard to case (clients send UUIDs in either). Whether the keys are those of the class, the schema says.
//!
//! A path has a text, `\\HOST\root\virtualization\v2:Class.Key="value",Other="value"`, in which backslashes and quotes of
//! values are escaped by a backslash. In the text a reference looks like a string: keys are read
//! as text, and [`crate::typing::typed`] makes references of those that the schema calls so.

use std::fmt;

/// The value of a key. All numbers and booleans are kept as their text; our classes have string and reference keys only.
#[derive(Clone, Debug)]
pub enum KeyValue {
    /// A key of any type but a reference, as text.
    Text(String),
    /// Another path, in associations.
    Reference(Box<ObjectPath>),
}

/// A class with key values: which instance within a namespace. Without keys it names the class, or the only instance.
#[derive(Clone, Debug)]
pub struct InstanceName {
    /// Class, as written.
    pub class: String,
    /// Key bindings, in any order.
    pub keys: Vec<(String, KeyValue)>,
}

/// Where an instance is.
#[derive(Clone, Debug)]
pub struct ObjectPath {
    /// Host; `None`: this one. Never compared: clients write all kinds of things here.
    pub host: Option<String>,
    /// Namespace, `root/virtualization/v2`; `None`: that of the request.
    pub namespace: Option<String>,
    /// Which instance.
    pub name: InstanceName,
}

impl PartialEq for KeyValue {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => a.to_lowercase() == b.to_lowercase(),
            (Self::Reference(a), Self::Reference(b)) => a == b,
            (Self::Text(_), Self::Reference(_)) | (Self::Reference(_), Self::Text(_)) => false,
        }
    }
}

impl PartialEq for InstanceName {
    fn eq(&self, other: &Self) -> bool {
        let key_in = |(n, v): &(String, KeyValue)| other.key(n).is_some_and(|o| o == v);
        self.class.eq_ignore_ascii_case(&other.class)
            && self.keys.len() == other.keys.len()
            && self.keys.iter().all(key_in)
    }
}

/// Hosts are not compared, and a missing namespace equals any.
impl PartialEq for ObjectPath {
    fn eq(&self, other: &Self) -> bool {
        let namespaces = match (&self.namespace, &other.namespace) {
            (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
            (None, _) | (_, None) => true,
        };
        namespaces && self.name == other.name
    }
}

impl InstanceName {
    /// A name with text keys.
    #[must_use]
    pub fn new(class: &str, keys: &[(&str, &str)]) -> Self {
        let key = |(n, v): &(&str, &str)| ((*n).to_owned(), KeyValue::Text((*v).to_owned()));
        Self {
            class: class.to_owned(),
            keys: keys.iter().map(key).collect(),
        }
    }

    /// The value of a key, whose name is given in any case.
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&KeyValue> {
        let found = self.keys.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, v)| v)
    }

    /// The text of a key; `None` when it is missing or a reference.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.key(name)? {
            KeyValue::Text(text) => Some(text),
            KeyValue::Reference(_) => None,
        }
    }
}

impl ObjectPath {
    /// A path on this host.
    #[must_use]
    pub fn new(namespace: &str, name: InstanceName) -> Self {
        Self {
            host: None,
            namespace: Some(namespace.to_owned()),
            name,
        }
    }
}

/// Longest text of a path that is read, in bytes.
pub const MAX_PATH: usize = 16 * 1024;
/// Most keys of a path.
pub const MAX_KEYS: usize = 32;

/// Why a text is no path; the sender's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Longer than anything meant seriously.
    #[error("longer than {MAX_PATH} bytes, or more than {MAX_KEYS} keys")]
    TooLong,
    /// No class name where one belongs.
    #[error("no class name")]
    Class,
    /// Slashes without names between them, or a host without a namespace.
    #[error("no namespace, where a host or a colon promises one")]
    Namespace,
    /// A key without a name, or without a value.
    #[error("the keys are not written Name=\"value\",Name=\"value\"")]
    Keys,
    /// A quoted value without its end.
    #[error("a quoted value has no end")]
    Unterminated,
    /// Twice the same key.
    #[error("the key {0} occurs twice")]
    Doubled(String),
}

/// What may be the name of a class, a property or a method.
#[must_use]
pub fn is_identifier(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_alphabetic() || c == '_')
        && chars.all(|c| c.is_alphanumeric() || c == '_')
}

impl ObjectPath {
    /// Reads the text of a path. Slashes and backslashes are the same before the class; `//host/`, a namespace or both may
    /// be missing; `Class=@` names the only instance. A value may stand in single quotes, or, if it is a number or a
    /// boolean, without any. A backslash that escapes nothing stands for itself: many callers forget to double it.
    ///
    /// # Errors
    /// Texts that are no path.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.len() > MAX_PATH {
            return Err(PathError::TooLong);
        }
        let text = text.trim();
        let (host, rest) = split_host(text)?;
        let end = rest.find(['"', '\'', '=']).unwrap_or(rest.len());
        let (namespace, rest) = match rest[..end].find(':') {
            Some(colon) => (Some(namespace(&rest[..colon])?), &rest[colon + 1..]),
            None if host.is_some() => return Err(PathError::Namespace),
            None => (None, rest),
        };
        let name = InstanceName::parse(rest)?;
        Ok(Self {
            host,
            namespace,
            name,
        })
    }
}

impl InstanceName {
    /// Reads `Class.Key="value",...`, `Class=@` or `Class`.
    ///
    /// # Errors
    /// Texts that are no name of an instance.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let end = text.find(['.', '=']).unwrap_or(text.len());
        let (class, rest) = (text[..end].trim(), text[end..].trim());
        if !is_identifier(class) {
            return Err(PathError::Class);
        }
        let keys = match rest {
            "" | "=@" => Vec::new(),
            _ => parse_keys(rest.strip_prefix('.').ok_or(PathError::Keys)?)?,
        };
        Ok(Self {
            class: class.to_owned(),
            keys,
        })
    }
}

/// The host, if there is one, and the text after its slash.
fn split_host(text: &str) -> Result<(Option<String>, &str), PathError> {
    let is_slash = |c: char| c == '/' || c == '\\';
    let scheme = text
        .find("://")
        .filter(|at| text[..*at].chars().all(|c| c.is_ascii_alphanumeric()));
    let rest = match scheme {
        Some(at) => &text[at + 3..],
        None if text.starts_with("\\\\") || text.starts_with("//") => &text[2..],
        None => return Ok((None, text)),
    };
    match rest.find(is_slash) {
        Some(0) | None => Err(PathError::Namespace),
        Some(at) => Ok((Some(rest[..at].to_owned()), &rest[at + 1..])),
    }
}

fn namespace(text: &str) -> Result<String, PathError> {
    let text = text.strip_prefix(['/', '\\']).unwrap_or(text);
    let parts: Vec<&str> = text.split(['/', '\\']).collect();
    if parts.iter().all(|p| is_identifier(p)) {
        Ok(parts.join("/"))
    } else {
        Err(PathError::Namespace)
    }
}

fn parse_keys(mut rest: &str) -> Result<Vec<(String, KeyValue)>, PathError> {
    let mut keys: Vec<(String, KeyValue)> = Vec::new();
    loop {
        let (name, after) = rest.split_once('=').ok_or(PathError::Keys)?;
        let name = name.trim();
        let (value, after) = parse_value(after.trim_start())?;
        if !is_identifier(name) {
            return Err(PathError::Keys);
        }
        if keys.iter().any(|(n, _)| n.eq_ignore_ascii_case(name)) {
            return Err(PathError::Doubled(name.to_owned()));
        }
        if keys.len() == MAX_KEYS {
            return Err(PathError::TooLong);
        }
        keys.push((name.to_owned(), KeyValue::Text(value)));
        match after.trim_start() {
            "" => return Ok(keys),
            after => rest = after.strip_prefix(',').ok_or(PathError::Keys)?,
        }
    }
}

/// A value and what follows it.
fn parse_value(text: &str) -> Result<(String, &str), PathError> {
    let Some(quote) = text.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
        let end = text.find(',').unwrap_or(text.len());
        let value = text[..end].trim();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | ':');
        return if !value.is_empty() && value.chars().all(plain) {
            Ok((value.to_owned(), &text[end..]))
        } else {
            Err(PathError::Keys)
        };
    };
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => return Ok((value, &text[at + 1..])),
            '\\' => {
                let escaped = chars.next_if(|(_, c)| matches!(c, '\\' | '"' | '\''));
                value.push(escaped.map_or('\\', |(_, c)| c));
            }
            c => value.push(c),
        }
    }
    Err(PathError::Unterminated)
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.class)?;
        for (n, (name, value)) in self.keys.iter().enumerate() {
            let before = if n == 0 { '.' } else { ',' };
            let value = value.to_string().replace('\\', "\\\\").replace('"', "\\\"");
            write!(f, "{before}{name}=\"{value}\"")?;
        }
        Ok(())
    }
}

/// The text, or that of the path, without quotes.
impl fmt::Display for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Reference(path) => path.fmt(f),
        }
    }
}

/// With backslashes, as WMI writes `__PATH`. A host is left out where the namespace is unknown.
impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            if let Some(host) = &self.host {
                write!(f, "\\\\{host}\\")?;
            }
            write!(f, "{}:", namespace.replace('/', "\\"))?;
        }
        self.name.fmt(f)
    }
}

impl std::str::FromStr for ObjectPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        Self::parse(text)
    }
}

#[cfg(test)]
#[path = "path_tests.rs"]
mod tests;
