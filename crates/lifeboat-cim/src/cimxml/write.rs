//! Values, paths and instances as elements of CIM-XML. Types come from the schema; what the schema does not know is written
//! by what it is.

use super::View;
use crate::path::{InstanceName, KeyValue, ObjectPath};
use crate::schema::{Declared, Namespace, Property};
use crate::value::{CimType, Instance, Value};
use lifeboat_xml::Writer;

/// The text of an embedded instance: properties that have a value, in the order of the schema.
#[must_use]
pub fn encode_instance(namespace: &Namespace, instance: &Instance) -> String {
    let mut w = Writer::new();
    properties(&mut w, namespace, instance, &View::default(), false);
    w.finish()
}

/// INSTANCE with all properties that the view wants, also those that are null.
pub(super) fn instance(w: &mut Writer, namespace: &Namespace, instance: &Instance, view: &View) {
    properties(w, namespace, instance, view, true);
}

fn properties(w: &mut Writer, namespace: &Namespace, instance: &Instance, view: &View, nulls: bool) {
    let declared = namespace
        .class(&instance.class)
        .map_or(&[][..], |c| &c.properties);
    w.start("INSTANCE", &[("CLASSNAME", &instance.class)]);
    for property in declared.iter().filter(|p| view.wants(&p.name)) {
        let value = instance.get(&property.name);
        if nulls || value.is_some() {
            let origin = Some(property.origin.as_str()).filter(|o| view.class_origin && !o.is_empty());
            let attributes = origin.map(|o| ("CLASSORIGIN", o));
            element(w, namespace, property, attributes.as_slice(), value);
        }
    }
    // Columns of a query that are no properties.
    let is_declared = |name: &str| declared.iter().any(|p| p.name.eq_ignore_ascii_case(name));
    for (name, value) in instance
        .properties
        .iter()
        .filter(|(n, _)| !is_declared(n) && view.wants(n))
    {
        element(w, namespace, &undeclared(name, value), &[], Some(value));
    }
    w.end("INSTANCE");
}

fn undeclared(name: &str, value: &Value) -> Property {
    let one = match value {
        Value::Array(items) => items.first().unwrap_or(value),
        _ => value,
    };
    let kind = match one {
        Value::Boolean(_) => CimType::Boolean,
        Value::Unsigned(_) => CimType::Uint64,
        Value::Signed(_) => CimType::Sint64,
        Value::Real(_) => CimType::Real64,
        Value::DateTime(_) => CimType::DateTime,
        Value::Reference(_) => CimType::Reference,
        Value::Text(_) | Value::Instance(_) | Value::Array(_) => CimType::String,
    };
    Property {
        name: name.to_owned(),
        kind,
        array: matches!(value, Value::Array(_)),
        key: false,
        reference_class: None,
        embedded: matches!(one, Value::Instance(_)).then(String::new),
        default: None,
        qualifiers: Vec::new(),
        origin: String::new(),
    }
}

/// PROPERTY, PROPERTY.ARRAY or PROPERTY.REFERENCE.
fn element(
    w: &mut Writer,
    namespace: &Namespace,
    property: &Property,
    more: &[(&str, &str)],
    value: Option<&Value>,
) {
    property_start(w, property, more);
    if let Some(value) = value {
        content(w, namespace, property.array, value);
    }
    w.end(property_element(property));
}

pub(super) const fn property_element(property: &Property) -> &'static str {
    match (property.kind, property.array) {
        (CimType::Reference, _) => "PROPERTY.REFERENCE",
        (_, true) => "PROPERTY.ARRAY",
        (_, false) => "PROPERTY",
    }
}

pub(super) fn property_start(w: &mut Writer, property: &Property, more: &[(&str, &str)]) {
    let mut attributes = vec![("NAME", property.name.as_str())];
    match property.kind {
        CimType::Reference => {
            attributes.extend(property.reference_class.as_deref().map(|c| ("REFERENCECLASS", c)))
        }
        kind => attributes.push(("TYPE", kind.name())),
    }
    attributes.extend(embedded_attribute(property.embedded.as_deref()));
    attributes.extend_from_slice(more);
    w.start(property_element(property), &attributes);
}

/// With this attribute a client makes an instance of the text.
fn embedded_attribute(class: Option<&str>) -> Option<(&'static str, &'static str)> {
    let what = |class: &str| if class.is_empty() { "object" } else { "instance" };
    class.map(|c| ("EmbeddedObject", what(c)))
}

/// PARAMVALUE.
pub(super) fn parameter(w: &mut Writer, namespace: &Namespace, declared: &impl Declared, value: &Value) {
    let mut attributes = vec![("NAME", declared.name()), ("PARAMTYPE", declared.kind().name())];
    attributes.extend(embedded_attribute(declared.embedded()));
    w.start("PARAMVALUE", &attributes);
    content(w, namespace, declared.array(), value);
    w.end("PARAMVALUE");
}

/// The element that holds a value.
pub(super) fn content(w: &mut Writer, namespace: &Namespace, array: bool, value: &Value) {
    match value {
        Value::Array(items) => list(w, namespace, items),
        one if array => list(w, namespace, std::slice::from_ref(one)),
        one => single(w, namespace, one),
    }
}

fn list(w: &mut Writer, namespace: &Namespace, items: &[Value]) {
    let name = match items.first() {
        Some(Value::Reference(_)) => "VALUE.REFARRAY",
        _ => "VALUE.ARRAY",
    };
    w.start(name, &[]);
    for item in items {
        single(w, namespace, item);
    }
    w.end(name);
}

fn single(w: &mut Writer, namespace: &Namespace, value: &Value) {
    let text = match value {
        Value::Boolean(true) => "TRUE".to_owned(),
        Value::Boolean(false) => "FALSE".to_owned(),
        Value::Unsigned(number) => number.to_string(),
        Value::Signed(number) => number.to_string(),
        Value::Real(number) => real(*number),
        Value::Text(text) => return w.leaf("VALUE", &[], text),
        Value::DateTime(time) => time.to_string(),
        Value::Instance(instance) => encode_instance(namespace, instance),
        Value::Reference(path) => {
            w.start("VALUE.REFERENCE", &[]);
            reference(w, namespace, path);
            return w.end("VALUE.REFERENCE");
        }
        // Arrays of arrays do not exist.
        Value::Array(_) => return w.empty("VALUE.NULL", &[]),
    };
    w.leaf("VALUE", &[], &text);
}

/// With a point, also where there is an exponent: DSP0201 wants one.
fn real(number: f64) -> String {
    let text = format!("{number:?}");
    match text.split_once('e') {
        Some((mantissa, exponent)) if !mantissa.contains('.') => format!("{mantissa}.0e{exponent}"),
        _ => text,
    }
}

/// INSTANCEPATH if the host is known, else LOCALINSTANCEPATH.
pub(super) fn reference(w: &mut Writer, namespace: &Namespace, path: &ObjectPath) {
    let its_namespace = path.namespace.as_deref().unwrap_or(&namespace.name);
    match &path.host {
        Some(host) => instance_path(w, namespace, host, its_namespace, &path.name),
        None => {
            w.start("LOCALINSTANCEPATH", &[]);
            local_namespace(w, its_namespace);
            instance_name(w, namespace, &path.name);
            w.end("LOCALINSTANCEPATH");
        }
    }
}

pub(super) fn instance_path(
    w: &mut Writer,
    namespace: &Namespace,
    host: &str,
    its_namespace: &str,
    name: &InstanceName,
) {
    w.start("INSTANCEPATH", &[]);
    w.start("NAMESPACEPATH", &[]);
    w.leaf("HOST", &[], host);
    local_namespace(w, its_namespace);
    w.end("NAMESPACEPATH");
    instance_name(w, namespace, name);
    w.end("INSTANCEPATH");
}

fn local_namespace(w: &mut Writer, namespace: &str) {
    w.start("LOCALNAMESPACEPATH", &[]);
    for part in namespace.split('/') {
        w.empty("NAMESPACE", &[("NAME", part)]);
    }
    w.end("LOCALNAMESPACEPATH");
}

/// INSTANCENAME; the types of keys are those of the class.
pub(super) fn instance_name(w: &mut Writer, namespace: &Namespace, name: &InstanceName) {
    let class = namespace.class(&name.class).ok();
    w.start("INSTANCENAME", &[("CLASSNAME", &name.class)]);
    for (key, value) in &name.keys {
        w.start("KEYBINDING", &[("NAME", key)]);
        match value {
            KeyValue::Reference(path) => {
                w.start("VALUE.REFERENCE", &[]);
                reference(w, namespace, path);
                w.end("VALUE.REFERENCE");
            }
            KeyValue::Text(text) => {
                let property = class.and_then(|c| c.property(key));
                key_value(w, property.map_or(CimType::String, |p| p.kind), text);
            }
        }
        w.end("KEYBINDING");
    }
    w.end("INSTANCENAME");
}

fn key_value(w: &mut Writer, kind: CimType, text: &str) {
    match kind {
        CimType::String | CimType::DateTime | CimType::Char16 | CimType::Reference => {
            w.leaf("KEYVALUE", &[("VALUETYPE", "string")], text);
        }
        CimType::Boolean => {
            let text = text.to_ascii_uppercase();
            w.leaf(
                "KEYVALUE",
                &[("VALUETYPE", "boolean"), ("TYPE", kind.name())],
                &text,
            );
        }
        _ => w.leaf(
            "KEYVALUE",
            &[("VALUETYPE", "numeric"), ("TYPE", kind.name())],
            text,
        ),
    }
}
