//! Requests in the shapes that known clients give them, and requests that are none.

use super::decode;
use crate::cimxml::{Call, Head, Intrinsic, Listing, Pulled, QueryText, Request, RequestError, View};
use crate::error::Status;
use crate::path::{InstanceName, KeyValue, ObjectPath};
use crate::raw::Raw;
use lifeboat_xml::XmlError;

/// A request as pywbem writes it: a component of the namespace to each element, no white space.
fn pywbem(call: &str, name: &str, content: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\" ?>\n<CIM CIMVERSION=\"2.0\" DTDVERSION=\"2.0\">\
         <MESSAGE ID=\"1001\" PROTOCOLVERSION=\"1.0\"><SIMPLEREQ><{call} NAME=\"{name}\">{content}</{call}></SIMPLEREQ></MESSAGE></CIM>"
    )
}

const SPACE: &str = "<LOCALNAMESPACEPATH><NAMESPACE NAME=\"root\"/><NAMESPACE NAME=\"virtualization\"/><NAMESPACE NAME=\"v2\"/></LOCALNAMESPACEPATH>";
const VM: &str = "<INSTANCENAME CLASSNAME=\"Msvm_ComputerSystem\"><KEYBINDING NAME=\"CreationClassName\">\
    <KEYVALUE VALUETYPE=\"string\" TYPE=\"string\">Msvm_ComputerSystem</KEYVALUE></KEYBINDING><KEYBINDING NAME=\"Name\">\
    <KEYVALUE VALUETYPE=\"string\">a5f8</KEYVALUE></KEYBINDING></INSTANCENAME>";

fn vm() -> InstanceName {
    let keys = [("creationclassname", "msvm_computersystem"), ("Name", "A5F8")];
    InstanceName::new("Msvm_ComputerSystem", &keys)
}

fn read(text: &str) -> Request {
    decode(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn intrinsic(name: &str, parameters: &str) -> Result<Intrinsic, RequestError> {
    let request = decode(&pywbem("IMETHODCALL", name, &format!("{SPACE}{parameters}")))?;
    assert_eq!(request.namespace, "root/virtualization/v2");
    let head = Head {
        id: "1001".to_owned(),
        name: name.to_owned(),
        intrinsic: true,
    };
    assert_eq!(request.head, head);
    match request.call {
        Call::Intrinsic(operation) => Ok(operation),
        Call::Method { .. } => panic!("{name} is no method"),
    }
}

/// `NAME` and its content, each an IPARAMVALUE.
fn given(parameters: &[(&str, &str)]) -> String {
    let one = |(n, v): &(&str, &str)| match *v {
        v if v.is_empty() || v.starts_with('<') => format!("<IPARAMVALUE NAME=\"{n}\">{v}</IPARAMVALUE>"),
        v => format!("<IPARAMVALUE NAME=\"{n}\"><VALUE>{v}</VALUE></IPARAMVALUE>"),
    };
    parameters.iter().map(one).collect()
}

fn ok(name: &str, parameters: &[(&str, &str)]) -> Intrinsic {
    intrinsic(name, &given(parameters)).unwrap_or_else(|e| panic!("{e}"))
}

const CLASS: (&str, &str) = ("ClassName", "<CLASSNAME NAME=\"Msvm_ComputerSystem\"/>");

#[test]
fn instances_are_asked_for_with_what_of_them_is_wanted() {
    let list = "<VALUE.ARRAY><VALUE>Name</VALUE><VALUE>ElementName</VALUE></VALUE.ARRAY>";
    let all = [
        CLASS,
        ("LocalOnly", "FALSE"),
        ("DeepInheritance", "TRUE"),
        ("IncludeQualifiers", "false"),
        ("includeclassorigin", "True"),
        ("PropertyList", list),
    ];
    let Intrinsic::List(Listing::Instances { class, view }) = ok("EnumerateInstances", &all) else {
        panic!("not a list of instances")
    };
    assert_eq!(class, "Msvm_ComputerSystem");
    assert!(view.class_origin && view.wants("elementname") && !view.wants("Caption"));
    let Intrinsic::GetInstance { name, view } =
        ok("GetInstance", &[("InstanceName", VM), ("PropertyList", "")])
    else {
        panic!("not one instance")
    };
    assert_eq!((name, view), (vm(), View::default()));
    let none = ok(
        "GetInstance",
        &[("InstanceName", VM), ("PropertyList", "<VALUE.ARRAY/>")],
    );
    assert!(matches!(none, Intrinsic::GetInstance { view, .. } if !view.wants("Name")));
    let names = ok("enumerateinstancenames", &[("classname", CLASS.1)]);
    assert!(matches!(names, Intrinsic::List(Listing::Names { class }) if class == "Msvm_ComputerSystem"));
}

#[test]
fn associations_are_walked_from_instances_and_classes() {
    let filters = [
        ("ObjectName", VM),
        ("AssocClass", "<CLASSNAME NAME=\"A\"/>"),
        ("ResultClass", "<CLASSNAME NAME=\"R\"/>"),
        ("Role", "From"),
        ("ResultRole", ""),
    ];
    let Intrinsic::List(Listing::Associators { relation, .. }) = ok("Associators", &filters) else {
        panic!("not associators")
    };
    assert_eq!((&relation.source, relation.of_class), (&vm(), false));
    assert_eq!(
        (relation.association.as_deref(), relation.result.as_deref()),
        (Some("A"), Some("R"))
    );
    assert_eq!(
        (relation.role.as_deref(), relation.result_role),
        (Some("From"), None)
    );
    let class = ok("ReferenceNames", &[("ObjectName", "<CLASSNAME NAME=\"C\"/>")]);
    assert!(
        matches!(class, Intrinsic::List(Listing::ReferenceNames { relation }) if relation.of_class && relation.source.class == "C")
    );
    assert!(matches!(
        ok("AssociatorNames", &filters[..2]),
        Intrinsic::List(Listing::AssociatorNames { .. })
    ));
    assert!(matches!(
        ok("References", &filters[..1]),
        Intrinsic::List(Listing::References { .. })
    ));
    // References have no association class to go through.
    assert_eq!(
        refused("References", &filters[..2]),
        (4, "parameter AssocClass is unknown here".to_owned())
    );
}

#[test]
fn queries_are_asked_and_opened() {
    let query = QueryText {
        language: "WQL".to_owned(),
        text: "select * from C where a < 1".to_owned(),
    };
    let parameters = [
        ("QueryLanguage", "WQL"),
        ("Query", "select * from C where a &lt; 1"),
    ];
    assert!(matches!(ok("ExecQuery", &parameters), Intrinsic::List(Listing::Query(q)) if q == query));
    let open = ok(
        "OpenQueryInstances",
        &[
            ("FilterQueryLanguage", "WQL"),
            ("FilterQuery", "select * from C where a &lt; 1"),
            ("MaxObjectCount", "10"),
        ],
    );
    assert!(
        matches!(open, Intrinsic::Open { listing: Listing::Query(q), max: 10, timeout: None, filter: None } if q == query)
    );
    let open = ok(
        "OpenEnumerateInstances",
        &[
            CLASS,
            ("OperationTimeout", "40"),
            ("ContinueOnError", "FALSE"),
            ("FilterQueryLanguage", "DMTF:FQL"),
            ("FilterQuery", "x = 1"),
        ],
    );
    assert!(matches!(
        open,
        Intrinsic::Open {
            listing: Listing::Instances { .. },
            max: 0,
            timeout: Some(40),
            filter: Some(_)
        }
    ));
}

#[test]
fn enumerations_are_opened_pulled_and_closed() {
    for (name, kind) in [
        ("OpenEnumerateInstancePaths", Pulled::Paths),
        ("OpenAssociatorInstances", Pulled::InstancesWithPath),
        ("OpenAssociatorInstancePaths", Pulled::Paths),
        ("OpenReferenceInstances", Pulled::InstancesWithPath),
        ("OpenReferenceInstancePaths", Pulled::Paths),
    ] {
        let source = if name.contains("Enumerate") {
            CLASS
        } else {
            ("InstanceName", VM)
        };
        let Intrinsic::Open { listing, max, .. } = ok(name, &[source, ("MaxObjectCount", "0")]) else {
            panic!("{name} opens nothing")
        };
        assert_eq!((Pulled::of(&listing), max), (kind, 0), "{name}");
    }
    let pull = [("EnumerationContext", "c 1"), ("MaxObjectCount", "100")];
    for (name, form) in [
        ("PullInstancesWithPath", Pulled::InstancesWithPath),
        ("PullInstancePaths", Pulled::Paths),
        ("PullInstances", Pulled::Instances),
    ] {
        assert!(
            matches!(ok(name, &pull), Intrinsic::Pull { kind, context, max: 100 } if kind == form && context == "c 1")
        );
    }
    assert!(matches!(
        ok("CloseEnumeration", &pull[..1]),
        Intrinsic::CloseEnumeration { .. }
    ));
}

#[test]
fn the_schema_is_asked_for() {
    let Intrinsic::GetClass { class, view } = ok(
        "GetClass",
        &[CLASS, ("LocalOnly", "FALSE"), ("IncludeClassOrigin", "TRUE")],
    ) else {
        panic!("not a class")
    };
    assert!(class == "Msvm_ComputerSystem" && !view.local_only && view.qualifiers && view.class_origin);
    assert!(
        matches!(ok("EnumerateClasses", &[]), Intrinsic::EnumerateClasses { class: None, deep: false, view } if view.local_only)
    );
    assert!(matches!(
        ok(
            "EnumerateClassNames",
            &[("ClassName", ""), ("DeepInheritance", "TRUE")]
        ),
        Intrinsic::EnumerateClassNames {
            class: None,
            deep: true
        }
    ));
    assert!(matches!(
        ok("EnumerateQualifiers", &[]),
        Intrinsic::EnumerateQualifiers
    ));
    assert!(
        matches!(ok("GetQualifier", &[("QualifierName", "Key")]), Intrinsic::GetQualifier { name } if name == "Key")
    );
}

#[test]
fn instances_are_made_changed_and_removed() {
    let new = "<INSTANCE CLASSNAME=\"CIM_IndicationFilter\"><PROPERTY NAME=\"Query\" TYPE=\"string\"><VALUE>q</VALUE></PROPERTY>\
        <PROPERTY.ARRAY NAME=\"S\" TYPE=\"string\"><VALUE.ARRAY><VALUE>a</VALUE><VALUE.NULL/></VALUE.ARRAY></PROPERTY.ARRAY></INSTANCE>";
    let Intrinsic::CreateInstance { instance } = ok("CreateInstance", &[("NewInstance", new)]) else {
        panic!("nothing new")
    };
    let list = Raw::List(vec![Raw::Text("a".to_owned()), Raw::Null]);
    assert_eq!(
        instance.properties,
        [
            ("Query".to_owned(), Raw::Text("q".to_owned())),
            ("S".to_owned(), list)
        ]
    );
    let named = format!("<VALUE.NAMEDINSTANCE>{VM}{new}</VALUE.NAMEDINSTANCE>");
    let changed = ok(
        "ModifyInstance",
        &[
            ("ModifiedInstance", &named),
            ("IncludeQualifiers", "FALSE"),
            ("PropertyList", "<VALUE.ARRAY><VALUE>Query</VALUE></VALUE.ARRAY>"),
        ],
    );
    assert!(
        matches!(changed, Intrinsic::ModifyInstance { name, instance: i, properties: Some(_) } if name == vm() && i == instance)
    );
    assert!(
        matches!(ok("DeleteInstance", &[("InstanceName", VM)]), Intrinsic::DeleteInstance { name } if name == vm())
    );
}

fn refused(name: &str, parameters: &[(&str, &str)]) -> (u16, String) {
    match intrinsic(name, &given(parameters)) {
        Err(e @ RequestError::Refused { .. }) => {
            assert_eq!((e.http_status(), e.cim_error()), (200, None));
            let RequestError::Refused { head, error } = e else {
                unreachable!()
            };
            assert_eq!((head.name.as_str(), head.id.as_str()), (name, "1001"));
            (error.status.number(), error.message)
        }
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn wrong_parameters_are_named() {
    let missing = |p: &str| (4, format!("parameter {p} is missing"));
    assert_eq!(refused("EnumerateInstances", &[]), missing("ClassName"));
    assert_eq!(
        refused("GetInstance", &[("InstanceName", "")]),
        missing("InstanceName")
    );
    assert_eq!(refused("ExecQuery", &[("Query", "x")]), missing("QueryLanguage"));
    assert_eq!(refused("ExecQuery", &[]), missing("Query"));
    assert_eq!(
        refused("PullInstances", &[("EnumerationContext", "x")]),
        missing("MaxObjectCount")
    );
    assert_eq!(
        refused("PullInstances", &[("MaxObjectCount", "1")]),
        missing("EnumerationContext")
    );
    assert_eq!(refused("ModifyInstance", &[]), missing("ModifiedInstance"));
}

#[test]
fn parameters_of_the_wrong_form_are_named() {
    for (parameters, message) in [
        (vec![CLASS, ("Deep", "TRUE")], "parameter Deep is unknown here"),
        (
            vec![CLASS, ("classname", CLASS.1)],
            "parameter classname is given twice",
        ),
        (
            vec![CLASS, ("LocalOnly", "maybe")],
            "parameter LocalOnly: \"maybe\" is no boolean",
        ),
        (
            vec![CLASS, ("LocalOnly", "<VALUE.ARRAY/>")],
            "parameter LocalOnly: one VALUE belongs there",
        ),
        (
            vec![
                CLASS,
                ("PropertyList", "<VALUE.ARRAY><VALUE.NULL/></VALUE.ARRAY>"),
            ],
            "parameter PropertyList: a VALUE.ARRAY of texts belongs there",
        ),
        (
            vec![CLASS, ("PropertyList", "<X/>")],
            "parameter PropertyList: X is no value",
        ),
        (
            vec![("ClassName", VM)],
            "parameter ClassName: a CLASSNAME belongs there",
        ),
        (
            vec![("ClassName", "<CLASSNAME NAME=\"a\"/><CLASSNAME NAME=\"b\"/>")],
            "parameter ClassName: CLASSNAME is one too many in IPARAMVALUE",
        ),
    ] {
        assert_eq!(
            refused("EnumerateInstances", &parameters),
            (4, message.to_owned())
        );
    }
}

#[test]
fn names_that_are_none_and_operations_that_are_not_here_are_refused() {
    for (name, message) in [
        (
            "<INSTANCENAME CLASSNAME=\"C\"><KEYVALUE>x</KEYVALUE></INSTANCENAME>",
            "parameter InstanceName: KEYVALUE where a KEYBINDING with the key's name belongs",
        ),
        (
            "<INSTANCENAME CLASSNAME=\"C\"><KEYBINDING NAME=\"a\"/></INSTANCENAME>",
            "parameter InstanceName: a KEYBINDING without a KEYVALUE or VALUE.REFERENCE",
        ),
        (
            "<INSTANCENAME/>",
            "parameter InstanceName: INSTANCENAME without CLASSNAME",
        ),
        ("text", "parameter InstanceName: an INSTANCENAME belongs there"),
    ] {
        assert_eq!(
            refused("GetInstance", &[("InstanceName", name)]),
            (4, message.to_owned())
        );
    }
    let doubled = "<KEYBINDING NAME=\"a\"><KEYVALUE>x</KEYVALUE></KEYBINDING>";
    let doubled = format!(
        "<INSTANCENAME CLASSNAME=\"C\">{doubled}{}</INSTANCENAME>",
        doubled.replace("\"a\"", "\"A\"")
    );
    assert_eq!(
        refused("GetInstance", &[("InstanceName", &doubled)]).1,
        "parameter InstanceName: the key A occurs twice"
    );
    let number = refused("OpenEnumerateInstances", &[CLASS, ("MaxObjectCount", "-1")]);
    assert_eq!(
        number,
        (4, "parameter MaxObjectCount: \"-1\" is no uint32".to_owned())
    );
    let not_supported = Status::NotSupported.number();
    assert_eq!(
        refused("OpenEnumerateInstances", &[CLASS, ("ContinueOnError", "TRUE")]).0,
        not_supported
    );
    assert_eq!(
        refused("OpenQueryInstances", &[("ReturnQueryResultClass", "TRUE")]).0,
        not_supported
    );
    for unknown in [
        "EnumerationCount",
        "SetProperty",
        "CreateClass",
        "DeleteQualifier",
        "Reboot",
    ] {
        let (status, message) = refused(unknown, &[("x", "y")]);
        assert_eq!(
            (status, message),
            (
                not_supported,
                format!("there is no operation {}", unknown.to_lowercase())
            )
        );
    }
}

const SERVICE: &str = "<LOCALINSTANCEPATH><LOCALNAMESPACEPATH><NAMESPACE NAME=\"root/virtualization/v2\"/></LOCALNAMESPACEPATH>\
    <INSTANCENAME CLASSNAME=\"Msvm_ReplicationService\"><KEYBINDING NAME=\"Name\"><KEYVALUE VALUETYPE=\"string\">replicasvc</KEYVALUE></KEYBINDING></INSTANCENAME></LOCALINSTANCEPATH>";

#[test]
fn references_come_in_every_shape_that_clients_have() {
    let local = format!("<LOCALINSTANCEPATH>{SPACE}{VM}</LOCALINSTANCEPATH>");
    let whole = format!(
        "<INSTANCEPATH><NAMESPACEPATH><HOST>no/sense</HOST>{SPACE}</NAMESPACEPATH>{VM}</INSTANCEPATH>"
    );
    let path = |given: &str, parameter: &str| {
        let parameter = format!("<PARAMVALUE NAME=\"ComputerSystem\"{parameter}>{given}</PARAMVALUE>");
        let request = read(&pywbem(
            "METHODCALL",
            "StartReplication",
            &format!("{SERVICE}{parameter}"),
        ));
        let Call::Method { target, arguments } = request.call else {
            panic!("no method")
        };
        assert_eq!(
            target,
            InstanceName::new("Msvm_ReplicationService", &[("Name", "replicasvc")])
        );
        assert_eq!(
            (request.namespace.as_str(), request.head.intrinsic),
            ("root/virtualization/v2", false)
        );
        let [(name, raw)] = &arguments[..] else {
            panic!("{arguments:?}")
        };
        assert_eq!(name, "ComputerSystem");
        raw.clone()
    };
    let reference = " PARAMTYPE=\"reference\"";
    let in_value = |p: &str| format!("<VALUE.REFERENCE>{p}</VALUE.REFERENCE>");
    for (given, parameter) in [
        (in_value(&local), reference),
        (in_value(VM), reference),
        (in_value(&whole), ""),
        (
            format!("\n  <VALUE.REFERENCE>\n {whole}\n</VALUE.REFERENCE>\n"),
            "",
        ),
        (VM.to_owned(), ""),
    ] {
        let expected = ObjectPath::new("root/virtualization/v2", vm());
        assert_eq!(path(&given, parameter), Raw::Path(expected), "{given}");
    }
    assert!(matches!(path(&in_value(&whole), ""), Raw::Path(p) if p.host.as_deref() == Some("no/sense")));
    assert_eq!(path("", reference), Raw::Null);
    assert_eq!(path("", ""), Raw::Null);
    let class = "<VALUE.REFERENCE><CLASSNAME NAME=\"C\"/></VALUE.REFERENCE>";
    assert!(matches!(path(class, reference), Raw::Path(p) if p.name.class == "C" && p.name.keys.is_empty()));
    let list = format!(
        "<VALUE.REFARRAY>{}{}</VALUE.REFARRAY>",
        in_value(VM),
        in_value(&local)
    );
    assert!(matches!(path(&list, reference), Raw::List(l) if l.len() == 2 && matches!(&l[0], Raw::Path(_))));
    let keyed = format!(
        "<INSTANCENAME CLASSNAME=\"L\"><KEYBINDING NAME=\"From\">{}</KEYBINDING>\
        <KEYBINDING NAME=\"N\"><KEYVALUE VALUETYPE=\"numeric\" TYPE=\"uint32\"> 7 </KEYVALUE></KEYBINDING></INSTANCENAME>",
        in_value(&local)
    );
    let Raw::Path(link) = path(&in_value(&keyed), reference) else {
        panic!("no path")
    };
    assert!(matches!(link.name.key("from"), Some(KeyValue::Reference(to)) if to.name == vm()));
    assert_eq!(link.name.text("N"), Some("7"));
}

#[test]
fn embedded_instances_and_lists_are_arguments() {
    let arguments =
        |parameters: &str| match read(&pywbem("METHODCALL", "M", &format!("{SERVICE}{parameters}"))).call {
            Call::Method { arguments, .. } => arguments,
            Call::Intrinsic(_) => panic!("no method"),
        };
    let instance = "<INSTANCE CLASSNAME=\"C\"/>";
    let escaped = instance.replace('<', "&lt;").replace('>', "&gt;");
    for value in [escaped.clone(), format!("<![CDATA[{instance}]]>")] {
        for embedded in ["", " EmbeddedObject=\"instance\"", " EMBEDDEDOBJECT=\"instance\""] {
            let one = format!(
                "<PARAMVALUE NAME=\"S\" PARAMTYPE=\"string\"{embedded}><VALUE>{value}</VALUE></PARAMVALUE>"
            );
            assert_eq!(
                arguments(&one),
                [("S".to_owned(), Raw::Text(instance.to_owned()))]
            );
        }
    }
    let bare = format!(
        "<PARAMVALUE NAME=\"S\"><VALUE>{instance}</VALUE></PARAMVALUE><PARAMVALUE NAME=\"T\">{instance}</PARAMVALUE>"
    );
    assert!(
        arguments(&bare)
            .iter()
            .all(|(_, raw)| matches!(raw, Raw::Instance(i) if i.class == "C"))
    );
    let list = format!(
        "<PARAMVALUE NAME=\"S\" PARAMTYPE=\"string\"><VALUE.ARRAY><VALUE>{escaped}</VALUE></VALUE.ARRAY></PARAMVALUE>"
    );
    assert_eq!(
        arguments(&list),
        [("S".to_owned(), Raw::List(vec![Raw::Text(instance.to_owned())]))]
    );
    // A method of a class, and an argument given twice.
    let of_class = format!("<LOCALCLASSPATH>{SPACE}<CLASSNAME NAME=\"C\"/></LOCALCLASSPATH>");
    assert!(
        matches!(read(&pywbem("METHODCALL", "M", &of_class)).call, Call::Method { target, .. } if target.class == "C" && target.keys.is_empty())
    );
    let twice = "<PARAMVALUE NAME=\"a\"/><PARAMVALUE NAME=\"A\"/>";
    let Err(RequestError::Refused { error, .. }) =
        decode(&pywbem("METHODCALL", "M", &format!("{SERVICE}{twice}")))
    else {
        panic!("taken")
    };
    assert_eq!(error.message, "parameter A is given twice");
}

#[test]
fn what_is_no_request_has_its_own_answer() {
    let good = pywbem("IMETHODCALL", "EnumerateQualifiers", SPACE);
    assert!(decode(&good).is_ok());
    // White space, comments and a correlator change nothing.
    let spaced = good.replace("><", ">\n <!-- c --> <").replace(
        "<IMETHODCALL",
        "<CORRELATOR NAME=\"x\" TYPE=\"string\"><VALUE>y</VALUE></CORRELATOR><IMETHODCALL",
    );
    assert!(decode(&spaced).is_ok());
    let refused = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        let error = decode(&good.replace(from, to)).expect_err(to);
        assert!(!error.to_string().is_empty());
        (error.http_status(), error.cim_error().unwrap_or_default())
    };
    let not_valid = (400, "request-not-valid");
    for (from, to, expected) in [
        (
            "CIMVERSION=\"2.0\"",
            "CIMVERSION=\"3.0\"",
            (501, "unsupported-cim-version"),
        ),
        (
            "DTDVERSION=\"2.0\"",
            "DTDVERSION=\"1.1\"",
            (501, "unsupported-dtd-version"),
        ),
        (
            "PROTOCOLVERSION=\"1.0\"",
            "PROTOCOLVERSION=\"2.0\"",
            (501, "unsupported-protocol-version"),
        ),
        ("SIMPLEREQ", "MULTIREQ", (501, "multiple-requests-unsupported")),
        ("SIMPLEREQ", "SIMPLEEXPREQ", (400, "unsupported-operation")),
        ("SIMPLEREQ", "X", not_valid),
        ("</CIM>", "", (400, "request-not-well-formed")),
        ("<CIM ", "<!DOCTYPE CIM><CIM ", (400, "request-not-well-formed")),
        ("ID=\"1001\"", "", not_valid),
        (" NAME=\"EnumerateQualifiers\"", "", not_valid),
        (SPACE, "", not_valid),
        (SPACE, "<LOCALNAMESPACEPATH/>", not_valid),
        (SPACE, "<X/>", not_valid),
        ("IMETHODCALL", "METHODCALL", not_valid),
        ("IMETHODCALL", "EXPMETHODCALL", not_valid),
        ("MESSAGE", "DECLARATION", not_valid),
        ("</SIMPLEREQ>", "</SIMPLEREQ><SIMPLEREQ/>", not_valid),
        ("</IMETHODCALL>", "</IMETHODCALL><IMETHODCALL/>", not_valid),
        ("EnumerateQualifiers", &"x".repeat(300), not_valid),
    ] {
        assert_eq!(refused(from, to), expected, "{from} -> {to}");
    }
    assert!(matches!(
        decode(&"<CIM>".repeat(100)),
        Err(RequestError::Xml(XmlError::TooDeep))
    ));
}
