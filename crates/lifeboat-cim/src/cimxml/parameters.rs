//! The parameters of an operation: each is taken by its name and in its form, and none may be left over.

use super::values::{self, shown};
use super::{QueryText, Relation, View};
use crate::error::{CimError, Status};
use crate::path::InstanceName;
use crate::raw::{Raw, RawInstance};
use lifeboat_xml::Element;

type Result<T> = std::result::Result<T, CimError>;

pub(super) fn invalid(message: impl Into<String>) -> CimError {
    CimError::new(Status::InvalidParameter, message)
}

/// Elements called IPARAMVALUE or PARAMVALUE that have not been taken yet.
pub(super) struct Parameters<'a> {
    left: Vec<(&'a str, &'a Element)>,
}

impl<'a> Parameters<'a> {
    /// Those among the children of a call.
    pub(super) fn of(call: &'a Element, element: &str) -> Result<Self> {
        let mut left: Vec<(&str, &Element)> = Vec::new();
        for e in call.elements().filter(|e| e.name == element) {
            let Some(name) = e.attribute("NAME") else {
                return Err(invalid(format!("a {element} has no NAME")));
            };
            if left.iter().any(|(n, _)| n.eq_ignore_ascii_case(name)) {
                return Err(invalid(format!("parameter {} is given twice", shown(name))));
            }
            // No operation and no method has as many.
            if left.len() == 64 {
                return Err(invalid("more than 64 parameters"));
            }
            left.push((name, e));
        }
        Ok(Self { left })
    }

    /// All of them, in the order they came.
    pub(super) fn all(self) -> Result<Vec<(String, Raw)>> {
        let raw = |(name, e): (&str, &Element)| {
            let raw = values::content(e).map_err(|e| invalid(format!("parameter {}: {e}", shown(name))))?;
            Ok((name.to_owned(), raw))
        };
        self.left.into_iter().map(raw).collect()
    }

    /// Nothing may be left.
    pub(super) fn finish(self) -> Result<()> {
        match self.left.first() {
            Some((name, _)) => Err(invalid(format!("parameter {} is unknown here", shown(name)))),
            None => Ok(()),
        }
    }

    fn element(&mut self, name: &str) -> Option<&'a Element> {
        let at = self.left.iter().position(|(n, _)| n.eq_ignore_ascii_case(name))?;
        Some(self.left.swap_remove(at).1)
    }

    fn raw(&mut self, name: &str) -> Result<Raw> {
        match self.element(name) {
            None => Ok(Raw::Null),
            Some(e) => values::content(e).map_err(|e| invalid(format!("parameter {name}: {e}"))),
        }
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>> {
        match self.raw(name)? {
            Raw::Null => Ok(None),
            Raw::Text(text) => Ok(Some(text)),
            Raw::Path(_) | Raw::Instance(_) | Raw::List(_) => {
                Err(invalid(format!("parameter {name}: one VALUE belongs there")))
            }
        }
    }

    pub(super) fn required_text(&mut self, name: &str) -> Result<String> {
        self.text(name)?.ok_or_else(|| missing(name))
    }

    pub(super) fn flag(&mut self, name: &str, default: bool) -> Result<bool> {
        let text = self.text(name)?;
        match text.as_deref().map(str::trim) {
            None => Ok(default),
            Some(t) if t.eq_ignore_ascii_case("true") => Ok(true),
            Some(t) if t.eq_ignore_ascii_case("false") => Ok(false),
            Some(t) => Err(invalid(format!(
                "parameter {name}: \"{}\" is no boolean",
                shown(t)
            ))),
        }
    }

    pub(super) fn number(&mut self, name: &str) -> Result<Option<u32>> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let number = text.trim().parse();
        number
            .map(Some)
            .map_err(|_| invalid(format!("parameter {name}: \"{}\" is no uint32", shown(&text))))
    }

    /// A list of texts; one VALUE is a list of one.
    pub(super) fn texts(&mut self, name: &str) -> Result<Option<Vec<String>>> {
        let no_list = || invalid(format!("parameter {name}: a VALUE.ARRAY of texts belongs there"));
        match self.raw(name)? {
            Raw::Null => Ok(None),
            Raw::Text(text) => Ok(Some(vec![text])),
            Raw::List(items) => {
                let text = |raw| match raw {
                    Raw::Text(text) => Ok(text),
                    Raw::Null | Raw::Path(_) | Raw::Instance(_) | Raw::List(_) => Err(no_list()),
                };
                items.into_iter().map(text).collect::<Result<_>>().map(Some)
            }
            Raw::Path(_) | Raw::Instance(_) => Err(no_list()),
        }
    }

    /// The name of a class.
    pub(super) fn class(&mut self, name: &str) -> Result<Option<String>> {
        match self.raw(name)? {
            Raw::Null => Ok(None),
            Raw::Text(text) => Ok(Some(text.trim().to_owned()).filter(|t| !t.is_empty())),
            Raw::Path(path) if path.name.keys.is_empty() => Ok(Some(path.name.class)),
            Raw::Path(_) | Raw::Instance(_) | Raw::List(_) => {
                Err(invalid(format!("parameter {name}: a CLASSNAME belongs there")))
            }
        }
    }

    pub(super) fn required_class(&mut self, name: &str) -> Result<String> {
        self.class(name)?.ok_or_else(|| missing(name))
    }

    pub(super) fn instance_name(&mut self, name: &str) -> Result<InstanceName> {
        match self.raw(name)? {
            Raw::Null => Err(missing(name)),
            Raw::Path(path) => Ok(path.name),
            Raw::Text(_) | Raw::Instance(_) | Raw::List(_) => Err(invalid(format!(
                "parameter {name}: an INSTANCENAME belongs there"
            ))),
        }
    }

    pub(super) fn instance(&mut self, name: &str) -> Result<RawInstance> {
        match self.raw(name)? {
            Raw::Null => Err(missing(name)),
            Raw::Instance(instance) => Ok(instance),
            Raw::Text(_) | Raw::Path(_) | Raw::List(_) => {
                Err(invalid(format!("parameter {name}: an INSTANCE belongs there")))
            }
        }
    }

    /// VALUE.NAMEDINSTANCE, which is its name and its values.
    pub(super) fn named_instance(&mut self, name: &str) -> Result<(InstanceName, RawInstance)> {
        let element = self.element(name).ok_or_else(|| missing(name))?;
        let named = element
            .child("VALUE.NAMEDINSTANCE")
            .and_then(|named| named.child("INSTANCENAME").zip(named.child("INSTANCE")));
        let Some((its_name, its_values)) = named else {
            return Err(invalid(format!(
                "parameter {name}: a VALUE.NAMEDINSTANCE belongs there"
            )));
        };
        let wrong = |e| invalid(format!("parameter {name}: {e}"));
        Ok((
            values::instance_name(its_name).map_err(wrong)?,
            values::instance_in(its_values).map_err(wrong)?,
        ))
    }

    /// What of instances is wanted. `LocalOnly`, `DeepInheritance` and `IncludeQualifiers` are taken and mean nothing.
    pub(super) fn instance_view(&mut self) -> Result<View> {
        for ignored in ["LocalOnly", "DeepInheritance", "IncludeQualifiers"] {
            self.flag(ignored, false)?;
        }
        Ok(View {
            class_origin: self.flag("IncludeClassOrigin", false)?,
            properties: self.texts("PropertyList")?,
            ..View::default()
        })
    }

    /// What of classes is wanted.
    pub(super) fn class_view(&mut self) -> Result<View> {
        Ok(View {
            local_only: self.flag("LocalOnly", true)?,
            qualifiers: self.flag("IncludeQualifiers", true)?,
            class_origin: self.flag("IncludeClassOrigin", false)?,
            properties: None,
        })
    }

    /// `ObjectName` or `InstanceName`, and the filters of associators (`true`) or references.
    pub(super) fn relation(&mut self, source: &str, associators: bool) -> Result<Relation> {
        let named = self.left.iter().find(|(n, _)| n.eq_ignore_ascii_case(source));
        let of_class = named.is_some_and(|(_, e)| e.child("CLASSNAME").is_some());
        let mut relation = Relation {
            source: self.instance_name(source)?,
            of_class,
            association: None,
            result: self.class("ResultClass")?,
            role: self.text("Role")?.filter(|r| !r.is_empty()),
            result_role: None,
        };
        if associators {
            relation.association = self.class("AssocClass")?;
            relation.result_role = self.text("ResultRole")?.filter(|r| !r.is_empty());
        }
        Ok(relation)
    }

    /// A language and a text under these names.
    pub(super) fn query(&mut self, language: &str, text: &str) -> Result<Option<QueryText>> {
        match (self.text(language)?, self.text(text)?) {
            (None, None) => Ok(None),
            (Some(language), Some(text)) => Ok(Some(QueryText { language, text })),
            (None, Some(_)) => Err(missing(language)),
            (Some(_), None) => Err(missing(text)),
        }
    }
}

pub(super) fn missing(name: &str) -> CimError {
    invalid(format!("parameter {name} is missing"))
}
