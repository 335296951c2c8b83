//! Carries out `lifeboat authorization`.

use lifeboat_engine::action::Action;
use lifeboat_engine::paging::Paging;
use lifeboat_engine::query::Query;
use lifeboat_model::AuthorizationEntry;
use lifeboat_model::quota::Quota;

use super::{Cx, Done};
use crate::cli::args::{Authorization, EntryChanges, Switch, Wait};
use crate::cli::exit::{Exit, Failure};
use crate::cli::{show, units};

pub(super) async fn run(cx: &Cx<'_>, command: &Authorization) -> Done {
    let wait = Wait {
        detach: false,
        follow: true,
    };
    match command {
        Authorization::Add { primary, changes } => {
            let known = entries(cx).await?.into_iter().find(|e| e.same_primary(primary));
            let entry = changed(cx, primary, changes, known)?;
            let done = format!(
                "{primary} may replicate to this host, into {}",
                entry.storage_location
            );
            cx.act(Action::AddAuthorization { entry }, wait, &done).await
        }
        Authorization::List => {
            let entries = entries(cx).await?;
            cx.print(&entries, || show::entries(&entries, &cx.zone))
        }
        Authorization::Remove { primary } => {
            let done = format!("{primary} may no longer replicate to this host; its replicas stay");
            let primary = primary.clone();
            cx.act(Action::RemoveAuthorization { primary }, wait, &done).await
        }
    }
}

async fn entries(cx: &Cx<'_>) -> Result<Vec<AuthorizationEntry>, Failure> {
    cx.list(Query::list_authorization(Paging::FIRST)).await
}

/// The entry as it is to be: what is not named stays as it is in the known one. Nothing that protects points is given up
/// because the directory was changed.
fn changed(
    cx: &Cx<'_>,
    primary: &str,
    changes: &EntryChanges,
    known: Option<AuthorizationEntry>,
) -> Result<AuthorizationEntry, Failure> {
    let mut entry = match (known, &changes.location) {
        (Some(known), _) => known,
        (None, Some(location)) => AuthorizationEntry {
            primary: primary.to_owned(),
            storage_location: location.to_string(),
            trust_group: primary.to_owned(),
            allow_start: false,
            keep_at_least_s: 0,
            locked_until: None,
            quota: Quota::default(),
        },
        (None, None) => {
            return Err(Failure::new(
                Exit::Usage,
                format!("there is no entry for {primary} yet"),
                "name the directory for its replicas: --location DIR",
            ));
        }
    };
    if let Some(location) = &changes.location {
        entry.storage_location = location.to_string();
    }
    if let Some(group) = &changes.trust_group {
        entry.trust_group.clone_from(group);
    }
    if let Some(switch) = changes.allow_start {
        entry.allow_start = switch == Switch::On;
    }
    if let Some(time) = changes.keep_at_least {
        entry.keep_at_least_s = time;
    }
    if let Some(until) = &changes.locked_until {
        entry.locked_until = Some(cx.time(until, units::future)?);
    }
    let quota = &mut entry.quota;
    if let Some(vms) = changes.max_vms {
        quota.vms = vms;
    }
    if let Some(size) = changes.max_bytes {
        quota.bytes = size.0;
    }
    if let Some(size) = changes.max_disk {
        quota.disk_bytes = size.0;
    }
    if let Some(points) = changes.max_points {
        quota.points = Some(points);
    }
    Ok(entry)
}
