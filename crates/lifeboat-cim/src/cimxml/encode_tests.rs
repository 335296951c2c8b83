//! Answers: golden texts of each form, and that instances of every class read back as they were written.

use proptest::prelude::*;

use super::{Form, Page, Results, begin, end, error, method_response, nothing, unit};
use crate::cimxml::fixture::namespace;
use crate::cimxml::{
    ExportError, Head, View, class_item, decode_instance, encode_instance, export_reply, export_request,
    qualifier_item,
};
use crate::datetime::DateTime;
use crate::error::{CimError, Status};
use crate::path::{InstanceName, ObjectPath};
use crate::schema::{Namespace, Property, Schema};
use crate::typing::typed_instance;
use crate::value::{CimType, Instance, Value};

fn head(intrinsic: bool, name: &str) -> Head {
    Head {
        id: "7".to_owned(),
        name: name.to_owned(),
        intrinsic,
    }
}

fn item(form: Form, view: &View, instance: &Instance) -> String {
    let space = namespace();
    Results {
        namespace: &space,
        host: "h",
        form,
        view,
    }
    .item(instance)
}

const NAME: &str = "<INSTANCENAME CLASSNAME=\"T_Element\"><KEYBINDING NAME=\"InstanceID\"><KEYVALUE VALUETYPE=\"string\">a&lt;1</KEYVALUE></KEYBINDING></INSTANCENAME>";
const VALUES: &str = "<INSTANCE CLASSNAME=\"T_Element\"><PROPERTY NAME=\"InstanceID\" TYPE=\"string\"><VALUE>a&lt;1</VALUE></PROPERTY><PROPERTY NAME=\"Caption\" TYPE=\"string\"></PROPERTY></INSTANCE>";

#[test]
fn each_operation_has_its_form() {
    let element = Instance::new("T_Element").with("InstanceID", "a<1");
    let path = format!(
        "<INSTANCEPATH><NAMESPACEPATH><HOST>h</HOST><LOCALNAMESPACEPATH><NAMESPACE NAME=\"root\"/><NAMESPACE NAME=\"test\"/></LOCALNAMESPACEPATH></NAMESPACEPATH>{NAME}</INSTANCEPATH>"
    );
    for (form, expected) in [
        (Form::Instance, VALUES.to_owned()),
        (Form::Name, NAME.to_owned()),
        (
            Form::NamedInstance,
            format!("<VALUE.NAMEDINSTANCE>{NAME}{VALUES}</VALUE.NAMEDINSTANCE>"),
        ),
        (
            Form::ObjectWithPath,
            format!("<VALUE.OBJECTWITHPATH>{path}{VALUES}</VALUE.OBJECTWITHPATH>"),
        ),
        (
            Form::Queried,
            format!("<VALUE.OBJECTWITHPATH>{path}{VALUES}</VALUE.OBJECTWITHPATH>"),
        ),
        (Form::ObjectPath, format!("<OBJECTPATH>{path}</OBJECTPATH>")),
        (
            Form::InstanceWithPath,
            format!("<VALUE.INSTANCEWITHPATH>{path}{VALUES}</VALUE.INSTANCEWITHPATH>"),
        ),
        (Form::InstancePath, path.clone()),
    ] {
        assert_eq!(item(form, &View::default(), &element), expected, "{form:?}");
    }
    // A query that left out the key, and a column that is no property.
    let view = View {
        properties: Some(vec!["caption".to_owned(), "__server".to_owned()]),
        ..View::default()
    };
    let columns = Instance::new("T_Element")
        .with("Caption", "c")
        .with("__SERVER", "h")
        .with("Other", 1_u8);
    let expected = "<VALUE.OBJECT><INSTANCE CLASSNAME=\"T_Element\"><PROPERTY NAME=\"Caption\" TYPE=\"string\"><VALUE>c</VALUE></PROPERTY>\
        <PROPERTY NAME=\"__SERVER\" TYPE=\"string\"><VALUE>h</VALUE></PROPERTY></INSTANCE></VALUE.OBJECT>";
    assert_eq!(item(Form::Queried, &view, &columns), expected);
    let origin = View {
        properties: Some(vec!["Caption".to_owned()]),
        class_origin: true,
        ..View::default()
    };
    let expected = "<INSTANCE CLASSNAME=\"T_Element\"><PROPERTY NAME=\"Caption\" TYPE=\"string\" CLASSORIGIN=\"T_Element\"></PROPERTY></INSTANCE>";
    assert_eq!(item(Form::Instance, &origin, &element), expected);
}

#[test]
fn values_and_keys_are_written_by_their_types() {
    let inner = Instance::new("T_Element").with("InstanceID", "<i>");
    let thing = Instance::new("T_Thing")
        .with("B", true)
        .with("U16", 300_u16)
        .with("S8", Value::Signed(-1))
        .with("R64", Value::Real(1e300))
        .with("When", DateTime::Interval(1_000_000))
        .with("Names", vec!["x"])
        .with("Numbers", Value::Array(Vec::new()))
        .with("Inner", inner);
    let text = encode_instance(&namespace(), &thing);
    let expected = "<INSTANCE CLASSNAME=\"T_Thing\">\
        <PROPERTY.ARRAY NAME=\"Names\" TYPE=\"string\"><VALUE.ARRAY><VALUE>x</VALUE></VALUE.ARRAY></PROPERTY.ARRAY>\
        <PROPERTY.ARRAY NAME=\"Numbers\" TYPE=\"uint16\"><VALUE.ARRAY></VALUE.ARRAY></PROPERTY.ARRAY>\
        <PROPERTY NAME=\"Inner\" TYPE=\"string\" EmbeddedObject=\"instance\"><VALUE>&lt;INSTANCE CLASSNAME=&quot;T_Element&quot;&gt;\
        &lt;PROPERTY NAME=&quot;InstanceID&quot; TYPE=&quot;string&quot;&gt;&lt;VALUE&gt;&amp;lt;i&amp;gt;&lt;/VALUE&gt;&lt;/PROPERTY&gt;&lt;/INSTANCE&gt;</VALUE></PROPERTY>\
        <PROPERTY NAME=\"B\" TYPE=\"boolean\"><VALUE>TRUE</VALUE></PROPERTY>\
        <PROPERTY NAME=\"U16\" TYPE=\"uint16\"><VALUE>300</VALUE></PROPERTY>\
        <PROPERTY NAME=\"S8\" TYPE=\"sint8\"><VALUE>-1</VALUE></PROPERTY>\
        <PROPERTY NAME=\"R64\" TYPE=\"real64\"><VALUE>1.0e300</VALUE></PROPERTY>\
        <PROPERTY NAME=\"When\" TYPE=\"datetime\"><VALUE>00000000000001.000000:000</VALUE></PROPERTY></INSTANCE>";
    assert_eq!(text, expected);
    let counted = Instance::new("T_Counted")
        .with("Number", 7_u32)
        .with("Flag", true)
        .with("Name", "n");
    let expected = "<INSTANCENAME CLASSNAME=\"T_Counted\"><KEYBINDING NAME=\"Number\"><KEYVALUE VALUETYPE=\"numeric\" TYPE=\"uint32\">7</KEYVALUE></KEYBINDING>\
        <KEYBINDING NAME=\"Flag\"><KEYVALUE VALUETYPE=\"boolean\" TYPE=\"boolean\">TRUE</KEYVALUE></KEYBINDING>\
        <KEYBINDING NAME=\"Name\"><KEYVALUE VALUETYPE=\"string\">n</KEYVALUE></KEYBINDING></INSTANCENAME>";
    assert_eq!(item(Form::Name, &View::default(), &counted), expected);
}

const OPEN: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<CIM CIMVERSION=\"2.0\" DTDVERSION=\"2.0\"><MESSAGE ID=\"7\" PROTOCOLVERSION=\"1.0\"><SIMPLERSP>";
const CLOSE: &str = "</SIMPLERSP></MESSAGE></CIM>\n";

#[test]
fn answers_have_their_envelope() {
    let intrinsic = head(true, "EnumerateInstances");
    let expected = format!(
        "{OPEN}<IMETHODRESPONSE NAME=\"EnumerateInstances\"><IRETURNVALUE><X/></IRETURNVALUE></IMETHODRESPONSE>{CLOSE}"
    );
    assert_eq!(unit(&intrinsic, "<X/>"), expected);
    let page = |last: &str, context: &str| {
        format!(
            "{OPEN}<IMETHODRESPONSE NAME=\"EnumerateInstances\"><IRETURNVALUE></IRETURNVALUE>\
            <PARAMVALUE NAME=\"EndOfSequence\" PARAMTYPE=\"boolean\"><VALUE>{last}</VALUE></PARAMVALUE>\
            <PARAMVALUE NAME=\"EnumerationContext\" PARAMTYPE=\"string\"><VALUE>{context}</VALUE></PARAMVALUE></IMETHODRESPONSE>{CLOSE}"
        )
    };
    assert_eq!(
        begin(&intrinsic) + &end(Some(Page::More("c&1"))),
        page("FALSE", "c&amp;1")
    );
    assert_eq!(begin(&intrinsic) + &end(Some(Page::Last)), page("TRUE", ""));
    let expected = format!("{OPEN}<IMETHODRESPONSE NAME=\"EnumerateInstances\"></IMETHODRESPONSE>{CLOSE}");
    assert_eq!(nothing(&intrinsic), expected);
    let why = CimError::new(Status::NotFound, "no \"x\"\nhere");
    let expected = format!(
        "{OPEN}<METHODRESPONSE NAME=\"M\"><ERROR CODE=\"6\" DESCRIPTION=\"no &quot;x&quot;&#10;here\"/></METHODRESPONSE>{CLOSE}"
    );
    assert_eq!(error(&head(false, "M"), &why), expected);
}

#[test]
fn methods_give_back_the_outputs_that_have_a_value() {
    let space = namespace();
    let method = space.class("T_Thing").unwrap().method("Change").unwrap();
    let job = ObjectPath::new(
        "root/test",
        InstanceName::new("T_Element", &[("InstanceID", "a<1")]),
    );
    let several = Value::Array(vec![Instance::new("T_Element").into()]);
    let out = [
        ("job".to_owned(), job.into()),
        ("Several".to_owned(), several),
        ("Target".to_owned(), "input".into()),
    ];
    let expected = format!(
        "{OPEN}<METHODRESPONSE NAME=\"Change\"><RETURNVALUE PARAMTYPE=\"uint32\"><VALUE>4096</VALUE></RETURNVALUE>\
        <PARAMVALUE NAME=\"Job\" PARAMTYPE=\"reference\"><VALUE.REFERENCE><LOCALINSTANCEPATH><LOCALNAMESPACEPATH><NAMESPACE NAME=\"root\"/><NAMESPACE NAME=\"test\"/></LOCALNAMESPACEPATH>{NAME}</LOCALINSTANCEPATH></VALUE.REFERENCE></PARAMVALUE>\
        <PARAMVALUE NAME=\"Several\" PARAMTYPE=\"string\" EmbeddedObject=\"instance\"><VALUE.ARRAY><VALUE>&lt;INSTANCE CLASSNAME=&quot;T_Element&quot;&gt;&lt;/INSTANCE&gt;</VALUE></VALUE.ARRAY></PARAMVALUE>\
        </METHODRESPONSE>{CLOSE}"
    );
    assert_eq!(
        method_response(&head(false, "Change"), &space, method, 4096, &out),
        expected
    );
}

#[test]
fn classes_show_what_is_their_own_or_everything() {
    let space = namespace();
    let class = space.class("T_Thing").unwrap();
    let all = View {
        qualifiers: true,
        class_origin: true,
        ..View::default()
    };
    let text = class_item(&space, class, &all);
    assert!(
        text.starts_with("<CLASS NAME=\"T_Thing\" SUPERCLASS=\"T_Element\">"),
        "{text}"
    );
    let key = "<PROPERTY NAME=\"InstanceID\" TYPE=\"string\" CLASSORIGIN=\"T_Element\" PROPAGATED=\"true\"><QUALIFIER NAME=\"Key\" TYPE=\"boolean\" OVERRIDABLE=\"false\"><VALUE>TRUE</VALUE></QUALIFIER></PROPERTY>";
    assert!(text.contains(key), "{text}");
    assert!(text.contains("<METHOD NAME=\"Change\" TYPE=\"uint32\" CLASSORIGIN=\"T_Thing\"><PARAMETER.REFERENCE NAME=\"Target\" REFERENCECLASS=\"T_Element\">"));
    let own = class_item(
        &space,
        class,
        &View {
            local_only: true,
            ..View::default()
        },
    );
    assert!(
        !own.contains("InstanceID") && own.contains("NAME=\"U16\"") && !own.contains("QUALIFIER"),
        "{own}"
    );
    let declaration = qualifier_item(&space, &space.qualifiers["key"]);
    assert_eq!(
        declaration,
        "<QUALIFIER.DECLARATION NAME=\"Key\" TYPE=\"boolean\" ISARRAY=\"false\" OVERRIDABLE=\"false\" TOSUBCLASS=\"true\" TRANSLATABLE=\"false\">\
        <SCOPE REFERENCE=\"true\" PROPERTY=\"true\"/><VALUE>FALSE</VALUE></QUALIFIER.DECLARATION>"
    );
}

#[test]
fn indications_are_exported_and_acknowledged() {
    let indication = Instance::new("T_Thing").with("Any", vec![Instance::new("T_Element")]);
    let root = lifeboat_xml::parse(&export_request("e 1", &namespace(), &indication)).unwrap();
    let message = root.child("MESSAGE").unwrap();
    assert_eq!(message.attribute("ID"), Some("e 1"));
    let call = message
        .child("SIMPLEEXPREQ")
        .and_then(|r| r.child("EXPMETHODCALL"))
        .unwrap();
    let value = call.child("EXPPARAMVALUE").unwrap();
    assert_eq!(
        (call.attribute("NAME"), value.attribute("NAME")),
        (Some("ExportIndication"), Some("NewIndication"))
    );
    let carried = value
        .child("INSTANCE")
        .unwrap()
        .elements()
        .find(|e| e.attribute("NAME") == Some("Any"))
        .unwrap();
    assert_eq!(carried.attribute("EmbeddedObject"), Some("object"));
    let reply = |content: &str| {
        format!(
            "<CIM CIMVERSION=\"2.0\" DTDVERSION=\"2.0\"><MESSAGE ID=\"e 1\" PROTOCOLVERSION=\"1.0\"><SIMPLEEXPRSP>{content}</SIMPLEEXPRSP></MESSAGE></CIM>"
        )
    };
    let taken = reply("<EXPMETHODRESPONSE NAME=\"ExportIndication\"><IRETURNVALUE/></EXPMETHODRESPONSE>");
    assert_eq!(export_reply(&taken, "e 1"), Ok(()));
    assert!(matches!(
        export_reply(&taken, "e 2"),
        Err(ExportError::NotValid(_))
    ));
    let refused = reply(
        "<EXPMETHODRESPONSE NAME=\"ExportIndication\"><ERROR CODE=\"1\" DESCRIPTION=\"full\"/></EXPMETHODRESPONSE>",
    );
    assert_eq!(
        export_reply(&refused, "e 1"),
        Err(ExportError::Refused {
            code: 1,
            description: "full".to_owned()
        })
    );
    assert!(matches!(
        export_reply(&reply(""), "e 1"),
        Err(ExportError::NotValid(_))
    ));
    assert!(matches!(export_reply("<a>", "e 1"), Err(ExportError::Xml(_))));
}

/// Text that XML can hold.
fn text() -> impl Strategy<Value = String> {
    let legal = |c: &char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..);
    any::<String>().prop_map(move |s| s.chars().filter(legal).take(20).collect())
}

/// A value of a property, seeded so that each class can be filled; embedded instances are left to the hand-made tests.
fn value(of: &Property, seed: u64, text: &str) -> Option<Value> {
    let mixed = (seed ^ of.name.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let bits = |n: u32| mixed >> (64 - n);
    let signed = |n: u32| mixed.cast_signed() >> (64 - n);
    let one = match of.kind {
        CimType::Boolean => Value::Boolean(mixed.is_multiple_of(2)),
        CimType::Uint8 => Value::Unsigned(bits(8)),
        CimType::Uint16 => Value::Unsigned(bits(16)),
        CimType::Uint32 => Value::Unsigned(bits(32)),
        CimType::Uint64 => Value::Unsigned(mixed),
        CimType::Sint8 => Value::Signed(signed(8)),
        CimType::Sint16 => Value::Signed(signed(16)),
        CimType::Sint32 => Value::Signed(signed(32)),
        CimType::Sint64 => Value::Signed(signed(64)),
        CimType::Real32 | CimType::Real64 => Value::Real(f64::from_bits(mixed >> 2)),
        CimType::Char16 => Value::from("x"),
        CimType::String if of.embedded.is_some() => return None,
        CimType::String => Value::from(text),
        CimType::DateTime if mixed.is_multiple_of(2) => Value::DateTime(DateTime::interval(bits(50))),
        CimType::DateTime => Value::DateTime(DateTime::instant(signed(56))),
        CimType::Reference => {
            let class = of.reference_class.as_deref()?;
            Value::from(ObjectPath::new(
                "root/x",
                InstanceName::new(class, &[("Name", text)]),
            ))
        }
    };
    match (of.array, mixed % 5) {
        (_, 0) => None,
        (true, n) => Some(Value::Array(vec![one; usize::try_from(n).unwrap_or(1) - 1])),
        (false, _) => Some(one),
    }
}

fn reads_back(space: &Namespace, instance: &Instance) {
    let text = encode_instance(space, instance);
    let raw = decode_instance(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let read = typed_instance(space, &instance.class, &raw);
    assert_eq!(read.as_ref(), Ok(instance), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn instances_of_every_class_read_back(seed: u64, text in text()) {
        let fixture = namespace();
        let all = Schema::builtin().namespaces.values().chain([&fixture]);
        for (space, class) in all.flat_map(|s| s.classes.values().map(move |c| (s, c))) {
            let mut instance = Instance::new(&class.name);
            for (n, property) in class.properties.iter().enumerate() {
                if let Some(value) = value(property, seed.rotate_left(u32::try_from(n).unwrap_or(0) % 64), &text) {
                    instance.properties.push((property.name.clone(), value));
                }
            }
            reads_back(space, &instance);
        }
    }

    #[test]
    fn instances_in_instances_read_back(texts in prop::collection::vec(text(), 4)) {
        let space = namespace();
        let mut instance = Instance::new("T_Thing");
        for text in texts {
            let several = Value::Array(vec![Instance::new("T_Element").with("Caption", text.as_str()).into()]);
            instance.set("Any", Some(several));
            reads_back(&space, &instance);
            instance.set("Any", None);
            instance = Instance::new("T_Thing").with("Names", vec![text]).with("Inner", instance);
            if instance_depth(&instance) <= crate::typing::MAX_EMBEDDED {
                reads_back(&space, &instance);
            } else {
                instance = Instance::new("T_Thing");
            }
        }
    }
}

fn instance_depth(instance: &Instance) -> usize {
    match instance.get("Inner") {
        Some(Value::Instance(inner)) => 1 + instance_depth(inner),
        _ => 0,
    }
}
