//! Words for what goes wrong on the way to a process: with a file, a monitor, a program, or before any of them.

use std::io;

use lifeboat_block::qmp::QmpError;
use lifeboat_engine::ports::hypervisor::HypervisorError;

use crate::confine;

/// What the monitor says, or that it does not.
pub(crate) fn monitor_error(error: QmpError) -> HypervisorError {
    HypervisorError::Monitor(error.to_string())
}

/// Puts words to an I/O error.
pub(crate) fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> HypervisorError {
    let what = what.into();
    move |source| HypervisorError::Io { what, source }
}

/// Refuses before anything is begun.
pub(crate) fn refuse<T>(why: String) -> Result<T, HypervisorError> {
    Err(HypervisorError::Preflight(why))
}

/// Why a program was not run. Only a file that is not there may be a package that is not installed.
pub(crate) fn not_run(program: &str) -> impl FnOnce(io::Error) -> HypervisorError {
    let program = program.to_owned();
    let package = if program == confine::SETPRIV {
        "util-linux"
    } else {
        "QEMU"
    };
    move |source| HypervisorError::Io {
        what: if source.kind() == io::ErrorKind::NotFound {
            format!("cannot run {program}: is {package} installed?")
        } else {
            format!("cannot run {program}")
        },
        source,
    }
}
