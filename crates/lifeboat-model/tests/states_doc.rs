//! `docs/states.md` and the state machine say the same: its tables are compared, letter by letter, with what
//! `lifecycle::step`, `turn`, `may_test` and `may_start` answer. Whether the answers are right is tested in the crate,
//! not here.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like the tests")]

use std::collections::BTreeMap;
use std::fmt::Write;

use lifeboat_model::lifecycle::{Event, TestPoints, Turn, may_start, may_test, step, turn};
use lifeboat_model::power::{Effect, Guest, Verb, effect};
use lifeboat_model::{Hint, ReplicationMode as Mode, ReplicationState as State};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/states.md");

/// Every event. Where a state comes back from a payload, two tellings-apart values are tried for it.
fn events() -> Vec<(&'static str, Vec<Event>)> {
    let both = |event: fn(State) -> Event| vec![event(State::Replicating), event(State::Suspended)];
    vec![
        ("create", vec![Event::Create]),
        ("modify", vec![Event::Modify]),
        ("start copy", vec![Event::StartCopy]),
        ("cancel copy", vec![Event::CancelCopy]),
        ("copy finished", vec![Event::CopyFinished]),
        ("export finished", vec![Event::ExportFinished]),
        ("suspend", vec![Event::Suspend]),
        ("resume", vec![Event::Resume]),
        ("fault", vec![Event::Fault]),
        ("cured", vec![Event::Cured]),
        ("tracking lost", vec![Event::TrackingLost]),
        ("schedule resync", vec![Event::ScheduleResync]),
        ("start resync", vec![Event::StartResync]),
        ("peer resyncs", vec![Event::PeerResyncs]),
        ("cancel resync", vec![Event::CancelResync]),
        ("resync finished", vec![Event::ResyncFinished]),
        ("prepare", vec![Event::Prepared]),
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
        Event::Modify => 1,
        Event::StartCopy => 2,
        Event::CancelCopy => 3,
        Event::CopyFinished => 4,
        Event::ExportFinished => 5,
        Event::Suspend => 6,
        Event::Resume => 7,
        Event::Fault => 8,
        Event::Cured => 9,
        Event::TrackingLost => 10,
        Event::ScheduleResync => 11,
        Event::StartResync => 12,
        Event::PeerResyncs => 13,
        Event::CancelResync => 14,
        Event::ResyncFinished => 15,
        Event::Prepared => 16,
        Event::Remove => 17,
        Event::InitiateFailover => 18,
        Event::FailoverReady => 19,
        Event::FailoverUndone(_) => 20,
        Event::Revert(_) => 21,
        Event::Commit => 22,
    }
}

/// Every change of roles.
const TURNS: [(&str, Turn); 6] = [
    ("reverse after a planned failover", Turn::Reverse { whole: true }),
    ("reverse after any other", Turn::Reverse { whole: false }),
    ("give way to the planned", Turn::GiveWay { whole: true }),
    ("give way to any other", Turn::GiveWay { whole: false }),
    ("become replica", Turn::BecomeReplica),
    ("continue alone", Turn::ContinueAlone),
];

/// No wildcard here either.
fn listed_turn(turn: Turn) -> usize {
    match turn {
        Turn::Reverse { whole: true } => 0,
        Turn::Reverse { whole: false } => 1,
        Turn::GiveWay { whole: true } => 2,
        Turn::GiveWay { whole: false } => 3,
        Turn::BecomeReplica => 4,
        Turn::ContinueAlone => 5,
    }
}

/// The states a side can be in: all that events and changes of roles lead to.
fn columns(mode: Mode) -> Vec<State> {
    let mut reached = match mode {
        Mode::None | Mode::TestReplica => return vec![State::Disabled],
        Mode::Primary => vec![State::ReadyForReplication],
        // An offer makes it.
        Mode::Replica | Mode::ExtendedReplica => vec![State::WaitingToCompleteInitialReplication],
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

/// Events that are refused in every state of this side are in its last row, not in rows of dots.
fn transitions(mode: Mode) -> String {
    let columns = columns(mode);
    let mut text = String::from("| event ↓ in state → |");
    for state in &columns {
        write!(text, " {} |", state.number()).unwrap();
    }
    text += "\n|---|";
    text += &"---|".repeat(columns.len());
    let mut never = Vec::new();
    for (name, tries) in events() {
        let cells: Vec<_> = columns.iter().map(|s| cell(mode, *s, &tries)).collect();
        if cells.iter().all(|c| c == "·") {
            never.push(name);
        } else {
            write!(text, "\n| {name} | {} |", cells.join(" | ")).unwrap();
        }
    }
    let dots = " · |".repeat(columns.len());
    write!(text, "\n| {} |{dots}", never.join(", ")).unwrap();
    text + "\n"
}

/// Rows of state, what is refused there, and the code of the hint, with what is alike put together.
fn refusals<'a>(mode: Mode, refused: impl Fn(State) -> Vec<(&'a str, &'static str)>) -> String {
    let mut by_text: BTreeMap<&str, BTreeMap<u16, Vec<&str>>> = BTreeMap::new();
    let mut count: BTreeMap<u16, usize> = BTreeMap::new();
    for state in columns(mode) {
        for (name, hint) in refused(state) {
            *count.entry(state.number()).or_default() += 1;
            let states = by_text.entry(hint).or_default();
            states.entry(state.number()).or_default().push(name);
        }
    }
    let mut rows: Vec<(u16, String)> = Vec::new();
    for (hint, states) in by_text {
        let mut by_names: BTreeMap<String, Vec<u16>> = BTreeMap::new();
        for (state, names) in states {
            let all = names.len() == count[&state] && names.len() > 1;
            let names = if all {
                "everything refused".into()
            } else {
                names.join(", ")
            };
            by_names.entry(names).or_default().push(state);
        }
        for (names, states) in by_names {
            let list = states.iter().map(ToString::to_string).collect::<Vec<_>>();
            rows.push((states[0], format!("| {} | {names} | {hint} |", list.join(", "))));
        }
    }
    rows.sort();
    let rows = rows.into_iter().map(|(_, row)| row + "\n").collect::<String>();
    format!("| in state | refused | hint |\n|---|---|---|\n{rows}")
}

/// Whether somebody asks for it, and so may be refused; the others happen, or do not.
fn asked_for(event: Event) -> bool {
    match event {
        Event::Create
        | Event::Modify
        | Event::StartCopy
        | Event::CancelCopy
        | Event::Suspend
        | Event::Resume
        | Event::ScheduleResync
        | Event::StartResync
        | Event::CancelResync
        | Event::Prepared
        | Event::Remove
        | Event::InitiateFailover
        | Event::Revert(_)
        | Event::Commit => true,
        Event::CopyFinished
        | Event::ExportFinished
        | Event::Fault
        | Event::Cured
        | Event::TrackingLost
        | Event::PeerResyncs
        | Event::ResyncFinished
        | Event::FailoverReady
        | Event::FailoverUndone(_) => false,
    }
}

fn ways_out(mode: Mode) -> String {
    refusals(mode, |state| {
        let tried = events()
            .into_iter()
            .filter(|(_, tries)| asked_for(tries[0]))
            .map(|(name, tries)| (name, step(mode, state, tries[0])));
        tried
            .filter_map(|(name, r)| Some((name, r.err()?.hint.code())))
            .collect()
    })
}

/// Numbers of states, or that it is all the side can be in.
fn list(mode: Mode, states: &[State]) -> String {
    if *states == columns(mode) && states.len() > 1 {
        return "every state".into();
    }
    let numbers: Vec<_> = states.iter().map(|s| s.number().to_string()).collect();
    numbers.join(", ")
}

fn turns() -> String {
    let mut text = String::from("| change of roles | mode | in state | becomes |\n|---|---|---|---|\n");
    for (name, what) in TURNS {
        for mode in [Mode::None, Mode::Primary, Mode::Replica] {
            let mut by_result: BTreeMap<(Mode, State), Vec<State>> = BTreeMap::new();
            for state in columns(mode) {
                if let Ok(next) = turn(mode, state, what) {
                    by_result.entry(next).or_default().push(state);
                }
            }
            for ((to, next), states) in by_result {
                let states = list(mode, &states);
                writeln!(text, "| {name} | {mode} | {states} | {to}, {} |", next.number()).unwrap();
            }
        }
    }
    text
}

fn turns_refused(mode: Mode) -> String {
    refusals(mode, |state| {
        let tried = TURNS.map(|(name, what)| (name, turn(mode, state, what)));
        let refused = tried.into_iter();
        refused
            .filter_map(|(name, r)| Some((name, r.err()?.hint.code())))
            .collect()
    })
}

fn testing() -> String {
    let mut text =
        String::from("| mode | tested at any point in | only at sealed points in |\n|---|---|---|\n");
    for mode in [Mode::Replica, Mode::ExtendedReplica] {
        let of = |points| {
            let states = columns(mode).into_iter();
            let fit: Vec<_> = states.filter(|s| may_test(mode, *s) == Ok(points)).collect();
            list(mode, &fit)
        };
        let (all, sealed) = (of(TestPoints::All), of(TestPoints::Sealed));
        writeln!(text, "| {mode} ({}) | {all} | {sealed} |", mode.number()).unwrap();
    }
    text + "\n| mode | in state | hint |\n|---|---|---|\n" + &testing_refused()
}

fn testing_refused() -> String {
    let mut text = String::new();
    for mode in [Mode::None, Mode::Primary, Mode::Replica, Mode::TestReplica] {
        let mut by_text: BTreeMap<&str, Vec<State>> = BTreeMap::new();
        for state in columns(mode) {
            if let Err(no) = may_test(mode, state) {
                by_text.entry(no.hint.code()).or_default().push(state);
            }
        }
        let mut rows: Vec<_> = by_text.into_iter().map(|(text, states)| (states, text)).collect();
        rows.sort();
        for (states, hint) in rows {
            writeln!(text, "| {mode} | {} | {hint} |", list(mode, &states)).unwrap();
        }
    }
    text
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

fn guest_name(guest: Guest) -> &'static str {
    match guest {
        Guest::Off => "off",
        Guest::Running => "running",
        Guest::Paused => "paused",
        Guest::Stalled => "stalled",
        Guest::Crashed => "crashed",
        Guest::NotKnown => "not known",
    }
}

fn verb_name(verb: Verb) -> &'static str {
    match verb {
        Verb::Start => "vm start",
        Verb::Pause => "vm pause",
        Verb::Reset => "vm reset",
        Verb::ShutDown => "vm stop",
        Verb::TurnOff => "vm stop --force",
    }
}

fn effect_name(effect: Effect) -> &'static str {
    match effect {
        Effect::Boot => "starts",
        Effect::GoOn => "goes on",
        Effect::Pause => "pauses",
        Effect::Reset => "resets",
        Effect::ResetAndRun => "resets and runs",
        Effect::AskGuest => "asks the guest",
        Effect::EndProcess => "ends the process",
    }
}

/// Every state of a guest by every command, and the ways out of what is refused.
fn power() -> String {
    let mut text = String::from("| command ↓ while the guest is → |");
    for guest in Guest::ALL {
        write!(text, " {} |", guest_name(guest)).unwrap();
    }
    text += "\n|---|";
    text += &"---|".repeat(Guest::ALL.len());
    for verb in Verb::ALL {
        let cells = Guest::ALL.map(|g| effect(verb, g).map_or("·", effect_name));
        write!(text, "\n| {} | {} |", verb_name(verb), cells.join(" | ")).unwrap();
    }
    text += "\n\n| refused | while the guest is | because the VM | hint |\n|---|---|---|---|\n";
    for verb in Verb::ALL {
        for guest in Guest::ALL {
            if let Err(no) = effect(verb, guest) {
                let (verb, guest) = (verb_name(verb), guest_name(guest));
                let hint = no.hint.as_ref().map_or("", Hint::code);
                writeln!(text, "| {verb} | {guest} | {} | {hint} |", no.why).unwrap();
            }
        }
    }
    text
}

/// No command leaves a person without a way on: from every state but off there is a command that changes something, and what
/// is not known is never started.
#[test]
fn every_state_of_a_guest_has_a_way_out() {
    for guest in Guest::ALL {
        let possible = Verb::ALL.into_iter().filter(|v| effect(*v, guest).is_ok());
        assert!(possible.count() >= 1, "{guest:?}");
        for verb in Verb::ALL {
            if let Err(no) = effect(verb, guest) {
                let as_wanted = matches!((verb, guest), (Verb::Start, Guest::Running))
                    || guest == Guest::Off && verb != Verb::Start;
                assert_eq!(no.hint.is_none(), as_wanted, "{verb:?} {guest:?}");
            }
        }
    }
    assert!(effect(Verb::Start, Guest::NotKnown).is_err());
    assert_eq!(effect(Verb::Start, Guest::Stalled), Ok(Effect::GoOn));
    assert_eq!(effect(Verb::TurnOff, Guest::NotKnown), Ok(Effect::EndProcess));
}

#[test]
fn the_document_is_the_state_machine() {
    let document = std::fs::read_to_string(DOCUMENT).unwrap();
    let mut wrong = String::new();
    for (what, table) in [
        ("primary", transitions(Mode::Primary)),
        ("replica", transitions(Mode::Replica)),
        ("changes of roles", turns()),
        ("testing", testing()),
        ("starting", starting()),
        ("power", power()),
        ("ways out, not replicated", ways_out(Mode::None)),
        ("ways out, primary", ways_out(Mode::Primary)),
        ("ways out, replica", ways_out(Mode::Replica)),
        ("ways out, test VM", ways_out(Mode::TestReplica)),
        ("refused roles, not replicated", turns_refused(Mode::None)),
        ("refused roles, primary", turns_refused(Mode::Primary)),
        ("refused roles, replica", turns_refused(Mode::Replica)),
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

#[test]
fn every_change_of_roles_is_in_the_tables_and_test_vms_have_none() {
    for (place, (name, what)) in TURNS.into_iter().enumerate() {
        assert_eq!(listed_turn(what), place, "{name}");
        for state in State::ALL {
            assert!(turn(Mode::TestReplica, *state, what).is_err(), "{name}");
        }
    }
}

/// What the tables leave out is what a side can never be in.
#[test]
fn a_change_of_roles_leads_where_the_tables_go_on() {
    for (name, what) in TURNS {
        for mode in [Mode::None, Mode::Primary, Mode::Replica] {
            for state in columns(mode) {
                if let Ok((to, next)) = turn(mode, state, what) {
                    assert!(columns(to).contains(&next), "{name}: {to} {next}");
                }
            }
        }
    }
}
