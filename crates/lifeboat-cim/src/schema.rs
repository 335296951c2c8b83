//! The class repository: what the MOF says, flattened so that a class knows all it inherits. Names are looked up without
//! regard to case and keep the spelling of the MOF. Which instances there are, the object manager knows.

mod build;
mod builtin;
mod declared;
mod fault;
mod resolve;

use std::collections::BTreeMap;

pub use build::SchemaError;
pub use declared::Declared;
pub use fault::Fault;

use crate::error::{CimError, Status};
use crate::path::{InstanceName, KeyValue};
use crate::value::{CimType, Instance, Value};

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
#[expect(
    clippy::struct_excessive_bools,
    reason = "DSP0004 gives a qualifier these independent flavors"
)]
pub struct QualifierDeclaration {
    /// Name, as it is declared.
    pub name: String,
    /// Type of its value.
    pub kind: CimType,
    /// Whether its value is an array.
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
    /// Name, as the qualifier's declaration has it.
    pub name: String,
    /// Type of its value.
    pub kind: CimType,
    /// Value on this element, written or from the declaration; `None`: null.
    pub value: Option<Value>,
}

/// A class with everything it inherits.
#[derive(Clone, Debug)]
pub struct Class {
    /// Name, as it is declared.
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
    /// Name, as it is declared.
    pub name: String,
    /// Type of the value, or of each item of an array; an embedded instance is a string.
    pub kind: CimType,
    /// Whether it is an array; keys never are.
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
    /// Name, as it is declared.
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
    /// Name, as it is declared; unique within the method in any case of letters.
    pub name: String,
    /// Type of the value, or of each item of an array; an embedded instance is a string.
    pub kind: CimType,
    /// Whether it is an array.
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

impl Schema {
    /// The namespace of this name. Clients write it with slashes or backslashes, and some with one in front.
    ///
    /// # Errors
    /// `InvalidNamespace` when there is none.
    pub fn namespace(&self, name: &str) -> Result<&Namespace, CimError> {
        let key = name.replace('\\', "/").to_ascii_lowercase();
        let found = self.namespaces.get(key.trim_matches('/'));
        found.ok_or_else(|| {
            let known: Vec<&str> = self.namespaces.values().map(|n| n.name.as_str()).collect();
            let message = format!(
                "there is no namespace {}; there are {}",
                short(name),
                known.join(", ")
            );
            CimError::new(Status::InvalidNamespace, message)
        })
    }
}

impl Namespace {
    /// The class of this name.
    ///
    /// # Errors
    /// `InvalidClass` when there is none.
    pub fn class(&self, name: &str) -> Result<&Class, CimError> {
        self.find(name).ok_or_else(|| {
            let message = format!("there is no class {} in {}", short(name), self.name);
            CimError::new(Status::InvalidClass, message)
        })
    }

    fn find(&self, name: &str) -> Option<&Class> {
        self.classes.get(&name.to_ascii_lowercase())
    }

    /// Whether a class is another or derives from it; false when it is unknown.
    #[must_use]
    pub fn is_a(&self, class: &str, ancestor: &str) -> bool {
        let mut next = self.find(class);
        while let Some(class) = next {
            if class.name.eq_ignore_ascii_case(ancestor) {
                return true;
            }
            next = class.superclass.as_deref().and_then(|s| self.find(s));
        }
        false
    }

    /// Classes below one, or below none: those that derive from it directly or, where it is `deep`, at all.
    ///
    /// # Errors
    /// `InvalidClass` when there is none of this name.
    pub fn below<'a>(
        &'a self,
        class: Option<&'a str>,
        deep: bool,
    ) -> Result<impl Iterator<Item = &'a Class>, CimError> {
        if let Some(class) = class {
            self.class(class)?;
        }
        let wanted = move |c: &&Class| match (class, &c.superclass) {
            (None, parent) => deep || parent.is_none(),
            (Some(_), None) => false,
            (Some(class), Some(parent)) if deep => self.is_a(parent, class),
            (Some(class), Some(parent)) => parent.eq_ignore_ascii_case(class),
        };
        Ok(self.classes.values().filter(wanted))
    }

    /// A class and all that derive from it, itself first; nothing when it is unknown.
    pub fn with_subclasses<'a>(&'a self, class: &str) -> impl Iterator<Item = &'a Class> + use<'a> {
        let itself = self.find(class);
        let name = itself.map_or("", |c| c.name.as_str());
        let derived = self.classes.values();
        let derived = derived.filter(move |c| c.name != name && self.is_a(&c.name, name));
        itself.into_iter().chain(derived)
    }

    /// The name of an instance: its class and the keys that the schema says it has. Keys that have no value are left out.
    #[must_use]
    pub fn name_of(&self, instance: &Instance) -> InstanceName {
        let keys = self.find(&instance.class).into_iter().flat_map(Class::keys);
        let keys = keys.filter_map(|k| Some((k.name.clone(), key_value(instance.get(&k.name)?)?)));
        InstanceName {
            class: instance.class.clone(),
            keys: keys.collect(),
        }
    }
}

/// `None` for what no key may be.
fn key_value(value: &Value) -> Option<KeyValue> {
    Some(match value {
        Value::Reference(path) => KeyValue::Reference(path.clone()),
        Value::Text(text) => KeyValue::Text(text.clone()),
        Value::Boolean(b) => KeyValue::Text(if *b { "TRUE" } else { "FALSE" }.to_owned()),
        Value::Unsigned(n) => KeyValue::Text(n.to_string()),
        Value::Signed(n) => KeyValue::Text(n.to_string()),
        Value::DateTime(time) => KeyValue::Text(time.to_string()),
        Value::Real(_) | Value::Instance(_) | Value::Array(_) => return None,
    })
}

/// Untrusted text, short enough for a message.
fn short(text: &str) -> String {
    text.chars().take(100).collect()
}

impl Class {
    /// A property or reference, own or inherited.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&Property> {
        self.properties.iter().find(|p| p.name.eq_ignore_ascii_case(name))
    }

    /// A method, own or inherited.
    #[must_use]
    pub fn method(&self, name: &str) -> Option<&Method> {
        self.methods.iter().find(|m| m.name.eq_ignore_ascii_case(name))
    }

    /// The properties that make up the key; none when its instances are only found embedded in others.
    pub fn keys(&self) -> impl Iterator<Item = &Property> {
        self.properties.iter().filter(|p| p.key)
    }

    /// A qualifier of the class.
    #[must_use]
    pub fn qualifier(&self, name: &str) -> Option<&Qualifier> {
        find(&self.qualifiers, name)
    }
}

impl Property {
    /// A qualifier of the property.
    #[must_use]
    pub fn qualifier(&self, name: &str) -> Option<&Qualifier> {
        find(&self.qualifiers, name)
    }
}

impl Method {
    /// A parameter.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&Parameter> {
        self.parameters.iter().find(|p| p.name.eq_ignore_ascii_case(name))
    }

    /// A qualifier of the method.
    #[must_use]
    pub fn qualifier(&self, name: &str) -> Option<&Qualifier> {
        find(&self.qualifiers, name)
    }
}

impl Parameter {
    /// A qualifier of the parameter.
    #[must_use]
    pub fn qualifier(&self, name: &str) -> Option<&Qualifier> {
        find(&self.qualifiers, name)
    }
}

impl Qualifier {
    /// A boolean qualifier that is true.
    #[must_use]
    pub fn is_true(&self) -> bool {
        self.value == Some(Value::Boolean(true))
    }

    /// The text of a string qualifier.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }
}

fn find<'a>(qualifiers: &'a [Qualifier], name: &str) -> Option<&'a Qualifier> {
    qualifiers.iter().find(|q| q.name.eq_ignore_ascii_case(name))
}
