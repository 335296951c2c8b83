//! Management from other hosts: WS-Management and CIM-XML over TLS, and who may use them. Both protocols are spoken by one
//! object manager ([`cim`]); what is deliberately absent outside of it is any knowledge of what classes and methods mean.
//!
//! A request passes `http` (what may it cost), `login` (who is it), then `wsman` or `cimxml` (what does it want), and
//! its answer the same way back. What outlives a request is only an enumeration that was begun (`enumerations`) and what
//! somebody has subscribed to: `wsman::eventing` and `listeners` make messages of indications, `delivery` carries them.

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
