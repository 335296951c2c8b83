//! The engine: one actor per VM, jobs, sagas, and the ports to the world. It knows no adapter, opens no file and no
//! socket, and reads no clock but through its ports.
//!
//! [`Engine`] carries out [`action::Action`]s for every management surface ([`action::Management`]), answers their questions
//! ([`query::Query`]), and answers peers ([`ports::link::PeerHandler`]).

pub mod action;
mod actor;
mod aging;
mod at_rest;
mod authorization;
mod backlog;
mod busy;
pub mod by;
mod certificates;
mod change;
mod clock;
mod copy;
mod courier;
mod defined;
mod disk_files;
mod engine;
mod extended;
mod failover;
mod findings;
mod fitting;
pub mod hold;
mod images;
mod jobs;
mod keys;
mod lend;
mod lists;
mod machine;
mod media;
mod network;
mod observe;
mod operations;
mod order;
mod orphans;
pub mod paging;
mod pending;
pub mod person;
mod pins;
mod planned;
mod point_guid;
pub mod ports;
mod power;
mod presence;
mod primary;
pub mod query;
mod question;
mod quota;
pub mod records;
mod references;
mod replica;
pub mod requests;
mod resumed;
mod resync;
mod reverse;
mod saga;
mod schedule;
mod scrub;
pub mod sealing;
mod settings;
mod shared_disks;
mod silence;
mod statistics;
mod storage;
mod sync;
mod taking;
mod testing;
mod third;
mod throttle;
mod views;
mod way_back;

pub use engine::{Engine, EngineConfig, Ports};
pub use point_guid::point_guid;
