//! What actions take away for good, in the state that things are in: data, recovery points, or the promise that points are kept.
//! Pure functions. What each action may take away at all, its facts say; what follows from the answer is `requests`'.

use crate::contract::{Action, RelationshipRef, Taking};
use crate::port::catalog::CatalogImage;
use crate::record::{OutgoingRelationship, Relationship, Side};
use lifeboat_model::{AuthorizationEntry, RelationshipId, ReplicationSettings, VmId};
use std::time::Duration;

/// What an action takes away now, in words; `None`: nothing. The VM is the one it is about, with its name.
pub(crate) fn what(action: &Action, vm: Option<(VmId, &str)>, now: &CatalogImage) -> Option<String> {
    let name = vm.map_or("", |(_, name)| name);
    let rel = vm.and_then(|(id, _)| now.relationships.iter().find(|r| r.vm == id && r.index == 0));
    let of = |less: Vec<String>, what: &str, name: &str| {
        (!less.is_empty()).then(|| format!("{what} \"{name}\": {}", less.join(", ")))
    };
    match action.facts().taking {
        Taking::Nothing => None,
        Taking::Always(what) => Some(format!("{what} \"{name}\"")),
        Taking::Outgoing(relationship) => {
            let to = rel.map(|rel| meant(rel, relationship)).unwrap_or_default();
            let peers: Vec<&str> = to.iter().map(|one| one.settings.peer.as_str()).collect();
            let to = if peers.is_empty() {
                String::from(relationship.clone())
            } else {
                peers.join(", ")
            };
            Some(format!("removal of the replication to {to} of \"{name}\""))
        }
        Taking::Settings(new, relationship) => {
            let less = agreed(rel?, relationship)
                .into_iter()
                .flat_map(|old| fewer(old, new));
            of(less.collect(), "less history of", name)
        }
        Taking::Entry(new) => {
            let before = now.entries.iter().filter(|e| e.same_primary(&new.primary));
            let less = before.flat_map(|before| weaker(before, new)).collect();
            of(less, "less protection by the authorization entry", &new.primary)
        }
        Taking::EntryRemoved(primary) => {
            let there = now.entries.iter().any(|e| e.same_primary(primary));
            there.then(|| format!("removal of the authorization entry \"{primary}\""))
        }
        Taking::Binding(primary) => {
            let rel = rel?;
            let bound = rel.replica()?.allowed.as_deref();
            let kept = |bound| kept_at_least(&now.entries, &rel.peer, bound);
            let (before, after) = (kept(bound), kept(Some(primary)));
            let less = (after < before).then(|| {
                format!(
                    "points are kept for {} s instead of {} s",
                    after.as_secs(),
                    before.as_secs()
                )
            });
            of(less.into_iter().collect(), "less protection of the replica", name)
        }
    }
}

/// The outgoing relationships that may be meant. Which one it is the VM's actor says; until then all that fit count.
fn meant<'r>(rel: &'r Relationship, of: &RelationshipRef) -> Vec<&'r OutgoingRelationship> {
    let fits = |one: &&OutgoingRelationship| match of {
        RelationshipRef::Usual | RelationshipRef::Outgoing => true,
        RelationshipRef::Id(id) => one.id == *id,
        RelationshipRef::Peer(peer) => one.is_to(peer),
    };
    rel.outgoing().iter().filter(fits).collect()
}

/// The settings that `ModifyReplication` changes: on a replica those of an outgoing relationship.
fn agreed<'r>(rel: &'r Relationship, of: &RelationshipRef) -> Vec<&'r ReplicationSettings> {
    match &rel.side {
        Side::Replica(_) => meant(rel, of).into_iter().map(|one| &one.settings).collect(),
        Side::Primary(_) | Side::Test { .. } | Side::Alone => vec![&rel.settings],
    }
}

/// In what the new settings keep less than the old ones.
fn fewer(old: &ReplicationSettings, new: &ReplicationSettings) -> Vec<String> {
    let mut less = Vec::new();
    let mut lower = |what: &str, old: u32, new: u32| {
        if new < old {
            less.push(format!("{what} {new} instead of {old}"));
        }
    };
    lower("recovery points", old.history.into(), new.history.into());
    // So many points reach back so far only as they are apart.
    lower("seconds between recovery points", apart(old), apart(new));
    lower(
        "seconds of the any-point window",
        old.any_point_window_s,
        new.any_point_window_s,
    );
    let gone = old
        .disks
        .iter()
        .filter(|d| !new.disks.is_empty() && !new.disks.contains(d));
    less.extend(gone.map(|d| format!("without the disk {}", d.as_str())));
    less
}

/// Seconds between two points at least: application-consistent instants become points whatever the spacing is.
fn apart(settings: &ReplicationSettings) -> u32 {
    match settings.application_h {
        0 => settings.point_spacing_s,
        hours => settings.point_spacing_s.min(u32::from(hours) * 3600),
    }
}

/// In what an entry promises less than the one it replaces.
fn weaker(old: &AuthorizationEntry, new: &AuthorizationEntry) -> Vec<String> {
    let mut less = Vec::new();
    if new.keep_at_least_s < old.keep_at_least_s {
        let (new, old) = (new.keep_at_least_s, old.keep_at_least_s);
        less.push(format!("points are kept for {new} s instead of {old} s"));
    }
    if new.locked_until < old.locked_until {
        less.push("it is locked for a shorter time".to_owned());
    }
    less
}

/// How long points of this primary's replicas are kept whatever it asks for, by these entries: the longest of all that speak of
/// it, and of the one that the replica is bound to.
pub(crate) fn kept_at_least(
    entries: &[AuthorizationEntry],
    primary: &str,
    bound_to: Option<&str>,
) -> Duration {
    let speaks =
        |e: &&AuthorizationEntry| e.covers(primary) || bound_to.is_some_and(|key| e.same_primary(key));
    let longest = entries.iter().filter(speaks).map(|e| e.keep_at_least_s).max();
    Duration::from_secs(longest.unwrap_or(0).into())
}

/// The same action about the VM with just this id, and about the relationship to just that host: names, and what there is one of,
/// may lead elsewhere until it is confirmed. By way of the form in which it is recorded, in which each action about a VM names it
/// in the same place.
pub(crate) fn named_exactly(
    action: &Action,
    exact: VmId,
    now: &CatalogImage,
) -> Result<Action, serde_json::Error> {
    let mut written = serde_json::to_value(action)?;
    if let Some(vm) = written.get_mut("vm") {
        *vm = exact.to_string().into();
    }
    let mut action = serde_json::from_value(written)?;
    let rel = now.relationships.iter().find(|r| r.vm == exact && r.index == 0);
    if let Some(rel) = rel {
        name_relationship(&mut action, rel);
    }
    Ok(action)
}

fn name_relationship(action: &mut Action, rel: &Relationship) {
    let relationship = match action {
        Action::RemoveReplication { relationship, .. } if !relationship.is_usual() => relationship,
        Action::ModifyReplication { relationship, .. } => relationship,
        _ => return,
    };
    if *relationship == RelationshipRef::Id(RelationshipId::OWN) {
        *relationship = RelationshipRef::Usual;
    } else if let [one] = meant(rel, relationship).as_slice() {
        *relationship = RelationshipRef::Peer(one.settings.peer.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_model::{DiskId, Timestamp};

    fn settings() -> ReplicationSettings {
        ReplicationSettings {
            peer: "b:7000".into(),
            interval_s: 10,
            history: 24,
            point_spacing_s: 4 * 3600,
            any_point_window_s: 3600,
            disks: vec![DiskId::new("sys").unwrap(), DiskId::new("data").unwrap()],
            compression: true,
            application_h: 6,
            auto_resync: None,
            bandwidth: Default::default(),
        }
    }

    #[test]
    fn less_history_is_found_in_every_setting_that_keeps_some() {
        type Change = fn(&mut ReplicationSettings);
        let cases: [(Change, &str); 12] = [
            (|_| {}, ""),
            (|s| s.history = 23, "recovery points 23 instead of 24"),
            (
                |s| s.any_point_window_s = 0,
                "seconds of the any-point window 0 instead of 3600",
            ),
            (
                |s| s.point_spacing_s = 3600,
                "seconds between recovery points 3600 instead of 14400",
            ),
            // More often than the spacing: the same points reach back less far.
            (
                |s| s.application_h = 1,
                "seconds between recovery points 3600 instead of 14400",
            ),
            (|s| s.application_h = 5, ""),
            (|s| s.application_h = 0, ""),
            (|s| drop(s.disks.pop()), "without the disk data"),
            // All disks that are replicated now.
            (|s| s.disks.clear(), ""),
            (|s| s.point_spacing_s = 86_400, ""),
            (|s| (s.interval_s, s.compression) = (900, false), ""),
            (|s| (s.history, s.any_point_window_s) = (24, 604_800), ""),
        ];
        for (change, want) in cases {
            let mut new = settings();
            change(&mut new);
            assert_eq!(fewer(&settings(), &new).join("; "), want);
        }
    }

    #[test]
    fn an_entry_may_promise_more_and_not_less() {
        let entry = |keep, locked: Option<u64>| AuthorizationEntry {
            primary: "a.example.org".into(),
            storage_location: "/replicas".into(),
            trust_group: "g".into(),
            allow_start: false,
            keep_at_least_s: keep,
            locked_until: locked.map(Timestamp),
            quota: Default::default(),
        };
        let now = CatalogImage {
            entries: vec![entry(100, Some(7))],
            ..CatalogImage::default()
        };
        for (keep, locked, waits) in [
            (100, Some(7), false),
            (101, Some(8), false),
            (99, Some(7), true),
            (100, Some(6), true),
            (100, None, true),
        ] {
            let entry = entry(keep, locked);
            let found = what(&Action::AddAuthorization { entry }, None, &now);
            assert_eq!(found.is_some(), waits, "{keep} {locked:?}: {found:?}");
        }
        let removal = |primary: &str| Action::RemoveAuthorization {
            primary: primary.into(),
        };
        // Whatever the name's case, and the dot at its end.
        assert!(what(&removal("A.example.org."), None, &now).is_some());
        assert!(what(&removal("b.example.org"), None, &now).is_none());
    }
}
