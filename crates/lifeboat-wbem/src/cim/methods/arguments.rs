//! Parameters of a call, typed by the schema. What they mean to a method is not known here.

use lifeboat_cim::{
    CimError, Instance, InstanceName, Method, Namespace, ObjectPath, Parameter, Raw, RawInstance, Status,
    Value,
};
use lifeboat_engine::action::Refusal;
use lifeboat_model::Timestamp;

use crate::cim::embedded::{invalid, shown};

/// Input parameters that have a value, by their declared names.
pub(super) struct Arguments(Vec<(String, Value)>);

/// A parameter that is declared as an embedded instance, but that clients fill with the path or the InstanceID of one.
const ALSO_NAMED: &str = "ReplicationRelationship";
/// The class of a relationship's settings.
const SETTINGS: &str = "Msvm_ReplicationSettingData";
/// The property that names its disks.
const DISKS: &str = "IncludedDisks";

impl Arguments {
    /// Types the parameters of a call by the method's declaration.
    pub(super) fn typed(
        namespace: &Namespace,
        method: &Method,
        raw: &[(String, Raw)],
    ) -> Result<Self, CimError> {
        let wrong = |what: String| CimError::new(Status::InvalidParameter, what);
        let mut seen: Vec<&str> = Vec::new();
        let mut all = Vec::new();
        for (name, raw) in raw {
            let declared = method.parameter(name).filter(|p| p.input);
            let declared = declared
                .ok_or_else(|| wrong(format!("{} has no input parameter {}", method.name, shown(name))))?;
            if seen.contains(&declared.name.as_str()) {
                return Err(wrong(format!(
                    "{}: parameter {} is given twice",
                    method.name, declared.name
                )));
            }
            seen.push(&declared.name);
            if let Some(value) = typed(namespace, declared, raw)? {
                all.push((declared.name.clone(), value));
            }
        }
        Ok(Self(all))
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    /// A text that is not empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        let Value::Text(text) = self.get(name)? else {
            return None;
        };
        Some(text.trim()).filter(|t| !t.is_empty())
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        if let Value::Unsigned(n) = self.get(name)? {
            Some(*n)
        } else {
            None
        }
    }

    pub(super) fn boolean(&self, name: &str) -> Option<bool> {
        if let Value::Boolean(b) = self.get(name)? {
            Some(*b)
        } else {
            None
        }
    }

    pub(super) fn reference(&self, name: &str) -> Result<Option<&ObjectPath>, Refusal> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Reference(path)) => Ok(Some(path)),
            Some(_) => Err(invalid(format!("{name} is no reference"))),
        }
    }

    /// An embedded instance that must be there.
    pub(super) fn instance(&self, name: &str) -> Result<&Instance, Refusal> {
        match self.get(name) {
            Some(Value::Instance(instance)) => Ok(instance),
            Some(_) => Err(invalid(format!("{name} holds no instance"))),
            None => Err(super::missing(name)),
        }
    }

    /// An instant; `None` when it is null.
    pub(super) fn instant(&self, name: &str) -> Result<Option<Timestamp>, Refusal> {
        use lifeboat_cim::DateTime;
        match self.get(name) {
            None => Ok(None),
            Some(Value::DateTime(DateTime::Instant(micros))) if *micros >= 0 => {
                Ok(Some(Timestamp(micros.unsigned_abs() / 1000)))
            }
            Some(_) => Err(invalid(format!(
                "{name} is no instant after 1970; write it in UTC"
            ))),
        }
    }

    /// What the call is about, for the log: the first instance that its parameters name, or else its own.
    pub(super) fn about(&self, target: &InstanceName) -> String {
        let named = self.0.iter().find_map(|(_, v)| {
            let Value::Reference(path) = v else {
                return None;
            };
            path.name.text("Name").or_else(|| path.name.text("InstanceID"))
        });
        let own = || {
            let keys = ["Name", "InstanceID", "SystemName"];
            keys.into_iter().find_map(|key| target.text(key))
        };
        shown(named.or_else(own).unwrap_or_default())
    }
}

fn typed(namespace: &Namespace, declared: &Parameter, raw: &Raw) -> Result<Option<Value>, CimError> {
    match raw {
        Raw::Text(text) if declared.name == ALSO_NAMED && !text.trim_start().starts_with('<') => {
            return Ok(Some(text.trim()).filter(|t| !t.is_empty()).map(Value::from));
        }
        Raw::Path(path) if declared.name == ALSO_NAMED => return Ok(Some(path.clone().into())),
        Raw::Null | Raw::Text(_) | Raw::Path(_) | Raw::Instance(_) | Raw::List(_) => {}
    }
    // A reference to an instance of another class is typed all the same: the method refuses it with a return value of its own.
    let anything = Parameter {
        reference_class: None,
        ..declared.clone()
    };
    match declared.embedded.as_deref() {
        Some(SETTINGS) => lifeboat_cim::typing::typed(namespace, &anything, &with_disks(namespace, raw)?),
        _ => lifeboat_cim::typing::typed(namespace, &anything, raw),
    }
}

/// Settings with their disks in the one form that the schema knows: clients write instances, paths or InstanceIDs.
fn with_disks(namespace: &Namespace, raw: &Raw) -> Result<Raw, CimError> {
    let mut settings = match raw {
        Raw::Text(text) if !text.trim().is_empty() => lifeboat_cim::cimxml::decode_instance(text)
            .map_err(|e| CimError::new(Status::InvalidParameter, format!("{SETTINGS}: {e}")))?,
        Raw::Instance(instance) => instance.clone(),
        Raw::Null | Raw::Text(_) | Raw::Path(_) | Raw::List(_) => return Ok(raw.clone()),
    };
    let embedded = namespace
        .class(SETTINGS)?
        .property(DISKS)
        .is_some_and(|p| p.embedded.is_some());
    let found = settings
        .properties
        .iter_mut()
        .filter(|(n, _)| n.eq_ignore_ascii_case(DISKS));
    for (_, disks) in found {
        match disks {
            Raw::List(items) => items.iter_mut().for_each(|item| disk(item, embedded)),
            Raw::Text(_) | Raw::Path(_) | Raw::Instance(_) => disk(disks, embedded),
            Raw::Null => {}
        }
    }
    Ok(Raw::Instance(settings))
}

fn disk(item: &mut Raw, embedded: bool) {
    const KEY: &str = "InstanceID";
    let id = match item {
        Raw::Text(text) if text.trim_start().starts_with('<') => {
            let instance = lifeboat_cim::cimxml::decode_instance(text).ok();
            instance.and_then(|i| key_of(&i))
        }
        Raw::Text(text) => match ObjectPath::parse(text) {
            Ok(path) if path.name.text(KEY).is_some() => path.name.text(KEY).map(str::to_owned),
            _ => Some(text.clone()),
        },
        Raw::Path(path) => path.name.text(KEY).map(str::to_owned),
        Raw::Instance(instance) => key_of(instance),
        Raw::Null | Raw::List(_) => None,
    };
    // Without an id it stays as it is, so that the refusal shows what was sent.
    let Some(id) = id else { return };
    *item = if embedded {
        Raw::Instance(RawInstance {
            class: "Msvm_StorageAllocationSettingData".into(),
            properties: vec![(KEY.into(), Raw::Text(id))],
        })
    } else {
        Raw::Text(id)
    };
}

fn key_of(instance: &RawInstance) -> Option<String> {
    let found = instance
        .properties
        .iter()
        .find(|(n, _)| n.eq_ignore_ascii_case("InstanceID"));
    match found? {
        (_, Raw::Text(text)) => Some(text.clone()),
        _ => None,
    }
}
