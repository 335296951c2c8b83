//! Values as elements hold them: nulls, text, references in each of their shapes, embedded instances, repeated elements. What
//! type a value has to be is said by the schema, later.

use std::collections::HashMap;

use super::fault::{Fault, FaultKind};
use super::ns;
use super::uri::{Family, ResourceUri};
use crate::path::{InstanceName, KeyValue, ObjectPath};
use crate::raw::{Raw, RawInstance};
use lifeboat_xml::Element;

/// The children of an element by their local names; repeated ones become a list, where the first of them was.
pub(super) fn members(element: &Element) -> Result<Vec<(String, Raw)>, Fault> {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut members: Vec<(String, Raw)> = Vec::new();
    for child in element.elements() {
        let value = raw(child)?;
        let name = child.name.to_lowercase();
        match places.get(&name).and_then(|place| members.get_mut(*place)) {
            Some((_, Raw::List(list))) => list.push(value),
            Some((_, first)) => {
                let one = std::mem::replace(first, Raw::Null);
                *first = Raw::List(vec![one, value]);
            }
            None => {
                places.insert(name, members.len());
                members.push((child.name.clone(), value));
            }
        }
    }
    Ok(members)
}

/// The value that an element holds.
pub(super) fn raw(element: &Element) -> Result<Raw, Fault> {
    if is_nil(element) {
        return Ok(Raw::Null);
    }
    let mut children = element.elements();
    let Some(first) = children.next() else {
        return Ok(Raw::Text(element.text()));
    };
    let alone = children.next().is_none();
    if alone && first.namespace.as_deref() == Some(ns::CIM) && first.elements().next().is_none() {
        // cim:Datetime, cim:Interval and their like.
        return Ok(if is_nil(first) {
            Raw::Null
        } else {
            Raw::Text(first.text())
        });
    }
    if let Some(path) = reference(element)? {
        return Ok(Raw::Path(path));
    }
    if alone && type_name(element).is_none() && is_class_element(first) {
        return Ok(Raw::Instance(instance(first)?));
    }
    Ok(Raw::Instance(RawInstance {
        class: type_name(element).unwrap_or_default(),
        properties: members(element)?,
    }))
}

/// An instance whose element is named like its class.
pub(super) fn instance(element: &Element) -> Result<RawInstance, Fault> {
    Ok(RawInstance {
        class: element.name.clone(),
        properties: members(element)?,
    })
}

/// `xsi:nil="true"`, also in the namespace that some clients mistake for it.
fn is_nil(element: &Element) -> bool {
    let schema = |n: Option<&str>| matches!(n, Some(ns::XSI | ns::XSD));
    let yes = |v: &str| matches!(v.trim(), "1") || v.trim().eq_ignore_ascii_case("true");
    let mut attributes = element.attributes.iter();
    attributes.any(|a| a.name == "nil" && schema(a.namespace.as_deref()) && yes(&a.value))
}

/// The class that `xsi:type="p:Class_Type"` says.
fn type_name(element: &Element) -> Option<String> {
    let of_schema = |n: Option<&str>| matches!(n, Some(ns::XSI | ns::XSD));
    let mut attributes = element.attributes.iter();
    let kind = attributes.find(|a| a.name == "type" && of_schema(a.namespace.as_deref()))?;
    let kind = kind.value.trim();
    let local = kind.rsplit_once(':').map_or(kind, |(_, local)| local);
    local.strip_suffix("_Type").map(str::to_owned)
}

/// Whether an element inside a parameter is the instance itself and not a property of it: it is in the namespace of a class
/// of its own name, says so by its type, or has properties.
fn is_class_element(element: &Element) -> bool {
    let named = |uri: &str| {
        let class = ResourceUri::parse(uri).ok().and_then(|u| u.class);
        class.is_some_and(|c| c.eq_ignore_ascii_case(&element.name))
    };
    element.namespace.as_deref().is_some_and(named)
        || type_name(element).is_some_and(|t| t.eq_ignore_ascii_case(&element.name))
        || element.elements().next().is_some()
}

/// The path that an element holds, if it is a reference: the parts of an endpoint directly in it, or wrapped.
pub(super) fn reference(element: &Element) -> Result<Option<ObjectPath>, Fault> {
    if let Some(wrapped) = element.child("EndpointReference") {
        return endpoint(wrapped).map(Some);
    }
    let part = |name| element.child_in(ns::ADDRESSING, name).is_some();
    if part("ReferenceParameters") || part("ReferenceProperties") || part("Address") {
        endpoint(element).map(Some)
    } else {
        Ok(None)
    }
}

/// The path that the parts of an endpoint are. Its address is not looked at: clients write all kinds of things there.
pub(super) fn endpoint(element: &Element) -> Result<ObjectPath, Fault> {
    let parts = || {
        let parameters = element.elements();
        parameters.filter(|e| matches!(e.name.as_str(), "ReferenceParameters" | "ReferenceProperties"))
    };
    let wrong = |message: String| Fault::new(FaultKind::InvalidParameter, message);
    let Some(uri) = parts().find_map(|p| p.child("ResourceURI")) else {
        return Err(wrong(format!(
            "the reference in {} has no w:ResourceURI",
            element.name
        )));
    };
    let uri = ResourceUri::parse(&uri.text())?;
    let mut keys = selectors(parts().find_map(|p| p.child("SelectorSet")))?;
    let namespace = namespace(&mut keys)?;
    let Some(class) = uri.class.filter(|_| uri.family != Family::Metadata) else {
        return Err(wrong(format!("the reference in {} names no class", element.name)));
    };
    Ok(ObjectPath {
        host: None,
        namespace: uri.namespace.or(namespace),
        name: InstanceName { class, keys },
    })
}

/// The selectors of a `w:SelectorSet`.
pub(super) fn selectors(set: Option<&Element>) -> Result<Vec<(String, KeyValue)>, Fault> {
    let mut names = std::collections::HashSet::new();
    let mut selectors = Vec::new();
    for selector in set.into_iter().flat_map(Element::elements) {
        if selector.name != "Selector" {
            continue;
        }
        let Some(name) = selector
            .attribute("Name")
            .map(str::trim)
            .filter(|n| !n.is_empty())
        else {
            return Err(Fault::new(
                FaultKind::SchemaValidation,
                "a w:Selector has no attribute Name",
            ));
        };
        if !names.insert(name.to_lowercase()) {
            let message = format!("the selector {name} is given twice");
            return Err(Fault::new(FaultKind::DuplicateSelectors, message));
        }
        let value = match reference(selector)? {
            Some(path) => KeyValue::Reference(Box::new(path)),
            None => KeyValue::Text(selector.text().trim().to_owned()),
        };
        selectors.push((name.to_owned(), value));
    }
    Ok(selectors)
}

/// Takes `__cimnamespace` out of selectors.
pub(super) fn namespace(selectors: &mut Vec<(String, KeyValue)>) -> Result<Option<String>, Fault> {
    let Some(value) = take(selectors, "__cimnamespace") else {
        return Ok(None);
    };
    match value {
        KeyValue::Text(text) => Ok(Some(text.replace('\\', "/").trim_matches('/').to_owned())),
        KeyValue::Reference(_) => {
            let message = "the selector __cimnamespace is the name of a namespace, not a reference";
            Err(Fault::new(FaultKind::SelectorTypeMismatch, message))
        }
    }
}

/// Takes a selector out.
pub(super) fn take(selectors: &mut Vec<(String, KeyValue)>, name: &str) -> Option<KeyValue> {
    let place = selectors.iter().position(|(n, _)| n.eq_ignore_ascii_case(name))?;
    Some(selectors.remove(place).1)
}
