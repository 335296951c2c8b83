//! The ports that work of a primary needs, in one hand.

use crate::port::Clock;
use crate::port::link::PeerLink;
use crate::port::spool::Spool;
use std::sync::Arc;

/// What the work needs of the world.
#[derive(Clone)]
pub(crate) struct Tools {
    pub(crate) link: Arc<dyn PeerLink>,
    pub(crate) spool: Arc<dyn Spool>,
    pub(crate) clock: Arc<dyn Clock>,
}
