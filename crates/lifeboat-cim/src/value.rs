//! Typed values and the instances that they make up, one of which may be a value itself. What a value may be is said by the schema;
//! what it looks like on the wire by the codecs.

use crate::path::ObjectPath;

/// CIM's types. Strings that hold an embedded instance are strings here; the schema says what is in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CimType {
    /// true or false.
    Boolean,
    /// 0 to 255.
    Uint8,
    /// 0 to 65,535.
    Uint16,
    /// 0 to 2^32-1.
    Uint32,
    /// 0 to 2^64-1.
    Uint64,
    /// -128 to 127.
    Sint8,
    /// 16 bits, signed.
    Sint16,
    /// 32 bits, signed.
    Sint32,
    /// 64 bits, signed.
    Sint64,
    /// IEEE single.
    Real32,
    /// IEEE double.
    Real64,
    /// One character.
    Char16,
    /// Text of any length.
    String,
    /// An instant or an interval.
    DateTime,
    /// A path to an instance.
    Reference,
}

impl CimType {
    /// Every type.
    pub const ALL: &'static [Self] = &[
        Self::Boolean,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Sint8,
        Self::Sint16,
        Self::Sint32,
        Self::Sint64,
        Self::Real32,
        Self::Real64,
        Self::Char16,
        Self::String,
        Self::DateTime,
        Self::Reference,
    ];

    /// The name that MOF and CIM-XML use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Uint8 => "uint8",
            Self::Uint16 => "uint16",
            Self::Uint32 => "uint32",
            Self::Uint64 => "uint64",
            Self::Sint8 => "sint8",
            Self::Sint16 => "sint16",
            Self::Sint32 => "sint32",
            Self::Sint64 => "sint64",
            Self::Real32 => "real32",
            Self::Real64 => "real64",
            Self::Char16 => "char16",
            Self::String => "string",
            Self::DateTime => "datetime",
            Self::Reference => "reference",
        }
    }

    /// The type of this name, in any case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|t| t.name().eq_ignore_ascii_case(name))
    }
}

/// A value. Null is the absence of one (`Option<Value>`), which CIM allows everywhere but in keys.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A value of type boolean.
    Boolean(bool),
    /// Any unsigned type.
    Unsigned(u64),
    /// Any signed type.
    Signed(i64),
    /// Either real type.
    Real(f64),
    /// String or char16.
    Text(String),
    /// Instant or interval.
    DateTime(crate::datetime::DateTime),
    /// A value of type reference: a path to an instance.
    Reference(Box<ObjectPath>),
    /// Embedded instance (a string by its declared type, with the qualifier EmbeddedInstance or EmbeddedObject).
    Instance(Box<Instance>),
    /// Array; its items are all of one kind, never arrays. Null items do not occur in our classes.
    Array(Vec<Value>),
}

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

impl From<bool> for Value {
    fn from(v: bool) -> Self {
        Self::Boolean(v)
    }
}
impl From<u8> for Value {
    fn from(v: u8) -> Self {
        Self::Unsigned(v.into())
    }
}
impl From<u16> for Value {
    fn from(v: u16) -> Self {
        Self::Unsigned(v.into())
    }
}
impl From<u32> for Value {
    fn from(v: u32) -> Self {
        Self::Unsigned(v.into())
    }
}
impl From<u64> for Value {
    fn from(v: u64) -> Self {
        Self::Unsigned(v)
    }
}
impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Self::Text(v.into())
    }
}
impl From<String> for Value {
    fn from(v: String) -> Self {
        Self::Text(v)
    }
}
impl From<ObjectPath> for Value {
    fn from(v: ObjectPath) -> Self {
        Self::Reference(Box::new(v))
    }
}
impl From<Instance> for Value {
    fn from(v: Instance) -> Self {
        Self::Instance(Box::new(v))
    }
}
impl From<crate::datetime::DateTime> for Value {
    fn from(v: crate::datetime::DateTime) -> Self {
        Self::DateTime(v)
    }
}
impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(v: Vec<T>) -> Self {
        Self::Array(v.into_iter().map(Into::into).collect())
    }
}
