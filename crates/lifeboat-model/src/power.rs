//! What each command about a VM's power does in each state its guest can be in, and what it says where it does nothing.
//! Whether the role of this host allows it is decided elsewhere.

use crate::hint::Hint;
use crate::hint::{self};
use serde::{Deserialize, Serialize};

/// What a VM does, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PowerState {
    /// No process.
    Off,
    /// The guest runs.
    Running,
    /// The process exists, the guest is paused.
    Paused,
    /// The process exists and stopped the guest because of an I/O error, or is in a state without progress.
    Stalled,
    /// It cannot be told: the process may exist, and the guest may run.
    Unknown,
}

/// What a guest does, as far as a command has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Guest {
    /// No process.
    Off,
    /// It runs.
    Running,
    /// Its processors were stopped by a person.
    Paused,
    /// It was stopped because of its storage or its watchdog, and can go on where it was stopped.
    Stalled,
    /// It crashed, or its processor cannot go on: only a reset leads on.
    Crashed,
    /// The host cannot say: the process or its monitor does not answer.
    NotKnown,
}

impl Guest {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Off,
        Self::Running,
        Self::Paused,
        Self::Stalled,
        Self::Crashed,
        Self::NotKnown,
    ];
}

/// A command about a VM's power.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// `vm start`.
    Start,
    /// `vm pause`.
    Pause,
    /// `vm reset`.
    Reset,
    /// `vm stop`.
    ShutDown,
    /// `vm stop --force`.
    TurnOff,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Start,
        Self::Pause,
        Self::Reset,
        Self::ShutDown,
        Self::TurnOff,
    ];
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// A process is started.
    Boot,
    /// The guest goes on where it was stopped.
    GoOn,
    /// The guest's processors are stopped.
    Pause,
    /// The reset button; a paused guest stays paused, at the beginning.
    Reset,
    /// The reset button, and the guest runs.
    ResetAndRun,
    /// The guest is asked to shut down.
    AskGuest,
    /// The process is ended.
    EndProcess,
}

/// Why nothing is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What is in the way, to be read after "the VM ".
    pub why: &'static str,
    /// What helps; `None` when the VM is as it was wanted.
    pub hint: Option<Hint>,
}

/// What a command does to a guest in this state, or why it does nothing.
pub fn effect(verb: Verb, guest: Guest) -> Result<Effect, Refused> {
    use {Effect as E, Guest as G, Verb as V};
    let is = |why| Err(Refused { why, hint: None });
    let no = |why, hint: hint::Guest| {
        let hint = Some(hint.into());
        Err(Refused { why, hint })
    };
    match (verb, guest) {
        (V::Start, G::Off) => Ok(E::Boot),
        (V::Start, G::Paused | G::Stalled) => Ok(E::GoOn),
        (V::Start, G::Running) => is("is running"),
        (V::Start | V::Pause | V::ShutDown, G::Crashed) => no("cannot go on", hint::Guest::ResetOrTurnOff),
        (V::Pause, G::Running) => Ok(E::Pause),
        (V::Pause, G::Paused) => no("is paused", hint::Guest::Resume),
        (V::Pause, G::Stalled) => no("is stalled already", hint::Guest::CureAndResume),
        (V::Reset, G::Running | G::Paused) => Ok(E::Reset),
        (V::Reset, G::Stalled | G::Crashed) => Ok(E::ResetAndRun),
        (V::ShutDown, G::Running) => Ok(E::AskGuest),
        (V::ShutDown, G::Paused) => no("is paused and cannot shut down", hint::Guest::ResumeOrTurnOff),
        (V::ShutDown, G::Stalled) => no(
            "is stalled and cannot shut down",
            hint::Guest::CureAndResumeOrTurnOff,
        ),
        (V::TurnOff, G::Running | G::Paused | G::Stalled | G::Crashed | G::NotKnown) => Ok(E::EndProcess),
        (V::Pause | V::Reset | V::ShutDown | V::TurnOff, G::Off) => is("is off"),
        (V::Start | V::Pause | V::Reset | V::ShutDown, G::NotKnown) => {
            no("may run or not, which is not known", hint::Guest::CureOrTurnOff)
        }
    }
}
