//! Values, paths and instances as elements of CIM-XML, read into their raw form. Types are not looked at here (`TYPE`
//! attributes of real callers are often wrong): the schema decides, in [`crate::typing`].

use crate::path::{InstanceName, KeyValue, MAX_KEYS, ObjectPath};
use crate::raw::{Raw, RawInstance};
use lifeboat_xml::Element;

/// What is wrong with an element, in words; the sender's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ShapeError(pub String);

type Result<T> = std::result::Result<T, ShapeError>;

fn wrong<T>(what: impl Into<String>) -> Result<T> {
    Err(ShapeError(what.into()))
}

/// A name of the sender's, short enough for a message.
pub(super) fn shown(name: &str) -> String {
    let short: String = name.chars().take(80).collect();
    short.escape_debug().to_string()
}

pub(super) fn required<'a>(e: &'a Element, attribute: &str) -> Result<&'a str> {
    match e.attribute(attribute) {
        Some(value) => Ok(value),
        None => wrong(format!("{} without {attribute}", shown(&e.name))),
    }
}

/// The only child element, qualifiers aside.
fn only(e: &Element) -> Result<Option<&Element>> {
    let mut children = e.elements().filter(|c| c.name != "QUALIFIER");
    let first = children.next();
    match children.next() {
        Some(second) => wrong(format!(
            "{} is one too many in {}",
            shown(&second.name),
            shown(&e.name)
        )),
        None => Ok(first),
    }
}

fn child<'a>(e: &'a Element, name: &str) -> Result<&'a Element> {
    match e.child(name) {
        Some(child) => Ok(child),
        None => wrong(format!("{} without {name}", shown(&e.name))),
    }
}

/// What stands in a PROPERTY, a PARAMVALUE or an IPARAMVALUE; nothing in it is null.
pub(super) fn content(e: &Element) -> Result<Raw> {
    only(e)?.map_or(Ok(Raw::Null), value)
}

/// The value that an element is.
fn value(e: &Element) -> Result<Raw> {
    match e.name.as_str() {
        // An embedded instance belongs into VALUE as text; some write it as elements.
        "VALUE" => match only(e)? {
            None => Ok(Raw::Text(e.text())),
            Some(inner) => instance_in(inner).map(Raw::Instance),
        },
        "VALUE.NULL" => Ok(Raw::Null),
        "VALUE.ARRAY" | "VALUE.REFARRAY" | "VALUE.OBJECTARRAY" => {
            e.elements().map(value).collect::<Result<_>>().map(Raw::List)
        }
        "VALUE.REFERENCE" => match only(e)? {
            Some(inner) => path(inner).map(Raw::Path),
            // WMI writes the text of a path here.
            None => Ok(Raw::Text(e.text())),
        },
        "INSTANCENAME" | "INSTANCEPATH" | "LOCALINSTANCEPATH" | "CLASSNAME" | "CLASSPATH"
        | "LOCALCLASSPATH" => path(e).map(Raw::Path),
        "VALUE.OBJECT" => instance_in(child(e, "INSTANCE")?).map(Raw::Instance),
        "INSTANCE" | "VALUE.NAMEDINSTANCE" => instance_in(e).map(Raw::Instance),
        other => wrong(format!("{} is no value", shown(other))),
    }
}

/// The path that an element is.
pub(super) fn path(e: &Element) -> Result<ObjectPath> {
    let (host, namespace, name) = match e.name.as_str() {
        "INSTANCENAME" | "CLASSNAME" => (None, None, e),
        "LOCALINSTANCEPATH" => (
            None,
            Some(namespace(child(e, "LOCALNAMESPACEPATH")?)?),
            child(e, "INSTANCENAME")?,
        ),
        "LOCALCLASSPATH" => (
            None,
            Some(namespace(child(e, "LOCALNAMESPACEPATH")?)?),
            child(e, "CLASSNAME")?,
        ),
        "INSTANCEPATH" | "CLASSPATH" => {
            let whole = child(e, "NAMESPACEPATH")?;
            let host = whole.child("HOST").map(|h| h.text().trim().to_owned());
            let local = namespace(child(whole, "LOCALNAMESPACEPATH")?)?;
            let name = if e.name == "CLASSPATH" {
                "CLASSNAME"
            } else {
                "INSTANCENAME"
            };
            (host, Some(local), child(e, name)?)
        }
        other => return wrong(format!("{} is no path", shown(other))),
    };
    let name = instance_name(name)?;
    Ok(ObjectPath {
        host,
        namespace,
        name,
    })
}

/// LOCALNAMESPACEPATH: one element for each component, or several components in one.
pub(super) fn namespace(e: &Element) -> Result<String> {
    let mut parts = Vec::new();
    for part in e.elements() {
        if part.name == "NAMESPACE" {
            parts.push(required(part, "NAME")?.trim_matches('/'));
        } else {
            return wrong(format!("{} in {}", shown(&part.name), shown(&e.name)));
        }
    }
    let name = parts.join("/");
    if name.is_empty() || name.len() > 512 {
        wrong("a namespace without a name, or with one of more than 512 bytes")
    } else {
        Ok(name)
    }
}

/// INSTANCENAME, or CLASSNAME for a name without keys.
pub(super) fn instance_name(e: &Element) -> Result<InstanceName> {
    if e.name == "CLASSNAME" {
        return Ok(InstanceName::new(required(e, "NAME")?, &[]));
    }
    let mut keys: Vec<(String, KeyValue)> = Vec::new();
    for binding in e.elements() {
        if binding.name != "KEYBINDING" {
            return wrong(format!(
                "{} where a KEYBINDING with the key's name belongs",
                shown(&binding.name)
            ));
        }
        let name = required(binding, "NAME")?;
        if keys.iter().any(|(n, _)| n.eq_ignore_ascii_case(name)) {
            return wrong(format!("the key {} occurs twice", shown(name)));
        }
        if keys.len() == MAX_KEYS {
            return wrong(format!("more than {MAX_KEYS} keys"));
        }
        keys.push((name.to_owned(), key_value(binding)?));
    }
    Ok(InstanceName {
        class: required(e, "CLASSNAME")?.to_owned(),
        keys,
    })
}

fn key_value(binding: &Element) -> Result<KeyValue> {
    match only(binding)? {
        Some(e) if e.name == "KEYVALUE" => {
            let plain = e.attribute("VALUETYPE").is_some_and(|t| t != "string");
            let text = e.text();
            Ok(KeyValue::Text(if plain { text.trim().to_owned() } else { text }))
        }
        Some(e) if e.name == "VALUE.REFERENCE" => match value(e)? {
            Raw::Path(path) => Ok(KeyValue::Reference(Box::new(path))),
            Raw::Text(text) => Ok(KeyValue::Text(text)),
            Raw::Null | Raw::Instance(_) | Raw::List(_) => wrong("a reference without a path"),
        },
        _ => wrong("a KEYBINDING without a KEYVALUE or VALUE.REFERENCE"),
    }
}

/// INSTANCE, or what is wrapped around one.
pub(super) fn instance_in(e: &Element) -> Result<RawInstance> {
    let mut e = e;
    // The depth of a document is bounded by its reader.
    while matches!(
        e.name.as_str(),
        "CIM"
            | "DECLARATION"
            | "DECLGROUP"
            | "DECLGROUP.WITHNAME"
            | "DECLGROUP.WITHPATH"
            | "VALUE.OBJECT"
            | "VALUE.NAMEDOBJECT"
            | "VALUE.NAMEDINSTANCE"
            | "VALUE.OBJECTWITHPATH"
            | "VALUE.OBJECTWITHLOCALPATH"
            | "VALUE.INSTANCEWITHPATH"
    ) {
        let is_name = |c: &&Element| {
            !matches!(
                c.name.as_str(),
                "INSTANCENAME" | "INSTANCEPATH" | "LOCALINSTANCEPATH" | "QUALIFIER.DECLARATION"
            )
        };
        let mut inner = e.elements().filter(is_name);
        e = match (inner.next(), inner.next()) {
            (Some(inner), None) => inner,
            _ => return wrong(format!("{} must hold one instance", e.name)),
        };
    }
    match e.name.as_str() {
        "INSTANCE" => instance(e),
        other => wrong(format!("{} where an INSTANCE belongs", shown(other))),
    }
}

fn instance(e: &Element) -> Result<RawInstance> {
    let mut properties: Vec<(String, Raw)> = Vec::new();
    for child in e.elements() {
        match child.name.as_str() {
            "QUALIFIER" => continue,
            "PROPERTY"
            | "PROPERTY.ARRAY"
            | "PROPERTY.REFERENCE"
            | "PROPERTY.OBJECT"
            | "PROPERTY.OBJECTARRAY" => {}
            other => return wrong(format!("{} in an INSTANCE", shown(other))),
        }
        let name = required(child, "NAME")?;
        let raw = content(child).map_err(|e| ShapeError(format!("property {}: {e}", shown(name))))?;
        properties.push((name.to_owned(), raw));
    }
    Ok(RawInstance {
        class: required(e, "CLASSNAME")?.to_owned(),
        properties,
    })
}

/// Reads the text of an embedded instance: INSTANCE alone or wrapped into VALUE elements or a whole declaration, with or
/// without an XML declaration. The text has been unescaped once, as any text of a document.
///
/// # Errors
/// Text that is no XML, or no single instance.
pub fn decode_instance(text: &str) -> Result<RawInstance> {
    let root = lifeboat_xml::parse(text.trim()).map_err(|e| ShapeError(e.to_string()))?;
    instance_in(&root)
}
