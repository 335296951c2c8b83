//! Values and instances as they came over the wire, before the schema was asked. What they become, [`crate::typing`] says.

use crate::path::ObjectPath;

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
    /// Class as written; empty when only the declaration can tell.
    pub class: String,
    /// Properties that were mentioned.
    pub properties: Vec<(String, Raw)>,
}
