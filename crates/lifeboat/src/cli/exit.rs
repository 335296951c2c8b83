//! How a command ends: exit codes, and errors with their hint. The only place that decides on either.

use std::io::ErrorKind;

use lifeboat_engine::action::Refusal;
use lifeboat_model::api::ReturnCode;
use lifeboat_rest::ClientError;

/// Exit codes, for `--help`.
pub(crate) const HELP: &str = "\
Exit codes:
  0    done
  1    refused, or the job did not end well
  2    the command line is wrong
  3    the daemon cannot be reached
  4    there is no such VM, job, point or file
  5    not allowed, or not before a second person confirms it
  130  interrupted; a job that was followed carries on";

/// Exit codes. Scripts rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// It was done, or it is as it was wanted.
    Done = 0,
    /// Refused, or the job did not end well.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The daemon cannot be reached.
    Unreachable = 3,
    /// There is no such thing.
    NotFound = 4,
    /// Not allowed.
    NotAllowed = 5,
    /// Ctrl-C while a job was followed; the job carries on. 128 and the number of the signal.
    Interrupted = 130,
}

impl From<Exit> for std::process::ExitCode {
    fn from(e: Exit) -> Self {
        Self::from(e as u8)
    }
}

/// An error a person reads.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What is wrong.
    pub(crate) message: String,
    /// What to do instead; empty when there is nothing to do.
    pub(crate) hint: String,
    /// The exit code.
    pub(crate) exit: Exit,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: hint.into(),
            exit,
        }
    }

    /// A file operation that went wrong.
    pub(crate) fn io(what: &str, error: &std::io::Error) -> Self {
        let exit = if error.kind() == ErrorKind::NotFound {
            Exit::NotFound
        } else {
            Exit::Failed
        };
        Self::new(exit, format!("{what}: {error}"), "")
    }

    pub(crate) fn print(&self) {
        eprintln!("error: {}", super::show::safe(&self.message));
        if !self.hint.is_empty() {
            eprintln!("hint: {}", super::show::safe(&self.hint));
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        match error {
            ClientError::Refused(refusal) => refusal.into(),
            ClientError::Unreachable { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
                Self::new(
                    Exit::NotAllowed,
                    message,
                    "run the command as root or as a member of the daemon's admin group",
                )
            }
            ClientError::Unreachable { .. } => Self::new(
                Exit::Unreachable,
                message,
                "start it with: lifeboat serve --config FILE; if it runs, name its socket with --socket",
            ),
            ClientError::Lost { .. } => Self::new(
                Exit::Unreachable,
                message,
                "jobs are kept: see lifeboat job list when the daemon is back",
            ),
            ClientError::Protocol { .. } => Self::new(
                Exit::Failed,
                message,
                "command and daemon may be of different versions: see lifeboat --version",
            ),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(r: Refusal) -> Self {
        let hint = r.hint.map(|hint| super::hint::words(&hint, None));
        Self::new(of(r.code), r.message, hint.unwrap_or_default())
    }
}

/// The exit code of a refusal.
pub(crate) fn of(code: ReturnCode) -> Exit {
    match code {
        ReturnCode::FileNotFound => Exit::NotFound,
        ReturnCode::AccessDenied => Exit::NotAllowed,
        ReturnCode::Completed
        | ReturnCode::JobStarted
        | ReturnCode::Failed
        | ReturnCode::NotSupported
        | ReturnCode::Unknown
        | ReturnCode::Timeout
        | ReturnCode::InvalidParameter
        | ReturnCode::InUse
        | ReturnCode::InvalidState
        | ReturnCode::IncorrectType
        | ReturnCode::Unavailable
        | ReturnCode::OutOfMemory => Exit::Failed,
    }
}
