//! WS-Management as clients write it, by hand: reads in both families, enumerations in every way of pulling them, methods,
//! faults and bounds. Instances and methods themselves are tested where they are made.

use std::collections::BTreeSet;

use lifeboat_engine::by::Surface;

use crate::remote_support::{Answer, Connection, Host, basic, element, host};

pub(crate) const WMI: &str = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/";
const DMTF: &str = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/";
const TRANSFER: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer/";
const ENUMERATION: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/";
const WQL: &str = "http://schemas.microsoft.com/wbem/wsman/1/WQL";
const NAMESPACE: (&str, &str) = ("__cimnamespace", "root/virtualization/v2");
pub(crate) const VM: &str = "6f3b2f2e-3a63-4a0e-9a53-0d9f5f6f0001";
const HUGE: &str = "<w:MaxElements>32000</w:MaxElements>";

/// A request as it is put together.
#[derive(Clone, Default)]
pub(crate) struct Ask {
    action: String,
    resource: String,
    selectors: Vec<(String, String)>,
    headers: String,
    body: String,
}

impl Ask {
    pub(crate) fn new(action: &str, resource: &str) -> Self {
        Self {
            action: action.to_owned(),
            resource: resource.to_owned(),
            ..Self::default()
        }
    }

    pub(crate) fn select(mut self, selectors: &[(&str, &str)]) -> Self {
        let owned = |(n, v): &(&str, &str)| ((*n).to_owned(), (*v).to_owned());
        self.selectors.extend(selectors.iter().map(owned));
        self
    }

    fn headers(mut self, headers: &str) -> Self {
        self.headers.push_str(headers);
        self
    }

    pub(crate) fn body(mut self, body: &str) -> Self {
        self.body = body.to_owned();
        self
    }

    fn text(&self) -> String {
        let selector = |(n, v): &(String, String)| format!("<w:Selector Name=\"{n}\">{v}</w:Selector>");
        let selectors: String = self.selectors.iter().map(selector).collect();
        format!(
            "<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\" \
             xmlns:a=\"http://schemas.xmlsoap.org/ws/2004/08/addressing\" \
             xmlns:w=\"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd\" \
             xmlns:n=\"http://schemas.xmlsoap.org/ws/2004/09/enumeration\"><s:Header>\
             <a:To>https://localhost/wsman</a:To>\
             <w:ResourceURI s:mustUnderstand=\"true\">{}</w:ResourceURI>\
             <a:ReplyTo><a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address></a:ReplyTo>\
             <a:Action s:mustUnderstand=\"true\">{}</a:Action><a:MessageID>uuid:Odd-{}</a:MessageID>\
             <w:SelectorSet>{selectors}</w:SelectorSet>{}</s:Header><s:Body>{}</s:Body></s:Envelope>",
            self.resource,
            self.action,
            self.body.len(),
            self.headers,
            self.body
        )
    }
}

pub(crate) struct Client {
    connection: Connection,
    user: &'static str,
}

pub(crate) async fn client(host: &Host, user: &'static str) -> Client {
    Client {
        connection: host.connect(host.wsman).await,
        user,
    }
}

impl Client {
    pub(crate) async fn ask(&mut self, ask: &Ask) -> Answer {
        let auth = basic(self.user);
        let fields = [
            ("Authorization", auth.as_str()),
            ("Content-Type", "application/soap+xml;charset=UTF-8"),
        ];
        let answer = self.connection.post("/wsman", &fields, &ask.text()).await;
        let kind = answer.header("content-type");
        assert_eq!(kind, Some("application/soap+xml;charset=UTF-8"));
        assert!(answer.header("content-length").is_some() && answer.chunks == 0);
        let id = format!("uuid:Odd-{}", ask.body.len());
        assert_eq!(answer.element("RelatesTo"), Some(id.as_str()), "{}", answer.body);
        answer
    }

    pub(crate) async fn good(&mut self, ask: &Ask) -> Answer {
        let answer = self.ask(ask).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer
    }

    pub(crate) async fn fault(&mut self, ask: &Ask, code: &str) -> Answer {
        let answer = self.ask(ask).await;
        assert_eq!(answer.status, 500, "{}", answer.body);
        let subcode = element(&answer.body, "Subcode").and_then(|s| element(s, "Value"));
        assert_eq!(subcode, Some(code), "{}", answer.body);
        answer
    }

    /// Pulls to the end with these elements in each Pull; the items, and how many answers they came in.
    async fn drain(
        &mut self,
        resource: &str,
        mut context: String,
        each: &str,
        headers: &str,
    ) -> (Vec<String>, usize) {
        let (mut items, mut pulls) = (Vec::new(), 0);
        loop {
            let answer = self.good(&pull(resource, &context, each).headers(headers)).await;
            pulls += 1;
            let batch = answer.body.split_once("<n:Items>").unwrap().1;
            items.extend(objects(batch.split_once("</n:Items>").unwrap().0));
            if answer.body.contains("<n:EndOfSequence") {
                assert!(answer.element("EnumerationContext").is_none(), "{}", answer.body);
                return (items, pulls);
            }
            context = answer.element("EnumerationContext").unwrap().to_owned();
        }
    }
}

fn enumerate(resource: &str, body: &str) -> Ask {
    Ask::new(&format!("{ENUMERATION}Enumerate"), resource).body(&format!("<n:Enumerate>{body}</n:Enumerate>"))
}

fn pull(resource: &str, context: &str, rest: &str) -> Ask {
    Ask::new(&format!("{ENUMERATION}Pull"), resource).body(&format!(
        "<n:Pull><n:EnumerationContext>{context}</n:EnumerationContext>{rest}</n:Pull>"
    ))
}

fn wql(text: &str) -> String {
    format!("<w:Filter Dialect=\"{WQL}\">{text}</w:Filter>")
}

/// The elements at the top of a piece of XML without white space between them.
/// An object without what changes from one look to the next: for how long a VM has been on.
fn steady(object: &str) -> String {
    let (start, end) = ("<p:OnTimeInMilliseconds>", "</p:OnTimeInMilliseconds>");
    match (object.find(start), object.find(end)) {
        (Some(from), Some(to)) => format!("{}{}", &object[..from], &object[to + end.len()..]),
        (Some(_) | None, _) => object.to_owned(),
    }
}

fn objects(mut xml: &str) -> Vec<String> {
    let mut found = Vec::new();
    while !xml.is_empty() {
        let name = xml[1..].split([' ', '>', '/']).next().unwrap();
        let end = format!("</{name}>");
        let at = xml.find(&end).unwrap() + end.len();
        found.push(steady(&xml[..at]));
        xml = &xml[at..];
    }
    found
}

fn get(resource: &str) -> Ask {
    Ask::new(&format!("{TRANSFER}Get"), resource)
}

#[tokio::test]
async fn an_instance_is_got_in_either_family_by_any_spelling() {
    let host = host().await;
    let mut c = client(&host, "viewer").await;
    let wmi = format!("{WMI}Msvm_ComputerSystem");
    let dmtf = format!("{DMTF}Msvm_ComputerSystem");
    let name = [("Name", VM)];
    let both = [("name", VM), ("CREATIONCLASSNAME", "msvm_computersystem")];
    for (uri, ask) in [
        (&wmi, get(&wmi).select(&name)),
        (&wmi, get(&wmi).select(&both).select(&[NAMESPACE])),
        (&dmtf, get(&dmtf).select(&both).select(&[NAMESPACE])),
    ] {
        let answer = c.good(&ask).await;
        assert_eq!(answer.element("ElementName"), Some("web"));
        assert_eq!(answer.element("Name"), Some(VM.to_uppercase().as_str()));
        assert!(
            answer.body.contains(&format!("xmlns:p=\"{uri}\"")),
            "{}",
            answer.body
        );
    }
    c.fault(
        &get(&wmi).select(&[("Name", "nobody")]),
        "a:DestinationUnreachable",
    )
    .await;
    c.fault(&get(&format!("{WMI}Msvm_Nothing")), "a:DestinationUnreachable")
        .await;
    for (selectors, detail) in [
        (&[("Colour", "red")][..], "UnexpectedSelectors"),
        (&[], "InsufficientSelectors"),
    ] {
        let fault = c.fault(&get(&wmi).select(selectors), "w:InvalidSelectors").await;
        let told = fault.element("FaultDetail").unwrap();
        assert!(told.ends_with(detail), "{told}");
    }
    host.stop().await;
}

#[tokio::test]
async fn an_enumeration_is_the_same_pulled_singly_in_batches_or_at_once() {
    let host = host().await;
    let mut c = client(&host, "viewer").await;
    let class = format!("{WMI}CIM_ManagedElement");
    // At once.
    let answer = c
        .good(&enumerate(&class, &format!("<w:OptimizeEnumeration/>{HUGE}")))
        .await;
    assert!(answer.body.contains("<w:EndOfSequence"), "{}", answer.body);
    assert_eq!(answer.element("EnumerationContext"), Some(""));
    let all: Vec<String> = objects(answer.element("Items").unwrap());
    assert!(all.len() > 10, "{}", all.len());
    // Nothing said means one, and the context belongs to no URI.
    let begun = c
        .good(&enumerate(
            &format!("{WMI}*"),
            &wql("SELECT * FROM CIM_ManagedElement"),
        ))
        .await;
    let context = begun.element("EnumerationContext").unwrap().to_owned();
    let (items, pulls) = c.drain(&class, context, "", "").await;
    assert_eq!((items.len(), pulls), (all.len(), all.len()));
    assert_eq!(BTreeSet::from_iter(&items), BTreeSet::from_iter(&all));
    // In threes, the first of them with the answer.
    let three = "<w:MaxElements>3</w:MaxElements>";
    let begun = c
        .good(&enumerate(&class, &format!("<w:OptimizeEnumeration/>{three}")))
        .await;
    let first = objects(begun.element("Items").unwrap());
    let context = begun.element("EnumerationContext").unwrap().to_owned();
    let (rest, pulls) = c
        .drain(&class, context, "<n:MaxElements>3</n:MaxElements>", "")
        .await;
    assert_eq!((first.len(), first.len() + rest.len()), (3, all.len()));
    assert_eq!(pulls, rest.len().div_ceil(3));
    // As much as fits into the smallest envelope.
    let small = "<w:MaxEnvelopeSize s:mustUnderstand=\"true\">12000</w:MaxEnvelopeSize>";
    let begun = c.good(&enumerate(&class, "").headers(small)).await;
    let mut context = begun.element("EnumerationContext").unwrap().to_owned();
    let (mut fitting, mut most) = (Vec::new(), 0);
    loop {
        let answer = c
            .ask(&pull(&class, &context, "<n:MaxElements>32000</n:MaxElements>").headers(small))
            .await;
        if answer.status == 500 {
            // One that fits into no such envelope waits for a larger one.
            assert_eq!(
                answer.element("FaultDetail"),
                Some("http://schemas.dmtf.org/wbem/wsman/1/wsman/faultDetail/MaxEnvelopeSize"),
                "{}",
                answer.body
            );
            let one = c.good(&pull(&class, &context, "")).await;
            fitting.extend(objects(one.element("Items").unwrap()));
            if one.body.contains("<n:EndOfSequence") {
                break;
            }
            continue;
        }
        assert!(
            answer.status == 200 && answer.body.len() <= 12000,
            "{}",
            answer.body.len()
        );
        let batch = objects(answer.element("Items").unwrap());
        most = most.max(batch.len());
        fitting.extend(batch);
        match answer.element("EnumerationContext") {
            Some(next) => context = next.to_owned(),
            None => break,
        }
    }
    assert!(most > 1);
    assert_eq!(BTreeSet::from_iter(&fitting), BTreeSet::from_iter(&all));
    host.stop().await;
}

#[tokio::test]
async fn queries_modes_and_columns() {
    let host = host().await;
    let mut c = client(&host, "viewer").await;
    let all = format!("{WMI}*");
    let vms = "select * from Msvm_ComputerSystem where Description = \"Microsoft Virtual Machine\"";
    let at_once = |body: String| enumerate(&all, &format!("<w:OptimizeEnumeration/>{HUGE}{body}"));
    let answer = c.good(&at_once(wql(vms))).await;
    assert_eq!(objects(answer.element("Items").unwrap()).len(), 1);
    let mode = |m: &str| format!("<w:EnumerationMode>{m}</w:EnumerationMode>");
    let answer = c.good(&at_once(wql(vms) + &mode("EnumerateEPR"))).await;
    let items = answer.element("Items").unwrap();
    assert!(
        items.starts_with("<a:EndpointReference>") && items.contains(&VM.to_uppercase()),
        "{items}"
    );
    assert!(!items.contains("__cimnamespace"));
    let answer = c.good(&at_once(wql(vms) + &mode("EnumerateObjectAndEPR"))).await;
    let items = answer.element("Items").unwrap();
    assert!(
        items.starts_with("<w:Item><p:Msvm_ComputerSystem ")
            && items.ends_with("</a:EndpointReference></w:Item>")
    );
    let answer = c
        .good(&at_once(wql(&vms.replace('*', "ElementName, enabledstate"))))
        .await;
    let items = answer.element("Items").unwrap();
    assert!(
        items.starts_with("<w:XmlFragment ") && items.contains("<p:EnabledState>2<"),
        "{items}"
    );
    assert!(!items.contains("Description"));
    c.fault(&at_once(wql("")), "n:CannotProcessFilter").await;
    c.fault(&at_once(wql("select everything")), "n:CannotProcessFilter")
        .await;
    let cql = "<w:Filter Dialect=\"http://schemas.dmtf.org/wbem/cql/1/dsp0202.pdf\">x</w:Filter>";
    c.fault(&at_once(cql.into()), "n:FilterDialectRequestedUnavailable")
        .await;
    // Nothing found is an enumeration that ends at once.
    let begun = c
        .good(&enumerate(
            &all,
            &wql("select * from Msvm_ConcreteJob where InstanceID = 'x'"),
        ))
        .await;
    let context = begun.element("EnumerationContext").unwrap().to_owned();
    assert_eq!(c.drain(&all, context, "", "").await, (Vec::new(), 1));
    // References in the other family say their namespace.
    let dmtf = "http://schemas.dmtf.org/wbem/wscim/1/*";
    let body = format!(
        "<w:OptimizeEnumeration/>{HUGE}{}{}",
        wql(vms),
        mode("EnumerateEPR")
    );
    let answer = c.good(&enumerate(dmtf, &body).select(&[NAMESPACE])).await;
    let items = answer.element("Items").unwrap();
    assert!(
        items.contains("Name=\"__cimnamespace\">root/virtualization/v2<"),
        "{items}"
    );
    host.stop().await;
}

#[tokio::test]
async fn enumeration_contexts_belong_to_their_user_and_end() {
    let host = host().await;
    let class = format!("{WMI}CIM_ManagedElement");
    let (mut c, mut other) = (client(&host, "viewer").await, client(&host, "operator").await);
    let begun = c.good(&enumerate(&class, "")).await;
    let context = begun.element("EnumerationContext").unwrap().to_owned();
    other
        .fault(&pull(&class, &context, ""), "n:InvalidEnumerationContext")
        .await;
    let release = |context: &str| {
        Ask::new(&format!("{ENUMERATION}Release"), &class).body(&format!(
            "<n:Release><n:EnumerationContext>{context}</n:EnumerationContext></n:Release>"
        ))
    };
    other.good(&release(&context)).await;
    c.good(&pull(&class, &context, "")).await;
    let answer = c.good(&release(&context)).await;
    assert_eq!(answer.element("Body"), Some(""));
    c.fault(&pull(&class, &context, ""), "n:InvalidEnumerationContext")
        .await;
    c.fault(&pull(&class, "nonsense", ""), "n:InvalidEnumerationContext")
        .await;
    // No time at all: a fault, and nothing is lost.
    let begun = c.good(&enumerate(&class, "")).await;
    let context = begun.element("EnumerationContext").unwrap().to_owned();
    let hurry = pull(&class, &context, "<n:MaxElements>32000</n:MaxElements>");
    c.fault(
        &hurry
            .clone()
            .headers("<w:OperationTimeout>PT0S</w:OperationTimeout>"),
        "w:TimedOut",
    )
    .await;
    let calm = c.good(&hurry).await;
    let whole = c
        .good(&enumerate(&class, &format!("<w:OptimizeEnumeration/>{HUGE}")))
        .await;
    assert_eq!(
        objects(calm.element("Items").unwrap()).len(),
        objects(whole.element("Items").unwrap()).len()
    );
    host.stop().await;
}

#[tokio::test]
async fn methods_need_their_role() {
    let host = host().await;
    let uri = format!("{WMI}Msvm_ComputerSystem");
    let pause = Ask::new(&format!("{uri}/RequestStateChange"), &uri)
        .select(&[("CreationClassName", "Msvm_ComputerSystem"), ("Name", VM)])
        .body(&format!(
            "<p:RequestStateChange_INPUT xmlns:p=\"{uri}\"><p:RequestedState>9</p:RequestedState></p:RequestStateChange_INPUT>"
        ));
    let mut viewer = client(&host, "viewer").await;
    let answer = viewer.good(&pause).await;
    assert_eq!(answer.element("ReturnValue"), Some("32769"), "{}", answer.body);
    let mut operator = client(&host, "operator").await;
    let answer = operator.good(&pause).await;
    let value = answer.element("ReturnValue").unwrap();
    assert!(["0", "4096"].contains(&value), "{}", answer.body);
    assert_eq!(
        answer.element("Action"),
        Some(format!("{uri}/RequestStateChangeResponse").as_str())
    );
    assert!(answer.body.contains("<p:RequestStateChange_OUTPUT xmlns:p="));
    let event = {
        let state = host.world.shared.state();
        let mut events = state.hosts.iter().flat_map(|h| &h.events);
        events.find(|e| e.message == "VM paused").cloned()
    };
    let by = event.and_then(|e| e.by).unwrap();
    assert_eq!((by.surface, by.name.as_str()), (Surface::Wsman, "operator"));
    assert!(
        by.from.as_ref().is_some_and(|f| f.starts_with("127.0.0.1:")),
        "{by}"
    );
    let settings = format!("{WMI}Msvm_ReplicationService");
    let modify = Ask::new(&format!("{settings}/ModifyServiceSettings"), &settings).body(&format!(
        "<p:ModifyServiceSettings_INPUT xmlns:p=\"{settings}\"/>"
    ));
    let answer = operator.good(&modify).await;
    assert_eq!(answer.element("ReturnValue"), Some("32769"), "{}", answer.body);
    operator
        .fault(
            &Ask::new(&format!("{uri}/Explode"), &uri).select(&[("Name", VM)]),
            "a:ActionNotSupported",
        )
        .await;
    operator
        .fault(
            &pause.clone().body("<p:Other_INPUT xmlns:p=\"u\"/>"),
            "w:SchemaValidationError",
        )
        .await;
    for verb in ["Put", "Create", "Delete"] {
        let ask = Ask::new(&format!("{TRANSFER}{verb}"), &uri)
            .select(&[("Name", VM)])
            .body(&format!("<p:Msvm_ComputerSystem xmlns:p=\"{uri}\"/>"));
        operator.fault(&ask, "a:ActionNotSupported").await;
    }
    host.stop().await;
}

#[tokio::test]
async fn hostile_documents_cost_little_and_are_answered() {
    let host = host().await;
    let mut c = host.connect(host.wsman).await;
    let auth = basic("viewer");
    let fields = [("Authorization", auth.as_str())];
    let bomb = "<!DOCTYPE a [<!ENTITY b \"bb\"><!ENTITY c \"&b;&b;\">]><a>&c;</a>".to_owned();
    let deep = "<a>".repeat(1_000_000);
    let wide = format!("<a>{}</a>", "<b/>".repeat(900_000));
    for hostile in [
        String::new(),
        "x".into(),
        "<a/>".into(),
        bomb,
        deep,
        wide,
        "\u{feff}<".into(),
    ] {
        let answer = c.post("/wsman", &fields, &hostile).await;
        assert_eq!(answer.status, 400, "{:.100}", hostile);
        assert!(answer.element("Reason").is_some(), "{}", answer.body);
    }
    let strange = get(&format!("{WMI}Msvm_ComputerSystem"))
        .headers("<z:Z xmlns:z=\"urn:z\" s:mustUnderstand=\"true\"/>");
    let answer = c.post("/wsman", &fields, &strange.text()).await;
    assert_eq!(
        (answer.status, answer.element("Value")),
        (500, Some("s:MustUnderstand"))
    );
    // In the other encoding that Windows sends.
    let units = get(&format!("{WMI}Msvm_ComputerSystem"))
        .select(&[("Name", VM)])
        .text();
    let units: Vec<u8> = [0xff, 0xfe]
        .into_iter()
        .chain(units.encode_utf16().flat_map(u16::to_le_bytes))
        .collect();
    let head = format!(
        "POST /wsman HTTP/1.1\r\nHost: h\r\nAuthorization: {auth}\r\nContent-Type: application/soap+xml;charset=UTF-16\r\nContent-Length: {}\r\n\r\n",
        units.len()
    );
    c.send(head).await;
    c.send(units).await;
    assert_eq!(c.answer().await.unwrap().status, 200);
    host.stop().await;
}

#[tokio::test]
async fn a_class_is_described() {
    let host = host().await;
    let mut c = client(&host, "viewer").await;
    let ask = get("http://schemas.dmtf.org/wbem/cim-xml/2/cim-schema/2/*")
        .select(&[NAMESPACE, ("ClassName", "Msvm_ReplicationService")]);
    let answer = c.good(&ask).await;
    assert!(
        answer.body.contains("<CLASS NAME=\"Msvm_ReplicationService\""),
        "{}",
        answer.body
    );
    assert!(answer.body.contains("NAME=\"InitiateFailover\""));
    host.stop().await;
}

#[tokio::test]
async fn classes_are_enumerated_in_batches() {
    let host = host().await;
    let mut c = client(&host, "viewer").await;
    let classes = "http://schemas.dmtf.org/wbem/cim-xml/2/cim-schema/2/*";
    let services = enumerate(
        classes,
        "<w:OptimizeEnumeration/><w:MaxElements>2</w:MaxElements>",
    )
    .select(&[NAMESPACE, ("ClassName", "CIM_Service")]);
    let answer = c.good(&services).await;
    let mut found = objects(answer.element("Items").unwrap());
    assert_eq!(found.len(), 2, "{}", answer.body);
    let context = answer.element("EnumerationContext").unwrap().to_owned();
    found.extend(c.drain(classes, context, "", "").await.0);
    assert!(found.iter().all(|c| c.starts_with("<CLASS NAME=\"")));
    let named = |name: &str| {
        let start = format!("<CLASS NAME=\"{name}\"");
        found.iter().filter(|c| c.starts_with(&start)).count()
    };
    assert_eq!(
        (
            named("Msvm_ReplicationService"),
            named("CIM_Service"),
            named("Msvm_ComputerSystem")
        ),
        (1, 0, 0)
    );
    // PowerShell's way to say all.
    let all = enumerate(classes, &format!("<w:OptimizeEnumeration/>{HUGE}"))
        .select(&[NAMESPACE, ("ClassName", "")]);
    let answer = c.good(&all).await;
    assert!(answer.body.contains("<CLASS NAME=\"CIM_ManagedElement\""));
    c.fault(&services.select(&[("Colour", "red")]), "w:InvalidSelectors")
        .await;
    host.stop().await;
}

#[tokio::test]
async fn libvirt_finds_the_processor_of_the_host() {
    let host = host().await;
    let mut c = client(&host, "viewer").await;
    let walk = "ASSOCIATORS OF {Win32_ComputerSystem.Name='a'} \
                WHERE AssocClass = Win32_ComputerSystemProcessor ResultClass = Win32_Processor";
    let all = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/cimv2/*";
    let context = c.good(&enumerate(all, &wql(walk))).await;
    let context = context.element("EnumerationContext").unwrap().to_owned();
    let processor = all.replace('*', "Win32_Processor");
    let (items, _) = c.drain(&processor, context, "", "").await;
    assert_eq!(items.len(), 1);
    assert_eq!(element(&items[0], "DeviceID"), Some("CPU0"));
    host.stop().await;
}
