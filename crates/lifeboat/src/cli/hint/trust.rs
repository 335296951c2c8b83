//! Hints about certificates, keys and authorization entries, as commands.

use lifeboat_model::hint::Trust;
use lifeboat_model::shell::quoted;

/// How a certificate is issued.
const ISSUE: &str = "lifeboat cert issue --ca DIR --host NAME --out NEWDIR";

pub(super) fn trust(hint: &Trust) -> String {
    match hint {
        Trust::CheckPeer => "is lifeboat serve running there, and does a firewall let the port through?".into(),
        Trust::IssueForBoth => {
            "both hosts need certificates of one CA, with their names (lifeboat cert issue), and keys that the other one knows"
                .into()
        }
        Trust::EnableServer => "enable it with: lifeboat server set --replica on".into(),
        Trust::EnableServerThere => "enable it there with: lifeboat server set --replica on".into(),
        Trust::Authorize { primary } => format!("add one with: {}", authorize(primary)),
        Trust::AuthorizeThere { primary } => format!("add one there with: {}", authorize(primary)),
        Trust::ShareGroup { primary } => format!(
            "hosts that take over each other's VMs need one group: lifeboat authorization add {} --trust-group GROUP",
            quoted(primary)
        ),
        Trust::AddName => format!("issue one with a DNS name: {ISSUE}"),
        Trust::RaiseQuota { primary } => {
            format!("to allow more: lifeboat authorization add {}", quoted(primary))
        }
        Trust::RaiseQuotaThere => "to allow more there: lifeboat authorization add".into(),
        Trust::CompareKey { name, key, on } => {
            let trust = key.map_or_else(String::new, |key| {
                let trust = format!("lifeboat replication trust-key {} {key}", quoted(name));
                format!(" ({trust}, on {on})")
            });
            format!(
                "if the key of {name} was changed, compare it with what lifeboat cert show says there, and have it \
                 trusted{trust}; if not, someone else uses the name: find out who, and revoke that certificate (lifeboat cert \
                 revoke)"
            )
        }
        Trust::AwaitNextKey { name, key } => format!(
            "keep the old certificate in place until it is, or have the key trusted there (lifeboat replication trust-key {} \
             {key})",
            quoted(name)
        ),
        Trust::UseNextKey => "put the new certificate and key in place of the old ones".into(),
        Trust::SetClock => "set the clock, or renew the certificate".into(),
        Trust::Renew { place } => format!(
            "if the clock is right, issue a new one ({ISSUE}) and replace {place} and its key with it; no restart is needed"
        ),
        Trust::RenewOwn => format!(
            "if the clock is right, issue a new one ({ISSUE}) and put it and its key in place; no restart is needed"
        ),
        Trust::RenewThere => format!(
            "if the clock is right, issue a new one for it ({ISSUE}) and replace its certificate and key there; no restart is \
             needed"
        ),
        Trust::RenewAuthority { place } => format!(
            "make a new authority (lifeboat cert init --name NAME NEWDIR), append its ca.crt to {place} on every host, and then \
             issue new certificates by it"
        ),
        Trust::NewKey => format!(
            "issue a new one with a new key ({ISSUE}) and put both in place here, or take it off the list there"
        ),
        Trust::NewKeyThere => {
            format!("issue a new one with a new key ({ISSUE}), or take it off the list here")
        }
        Trust::OneAuthorityThere => {
            format!("issue one by that CA ({ISSUE}), or append its CA to the ca file here")
        }
        Trust::OneAuthority => format!(
            "issue one by that CA ({ISSUE}) and put it in place here, or append our CA to the ca file there"
        ),
        Trust::CallByName => format!("call it by that name, or issue one with both ({ISSUE})"),
        Trust::CheckClocks => "check the clocks of both hosts".into(),
    }
}

fn authorize(primary: &str) -> String {
    format!("lifeboat authorization add {} --location DIR", quoted(primary))
}
