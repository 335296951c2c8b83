//! Carries out `lifeboat replication`. Settings are whole documents: what changes them reads, changes, and writes.

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_engine::action::{Action, CycleResult, InitialCopy, RelationshipRef, ReplicationView, VmView};
use lifeboat_engine::query::Query;
use lifeboat_model::shell::{argument, quoted};
use lifeboat_model::{Bandwidth, ReplicationMode, ReplicationSettings, ReplicationState};

use super::{Cx, Done, Output, change_bandwidth, name, named, replicated};
use crate::cli::args::{
    Changes, Copy, Enable, Extend, Outgoing, Remove, Replication, Resync, Reverse, Side, Switch, TrustKey,
    Wait,
};
use crate::cli::exit::{Exit, Failure};
use crate::cli::{show, units};

pub(super) async fn run(cx: &Cx<'_>, command: &Replication) -> Done {
    match command {
        Replication::Enable(enable) => {
            let done = format!(
                "{} is set up for replication to {}; start it with: lifeboat replication start {}",
                enable.vm,
                enable.to,
                argument(&enable.vm)
            );
            cx.act(enable_action(enable), enable.wait, &done).await
        }
        Replication::Set {
            vm,
            changes,
            outgoing,
            wait,
        } => set(cx, vm, changes, outgoing, *wait).await,
        Replication::Start(copy) => start(cx, copy).await,
        Replication::Import { vm, dir, wait } => {
            let dir = absolute(dir)?.into_string();
            let done = format!("{vm} is replicating: the copy is complete");
            cx.act(Action::ImportCopy { vm: name(vm), dir }, *wait, &done)
                .await
        }
        Replication::Status { vm: None } => {
            let mut vms = cx.vms().await?;
            vms.retain(|v| v.replication.is_some());
            cx.print(&vms, || show::status(&vms, &cx.zone))
        }
        Replication::Status { vm: Some(vm) } => {
            let view = cx.vm(vm).await?;
            let names = cx.names().await?;
            cx.print(&view, || show::replication(&view, &names, &cx.zone))
        }
        Replication::Resync(resync) => resynchronize(cx, resync).await,
        Replication::Reverse(reverse) => turn_round(cx, reverse).await,
        Replication::Statistics { vm } => {
            let view = cx.vm(vm).await?;
            let names = cx.names().await?;
            cx.print(&view, || show::statistics(&view, &names, &cx.zone))
        }
        Replication::Extend(extend) => self::extend(cx, extend).await,
        Replication::ResetStatistics(side) => reset_statistics(cx, side).await,
        Replication::Allow { vm, primary, wait } => {
            let action = Action::SetAuthorization {
                vm: name(vm),
                primary: primary.clone(),
            };
            let done = format!("{vm} takes data only from primaries that the entry {primary} covers");
            cx.act(action, *wait, &done).await
        }
        Replication::TrustKey(trusted) => trust_key(cx, trusted).await,
        Replication::CancelCopy(side) => cancel_copy(cx, side).await,
        Replication::Suspend(side) => suspend(cx, side).await,
        Replication::Resume(side) => resume(cx, side).await,
        Replication::Remove(r) => remove(cx, r).await,
        Replication::Now(t) => now(cx, &t.vm).await,
        Replication::Continue(side) => go_on(cx, side).await,
        Replication::Plain(command) => cx.plain(command.plain()).await,
    }
}

async fn reset_statistics(cx: &Cx<'_>, s: &Side) -> Done {
    let action = Action::ResetStatistics {
        vm: name(&s.target.vm),
        relationship: s.outgoing.relationship(),
    };
    let done = format!("a new window of statistics of {} begins now", s.target.vm);
    cx.act(action, s.target.wait, &done).await
}

async fn go_on(cx: &Cx<'_>, s: &Side) -> Done {
    let action = Action::ContinueAsPrimary {
        vm: name(&s.target.vm),
        relationship: s.outgoing.relationship(),
    };
    let done = format!("{} lives on this host, which is its primary now", s.target.vm);
    cx.act(action, s.target.wait, &done).await
}

async fn trust_key(cx: &Cx<'_>, trusted: &TrustKey) -> Done {
    let TrustKey { host, key, vm, wait } = trusted;
    let action = Action::TrustKey {
        vm: vm.as_deref().map(name),
        host: host.clone(),
        key: *key,
    };
    let done = format!("{host} is accepted with the key {key}; its old key is, too, until it uses this one");
    cx.act(action, *wait, &done).await
}

async fn extend(cx: &Cx<'_>, extend: &Extend) -> Done {
    let done = if extend.no_start {
        format!(
            "{} is set up to go on to {}; start it with: lifeboat replication start {}",
            extend.vm,
            extend.to,
            argument(&extend.vm)
        )
    } else {
        format!("what arrives here of {} goes on to {}", extend.vm, extend.to)
    };
    cx.act(extend_action(extend), extend.wait, &done).await
}

async fn cancel_copy(cx: &Cx<'_>, s: &Side) -> Done {
    let action = Action::CancelInitialCopy {
        vm: name(&s.target.vm),
        relationship: s.outgoing.relationship(),
    };
    let (vm, to, option) = (&s.target.vm, s.outgoing.to(), s.outgoing.option());
    let done = format!(
        "the initial copy of {vm}{to} is given up; start it again with: lifeboat replication start {}{option}",
        argument(vm)
    );
    cx.act(action, s.target.wait, &done).await
}

async fn suspend(cx: &Cx<'_>, s: &Side) -> Done {
    let action = Action::SuspendReplication {
        vm: name(&s.target.vm),
        relationship: s.outgoing.relationship(),
    };
    cx.act(action, s.target.wait, &paused(s)).await
}

async fn resume(cx: &Cx<'_>, s: &Side) -> Done {
    let action = Action::ResumeReplication {
        vm: name(&s.target.vm),
        relationship: s.outgoing.relationship(),
    };
    let done = format!("replication of {}{} is resumed", s.target.vm, s.outgoing.to());
    cx.act(action, s.target.wait, &done).await
}

async fn remove(cx: &Cx<'_>, r: &Remove) -> Done {
    let vm = name(&r.side.target.vm);
    let relationship = r.side.outgoing.relationship();
    if !relationship.is_usual() {
        let (vm_name, to) = (&r.side.target.vm, r.side.outgoing.to());
        let done = format!("{vm_name} is no longer sent{to}, which was not notified and keeps what it has");
        let action = Action::RemoveReplication { vm, relationship };
        return cx.act(action, r.side.target.wait, &done).await;
    }
    // What becomes of the files is only known before: afterwards there is no record of them.
    let done = removed(&r.side.target.vm, cx.vm(&r.side.target.vm).await.ok().as_ref());
    let action = if r.force {
        Action::ForgetReplication { vm }
    } else {
        Action::RemoveReplication { vm, relationship }
    };
    cx.act(action, r.side.target.wait, &done).await
}

fn paused(side: &Side) -> String {
    let vm = &side.target.vm;
    let (to, option) = (side.outgoing.to(), side.outgoing.option());
    let it = quoted(vm);
    format!("replication of {vm}{to} is paused; resume it with: lifeboat replication resume {it}{option}")
}

/// What is left after the end of a relationship, on both hosts.
fn removed(vm: &str, view: Option<&VmView>) -> String {
    let ended = format!("{vm} is no longer replicated by this host; the other host was not notified");
    let replication = view.and_then(|v| v.replication.as_ref());
    let files = replication.map(|r| (r.mode, r.state, r.dir.as_deref()));
    match files {
        Some((ReplicationMode::Primary, _, _)) => {
            format!("{ended} and keeps its copy; the VM's disks here are untouched")
        }
        Some((ReplicationMode::Replica | ReplicationMode::ExtendedReplica, state, Some(dir)))
            if state != ReplicationState::WaitingToCompleteInitialReplication =>
        {
            format!("{ended}; what was received is kept in {dir}")
        }
        Some(_) | None => ended,
    }
}

/// Has a cycle made and says what came of it.
async fn now(cx: &Cx<'_>, vm: &str) -> Done {
    let result = cx.query(Query::replicate_now(name(vm))).await?;
    let said = match &result {
        CycleResult::Sent { bytes, instant, .. } => format!(
            "{vm} was replicated: {} were sent, the replica holds {}",
            units::size(*bytes),
            units::instant(*instant, &cx.zone)
        ),
        CycleResult::Unchanged { verified } => format!(
            "nothing changed: {vm} is off, and at {} its images were what was last sent",
            units::instant(*verified, &cx.zone)
        ),
    };
    eprintln!("{said}");
    if cx.output == Output::Json {
        cx.print(&result, String::new)?;
    }
    Ok(Exit::Done)
}

/// The disks are those of the replica, and what is sent is as it arrived: neither can be asked for.
fn extend_action(extend: &Extend) -> Action {
    let mut limit = Bandwidth::default();
    change_bandwidth(&mut limit, Some(extend.bandwidth), &extend.bandwidth_windows);
    Action::ExtendReplication {
        vm: name(&extend.vm),
        settings: ReplicationSettings {
            peer: extend.to.clone(),
            interval_s: extend.interval,
            history: extend.history,
            point_spacing_s: extend.point_spacing,
            any_point_window_s: extend.any_point,
            disks: Vec::new(),
            compression: true,
            application_h: 0,
            auto_resync: None,
            bandwidth: limit,
        },
        start: !extend.no_start,
    }
}

fn enable_action(enable: &Enable) -> Action {
    let mut limit = Bandwidth::default();
    change_bandwidth(&mut limit, Some(enable.bandwidth), &enable.bandwidth_windows);
    Action::EnableReplication {
        vm: name(&enable.vm),
        settings: ReplicationSettings {
            peer: enable.to.clone(),
            interval_s: enable.interval,
            history: enable.history,
            point_spacing_s: enable.point_spacing,
            any_point_window_s: enable.any_point,
            disks: enable.disks.clone(),
            compression: !enable.no_compression,
            application_h: enable.application_consistent,
            auto_resync: enable.auto_resync.0,
            bandwidth: limit,
        },
    }
}

async fn set(cx: &Cx<'_>, vm: &str, changes: &Changes, outgoing: &Outgoing, wait: Wait) -> Done {
    named(changes, "replication set")?;
    let view = cx.vm(vm).await?;
    let replication = replicated(&view)?;
    let (relationship, mut settings) = to_change(replication, &outgoing.relationship());
    change(&mut settings, changes);
    let it = argument(vm);
    let done = format!("settings of {vm} are changed; see them with: lifeboat replication status {it}");
    let action = Action::ModifyReplication {
        vm: name(vm),
        settings,
        relationship,
    };
    cx.act(action, wait, &done).await
}

/// The relationship whose settings are changed, and what they are. A replica's own settings are its primary's, and what cannot be
/// found is left to the daemon to refuse.
fn to_change(replication: &ReplicationView, of: &RelationshipRef) -> (RelationshipRef, ReplicationSettings) {
    let outgoing: Vec<_> = replication.outgoing().collect();
    let found = match of {
        RelationshipRef::Usual | RelationshipRef::Outgoing => {
            outgoing.first().filter(|_| outgoing.len() == 1)
        }
        RelationshipRef::Id(id) => outgoing.iter().find(|e| e.relationship == *id),
        RelationshipRef::Peer(peer) => outgoing
            .iter()
            .find(|e| e.peer == *peer || e.peer.rsplit_once(':').is_some_and(|(host, _)| host == peer)),
    };
    match found {
        // What was read is what is changed, whatever happens in between.
        Some(e) => (RelationshipRef::Peer(e.peer.clone()), e.settings.clone()),
        None => (of.clone(), replication.settings.clone()),
    }
}

fn change(settings: &mut ReplicationSettings, changes: &Changes) {
    let Changes {
        to,
        interval,
        history,
        point_spacing,
        any_point,
        disks,
        compression,
        application_consistent,
        auto_resync,
        bandwidth,
        bandwidth_windows,
    } = changes;
    if let Some(peer) = to {
        settings.peer.clone_from(peer);
    }
    settings.interval_s = interval.unwrap_or(settings.interval_s);
    settings.history = history.unwrap_or(settings.history);
    settings.point_spacing_s = point_spacing.unwrap_or(settings.point_spacing_s);
    settings.any_point_window_s = any_point.unwrap_or(settings.any_point_window_s);
    if !disks.is_empty() {
        settings.disks.clone_from(disks);
    }
    if let Some(compression) = compression {
        settings.compression = *compression == Switch::On;
    }
    settings.application_h = application_consistent.unwrap_or(settings.application_h);
    if let Some(window) = auto_resync {
        settings.auto_resync = window.0;
    }
    change_bandwidth(&mut settings.bandwidth, *bandwidth, bandwidth_windows);
}

async fn start(cx: &Cx<'_>, copy: &Copy) -> Done {
    let vm = &copy.vm;
    let at = copy.at.as_ref().map(|t| cx.time(t, units::future)).transpose()?;
    let (how, done) = match &copy.export {
        Some(dir) => {
            let dir = absolute(dir)?.into_string();
            let it = quoted(vm);
            let done = format!(
                "carry {dir} to the replica host, and there: lifeboat replication import {it} DIR; what changes from now on is sent already and kept there"
            );
            (InitialCopy::Export { dir }, done)
        }
        None if copy.seed => (InitialCopy::Seed, format!("{vm} is replicating")),
        None => (InitialCopy::Network, format!("{vm} is replicating")),
    };
    let done = match at {
        Some(at) => format!(
            "the initial copy of {vm} begins at {}",
            units::instant(at, &cx.zone)
        ),
        None => done,
    };
    let action = Action::StartReplication {
        vm: name(vm),
        how,
        at,
        relationship: copy.outgoing.relationship(),
    };
    cx.act(action, later(copy.wait, at.is_some()), &done).await
}

async fn resynchronize(cx: &Cx<'_>, resync: &Resync) -> Done {
    let vm = &resync.vm;
    let relationship = resync.outgoing.relationship();
    if resync.cancel {
        let done = format!(
            "the resynchronization of {vm} is given up, and still required: lifeboat replication resync {}",
            argument(vm)
        );
        let action = Action::CancelResync {
            vm: name(vm),
            relationship,
        };
        return cx.act(action, resync.wait, &done).await;
    }
    let at = resync
        .at
        .as_ref()
        .map(|t| cx.time(t, units::future))
        .transpose()?;
    let done = match at {
        Some(at) => format!(
            "the resynchronization of {vm} begins at {}",
            units::instant(at, &cx.zone)
        ),
        None => format!("both copies of {vm} are equal again"),
    };
    let action = Action::Resynchronize {
        vm: name(vm),
        at,
        relationship,
    };
    cx.act(action, later(resync.wait, at.is_some()), &done).await
}

/// A command does not wait for tomorrow, unless asked to.
fn later(wait: Wait, scheduled: bool) -> Wait {
    Wait {
        detach: wait.detach || scheduled && !wait.follow,
        ..wait
    }
}

async fn turn_round(cx: &Cx<'_>, reverse: &Reverse) -> Done {
    let vm = &reverse.vm;
    let settings = match &reverse.peer {
        Some(peer) => Some(ReplicationSettings {
            peer: peer.clone(),
            ..replicated(&cx.vm(vm).await?)?.settings.clone()
        }),
        None => None,
    };
    let done = format!("{vm} is replicated from this host now");
    let action = Action::ReverseReplication {
        vm: name(vm),
        settings,
    };
    cx.act(action, reverse.wait, &done).await
}

/// The daemon does not know the directory this command was typed in.
fn absolute(dir: &Utf8Path) -> Result<Utf8PathBuf, Failure> {
    let path = camino::absolute_utf8(dir);
    path.map_err(|e| Failure::new(Exit::Usage, format!("{dir}: {e}"), "write an absolute path"))
}
