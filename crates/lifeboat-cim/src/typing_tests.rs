//! What raw values become by a declaration, and how refusals read.

use super::{MAX_EMBEDDED, typed, typed_instance, typed_name};
use crate::cimxml::fixture::{self, namespace, parameter, property};
use crate::datetime::DateTime;
use crate::error::Status;
use crate::path::{InstanceName, KeyValue, ObjectPath};
use crate::raw::{Raw, RawInstance};
use crate::schema::Property;
use crate::value::{CimType, Instance, Value};

fn text(text: &str) -> Raw {
    Raw::Text(text.to_owned())
}

/// What `raw` is as a property "X", or the refusal's text.
fn value(of: &Property, raw: &Raw) -> Result<Option<Value>, String> {
    typed(&namespace(), of, raw).map_err(|e| e.message)
}

fn scalar(kind: CimType, given: &str) -> Result<Value, String> {
    value(&property("X", kind), &text(given)).map(|v| v.unwrap())
}

#[test]
fn scalars_are_read_by_their_type() {
    use CimType::{Boolean, Char16, Real64, Sint8, Sint64, String, Uint8, Uint16, Uint64};
    for (kind, given, expected) in [
        (Boolean, "TRUE", Value::Boolean(true)),
        (Boolean, " False\n", Value::Boolean(false)),
        (Boolean, "1", Value::Boolean(true)),
        (Boolean, "0", Value::Boolean(false)),
        (Uint8, "255", Value::Unsigned(255)),
        (Uint16, " +300 ", Value::Unsigned(300)),
        (Uint16, "0x1F", Value::Unsigned(31)),
        (Uint64, "18446744073709551615", Value::Unsigned(u64::MAX)),
        (Sint8, "-128", Value::Signed(-128)),
        (Sint64, "-9223372036854775808", Value::Signed(i64::MIN)),
        (Real64, "-1.5E3", Value::Real(-1500.0)),
        (Char16, "ä", Value::Text("ä".into())),
        (String, " kept ", Value::Text(" kept ".into())),
        (String, "", Value::from("")),
        (
            CimType::DateTime,
            "PT1S",
            Value::DateTime(DateTime::Interval(1_000_000)),
        ),
    ] {
        assert_eq!(scalar(kind, given), Ok(expected), "{given}");
    }
}

#[test]
fn refusals_name_the_property_and_show_what_was_given() {
    use CimType::{Boolean, Char16, Real32, Sint16, Uint8, Uint16, Uint64};
    for (kind, given, message) in [
        (Boolean, "yes", "property X: \"yes\" is no boolean"),
        (Uint8, "256", "property X: \"256\" is no uint8 (0 to 255)"),
        (Uint16, "-1", "property X: \"-1\" is no uint16 (0 to 65535)"),
        (Uint16, "", "property X: \"\" is no uint16 (0 to 65535)"),
        (Uint16, "1.0", "property X: \"1.0\" is no uint16 (0 to 65535)"),
        (Uint16, "0x", "property X: \"0x\" is no uint16 (0 to 65535)"),
        (Uint16, "+-1", "property X: \"+-1\" is no uint16 (0 to 65535)"),
        (
            Uint64,
            "18446744073709551616",
            "property X: \"18446744073709551616\" is no uint64 (0 to 18446744073709551615)",
        ),
        (
            Sint16,
            "32768",
            "property X: \"32768\" is no sint16 (-32768 to 32767)",
        ),
        (
            Real32,
            "NaN",
            "property X: \"NaN\" is no real32 (a finite number)",
        ),
        (Char16, "ab", "property X: \"ab\" is no char16 (one character)"),
        (
            CimType::DateTime,
            "20240230100000.000000+000",
            "property X: \"20240230100000.000000+000\" is no datetime: no such date, time or length",
        ),
    ] {
        assert_eq!(scalar(kind, given), Err(message.to_owned()));
    }
    let long = scalar(Boolean, &"\n\u{7f}é".repeat(100)).unwrap_err();
    assert!(
        long.len() < 400 && long.contains("\\n") && long.contains("...\""),
        "{long}"
    );
    let refused = typed(&namespace(), &property("X", Uint8), &text("x")).unwrap_err();
    assert_eq!(refused.status, Status::TypeMismatch);
    let given = parameter(property("X", Uint8), true, false);
    let refused = typed(&namespace(), &given, &text("x")).unwrap_err();
    assert!(
        refused.message.starts_with("parameter X: "),
        "{}",
        refused.message
    );
}

#[test]
fn arrays_take_one_or_many_and_scalars_take_one() {
    let numbers = fixture::array("X", CimType::Uint16);
    let expected = |n: &[u16]| Ok(Some(Value::from(n.to_vec())));
    assert_eq!(value(&numbers, &text("7")), expected(&[7]));
    assert_eq!(
        value(&numbers, &Raw::List(vec![text("7"), text("8")])),
        expected(&[7, 8])
    );
    assert_eq!(
        value(&numbers, &Raw::List(Vec::new())),
        Ok(Some(Value::Array(Vec::new())))
    );
    assert_eq!(value(&numbers, &Raw::Null), Ok(None));
    let null = value(&numbers, &Raw::List(vec![Raw::Null])).unwrap_err();
    assert_eq!(null, "property X: an item of an array cannot be null");
    let nested = value(&numbers, &Raw::List(vec![Raw::List(Vec::new())])).unwrap_err();
    assert_eq!(nested, "property X: a list of 0 items where one uint16 belongs");
    let list = value(&property("X", CimType::String), &Raw::List(vec![text("a")])).unwrap_err();
    assert_eq!(list, "property X: a list of 1 items where one string belongs");
    assert_eq!(value(&property("X", CimType::Boolean), &Raw::Null), Ok(None));
}

fn thing(inner: &str) -> String {
    format!(
        "<INSTANCE CLASSNAME=\"t_thing\"><PROPERTY NAME=\"inner\" TYPE=\"string\"><VALUE>{inner}</VALUE></PROPERTY></INSTANCE>"
    )
}

#[test]
fn embedded_instances_come_in_many_wrappings() {
    let plain = "<INSTANCE CLASSNAME=\"t_element\"><QUALIFIER NAME=\"q\" TYPE=\"string\"><VALUE>x</VALUE></QUALIFIER>\
        <PROPERTY NAME=\"__PATH\" TYPE=\"string\"><VALUE>y</VALUE></PROPERTY>\
        <PROPERTY NAME=\"caption\" CLASSORIGIN=\"o\" PROPAGATED=\"true\" MODIFIED=\"true\" TYPE=\"uint8\">\
        <QUALIFIER NAME=\"q\" TYPE=\"string\"><VALUE>x</VALUE></QUALIFIER><VALUE>a &amp; b</VALUE></PROPERTY>\
        <PROPERTY NAME=\"InstanceID\" TYPE=\"string\"></PROPERTY></INSTANCE>";
    let expected = Instance::new("T_Element").with("Caption", "a & b");
    for given in [
        plain.to_owned(),
        format!(" <?xml version=\"1.0\" encoding=\"utf-16\"?>\r\n{plain}\n"),
        format!(
            "<CIM CIMVERSION=\"2.0\" DTDVERSION=\"2.0\"><DECLARATION><DECLGROUP><VALUE.OBJECT>{plain}</VALUE.OBJECT></DECLGROUP></DECLARATION></CIM>"
        ),
        format!("<VALUE.NAMEDINSTANCE><INSTANCENAME CLASSNAME=\"x\"/>{plain}</VALUE.NAMEDINSTANCE>"),
    ] {
        let embedded = fixture::embedded("X", "T_Element");
        assert_eq!(
            value(&embedded, &text(&given)),
            Ok(Some(Value::from(expected.clone()))),
            "{given}"
        );
        let any = fixture::embedded("X", "");
        assert_eq!(
            value(&any, &text(&given)),
            Ok(Some(Value::from(expected.clone()))),
            "{given}"
        );
    }
    assert_eq!(
        value(&fixture::embedded("X", "T_Element"), &text(" \n")),
        Ok(None)
    );
    // A derived class fits, also with an instance within, as elements and as text.
    let inner = "<INSTANCE CLASSNAME=\"T_Element\"/>";
    for given in [
        inner.to_owned(),
        inner.replace('<', "&lt;"),
        format!("<![CDATA[{inner}]]>"),
    ] {
        let whole = value(&fixture::embedded("X", "T_Element"), &text(&thing(&given)));
        let expected = Instance::new("T_Thing").with("Inner", Instance::new("T_Element"));
        assert_eq!(whole, Ok(Some(Value::from(expected))), "{given}");
    }
}

#[test]
fn embedded_instances_that_do_not_fit_are_refused() {
    let element = fixture::embedded("X", "T_Element");
    let property = |p: &str| format!("<INSTANCE CLASSNAME=\"T_Thing\">{p}</INSTANCE>");
    let u8 = |v: &str| format!("<PROPERTY NAME=\"u8\" TYPE=\"string\"><VALUE>{v}</VALUE></PROPERTY>");
    for (given, message) in [
        (
            "x".to_owned(),
            "property X: \"x\" is no embedded instance: not well-formed",
        ),
        (
            "<a>".to_owned(),
            "property X: \"<a>\" is no embedded instance: not well-formed",
        ),
        (
            "<!DOCTYPE x><a/>".to_owned(),
            "property X: \"<!DOCTYPE x><a/>\" is no embedded instance: a document type",
        ),
        (
            "<CLASS NAME=\"x\"/>".to_owned(),
            "property X: \"<CLASS NAME=\\\"x\\\"/>\" is no embedded instance: CLASS where",
        ),
        (
            "<INSTANCE/>".to_owned(),
            "property X: \"<INSTANCE/>\" is no embedded instance: INSTANCE without CLASSNAME",
        ),
        (
            "<INSTANCE CLASSNAME=\"T_No\"/>".to_owned(),
            "property X: the class \"T_No\" of the instance is unknown",
        ),
        (
            "<INSTANCE CLASSNAME=\"T_Link\"/>".to_owned(),
            "property X: an instance of T_Link where T_Element belongs",
        ),
        (
            property("<PROPERTY NAME=\"No\" TYPE=\"string\"/>"),
            "property X: T_Thing has no property \"No\"",
        ),
        (
            property(&u8("300")),
            "property X: property U8: \"300\" is no uint8",
        ),
        (
            property(&u8("1").repeat(2)),
            "property X: property U8 of T_Thing occurs twice",
        ),
        (
            property("<X/>"),
            "property X: \"<INSTANCE CLASSNAME=\\\"T_Thing\\\"><X/></INSTANCE>\" is no embedded instance: X in an INSTANCE",
        ),
    ] {
        let refused = value(&element, &text(&given)).unwrap_err();
        assert!(refused.starts_with(message), "{refused}");
    }
}

#[test]
fn embedding_has_a_bottom() {
    let nested = |depth: usize| {
        let mut as_text = "<INSTANCE CLASSNAME=\"T_Thing\"/>".to_owned();
        let mut as_raw = RawInstance {
            class: "T_Thing".to_owned(),
            properties: Vec::new(),
        };
        for _ in 1..depth {
            as_text = thing(&as_text.replace('&', "&amp;").replace('<', "&lt;"));
            let inner = vec![("Inner".to_owned(), Raw::Instance(as_raw))];
            as_raw = RawInstance {
                class: "T_Thing".to_owned(),
                properties: inner,
            };
        }
        [Raw::Text(as_text), Raw::Instance(as_raw)]
    };
    for raw in nested(MAX_EMBEDDED) {
        assert!(value(&fixture::embedded("X", "T_Thing"), &raw).is_ok());
    }
    for raw in nested(MAX_EMBEDDED + 1) {
        let refused = value(&fixture::embedded("X", "T_Thing"), &raw).unwrap_err();
        assert!(refused.ends_with("instances embedded deeper than 4"), "{refused}");
    }
}

#[test]
fn references_come_as_paths_texts_and_instances() {
    let to = fixture::reference("X", "T_Element");
    let name = InstanceName::new("T_Thing", &[("InstanceID", "a")]);
    let raw = RawInstance {
        class: "T_Thing".to_owned(),
        properties: vec![
            ("instanceid".to_owned(), text("A")),
            ("Caption".to_owned(), text("c")),
        ],
    };
    for given in [
        Raw::Path(ObjectPath::new("root/test", name.clone())),
        text("T_Thing.InstanceID=\"A\""),
        text(r#"\\HOST\root\test:T_Thing.InstanceID="a""#),
        Raw::Instance(raw),
    ] {
        let Ok(Some(Value::Reference(path))) = value(&to, &given) else {
            panic!("{given:?}: {:?}", value(&to, &given));
        };
        assert_eq!(path.name, name);
    }
    assert_eq!(value(&to, &text("")), Ok(None));
    // A string that holds a path may be filled with a reference.
    let path = Raw::Path(ObjectPath::new("root/test", name));
    let held = value(&property("X", CimType::String), &path);
    assert_eq!(held, Ok(Some(Value::from(r#"root\test:T_Thing.InstanceID="a""#))));
    for (given, message) in [
        (
            text("x y"),
            "property X: \"x y\" is no object path: no class name",
        ),
        (
            text("T_Link.From=\"T_Thing\""),
            "property X: \"T_Link.From=\\\"T_Thing\\\"\" where a reference to T_Element belongs",
        ),
        (
            text("T_No.a=1"),
            "property X: \"T_No.a=\\\"1\\\"\" where a reference to T_Element belongs",
        ),
        (
            Raw::Instance(RawInstance {
                class: String::new(),
                properties: Vec::new(),
            }),
            "property X: a reference by an instance of T_Element without its keys",
        ),
    ] {
        assert_eq!(value(&to, &given), Err(message.to_owned()));
    }
}

#[test]
fn keys_that_are_references_become_references() {
    let name = |text: &str| typed_name(&namespace(), InstanceName::parse(text).unwrap());
    let link = name(r#"t_link.from="T_Thing.InstanceID=\"a\"",To="x:T_Element.InstanceID='b'""#).unwrap();
    let Some(KeyValue::Reference(from)) = link.key("From") else {
        panic!("{link:?}")
    };
    assert_eq!(from.name, InstanceName::new("T_Thing", &[("InstanceID", "a")]));
    assert!(matches!(link.key("To"), Some(KeyValue::Reference(to)) if to.namespace.as_deref() == Some("x")));
    let refused = name("T_Link.From=\"?\"").unwrap_err();
    assert_eq!(
        refused.message,
        "key \"From\": \"?\" is no object path: no class name"
    );
    // An endless chain of links.
    let mut path = ObjectPath::parse("T_Thing").unwrap();
    for _ in 0..10 {
        let keys = vec![("From".to_owned(), KeyValue::Reference(Box::new(path)))];
        path = ObjectPath {
            host: None,
            namespace: None,
            name: InstanceName {
                class: "T_Link".to_owned(),
                keys,
            },
        };
    }
    let refused = typed_name(&namespace(), path.name).unwrap_err();
    assert_eq!(refused.message, "key \"From\": references nested deeper than 4");
}

#[test]
fn instances_get_the_spelling_of_the_schema() {
    let raw = RawInstance {
        class: "t_ELEMENT".to_owned(),
        properties: vec![("CAPTION".to_owned(), text("x"))],
    };
    let expected = Instance::new("T_Element").with("Caption", "x");
    assert_eq!(typed_instance(&namespace(), "", &raw), Ok(expected));
    let unnamed = RawInstance {
        class: String::new(),
        properties: Vec::new(),
    };
    assert!(typed_instance(&namespace(), "", &unnamed).is_err());
    assert_eq!(
        typed_instance(&namespace(), "T_Thing", &unnamed),
        Ok(Instance::new("T_Thing"))
    );
}
