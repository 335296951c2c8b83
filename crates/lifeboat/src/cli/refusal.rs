//! Refusals in the words of the command line: which command was refused, for which VM, and a hint that can be typed as
//! it is. The reasons are the engine's; nothing here judges them.

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use lifeboat_engine::action::{Action, Refusal};
use lifeboat_model::api::ReturnCode;
use lifeboat_model::hint::{Guest, Hint, Look};

use super::exit::{self, Failure};
use super::hint;

/// A command as it was typed.
#[derive(Debug)]
pub(crate) struct Typed {
    /// Its words and its switches: what was asked for.
    words: Vec<String>,
    /// Its first argument: the VM, or what else it is about.
    object: Option<String>,
}

/// Switches of every command, which say nothing of what is asked for.
const OF_ALL: [&str; 2] = ["detach", "follow"];

impl Typed {
    /// Reads it off the definition of the command line, and what was found in it.
    pub(crate) fn read(mut definition: &Command, mut matches: &ArgMatches) -> Self {
        let (mut words, mut object) = (Vec::new(), None);
        while let Some((name, found)) = matches.subcommand()
            && let Some(inner) = definition.find_subcommand(name)
        {
            words.push(name.to_owned());
            (definition, matches) = (inner, found);
            let first = definition.get_positionals().next().map(Arg::get_id);
            let given = first.and_then(|id| matches.try_get_raw(id.as_str()).ok().flatten()?.next());
            object = object.or(given.map(|text| text.to_string_lossy().into_owned()));
        }
        for arg in definition.get_arguments() {
            let id = arg.get_id().as_str();
            let typed = matches.value_source(id) == Some(ValueSource::CommandLine);
            let (Some(long), true) = (arg.get_long(), typed) else {
                continue;
            };
            if matches!(arg.get_action(), ArgAction::SetTrue) && !OF_ALL.contains(&long) {
                words.push(format!("--{long}"));
            }
            if arg.is_require_equals_set() {
                words.push(with_value(arg, long, matches));
            }
        }
        Self { words, object }
    }

    /// The refusal of `action`, which was asked for by this command, as a person reads it.
    pub(crate) fn refused(&self, action: &Action, refusal: Refusal) -> Failure {
        // What is not there says so by itself, and what was only looked up was not what was asked for.
        let asked_for =
            action.facts().changes || matches!(action, Action::Screenshot { .. } | Action::ListPoints { .. });
        let named = asked_for && refusal.code != ReturnCode::FileNotFound;
        refused(action, refusal, named.then(|| self.to_string()))
    }
}

/// A switch that may have a value, as it was typed.
fn with_value(arg: &Arg, long: &str, matches: &ArgMatches) -> String {
    let given = matches.try_get_raw(arg.get_id().as_str()).ok().flatten();
    let given = given
        .and_then(|mut all| all.next())
        .map(|text| text.to_string_lossy());
    match given {
        Some(value) if value != long => format!("--{long}={value}"),
        Some(_) | None => format!("--{long}"),
    }
}

impl std::fmt::Display for Typed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.words.join(" "))?;
        match &self.object {
            Some(object) => write!(f, " of \"{object}\""),
            None => Ok(()),
        }
    }
}

fn refused(action: &Action, refusal: Refusal, command: Option<String>) -> Failure {
    let Refusal {
        code,
        mut message,
        hint,
        request,
    } = refusal;
    if let Some(command) = command {
        let verb = if request.is_some() {
            "is not done yet"
        } else {
            verb(code)
        };
        message = format!("{command} {verb}: {message}");
    }
    let hint = hint.or_else(|| other_way(action).filter(|_| code == ReturnCode::InvalidState));
    let vm = action.vm().map(ToString::to_string);
    let hint = hint.map(|hint| hint::words(&hint, vm.as_deref()));
    Failure::new(exit::of(code), message, hint.unwrap_or_default())
}

/// A refusal is a decision; something that was tried has failed.
fn verb(code: ReturnCode) -> &'static str {
    match code {
        ReturnCode::AccessDenied
        | ReturnCode::NotSupported
        | ReturnCode::InvalidParameter
        | ReturnCode::InUse
        | ReturnCode::InvalidState
        | ReturnCode::IncorrectType => "was refused",
        ReturnCode::Completed
        | ReturnCode::JobStarted
        | ReturnCode::Failed
        | ReturnCode::Unknown
        | ReturnCode::Timeout
        | ReturnCode::Unavailable
        | ReturnCode::OutOfMemory
        | ReturnCode::FileNotFound => "failed",
    }
}

/// A hint for refusals of the engine that have none.
fn other_way(action: &Action) -> Option<Hint> {
    if matches!(action, Action::StartVm { .. }) {
        Some(Look::Console.into())
    } else if matches!(action, Action::StopVm { .. } | Action::Screenshot { .. }) {
        Some(Guest::Start.into())
    } else {
        None
    }
}
