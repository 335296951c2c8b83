//! Names of instances, and paths: the same with a namespace and a host. Class names, key names and key values compare
//! without regard to case (clients send UUIDs in either). Whether the keys are those of the class, the schema says.

/// The value of a key. All numbers and booleans are kept as their text; our classes have string and reference keys only.
#[derive(Clone, Debug)]
pub enum KeyValue {
    /// Text.
    Text(String),
    /// Another path, in associations.
    Reference(Box<ObjectPath>),
}

/// A class with key values: which instance within a namespace. Without keys it names the class, or the only instance.
#[derive(Clone, Debug)]
pub struct InstanceName {
    /// Class, as written.
    pub class: String,
    /// Key bindings, in any order.
    pub keys: Vec<(String, KeyValue)>,
}

/// Where an instance is.
#[derive(Clone, Debug)]
pub struct ObjectPath {
    /// Host; `None`: this one. Never compared: clients write all kinds of things here.
    pub host: Option<String>,
    /// Namespace, `root/virtualization/v2`; `None`: that of the request.
    pub namespace: Option<String>,
    /// Which instance.
    pub name: InstanceName,
}

impl PartialEq for KeyValue {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => a.to_lowercase() == b.to_lowercase(),
            (Self::Reference(a), Self::Reference(b)) => a == b,
            (Self::Text(_), Self::Reference(_)) | (Self::Reference(_), Self::Text(_)) => false,
        }
    }
}

impl PartialEq for InstanceName {
    fn eq(&self, other: &Self) -> bool {
        let key_in = |(n, v): &(String, KeyValue)| other.key(n).is_some_and(|o| o == v);
        self.class.eq_ignore_ascii_case(&other.class)
            && self.keys.len() == other.keys.len()
            && self.keys.iter().all(key_in)
    }
}

/// Hosts are not compared, and a missing namespace equals any.
impl PartialEq for ObjectPath {
    fn eq(&self, other: &Self) -> bool {
        let namespaces = match (&self.namespace, &other.namespace) {
            (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
            (None, _) | (_, None) => true,
        };
        namespaces && self.name == other.name
    }
}

impl InstanceName {
    /// A name with text keys.
    #[must_use]
    pub fn new(class: &str, keys: &[(&str, &str)]) -> Self {
        let key = |(n, v): &(&str, &str)| ((*n).to_owned(), KeyValue::Text((*v).to_owned()));
        Self {
            class: class.to_owned(),
            keys: keys.iter().map(key).collect(),
        }
    }

    /// The value of a key, whose name is given in any case.
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&KeyValue> {
        let found = self.keys.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, v)| v)
    }

    /// The text of a key; `None` when it is missing or a reference.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.key(name)? {
            KeyValue::Text(text) => Some(text),
            KeyValue::Reference(_) => None,
        }
    }
}

impl ObjectPath {
    /// A path on this host.
    #[must_use]
    pub fn new(namespace: &str, name: InstanceName) -> Self {
        Self {
            host: None,
            namespace: Some(namespace.to_owned()),
            name,
        }
    }
}
