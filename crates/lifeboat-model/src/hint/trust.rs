//! Hints about what two hosts need to talk: a way to each other, certificates, keys, authorization entries and their limits.

use super::hints;
use crate::fingerprint::Fingerprint;
use crate::words;

hints! {
    /// What to do so that hosts trust each other.
    Trust {
        /// See that the daemon runs there, and that a firewall lets its port through.
        CheckPeer = "check-peer",
        /// Give both hosts certificates of one authority with their names, and keys that the other one knows.
        IssueForBoth = "issue-for-both",
        /// Enable this host as a replica server.
        EnableServer = "enable-replica-server",
        /// Enable the other host as a replica server.
        EnableServerThere = "enable-replica-server-there",
        /// Add an authorization entry here.
        Authorize {
            /// The primary that it is for.
            #[serde(deserialize_with = "words::text")]
            primary: String,
        } = "authorize-primary",
        /// Add an authorization entry on the other host.
        AuthorizeThere {
            /// The primary that it is for, as its certificate says.
            #[serde(deserialize_with = "words::text")]
            primary: String,
        } = "authorize-primary-there",
        /// Give hosts that take over each other's VMs one trust group.
        ShareGroup {
            /// The primary of an entry whose group is its own.
            #[serde(deserialize_with = "words::text")]
            primary: String,
        } = "share-trust-group",
        /// Allow more in an authorization entry of this host.
        RaiseQuota {
            /// The primary of the entry.
            #[serde(deserialize_with = "words::text")]
            primary: String,
        } = "raise-quota",
        /// Allow more in the authorization entry on the other host.
        RaiseQuotaThere = "raise-quota-there",
        /// Compare the key with what the other host says of itself, and trust it; if it is not the same, find out who uses the
        /// name, and revoke that certificate.
        CompareKey {
            /// The host whose name was used.
            #[serde(deserialize_with = "words::text")]
            name: String,
            /// The key that was shown; `None`: it could not be read.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            key: Option<Fingerprint>,
            /// The host on which it is to be trusted.
            #[serde(deserialize_with = "words::text")]
            on: String,
        } = "compare-and-trust-key",
        /// Keep the certificate until every host knows the next key, or have it trusted there.
        AwaitNextKey {
            /// This host.
            #[serde(deserialize_with = "words::text")]
            name: String,
            /// Its next key.
            key: Fingerprint,
        } = "await-or-trust-next-key",
        /// Put the new certificate and key in place: every host knows the key.
        UseNextKey = "use-next-key",
        /// Set the clock; if that is right, renew the certificate.
        SetClock = "set-clock",
        /// Issue a new certificate for this host and put it in place.
        Renew {
            /// The file to be replaced.
            #[serde(deserialize_with = "words::text")]
            place: String,
        } = "renew-certificate",
        /// Issue a new certificate for this host and put it in place of what its configuration names.
        RenewOwn = "renew-own-certificate",
        /// Issue a new certificate for the other host and put it in place there.
        RenewThere = "renew-certificate-there",
        /// Make a new authority, and then issue new certificates by it.
        RenewAuthority {
            /// The file with the certificates of authorities.
            #[serde(deserialize_with = "words::text")]
            place: String,
        } = "renew-authority",
        /// Issue a certificate with a new key for this host, or take it off the list on the other host.
        NewKey = "issue-with-new-key",
        /// Issue a certificate with a new key for the other host, or take it off the list here.
        NewKeyThere = "issue-with-new-key-there",
        /// Issue a certificate for the other host by the authority trusted here, or trust its authority here.
        OneAuthorityThere = "issue-by-own-authority",
        /// Issue a certificate for this host by the authority trusted there, or have ours trusted there.
        OneAuthority = "issue-by-their-authority",
        /// Call the host by a name in its certificate, or issue one with both names.
        CallByName = "call-by-certified-name",
        /// Issue a certificate with a DNS name for this host: hosts are known by these.
        AddName = "issue-with-dns-name",
        /// Check the clocks of both hosts.
        CheckClocks = "check-clocks",
    }
}
