//! Queries. The language is parsed by `lifeboat-cim`; here its conditions become filters. Where a condition fixes a key, only
//! the VM or job with that key is visited: a client that waits for a job, or looks at one VM, must not make the host read
//! all of them.

use std::sync::Arc;

use lifeboat_cim::wql::{Condition, Operand, Operator, Query, Related, SystemColumns};
use lifeboat_cim::{CimError, Instance, Namespace, Value};

use super::cursor::{Cursor, Filter};
use super::located::entries;
use super::relations::Want;
use super::{ObjectManager, Relations};

impl ObjectManager {
    /// Carries out a query.
    pub(super) async fn run(
        self: &Arc<Self>,
        namespace: &'static Namespace,
        query: &Query,
    ) -> Result<Cursor, CimError> {
        match query {
            Query::Select(select) => {
                select.check(namespace)?;
                let class = namespace.class(&select.class)?;
                let Some(condition) = &select.condition else {
                    return Cursor::all(self, namespace, &class.name, None);
                };
                let keys = keys(namespace, &class.name)?;
                let known = known(condition, &keys);
                let (condition, system) = (condition.clone(), self.system_columns());
                let filter: Filter = Box::new(move |i: &Instance| condition.matches(namespace, i, &system));
                match known {
                    Some(known) => Cursor::some(self, namespace, &class.name, &known, filter),
                    None => Cursor::all(self, namespace, &class.name, Some(filter)),
                }
            }
            Query::Associators(related) => {
                Cursor::related(self, namespace, relations(related), Want::Ends).await
            }
            Query::References(related) => {
                Cursor::related(self, namespace, relations(related), Want::Links).await
            }
        }
    }

    /// The values of `__SERVER` and other system columns on this host.
    #[must_use]
    pub fn system_columns(&self) -> SystemColumns {
        SystemColumns {
            server: self.host.name.clone(),
        }
    }
}

fn relations(related: &Related) -> Relations {
    Relations {
        source: related.source.name.clone(),
        association: related.association.clone(),
        result: related.result.clone(),
        role: related.role.clone(),
        result_role: related.result_role.clone(),
    }
}

/// Properties that say which VM or job an instance belongs to, if it belongs to one: keys, and `VirtualSystemIdentifier`.
fn keys(namespace: &'static Namespace, class: &str) -> Result<Vec<String>, CimError> {
    let mut keys: Option<Vec<String>> = None;
    for view in entries(namespace, class)? {
        let own = namespace.class(view.class)?;
        let identifying = |p: &&lifeboat_cim::Property| {
            let names_system = p.name == "VirtualSystemIdentifier";
            let plain = p.key && p.reference_class.is_none() && !p.name.ends_with("ClassName");
            names_system || plain
        };
        let own: Vec<String> = own
            .properties
            .iter()
            .filter(identifying)
            .map(|p| p.name.clone())
            .collect();
        match &mut keys {
            Some(keys) => keys.retain(|k| own.contains(k)),
            None => keys = Some(own),
        }
    }
    Ok(keys.unwrap_or_default())
}

/// Texts of which a key must have one for the condition to be true; `None` if the condition does not fix a key.
fn known<'a>(condition: &'a Condition, keys: &[String]) -> Option<Vec<&'a str>> {
    match condition {
        Condition::All(all) => all.iter().find_map(|c| known(c, keys)),
        // Any of them may be true, so each must name a key.
        Condition::Any(any) => {
            let each: Option<Vec<_>> = any.iter().map(|c| known(c, keys)).collect();
            each.map(|e| e.into_iter().flatten().collect())
        }
        Condition::Compare {
            left,
            operator: Operator::Equal,
            right,
        } => match (left, right) {
            (Operand::Column(column), Operand::Literal(Value::Text(text)))
            | (Operand::Literal(Value::Text(text)), Operand::Column(column)) => {
                let [name] = column.names.as_slice() else {
                    return None;
                };
                let key = keys.iter().any(|k| k.eq_ignore_ascii_case(name));
                key.then(|| vec![text.as_str()])
            }
            (Operand::Column(_) | Operand::Literal(_), Operand::Column(_) | Operand::Literal(_)) => None,
        },
        Condition::Compare { .. }
        | Condition::Not(_)
        | Condition::Like { .. }
        | Condition::IsNull(_)
        | Condition::Isa { .. } => None,
    }
}
