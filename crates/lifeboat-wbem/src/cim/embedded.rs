//! Instances that callers send inside of parameters, as values of the engine; and instances that methods return in the same
//! way. A property that is absent leaves a setting as it is. Whether a request can be carried out is decided by the engine:
//! only values that no action can hold are refused here.

mod network;
mod report;
mod settings;

use lifeboat_cim::{DateTime, Instance, ObjectPath, Value};
use lifeboat_engine::action::Refusal;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{RelationshipId, VmId};
pub(crate) use network::cards;
pub(crate) use report::{error, statistics};
pub(crate) use settings::{authorization, defaults, peer, replication, server, utc_minute, which};

/// The refusal of a parameter or property whose value has no meaning.
pub(crate) fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::bare(ReturnCode::InvalidParameter, message)
}

/// The refusal of what the API has, and Lifeboat does not.
pub(crate) fn unsupported(message: impl Into<String>, advice: &str) -> Refusal {
    advised(ReturnCode::NotSupported, message, advice)
}

/// A refusal of this surface itself, with advice in the terms of the API: it stays here, and so is no hint for other surfaces.
/// Empty advice is none.
pub(crate) fn advised(code: ReturnCode, message: impl Into<String>, advice: impl AsRef<str>) -> Refusal {
    let (message, advice) = (message.into(), advice.as_ref());
    if advice.is_empty() {
        Refusal::bare(code, message)
    } else {
        Refusal::bare(code, format!("{message}; {advice}"))
    }
}

/// At most 80 characters of what a caller wrote.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

/// What follows `Microsoft:` in an InstanceID, in parts.
fn parts(instance_id: &str) -> Option<Vec<&str>> {
    let head = instance_id.get(..10)?;
    let rest = head
        .eq_ignore_ascii_case("Microsoft:")
        .then(|| &instance_id[10..])?;
    Some(rest.split('\\').collect())
}

/// The VM and the relationship that an InstanceID `Microsoft:<GUID>\HVR\<index>` names.
pub(crate) fn relationship_id(instance_id: &str) -> Option<(VmId, RelationshipId)> {
    let parts = parts(instance_id)?;
    let [vm, hvr, index] = parts.as_slice() else {
        return None;
    };
    let number: u32 = index.parse().ok()?;
    // Each relationship has one name.
    if number.to_string() != *index {
        return None;
    }
    let index = RelationshipId::new(number);
    hvr.eq_ignore_ascii_case("HVR")
        .then(|| Some((vm.parse().ok()?, index)))?
}

/// The VM and the name within it that an InstanceID `Microsoft:<GUID>\<name>` carries.
fn part_id(instance_id: &str) -> Option<(VmId, &str)> {
    let parts = parts(instance_id)?;
    match parts.as_slice() {
        [vm, name] => Some((vm.parse().ok()?, name)),
        _ => None,
    }
}

/// The VM that an InstanceID `Microsoft:<GUID>` names.
pub(crate) fn vm_id(instance_id: &str) -> Option<VmId> {
    let parts = parts(instance_id)?;
    match parts.as_slice() {
        [vm] => vm.parse().ok(),
        _ => None,
    }
}

/// The InstanceID in a value that may be an embedded instance, a reference, a path as text, an instance as text, or the
/// bare InstanceID: clients write all of them.
pub(crate) fn instance_id(value: &Value) -> Option<String> {
    match value {
        Value::Instance(instance) => instance.text("InstanceID").map(str::to_owned),
        Value::Reference(path) => path.name.text("InstanceID").map(str::to_owned),
        Value::Text(text) if parts(text).is_some() => Some(text.clone()),
        Value::Text(text) => {
            let path = ObjectPath::parse(text).ok()?;
            path.name.text("InstanceID").map(str::to_owned)
        }
        Value::Boolean(_)
        | Value::Unsigned(_)
        | Value::Signed(_)
        | Value::Real(_)
        | Value::DateTime(_)
        | Value::Array(_) => None,
    }
}

/// Properties of an instance that a caller sent, by type. The schema has typed them; one that is null or absent is `None`.
struct Given<'a>(&'a Instance);

impl Given<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        self.0.text(name).map(str::trim).filter(|t| !t.is_empty())
    }

    fn boolean(&self, name: &str) -> Option<bool> {
        if let Value::Boolean(b) = self.0.get(name)? {
            Some(*b)
        } else {
            None
        }
    }

    fn number<T: TryFrom<u64>>(&self, name: &str) -> Result<Option<T>, Refusal> {
        let number = self.0.unsigned(name).map(|n| {
            let out = |_| invalid(format!("{name} = {n} is out of range"));
            T::try_from(n).map_err(out)
        });
        number.transpose()
    }

    fn datetime(&self, name: &str) -> Option<DateTime> {
        if let Value::DateTime(at) = self.0.get(name)? {
            Some(*at)
        } else {
            None
        }
    }

    /// The items of an array; `None` when it is null.
    fn items(&self, name: &str) -> Option<&[Value]> {
        if let Value::Array(items) = self.0.get(name)? {
            Some(items)
        } else {
            None
        }
    }

    /// The texts of an array; `None` when it is null.
    fn texts(&self, name: &str) -> Option<Vec<String>> {
        let text = |v: &Value| {
            if let Value::Text(text) = v {
                Some(text.trim().to_owned())
            } else {
                None
            }
        };
        Some(self.items(name)?.iter().filter_map(text).collect())
    }
}

#[cfg(test)]
mod tests;
