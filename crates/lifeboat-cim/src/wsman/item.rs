//! Instances, references and results of methods as elements; each piece comes as text, whose length a
//! server counts against what the client takes.

use super::ns;
use super::uri::{Family, ResourceUri};
use crate::cimxml;
use crate::error::CimError;
use crate::path::{KeyValue, ObjectPath};
use crate::schema::{Class, Method, Namespace, Property, Qualifier};
use crate::value::{Instance, Value};
use lifeboat_xml::Writer;

/// Writes what belongs to one namespace, in the family that the client asked in.
#[derive(Clone, Copy, Debug)]
pub struct Encoder<'a> {
    /// Namespace of what is written.
    pub namespace: &'a Namespace,
    /// How the client names classes.
    pub family: Family,
}

const NIL: [(&str, &str); 1] = [("xsi:nil", "true")];

impl Encoder<'_> {
    fn uri(&self, class: &str) -> String {
        self.uri_in(self.namespace.name.as_str(), class)
    }

    fn uri_in(&self, namespace: &str, class: &str) -> String {
        let family = match self.family {
            Family::Metadata => Family::Dmtf,
            family @ (Family::Wmi | Family::Dmtf) => family,
        };
        ResourceUri::new(family, namespace, class).to_string()
    }

    /// An instance: every property that its own class declares, null ones too.
    ///
    /// # Errors
    /// A class that the namespace does not have.
    pub fn object(&self, instance: &Instance) -> Result<String, CimError> {
        self.object_as(instance, &instance.class)
    }

    /// An instance cut down to a class that it is derived from.
    ///
    /// # Errors
    /// A class that the namespace does not have.
    pub fn object_as(&self, instance: &Instance, class: &str) -> Result<String, CimError> {
        let class = self.namespace.class(class)?;
        let name = format!("p:{}", class.name);
        let attributes = [
            ("xmlns:p", self.uri(&class.name)),
            ("xsi:type", format!("{name}_Type")),
        ];
        let attributes = attributes.each_ref().map(|(n, v)| (*n, v.as_str()));
        let mut w = Writer::new();
        w.start(&name, &attributes);
        for property in &class.properties {
            match (instance.get(&property.name), property.embedded.as_deref()) {
                (Some(Value::Instance(inner)), Some("")) => self.nested(&mut w, &property.name, inner),
                (value, _) => self.value(&mut w, ("p", &property.name), value, Shape::of_property(property)),
            }
        }
        w.end(&name);
        Ok(w.finish())
    }

    /// An instance that may be of any class, as events carry it: elements, whose type says which. One of a declared class is
    /// text, as WMI has it.
    fn nested(&self, w: &mut Writer, name: &str, instance: &Instance) {
        let name = format!("p:{name}");
        let Ok(class) = self.namespace.class(&instance.class) else {
            return w.empty(&name, &NIL);
        };
        let (uri, kind) = (self.uri(&class.name), format!("q:{}_Type", class.name));
        w.start(&name, &[("xmlns:q", &uri), ("xsi:type", &kind)]);
        for property in &class.properties {
            let value = instance.get(&property.name);
            self.value(w, ("q", &property.name), value, Shape::of_property(property));
        }
        w.end(&name);
    }

    /// Columns of an instance, which are no instance any more.
    #[must_use]
    pub fn fragment(&self, class: &str, columns: &[(String, Option<Value>)]) -> String {
        let declared = self.namespace.class(class).ok();
        let mut w = Writer::new();
        w.start("w:XmlFragment", &[("xmlns:p", &self.uri(class))]);
        for (name, value) in columns {
            // System columns such as __PATH are declared nowhere, and none is an array.
            let property = declared.and_then(|c| c.property(name));
            let shape = property.map_or(Shape::Scalar, Shape::of_property);
            self.value(&mut w, ("p", name), value.as_ref(), shape);
        }
        w.end("w:XmlFragment");
        w.finish()
    }

    /// A reference as an element of its own.
    #[must_use]
    pub fn endpoint(&self, path: &ObjectPath) -> String {
        let mut w = Writer::new();
        w.start("a:EndpointReference", &[]);
        self.reference(&mut w, path);
        w.end("a:EndpointReference");
        w.finish()
    }

    /// The body of an answer to a method: its output parameters, null where there is no value, and what it returned.
    #[must_use]
    pub fn method_output(
        &self,
        class: &Class,
        method: &Method,
        returned: &Value,
        out: &[(String, Value)],
    ) -> String {
        let name = format!("p:{}_OUTPUT", method.name);
        let mut w = Writer::new();
        w.start(&name, &[("xmlns:p", &self.uri(&class.name))]);
        for parameter in method.parameters.iter().filter(|p| p.output) {
            let given = out.iter().find(|(n, _)| n.eq_ignore_ascii_case(&parameter.name));
            let shape = Shape::of(parameter.array, &parameter.qualifiers);
            self.value(&mut w, ("p", &parameter.name), given.map(|(_, v)| v), shape);
        }
        self.value(&mut w, ("p", "ReturnValue"), Some(returned), Shape::Scalar);
        w.end(&name);
        w.finish()
    }

    /// The description of a class, as CIM-XML; the body of the answer to a Get of it. `options` are those of the request.
    #[must_use]
    pub fn class(&self, class: &Class, options: &[(String, String)]) -> String {
        let option = |name: &str| {
            let found = options.iter().find(|(n, _)| n.eq_ignore_ascii_case(name))?;
            Some(matches!(found.1.to_ascii_lowercase().as_str(), "true" | "1" | ""))
        };
        let view = cimxml::View {
            local_only: !option("IncludeInheritedElements").unwrap_or(true),
            qualifiers: option("IncludeQualifiers").unwrap_or(true),
            class_origin: option("IncludeClassOrigin").unwrap_or(false),
            properties: None,
        };
        cimxml::class_item(self.namespace, class, &view)
    }

    fn value(&self, w: &mut Writer, (prefix, name): (&str, &str), value: Option<&Value>, shape: Shape) {
        let name = format!("{prefix}:{name}");
        match (shape, value) {
            // A scalar that is left out would be a property that is missing, which some clients refuse.
            (Shape::Scalar | Shape::Octets, None) => w.empty(&name, &NIL),
            // An array has one element for each item. A nil element would be an item without a value: libvirt's driver
            // counts it and reads through its null pointer.
            (Shape::Array, None) => {}
            (Shape::Octets, Some(Value::Array(items))) if items.is_empty() => w.empty(&name, &NIL),
            (Shape::Octets, Some(Value::Array(items))) => {
                w.leaf(&name, &[("xsi:type", "cim:cimBase64Binary")], &base64(items));
            }
            (Shape::Scalar | Shape::Array, Some(Value::Array(items))) => {
                for item in items {
                    self.scalar(w, &name, item);
                }
            }
            (Shape::Scalar | Shape::Array | Shape::Octets, Some(one)) => self.scalar(w, &name, one),
        }
    }

    fn scalar(&self, w: &mut Writer, name: &str, value: &Value) {
        match value {
            Value::Boolean(b) => w.leaf(name, &[], if *b { "true" } else { "false" }),
            Value::Unsigned(n) => w.leaf(name, &[], &n.to_string()),
            Value::Signed(n) => w.leaf(name, &[], &n.to_string()),
            Value::Real(n) => w.leaf(name, &[], &real(*n)),
            Value::Text(text) => w.leaf(name, &[], text),
            Value::DateTime(moment) => {
                let wrapper = match moment {
                    crate::DateTime::Instant(_) => "cim:Datetime",
                    crate::DateTime::Interval(_) => "cim:Interval",
                };
                w.start(name, &[]);
                w.leaf(wrapper, &[], &moment.to_iso());
                w.end(name);
            }
            Value::Reference(path) => {
                w.start(name, &[]);
                self.reference(w, path);
                w.end(name);
            }
            Value::Instance(instance) => {
                w.leaf(name, &[], &cimxml::encode_instance(self.namespace, instance));
            }
            // Arrays hold no arrays.
            Value::Array(_) => w.empty(name, &NIL),
        }
    }

    fn reference(&self, w: &mut Writer, path: &ObjectPath) {
        let namespace = path.namespace.as_deref().unwrap_or(&self.namespace.name);
        w.leaf("a:Address", &[], ns::ANONYMOUS);
        w.start("a:ReferenceParameters", &[]);
        w.leaf("w:ResourceURI", &[], &self.uri_in(namespace, &path.name.class));
        w.start("w:SelectorSet", &[]);
        if self.family != Family::Wmi {
            w.leaf("w:Selector", &[("Name", "__cimnamespace")], namespace);
        }
        for (name, value) in &path.name.keys {
            let attributes = [("Name", name.as_str())];
            match value {
                KeyValue::Text(text) => w.leaf("w:Selector", &attributes, text),
                KeyValue::Reference(path) => {
                    w.start("w:Selector", &attributes);
                    w.raw(&self.endpoint(path));
                    w.end("w:Selector");
                }
            }
        }
        w.end("w:SelectorSet");
        w.end("a:ReferenceParameters");
    }
}

/// How the elements of a property or parameter are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// One element, nil without a value.
    Scalar,
    /// One element for each item, none without a value.
    Array,
    /// One element with the bytes as base64, nil without a value.
    Octets,
}

impl Shape {
    fn of(array: bool, qualifiers: &[Qualifier]) -> Self {
        let octets = |q: &&Qualifier| q.name.eq_ignore_ascii_case("OctetString");
        let value = qualifiers.iter().find(octets).map(|q| &q.value);
        match (array, value == Some(&Some(Value::Boolean(true)))) {
            (_, true) => Self::Octets,
            (true, false) => Self::Array,
            (false, false) => Self::Scalar,
        }
    }

    fn of_property(property: &Property) -> Self {
        Self::of(property.array, &property.qualifiers)
    }
}

fn base64(items: &[Value]) -> String {
    use ::base64::Engine;
    let byte = |v: &Value| match v {
        Value::Unsigned(n) => u8::try_from(*n).ok(),
        _ => None,
    };
    let bytes: Vec<u8> = items.iter().filter_map(byte).collect();
    ::base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// As xs:double writes it.
fn real(n: f64) -> String {
    if n.is_nan() {
        "NaN".to_owned()
    } else if n.is_infinite() {
        if n > 0.0 {
            "INF".to_owned()
        } else {
            "-INF".to_owned()
        }
    } else {
        n.to_string()
    }
}
