//! Why talking to an NBD server failed, with what was asked in it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why an NBD call failed.
#[derive(Debug, thiserror::Error)]
pub enum NbdError {
    /// The socket cannot be reached.
    #[error("cannot connect to the NBD server {}: is the export's process running?", path.display())]
    Connect {
        /// The server's socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke before the export was open.
    #[error("the NBD server dropped the connection while export {export:?} was being opened")]
    Handshake {
        /// The export asked for.
        export: String,
        /// What the system said.
        source: io::Error,
    },
    /// The server did not get the export open in time.
    #[error("the NBD server did not open export {export:?} within {} ms", after.as_millis())]
    Timeout {
        /// The export asked for.
        export: String,
        /// The limit that passed.
        after: Duration,
    },
    /// The server refuses the export or something this client cannot do without.
    #[error("the NBD server refuses {what} for export {export:?}: {reason}")]
    Refused {
        /// The export asked for.
        export: String,
        /// What was asked of the server.
        what: &'static str,
        /// The server's reason, in its words where it gave any.
        reason: String,
    },
    /// The caller asks about a context the server does not have for this export.
    #[error(
        "the NBD export has no context {context:?}: it was not asked for, or the server does not have it"
    )]
    NoContext {
        /// The context's name.
        context: String,
    },
    /// The server failed this request; others are not affected.
    #[error("the NBD server failed the {asked}: {} (errno {errno}){}", errno_text(*errno), suffix(message))]
    Server {
        /// The request.
        asked: Asked,
        /// The errno value on the wire.
        errno: u32,
        /// The server's words, often empty.
        message: String,
    },
    /// The request does not fit the export: the caller's mistake, nothing was sent.
    #[error("the {asked} cannot be sent: {reason}")]
    Invalid {
        /// The request.
        asked: Asked,
        /// What of it does not fit the export.
        reason: String,
    },
    /// The server sent what the protocol forbids. The connection is closed; no data of it is used.
    #[error("the NBD server broke the protocol: {0}")]
    Protocol(String),
    /// The connection is gone; whether a write in flight reached the disk is unknown.
    #[error("the NBD connection is closed: {reason}")]
    Closed {
        /// What ended it.
        reason: String,
    },
}

/// A request, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Read a range.
    Read {
        /// First byte, from the beginning of the export.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Write a range.
    Write {
        /// First byte, from the beginning of the export.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Make a range read as zeroes.
    WriteZeroes {
        /// First byte, from the beginning of the export.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Make what was written durable.
    Flush,
    /// Ask for the status of a range.
    BlockStatus {
        /// The context's name.
        context: String,
        /// First byte, from the beginning of the export.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { offset, len } => write!(f, "read of {len} bytes at {offset}"),
            Self::Write { offset, len } => write!(f, "write of {len} bytes at {offset}"),
            Self::WriteZeroes { offset, len } => write!(f, "zeroing of {len} bytes at {offset}"),
            Self::Flush => f.write_str("flush"),
            Self::BlockStatus { context, offset, len } => {
                write!(f, "status query {context:?} for {len} bytes at {offset}")
            }
        }
    }
}

/// The protocol has its own short list of error numbers, the same on every system.
fn errno_text(errno: u32) -> &'static str {
    match errno {
        1 => "operation not permitted",
        5 => "input/output error",
        12 => "the server is out of memory",
        22 => "invalid argument",
        28 => "no space left",
        75 => "value too large",
        95 => "not supported",
        108 => "the server is shutting down",
        _ => "error unknown to the protocol",
    }
}

fn suffix(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}
