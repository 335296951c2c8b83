//! The new host's side: it makes its key, looks at who answers, and only then says anything. The key stays where it was made.

use std::sync::Arc;
use std::time::Duration;

use camino::Utf8Path;
use lifeboat_tls::handshake::find_fault;
use lifeboat_tls::new_files::{make_dir, refuse_existing, write_new};
use lifeboat_tls::{
    CertError, CertificateFiles, TlsFault, calling, key_fingerprint, provider, spki_fingerprint,
};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::wire::{self, ALPN, Answer, Question};
use super::{Code, EnrolmentError, SERVER_NAME};

/// For the whole of it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Has a new key certified at `address` (`HOST:PORT`) and writes it, its certificate and that of the authority to `out`.
///
/// # Errors
/// The host that answers is not certified by the authority of the code, or refuses; or a file is there already. What was written is
/// removed.
pub async fn enrol(address: &str, code: &Code, out: &Utf8Path) -> Result<CertificateFiles, EnrolmentError> {
    make_dir(out)?;
    let files = CertificateFiles::below(out);
    refuse_existing(&[&files.cert, &files.key, &files.ca])?;
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(CertError::Crypto)?;
    // Before the code is used: a disk that is full is found out now.
    write_new(&files.key, &key.serialize_pem(), 0o600)?;
    let enrolled = async {
        let asked = tokio::time::timeout(PATIENCE, ask(address, code, &key)).await;
        let (certificate, authority) = asked.unwrap_or_else(|_| {
            Err(EnrolmentError::Unreachable {
                address: address.to_owned(),
                detail: format!("no answer within {PATIENCE:?}"),
            })
        })?;
        write_new(&files.ca, &authority, 0o600)?;
        write_new(&files.cert, &certificate, 0o600).inspect_err(|_| drop(std::fs::remove_file(&files.ca)))?;
        Ok::<(), EnrolmentError>(())
    };
    match enrolled.await {
        Ok(()) => Ok(files),
        Err(e) => {
            // A key without a certificate is of no use, and would be in the way of the next attempt.
            let _ = std::fs::remove_file(&files.key);
            Err(e)
        }
    }
}

/// The host's certificate and the authority's, PEM.
async fn ask(address: &str, code: &Code, key: &KeyPair) -> Result<(String, String), EnrolmentError> {
    let broken = |detail: String| EnrolmentError::Unreachable {
        address: address.to_owned(),
        detail,
    };
    let request = request(key).map_err(CertError::Crypto)?;
    let socket = TcpStream::connect(address)
        .await
        .map_err(|e| broken(e.to_string()))?;
    let name = ServerName::try_from(SERVER_NAME).map_err(|e| broken(e.to_string()))?;
    let connected = TlsConnector::from(theirs(code)?).connect(name, socket).await;
    let mut tls = connected.map_err(|e| match find_fault(&e, "".into()) {
        Some(TlsFault::Untrusted(detail)) => EnrolmentError::OtherAuthority {
            address: address.to_owned(),
            detail: if is_another(&e) {
                "it shows another one, or none".to_owned()
            } else {
                detail.text
            },
        },
        Some(TlsFault::Protocol(detail)) => broken(detail),
        None => broken(e.to_string()),
    })?;
    let question = Question {
        secret: code.secret(),
        request,
    };
    let answered = async {
        wire::write(&mut tls, &question).await?;
        wire::read::<Answer>(&mut tls).await
    };
    let answer = answered.await.map_err(|e| {
        broken(format!(
            "the connection broke: {e}; if the code was used, ask for a new invitation"
        ))
    })?;
    match answer {
        Answer::Refused { why } => Err(EnrolmentError::Refused(lifeboat_model::words::kept(&why))),
        Answer::Issued {
            certificate,
            authority,
        } => {
            let strange = |detail: &str| EnrolmentError::Answer {
                address: address.to_owned(),
                detail: detail.to_owned(),
            };
            let own = CertificateDer::from_pem_slice(certificate.as_bytes());
            let ours = own.ok().as_ref().and_then(key_fingerprint);
            let made = spki_fingerprint(&rcgen::PublicKeyData::subject_public_key_info(key));
            if ours != Some(made) {
                return Err(strange("the certificate is not for the key that was made here"));
            }
            let ca = CertificateDer::from_pem_slice(authority.as_bytes());
            if !ca.is_ok_and(|ca| code.is_by(&ca)) {
                return Err(strange("the authority is not that of the code"));
            }
            Ok((certificate, authority))
        }
    }
}

/// Whether the certificate that was shown is from another authority, and not only expired or not valid yet.
fn is_another(e: &std::io::Error) -> bool {
    let tls = e.get_ref().and_then(|e| e.downcast_ref::<Error>());
    matches!(
        tls,
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer))
    )
}

fn request(key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    // Which names the certificate gets, the invitation says.
    params.distinguished_name.push(DnType::CommonName, "enrolment");
    params.serialize_request(key)?.pem()
}

fn theirs(code: &Code) -> Result<Arc<ClientConfig>, CertError> {
    let provider = provider();
    let verifier = OfTheCode {
        code: code.clone(),
        provider: provider.clone(),
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| CertError::Content {
            path: "TLS".into(),
            detail: e.to_string(),
        })?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(calling(config, ALPN))
}

/// Accepts who is certified by the authority of the code, which comes with the chain.
#[derive(Debug)]
struct OfTheCode {
    code: Code,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OfTheCode {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates.iter().find(|c| self.code.is_by(c));
        let authority = authority.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|e| Error::General(e.to_string()))?;
        verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
