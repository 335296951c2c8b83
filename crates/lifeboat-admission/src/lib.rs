//! How listeners accept connections, and, for those that unidentified callers reach, who gets a place when more connections come than there
//! are places, and what is logged of those who get none. What is spoken on a connection, and who its caller is, its listener knows.
//!
//! - `accept` is the loop of every listener, a Unix socket's as well: [`AcceptLoop`], and its [`Ending`].
//! - `table` decides, without clock and sockets: [`Table`].
//! - `door` carries the decisions out: [`Door`], and a [`Place`] for each connection.
//! - `handshake` is TLS up to the point at which the caller can be judged.
//! - `notices` counts what is not worth a line each: [`Notices`].
//!
//! Invariants: no connection is waited for before the next one is accepted; a connection whose caller is known is never
//! dropped for one whose caller is not; descriptors and memory are bounded by [`Places`].
// To move into [workspace.lints] when all crates hold it.
#![warn(clippy::match_bool, clippy::option_option, clippy::struct_excessive_bools)]
#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]

mod accept;
mod door;
mod handshake;
mod notices;
mod origin;
mod table;

pub use accept::{AcceptLoop, Ending, Listener, Slot};
pub use door::{Door, Held, Level, Notice, Place};
pub use handshake::{HandshakeError, linger, shake_hands};
pub use notices::{Notices, Summary};
pub use origin::Origin;
pub use table::{Cap, NoPlace, Places, Stage, Table};
