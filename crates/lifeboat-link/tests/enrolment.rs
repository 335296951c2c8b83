//! A new host gets its certificate over the network: with the right code, once, for the names of the invitation; and says
//! nothing to whoever is not of the authority.

#![allow(clippy::unwrap_used, reason = "test support")]

mod common;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use common::{DAY, Handler, hello, raw_server, start};
use lifeboat_engine::ports::link::{PeerLink, PeerRequest};
use lifeboat_link::Link;
use lifeboat_link::enrolment::{Code, Enrolled, EnrolmentError, Invitation, WRONG_MAX, enrol};
use lifeboat_tls::authority::{Authority, init_ca, issue};
use lifeboat_tls::certificate::describe;
use lifeboat_tls::{CertError, Passphrase};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

struct Site {
    _temp: tempfile::TempDir,
    dir: Utf8PathBuf,
}

type Waiting = JoinHandle<Result<Enrolled, EnrolmentError>>;
type Wrong = Arc<Mutex<Vec<u32>>>;

fn said(text: &'static str) -> impl Fn(&Utf8Path) -> std::io::Result<Passphrase> {
    move |_| Ok(Passphrase::new(text.to_owned()))
}

const WORDS: &str = "the passphrase of a test";

impl Site {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(temp.path()).unwrap().to_owned();
        init_ca(&dir.join("ca"), "CA", Some(&Passphrase::new(WORDS.into()))).unwrap();
        Self { _temp: temp, dir }
    }

    async fn open(&self, names: &[&str]) -> (Code, String, Invitation) {
        let authority = Authority::open(&self.dir.join("ca"), &said(WORDS)).unwrap();
        let names = names.iter().map(ToString::to_string).collect();
        let any = "127.0.0.1:0".parse().unwrap();
        let invitation = Invitation::open(authority, names, 30 * DAY, any).await.unwrap();
        let address = invitation.address().unwrap().to_string();
        (invitation.code().clone(), address, invitation)
    }

    async fn invite(&self, names: &[&str], valid: Duration) -> (Code, String, Waiting, Wrong) {
        let (code, address, invitation) = self.open(names).await;
        let wrong = Wrong::default();
        let told = wrong.clone();
        let waiting = tokio::spawn(async move {
            let note = move |_: SocketAddr, left| told.lock().unwrap().push(left);
            invitation.wait(valid, note).await
        });
        (code, address, waiting, wrong)
    }

    /// A code of the same authority for nothing.
    async fn other_code(&self) -> Code {
        self.open(&["x"]).await.0
    }
}

fn nothing_in(dir: &Utf8Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut d| d.next().is_none())
}

#[tokio::test]
async fn an_invited_host_gets_a_certificate_for_the_names_of_the_invitation() {
    let site = Site::new();
    let (code, address, waiting, _) = site
        .invite(&["localhost", "new.example.org", "10.0.0.9"], 60 * DAY)
        .await;
    let out = site.dir.join("new/tls");
    let files = enrol(&address, &code, &out).await.unwrap();
    let enrolled = waiting.await.unwrap().unwrap();
    let info = describe(&files.cert).unwrap();
    assert_eq!(info.names, ["localhost", "new.example.org"]);
    assert_eq!(info.addresses.len(), 1);
    assert_eq!(
        (enrolled.fingerprint, enrolled.key_fingerprint),
        (info.fingerprint, info.key_fingerprint)
    );
    assert_eq!(enrolled.unsent, None);
    for file in [&files.cert, &files.key, &files.ca] {
        let mode = std::fs::metadata(file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{file}");
    }
    assert_eq!(
        std::fs::read_dir(&out).unwrap().count(),
        3,
        "nothing else is left"
    );
    let ca = std::fs::read(site.dir.join("ca/ca.crt")).unwrap();
    assert_eq!(std::fs::read(&files.ca).unwrap(), ca);
    // It is as good as one that was carried.
    let authority = Authority::open(&site.dir.join("ca"), &said(WORDS)).unwrap();
    let other = authority
        .issue(&["a".to_owned()], &site.dir.join("a"), 30 * DAY)
        .unwrap();
    let server = start(&files, Arc::new(Handler::default())).await;
    let link = Link::new(&other).unwrap();
    assert_eq!(
        link.call(&server.peer(), PeerRequest::Hello).await.unwrap(),
        hello()
    );
    // Nothing that is there is overwritten, and nobody is called for that.
    let again = enrol("127.0.0.1:1", &code, &out).await.unwrap_err();
    assert!(
        matches!(again, EnrolmentError::Certificate(CertError::Exists(_))),
        "{again}"
    );
}

#[tokio::test]
async fn a_code_works_once() {
    let site = Site::new();
    let (code, address, waiting, _) = site.invite(&["new"], 60 * DAY).await;
    let outs: Vec<_> = (0..4).map(|n| site.dir.join(format!("h{n}"))).collect();
    let all = outs.iter().map(|out| enrol(&address, &code, out));
    let all = futures_util::future::join_all(all).await;
    assert_eq!(all.iter().filter(|r| r.is_ok()).count(), 1, "{all:?}");
    waiting.await.unwrap().unwrap();
    for (out, result) in outs.iter().zip(&all) {
        assert_eq!(nothing_in(out), result.is_err(), "what failed leaves nothing");
    }
    let late = enrol(&address, &code, &site.dir.join("late")).await.unwrap_err();
    assert!(matches!(late, EnrolmentError::Unreachable { .. }), "{late}");
}

#[tokio::test]
async fn five_wrong_codes_end_an_invitation() {
    let site = Site::new();
    let (code, address, waiting, wrong) = site.invite(&["new"], 60 * DAY).await;
    let other = site.other_code().await;
    let out = site.dir.join("h");
    for n in 0..WRONG_MAX {
        let refused = enrol(&address, &other, &out).await.unwrap_err();
        assert!(matches!(refused, EnrolmentError::Refused(_)), "{n}: {refused}");
        assert!(nothing_in(&out));
    }
    let ended = waiting.await.unwrap().unwrap_err();
    assert!(matches!(ended, EnrolmentError::TooManyWrong { .. }), "{ended}");
    assert_eq!(*wrong.lock().unwrap(), [4, 3, 2, 1, 0]);
    assert!(
        enrol(&address, &code, &out).await.is_err(),
        "the right one is too late"
    );
}

#[tokio::test]
async fn an_invitation_ends_with_its_time() {
    let site = Site::new();
    let (_, _, waiting, _) = site.invite(&["new"], Duration::from_millis(50)).await;
    assert!(matches!(waiting.await.unwrap(), Err(EnrolmentError::Expired)));
    let authority = Authority::open(&site.dir.join("ca"), &said(WORDS)).unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let bad = Invitation::open(authority, vec!["10.0.0.1".into()], 30 * DAY, any)
        .await
        .unwrap_err();
    assert!(
        matches!(bad, EnrolmentError::Certificate(CertError::NoDnsName)),
        "{bad}"
    );
}

#[tokio::test]
async fn nothing_is_said_to_whoever_is_not_of_the_authority() {
    let (site, other) = (Site::new(), Site::new());
    let (_, address, waiting, wrong) = site.invite(&["new"], 60 * DAY).await;
    let strange = other.other_code().await;
    let out = site.dir.join("h");
    let refused = enrol(&address, &strange, &out).await.unwrap_err();
    assert!(
        matches!(refused, EnrolmentError::OtherAuthority { .. }),
        "{refused}"
    );
    assert!(refused.to_string().contains("Nothing was sent"), "{refused}");
    assert!(nothing_in(&out) && wrong.lock().unwrap().is_empty());
    waiting.abort();

    // A host of the same authority cannot answer in its place, even with the authority's certificate in the chain.
    let authority = Authority::open(&site.dir.join("ca"), &said(WORDS)).unwrap();
    let rogue = authority
        .issue(&["rogue".to_owned()], &site.dir.join("rogue"), 30 * DAY)
        .unwrap();
    let both = [&rogue.cert, &rogue.ca]
        .map(|f| std::fs::read_to_string(f).unwrap())
        .concat();
    std::fs::write(&rogue.cert, both).unwrap();
    let (listener, acceptor) = raw_server(&rogue).await;
    let address = listener.local_addr().unwrap().to_string();
    let heard = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        acceptor.accept(socket).await.is_ok()
    });
    let refused = enrol(&address, &site.other_code().await, &out).await.unwrap_err();
    assert!(
        matches!(refused, EnrolmentError::OtherAuthority { .. }),
        "{refused}"
    );
    assert!(!heard.await.unwrap(), "the handshake did not come to its end");
}

/// TLS to an invitation, to say anything over.
async fn raw(site: &Site, address: &str) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(site.dir.join("ca/ca.crt")).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"lifeboat-enrolment/1".to_vec()];
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = "enrolment.lifeboat.invalid".try_into().unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(name, socket).await.unwrap()
}

#[tokio::test]
async fn nonsense_and_silence_do_not_end_an_invitation() {
    let site = Site::new();
    let (code, address, waiting, wrong) = site.invite(&["new"], 60 * DAY).await;
    let silent: Vec<_> =
        futures_util::future::join_all((0..20).map(|_| tokio::net::TcpStream::connect(&address))).await;
    for bytes in [
        u32::MAX.to_be_bytes().to_vec(),
        [&4_u32.to_be_bytes()[..], b"oops"].concat(),
        [&2_u32.to_be_bytes()[..], b"{}"].concat(),
    ] {
        let mut tls = raw(&site, &address).await;
        tls.write_all(&bytes).await.unwrap();
        tls.flush().await.unwrap();
        let mut answer = Vec::new();
        let _ = tls.read_to_end(&mut answer).await;
        assert_eq!(answer, b"", "nothing is answered");
    }
    // The right code with a request that is none does not use it up.
    let mut tls = raw(&site, &address).await;
    let secret = secret_of(&code);
    let question = format!("{{\"secret\":\"{secret}\",\"request\":\"none\"}}");
    tls.write_u32(question.len().try_into().unwrap()).await.unwrap();
    tls.write_all(question.as_bytes()).await.unwrap();
    tls.flush().await.unwrap();
    let mut answer = Vec::new();
    let _ = tls.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(
        answer.contains("refused") && answer.contains("request for a certificate"),
        "{answer}"
    );
    enrol(&address, &code, &site.dir.join("h")).await.unwrap();
    waiting.await.unwrap().unwrap();
    assert!(wrong.lock().unwrap().is_empty());
    drop(silent);
}

/// The secret in a code, read with another reader of Crockford's base 32 than the product's.
fn secret_of(code: &Code) -> String {
    const DIGITS: &str = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let text = code.to_string().replace('-', "");
    let bits: String = text
        .chars()
        .map(|c| format!("{:05b}", DIGITS.find(c).unwrap()))
        .collect();
    let bytes: Vec<u8> = (0..bits.len() / 8)
        .map(|n| u8::from_str_radix(&bits[n * 8..n * 8 + 8], 2).unwrap())
        .collect();
    bytes[20..32].iter().map(|b| format!("{b:02x}")).collect()
}

fn change_passphrase(
    ca: &Utf8Path,
    words: &'static str,
    new: Option<&str>,
) -> Result<Utf8PathBuf, CertError> {
    let new = new.map(|n| Passphrase::new(n.to_owned()));
    Authority::open(ca, &said(words))?.change_passphrase(new.as_ref())
}

#[test]
fn an_encrypted_key_of_an_authority_is_used_with_its_passphrase_alone() {
    let site = Site::new();
    let ca = site.dir.join("ca");
    let names = ["a".to_owned()];
    let key = ca.join("ca.key");
    assert!(
        std::fs::read_to_string(&key)
            .unwrap()
            .contains("BEGIN ENCRYPTED PRIVATE KEY")
    );
    assert_eq!(
        std::fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let without = issue(&ca, &names, &site.dir.join("x"), DAY).unwrap_err();
    assert!(without.to_string().contains("--passphrase-file"), "{without}");
    let wrong = Authority::open(&ca, &said("the passphrase of another")).unwrap_err();
    assert!(matches!(wrong, CertError::PassphraseWrong(_)), "{wrong}");
    let short = change_passphrase(&ca, WORDS, Some("short")).unwrap_err();
    assert!(matches!(short, CertError::PassphraseShort), "{short}");

    change_passphrase(&ca, WORDS, Some("another passphrase")).unwrap();
    assert!(Authority::open(&ca, &said(WORDS)).is_err());
    Authority::open(&ca, &said("another passphrase")).unwrap();
    change_passphrase(&ca, "another passphrase", None).unwrap();
    issue(&ca, &names, &site.dir.join("a"), DAY).unwrap();
    change_passphrase(&ca, "nobody is asked", Some(WORDS)).unwrap();
    assert!(std::fs::read_to_string(&key).unwrap().contains("ENCRYPTED"));
    assert_eq!(
        std::fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(std::fs::read_dir(&ca).unwrap().count(), 2);
}
