//! Management from other hosts: WS-Management and CIM-XML over TLS, and who may use them. Both protocols are spoken by one
//! object manager ([`cim`]); outside of it the crate does not know what classes and methods mean.
//!
//! A request passes `http` (what may it cost), `login` (who is it), then `wsman` or `cimxml` (what does it ask for), and
//! its answer passes them in reverse order. Two things outlive a request: an enumeration that was begun (`enumerations`), and a
//! subscription, whose indications `wsman::eventing` and `listeners` make into messages and `delivery` sends.
// To move into [workspace.lints] when all crates hold it.
#![warn(clippy::match_bool, clippy::option_option, clippy::struct_excessive_bools)]
#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]

pub mod cim;
mod cimxml;
mod delivery;
mod enumerations;
mod http;
mod listeners;
mod login;
mod remote;
pub mod users;
mod wsman;

pub use http::Limits;
pub use lifeboat_admission::{Cap, Places};
pub use remote::{Remote, RemoteConfig, RemoteError, Transport};
