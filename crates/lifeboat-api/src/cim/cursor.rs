//! A lazy walk over instances: one VM's at a time, so that what a client has not pulled yet costs nothing.

/// What is left of an enumeration.
pub struct Cursor {}
