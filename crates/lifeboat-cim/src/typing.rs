//! Raw values, as they came over either wire, into typed ones by what the schema declares. Lenient where no meaning is lost
//! (case of booleans, one value for an array of one, a reference as the text of a path), strict everywhere else; every
//! refusal names the parameter or property and shows what was given.

use crate::cimxml::decode_instance;
use crate::datetime::DateTime;
use crate::error::{CimError, Status};
use crate::path::{InstanceName, KeyValue, ObjectPath};
use crate::raw::{Raw, RawInstance};
use crate::schema::{Declared, Namespace, Property};
use crate::value::{CimType, Instance, Value};

/// Deepest nesting of embedded instances: an instance in a parameter is the first.
pub const MAX_EMBEDDED: usize = 4;
/// Deepest nesting of references in keys of references.
const MAX_REFERENCES: usize = 4;

/// The value that `raw` is by this declaration; `None` for null. Blank text for an embedded instance or a reference is null
/// too: callers that know strings only write it so.
///
/// # Errors
/// A value of another type or out of its range (type mismatch); an embedded instance that is none, is of a class that does
/// not belong there, has unknown properties or is nested too deeply (invalid parameter).
pub fn typed<D: Declared>(namespace: &Namespace, declared: &D, raw: &Raw) -> Result<Option<Value>, CimError> {
    let typing = Typing { namespace, depth: 0 };
    typing.typed(declared, raw)
}

/// The instance that `raw` is, whose class must be `expected` or derived from it (empty: any). Its class and properties get
/// the schema's spelling; properties that begin with two underscores, WMI's own, are left out.
///
/// # Errors
/// As [`typed`].
pub fn typed_instance(
    namespace: &Namespace,
    expected: &str,
    raw: &RawInstance,
) -> Result<Instance, CimError> {
    let typing = Typing { namespace, depth: 0 };
    typing.instance(expected, raw)
}

/// The name with references where the schema says that keys are references: in the text of a path they are strings. Keys
/// that are unknown, and classes that are unknown, stay as they are.
///
/// # Errors
/// A reference that is no path, or references nested too deeply.
pub fn typed_name(namespace: &Namespace, name: InstanceName) -> Result<InstanceName, CimError> {
    resolve(namespace, name, 0)
}

struct Typing<'a> {
    namespace: &'a Namespace,
    /// Embedded instances around this one.
    depth: usize,
}

fn mismatch(message: impl Into<String>) -> CimError {
    CimError::new(Status::TypeMismatch, message)
}

fn invalid(message: impl Into<String>) -> CimError {
    CimError::new(Status::InvalidParameter, message)
}

/// What was given, in quotes, at most 80 characters of it.
fn shown(text: &str) -> String {
    let mut chars = text.chars();
    let short: String = chars.by_ref().take(80).collect();
    let more = if chars.next().is_some() { "..." } else { "" };
    format!("\"{}{more}\"", short.escape_debug())
}

fn described(raw: &Raw) -> String {
    match raw {
        Raw::Null => "null".to_owned(),
        Raw::Text(text) => shown(text),
        Raw::Path(path) => format!("a reference to {}", shown(&path.name.class)),
        Raw::Instance(instance) => format!("an instance of {}", shown(&instance.class)),
        Raw::List(items) => format!("a list of {} items", items.len()),
    }
}

impl Typing<'_> {
    fn typed<D: Declared>(&self, declared: &D, raw: &Raw) -> Result<Option<Value>, CimError> {
        let value = match (declared.array(), raw) {
            (_, Raw::Null) => Ok(None),
            (true, Raw::List(items)) => {
                let items: Result<Vec<Value>, CimError> =
                    items.iter().map(|i| self.item(declared, i)).collect();
                items.map(|items| Some(Value::Array(items)))
            }
            (true, one) => self.item(declared, one).map(|v| Some(Value::Array(vec![v]))),
            (false, one) => self.one(declared, one),
        };
        value.map_err(|e| {
            CimError::new(
                e.status,
                format!("{} {}: {}", D::WHAT, declared.name(), e.message),
            )
        })
    }

    fn item<D: Declared>(&self, declared: &D, raw: &Raw) -> Result<Value, CimError> {
        let item = self.one(declared, raw)?;
        item.ok_or_else(|| mismatch("an item of an array cannot be null"))
    }

    fn one<D: Declared>(&self, declared: &D, raw: &Raw) -> Result<Option<Value>, CimError> {
        let kind = declared.kind();
        match (kind, declared.embedded(), raw) {
            (_, _, Raw::Null) => Ok(None),
            (_, Some(_), Raw::Text(text)) if text.trim().is_empty() => Ok(None),
            (_, Some(class), Raw::Text(text)) => {
                self.room()?;
                let raw = decode_instance(text)
                    .map_err(|e| invalid(format!("{} is no embedded instance: {e}", shown(text))))?;
                self.embedded(class, &raw).map(Some)
            }
            (_, Some(class), Raw::Instance(raw)) => self.embedded(class, raw).map(Some),
            (CimType::Reference, _, Raw::Text(text)) if text.trim().is_empty() => Ok(None),
            (CimType::Reference, _, _) => {
                let path = self.reference(declared.reference_class(), raw)?;
                Ok(Some(Value::Reference(Box::new(path))))
            }
            // Strings that hold paths are filled with references by callers that know no difference.
            (CimType::String, None, Raw::Path(path)) => Ok(Some(Value::Text(path.to_string()))),
            (_, _, Raw::Text(text)) => scalar(kind, text).map(Some),
            (_, embedded, Raw::Path(_) | Raw::Instance(_) | Raw::List(_)) => {
                let wanted = match embedded {
                    Some("") => "an embedded instance".to_owned(),
                    Some(class) => format!("an embedded instance of {class}"),
                    None => format!("one {}", kind.name()),
                };
                Err(mismatch(format!("{} where {wanted} belongs", described(raw))))
            }
        }
    }

    fn room(&self) -> Result<(), CimError> {
        if self.depth < MAX_EMBEDDED {
            Ok(())
        } else {
            Err(invalid(format!("instances embedded deeper than {MAX_EMBEDDED}")))
        }
    }

    fn embedded(&self, expected: &str, raw: &RawInstance) -> Result<Value, CimError> {
        self.room()?;
        let inner = Typing {
            namespace: self.namespace,
            depth: self.depth + 1,
        };
        inner.instance(expected, raw).map(Value::from)
    }

    fn instance(&self, expected: &str, raw: &RawInstance) -> Result<Instance, CimError> {
        let written = if raw.class.is_empty() {
            expected
        } else {
            &raw.class
        };
        let Ok(class) = self.namespace.class(written) else {
            return Err(invalid(format!(
                "the class {} of the instance is unknown",
                shown(written)
            )));
        };
        if !expected.is_empty() && !self.namespace.is_a(&class.name, expected) {
            return Err(invalid(format!(
                "an instance of {} where {expected} belongs",
                class.name
            )));
        }
        let mut instance = Instance::new(&class.name);
        let mut seen = vec![false; class.properties.len()];
        for (name, raw) in raw.properties.iter().filter(|(n, _)| !n.starts_with("__")) {
            let at = class
                .properties
                .iter()
                .position(|p| p.name.eq_ignore_ascii_case(name));
            let Some((property, seen)) = at.and_then(|at| class.properties.get(at).zip(seen.get_mut(at)))
            else {
                return Err(invalid(format!("{} has no property {}", class.name, shown(name))));
            };
            if std::mem::replace(seen, true) {
                return Err(invalid(format!(
                    "property {} of {} occurs twice",
                    property.name, class.name
                )));
            }
            if let Some(value) = self.typed(property, raw)? {
                instance.properties.push((property.name.clone(), value));
            }
        }
        Ok(instance)
    }

    fn reference(&self, to: Option<&str>, raw: &Raw) -> Result<ObjectPath, CimError> {
        let mut path = match raw {
            Raw::Path(path) => path.clone(),
            Raw::Text(text) => ObjectPath::parse(text)
                .map_err(|e| mismatch(format!("{} is no object path: {e}", shown(text))))?,
            Raw::Instance(instance) => self.keys_of(to, instance)?,
            Raw::Null | Raw::List(_) => {
                return Err(mismatch(format!(
                    "{} where one reference belongs",
                    described(raw)
                )));
            }
        };
        let elsewhere = path
            .namespace
            .as_ref()
            .is_some_and(|n| !n.eq_ignore_ascii_case(&self.namespace.name));
        if elsewhere {
            return Ok(path);
        }
        path.name = typed_name(self.namespace, path.name)?;
        let fits = |to: &str| self.namespace.class(to).is_err() || self.namespace.is_a(&path.name.class, to);
        match to.filter(|to| !to.is_empty() && !fits(to)) {
            Some(to) => Err(mismatch(format!(
                "{} where a reference to {to} belongs",
                shown(&path.to_string())
            ))),
            None => Ok(path),
        }
    }

    /// The path of an instance that was sent whole where a reference belongs: some callers have no other way.
    fn keys_of(&self, to: Option<&str>, raw: &RawInstance) -> Result<ObjectPath, CimError> {
        let written = if raw.class.is_empty() {
            to.unwrap_or_default()
        } else {
            &raw.class
        };
        let Ok(class) = self.namespace.class(written) else {
            return Err(mismatch(format!(
                "a reference by an instance of the unknown class {}",
                shown(written)
            )));
        };
        let mut name = InstanceName::new(&class.name, &[]);
        for key in class.keys() {
            let given = raw
                .properties
                .iter()
                .find(|(n, _)| n.eq_ignore_ascii_case(&key.name));
            let value = match given {
                Some((_, Raw::Text(text))) => KeyValue::Text(text.clone()),
                Some((_, Raw::Path(path))) => KeyValue::Reference(Box::new(path.clone())),
                Some((_, Raw::Null | Raw::Instance(_) | Raw::List(_))) | None => continue,
            };
            name.keys.push((key.name.clone(), value));
        }
        if name.keys.is_empty() {
            Err(mismatch(format!(
                "a reference by an instance of {} without its keys",
                class.name
            )))
        } else {
            Ok(ObjectPath {
                host: None,
                namespace: None,
                name,
            })
        }
    }
}

fn resolve(namespace: &Namespace, mut name: InstanceName, depth: usize) -> Result<InstanceName, CimError> {
    let Ok(class) = namespace.class(&name.class) else {
        return Ok(name);
    };
    for (key, value) in &mut name.keys {
        let is_reference = |p: &&Property| p.kind == CimType::Reference && p.name.eq_ignore_ascii_case(key);
        if !class.properties.iter().any(|p| is_reference(&p)) {
            continue;
        }
        if depth == MAX_REFERENCES {
            return Err(mismatch(format!(
                "key {}: references nested deeper than {MAX_REFERENCES}",
                shown(key)
            )));
        }
        let mut path = match value {
            KeyValue::Reference(path) => (**path).clone(),
            KeyValue::Text(text) => ObjectPath::parse(text).map_err(|e| {
                mismatch(format!(
                    "key {}: {} is no object path: {e}",
                    shown(key),
                    shown(text)
                ))
            })?,
        };
        path.name = resolve(namespace, path.name, depth + 1)?;
        *value = KeyValue::Reference(Box::new(path));
    }
    Ok(name)
}

fn scalar(kind: CimType, text: &str) -> Result<Value, CimError> {
    let not = |what: String| Err(mismatch(format!("{} is no {what}", shown(text))));
    let trimmed = text.trim();
    match kind {
        CimType::Boolean => match trimmed {
            "1" => Ok(Value::Boolean(true)),
            "0" => Ok(Value::Boolean(false)),
            _ if trimmed.eq_ignore_ascii_case("true") => Ok(Value::Boolean(true)),
            _ if trimmed.eq_ignore_ascii_case("false") => Ok(Value::Boolean(false)),
            _ => not("boolean".to_owned()),
        },
        CimType::Uint8 => unsigned(text, kind, u8::MAX.into()),
        CimType::Uint16 => unsigned(text, kind, u16::MAX.into()),
        CimType::Uint32 => unsigned(text, kind, u32::MAX.into()),
        CimType::Uint64 => unsigned(text, kind, u64::MAX),
        CimType::Sint8 => signed(text, kind, i8::MIN.into(), i8::MAX.into()),
        CimType::Sint16 => signed(text, kind, i16::MIN.into(), i16::MAX.into()),
        CimType::Sint32 => signed(text, kind, i32::MIN.into(), i32::MAX.into()),
        CimType::Sint64 => signed(text, kind, i64::MIN, i64::MAX),
        CimType::Real32 | CimType::Real64 => match trimmed.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::Real(number)),
            _ => not(format!("{} (a finite number)", kind.name())),
        },
        CimType::Char16 => match text.encode_utf16().count() {
            1 => Ok(Value::Text(text.to_owned())),
            _ => not("char16 (one character)".to_owned()),
        },
        CimType::String => Ok(Value::Text(text.to_owned())),
        CimType::DateTime => match DateTime::parse(trimmed) {
            Ok(value) => Ok(Value::DateTime(value)),
            Err(error) => not(format!("datetime: {error}")),
        },
        CimType::Reference => not("reference".to_owned()),
    }
}

/// Decimal, or hexadecimal after `0x`; a sign in front.
fn integer(text: &str) -> Option<i128> {
    let text = text.trim();
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let magnitude = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => u64::from_str_radix(hex, 16).ok()?,
        None if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
        _ => return None,
    };
    Some(if negative {
        -i128::from(magnitude)
    } else {
        i128::from(magnitude)
    })
}

fn unsigned(text: &str, kind: CimType, max: u64) -> Result<Value, CimError> {
    let value = integer(text)
        .and_then(|n| u64::try_from(n).ok())
        .filter(|n| *n <= max);
    value
        .map(Value::Unsigned)
        .ok_or_else(|| mismatch(format!("{} is no {} (0 to {max})", shown(text), kind.name())))
}

fn signed(text: &str, kind: CimType, min: i64, max: i64) -> Result<Value, CimError> {
    let value = integer(text)
        .and_then(|n| i64::try_from(n).ok())
        .filter(|n| (min..=max).contains(n));
    value
        .map(Value::Signed)
        .ok_or_else(|| mismatch(format!("{} is no {} ({min} to {max})", shown(text), kind.name())))
}

#[cfg(test)]
#[path = "typing_tests.rs"]
mod tests;
