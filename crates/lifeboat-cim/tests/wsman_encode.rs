//! Answers as clients read them: by the literal prefixes that some of them look for, and once more through a reader of the
//! tests' own. The encoder is never asked what is right.

#![allow(clippy::too_many_lines, clippy::unwrap_used)]

use std::time::Duration;

use lifeboat_cim::wsman::encode::{self, Delivery, Ended};
use lifeboat_cim::wsman::{
    DeliveryMode, Encoder, Endpoint, Family, Fault, FaultKind, Headers, ResourceUri, ns,
};
use lifeboat_cim::{
    CimError, DateTime, Instance, InstanceName, Namespace, ObjectPath, Schema, Status, Value,
};
use lifeboat_xml::Element;

const WMI: &str = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/";
const DMTF: &str = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/";

fn v2() -> &'static Namespace {
    Schema::builtin().namespace("root/virtualization/v2").unwrap()
}

fn encoder(family: Family) -> Encoder<'static> {
    Encoder {
        namespace: v2(),
        family,
    }
}

fn request(action: &str) -> Headers {
    Headers {
        action: action.to_owned(),
        message_id: Some("uuid:q <1>".to_owned()),
        ..Headers::default()
    }
}

/// Finds the text between two tags as they are written, step by step: what a client does that goes by prefixes.
fn literal<'a>(xml: &'a str, path: &str) -> &'a str {
    let mut inside = xml;
    for name in path.trim_start_matches('/').split('/') {
        let starts = [format!("<{name}>"), format!("<{name} ")];
        let at = starts.iter().filter_map(|s| inside.find(s.as_str())).min();
        let at = at.unwrap_or_else(|| panic!("{path}: no {name} in {inside}"));
        let rest = &inside[at..];
        let tag = rest.find('>').unwrap();
        if rest[..tag].ends_with('/') {
            inside = "";
            continue;
        }
        let end = rest.rfind(&format!("</{name}>")).unwrap();
        inside = &rest[tag + 1..end];
    }
    inside
}

/// The element at a path of local names, each the first of its name.
fn at<'a>(root: &'a Element, path: &str) -> &'a Element {
    let mut element = root;
    for name in path.split('/') {
        element = element
            .child(name)
            .unwrap_or_else(|| panic!("no {name} of {path} in {element:?}"));
    }
    element
}

fn vm() -> ObjectPath {
    let keys = [("CreationClassName", "Msvm_ComputerSystem"), ("Name", "A&B")];
    ObjectPath::new(
        "root/virtualization/v2",
        InstanceName::new("Msvm_ComputerSystem", &keys),
    )
}

fn job() -> Instance {
    Instance::new("Msvm_ConcreteJob")
        .with("InstanceID", "J")
        .with("Cancellable", true)
        .with("JobState", 7_u16)
        .with("ErrorDescription", "a<b>&\u{1}\"")
        .with("OperationalStatus", vec![2_u16, 32768])
        .with("StartTime", DateTime::Instant(1_709_287_200_000_000))
        .with("ElapsedTime", DateTime::Interval(5_400_000_000))
}

#[test]
fn an_answer_is_found_by_its_prefixes() {
    let class = v2().class("Msvm_ComputerSystem").unwrap();
    let method = class.method("RequestStateChange").unwrap();
    let job = ObjectPath::new(
        "root/virtualization/v2",
        InstanceName::new("Msvm_ConcreteJob", &[("InstanceID", "3F25")]),
    );
    let out = [("job".to_owned(), Value::from(job))];
    let body = encoder(Family::Wmi).method_output(class, method, &Value::Unsigned(4096), &out);
    let action = format!("{WMI}Msvm_ComputerSystem/RequestStateChange");
    let envelope = encode::response(&request(&action), "uuid:r", &body);
    // The paths that libvirt evaluates.
    let output = "/s:Envelope/s:Body/p:RequestStateChange_OUTPUT";
    assert_eq!(literal(&envelope, &format!("{output}/p:ReturnValue")), "4096");
    let selector = format!("{output}/p:Job/a:ReferenceParameters/w:SelectorSet/w:Selector");
    assert_eq!(literal(&envelope, &selector), "3F25");
    assert!(envelope.contains(r#"<w:Selector Name="InstanceID">3F25</w:Selector>"#));
    assert!(envelope.contains(&format!(
        r#"<p:RequestStateChange_OUTPUT xmlns:p="{WMI}Msvm_ComputerSystem">"#
    )));
    for (path, text) in [
        ("/s:Envelope/s:Header/a:Action", format!("{action}Response")),
        ("/s:Envelope/s:Header/a:RelatesTo", "uuid:q &lt;1&gt;".to_owned()),
        ("/s:Envelope/s:Header/a:MessageID", "uuid:r".to_owned()),
        ("/s:Envelope/s:Header/a:To", ns::ANONYMOUS.to_owned()),
    ] {
        assert_eq!(literal(&envelope, path), text);
    }
    let root = lifeboat_xml::parse(&envelope).unwrap();
    assert!(root.is(ns::SOAP, "Envelope"));
    assert!(
        at(&root, "Header")
            .child_in(ns::ADDRESSING, "RelatesTo")
            .is_some()
    );
    let head = &envelope[..envelope.find('>').unwrap()];
    for (prefix, uri) in [
        ("s", ns::SOAP),
        ("a", ns::ADDRESSING),
        ("w", ns::WSMAN),
        ("n", ns::ENUMERATION),
        ("e", ns::EVENTING),
        ("x", ns::TRANSFER),
        ("b", ns::BINDING),
        ("cim", ns::CIM),
        ("xsi", ns::XSI),
    ] {
        assert!(head.contains(&format!(r#"xmlns:{prefix}="{uri}""#)), "{prefix}");
    }
}

#[test]
fn an_instance_has_every_property_of_its_class() {
    let xml = encoder(Family::Wmi).object(&job()).unwrap();
    let start =
        format!(r#"<p:Msvm_ConcreteJob xmlns:p="{WMI}Msvm_ConcreteJob" xsi:type="p:Msvm_ConcreteJob_Type">"#);
    assert!(xml.starts_with(&start), "{xml}");
    for part in [
        "<p:InstanceID>J</p:InstanceID>",
        "<p:Cancellable>true</p:Cancellable>",
        "<p:JobState>7</p:JobState>",
        "<p:ErrorDescription>a&lt;b&gt;&amp;?&quot;</p:ErrorDescription>",
        "<p:OperationalStatus>2</p:OperationalStatus><p:OperationalStatus>32768</p:OperationalStatus>",
        "<p:StartTime><cim:Datetime>2024-03-01T10:00:00Z</cim:Datetime></p:StartTime>",
        "<p:ErrorSummaryDescription xsi:nil=\"true\"/>",
    ] {
        assert!(xml.contains(part), "{part}: {xml}");
    }
    let interval = literal(&xml, "/p:Msvm_ConcreteJob/p:ElapsedTime/cim:Interval");
    assert!(
        ["PT1H30M", "PT90M", "P0DT1H30M0S", "PT1H30M0S"].contains(&interval),
        "{interval}"
    );
    let whole = format!("<r xmlns:xsi='{}' xmlns:cim='{}'>{xml}</r>", ns::XSI, ns::CIM);
    let root = lifeboat_xml::parse(&whole).unwrap();
    let element = root.elements().next().unwrap();
    for property in &v2().class("Msvm_ConcreteJob").unwrap().properties {
        // An array has one element for each item: none when there is no value.
        let given = !property.array || job().get(&property.name).is_some();
        let found = element.child(&property.name).is_some();
        assert_eq!(found, given, "{}", property.name);
    }
    // A nil element would be an item without a value, which a C client reads through a null pointer.
    let empty = job().with("OperationalStatus", Vec::<u16>::new());
    let xml = encoder(Family::Wmi).object(&empty).unwrap();
    for array in ["OperationalStatus", "StatusDescriptions"] {
        assert!(!xml.contains(array), "{array}: {xml}");
    }
    // Cut down to an ancestor.
    let xml = encoder(Family::Dmtf)
        .object_as(&job(), "cim_concretejob")
        .unwrap();
    assert!(xml.starts_with(&format!(r#"<p:CIM_ConcreteJob xmlns:p="{DMTF}CIM_ConcreteJob""#)));
    assert!(!xml.contains("Cancellable"));
    let unknown = encoder(Family::Wmi).object(&Instance::new("Msvm_Nonsense"));
    assert_eq!(unknown.unwrap_err().status, Status::InvalidClass);
}

#[test]
fn references_and_embedded_instances() {
    let link = Instance::new("Msvm_SettingsDefineState").with("ManagedElement", vm());
    let xml = encoder(Family::Wmi).object(&link).unwrap();
    let expected = format!(
        concat!(
            "<p:ManagedElement><a:Address>{0}</a:Address><a:ReferenceParameters>",
            "<w:ResourceURI>{1}Msvm_ComputerSystem</w:ResourceURI><w:SelectorSet>",
            r#"<w:Selector Name="CreationClassName">Msvm_ComputerSystem</w:Selector>"#,
            r#"<w:Selector Name="Name">A&amp;B</w:Selector>"#,
            "</w:SelectorSet></a:ReferenceParameters></p:ManagedElement>"
        ),
        ns::ANONYMOUS,
        WMI
    );
    assert!(xml.contains(&expected), "{xml}");
    assert!(xml.contains(r#"<p:SettingData xsi:nil="true"/>"#));
    let xml = encoder(Family::Dmtf).endpoint(&vm());
    let expected = format!(
        concat!(
            "<a:EndpointReference><a:Address>{0}</a:Address><a:ReferenceParameters>",
            "<w:ResourceURI>{1}Msvm_ComputerSystem</w:ResourceURI><w:SelectorSet>",
            r#"<w:Selector Name="__cimnamespace">root/virtualization/v2</w:Selector>"#,
            r#"<w:Selector Name="CreationClassName">Msvm_ComputerSystem</w:Selector>"#,
            r#"<w:Selector Name="Name">A&amp;B</w:Selector>"#,
            "</w:SelectorSet></a:ReferenceParameters></a:EndpointReference>"
        ),
        ns::ANONYMOUS,
        DMTF
    );
    assert_eq!(xml, expected);
    // A path through an association, whose keys are references.
    let settings = InstanceName::new("Msvm_VirtualSystemSettingData", &[("InstanceID", "S")]);
    let keys = vec![
        (
            "ManagedElement".to_owned(),
            lifeboat_cim::KeyValue::Reference(Box::new(vm())),
        ),
        (
            "SettingData".to_owned(),
            lifeboat_cim::KeyValue::Reference(Box::new(ObjectPath::new("root/virtualization/v2", settings))),
        ),
    ];
    let class = "Msvm_SettingsDefineState".to_owned();
    let link = ObjectPath::new("root/virtualization/v2", InstanceName { class, keys });
    let xml = encoder(Family::Wmi).endpoint(&link);
    assert_eq!(xml.matches("<a:EndpointReference>").count(), 3);
    assert!(xml.contains(r#"<w:Selector Name="SettingData"><a:EndpointReference>"#));
    // Embedded instances are text.
    let class = v2().class("Msvm_ConcreteJob").unwrap();
    let method = class.method("GetErrorEx").unwrap();
    let error = Instance::new("Msvm_Error").with("Message", "no < room");
    let name = method.parameters.iter().find(|p| p.output).unwrap().name.clone();
    let out = [(name.clone(), Value::Array(vec![error.into()]))];
    let xml = encoder(Family::Wmi).method_output(class, method, &Value::Unsigned(0), &out);
    let text = literal(&xml, &format!("/p:GetErrorEx_OUTPUT/p:{name}"));
    assert!(
        text.starts_with("&lt;INSTANCE CLASSNAME=&quot;Msvm_Error&quot;"),
        "{text}"
    );
    let read = lifeboat_xml::parse(&format!("<r>{text}</r>")).unwrap().text();
    assert_eq!(
        lifeboat_xml::parse(&read).unwrap().attribute("CLASSNAME"),
        Some("Msvm_Error")
    );
}

#[test]
fn missing_outputs_are_null_and_columns_are_a_fragment() {
    let class = v2().class("Msvm_ComputerSystem").unwrap();
    let method = class.method("RequestStateChange").unwrap();
    let xml = encoder(Family::Dmtf).method_output(class, method, &Value::Unsigned(32773), &[]);
    assert_eq!(
        xml,
        format!(
            "<p:RequestStateChange_OUTPUT xmlns:p=\"{DMTF}Msvm_ComputerSystem\"><p:Job xsi:nil=\"true\"/><p:ReturnValue>32773</p:ReturnValue></p:RequestStateChange_OUTPUT>"
        )
    );
    let columns = [
        ("ElementName".to_owned(), Some(Value::from("x"))),
        ("Caption".to_owned(), None),
    ];
    assert_eq!(
        encoder(Family::Wmi).fragment("Msvm_ConcreteJob", &columns),
        format!(
            "<w:XmlFragment xmlns:p=\"{WMI}Msvm_ConcreteJob\"><p:ElementName>x</p:ElementName><p:Caption xsi:nil=\"true\"/></w:XmlFragment>"
        )
    );
}

#[test]
fn enumerations_end_as_clients_expect() {
    for (body, expected) in [
        (
            encode::enumerate(None, Some("c")),
            "<n:EnumerateResponse><n:EnumerationContext>c</n:EnumerationContext></n:EnumerateResponse>",
        ),
        (
            encode::enumerate(Some("<i/>"), Some("c")),
            "<n:EnumerateResponse><n:EnumerationContext>c</n:EnumerationContext><w:Items><i/></w:Items></n:EnumerateResponse>",
        ),
        (
            encode::enumerate(Some(""), None),
            "<n:EnumerateResponse><n:EnumerationContext></n:EnumerationContext><w:Items></w:Items><w:EndOfSequence/></n:EnumerateResponse>",
        ),
        (
            encode::pull("<i/>", Some("c")),
            "<n:PullResponse><n:EnumerationContext>c</n:EnumerationContext><n:Items><i/></n:Items></n:PullResponse>",
        ),
        (
            encode::pull("", None),
            "<n:PullResponse><n:Items></n:Items><n:EndOfSequence/></n:PullResponse>",
        ),
    ] {
        assert_eq!(body, expected);
    }
}

#[test]
fn what_is_not_items_is_bounded() {
    // As long as a request can make it: the text is 1024 bytes once it is escaped.
    let headers = Headers {
        action: "\"".repeat(170),
        message_id: Some("\"".repeat(170)),
        ..Headers::default()
    };
    let context = "c".repeat(100);
    for body in [
        encode::pull("", Some(&context)),
        encode::pull("", None),
        encode::enumerate(Some(""), Some(&context)),
        encode::enumerate(Some(""), None),
    ] {
        let envelope = encode::response(&headers, &"u".repeat(50), &body);
        assert!(envelope.len() <= encode::OVERHEAD, "{}", envelope.len());
    }
}

#[test]
fn identify_and_the_description_of_a_class() {
    let envelope = encode::identify("Lifeboat", "1.2", &[]);
    let response = "/s:Envelope/s:Body/wsmid:IdentifyResponse";
    assert_eq!(
        literal(&envelope, &format!("{response}/wsmid:ProtocolVersion")),
        ns::WSMAN
    );
    assert_eq!(
        literal(&envelope, &format!("{response}/wsmid:ProductVendor")),
        "Lifeboat"
    );
    assert!(!envelope.contains("SecurityProfile") && !envelope.contains("RelatesTo"));
    assert!(lifeboat_xml::parse(&envelope).is_ok());
    assert!(encode::identify("Lifeboat", "1.2", &["urn:basic"]).contains("urn:basic"));
    let class = v2().class("Msvm_ReplicationService").unwrap();
    let description = encoder(Family::Metadata).class(class, &[]);
    let root = lifeboat_xml::parse(&encode::response(&request("x/Get"), "uuid:1", &description)).unwrap();
    let element = at(&root, "Body/CLASS");
    assert_eq!(element.attribute("NAME"), Some("Msvm_ReplicationService"));
    assert!(
        element
            .elements()
            .any(|e| e.name == "METHOD" && e.attribute("NAME") == Some("InitiateFailover"))
    );
    let plain = [("includequalifiers".to_owned(), "FALSE".to_owned())];
    assert!(
        !encoder(Family::Metadata)
            .class(class, &plain)
            .contains("QUALIFIER")
    );
}

#[test]
fn subscriptions_and_deliveries() {
    let resource = ResourceUri::new(Family::Wmi, "root/virtualization/v2", "CIM_InstModification");
    let body = encode::subscribed(
        "https://hv-1:5986/wsman",
        &resource,
        "sub-1",
        Duration::from_secs(600),
        Some("c"),
    );
    let manager = "/e:SubscribeResponse/e:SubscriptionManager";
    assert_eq!(
        literal(&body, &format!("{manager}/a:ReferenceParameters/e:Identifier")),
        "sub-1"
    );
    assert_eq!(
        literal(&body, &format!("{manager}/a:Address")),
        "https://hv-1:5986/wsman"
    );
    assert_eq!(literal(&body, "/e:SubscribeResponse/e:Expires"), "PT10M");
    assert_eq!(literal(&body, "/e:SubscribeResponse/n:EnumerationContext"), "c");
    assert_eq!(
        literal(
            &encode::renewed(Duration::from_secs(60)),
            "/e:RenewResponse/e:Expires"
        ),
        "PT1M"
    );
    let to = Endpoint {
        address: "http://receiver.example/?a&b".to_owned(),
        headers: "<q:Key xmlns:q=\"urn:mine\">1</q:Key>".to_owned(),
    };
    let delivery = |mode| Delivery {
        to: &to,
        message_id: "uuid:1",
        mode,
        resource: &resource,
    };
    let event = encoder(Family::Wmi).object(&job()).unwrap();
    for (mode, action, path, asked) in [
        (DeliveryMode::Push, "Event", "Body/Msvm_ConcreteJob", false),
        (DeliveryMode::PushWithAck, "Event", "Body/Msvm_ConcreteJob", true),
        (
            DeliveryMode::Events,
            "Events",
            "Body/Events/Event/Msvm_ConcreteJob",
            true,
        ),
    ] {
        let envelope = delivery(mode).events(std::slice::from_ref(&event));
        let root = lifeboat_xml::parse(&envelope).unwrap();
        at(&root, path);
        assert_eq!(
            at(&root, "Header/Action").text(),
            format!("{}/{action}", ns::WSMAN_ACTION)
        );
        assert_eq!(at(&root, "Header/To").text(), to.address);
        assert_eq!(
            at(&root, "Header").child_in("urn:mine", "Key").unwrap().text(),
            "1"
        );
        assert_eq!(
            at(&root, "Header").child_in(ns::WSMAN, "AckRequested").is_some(),
            asked
        );
        let root = lifeboat_xml::parse(&delivery(mode).heartbeat()).unwrap();
        assert!(at(&root, "Header/Action").text().starts_with(ns::WSMAN_ACTION));
        let ended = delivery(mode).ended("https://hv-1:5986/wsman", "sub-1", Ended::DeliveryFailure, "gone");
        let root = lifeboat_xml::parse(&ended).unwrap();
        assert_eq!(at(&root, "Body/SubscriptionEnd/Reason").text(), "gone");
        assert!(
            at(&root, "Body/SubscriptionEnd/Status")
                .text()
                .ends_with("/eventing/DeliveryFailure")
        );
    }
}

#[test]
fn faults_have_the_shape_of_the_table() {
    let detail = |name: &str| format!("{}/faultDetail/{name}", ns::WSMAN_ACTION);
    let wsman = format!("{}/fault", ns::WSMAN_ACTION);
    let addressing = format!("{}/fault", ns::ADDRESSING);
    let enumeration = format!("{}/fault", ns::ENUMERATION);
    let eventing = format!("{}/fault", ns::EVENTING);
    for (kind, code, subcode, action, faultdetail) in [
        (
            FaultKind::Malformed,
            "s:Sender",
            "w:SchemaValidationError",
            &wsman,
            None,
        ),
        (
            FaultKind::SchemaValidation,
            "s:Sender",
            "w:SchemaValidationError",
            &wsman,
            None,
        ),
        (
            FaultKind::InvalidResourceUri,
            "s:Sender",
            "a:DestinationUnreachable",
            &addressing,
            Some("InvalidResourceURI"),
        ),
        (
            FaultKind::NotFound,
            "s:Sender",
            "a:DestinationUnreachable",
            &addressing,
            Some("ResourceNotFound"),
        ),
        (
            FaultKind::HeaderRequired,
            "s:Sender",
            "a:MessageInformationHeaderRequired",
            &addressing,
            None,
        ),
        (
            FaultKind::InsufficientSelectors,
            "s:Sender",
            "w:InvalidSelectors",
            &wsman,
            Some("InsufficientSelectors"),
        ),
        (
            FaultKind::UnexpectedSelectors,
            "s:Sender",
            "w:InvalidSelectors",
            &wsman,
            Some("UnexpectedSelectors"),
        ),
        (
            FaultKind::SelectorTypeMismatch,
            "s:Sender",
            "w:InvalidSelectors",
            &wsman,
            Some("TypeMismatch"),
        ),
        (
            FaultKind::DuplicateSelectors,
            "s:Sender",
            "w:InvalidSelectors",
            &wsman,
            Some("DuplicateSelectors"),
        ),
        (
            FaultKind::ActionNotSupported,
            "s:Sender",
            "a:ActionNotSupported",
            &addressing,
            None,
        ),
        (
            FaultKind::ActionMismatch,
            "s:Sender",
            "a:ActionNotSupported",
            &addressing,
            Some("ActionMismatch"),
        ),
        (
            FaultKind::AccessDenied,
            "s:Sender",
            "w:AccessDenied",
            &wsman,
            None,
        ),
        (
            FaultKind::InvalidParameter,
            "s:Sender",
            "w:InvalidParameter",
            &wsman,
            None,
        ),
        (
            FaultKind::InvalidParameterName,
            "s:Sender",
            "w:InvalidParameter",
            &wsman,
            Some("InvalidName"),
        ),
        (
            FaultKind::ParameterTypeMismatch,
            "s:Sender",
            "w:InvalidParameter",
            &wsman,
            Some("TypeMismatch"),
        ),
        (
            FaultKind::UnsupportedFeature,
            "s:Sender",
            "w:UnsupportedFeature",
            &wsman,
            None,
        ),
        (
            FaultKind::AddressingMode,
            "s:Sender",
            "w:UnsupportedFeature",
            &wsman,
            Some("AddressingMode"),
        ),
        (
            FaultKind::EnumerationMode,
            "s:Sender",
            "w:UnsupportedFeature",
            &wsman,
            Some("EnumerationMode"),
        ),
        (
            FaultKind::InternalError,
            "s:Receiver",
            "w:InternalError",
            &wsman,
            None,
        ),
        (
            FaultKind::MaxEnvelopeSize,
            "s:Sender",
            "w:EncodingLimit",
            &wsman,
            Some("MaxEnvelopeSize"),
        ),
        (
            FaultKind::MaxEnvelopeSizeExceeded,
            "s:Sender",
            "w:EncodingLimit",
            &wsman,
            Some("MaxEnvelopeSizeExceeded"),
        ),
        (
            FaultKind::MinimumEnvelopeLimit,
            "s:Sender",
            "w:EncodingLimit",
            &wsman,
            Some("MinimumEnvelopeLimit"),
        ),
        (
            FaultKind::ServiceEnvelopeLimit,
            "s:Sender",
            "w:EncodingLimit",
            &wsman,
            Some("ServiceEnvelopeLimit"),
        ),
        (FaultKind::TimedOut, "s:Receiver", "w:TimedOut", &wsman, None),
        (
            FaultKind::FilterDialect,
            "s:Sender",
            "n:FilterDialectRequestedUnavailable",
            &enumeration,
            None,
        ),
        (
            FaultKind::CannotProcessFilter,
            "s:Sender",
            "n:CannotProcessFilter",
            &enumeration,
            None,
        ),
        (
            FaultKind::InvalidEnumerationContext,
            "s:Sender",
            "n:InvalidEnumerationContext",
            &enumeration,
            None,
        ),
        (
            FaultKind::UnableToRenew,
            "s:Sender",
            "e:UnableToRenew",
            &eventing,
            None,
        ),
        (
            FaultKind::DeliveryMode,
            "s:Sender",
            "e:DeliveryModeRequestedUnavailable",
            &eventing,
            None,
        ),
    ] {
        let fault = Fault::new(kind, "why < not").to(Some("uuid:odd & kept "));
        let envelope = fault.envelope("uuid:f", "hv-1");
        let fault = "/s:Envelope/s:Body/s:Fault";
        assert_eq!(
            literal(&envelope, &format!("{fault}/s:Code/s:Subcode/s:Value")),
            subcode
        );
        assert_eq!(
            literal(&envelope, &format!("{fault}/s:Reason/s:Text")),
            "why &lt; not"
        );
        assert_eq!(
            literal(&envelope, "/s:Envelope/s:Header/a:RelatesTo"),
            "uuid:odd &amp; kept "
        );
        assert_eq!(
            literal(&envelope, &format!("{fault}/s:Detail/f:WSManFault/f:Message")),
            "why &lt; not"
        );
        let root = lifeboat_xml::parse(&envelope).unwrap();
        assert_eq!(at(&root, "Body/Fault/Code/Value").text(), code, "{kind:?}");
        assert_eq!(at(&root, "Header/Action").text(), **action);
        let found = at(&root, "Body/Fault/Detail")
            .child_in(ns::WSMAN, "FaultDetail")
            .map(Element::text);
        assert_eq!(found, faultdetail.map(detail), "{kind:?}");
        let manufacturer = at(&root, "Body/Fault/Detail/WSManFault");
        assert_eq!(manufacturer.namespace.as_deref(), Some(ns::WSMAN_FAULT));
        assert_eq!(manufacturer.attribute("Machine"), Some("hv-1"));
        assert_eq!(manufacturer.elements().count(), 1);
        // Microsoft's open client takes its result from here, and the prefixes b and p are its own.
        assert!(envelope.contains("b:IsCIM_Error=\"true\""));
        assert!(
            at(&root, "Body/Fault/Detail/OMI_Error/MessageID")
                .text()
                .starts_with("OMI:MI_Result:")
        );
    }
    for kind in FaultKind::ALL {
        let envelope = Fault::new(*kind, "x").envelope("uuid:f", "hv-1");
        let root = lifeboat_xml::parse(&envelope).unwrap();
        assert!(!envelope.contains("RelatesTo"));
        assert_eq!(
            kind.http_status(),
            if *kind == FaultKind::Malformed { 400 } else { 500 }
        );
        assert!(at(&root, "Body/Fault/Code/Value").text().starts_with("s:"));
    }
    let dialects = Fault::new(FaultKind::FilterDialect, "x").envelope("uuid:f", "hv-1");
    assert_eq!(dialects.matches("<n:SupportedDialect>").count(), 3);
}

#[test]
fn errors_of_operations_become_faults() {
    for (status, kind, result, number) in [
        (Status::AccessDenied, FaultKind::AccessDenied, 2, 0x8004_1003_u32),
        (
            Status::InvalidNamespace,
            FaultKind::InvalidResourceUri,
            3,
            0x8004_100e,
        ),
        (
            Status::InvalidClass,
            FaultKind::InvalidResourceUri,
            5,
            0x8004_1010,
        ),
        (Status::NotFound, FaultKind::NotFound, 6, 0x8004_1002),
        (
            Status::InvalidParameter,
            FaultKind::InvalidParameter,
            4,
            0x8004_1008,
        ),
        (
            Status::MethodNotFound,
            FaultKind::ActionNotSupported,
            17,
            0x8004_102e,
        ),
        (
            Status::InvalidQuery,
            FaultKind::CannotProcessFilter,
            15,
            0x8004_1017,
        ),
        (
            Status::InvalidEnumerationContext,
            FaultKind::InvalidEnumerationContext,
            21,
            2_150_858_779,
        ),
        (Status::Failed, FaultKind::InternalError, 1, 0x8004_1001),
    ] {
        let fault = Fault::from(CimError::new(status, "the vm"));
        assert_eq!((fault.kind, fault.message.as_str()), (kind, "the vm"));
        let envelope = fault.envelope("uuid:f", "hv-1");
        assert!(
            envelope.contains(&format!(">OMI:MI_Result:{result}<")),
            "{envelope}"
        );
        assert!(envelope.contains(&format!("Code=\"{number}\"")), "{envelope}");
    }
    // Some clients wait again when they see this number.
    let late = Fault::new(FaultKind::TimedOut, "x").envelope("uuid:f", "hv-1");
    assert!(late.contains("Code=\"2150858793\""));
}
