//! What a query means as a subscription: which events of which classes, and in which of the two families of event classes.
//! Whether something has changed is not known here.

use lifeboat_cim::wql::{Condition, Query, Select};
use lifeboat_cim::{CimError, Namespace, Status};

/// The class of jobs, whose changes the engine announces.
pub(super) const JOB: &str = "Msvm_ConcreteJob";

/// The class of relationships.
pub(super) const RELATIONSHIP: &str = "Msvm_ReplicationRelationship";

/// The class of VMs, and of the host.
pub(super) const SYSTEM: &str = "Msvm_ComputerSystem";

/// What can be watched: jobs, relationships, VMs.
const WATCHED: [&str; 3] = [JOB, RELATIONSHIP, SYSTEM];

/// A kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Creation,
    Modification,
    Deletion,
}

/// The two families of event classes: DMTF's, and those that WMI clients write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Cim,
    Wmi,
}

impl Family {
    pub(super) fn class(self, kind: Kind) -> &'static str {
        match (self, kind) {
            (Self::Cim, Kind::Creation) => "CIM_InstCreation",
            (Self::Cim, Kind::Modification) => "CIM_InstModification",
            (Self::Cim, Kind::Deletion) => "CIM_InstDeletion",
            (Self::Wmi, Kind::Creation) => "__InstanceCreationEvent",
            (Self::Wmi, Kind::Modification) => "__InstanceModificationEvent",
            (Self::Wmi, Kind::Deletion) => "__InstanceDeletionEvent",
        }
    }

    pub(super) fn subject(self) -> &'static str {
        match self {
            Self::Cim => "SourceInstance",
            Self::Wmi => "TargetInstance",
        }
    }
}

/// The events a class name in a query stands for.
fn events(class: &str) -> Option<(Family, &'static [Kind])> {
    const ALL: &[Kind] = &[Kind::Creation, Kind::Modification, Kind::Deletion];
    for (family, general) in [
        (Family::Cim, "CIM_InstIndication"),
        (Family::Wmi, "__InstanceOperationEvent"),
    ] {
        if class.eq_ignore_ascii_case(general) {
            return Some((family, ALL));
        }
        let one = ALL
            .iter()
            .position(|k| class.eq_ignore_ascii_case(family.class(*k)));
        if let Some(at) = one {
            return Some((family, &ALL[at..=at]));
        }
    }
    None
}

/// A query for events, checked against the schema.
pub(super) struct EventQuery {
    pub(super) select: Select,
    pub(super) family: Family,
    pub(super) kinds: &'static [Kind],
    /// Classes whose instances are watched; never none.
    pub(super) classes: Vec<&'static str>,
}

impl EventQuery {
    pub(super) fn new(namespace: &Namespace, query: &Query) -> Result<Self, CimError> {
        let bad = |text: String| CimError::new(Status::InvalidQuery, text);
        let Query::Select(select) = query else {
            return Err(bad("a subscription wants SELECT ... FROM an event class".into()));
        };
        let (family, kinds) = events(&select.class).ok_or_else(|| {
            let class: String = select.class.chars().take(80).collect();
            bad(format!(
                "{class} is no event class: use CIM_InstIndication, CIM_InstCreation, CIM_InstModification, CIM_InstDeletion or \
                 __InstanceOperationEvent and its kinds"
            ))
        })?;
        select.check(namespace)?;
        Ok(Self {
            classes: watched(namespace, select, family).map_err(bad)?,
            select: select.clone(),
            family,
            kinds,
        })
    }
}

/// The classes that a query watches: those its condition names with ISA, or classes they are derived from.
fn watched(namespace: &Namespace, select: &Select, family: Family) -> Result<Vec<&'static str>, String> {
    let mut named = Vec::new();
    if let Some(condition) = &select.condition {
        isa(condition, family.subject(), &mut named);
    }
    let mut classes = Vec::new();
    for name in &named {
        let before = classes.len();
        let meant = WATCHED.into_iter().filter(|w| namespace.is_a(w, name));
        classes.extend(meant);
        if classes.len() == before {
            let name: String = name.chars().take(80).collect();
            return Err(format!(
                "{name} cannot be watched; these can: {}",
                WATCHED.join(", ")
            ));
        }
    }
    classes.sort_unstable();
    classes.dedup();
    if classes.is_empty() {
        Err(format!(
            "say what to watch: WHERE {} ISA \"Msvm_ConcreteJob\"; what can be watched: {}",
            family.subject(),
            WATCHED.join(", ")
        ))
    } else {
        Ok(classes)
    }
}

fn isa(condition: &Condition, subject: &str, found: &mut Vec<String>) {
    match condition {
        Condition::All(parts) | Condition::Any(parts) => parts.iter().for_each(|p| isa(p, subject, found)),
        Condition::Isa { column, class } => {
            if matches!(column.names.as_slice(), [only] if only.eq_ignore_ascii_case(subject)) {
                found.push(class.clone());
            }
        }
        Condition::Not(_) | Condition::Compare { .. } | Condition::Like { .. } | Condition::IsNull(_) => {}
    }
}
