//! By which keys this host knows the others: each relationship remembers the key of the hosts it names, taken when they first
//! spoke, and a certificate with such a host's name and another key is refused. What is decided here is decided in memory;
//! that it becomes durable, is told and shown is `keys`'s.
//!
//! A host is known by the names of its certificate and by how it is called. A certificate may fit several remembered hosts;
//! then its key has to be that of all of them.

use crate::common::address::host_of;
use crate::port::link::{KeyJudge, OtherKey, PeerIdentity};
use crate::record::access::third_hosts;
use crate::record::{KnownKey, Relationship};
use lifeboat_model::reach::bare_host;
use lifeboat_model::{Fingerprint, Note, Timestamp, VmId, hint};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Hosts that one relationship remembers. It names four at most at once: the other side by two names, a third host, former
/// replicas.
const HOSTS_MAX: usize = 16;

/// Names of one host. More are not remembered.
const NAMES_MAX: usize = 64;

/// How long a refused key is shown after the last attempt.
pub(crate) const SHOWN: Duration = Duration::from_secs(3600);

/// The least time between two events about one host with another key.
const TOLD_AGAIN: Duration = Duration::from_secs(600);

/// Events that wait to be recorded.
const TOLD_MAX: usize = 256;

/// What a relationship knows of keys.
#[derive(Default)]
struct Known {
    /// Hosts that the relationship names: names, or `HOST:PORT`.
    named: Vec<String>,
    keys: Vec<KnownKey>,
    /// Attempts with other keys, by the host whose name was used.
    alarms: BTreeMap<String, Alarm>,
}

/// An attempt with another key.
#[derive(Clone, Debug)]
pub(crate) struct Alarm {
    pub(crate) note: Note,
    shown: Option<Fingerprint>,
    last: Instant,
    told: Instant,
}

/// Something that is to be recorded as an event.
pub(crate) struct Told {
    pub(crate) vm: VmId,
    pub(crate) note: Note,
}

#[derive(Default)]
struct Inner {
    known: BTreeMap<VmId, Known>,
    /// VMs whose keys the catalog has not got yet.
    unsaved: BTreeSet<VmId>,
    told: Vec<Told>,
}

/// The keys of all relationships of this host.
pub(crate) struct Pins {
    inner: Mutex<Inner>,
    /// Something is to be made durable or told.
    pub(crate) changed: Notify,
    /// Name of this host, for messages.
    host: String,
}

/// What was new in a certificate that fits.
enum Learned {
    /// A name or an address of a host that is known.
    Names,
    /// The host uses its next key; what the event says of that.
    NextKey(String),
}

/// How a certificate compares with what is remembered.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is that of every host it names.
    Fits(Vec<usize>),
    /// A host that the relationship names and whose key is not known yet.
    First,
    /// A host that the relationship does not name. Whether it may do anything is decided elsewhere.
    Stranger,
    /// Of this remembered host by its names, with another key.
    Other(usize),
}

fn same(a: &str, b: &str) -> bool {
    a.strip_suffix('.')
        .unwrap_or(a)
        .eq_ignore_ascii_case(b.strip_suffix('.').unwrap_or(b))
}

fn has_port(host: &str) -> bool {
    host.rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}

/// Several hosts of one machine share its loopback address, so it does not tell hosts apart.
fn loopback(address: &str) -> bool {
    let host: Result<core::net::IpAddr, _> = bare_host(host_of(address)).parse();
    host.is_ok_and(|ip| ip.is_loopback())
}

impl KnownKey {
    /// Whether a certificate, shown at `called` if it was called, is of this host.
    fn is_of(&self, called: Option<&str>, shown: &PeerIdentity) -> bool {
        let named = |name: &String| shown.names.iter().any(|n| same(n, name));
        let address = |a: &String| shown.is_host_of(a) && !loopback(a);
        self.names.iter().any(named)
            || called.is_some_and(|c| self.is_at(c))
            || self.addresses.iter().any(address)
    }

    /// Whether it is called like this.
    pub(crate) fn is_at(&self, called: &str) -> bool {
        let host = bare_host(host_of(called));
        self.addresses.iter().any(|a| same(a, called)) || self.names.iter().any(|n| same(n, host))
    }

    fn accepts(&self, key: Fingerprint) -> bool {
        self.key == key || self.next == Some(key)
    }

    /// How people know it.
    pub(crate) fn label(&self) -> &str {
        let any = self.names.first().or(self.addresses.first());
        any.map_or("", String::as_str)
    }
}

impl Known {
    fn verdict(&self, called: Option<&str>, shown: &PeerIdentity) -> Verdict {
        let of = |(_, k): &(usize, &KnownKey)| k.is_of(called, shown);
        let (mut fits, mut any) = (Vec::new(), false);
        for (at, known) in self.keys.iter().enumerate().filter(of) {
            any = true;
            match shown.key {
                Some(key) if known.accepts(key) => fits.push(at),
                Some(_) | None => return Verdict::Other(at),
            }
        }
        let names = |named: &String| {
            called.is_some_and(|c| same(c, named)) || shown.is_host_of(named) && !loopback(named)
        };
        if any {
            Verdict::Fits(fits)
        } else if self.named.iter().any(names) {
            Verdict::First
        } else {
            Verdict::Stranger
        }
    }

    /// Takes in what a certificate that fits says; `None`: nothing of it is new.
    fn learn(&mut self, at: usize, called: Option<&str>, shown: &PeerIdentity) -> Option<Learned> {
        let known = self.keys.get_mut(at)?;
        let mut new = false;
        for name in &shown.names {
            if known.names.len() < NAMES_MAX && !known.names.iter().any(|n| same(n, name)) {
                known.names.push(name.clone());
                new = true;
            }
        }
        if let Some(called) = called
            && known.addresses.len() < NAMES_MAX
            && !known.addresses.iter().any(|a| same(a, called))
        {
            known.addresses.push(called.to_owned());
            new = true;
        }
        let rotated = shown
            .key
            .filter(|key| known.key != *key && known.next == Some(*key));
        if let Some(key) = rotated {
            let text = format!(
                "{} uses its next key {key}, which was announced; its old key {} is no longer accepted",
                known.label(),
                known.key
            );
            (known.key, known.next) = (key, None);
            return Some(Learned::NextKey(text));
        }
        new.then_some(Learned::Names)
    }

    /// Remembers a host for the first time.
    fn take(&mut self, called: Option<&str>, shown: &PeerIdentity, key: Fingerprint, now: Timestamp) {
        if self.keys.len() >= HOSTS_MAX {
            let named = &self.named;
            let stale = self.keys.iter().position(|k| !named.iter().any(|n| k.is_at(n)));
            self.keys.remove(stale.unwrap_or(0));
        }
        self.keys.push(KnownKey {
            names: shown.names.iter().take(NAMES_MAX).cloned().collect(),
            addresses: called.map(str::to_owned).into_iter().collect(),
            key,
            since: now,
            next: None,
            told: None,
        });
    }
}

/// Every host that a relationship names.
fn named(rel: &Relationship) -> Vec<String> {
    let peer = Some(&rel.peer).filter(|n| !n.is_empty());
    let all = peer
        .into_iter()
        .chain(&rel.callback)
        .chain(third_hosts(Some(rel)));
    all.chain(&rel.formerly).cloned().collect()
}

/// Whose key it is, and what was seen of it before.
fn alarm_note(host: &str, known: &KnownKey, shown: &PeerIdentity) -> Note {
    let name = known.label();
    let key = shown
        .key
        .map_or("one that cannot be read".to_owned(), |k| k.to_string());
    let text = format!(
        "a certificate of {name} was shown to {host} with another key than the one that is known: {key} instead of {}; nothing was \
         done",
        known.key
    );
    let compare = hint::Trust::CompareKey {
        name: name.to_owned(),
        key: shown.key,
        on: host.to_owned(),
    };
    Note::new(text, compare)
}

impl Pins {
    pub(crate) fn new(host: &str) -> Self {
        Self {
            inner: Mutex::default(),
            changed: Notify::new(),
            host: host.to_owned(),
        }
    }

    fn with<R>(&self, f: impl FnOnce(&mut Inner) -> R) -> R {
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes over what the catalog has of a relationship.
    pub(crate) fn load(&self, rel: &Relationship) {
        self.with(|i| {
            let known = i.known.entry(rel.vm).or_default();
            (known.named, known.keys) = (named(rel), rel.keys.clone());
        });
    }

    /// What is to be written with a relationship. Whom it names is known here from then on.
    pub(crate) fn recorded(&self, rel: &Relationship) -> Vec<KnownKey> {
        self.with(|i| {
            let known = i.known.entry(rel.vm).or_default();
            known.named = named(rel);
            known.keys.clone()
        })
    }

    /// These keys of a VM are in the catalog.
    pub(crate) fn saved(&self, vm: VmId, keys: &[KnownKey]) {
        self.with(|i| {
            if i.known.get(&vm).is_some_and(|k| k.keys == keys) {
                i.unsaved.remove(&vm);
            }
        });
    }

    /// The relationship is gone.
    pub(crate) fn forget(&self, vm: VmId) {
        self.with(|i| {
            i.known.remove(&vm);
            i.unsaved.remove(&vm);
        });
    }

    /// What is known of the hosts of a relationship.
    pub(crate) fn keys(&self, vm: VmId) -> Vec<KnownKey> {
        self.with(|i| i.known.get(&vm).map_or_else(Vec::new, |k| k.keys.clone()))
    }

    /// What was tried with other keys, lately.
    pub(crate) fn alarms(&self, vm: VmId) -> Vec<(String, Note)> {
        self.with(|i| {
            let Some(known) = i.known.get_mut(&vm) else {
                return Vec::new();
            };
            known.alarms.retain(|_, a| a.last.elapsed() < SHOWN);
            let alarms = known.alarms.iter();
            alarms.map(|(label, a)| (label.clone(), a.note.clone())).collect()
        })
    }

    /// VMs whose keys are to be written, and what is to be recorded as events.
    pub(crate) fn news(&self) -> (Vec<VmId>, Vec<Told>) {
        self.with(|i| (i.unsaved.iter().copied().collect(), std::mem::take(&mut i.told)))
    }

    /// Judges a certificate, and takes in what it says that is new. `called`: how the host was called; `None`: it calls.
    ///
    /// # Errors
    /// It has the name of a host that is known by another key; what it is, and what to do.
    pub(crate) fn judge(
        &self,
        vm: Option<VmId>,
        called: Option<&str>,
        shown: &PeerIdentity,
        now: Timestamp,
    ) -> Result<(), OtherKey> {
        let judged = self.with(|i| {
            let Some(vm) = vm else {
                return i.judge_by_others(&self.host, None, called, shown).map(|()| false);
            };
            match i
                .known
                .get(&vm)
                .map_or(Verdict::Stranger, |k| k.verdict(called, shown))
            {
                Verdict::Stranger => i
                    .judge_by_others(&self.host, Some(vm), called, shown)
                    .map(|()| false),
                Verdict::First => {
                    i.judge_by_others(&self.host, Some(vm), called, shown)?;
                    let Some(key) = shown.key else {
                        return Err(OtherKey("its public key cannot be read".into()));
                    };
                    i.known.entry(vm).or_default().take(called, shown, key, now);
                    i.unsaved.insert(vm);
                    Ok(true)
                }
                Verdict::Fits(all) => Ok(i.learn(vm, &all, called, shown)),
                Verdict::Other(at) => Err(OtherKey(i.alarm(&self.host, vm, at, shown))),
            }
        });
        if !matches!(judged, Ok(false)) {
            self.changed.notify_one();
        }
        judged.map(drop)
    }

    /// Whether a judgement of a host that was called would be good. Nothing is noted.
    pub(crate) fn fits(&self, vm: Option<VmId>, called: &str, shown: &PeerIdentity) -> bool {
        self.with(|i| {
            let own = vm.and_then(|vm| i.known.get(&vm));
            match own.map_or(Verdict::Stranger, |k| k.verdict(Some(called), shown)) {
                Verdict::Fits(_) => true,
                Verdict::Other(_) => false,
                Verdict::First | Verdict::Stranger => i.contradiction(vm, Some(called), shown).is_none(),
            }
        })
    }

    /// Notes what a host says its next key is; `None`: it stays with the one it has. Whether that is new.
    ///
    /// # Errors
    /// No key of such a host is known here, so that nothing vouches for the next one.
    pub(crate) fn announce(
        &self,
        vm: VmId,
        shown: &PeerIdentity,
        next: Option<Fingerprint>,
    ) -> Result<bool, UnknownCaller> {
        self.with(|i| {
            let known = i.known.get_mut(&vm);
            let fits = known.as_ref().map(|k| k.verdict(None, shown));
            let (Some(known), Some(Verdict::Fits(all))) = (known, fits) else {
                return Err(UnknownCaller);
            };
            let mut texts = Vec::new();
            for at in all {
                let Some(key) = known.keys.get_mut(at) else {
                    continue;
                };
                let next = next.filter(|n| *n != key.key);
                if key.next == next {
                    continue;
                }
                key.next = next;
                texts.push(match next {
                    Some(next) => format!("{} announces that its next key is {next}", key.label()),
                    None => format!("{} announces that it stays with its key {}", key.label(), key.key),
                });
            }
            let new = !texts.is_empty();
            if new {
                i.unsaved.insert(vm);
            }
            texts.into_iter().for_each(|text| i.tell(vm, text.into()));
            Ok(new)
        })
    }

    /// An administrator says which key a host has. Of one VM, or of all whose relationship names that host; which these are.
    pub(crate) fn trust(
        &self,
        only: Option<VmId>,
        host: &str,
        key: Fingerprint,
        now: Timestamp,
    ) -> Vec<VmId> {
        self.with(|i| {
            let mut changed = Vec::new();
            let of = |vm: &VmId| only.is_none_or(|only| only == *vm);
            for (vm, known) in i.known.iter_mut().filter(|(vm, _)| of(vm)) {
                if known.trust(host, key, now) {
                    changed.push(*vm);
                }
            }
            i.unsaved.extend(&changed);
            changed
        })
    }

    /// Notes that the host called like this knows the next key of this host; `None`: that there is none.
    pub(crate) fn announced(&self, vm: VmId, called: &str, next: Option<Fingerprint>) {
        let changed = self.with(|i| {
            let Some(known) = i.known.get_mut(&vm) else {
                return false;
            };
            let mut changed = false;
            for key in known.keys.iter_mut().filter(|k| k.is_at(called)) {
                changed |= key.told != next;
                key.told = next;
            }
            if changed {
                i.unsaved.insert(vm);
            }
            changed
        });
        if changed {
            self.changed.notify_one();
        }
    }
}

impl Known {
    /// Whether the relationship names that host, which then is known by this key as soon as it shows it.
    fn trust(&mut self, host: &str, key: Fingerprint, now: Timestamp) -> bool {
        let is = |name: &str| {
            let both = has_port(name) && has_port(host);
            same(name, host) || !both && same(bare_host(host_of(name)), bare_host(host_of(host)))
        };
        let mut found = false;
        for known in &mut self.keys {
            if known.names.iter().chain(&known.addresses).any(|n| is(n)) {
                found = true;
                if known.key == key {
                    known.next = None;
                } else {
                    known.next = Some(key);
                }
                let label = known.label().to_owned();
                self.alarms.remove(&label);
            }
        }
        if !found && let Some(named) = self.named.iter().find(|n| is(n)).cloned() {
            found = true;
            let address = named.contains(':');
            let identity = PeerIdentity {
                names: match bare_host(host_of(&named)).parse::<core::net::IpAddr>() {
                    Ok(_) => Vec::new(),
                    Err(_) => vec![bare_host(host_of(&named)).to_ascii_lowercase()],
                },
                addresses: Vec::new(),
                key: Some(key),
            };
            self.take(Some(named.as_str()).filter(|_| address), &identity, key, now);
        }
        found
    }
}

impl Inner {
    fn tell(&mut self, vm: VmId, note: Note) {
        if self.told.len() < TOLD_MAX {
            self.told.push(Told { vm, note });
        }
    }

    /// Takes in what is new; whether anything is.
    fn learn(&mut self, vm: VmId, all: &[usize], called: Option<&str>, shown: &PeerIdentity) -> bool {
        let Some(known) = self.known.get_mut(&vm) else {
            return false;
        };
        // How it was called is one host's alone.
        let called = called.filter(|c| all.len() == 1 || known.keys.iter().all(|k| !k.is_at(c)));
        let learned: Vec<Learned> = all
            .iter()
            .filter_map(|at| known.learn(*at, called, shown))
            .collect();
        let new = !learned.is_empty();
        if new {
            self.unsaved.insert(vm);
        }
        for learned in learned {
            match learned {
                Learned::Names => {}
                Learned::NextKey(text) => self.tell(vm, text.into()),
            }
        }
        new
    }

    /// Notes that another host used the name of a remembered host; what that is in words.
    fn alarm(&mut self, host: &str, vm: VmId, at: usize, shown: &PeerIdentity) -> Note {
        let Some(known) = self.known.get_mut(&vm) else {
            return "".into();
        };
        let Some(key) = known.keys.get(at) else {
            return "".into();
        };
        let (note, label, now) = (
            alarm_note(host, key, shown),
            key.label().to_owned(),
            Instant::now(),
        );
        let before = known.alarms.get(&label);
        let told = before.is_some_and(|a| a.shown == shown.key && a.last.elapsed() < SHOWN)
            || before.is_some_and(|a| a.told.elapsed() < TOLD_AGAIN);
        let alarm = Alarm {
            note: note.clone(),
            shown: shown.key,
            last: now,
            told: before.filter(|_| told).map_or(now, |a| a.told),
        };
        known.alarms.insert(label, alarm);
        if !told {
            self.tell(vm, note.clone());
        }
        note
    }

    /// What other relationships know of a host that this one knows no key of: it has to be a key of one of them, if any knows
    /// the host. The relationship that contradicts, and which of its hosts.
    fn contradiction(
        &self,
        vm: Option<VmId>,
        called: Option<&str>,
        shown: &PeerIdentity,
    ) -> Option<(VmId, usize)> {
        let mut other = None;
        for (of, known) in self.known.iter().filter(|(of, _)| vm != Some(**of)) {
            match known.verdict(called, shown) {
                Verdict::Fits(_) => return None,
                Verdict::Other(at) => other = Some((*of, at)),
                Verdict::First | Verdict::Stranger => {}
            }
        }
        other
    }

    /// The same as a judgement.
    fn judge_by_others(
        &mut self,
        host: &str,
        vm: Option<VmId>,
        called: Option<&str>,
        shown: &PeerIdentity,
    ) -> Result<(), OtherKey> {
        match self.contradiction(vm, called, shown) {
            Some((of, at)) => Err(OtherKey(self.alarm(host, of, at, shown))),
            None => Ok(()),
        }
    }
}

/// No key of a caller is known for the VM, so that nothing vouches for another one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no key of the caller is known for this VM")]
pub(crate) struct UnknownCaller;

/// The link asks whom this host may talk to.
pub(crate) struct Judge {
    pub(crate) pins: std::sync::Arc<Pins>,
    pub(crate) clock: std::sync::Arc<dyn crate::port::Clock>,
}

impl KeyJudge for Judge {
    fn judge(&self, peer: &str, vm: Option<VmId>, shown: &PeerIdentity) -> Result<(), OtherKey> {
        self.pins.judge(vm, Some(peer), shown, self.clock.now())
    }

    fn fits(&self, peer: &str, vm: Option<VmId>, shown: &PeerIdentity) -> bool {
        self.pins.fits(vm, peer, shown)
    }
}

#[cfg(test)]
mod tests;
