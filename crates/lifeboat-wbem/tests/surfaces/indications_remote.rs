//! Indications as they travel: to pywbem's listener, and over WS-Eventing by envelopes that are written by hand. What is
//! told to whom is tested in `indications`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::remote_support::{Answer, Connection, Host, basic, element, host, host_within};
use lifeboat_engine::action::{Action, InitialCopy};
use lifeboat_sim::World;
use lifeboat_sim::harness::PRIMARY;
use rcgen::ExtendedKeyUsagePurpose;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const MODES: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman/";
pub(crate) const PUSH: &str = "http://schemas.xmlsoap.org/ws/2004/08/eventing/DeliveryModes/Push";
const EVENTING: &str = "http://schemas.xmlsoap.org/ws/2004/08/eventing/";
const PULL: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Pull";
const ALL: &str = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/*";
const JOBS: &str =
    "select * from __InstanceOperationEvent within 1 where TargetInstance isa 'Msvm_ConcreteJob'";
/// Nothing takes so long.
const LONG: Duration = Duration::from_secs(60);

async fn a_job(world: &World) {
    let (vm, settings) = (World::vm(), World::settings());
    world
        .insist(PRIMARY, Action::EnableReplication { vm, settings })
        .await
        .unwrap();
    let (vm, how) = (World::vm(), InitialCopy::Network);
    world
        .insist(
            PRIMARY,
            Action::StartReplication {
                vm,
                how,
                at: None,
                relationship: Default::default(),
            },
        )
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pywbem_subscribes_and_its_listener_is_told() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = own.join("../../target/python/bin/python");
    assert!(
        python.exists(),
        "pywbem is missing in target/python: run `make setup`"
    );
    let host = host().await;
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = host
        .authority
        .issue("localhost", ExtendedKeyUsagePurpose::ServerAuth);
    let file = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let mut client = Command::new(python)
        // They would be trusted instead of the authority that the client names.
        .env_remove("REQUESTS_CA_BUNDLE")
        .env_remove("CURL_CA_BUNDLE")
        .arg(own.join("tests/indications_client.py"))
        .arg(format!("https://localhost:{}", host.cimxml.port()))
        .arg(file("ca.crt", host.authority.pem.clone()))
        .arg(file("listener.crt", cert.pem()))
        .arg(file("listener.key", key.serialize_pem()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(client.stdout.take().unwrap());
    let ready = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        line
    });
    assert_eq!(
        ready.await.unwrap(),
        "ready\n",
        "the client has failed, see above"
    );
    a_job(&host.world).await;
    let ended = tokio::task::spawn_blocking(move || client.wait().unwrap());
    assert!(ended.await.unwrap().success(), "see above");
    host.stop().await;
}

pub(crate) struct Client {
    connection: Connection,
    user: &'static str,
}

async fn client(host: &Host, user: &'static str) -> Client {
    let connection = host.connect_plainly(host.wsman).await;
    Client { connection, user }
}

fn envelope(action: &str, headers: &str, body: &str) -> String {
    format!(
        "<s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\" \
         xmlns:a=\"http://schemas.xmlsoap.org/ws/2004/08/addressing\" \
         xmlns:w=\"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd\" \
         xmlns:n=\"http://schemas.xmlsoap.org/ws/2004/09/enumeration\" \
         xmlns:e=\"http://schemas.xmlsoap.org/ws/2004/08/eventing\"><s:Header>\
         <a:To>http://localhost/wsman</a:To><w:ResourceURI s:mustUnderstand=\"true\">{ALL}</w:ResourceURI>\
         <a:ReplyTo><a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address></a:ReplyTo>\
         <a:Action s:mustUnderstand=\"true\">{action}</a:Action><a:MessageID>uuid:1</a:MessageID>{headers}\
         </s:Header><s:Body>{body}</s:Body></s:Envelope>"
    )
}

/// A Subscribe. `more` stands in the delivery.
pub(crate) fn wish(mode: &str, more: &str, expires: &str) -> String {
    let body = format!(
        "<e:Subscribe><e:EndTo><a:Address>http://127.0.0.1:1/</a:Address></e:EndTo>\
         <e:Delivery Mode=\"{mode}\">{more}</e:Delivery><e:Expires>{expires}</e:Expires>\
         <w:Filter Dialect=\"http://schemas.microsoft.com/wbem/wsman/1/WQL\">{JOBS}</w:Filter></e:Subscribe>"
    );
    envelope(&format!("{EVENTING}Subscribe"), "", &body)
}

pub(crate) fn notify(port: u16) -> String {
    format!(
        "<e:NotifyTo><a:Address>http://127.0.0.1:{port}/in</a:Address>\
         <a:ReferenceParameters><x:Tag xmlns:x=\"urn:x\">mine</x:Tag></a:ReferenceParameters></e:NotifyTo>"
    )
}

impl Client {
    async fn ask(&mut self, text: &str) -> Answer {
        let auth = basic(self.user);
        let fields = [
            ("Authorization", auth.as_str()),
            ("Content-Type", "application/soap+xml;charset=UTF-8"),
        ];
        self.connection.post("/wsman", &fields, text).await
    }

    async fn good(&mut self, text: &str) -> Answer {
        let answer = self.ask(text).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer
    }

    /// Subcode of the fault that this ends in.
    async fn fault(&mut self, text: &str) -> String {
        let answer = self.ask(text).await;
        assert_eq!(answer.status, 500, "{}", answer.body);
        let subcode = answer.element("Subcode").unwrap();
        element(subcode, "Value").unwrap().to_owned()
    }

    async fn of_subscription(&mut self, verb: &str, id: &str) -> Answer {
        let headers = format!("<e:Identifier>{id}</e:Identifier>");
        let body = match verb {
            "Renew" => "<e:Renew><e:Expires>PT1H</e:Expires></e:Renew>",
            _ => "<e:Unsubscribe/>",
        };
        self.ask(&envelope(&format!("{EVENTING}{verb}"), &headers, body))
            .await
    }
}

fn pull(context: &str, most: usize, seconds: u32) -> String {
    let headers = format!("<w:OperationTimeout>PT{seconds}S</w:OperationTimeout>");
    let body = format!(
        "<n:Pull><n:EnumerationContext>{context}</n:EnumerationContext><n:MaxElements>{most}</n:MaxElements></n:Pull>"
    );
    envelope(PULL, &headers, &body)
}

async fn plain_host() -> Host {
    host_within(lifeboat_wbem::Limits::default(), false).await
}

#[tokio::test]
async fn events_are_pulled() {
    let host = plain_host().await;
    let mut c = client(&host, "viewer").await;
    let mode = format!("{MODES}Pull");
    let answer = c.good(&wish(&mode, "", "P30D")).await;
    assert_eq!(answer.element("Expires"), Some("P1D"), "{}", answer.body);
    let id = answer.element("Identifier").unwrap().to_owned();
    let context = answer.element("EnumerationContext").unwrap().to_owned();
    assert_eq!(c.fault(&pull(&context, 5, 1)).await, "w:TimedOut");
    let mut other = client(&host, "operator").await;
    let fault = other.fault(&pull(&context, 5, 1)).await;
    assert_eq!(fault, "n:InvalidEnumerationContext", "it is another user's");
    a_job(&host.world).await;
    let mut events = String::new();
    while !events.contains("<q:JobState>7</q:JobState>") {
        let answer = c.good(&pull(&context, 5, 60)).await;
        assert_eq!(answer.element("EnumerationContext"), Some(context.as_str()));
        assert!(answer.element("EndOfSequence").is_none());
        events.push_str(answer.element("Items").unwrap());
    }
    let first = element(&events, "__InstanceCreationEvent").unwrap();
    assert!(element(first, "TIME_CREATED").is_some());
    let kind = first.split_once("<p:TargetInstance ").unwrap().1;
    assert!(kind[..kind.find('>').unwrap()].contains("xsi:type=\"q:Msvm_ConcreteJob_Type\""));
    assert!(element(element(first, "TargetInstance").unwrap(), "InstanceID").is_some());
    let renewed = c.of_subscription("Renew", &id).await;
    assert!(renewed.body.contains("e:UnableToRenew"), "{}", renewed.body);
    assert_eq!(other.of_subscription("Unsubscribe", &id).await.status, 500);
    assert_eq!(c.of_subscription("Unsubscribe", &id).await.status, 200);
    assert_eq!(c.of_subscription("Unsubscribe", &id).await.status, 500);
    let fault = c.fault(&pull(&context, 5, 1)).await;
    assert_eq!(fault, "n:InvalidEnumerationContext");
    // A context that is released is a subscription that has ended.
    let answer = c.good(&wish(&mode, "", "PT10M")).await;
    let context = answer.element("EnumerationContext").unwrap().to_owned();
    let release = format!("<n:Release><n:EnumerationContext>{context}</n:EnumerationContext></n:Release>");
    c.good(&envelope(&PULL.replace("Pull", "Release"), "", &release))
        .await;
    let fault = c.fault(&pull(&context, 5, 1)).await;
    assert_eq!(fault, "n:InvalidEnumerationContext");
    host.stop().await;
}

#[tokio::test]
async fn invalid_subscriptions_are_refused() {
    let host = plain_host().await;
    let mut c = client(&host, "operator").await;
    let mode = format!("{MODES}Pull");
    let fault = c.fault(&wish(&mode, "", "PT0S")).await;
    assert_eq!(fault, "e:InvalidExpirationTime");
    let fault = c.fault(&wish(&mode, "", "2001-01-01T00:00:00Z")).await;
    assert_eq!(fault, "e:InvalidExpirationTime");
    let wrong = wish(&mode, "", "PT1H").replace("Msvm_ConcreteJob", "Msvm_ReplicationService");
    assert_eq!(c.fault(&wrong).await, "n:CannotProcessFilter");
    let elsewhere = wish(&mode, "", "PT1H").replace("root/virtualization/v2/*", "root/cimv2/*");
    assert_eq!(c.fault(&elsewhere).await, "a:DestinationUnreachable");
    let far = notify(1).replace("127.0.0.1", "192.0.2.1");
    assert_eq!(c.fault(&wish(PUSH, &far, "PT1H")).await, "e:InvalidMessage");
    let mut viewer = client(&host, "viewer").await;
    assert_eq!(
        viewer.fault(&wish(PUSH, &notify(1), "PT1H")).await,
        "w:AccessDenied"
    );
    host.stop().await;
}

/// The next message that somebody sends there, answered by what `answer` makes of it.
async fn received(at: &TcpListener, answer: impl Fn(&str) -> String) -> String {
    let received = async {
        let (mut stream, _) = at.accept().await.unwrap();
        let (mut text, mut buffer) = (String::new(), [0; 65536]);
        while !text.ends_with("</s:Envelope>") {
            let n = stream.read(&mut buffer).await.unwrap();
            text.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
        }
        let body = answer(&text);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).await.unwrap();
        text
    };
    tokio::time::timeout(LONG, received).await.unwrap()
}

fn acknowledged(message: &str) -> String {
    let id = element(message, "MessageID").unwrap();
    let headers = format!("<a:RelatesTo>{id}</a:RelatesTo>");
    envelope(&format!("{MODES}Ack"), &headers, "")
}

#[tokio::test]
async fn events_are_pushed() {
    let host = plain_host().await;
    let mut c = client(&host, "operator").await;
    let mut receivers = Vec::new();
    for mode in [
        PUSH.to_owned(),
        format!("{MODES}PushWithAck"),
        format!("{MODES}Events"),
    ] {
        let receiver = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = receiver.local_addr().unwrap().port();
        let end = format!("http://127.0.0.1:{port}/end");
        let more = notify(port) + "<w:MaxElements>10</w:MaxElements>";
        let wish = wish(&mode, &more, "PT1H").replace("http://127.0.0.1:1/", &end);
        let answer = c.good(&wish).await;
        assert_eq!(answer.element("EnumerationContext"), None);
        receivers.push((mode, receiver, answer.element("Identifier").unwrap().to_owned()));
    }
    a_job(&host.world).await;
    for (mode, receiver, _) in &receivers {
        let batched = mode.ends_with("Events");
        let action = if batched { "Events" } else { "Event" };
        let wants_ack = mode != PUSH;
        let mut last = String::new();
        if wants_ack {
            // What is not acknowledged comes again.
            let once = received(receiver, |_| String::new()).await;
            last = received(receiver, acknowledged).await;
            let event = |m: &str| element(m, "__InstanceCreationEvent").unwrap().to_owned();
            assert_eq!(event(&once), event(&last));
        }
        while !last.contains("<q:JobState>7</q:JobState>") {
            last = received(receiver, acknowledged).await;
            assert!(last.starts_with("POST /in HTTP/1.1\r\n"), "{last}");
            assert_eq!(
                element(&last, "Action"),
                Some(format!("{MODES}{action}").as_str())
            );
            assert_eq!(element(&last, "Tag"), Some("mine"), "{last}");
            assert_eq!(last.contains("<w:AckRequested/>"), wants_ack);
            assert_eq!(last.contains("<w:Event "), batched);
        }
    }
    let (_, unsubscribed, id) = &receivers[0];
    assert_eq!(c.of_subscription("Unsubscribe", id).await.status, 200);
    let stopping = tokio::spawn(host.stop());
    for (_, receiver, id) in &receivers[1..] {
        let mut last = String::new();
        while element(&last, "SubscriptionEnd").is_none() {
            last = received(receiver, acknowledged).await;
        }
        assert!(last.starts_with("POST /end "), "{last}");
        assert_eq!(element(&last, "Identifier"), Some(id.as_str()));
        let status = element(&last, "Status").unwrap();
        assert_eq!(status, format!("{EVENTING}SourceShuttingDown"));
    }
    stopping.await.unwrap();
    let nobody = tokio::time::timeout(Duration::from_millis(1), unsubscribed.accept()).await;
    assert!(nobody.is_err(), "who has unsubscribed hears nothing of the end");
}

/// Takes every connection, reads what comes, and does this.
async fn hostile<F>(behave: impl Fn(TcpStream) -> F + Send + 'static) -> u16
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            tokio::spawn(behave(stream));
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_that_misbehave_disturb_nobody_else() {
    let host = plain_host().await;
    let mut c = client(&host, "operator").await;
    let silent = hostile(|stream| async move {
        let _stream = stream;
        std::future::pending().await
    });
    let endless = hostile(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(&[b'<'; 4096]).await.is_ok() {}
    });
    let broken = hostile(|mut stream| async move {
        let _ = stream
            .write_all(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
            .await;
    });
    for port in [silent.await, endless.await, broken.await] {
        c.good(&wish(PUSH, &notify(port), "PT1H")).await;
    }
    let receiver = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = receiver.local_addr().unwrap().port();
    c.good(&wish(PUSH, &notify(port), "PT1H")).await;
    a_job(&host.world).await;
    let mut last = String::new();
    while !last.contains("<q:JobState>7</q:JobState>") {
        last = received(&receiver, |_| String::new()).await;
    }
    // The server stops in spite of them.
    host.stop().await;
}
