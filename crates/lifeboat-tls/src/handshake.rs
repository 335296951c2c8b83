//! Errors of a handshake in words: whose certificate it is, what is wrong with it, and what to do about it. What is no fault of
//! TLS is left to who made the connection.

use std::error::Error;

use camino::Utf8Path;
use lifeboat_model::Timestamp;
use lifeboat_model::certificates::utc;
use lifeboat_model::hint::{Note, Trust};
use rustls::{AlertDescription, CertificateError};
use rustls_pki_types::UnixTime;

use crate::certificate::describe;
use crate::clock::now;

/// What kind of failure of the handshake it was.
#[derive(Debug, PartialEq, Eq)]
pub enum TlsFault {
    /// A certificate was not accepted, by us or by the other side.
    Untrusted(Note),
    /// No TLS as we speak it.
    Protocol(String),
}

/// Looks for a TLS error below `error`, on a connection that shows the certificate in the file `own_cert`; empty: it shows none. An `io::Error` hides the error it wraps from `source`, hence the digging.
#[must_use]
pub fn find_fault(error: &(dyn Error + 'static), own_cert: &Utf8Path) -> Option<TlsFault> {
    let mut next = Some(error);
    while let Some(e) = next {
        if let Some(tls) = e.downcast_ref::<rustls::Error>() {
            return explain(tls, own_cert);
        }
        next = match e
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
        {
            Some(inner) => Some(inner),
            None => e.source(),
        };
    }
    None
}

/// `None` for errors that are only a connection that ended.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "rustls may add errors; those not named here are shown as rustls words them"
)]
fn explain(error: &rustls::Error, own_cert: &Utf8Path) -> Option<TlsFault> {
    use rustls::Error as E;
    match error {
        E::InvalidCertificate(e) => Some(TlsFault::Untrusted(theirs(e))),
        E::AlertReceived(alert) => alerted(*alert, own_cert),
        E::NoCertificatesPresented => Some(TlsFault::Untrusted("it shows no certificate".into())),
        E::InvalidMessage(_) => Some(TlsFault::Protocol("it does not answer with TLS".into())),
        other => Some(TlsFault::Protocol(format!("TLS: {other}"))),
    }
}

/// A certificate, or its key, is on the list of this host.
#[must_use]
pub fn revoked_here() -> Note {
    Note::new(
        "its certificate, or the key of it, is on the revocation list here",
        Trust::NewKeyThere,
    )
}

/// We do not accept their certificate.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "rustls may add errors; those not named here are shown as rustls words them"
)]
fn theirs(error: &CertificateError) -> Note {
    match error {
        CertificateError::Expired => Note::new(
            format!(
                "its certificate has expired, and the clock here says {}",
                utc(now())
            ),
            Trust::RenewThere,
        ),
        CertificateError::ExpiredContext { not_after, time } => Note::new(
            format!(
                "its certificate has expired: it ended on {}, and the clock here says {}",
                at(*not_after),
                at(*time)
            ),
            Trust::RenewThere,
        ),
        CertificateError::NotValidYet => Note::new(
            format!(
                "its certificate is not valid yet, and the clock here says {}",
                utc(now())
            ),
            Trust::CheckClocks,
        ),
        CertificateError::NotValidYetContext { not_before, time } => Note::new(
            format!(
                "its certificate is not valid before {}, and the clock here says {}",
                at(*not_before),
                at(*time)
            ),
            Trust::CheckClocks,
        ),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => Note::new(
            "its certificate was not issued by the CA trusted here",
            Trust::OneAuthorityThere,
        ),
        CertificateError::Revoked => revoked_here(),
        CertificateError::NotValidForName => "its certificate is for another name".into(),
        CertificateError::NotValidForNameContext { expected, presented } => Note::new(
            format!(
                "its certificate is not for {} but for {}",
                expected.to_str(),
                if presented.is_empty() {
                    "no name".into()
                } else {
                    presented.join(", ")
                }
            ),
            Trust::CallByName,
        ),
        other => format!("its certificate is not accepted: {other}").into(),
    }
}

/// They do not accept something of ours.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "most alerts of TLS are faults of the protocol; those about certificates are named"
)]
fn alerted(alert: AlertDescription, own_cert: &Utf8Path) -> Option<TlsFault> {
    use AlertDescription as A;
    let ours = |why: Note| {
        let why = why.within(|why| format!("it refuses our certificate ({own_cert}): {why}"));
        Some(TlsFault::Untrusted(why))
    };
    match alert {
        A::CloseNotify => None,
        A::CertificateExpired => ours(expired(own_cert)),
        // The second comes from a CA of the same name with another key.
        A::UnknownCA | A::DecryptError => ours(Note::new(
            "it was not issued by the CA trusted there",
            Trust::OneAuthority,
        )),
        A::CertificateRequired => ours("none was shown".into()),
        A::CertificateRevoked => ours(Note::new(
            "it, or its key, is on the revocation list there",
            Trust::NewKey,
        )),
        A::BadCertificate | A::UnsupportedCertificate | A::CertificateUnknown | A::AccessDenied => {
            ours(format!("{alert:?}").into())
        }
        other => Some(TlsFault::Protocol(format!(
            "TLS: it answered with the alert {other:?}"
        ))),
    }
}

/// The other side says that our certificate has expired, which its clock says: both dates, and what to do.
fn expired(own_cert: &Utf8Path) -> Note {
    let now = now();
    let end = describe(own_cert).ok().map(|c| c.not_after);
    match end {
        Some(end) if end > now => Note::new(
            format!(
                "it says that ours has expired, but ours is valid until {} and the clock here says {}",
                utc(end),
                utc(now)
            ),
            Trust::CheckClocks,
        ),
        Some(end) => Note::new(
            format!(
                "ours has expired: it ended on {}, and the clock here says {}",
                utc(end),
                utc(now)
            ),
            Trust::RenewOwn,
        ),
        None => Note::new("ours has expired", Trust::RenewOwn),
    }
}

fn at(time: UnixTime) -> String {
    utc(Timestamp(time.as_secs().saturating_mul(1000)))
}
