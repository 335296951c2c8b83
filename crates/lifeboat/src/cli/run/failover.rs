//! Carries out `lifeboat failover`.

use lifeboat_engine::action::{Action, PointSelector};
use lifeboat_model::power::PowerState;
use lifeboat_model::shell::{argument, quoted};
use lifeboat_model::{NicFailover, NicSpec, ReplicationMode};

use super::{Cx, Done, name, named, replicated};
use crate::cli::args::{Failover, Network, SetCard, Start, Wait};
use crate::cli::exit::{Exit, Failure};
use crate::cli::{show, units};

pub(super) async fn run(cx: &Cx<'_>, command: &Failover) -> Done {
    match command {
        Failover::Start(start) if start.planned => planned(cx, start).await,
        Failover::Start(start) if start.test => test(cx, start).await,
        Failover::Start(start) => {
            let vm = &start.vm;
            let action = Action::InitiateFailover {
                vm: name(vm),
                point: point(cx, start, "bringing")?,
                start: !start.no_start,
                force: start.force,
            };
            let it = argument(vm);
            let done =
                format!("look at it, then: lifeboat failover commit {it}, or lifeboat failover revert {it}");
            cx.act(action, start.wait, &done).await
        }
        Failover::Revert { vm, force, wait } => {
            let action = Action::RevertFailover {
                vm: name(vm),
                force: *force,
            };
            let done = format!("every recovery point of {vm} is as it was");
            cx.act(action, *wait, &done).await
        }
        Failover::Commit(t) => {
            // Committing leaves the power as it is: the user has to know that nothing runs.
            let done = match cx.vm(&t.vm).await?.power {
                PowerState::Off => format!(
                    "{} lives on this host now, and is off; start it with: lifeboat vm start {}",
                    t.vm,
                    argument(&t.vm)
                ),
                PowerState::Running | PowerState::Paused | PowerState::Stalled | PowerState::Unknown => {
                    format!("{} lives on this host now", t.vm)
                }
            };
            cx.act(Action::CommitFailover { vm: name(&t.vm) }, t.wait, &done)
                .await
        }
        Failover::Plain(command) => cx.plain(command.plain()).await,
        Failover::Cancel { vm, force, wait } => {
            let action = Action::CancelPlanned {
                vm: name(vm),
                force: *force,
            };
            let done = format!(
                "the planned failover of {vm} is cancelled; {vm} may be started here: lifeboat vm start {}",
                argument(vm)
            );
            cx.act(action, *wait, &done).await
        }
        Failover::Network { vm, command } => network(cx, vm, command.as_ref()).await,
    }
}

fn point(cx: &Cx<'_>, start: &Start, doing: &str) -> Result<PointSelector, Failure> {
    match (&start.point, &start.at) {
        (Some(id), _) => Ok(PointSelector::Id(id.clone())),
        (None, Some(text)) => {
            let at = cx.time(text, units::past)?;
            eprintln!(
                "{doing} {} up as it was at {} or just before",
                start.vm,
                units::instant(at, &cx.zone)
            );
            Ok(PointSelector::At(at))
        }
        (None, None) => Ok(PointSelector::Latest),
    }
}

async fn test(cx: &Cx<'_>, start: &Start) -> Done {
    let vm = &start.vm;
    let action = Action::StartTest {
        vm: name(vm),
        point: point(cx, start, "bringing a test of")?,
        start: start.start,
    };
    let exit = cx.act(action, start.wait, "").await?;
    if exit == Exit::Done && !start.wait.detach {
        // The test VM has a name of its own, which follows from the replica's and not from how that was named here.
        let replication = cx.vm(vm).await?.replication;
        if let Some(made) = replication.and_then(|r| r.test) {
            let uuid = made.vm.to_string();
            let name = cx.vm(&uuid).await.map_or(uuid, |v| v.spec.name);
            let then = if start.start {
                String::new()
            } else {
                format!("start it with: lifeboat vm start {}; ", argument(&name))
            };
            let end = argument(vm);
            eprintln!("\"{name}\" is there; {then}end the test with: lifeboat failover stop-test {end}");
        }
    }
    Ok(exit)
}

async fn planned(cx: &Cx<'_>, start: &Start) -> Done {
    let vm = &start.vm;
    let view = cx.vm(vm).await?;
    let off = if start.no_start { ", is off" } else { "" };
    let it = quoted(vm);
    let done = match &view.replication {
        _ if start.prepare => format!(
            "everything of {vm} is on the replica, and {vm} is locked off here; go on with: lifeboat failover start {it} \
             --planned, or back with: lifeboat failover cancel {it}"
        ),
        Some(r) if r.mode != ReplicationMode::Primary => format!(
            "{vm} lives here now{off}, and is replicated to {}; see: lifeboat replication status {it}",
            r.peer
        ),
        Some(r) => format!(
            "{vm} lives on {} now{off}, and is replicated back; see: lifeboat replication status {it}",
            r.peer
        ),
        None => String::new(),
    };
    let action = Action::PlannedFailover {
        vm: name(vm),
        force: start.force,
        prepare_only: start.prepare,
        start: !start.no_start,
    };
    cx.act(action, start.wait, &done).await
}

async fn network(cx: &Cx<'_>, vm: &str, command: Option<&Network>) -> Done {
    let view = cx.vm(vm).await?;
    let mut cards = replicated(&view)?.network.clone();
    let done = match command {
        None | Some(Network::Show) => return cx.print(&cards, || show::cards(&view.spec.nics, &cards)),
        Some(Network::Set(set)) => {
            named(&set.changes, &format!("failover network {} set", quoted(vm)))?;
            change(&mut cards, &view.spec.nics, vm, set)?;
            format!("see it with: lifeboat failover network {}", argument(vm))
        }
        Some(Network::Clear { mac: None }) => {
            cards.clear();
            format!("the network cards of {vm} have no settings for a failover")
        }
        Some(Network::Clear { mac: Some(mac) }) => {
            cards.retain(|c| !c.mac.eq_ignore_ascii_case(mac));
            format!("card {mac} of {vm} has no settings for a failover")
        }
    };
    let action = Action::SetFailoverNetwork { vm: name(vm), cards };
    let wait = Wait {
        detach: false,
        follow: true,
    };
    cx.act(action, wait, &done).await
}

/// Changes the entry of one card, or makes it. Addresses and DHCP exclude each other: the one that is named wins.
fn change(cards: &mut Vec<NicFailover>, nics: &[NicSpec], vm: &str, set: &SetCard) -> Result<(), Failure> {
    let mac = match (&set.mac, nics) {
        // As the description writes it, if it is there; if not, the engine says so.
        (Some(mac), _) => nics
            .iter()
            .find(|n| n.mac.eq_ignore_ascii_case(mac))
            .map_or(mac, |n| &n.mac),
        (None, [only]) => &only.mac,
        (None, []) => {
            return Err(Failure::new(
                Exit::Failed,
                format!("{vm} has no network card"),
                "",
            ));
        }
        (None, several) => {
            let macs: Vec<&str> = several.iter().map(|n| n.mac.as_str()).collect();
            return Err(Failure::new(
                Exit::Usage,
                format!("{vm} has {} network cards", macs.len()),
                format!("name one with --mac: {}", macs.join(", ")),
            ));
        }
    };
    let at = cards.iter().position(|c| c.mac.eq_ignore_ascii_case(mac));
    let at = at.unwrap_or_else(|| {
        cards.push(NicFailover {
            mac: mac.clone(),
            ..NicFailover::default()
        });
        cards.len() - 1
    });
    let (card, c) = (&mut cards[at], &set.changes);
    if c.dhcp {
        (card.dhcp, card.addresses, card.gateways) = (true, Vec::new(), Vec::new());
    }
    if !c.address.is_empty() {
        (card.dhcp, card.addresses) = (false, c.address.clone());
    }
    if !c.gateway.is_empty() {
        card.gateways.clone_from(&c.gateway);
    }
    if !c.dns.is_empty() {
        card.dns.clone_from(&c.dns);
    }
    if let Some(backend) = &c.connect {
        card.backend = Some(backend.clone());
    }
    if let Some(backend) = &c.test_connect {
        card.test_backend = Some(backend.clone());
    }
    Ok(())
}
