//! Certificates from a small authority of one's own; the work is the link's.

use std::time::Duration;

use jiff::tz::TimeZone;
use lifeboat_link::certs::{self, CertError, CertInfo};

use super::args::{Cert, Output};
use super::exit::{Exit, Failure};
use super::{run, show};

/// How long a host's certificate is good for.
const VALIDITY: Duration = Duration::from_secs(2 * 365 * 86_400);

impl From<CertError> for Failure {
    fn from(error: CertError) -> Self {
        Self::new(Exit::Failed, error.to_string(), "")
    }
}

/// Carries out `lifeboat cert`.
pub(crate) fn run(command: &Cert, output: Output) -> Result<Exit, Failure> {
    let info = match command {
        Cert::Init { dir, name } => {
            let info = certs::init_ca(dir, name)?;
            eprintln!(
                "made {0}/{1} and {0}/{2}; keep the key off the hosts",
                dir,
                certs::CA_CERT,
                certs::CA_KEY
            );
            info
        }
        Cert::Issue { ca, hosts, out } => {
            let files = certs::issue(ca, hosts, out, VALIDITY)?;
            eprintln!("made {}, {} and {}", files.cert, files.key, files.ca);
            certs::describe(&files.cert)?
        }
        Cert::Show { file } => certs::describe(file)?,
    };
    match output {
        Output::Table => run::write_out(show::certificate(&info, &TimeZone::system()).as_bytes()),
        Output::Json => run::write_out(format!("{:#}\n", json(&info)).as_bytes()),
    }
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
        "is_ca": info.is_ca,
    })
}
