//! Certificates that end: looked at once a minute, told as an event when a threshold is passed, and shown by the host and
//! by the health of the relationships that depend on them. When they end in fact is the link's to decide.

use crate::host::Host;
use crate::port::environment::Certificate;
use crate::record::Relationship;
use lifeboat_model::certificates::{CertificateUse, Described};
use lifeboat_model::{Finding, ProblemKind, Timestamp};
use std::collections::BTreeSet;
use std::sync::{PoisonError, Weak};
use std::time::Duration;
use tracing::warn;

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(60);

/// Events that are read at the start for what was told already.
const TOLD_BEFORE: u32 = 10_000;

/// What there is to say of a certificate.
fn findings(certificate: &Certificate, now: Timestamp) -> Vec<Finding> {
    let described = Described {
        usage: certificate.usage,
        place: &certificate.place,
        not_before: certificate.not_before,
        not_after: certificate.not_after,
    };
    let problem = certificate.problem.as_ref().map(|why| {
        let text = format!(
            "what {} and its companions hold now is not used, the certificate read before is: {why}",
            certificate.place
        );
        Finding::warning(ProblemKind::CertificateUnused, text).about(&certificate.place)
    });
    described.finding(now).into_iter().chain(problem).collect()
}

/// Whether a relationship with `peer` depends on it. A primary knows its peer as `HOST:PORT`, a replica by the name in its
/// certificate; a peer's certificate is known by how it was reached, or by its names.
fn concerns(certificate: &Certificate, peer: &str) -> bool {
    match certificate.usage {
        CertificateUse::Host | CertificateUse::Authority => true,
        CertificateUse::Management => false,
        CertificateUse::Peer => certificate.place.eq_ignore_ascii_case(peer),
    }
}

impl Host {
    /// The certificates as they were looked at last.
    pub(crate) fn certificates(&self) -> Vec<Certificate> {
        self.certificates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What of this host as a whole needs attention, in words.
    pub(crate) fn host_findings(&self) -> Vec<Finding> {
        let now = self.ports.clock.now();
        let seen = self.certificates();
        let certificates = seen.iter().flat_map(|c| findings(c, now));
        certificates.chain(self.own_keys().findings).collect()
    }

    /// What of this host needs attention, in words.
    pub(crate) fn notes(&self) -> Vec<Finding> {
        let storage = self
            .storage_notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let certificates = self.host_findings().into_iter();
        certificates
            .chain(self.key_notes())
            .chain(storage)
            .chain(self.request_notes())
            .collect()
    }

    /// What the certificates mean for a relationship.
    pub(crate) fn certificate_findings(&self, rel: &Relationship) -> Vec<Finding> {
        let now = self.ports.clock.now();
        let seen = self.certificates();
        let concerned = seen.iter().filter(|c| concerns(c, &rel.peer));
        let certificates = concerned.flat_map(|c| findings(c, now));
        let keys = self
            .own_keys()
            .findings
            .into_iter()
            .chain(self.key_findings(rel.vm));
        certificates.chain(keys).collect()
    }

    /// Looks at the certificates now.
    async fn look_at_certificates(&self) -> Vec<Finding> {
        let seen = self.ports.environment.certificates().await;
        *self.certificates.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        self.host_findings()
    }
}

/// What is told once: the sentence without what changes while the finding stays the same.
fn key(finding: &Finding) -> &str {
    let clock = finding.text.find(", and the clock of this host says");
    clock.map_or(finding.text.as_str(), |at| &finding.text[..at])
}

/// Looks at the certificates for as long as the engine lives.
pub(crate) async fn watch(host: Weak<Host>) {
    let mut told: BTreeSet<String> = BTreeSet::new();
    while let Some(host) = host.upgrade() {
        let findings = host.look_at_certificates().await;
        let keys: BTreeSet<String> = findings.iter().map(|f| key(f).to_owned()).collect();
        let new: Vec<&Finding> = findings.iter().filter(|f| !told.contains(key(f))).collect();
        if !new.is_empty() {
            tell(&host, &new).await;
        }
        told = keys;
        drop(host);
        tokio::time::sleep(LOOK).await;
    }
}

/// Records what the events do not have yet: a restart of the daemon is no news.
async fn tell(host: &Host, new: &[&Finding]) {
    let before = host.ports.catalog.events(None, TOLD_BEFORE).await;
    let before = before.unwrap_or_default();
    for finding in new {
        if before.iter().any(|e| e.message.starts_with(key(finding))) {
            continue;
        }
        warn!(finding = finding.text, "certificate");
        host.event(finding.note()).await;
    }
}
