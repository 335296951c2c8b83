//! `docs/states.md` and the state machine say the same: its tables are compared, letter by letter, with what
//! `lifecycle::step` answers. Whether the answers are right is tested in the crate, not here.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like the tests")]

use std::collections::BTreeMap;
use std::fmt::Write;

use lifeboat_model::lifecycle::{Event, may_start, step};
use lifeboat_model::{ReplicationMode as Mode, ReplicationState as State};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/states.md");

/// Every event. Where a state comes back from a payload, two tellings-apart values are tried for it.
fn events() -> Vec<(&'static str, Vec<Event>)> {
    let both = |event: fn(State) -> Event| vec![event(State::Replicating), event(State::Suspended)];
    vec![
        ("create", vec![Event::Create]),
        ("start copy", vec![Event::StartCopy]),
        ("cancel copy", vec![Event::CancelCopy]),
        ("copy finished", vec![Event::CopyFinished]),
        ("suspend", vec![Event::Suspend]),
        ("resume", vec![Event::Resume]),
        ("fault", vec![Event::Fault]),
        ("cured", vec![Event::Cured]),
        ("tracking lost", vec![Event::TrackingLost]),
        ("remove", vec![Event::Remove]),
        ("initiate failover", vec![Event::InitiateFailover]),
        ("failover ready", vec![Event::FailoverReady]),
        ("failover undone", both(Event::FailoverUndone)),
        ("revert", both(Event::Revert)),
        ("commit", vec![Event::Commit]),
    ]
}

/// No wildcard: a new event does not compile until it is in the list above.
fn listed(event: Event) -> usize {
    match event {
        Event::Create => 0,
        Event::StartCopy => 1,
        Event::CancelCopy => 2,
        Event::CopyFinished => 3,
        Event::Suspend => 4,
        Event::Resume => 5,
        Event::Fault => 6,
        Event::Cured => 7,
        Event::TrackingLost => 8,
        Event::Remove => 9,
        Event::InitiateFailover => 10,
        Event::FailoverReady => 11,
        Event::FailoverUndone(_) => 12,
        Event::Revert(_) => 13,
        Event::Commit => 14,
    }
}

/// The states a side can be in: all that events lead to, starting where its relationship begins.
fn columns(mode: Mode) -> Vec<State> {
    let mut reached = match mode {
        Mode::None | Mode::TestReplica => return vec![State::Disabled],
        Mode::Primary => vec![State::ReadyForReplication],
        // An offer makes the first; the other is there for peers that resynchronize.
        Mode::Replica | Mode::ExtendedReplica => {
            vec![State::WaitingToCompleteInitialReplication, State::Resynchronizing]
        }
    };
    let mut looked_at = 0;
    while let Some(state) = reached.get(looked_at).copied() {
        looked_at += 1;
        for event in events()
            .into_iter()
            .flat_map(|(_, tries)| tries.into_iter().take(1))
        {
            if let Ok(next) = step(mode, state, event)
                && !reached.contains(&next)
            {
                reached.push(next);
            }
        }
    }
    reached.sort_unstable();
    reached
}

fn cell(mode: Mode, state: State, tries: &[Event]) -> String {
    let results: Vec<_> = tries.iter().map(|e| step(mode, state, *e).ok()).collect();
    match results.as_slice() {
        [None, ..] => "·".into(),
        [Some(State::Replicating), Some(State::Suspended)] => "before".into(),
        [Some(next), ..] => next.number().to_string(),
        [] => unreachable!("every event has an example"),
    }
}

fn transitions(mode: Mode) -> String {
    let columns = columns(mode);
    let mut text = String::from("| event ↓ in state → |");
    for state in &columns {
        write!(text, " {} |", state.number()).unwrap();
    }
    text += "\n|---|";
    text += &"---|".repeat(columns.len());
    for (name, tries) in events() {
        write!(text, "\n| {name} |").unwrap();
        for state in &columns {
            write!(text, " {} |", cell(mode, *state, &tries)).unwrap();
        }
    }
    text + "\n"
}

/// Every refusal's way out: the states that share it, and the events if not all of them do.
fn ways_out(mode: Mode) -> String {
    let mut by_text: BTreeMap<&str, BTreeMap<u16, Vec<&str>>> = BTreeMap::new();
    let mut refused: BTreeMap<u16, usize> = BTreeMap::new();
    for state in columns(mode) {
        for (name, tries) in events() {
            if let Err(no) = step(mode, state, tries[0]) {
                *refused.entry(state.number()).or_default() += 1;
                let states = by_text.entry(no.way_out).or_default();
                states.entry(state.number()).or_default().push(name);
            }
        }
    }
    let mut rows: Vec<(u16, String)> = Vec::new();
    for (way_out, states) in by_text {
        let mut by_events: BTreeMap<String, Vec<u16>> = BTreeMap::new();
        for (state, names) in states {
            let all = names.len() == refused[&state] && names.len() > 1;
            let names = if all {
                "everything refused".into()
            } else {
                names.join(", ")
            };
            by_events.entry(names).or_default().push(state);
        }
        for (names, states) in by_events {
            let list = states.iter().map(ToString::to_string).collect::<Vec<_>>();
            rows.push((
                states[0],
                format!("| {} | {names} | {way_out} |", list.join(", ")),
            ));
        }
    }
    rows.sort();
    let rows = rows.into_iter().map(|(_, row)| row + "\n").collect::<String>();
    format!("| in state | refused | way out |\n|---|---|---|\n{rows}")
}

fn starting() -> String {
    let mut text = String::from("| mode | the VM may be started in |\n|---|---|\n");
    for mode in Mode::ALL {
        let may = State::ALL.iter().filter(|s| may_start(*mode, **s));
        let numbers: Vec<_> = may.map(|s| s.number().to_string()).collect();
        let all = State::ALL.len();
        let told = match numbers.len() {
            n if n == all => "every state".into(),
            n if n + 1 == all => {
                let not = State::ALL.iter().find(|s| !may_start(*mode, **s)).unwrap();
                format!("every state but {}", not.number())
            }
            _ => numbers.join(", "),
        };
        writeln!(text, "| {mode} ({}) | {told} |", mode.number()).unwrap();
    }
    text
}

#[test]
fn the_document_is_the_state_machine() {
    let document = std::fs::read_to_string(DOCUMENT).unwrap();
    let mut wrong = String::new();
    for (what, table) in [
        ("primary", transitions(Mode::Primary)),
        ("replica", transitions(Mode::Replica)),
        ("ways out, not replicated", ways_out(Mode::None)),
        ("ways out, primary", ways_out(Mode::Primary)),
        ("ways out, replica", ways_out(Mode::Replica)),
        ("starting", starting()),
    ] {
        if !document.contains(&table) {
            write!(wrong, "\n{what}:\n\n{table}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "docs/states.md lacks these tables:\n{wrong}");
}

#[test]
fn every_event_is_in_the_tables_and_extended_replicas_are_replicas() {
    for (place, (name, tries)) in events().into_iter().enumerate() {
        for event in tries {
            assert_eq!(listed(event), place, "{name}");
            for state in State::ALL {
                let extended = step(Mode::ExtendedReplica, *state, event);
                assert_eq!(extended.ok(), step(Mode::Replica, *state, event).ok(), "{name}");
                assert!(step(Mode::TestReplica, *state, event).is_err(), "{name}");
            }
        }
    }
    assert_eq!(
        step(Mode::None, State::Disabled, Event::Create),
        Ok(State::ReadyForReplication)
    );
}
