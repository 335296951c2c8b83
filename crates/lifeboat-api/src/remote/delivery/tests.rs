//! Listeners that misbehave.
