//! The caller of an operation and what it may do. How a caller proves its identity is decided in `login`, not here.

use std::net::SocketAddr;

use lifeboat_engine::by::{By, Surface};

use super::Role;

/// The user, or the owner of a certificate, who calls an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Name, which the log and the record of the action show; subscriptions and enumerations belong to it.
    pub name: String,
    /// What the caller may do.
    pub role: Role,
    /// The surface and the address that the call came from; `None` for a call that no remote user makes.
    pub from: Option<(Surface, SocketAddr)>,
}

impl Caller {
    /// The caller as it is recorded with an action; `None` for a call that no remote user makes.
    pub(crate) fn by(&self) -> Option<By> {
        let (surface, from) = self.from?;
        Some(By {
            surface,
            name: self.name.clone(),
            from: Some(from.to_string()),
            account: None,
            confirmed: None,
        })
    }
}
