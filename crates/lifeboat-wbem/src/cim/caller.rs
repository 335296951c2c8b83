//! Who asks, and what they may. How somebody proved to be who they say is the servers' business.

use std::net::SocketAddr;

use lifeboat_engine::by::{By, Surface};

use super::roles::Role;

/// Somebody who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Name, for the log.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// Where they came in, and from which address; `None` where nobody is behind it.
    pub from: Option<(Surface, SocketAddr)>,
}

impl Caller {
    /// Who is recorded as the one who asked.
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
