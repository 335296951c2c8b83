//! One class with everything it inherits, by the rules of DSP0004: what may be overridden and how, which qualifiers go on
//! to subclasses, and what a value may be.

use super::fault::Fault;
use super::{Class, Method, Namespace, Parameter, Property, Qualifier};
use crate::datetime::DateTime;
use crate::mof::{ClassText, Declared, Kind, Literal, MethodText, ParameterText, PropertyText, QualifierUse};
use crate::value::{CimType, Value};

/// A class that was named before it was certain to exist.
pub(super) struct Mention {
    /// `CLASS.PROPERTY` or the like.
    pub(super) element: String,
    pub(super) line: u32,
    /// The class.
    pub(super) class: String,
    /// The class that it must derive from, if this overrides something.
    pub(super) ancestor: Option<String>,
}

/// A fault and its place in the file.
pub(super) struct Misplaced {
    pub(super) line: u32,
    pub(super) element: String,
    pub(super) fault: Fault,
}

/// The class, and the classes that it names.
pub(super) fn class(
    namespace: &Namespace,
    text: &Declared<ClassText>,
) -> Result<(Class, Vec<Mention>), Misplaced> {
    let Declared { line, what: text } = text;
    let misplaced = |line: u32, element: String| move |fault| Misplaced { line, element, fault };
    let (mut class, inherits_key) = head(namespace, text).map_err(misplaced(*line, text.name.clone()))?;
    let mut mentions = Vec::new();
    let mut own: Vec<&str> = Vec::new();
    for Declared { line, what } in &text.properties {
        let element = format!("{}.{}", text.name, what.name);
        let property = once(&mut own, &what.name)
            .and_then(|()| property(namespace, &class, inherits_key, what))
            .map_err(misplaced(*line, element.clone()))?;
        let before = class.property(&what.name);
        mention(&mut mentions, &element, *line, &property, before);
        put(&mut class.properties, property, |p| &p.name);
    }
    own.clear();
    for Declared { line, what } in &text.methods {
        let element = format!("{}.{}", text.name, what.name);
        let method = once(&mut own, &what.name)
            .and_then(|()| method(namespace, &class, what))
            .map_err(misplaced(*line, element.clone()))?;
        let before = class.method(&what.name);
        for parameter in &method.parameters {
            let element = format!("{element}.{}", parameter.name);
            let before = before.and_then(|m| m.parameter(&parameter.name));
            mention(&mut mentions, &element, *line, parameter, before);
        }
        put(&mut class.methods, method, |m| &m.name);
    }
    Ok((class, mentions))
}

/// The class as its superclass leaves it, with its own qualifiers; and whether it inherits keys.
fn head(namespace: &Namespace, text: &ClassText) -> Result<(Class, bool), Fault> {
    let superclass = match &text.superclass {
        Some(name) => {
            let found = namespace.classes.get(&name.to_ascii_lowercase());
            Some(found.ok_or_else(|| Fault::UnknownSuperclass(name.clone()))?)
        }
        None => None,
    };
    let inherited = superclass.map_or(&[][..], |s| &s.qualifiers);
    let qualifiers = qualifiers(
        namespace,
        &text.qualifiers,
        &["class", "association", "indication"],
        inherited,
    )?;
    let association = is_true(&qualifiers, "association");
    let indication = is_true(&qualifiers, "indication");
    if superclass.is_some_and(|s| s.association != association || s.indication != indication) {
        return Err(Fault::OtherKind);
    }
    let class = Class {
        name: text.name.clone(),
        superclass: superclass.map(|s| s.name.clone()),
        association,
        is_abstract: is_true(&qualifiers, "abstract"),
        indication,
        properties: superclass.map(|s| s.properties.clone()).unwrap_or_default(),
        methods: superclass.map(|s| s.methods.clone()).unwrap_or_default(),
        qualifiers,
    };
    let inherits_key = superclass.is_some_and(|s| s.keys().next().is_some());
    Ok((class, inherits_key))
}

fn once<'a>(own: &mut Vec<&'a str>, name: &'a str) -> Result<(), Fault> {
    if own.iter().any(|n| n.eq_ignore_ascii_case(name)) {
        return Err(Fault::Duplicate);
    }
    own.push(name);
    Ok(())
}

/// In the place of what it overrides, or at the end.
fn put<T>(list: &mut Vec<T>, item: T, name: impl Fn(&T) -> &String) {
    match list
        .iter_mut()
        .find(|i| name(i).eq_ignore_ascii_case(name(&item)))
    {
        Some(old) => *old = item,
        None => list.push(item),
    }
}

fn property(
    namespace: &Namespace,
    class: &Class,
    inherits_key: bool,
    text: &PropertyText,
) -> Result<Property, Fault> {
    let before = class.property(&text.name);
    let scope = if text.kind.base == CimType::Reference {
        "reference"
    } else {
        "property"
    };
    let inherited = before.map_or(&[][..], |p| &p.qualifiers);
    check_override(&text.qualifiers, &text.name, before.is_some())?;
    let qualifiers = qualifiers(namespace, &text.qualifiers, &[scope], inherited)?;
    let embedded = embedded(&qualifiers, &text.kind)?;
    let key = is_true(&qualifiers, "key");
    if text.kind.base == CimType::Reference && !class.association {
        return Err(Fault::Reference);
    }
    if key && (text.kind.array || embedded.is_some()) {
        return Err(Fault::KeyType);
    }
    if key && inherits_key && !before.is_some_and(|p| p.key) {
        return Err(Fault::NewKey);
    }
    if before.is_some_and(|b| !same_kind(b, text.kind.base, text.kind.array, embedded.as_ref())) {
        return Err(Fault::Mismatch);
    }
    let default = match &text.default {
        Some(literal) => value(&text.kind, literal)?,
        None => before.and_then(|p| p.default.clone()),
    };
    Ok(Property {
        name: text.name.clone(),
        kind: text.kind.base,
        array: text.kind.array,
        key,
        reference_class: text.kind.reference_class.clone(),
        embedded,
        default,
        qualifiers,
        origin: class.name.clone(),
    })
}

fn method(namespace: &Namespace, class: &Class, text: &MethodText) -> Result<Method, Fault> {
    let before = class.method(&text.name);
    let inherited = before.map_or(&[][..], |m| &m.qualifiers);
    check_override(&text.qualifiers, &text.name, before.is_some())?;
    let qualifiers = qualifiers(namespace, &text.qualifiers, &["method"], inherited)?;
    let mut parameters: Vec<Parameter> = Vec::new();
    for text in &text.parameters {
        if parameters.iter().any(|p| p.name.eq_ignore_ascii_case(&text.name)) {
            return Err(Fault::Duplicate);
        }
        let before = before.and_then(|m| m.parameter(&text.name));
        parameters.push(parameter(namespace, before, text)?);
    }
    if let Some(before) = before {
        let same = |(a, b): (&Parameter, &Parameter)| {
            a.name.eq_ignore_ascii_case(&b.name)
                && same_kind(a, b.kind, b.array, b.embedded.as_ref())
                && (a.input, a.output) == (b.input, b.output)
        };
        let all = before.parameters.len() == parameters.len()
            && before.parameters.iter().zip(&parameters).all(same);
        if before.returns != text.returns || !all {
            return Err(Fault::Mismatch);
        }
    }
    Ok(Method {
        name: text.name.clone(),
        returns: text.returns,
        parameters,
        qualifiers,
        origin: class.name.clone(),
    })
}

fn parameter(
    namespace: &Namespace,
    before: Option<&Parameter>,
    text: &ParameterText,
) -> Result<Parameter, Fault> {
    let inherited = before.map_or(&[][..], |p| &p.qualifiers);
    let qualifiers = qualifiers(namespace, &text.qualifiers, &["parameter"], inherited)?;
    let says = |name| {
        qualifiers
            .iter()
            .any(|q: &Qualifier| q.name.eq_ignore_ascii_case(name))
    };
    Ok(Parameter {
        name: text.name.clone(),
        kind: text.kind.base,
        array: text.kind.array,
        // DSP0004: what says nothing is an input.
        input: !says("in") || is_true(&qualifiers, "in"),
        output: is_true(&qualifiers, "out"),
        reference_class: text.kind.reference_class.clone(),
        embedded: embedded(&qualifiers, &text.kind)?,
        qualifiers,
    })
}

/// What properties and parameters have in common.
trait Typed {
    fn kind(&self) -> (CimType, bool);
    fn reference_class(&self) -> Option<&String>;
    fn embedded(&self) -> Option<&String>;
}

macro_rules! typed {
    ($($name:ident),*) => {$(
        impl Typed for $name {
            fn kind(&self) -> (CimType, bool) {
                (self.kind, self.array)
            }
            fn reference_class(&self) -> Option<&String> {
                self.reference_class.as_ref()
            }
            fn embedded(&self) -> Option<&String> {
                self.embedded.as_ref()
            }
        }
    )*};
}
typed!(Property, Parameter);

fn same_kind(before: &impl Typed, kind: CimType, array: bool, embedded: Option<&String>) -> bool {
    before.kind() == (kind, array) && before.embedded().is_some() == embedded.is_some()
}

/// Remembers the class that a reference or embedded instance names.
fn mention<T: Typed>(mentions: &mut Vec<Mention>, element: &str, line: u32, now: &T, before: Option<&T>) {
    let pairs = [
        (now.reference_class(), before.and_then(T::reference_class)),
        (now.embedded(), before.and_then(T::embedded)),
    ];
    for (class, ancestor) in pairs {
        if let Some(class) = class.filter(|c| !c.is_empty()) {
            mentions.push(Mention {
                element: element.to_owned(),
                line,
                class: class.clone(),
                ancestor: ancestor.filter(|a| !a.is_empty()).cloned(),
            });
        }
    }
}

fn check_override(uses: &[QualifierUse], name: &str, inherited: bool) -> Result<(), Fault> {
    let overrides = uses.iter().find(|u| u.name.eq_ignore_ascii_case("override"));
    match (overrides, inherited) {
        (None, false) => Ok(()),
        (None, true) => Err(Fault::WithoutOverride(name.to_owned())),
        (Some(_), false) => Err(Fault::NothingToOverride),
        (Some(QualifierUse { value, .. }), true) => match value {
            Some(Literal::Text(other)) if other.eq_ignore_ascii_case(name) => Ok(()),
            _ => Err(Fault::NothingToOverride),
        },
    }
}

/// Class of an embedded instance, empty for any.
fn embedded(qualifiers: &[Qualifier], kind: &Kind) -> Result<Option<String>, Fault> {
    let class = qualifiers
        .iter()
        .find(|q| q.name.eq_ignore_ascii_case("embeddedinstance"));
    let class = class.and_then(Qualifier::text).map(str::to_owned);
    let any = is_true(qualifiers, "embeddedobject").then(String::new);
    let embedded = class.or(any);
    if embedded.is_some() && kind.base != CimType::String {
        return Err(Fault::Value("of an embedded instance, which is string".into()));
    }
    Ok(embedded)
}

fn is_true(qualifiers: &[Qualifier], name: &str) -> bool {
    let found = qualifiers.iter().find(|q| q.name.eq_ignore_ascii_case(name));
    found.is_some_and(Qualifier::is_true)
}

/// Own qualifiers, then those inherited that go on to subclasses.
fn qualifiers(
    namespace: &Namespace,
    uses: &[QualifierUse],
    scopes: &[&'static str],
    inherited: &[Qualifier],
) -> Result<Vec<Qualifier>, Fault> {
    let mut all: Vec<Qualifier> = Vec::new();
    for written in uses {
        let name = &written.name;
        if all.iter().any(|q| q.name.eq_ignore_ascii_case(name)) {
            return Err(Fault::DoubledQualifier(name.clone()));
        }
        all.push(qualifier(namespace, written, scopes)?);
    }
    for before in inherited {
        let Some(declaration) = namespace.qualifiers.get(&before.name.to_ascii_lowercase()) else {
            continue;
        };
        if !declaration.to_subclass {
            continue;
        }
        match all.iter().find(|q| q.name.eq_ignore_ascii_case(&before.name)) {
            Some(own) if !declaration.overridable && own.value != before.value => {
                return Err(Fault::FixedQualifier(own.name.clone()));
            }
            Some(_) => {}
            None => all.push(before.clone()),
        }
    }
    Ok(all)
}

fn qualifier(
    namespace: &Namespace,
    written: &QualifierUse,
    scopes: &[&'static str],
) -> Result<Qualifier, Fault> {
    let name = &written.name;
    let declared = namespace.qualifiers.get(&name.to_ascii_lowercase());
    let declaration = declared.ok_or_else(|| Fault::UnknownQualifier(name.clone()))?;
    let fits = |s: &String| s == "any" || scopes.contains(&s.as_str());
    if !declaration.scopes.iter().any(fits) {
        return Err(Fault::Scope(name.clone(), scopes[0]));
    }
    let kind = Kind {
        base: declaration.kind,
        reference_class: None,
        array: declaration.array,
    };
    let value = match &written.value {
        Some(literal) => value(&kind, literal)?,
        None if declaration.kind == CimType::Boolean => Some(Value::Boolean(true)),
        None => declaration.default.clone(),
    };
    Ok(Qualifier {
        name: declaration.name.clone(),
        kind: declaration.kind,
        value,
    })
}

/// A value of this type.
pub(super) fn value(kind: &Kind, literal: &Literal) -> Result<Option<Value>, Fault> {
    let wrong = || {
        let array = if kind.array { "[]" } else { "" };
        Fault::Value(format!("{}{array}", kind.base.name()))
    };
    match (literal, kind.array) {
        (Literal::Null, _) => Ok(None),
        (Literal::List(items), true) => {
            let items = items.iter().map(|i| single(kind.base, i));
            let items: Option<Vec<Value>> = items.collect();
            items.map(|i| Some(Value::Array(i))).ok_or_else(wrong)
        }
        (_, true) => Err(wrong()),
        (literal, false) => single(kind.base, literal).map(Some).ok_or_else(wrong),
    }
}

fn single(kind: CimType, literal: &Literal) -> Option<Value> {
    let value = match (kind, literal) {
        (CimType::Boolean, Literal::Boolean(b)) => Value::Boolean(*b),
        (CimType::Uint8, Literal::Integer(n)) => u8::try_from(*n).ok()?.into(),
        (CimType::Uint16, Literal::Integer(n)) => u16::try_from(*n).ok()?.into(),
        (CimType::Uint32, Literal::Integer(n)) => u32::try_from(*n).ok()?.into(),
        (CimType::Uint64, Literal::Integer(n)) => u64::try_from(*n).ok()?.into(),
        (CimType::Sint8, Literal::Integer(n)) => Value::Signed(i8::try_from(*n).ok()?.into()),
        (CimType::Sint16, Literal::Integer(n)) => Value::Signed(i16::try_from(*n).ok()?.into()),
        (CimType::Sint32, Literal::Integer(n)) => Value::Signed(i32::try_from(*n).ok()?.into()),
        (CimType::Sint64, Literal::Integer(n)) => Value::Signed(i64::try_from(*n).ok()?),
        (CimType::Real32 | CimType::Real64, Literal::Real(n)) => Value::Real(*n),
        (CimType::Char16, Literal::Character(c)) => Value::Text(c.to_string()),
        (CimType::String, Literal::Text(text)) => Value::Text(text.clone()),
        (CimType::DateTime, Literal::Text(text)) => Value::DateTime(DateTime::parse(text).ok()?),
        (_, _) => return None,
    };
    Some(value)
}
