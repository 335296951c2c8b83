//! Hints about certificates, keys and authorization entries, in the terms of the management API. The rest is the parent's.

use lifeboat_model::hint::Trust;

pub(super) fn trust(hint: &Trust) -> String {
    match hint {
        Trust::CheckPeer => "see that its daemon runs, and that a firewall lets its port through",
        Trust::IssueForBoth => {
            "both hosts need certificates of one authority with their names, and keys that the other one knows"
        }
        Trust::EnableServer => {
            "enable this host as a replica server: ModifyServiceSettings, RecoveryServerEnabled"
        }
        Trust::EnableServerThere => {
            "enable it as a replica server there: ModifyServiceSettings, RecoveryServerEnabled"
        }
        Trust::Authorize { primary } => {
            return format!("add an authorization entry for {primary}: AddAuthorizationEntry");
        }
        Trust::AuthorizeThere { primary } => {
            return format!("add an authorization entry for {primary} there: AddAuthorizationEntry");
        }
        Trust::ShareGroup { primary } => {
            return format!(
                "hosts that take over each other's VMs need one TrustGroup, like the entry of {primary}"
            );
        }
        Trust::AddName => "issue a certificate with a DNS name for this host",
        Trust::RaiseQuota { primary } => {
            return format!("allow more in the authorization entry {primary}");
        }
        Trust::RaiseQuotaThere => "allow more in the authorization entry there",
        Trust::CompareKey { name, on, .. } => {
            return format!(
                "if the key of {name} was changed, compare it with what {name} itself shows, and have it trusted on {on}; if \
                 not, find out who uses the name, and revoke that certificate"
            );
        }
        Trust::AwaitNextKey { .. } => {
            "keep the old certificate in place until it is, or have the key trusted there"
        }
        Trust::UseNextKey => "put the new certificate and key in place of the old ones",
        Trust::SetClock => "set the clock, or renew the certificate",
        Trust::Renew { place } => {
            return format!(
                "if the clock is right, issue a new certificate and replace {place} and its key with it"
            );
        }
        Trust::RenewOwn => "if the clock is right, issue a new certificate for this host",
        Trust::RenewThere => "if the clock is right, issue a new certificate for it and put it in place there",
        Trust::RenewAuthority { place } => {
            return format!(
                "make a new authority, append its certificate to {place} on every host, and then issue new certificates by it"
            );
        }
        Trust::NewKey => {
            "issue a certificate with a new key for this host, or take it off the revocation list there"
        }
        Trust::NewKeyThere => {
            "issue a certificate with a new key for it, or take it off the revocation list here"
        }
        Trust::OneAuthorityThere => "issue a certificate for it by that authority, or trust its authority here",
        Trust::OneAuthority => "issue a certificate for this host by that authority, or have ours trusted there",
        Trust::CallByName => "call it by a name in its certificate, or issue one with both",
        Trust::CheckClocks => "check the clocks of both hosts",
    }
    .into()
}
