//! Requests as real clients write them, replayed, with what they must be understood as written down by hand; and requests
//! that are wrong, with the fault they must get.

#![allow(clippy::too_many_lines, clippy::unwrap_used)]

use std::time::Duration;

use lifeboat_cim::wql::{Column, Columns, Condition, Operand, Operator, Query, Related, Select};
use lifeboat_cim::wsman::{
    DeliveryMode, Enumerate, Expires, Family, FaultKind, Headers, MAX_ENVELOPE, MAX_ITEMS, Message, Mode,
    Operation, Polymorphism, Pull, ResourceUri, decode,
};
use lifeboat_cim::{InstanceName, KeyValue, ObjectPath, Raw, RawInstance};
use proptest::prelude::*;

const V2: &str = "root/virtualization/v2";
const VM: &str = "3F2504E0-4F89-11D3-9A0C-0305E82C3301";

fn read(text: &str) -> Message {
    decode(text).unwrap_or_else(|fault| panic!("{fault:?}"))
}

macro_rules! golden {
    ($name:literal) => {
        include_str!(concat!("envelopes/", $name, ".xml"))
    };
}

/// Every file of the directory.
const ALL: [&str; 24] = [
    golden!("ack"),
    golden!("association-reference-selectors"),
    golden!("cimcmdlets-associated"),
    golden!("cimcmdlets-enumerate-classes"),
    golden!("cimcmdlets-get-class"),
    golden!("cimcmdlets-get-instance"),
    golden!("cimsession-identify"),
    golden!("dracclient-enumerate"),
    golden!("go-wsman-invoke"),
    golden!("java-invoke-bare-reference"),
    golden!("libmi-undeclared-prefixes"),
    golden!("omicli-enumerate"),
    golden!("omicli-invoke-instance"),
    golden!("omicli-wql"),
    golden!("openwsman-subscribe-push"),
    golden!("pypsrp-invoke"),
    golden!("unsubscribe"),
    golden!("virsh-enumerate-empty-filter"),
    golden!("virsh-enumerate-epr"),
    golden!("virsh-enumerate-wql"),
    golden!("virsh-invoke-add-resource"),
    golden!("virsh-pull"),
    golden!("winrm-selector-filter"),
    golden!("winrm-subscribe-pull"),
];

fn resource(headers: &Headers) -> (Family, &str, Option<&str>) {
    let uri = headers.resource.as_ref().unwrap();
    (
        uri.family,
        uri.namespace.as_deref().unwrap(),
        uri.class.as_deref(),
    )
}

fn invoked(message: Message) -> (String, Vec<(String, Raw)>) {
    match message.operation {
        Operation::Invoke { method, arguments } => (method, arguments),
        other => panic!("{other:?}"),
    }
}

fn vm_path(namespace: &str) -> ObjectPath {
    let keys = [("CreationClassName", "Msvm_ComputerSystem"), ("Name", VM)];
    ObjectPath::new(namespace, InstanceName::new("Msvm_ComputerSystem", &keys))
}

fn text(t: &str) -> Raw {
    Raw::Text(t.to_owned())
}

fn named(list: &[(&str, Raw)]) -> Vec<(String, Raw)> {
    list.iter().map(|(n, v)| ((*n).to_owned(), v.clone())).collect()
}

#[test]
fn virsh_enumerates_one_by_one() {
    let message = read(golden!("virsh-enumerate-wql"));
    assert_eq!(resource(&message.headers), (Family::Wmi, V2, None));
    assert_eq!(
        message.headers.message_id.as_deref(),
        Some("uuid:E0498e9e-60da-10da-8002-b5c3f2a20a00")
    );
    assert_eq!(
        (message.headers.max_envelope, message.headers.timeout),
        (MAX_ENVELOPE, None)
    );
    let mut source = vm_path(V2);
    source.namespace = None;
    let expected = Enumerate {
        filter: Some(Query::Associators(Related {
            // Compared without regard to case.
            source,
            association: Some("Msvm_SettingsDefineState".to_owned()),
            result: Some("Msvm_VirtualSystemSettingData".to_owned()),
            role: None,
            result_role: None,
        })),
        optimised: false,
        max_elements: 1,
        mode: Mode::Object,
        polymorphism: Polymorphism::Include,
        expires: None,
    };
    assert_eq!(message.operation, Operation::Enumerate(expected));

    let message = read(golden!("virsh-pull"));
    assert_eq!(
        resource(&message.headers).2,
        Some("Msvm_VirtualSystemSettingData")
    );
    let pull = Pull {
        context: "uuid:ctx-7".to_owned(),
        max_elements: 1,
        max_characters: None,
        max_time: None,
    };
    assert_eq!(message.operation, Operation::Pull(pull));

    let Operation::Enumerate(enumerate) = read(golden!("virsh-enumerate-epr")).operation else {
        panic!()
    };
    assert_eq!(enumerate.mode, Mode::Reference);
    let Some(Query::Select(Select { condition, .. })) = enumerate.filter else {
        panic!()
    };
    let Some(Condition::All(parts)) = condition else {
        panic!()
    };
    assert_eq!(
        parts[1],
        Condition::Compare {
            left: Operand::Column(Column::new("Name")),
            operator: Operator::NotEqual,
            right: Operand::Column(Column::new("__SERVER")),
        }
    );
}

#[test]
fn virsh_gets_a_fault_for_an_empty_filter_with_its_odd_message_id() {
    let fault = decode(golden!("virsh-enumerate-empty-filter")).unwrap_err();
    assert_eq!(fault.kind, FaultKind::CannotProcessFilter);
    assert_eq!(fault.relates_to.as_deref(), Some(" uuid:odd & kept "));
}

#[test]
fn virsh_passes_references_and_both_forms_of_embedded_text() {
    let message = read(golden!("virsh-invoke-add-resource"));
    let (namespace, target) = message.headers.target().unwrap();
    assert_eq!(namespace, V2);
    let service = "Msvm_VirtualSystemManagementService";
    assert_eq!(
        target,
        InstanceName::new(service, &[("CreationClassName", service)])
    );
    let (method, arguments) = invoked(message);
    assert_eq!(method, "AddResourceSettings");
    let keys = [("InstanceID", "Microsoft:3F2504E0-4F89-11D3-9A0C-0305E82C3301")];
    let settings = InstanceName::new("Msvm_VirtualSystemSettingData", &keys);
    assert_eq!(
        arguments,
        named(&[
            ("Force", text("False")),
            ("AffectedConfiguration", Raw::Path(ObjectPath::new(V2, settings))),
            (
                "ResourceSettings",
                Raw::List(vec![
                    text(
                        r#"<INSTANCE CLASSNAME="Msvm_StorageAllocationSettingData"><PROPERTY NAME="ResourceType" TYPE="uint16"><VALUE>31</VALUE></PROPERTY></INSTANCE>"#
                    ),
                    text(
                        r#"<?xml version="1.0"?><INSTANCE CLASSNAME="Msvm_ResourceAllocationSettingData"/>"#
                    ),
                ])
            ),
        ])
    );
}

#[test]
fn omicli_enumerates_at_once() {
    let message = read(golden!("omicli-enumerate"));
    assert_eq!(
        resource(&message.headers),
        (Family::Dmtf, V2, Some("Msvm_ComputerSystem"))
    );
    assert_eq!(message.headers.selectors, vec![]);
    assert_eq!(message.headers.max_envelope, 102_400);
    assert_eq!(message.headers.timeout, Some(Duration::from_millis(90_500)));
    let Operation::Enumerate(enumerate) = message.operation else {
        panic!()
    };
    assert_eq!(
        (enumerate.filter, enumerate.optimised, enumerate.max_elements),
        (None, true, MAX_ITEMS)
    );
    let message = read(golden!("omicli-wql"));
    assert_eq!(resource(&message.headers), (Family::Wmi, V2, None));
    let Operation::Enumerate(enumerate) = message.operation else {
        panic!()
    };
    let select = Select {
        class: "Msvm_ComputerSystem".to_owned(),
        columns: Columns::Named(vec![Column::new("ElementName")]),
        condition: None,
        within: None,
    };
    assert_eq!(
        (enumerate.filter, enumerate.optimised, enumerate.max_elements),
        (Some(Query::Select(select)), true, 20)
    );
}

#[test]
fn omicli_passes_a_reference_as_an_instance() {
    let (method, arguments) = invoked(read(golden!("omicli-invoke-instance")));
    assert_eq!(method, "Resynchronize");
    let system = RawInstance {
        class: "Msvm_ComputerSystem".to_owned(),
        properties: named(&[
            ("CreationClassName", text("Msvm_ComputerSystem")),
            ("Name", text(VM)),
        ]),
    };
    assert_eq!(
        arguments,
        named(&[
            ("ComputerSystem", Raw::Instance(system)),
            ("StartTime", text("2024-03-01T10:00:00Z")),
            ("Nothing", Raw::Null),
        ])
    );
}

#[test]
fn libmi_as_built_is_not_well_formed() {
    let fault = decode(golden!("libmi-undeclared-prefixes")).unwrap_err();
    assert_eq!(
        (fault.kind, fault.kind.http_status()),
        (FaultKind::Malformed, 400)
    );
    assert!(fault.message.contains("wsa"), "{}", fault.message);
}

#[test]
fn pypsrp_passes_a_path_and_a_null() {
    let message = read(golden!("pypsrp-invoke"));
    assert_eq!(message.headers.max_envelope, 153_600);
    let (_, target) = message.headers.target().unwrap();
    assert_eq!(target.text("NAME"), Some("REPLICASVC"));
    let (method, arguments) = invoked(message);
    assert_eq!(method, "InitiateFailover");
    let path = format!(
        r#"\\HV-1\root\virtualization\v2:Msvm_ComputerSystem.CreationClassName="Msvm_ComputerSystem",Name="{VM}""#
    );
    assert_eq!(
        arguments,
        named(&[
            ("ComputerSystem", text(&path)),
            ("SnapshotSettingData", Raw::Null)
        ])
    );
}

#[test]
fn dracclient_filters_in_the_namespace_of_enumeration() {
    let message = read(golden!("dracclient-enumerate"));
    // It says no namespace at all.
    assert_eq!(
        resource(&message.headers),
        (Family::Dmtf, V2, Some("Msvm_ReplicationRelationship"))
    );
    let Operation::Enumerate(enumerate) = message.operation else {
        panic!()
    };
    assert!(enumerate.optimised && enumerate.max_elements == 100);
    let Some(Query::Select(select)) = enumerate.filter else {
        panic!()
    };
    assert_eq!(select.class, "Msvm_ReplicationRelationship");
}

#[test]
fn go_wsman_wraps_references_and_nests_instances() {
    let message = read(golden!("go-wsman-invoke"));
    assert_eq!(message.headers.selectors, vec![]);
    let (method, arguments) = invoked(message);
    assert_eq!(method, "CreateReplicationRelationship");
    let system = InstanceName::new("Msvm_ComputerSystem", &[("Name", VM)]);
    let settings = RawInstance {
        class: "Msvm_ReplicationSettingData".to_owned(),
        properties: named(&[
            ("RecoveryConnectionPoint", text("replica.example")),
            ("IncludedDisks", Raw::List(vec![text("a"), text("b")])),
            ("ReplicationInterval", text("300")),
        ]),
    };
    assert_eq!(
        arguments,
        named(&[
            ("ComputerSystem", Raw::Path(ObjectPath::new(V2, system))),
            ("ReplicationSettingData", Raw::Instance(settings)),
        ])
    );
}

#[test]
fn java_passes_references_without_an_address() {
    let (method, arguments) = invoked(read(golden!("java-invoke-bare-reference")));
    assert_eq!(method, "DestroySystem");
    assert_eq!(arguments, named(&[("AffectedSystem", Raw::Path(vm_path(V2)))]));
}

#[test]
fn cim_cmdlets_identify_get_and_follow_associations() {
    let message = read(golden!("cimsession-identify"));
    assert_eq!(
        (message.operation, message.headers),
        (Operation::Identify, Headers::default())
    );

    let message = read(golden!("cimcmdlets-get-instance"));
    assert_eq!(message.operation, Operation::Get);
    assert_eq!(
        resource(&message.headers),
        (Family::Dmtf, V2, Some("Msvm_ComputerSystem"))
    );
    assert_eq!(message.headers.timeout, Some(Duration::from_secs(60)));
    let (_, name) = message.headers.target().unwrap();
    assert_eq!(name, vm_path(V2).name);

    let message = read(golden!("cimcmdlets-get-class"));
    assert_eq!(message.headers.namespace(), V2);
    assert_eq!(message.headers.options.len(), 3);
    let class = "Msvm_ReplicationService".to_owned();
    assert_eq!(message.operation, Operation::GetClass { class });

    let message = read(golden!("cimcmdlets-associated"));
    let Operation::Enumerate(enumerate) = message.operation else {
        panic!()
    };
    assert_eq!(enumerate.mode, Mode::Both);
    let related = Related {
        source: vm_path(V2),
        association: Some("Msvm_SystemReplicationRelationship".to_owned()),
        result: Some("Msvm_ReplicationRelationship".to_owned()),
        role: Some("Antecedent".to_owned()),
        result_role: None,
    };
    assert_eq!(enumerate.filter, Some(Query::Associators(related)));
    let references = golden!("cimcmdlets-associated").replace("AssociatedInstances", "AssociationInstances");
    let Operation::Enumerate(enumerate) = read(&references).operation else {
        panic!()
    };
    assert!(matches!(
        enumerate.filter,
        Some(Query::References(Related {
            association: None,
            ..
        }))
    ));
}

#[test]
fn a_selector_filter_is_a_query() {
    let message = read(golden!("winrm-selector-filter"));
    let Operation::Enumerate(enumerate) = message.operation else {
        panic!()
    };
    let query = enumerate.filter.unwrap();
    assert_eq!(
        query.to_string(),
        "SELECT * FROM Msvm_ConcreteJob WHERE JobState = '7' AND ElementName = 'Start'"
    );
    for (from, to) in [
        ("/v2/Msvm_ConcreteJob", "/v2/*"),
        (r#"Name="ElementName""#, r#"Name="jobstate""#),
        (">Start<", ">'Start'<"),
        (">Start<", "><a:EndpointReference/><"),
        ("SelectorSet>", "Selectors>"),
    ] {
        let broken = golden!("winrm-selector-filter").replace(from, to);
        assert_eq!(
            decode(&broken).unwrap_err().kind,
            FaultKind::CannotProcessFilter,
            "{to}"
        );
    }
}

#[test]
fn subscriptions_are_read() {
    let message = read(golden!("winrm-subscribe-pull"));
    let Operation::Subscribe(subscribe) = message.operation else {
        panic!()
    };
    assert_eq!(
        (subscribe.mode, &subscribe.notify, &subscribe.end),
        (DeliveryMode::Pull, &None, &None)
    );
    assert_eq!(subscribe.expires, Some(Expires::In(Duration::from_secs(600))));
    assert_eq!(subscribe.heartbeats, Some(Duration::from_secs(30)));
    let Some(Query::Select(select)) = subscribe.filter else {
        panic!()
    };
    assert_eq!(select.class, "__InstanceModificationEvent");

    let message = read(golden!("openwsman-subscribe-push"));
    let Operation::Subscribe(subscribe) = message.operation else {
        panic!()
    };
    assert_eq!(
        (subscribe.mode, subscribe.filter),
        (DeliveryMode::PushWithAck, None)
    );
    assert_eq!(subscribe.expires, Some(Expires::At(1_893_456_000_000_000)));
    assert_eq!(subscribe.end.unwrap().address, "http://receiver.example:8889/end");
    let notify = subscribe.notify.unwrap();
    assert_eq!(notify.address, "http://receiver.example:8889/events");
    assert_eq!(
        notify.headers,
        concat!(
            r#"<q:Key xmlns:q="urn:mine" xmlns:q0="urn:mine" q0:a="1" b="&lt;2&gt;">k&amp;v"#,
            r#"<q:In xmlns:q="urn:mine"></q:In></q:Key><Plain>x</Plain>"#
        )
    );
    let long = "x".repeat(300);
    let many = format!("<y:a xmlns:y='urn:{long}'>{}</y:a>", "<y:b/>".repeat(40));
    let large = golden!("openwsman-subscribe-push").replace("<Plain>x</Plain>", &many);
    assert_eq!(decode(&large).unwrap_err().kind, FaultKind::InvalidSubscription);
    let unsubscribe = Operation::Unsubscribe {
        identifier: "sub-1".to_owned(),
    };
    assert_eq!(read(golden!("unsubscribe")).operation, unsubscribe);
    let renew = golden!("unsubscribe").replace("Unsubscribe", "Renew");
    let Operation::Renew { expires: None, .. } = read(&renew).operation else {
        panic!()
    };
    let relates_to = "uuid:event-1".to_owned();
    assert_eq!(read(golden!("ack")).operation, Operation::Ack { relates_to });
}

#[test]
fn keys_may_be_references() {
    let message = read(golden!("association-reference-selectors"));
    let settings = InstanceName::new("Msvm_VirtualSystemSettingData", &[("InstanceID", "microsoft:a")]);
    let path = KeyValue::Reference(Box::new(ObjectPath::new(V2, settings)));
    assert_eq!(message.headers.selectors, vec![("SettingData".to_owned(), path)]);
}

/// A Get that the table of faults breaks in one place each.
const GET: &str = golden!("cimcmdlets-get-instance");

#[test]
fn each_fault_of_the_header_has_its_kind() {
    let cut = |from: &str, to: &str| {
        let start = GET.find(from).unwrap();
        let end = GET[start..].find(to).unwrap() + start + to.len();
        format!("{}{}", &GET[..start], &GET[end..])
    };
    let put = |xml: &str| GET.replace("</s:Header>", &format!("{xml}</s:Header>"));
    let size = |n: &str| GET.replace(">512000<", &format!(">{n}<"));
    let foreign = GET.replace("/addressing/role/anonymous", "/somebody");
    for (envelope, kind, related) in [
        (String::new(), FaultKind::Malformed, false),
        ("hello".to_owned(), FaultKind::Malformed, false),
        ("<a/>".to_owned(), FaultKind::Malformed, false),
        (
            format!("<!DOCTYPE a [<!ENTITY b \"c\">]>{GET}"),
            FaultKind::Malformed,
            false,
        ),
        (GET[..GET.len() - 20].to_owned(), FaultKind::Malformed, false),
        (
            GET.replace("2003/05/soap-envelope", "2001/12/soap-envelope"),
            FaultKind::VersionMismatch,
            false,
        ),
        (cut("<a:To>", "</a:To>"), FaultKind::HeaderRequired, true),
        (cut("<a:Action", "</a:Action>"), FaultKind::HeaderRequired, true),
        (
            cut("<a:MessageID>", "</a:MessageID>"),
            FaultKind::HeaderRequired,
            false,
        ),
        (
            cut("<a:ReplyTo>", "</a:ReplyTo>"),
            FaultKind::HeaderRequired,
            true,
        ),
        (
            cut("<w:ResourceURI", "</w:ResourceURI>"),
            FaultKind::InvalidResourceUri,
            true,
        ),
        (cut("<s:Body", "/>"), FaultKind::Malformed, true),
        (cut("<s:Header>", "</s:Header>"), FaultKind::HeaderRequired, false),
        (foreign, FaultKind::AddressingMode, true),
        (
            put("<x xmlns='urn:x' s:mustUnderstand='true'/>"),
            FaultKind::MustUnderstand,
            true,
        ),
        (
            put("<w:FragmentTransfer s:mustUnderstand='1'>A</w:FragmentTransfer>"),
            FaultKind::MustUnderstand,
            true,
        ),
        (put("<a:To>twice</a:To>"), FaultKind::InvalidHeader, true),
        (
            GET.replace("uuid:11", &"&amp;".repeat(205)),
            FaultKind::InvalidHeader,
            false,
        ),
        (
            GET.replace("transfer/Get", &"é".repeat(513)),
            FaultKind::InvalidHeader,
            true,
        ),
        (size("8191"), FaultKind::MinimumEnvelopeLimit, true),
        (size("much"), FaultKind::SchemaValidation, true),
        (size("-1"), FaultKind::SchemaValidation, true),
        (
            GET.replace("PT60.000S", "soon"),
            FaultKind::SchemaValidation,
            true,
        ),
        (
            GET.replace("Name=\"Name\"", "Name=\"creationclassname\""),
            FaultKind::DuplicateSelectors,
            true,
        ),
        (
            GET.replace("<w:Selector Name=\"Name\">", "<w:Selector>"),
            FaultKind::SchemaValidation,
            true,
        ),
        (
            GET.replace("transfer/Get", "transfer/Copy"),
            FaultKind::ActionNotSupported,
            true,
        ),
        (
            GET.replace("transfer/Get", "transfer/Put"),
            FaultKind::SchemaValidation,
            true,
        ),
        (
            GET.replace("transfer/Get", "enumeration/Pull"),
            FaultKind::SchemaValidation,
            true,
        ),
        (
            GET.replace("transfer/Get", "enumeration/Get"),
            FaultKind::ActionNotSupported,
            true,
        ),
        (
            GET.replace("transfer/Get", "x y"),
            FaultKind::ActionNotSupported,
            true,
        ),
        (
            GET.replace("wscim/1/cim-schema/2/", "wsman/1/windows/shell/"),
            FaultKind::InvalidResourceUri,
            true,
        ),
        (
            GET.replace(
                "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/",
                "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/cimv2/",
            ),
            FaultKind::InternalError,
            true,
        ),
    ] {
        let fault = decode(&envelope).unwrap_err();
        assert_eq!(fault.kind, kind, "{envelope}");
        let id = related.then_some("uuid:11");
        assert_eq!(fault.relates_to.as_deref(), id, "{envelope}");
    }
}

#[test]
fn what_need_not_be_understood_is_not() {
    let put = |xml: &str| GET.replace("</s:Header>", &format!("{xml}</s:Header>"));
    for envelope in [
        put("<x xmlns='urn:x' s:mustUnderstand='false'/>"),
        put(
            "<x xmlns='urn:x' s:mustUnderstand='true' s:role='http://www.w3.org/2003/05/soap-envelope/role/none'/>",
        ),
        GET.replace(">512000<", "> +99999999999999999999 <"),
        GET.replace("PT60.000S", "P1DT2H"),
    ] {
        assert_eq!(read(&envelope).operation, Operation::Get);
    }
    assert_eq!(
        read(&GET.replace(">512000<", ">99999999<")).headers.max_envelope,
        MAX_ENVELOPE
    );
}

#[test]
fn each_fault_of_a_body_has_its_kind() {
    let enumerate = golden!("omicli-enumerate");
    let wql = golden!("omicli-wql");
    let pull = golden!("virsh-pull");
    let invoke = golden!("go-wsman-invoke");
    let subscribe = golden!("winrm-subscribe-pull");
    let class = golden!("cimcmdlets-get-class");
    let cut = |text: &str, from: &str, to: &str| {
        let start = text.find(from).unwrap();
        let end = text[start..].find(to).unwrap() + start + to.len();
        format!("{}{}", &text[..start], &text[end..])
    };
    for (envelope, kind) in [
        (enumerate.replace(">32000<", ">0<"), FaultKind::SchemaValidation),
        (
            enumerate.replace(">32000<", ">many<"),
            FaultKind::SchemaValidation,
        ),
        (
            enumerate.replace("n:Enumerate>", "n:Other>"),
            FaultKind::SchemaValidation,
        ),
        (
            enumerate.replace("/Msvm_ComputerSystem<", "/*<"),
            FaultKind::InvalidResourceUri,
        ),
        (
            enumerate.replace("enumeration/Enumerate<", "enumeration/Renew<"),
            FaultKind::ActionNotSupported,
        ),
        (
            enumerate.replace(
                "<w:OptimizeEnumeration/>",
                "<w:EnumerationMode>EnumerateDreams</w:EnumerationMode>",
            ),
            FaultKind::EnumerationMode,
        ),
        (
            enumerate.replace("<w:OptimizeEnumeration/>", "<n:Expires>never</n:Expires>"),
            FaultKind::InvalidExpiration,
        ),
        (wql.replace("select", "choose"), FaultKind::CannotProcessFilter),
        (
            wql.replace("wsman/1/WQL", "wsman/1/SQL"),
            FaultKind::FilterDialect,
        ),
        (
            wql.replace(
                "http://schemas.microsoft.com/wbem/wsman/1/WQL",
                "http://schemas.dmtf.org/wbem/cql/1/dsp0202.pdf",
            ),
            FaultKind::FilterDialect,
        ),
        (cut(wql, " Dialect", "WQL\""), FaultKind::FilterDialect),
        (
            pull.replace("uuid:ctx-7", &"x".repeat(513)),
            FaultKind::InvalidEnumerationContext,
        ),
        (
            pull.replace("uuid:ctx-7", " "),
            FaultKind::InvalidEnumerationContext,
        ),
        (
            cut(pull, "<wsen:EnumerationContext>", "</wsen:EnumerationContext>"),
            FaultKind::SchemaValidation,
        ),
        (
            invoke.replace("CreateReplicationRelationship_INPUT", "Other_INPUT"),
            FaultKind::SchemaValidation,
        ),
        (
            cut(invoke, "<w:ResourceURI>", "</w:ResourceURI>"),
            FaultKind::InvalidParameter,
        ),
        (
            subscribe.replace("wsman/Pull", "wsman/Pigeon"),
            FaultKind::DeliveryMode,
        ),
        (
            subscribe.replace("wsman/Pull", "wsman/Events"),
            FaultKind::InvalidSubscription,
        ),
        (
            subscribe.replace("wsman/1/WQL", "wsman/1/SQL"),
            FaultKind::SubscriptionFilter,
        ),
        (
            subscribe.replace(">PT10M<", ">later<"),
            FaultKind::InvalidSubscriptionExpiration,
        ),
        (
            subscribe.replace("eventing/Subscribe", "eventing/GetStatus"),
            FaultKind::ActionNotSupported,
        ),
        (
            cut(golden!("unsubscribe"), "<e:Identifier", "</e:Identifier>"),
            FaultKind::InvalidSubscription,
        ),
        (
            class.replace("\"ClassName\"", "\"Other\""),
            FaultKind::InsufficientSelectors,
        ),
        (
            class.replace(
                "</w:SelectorSet>",
                "<w:Selector Name='X'>1</w:Selector></w:SelectorSet>",
            ),
            FaultKind::UnexpectedSelectors,
        ),
        (
            cut(golden!("ack"), "<a:RelatesTo>", "</a:RelatesTo>"),
            FaultKind::HeaderRequired,
        ),
    ] {
        let fault = decode(&envelope).unwrap_err();
        assert_eq!(fault.kind, kind, "{envelope}");
    }
}

#[test]
fn values_come_in_many_forms() {
    let arguments = |inside: &str| {
        let start = format!(
            r#"{}<s:Body><p:Set_INPUT xmlns:p="urn:p" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:cim="http://schemas.dmtf.org/wbem/wscim/1/common">"#,
            GET.replace("transfer/Get", "transfer2/Set")
                .split("<s:Body")
                .next()
                .unwrap()
        );
        invoked(read(&format!(
            "{start}{inside}</p:Set_INPUT></s:Body></s:Envelope>"
        )))
        .1
    };
    let list = |items: &[&str]| Raw::List(items.iter().map(|t| text(t)).collect());
    let inner = |class: &str, properties: &[(&str, Raw)]| {
        Raw::Instance(RawInstance {
            class: class.to_owned(),
            properties: named(properties),
        })
    };
    for (xml, value) in [
        ("<p:A/>", text("")),
        ("<p:A> x </p:A>", text(" x ")),
        ("<A>x</A>", text("x")),
        ("<p:A xsi:nil='1'>x</p:A>", Raw::Null),
        ("<p:A xsi:nil='false'>x</p:A>", text("x")),
        ("<p:A nil='true'>x</p:A>", text("x")),
        ("<p:A>1</p:A><p:A>2</p:A><p:A>3</p:A>", list(&["1", "2", "3"])),
        ("<p:A>1</p:A><p:a>2</p:a>", list(&["1", "2"])),
        ("<p:A><cim:Interval>PT1M</cim:Interval></p:A>", text("PT1M")),
        ("<p:A><cim:Datetime xsi:nil='true'/></p:A>", Raw::Null),
        ("<p:A><![CDATA[<a>&</a>]]></p:A>", text("<a>&</a>")),
        ("<p:A><p:B>1</p:B></p:A>", inner("", &[("B", text("1"))])),
        (
            "<p:A xsi:type='p:C_Type'><p:B><p:D>1</p:D></p:B></p:A>",
            inner("C", &[("B", inner("", &[("D", text("1"))]))]),
        ),
        (
            "<p:A><p:B><p:D>1</p:D></p:B></p:A>",
            inner("B", &[("D", text("1"))]),
        ),
        ("<p:A><p:B xsi:type='p:B_Type'/></p:A>", inner("B", &[])),
        (
            "<p:A><B xmlns='http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/B'/></p:A>",
            inner("B", &[]),
        ),
        (
            "<p:A><a:Address/><a:ReferenceProperties><w:ResourceURI>http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/B</w:ResourceURI></a:ReferenceProperties></p:A>",
            Raw::Path(ObjectPath {
                host: None,
                namespace: None,
                name: InstanceName::new("B", &[]),
            }),
        ),
    ] {
        assert_eq!(arguments(xml), vec![("A".to_owned(), value)], "{xml}");
    }
}

#[test]
fn many_arguments_cost_no_more_than_their_number() {
    let names: String = (0..40_000).map(|i| format!("<a{i}/>")).collect();
    let start = GET.replace("transfer/Get", "transfer2/Set");
    let start = start.split("<s:Body").next().unwrap();
    let (_, arguments) = invoked(read(&format!(
        "{start}<s:Body><Set>{names}</Set></s:Body></s:Envelope>"
    )));
    assert_eq!(arguments.len(), 40_000);
}

#[test]
fn made_up_names_make_no_long_faults() {
    let name = "x".repeat(100_000);
    let header = format!("<{name} s:mustUnderstand='1'/></s:Header>");
    let fault = decode(&GET.replace("</s:Header>", &header)).unwrap_err();
    assert_eq!(fault.kind, FaultKind::MustUnderstand);
    assert!(fault.envelope("uuid:0", "hv-1").len() < 8192);
}

#[test]
fn a_resource_without_a_class_is_no_target() {
    let headers = Headers {
        resource: Some(ResourceUri::parse("http://schemas.dmtf.org/wbem/wscim/1/*").unwrap()),
        ..Headers::default()
    };
    assert_eq!(headers.target().unwrap_err().kind, FaultKind::InvalidResourceUri);
}

proptest! {
    /// A byte changed, removed or doubled anywhere in a real envelope: an answer, and no harm.
    #[test]
    fn damaged_envelopes_do_no_harm(which in 0..ALL.len(), at in any::<prop::sample::Index>(), how in 0..3, byte in 0x20_u8..0x7f) {
        let mut bytes = ALL[which].as_bytes().to_vec();
        let at = at.index(bytes.len());
        match how {
            0 => bytes[at] = byte,
            1 => { bytes.remove(at); }
            _ => bytes.insert(at, byte),
        }
        if let Err(fault) = std::str::from_utf8(&bytes).map_or(Ok(()), |text| decode(text).map(drop)) {
            let envelope = fault.envelope("uuid:0", "hv-1");
            prop_assert!(lifeboat_xml::parse(&envelope).is_ok(), "{}", envelope);
        }
    }
}

#[test]
fn powershell_asks_for_all_classes_by_an_empty_name() {
    let message = read(golden!("cimcmdlets-enumerate-classes"));
    let Operation::EnumerateClasses { below, enumerate } = message.operation else {
        panic!("{:?}", message.operation)
    };
    assert_eq!((below, message.headers.selectors), (None, Vec::new()));
    assert_eq!((enumerate.optimised, enumerate.max_elements), (true, 32000));
    let service =
        golden!("cimcmdlets-enumerate-classes").replace("\"ClassName\">", "\"ClassName\">CIM_Service");
    let Operation::EnumerateClasses { below, .. } = read(&service).operation else {
        panic!("not an enumeration of classes")
    };
    assert_eq!(below.as_deref(), Some("CIM_Service"));
}
