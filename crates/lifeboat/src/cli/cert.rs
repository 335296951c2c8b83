//! Certificates from a small authority of one's own; the work is lifeboat-tls's and, for enrolment, the link's.

use std::net::SocketAddr;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use jiff::tz::TimeZone;
use lifeboat_link::enrolment::{self, Code, EnrolmentError, Invitation};
use lifeboat_model::Fingerprint;
use lifeboat_tls::authority::init_ca;
use lifeboat_tls::certificate::describe;
use lifeboat_tls::{Authority, CA_CERT, CA_KEY, CertError, CertInfo};

use super::args::{AuthorityDir, Cert, Output};
use super::exit::{Exit, Failure};
use super::{run, runtime, secret, show};
use crate::config::Config;

/// How long a host's certificate is good for.
const VALIDITY: Duration = Duration::from_secs(2 * 365 * 86_400);

/// How long an invitation may wait, in seconds.
const WAITS: std::ops::RangeInclusive<u32> = 60..=7 * 86_400;

impl From<CertError> for Failure {
    fn from(error: CertError) -> Self {
        let hint = if matches!(error, CertError::NoCa(_)) {
            "make one with: lifeboat cert init"
        } else {
            ""
        };
        Self::new(Exit::Failed, error.to_string(), hint)
    }
}

impl From<EnrolmentError> for Failure {
    fn from(error: EnrolmentError) -> Self {
        let exit = match error {
            EnrolmentError::Unreachable { .. } => Exit::Unreachable,
            EnrolmentError::OtherAuthority { .. } | EnrolmentError::Refused(_) => Exit::NotAllowed,
            EnrolmentError::Code(_)
            | EnrolmentError::Certificate(_)
            | EnrolmentError::Answer { .. }
            | EnrolmentError::TooManyWrong { .. }
            | EnrolmentError::Expired => Exit::Failed,
        };
        Self::new(exit, error.to_string(), "")
    }
}

/// Carries out `lifeboat cert`.
pub(crate) fn run(command: &Cert, output: Output) -> Result<Exit, Failure> {
    let info = match command {
        Cert::Init {
            dir,
            name,
            encrypt,
            passphrase_file,
        } => init(dir, name, *encrypt, passphrase_file.as_deref())?,
        Cert::Passphrase {
            dir,
            passphrase_file,
            new_passphrase_file,
            remove,
        } => {
            let ask = |key: &Utf8Path| secret::of_key(passphrase_file.as_deref(), key);
            // Asked for first: a key that cannot be read needs no new passphrase.
            let authority = Authority::open(dir, &ask)?;
            let new = if *remove {
                None
            } else {
                Some(secret::new_for_key(new_passphrase_file.as_deref())?)
            };
            let key = authority.change_passphrase(new.as_ref())?;
            eprintln!("wrote {key} {}encrypted", if *remove { "un" } else { "" });
            return Ok(Exit::Done);
        }
        Cert::Issue {
            authority,
            hosts,
            out,
        } => {
            let files = open(authority)?.issue(hosts, out, VALIDITY)?;
            eprintln!("made {}, {} and {}", files.cert, files.key, files.ca);
            describe(&files.cert)?
        }
        Cert::Invite {
            names,
            authority,
            listen,
            valid,
        } => return invite(names, authority, *listen, *valid),
        Cert::Enroll { address, code, out } => {
            let code: Code = code.parse().map_err(EnrolmentError::Code)?;
            let files = runtime(false)?.block_on(enrolment::enrol(address, &code, out))?;
            eprintln!("made {}, {} and {}", files.cert, files.key, files.ca);
            describe(&files.cert)?
        }
        Cert::Revoke {
            what,
            only_certificate,
            list,
            config,
        } => {
            let list = match list {
                Some(list) => list.clone(),
                None => configured_list(config)?,
            };
            return revoke(what, *only_certificate, &list);
        }
        Cert::Show { file } => describe(file)?,
    };
    match output {
        Output::Table => run::write_out(show::certificate(&info, &TimeZone::system()).as_bytes()),
        Output::Json => run::write_out(format!("{:#}\n", json(&info)).as_bytes()),
    }
}

fn init(
    dir: &Utf8Path,
    name: &str,
    encrypt: bool,
    passphrase_file: Option<&Utf8Path>,
) -> Result<CertInfo, Failure> {
    let passphrase = if encrypt || passphrase_file.is_some() {
        Some(secret::new_for_key(passphrase_file)?)
    } else {
        None
    };
    let info = init_ca(dir, name, passphrase.as_ref())?;
    eprintln!(
        "made {0}/{1} and {0}/{2}; keep the key off the hosts",
        dir, CA_CERT, CA_KEY
    );
    Ok(info)
}

fn open(authority: &AuthorityDir) -> Result<Authority, CertError> {
    let ask = |key: &Utf8Path| secret::of_key(authority.passphrase_file.as_deref(), key);
    Authority::open(&authority.ca, &ask)
}

/// Waits for the host. The code is data, on standard output; everything else is talk.
fn invite(
    names: &[String],
    authority: &AuthorityDir,
    listen: SocketAddr,
    valid: u32,
) -> Result<Exit, Failure> {
    if !WAITS.contains(&valid) {
        let message = "an invitation is open for 1 minute to 7 days";
        return Err(Failure::new(Exit::Failed, message, ""));
    }
    let authority = open(authority)?;
    let at_most = Duration::from_secs(valid.into());
    let waiting = async {
        let invitation = Invitation::open(authority, names.to_vec(), VALIDITY, listen).await?;
        let at = invitation.address().map_err(|e| Failure::io("listen", &e))?;
        run::write_out(format!("{}\n", invitation.code()).as_bytes())?;
        eprintln!(
            "waiting on {at} for {}, {} long; on that host:\n  lifeboat cert enroll THIS-MACHINE:{} CODE --out DIR",
            names.join(", "),
            super::units::span(at_most),
            at.port()
        );
        let wrong =
            |from: SocketAddr, left| eprintln!("a wrong code from {from}; {left} more end the invitation");
        Ok::<_, Failure>(invitation.wait(at_most, wrong).await?)
    };
    let enrolled = runtime(false)?.block_on(waiting)?;
    eprintln!(
        "certified the key {} of {}, which called from {}: certificate {}",
        enrolled.key_fingerprint,
        names.join(", "),
        enrolled.from,
        enrolled.fingerprint
    );
    match enrolled.unsent {
        None => Ok(Exit::Done),
        Some(why) => {
            let message = format!("the certificate may not have arrived: {why}");
            let hint = "if the host has none, revoke this one (lifeboat cert revoke, with the fingerprint above) and make a new \
                        invitation";
            Err(Failure::new(Exit::Failed, message, hint))
        }
    }
}

/// The list that the daemon of this host looks at.
fn configured_list(path: &Utf8Path) -> Result<Utf8PathBuf, Failure> {
    let hint = "name the list with --list, or the configuration with --config";
    let config = Config::load(path).map_err(|e| Failure::new(Exit::Failed, e.to_string(), hint))?;
    config.tls.revoked.ok_or_else(|| {
        let message = format!("{path} names no revocation list, so the daemon looks at none");
        let hint = "set revoked in its [tls], with an empty file first, and restart the daemon";
        Failure::new(Exit::Failed, message, hint)
    })
}

fn revoke(what: &str, only_certificate: bool, list: &Utf8Path) -> Result<Exit, Failure> {
    let file = Utf8Path::new(what);
    let (fingerprint, of) = match what.parse::<Fingerprint>() {
        Ok(fingerprint) => (fingerprint, "as it was named".to_owned()),
        Err(e) if !file.exists() => {
            let message = format!("{what} is no file, and {e}");
            return Err(Failure::new(Exit::NotFound, message, ""));
        }
        Err(_) => {
            let info = describe(file)?;
            let name = info.names.first().unwrap_or(&info.subject).clone();
            if only_certificate {
                (info.fingerprint, format!("certificate of {name}"))
            } else {
                (info.key_fingerprint, format!("key of {name}"))
            }
        }
    };
    let added = lifeboat_tls::revoke(list, fingerprint, &of);
    if added.map_err(|e| Failure::new(Exit::Failed, e.to_string(), ""))? {
        eprintln!("revoked {fingerprint} ({of}) in {list}; a daemon that looks at it follows within a second")
    } else {
        eprintln!("{fingerprint} is on {list} already")
    }
    Ok(Exit::Done)
}

fn json(info: &CertInfo) -> serde_json::Value {
    serde_json::json!({
        "subject": info.subject,
        "issuer": info.issuer,
        "names": info.names,
        "addresses": info.addresses,
        "not_before": info.not_before,
        "not_after": info.not_after,
        "fingerprint": info.fingerprint,
        "key_fingerprint": info.key_fingerprint,
        "is_ca": info.is_ca,
    })
}
