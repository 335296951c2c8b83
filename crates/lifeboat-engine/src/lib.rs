//! The engine: one actor per VM, jobs, sagas, and the ports to the world. It knows no adapter, opens no file and no
//! socket, and reads no clock but through its ports.
//!
//! [`Engine`] carries out [`action::Action`]s for every management surface ([`action::Management`]), answers their questions
//! ([`query::Query`]), and answers peers ([`ports::link::PeerHandler`]).
// To move into [workspace.lints] when all crates hold it.
#![warn(clippy::match_bool, clippy::option_option, clippy::struct_excessive_bools)]

mod actor;
mod common;
pub mod contract;
mod core;
mod engine;
mod failover;
mod host;
pub mod port;
pub mod record;
mod roles;
mod source;
mod target;
mod work;

pub use common::{by, person, problem};
pub use contract as action;
pub use contract::{paging, query};
pub use core::point_guid::point_guid;
pub use engine::Engine;
pub use host::{EngineConfig, Ports};
pub use port as ports;
pub use record as records;

/// The key that an export of an initial copy is sealed with.
pub mod sealing {
    pub use crate::common::export_key::{ExportKey, KEY};
    pub use crate::port::media::Sealing;
}

/// Actions that wait for a second person.
pub mod requests {
    pub use crate::host::requests::{IN_ALL, LASTS, OF_ONE, may_wait};
}
