//! Whether an instance meets a condition, and what the named columns of it are. Comparing is three-valued (`None` is neither
//! true nor false), text compares without regard to case, and text that stands for a number, a boolean, a point in time or a
//! path is compared as that when the other side is one.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::{Column, Columns, Condition, Operand, Operator, Select};
use crate::datetime::DateTime;
use crate::error::{CimError, Status};
use crate::path::ObjectPath;
use crate::schema::{Class, Namespace};
use crate::value::{Instance, Value};

/// What the columns `__SERVER`, `__PATH`, `__RELPATH`, `__NAMESPACE` and `__CLASS` are made of, beside the instance.
#[derive(Clone, Debug)]
pub struct SystemColumns {
    /// Name of this host.
    pub server: String,
}

impl SystemColumns {
    /// A system column of an instance; `None`: no column of this name, or null.
    #[must_use]
    pub fn value(&self, name: &str, namespace: &Namespace, instance: &Instance) -> Option<Value> {
        let path = |host: bool| {
            let whole = ObjectPath {
                host: host.then(|| self.server.clone()),
                namespace: host.then(|| namespace.name.clone()),
                name: namespace.name_of(instance),
            };
            Value::Text(whole.to_string())
        };
        match name.to_ascii_uppercase().as_str() {
            "__CLASS" => Some(Value::Text(instance.class.clone())),
            "__SERVER" => Some(Value::Text(self.server.clone())),
            "__NAMESPACE" => Some(Value::Text(namespace.name.replace('/', "\\"))),
            "__PATH" => Some(path(true)),
            "__RELPATH" => Some(path(false)),
            _ => None,
        }
    }
}

const SYSTEM: [&str; 6] = [
    "__CLASS",
    "__SERVER",
    "__NAMESPACE",
    "__PATH",
    "__RELPATH",
    "__THIS",
];

impl Select {
    /// Whether class and columns are those of the schema.
    ///
    /// # Errors
    /// A class that is not there (`InvalidClass`), a column that the class does not have or an array in a comparison
    /// (`InvalidQuery`), naming it. Classes that begin with `__` are those of events and are not looked into.
    pub fn check(&self, namespace: &Namespace) -> Result<(), CimError> {
        if self.class.starts_with("__") {
            return Ok(());
        }
        let class = namespace.class(&self.class)?;
        if let Columns::Named(columns) = &self.columns {
            for column in columns {
                declared(class, column, true)?;
            }
        }
        match &self.condition {
            Some(condition) => condition.check(class),
            None => Ok(()),
        }
    }

    /// Whether this instance is selected. That it is one of the class is the caller's knowledge.
    #[must_use]
    pub fn selects(&self, namespace: &Namespace, instance: &Instance, system: &SystemColumns) -> bool {
        match &self.condition {
            Some(condition) => condition.matches(namespace, instance, system),
            None => true,
        }
    }

    /// The columns that were asked for, in the order asked and in the spelling of the schema; `None`: all properties.
    #[must_use]
    pub fn project(
        &self,
        namespace: &Namespace,
        instance: &Instance,
        system: &SystemColumns,
    ) -> Option<Vec<(String, Option<Value>)>> {
        let Columns::Named(columns) = &self.columns else {
            return None;
        };
        let class = namespace.class(&instance.class).ok();
        let one = |column: &Column| {
            let value = column.value(namespace, instance, system).map(Cow::into_owned);
            let known = match column.names.as_slice() {
                [name] => class.and_then(|c| c.property(name)),
                _ => None,
            };
            let name = known.map_or_else(|| column.to_string(), |p| p.name.clone());
            (name, value)
        };
        Some(columns.iter().map(one).collect())
    }
}

fn declared(class: &Class, column: &Column, arrays: bool) -> Result<(), CimError> {
    let Some(first) = column.names.first() else {
        return Ok(());
    };
    if SYSTEM.iter().any(|s| s.eq_ignore_ascii_case(first)) {
        return Ok(());
    }
    let wrong = |why: &str| CimError::new(Status::InvalidQuery, format!("{} {why} {column}", class.name));
    let property = class.property(first).ok_or_else(|| wrong("has no property"))?;
    if property.array && !arrays {
        Err(wrong("cannot be compared by the array"))
    } else {
        Ok(())
    }
}

impl Condition {
    fn check(&self, class: &Class) -> Result<(), CimError> {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().try_for_each(|p| p.check(class)),
            Self::Not(part) => part.check(class),
            Self::Compare { left, right, .. } => [left, right].into_iter().try_for_each(|side| match side {
                Operand::Column(column) => declared(class, column, false),
                Operand::Literal(_) => Ok(()),
            }),
            Self::Like { column, .. } => declared(class, column, false),
            Self::IsNull(column) | Self::Isa { column, .. } => declared(class, column, true),
        }
    }

    /// Whether it is true of this instance.
    #[must_use]
    pub fn matches(&self, namespace: &Namespace, instance: &Instance, system: &SystemColumns) -> bool {
        self.truth(namespace, instance, system) == Some(true)
    }

    fn truth(&self, namespace: &Namespace, instance: &Instance, system: &SystemColumns) -> Option<bool> {
        let value = |column: &Column| column.value(namespace, instance, system);
        match self {
            // One part that decides is enough; else one that is unknown makes the whole unknown.
            Self::All(parts) => decided(parts, false, |p| p.truth(namespace, instance, system)),
            Self::Any(parts) => decided(parts, true, |p| p.truth(namespace, instance, system)),
            Self::Not(part) => part.truth(namespace, instance, system).map(|t| !t),
            Self::Compare {
                left,
                operator,
                right,
            } => {
                let left = left.value(namespace, instance, system)?;
                let right = right.value(namespace, instance, system)?;
                compare(&left, *operator, &right)
            }
            Self::Like { column, pattern } => Some(pattern.matches(&text(value(column)?.as_ref())?)),
            Self::IsNull(column) => Some(value(column).is_none()),
            Self::Isa { column, class } => match column.names.as_slice() {
                [this] if this.eq_ignore_ascii_case("__THIS") => Some(namespace.is_a(&instance.class, class)),
                _ => match value(column)?.as_ref() {
                    Value::Instance(inner) => Some(namespace.is_a(&inner.class, class)),
                    _ => Some(false),
                },
            },
        }
    }
}

/// `AND` is decided by a part that is false, `OR` by one that is true.
fn decided(parts: &[Condition], deciding: bool, truth: impl Fn(&Condition) -> Option<bool>) -> Option<bool> {
    let mut whole = Some(!deciding);
    for part in parts {
        match truth(part) {
            Some(t) if t == deciding => return Some(deciding),
            Some(_) => {}
            None => whole = None,
        }
    }
    whole
}

impl Operand {
    fn value<'a>(
        &'a self,
        namespace: &Namespace,
        instance: &'a Instance,
        system: &SystemColumns,
    ) -> Option<Cow<'a, Value>> {
        match self {
            Self::Column(column) => column.value(namespace, instance, system),
            Self::Literal(value) => Some(Cow::Borrowed(value)),
        }
    }
}

impl Column {
    /// Its value; `None` is null.
    fn value<'a>(
        &self,
        namespace: &Namespace,
        instance: &'a Instance,
        system: &SystemColumns,
    ) -> Option<Cow<'a, Value>> {
        let (last, outer) = self.names.split_last()?;
        let mut instance = instance;
        for name in outer {
            match instance.get(name)? {
                Value::Instance(inner) => instance = inner,
                _ => return None,
            }
        }
        match instance.get(last) {
            Some(value) => Some(Cow::Borrowed(value)),
            None => system.value(last, namespace, instance).map(Cow::Owned),
        }
    }
}

/// How two values stand to each other.
enum Stand {
    Ordered(Ordering),
    /// Not equal, and without an order.
    Different,
    /// Cannot be compared at all.
    Unknown,
}

fn compare(left: &Value, operator: Operator, right: &Value) -> Option<bool> {
    match (stand(left, right), operator) {
        (Stand::Ordered(o), Operator::Equal) => Some(o.is_eq()),
        (Stand::Ordered(o), Operator::NotEqual) => Some(o.is_ne()),
        (Stand::Ordered(o), Operator::Less) => Some(o.is_lt()),
        (Stand::Ordered(o), Operator::LessOrEqual) => Some(o.is_le()),
        (Stand::Ordered(o), Operator::Greater) => Some(o.is_gt()),
        (Stand::Ordered(o), Operator::GreaterOrEqual) => Some(o.is_ge()),
        (Stand::Different, Operator::Equal) => Some(false),
        (Stand::Different, Operator::NotEqual) => Some(true),
        (
            Stand::Different,
            Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual,
        )
        | (Stand::Unknown, _) => None,
    }
}

fn stand(left: &Value, right: &Value) -> Stand {
    match (left, right) {
        (Value::Text(a), Value::Text(b)) => {
            let (a, b) = (a.chars(), b.chars());
            Stand::Ordered(a.flat_map(char::to_lowercase).cmp(b.flat_map(char::to_lowercase)))
        }
        (Value::DateTime(a), Value::DateTime(b)) => moments(*a, *b),
        (Value::DateTime(a), Value::Text(b)) => b.trim().parse().map_or(Stand::Different, |b| moments(*a, b)),
        (Value::Text(a), Value::DateTime(b)) => a.trim().parse().map_or(Stand::Different, |a| moments(a, *b)),
        (Value::Reference(a), Value::Reference(b)) => same(a == b),
        (Value::Reference(path), Value::Text(text)) | (Value::Text(text), Value::Reference(path)) => {
            same(ObjectPath::parse(text.trim()).is_ok_and(|other| other == **path))
        }
        (Value::Array(_) | Value::Instance(_), _) | (_, Value::Array(_) | Value::Instance(_)) => {
            Stand::Unknown
        }
        (a, b) => match (number(a), number(b)) {
            (Some(a), Some(b)) => numbers(a, b),
            _ => Stand::Different,
        },
    }
}

fn same(equal: bool) -> Stand {
    if equal {
        Stand::Ordered(Ordering::Equal)
    } else {
        Stand::Different
    }
}

fn moments(a: DateTime, b: DateTime) -> Stand {
    match (a, b) {
        (DateTime::Instant(a), DateTime::Instant(b)) => Stand::Ordered(a.cmp(&b)),
        (DateTime::Interval(a), DateTime::Interval(b)) => Stand::Ordered(a.cmp(&b)),
        (DateTime::Instant(_), DateTime::Interval(_)) | (DateTime::Interval(_), DateTime::Instant(_)) => {
            Stand::Different
        }
    }
}

/// A number, whole as long as it can be: 64 bits do not fit into a floating point number.
#[derive(Clone, Copy)]
enum Number {
    Whole(i128),
    Real(f64),
}

fn number(value: &Value) -> Option<Number> {
    match value {
        Value::Boolean(b) => Some(Number::Whole((*b).into())),
        Value::Unsigned(n) => Some(Number::Whole((*n).into())),
        Value::Signed(n) => Some(Number::Whole((*n).into())),
        Value::Real(n) => Some(Number::Real(*n)),
        Value::Text(text) => {
            let text = text.trim();
            let word = |w: &str| text.eq_ignore_ascii_case(w);
            match text.parse() {
                Ok(n) => Some(Number::Whole(n)),
                Err(_) if word("true") => Some(Number::Whole(1)),
                Err(_) if word("false") => Some(Number::Whole(0)),
                Err(_) => text.parse().ok().map(Number::Real),
            }
        }
        Value::DateTime(_) | Value::Reference(_) | Value::Instance(_) | Value::Array(_) => None,
    }
}

fn numbers(a: Number, b: Number) -> Stand {
    #[allow(clippy::cast_precision_loss)]
    let real = |n: Number| match n {
        Number::Whole(n) => n as f64,
        Number::Real(n) => n,
    };
    match (a, b) {
        (Number::Whole(a), Number::Whole(b)) => Stand::Ordered(a.cmp(&b)),
        (a, b) => real(a)
            .partial_cmp(&real(b))
            .map_or(Stand::Different, Stand::Ordered),
    }
}

/// The text that `LIKE` looks at.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        Value::Boolean(b) => Some(b.to_string()),
        Value::Unsigned(n) => Some(n.to_string()),
        Value::Signed(n) => Some(n.to_string()),
        Value::Real(n) => Some(n.to_string()),
        Value::DateTime(moment) => Some(moment.to_string()),
        Value::Reference(path) => Some(path.to_string()),
        Value::Instance(_) | Value::Array(_) => None,
    }
}
