//! What every instance of every class must be, by the schema alone: declared, named, found by its name, and linked to
//! what exists.

use std::collections::BTreeSet;
use std::sync::Arc;

use lifeboat_cim::{CimType, Instance, InstanceName, Namespace, ObjectPath, Property, Value};
use lifeboat_wbem::cim::{CIMV2, INTEROP, ObjectManager, Relations, VIRTUALIZATION};

use crate::cim_views::world::{drain, from};

pub(crate) fn holds(property: &Property, value: &Value) -> bool {
    let range = |n: u64, bits: u32| bits == 64 || n < 1 << bits;
    let signed = |n: i64, bits: u32| bits == 64 || (-(1 << (bits - 1))..1 << (bits - 1)).contains(&n);
    match (property.kind, value) {
        (CimType::Boolean, Value::Boolean(_)) | (CimType::DateTime, Value::DateTime(_)) => true,
        (CimType::Uint8, Value::Unsigned(n)) => range(*n, 8),
        (CimType::Uint16, Value::Unsigned(n)) => range(*n, 16),
        (CimType::Uint32, Value::Unsigned(n)) => range(*n, 32),
        (CimType::Uint64, Value::Unsigned(n)) => range(*n, 64),
        (CimType::Sint8, Value::Signed(n)) => signed(*n, 8),
        (CimType::Sint16, Value::Signed(n)) => signed(*n, 16),
        (CimType::Sint32, Value::Signed(n)) => signed(*n, 32),
        (CimType::Sint64, Value::Signed(n)) => signed(*n, 64),
        (CimType::String, Value::Text(_)) => property.embedded.is_none(),
        (CimType::Reference, Value::Reference(_)) => true,
        _ => false,
    }
}

pub(crate) fn declared(namespace: &Namespace, instance: &Instance) {
    let class = namespace.class(&instance.class).unwrap();
    let name = &instance.class;
    assert_eq!((&class.name, class.is_abstract), (name, false));
    let mut seen = BTreeSet::new();
    for (property, value) in &instance.properties {
        let declared = class.properties.iter().find(|p| p.name == *property);
        let declared = declared.unwrap_or_else(|| panic!("{name}.{property} is not declared"));
        assert!(seen.insert(property), "{name}.{property} twice");
        let fits = match (declared.array, value) {
            (true, Value::Array(items)) => items.iter().all(|i| holds(declared, i)),
            (true, _) | (false, Value::Array(_)) => false,
            (false, one) => holds(declared, one),
        };
        assert!(fits, "{name}.{property} is {:?}, not {value:?}", declared.kind);
    }
    for key in class.keys() {
        assert!(
            instance.get(&key.name).is_some(),
            "{name}: key {} is null",
            key.name
        );
    }
}

/// Without what the clock changes.
pub(crate) fn steady(instance: &Instance) -> Instance {
    let mut instance = instance.clone();
    for volatile in ["LocalDateTime", "ElapsedTime", "OnTimeInMilliseconds"] {
        instance.set(volatile, None);
    }
    instance.properties.sort_by(|a, b| a.0.cmp(&b.0));
    instance
}

pub(crate) fn ends(instance: &Instance) -> Vec<(&String, &ObjectPath)> {
    let end = |(name, value): &'_ (String, Value)| match value {
        Value::Reference(_) => Some(name.clone()),
        _ => None,
    };
    let names: Vec<String> = instance.properties.iter().filter_map(end).collect();
    let found = instance.properties.iter().filter(|(n, _)| names.contains(n));
    found
        .filter_map(|(n, v)| match v {
            Value::Reference(path) => Some((n, path.as_ref())),
            _ => None,
        })
        .collect()
}

pub(crate) fn contains(all: &[Instance], wanted: &Instance) -> bool {
    all.iter().any(|i| steady(i) == steady(wanted))
}

/// Checks both directions of an association.
pub(crate) async fn linked(m: &Arc<ObjectManager>, namespace: &'static Namespace, link: &Instance) {
    let class = namespace.class(&link.class).unwrap();
    let ends = ends(link);
    assert_eq!(ends.len(), 2, "{link:?}");
    let mut found = Vec::new();
    for (role, path) in &ends {
        let at = path.namespace.as_deref().unwrap();
        let end = m.get(at, &path.name).await;
        let end = end.unwrap_or_else(|e| panic!("{} {role}: {e}", link.class));
        let there = m.schema().namespace(at).unwrap();
        if let Some(wanted) = &class.property(role).unwrap().reference_class
            && std::ptr::eq(there, namespace)
        {
            assert!(
                namespace.is_a(&end.class, wanted),
                "{}.{role}: {}",
                link.class,
                end.class
            );
        }
        found.push(end);
    }
    for (n, (role, path)) in ends.iter().enumerate() {
        if path.namespace.as_deref() != Some(namespace.name.as_str()) {
            continue;
        }
        let relations = Relations {
            association: Some(link.class.clone()),
            role: Some((*role).clone()),
            ..from(path.name.clone())
        };
        let mut bare = relations.clone();
        (bare.association, bare.result) = (None, Some(link.class.clone()));
        let links = drain(m.references(&namespace.name, bare).await.unwrap()).await;
        assert!(
            contains(&links, link),
            "{link:?} is not among the references of its {role}"
        );
        let others = drain(m.associators(&namespace.name, relations).await.unwrap()).await;
        assert!(
            contains(&others, &found[1 - n]),
            "{link:?}: not reached from its {role}: {others:?}"
        );
    }
}

/// Everything of a host is declared, has a name of its own and is found by it; classes that have instances.
pub(crate) async fn sound(m: &Arc<ObjectManager>) -> BTreeSet<String> {
    let mut classes = BTreeSet::new();
    for name in [VIRTUALIZATION, INTEROP, CIMV2] {
        let namespace = m.schema().namespace(name).unwrap();
        let mut names: Vec<InstanceName> = Vec::new();
        for class in namespace.classes.values() {
            let found = drain(m.enumerate(name, &class.name).await.unwrap()).await;
            for instance in &found {
                assert!(namespace.is_a(&instance.class, &class.name));
            }
            for instance in found.into_iter().filter(|i| i.class == class.name) {
                declared(namespace, &instance);
                let own = namespace.name_of(&instance);
                assert!(!names.contains(&own), "{own:?} twice");
                let got = m.get(name, &own).await.unwrap_or_else(|e| panic!("{own:?}: {e}"));
                assert_eq!(steady(&got), steady(&instance));
                if class.association {
                    linked(m, namespace, &instance).await;
                }
                names.push(own);
                classes.insert(class.name.clone());
            }
        }
    }
    classes
}
