//! A client of the management API that does no more than it must: it asks, counts what comes by a mark in the text, and
//! keeps nothing. Client and daemon share the machine, so that reading the answers as a real client does would measure the
//! reader. What the server is made of is not used here.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use base64::Engine;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use uuid::Uuid;

type Sender = SendRequest<Full<Bytes>>;

/// Where to ask, and as whom.
pub(super) struct Target {
    pub(super) wsman: u16,
    pub(super) cimxml: u16,
    tls: TlsConnector,
    authorization: String,
}

/// How instances are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// WS-Management, as PowerShell asks: optimised, 32,000 items or what fits into 512,000 bytes.
    Wsman,
    /// CIM-XML, one answer with everything.
    Whole,
    /// CIM-XML, 100 instances at a time.
    Pulled,
}

impl Form {
    pub(super) const ALL: [Self; 3] = [Self::Wsman, Self::Whole, Self::Pulled];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Wsman => "WS-Management",
            Self::Whole => "CIM-XML, one answer",
            Self::Pulled => "CIM-XML, 100 a pull",
        }
    }

    /// What is once before or around every instance of a class.
    fn mark(self, class: &str) -> String {
        match self {
            Self::Wsman => format!("<p:{class} "),
            Self::Whole => "<VALUE.NAMEDINSTANCE>".to_owned(),
            Self::Pulled => "<VALUE.INSTANCEWITHPATH>".to_owned(),
        }
    }
}

/// What came of one enumeration.
pub(super) struct Listed {
    pub(super) items: usize,
    pub(super) bytes: u64,
    /// From before the connection to the last byte, in milliseconds.
    pub(super) took: f64,
    /// Each request until the last byte of its answer, in milliseconds.
    pub(super) answers: Vec<f64>,
    /// The whole text, when it was to be kept.
    pub(super) text: Vec<u8>,
}

/// Counts a mark in a text that comes in pieces. The mark's first byte is `<`, and it has no other.
struct Count {
    mark: Vec<u8>,
    at: usize,
    listed: Listed,
    keep: bool,
}

impl Count {
    fn add(&mut self, piece: &[u8]) {
        self.listed.bytes += piece.len() as u64;
        if self.keep {
            self.listed.text.extend_from_slice(piece);
        }
        for byte in piece {
            self.at = if self.mark.get(self.at) == Some(byte) {
                self.at + 1
            } else {
                usize::from(*byte == b'<')
            };
            if self.at == self.mark.len() {
                (self.at, self.listed.items) = (0, self.listed.items + 1);
            }
        }
    }
}

impl Target {
    /// `ca` is a file of certificates.
    pub(super) fn new(ca: &std::path::Path, ports: (u16, u16), user: &str, password: &str) -> Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca)?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let both = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        Ok(Self {
            wsman: ports.0,
            cimxml: ports.1,
            tls: TlsConnector::from(Arc::new(config)),
            authorization: format!("Basic {both}"),
        })
    }

    async fn connect(&self, port: u16) -> Result<Sender> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let stream = self
            .tls
            .connect(ServerName::try_from("127.0.0.1")?, stream)
            .await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn wsman(
        &self,
        sender: &mut Sender,
        (action, class, selectors): (&str, &str, &str),
        body: &str,
    ) -> Result<Response<Incoming>> {
        let message = Uuid::new_v4();
        let envelope = format!(
            "<s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\" xmlns:a=\"http://schemas.xmlsoap.org/ws/2004/08/addressing\" xmlns:w=\"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd\" xmlns:n=\"http://schemas.xmlsoap.org/ws/2004/09/enumeration\"><s:Header><a:To>https://127.0.0.1:{}/wsman</a:To><a:ReplyTo><a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address></a:ReplyTo><a:Action s:mustUnderstand=\"true\">http://schemas.xmlsoap.org/ws/2004/09/{action}</a:Action><a:MessageID>uuid:{message}</a:MessageID><w:ResourceURI s:mustUnderstand=\"true\">http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/{class}</w:ResourceURI><w:MaxEnvelopeSize s:mustUnderstand=\"true\">512000</w:MaxEnvelopeSize><w:OperationTimeout>PT60S</w:OperationTimeout>{selectors}</s:Header><s:Body>{body}</s:Body></s:Envelope>",
            self.wsman
        );
        let request = Request::post("/wsman")
            .header(HOST, format!("127.0.0.1:{}", self.wsman))
            .header(AUTHORIZATION, &self.authorization)
            .header(CONTENT_TYPE, "application/soap+xml;charset=UTF-8");
        send(sender, request.body(Full::from(envelope))?).await
    }

    async fn cimxml(
        &self,
        sender: &mut Sender,
        method: &str,
        parameters: &str,
    ) -> Result<Response<Incoming>> {
        let message = format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><CIM CIMVERSION=\"2.0\" DTDVERSION=\"2.0\"><MESSAGE ID=\"1\" PROTOCOLVERSION=\"1.0\"><SIMPLEREQ><IMETHODCALL NAME=\"{method}\"><LOCALNAMESPACEPATH><NAMESPACE NAME=\"root\"/><NAMESPACE NAME=\"virtualization\"/><NAMESPACE NAME=\"v2\"/></LOCALNAMESPACEPATH>{parameters}</IMETHODCALL></SIMPLEREQ></MESSAGE></CIM>"
        );
        let request = Request::post("/cimom")
            .header(HOST, format!("127.0.0.1:{}", self.cimxml))
            .header(AUTHORIZATION, &self.authorization)
            .header(CONTENT_TYPE, "application/xml; charset=\"utf-8\"")
            .header("CIMOperation", "MethodCall")
            .header("CIMMethod", method)
            .header("CIMObject", "root/virtualization/v2");
        send(sender, request.body(Full::from(message))?).await
    }

    /// All instances of a class, over a connection of its own.
    pub(super) async fn list(&self, form: Form, class: &str, keep: bool) -> Result<Listed> {
        let start = Instant::now();
        let mut count = Count {
            mark: form.mark(class).into_bytes(),
            at: 0,
            listed: Listed {
                items: 0,
                bytes: 0,
                took: 0.0,
                answers: Vec::new(),
                text: Vec::new(),
            },
            keep,
        };
        match form {
            Form::Wsman => self.batches(class, &mut count).await?,
            Form::Whole => self.whole(class, &mut count).await?,
            Form::Pulled => self.pulls(class, &mut count).await?,
        }
        count.listed.took = millis(start);
        Ok(count.listed)
    }

    async fn batches(&self, class: &str, count: &mut Count) -> Result<()> {
        let mut sender = self.connect(self.wsman).await?;
        let mut action = "enumeration/Enumerate";
        let mut body =
            "<n:Enumerate><w:OptimizeEnumeration/><w:MaxElements>32000</w:MaxElements></n:Enumerate>"
                .to_owned();
        loop {
            let start = Instant::now();
            let answer = self.wsman(&mut sender, (action, class, ""), &body).await?;
            let text = document(answer).await?;
            count.listed.answers.push(millis(start));
            count.add(text.as_bytes());
            let Some(context) = between(&text, "<n:EnumerationContext>", "<").filter(|c| !c.is_empty())
            else {
                return Ok(());
            };
            action = "enumeration/Pull";
            body = format!(
                "<n:Pull><n:EnumerationContext>{context}</n:EnumerationContext><n:MaxElements>32000</n:MaxElements></n:Pull>"
            );
        }
    }

    async fn whole(&self, class: &str, count: &mut Count) -> Result<()> {
        let mut sender = self.connect(self.cimxml).await?;
        let start = Instant::now();
        let mut answer = self
            .cimxml(&mut sender, "EnumerateInstances", &class_name(class))
            .await?;
        while let Some(frame) = answer.body_mut().frame().await {
            if let Some(piece) = frame?.data_ref() {
                count.add(piece);
            }
        }
        count.listed.answers.push(millis(start));
        Ok(())
    }

    async fn pulls(&self, class: &str, count: &mut Count) -> Result<()> {
        let mut sender = self.connect(self.cimxml).await?;
        let most = "<IPARAMVALUE NAME=\"MaxObjectCount\"><VALUE>100</VALUE></IPARAMVALUE>";
        let mut method = "OpenEnumerateInstances";
        let mut parameters = class_name(class) + most;
        loop {
            let start = Instant::now();
            let text = document(self.cimxml(&mut sender, method, &parameters).await?).await?;
            count.listed.answers.push(millis(start));
            count.add(text.as_bytes());
            let (_, end) = text
                .rsplit_once("\"EndOfSequence\"")
                .context("a page has no end")?;
            if end.contains("TRUE") {
                return Ok(());
            }
            let (_, context) = end.split_once("\"EnumerationContext\"").context("no context")?;
            let context = between(context, "<VALUE>", "<").context("no context")?;
            method = "PullInstancesWithPath";
            parameters = format!(
                "<IPARAMVALUE NAME=\"EnumerationContext\"><VALUE>{context}</VALUE></IPARAMVALUE>{most}"
            );
        }
    }

    /// How long it takes to get one VM, in milliseconds, each time over a new connection.
    pub(super) async fn get(&self, vm: Uuid) -> Result<f64> {
        let start = Instant::now();
        let mut sender = self.connect(self.wsman).await?;
        let name = vm.to_string().to_uppercase();
        let selectors =
            format!("<w:SelectorSet><w:Selector Name=\"Name\">{name}</w:Selector></w:SelectorSet>");
        let head = ("transfer/Get", "Msvm_ComputerSystem", selectors.as_str());
        let text = document(self.wsman(&mut sender, head, "").await?).await?;
        if !text.contains(&name) {
            bail!("Get answered with something else than VM {name}");
        }
        Ok(millis(start))
    }
}

fn class_name(class: &str) -> String {
    format!("<IPARAMVALUE NAME=\"ClassName\"><CLASSNAME NAME=\"{class}\"/></IPARAMVALUE>")
}

async fn document(answer: Response<Incoming>) -> Result<String> {
    let bytes = answer.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(bytes.into())?)
}

/// The answer, unless it is a refusal.
async fn send(sender: &mut Sender, request: Request<Full<Bytes>>) -> Result<Response<Incoming>> {
    sender.ready().await?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    if !status.is_success() {
        bail!("the daemon answered {status}: {}", document(answer).await?);
    }
    Ok(answer)
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    Some(text.split_once(before)?.1.split_once(after)?.0)
}

fn millis(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_counted_wherever_the_text_is_cut() {
        let text = b"<p:A ><<p:A x><p:AB ><p:A y></p:A >";
        for cut in 0..text.len() {
            let mut count = Count {
                mark: Form::Wsman.mark("A").into_bytes(),
                at: 0,
                listed: Listed {
                    items: 0,
                    bytes: 0,
                    took: 0.0,
                    answers: Vec::new(),
                    text: Vec::new(),
                },
                keep: false,
            };
            let (one, other) = text.split_at(cut);
            count.add(one);
            count.add(other);
            assert_eq!(count.listed.items, 3, "cut at {cut}");
        }
    }
}
