//! An independent client, pywbem, against a server that this test plays with the codec: its requests are decoded and
//! compared to its headers, and it reads answers of every kind. The engine is not here; the instances are made up.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like the tests")]

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lifeboat_cim::cimxml::{self, Call, Form, Intrinsic, Listing, Page, Request, Results, View};
use lifeboat_cim::typing::{typed, typed_name};
use lifeboat_cim::{
    CimError, Class, DateTime, Instance, InstanceName, Namespace, ObjectPath, Raw, Schema, Status, Value,
};

const SPACE: &str = "root/virtualization/v2";
/// 2024-03-01 10:00:00 UTC.
const MOMENT: DateTime = DateTime::Instant(1_709_287_200_000_000);

fn vm_name(name: &str) -> InstanceName {
    let keys = [("CreationClassName", "Msvm_ComputerSystem"), ("Name", name)];
    InstanceName::new("Msvm_ComputerSystem", &keys)
}

fn vm(name: &str) -> Instance {
    Instance::new("Msvm_ComputerSystem")
        .with("CreationClassName", "Msvm_ComputerSystem")
        .with("Name", name)
        .with("ElementName", format!("über <&> \"q\"\r\n{name}"))
        .with("OperationalStatus", vec![2_u16, 32768])
        .with("EnabledState", 2_u16)
        .with("InstallDate", MOMENT)
}

fn setting() -> Instance {
    Instance::new("Msvm_VirtualSystemSettingData").with("InstanceID", "Microsoft:0A\\HVR")
}

fn link() -> Instance {
    let to = InstanceName::new(
        "Msvm_VirtualSystemSettingData",
        &[("InstanceID", "Microsoft:0A\\HVR")],
    );
    Instance::new("Msvm_SettingsDefineState")
        .with("ManagedElement", ObjectPath::new(SPACE, vm_name("0A")))
        .with("SettingData", ObjectPath::new(SPACE, to))
}

/// What is opened and not yet pulled, under the only context there is.
struct Server {
    open: Option<(Form, View, VecDeque<Instance>)>,
    requests: usize,
}

type Answer = Result<String, CimError>;

fn refused<T>(status: Status) -> Result<T, CimError> {
    Err(CimError::new(status, "no \"writing\"\n<here>"))
}

impl Server {
    fn answer(&mut self, line: &str) -> String {
        let mut fields = line.trim_end().split('\t');
        let mut field = || fields.next().unwrap().to_owned();
        let (operation, method, object) = (field(), field(), field());
        let body = String::from_utf8(BASE64_STANDARD.decode(field()).unwrap()).unwrap();
        let request = cimxml::decode(&body).unwrap_or_else(|e| panic!("{e}: {body}"));
        let headers = cimxml::check_headers(&request, Some(&operation), Some(&method), Some(&object));
        assert_eq!(headers, Ok(()), "{object}: {body}");
        self.requests += 1;
        if let Some(folder) = std::env::var_os("CIMXML_SEEDS") {
            let name = format!("pywbem-{:02}-{}", self.requests, request.head.name);
            std::fs::write(Path::new(&folder).join(name), &body).unwrap();
        }
        let space = Schema::builtin().namespace(&request.namespace);
        let answer = space.and_then(|space| match &request.call {
            Call::Intrinsic(operation) => self.intrinsic(space, &request, operation),
            Call::Method { target, arguments } => invoke(space, &request, target, arguments),
        });
        answer.unwrap_or_else(|error| cimxml::error(&request.head, &error))
    }

    fn intrinsic(&mut self, space: &Namespace, request: &Request, operation: &Intrinsic) -> Answer {
        let head = &request.head;
        let form = Form::of(operation);
        let all = |items: Vec<Instance>, view: &View, page: Option<Page<'_>>| {
            let results = Results {
                namespace: space,
                host: "h:1",
                form: form.unwrap(),
                view,
            };
            let items: String = items.iter().map(|i| results.item(i)).collect();
            Ok(cimxml::begin(head) + &items + &cimxml::end(page))
        };
        match operation {
            Intrinsic::GetInstance { name, view } => {
                let mut known = ["0A", "0B", "0C"].map(vm).to_vec();
                known.push(link());
                let wanted = typed_name(space, name.clone())?;
                let found = known.into_iter().find(|i| space.name_of(i) == wanted);
                found.map_or_else(|| refused(Status::NotFound), |i| all(vec![i], view, None))
            }
            Intrinsic::List(listing) => all(list(space, listing)?, &listing.view(), None),
            Intrinsic::Open { listing, max, .. } => {
                self.open = Some((form.unwrap(), listing.view(), list(space, listing)?.into()));
                self.pull(*max, all)
            }
            Intrinsic::Pull { context, max, .. } if context == "c<1" && self.open.is_some() => {
                assert_eq!(form, self.open.as_ref().map(|o| o.0));
                self.pull(*max, all)
            }
            Intrinsic::Pull { .. } => refused(Status::InvalidEnumerationContext),
            Intrinsic::CloseEnumeration { context } => {
                assert_eq!(context, "c<1");
                self.open = None;
                Ok(cimxml::nothing(head))
            }
            Intrinsic::CreateInstance { .. }
            | Intrinsic::ModifyInstance { .. }
            | Intrinsic::DeleteInstance { .. } => refused(Status::NotSupported),
            Intrinsic::GetClass { class, view } => Ok(cimxml::unit(
                head,
                &cimxml::class_item(space, space.class(class)?, view),
            )),
            Intrinsic::EnumerateClasses { view, .. } => {
                let item = |c: &Class| cimxml::class_item(space, c, view);
                Ok(cimxml::unit(
                    head,
                    &space.classes.values().map(item).collect::<String>(),
                ))
            }
            Intrinsic::EnumerateClassNames { .. } => {
                let item = |c: &Class| cimxml::class_name_item(&c.name);
                Ok(cimxml::unit(
                    head,
                    &space.classes.values().map(item).collect::<String>(),
                ))
            }
            Intrinsic::EnumerateQualifiers => {
                let items = space
                    .qualifiers
                    .values()
                    .map(|q| cimxml::qualifier_item(space, q));
                Ok(cimxml::unit(head, &items.collect::<String>()))
            }
            Intrinsic::GetQualifier { name } => {
                let declaration = &space.qualifiers[&name.to_lowercase()];
                Ok(cimxml::unit(head, &cimxml::qualifier_item(space, declaration)))
            }
        }
    }

    fn pull(&mut self, max: u32, all: impl Fn(Vec<Instance>, &View, Option<Page<'_>>) -> Answer) -> Answer {
        let (_, view, left) = self.open.as_mut().unwrap();
        let items = left.drain(..left.len().min(max as usize)).collect();
        let page = if left.is_empty() {
            Page::Last
        } else {
            Page::More("c<1")
        };
        let answer = all(items, view, Some(page));
        if page == Page::Last {
            self.open = None;
        }
        answer
    }
}

fn list(space: &Namespace, listing: &Listing) -> Result<Vec<Instance>, CimError> {
    match listing {
        Listing::Instances { class, .. } | Listing::Names { class } => {
            space.class(class)?;
            Ok(["0A", "0B", "0C"].map(vm).to_vec())
        }
        Listing::Query(query) => {
            assert_eq!(
                (query.language.as_str(), query.text.as_str()),
                ("WQL", "select * from Msvm_ComputerSystem")
            );
            Ok(["0A", "0B", "0C"].map(vm).to_vec())
        }
        Listing::Associators { relation, .. } | Listing::AssociatorNames { relation } => {
            assert_eq!((&relation.source, relation.of_class), (&vm_name("0A"), false));
            Ok(vec![setting()])
        }
        Listing::References { relation, .. } | Listing::ReferenceNames { relation } => {
            assert_eq!(relation.source, vm_name("0A"));
            Ok(vec![link()])
        }
    }
}

fn invoke(
    space: &Namespace,
    request: &Request,
    target: &InstanceName,
    arguments: &[(String, Raw)],
) -> Answer {
    let method = space.class(&target.class)?.method(&request.head.name);
    let Some(method) = method else {
        return refused(Status::MethodNotFound);
    };
    let mut given = Vec::new();
    for (name, raw) in arguments {
        let value = typed(space, method.parameter(name).unwrap(), raw);
        let value = value.map_err(|e| CimError::new(Status::InvalidParameter, e.message))?;
        given.extend(value.map(|v| (name.as_str(), v)));
    }
    let on_vm = (
        "ComputerSystem",
        Value::from(ObjectPath::new(SPACE, vm_name("0A"))),
    );
    let service = [("Name", "replicasvc"), ("SystemName", "h\\\"x\"")];
    let (value, out) = match method.name.as_str() {
        "CreateReplicationRelationship" => {
            assert_eq!(target, &InstanceName::new("Msvm_ReplicationService", &service));
            let setting = Instance::new("Msvm_ReplicationSettingData")
                .with("ReplicationInterval", 300_u16)
                .with("IncludedDisks", vec!["a\\b", "c"]);
            let Some((_, Value::Instance(sent))) = given.iter().find(|(n, _)| *n == "ReplicationSettingData")
            else {
                panic!("{given:?}")
            };
            assert_eq!(sent.get("IncludedDisks"), setting.get("IncludedDisks"));
            assert_eq!(
                sent.get("ReplicationInterval"),
                setting.get("ReplicationInterval")
            );
            assert!(given.contains(&on_vm), "{given:?}");
            let job = ObjectPath::new(
                SPACE,
                InstanceName::new("Msvm_ConcreteJob", &[("InstanceID", "JOB-1")]),
            );
            (4096, vec![("Job".to_owned(), Value::from(job))])
        }
        "GetReplicationStatistics" => {
            let one = Instance::new("Msvm_ReplicationStatistics").with("StartStatisticTime", MOMENT);
            (
                0,
                vec![(
                    "ReplicationStatistics".to_owned(),
                    Value::from(vec![one.clone(), one]),
                )],
            )
        }
        "InitiateFailover" => {
            assert_eq!(given, [on_vm]);
            (32775, Vec::new())
        }
        _ => {
            assert!(target.keys.is_empty());
            (32770, Vec::new())
        }
    };
    Ok(cimxml::method_response(&request.head, space, method, value, &out))
}

/// `CIMXML_SEEDS=fuzz/corpus/cimxml_decode` keeps what pywbem sends as seeds of the fuzz target.
#[test]
fn pywbem_and_the_codec_understand_each_other() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = own.join("../../target/python/bin/python");
    assert!(
        python.exists(),
        "pywbem is missing in target/python: run `make setup`"
    );
    let mut client = Command::new(python)
        .arg(own.join("tests/cimxml_client.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut answers = client.stdin.take().unwrap();
    let mut server = Server {
        open: None,
        requests: 0,
    };
    for line in BufReader::new(client.stdout.take().unwrap()).lines() {
        let answer = server.answer(&line.unwrap());
        writeln!(answers, "{}", BASE64_STANDARD.encode(answer)).unwrap();
    }
    assert!(
        client.wait().unwrap().success(),
        "pywbem has read something else, see above"
    );
    assert!(server.requests > 40, "{} requests", server.requests);
}
