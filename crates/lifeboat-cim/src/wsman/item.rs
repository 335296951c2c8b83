//! Instances, references and results of methods as elements, and how many of them fit into an answer.

use super::encode::OVERHEAD;
use super::headers::Headers;
use super::uri::{Family, ResourceUri};
use super::{Mode, ns};
use crate::error::CimError;
use crate::instance::Instance;
use crate::path::{KeyValue, ObjectPath};
use crate::schema::{Class, Method, Namespace, Qualifier};
use crate::value::Value;
use crate::xml::Writer;

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
            let octets = is_octets(&property.qualifiers);
            self.value(&mut w, &property.name, instance.get(&property.name), octets)?;
        }
        w.end(&name);
        Ok(w.finish())
    }

    /// Columns of an instance, which are no instance any more.
    ///
    /// # Errors
    /// An embedded instance of a class that the namespace does not have.
    pub fn fragment(&self, class: &str, columns: &[(String, Option<Value>)]) -> Result<String, CimError> {
        let mut w = Writer::new();
        w.start("w:XmlFragment", &[("xmlns:p", &self.uri(class))]);
        for (name, value) in columns {
            self.value(&mut w, name, value.as_ref(), false)?;
        }
        w.end("w:XmlFragment");
        Ok(w.finish())
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

    /// The parts of a reference, to stand inside an element.
    #[must_use]
    pub fn endpoint_parts(&self, path: &ObjectPath) -> String {
        let mut w = Writer::new();
        self.reference(&mut w, path);
        w.finish()
    }

    /// One item of an enumeration. `path` is that of the instance.
    ///
    /// # Errors
    /// A class that the namespace does not have.
    pub fn item(&self, mode: Mode, instance: &Instance, path: &ObjectPath) -> Result<String, CimError> {
        match mode {
            Mode::Object => self.object(instance),
            Mode::Reference => Ok(self.endpoint(path)),
            Mode::Both => Ok(format!(
                "<w:Item>{}{}</w:Item>",
                self.object(instance)?,
                self.endpoint(path)
            )),
        }
    }

    /// The body of an answer to a method: its output parameters, null where there is no value, and what it returned.
    ///
    /// # Errors
    /// An embedded instance of a class that the namespace does not have.
    pub fn method_output(
        &self,
        class: &Class,
        method: &Method,
        returned: &Value,
        out: &[(String, Value)],
    ) -> Result<String, CimError> {
        let name = format!("p:{}_OUTPUT", method.name);
        let mut w = Writer::new();
        w.start(&name, &[("xmlns:p", &self.uri(&class.name))]);
        for parameter in method.parameters.iter().filter(|p| p.output) {
            let given = out.iter().find(|(n, _)| n.eq_ignore_ascii_case(&parameter.name));
            let octets = is_octets(&parameter.qualifiers);
            self.value(&mut w, &parameter.name, given.map(|(_, v)| v), octets)?;
        }
        self.value(&mut w, "ReturnValue", Some(returned), false)?;
        w.end(&name);
        Ok(w.finish())
    }

    fn value(&self, w: &mut Writer, name: &str, value: Option<&Value>, octets: bool) -> Result<(), CimError> {
        let name = format!("p:{name}");
        match value {
            None => w.empty(&name, &NIL),
            // Nothing at all would be a property that is missing, which some clients refuse.
            Some(Value::Array(items)) if items.is_empty() => w.empty(&name, &NIL),
            Some(Value::Array(items)) if octets => {
                w.leaf(&name, &[("xsi:type", "cim:cimBase64Binary")], &base64(items));
            }
            Some(Value::Array(items)) => {
                for item in items {
                    self.scalar(w, &name, item)?;
                }
            }
            Some(one) => self.scalar(w, &name, one)?,
        }
        Ok(())
    }

    fn scalar(&self, w: &mut Writer, name: &str, value: &Value) -> Result<(), CimError> {
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
                let text = embedded_text(self.namespace, instance)?;
                w.leaf(name, &[], &text);
            }
            // Arrays hold no arrays.
            Value::Array(_) => w.empty(name, &NIL),
        }
        Ok(())
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

// Until the codec of CIM-XML writes instances.
fn embedded_text(_: &Namespace, instance: &Instance) -> Result<String, CimError> {
    let message = format!("an embedded {} cannot be written", instance.class);
    Err(CimError::new(crate::Status::Failed, message))
}

fn is_octets(qualifiers: &[Qualifier]) -> bool {
    let octets = |q: &&Qualifier| q.name.eq_ignore_ascii_case("OctetString");
    let value = qualifiers.iter().find(octets).map(|q| &q.value);
    value.is_some_and(|v| *v == Some(Value::Boolean(true)))
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

/// Items of one answer.
#[derive(Debug)]
pub struct Batch {
    items: String,
    count: usize,
    max_items: usize,
    room: usize,
}

/// What became of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Push {
    /// It is in; there may be room for more.
    Added,
    /// It is in, and nothing else will be.
    Last,
    /// It belongs into the next answer.
    Full(String),
    /// It is too large for any answer that this client takes: a fault of the kind
    /// [`MaxEnvelopeSize`](super::FaultKind::MaxEnvelopeSize).
    TooLarge,
}

impl Batch {
    /// Room for at most so many items of the answer to a request.
    #[must_use]
    pub fn new(request: &Headers, max_items: usize) -> Self {
        Self {
            items: String::new(),
            count: 0,
            max_items: max_items.clamp(1, super::MAX_ITEMS),
            room: request.max_envelope.saturating_sub(OVERHEAD),
        }
    }

    /// The same with room for at most so many characters of items.
    #[must_use]
    pub fn at_most(mut self, characters: Option<usize>) -> Self {
        self.room = self.room.min(characters.unwrap_or(usize::MAX));
        self
    }

    /// Adds an item, if there is room.
    pub fn push(&mut self, item: String) -> Push {
        if self.count >= self.max_items {
            return Push::Full(item);
        }
        if item.len() > self.room - self.items.len() {
            return match self.count {
                0 => Push::TooLarge,
                _ => Push::Full(item),
            };
        }
        self.items.push_str(&item);
        self.count += 1;
        match self.count == self.max_items {
            true => Push::Last,
            false => Push::Added,
        }
    }

    /// How many items are in.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The items, one after the other.
    #[must_use]
    pub fn finish(self) -> String {
        self.items
    }
}
