//! CIM-XML as clients write it, by hand: headers and what they must fit to, reads in one answer and in many, methods, errors.
//! Instances and methods themselves are tested where they are made.

use crate::remote_support::{Answer, Connection, Host, basic, host, post};

pub(crate) const V2: &str = "root/virtualization/v2";
const VM: &str = "6f3b2f2e-3a63-4a0e-9a53-0d9f5f6f0001";

pub(crate) struct Client {
    connection: Connection,
    user: &'static str,
}

pub(crate) async fn client(host: &Host, user: &'static str) -> Client {
    Client {
        connection: host.connect(host.cimxml).await,
        user,
    }
}

pub(crate) fn message(call: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\" ?><CIM CIMVERSION=\"2.0\" DTDVERSION=\"2.0\">\
         <MESSAGE ID=\"1001\" PROTOCOLVERSION=\"1.0\">{call}</MESSAGE></CIM>"
    )
}

pub(crate) fn path(namespace: &str) -> String {
    let part = |n: &str| format!("<NAMESPACE NAME=\"{n}\"/>");
    let parts: String = namespace.split('/').map(part).collect();
    format!("<LOCALNAMESPACEPATH>{parts}</LOCALNAMESPACEPATH>")
}

fn intrinsic(namespace: &str, name: &str, parameters: &str) -> String {
    let path = path(namespace);
    message(&format!(
        "<SIMPLEREQ><IMETHODCALL NAME=\"{name}\">{path}{parameters}</IMETHODCALL></SIMPLEREQ>"
    ))
}

fn class(name: &str) -> String {
    format!("<IPARAMVALUE NAME=\"ClassName\"><CLASSNAME NAME=\"{name}\"/></IPARAMVALUE>")
}

fn value(name: &str, value: &str) -> String {
    format!("<IPARAMVALUE NAME=\"{name}\"><VALUE>{value}</VALUE></IPARAMVALUE>")
}

fn vm_name() -> String {
    let key = |n: &str, v: &str| {
        format!("<KEYBINDING NAME=\"{n}\"><KEYVALUE VALUETYPE=\"string\">{v}</KEYVALUE></KEYBINDING>")
    };
    let keys = key("CreationClassName", "Msvm_ComputerSystem") + &key("Name", VM);
    format!("<INSTANCENAME CLASSNAME=\"Msvm_ComputerSystem\">{keys}</INSTANCENAME>")
}

fn count(text: &str, element: &str) -> usize {
    let start = format!("<{element}");
    let follows = |at: usize| matches!(text.as_bytes().get(at + start.len()), Some(b' ' | b'>' | b'/'));
    text.match_indices(&start).filter(|(at, _)| follows(*at)).count()
}

impl Client {
    pub(crate) async fn send(&mut self, method: &str, object: &str, body: &str) -> Answer {
        let auth = basic(self.user);
        let fields = [
            ("Authorization", auth.as_str()),
            ("Content-Type", "application/xml; charset=\"utf-8\""),
            ("CIMOperation", "MethodCall"),
            ("CIMMethod", method),
            ("CIMObject", object),
        ];
        self.connection.post("/cimom", &fields, body).await
    }

    async fn ask(&mut self, namespace: &str, name: &str, parameters: &str) -> Answer {
        let answer = self
            .send(name, namespace, &intrinsic(namespace, name, parameters))
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("cimoperation"), Some("MethodResponse"));
        assert!(
            answer
                .header("content-type")
                .unwrap()
                .starts_with("application/xml")
        );
        assert!(answer.body.contains("<MESSAGE ID=\"1001\""), "{}", answer.body);
        assert!(
            answer
                .body
                .contains(&format!("<IMETHODRESPONSE NAME=\"{name}\">")),
            "{}",
            answer.body
        );
        answer
    }

    pub(crate) async fn good(&mut self, namespace: &str, name: &str, parameters: &str) -> String {
        let answer = self.ask(namespace, name, parameters).await;
        assert_eq!(count(&answer.body, "ERROR"), 0, "{}", answer.body);
        answer.body
    }

    pub(crate) async fn error(&mut self, namespace: &str, name: &str, parameters: &str) -> u16 {
        let answer = self.ask(namespace, name, parameters).await;
        let code = answer.body.split_once("<ERROR CODE=\"");
        let code = code.unwrap_or_else(|| panic!("{}", answer.body)).1;
        code.split('"').next().unwrap().parse().unwrap()
    }
}

#[tokio::test]
async fn instances_and_what_belongs_to_them_are_read() {
    let host = host().await;
    let mut c = client(&host, "viewer").await;
    let by_name = format!("<IPARAMVALUE NAME=\"InstanceName\">{}</IPARAMVALUE>", vm_name());
    let got = c.good(V2, "GetInstance", &by_name).await;
    assert_eq!((count(&got, "INSTANCE"), count(&got, "INSTANCENAME")), (1, 0));
    assert!(got.contains("<PROPERTY NAME=\"ElementName\""), "{got}");
    let some = "<IPARAMVALUE NAME=\"PropertyList\"><VALUE.ARRAY><VALUE>elementname</VALUE></VALUE.ARRAY></IPARAMVALUE>";
    let got = c.good(V2, "GetInstance", &(by_name.clone() + some)).await;
    assert_eq!(
        count(&got, "PROPERTY") + count(&got, "PROPERTY.ARRAY"),
        1,
        "{got}"
    );
    let listed = c
        .good(V2, "EnumerateInstances", &class("Msvm_ComputerSystem"))
        .await;
    let systems = count(&listed, "VALUE.NAMEDINSTANCE");
    assert!(systems >= 1);
    let names = c
        .good(V2, "EnumerateInstanceNames", &class("Msvm_ComputerSystem"))
        .await;
    assert_eq!(count(&names, "INSTANCENAME"), systems);
    let from = format!("<IPARAMVALUE NAME=\"ObjectName\">{}</IPARAMVALUE>", vm_name());
    let found = c
        .good(
            V2,
            "Associators",
            &(from.clone() + &value_class("AssocClass", "Msvm_SettingsDefineState")),
        )
        .await;
    assert_eq!(count(&found, "VALUE.OBJECTWITHPATH"), 1, "{found}");
    assert!(found.contains("<HOST>a</HOST>"), "{found}");
    let paths = c.good(V2, "ReferenceNames", &from).await;
    assert!(
        count(&paths, "OBJECTPATH") > 1 && count(&paths, "INSTANCE") == 0,
        "{paths}"
    );
    let query = "select ElementName, Name from Msvm_ComputerSystem where Name like '6F3B%'";
    let found = c
        .good(
            V2,
            "ExecQuery",
            &(value("QueryLanguage", "WQL") + &value("Query", query)),
        )
        .await;
    assert_eq!(count(&found, "VALUE.OBJECTWITHPATH"), 1, "{found}");
    assert!(
        !found.contains("EnabledState") && found.contains("NAME=\"ElementName\""),
        "{found}"
    );
    host.stop().await;
}

/// An association of the interop namespace leads to the replication service, which is declared in another: the answer names
/// it there, with its keys and in its types, and both protocols say the same.
#[tokio::test]
async fn associations_lead_into_another_namespace() {
    let host = host().await;
    let mut client = client(&host, "viewer").await;
    let profile = "<IPARAMVALUE NAME=\"ObjectName\"><INSTANCENAME CLASSNAME=\"Msvm_RegisteredProfile\">\
         <KEYBINDING NAME=\"InstanceID\"><KEYVALUE>Lifeboat:Virtual Machine Replication</KEYVALUE></KEYBINDING>\
         </INSTANCENAME></IPARAMVALUE>";
    let interop = "root/interop";
    let result = class("Msvm_ReplicationService").replace("ClassName", "ResultClass");
    for (operation, element) in [
        ("AssociatorNames", "OBJECTPATH"),
        ("Associators", "VALUE.OBJECTWITHPATH"),
    ] {
        let all = client.good(interop, operation, profile).await;
        assert_eq!(count(&all, element), 1, "{operation}: {all}");
        assert!(
            all.contains("<NAMESPACE NAME=\"virtualization\"/><NAMESPACE NAME=\"v2\"/>"),
            "{all}"
        );
        assert!(all.contains("CLASSNAME=\"Msvm_ReplicationService\""), "{all}");
        for key in [
            "SystemCreationClassName",
            "SystemName",
            "CreationClassName",
            "Name",
        ] {
            assert!(
                all.contains(&format!("<KEYBINDING NAME=\"{key}\">")),
                "{key}: {all}"
            );
        }
        // The class of the result is one of the other namespace.
        let narrowed = client
            .good(interop, operation, &format!("{profile}{result}"))
            .await;
        assert_eq!(count(&narrowed, element), 1, "{narrowed}");
    }
    let whole = client.good(interop, "Associators", profile).await;
    assert!(
        whole.contains("<PROPERTY NAME=\"EnabledState\" TYPE=\"uint16\""),
        "{whole}"
    );
    assert!(
        whole.contains("<PROPERTY.ARRAY NAME=\"OperationalStatus\" TYPE=\"uint16\""),
        "{whole}"
    );
}

fn value_class(parameter: &str, name: &str) -> String {
    format!("<IPARAMVALUE NAME=\"{parameter}\"><CLASSNAME NAME=\"{name}\"/></IPARAMVALUE>")
}

#[tokio::test]
async fn a_long_answer_comes_in_pieces_and_is_the_same_as_the_pulled_one() {
    let host = host().await;
    let mut c = client(&host, "viewer").await;
    let all = class("CIM_ManagedElement");
    let answer = c.ask(V2, "EnumerateInstances", &all).await;
    let number = count(&answer.body, "VALUE.NAMEDINSTANCE");
    assert!(
        answer.chunks > 1,
        "{} bytes in {} chunks",
        answer.body.len(),
        answer.chunks
    );
    assert!(answer.body.trim_end().ends_with("</CIM>"));
    // The connection goes on, and the pulled items are as many.
    let end =
        |text: &str| text.contains("<PARAMVALUE NAME=\"EndOfSequence\" PARAMTYPE=\"boolean\"><VALUE>TRUE");
    let context_of = |text: &str| {
        let rest = text
            .split_once("<PARAMVALUE NAME=\"EnumerationContext\" PARAMTYPE=\"string\"><VALUE>")
            .unwrap()
            .1;
        rest.split('<').next().unwrap().to_owned()
    };
    let opened = c
        .good(
            V2,
            "OpenEnumerateInstances",
            &(all.clone() + &value("MaxObjectCount", "0")),
        )
        .await;
    assert_eq!(count(&opened, "VALUE.INSTANCEWITHPATH"), 0);
    let (mut pulled, mut context) = (0, context_of(&opened));
    loop {
        let parameters = value("EnumerationContext", &context) + &value("MaxObjectCount", "7");
        let more = c.good(V2, "PullInstancesWithPath", &parameters).await;
        pulled += count(&more, "VALUE.INSTANCEWITHPATH");
        if end(&more) {
            break;
        }
        assert_eq!(count(&more, "VALUE.INSTANCEWITHPATH"), 7);
        context = context_of(&more);
    }
    assert_eq!(pulled, number);
    let gone = value("EnumerationContext", &context) + &value("MaxObjectCount", "1");
    assert_eq!(c.error(V2, "PullInstancesWithPath", &gone).await, 21);
    let paths = c
        .good(
            V2,
            "OpenEnumerateInstancePaths",
            &(all + &value("MaxObjectCount", "1")),
        )
        .await;
    let context = value("EnumerationContext", &context_of(&paths));
    let one = context.clone() + &value("MaxObjectCount", "1");
    assert_eq!(
        c.error(V2, "PullInstancesWithPath", &one).await,
        21,
        "of the wrong kind"
    );
    let mut other = client(&host, "operator").await;
    assert_eq!(
        other.error(V2, "PullInstancePaths", &one).await,
        21,
        "of another user"
    );
    c.good(V2, "PullInstancePaths", &one).await;
    c.good(V2, "CloseEnumeration", &context).await;
    assert_eq!(c.error(V2, "CloseEnumeration", &context).await, 21);
    host.stop().await;
}

#[tokio::test]
async fn classes_are_described() {
    let host = host().await;
    let mut c = client(&host, "viewer").await;
    let one = c.good(V2, "GetClass", &class("msvm_replicationservice")).await;
    assert!(
        one.contains("<CLASS NAME=\"Msvm_ReplicationService\"") && one.contains("NAME=\"RevertFailover\"")
    );
    let top = c.good(V2, "EnumerateClassNames", "").await;
    let deep = value("DeepInheritance", "TRUE");
    let all = c.good(V2, "EnumerateClassNames", &deep).await;
    assert!(count(&all, "CLASSNAME") > count(&top, "CLASSNAME") && count(&top, "CLASSNAME") > 0);
    let below = c
        .good(V2, "EnumerateClasses", &(class("CIM_Service") + &deep))
        .await;
    assert!(
        below.contains("<CLASS NAME=\"Msvm_ReplicationService\"")
            && !below.contains("<CLASS NAME=\"CIM_Service\"")
    );
    let qualifiers = c.good(V2, "EnumerateQualifiers", "").await;
    assert!(count(&qualifiers, "QUALIFIER.DECLARATION") > 5);
    c.good(V2, "GetQualifier", &value("QualifierName", "KEY")).await;
    assert_eq!(
        c.error(V2, "GetQualifier", &value("QualifierName", "Nonsense"))
            .await,
        6
    );
    c.good("root/interop", "EnumerateInstances", &class("CIM_Namespace"))
        .await;
    host.stop().await;
}

#[tokio::test]
async fn errors_have_their_numbers() {
    let host = host().await;
    let mut c = client(&host, "admin").await;
    assert_eq!(
        c.error("root/nowhere", "EnumerateInstances", &class("X")).await,
        3
    );
    assert_eq!(c.error(V2, "EnumerateInstances", &class("Msvm_Nothing")).await, 5);
    let nobody = vm_name().replace(VM, "nobody");
    let by_name = |name: &str| format!("<IPARAMVALUE NAME=\"InstanceName\">{name}</IPARAMVALUE>");
    assert_eq!(c.error(V2, "GetInstance", &by_name(&nobody)).await, 6);
    assert_eq!(c.error(V2, "DeleteInstance", &by_name(&vm_name())).await, 7);
    assert_eq!(c.error(V2, "Explode", "").await, 7);
    let query = |language: &str, text: &str| value("QueryLanguage", language) + &value("Query", text);
    assert_eq!(
        c.error(V2, "ExecQuery", &query("DMTF:CQL", "select * from X"))
            .await,
        14
    );
    assert_eq!(
        c.error(V2, "ExecQuery", &query("WQL", "select nothing")).await,
        15
    );
    let open = class("Msvm_ComputerSystem") + &value("MaxObjectCount", "1");
    assert_eq!(
        c.error(
            V2,
            "OpenEnumerateInstances",
            &(open.clone() + &value("OperationTimeout", "0"))
        )
        .await,
        22
    );
    let filter = value("FilterQueryLanguage", "DMTF:FQL") + &value("FilterQuery", "Name = 'x'");
    assert_eq!(c.error(V2, "OpenEnumerateInstances", &(open + &filter)).await, 25);
    host.stop().await;
}

#[tokio::test]
async fn methods_need_their_role() {
    let host = host().await;
    let object = format!("{V2}:Msvm_ComputerSystem.CreationClassName=\"Msvm_ComputerSystem\",Name=\"{VM}\"");
    let instance = format!("<LOCALINSTANCEPATH>{}{}</LOCALINSTANCEPATH>", path(V2), vm_name());
    let call = |name: &str| {
        message(&format!(
            "<SIMPLEREQ><METHODCALL NAME=\"{name}\">{instance}<PARAMVALUE NAME=\"RequestedState\" \
             PARAMTYPE=\"uint16\"><VALUE>9</VALUE></PARAMVALUE></METHODCALL></SIMPLEREQ>"
        ))
    };
    let returned = |answer: &Answer| {
        let rest = answer
            .body
            .split_once("<RETURNVALUE PARAMTYPE=\"uint32\"><VALUE>")
            .unwrap()
            .1;
        rest.split('<').next().unwrap().parse::<u32>().unwrap()
    };
    let name = "RequestStateChange";
    let mut viewer = client(&host, "viewer").await;
    assert_eq!(returned(&viewer.send(name, &object, &call(name)).await), 32769);
    let mut operator = client(&host, "operator").await;
    let answer = operator.send(name, &object, &call(name)).await;
    assert!([0, 4096].contains(&returned(&answer)), "{}", answer.body);
    let answer = operator.send("Explode", &object, &call("Explode")).await;
    assert!(
        answer.status == 200 && answer.body.contains("<ERROR CODE=\"17\""),
        "{}",
        answer.body
    );
    host.stop().await;
}

#[tokio::test]
async fn an_invalid_request_is_answered_with_a_cimerror_header() {
    let host = host().await;
    let mut c = client(&host, "viewer").await;
    let list = intrinsic(V2, "EnumerateInstances", &class("Msvm_ComputerSystem"));
    let simple = list
        .split_once("<SIMPLEREQ>")
        .unwrap()
        .1
        .split_once("</MESSAGE>")
        .unwrap()
        .0;
    let multiple = message(&format!(
        "<MULTIREQ><SIMPLEREQ>{simple}<SIMPLEREQ>{simple}</MULTIREQ>"
    ));
    for (method, object, body, status, error) in [
        ("GetInstance", V2, list.clone(), 400, "header-mismatch"),
        (
            "EnumerateInstances",
            "root/cimv2",
            list.clone(),
            400,
            "header-mismatch",
        ),
        (
            "EnumerateInstances",
            V2,
            multiple,
            501,
            "multiple-requests-unsupported",
        ),
        ("X", V2, "<CIM".into(), 400, "request-not-well-formed"),
        ("X", V2, "<a>".repeat(1_000_000), 400, "request-not-well-formed"),
        (
            "X",
            V2,
            "<!DOCTYPE CIM><CIM/>".into(),
            400,
            "request-not-well-formed",
        ),
        ("X", V2, "<CIM/>".into(), 400, "request-not-valid"),
        (
            "X",
            V2,
            list.replace("PROTOCOLVERSION=\"1.0\"", "PROTOCOLVERSION=\"2.0\""),
            501,
            "unsupported-protocol-version",
        ),
    ] {
        let answer = c.send(method, object, &body).await;
        assert_eq!(
            (answer.status, answer.header("cimerror")),
            (status, Some(error)),
            "{:.200}",
            body
        );
    }
    let auth = basic("viewer");
    let bare = c
        .connection
        .post("/cimom", &[("Authorization", &auth)], &list)
        .await;
    assert_eq!(
        (bare.status, bare.header("cimerror")),
        (400, Some("unsupported-operation"))
    );
    let encoded = c
        .send("EnumerateInstances", "root%2Fvirtualization%2Fv2", &list)
        .await;
    assert_eq!(encoded.status, 200);
    host.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_in_the_middle_of_an_answer_does_no_harm() {
    let host = host().await;
    let auth = basic("viewer");
    let list = intrinsic(V2, "EnumerateInstances", &class("CIM_ManagedElement"));
    let fields = [
        ("Authorization", auth.as_str()),
        ("CIMOperation", "MethodCall"),
        ("CIMMethod", "EnumerateInstances"),
        ("CIMObject", V2),
    ];
    for _ in 0..5 {
        let mut c = host.connect(host.cimxml).await;
        c.send(post("/cimom", &fields, &list)).await;
    }
    let mut c = client(&host, "viewer").await;
    c.good(V2, "EnumerateInstances", &class("CIM_ManagedElement"))
        .await;
    host.stop().await;
}
