//! A small namespace made by hand, for tests of this crate that must not depend on the MOF.

use crate::schema::{Class, Method, Namespace, Parameter, Property, Qualifier, QualifierDeclaration};
use crate::value::{CimType, Value};

pub(crate) fn property(name: &str, kind: CimType) -> Property {
    Property {
        name: name.to_owned(),
        kind,
        array: false,
        key: false,
        reference_class: None,
        embedded: None,
        default: None,
        qualifiers: Vec::new(),
        origin: String::new(),
    }
}

pub(crate) fn key(name: &str, kind: CimType) -> Property {
    let qualifier = Qualifier {
        name: "Key".to_owned(),
        kind: CimType::Boolean,
        value: Some(Value::Boolean(true)),
    };
    Property {
        key: true,
        qualifiers: vec![qualifier],
        ..property(name, kind)
    }
}

pub(crate) fn array(name: &str, kind: CimType) -> Property {
    Property {
        array: true,
        ..property(name, kind)
    }
}

pub(crate) fn embedded(name: &str, class: &str) -> Property {
    Property {
        embedded: Some(class.to_owned()),
        ..property(name, CimType::String)
    }
}

pub(crate) fn reference(name: &str, class: &str) -> Property {
    Property {
        reference_class: Some(class.to_owned()),
        ..key(name, CimType::Reference)
    }
}

pub(crate) fn parameter(of: Property, input: bool, output: bool) -> Parameter {
    Parameter {
        name: of.name,
        kind: of.kind,
        array: of.array,
        input,
        output,
        reference_class: of.reference_class,
        embedded: of.embedded,
        qualifiers: Vec::new(),
    }
}

pub(crate) fn class(name: &str, superclass: Option<&Class>, own: Vec<Property>) -> Class {
    let mut properties = superclass.map_or_else(Vec::new, |s| s.properties.clone());
    let origin = |mut p: Property| {
        p.origin = name.to_owned();
        p
    };
    properties.extend(own.into_iter().map(origin));
    Class {
        name: name.to_owned(),
        superclass: superclass.map(|s| s.name.clone()),
        association: false,
        is_abstract: false,
        indication: false,
        properties,
        methods: Vec::new(),
        qualifiers: Vec::new(),
    }
}

fn change() -> Method {
    let mut several = embedded("Several", "T_Element");
    several.array = true;
    Method {
        name: "Change".to_owned(),
        returns: CimType::Uint32,
        parameters: vec![
            parameter(reference("Target", "T_Element"), true, false),
            parameter(embedded("Setting", "T_Element"), true, false),
            parameter(array("Names", CimType::String), true, true),
            parameter(reference("Job", "T_Element"), false, true),
            parameter(several, false, true),
        ],
        qualifiers: Vec::new(),
        origin: "T_Thing".to_owned(),
    }
}

/// Every type, an array of each kind, references, embedded instances and a method.
pub(crate) fn namespace() -> Namespace {
    use CimType::{
        Boolean, Char16, DateTime, Real32, Real64, Sint8, Sint16, Sint32, Sint64, String, Uint8, Uint16,
        Uint32, Uint64,
    };
    let base = class(
        "T_Element",
        None,
        vec![key("InstanceID", String), property("Caption", String)],
    );
    let mut all = vec![
        array("Names", String),
        array("Numbers", Uint16),
        embedded("Inner", "T_Element"),
    ];
    all.extend([
        property("B", Boolean),
        property("U8", Uint8),
        property("U16", Uint16),
        property("U32", Uint32),
        property("U64", Uint64),
        property("S8", Sint8),
        property("S16", Sint16),
        property("S32", Sint32),
        property("S64", Sint64),
        property("R32", Real32),
        property("R64", Real64),
        property("C", Char16),
        property("When", DateTime),
    ]);
    let mut inners = embedded("Any", "");
    inners.array = true;
    all.push(inners);
    let mut thing = class("T_Thing", Some(&base), all);
    thing.methods.push(change());
    let link = Class {
        association: true,
        ..class(
            "T_Link",
            None,
            vec![reference("From", "T_Thing"), reference("To", "T_Element")],
        )
    };
    let declaration = QualifierDeclaration {
        name: "Key".to_owned(),
        kind: Boolean,
        array: false,
        default: Some(Value::Boolean(false)),
        scopes: vec!["property".to_owned(), "reference".to_owned()],
        overridable: false,
        to_subclass: true,
        translatable: false,
    };
    let counted = class(
        "T_Counted",
        None,
        vec![key("Number", Uint32), key("Flag", Boolean), key("Name", String)],
    );
    let classes = [base, thing, link, counted];
    Namespace {
        name: "root/test".to_owned(),
        classes: classes.into_iter().map(|c| (c.name.to_lowercase(), c)).collect(),
        qualifiers: [("key".to_owned(), declaration)].into(),
    }
}
