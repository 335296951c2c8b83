//! What moves between the host, an actor and its parts: messages, pieces of work, how they end and why they fail.

pub(crate) mod calls;
pub(crate) mod failure;
pub(crate) mod launch;
pub(crate) mod message;
pub(crate) mod piece;
pub(crate) mod saga;
pub(crate) mod shown;
pub(crate) mod span;
