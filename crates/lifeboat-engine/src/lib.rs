//! The engine: one actor per VM's relationship, sagas, jobs, and the ports to the world. It knows no adapter.

pub mod action;
pub mod ports;
pub mod records;
