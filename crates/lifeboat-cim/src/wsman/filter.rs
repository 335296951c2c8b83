//! Filters of enumerations and subscriptions. Each becomes the query it means, so that there is one way to carry them out.

use super::fault::{DIALECTS, Fault, FaultKind};
use super::uri::ResourceUri;
use super::{ns, value};
use crate::path::{KeyValue, ObjectPath};
use crate::value::Value;
use crate::wql::{self, Column, Columns, Condition, Operand, Operator, Query, Related, Select};
use lifeboat_xml::Element;

/// The filter among the children of an Enumerate or Subscribe: in the namespace of WS-Management or in their own.
pub(super) fn find<'a>(body: &'a Element, own: &str) -> Option<&'a Element> {
    body.child_in(ns::WSMAN, "Filter")
        .or_else(|| body.child_in(own, "Filter"))
}

/// The query that a filter means.
pub(super) fn query(
    filter: &Element,
    resource: Option<&ResourceUri>,
    unknown: FaultKind,
) -> Result<Query, Fault> {
    let [wql, selector, association] = DIALECTS;
    let dialect = filter.attribute("Dialect").map(str::trim).unwrap_or_default();
    let is = |uri: &str| dialect.eq_ignore_ascii_case(uri);
    if is(wql) {
        wql::parse(&filter.text()).map_err(|e| Fault::new(FaultKind::CannotProcessFilter, e.to_string()))
    } else if is(selector) {
        by_selectors(filter, resource)
    } else if is(association) {
        by_association(filter)
    } else {
        let shown: String = dialect.chars().take(200).collect();
        let message = match shown.as_str() {
            "" => "the filter has no attribute Dialect".to_owned(),
            shown => format!("the filter dialect {shown} is not supported"),
        };
        Err(Fault::new(unknown, message))
    }
}

fn cannot(message: impl Into<String>) -> Fault {
    Fault::new(FaultKind::CannotProcessFilter, message)
}

fn by_selectors(filter: &Element, resource: Option<&ResourceUri>) -> Result<Query, Fault> {
    let Some(class) = resource.and_then(|r| r.class.clone()) else {
        return Err(cannot("a selector filter needs the resource URI of a class"));
    };
    let set = filter
        .child("SelectorSet")
        .ok_or_else(|| cannot("the selector filter has no w:SelectorSet"))?;
    let selectors = value::selectors(Some(set)).map_err(|e| cannot(e.message))?;
    let mut parts = Vec::new();
    for (name, value) in selectors {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !name.chars().all(plain) {
            return Err(cannot("a selector of the filter is not the name of a property"));
        }
        match value {
            KeyValue::Text(text) if !text.contains(['"', '\'']) => parts.push(Condition::Compare {
                left: Operand::Column(Column::new(&name)),
                operator: Operator::Equal,
                right: Operand::Literal(Value::Text(text)),
            }),
            KeyValue::Text(_) => return Err(cannot(format!("the selector {name} contains quotes: use WQL"))),
            KeyValue::Reference(_) => {
                return Err(cannot(format!("the selector {name} is a reference: use WQL")));
            }
        }
    }
    let condition = match parts.len() {
        0 => return Err(cannot("the selector filter has no selector")),
        1 => parts.pop(),
        _ => Some(Condition::All(parts)),
    };
    Ok(Query::Select(Select {
        class,
        columns: Columns::All,
        condition,
        within: None,
    }))
}

fn by_association(filter: &Element) -> Result<Query, Fault> {
    let mut children = filter.elements();
    let (Some(kind), None) = (children.next(), children.next()) else {
        return Err(cannot(
            "an association filter holds one of AssociatedInstances and AssociationInstances",
        ));
    };
    let object = kind
        .child("Object")
        .ok_or_else(|| cannot("the association filter has no b:Object"))?;
    let source = match value::reference(object).map_err(|e| cannot(e.message))? {
        Some(path) => path,
        None => ObjectPath::parse(object.text().trim())
            .map_err(|e| cannot(format!("b:Object is no reference: {e}")))?,
    };
    let text = |name: &str| {
        let text = kind.child(name).map(|e| e.text().trim().to_owned());
        text.filter(|t| !t.is_empty())
    };
    let mut related = Related {
        source,
        association: text("AssociationClassName"),
        result: text("ResultClassName"),
        role: text("Role"),
        result_role: text("ResultRole"),
    };
    match kind.name.as_str() {
        "AssociatedInstances" => Ok(Query::Associators(related)),
        "AssociationInstances" => {
            // What is asked for here are the associations themselves, so both names mean their class.
            let class = related.association.take();
            related.result = related.result.or(class);
            related.result_role = None;
            Ok(Query::References(related))
        }
        _ => Err(cannot(
            "an association filter holds one of AssociatedInstances and AssociationInstances",
        )),
    }
}
