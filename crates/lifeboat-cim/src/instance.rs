//! Instances: typed, as the object manager makes them, and raw, as they came over the wire before the schema was asked.

use crate::path::ObjectPath;
use crate::value::Value;

/// An instance. Properties that are not there are null; the codecs write every declared one.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// Its class, in the schema's spelling.
    pub class: String,
    /// Properties that have a value, by their declared names.
    pub properties: Vec<(String, Value)>,
}

impl Instance {
    /// An instance without values.
    #[must_use]
    pub fn new(class: &str) -> Self {
        Self {
            class: class.to_owned(),
            properties: Vec::new(),
        }
    }

    /// The same with this value.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.set(name, Some(value.into()));
        self
    }

    /// The same with this value, if there is one.
    #[must_use]
    pub fn with_some<T: Into<Value>>(mut self, name: &str, value: Option<T>) -> Self {
        self.set(name, value.map(Into::into));
        self
    }

    /// Sets a value or makes it null.
    pub fn set(&mut self, name: &str, value: Option<Value>) {
        self.properties.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        if let Some(value) = value {
            self.properties.push((name.to_owned(), value));
        }
    }

    /// A value, by the property's name in any case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        let found = self.properties.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, v)| v)
    }

    /// The text of a string property.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number of an unsigned property.
    #[must_use]
    pub fn unsigned(&self, name: &str) -> Option<u64> {
        match self.get(name)? {
            Value::Unsigned(n) => Some(*n),
            _ => None,
        }
    }
}

/// A value as it came, to be typed by a declaration.
#[derive(Clone, Debug, PartialEq)]
pub enum Raw {
    /// Null, said expressly.
    Null,
    /// Text of any type, also that of an embedded instance in CIM-XML or of an object path.
    Text(String),
    /// A reference.
    Path(ObjectPath),
    /// An instance written as elements.
    Instance(RawInstance),
    /// Items. A single item may also stand for an array of one.
    List(Vec<Raw>),
}

/// An instance as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct RawInstance {
    /// Class as written; empty when only the declaration says it.
    pub class: String,
    /// Properties that were mentioned.
    pub properties: Vec<(String, Raw)>,
}
