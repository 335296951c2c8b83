//! The class repository: what the MOF says, flattened so that a class knows all it inherits.

use std::collections::BTreeMap;

use crate::value::{CimType, Value};

/// All namespaces of this server.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    /// By lower-case name (`root/virtualization/v2`).
    pub namespaces: BTreeMap<String, Namespace>,
}

/// One namespace.
#[derive(Clone, Debug, Default)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// By lower-case name.
    pub classes: BTreeMap<String, Class>,
    /// Qualifier declarations, by lower-case name.
    pub qualifiers: BTreeMap<String, QualifierDeclaration>,
}

/// `Qualifier X : type = default, Scope(...), Flavor(...)`.
#[derive(Clone, Debug, PartialEq)]
pub struct QualifierDeclaration {
    /// Name.
    pub name: String,
    /// Type of its value.
    pub kind: CimType,
    /// Array.
    pub array: bool,
    /// Value when none is written.
    pub default: Option<Value>,
    /// Lower-case scopes (`class`, `property`, `any`, ...).
    pub scopes: Vec<String>,
    /// Subclasses may say otherwise.
    pub overridable: bool,
    /// Subclasses inherit it.
    pub to_subclass: bool,
    /// It may be translated.
    pub translatable: bool,
}

/// A qualifier on something.
#[derive(Clone, Debug, PartialEq)]
pub struct Qualifier {
    /// Name.
    pub name: String,
    /// Type of its value.
    pub kind: CimType,
    /// Value.
    pub value: Option<Value>,
}

/// A class with everything it inherits.
#[derive(Clone, Debug)]
pub struct Class {
    /// Name.
    pub name: String,
    /// Its superclass.
    pub superclass: Option<String>,
    /// An association.
    pub association: bool,
    /// Without instances of its own.
    pub is_abstract: bool,
    /// An indication.
    pub indication: bool,
    /// Own and inherited ones, inherited first.
    pub properties: Vec<Property>,
    /// Own and inherited ones.
    pub methods: Vec<Method>,
    /// On the class itself.
    pub qualifiers: Vec<Qualifier>,
}

/// A property, or a reference of an association.
#[derive(Clone, Debug)]
pub struct Property {
    /// Name.
    pub name: String,
    /// Type.
    pub kind: CimType,
    /// Array.
    pub array: bool,
    /// Part of the key.
    pub key: bool,
    /// Class that a reference leads to.
    pub reference_class: Option<String>,
    /// Class of the instance embedded in a string; empty for any (EmbeddedObject).
    pub embedded: Option<String>,
    /// Value of new instances.
    pub default: Option<Value>,
    /// All of them.
    pub qualifiers: Vec<Qualifier>,
    /// Class that declared it last.
    pub origin: String,
}

/// A method.
#[derive(Clone, Debug)]
pub struct Method {
    /// Name.
    pub name: String,
    /// Type of the return value.
    pub returns: CimType,
    /// In the order of the declaration.
    pub parameters: Vec<Parameter>,
    /// All of them.
    pub qualifiers: Vec<Qualifier>,
    /// Class that declared it last.
    pub origin: String,
}

/// A parameter.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Name.
    pub name: String,
    /// Type.
    pub kind: CimType,
    /// Array.
    pub array: bool,
    /// Given by the caller.
    pub input: bool,
    /// Given back.
    pub output: bool,
    /// Class that a reference leads to.
    pub reference_class: Option<String>,
    /// Class of the instance embedded in a string; empty for any.
    pub embedded: Option<String>,
    /// All of them.
    pub qualifiers: Vec<Qualifier>,
}
